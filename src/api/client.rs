//! Asks the daemon over one of its sockets.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::body::{ApplyRequest, Diagnostics, Failure};

/// How long a daemon may take to answer: longer than it gives its own loop.
const PATIENCE: Duration = Duration::from_secs(15);

/// The same for `apply`.
const PATIENCE_APPLY: Duration = Duration::from_secs(130);

/// Between two attempts at a socket with a full backlog.
const RETRY: Duration = Duration::from_millis(50);

/// The largest answer that is read.
const MAX_ANSWER: usize = 256 << 20;

/// A daemon behind a socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

/// Why there is no answer, or none that was hoped for. Each has its own exit code.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No socket, or nobody behind it.
    #[error("the daemon does not answer on {}: {why}", socket.display())]
    Absent { socket: PathBuf, why: String },
    /// It accepted the connection and gave no answer, or too late.
    #[error("the daemon does not answer on {}: {why}", socket.display())]
    Silent { socket: PathBuf, why: String },
    /// By the mode of the socket, or by the daemon.
    #[error("not allowed on {}: {why}", socket.display())]
    NotAllowed { socket: PathBuf, why: String },
    /// The files have mistakes.
    #[error("the configuration is invalid")]
    Invalid { diagnostics: Diagnostics, body: String },
    /// Any other failure, as the daemon puts it.
    #[error("{error}")]
    Failed { error: String, body: Option<String> },
}

impl Client {
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks; returns the body as the daemon sent it.
    pub async fn get(&self, path: &str) -> Result<String, ClientError> {
        self.ask(Method::GET, path, String::new(), PATIENCE).await
    }

    /// Asks what takes the daemon its time: it reads the files.
    pub async fn get_slowly(&self, path: &str) -> Result<String, ClientError> {
        self.ask(Method::GET, path, String::new(), PATIENCE_APPLY).await
    }

    /// Gives an order with a JSON body.
    pub async fn post(&self, path: &str, body: String) -> Result<String, ClientError> {
        self.ask(Method::POST, path, body, PATIENCE).await
    }

    /// Has the files loaded.
    pub async fn apply(&self, request: &ApplyRequest) -> Result<String, ClientError> {
        let body = serde_json::to_string(request).map_err(|error| failed(error.to_string()))?;
        self.ask(Method::POST, "/v1/apply", body, PATIENCE_APPLY).await
    }

    /// Keeps files that wait for it.
    pub async fn confirm(&self) -> Result<String, ClientError> {
        self.ask(Method::POST, "/v1/confirm", "{}".to_owned(), PATIENCE_APPLY).await
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: String,
        patience: Duration,
    ) -> Result<String, ClientError> {
        let answered = tokio::time::timeout(patience, self.exchange(method, path, body)).await;
        let too_slow = |_| self.silent(format!("no answer within {} seconds", patience.as_secs()));
        let (status, body) = answered.map_err(too_slow)??;
        self.judge(status, body)
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<(StatusCode, String), ClientError> {
        let stream = self.connect().await.map_err(|error| self.unconnected(&error))?;
        let broken = |error: hyper::Error| self.silent(error.to_string());
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "picoseg")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| failed(error.to_string()))?;
        let driven = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(broken)?;
        let answer = (response.status(), self.read(response.into_body()).await?);
        driven.abort();
        Ok(answer)
    }

    /// Connects; while the daemon's backlog is full it tries again, since such a socket does not wait by itself.
    async fn connect(&self) -> io::Result<UnixStream> {
        loop {
            match UnixStream::connect(&self.socket).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(RETRY).await,
                other => return other,
            }
        }
    }

    async fn read(&self, body: Incoming) -> Result<String, ClientError> {
        let collected = Limited::new(body, MAX_ANSWER).collect().await;
        let bytes = collected.map_err(|error| failed(format!("cannot read the answer: {error}")))?.to_bytes();
        String::from_utf8(bytes.into()).map_err(|_| failed("the answer is not UTF-8".to_owned()))
    }

    fn judge(&self, status: StatusCode, body: String) -> Result<String, ClientError> {
        match status {
            StatusCode::OK => Ok(body),
            StatusCode::FORBIDDEN => Err(self.not_allowed(said(&body))),
            StatusCode::UNPROCESSABLE_ENTITY => Err(invalid(body)),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => Err(self.silent(said(&body))),
            _ => Err(ClientError::Failed { error: said(&body), body: Some(body) }),
        }
    }

    fn unconnected(&self, error: &io::Error) -> ClientError {
        match error.kind() {
            io::ErrorKind::PermissionDenied => self.not_allowed(error.to_string()),
            _ => ClientError::Absent { socket: self.socket.clone(), why: error.to_string() },
        }
    }

    fn silent(&self, why: String) -> ClientError {
        ClientError::Silent { socket: self.socket.clone(), why }
    }

    fn not_allowed(&self, why: String) -> ClientError {
        ClientError::NotAllowed { socket: self.socket.clone(), why }
    }
}

/// Returns a text as it may stand in a query (RFC 3986, 2.3).
pub fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:@".contains(&byte);
    let escape = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(escape).collect()
}

fn failed(error: String) -> ClientError {
    ClientError::Failed { error, body: None }
}

fn invalid(body: String) -> ClientError {
    match serde_json::from_str(&body) {
        Ok(diagnostics) => ClientError::Invalid { diagnostics, body },
        Err(_) => ClientError::Failed { error: said(&body), body: Some(body) },
    }
}

/// What a failure says; the body itself where it is none of ours.
fn said(body: &str) -> String {
    serde_json::from_str(body).map_or_else(|_| body.to_owned(), |failure: Failure| failure.error)
}
