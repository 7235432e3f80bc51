//! Cgroups that look like units: `/picotestID.slice/payments-ID.service`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::clock;

/// A slice of a lab and all units below it.
pub struct Slice {
    root: PathBuf,
    path: PathBuf,
}

/// A cgroup that carries the name of a unit.
#[derive(Clone)]
pub struct Unit {
    name: String,
    dir: PathBuf,
    path: PathBuf,
}

impl Slice {
    /// # Errors
    /// The reason in words.
    pub fn create(name: &str) -> Result<Self, String> {
        let root = root()?;
        let path = root.join(name);
        fs::create_dir(&path).map_err(|e| format!("mkdir {}: {e}", path.display()))?;
        Ok(Self { root, path })
    }

    /// Creates the cgroup of a unit.
    pub fn unit(&self, name: &str) -> Unit {
        let dir = self.path.join(name);
        let path = Path::new("/").join(dir.strip_prefix(&self.root).expect("below the root"));
        let unit = Unit { name: name.to_owned(), dir, path };
        unit.create();
        unit
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        remove_all(&self.path);
    }
}

impl Unit {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Creates a cgroup below it.
    pub fn child(&self, name: &str) -> Self {
        let child = Self { name: name.to_owned(), dir: self.dir.join(name), path: self.path.join(name) };
        child.create();
        child
    }

    /// Its directory in the file system.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its path below the cgroup2 root, as a `cgroup` subject writes it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn create(&self) {
        fs::create_dir(&self.dir).unwrap_or_else(|e| panic!("mkdir {}: {e}", self.dir.display()));
    }

    pub fn has_children(&self) -> bool {
        !children(&self.dir).is_empty()
    }

    /// Removes the cgroup and those in it, as systemd does.
    pub fn remove_with_children(&self) {
        remove_all(&self.dir);
        assert!(!self.dir.exists(), "{} is still in use", self.dir.display());
    }

    /// Removes the cgroup, as the end of a unit does; its processes have to be gone.
    pub fn remove(&self) {
        remove(&self.dir);
        assert!(!self.dir.exists(), "{} is still in use", self.dir.display());
    }
}

/// Removes the slices of dead test processes.
pub fn sweep(belongs_to_the_dead: impl Fn(&str) -> bool) {
    let Ok(root) = root() else { return };
    for slice in children(&root) {
        if slice.file_name().is_some_and(|name| belongs_to_the_dead(&name.to_string_lossy())) {
            remove_all(&slice);
        }
    }
}

/// Where cgroup2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on a hybrid host.
fn root() -> Result<PathBuf, String> {
    let mounts =
        fs::read_to_string("/proc/self/mountinfo").map_err(|e| format!("/proc/self/mountinfo: {e}"))?;
    let mount_point = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        right.starts_with("cgroup2 ").then(|| left.split(' ').nth(4).map(PathBuf::from))?
    };
    mounts.lines().find_map(mount_point).ok_or_else(|| "no cgroup2 hierarchy is mounted".to_owned())
}

/// A cgroup stays busy for a moment after its last process was reaped.
fn remove(dir: &Path) {
    let gone = || (fs::remove_dir(dir).is_ok() || !dir.exists()).then_some(());
    if clock::within(Duration::from_secs(5), gone).is_none() {
        eprintln!("left behind: {}", dir.display());
    }
}

fn remove_all(dir: &Path) {
    for child in children(dir) {
        remove_all(&child);
    }
    remove(dir);
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}
