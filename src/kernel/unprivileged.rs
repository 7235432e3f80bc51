//! Runs programs that have nothing of what we may do.
//!
//! Capabilities and the bit that keeps programs from gaining any belong to a thread (capabilities(7),
//! PR_SET_NO_NEW_PRIVS(2const)), and a child is made of the thread that starts it. So one thread gives up everything, and
//! starts whatever is to be run: no code runs between fork and exec, and nothing is needed that a bounding set may lack. As root
//! a program would else get at its start whatever the bounding set has, and as another user what is ambient.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, geteuid, kill_process_group, waitid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities, set_no_new_privs,
};
use tokio::sync::oneshot;

/// How often we look whether it has ended.
const LOOK: Duration = Duration::from_millis(20);
/// The only variable of its environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("no thread without privileges: {0}")]
    Thread(#[source] io::Error),
    #[error("cannot start {program}: {source}")]
    Start { program: String, source: io::Error },
    #[error("{program} failed: {status}")]
    Failed { program: String, status: ExitStatus },
    #[error("{program} did not end within {} s and was killed", limit.as_secs())]
    TooSlow { program: String, limit: Duration },
}

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Job {
    /// A program by its absolute path, and its arguments.
    pub command: Vec<String>,
    /// What it reads on its standard input.
    pub input: Vec<u8>,
    /// When it is killed, with all of its process group.
    pub limit: Duration,
}

type Asked = (Job, oneshot::Sender<Result<(), RunError>>);

/// A thread that runs one program at a time.
#[derive(Debug)]
pub struct Runner {
    jobs: Sender<Asked>,
}

impl Runner {
    pub fn start() -> Result<Self, RunError> {
        let (jobs, asked) = channel::<Asked>();
        let (renounced, outcome) = channel();
        let thread = std::thread::Builder::new().name("notify".into());
        let body = move || {
            let done = renounce();
            let stop = done.is_err();
            if renounced.send(done).is_err() || stop {
                return;
            }
            for (job, answer) in asked {
                // Whoever asked may be gone.
                let _ = answer.send(run(&job));
            }
        };
        thread.spawn(body).map_err(RunError::Thread)?;
        match outcome.recv() {
            Ok(done) => done.map(|()| Self { jobs }).map_err(RunError::Thread),
            Err(_) => Err(RunError::Thread(io::Error::other("it ended"))),
        }
    }

    /// Runs a program and waits until it has ended well. What it prints is not kept.
    pub async fn run(&self, job: Job) -> Result<(), RunError> {
        let ended = || RunError::Thread(io::Error::other("it ended"));
        let (answer, outcome) = oneshot::channel();
        self.jobs.send((job, answer)).map_err(|_| ended())?;
        outcome.await.map_err(|_| ended())?
    }
}

/// Gives up all capabilities of this thread and of what it starts, for good.
///
/// A filter of system calls may have no capset: then the thread keeps its own, and what it starts gets none all the
/// same, unless we are root. Of other users a program keeps the ambient ones alone.
fn renounce() -> io::Result<()> {
    set_no_new_privs(true)?;
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    match set_capabilities(None, sets) {
        Err(Errno::PERM) if !geteuid().is_root() => Ok(()),
        renounced => Ok(renounced?),
    }
}

fn run(job: &Job) -> Result<(), RunError> {
    let program = job.command.first().cloned().unwrap_or_default();
    let started = start(job).map_err(|source| RunError::Start { program: program.clone(), source });
    let mut child = started?;
    let ended = within(&child, job.limit);
    // Before it is reaped: until then nobody else can get its number. What it left behind goes too.
    if let Ok(Some(group)) = i32::try_from(child.id()).map(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let status = child.wait().map_err(|source| RunError::Start { program: program.clone(), source })?;
    match ended {
        true if status.success() => Ok(()),
        true => Err(RunError::Failed { program, status }),
        false => Err(RunError::TooSlow { program, limit: job.limit }),
    }
}

fn start(job: &Job) -> io::Result<Child> {
    let Some((program, arguments)) = job.command.split_first() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .process_group(0)
        .stdin(input(&job.input)?)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// A file in memory: a pipe that nobody reads would hold us up.
fn input(bytes: &[u8]) -> io::Result<Stdio> {
    let mut file = File::from(memfd_create("picoseg-notify", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// Waits for its end without reaping it; false when it takes too long.
fn within(child: &Child, limit: Duration) -> bool {
    let began = Instant::now();
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let Some(process) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return false };
    while began.elapsed() < limit {
        match waitid(WaitId::Pid(process), options) {
            Ok(None) => std::thread::sleep(LOOK),
            Ok(Some(_)) | Err(_) => return true,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn job(script: &str, limit: Duration) -> Job {
        let command = ["/bin/sh", "-c", script].map(str::to_owned).into();
        Job { command, input: b"one\ntwo\n".to_vec(), limit }
    }

    async fn run(script: &str) -> Result<(), RunError> {
        Runner::start().unwrap().run(job(script, Duration::from_secs(10))).await
    }

    #[tokio::test]
    async fn a_program_has_no_capabilities_and_cannot_get_any() {
        let directory = tempfile::tempdir().unwrap();
        let (before, place) =
            (fs::read_to_string("/proc/self/status").unwrap(), directory.path().join("status"));
        run(&format!("cat /proc/self/status > {}", place.display())).await.unwrap();
        let status = fs::read_to_string(place).unwrap();
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned()).unwrap_or_else(|| panic!("no {name} in {status}"))
        };
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(of(set), "0".repeat(16), "{set}");
        }
        assert_eq!(of("NoNewPrivs:"), "1");
        // We keep what we have.
        let caps = |text: &str| text.lines().find(|line| line.starts_with("CapEff")).map(str::to_owned);
        assert_eq!(caps(&fs::read_to_string("/proc/self/status").unwrap()), caps(&before));
    }

    #[tokio::test]
    async fn a_program_gets_its_input_and_nothing_of_our_environment() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("out");
        run(&format!("cat > {0}; env >> {0}; pwd >> {0}; ps -o pgid= $$ >> {0}", place.display()))
            .await
            .unwrap();
        let out = fs::read_to_string(place).unwrap();
        assert!(out.starts_with("one\ntwo\n") && out.contains(&format!("PATH={PATH}")), "{out}");
        assert!(!out.contains("CARGO") && !out.contains("HOME="), "{out}");
    }

    #[tokio::test]
    async fn what_fails_is_missing_or_hangs_is_an_error_and_leaves_nothing_behind() {
        assert!(matches!(run("exit 3").await, Err(RunError::Failed { .. })));
        let missing = Job { command: vec!["/nonexistent".into()], ..job("", Duration::from_secs(1)) };
        let runner = Runner::start().unwrap();
        assert!(matches!(runner.run(missing).await, Err(RunError::Start { .. })));
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("alive");
        let child = format!("sleep 1; echo still there > {}", place.display());
        let slow = job(&format!("({child}) & sleep 60"), Duration::from_millis(200));
        assert!(matches!(runner.run(slow).await, Err(RunError::TooSlow { .. })));
        let left = job(&format!("({child}) & exit 0"), Duration::from_secs(5));
        runner.run(left).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert!(!place.exists());
    }
}
