//! First connections to addresses that were answered a moment before.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use super::protocol::Took;

/// Long enough for two retransmissions of a SYN.
const PATIENCE: Duration = Duration::from_secs(5);

/// So many at the same time.
const WORKERS: usize = 32;

pub fn connect(server: SocketAddr, questions: &[Vec<u8>], port: u16) -> Took {
    let each = questions.len().div_ceil(WORKERS).max(1);
    let mut took = Took::default();
    thread::scope(|scope| {
        let some = |chunk| scope.spawn(move || all(server, chunk, port));
        let workers: Vec<_> = questions.chunks(each).map(some).collect();
        for more in workers.into_iter().filter_map(|worker| worker.join().ok()) {
            took.connected.extend(more.connected);
            took.failed.extend(more.failed);
        }
    });
    took
}

fn all(server: SocketAddr, questions: &[Vec<u8>], port: u16) -> Took {
    let mut took = Took::default();
    for question in questions {
        match one(server, question, port) {
            Ok(time) => took.connected.push(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
            Err(error) => took.failed.push(error.to_string()),
        }
    }
    took
}

fn one(server: SocketAddr, question: &[u8], port: u16) -> io::Result<Duration> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(server)?;
    socket.send(question)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    // An answer with one address ends with it.
    let address = answer[..length].last_chunk::<4>().ok_or(io::ErrorKind::InvalidData)?;
    let begun = Instant::now();
    TcpStream::connect_timeout(&SocketAddr::from((*address, port)), PATIENCE)?;
    Ok(begun.elapsed())
}
