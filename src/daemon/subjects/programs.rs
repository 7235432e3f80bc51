//! Where the processes of programs are, as the helper `picoseg-execd` tells.
//!
//! ```text
//!            connect            lost
//!   Down ------------> Up ------------> Down, and after GRACE: unresolved
//!    ^  every RETRY      | states, confirmations
//! ```
//!
//! Without the helper no new process becomes one of a program, so that what is known stays true for a while: a
//! restart of the helper cuts nothing. After [`GRACE`] the subjects are unresolved, hence refused; segments go on
//! enclosing what was known.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::Resolved;
use crate::compile::Place;
use crate::execd::protocol::{Ask, MAX_LINE, Program, ProgramCgroup, SOCKET, State, line};
use crate::kernel::cgroups::{Cgroup, Hierarchy};
use crate::kernel::wait::Waiting;
use crate::model::Subject;

/// Between two tries to reach the helper.
const RETRY: Duration = Duration::from_secs(1);

/// Before the first try after it was lost: another one starts within this time.
const RETURN: Duration = Duration::from_millis(100);

/// How long the last answers hold without it.
const GRACE: Duration = Duration::from_secs(2);

/// How long a change of the files waits for the first answers.
const ANSWER: Duration = Duration::from_millis(500);

/// A helper that does not take what is sent for this time is lost.
const UNREAD: Duration = Duration::from_millis(200);

/// What is known of a program right now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramState {
    /// Why its executions are not seen; none: they are.
    pub unresolved: Option<String>,
    /// Its processes that were started before that, and have to be started anew.
    pub outside: u32,
    cgroups: Vec<Cgroup>,
    /// Where they were when the helper was lost. What encloses them holds on; ids of cgroups are never used again.
    former: Vec<Cgroup>,
}

/// The helper's client.
pub struct Programs {
    hierarchy: Hierarchy,
    socket: PathBuf,
    wanted: BTreeMap<Subject, ProgramState>,
    link: Link,
    /// Who was told of on the present connection.
    current: BTreeSet<Subject>,
    /// When what was not told again ends.
    ends_at: Option<Instant>,
    /// Cgroups that the helper waits for, and those that it knows to be in the table.
    unconfirmed: BTreeSet<(Subject, u64)>,
    confirmed: BTreeSet<u64>,
}

enum Link {
    Up(Waiting<Line>),
    Down { retry_at: Instant },
}

impl Programs {
    pub fn new(hierarchy: Hierarchy, runtime: &Path) -> Self {
        Self {
            hierarchy,
            socket: runtime.join(SOCKET),
            wanted: BTreeMap::new(),
            link: Link::Down { retry_at: Instant::now() },
            current: BTreeSet::new(),
            ends_at: None,
            unconfirmed: BTreeSet::new(),
            confirmed: BTreeSet::new(),
        }
    }

    /// Whether a subject is one of ours.
    pub fn is_program(subject: &Subject) -> bool {
        matches!(subject, Subject::Exe { .. })
    }

    /// Asks for these subjects from now on, those that are programs; returns where all of them are.
    pub fn set(&mut self, subjects: &[Subject]) -> Vec<Resolved> {
        let mut before = std::mem::take(&mut self.wanted);
        let wanted = subjects.iter().filter(|subject| Self::is_program(subject));
        self.wanted = wanted
            .map(|subject| (subject.clone(), before.remove(subject).unwrap_or_else(ProgramState::unknown)))
            .collect();
        self.current.retain(|subject| self.wanted.contains_key(subject));
        self.unconfirmed.retain(|(subject, _)| self.wanted.contains_key(subject));
        match &mut self.link {
            Link::Up(_) => self.want(),
            // Also when nothing is wanted: an earlier daemon may have left marks.
            Link::Down { .. } => self.connect(),
        }
        self.listen_for(ANSWER);
        if self.wanted.is_empty() {
            self.link = Link::Down { retry_at: Instant::now() };
        }
        self.resolved()
    }

    pub fn resolved(&self) -> Vec<Resolved> {
        self.wanted.keys().map(|subject| (subject.clone(), self.places(subject))).collect()
    }

    /// What is known of a program; none when no file names it.
    pub fn state(&self, subject: &Subject) -> Option<&ProgramState> {
        self.wanted.get(subject)
    }

    fn places(&self, subject: &Subject) -> Vec<Place> {
        let Some(state) = self.wanted.get(subject) else { return Vec::new() };
        let former = self.hierarchy.places(state.former.clone()).into_iter().map(Place::into_former);
        self.hierarchy.places(state.cgroups.clone()).into_iter().chain(former).collect()
    }

    /// Waits until there is something to do. Safe in `select!`.
    pub async fn changed(&mut self) {
        let at = self.ends_at;
        let ended = async move {
            match at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let wanted = !self.wanted.is_empty();
        let linked = async {
            match &mut self.link {
                // An error shows again when the line is read.
                Link::Up(line) => drop(line.readable().await),
                Link::Down { retry_at } if wanted => tokio::time::sleep_until((*retry_at).into()).await,
                Link::Down { .. } => std::future::pending().await,
            }
        };
        tokio::select! {
            () = linked => {}
            () = ended => {}
        }
    }

    /// Does what is to be done now, without waiting; returns the subjects that moved.
    pub fn next_changes(&mut self) -> Vec<Resolved> {
        let now = Instant::now();
        let mut changed = BTreeSet::new();
        match &self.link {
            Link::Down { retry_at } if !self.wanted.is_empty() && *retry_at <= now => self.connect(),
            Link::Up(_) => self.listen(&mut changed),
            Link::Down { .. } => {}
        }
        if self.ends_at.is_some_and(|at| at <= now) {
            self.ends_at = None;
            self.forget(&mut changed);
        }
        changed.into_iter().map(|subject| (subject.clone(), self.places(&subject))).collect()
    }

    /// Tells the helper which of its cgroups are in the table: executions wait for it.
    pub fn confirm<'a>(&mut self, places: impl Fn(&Subject) -> &'a [Place]) {
        let is_there = |(subject, id): &(Subject, u64)| {
            places(subject).iter().any(|place| matches!(place, Place::Cgroup(place) if place.id == *id))
        };
        let (there, not_yet) = std::mem::take(&mut self.unconfirmed).into_iter().partition(is_there);
        self.unconfirmed = not_yet;
        let there: BTreeSet<(Subject, u64)> = there;
        let ids: BTreeSet<u64> = there.into_iter().map(|(_, id)| id).collect();
        if !ids.is_empty() {
            self.send(&Ask::InForce(ids.iter().copied().collect()));
            self.confirmed.extend(ids);
        }
    }

    fn connect(&mut self) {
        self.link = match Line::connect(&self.socket).and_then(Waiting::new) {
            Ok(line) => Link::Up(line),
            Err(error) => {
                tracing::debug!(socket = %self.socket.display(), %error, "no picoseg-execd");
                Link::Down { retry_at: Instant::now() + RETRY }
            }
        };
        self.want();
    }

    fn want(&mut self) {
        let programs = self.wanted.keys().filter_map(Program::of).collect();
        self.send(&Ask::Want(programs));
    }

    fn send(&mut self, ask: &Ask) {
        if let Link::Up(up) = &mut self.link
            && let Err(error) = up.get_mut().send(ask)
        {
            self.lost(&error);
        }
    }

    fn lost(&mut self, error: &io::Error) {
        let now = Instant::now();
        tracing::error!(%error, "picoseg-execd is gone: without it `exe` subjects are unresolved");
        self.link = Link::Down { retry_at: now + RETURN };
        self.current.clear();
        self.unconfirmed.clear();
        self.confirmed.clear();
        self.ends_at.get_or_insert(now + GRACE);
    }

    /// Ends what the helper has not told again.
    fn forget(&mut self, changed: &mut BTreeSet<Subject>) {
        for (subject, state) in self.wanted.iter_mut().filter(|(subject, _)| !self.current.contains(subject))
        {
            if !state.cgroups.is_empty() {
                changed.insert(subject.clone());
            }
            let last = std::mem::take(&mut state.cgroups);
            let former = if last.is_empty() { std::mem::take(&mut state.former) } else { last };
            *state = ProgramState { former, ..ProgramState::unknown() };
        }
    }

    /// Reads until every subject was told of, but not for ever.
    fn listen_for(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while self.current.len() < self.wanted.len() {
            let Link::Up(up) = &mut self.link else { return };
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).unwrap_or_default();
            let heard = poll(&mut [PollFd::new(up.get_mut(), PollFlags::IN)], Some(&timeout));
            self.listen(&mut BTreeSet::new());
            if heard == Ok(0) {
                return;
            }
        }
    }

    fn listen(&mut self, changed: &mut BTreeSet<Subject>) {
        let Link::Up(up) = &mut self.link else { return };
        let (states, end) = up.get_mut().read();
        for state in states {
            self.take(state, changed);
        }
        if let Err(error) = end {
            self.lost(&error);
        }
    }

    fn take(&mut self, state: State, changed: &mut BTreeSet<Subject>) {
        let Some(subject) = state.program.subject() else { return };
        let Some(known) = self.wanted.get_mut(&subject) else { return };
        let fresh = ProgramState {
            unresolved: state.unresolved,
            outside: state.outside,
            cgroups: state.cgroups.into_iter().map(cgroup).collect(),
            former: Vec::new(),
        };
        tell(&subject, known, &fresh);
        let ids = fresh.cgroups.iter().map(|cgroup| cgroup.id).filter(|id| !self.confirmed.contains(id));
        self.unconfirmed.extend(ids.map(|id| (subject.clone(), id)));
        if known.cgroups != fresh.cgroups || !known.former.is_empty() {
            changed.insert(subject.clone());
        }
        *known = fresh;
        self.current.insert(subject);
    }
}

impl ProgramState {
    fn unknown() -> Self {
        let why = "picoseg-execd does not answer".to_owned();
        Self { unresolved: Some(why), outside: 0, cgroups: Vec::new(), former: Vec::new() }
    }
}

fn tell(subject: &Subject, before: &ProgramState, now: &ProgramState) {
    match &now.unresolved {
        Some(why) if before.unresolved.as_ref() != Some(why) => {
            tracing::warn!(%subject, why, "program unresolved");
        }
        None if before.unresolved.is_some() => tracing::info!(%subject, "program is followed"),
        Some(_) | None => {}
    }
    if now.outside > before.outside {
        tracing::warn!(%subject, processes = now.outside, "started before it was followed: start them anew");
    }
}

fn cgroup(ProgramCgroup { path, id }: ProgramCgroup) -> Cgroup {
    let level = path.split('/').filter(|part| !part.is_empty()).count();
    Cgroup { path, id, level }
}

/// The connection. Reading never waits, writing for [`UNREAD`].
struct Line {
    stream: UnixStream,
    /// What came after the last whole line.
    rest: Vec<u8>,
}

impl Line {
    fn connect(path: &Path) -> io::Result<Self> {
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // Also for connecting: a stopped helper does not accept.
        set_socket_timeout(&socket, Timeout::Send, Some(UNREAD))?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self { stream: socket.into(), rest: Vec::new() })
    }

    fn send(&mut self, ask: &Ask) -> io::Result<()> {
        self.stream.write_all(&line(ask))
    }

    /// All whole lines that are there, and why there will be no more.
    fn read(&mut self) -> (Vec<State>, io::Result<()>) {
        let mut states = Vec::new();
        let end = self.read_into(&mut states);
        (states, end)
    }

    fn read_into(&mut self, states: &mut Vec<State>) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        loop {
            let read = match rustix::net::recv(&self.stream, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((read, _)) => read,
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            self.rest.extend_from_slice(&buffer[..read]);
            while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                states.push(serde_json::from_slice(&line)?);
            }
            if self.rest.len() > MAX_LINE {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
