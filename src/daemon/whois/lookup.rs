//! What the thread beside the loop does: cgroups to names, sockets and cgroups to processes.
//!
//! It never guesses: where two cgroups share what is asked for, or a process may have been another, nothing is said.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::paths::{Known, Paths};
use super::{Seen, Sighting};
use crate::kernel::cgroups::Hierarchy;
use crate::kernel::sockets::{Protocol, Socket, SocketTable, TcpState};
use crate::kernel::{holders, processes};
use crate::model::Direction;
use crate::ruleset::protocol;
use crate::store::Process;

/// Sockets and processes that are looked up a second.
const MOST_LOOKS: u32 = 200;
/// How much of a cgroup is searched for who holds a socket.
const MOST_PROCESSES: usize = 64;
const MOST_DESCRIPTORS: usize = 2_048;
/// How long listeners and processes stay as they were found.
const FRESH: Duration = Duration::from_secs(2);
/// The most processes that are remembered.
const MOST_KNOWN: usize = 4_096;

/// What is looked up together.
pub struct Batch {
    pub sightings: Vec<Sighting>,
    pub notes: Vec<Note>,
}

/// A flow as its remote side and our port name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    pub remote: IpAddr,
    pub protocol: u8,
    /// None for protocols without.
    pub local_port: Option<u16>,
}

/// The kernel says: the socket of this flow was created in this cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    pub flow: Flow,
    pub cgroup: u64,
}

pub struct Lookup {
    paths: Paths,
    sockets: Option<SocketTable>,
    listeners: Listeners,
    /// By cgroup and, where it was known, socket.
    processes: HashMap<(u64, u32), (Instant, Process)>,
    budget: Budget,
}

impl Lookup {
    pub fn new() -> Self {
        let hierarchy = Hierarchy::find();
        if let Err(error) = &hierarchy {
            tracing::error!(%error, "attempts are counted without subjects");
        }
        let sockets = SocketTable::open();
        if let Err(error) = &sockets {
            tracing::error!(%error, "attempts are counted without what sockets tell");
        }
        Self {
            paths: Paths::new(hierarchy.ok()),
            sockets: sockets.ok(),
            listeners: Listeners::default(),
            processes: HashMap::new(),
            budget: Budget::default(),
        }
    }

    /// Answers until nobody asks any more.
    pub fn serve(&mut self, batches: &Receiver<Batch>, answers: &Sender<Vec<Seen>>) {
        loop {
            match batches.recv_timeout(self.paths.due_in()) {
                Ok(batch) => {
                    if answers.send(self.answer(batch)).is_err() {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.paths.learn(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn answer(&mut self, batch: Batch) -> Vec<Seen> {
        let notes = Notes::new(&batch.notes);
        let ingress = |sighting: &Sighting| sighting.target.direction == Direction::Ingress;
        if batch.sightings.iter().any(ingress) {
            self.listeners.refresh(self.sockets.as_mut());
        }
        let seen = batch.sightings.into_iter().map(|sighting| match sighting.target.direction {
            Direction::Egress => self.outbound(sighting, &notes),
            Direction::Ingress => self.inbound(sighting),
        });
        seen.collect()
    }

    fn outbound(&mut self, sighting: Sighting, notes: &Notes) -> Seen {
        let noted = notes.cgroup(&flow(&sighting));
        let socket = match noted.and_then(|cgroup| self.remembered(cgroup, 0)) {
            // One process for the whole cgroup: its socket tells no more.
            Some(process) if process.pid.is_some() => None,
            Some(_) | None => self.socket(&sighting),
        };
        let socket = socket.filter(|socket| is_of(socket, &sighting, noted));
        let Some(cgroup) = noted.or_else(|| socket.as_ref()?.cgroup) else { return sighting.into() };
        let Some(known) = self.paths.find(cgroup) else { return sighting.into() };
        let process = self.process(cgroup, &known, socket.as_ref());
        let mut seen = Seen::from(sighting);
        seen.detail.subject = Some(known.name);
        seen.process = process;
        seen
    }

    /// The listener of the local port; without one the socket that the packet was for.
    fn inbound(&mut self, sighting: Sighting) -> Seen {
        let cgroup = match self.listeners.cgroup(&sighting) {
            Found::One(cgroup) => Some(cgroup),
            Found::Several => None,
            Found::None => self.socket(&sighting).and_then(|socket| socket.cgroup),
        };
        let subject = cgroup.and_then(|cgroup| self.paths.find(cgroup)).map(|known| known.name);
        let mut seen = Seen::from(sighting);
        // The user that the record names is nobody's who listens.
        seen.detail.uid = None;
        seen.detail.subject = subject;
        seen
    }

    fn socket(&mut self, sighting: &Sighting) -> Option<Socket> {
        let kind = transport(sighting.target.protocol)?;
        let local = SocketAddr::new(sighting.detail.local?, sighting.local_port?);
        let remote = SocketAddr::new(sighting.target.remote, sighting.remote_port?);
        let sockets = self.sockets.as_mut().filter(|_| self.budget.take())?;
        sockets.find(kind, local, remote).ok().flatten()
    }

    fn remembered(&self, cgroup: u64, inode: u32) -> Option<Process> {
        let (at, process) = self.processes.get(&(cgroup, inode))?;
        (at.elapsed() < FRESH).then(|| process.clone())
    }

    /// Who holds the socket, else who is alone in the cgroup.
    fn process(&mut self, cgroup: u64, known: &Known, socket: Option<&Socket>) -> Process {
        let inode = socket.map_or(0, |socket| socket.inode);
        if let Some(process) = self.remembered(cgroup, inode) {
            return process;
        }
        if !self.budget.take() {
            return Process::default();
        }
        let holder = (inode > 0).then(|| holder(known, inode)).flatten();
        let pid = holder.or_else(|| processes::only_one(&known.directory));
        let process = Process { pid, exe: pid.and_then(|pid| processes::exe(pid).ok()) };
        if self.processes.len() >= MOST_KNOWN {
            self.processes.retain(|_, (at, _)| at.elapsed() < FRESH);
        }
        if self.processes.len() < MOST_KNOWN {
            self.processes.insert((cgroup, inode), (Instant::now(), process.clone()));
        }
        process
    }
}

/// The one process of a cgroup that has a socket open.
fn holder(known: &Known, inode: u32) -> Option<u32> {
    let processes = processes::some_of(&known.directory, MOST_PROCESSES)?;
    let found = holders::holders(&processes, &BTreeSet::from([inode]), MOST_DESCRIPTORS);
    let holders = found.by_inode.get(&inode).filter(|_| !found.cut && found.denied == 0)?;
    holders.first().copied().filter(|_| holders.len() == 1)
}

fn flow(sighting: &Sighting) -> Flow {
    let target = &sighting.target;
    Flow { remote: target.remote, protocol: target.protocol, local_port: sighting.local_port }
}

/// Not a listener that happens to have the port, nor a later socket.
fn is_of(socket: &Socket, sighting: &Sighting, noted: Option<u64>) -> bool {
    let remote = sighting.remote_port.map(|port| SocketAddr::new(sighting.target.remote, port));
    let connected = Some(socket.remote) == remote;
    let loose = socket.protocol == Protocol::Udp && socket.remote.port() == 0;
    let same = noted.is_none() || socket.cgroup == noted;
    let state = socket.state != TcpState::Listen;
    (connected || loose) && same && state
}

fn transport(number: u8) -> Option<Protocol> {
    match number {
        protocol::TCP => Some(Protocol::Tcp),
        protocol::UDP => Some(Protocol::Udp),
        _ => None,
    }
}

/// The kernel's notes by flow, and by remote address and protocol alone.
struct Notes {
    flows: HashMap<Flow, Found>,
}

/// How many cgroups something leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    None,
    One(u64),
    Several,
}

impl Found {
    fn with(self, cgroup: u64) -> Self {
        match self {
            Self::None => Self::One(cgroup),
            Self::One(known) if known == cgroup => self,
            Self::One(_) | Self::Several => Self::Several,
        }
    }
}

impl Notes {
    fn new(notes: &[Note]) -> Self {
        let mut flows: HashMap<Flow, Found> = HashMap::with_capacity(notes.len() * 2);
        for note in notes {
            for flow in [note.flow, Flow { local_port: None, ..note.flow }] {
                let found = flows.entry(flow).or_insert(Found::None);
                *found = found.with(note.cgroup);
            }
        }
        Self { flows }
    }

    fn cgroup(&self, flow: &Flow) -> Option<u64> {
        match self.flows.get(flow)? {
            Found::One(cgroup) => Some(*cgroup),
            Found::None | Found::Several => None,
        }
    }
}

/// Sockets that wait for whoever comes, by protocol and port.
#[derive(Default)]
struct Listeners {
    at: Option<Instant>,
    by_port: HashMap<(u8, u16), Vec<Listener>>,
}

struct Listener {
    address: IpAddr,
    cgroup: Option<u64>,
}

impl Listeners {
    fn refresh(&mut self, sockets: Option<&mut SocketTable>) {
        let Some(sockets) = sockets.filter(|_| self.at.is_none_or(|at| at.elapsed() >= FRESH)) else {
            return;
        };
        match sockets.waiting() {
            Ok(waiting) => {
                self.by_port.clear();
                for socket in waiting {
                    let listeners =
                        self.by_port.entry((socket.protocol.number(), socket.local.port())).or_default();
                    listeners.push(Listener { address: socket.local.ip(), cgroup: socket.cgroup });
                }
            }
            Err(error) => tracing::debug!(%error, "cannot list listeners"),
        }
        self.at = Some(Instant::now());
    }

    /// Whose listener a packet reaches: that of the very address before those of any.
    fn cgroup(&self, sighting: &Sighting) -> Found {
        let Some((port, local)) = sighting.local_port.zip(sighting.detail.local) else { return Found::None };
        let Some(listeners) = self.by_port.get(&(sighting.target.protocol, port)) else { return Found::None };
        let of = |fits: &dyn Fn(IpAddr) -> bool| {
            let fitting = listeners.iter().filter(|listener| fits(listener.address));
            fitting.filter_map(|listener| listener.cgroup).fold(Found::None, Found::with)
        };
        match of(&|address| address == local) {
            // `::` listens for IPv4 as well, unless told otherwise.
            Found::None => of(&|address| {
                address.is_unspecified() && (address.is_ipv6() || address.is_ipv4() == local.is_ipv4())
            }),
            found @ (Found::One(_) | Found::Several) => found,
        }
    }
}

/// Looks a second.
#[derive(Default)]
struct Budget {
    since: Option<Instant>,
    spent: u32,
}

impl Budget {
    fn take(&mut self) -> bool {
        if self.since.is_none_or(|since| since.elapsed() >= Duration::from_secs(1)) {
            *self = Self { since: Some(Instant::now()), spent: 0 };
        }
        self.spent += 1;
        self.spent <= MOST_LOOKS
    }
}
