//! Lines from the daemon. Only one daemon is listened to: the last that connected.

use std::io::{self, BufRead as _, BufReader, Read as _};
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::Sender;
use std::thread::sleep;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;

use super::mover::Message;
use super::protocol::{Ask, MAX_LINE};
use super::responder::spawn;
use super::{ExecdError, failed};

/// A daemon that does not read for this time is cut off: the mover has executions to judge.
const UNREAD: Duration = Duration::from_millis(100);

/// After a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

pub fn start(listener: UnixListener, messages: Sender<Message>) -> Result<(), ExecdError> {
    let owner = owner(&listener).map_err(failed("look at our socket"))?;
    spawn("link", move || accept(&listener, owner, &messages))
}

/// Who may talk beside root: whose directory the socket is in.
fn owner(listener: &UnixListener) -> io::Result<u32> {
    let address = listener.local_addr()?;
    let path = address.as_pathname().and_then(Path::parent).ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok(std::fs::symlink_metadata(path)?.uid())
}

fn accept(listener: &UnixListener, owner: u32, messages: &Sender<Message>) {
    let mut before: Option<UnixStream> = None;
    for connection in 1.. {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::error!(%error, "cannot accept a connection");
                sleep(PAUSE);
                continue;
            }
        };
        let uid = match socket_peercred(&stream) {
            Ok(credentials) => credentials.uid.as_raw(),
            Err(_) => continue,
        };
        if uid != 0 && uid != owner {
            tracing::warn!(uid, "somebody else than the daemon wants to talk: sent away");
            continue;
        }
        if let Some(before) = before.take() {
            // Its reader ends by it.
            let _ = before.shutdown(Shutdown::Both);
        }
        before = stream.try_clone().ok();
        if let Err(error) = serve(connection, stream, messages) {
            tracing::error!(%error, "cannot serve a connection");
        }
    }
}

fn serve(connection: u64, stream: UnixStream, messages: &Sender<Message>) -> Result<(), ExecdError> {
    let copy = stream
        .set_write_timeout(Some(UNREAD))
        .and_then(|()| stream.try_clone())
        .map_err(failed("prepare a connection"))?;
    let messages = messages.clone();
    let _ = messages.send(Message::Connected(connection, copy));
    spawn("daemon", move || {
        if let Err(error) = listen(connection, stream, &messages) {
            tracing::warn!(%error, "the daemon's line broke");
        }
        let _ = messages.send(Message::Disconnected(connection));
    })
}

fn listen(connection: u64, stream: UnixStream, messages: &Sender<Message>) -> io::Result<()> {
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match lines.by_ref().take(MAX_LINE as u64).read_until(b'\n', &mut line)? {
            0 => return Ok(()),
            _ if line.last() != Some(&b'\n') => return Err(io::ErrorKind::InvalidData.into()),
            _ => {}
        }
        let ask: Ask = serde_json::from_slice(&line)?;
        let _ = messages.send(Message::Asked(connection, ask));
    }
}
