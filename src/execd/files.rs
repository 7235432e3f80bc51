//! Which file each program is right now: marked, followed when it is replaced, compared with its digest.
//!
//! inotify tells at once about the directory of a path and of the file it leads to; a look at every path each
//! [`LOOK`] finds what nobody tells, such as a symbolic link further up that was turned. A file that is replaced in
//! between is not marked yet: what is executed then is not classified, hence refused.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::mover::Message;
use super::protocol::Program;
use super::responder::{Hold, spawn};
use super::stamp::{self, FileId, Stamp};
use super::{ExecdError, failed, processes};
use crate::kernel::fanotify::ExecGroup;

/// Between two looks at every path. A replaced file is followed within a second.
const LOOK: Duration = Duration::from_millis(300);

/// A file that is not there for this time is missing.
const GONE: Duration = Duration::from_millis(500);

/// Between two counts of the running processes.
const COUNT: Duration = Duration::from_secs(10);

/// A directory with many events is looked at this often.
const BREATH: Duration = Duration::from_millis(5);

pub enum Job {
    /// These programs and no others.
    Want(BTreeSet<Program>),
    /// Something happened to a file.
    Look,
    /// The file of this execution is no program's any more.
    Stale(Arc<Hold>),
}

/// The file of a program, or why there is none.
pub type Found = Result<Stamp, String>;

/// Starts the threads.
pub fn start(group: Arc<ExecGroup>, messages: Sender<Message>) -> Result<Sender<Job>, ExecdError> {
    let inotify = inotify::init(CreateFlags::CLOEXEC).map_err(|errno| failed("watch files")(errno.into()))?;
    let inotify = Arc::new(inotify);
    let (jobs, inbox) = mpsc::channel();
    let (events, looks) = (Arc::clone(&inotify), jobs.clone());
    spawn("watch", move || watch(&events, &looks))?;
    let files = Files {
        group,
        messages,
        watches: Watches { inotify, directories: BTreeMap::new() },
        own: processes::own_files(),
        programs: BTreeMap::new(),
        missing: Missing::default(),
        counted: BTreeMap::new(),
        count_at: Instant::now(),
    };
    spawn("files", move || files.run(&inbox))?;
    Ok(jobs)
}

/// What happened does not matter: every path is looked at.
fn watch(inotify: &OwnedFd, jobs: &Sender<Job>) {
    let mut buffer = [0; 4096];
    loop {
        match rustix::io::read(inotify, &mut buffer) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => {
                tracing::error!(error = %errno, "cannot watch files: a replaced one is followed more slowly");
                return;
            }
        }
        if jobs.send(Job::Look).is_err() {
            return;
        }
        sleep(BREATH);
    }
}

struct Files {
    group: Arc<ExecGroup>,
    messages: Sender<Message>,
    watches: Watches,
    /// Files that we run on: an execution of ours must not wait for us.
    own: Vec<FileId>,
    programs: BTreeMap<Program, Looked>,
    missing: Missing,
    counted: BTreeMap<Program, u32>,
    count_at: Instant,
}

/// What the last look at a path came to.
#[derive(Debug, Default)]
struct Looked {
    /// None: it was not looked at yet.
    found: Option<Found>,
    /// The file that was judged; none: it has to be judged again.
    judged: Option<Stamp>,
}

impl Looked {
    fn is_still(&self, program: &Program) -> bool {
        let (Some(judged), Ok(now)) = (self.judged, Stamp::at(&program.path)) else { return false };
        if program.sha256.is_some() { now == judged } else { now.file == judged.file }
    }

    fn file(&self) -> Option<FileId> {
        self.found.as_ref()?.as_ref().ok().map(|stamp| stamp.file)
    }
}

/// Since when the file of a marked program is not there.
#[derive(Default)]
struct Missing(BTreeMap<Program, Instant>);

impl Missing {
    fn is_brief(&mut self, program: &Program) -> bool {
        let since = self.0.entry(program.clone()).or_insert_with(Instant::now);
        since.elapsed() < GONE
    }
}

impl Files {
    fn run(mut self, inbox: &Receiver<Job>) {
        loop {
            let job = match self.programs.is_empty() {
                true => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => inbox.recv_timeout(LOOK),
            };
            match job {
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
                Ok(job) => {
                    self.take(job);
                    inbox.try_iter().for_each(|job| self.take(job));
                }
            }
            self.look();
            self.count();
        }
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Look => {}
            Job::Want(programs) => self.want(programs),
            Job::Stale(hold) => {
                if let Err(error) = self.group.unmark(&hold.exec.file) {
                    tracing::warn!(%error, "cannot take the mark off a file");
                }
                // It may be wanted again by now.
                self.mark_again(&hold);
            }
        }
    }

    fn mark_again(&mut self, hold: &Hold) {
        let Ok(stamp) = Stamp::of(&hold.exec.file) else { return };
        for looked in self.programs.values_mut().filter(|looked| looked.file() == Some(stamp.file)) {
            looked.judged = None;
        }
    }

    fn want(&mut self, wanted: BTreeSet<Program>) {
        if wanted.is_empty()
            && let Err(error) = self.group.unmark_all()
        {
            tracing::error!(%error, "cannot take the marks off");
        }
        let mut before = std::mem::take(&mut self.programs);
        let kept = |program: Program| {
            let looked = before.remove(&program).unwrap_or_default();
            (program, looked)
        };
        self.programs = wanted.into_iter().map(kept).collect();
        self.counted.clear();
        self.missing.0.clear();
        self.count_at = Instant::now();
        self.watches.keep(&self.programs);
    }

    /// Looks at every path; what is the same as before costs one system call.
    fn look(&mut self) {
        let changed = self.programs.iter().filter(|(program, looked)| !looked.is_still(program));
        let changed: Vec<Program> = changed.map(|(program, _)| program.clone()).collect();
        for program in changed {
            self.examine(program);
        }
    }

    fn examine(&mut self, program: Program) {
        self.watches.add(&program);
        let known = self.programs.get(&program).and_then(|looked| looked.found.clone());
        let handle = match stamp::open(&program.path) {
            // Some installers remove the old file before they make the new one.
            Err(_) if matches!(known, Some(Ok(_))) && self.missing.is_brief(&program) => return,
            handle => handle,
        };
        self.missing.0.remove(&program);
        let mut judged = None;
        let found = handle.and_then(|handle| self.judge(&program, &handle, &mut judged));
        if known.as_ref() != Some(&found) {
            match &found {
                Ok(_) => tracing::info!(path = program.path, "program marked"),
                Err(why) => tracing::warn!(path = program.path, why, "program unresolved"),
            }
            let _ = self.messages.send(Message::File(program.clone(), found.clone()));
            self.count_at = Instant::now();
        }
        self.programs.insert(program, Looked { found: Some(found), judged });
    }

    /// Judges the file and marks it. `judged`: the same file need not be judged again.
    fn judge(&self, program: &Program, handle: &OwnedFd, judged: &mut Option<Stamp>) -> Found {
        let mut stamp = Stamp::of(handle).map_err(|error| error.to_string())?;
        if self.own.contains(&stamp.file) {
            *judged = Some(stamp);
            return Err("picoseg-execd runs on this file itself".to_owned());
        }
        if let Some(wanted) = &program.sha256 {
            let digest;
            (digest, stamp) = stamp::digest(handle).map_err(|error| error.to_string())?;
            if digest != *wanted {
                *judged = Some(stamp);
                return Err(format!("the file has another digest: {digest}"));
            }
        }
        self.group.mark(handle).map_err(|error| format!("it cannot be marked: {error}"))?;
        *judged = Some(stamp);
        Ok(stamp)
    }

    fn count(&mut self) {
        if self.programs.is_empty() || Instant::now() < self.count_at {
            return;
        }
        self.count_at = Instant::now() + COUNT;
        let counts = processes::outside(self.programs.values().filter_map(Looked::file));
        let of_program =
            |(program, looked): (&Program, &Looked)| Some((program.clone(), *counts.get(&looked.file()?)?));
        let counted: BTreeMap<Program, u32> = self.programs.iter().filter_map(of_program).collect();
        if counted != self.counted {
            let _ = self.messages.send(Message::Outside(counted.clone()));
            self.counted = counted;
        }
    }
}

/// The directories in which something may happen to a program.
struct Watches {
    inotify: Arc<OwnedFd>,
    directories: BTreeMap<PathBuf, i32>,
}

impl Watches {
    /// Watches the directory of the path, and that of the file where a symbolic link leads elsewhere.
    fn add(&mut self, program: &Program) {
        let flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR;
        for directory in directories(program) {
            // A directory that is not there, or one too many: it is looked at all the same.
            if let Ok(descriptor) = inotify::add_watch(&*self.inotify, &directory, flags) {
                self.directories.insert(directory, descriptor);
            }
        }
    }

    /// Ends the watches that none of these programs needs.
    fn keep(&mut self, programs: &BTreeMap<Program, Looked>) {
        let needed: BTreeSet<PathBuf> = programs.keys().flat_map(directories).collect();
        let (kept, ended) = std::mem::take(&mut self.directories)
            .into_iter()
            .partition(|(directory, _)| needed.contains(directory));
        self.directories = kept;
        let used: BTreeSet<i32> = self.directories.values().copied().collect();
        let ended: BTreeMap<PathBuf, i32> = ended;
        for descriptor in ended.values().filter(|descriptor| !used.contains(descriptor)) {
            // The directory may be gone.
            let _ = inotify::remove_watch(&*self.inotify, *descriptor);
        }
    }
}

fn directories(program: &Program) -> impl Iterator<Item = PathBuf> {
    let written = Path::new(&program.path).to_owned();
    let real = written.canonicalize().ok();
    let parent = |path: PathBuf| path.parent().map(Path::to_owned);
    [parent(written), real.and_then(parent)].into_iter().flatten()
}
