//! Requests over the two unix sockets `control.sock` and `observe.sock`.
//!
//! | file | duty |
//! |---|---|
//! | `socket` | the runtime directory and the sockets in it: one daemon, right modes |
//! | `peer` | who is on the other end, and what that allows |
//! | `connection` | accepts, limits, ends |
//! | `routes` | a request to an [`Ask`](super::ask::Ask), an answer to a response |
//! | `attempts` | the query of `attempts` |
//! | `failure` | what goes wrong before the loop is asked |
//!
//! Everything that a peer can make large or slow is bounded: connections, headers, bodies, and how long any of them and
//! the loop may take. Deliberately absent: decisions; the loop takes them.

mod attempts;
mod connection;
mod failure;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod peer;
mod routes;
mod socket;

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::ask;
use crate::metrics::Scraper;
use crate::model::Settings;
use peer::Groups;
use routes::Api;
use socket::{Bound, RuntimeDirectory};

/// Why the sockets cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("another picosegd answers on {}", .0.display())]
    Answered(PathBuf),
    #[error("another picosegd has locked {}", .0.display())]
    Locked(PathBuf),
    #[error("{} is in the way: it is no socket", .0.display())]
    InTheWay(PathBuf),
    #[error("cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

/// Which of the two sockets a request came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// `control.sock`: everything.
    Control,
    /// `observe.sock`: reading.
    Observe,
}

impl Side {
    pub const ALL: [Self; 2] = [Self::Control, Self::Observe];

    /// The socket's name in the runtime directory.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Control => "control.sock",
            Self::Observe => "observe.sock",
        }
    }
}

/// Both sockets while they are served.
#[derive(Debug)]
pub struct Server {
    tasks: JoinSet<()>,
    /// Held until the end: while it lives, no other daemon takes the sockets.
    _directory: RuntimeDirectory,
}

impl Server {
    /// Waits until `shutdown` has come and the last request is answered.
    pub async fn ended(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Serves both sockets in the runtime directory of the settings until `shutdown`; every request goes to the loop by
/// `line`, those for metrics by `scraper`. When it returns, both sockets accept.
///
/// # Errors
/// When another daemon is there, or when the directory or a socket cannot be made.
pub async fn serve(
    settings: &Settings,
    line: ask::Line,
    scraper: Scraper,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<Server, ApiError> {
    let groups = Arc::new(Groups::of_this_host());
    let directory = RuntimeDirectory::prepare(&settings.paths.runtime)?;
    let mut bound = Vec::new();
    for side in Side::ALL {
        bound.push(directory.bind(side, &groups).await?);
    }
    let stop = stop_signal(shutdown);
    let mut tasks = JoinSet::new();
    for Bound { side, listener, path } in bound {
        let api = Api { side, line: line.clone(), scraper: scraper.clone(), groups: Arc::clone(&groups) };
        let stop = stop.clone();
        tasks.spawn(async move {
            connection::accept(listener, api, stop).await;
            socket::remove(&path);
        });
    }
    Ok(Server { tasks, _directory: directory })
}

/// Turns a future into something that every task can wait for; dropped senders count as the signal.
fn stop_signal(shutdown: impl Future<Output = ()> + Send + 'static) -> watch::Receiver<()> {
    let (sender, receiver) = watch::channel(());
    tokio::spawn(async move {
        shutdown.await;
        drop(sender);
    });
    receiver
}
