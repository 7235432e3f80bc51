//! Both ends of the sockets: the real server and the real client, with a loop that answers by heart.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use picoseg::api::ask::{Answer, Ask, Asked, Outcome, Settle};
use picoseg::api::audit::{self, Question};
use picoseg::api::body::ApplyRequest;
use picoseg::api::client::{Client, ClientError, escaped};
use picoseg::api::server::{ApiError, Server, serve};
use picoseg::metrics::Scraper;
use picoseg::model::{OrderKind, ServiceName, Settings};
use picoseg::store::AttemptFilter;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

/// A served runtime directory. What the loop was asked comes out of `asked`.
struct Api {
    directory: TempDir,
    asked: mpsc::UnboundedReceiver<Ask>,
    server: Server,
    stop: oneshot::Sender<()>,
}

impl Api {
    /// A loop that says what was asked, with an outcome by the service's name.
    async fn start() -> Self {
        let (line, mut questions) = mpsc::channel::<Asked>(8);
        let (tell, asked) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Asked { ask, reply }) = questions.recv().await {
                let answer = by_heart(&ask);
                let _ = tell.send(ask);
                let _ = reply.send(answer);
            }
        });
        let directory = tempfile::tempdir().unwrap();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let server = serve(&settings(directory.path()), line, scraper(), shutdown).await.unwrap();
        Self { directory, asked, server, stop }
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.directory.path().join("run").join(name)
    }

    fn control(&self) -> Client {
        Client::new(self.socket("control.sock"))
    }

    fn observe(&self) -> Client {
        Client::new(self.socket("observe.sock"))
    }

    /// Sends bytes and returns the status and the JSON body of what comes back.
    async fn raw(&self, socket: &str, request: &str) -> (u16, Value) {
        let mut stream = UnixStream::connect(self.socket(socket)).await.unwrap();
        // A server that has heard enough closes early.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut response = Vec::new();
        let _ = stream.read_to_end(&mut response).await;
        let response = String::from_utf8(response).unwrap();
        let (head, body) =
            response.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{request}: {response:?}"));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    async fn post(&self, socket: &str, path: &str, body: &str) -> (u16, Value) {
        let length = body.len();
        self.raw(
            socket,
            &format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}"),
        )
        .await
    }

    async fn get(&self, socket: &str, path: &str) -> (u16, Value) {
        self.raw(socket, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await
    }
}

/// Nobody answers for metrics.
fn scraper() -> Scraper {
    Scraper::new(mpsc::channel(1).0)
}

fn settings(directory: &Path) -> Settings {
    let mut settings = Settings::default();
    settings.paths.runtime = directory.join("run");
    settings
}

fn by_heart(ask: &Ask) -> Answer {
    let named = match ask {
        Ask::Show(name)
        | Ask::Report(name)
        | Ask::Extend { service: name, .. }
        | Ask::Order { service: name, .. } => name.as_str(),
        Ask::Status | Ask::Services | Ask::Attempts(_) | Ask::Explain(_) | Ask::Audit(_) => "",
        Ask::Settle(_) | Ask::Flows(_) | Ask::Plan | Ask::Apply { .. } | Ask::Confirm { .. } => "",
    };
    let outcome = match named {
        "unknown" => Outcome::Unknown,
        "conflict" => Outcome::Conflict,
        "invalid" => Outcome::Invalid,
        "failed" => Outcome::Failed,
        _ => Outcome::Done,
    };
    let diagnostic = json!({"file": "f", "line": 1, "column": 2, "message": "m", "help": null});
    let body = match outcome {
        Outcome::Done => json!({"schema": 1, "asked": format!("{ask:?}")}),
        Outcome::Invalid => json!({"schema": 1, "diagnostics": [diagnostic]}),
        Outcome::Unknown | Outcome::Conflict | Outcome::Failed => json!({"schema": 1, "error": named}),
    };
    Answer { outcome, body }
}

#[tokio::test]
async fn a_question_reaches_the_loop_and_its_answer_comes_back_as_it_is() {
    let mut api = Api::start().await;
    for client in [api.control(), api.observe()] {
        let body: Value = serde_json::from_str(&client.get("/v1/status").await.unwrap()).unwrap();
        assert_eq!(body, json!({"schema": 1, "asked": "Status"}));
        assert_eq!(api.asked.recv().await, Some(Ask::Status));
    }
    api.observe().get("/v1/services/stripe").await.unwrap();
    assert_eq!(api.asked.recv().await, Some(Ask::Show(ServiceName::new("stripe").unwrap())));
    let path = escaped("/a.slice/x\\x2d1 &=%+#\u{e4}.service");
    api.observe().get(&format!("/v1/settle?cgroup={path}&id=18446744073709551615")).await.unwrap();
    let place = Settle { cgroup: "/a.slice/x\\x2d1 &=%+#\u{e4}.service".to_owned(), id: u64::MAX };
    assert_eq!(api.asked.recv().await, Some(Ask::Settle(place)));
    api.observe().get("/v1/attempts?service=stripe&since=2026-01-01T01:00:00%2B01:00").await.unwrap();
    let expected = AttemptFilter {
        service: Some(ServiceName::new("stripe").unwrap()),
        since: Some("2026-01-01T00:00:00Z".parse().unwrap()),
        ..AttemptFilter::default()
    };
    assert_eq!(api.asked.recv().await, Some(Ask::Attempts(expected)));
}

#[tokio::test]
async fn the_ledger_is_asked_for_by_instant_service_and_page() {
    let mut api = Api::start().await;
    api.observe()
        .get("/v1/audit?at=2026-01-01T01:00:00%2B01:00&since=2025-01-01T00:00:00Z&service=stripe&after=7&limit=3")
        .await
        .unwrap();
    let expected = Question {
        at: Some("2026-01-01T00:00:00Z".parse().unwrap()),
        since: Some("2025-01-01T00:00:00Z".parse().unwrap()),
        service: Some(ServiceName::new("stripe").unwrap()),
        after: Some(7),
        limit: 3,
    };
    assert_eq!(api.asked.recv().await, Some(Ask::Audit(expected)));
    let most = audit::MOST;
    for (limit, good) in
        [("1", true), ("10000", true), ("0", false), ("10001", false), ("-1", false), ("x", false)]
    {
        let (status, body) = api.get("observe.sock", &format!("/v1/audit?limit={limit}")).await;
        assert_eq!(status, if good { 200 } else { 400 }, "{limit} of {most}: {body}");
    }
    assert_eq!(api.get("observe.sock", "/v1/audit?at=yesterday").await.0, 400);
    assert_eq!(api.get("observe.sock", "/v1/audit?until=2025-01-01T00:00:00Z").await.0, 400);
}

#[tokio::test]
async fn an_order_carries_its_reason_and_who_gave_it() {
    let mut api = Api::start().await;
    let reason = json!({"reason": "contract ended"}).to_string();
    let kinds = [
        ("suspend", OrderKind::Suspend),
        ("resume", OrderKind::Resume),
        ("decommission", OrderKind::Decommission),
    ];
    for (word, kind) in kinds {
        api.control().post(&format!("/v1/services/stripe/{word}"), reason.clone()).await.unwrap();
        let Some(Ask::Order { service, kind: asked, by, reason }) = api.asked.recv().await else {
            panic!("{word} is an order");
        };
        assert_eq!((service.as_str(), asked, reason.as_str()), ("stripe", kind, "contract ended"));
        let uid = nix::unistd::geteuid();
        assert!(by.ends_with(&format!("(uid {uid})")), "{by}");
    }
    api.control().apply(&ApplyRequest::default()).await.unwrap();
    assert!(matches!(api.asked.recv().await, Some(Ask::Apply { by, confirm: None }) if by.contains("uid ")));
}

#[tokio::test]
async fn each_outcome_is_an_error_of_its_own() {
    let api = Api::start().await;
    let show = async |name: &str| api.control().get(&format!("/v1/services/{name}")).await.unwrap_err();
    for name in ["unknown", "conflict", "failed"] {
        let error = show(name).await;
        assert!(matches!(&error, ClientError::Failed { error, .. } if error == name), "{error:?}");
    }
    let invalid = show("invalid").await;
    let ClientError::Invalid { diagnostics, .. } = invalid else { panic!("{invalid:?}") };
    assert_eq!(diagnostics.diagnostics[0].message, "m");
    for (name, status) in [("unknown", 404), ("conflict", 409), ("invalid", 422), ("failed", 500)] {
        assert_eq!(api.get("control.sock", &format!("/v1/services/{name}")).await.0, status);
    }
}

#[tokio::test]
async fn orders_are_not_taken_on_the_observers_socket() {
    let mut api = Api::start().await;
    let error = api.observe().apply(&ApplyRequest::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::NotAllowed { .. }), "{error:?}");
    for path in ["/v1/apply", "/v1/confirm", "/v1/services/stripe/suspend"] {
        let (status, body) = api.post("observe.sock", path, r#"{"reason": "r"}"#).await;
        assert_eq!((status, body["schema"].as_u64()), (403, Some(1)), "{body}");
    }
    assert!(api.asked.try_recv().is_err(), "nothing reached the loop");
}

#[tokio::test]
async fn what_is_not_understood_is_refused_and_never_reaches_the_loop() {
    let mut api = Api::start().await;
    let suspend = "/v1/services/stripe/suspend";
    let long = json!({"reason": "a".repeat(1025)}).to_string();
    let huge = json!({"reason": "a".repeat(70_000)}).to_string();
    let posts = [
        (suspend, "", 400),
        (suspend, "{}", 400),
        (suspend, r#"{"reason": ""}"#, 400),
        (suspend, r#"{"reason": "a\nb"}"#, 400),
        (suspend, r#"{"reason": "a", "force": true}"#, 400),
        (suspend, r#"{"reason": 1}"#, 400),
        (suspend, &long, 400),
        (suspend, &huge, 413),
        ("/v1/services/STRIPE/suspend", r#"{"reason": "a"}"#, 404),
        ("/v1/services/..%2Fapply/suspend", r#"{"reason": "a"}"#, 404),
        ("/v1/services/stripe/extend", r#"{"reason": "a"}"#, 400),
        ("/v1/services/stripe/extend", r#"{"reason": "a", "until": "2026-01-01"}"#, 400),
        ("/v1/services/stripe/extend", r#"{"reason": "", "until": "2026-01-01T00:00:00Z"}"#, 400),
        ("/v1/apply", r#"{"confirm": "1"}"#, 400),
        ("/v1/apply", r#"{"confirm": "0s"}"#, 400),
        ("/v1/apply", r#"{"comfirm": "1h"}"#, 400),
        ("/v1/confirm", r#"{"all": true}"#, 400),
        ("/v1/status", "", 405),
        ("/v1/approve", "", 404),
    ];
    for (path, body, expected) in posts {
        let (status, answer) = api.post("control.sock", path, body).await;
        assert_eq!(status, expected, "{path} {body}: {answer}");
        assert!(answer["error"].is_string() && answer["schema"] == 1, "{path}: {answer}");
    }
    let gets = [
        ("/", 404),
        ("/v2/status", 404),
        ("/v1/services/a_b", 404),
        ("/v1/apply", 405),
        ("/v1/confirm", 405),
        ("/v1/attempts?since=yesterday", 400),
        ("/v1/attempts?services=stripe", 400),
        ("/v1/attempts?source=stripe.com", 400),
        ("/v1/attempts?reason=gone", 400),
        ("/v1/attempts?direction=in", 400),
        ("/v1/attempts?verdict=passed", 400),
        ("/v1/attempts?limit=0", 400),
        ("/v1/attempts?limit=10001", 400),
        ("/v1/attempts?after=-1", 400),
        ("/v1/explain?subject=x.service&remote=192.0.2.1:443/tcp", 400),
        ("/v1/explain?subject=unit:x&remote=192.0.2.1:443/tcp", 400),
        ("/v1/explain?subject=unit:x.service&remote=192.0.2.1:443", 400),
        ("/v1/explain?subject=unit:x.service&remote=192.0.2.1:443/tcp&direction=both", 400),
        ("/v1/explain?subject=unit:x.service&remote=192.0.2.1:443/tcp&at=now", 400),
        ("/v1/flows?provider=x", 400),
        ("/v1/flows?service=STRIPE", 404),
        ("/v1/settle", 400),
        ("/v1/settle?cgroup=/a", 400),
        ("/v1/settle?cgroup=/a/../b&id=1", 400),
        ("/v1/settle?cgroup=/a&id=-1", 400),
        ("/v1/settle?cgroup=/a&id=1&unit=b", 400),
    ];
    for (path, expected) in gets {
        let (status, answer) = api.get("observe.sock", path).await;
        assert_eq!(status, expected, "{path}: {answer}");
        assert!(answer["error"].is_string() && answer["schema"] == 1, "{path}: {answer}");
    }
    assert!(api.asked.try_recv().is_err(), "nothing reached the loop");
}

#[tokio::test]
async fn a_head_that_is_too_large_or_no_http_is_refused() {
    let api = Api::start().await;
    let long = format!("GET /v1/status HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(40_000));
    assert_eq!(api.raw("observe.sock", &long).await.0, 431);
    let many = format!("GET /v1/status HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(100));
    assert_eq!(api.raw("observe.sock", &many).await.0, 431);
    assert_eq!(api.raw("observe.sock", "nonsense\r\n\r\n").await.0, 400);
    assert!(api.observe().get("/v1/status").await.is_ok(), "it still answers");
}

#[tokio::test]
async fn idle_connections_do_not_keep_others_out_for_long() {
    let api = Api::start().await;
    let mut idle = Vec::new();
    for _ in 0..64 {
        idle.push(UnixStream::connect(api.socket("observe.sock")).await.unwrap());
    }
    assert!(api.control().get("/v1/status").await.is_ok(), "the other socket has its own places");
    let waited = tokio::time::timeout(Duration::from_secs(6), api.observe().get("/v1/status")).await;
    assert!(waited.unwrap().is_ok(), "idle connections are closed after 2 seconds");
}

#[tokio::test]
async fn modes_let_a_group_in_only_where_it_exists() {
    let api = Api::start().await;
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(api.directory.path().join("run")), 0o755);
    for (socket, group) in [("control.sock", "picoseg-admin"), ("observe.sock", "picoseg")] {
        let exists = nix::unistd::Group::from_name(group).unwrap().is_some();
        assert_eq!(mode(api.socket(socket)), if exists { 0o660 } else { 0o600 }, "{socket}");
    }
}

#[tokio::test]
async fn a_second_daemon_is_kept_out_and_a_stale_socket_is_not() {
    let api = Api::start().await;
    let (line, _questions) = mpsc::channel(1);
    let settings = settings(api.directory.path());
    let second = serve(&settings, line.clone(), scraper(), std::future::pending()).await;
    assert!(matches!(second, Err(ApiError::Locked(_))), "{second:?}");
    assert!(api.control().get("/v1/status").await.is_ok(), "the first one is untouched");

    api.stop.send(()).unwrap();
    api.server.ended().await;
    let control = settings.paths.runtime.join("control.sock");
    assert!(!control.exists(), "the sockets go with the server");

    let foreign = UnixListener::bind(&control).unwrap();
    let third = serve(&settings, line.clone(), scraper(), std::future::pending()).await;
    assert_eq!(third.unwrap_err().to_string(), format!("another picosegd answers on {}", control.display()));
    drop(foreign);
    assert!(control.exists(), "stale: nobody listens any more");
    let fourth = serve(&settings, line.clone(), scraper(), std::future::pending()).await.unwrap();
    drop(fourth);
    std::fs::remove_file(&control).unwrap();
    std::fs::write(&control, "precious").unwrap();
    let fifth = serve(&settings, line, scraper(), std::future::pending()).await;
    assert!(matches!(fifth, Err(ApiError::InTheWay(_))), "{fifth:?}");
    assert_eq!(std::fs::read_to_string(&control).unwrap(), "precious");
}

#[tokio::test]
async fn a_daemon_that_is_not_there_or_says_nothing_does_not_answer() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("control.sock");
    let error = Client::new(&socket).get("/v1/status").await.unwrap_err();
    assert!(matches!(error, ClientError::Absent { .. }), "{error:?}");
    drop(UnixListener::bind(&socket).unwrap());
    let error = Client::new(&socket).get("/v1/status").await.unwrap_err();
    assert!(matches!(error, ClientError::Absent { .. }), "{error:?}");
    std::fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let hang_up = async { drop(listener.accept().await.unwrap()) };
    let client = Client::new(&socket);
    let (answer, ()) = tokio::join!(client.get("/v1/status"), hang_up);
    assert!(matches!(answer, Err(ClientError::Silent { .. })), "{answer:?}");
}

#[tokio::test]
async fn a_loop_that_is_gone_is_a_daemon_that_does_not_answer() {
    let directory = tempfile::tempdir().unwrap();
    let (line, questions) = mpsc::channel(1);
    drop(questions);
    let settings = settings(directory.path());
    let _server = serve(&settings, line, scraper(), std::future::pending()).await.unwrap();
    let error = Client::new(settings.paths.runtime.join("control.sock")).get("/v1/status").await.unwrap_err();
    assert!(matches!(&error, ClientError::Silent { why, .. } if why.contains("stopping")), "{error:?}");
}

#[tokio::test]
async fn a_loop_that_hangs_is_a_daemon_that_does_not_answer() {
    let directory = tempfile::tempdir().unwrap();
    let (line, _questions) = mpsc::channel(1);
    let settings = settings(directory.path());
    let _server = serve(&settings, line, scraper(), std::future::pending()).await.unwrap();
    let error = Client::new(settings.paths.runtime.join("control.sock")).get("/v1/status").await.unwrap_err();
    assert!(matches!(&error, ClientError::Silent { why, .. } if why.contains("in time")), "{error:?}");
}

#[tokio::test]
async fn the_openapi_document_and_the_server_name_the_same_routes() {
    let api = Api::start().await;
    let document: Value = serde_json::from_str(include_str!("../docs/openapi.json")).unwrap();
    let mut documented = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in ["get", "post", "put", "patch", "delete"] {
            if operations.get(method).is_some() {
                documented.insert((method, path.as_str()));
            }
        }
    }
    let served = [
        ("get", "/metrics"),
        ("get", "/v1/attempts"),
        ("get", "/v1/audit"),
        ("get", "/v1/explain"),
        ("get", "/v1/flows"),
        ("get", "/v1/plan"),
        ("get", "/v1/report/{name}"),
        ("get", "/v1/services"),
        ("get", "/v1/services/{name}"),
        ("get", "/v1/settle"),
        ("get", "/v1/status"),
        ("post", "/v1/apply"),
        ("post", "/v1/confirm"),
        ("post", "/v1/services/{name}/decommission"),
        ("post", "/v1/services/{name}/extend"),
        ("post", "/v1/services/{name}/resume"),
        ("post", "/v1/services/{name}/suspend"),
    ];
    assert_eq!(documented, BTreeSet::from(served));
    for (method, path) in documented {
        let real = path.replace("{name}", "stripe");
        let (status, body) = match (method, path) {
            ("get", "/v1/explain") => {
                api.get("observe.sock", "/v1/explain?subject=unit:x.service&remote=192.0.2.1:443/tcp").await
            }
            ("get", "/v1/settle") => api.get("observe.sock", "/v1/settle?cgroup=/a&id=1").await,
            ("get", _) => api.get("observe.sock", &real).await,
            (_, "/v1/apply" | "/v1/confirm") => api.post("control.sock", &real, "{}").await,
            (_, "/v1/services/{name}/extend") => {
                let body = r#"{"reason": "r", "until": "2026-11-20T18:00:00+01:00"}"#;
                api.post("control.sock", &real, body).await
            }
            _ => api.post("control.sock", &real, r#"{"reason": "r"}"#).await,
        };
        // Nobody answers for metrics here.
        let expected = if path == "/metrics" { 503 } else { 200 };
        assert_eq!(status, expected, "{method} {path}: {body}");
    }
}

#[test]
fn every_reference_of_the_openapi_document_leads_somewhere() {
    fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let document: Value = serde_json::from_str(include_str!("../docs/openapi.json")).unwrap();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50);
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("a reference inside the document");
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}
