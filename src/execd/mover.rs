//! Moves each process that executes a program into a child of the cgroup it is in, and lets it go on once the daemon
//! has that cgroup in the table.
//!
//! A child is for all programs that the file is at that moment: two schedules may name one file, with a digest and
//! without. Only the first execution in a cgroup waits for the daemon. Without a daemon nobody waits: what is in the
//! table goes on being admitted, what is new is refused.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sha2::{Digest as _, Sha256};

use super::CONFIRM;
use super::files::{Found, Job};
use super::processes::Image;
use super::protocol::{Ask, MAX_PROGRAMS, Program, ProgramCgroup, State, line};
use super::responder::Hold;
use super::stamp::Stamp;
use crate::kernel::cgroups::{self, ChildCgroup, Hierarchy};

/// What the names of our cgroups begin with.
const PREFIX: &str = "picoseg-exe-";

/// Between two looks for cgroups that nobody is in.
const SWEEP: Duration = Duration::from_secs(5);

/// An execution that has not happened after this time has failed.
const EXECUTED: Duration = Duration::from_secs(2);

/// How long an empty one is kept for the next start.
const IDLE: Duration = Duration::from_secs(30);

pub enum Message {
    /// An execution of a marked file.
    Exec(Arc<Hold>),
    /// The file that a program is.
    File(Program, Found),
    /// Processes of programs that are in none of our cgroups.
    Outside(BTreeMap<Program, u32>),
    Connected(u64, UnixStream),
    Asked(u64, Ask),
    Disconnected(u64),
}

/// Whether a cgroup's name says that it is one of ours.
pub fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX)
}

pub struct Mover {
    hierarchy: Hierarchy,
    files: Sender<Job>,
    programs: BTreeMap<Program, Known>,
    /// By path.
    children: BTreeMap<String, Child>,
    waiting: Vec<Waiting>,
    moved: VecDeque<Moved>,
    daemon: Option<Daemon>,
    sweep_at: Instant,
}

/// What we know of a program.
#[derive(Debug, Clone, Default)]
struct Known {
    /// None: not looked at yet.
    found: Option<Found>,
    outside: u32,
}

struct Child {
    place: ChildCgroup,
    programs: BTreeSet<Program>,
    /// The daemon has it in the table.
    in_force: bool,
    used_at: Instant,
}

/// An execution whose cgroup is not in the table yet.
struct Waiting {
    hold: Arc<Hold>,
    cgroup: u64,
    until: Instant,
}

/// A process that is about to become a program, and where it was.
struct Moved {
    hold: Arc<Hold>,
    image: Option<Image>,
    parent: String,
    target: String,
    look_at: Instant,
}

struct Daemon {
    connection: u64,
    stream: UnixStream,
    told: BTreeMap<Program, State>,
}

/// Why a process stays where it is.
#[derive(Debug, thiserror::Error)]
enum MoveError {
    #[error("it is not in this pid namespace")]
    Invisible,
    #[error("it has ended")]
    Ended,
    #[error("cannot {0}: {1}")]
    Io(&'static str, #[source] io::Error),
}

impl Mover {
    /// Also finds the cgroups of an earlier helper.
    pub fn new(hierarchy: Hierarchy, files: Sender<Job>) -> Self {
        let now = Instant::now();
        let children = earlier(&hierarchy)
            .into_iter()
            .map(|(place, programs)| {
                (place.cgroup.path.clone(), Child { place, programs, in_force: false, used_at: now })
            })
            .collect();
        Self {
            hierarchy,
            files,
            programs: BTreeMap::new(),
            children,
            waiting: Vec::new(),
            moved: VecDeque::new(),
            daemon: None,
            sweep_at: now + SWEEP,
        }
    }

    /// Runs until nobody is there to send anything.
    pub fn run(mut self, inbox: &Receiver<Message>) {
        loop {
            match inbox.recv_timeout(self.next_deadline().saturating_duration_since(Instant::now())) {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.let_go();
            self.look_at_moved();
            self.sweep();
        }
    }

    fn next_deadline(&self) -> Instant {
        let waiting = self.waiting.iter().map(|waiting| waiting.until);
        let moved = self.moved.front().map(|moved| moved.look_at);
        waiting.chain(moved).fold(self.sweep_at, Instant::min)
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Exec(hold) => self.judge(&hold),
            Message::File(program, found) => {
                if let Some(known) = self.programs.get_mut(&program) {
                    known.found = Some(found);
                    self.tell();
                }
            }
            Message::Outside(counts) => {
                for (program, known) in &mut self.programs {
                    known.outside = counts.get(program).copied().unwrap_or_default();
                }
                self.tell();
            }
            Message::Connected(connection, stream) => self.connected(connection, stream),
            Message::Asked(connection, ask) if self.is_with(connection) => match ask {
                Ask::Want(programs) => self.want(programs),
                Ask::InForce(ids) => self.in_force(&ids.into_iter().collect()),
            },
            Message::Disconnected(connection) if self.is_with(connection) => {
                tracing::info!("the daemon is gone: what it has in the table stays");
                self.daemon = None;
                self.let_all_go();
            }
            Message::Asked(..) | Message::Disconnected(_) => {}
        }
    }

    // Executions

    fn judge(&mut self, hold: &Arc<Hold>) {
        let stamp = match Stamp::of(&hold.exec.file) {
            Ok(stamp) => stamp,
            Err(error) => return not_classified(hold, &error),
        };
        let programs = self.programs_of(&stamp);
        if programs.is_empty() {
            hold.release();
            self.not_a_program(hold, &stamp);
            return;
        }
        match self.classify(hold, programs) {
            Ok(path) => self.go_on_when_in_force(hold, &path),
            Err(error) => not_classified(hold, &error),
        }
    }

    /// The programs that a file is: by the file itself, or with a digest by what was read then.
    fn programs_of(&self, stamp: &Stamp) -> BTreeSet<Program> {
        let is = |(program, known): &(&Program, &Known)| match (&known.found, &program.sha256) {
            (Some(Ok(found)), None) => found.file == stamp.file,
            (Some(Ok(found)), Some(_)) => found == stamp,
            (Some(Err(_)) | None, _) => false,
        };
        self.programs.iter().filter(is).map(|(program, _)| program.clone()).collect()
    }

    fn not_a_program(&self, hold: &Arc<Hold>, stamp: &Stamp) {
        let known = |known: &Known| matches!(&known.found, Some(Ok(found)) if found.file == stamp.file);
        // A pinned file that was written to is read again.
        let job = match self.programs.values().any(known) {
            true => Job::Look,
            false => Job::Stale(Arc::clone(hold)),
        };
        let _ = self.files.send(job);
    }

    /// Moves the process; returns the path of its cgroup.
    fn classify(&mut self, hold: &Arc<Hold>, programs: BTreeSet<Program>) -> Result<String, MoveError> {
        let pid = Some(hold.exec.pid).filter(|pid| *pid > 0).ok_or(MoveError::Invisible)?;
        let path = cgroups::path_of(pid).map_err(|error| MoveError::Io("find its cgroup", error))?;
        let path = path.ok_or(MoveError::Ended)?;
        let (parent, name) = (above_ours(&path), name(&programs));
        let target = format!("{}/{name}", parent.trim_end_matches('/'));
        if path != target {
            self.moved.push_back(Moved {
                hold: Arc::clone(hold),
                image: Image::of(pid),
                parent: path.clone(),
                target: target.clone(),
                look_at: Instant::now() + EXECUTED,
            });
        }
        if let Some(child) = self.children.get_mut(&target)
            && (path == target || child.place.take(pid).is_ok())
        {
            child.used_at = Instant::now();
        } else {
            self.make(parent, &name, programs)?.take(pid).map_err(|e| MoveError::Io("move it", e))?;
        }
        match is_alive(hold) {
            true => Ok(target),
            // Somebody else may have its number by now.
            false => {
                self.put_back(pid, parent, &target);
                Err(MoveError::Ended)
            }
        }
    }

    fn make(
        &mut self,
        parent: &str,
        name: &str,
        programs: BTreeSet<Program>,
    ) -> Result<&ChildCgroup, MoveError> {
        let note = serde_json::to_string(&programs).unwrap_or_default();
        let place = ChildCgroup::make(&self.hierarchy, parent, name, &note)
            .map_err(|error| MoveError::Io("make a cgroup below its own", error))?;
        let path = place.cgroup.path.clone();
        let child = Child { place, programs, in_force: false, used_at: Instant::now() };
        tracing::info!(cgroup = path, "cgroup made");
        self.children.remove(&path);
        Ok(&self.children.entry(path).or_insert(child).place)
    }

    /// Puts back who did not become the program after all: an execution may fail, for example for too long arguments,
    /// or only be asked about (AT_EXECVE_CHECK).
    fn look_at_moved(&mut self) {
        let now = Instant::now();
        while self.moved.front().is_some_and(|moved| moved.look_at <= now) {
            let Some(moved) = self.moved.pop_front() else { return };
            let pid = moved.hold.exec.pid;
            if moved.image.is_some() && Image::of(pid) == moved.image && is_alive(&moved.hold) {
                tracing::warn!(pid, "a process did not become the program that it executed: moved back");
                self.put_back(pid, &moved.parent, &moved.target);
            }
        }
    }

    fn put_back(&self, pid: i32, parent: &str, target: &str) {
        if cgroups::path_of(pid).is_ok_and(|path| path.as_deref() == Some(target))
            && let Err(error) = cgroups::put(&self.hierarchy, parent, pid)
        {
            tracing::warn!(pid, %error, "cannot move a process back");
        }
    }

    fn go_on_when_in_force(&mut self, hold: &Arc<Hold>, path: &str) {
        self.tell();
        let Some(child) = self.children.get(path) else { return };
        tracing::debug!(pid = hold.exec.pid, cgroup = path, took = ?hold.since.elapsed(), "classified");
        if child.in_force || self.daemon.is_none() {
            hold.release();
            return;
        }
        let (hold, cgroup) = (Arc::clone(hold), child.place.cgroup.id);
        self.waiting.push(Waiting { until: hold.since + CONFIRM, hold, cgroup });
    }

    /// Lets everything go whose time is over.
    fn let_go(&mut self) {
        let now = Instant::now();
        for late in self.waiting.extract_if(.., |waiting| waiting.until <= now) {
            late.hold.release();
            let pid = late.hold.exec.pid;
            tracing::warn!(pid, "the daemon did not take over a cgroup in time: first refused");
        }
    }

    fn let_all_go(&mut self) {
        for waiting in self.waiting.drain(..) {
            waiting.hold.release();
        }
    }

    // The daemon

    fn is_with(&self, connection: u64) -> bool {
        self.daemon.as_ref().is_some_and(|daemon| daemon.connection == connection)
    }

    fn connected(&mut self, connection: u64, stream: UnixStream) {
        tracing::info!("a daemon is there");
        self.let_all_go();
        self.daemon = Some(Daemon { connection, stream, told: BTreeMap::new() });
        for child in self.children.values_mut() {
            child.in_force = false;
        }
    }

    fn want(&mut self, mut wanted: Vec<Program>) {
        if wanted.len() > MAX_PROGRAMS {
            tracing::error!(
                programs = wanted.len(),
                MAX_PROGRAMS,
                "too many programs: the rest is unresolved"
            );
            wanted.truncate(MAX_PROGRAMS);
        }
        let before = std::mem::take(&mut self.programs);
        let known = |program: Program| {
            let known = before.get(&program).cloned().unwrap_or_default();
            (program, known)
        };
        self.programs = wanted.into_iter().filter(|p| p.subject().is_some()).map(known).collect();
        let _ = self.files.send(Job::Want(self.programs.keys().cloned().collect()));
        self.tell();
    }

    fn in_force(&mut self, ids: &BTreeSet<u64>) {
        for child in self.children.values_mut().filter(|child| ids.contains(&child.place.cgroup.id)) {
            child.in_force = true;
        }
        for ready in self.waiting.extract_if(.., |waiting| ids.contains(&waiting.cgroup)) {
            ready.hold.release();
        }
    }

    /// Tells the daemon what it does not know yet.
    fn tell(&mut self) {
        let states: Vec<State> =
            self.programs.iter().filter_map(|(program, known)| self.state(program, known)).collect();
        let Some(daemon) = &mut self.daemon else { return };
        daemon.told.retain(|program, _| self.programs.contains_key(program));
        for state in states {
            if daemon.told.get(&state.program) == Some(&state) {
                continue;
            }
            if let Err(error) = daemon.stream.write_all(&line(&state)) {
                tracing::error!(%error, "the daemon does not listen: cut off");
                // Its reader tells that it is gone.
                let _ = daemon.stream.shutdown(Shutdown::Both);
                return;
            }
            daemon.told.insert(state.program.clone(), state);
        }
    }

    fn state(&self, program: &Program, known: &Known) -> Option<State> {
        let found = known.found.as_ref()?;
        // Unresolved is refused, also where processes of the right file still run.
        let is_its = |child: &&Child| found.is_ok() && child.programs.contains(program);
        let its = self.children.values().filter(is_its);
        let cgroup = |child: &Child| ProgramCgroup {
            path: child.place.cgroup.path.clone(),
            id: child.place.cgroup.id,
        };
        Some(State {
            program: program.clone(),
            unresolved: found.as_ref().err().cloned(),
            cgroups: its.map(cgroup).collect(),
            outside: known.outside,
        })
    }

    // What is left behind

    fn sweep(&mut self) {
        let now = Instant::now();
        if now < self.sweep_at {
            return;
        }
        self.sweep_at = now + SWEEP;
        let hierarchy = &self.hierarchy;
        let before = self.children.len();
        self.children.retain(|path, child| {
            let outcome = match child.place.is_populated() {
                Ok(None) => Ok(true),
                Ok(Some(false)) if now.duration_since(child.used_at) >= IDLE => child.place.remove(hierarchy),
                Ok(Some(_)) => Ok(false),
                Err(error) => Err(error),
            };
            match outcome {
                Ok(gone) => !gone,
                Err(error) => {
                    tracing::warn!(cgroup = path, %error, "cannot tell whether a cgroup is in use");
                    true
                }
            }
        });
        if self.children.len() != before {
            self.tell();
        }
    }
}

fn not_classified(hold: &Hold, error: &dyn std::fmt::Display) {
    hold.release();
    tracing::warn!(pid = hold.exec.pid, %error, "a program's process stays where it is: not classified");
}

/// False once the process has ended: its number may be somebody else's.
fn is_alive(hold: &Hold) -> bool {
    let Some(pidfd) = &hold.exec.pidfd else { return false };
    let now = Timespec::default();
    matches!(poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)), Ok(0))
}

/// The part of a path above the first cgroup that is ours: a program that starts another one is no part of it.
fn above_ours(path: &str) -> &str {
    match path.split('/').position(is_ours) {
        None => path,
        Some(index) => {
            let above: usize = path.split('/').take(index).map(|part| part.len() + 1).sum();
            &path[..above.saturating_sub(1).max(1)]
        }
    }
}

fn name(programs: &BTreeSet<Program>) -> String {
    let text = serde_json::to_vec(programs).unwrap_or_default();
    let digest = Sha256::digest(&text);
    let digits: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{PREFIX}{digits}")
}

/// The cgroups that an earlier helper made, with their programs.
fn earlier(hierarchy: &Hierarchy) -> Vec<(ChildCgroup, BTreeSet<Program>)> {
    let mut found = Vec::new();
    let mut waiting = vec!["/".to_owned()];
    while let Some(path) = waiting.pop() {
        for name in hierarchy.children(&path).unwrap_or_default() {
            let below = format!("{}/{name}", path.trim_end_matches('/'));
            if is_ours(&name) {
                found.extend(earlier_one(hierarchy, &below));
            } else {
                waiting.push(below);
            }
        }
    }
    found
}

fn earlier_one(hierarchy: &Hierarchy, path: &str) -> Option<(ChildCgroup, BTreeSet<Program>)> {
    let (place, note) = ChildCgroup::find(hierarchy, path).ok().flatten()?;
    Some((place, serde_json::from_str(&note).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(path: &str) -> Program {
        Program { path: path.to_owned(), sha256: None }
    }

    #[test]
    fn a_program_that_another_one_starts_is_beside_it() {
        for (path, above) in [
            ("/", "/"),
            ("/a/b.service", "/a/b.service"),
            ("/a/b.service/picoseg-exe-1", "/a/b.service"),
            ("/a/b.service/picoseg-exe-1/c/picoseg-exe-2", "/a/b.service"),
            ("/picoseg-exe-1", "/"),
            ("/picoseg-exe-1/a", "/"),
        ] {
            assert_eq!(above_ours(path), above, "{path}");
        }
    }

    #[test]
    fn a_name_follows_from_the_programs_alone() {
        let of = |paths: &[&str]| name(&paths.iter().map(|path| program(path)).collect());
        assert_eq!(of(&["/a", "/b"]), of(&["/b", "/a"]));
        assert_ne!(of(&["/a"]), of(&["/a", "/b"]));
        assert!(is_ours(&of(&["/a"])) && of(&["/a"]).len() == PREFIX.len() + 16);
    }
}
