//! What a test asks of an agent and what it answers: one JSON value a line.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A socket or listener inside an agent.
pub type Id = u32;

/// Who an agent becomes before it opens any socket.
#[derive(Debug, Serialize, Deserialize)]
pub struct Identity {
    /// The directory of its cgroup.
    pub cgroup: Option<std::path::PathBuf>,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    Who,
    /// Writes its own pid into another cgroup; its sockets stay what they are.
    Move {
        cgroup: std::path::PathBuf,
    },
    Connect {
        remote: SocketAddr,
        local: Option<SocketAddr>,
        timeout: Duration,
    },
    Listen {
        local: SocketAddr,
        manner: Manner,
        /// Others may listen on the same port.
        shared: bool,
    },
    /// Connects with its first words in the SYN, once the kernel has a cookie of the other side.
    FastOpen {
        remote: SocketAddr,
        text: String,
    },
    /// Asks the other side for a sign of life after a second of silence.
    Keepalive {
        socket: Id,
    },
    /// Wants to know what ICMP errors say.
    WantErrors {
        socket: Id,
    },
    /// What is in the socket's error queue.
    Errors {
        socket: Id,
    },
    Accept {
        listener: Id,
        timeout: Duration,
    },
    Say {
        socket: Id,
        text: String,
    },
    Hear {
        socket: Id,
        timeout: Duration,
    },
    /// Sends stamped records from now on, one `every` so often; zero: as fast as it goes.
    Pump {
        socket: Id,
        every: Duration,
    },
    /// Takes stamped records from now on.
    Drain {
        socket: Id,
    },
    Flow {
        socket: Id,
    },
    Close {
        socket: Id,
        reset: bool,
    },
    /// Many short connections to a listener of the same manner.
    Exchange {
        remote: SocketAddr,
        close: Close,
        late: Duration,
        count: u32,
        workers: u32,
    },
    Udp {
        local: SocketAddr,
        remote: Option<SocketAddr>,
    },
    UdpSay {
        socket: Id,
        remote: SocketAddr,
        text: String,
    },
    /// Answers every datagram with the same from now on.
    UdpEcho {
        socket: Id,
    },
    /// One datagram each from as many new sockets.
    UdpEach {
        remote: SocketAddr,
        count: u32,
    },
    Raw {
        packets: Packets,
    },
    /// Whole packets as they are; one that the kernel refuses does not end it.
    Bytes {
        to: std::net::IpAddr,
        packets: Vec<Vec<u8>>,
    },
    /// Listens to everything that reaches raw sockets.
    Sniff {
        v4: bool,
    },
    /// The names of the packets that were heard since.
    Sniffed {
        socket: Id,
    },
    /// Raw packets in the background; `Flow` tells how many.
    RawPump {
        packets: Packets,
        sources: u32,
        burst: u32,
        every: Duration,
    },
    /// For each question asks a name server, and connects to the address in its answer at once.
    Fresh {
        server: SocketAddr,
        questions: Vec<Vec<u8>>,
        port: u16,
    },
    /// One echo request.
    Ping {
        remote: std::net::IpAddr,
        timeout: Duration,
    },
}

/// What a listener does with what it accepts.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Manner {
    /// Keeps it for `Accept`.
    Keep,
    /// Sends everything back until the end.
    Echo,
    /// Serves one side of `Exchange`.
    Exchange { close: Close, late: Duration },
}

/// Who ends a short connection, and how. The other side follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Close {
    Client,
    Server,
    ClientResets,
    ServerResets,
}

/// Identical raw packets, but for the source port, which counts up.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Packets {
    pub kind: Kind,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub count: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Syn,
    /// A reset without payload.
    Reset,
    /// A reset that carries payload.
    ResetWithData,
    /// A segment of a connection that nobody has.
    Data,
    Udp,
    Echo,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Done,
    Who(Who),
    Socket { id: Id, local: SocketAddr },
    Heard(Heard),
    Flow(Flow),
    Tally(Tally),
    Names(Vec<String>),
    Took(Took),
    Failed(Failure),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    pub pid: u32,
    pub uid: u32,
    /// Its path in the cgroup2 hierarchy.
    pub cgroup: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Heard {
    Text { text: String, from: Option<SocketAddr> },
    Nothing,
    End,
    Failed(Failure),
}

/// How long connections took to begin, in microseconds, and those that did not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Took {
    pub connected: Vec<u64>,
    pub failed: Vec<String>,
}

/// How a socket stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Records.
    pub sent: u64,
    /// Records.
    pub received: u64,
    /// Records that the kernel did not take; the flow goes on (UDP only).
    pub refused: u64,
    /// The latest send time among the records that arrived, in nanoseconds since 1970.
    pub last_stamp: i64,
    pub end: Option<End>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    pub how: Ending,
    /// When the agent learned of it, in nanoseconds since 1970.
    pub at: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// The other side closed in good order.
    Closed,
    Broken(Failure),
}

/// Outcomes of many short connections: errors by their text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub done: u32,
    pub failed: BTreeMap<String, u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub errno: i32,
    pub text: String,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let timeout = matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock);
        let errno = if timeout { libc::ETIMEDOUT } else { error.raw_os_error().unwrap_or(0) };
        Self { errno, text: error.to_string() }
    }
}
