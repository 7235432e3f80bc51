//! The only unsafe code of the crate.

// ---- readiness of file descriptors ----------------------------------------------------------------------------

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

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
