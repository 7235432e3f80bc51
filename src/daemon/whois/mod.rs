//! Who it was: log records of attempts get the unit, and where it can be known the process, before they become rows.
//!
//! Outbound, the kernel notes the cgroup of the socket beside the flow (compile, `who`); inbound, the listener of the
//! local port tells. What takes files of `/proc` and of the cgroup tree, or lists of sockets, is done by a thread of its
//! own, one batch at a time, so that neither a flood nor a slow file system holds the loop up. docs/attribution.md
//! says what is known when.
//!
//! Bounded: what comes while too much waits becomes a row without subject and process; no packet is lost by that.

mod lookup;
mod paths;

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use super::tally::{Detail, Target};
use crate::compile::{self, Charged};
use crate::kernel::commit::Table;
use crate::model::{Direction, Family};
use crate::ruleset::Value;
use crate::store::Process;
use lookup::{Batch, Flow, Lookup, Note};

/// The most records that wait.
const MOST: usize = 16_384;

/// A log record that names what it adds to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    pub target: Target,
    pub detail: Detail,
    /// The ports at the packet's two ends, where its protocol has any.
    pub remote_port: Option<u16>,
    pub local_port: Option<u16>,
}

/// A sighting with all that is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub target: Target,
    pub detail: Detail,
    pub process: Process,
}

impl From<Sighting> for Seen {
    fn from(sighting: Sighting) -> Self {
        Self { target: sighting.target, detail: sighting.detail, process: Process::default() }
    }
}

/// Records on their way to be rows.
#[derive(Default)]
pub struct Whois {
    waiting: Vec<Sighting>,
    /// Too much waits, or nobody looks up.
    unknown: Vec<Seen>,
    worker: Worker,
}

#[derive(Default)]
enum Worker {
    #[default]
    Unborn,
    Idle(Line),
    Busy(Line),
    Dead,
}

struct Line {
    batches: Sender<Batch>,
    answers: Receiver<Vec<Seen>>,
}

impl Whois {
    /// Takes a record in; [`Whois::take`] gives it back.
    pub fn note(&mut self, sighting: Sighting) {
        match self.waiting.len() < MOST && !matches!(self.worker, Worker::Dead) {
            true => self.waiting.push(sighting),
            false => self.unknown.push(sighting.into()),
        }
    }

    /// True while records are on their way.
    pub fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || !self.unknown.is_empty() || matches!(self.worker, Worker::Busy(_))
    }

    /// Hands over what waits, with the kernel's notes of now, unless the former batch is still looked up.
    pub fn ask(&mut self, table: &mut Table) {
        if self.waiting.is_empty() {
            return;
        }
        let line = match std::mem::take(&mut self.worker) {
            Worker::Unborn => start(),
            Worker::Idle(line) => Some(line),
            other @ (Worker::Busy(_) | Worker::Dead) => {
                self.worker = other;
                return;
            }
        };
        let sightings = std::mem::take(&mut self.waiting);
        let batch = Batch { notes: notes(table, &sightings), sightings };
        self.worker = match line.map(|line| (line.batches.send(batch), line)) {
            Some((Ok(()), line)) => Worker::Busy(line),
            Some((Err(lost), _)) => {
                self.unknown.extend(lost.0.sightings.into_iter().map(Seen::from));
                Worker::Dead
            }
            None => Worker::Dead,
        };
    }

    /// Returns what was looked up.
    pub fn take(&mut self) -> Vec<Seen> {
        let mut seen = std::mem::take(&mut self.unknown);
        self.worker = match std::mem::take(&mut self.worker) {
            Worker::Busy(line) => match line.answers.try_recv() {
                Ok(answers) => {
                    seen.extend(answers);
                    Worker::Idle(line)
                }
                Err(TryRecvError::Empty) => Worker::Busy(line),
                Err(TryRecvError::Disconnected) => {
                    tracing::error!(
                        "attempts are counted without subjects: the thread that looks them up ended"
                    );
                    seen.extend(self.waiting.drain(..).map(Seen::from));
                    Worker::Dead
                }
            },
            other @ (Worker::Unborn | Worker::Idle(_) | Worker::Dead) => other,
        };
        seen
    }
}

fn start() -> Option<Line> {
    let (batches, their_batches) = channel::<Batch>();
    let (their_answers, answers) = channel();
    let thread = std::thread::Builder::new().name("whois".into());
    let started = thread.spawn(move || Lookup::new().serve(&their_batches, &their_answers));
    match started {
        Ok(_) => Some(Line { batches, answers }),
        Err(error) => {
            tracing::error!(%error, "attempts are counted without subjects");
            None
        }
    }
}

/// The cgroups of the sockets that the kernel noted lately; read only for families with an outbound record.
fn notes(table: &mut Table, sightings: &[Sighting]) -> Vec<Note> {
    let mut notes = Vec::new();
    for family in Family::ALL {
        let of_family = |sighting: &Sighting| {
            let target = &sighting.target;
            target.direction == Direction::Egress
                && matches!(target.charged, Charged::ByAddress | Charged::Exact)
                && target.remote.is_ipv4() == (family == Family::V4)
        };
        if !sightings.iter().any(of_family) {
            continue;
        }
        let declaration = compile::who_declaration(family);
        match table.set_keys(&compile::who_notes(family), &declaration) {
            Ok(keys) => {
                let decoded = keys.iter().filter_map(|key| key.decode(&declaration.fields));
                notes.extend(decoded.filter_map(|values| note(&values)));
            }
            Err(error) => tracing::warn!(%error, "cannot read whose sockets were refused"),
        }
    }
    notes
}

fn note(values: &[Value]) -> Option<Note> {
    match values {
        [
            Value::Cgroup(cgroup),
            Value::Address(remote),
            Value::Protocol(protocol),
            Value::Port(local_port),
        ] => {
            let flow = Flow { remote: *remote, protocol: *protocol, local_port: Some(*local_port) };
            Some(Note { flow, cgroup: *cgroup })
        }
        _ => None,
    }
}
