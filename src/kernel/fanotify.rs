//! Holds the execution of marked files until somebody says go on.
//!
//! A mark is on the inode: hard links and bind mounts are the same file, a copy is not. The kernel lets every held
//! execution go on when the last descriptor of the group is closed, also by SIGKILL. Deliberately absent: denying. What
//! is not known goes on and stays what it was.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::AT_FDCWD;
use nix::sys::fanotify::{
    EventFFlags, Fanotify, FanotifyResponse, InitFlags, MarkFlags, MaskFlags, Response,
};

use super::ffi;

/// Room for some ninety events a read; each comes with two descriptors.
const BUFFER: usize = 4096;

/// Marks and the executions that they hold.
#[derive(Debug)]
pub struct ExecGroup(Fanotify);

/// An execution that waits for an answer: exactly one.
#[derive(Debug)]
pub struct HeldExec {
    /// The very file that is being executed.
    pub file: OwnedFd,
    /// The process in this pid namespace, by its main thread; 0: outside of it.
    pub pid: i32,
    /// The same process: readable once it has ended.
    pub pidfd: Option<OwnedFd>,
}

impl ExecGroup {
    /// Needs CAP_SYS_ADMIN; `EINVAL` before kernel 5.15, which has no pidfd in events.
    pub fn new() -> io::Result<Self> {
        // Without limits: what overflows a queue is lost, and a lost execution waits for ever.
        let flags = InitFlags::FAN_CLASS_CONTENT
            | InitFlags::FAN_CLOEXEC
            | InitFlags::FAN_NONBLOCK
            | InitFlags::FAN_REPORT_PIDFD
            | InitFlags::FAN_UNLIMITED_QUEUE
            | InitFlags::FAN_UNLIMITED_MARKS;
        let files = EventFFlags::O_RDONLY | EventFFlags::O_LARGEFILE | EventFFlags::O_CLOEXEC;
        Ok(Self(Fanotify::init(flags, files)?))
    }

    /// Holds executions of this file from now on.
    pub fn mark(&self, file: impl AsFd) -> io::Result<()> {
        self.change(MarkFlags::FAN_MARK_ADD, file.as_fd())
    }

    /// Does not hold executions of this file any more; that it was not marked is no error.
    pub fn unmark(&self, file: impl AsFd) -> io::Result<()> {
        match self.change(MarkFlags::FAN_MARK_REMOVE, file.as_fd()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            outcome => outcome,
        }
    }

    /// Removes every mark.
    pub fn unmark_all(&self) -> io::Result<()> {
        Ok(self.0.mark(MarkFlags::FAN_MARK_FLUSH, MaskFlags::empty(), AT_FDCWD, None::<&str>)?)
    }

    fn change(&self, flags: MarkFlags, file: BorrowedFd<'_>) -> io::Result<()> {
        // By descriptor, because a path may lead elsewhere by now.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        Ok(self.0.mark(flags, MaskFlags::FAN_OPEN_EXEC_PERM, AT_FDCWD, Some(path.as_str()))?)
    }

    /// The executions that have come since the last call, without waiting. Each has to be answered.
    pub fn read(&self) -> io::Result<Vec<HeldExec>> {
        let mut buffer = [0; BUFFER];
        let events = match ffi::read_fanotify(&self.0, &mut buffer) {
            Ok(events) => events,
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        };
        let held = events.into_iter().filter(|event| event.mask & MaskFlags::FAN_OPEN_EXEC_PERM.bits() != 0);
        Ok(held
            .filter_map(|event| Some(HeldExec { file: event.file?, pid: event.pid, pidfd: event.pidfd }))
            .collect())
    }

    /// Lets an execution go on. That the process has ended meanwhile is no error.
    pub fn allow(&self, held: &HeldExec) -> io::Result<()> {
        match self.0.write_response(FanotifyResponse::new(held.file.as_fd(), Response::FAN_ALLOW)) {
            Ok(()) | Err(nix::errno::Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for ExecGroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
