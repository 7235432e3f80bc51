//! Which file it is, and whether it is still the same.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FileType, Mode, OFlags};
use sha2::{Digest as _, Sha256};

/// A file that is larger cannot be pinned: 1 GiB.
const LARGEST: u64 = 1 << 30;

/// A file that was changed less than this time ago may change again without another time stamp: these have the
/// resolution of the kernel's tick, at most 10 ms.
const SETTLED: Duration = Duration::from_millis(50);

/// How often a file is read that changes meanwhile.
const TRIES: usize = 3;

/// The file and what changes whenever its content does: nobody but the kernel sets `ctime`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub file: FileId,
    size: i64,
    modified: (i64, u64),
    changed: (i64, u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId {
    pub device: u64,
    pub inode: u64,
}

impl Stamp {
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        Ok(Self::from(rustix::fs::fstat(file)?))
    }

    /// The file that a path leads to.
    pub fn at(path: &str) -> io::Result<Self> {
        Ok(Self::from(rustix::fs::stat(path)?))
    }

    fn from(stat: rustix::fs::Stat) -> Self {
        Self {
            file: FileId { device: stat.st_dev, inode: stat.st_ino },
            size: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// How long to wait until the next change gets another time stamp.
    fn unsettled(&self) -> Duration {
        let (seconds, nanoseconds) = self.changed;
        let changed = Duration::new(seconds.try_into().unwrap_or(0), nanoseconds.try_into().unwrap_or(0));
        let age = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().checked_sub(changed);
        // A clock that was turned back says nothing.
        age.map_or(SETTLED, |age| SETTLED.saturating_sub(age))
    }
}

/// Opens the file that a path leads to, without waiting for a FIFO or waking a device.
pub fn open(path: &str) -> Result<OwnedFd, String> {
    let handle = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| io::Error::from(errno).to_string())?;
    let stat = rustix::fs::fstat(&handle).map_err(|errno| io::Error::from(errno).to_string())?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(handle),
        _ => Err("not a regular file".to_owned()),
    }
}

/// The digest of an open file as 64 hex digits, and the stamp that goes with it.
pub fn digest(handle: &OwnedFd) -> io::Result<(String, Stamp)> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()));
    for _ in 0..TRIES {
        let before = Stamp::of(handle)?;
        std::thread::sleep(before.unsettled());
        let digest = read(&path)?;
        if Stamp::of(handle)? == before {
            return Ok((digest, before));
        }
    }
    Err(io::Error::other("it changes while it is read"))
}

fn read(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?.take(LARGEST + 1);
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut length = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => {
                length += read as u64;
                hasher.update(&buffer[..read]);
            }
        }
    }
    match length {
        0..=LARGEST => Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
        _ => Err(io::Error::other("larger than 1 GiB: it cannot be pinned to a digest")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_written_to_has_another_stamp_and_digest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::write(&path, "abc").unwrap();
        let handle = open(path.to_str().unwrap()).unwrap();
        let (first, before) = digest(&handle).unwrap();
        assert_eq!(first, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        std::fs::write(&path, "abd").unwrap();
        let (second, after) = digest(&handle).unwrap();
        assert_ne!(first, second);
        assert_eq!(before.file, after.file);
        assert_ne!(before, after);
    }

    #[test]
    fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(open(fifo.to_str().unwrap()).unwrap_err(), "not a regular file");
        assert_eq!(open(dir.path().to_str().unwrap()).unwrap_err(), "not a regular file");
        let missing = dir.path().join("missing");
        assert!(open(missing.to_str().unwrap()).unwrap_err().contains("No such file"));
    }
}
