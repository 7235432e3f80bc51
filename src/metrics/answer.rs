//! The two paths of the TCP socket, for reading only.

use std::net::{IpAddr, SocketAddr};

use axum::body::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::format::{self, Format};
use super::page;
use super::scraper::{Scraper, What};

/// `local`: the address of ours that the client connected to.
pub async fn answer<B>(request: &Request<B>, scraper: &Scraper, local: SocketAddr) -> Response<Full<Bytes>> {
    let field = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let what = match request.uri().path() {
        "/metrics" => What::Metrics(Format::accepted(&format::accepted(request.headers()))),
        "/" => What::Page,
        _ => return says(StatusCode::NOT_FOUND, "there is /metrics, and the dashboard at /\n"),
    };
    // A socket for both families says ::ffff:127.0.0.1.
    if local.ip().to_canonical().is_loopback() && !is_local(field(header::HOST)) {
        let why = "this socket is for this host: ask for it as localhost or by its address\n";
        return says(StatusCode::MISDIRECTED_REQUEST, why);
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut refusal = says(StatusCode::METHOD_NOT_ALLOWED, "this socket is for reading\n");
        refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match scraper.get(what).await {
        Ok(text) => found(what, text),
        Err(why) => says(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

/// A name that somebody made point to this host is none of it: a web page must not read through a browser here what it
/// could not reach itself (DNS rebinding).
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.chars().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.is_empty() || name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

fn found(what: What, text: Bytes) -> Response<Full<Bytes>> {
    match what {
        What::Metrics(format) => respond(StatusCode::OK, format.content_type(), text),
        What::Page => {
            let mut response = respond(StatusCode::OK, "text/html; charset=utf-8", text);
            if let Ok(policy) = HeaderValue::from_str(&page::content_security_policy()) {
                response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
            }
            response
        }
    }
}

fn says(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", text.into())
}

fn respond(status: StatusCode, content_type: &'static str, text: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text));
    *response.status_mut() = status;
    let fields = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ];
    response.headers_mut().extend(fields.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_localhost_are_this_host() {
        for host in ["localhost", "LocalHost:9477", "127.0.0.1:9477", "[::1]:9477", "[::1]", "", "10.0.0.1"] {
            assert!(is_local(host), "{host}");
        }
        for host in
            ["evil.example", "evil.example:9477", "localhost.evil.example", "127.0.0.1.evil.example:1"]
        {
            assert!(!is_local(host), "{host}");
        }
    }
}
