//! A process whose traffic is judged: it lives in the network namespace and the cgroup that a test chose, and
//! does what the test tells it over a socket pair.
//!
//! It is this very test binary, started once more for one of its tests, [`an_agent_is_who_it_should_be`], with an
//! identity in its environment. What runs inside is in [`process`]; the words between are in [`protocol`].

mod fresh;
mod process;
mod protocol;
mod raw;
mod stream;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use protocol::{Answer, Ask, Id, Identity};
pub use protocol::{Close, End, Ending, Failure, Flow, Heard, Kind, Manner, Packets, Tally, Took, Who};

use crate::lab::{Lab, MOMENT, clock};

const IDENTITY: &str = "PICOSEG_E2E_AGENT";
const TEST: &str = "agent::an_agent_is_who_it_should_be";
/// No answer takes longer: each question has a limit of its own below this.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
const CONNECT_WITHIN: Duration = Duration::from_millis(700);
/// Shorter than the first retransmission of a SYN, so that one attempt is one packet.
const CONNECT_WITHIN_AT_MOST: Duration = Duration::from_millis(950);
const HEAR_WITHIN: Duration = Duration::from_secs(2);

pub struct Agent {
    child: Mutex<Child>,
    line: Mutex<BufReader<UnixStream>>,
}

/// A TCP connection, a UDP socket or a listener in an agent.
pub struct Socket<'a> {
    agent: &'a Agent,
    id: Id,
    local: SocketAddr,
}

impl Agent {
    /// Starts one in the network namespace of the calling thread.
    pub fn spawn(cgroup: Option<&Path>, uid: u32) -> Self {
        Self::spawn_as(cgroup, uid, 0)
    }

    /// The same with a group of its own.
    pub fn spawn_as(cgroup: Option<&Path>, uid: u32, gid: u32) -> Self {
        let identity = Identity { cgroup: cgroup.map(Path::to_owned), uid, gid };
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        ours.set_read_timeout(Some(clock::patient(ANSWER_WITHIN))).expect("a socket of ours");
        let child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", TEST, "--nocapture", "--test-threads=1"])
            .env(IDENTITY, serde_json::to_string(&identity).expect("plain data"))
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .expect("this binary runs");
        Self { child: Mutex::new(child), line: Mutex::new(BufReader::new(ours)) }
    }

    pub fn who(&self) -> Who {
        match self.ask(&Ask::Who) {
            Answer::Who(who) => who,
            other => unexpected(&other),
        }
    }

    /// Moves the process to another cgroup.
    pub fn move_to(&self, cgroup: &Path) {
        self.done(&Ask::Move { cgroup: cgroup.to_owned() }).expect("root moves a process");
    }

    /// SIGKILL; its sockets become orphans of the kernel.
    pub fn kill9(&self) {
        let mut child = locked(&self.child);
        let _ = child.kill();
        let _ = child.wait();
    }

    // TCP

    pub fn connect(&self, remote: SocketAddr) -> Result<Socket<'_>, Failure> {
        self.socket(&Ask::Connect { remote, local: None, timeout: connect_within() })
    }

    /// From a local address and port of our choice.
    pub fn connect_from(&self, local: SocketAddr, remote: SocketAddr) -> Result<Socket<'_>, Failure> {
        self.socket(&Ask::Connect { remote, local: Some(local), timeout: connect_within() })
    }

    /// Connects, and sends a word that comes back: the path is open in both directions.
    pub fn talks_to(&self, remote: SocketAddr) -> bool {
        self.connect(remote).is_ok_and(|socket| socket.echoes())
    }

    pub fn listen(&self, local: SocketAddr, manner: Manner) -> Socket<'_> {
        self.socket(&Ask::Listen { local, manner, shared: false })
            .unwrap_or_else(|e| panic!("listen on {local}: {e:?}"))
    }

    /// A listener that shares its port with others.
    pub fn listen_shared(&self, local: SocketAddr, manner: Manner) -> Socket<'_> {
        self.socket(&Ask::Listen { local, manner, shared: true })
            .unwrap_or_else(|e| panic!("listen on {local}: {e:?}"))
    }

    /// Connects with TCP Fast Open and says something.
    pub fn fast_open(&self, remote: SocketAddr, text: &str) -> Result<Socket<'_>, Failure> {
        self.socket(&Ask::FastOpen { remote, text: text.to_owned() })
    }

    /// A listener that sends everything back.
    pub fn echo(&self, local: SocketAddr) -> Socket<'_> {
        self.listen(local, Manner::Echo)
    }

    /// `count` short connections, some at a time, to a listener of the same manner.
    pub fn exchange(&self, remote: SocketAddr, close: Close, late: Duration, count: u32) -> Tally {
        let workers = if late.is_zero() { 8 } else { 50 };
        match self.ask(&Ask::Exchange { remote, close, late, count, workers }) {
            Answer::Tally(tally) => tally,
            other => unexpected(&other),
        }
    }

    // UDP, ICMP and packets that no socket would send

    pub fn udp(&self, local: SocketAddr) -> Socket<'_> {
        self.socket(&Ask::Udp { local, remote: None }).unwrap_or_else(|e| panic!("bind {local}: {e:?}"))
    }

    /// A connected socket: it can [`Socket::pump`] and [`Socket::drain`].
    pub fn udp_to(&self, local: SocketAddr, remote: SocketAddr) -> Socket<'_> {
        let asked = Ask::Udp { local, remote: Some(remote) };
        self.socket(&asked).unwrap_or_else(|e| panic!("{local} to {remote}: {e:?}"))
    }

    /// One datagram each from `count` new sockets, taken by the kernel or not.
    pub fn udp_each(&self, remote: SocketAddr, count: u32) {
        self.done(&Ask::UdpEach { remote, count }).expect("sockets");
    }

    /// Sends them at once.
    pub fn raw(&self, packets: Packets) {
        self.done(&Ask::Raw { packets }).expect("root sends raw packets");
    }

    /// Sends whole packets, as many as the kernel takes.
    pub fn bytes(&self, to: IpAddr, packets: Vec<Vec<u8>>) {
        self.done(&Ask::Bytes { to, packets }).expect("root sends raw packets");
    }

    /// Hears everything of one family that reaches raw sockets.
    pub fn sniff(&self, v4: bool) -> Socket<'_> {
        self.socket(&Ask::Sniff { v4 }).expect("root opens raw sockets")
    }

    /// Sends them in the background, one `every` so often; its [`Socket::flow`] tells how many.
    pub fn raw_pump(&self, packets: Packets, every: Duration) -> Socket<'_> {
        self.flood(packets, 1, 1, every)
    }

    /// The same from so many made-up sources, one behind the other, in bursts.
    pub fn flood(&self, packets: Packets, sources: u32, burst: u32, every: Duration) -> Socket<'_> {
        let asked = Ask::RawPump { packets, sources, burst, every };
        self.socket(&asked).expect("root sends raw packets")
    }

    /// For each question asks a name server, and connects to the address in its answer at once.
    pub fn fresh(&self, server: SocketAddr, questions: Vec<Vec<u8>>, port: u16) -> Took {
        match self.ask(&Ask::Fresh { server, questions, port }) {
            Answer::Took(took) => took,
            other => unexpected(&other),
        }
    }

    /// Whether an echo request is answered.
    pub fn pings(&self, remote: IpAddr) -> bool {
        self.done(&Ask::Ping { remote, timeout: clock::patient(HEAR_WITHIN) }).is_ok()
    }

    // The line

    fn socket(&self, question: &Ask) -> Result<Socket<'_>, Failure> {
        match self.ask(question) {
            Answer::Socket { id, local } => Ok(Socket { agent: self, id, local }),
            Answer::Failed(failure) => Err(failure),
            other => unexpected(&other),
        }
    }

    fn done(&self, question: &Ask) -> Result<(), Failure> {
        match self.ask(question) {
            Answer::Done => Ok(()),
            Answer::Failed(failure) => Err(failure),
            other => unexpected(&other),
        }
    }

    fn ask(&self, question: &Ask) -> Answer {
        let mut line = locked(&self.line);
        let text = serde_json::to_string(question).expect("plain data") + "\n";
        line.get_mut().write_all(text.as_bytes()).unwrap_or_else(|e| panic!("an agent is gone: {e}"));
        let mut answer = String::new();
        line.read_line(&mut answer).unwrap_or_else(|e| panic!("no answer to {question:?}: {e}"));
        serde_json::from_str(&answer).unwrap_or_else(|e| panic!("answer to {question:?}: {answer:?}: {e}"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill9();
    }
}

impl<'a> Socket<'a> {
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The next connection of a listener that keeps them.
    pub fn accept(&self) -> Result<Socket<'a>, Failure> {
        self.agent.socket(&Ask::Accept { listener: self.id, timeout: clock::patient(HEAR_WITHIN) })
    }

    /// Whether nobody connects to this listener in the time in which a connection would have come.
    pub fn stays_alone(&self) -> bool {
        let timeout = clock::patient(Duration::from_millis(300));
        let asked = Ask::Accept { listener: self.id, timeout };
        self.agent.socket(&asked).is_err()
    }

    pub fn say(&self, text: &str) -> Result<(), Failure> {
        self.agent.done(&Ask::Say { socket: self.id, text: text.to_owned() })
    }

    pub fn hear(&self) -> Heard {
        self.hear_within(HEAR_WITHIN)
    }

    pub fn hear_within(&self, limit: Duration) -> Heard {
        let timeout = clock::patient(limit);
        match self.agent.ask(&Ask::Hear { socket: self.id, timeout }) {
            Answer::Heard(heard) => heard,
            other => unexpected(&other),
        }
    }

    /// Sends a word and hears the same.
    pub fn echoes(&self) -> bool {
        let word = "a word that comes back";
        self.say(word).is_ok() && self.hears(word)
    }

    pub fn hears(&self, word: &str) -> bool {
        matches!(self.hear(), Heard::Text { text, .. } if text == word)
    }

    pub fn say_to(&self, remote: SocketAddr, text: &str) -> Result<(), Failure> {
        self.agent.done(&Ask::UdpSay { socket: self.id, remote, text: text.to_owned() })
    }

    /// The names of the packets that a sniffer has heard since it was asked last.
    pub fn sniffed(&self) -> BTreeSet<String> {
        self.names(&Ask::Sniffed { socket: self.id })
    }

    pub fn want_errors(&self) {
        self.agent.done(&Ask::WantErrors { socket: self.id }).expect("an internet socket");
    }

    /// The names of the packets whose payload came back in ICMP errors.
    pub fn errors(&self) -> BTreeSet<String> {
        self.names(&Ask::Errors { socket: self.id })
    }

    fn names(&self, question: &Ask) -> BTreeSet<String> {
        match self.agent.ask(question) {
            Answer::Names(names) => names.into_iter().collect(),
            other => unexpected(&other),
        }
    }

    pub fn keepalive(&self) {
        self.agent.done(&Ask::Keepalive { socket: self.id }).expect("a TCP socket");
    }

    pub fn udp_echo(&self) {
        self.agent.done(&Ask::UdpEcho { socket: self.id }).expect("a UDP socket");
    }

    /// Sends stamped records from now on.
    pub fn pump(&self, every: Duration) {
        self.agent.done(&Ask::Pump { socket: self.id, every }).expect("a connected socket");
    }

    /// Takes stamped records from now on.
    pub fn drain(&self) {
        self.agent.done(&Ask::Drain { socket: self.id }).expect("a connected socket");
    }

    pub fn flow(&self) -> Flow {
        match self.agent.ask(&Ask::Flow { socket: self.id }) {
            Answer::Flow(flow) => flow,
            other => unexpected(&other),
        }
    }

    pub fn alive(&self) -> bool {
        self.flow().end.is_none()
    }

    /// Waits until this end knows that the connection is over.
    pub fn ends_within(&self, limit: Duration) -> End {
        clock::eventually("this end learns that its connection is over", limit, || self.flow().end)
    }

    /// Waits until something more has arrived.
    pub fn moves_on(&self) {
        let before = self.flow().received;
        clock::until("more arrives", MOMENT, || self.flow().received > before);
    }

    pub fn close(&self) {
        self.agent.done(&Ask::Close { socket: self.id, reset: false }).expect("it was open");
    }

    /// Closes with a reset instead of a FIN.
    pub fn reset(&self) {
        self.agent.done(&Ask::Close { socket: self.id, reset: true }).expect("it was open");
    }
}

fn connect_within() -> Duration {
    clock::patient(CONNECT_WITHIN).min(CONNECT_WITHIN_AT_MOST)
}

fn unexpected(answer: &Answer) -> ! {
    panic!("an agent answered {answer:?}")
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// As a test it looks at an agent; with an identity in its environment it is that agent.
#[test]
fn an_agent_is_who_it_should_be() {
    if let Ok(identity) = std::env::var(IDENTITY) {
        process::run(&serde_json::from_str(&identity).expect("an identity"));
    }
    let Some(lab) = Lab::new() else { return };
    let unit = lab.unit("payments");
    let (agent, user) = (lab.process(&unit), lab.process_of(&unit, 65534));
    assert_eq!(Path::new(&agent.who().cgroup), unit.path());
    assert_eq!(Path::new(&user.who().cgroup), unit.path());
    assert_eq!((agent.who().uid, user.who().uid), (0, 65534));
    assert_ne!(agent.who().pid, std::process::id());
}
