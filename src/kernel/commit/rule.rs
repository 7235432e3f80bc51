//! Statements to expressions, as nft 1.0.6 writes the same text: also the guards that nft puts before a field of a
//! protocol, once per rule, so that `nft list` shows our rules as if nft had loaded them.
//!
//! One difference is wanted: where a range set is asked for a protocol, nft swaps that one byte's order with an
//! expression that does nothing; we leave it out.

use std::ffi::{CStr, CString};
use std::net::IpAddr;

use nftnl::nftnl_sys as sys;

use super::error::CommitError;
use super::expression::{self as expr, Piece, Register};
use super::{text, userdata};
use crate::kernel::ffi::{Element, Expression, Set};
use crate::model::{Family, Time};
use crate::ruleset::{Account, Key, Load, Side, Statement, Verdict, protocol};

/// Codes of verdicts: linux/netfilter.h and `enum nft_verdicts` of nf_tables.h.
const JUMP: i32 = -3;
const GOTO: i32 = -4;
const RETURN: i32 = -5;

/// The name under which the kernel numbers anonymous sets itself.
const ANONYMOUS: &CStr = c"__set%d";
/// `enum datatypes` of nft's datatype.h: icmp_type and icmpv6_type.
const ICMP_TYPE: u32 = 14;
const ICMPV6_TYPE: u32 = 29;

/// A rule ready to send.
pub struct Encoded {
    pub expressions: Vec<Expression>,
    /// Sets without a name that the rule looks up: they go with it.
    pub sets: Vec<Set>,
}

/// Encodes a rule. `ids` numbers the sets of a transaction.
pub fn encode(table: &CStr, rule: &[Statement], ids: &mut u32) -> Result<Encoded, CommitError> {
    let mut encoder = Encoder {
        table,
        ids,
        known: Known::default(),
        done: Encoded { expressions: Vec::new(), sets: Vec::new() },
    };
    for statement in rule {
        encoder.statement(statement)?;
    }
    Ok(encoder.done)
}

/// The code and the chain of a verdict.
pub fn verdict_parts(verdict: &Verdict) -> Result<(i32, Option<CString>), CommitError> {
    Ok(match verdict {
        Verdict::Accept => (libc::NF_ACCEPT, None),
        Verdict::Drop => (libc::NF_DROP, None),
        Verdict::Return => (RETURN, None),
        Verdict::Jump(chain) => (JUMP, Some(text(chain)?)),
        Verdict::Goto(chain) => (GOTO, Some(text(chain)?)),
    })
}

/// A verdict from the kernel; `None` for codes that we never send.
pub fn verdict_from(code: i32, chain: Option<String>) -> Option<Verdict> {
    match (code, chain) {
        (libc::NF_ACCEPT, _) => Some(Verdict::Accept),
        (libc::NF_DROP, _) => Some(Verdict::Drop),
        (RETURN, _) => Some(Verdict::Return),
        (JUMP, Some(chain)) => Some(Verdict::Jump(chain.into())),
        (GOTO, Some(chain)) => Some(Verdict::Goto(chain.into())),
        _ => None,
    }
}

/// What earlier statements of the rule have established.
#[derive(Default)]
struct Known {
    network: Option<Family>,
    transport: Option<u8>,
    /// The message is an echo request or an answer to one.
    echo: bool,
}

struct Encoder<'a> {
    table: &'a CStr,
    ids: &'a mut u32,
    known: Known,
    done: Encoded,
}

impl Encoder<'_> {
    fn statement(&mut self, statement: &Statement) -> Result<(), CommitError> {
        match statement {
            Statement::LeavesByLoopback => self.interface(libc::NFT_META_OIF),
            Statement::ArrivesByLoopback => self.interface(libc::NFT_META_IIF),
            Statement::Leaving => self.interface_type(libc::NFT_META_OIFTYPE),
            Statement::Arriving => self.interface_type(libc::NFT_META_IIFTYPE),
            Statement::Lookup { key, set, negated } => {
                self.loads(key);
                self.push(expr::lookup(&text(set)?, *negated));
            }
            Statement::Address { side, address } => self.is_address(*side, *address),
            Statement::Dispatch { key, map } => {
                self.loads(key);
                self.push(expr::dispatch(&text(map)?));
            }
            Statement::Protocol(number) => self.compare_protocol(*number),
            Statement::Port { protocol, side, range } => {
                self.need_transport(*protocol);
                self.push(expr::payload(Piece::port(*side), Register::FIRST));
                self.range(&range.low().to_be_bytes(), &range.high().to_be_bytes());
            }
            Statement::TcpFlags { mask, value, negated } => self.tcp_flags(*mask, *value, *negated),
            Statement::HasPayload => {
                self.push(expr::payload(Piece::FIRST_PAYLOAD_BYTE, Register::FIRST));
                self.push_all(expr::within(&[0], &[u8::MAX]));
            }
            Statement::ClientHello => {
                self.push(expr::payload(Piece::FIRST_HANDSHAKE_BYTES, Register::FIRST));
                self.push(expr::mask(&[0xff, 0xff, 0, 0, 0, 0xff], Register::FIRST));
                self.push(expr::compare(libc::NFT_CMP_EQ, &[0x16, 0x03, 0, 0, 0, 0x01]));
            }
            Statement::ExtensionHeader => {
                self.need_network(Family::V6);
                self.push(expr::payload(Piece::NEXT_HEADER, Register::FIRST));
                self.push(expr::compare(libc::NFT_CMP_NEQ, &[protocol::TCP]));
            }
            Statement::FullSocket => self.socket(expr::SOCKET_WILDCARD),
            Statement::AnySocket => self.socket(expr::SOCKET_TRANSPARENT),
            Statement::IcmpType { family, low, high } => self.icmp_type(*family, *low, *high),
            Statement::QuotesTcp(family) => {
                self.push(expr::payload(Piece::quoted_protocol(*family), Register::FIRST));
                self.push(expr::compare(libc::NFT_CMP_EQ, &[protocol::TCP]));
            }
            Statement::FromProcess => self.any_owner(),
            Statement::Owner(account) => {
                let (key, id) = match account {
                    Account::User(id) => (libc::NFT_META_SKUID, id),
                    Account::Group(id) => (libc::NFT_META_SKGID, id),
                };
                self.push(expr::meta(key as u32, Register::FIRST));
                self.push(expr::compare(libc::NFT_CMP_EQ, &id.to_ne_bytes()));
            }
            Statement::HopLimit(limit) => self.hop_limit(*limit),
            Statement::Fragment(family) => self.fragment(*family),
            Statement::Before(instant) => self.time(libc::NFT_CMP_LT, *instant),
            Statement::From(instant) => self.time(libc::NFT_CMP_GTE, *instant),
            Statement::Within { from, to } => {
                let (low, high) =
                    (Key::builder().time(*from).build(), Key::builder().time_before(*to).build());
                self.load(Load::Time, Register::FIRST);
                self.push_all(expr::within(low.bytes(), high.bytes()));
            }
            Statement::Update { set, key, limit } => {
                self.loads(key);
                self.push(expr::update(&text(set)?, *limit));
            }
            Statement::UpdateFor { set, key, timeout } => {
                self.loads(key);
                self.push(expr::update_for(&text(set)?, *timeout));
            }
            Statement::Limit(rate) => self.push(expr::limit(*rate)),
            Statement::Delete { set, key } => {
                self.loads(key);
                self.push(expr::delete(&text(set)?));
            }
            Statement::Count(name) => self.push(expr::count_on(&text(name)?)),
            Statement::Log { prefix, group } => self.push(expr::log(&text(prefix)?, *group)),
            Statement::LogWhole { prefix, group } => self.push(expr::log_whole(&text(prefix)?, *group)),
            Statement::RejectWithReset => {
                self.need_transport(protocol::TCP);
                self.push(expr::reject(libc::NFT_REJECT_TCP_RST, 0));
            }
            Statement::RejectAsProhibited => self
                .push(expr::reject(libc::NFT_REJECT_ICMPX_UNREACH, libc::NFT_REJECT_ICMPX_ADMIN_PROHIBITED)),
            Statement::Verdict(verdict) => {
                let (code, chain) = verdict_parts(verdict)?;
                self.push(expr::verdict(code, chain.as_deref()));
            }
        }
        Ok(())
    }

    fn is_address(&mut self, side: Side, address: IpAddr) {
        let (family, bytes) = match address {
            IpAddr::V4(v4) => (Family::V4, v4.octets().to_vec()),
            IpAddr::V6(v6) => (Family::V6, v6.octets().to_vec()),
        };
        self.need_network(family);
        self.address(family, side, Register::FIRST);
        self.push(expr::compare(libc::NFT_CMP_EQ, &bytes));
    }

    fn interface(&mut self, key: i32) {
        self.push(expr::meta(key as u32, Register::FIRST));
        self.push(expr::loopback_index());
    }

    /// The type of an interface can be loaded only if there is one; its value does not matter.
    fn interface_type(&mut self, key: i32) {
        self.push(expr::meta(key as u32, Register::FIRST));
        self.push(expr::to_network_order(2, Register::FIRST));
        self.push_all(expr::within(&[0; 2], &[u8::MAX; 2]));
    }

    /// Either answer will do: it can be loaded only if there is such a socket.
    fn socket(&mut self, key: u32) {
        self.push(expr::socket(key, Register::FIRST));
        self.push_all(expr::within(&[0], &[1]));
    }

    /// Only a socket with a file has an owner: the kernel's own have none, whatever their cgroup is.
    fn any_owner(&mut self) {
        self.push(expr::meta(libc::NFT_META_SKUID as u32, Register::FIRST));
        self.push(expr::to_network_order(4, Register::FIRST));
        self.push_all(expr::within(&[0; 4], &[u8::MAX; 4]));
    }

    fn tcp_flags(&mut self, mask: u8, value: u8, negated: bool) {
        let operator = if negated { libc::NFT_CMP_NEQ } else { libc::NFT_CMP_EQ };
        self.need_transport(protocol::TCP);
        self.push(expr::payload(Piece::TCP_FLAGS, Register::FIRST));
        self.push(expr::mask(&[mask], Register::FIRST));
        self.push(expr::compare(operator, &[value]));
    }

    fn icmp_type(&mut self, family: Family, low: u8, high: u8) {
        self.need_icmp(family);
        self.push(expr::payload(Piece::ICMP_TYPE, Register::FIRST));
        self.range(&[low], &[high]);
        self.known.echo |= low == high && echo_types(family).contains(&low);
    }

    fn hop_limit(&mut self, limit: u8) {
        self.need_network(Family::V6);
        self.push(expr::payload(Piece::HOP_LIMIT, Register::FIRST));
        self.push(expr::compare(libc::NFT_CMP_EQ, &[limit]));
    }

    fn fragment(&mut self, family: Family) {
        /// More fragments follow, or this one does not begin at 0 (RFC 791, section 3.1).
        const FRAGMENT_BITS: [u8; 2] = 0x3fff_u16.to_be_bytes();
        self.need_network(family);
        match family {
            Family::V4 => {
                self.push(expr::payload(Piece::FRAGMENT, Register::FIRST));
                self.push(expr::mask(&FRAGMENT_BITS, Register::FIRST));
                self.push(expr::compare(libc::NFT_CMP_NEQ, &[0; 2]));
            }
            Family::V6 => {
                self.push(expr::fragment_header(Register::FIRST));
                self.push(expr::compare(libc::NFT_CMP_EQ, &[1]));
            }
        }
    }

    fn time(&mut self, operator: i32, instant: Time) {
        let key = Key::builder().time(instant).build();
        self.load(Load::Time, Register::FIRST);
        self.push(expr::compare(operator, key.bytes()));
    }

    /// Loads a key: first the guards of all its parts, then the parts side by side.
    fn loads(&mut self, key: &[Load]) {
        for load in key {
            self.guard(*load);
        }
        let mut register = Register::FIRST;
        for load in key {
            register = register.behind(self.load(*load, register));
        }
    }

    fn guard(&mut self, load: Load) {
        match load {
            Load::Address(family, _) | Load::Network(family, _) => self.need_network(family),
            Load::EchoId(family) => self.need_echo(family),
            Load::Cgroup { .. }
            | Load::Protocol
            | Load::Port(_)
            | Load::Time
            | Load::DnsId
            | Load::Number(_) => {}
        }
    }

    /// Returns the length of what was loaded.
    fn load(&mut self, load: Load, to: Register) -> usize {
        match load {
            Load::Cgroup { level } => {
                self.push(expr::cgroup(level, to));
                8
            }
            Load::Address(family, side) => self.address(family, side, to),
            Load::Network(family, side) => {
                let piece = Piece::network_of(family, side);
                self.push(expr::payload(piece, to));
                piece.length()
            }
            Load::Protocol => {
                self.push(expr::meta(libc::NFT_META_L4PROTO as u32, to));
                1
            }
            Load::Port(side) => {
                self.push(expr::payload(Piece::port(side), to));
                2
            }
            Load::Time => {
                self.push(expr::meta(expr::META_TIME_NS, to));
                self.push(expr::to_network_order(8, to));
                8
            }
            Load::DnsId => {
                self.push(expr::payload(Piece::DNS_ID, to));
                2
            }
            Load::EchoId(_) => {
                self.push(expr::payload(Piece::ECHO_ID, to));
                2
            }
            // As nft writes it: anything that can always be loaded, with its bits put in place of.
            Load::Number(number) => {
                self.push(expr::meta(libc::NFT_META_MARK as u32, to));
                self.push(expr::replace(&number.to_ne_bytes(), to));
                4
            }
        }
    }

    fn address(&mut self, family: Family, side: Side, to: Register) -> usize {
        let piece = Piece::address(family, side);
        self.push(expr::payload(piece, to));
        piece.length()
    }

    fn need_network(&mut self, family: Family) {
        if self.known.network == Some(family) {
            return;
        }
        let number = match family {
            Family::V4 => libc::NFPROTO_IPV4,
            Family::V6 => libc::NFPROTO_IPV6,
        };
        self.push(expr::meta(libc::NFT_META_NFPROTO as u32, Register::FIRST));
        self.push(expr::compare(libc::NFT_CMP_EQ, &[number as u8]));
        self.known.network = Some(family);
    }

    fn need_transport(&mut self, protocol: u8) {
        if self.known.transport != Some(protocol) {
            self.compare_protocol(protocol);
        }
    }

    fn compare_protocol(&mut self, protocol: u8) {
        self.push(expr::meta(libc::NFT_META_L4PROTO as u32, Register::FIRST));
        self.push(expr::compare(libc::NFT_CMP_EQ, &[protocol]));
        self.known.transport = Some(protocol);
    }

    fn need_icmp(&mut self, family: Family) {
        let protocol = match family {
            Family::V4 => protocol::ICMP,
            Family::V6 => protocol::ICMPV6,
        };
        if self.known.transport != Some(protocol) {
            self.need_network(family);
            self.compare_protocol(protocol);
        }
    }

    /// Only echo messages have an identifier: as nft, a lookup of the type in a set of the two.
    fn need_echo(&mut self, family: Family) {
        self.need_icmp(family);
        if self.known.echo {
            return;
        }
        *self.ids += 1;
        self.done.sets.push(echo_set(self.table, family, *self.ids));
        self.push(expr::payload(Piece::ICMP_TYPE, Register::FIRST));
        self.push(expr::lookup_by_id(ANONYMOUS, *self.ids));
        self.known.echo = true;
    }

    fn range(&mut self, low: &[u8], high: &[u8]) {
        if low == high {
            self.push(expr::compare(libc::NFT_CMP_EQ, low));
        } else {
            self.push_all(expr::within(low, high));
        }
    }

    fn push(&mut self, expression: Expression) {
        self.done.expressions.push(expression);
    }

    fn push_all(&mut self, expressions: [Expression; 2]) {
        self.done.expressions.extend(expressions);
    }
}

/// Request and reply (RFC 792; RFC 4443, section 4).
fn echo_types(family: Family) -> [u8; 2] {
    match family {
        Family::V4 => [8, 0],
        Family::V6 => [128, 129],
    }
}

fn echo_set(table: &CStr, family: Family, id: u32) -> Set {
    let key_type = match family {
        Family::V4 => ICMP_TYPE,
        Family::V6 => ICMPV6_TYPE,
    };
    let mut set = Set::new()
        .str(sys::NFTNL_SET_TABLE, table)
        .str(sys::NFTNL_SET_NAME, ANONYMOUS)
        .u32(sys::NFTNL_SET_ID, id)
        .u32(sys::NFTNL_SET_FLAGS, (libc::NFT_SET_ANONYMOUS | libc::NFT_SET_CONSTANT) as u32)
        .u32(sys::NFTNL_SET_KEY_TYPE, key_type)
        .u32(sys::NFTNL_SET_KEY_LEN, 1)
        .u32(sys::NFTNL_SET_DESC_SIZE, 2)
        .user_data(&userdata::of_icmp_types(family));
    for kind in echo_types(family) {
        set.add(Element::new().bytes(sys::NFTNL_SET_ELEM_KEY, &[kind]));
    }
    set
}
