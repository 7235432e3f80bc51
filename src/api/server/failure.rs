//! What goes wrong before the loop has answered, as a response.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::api::body::{Failure, SCHEMA};

/// Why a request is not answered by the loop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    NotAllowed(&'static str),
    #[error("there is nothing at {0}")]
    NoSuchRoute(String),
    #[error("{0}")]
    Unknown(String),
    #[error("{0} is not possible here")]
    Method(String),
    #[error("the request took too long")]
    Slow,
    #[error("the body is larger than {} KiB", .0 >> 10)]
    TooLarge(usize),
    #[error("the daemon is stopping")]
    Stopping,
    #[error("the daemon is busy and did not answer in time; what was asked may still happen")]
    Busy,
}

impl Refused {
    fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::NotAllowed(_) => StatusCode::FORBIDDEN,
            Self::NoSuchRoute(_) | Self::Unknown(_) => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::Busy => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = Failure { schema: SCHEMA, error: self.to_string() };
        (self.status(), axum::Json(body)).into_response()
    }
}
