//! What units inside run: this very test binary, once more, for one of its tests, with a role in its environment.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use std::{fs, process, thread};

use crate::outside::{echoes, send_back};
use crate::traffic::{flood, stream_for};

/// Where it is inside.
pub const AGENT: &str = "/usr/lib/picoseg-tests/agent";
const TEST: &str = "agent::an_agent_does_what_it_is_told";
const ROLE: &str = "PICOSEG_BOX_ROLE";
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// Shorter than the first retransmission of a SYN, so that one attempt is one packet.
const CONNECT_WITHIN: Duration = Duration::from_millis(700);

/// A service whose process takes a role; `more` are further lines of its `[Service]`.
pub fn unit(role: &str, more: &str) -> String {
    format!(
        "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=notify\nEnvironment=\"{ROLE}={role}\"\n\
         ExecStart={AGENT} --exact {TEST} --nocapture --test-threads=1\n{more}\n"
    )
}

/// An agent that listens for questions.
pub struct Agent {
    socket: PathBuf,
}

impl Agent {
    /// Its socket inside, for the role `ask NAME`.
    pub fn socket(name: &str) -> String {
        format!("/run/agent-{name}")
    }

    pub fn at(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Whether a connection of a new socket comes about, and a word comes back.
    pub fn talks_to(&self, remote: SocketAddr) -> bool {
        self.ask(&format!("tcp {remote}")) == "true"
    }

    /// One datagram from a new socket. Whether the kernel took it.
    pub fn sends_to(&self, remote: SocketAddr) -> bool {
        self.ask(&format!("udp {remote}")) == "true"
    }

    /// Connects, and keeps the connection.
    pub fn holds(&self, remote: SocketAddr) -> bool {
        self.ask(&format!("hold {remote}")) == "true"
    }

    /// Whether the connection that it kept is over now.
    pub fn lost(&self) -> bool {
        self.ask("lost") == "true"
    }

    fn ask(&self, question: &str) -> String {
        let asked = || {
            let mut line = UnixStream::connect(&self.socket)?;
            line.set_read_timeout(Some(ANSWER_WITHIN))?;
            writeln!(line, "{question}")?;
            let mut answer = String::new();
            BufReader::new(line).read_line(&mut answer)?;
            Ok::<_, io::Error>(answer.trim().to_owned())
        };
        asked().unwrap_or_else(|e| panic!("{}: {question}: {e}", self.socket.display()))
    }
}

#[test]
fn an_agent_does_what_it_is_told() {
    if let Ok(role) = std::env::var(ROLE) {
        play(&role).unwrap_or_else(|e| panic!("{role}: {e}"));
        process::exit(0);
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let listener = UnixListener::bind(dir.path().join("agent")).expect("a directory of ours");
    thread::spawn(move || answer(&listener));
    let agent = Agent::at(dir.path().join("agent"));
    let someone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let there = someone.local_addr().expect("a socket of ours");
    thread::spawn(move || someone.accept().map(|(stream, _)| send_back(stream)));
    assert!(agent.talks_to(there));
    assert!(agent.sends_to(there));
    assert!(!agent.talks_to(there), "nobody accepts any more");
}

fn play(role: &str) -> io::Result<()> {
    let words: Vec<&str> = role.split(' ').collect();
    match words.as_slice() {
        ["ask", name] => {
            let path = Agent::socket(name);
            let _ = fs::remove_file(&path);
            let listener = UnixListener::bind(path)?;
            ready();
            answer(&listener)
        }
        ["serve", port] => {
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, number(port)?))?;
            ready();
            serve(&listener)
        }
        ["activated"] => {
            let listener = TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?);
            ready();
            serve(&listener)
        }
        ["stream", name, remotes] => stream_for(name, &addresses(remotes)?, ready),
        ["flood", remotes] => {
            ready();
            flood(&[], &addresses(remotes)?, &AtomicBool::new(false))
        }
        ["hasty", forbidden, allowed] => hasty(&addresses(forbidden)?, &addresses(allowed)?),
        _ => Err(io::Error::other("no such role")),
    }
}

fn ready() {
    sd_notify::notify(&[sd_notify::NotifyState::Ready]).expect("systemd listens");
}

fn answer(listener: &UnixListener) -> io::Result<()> {
    let mut held = None;
    for line in listener.incoming() {
        let line = line?;
        let mut question = String::new();
        BufReader::new(line.try_clone()?).read_line(&mut question)?;
        let done = match question.trim().split_once(' ') {
            Some(("tcp", remote)) => connect(address(remote)?).is_ok_and(echoes),
            Some(("udp", remote)) => send(address(remote)?).is_ok(),
            Some(("hold", remote)) => {
                held = connect(address(remote)?).ok();
                held.is_some()
            }
            None if question.trim() == "lost" => !held.take().is_some_and(echoes),
            Some(_) | None => return Err(io::Error::other(question)),
        };
        writeln!(&line, "{done}")?;
    }
    Ok(())
}

fn serve(listener: &TcpListener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        thread::spawn(move || send_back(stream));
    }
}

/// Knocks at the forbidden addresses before anything else, then insists on the allowed ones, says that it is ready, and
/// goes on knocking until it is stopped.
fn hasty(forbidden: &[SocketAddr], allowed: &[SocketAddr]) -> io::Result<()> {
    let knock = || {
        for remote in forbidden {
            let _ = send(*remote);
            let _ = begin_to_connect(*remote);
        }
    };
    knock();
    for remote in allowed {
        let stream = connect(*remote).map_err(|e| io::Error::other(format!("{remote}: {e}")))?;
        if !echoes(stream) {
            return Err(io::Error::other(format!("{remote} does not answer")));
        }
    }
    ready();
    loop {
        knock();
        thread::sleep(Duration::from_millis(1));
    }
}

fn connect(remote: SocketAddr) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&remote, CONNECT_WITHIN)
}

/// Sends a SYN and does not wait.
fn begin_to_connect(remote: SocketAddr) -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(remote), socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&remote.into())
}

fn send(remote: SocketAddr) -> io::Result<()> {
    let any: IpAddr =
        if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    UdpSocket::bind((any, 0))?.send_to(b"word", remote).map(drop)
}

fn addresses(text: &str) -> io::Result<Vec<SocketAddr>> {
    text.split(',').map(address).collect()
}

fn address(text: &str) -> io::Result<SocketAddr> {
    text.parse().map_err(|e| io::Error::other(format!("{text}: {e}")))
}

fn number(text: &str) -> io::Result<u16> {
    text.parse().map_err(|e| io::Error::other(format!("{text}: {e}")))
}
