//! The names of cgroups by their ids, kept when the cgroups go: what asks once often does not live long.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::kernel::cgroups::{self, Hierarchy};

/// The most cgroups that are looked at, and that are remembered.
const MOST: usize = 65_536;
/// Between two looks for an id that is not known, and between two in any case, so that names are known before they are asked for.
const SOONEST: Duration = Duration::from_millis(200);
const USUAL: Duration = Duration::from_secs(5);
/// Between two when nobody asked for so long.
const AT_REST: Duration = Duration::from_secs(60);
/// Looks take at most one part in so many of the time.
const SHARE: u32 = 100;

/// A cgroup that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// `unit:x.service`, `container:ID` or `cgroup:/path`.
    pub name: Arc<str>,
    pub directory: PathBuf,
}

pub struct Paths {
    hierarchy: Option<Hierarchy>,
    known: HashMap<u64, Known>,
    looked: Option<Instant>,
    took: Duration,
    asked: Instant,
}

impl Paths {
    pub fn new(hierarchy: Option<Hierarchy>) -> Self {
        Self { hierarchy, known: HashMap::new(), looked: None, took: Duration::ZERO, asked: Instant::now() }
    }

    /// The cgroup of an id; looks again for one that is not known. An id is never given again (kernfs).
    pub fn find(&mut self, id: u64) -> Option<Known> {
        self.asked = Instant::now();
        if !self.known.contains_key(&id) && self.may_look(SOONEST) {
            self.look();
        }
        self.known.get(&id).cloned()
    }

    /// How long until the usual look is due.
    pub fn due_in(&self) -> Duration {
        self.pause(self.usual()).saturating_sub(self.looked.map_or(Duration::MAX, |at| at.elapsed()))
    }

    /// Learns which cgroups there are, where that is due.
    pub fn learn(&mut self) {
        if self.may_look(self.usual()) {
            self.look();
        }
    }

    fn usual(&self) -> Duration {
        if self.asked.elapsed() < AT_REST { USUAL } else { AT_REST }
    }

    fn pause(&self, least: Duration) -> Duration {
        least.max(self.took.saturating_mul(SHARE))
    }

    fn may_look(&self, least: Duration) -> bool {
        self.looked.is_none_or(|at| at.elapsed() >= self.pause(least))
    }

    fn look(&mut self) {
        let began = Instant::now();
        let Some(hierarchy) = &self.hierarchy else { return };
        match hierarchy.all(MOST) {
            Ok(found) => {
                let mut names: BTreeMap<u64, Known> = BTreeMap::new();
                for cgroup in found {
                    let name = || Known {
                        name: cgroups::name_of(&cgroup.path).into(),
                        directory: hierarchy.mount().join(cgroup.path.trim_start_matches('/')),
                    };
                    let known = self.known.remove(&cgroup.id).unwrap_or_else(name);
                    names.insert(cgroup.id, known);
                }
                // The rest went: the latest of them stay, since ids grow.
                let mut gone: Vec<_> = self.known.drain().collect();
                gone.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(*id));
                gone.truncate(MOST.saturating_sub(names.len()));
                self.known = names.into_iter().chain(gone).collect();
            }
            Err(error) => tracing::debug!(%error, "cannot look for cgroups"),
        }
        self.looked = Some(Instant::now());
        self.took = began.elapsed();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_name_outlives_its_cgroup() {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            fs::create_dir_all(root.path().join(path)).unwrap();
            fs::metadata(root.path().join(path)).unwrap().ino()
        };
        let id = make("system.slice/curl@1.service");
        let mut paths = Paths::new(Some(Hierarchy::at(root.path())));
        assert_eq!(&*paths.find(id).unwrap().name, "unit:curl@1.service");
        fs::remove_dir(root.path().join("system.slice/curl@1.service")).unwrap();
        paths.look();
        assert_eq!(&*paths.find(id).unwrap().name, "unit:curl@1.service");
        assert_eq!(paths.find(u64::MAX), None);
    }
}
