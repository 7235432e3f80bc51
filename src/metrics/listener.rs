//! The TCP socket: bound as soon as that is possible, moved when the settings say so, bounded in every way.
//!
//! ```text
//!              listen = ""                        bound
//!  off <----------------------- trying -----------------------> serving
//!   |                            ^   |  error: told, again        |
//!   +--- another `listen` -------+   +--- after RETRY             |
//!                                ^----- another `listen` ---------+
//! ```
//!
//! An address that is in use or not there yet is no reason not to start: closing does not depend on being watched.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::answer;
use super::scraper::Scraper;

/// How many connections are served at once; further ones wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 32;

/// How many bytes the head of a request may have, and how many fields. One of Prometheus has about 400 bytes.
const MAX_HEAD: usize = 16 << 10;
const MAX_FIELDS: usize = 64;

/// How long a client may take for its head.
const HEAD: Duration = Duration::from_secs(5);

/// How long a connection may last.
const CONNECTION: Duration = Duration::from_secs(30);

/// Between two tries to bind.
const RETRY: Duration = Duration::from_secs(2);

/// The socket while the daemon runs. Gone on drop.
#[derive(Debug)]
pub struct Listener {
    wanted: watch::Sender<Option<SocketAddr>>,
    state: watch::Receiver<State>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Trying,
    Off,
    Serving(SocketAddr),
    Failed(String),
}

impl Listener {
    /// Listens where it is wanted; returns after the first try.
    pub async fn start(wanted: Option<SocketAddr>, scraper: Scraper) -> Self {
        let (wanted, address) = watch::channel(wanted);
        let (tell, mut state) = watch::channel(State::Trying);
        let task = tokio::spawn(run(address, tell, scraper));
        // The task lives as long as its handle.
        let _ = state.wait_for(|state| *state != State::Trying).await;
        Self { wanted, state, task }
    }

    /// Moves to another address; what is under way there ends.
    pub fn listen(&self, wanted: Option<SocketAddr>) {
        self.wanted.send_if_modified(|now| {
            let other = *now != wanted;
            *now = wanted;
            other
        });
    }

    /// Why nothing is served though it should be, in a sentence.
    pub fn problem(&self) -> Option<String> {
        match &*self.state.borrow() {
            State::Failed(error) => Some(error.clone()),
            State::Trying | State::Off | State::Serving(_) => None,
        }
    }

    /// Where it is served.
    pub fn address(&self) -> Option<SocketAddr> {
        match &*self.state.borrow() {
            State::Serving(address) => Some(*address),
            State::Trying | State::Off | State::Failed(_) => None,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(mut wanted: watch::Receiver<Option<SocketAddr>>, tell: watch::Sender<State>, scraper: Scraper) {
    loop {
        let address = *wanted.borrow_and_update();
        let moved = wanted.changed();
        let moved = match address {
            None => {
                tell.send_replace(State::Off);
                moved.await
            }
            Some(address) => tokio::select! {
                moved = moved => moved,
                () = serve(address, &tell, &scraper) => Ok(()),
            },
        };
        if moved.is_err() {
            return;
        }
    }
}

/// Serves an address, or tells why not; returns when it has to be tried again.
async fn serve(address: SocketAddr, tell: &watch::Sender<State>, scraper: &Scraper) {
    match TcpListener::bind(address).await {
        Ok(listener) => {
            let local = listener.local_addr().unwrap_or(address);
            tracing::info!(listen = %local, "metrics and dashboard are served");
            tell.send_replace(State::Serving(local));
            accept(listener, scraper).await;
        }
        Err(error) => {
            let error = format!("metrics and dashboard are not served: cannot listen on {address}: {error}");
            let news = tell.send_if_modified(|state| {
                let news = *state != State::Failed(error.clone());
                *state = State::Failed(error.clone());
                news
            });
            if news {
                tracing::error!("{error}");
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

async fn accept(listener: TcpListener, scraper: &Scraper) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Dropped with its tasks when the address moves.
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = converse(stream, scraper.clone());
                connections.spawn(async move {
                    let _ = tokio::time::timeout(CONNECTION, connection).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                // Without descriptors the same error would come back at once, for ever.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Answers one request and closes: nobody holds a place by doing nothing.
async fn converse(stream: TcpStream, scraper: Scraper) {
    let Ok(local) = stream.local_addr() else { return };
    let service = service_fn(|request| {
        let scraper = scraper.clone();
        async move { Ok::<_, Infallible>(answer::answer(&request, &scraper, local).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).keep_alive(false);
    http.max_buf_size(MAX_HEAD).max_headers(MAX_FIELDS);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests;
