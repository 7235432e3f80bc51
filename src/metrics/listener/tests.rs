use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::super::facts::Ask;
use super::super::sample::facts;
use super::*;

const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn scraper() -> Scraper {
    let (line, mut asked) = mpsc::channel::<Ask>(4);
    tokio::spawn(async move {
        while let Some(Ask { reply, .. }) = asked.recv().await {
            let _ = reply.send(facts());
        }
    });
    Scraper::new(line)
}

async fn served() -> (Listener, SocketAddr) {
    let listener = Listener::start(Some(ANYWHERE), scraper()).await;
    let address = listener.address().expect("a free port");
    (listener, address)
}

/// Sends bytes and returns all that comes back.
async fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that has heard enough closes early.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut response = Vec::new();
    let _ = stream.read_to_end(&mut response).await;
    String::from_utf8(response).unwrap()
}

async fn get(address: SocketAddr, path: &str, fields: &str) -> String {
    raw(address, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{fields}\r\n")).await
}

#[tokio::test]
async fn the_format_follows_the_accept_header() {
    let (_listener, address) = served().await;
    let plain = get(address, "/metrics", "accept: */*\r\n").await;
    assert!(plain.starts_with("HTTP/1.1 200 "), "{plain}");
    assert!(plain.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{plain}");
    assert!(plain.contains("# TYPE picoseg_attempts_total counter\n"), "{plain}");
    let prometheus = "accept: application/openmetrics-text;version=1.0.0\r\naccept: text/plain;q=0.5\r\n";
    let open = get(address, "/metrics?x=y", prometheus).await;
    assert!(open.contains("application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"), "{open}");
    assert!(open.contains("# TYPE picoseg_attempts counter\n") && open.ends_with("# EOF\n"), "{open}");
}

#[tokio::test]
async fn there_are_two_paths_and_they_are_for_reading() {
    let (_listener, address) = served().await;
    let page = get(address, "/", "").await;
    assert!(page.contains("content-security-policy: default-src 'none'; "), "{page}");
    assert!(page.contains("<!doctype html>"), "{page}");
    for path in ["/v1/status", "/metrics/", "/../etc/passwd", "/index.html"] {
        assert!(get(address, path, "").await.starts_with("HTTP/1.1 404 "), "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let answer = raw(address, &format!("{method} /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    }
    let head = raw(address, "HEAD /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn a_name_that_points_here_is_not_answered() {
    let (_listener, address) = served().await;
    let answer = raw(address, "GET / HTTP/1.1\r\nhost: evil.example\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 421 ") && !answer.contains("stripe"), "{answer}");
}

#[tokio::test]
async fn a_head_that_is_too_large_or_not_http_ends_the_connection() {
    let (_listener, address) = served().await;
    let long = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "a".repeat(64 << 10));
    let many = format!("GET / HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x: y\r\n".repeat(500));
    for request in [long, many, "\0\0\0\0".repeat(100), "GET\r\n\r\n".to_owned()] {
        let answer = raw(address, &request).await;
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    assert!(get(address, "/metrics", "").await.contains(" 200 "), "and the next is served");
}

#[tokio::test]
async fn clients_that_say_nothing_are_closed_and_the_others_served() {
    let (_listener, address) = served().await;
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let waited = tokio::time::timeout(4 * HEAD, get(address, "/metrics", "")).await;
    assert!(waited.expect("within some patience").contains(" 200 "));
}

#[tokio::test]
async fn an_address_in_use_is_told_and_tried_again() {
    let other = std::net::TcpListener::bind(ANYWHERE).unwrap();
    let address = other.local_addr().unwrap();
    let listener = Listener::start(Some(address), scraper()).await;
    let problem = listener.problem().expect("a sentence");
    assert!(problem.contains(&address.to_string()), "{problem}");
    drop(other);
    let mut state = listener.state.clone();
    let serving = state.wait_for(|state| *state == State::Serving(address));
    tokio::time::timeout(3 * RETRY, serving).await.expect("retried").unwrap();
    assert_eq!(listener.problem(), None);
    assert!(get(address, "/metrics", "").await.contains(" 200 "));
}

#[tokio::test]
async fn it_moves_and_stops_when_told() {
    let (listener, before) = served().await;
    let elsewhere = SocketAddr::new(Ipv4Addr::new(127, 0, 0, 2).into(), 0);
    let mut state = listener.state.clone();
    listener.listen(Some(elsewhere));
    let moved = |state: &State| matches!(state, State::Serving(address) if address.ip() == elsewhere.ip());
    state.wait_for(moved).await.unwrap();
    let after = listener.address().unwrap();
    assert!(get(after, "/metrics", "").await.contains(" 200 "));
    assert!(TcpStream::connect(before).await.is_err());
    listener.listen(None);
    state.wait_for(|state| *state == State::Off).await.unwrap();
    assert!(TcpStream::connect(after).await.is_err());
    assert_eq!((listener.address(), listener.problem()), (None, None));
}
