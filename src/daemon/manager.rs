//! The service manager: what it is told, and what it keeps for us (sd_notify(3), sd_listen_fds(3)). Without one nothing of this
//! does anything.
//!
//! It keeps the netlink socket that owns the table, so that nobody else can write to it while no daemon runs: the next
//! one goes on with the same socket. systemd lets go of it when the unit is stopped.

use std::env;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, sendmsg_addr, socket_with,
};
use sd_notify::NotifyState;
use tokio::time::{Instant, sleep_until};

use crate::kernel::commit::{CommitError, Socket, Table};
use crate::kernel::inherited;

/// The name under which it has our socket.
const NAME: &str = "picoseg-table";
/// How long it may take to take something in.
const PATIENCE: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// Opens the table with the socket that a former daemon left; else with a new one, which is kept from now on.
pub fn open_table(name: &str, protect: bool) -> Result<Table, CommitError> {
    let (mut found, mut useless) = (None, false);
    for socket in kept() {
        match Socket::adopt(socket) {
            Ok(owner) if found.is_none() => found = Some(owner),
            Ok(_) => useless = true,
            Err(error) => {
                tracing::warn!(%error, "a kept socket is of no use");
                useless = true;
            }
        }
    }
    // They have one name: all go, or none.
    if useless && found.is_none() {
        tell("let go of a socket", &format!("FDSTOREREMOVE=1\nFDNAME={NAME}"), &[]);
        settled();
    }
    if let Some(owner) = found {
        tracing::info!(port = owner.port(), "the table stayed ours");
        return Table::open_with(owner, name, protect);
    }
    let table = Table::open(name, protect)?;
    // It shall not look whether the socket has something to say: an answer that was lost would make it let go.
    tell("keep our socket", &format!("FDSTORE=1\nFDPOLL=0\nFDNAME={NAME}"), &[table.owner()]);
    settled();
    Ok(table)
}

/// The sockets that it kept under our name.
fn kept() -> Vec<OwnedFd> {
    let fds = match sd_notify::listen_fds_with_names() {
        Ok(fds) => fds,
        Err(error) => {
            tracing::warn!(%error, "cannot take what the service manager kept");
            return Vec::new();
        }
    };
    fds.filter(|(_, name)| name == NAME).filter_map(|(fd, _)| inherited(fd)).collect()
}

/// Says that everything is in force.
pub fn ready() {
    notify("that we are ready", NotifyState::Ready);
}

/// Says that this is the end.
pub fn stopping() {
    notify("that we stop", NotifyState::Stopping);
}

fn notify(what: &str, state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot tell the service manager {what}");
    }
}

/// Signs of life, by the loop itself: one that hangs is replaced, and the table stays.
pub struct Watchdog {
    every: Option<Duration>,
    told: Instant,
}

impl Watchdog {
    pub fn start() -> Self {
        // As sd_watchdog_enabled(3) recommends.
        let every = sd_notify::watchdog_enabled().map(|limit| limit / 2).filter(|every| !every.is_zero());
        Self { every, told: Instant::now() }
    }

    /// To be called in each turn: gives a sign when it is about time. A turn that comes a little earlier saves one of its own.
    pub fn turned(&mut self) {
        if self.every.is_some_and(|every| self.told.elapsed() >= every / 4 * 3) {
            self.told = Instant::now();
            notify("that we live", NotifyState::Watchdog);
        }
    }

    /// Waits until it is time.
    pub async fn due(&self) {
        match self.every {
            Some(every) => sleep_until(self.told + every).await,
            None => std::future::pending().await,
        }
    }
}

/// Sends a message with descriptors.
fn tell(what: &str, message: &str, fds: &[BorrowedFd<'_>]) {
    if let Err(error) = send(message, fds) {
        tracing::warn!(%error, "cannot ask the service manager to {what}: in a restart the table is nobody's");
    }
}

fn send(message: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let to = match path.as_encoded_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
        path => SocketAddrUnix::new(path)?,
    };
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg_addr(&socket, &to, &[IoSlice::new(message.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Waits until it has taken in what it was told: it closes a pipe then (sd_notify_barrier(3)).
fn settled() {
    let wait = || -> io::Result<()> {
        let (reader, writer) = io::pipe()?;
        send("BARRIER=1", &[writer.as_fd()])?;
        drop(writer);
        match poll(&mut [PollFd::new(&reader, PollFlags::HUP)], Some(&PATIENCE))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    };
    if let Err(error) = wait() {
        tracing::warn!(%error, "the service manager does not say whether it keeps our socket");
    }
}
