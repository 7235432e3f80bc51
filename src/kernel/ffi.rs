//! The only unsafe code of the crate: owners of libnftnl's objects that free what they allocate, the readiness of
//! file descriptors, and those that come with events.
//!
//! nftnl's safe API has no maps, timeouts, table flags, registers beyond the first and most expressions; these
//! wrappers reach them through `nftnl-sys`. They hold no knowledge of rules: that is `commit`'s.
#![expect(unsafe_code, reason = "the one address of unsafe")]

use std::alloc::{Layout, handle_alloc_error};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::Mutex;

use super::commit::named;
use nftnl::{MsgType, NlMsg};
use nftnl_sys::{self as sys, libc};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

// ---- objects of nf_tables -------------------------------------------------------------------------------------

/// Declares an owner of one libnftnl object: allocated by `new`, freed on drop.
macro_rules! owner {
    ($(#[$doc:meta])* $name:ident, $raw:ident, $alloc:ident, $free:ident) => {
        $(#[$doc])*
        pub struct $name(NonNull<sys::$raw>);

        impl $name {
            pub fn new() -> Self {
                // SAFETY: takes no arguments; the result is null or an object that we own.
                Self(non_null(unsafe { sys::$alloc() }))
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: the pointer came from the matching alloc and nothing else frees it.
                unsafe { sys::$free(self.0.as_ptr()) }
            }
        }
    };
}

/// Declares setters that only copy a number or a string into the object.
macro_rules! setters {
    ($name:ident $(, u32 $u32:ident)? $(, u64 $u64:ident)? $(, str $str:ident)?) => {
        impl $name {
            $(pub fn u32(self, attribute: u32, value: u32) -> Self {
                // SAFETY: the object is alive; the value is copied.
                unsafe { sys::$u32(self.0.as_ptr(), attribute as u16, value) };
                self
            })?

            $(pub fn u64(self, attribute: u32, value: u64) -> Self {
                // SAFETY: as above.
                unsafe { sys::$u64(self.0.as_ptr(), attribute as u16, value) };
                self
            })?

            $(pub fn str(self, attribute: u32, value: &CStr) -> Self {
                // SAFETY: as above; the string ends with a NUL and is duplicated.
                unsafe { sys::$str(self.0.as_ptr(), attribute as u16, value.as_ptr()) };
                self
            })?
        }
    };
}

owner!(/// A table.
    Table, nftnl_table, nftnl_table_alloc, nftnl_table_free);
owner!(/// A chain.
    Chain, nftnl_chain, nftnl_chain_alloc, nftnl_chain_free);
owner!(/// A rule and its expressions.
    Rule, nftnl_rule, nftnl_rule_alloc, nftnl_rule_free);
owner!(/// A set and its elements.
    Set, nftnl_set, nftnl_set_alloc, nftnl_set_free);
owner!(/// An element that is in no set yet.
    Element, nftnl_set_elem, nftnl_set_elem_alloc, nftnl_set_elem_free);
owner!(/// A named object, such as a counter.
    Object, nftnl_obj, nftnl_obj_alloc, nftnl_obj_free);
owner!(/// A flowtable: never ours.
    Flowtable, nftnl_flowtable, nftnl_flowtable_alloc, nftnl_flowtable_free);

setters!(Table, u32 nftnl_table_set_u32, str nftnl_table_set_str);
setters!(Chain, u32 nftnl_chain_set_u32, str nftnl_chain_set_str);
setters!(Rule, str nftnl_rule_set_str);
setters!(Set, u32 nftnl_set_set_u32, u64 nftnl_set_set_u64, str nftnl_set_set_str);
setters!(Flowtable, str nftnl_flowtable_set_str);
setters!(Object, u32 nftnl_obj_set_u32, str nftnl_obj_set_str);
setters!(Expression, u32 nftnl_expr_set_u32, u64 nftnl_expr_set_u64, str nftnl_expr_set_str);

/// An expression that is in no rule yet.
pub struct Expression(NonNull<sys::nftnl_expr>);

impl Drop for Expression {
    fn drop(&mut self) {
        // SAFETY: we own the expression until `release` forgets us.
        unsafe { sys::nftnl_expr_free(self.0.as_ptr()) }
    }
}

impl Expression {
    /// An expression of this name. libnftnl returns null for names that it does not know; we use only names that
    /// every version since 1.1.8 has.
    pub fn new(name: &CStr) -> Self {
        // SAFETY: the name ends with a NUL; the result is null or an expression that we own.
        Self(non_null(unsafe { sys::nftnl_expr_alloc(name.as_ptr()) }))
    }

    pub fn u8(self, attribute: u32, value: u8) -> Self {
        // SAFETY: the expression is alive; the value is copied.
        unsafe { sys::nftnl_expr_set_u8(self.0.as_ptr(), attribute as u16, value) };
        self
    }

    pub fn u16(self, attribute: u32, value: u16) -> Self {
        // SAFETY: as above.
        unsafe { sys::nftnl_expr_set_u16(self.0.as_ptr(), attribute as u16, value) };
        self
    }

    /// Sets bytes to compare or to mask with.
    pub fn bytes(self, attribute: u32, value: &[u8]) -> Self {
        let value = at_most(value, DATA_MAX);
        // SAFETY: the length is that of the slice, which fits the array into which libnftnl copies it unchecked.
        unsafe {
            sys::nftnl_expr_set(self.0.as_ptr(), attribute as u16, value.as_ptr().cast(), value.len() as u32)
        };
        self
    }

    /// Puts an expression into this one.
    pub fn nested(self, attribute: u32, inner: Expression) -> Self {
        // SAFETY: the outer expression takes over the inner one and frees it with itself.
        unsafe { sys::nftnl_expr_add_expr(self.0.as_ptr(), attribute, inner.release()) };
        self
    }

    fn release(self) -> *mut sys::nftnl_expr {
        let raw = self.0.as_ptr();
        std::mem::forget(self);
        raw
    }
}

impl Rule {
    pub fn expression(self, expression: Expression) -> Self {
        // SAFETY: the rule takes over the expression and frees it with itself.
        unsafe { sys::nftnl_rule_add_expr(self.0.as_ptr(), expression.release()) };
        self
    }

    /// The rule in a netlink message; `None` when it is malformed.
    pub fn parse(message: &[u8]) -> Option<Self> {
        if !named::all_are_named(message) {
            return None;
        }
        // libnftnl reads texts to their NUL, wherever that is: one stands behind the message.
        let mut ended = Vec::with_capacity(message.len() + 1);
        ended.extend_from_slice(message);
        ended.push(0);
        let header = checked_header(&ended[..message.len()])?;
        let rule = Self::new();
        // SAFETY: `checked_header` has checked alignment and that the length in the header is within the slice, which a NUL
        // follows; expressions have the names that libnftnl takes for granted.
        (unsafe { sys::nftnl_rule_nlmsg_parse(header, rule.0.as_ptr()) } >= 0).then_some(rule)
    }

    /// The expressions as libnftnl writes them, one string each.
    pub fn texts(&self) -> Vec<String> {
        // SAFETY: the rule outlives the iterator, which is destroyed below.
        let iterator = non_null(unsafe { sys::nftnl_expr_iter_create(self.0.as_ptr()) });
        let mut texts = Vec::new();
        loop {
            // SAFETY: the iterator is alive; it yields expressions of the rule, then null.
            let expression = unsafe { sys::nftnl_expr_iter_next(iterator.as_ptr()) };
            match NonNull::new(expression) {
                Some(expression) => texts.push(expression_text(expression)),
                None => break,
            }
        }
        // SAFETY: created above and not used any more.
        unsafe { sys::nftnl_expr_iter_destroy(iterator.as_ptr()) };
        texts
    }
}

/// An expression's name and fields as libnftnl writes them.
fn expression_text(expression: NonNull<sys::nftnl_expr>) -> String {
    let mut buffer = [0_u8; 1024];
    // SAFETY: the buffer's true size is given; libnftnl writes at most so much. The name lives with the expression.
    let (name, length) = unsafe {
        let name = sys::nftnl_expr_get_str(expression.as_ptr(), sys::NFTNL_EXPR_NAME as u16);
        let length = sys::nftnl_expr_snprintf(
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            expression.as_ptr(),
            sys::NFTNL_OUTPUT_DEFAULT,
            0,
        );
        (CStr::from_ptr(name).to_string_lossy(), length)
    };
    let length = usize::try_from(length).unwrap_or(0).min(buffer.len());
    let text = String::from_utf8_lossy(&buffer[..length]);
    format!("{name} {}", text.trim_matches(['\0', ' ']))
}

impl Set {
    pub fn user_data(self, value: &[u8]) -> Self {
        // SAFETY: the length is that of the slice, of which libnftnl makes a copy on the heap.
        unsafe { self.data(sys::NFTNL_SET_USERDATA, value) };
        self
    }

    /// The lengths of a concatenation's fields.
    pub fn field_lengths(self, value: &[u8]) -> Self {
        let value = at_most(value, FIELDS_MAX);
        // SAFETY: the slice fits the array into which libnftnl copies it unchecked, and leaves room for the zero up to which
        // it then counts the fields.
        unsafe { self.data(sys::NFTNL_SET_DESC_CONCAT, value) };
        self
    }

    /// # Safety
    /// `value` fits what libnftnl has for this attribute.
    unsafe fn data(&self, attribute: u32, value: &[u8]) {
        // SAFETY: the length is that of the slice; the rest is the caller's promise.
        unsafe {
            sys::nftnl_set_set_data(
                self.0.as_ptr(),
                attribute as u16,
                value.as_ptr().cast(),
                value.len() as u32,
            )
        };
    }

    /// Gives every element an expression of this kind.
    pub fn expression(self, expression: Expression) -> Self {
        // SAFETY: the set takes over the expression and frees it with itself.
        unsafe { sys::nftnl_set_add_expr(self.0.as_ptr(), expression.release()) };
        self
    }

    pub fn add(&mut self, element: Element) {
        // SAFETY: the set takes over the element and frees it with itself; we forget it.
        unsafe { sys::nftnl_set_elem_add(self.0.as_ptr(), element.0.as_ptr()) };
        std::mem::forget(element);
    }
}

impl Element {
    /// Sets a key or the user data. A key longer than nf_tables has registers is cut, which the kernel refuses.
    pub fn bytes(self, attribute: u32, value: &[u8]) -> Self {
        let value = match attribute {
            sys::NFTNL_SET_ELEM_USERDATA => value,
            _ => at_most(value, DATA_MAX),
        };
        // SAFETY: the length is that of the slice; libnftnl copies keys unchecked into an array of DATA_MAX bytes and user
        // data to the heap.
        unsafe {
            sys::nftnl_set_elem_set(
                self.0.as_ptr(),
                attribute as u16,
                value.as_ptr().cast(),
                value.len() as u32,
            )
        };
        self
    }
}

/// NFT_DATA_VALUE_MAXLEN, nf_tables.h: what all registers hold.
const DATA_MAX: usize = 64;
/// NFT_REG32_COUNT, nf_tables.h, less one for the end.
const FIELDS_MAX: usize = 15;

fn at_most(value: &[u8], limit: usize) -> &[u8] {
    &value[..value.len().min(limit)]
}

/// What a message says about its object.
pub enum Body<'a> {
    Table(&'a Table),
    Chain(&'a Chain),
    Rule(&'a Rule),
    Set(&'a Set),
    Object(&'a Object),
    Flowtable(&'a Flowtable),
}

/// A message of any type: nftnl's own types know only "add" and "delete".
pub struct Message<'a> {
    /// One of `NFT_MSG_*`.
    pub kind: u16,
    /// `NLM_F_*` beside `NLM_F_REQUEST`.
    pub flags: u16,
    pub body: Body<'a>,
}

impl Message<'_> {
    pub fn add_to(&self, messages: &mut Messages) {
        messages.add(self);
    }
}

// SAFETY: `write` makes one message of one object; only lists of elements could exceed nft_nlmsg_maxsize, and those
// have `ElementMessages`. (A rule's expressions are limited to NFT_RULE_MAXEXPRS.)
unsafe impl NlMsg for Message<'_> {
    unsafe fn write(&self, buffer: *mut c_void, sequence: u32, _: MsgType) {
        // SAFETY: the caller gives a buffer of nft_nlmsg_maxsize bytes; all objects are alive for the call.
        unsafe {
            let header = message_header(buffer, self.kind, self.flags, sequence);
            match self.body {
                Body::Table(table) => sys::nftnl_table_nlmsg_build_payload(header, table.0.as_ptr()),
                Body::Chain(chain) => sys::nftnl_chain_nlmsg_build_payload(header, chain.0.as_ptr()),
                Body::Rule(rule) => sys::nftnl_rule_nlmsg_build_payload(header, rule.0.as_ptr()),
                Body::Set(set) => sys::nftnl_set_nlmsg_build_payload(header, set.0.as_ptr()),
                Body::Object(object) => sys::nftnl_obj_nlmsg_build_payload(header, object.0.as_ptr()),
                Body::Flowtable(flowtable) => {
                    sys::nftnl_flowtable_nlmsg_build_payload(header, flowtable.0.as_ptr());
                }
            }
        }
    }
}

/// The elements of a set as messages of at most 64 KiB, which is what a netlink attribute can hold.
pub struct ElementMessages<'a> {
    kind: u16,
    flags: u16,
    iterator: NonNull<sys::nftnl_set_elems_iter>,
    more: Cell<bool>,
    _set: &'a Set,
}

impl<'a> ElementMessages<'a> {
    pub fn new(set: &'a Set, kind: u16, flags: u16) -> Self {
        Self {
            kind,
            flags,
            // SAFETY: the set outlives the iterator by the lifetime of `_set`.
            iterator: non_null(unsafe { sys::nftnl_set_elems_iter_create(set.0.as_ptr()) }),
            more: Cell::new(true),
            _set: set,
        }
    }

    /// Adds the messages; returns how many.
    pub fn add_to(self, messages: &mut Messages) -> usize {
        let mut added = 0;
        while self.more.get() {
            messages.add(&self);
            added += 1;
        }
        added
    }
}

impl Drop for ElementMessages<'_> {
    fn drop(&mut self) {
        // SAFETY: created in `new` and owned by us.
        unsafe { sys::nftnl_set_elems_iter_destroy(self.iterator.as_ptr()) }
    }
}

// SAFETY: libnftnl stops adding elements before the list's attribute exceeds 64 KiB, for which nft_nlmsg_maxsize is made.
unsafe impl NlMsg for ElementMessages<'_> {
    unsafe fn write(&self, buffer: *mut c_void, sequence: u32, _: MsgType) {
        // SAFETY: the caller gives a buffer of nft_nlmsg_maxsize bytes; iterator and set are alive.
        let more = unsafe {
            let header = message_header(buffer, self.kind, self.flags, sequence);
            sys::nftnl_set_elems_nlmsg_build_payload_iter(header, self.iterator.as_ptr())
        };
        self.more.set(more > 0);
    }
}

/// The messages of a transaction, one behind the other in a single piece. nftnl's batch keeps them in pages, which
/// would have to be copied: 30 MB for 10,000 services.
pub struct Messages {
    bytes: Vec<u8>,
    /// Room for one message.
    scratch: Vec<u64>,
    sequence: u32,
}

impl Messages {
    /// Begins with these bytes, whose message has the number before `sequence`.
    pub fn behind(begin: &[u8], sequence: u32) -> Self {
        let words = (nftnl::nft_nlmsg_maxsize() as usize).div_ceil(size_of::<u64>());
        Self { bytes: begin.to_vec(), scratch: vec![0; words], sequence }
    }

    fn add(&mut self, message: &impl NlMsg) {
        let buffer = self.scratch.as_mut_ptr();
        // SAFETY: the buffer has nft_nlmsg_maxsize bytes and is aligned for every header; a message begins with its
        // length, which is at most that.
        let written = unsafe {
            message.write(buffer.cast(), self.sequence, MsgType::Add);
            let length = (*buffer.cast::<libc::nlmsghdr>()).nlmsg_len as usize;
            std::slice::from_raw_parts(buffer.cast::<u8>(), length)
        };
        self.bytes.extend_from_slice(written);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.sequence += 1;
    }

    /// Adds a message that `write` appends, with this number, aligned and padded as all are.
    pub fn add_written(&mut self, write: impl FnOnce(&mut Vec<u8>, u32)) {
        write(&mut self.bytes, self.sequence);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.sequence += 1;
    }

    /// The bytes, and the number that the next message would have.
    pub fn finish(self) -> (Vec<u8>, u32) {
        (self.bytes, self.sequence)
    }
}

/// # Safety
/// `buffer` has room for nft_nlmsg_maxsize bytes.
unsafe fn message_header(buffer: *mut c_void, kind: u16, flags: u16, sequence: u32) -> *mut libc::nlmsghdr {
    // SAFETY: the caller's promise.
    unsafe {
        sys::nftnl_nlmsg_build_hdr(buffer.cast::<c_char>(), kind, libc::NFPROTO_INET as u16, flags, sequence)
    }
}

/// The header of a message that lies wholly in the slice and is aligned for it.
fn checked_header(message: &[u8]) -> Option<*const libc::nlmsghdr> {
    let length: [u8; 4] = message.get(..4)?.try_into().ok()?;
    let length = u32::from_ne_bytes(length) as usize;
    let header = message.as_ptr().cast::<libc::nlmsghdr>();
    let fits = (size_of::<libc::nlmsghdr>()..=message.len()).contains(&length);
    (fits && header.is_aligned()).then_some(header)
}

/// Aborts on null as the standard library does: libnftnl allocates small objects only.
fn non_null<T>(raw: *mut T) -> NonNull<T> {
    NonNull::new(raw).unwrap_or_else(|| handle_alloc_error(Layout::new::<[u8; 256]>()))
}

// ---- netlink sockets ------------------------------------------------------------------------------------------

/// Switches an option of SOL_NETLINK on.
pub fn enable_netlink(socket: BorrowedFd<'_>, option: c_int) -> io::Result<()> {
    let on: c_int = 1;
    // SAFETY: the pointer and the length are those of a live c_int.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            ptr::from_ref(&on).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

// ---- memory ----------------------------------------------------------------------------------------------------

/// Gives pages that hold nothing back to the kernel, of all threads' arenas: those of jemalloc, which the daemon allocates by, and
/// of glibc, by which libraries in C do; it keeps them where something lies behind them.
pub fn give_back_memory() {
    // jemalloc(3): 4096 stands for all arenas (`MALLCTL_ARENAS_ALL`).
    for action in [c"thread.tcache.flush", c"arena.4096.purge"] {
        // SAFETY: the name is a C string; the two take nothing and return nothing, which is what null pointers say.
        unsafe {
            tikv_jemalloc_sys::mallctl(action.as_ptr(), ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), 0);
        }
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) has no preconditions and is safe beside other threads; no pointer goes in or out.
    unsafe {
        libc::malloc_trim(0);
    }
}

// ---- file descriptors from before ------------------------------------------------------------------------------

/// A descriptor that was open when this process began, named by the service manager; `None` when somebody has it already.
pub fn inherited(fd: RawFd) -> Option<OwnedFd> {
    static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());
    let first = TAKEN.lock().ok()?.insert(fd);
    // SAFETY: the service manager opened it for us, and none of our code has it: it is given out once.
    first.then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

// ---- readiness of file descriptors ----------------------------------------------------------------------------

/// Wakes when a file descriptor has something to read; nobody can take the descriptor out or replace it.
#[derive(Debug)]
pub(super) struct Readiness(AsyncFd<OwnedFd>);

impl Readiness {
    /// Must be called in a tokio runtime.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: an OwnedFd is open until it is dropped, and always the same number. The AsyncFd owns it, and this
        // type gives no access to either, so it stays open and unchanged as long as it is registered.
        let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Self(registered?))
    }

    /// Returns when there was something to read since the last call. May be called again after it was cancelled.
    pub(super) async fn wait(&self) -> io::Result<()> {
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}

// ---- fanotify -------------------------------------------------------------------------------------------------

/// One event of a fanotify group, its descriptors owned.
#[derive(Debug)]
pub(super) struct FanotifyEvent {
    pub mask: u64,
    /// The file; none: the kernel could not open it, or events were lost.
    pub file: Option<OwnedFd>,
    /// The process in this pid namespace; 0: outside of it.
    pub pid: i32,
    /// The same process, as long as it lives; only where the group asks for it.
    pub pidfd: Option<OwnedFd>,
}

/// Reads the events of a fanotify group that are there (fanotify(7)); `EAGAIN` when there are none.
///
/// nix reads them too, but not the pidfd that stands behind each, which then stays open for ever.
pub(super) fn read_fanotify(
    group: &nix::sys::fanotify::Fanotify,
    buffer: &mut [u8],
) -> nix::Result<Vec<FanotifyEvent>> {
    let length = nix::unistd::read(group, buffer)?;
    let mut events = Vec::new();
    let mut rest = &buffer[..length];
    while let Some((event, after)) = fanotify_event(rest) {
        events.push(event);
        rest = after;
    }
    Ok(events)
}

/// The first event: `event_len u32, vers u8, reserved u8, metadata_len u16, mask u64, fd i32, pid i32`, then records of
/// `info_type u8, pad u8, len u16`.
fn fanotify_event(bytes: &[u8]) -> Option<(FanotifyEvent, &[u8])> {
    const PIDFD: u8 = 4;
    let number = |at: usize| Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let length = number(0)? as usize;
    let event = bytes.get(..length)?;
    let mut records = event.get(usize::from(u16::from_ne_bytes(bytes.get(6..8)?.try_into().ok()?))..)?;
    let mut pidfd = None;
    while let Some([kind, _, low, high]) = records.first_chunk() {
        let length = usize::from(u16::from_ne_bytes([*low, *high]));
        let Some(record) = records.get(..length).filter(|_| length >= 4) else { break };
        if let (PIDFD, Some(number)) = (*kind, record.get(4..8)) {
            pidfd = Some(i32::from_ne_bytes(number.try_into().ok()?));
        }
        records = &records[length..];
    }
    let event = FanotifyEvent {
        mask: u64::from_ne_bytes(bytes.get(8..16)?.try_into().ok()?),
        file: owned(number(16)?),
        pid: number(20)?,
        pidfd: pidfd.and_then(owned),
    };
    Some((event, &bytes[length..]))
}

/// A descriptor that the kernel has just made for us; negative: none.
fn owned(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: only called with the numbers in an event that was just read, each once: the kernel opened them for the
    // reader, and nobody else knows them.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}
