//! Tells when files may have another content (inotify(7)): written in place, replaced, or with a link that leads elsewhere.

use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

const BUFFER: usize = 16 * 1024;
/// The most links that a path leads through.
const LINKS: usize = 16;

/// In a directory: what gives a name another file. A link is made, not written.
const NAMES: WatchFlags = WatchFlags::ONLYDIR
    .union(WatchFlags::CREATE)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::CLOSE_WRITE);
/// Of the file itself, by whatever name it is written.
const CONTENT: WatchFlags = WatchFlags::CLOSE_WRITE;

/// Files that are watched by their paths.
#[derive(Debug)]
pub struct FileWatch {
    inotify: OwnedFd,
    paths: Vec<PathBuf>,
    /// What they are called, and what those are called that they lead to.
    names: Vec<OsString>,
    complete: bool,
}

impl FileWatch {
    /// Watches files that may be there or not, absolute paths.
    pub fn new(paths: &[&str]) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let paths = paths.iter().map(PathBuf::from).collect();
        let mut watch = Self { inotify, paths, names: Vec::new(), complete: false };
        watch.watch();
        Ok(watch)
    }

    /// False while something may change without a sign: a link leads to a directory that is not there.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Reads all events that are there, without waiting; true when one of them may be about these files. Look at them afterwards.
    pub fn changed(&mut self) -> bool {
        let changed = self.read();
        if changed {
            self.watch();
        }
        changed
    }

    fn read(&self) -> bool {
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut changed = false;
        loop {
            match reader.next() {
                Ok(event) => {
                    let lost = event.events().intersects(ReadFlags::QUEUE_OVERFLOW | ReadFlags::IGNORED);
                    let name = event.file_name().map(|name| name.to_bytes());
                    let is_ours = |name: &[u8]| self.names.iter().any(|ours| ours.as_encoded_bytes() == name);
                    // Without a name it is about a file itself.
                    changed |= lost || name.is_none_or(is_ours);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return changed,
                // Better once too often.
                Err(_) => return true,
            }
        }
    }

    /// Watches what the paths lead to now. What is watched already stays.
    pub fn watch(&mut self) {
        self.complete = true;
        self.names.clear();
        for path in self.paths.clone() {
            let mut next = Some(path.clone());
            for _ in 0..LINKS {
                let Some(path) = next else { break };
                self.complete &= self.watch_directory(&path);
                next = path.read_link().ok().map(|to| path.parent().unwrap_or(Path::new("/")).join(to));
            }
            let watched = inotify::add_watch(&self.inotify, &path, CONTENT);
            self.complete &= matches!(watched, Ok(_) | Err(Errno::NOENT));
        }
    }

    fn watch_directory(&mut self, path: &Path) -> bool {
        let Some((directory, name)) = path.parent().zip(path.file_name()) else { return false };
        self.names.push(name.to_owned());
        inotify::add_watch(&self.inotify, directory, NAMES).is_ok()
    }
}

impl AsFd for FileWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn it_tells_of_files_that_are_written_made_replaced_and_of_links_that_lead_elsewhere() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::create_dir(at("run")).unwrap();
        fs::write(at("run/stub"), "1").unwrap();
        symlink("run/stub", at("resolv.conf")).unwrap();
        let paths = [at("resolv.conf"), at("hosts")].map(|path| path.to_str().unwrap().to_owned());
        let mut watch = FileWatch::new(&[&paths[0], &paths[1]]).unwrap();
        assert!(watch.is_complete() && !watch.changed());
        fs::write(at("other"), "1").unwrap();
        assert!(!watch.changed(), "it is about another file");
        fs::write(at("hosts"), "1").unwrap();
        assert!(watch.changed(), "it was made");
        fs::write(at("run/stub"), "2").unwrap();
        assert!(watch.changed(), "what a link leads to was written");
        fs::write(at("run/new"), "3").unwrap();
        fs::rename(at("run/new"), at("run/stub")).unwrap();
        assert!(watch.changed(), "and replaced");
        fs::hard_link(at("run/stub"), at("by-another-name")).unwrap();
        fs::write(at("by-another-name"), "4").unwrap();
        assert!(watch.changed(), "it was written by another name");
        fs::write(at("new"), "5").unwrap();
        fs::rename(at("new"), at("resolv.conf")).unwrap();
        assert!(watch.changed() && watch.is_complete(), "the link became a file");
        fs::remove_file(at("resolv.conf")).unwrap();
        assert!(watch.changed() && watch.is_complete());
        while watch.changed() {}
        symlink("gone/stub", at("resolv.conf")).unwrap();
        assert!(watch.changed() && !watch.is_complete(), "nobody tells when that directory comes");
    }
}
