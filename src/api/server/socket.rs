//! The runtime directory and the sockets in it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown,
};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use tokio::net::{UnixListener, UnixStream};
use tracing::warn;

use super::peer::Groups;
use super::{ApiError, Side};

/// The directory of the sockets, locked: two daemons that start at once would both find no other one answering.
#[derive(Debug)]
pub struct RuntimeDirectory {
    path: PathBuf,
    _lock: File,
}

/// A socket that accepts.
#[derive(Debug)]
pub struct Bound {
    pub side: Side,
    pub listener: UnixListener,
    pub path: PathBuf,
}

impl RuntimeDirectory {
    /// Makes the directory where it is missing, and locks it.
    pub fn prepare(path: &Path) -> Result<Self, ApiError> {
        if !path.exists() {
            create(path).map_err(failed("create the directory", path))?;
        }
        let lock = open(path).map_err(failed("open the directory", path))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(Errno::WOULDBLOCK) => Err(ApiError::Locked(path.to_owned())),
            Err(errno) => Err(failed("lock the directory", path)(errno.into())),
        }
    }

    /// Makes a socket, in place of one that nobody answers any more.
    pub async fn bind(&self, side: Side, groups: &Groups) -> Result<Bound, ApiError> {
        let path = self.path.join(side.file_name());
        clear(&path).await?;
        let group = groups.of(side);
        let made = self.birthplace(side, group).unwrap_or_else(|| path.clone());
        if made != path {
            clear(&made).await?;
        }
        let listener = UnixListener::bind(&made).map_err(failed("listen on", &made))?;
        permit(&made, group).map_err(failed("set the permissions of", &made))?;
        if made != path {
            fs::rename(&made, &path).map_err(failed("make", &path))?;
        }
        Ok(Bound { side, listener, path })
    }

    /// Where a socket gets its group without being given to it, which a daemon with a user of its own may not do: in a
    /// directory that hands its group on (tmpfiles.d).
    fn birthplace(&self, side: Side, group: Option<u32>) -> Option<PathBuf> {
        let directory = match side {
            Side::Control => self.path.join(CONTROL_BIRTHPLACE),
            Side::Observe => return None,
        };
        let metadata = fs::symlink_metadata(&directory).ok()?;
        let hands_on = metadata.is_dir() && metadata.mode() & libc::S_ISGID != 0;
        (hands_on && Some(metadata.gid()) == group).then(|| directory.join(side.file_name()))
    }
}

const CONTROL_BIRTHPLACE: &str = ".control";

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path)
}

/// Sets the mode of what it made once more: the umask may have taken bits away.
fn create(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(DIRECTORY_MODE))
}

const DIRECTORY_MODE: u32 = 0o755;

/// Removes a stale socket; any other file stays.
async fn clear(path: &Path) -> Result<(), ApiError> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed("look at", path))?,
    };
    if !metadata.file_type().is_socket() {
        return Err(ApiError::InTheWay(path.to_owned()));
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(ApiError::Answered(path.to_owned())),
        // A full backlog (EAGAIN) is a living daemon too: only a refusal proves that there is none.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("remove the stale socket", path))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(ApiError::Answered(path.to_owned())),
        Err(error) => Err(failed("see whether anybody answers on", path)(error)),
    }
}

/// Lets a group connect, and nobody but the owner where there is no such group. Until then the mode follows the umask;
/// that lets nobody in, because each connection is looked at again.
fn permit(path: &Path, group: Option<u32>) -> io::Result<()> {
    let has = fs::symlink_metadata(path)?.gid();
    let give = |gid| if gid == has { Ok(()) } else { chown(path, None, Some(gid)) };
    let given = group.map(|gid| (gid, give(gid)));
    let mode = match given {
        None => 0o600,
        Some((_, Ok(()))) => 0o660,
        Some((gid, Err(error))) => {
            warn!(path = %path.display(), gid, %error, "only the owner may connect: cannot give the socket away");
            0o600
        }
    };
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Removes a socket at the end; that it stays harms nobody.
pub fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        warn!(path = %path.display(), %error, "cannot remove the socket");
    }
}

fn failed<'p>(what: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> ApiError + 'p {
    move |source| ApiError::Io { what, path: path.to_owned(), source }
}
