//! Requests to questions for the loop, its answers to responses.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Deserialize;
use tokio::sync::oneshot;

use super::Side;
use super::attempts::Which;
use super::failure::Refused;
use super::peer::{self, Groups};
use crate::api::ask::{Answer, Ask, Asked, Line, Outcome, Settle};
use crate::api::audit;
use crate::api::body::{ApplyRequest, ExtendRequest, OrderRequest};
use crate::api::explain::{Question, RemoteError};
use crate::api::reason;
use crate::config::parse_duration;
use crate::metrics::format::{Format, accepted};
use crate::metrics::scraper::{Scraper, Unanswered, What};
use crate::model::{Direction, OrderKind, ServiceName, Subject, Time};

/// The largest body of a request.
const MAX_BODY: usize = 64 << 10;

/// How long a peer may take for its body.
const BODY: Duration = Duration::from_secs(2);

/// How long the loop may take for a question or an order.
pub const ANSWER: Duration = Duration::from_secs(10);

/// How long the loop may take to load the files: lists of 64 MiB are read, judged and committed meanwhile.
pub const APPLY: Duration = Duration::from_secs(120);

/// What every connection of a socket shares.
#[derive(Debug, Clone)]
pub struct Api {
    pub side: Side,
    pub line: Line,
    pub scraper: Scraper,
    pub groups: Arc<Groups>,
}

/// One connection's view: who asks, by which socket.
#[derive(Debug, Clone)]
struct Client {
    side: Side,
    line: Line,
    scraper: Scraper,
    uid: u32,
}

type Reply = Result<Response, Refused>;

/// The routes as one peer may use them.
pub fn router(api: Api, uid: u32) -> Router {
    let client = Client { side: api.side, line: api.line, scraper: api.scraper, uid };
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/services", get(services))
        .route("/v1/services/{name}", get(show))
        .route("/v1/services/{name}/suspend", post(suspend))
        .route("/v1/services/{name}/resume", post(resume))
        .route("/v1/services/{name}/decommission", post(decommission))
        .route("/v1/services/{name}/extend", post(extend))
        .route("/v1/attempts", get(attempts))
        .route("/v1/report/{name}", get(report))
        .route("/v1/explain", get(explain))
        .route("/v1/audit", get(audit))
        .route("/v1/flows", get(flows))
        .route("/v1/plan", get(plan))
        .route("/v1/settle", get(settle))
        .route("/v1/apply", post(apply))
        .route("/v1/confirm", post(confirm))
        .route("/metrics", get(metrics))
        .fallback(|uri: Uri| async move { Refused::NoSuchRoute(uri.path().to_owned()) })
        .method_not_allowed_fallback(|method: Method| async move { Refused::Method(method.to_string()) })
        .with_state(client)
}

async fn status(State(client): State<Client>) -> Reply {
    client.ask(Ask::Status, ANSWER).await
}

async fn services(State(client): State<Client>) -> Reply {
    client.ask(Ask::Services, ANSWER).await
}

async fn show(State(client): State<Client>, Path(name): Path<String>) -> Reply {
    client.ask(Ask::Show(service_name(&name)?), ANSWER).await
}

async fn report(State(client): State<Client>, Path(name): Path<String>) -> Reply {
    client.ask(Ask::Report(service_name(&name)?), ANSWER).await
}

async fn attempts(State(client): State<Client>, which: Result<Query<Which>, QueryRejection>) -> Reply {
    let Query(which) = which.map_err(|error| Refused::BadRequest(error.body_text()))?;
    client.ask(Ask::Attempts(which.filter()?), ANSWER).await
}

/// The query of `explain`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Packet {
    subject: String,
    remote: String,
    direction: Option<String>,
    at: Option<String>,
}

async fn explain(State(client): State<Client>, packet: Result<Query<Packet>, QueryRejection>) -> Reply {
    let Query(packet) = packet.map_err(|error| Refused::BadRequest(error.body_text()))?;
    let bad = |what: String| Refused::BadRequest(what);
    let subject = Subject::parse(&packet.subject)
        .ok_or_else(|| bad(format!("subject: {:?}: write KIND:VALUE", packet.subject)))?
        .map_err(|error| bad(error.to_string()))?;
    let remote = packet.remote.parse().map_err(|error: RemoteError| bad(error.to_string()))?;
    let direction = match packet.direction.as_deref() {
        None | Some("egress") => Direction::Egress,
        Some("ingress") => Direction::Ingress,
        Some(other) => return Err(bad(format!("direction: {other:?} is neither egress nor ingress"))),
    };
    let at = packet.at.as_deref().map(|text| instant("at", text)).transpose()?;
    client.ask(Ask::Explain(Question { subject, remote, direction, at }), ANSWER).await
}

/// The query of `audit`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entries {
    at: Option<String>,
    since: Option<String>,
    service: Option<String>,
    after: Option<u64>,
    limit: Option<u32>,
}

async fn audit(State(client): State<Client>, entries: Result<Query<Entries>, QueryRejection>) -> Reply {
    let Query(Entries { at, since, service, after, limit }) =
        entries.map_err(|error| Refused::BadRequest(error.body_text()))?;
    let limit = limit.unwrap_or(audit::MOST);
    if !(1..=audit::MOST).contains(&limit) {
        return Err(Refused::BadRequest(format!("limit: a number from 1 to {}", audit::MOST)));
    }
    let question = audit::Question {
        at: at.as_deref().map(|text| instant("at", text)).transpose()?,
        since: since.as_deref().map(|text| instant("since", text)).transpose()?,
        service: service.as_deref().map(service_name).transpose()?,
        after,
        limit,
    };
    client.ask(Ask::Audit(question), ANSWER).await
}

/// The query of `flows`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Whose {
    service: Option<String>,
}

async fn flows(State(client): State<Client>, whose: Result<Query<Whose>, QueryRejection>) -> Reply {
    let Query(Whose { service }) = whose.map_err(|error| Refused::BadRequest(error.body_text()))?;
    let service = service.as_deref().map(service_name).transpose()?;
    client.ask(Ask::Flows(service), ANSWER).await
}

async fn plan(State(client): State<Client>) -> Reply {
    client.ask(Ask::Plan, APPLY).await
}

/// The query of `settle`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    cgroup: String,
    id: u64,
}

async fn settle(State(client): State<Client>, place: Result<Query<Place>, QueryRejection>) -> Reply {
    let Query(Place { cgroup, id }) = place.map_err(|error| Refused::BadRequest(error.body_text()))?;
    let cgroup = Subject::cgroup(&cgroup).map_err(|error| Refused::BadRequest(error.to_string()))?;
    client.ask(Ask::Settle(Settle { cgroup: cgroup.value().to_owned(), id }), ANSWER).await
}

/// The same as at `[metrics] listen`.
async fn metrics(State(client): State<Client>, headers: HeaderMap) -> Reply {
    let format = Format::accepted(&accepted(&headers));
    let text = client.scraper.get(What::Metrics(format)).await.map_err(|error| match error {
        Unanswered::Stopping => Refused::Stopping,
        Unanswered::Busy | Unanswered::Unwritable => Refused::Busy,
    })?;
    Ok(([(CONTENT_TYPE, format.content_type())], text).into_response())
}

async fn apply(State(client): State<Client>, body: Body) -> Reply {
    client.insist_on_control()?;
    let body = read(body).await?;
    let request: ApplyRequest = if body.is_empty() { ApplyRequest::default() } else { json(&body)? };
    let confirm = request.confirm.as_deref().map(parse_duration).transpose();
    let confirm = confirm.map_err(|error| Refused::BadRequest(format!("confirm: {error}")))?;
    let by = peer::actor(client.uid).await;
    client.ask(Ask::Apply { by, confirm }, APPLY).await
}

async fn confirm(State(client): State<Client>, body: Body) -> Reply {
    client.insist_on_control()?;
    no_keys(&read(body).await?)?;
    let by = peer::actor(client.uid).await;
    client.ask(Ask::Confirm { by }, APPLY).await
}

async fn suspend(State(client): State<Client>, Path(name): Path<String>, body: Body) -> Reply {
    order(client, &name, OrderKind::Suspend, body).await
}

async fn resume(State(client): State<Client>, Path(name): Path<String>, body: Body) -> Reply {
    order(client, &name, OrderKind::Resume, body).await
}

async fn decommission(State(client): State<Client>, Path(name): Path<String>, body: Body) -> Reply {
    order(client, &name, OrderKind::Decommission, body).await
}

async fn extend(State(client): State<Client>, Path(name): Path<String>, body: Body) -> Reply {
    client.insist_on_control()?;
    let service = service_name(&name)?;
    let ExtendRequest { until, reason } = json(&read(body).await?)?;
    reason::check(&reason).map_err(|error| Refused::BadRequest(error.to_string()))?;
    let by = peer::actor(client.uid).await;
    client.ask(Ask::Extend { service, until, by, reason }, ANSWER).await
}

async fn order(client: Client, name: &str, kind: OrderKind, body: Body) -> Reply {
    client.insist_on_control()?;
    let service = service_name(name)?;
    let request: OrderRequest = json(&read(body).await?)?;
    reason::check(&request.reason).map_err(|error| Refused::BadRequest(error.to_string()))?;
    let by = peer::actor(client.uid).await;
    client.ask(Ask::Order { service, kind, by, reason: request.reason }, ANSWER).await
}

impl Client {
    fn insist_on_control(&self) -> Result<(), Refused> {
        match self.side {
            Side::Control => Ok(()),
            Side::Observe => Err(Refused::NotAllowed("orders are taken on control.sock only")),
        }
    }

    /// Hands a question to the loop and waits for its answer.
    async fn ask(&self, ask: Ask, patience: Duration) -> Reply {
        let (reply, answer) = oneshot::channel();
        let asking = async {
            self.line.send(Asked { ask, reply }).await.map_err(|_| Refused::Stopping)?;
            answer.await.map_err(|_| Refused::Stopping)
        };
        let answer = tokio::time::timeout(patience, asking).await.map_err(|_| Refused::Busy)??;
        Ok(answer.into_response())
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        (self.outcome.status(), axum::Json(self.body)).into_response()
    }
}

impl Outcome {
    fn status(self) -> StatusCode {
        match self {
            Self::Done => StatusCode::OK,
            Self::Unknown => StatusCode::NOT_FOUND,
            Self::Conflict => StatusCode::CONFLICT,
            Self::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

pub(super) fn service_name(text: &str) -> Result<ServiceName, Refused> {
    ServiceName::new(text).map_err(|error| Refused::Unknown(error.to_string()))
}

pub(super) fn instant(key: &str, text: &str) -> Result<Time, Refused> {
    let parsed = chrono::DateTime::parse_from_rfc3339(text);
    parsed.map(|at| at.to_utc()).map_err(|error| Refused::BadRequest(format!("{key}: {text:?}: {error}")))
}

/// Reads a body to its end, within size and time.
async fn read(body: Body) -> Result<Bytes, Refused> {
    let reading = tokio::time::timeout(BODY, Limited::new(body, MAX_BODY).collect());
    let collected = reading.await.map_err(|_| Refused::Slow)?;
    collected.map(|body| body.to_bytes()).map_err(|error| match error.downcast_ref::<LengthLimitError>() {
        Some(_) => Refused::TooLarge(MAX_BODY),
        None => Refused::BadRequest(format!("cannot read the body: {error}")),
    })
}

/// Whatever its content type says: the sockets are no browser's.
fn json<'b, T: Deserialize<'b>>(body: &'b Bytes) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|error| Refused::BadRequest(format!("the body: {error}")))
}

/// Insists on no body or on an object without keys: a key that this version does not know might have meant a lot.
fn no_keys(body: &Bytes) -> Result<(), Refused> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    if body.is_empty() {
        return Ok(());
    }
    json::<Nothing>(body).map(|Nothing {}| ())
}
