//! The paths of cgroups by their ids.

use std::collections::HashMap;
use std::path::Path;

use crate::compile::{Place, Standing};
use crate::reconcile::World;

/// The paths, as nft names them. The whole tree is read only for an id that is no known place of a subject: with
/// thousands of cgroups that takes tens of milliseconds, and a close is waiting.
#[derive(Debug)]
pub struct Paths<'h> {
    mount: &'h Path,
    known: HashMap<u64, String>,
    whole: bool,
}

impl<'h> Paths<'h> {
    /// Knows where the subjects of these services are.
    pub fn new(mount: &'h Path, world: &World, services: &[Standing<'_>]) -> Self {
        let policies = services.iter().flat_map(|standing| &standing.service.policies);
        let places = policies.flat_map(|policy| world.places(&policy.subject));
        let known = places.filter_map(|place| match place {
            Place::Cgroup(place) => Some((place.id, place.path.clone())),
            Place::Former(_) | Place::User(_) | Place::Group(_) | Place::Address(_) => None,
        });
        Self { mount, known: known.collect(), whole: false }
    }

    /// `None`: there is no such cgroup any more.
    pub fn get(&mut self, id: u64) -> Option<&str> {
        if !self.whole && !self.known.contains_key(&id) {
            self.known.extend(cgroup_paths(self.mount));
            self.whole = true;
        }
        self.known.get(&id).map(String::as_str)
    }
}

/// Every cgroup's path, as nft names it, by id.
pub fn cgroup_paths(mount: &Path) -> HashMap<u64, String> {
    use std::os::unix::fs::MetadataExt;
    let base = Path::new("/sys/fs/cgroup");
    let mut paths = HashMap::new();
    let mut directories = vec![mount.to_owned()];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            if let (Ok(metadata), Ok(name)) = (entry.metadata(), path.strip_prefix(base)) {
                paths.insert(metadata.ino(), name.to_string_lossy().into_owned());
            }
            directories.push(path);
        }
    }
    paths
}
