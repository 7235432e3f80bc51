//! A door to the server of the sockets, for [`crate::fuzzing`] alone: bytes of a client in, bytes of the daemon out.

use std::sync::Arc;

use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

use super::Side;
use super::connection::http;
use super::peer::Groups;
use super::routes::{Api, router};
use crate::api::ask::{Answer, Ask, Asked, Outcome};
use crate::api::reason;
use crate::metrics::Scraper;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
}

/// Serves one connection of root that sends these bytes and closes its half; returns all that it was answered.
pub fn exchange(side: Side, bytes: &[u8]) -> Vec<u8> {
    RUNTIME.with(|runtime| runtime.block_on(serve(side, bytes)))
}

async fn serve(side: Side, bytes: &[u8]) -> Vec<u8> {
    let (line, mut asked) = mpsc::channel(1);
    // Nobody has facts: metrics are refused.
    let scraper = Scraper::new(mpsc::channel(1).0);
    let groups = Arc::new(Groups { control: None, observe: None, daemon: 0 });
    let service = TowerToHyperService::new(router(Api { side, line, scraper, groups }, 0));
    let (mut near, far) = tokio::io::duplex(1 << 20);
    let _ = near.write_all(bytes).await;
    let _ = near.shutdown().await;
    let served = http().serve_connection(TokioIo::new(far), service);
    let answering = async {
        while let Some(asked) = asked.recv().await {
            answer(side, asked);
        }
    };
    let _ = tokio::join!(served, answering);
    let mut answer = Vec::new();
    let _ = near.read_to_end(&mut answer).await;
    answer
}

/// Nothing but what may be asked reaches the loop.
fn answer(side: Side, Asked { ask, reply }: Asked) {
    match &ask {
        Ask::Order { reason, by, .. } | Ask::Extend { reason, by, .. } => {
            assert_eq!((side, reason::check(reason), by.is_empty()), (Side::Control, Ok(()), false));
        }
        Ask::Apply { .. } | Ask::Confirm { .. } => assert_eq!(side, Side::Control),
        Ask::Settle(settle) => assert!(settle.cgroup.starts_with('/') && !settle.cgroup.contains("/../")),
        Ask::Status
        | Ask::Services
        | Ask::Show(_)
        | Ask::Report(_)
        | Ask::Attempts(_)
        | Ask::Explain(_)
        | Ask::Flows(_)
        | Ask::Plan
        | Ask::Audit(_) => {}
    }
    let body = serde_json::json!({ "schema": 1, "asked": format!("{ask:?}") });
    let _ = reply.send(Answer { outcome: Outcome::Done, body });
}
