//! Empty cgroups that stand for units, under one that is the run's own.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use picoseg::compile::Place;

/// Where nft looks for the paths of cgroups, and where cgroup2 is on hosts that have both kinds.
const ROOTS: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

/// Removes what it made when it is dropped.
pub struct Units {
    parent: PathBuf,
}

impl Units {
    pub fn new() -> Self {
        let is_there = |root: &&&str| Path::new(root).join("cgroup.procs").exists();
        let root = ROOTS.iter().find(is_there).expect("cgroup2");
        let parent = Path::new(root).join(format!("picoseg-load-{}", std::process::id()));
        fs::create_dir(&parent).expect("a cgroup");
        Self { parent }
    }

    /// Makes the cgroup of a unit.
    pub fn make(&self, name: &str) -> Place {
        let path = self.parent.join(name);
        fs::create_dir(&path).expect("a cgroup");
        let id = fs::metadata(&path).expect("a cgroup").ino();
        let path = path.strip_prefix(ROOTS[1]).expect("below the root").to_str().expect("text");
        Place::cgroup(id, 2, path)
    }
}

impl Drop for Units {
    fn drop(&mut self) {
        let made = fs::read_dir(&self.parent).into_iter().flatten().flatten();
        for unit in made.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            let _ = fs::remove_dir(unit.path());
        }
        if let Err(error) = fs::remove_dir(&self.parent) {
            eprintln!("{} stays: {error}", self.parent.display());
        }
    }
}
