//! The thread that reads executions and never waits for anybody: each goes on after [`HOLD`] at the latest.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::thread;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, Signal};

use super::mover::{Message, Mover};
use super::{BEAT, ExecdError, HOLD, failed, files, link};
use crate::kernel::cgroups::Hierarchy;
use crate::kernel::fanotify::{ExecGroup, HeldExec};

/// An execution that is held until somebody, the first one, lets it go.
#[derive(Debug)]
pub struct Hold {
    pub exec: HeldExec,
    pub since: Instant,
    group: Arc<ExecGroup>,
    released: AtomicBool,
}

impl Hold {
    /// Lets it go on; false when that has happened before.
    pub fn release(&self) -> bool {
        let first = !self.released.swap(true, Ordering::AcqRel);
        if first && let Err(error) = self.group.allow(&self.exec) {
            tracing::error!(%error, "cannot answer an execution");
        }
        first
    }
}

impl Drop for Hold {
    /// Whoever loses one must not keep a process waiting.
    fn drop(&mut self) {
        self.release();
    }
}

/// Runs until something fails that only a new process can mend. The socket is stdin, the heartbeat goes to stdout.
pub fn run(guard: u32) -> Result<(), ExecdError> {
    die_with(guard)?;
    die_of_panics();
    raise_descriptors();
    let hierarchy = Hierarchy::find()?;
    let group =
        Arc::new(ExecGroup::new().map_err(failed("hold executions (fanotify, needs CAP_SYS_ADMIN)"))?);
    let listener = io::stdin().as_fd().try_clone_to_owned().map_err(failed("take over the socket"))?;
    let (messages, inbox) = mpsc::channel();
    let files = files::start(Arc::clone(&group), messages.clone())?;
    link::start(UnixListener::from(listener), messages.clone())?;
    spawn("mover", move || Mover::new(hierarchy, files).run(&inbox))?;
    Responder { group, messages, held: VecDeque::new(), beat_at: Instant::now() }.run()
}

/// A guard that was killed cannot kill us.
fn die_with(guard: u32) -> Result<(), ExecdError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|errno| failed("die with the guard")(errno.into()))?;
    // It may have died before we asked for the signal.
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    match parent.and_then(|pid| u32::try_from(pid).ok()) == Some(guard) {
        true => Ok(()),
        false => Err(failed("work without a guard")(io::ErrorKind::NotConnected.into())),
    }
}

/// A thread that is gone would leave executions to their deadline: a new process does better.
fn die_of_panics() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        say(info);
        std::process::abort();
    }));
}

/// Each held execution takes two descriptors, and one that cannot be opened is denied by the kernel.
fn raise_descriptors() {
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "cannot raise the number of descriptors");
    }
}

/// Starts a thread.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), ExecdError> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(body);
    thread.map(drop).map_err(failed(format!("start the thread {name}")))
}

struct Responder {
    group: Arc<ExecGroup>,
    messages: mpsc::Sender<Message>,
    /// By age. Those that are gone were let go.
    held: VecDeque<(Instant, Weak<Hold>)>,
    beat_at: Instant,
}

impl Responder {
    fn run(mut self) -> Result<(), ExecdError> {
        loop {
            self.beat()?;
            self.wait()?;
            for exec in self.group.read().map_err(failed("read executions"))? {
                self.hold(exec)?;
            }
            self.let_go();
        }
    }

    fn hold(&mut self, exec: HeldExec) -> Result<(), ExecdError> {
        let since = Instant::now();
        let group = Arc::clone(&self.group);
        let hold = Arc::new(Hold { exec, since, group, released: AtomicBool::new(false) });
        self.held.push_back((since + HOLD, Arc::downgrade(&hold)));
        let gone = |_| failed("reach the mover")(io::ErrorKind::BrokenPipe.into());
        self.messages.send(Message::Exec(hold)).map_err(gone)
    }

    /// Lets everything go whose time is over.
    fn let_go(&mut self) {
        let now = Instant::now();
        while let Some((deadline, hold)) = self.held.front() {
            if *deadline > now && hold.strong_count() > 0 {
                return;
            }
            if let Some(hold) = hold.upgrade()
                && hold.release()
            {
                tracing::error!(pid = hold.exec.pid, "an execution was not judged in time: not classified");
            }
            self.held.pop_front();
        }
    }

    fn wait(&self) -> Result<(), ExecdError> {
        let next = self.held.front().map_or(self.beat_at, |(deadline, _)| self.beat_at.min(*deadline));
        let left = next.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or_default();
        match poll(&mut [PollFd::new(&*self.group, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(failed("wait for executions")(errno.into())),
        }
    }

    fn beat(&mut self) -> Result<(), ExecdError> {
        if self.beat_at > Instant::now() {
            return Ok(());
        }
        self.beat_at = Instant::now() + BEAT;
        let mut guard = io::stdout();
        guard.write_all(b".").and_then(|()| guard.flush()).map_err(failed("tell the guard how we are"))
    }
}
