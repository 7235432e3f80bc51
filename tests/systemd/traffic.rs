//! Traffic that goes on while something else happens: what is to be refused, and what is admitted.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use std::{fs, thread};

use socket2::{Domain, Socket, Type};

/// Between two bursts, and between two words.
const PACE: Duration = Duration::from_millis(2);
/// Datagrams of a burst, to each address.
const BURST: usize = 10;
/// A word that does not come back within this time is lost: longer than a few retransmissions.
const PATIENCE: Duration = Duration::from_secs(4);
/// After so many words there is a new connection besides.
const ANEW: u64 = 25;
/// How often the number of words is written down.
const TOLD: u64 = 10;

/// Where a unit with the role `stream NAME ...` counts its words.
pub fn words_of(name: &str) -> String {
    format!("/run/stream-{name}")
}

/// Sends datagrams and the first packets of connections, from an address of ours or from any, until it is stopped.
pub fn flood(from: &[IpAddr], to: &[SocketAddr], stop: &AtomicBool) -> io::Result<()> {
    let any = |to: &SocketAddr| if to.is_ipv4() { "0.0.0.0" } else { "::" }.parse().expect("an address");
    let source = |to: &SocketAddr| from.iter().find(|ip| ip.is_ipv4() == to.is_ipv4()).copied();
    let sources: Vec<IpAddr> = to.iter().map(|to| source(to).unwrap_or_else(|| any(to))).collect();
    let sockets: Vec<_> = sources.iter().map(|ip| UdpSocket::bind((*ip, 0))).collect::<Result<_, _>>()?;
    while !stop.load(Ordering::Relaxed) {
        for ((to, source), socket) in to.iter().zip(&sources).zip(&sockets) {
            for _ in 0..BURST {
                // Refused, as it should be.
                let _ = socket.send_to(b"refused", to);
            }
            let knock = Socket::new(Domain::for_address(*to), Type::STREAM, None)?;
            knock.bind(&SocketAddr::new(*source, 0).into())?;
            knock.set_nonblocking(true)?;
            let _ = knock.connect(&(*to).into());
        }
        thread::sleep(PACE);
    }
    Ok(())
}

/// Keeps connections and has words come back on them, opens further ones besides, and fails when any of that fails.
pub fn stream(
    to: &[SocketAddr],
    connect: impl Fn(SocketAddr) -> io::Result<TcpStream>,
    mut said: impl FnMut(u64) -> io::Result<bool>,
) -> io::Result<()> {
    let streams = to.iter().map(|to| connect(*to)).collect::<Result<Vec<_>, _>>()?;
    for round in 1.. {
        for stream in &streams {
            word(stream)?;
        }
        if round % ANEW == 0 {
            for to in to {
                word(&connect(*to)?)?;
            }
        }
        if !said(round)? {
            break;
        }
        thread::sleep(PACE);
    }
    Ok(())
}

/// The same as the role of a unit, which says that it is ready when the first words have come back.
pub fn stream_for(name: &str, to: &[SocketAddr], ready: impl Fn()) -> io::Result<()> {
    stream(
        to,
        |to| TcpStream::connect_timeout(&to, PATIENCE),
        |words| {
            if words == 1 {
                ready();
            }
            if words % TOLD == 0 {
                fs::write(words_of(name), words.to_string())?;
            }
            Ok(true)
        },
    )
}

fn word(mut stream: &TcpStream) -> io::Result<()> {
    let mut word = [0; 4];
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"word")?;
    stream.read_exact(&mut word)
}

/// Something that goes on in a thread until it is stopped.
pub struct Going {
    stop: Arc<AtomicBool>,
    words: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<io::Result<()>>>,
}

impl Going {
    pub fn flood(from: Vec<IpAddr>, to: Vec<SocketAddr>) -> Self {
        Self::on(move |stop, _| flood(&from, &to, stop))
    }

    /// Connections from these addresses.
    pub fn stream(from: Vec<IpAddr>, to: Vec<SocketAddr>) -> Self {
        Self::on(move |stop, words| {
            let connect = |to: SocketAddr| {
                let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
                let source = from.iter().find(|ip| ip.is_ipv4() == to.is_ipv4()).expect("one of the family");
                socket.bind(&SocketAddr::new(*source, 0).into())?;
                socket.connect_timeout(&to.into(), PATIENCE)?;
                Ok(TcpStream::from(socket))
            };
            stream(&to, connect, |said| {
                words.store(said, Ordering::Relaxed);
                Ok(!stop.load(Ordering::Relaxed))
            })
        })
    }

    fn on(body: impl FnOnce(&AtomicBool, &AtomicU64) -> io::Result<()> + Send + 'static) -> Self {
        let (stop, words) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (its_stop, its_words) = (Arc::clone(&stop), Arc::clone(&words));
        Self { stop, words, thread: Some(thread::spawn(move || body(&its_stop, &its_words))) }
    }

    pub fn words(&self) -> u64 {
        self.words.load(Ordering::Relaxed)
    }

    /// Ends it; how it has been.
    pub fn end(&mut self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or(Ok(()), |thread| thread.join().expect("it does not panic"))
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
