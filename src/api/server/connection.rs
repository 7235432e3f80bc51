//! Accepts connections, within limits, until the end.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::failure::Refused;
use super::peer::Peer;
use super::routes::{self, Api};

/// How many connections of one socket are served at once; further ones wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 64;

/// How many bytes the head of a request may have, and how many fields. A request of ours has about 100 bytes.
const MAX_HEAD: usize = 16 << 10;
const MAX_FIELDS: usize = 64;

/// How long a peer may take for its head. It is a process of this host: hundreds that say nothing must be through before
/// one that closes something gives up.
const HEAD: Duration = Duration::from_secs(2);

/// How long a connection may last: longer than the slowest request, so that only a peer that does not read meets it.
const CONNECTION: Duration = Duration::from_secs(180);

/// How long what is under way may take once the daemon stops.
const PARTING: Duration = Duration::from_secs(2);

/// Serves a socket until `stop`; returns when its last connection is closed.
pub async fn accept(listener: UnixListener, api: Api, mut stop: watch::Receiver<()>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            _ = stop.changed() => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, _)) => {
                let served = serve(stream, api.clone(), stop.clone());
                connections.spawn(async move {
                    served.await;
                    drop(place);
                });
            }
            Err(error) => wait_out(&error).await,
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let parting = async { while connections.join_next().await.is_some() {} };
    // What does not end in time is dropped with the set.
    let _ = tokio::time::timeout(PARTING, parting).await;
}

/// Without descriptors the same error would come back at once, for ever.
async fn wait_out(error: &io::Error) {
    warn!(%error, "cannot accept a connection");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// Answers one request and closes.
async fn serve(stream: UnixStream, api: Api, stop: watch::Receiver<()>) {
    let peer = match Peer::of(&stream).await {
        Ok(peer) => peer,
        Err(error) => {
            warn!(%error, "cannot tell who connects: closed");
            return;
        }
    };
    let ended = match api.groups.permit(api.side, &peer) {
        true => tokio::time::timeout(CONNECTION, answer(stream, api, peer.uid, stop)).await,
        false => {
            warn!(uid = peer.uid, socket = api.side.file_name(), "refused a connection: no permission");
            tokio::time::timeout(HEAD, refuse(stream)).await
        }
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a connection ended early"),
        Err(_) => debug!("a connection took too long"),
    }
}

async fn answer(
    stream: UnixStream,
    api: Api,
    uid: u32,
    mut stop: watch::Receiver<()>,
) -> Result<(), hyper::Error> {
    let service = TowerToHyperService::new(routes::router(api, uid));
    let mut connection = std::pin::pin!(http().serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = &mut connection => return ended,
        _ = stop.changed() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

async fn refuse(stream: UnixStream) -> Result<(), hyper::Error> {
    let refusal = service_fn(|_: hyper::Request<Incoming>| async {
        let why = "you may not use this socket: it is for root and the members of its group";
        Ok::<Response, Infallible>(Refused::NotAllowed(why).into_response())
    });
    http().serve_connection(TokioIo::new(stream), refusal).await
}

/// One request a connection: nobody holds a place by doing nothing.
pub(super) fn http() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).keep_alive(false);
    builder.max_buf_size(MAX_HEAD).max_headers(MAX_FIELDS).half_close(true);
    builder
}
