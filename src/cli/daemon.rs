//! Which socket to ask, and what comes back.

use serde::de::DeserializeOwned;

use super::arguments::Arguments;
use super::stop::Stop;
use crate::api::body::ApplyRequest;
use crate::api::client::{Client, ClientError};
use crate::api::server::Side;
use crate::files;
use crate::model::ServiceName;

/// The daemon by its sockets.
#[derive(Debug, Clone)]
pub struct Daemon {
    control: Client,
    /// For those who may only look; `None` when one socket was named.
    observe: Option<Client>,
}

impl Daemon {
    /// The socket that was named, or those where the settings say.
    pub fn choose(arguments: &Arguments) -> Result<Self, Stop> {
        if let Some(socket) = &arguments.socket {
            return Ok(Self { control: Client::new(socket), observe: None });
        }
        let runtime = files::runtime(&arguments.settings()).map_err(Stop::Invalid)?;
        let client = |side: Side| Client::new(runtime.join(side.file_name()));
        Ok(Self { control: client(Side::Control), observe: Some(client(Side::Observe)) })
    }

    /// Asks a question, by the observers' socket where the other one is closed to us.
    pub async fn get(&self, path: &str) -> Result<String, ClientError> {
        self.ask(async |client: &Client| client.get(path).await).await
    }

    /// The same for what takes the daemon as long as an `apply`.
    pub async fn get_slowly(&self, path: &str) -> Result<String, ClientError> {
        self.ask(async |client: &Client| client.get_slowly(path).await).await
    }

    async fn ask(
        &self,
        ask: impl AsyncFn(&Client) -> Result<String, ClientError>,
    ) -> Result<String, ClientError> {
        let refused = match ask(&self.control).await {
            Err(error @ (ClientError::Absent { .. } | ClientError::NotAllowed { .. })) => error,
            answered => return answered,
        };
        let Some(observe) = &self.observe else { return Err(refused) };
        match (ask(observe).await, refused) {
            // That somebody may not ask tells more than that a socket is missing.
            (Err(ClientError::Absent { .. }), refused) => Err(refused),
            (answered, _) => answered,
        }
    }

    pub async fn post(&self, path: &str, body: String) -> Result<String, ClientError> {
        self.control.post(path, body).await
    }

    pub async fn apply(&self, request: &ApplyRequest) -> Result<String, ClientError> {
        self.control.apply(request).await
    }

    pub async fn confirm(&self) -> Result<String, ClientError> {
        self.control.confirm().await
    }
}

/// Reads a body of the daemon.
pub fn understand<T: DeserializeOwned>(body: &str) -> Result<T, Stop> {
    let not_understood = |error| Stop::Failed(format!("cannot understand the daemon's answer: {error}"));
    serde_json::from_str(body).map_err(not_understood)
}

/// A name that can be asked for; what is no name belongs to no service.
pub fn service_name(text: &str) -> Result<ServiceName, Stop> {
    ServiceName::new(text).map_err(|error| Stop::Failed(format!("there is no service {text:?}: {error}")))
}
