//! `picosegd` as a child, from its start until `READY=1` and to its end.

use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{cli, clock};

/// From the start until the ruleset is in force, in a debug build on a loaded machine.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// From SIGTERM to the exit.
const GONE_WITHIN: Duration = Duration::from_secs(10);

pub struct Daemon {
    child: Child,
    log: PathBuf,
}

/// A daemon that ended before it was ready.
#[derive(Debug)]
pub struct Failed {
    pub code: Option<i32>,
    pub log: String,
}

impl Daemon {
    /// Starts `command` and waits for `READY=1`.
    ///
    /// `notify` and `log` are paths of its own; the socket is gone afterwards.
    ///
    /// # Errors
    /// When it ends before, or is not ready in time.
    pub fn start(mut command: Command, notify: PathBuf, log: PathBuf) -> Result<Self, Failed> {
        let socket = UnixDatagram::bind(&notify).expect("a socket in a directory of ours");
        socket.set_nonblocking(true).expect("a socket of ours");
        command.env("NOTIFY_SOCKET", &notify).env("NO_COLOR", "1").stdin(Stdio::null());
        command.stdout(append(&log)).stderr(append(&log));
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let mut daemon = Self { child, log };
        let outcome = clock::within(READY_WITHIN, || daemon.readiness(&socket));
        let _ = fs::remove_file(&notify);
        match outcome {
            Some(Ok(())) => Ok(daemon),
            Some(Err(code)) => Err(Failed { code, log: tail(&daemon.said()) }),
            None => Err(Failed {
                code: None,
                log: format!("no READY=1 within {READY_WITHIN:?}\n{}", daemon.said()),
            }),
        }
    }

    /// What it has written so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGKILL: no last word, no clean-up.
    pub fn kill9(mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
    }

    /// SIGTERM, and the status it exits with.
    pub fn term(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        cli::ended(&mut self.child, GONE_WITHIN)
            .unwrap_or_else(|| panic!("still runs {GONE_WITHIN:?} after SIGTERM"))
    }

    pub fn hup(&self) {
        self.signal(Signal::SIGHUP);
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"))
    }

    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("our own child");
    }

    /// `Some` when it is ready, or has ended.
    fn readiness(&mut self, socket: &UnixDatagram) -> Option<Result<(), Option<i32>>> {
        let mut message = [0; 4096];
        while let Ok(length) = socket.recv(&mut message) {
            if message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                return Some(Ok(()));
            }
        }
        let status = self.child.try_wait().expect("our own child")?;
        Some(Err(status.code()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- end of the log of picosegd\n{}\n---", tail(&self.said()));
        }
    }
}

fn append(path: &PathBuf) -> Stdio {
    let file = File::options().create(true).append(true).open(path).expect("a log in a directory of ours");
    Stdio::from(file)
}

/// What a reader of a failed test can take in.
fn tail(log: &str) -> String {
    const LINES: usize = 40;
    const WIDTH: usize = 300;
    let lines: Vec<String> = log.lines().map(|line| line.chars().take(WIDTH).collect()).collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
