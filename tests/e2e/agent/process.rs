//! Inside an agent: takes on its identity, then answers questions until the line is cut.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use nix::unistd::{Gid, Uid, getuid, setgid, setuid};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::protocol::{Answer, Ask, Ending, Failure, Heard, Id, Identity, Manner, Who};
use super::stream::{self, Line, Shared};
use super::{locked, raw};

pub fn run(identity: &Identity) -> ! {
    become_one(identity).unwrap_or_else(|e| panic!("{identity:?}: {e}"));
    let line = io::stdin().as_fd().try_clone_to_owned().expect("the line");
    let mut line = BufReader::new(UnixStream::from(line));
    let mut sockets = Sockets::default();
    let mut question = String::new();
    while matches!(line.read_line(&mut question), Ok(1..)) {
        let asked = serde_json::from_str(&question).expect("a question");
        let answer = sockets.answer(asked).unwrap_or_else(|error| Answer::Failed(error.into()));
        let answer = serde_json::to_string(&answer).expect("plain data") + "\n";
        if line.get_mut().write_all(answer.as_bytes()).is_err() {
            break;
        }
        question.clear();
    }
    process::exit(0)
}

/// The cgroup first: only root may choose it, and only sockets that are made afterwards belong to it.
fn become_one(identity: &Identity) -> io::Result<()> {
    if let Some(cgroup) = &identity.cgroup {
        join(cgroup)?;
    }
    setgid(Gid::from_raw(identity.gid))?;
    setuid(Uid::from_raw(identity.uid)).map_err(Into::into)
}

fn join(cgroup: &Path) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), process::id().to_string())
}

fn who() -> Who {
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let cgroup = cgroups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default().to_owned();
    Who { pid: process::id(), uid: getuid().as_raw(), cgroup }
}

/// What an agent holds open.
#[derive(Default)]
struct Sockets {
    last: Id,
    lines: HashMap<Id, Held>,
    listeners: HashMap<Id, Receiver<Line>>,
    ears: HashMap<Id, Vec<Socket>>,
}

struct Held {
    /// None: something that only counts.
    line: Option<Line>,
    flow: Shared,
}

impl Sockets {
    fn answer(&mut self, question: Ask) -> io::Result<Answer> {
        match question {
            Ask::Who => Ok(Answer::Who(who())),
            Ask::Move { cgroup } => join(&cgroup).map(|()| Answer::Done),
            Ask::Connect { remote, local, timeout } => {
                let stream = stream::connect(remote, local, timeout)?;
                let local = stream.local_addr()?;
                Ok(self.hold(Some(Line::Tcp(stream)), local))
            }
            Ask::Listen { local, manner, shared } => self.listen(local, manner, shared),
            Ask::FastOpen { remote, text } => {
                let stream = stream::fast_open(remote, &text)?;
                let local = stream.local_addr()?;
                Ok(self.hold(Some(Line::Tcp(stream)), local))
            }
            Ask::Keepalive { socket } => self.line(socket)?.keepalive().map(|()| Answer::Done),
            Ask::WantErrors { socket } => self.line(socket)?.want_errors().map(|()| Answer::Done),
            Ask::Errors { socket } => Ok(Answer::Names(self.line(socket)?.errors())),
            Ask::Accept { listener, timeout } => self.accept(listener, timeout),
            Ask::Say { socket, text } => self.line(socket)?.send(text.as_bytes()).map(|()| Answer::Done),
            Ask::Hear { socket, timeout } => Ok(Answer::Heard(hear(self.line(socket)?, timeout))),
            Ask::Pump { socket, every } => {
                self.in_background(socket, move |line, flow| stream::pump(line, &flow, every))
            }
            Ask::Drain { socket } => self.in_background(socket, |line, flow| stream::drain(line, &flow)),
            Ask::Flow { socket } => self.flow(socket),
            Ask::Close { socket, reset } => self.close(socket, reset),
            Ask::Exchange { remote, close, late, count, workers } => {
                Ok(Answer::Tally(stream::exchange(remote, close, late, count, workers)))
            }
            Ask::Udp { local, remote } => self.udp(local, remote),
            Ask::UdpSay { socket, remote, text } => match self.line(socket)? {
                Line::Udp(udp) => udp.send_to(text.as_bytes(), remote).map(|_| Answer::Done),
                Line::Tcp(_) => Err(io::ErrorKind::InvalidInput.into()),
            },
            Ask::UdpEcho { socket } => self.in_background(socket, |line, _| udp_echo(line)),
            Ask::UdpEach { remote, count } => udp_each(remote, count).map(|()| Answer::Done),
            Ask::Raw { packets } => raw::send(packets).map(|()| Answer::Done),
            Ask::Bytes { to, packets } => raw::bytes(to, &packets).map(|()| Answer::Done),
            Ask::Sniff { v4 } => {
                let ears = raw::ears(v4)?;
                self.last += 1;
                self.ears.insert(self.last, ears);
                Ok(Answer::Socket { id: self.last, local: SocketAddr::from(([0; 4], 0)) })
            }
            Ask::Sniffed { socket } => {
                let ears = self.ears.get_mut(&socket).ok_or(io::ErrorKind::NotFound)?;
                Ok(Answer::Names(raw::heard(ears)))
            }
            Ask::RawPump { packets, sources, burst, every } => {
                let answer = self.hold(None, packets.from);
                let flow = Shared::clone(&self.held(self.last)?.flow);
                thread::spawn(move || {
                    if let Err(error) = raw::pump(packets, sources, burst, every, &flow) {
                        stream::ended(&flow, Ending::Broken(error.into()));
                    }
                });
                Ok(answer)
            }
            Ask::Fresh { server, questions, port } => {
                Ok(Answer::Took(super::fresh::connect(server, &questions, port)))
            }
            Ask::Ping { remote, timeout } => raw::ping(remote, timeout).map(|()| Answer::Done),
        }
    }

    fn hold(&mut self, line: Option<Line>, local: SocketAddr) -> Answer {
        self.last += 1;
        self.lines.insert(self.last, Held { line, flow: Shared::default() });
        Answer::Socket { id: self.last, local }
    }

    fn held(&mut self, id: Id) -> io::Result<&mut Held> {
        self.lines.get_mut(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn line(&mut self, id: Id) -> io::Result<&mut Line> {
        self.held(id)?.line.as_mut().ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    fn listen(&mut self, local: SocketAddr, manner: Manner, shared: bool) -> io::Result<Answer> {
        let listener = listener(local, shared)?;
        let local = listener.local_addr()?;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || serve(&listener, manner, &sender));
        self.last += 1;
        self.listeners.insert(self.last, receiver);
        Ok(Answer::Socket { id: self.last, local })
    }

    fn accept(&mut self, listener: Id, timeout: Duration) -> io::Result<Answer> {
        let receiver = self.listeners.get(&listener).ok_or(io::ErrorKind::NotFound)?;
        let line = receiver.recv_timeout(timeout).map_err(|_| io::ErrorKind::TimedOut)?;
        let Line::Tcp(stream) = &line else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let remote = stream.peer_addr()?;
        Ok(self.hold(Some(line), remote))
    }

    fn udp(&mut self, local: SocketAddr, remote: Option<SocketAddr>) -> io::Result<Answer> {
        let socket = UdpSocket::bind(local)?;
        if let Some(remote) = remote {
            socket.connect(remote)?;
        }
        let local = socket.local_addr()?;
        Ok(self.hold(Some(Line::Udp(socket)), local))
    }

    fn in_background(
        &mut self,
        id: Id,
        body: impl FnOnce(Line, Shared) + Send + 'static,
    ) -> io::Result<Answer> {
        let line = self.line(id)?.try_clone()?;
        line.set_read_timeout(None)?;
        let flow = Shared::clone(&self.held(id)?.flow);
        thread::spawn(move || body(line, flow));
        Ok(Answer::Done)
    }

    fn flow(&mut self, id: Id) -> io::Result<Answer> {
        let held = self.held(id)?;
        let known = locked(&held.flow).end.is_some();
        if let (false, Some(end)) = (known, held.line.as_ref().and_then(Line::peek_end)) {
            stream::ended(&held.flow, end);
        }
        let flow = locked(&held.flow).clone();
        Ok(Answer::Flow(flow))
    }

    fn close(&mut self, id: Id, reset: bool) -> io::Result<Answer> {
        let held = self.lines.remove(&id).ok_or(io::ErrorKind::NotFound)?;
        if let (true, Some(Line::Tcp(stream))) = (reset, &held.line) {
            SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
        }
        Ok(Answer::Done)
    }
}

fn listener(local: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(local), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&local.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

fn serve(listener: &TcpListener, manner: Manner, kept: &Sender<Line>) {
    for stream in listener.incoming().flatten() {
        match manner {
            Manner::Keep => {
                if kept.send(Line::Tcp(stream)).is_err() {
                    return;
                }
            }
            Manner::Echo => drop(thread::spawn(move || stream::echo(stream))),
            Manner::Exchange { close, late } => {
                drop(thread::spawn(move || stream::answer(stream, close, late)))
            }
        }
    }
}

fn hear(line: &mut Line, timeout: Duration) -> Heard {
    let mut buffer = [0; 4096];
    let outcome = line.set_read_timeout(Some(timeout)).and_then(|()| line.receive(&mut buffer));
    match outcome {
        Ok((0, None)) => Heard::End,
        Ok((length, from)) => {
            Heard::Text { text: String::from_utf8_lossy(&buffer[..length]).into_owned(), from }
        }
        Err(error) => match Failure::from(error) {
            Failure { errno: libc::ETIMEDOUT, .. } => Heard::Nothing,
            failure => Heard::Failed(failure),
        },
    }
}

fn udp_echo(line: Line) {
    let Line::Udp(socket) = line else { return };
    let mut buffer = [0; 4096];
    loop {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}

fn udp_each(remote: SocketAddr, count: u32) -> io::Result<()> {
    let any: SocketAddr = if remote.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    for _ in 0..count {
        // A new socket each: an error of the packet before would be reported instead of sending the next.
        let _ = UdpSocket::bind(any)?.send_to(b"word", remote);
    }
    Ok(())
}
