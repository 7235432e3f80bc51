//! Waits for the readers of this module in the daemon's loop.
//!
//! Deliberately absent: reading. The readers do not wait, and know nothing of tokio.

use std::io;
use std::os::fd::AsFd;

use super::ffi::Readiness;

/// A reader, and when to read it: [`super::cgroups::Watcher`], [`super::nflog::Reader`], [`super::clock::ClockWatch`].
#[derive(Debug)]
pub struct Waiting<T> {
    source: T,
    readiness: Readiness,
}

impl<T: AsFd> Waiting<T> {
    /// Takes a reader into the tokio runtime in which it is called.
    pub fn new(source: T) -> io::Result<Self> {
        // A descriptor of its own, for the same open file: the reader may do with its own what it likes.
        let fd = source.as_fd().try_clone_to_owned()?;
        Ok(Self { readiness: Readiness::new(fd)?, source })
    }

    /// Waits until there is something to read, then lends the reader.
    ///
    /// Read until nothing is left: what is there already does not wake again. Safe in `select!`: when it is dropped
    /// before it returns, nothing is lost.
    pub async fn readable(&mut self) -> io::Result<&mut T> {
        // Before the reading, not after: what comes in between then wakes once too often, never once too little.
        self.readiness.wait().await?;
        Ok(&mut self.source)
    }

    /// The reader, without waiting.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.source
    }
}
