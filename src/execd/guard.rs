//! The unit's own process: owns the socket, starts the responder, and kills it when it falls silent.
//!
//! It does nothing that can wait for somebody else, holds no executions and marks no file.

use std::fs::{self, Permissions};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::process::umask;

use super::protocol::SOCKET;
use super::{ExecdError, SILENCE, failed};
use crate::files::{self, SettingsFile};

/// A responder has this long for its first heartbeat: it has to be loaded.
const START: Duration = Duration::from_secs(5);

/// The responder of a guard that was killed is gone within this time.
const LAST_BREATH: Duration = Duration::from_secs(1);

/// Between two starts of a responder.
const PAUSE: Duration = Duration::from_millis(100);

/// Between two signs of life to the service manager.
const WATCHDOG: Duration = Duration::from_millis(200);

pub fn run(config: Option<PathBuf>) -> Result<(), ExecdError> {
    let runtime = files::runtime(&SettingsFile::from(config)).map_err(|found| {
        ExecdError::Settings(found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })?;
    let listener = listen(&runtime)?;
    let mut ready = false;
    loop {
        let mut responder = Responder::start(&listener)?;
        if responder.is_heard_within(START) {
            if !ready {
                notify(sd_notify::NotifyState::Ready);
                tracing::info!(socket = %runtime.join(SOCKET).display(), "ready");
            }
            ready = true;
            responder.watch();
        }
        let status = responder.end()?;
        match ready {
            true => tracing::warn!(%status, "the responder is gone: another one starts"),
            false => return Err(ExecdError::Unready(status)),
        }
        sleep(PAUSE);
    }
}

/// A process that answers executions, and its heartbeat.
struct Responder {
    child: Child,
    beats: ChildStdout,
}

impl Responder {
    /// No responder may be alive: its marks could hold the execution of this one.
    fn start(listener: &UnixListener) -> Result<Self, ExecdError> {
        let listener = listener.try_clone().map_err(failed("copy the socket"))?;
        let mut child = Command::new("/proc/self/exe")
            .args(["--responder-of", &std::process::id().to_string()])
            .stdin(OwnedFd::from(listener))
            .stdout(Stdio::piped())
            .env_remove("NOTIFY_SOCKET")
            .spawn()
            .map_err(failed("start the responder"))?;
        let beats = child.stdout.take();
        let beats = beats.ok_or_else(|| failed("listen to the responder")(io::ErrorKind::NotFound.into()))?;
        Ok(Self { child, beats })
    }

    /// Returns when it has ended or was silent for too long.
    fn watch(&mut self) {
        let watched = std::env::var_os("WATCHDOG_USEC").is_some();
        let mut told = Instant::now();
        while self.is_heard_within(SILENCE) {
            if watched && told.elapsed() >= WATCHDOG {
                notify(sd_notify::NotifyState::Watchdog);
                told = Instant::now();
            }
        }
    }

    /// False when it was not heard in this time, or has ended.
    fn is_heard_within(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(timeout) = Timespec::try_from(left) else { return false };
            match poll(&mut [PollFd::new(&self.beats, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => {
                    tracing::error!(?limit, "the responder is silent");
                    return false;
                }
                Ok(_) => return matches!(self.beats.read(&mut [0; 4096]), Ok(1..)),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Kills it and waits until it is gone, and its marks with it.
    fn end(mut self) -> Result<std::process::ExitStatus, ExecdError> {
        // It may have ended by itself.
        let _ = self.child.kill();
        self.child.wait().map_err(failed("wait for the responder"))
    }
}

fn notify(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot tell the service manager how we are");
    }
}

/// Makes the socket, in place of one that nobody answers any more. Our group may use it; who that lets in is asked again
/// for each connection. Its mode is never set by its name: the directory is the daemon's, which could put something else there.
fn listen(runtime: &Path) -> Result<UnixListener, ExecdError> {
    let path = runtime.join(SOCKET);
    if !runtime.exists() {
        fs::create_dir_all(runtime).map_err(failed(format!("create {}", runtime.display())))?;
        fs::set_permissions(runtime, Permissions::from_mode(0o755))
            .map_err(failed(format!("set the permissions of {}", runtime.display())))?;
    }
    clear(&path)?;
    let before = umask(Mode::RWXO | Mode::XGRP | Mode::XUSR);
    let listener = UnixListener::bind(&path);
    umask(before);
    listener.map_err(failed(format!("listen on {}", path.display())))
}

/// Removes a stale socket; any other file stays.
fn clear(path: &Path) -> Result<(), ExecdError> {
    let look = || failed(format!("look at {}", path.display()));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return Err(look()(io::Error::other("there is a file that is no socket"))),
        Err(error) => return Err(look()(error)),
    }
    let deadline = Instant::now() + LAST_BREATH;
    loop {
        match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return fs::remove_file(path).map_err(failed(format!("remove {}", path.display())));
            }
            Ok(_) if Instant::now() < deadline => sleep(PAUSE),
            Ok(_) => return Err(ExecdError::Answered(path.to_owned())),
            Err(error) => return Err(look()(error)),
        }
    }
}
