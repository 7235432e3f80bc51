//! The cgroups of containers, whichever engine made them, and when they come and go.
//!
//! Engines put the id of a container (64 hex digits) into the name of its cgroup: `docker-ID.scope`,
//! `libpod-ID.scope`, `cri-containerd-ID.scope`, `crio-ID.scope`, `nerdctl-ID.scope`, or `ID` alone where they do
//! without systemd (`/docker/ID`, `/kubepods/burstable/podUID/ID`). A child below belongs to it.
//!
//! A name proves something only where nobody but the host's root makes directories. Hence a container is found in a
//! slice, or in a directory of an engine, all the way down owned by whoever owns the hierarchy; never below a service,
//! a scope, another container or an LXC system: what is there may be delegated to a user, or to the root of a container,
//! who could make a directory with any container's id. Rootless containers are therefore none of these.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;

use super::CgroupError;
use super::hierarchy::{Cgroup, Hierarchy, is_gone, is_slice, join};
use super::notifier::{Hint, Notifier};

/// The fewest digits by which people name a container.
pub const SHORTEST_ID: usize = 12;
const LONGEST_ID: usize = 64;

/// Ids with their cgroups by path.
type Found = BTreeMap<String, BTreeMap<String, Cgroup>>;

/// Watches every container of the host.
#[derive(Debug)]
pub struct ContainerWatcher {
    hierarchy: Hierarchy,
    notifier: Notifier,
    found: Found,
    /// Events were lost, or an error left a part unread: everything is read again before the next answer.
    stale: bool,
}

impl ContainerWatcher {
    /// Watches and finds what there is.
    pub fn new(hierarchy: Hierarchy) -> Result<Self, CgroupError> {
        let notifier = Notifier::new()?;
        let mut watcher = Self { hierarchy, notifier, found: Found::new(), stale: false };
        watcher.rescan()?;
        Ok(watcher)
    }

    /// The full ids that begin with these digits.
    pub fn ids<'a>(&'a self, digits: &'a str) -> impl Iterator<Item = &'a str> {
        let known = self.found.range(digits.to_owned()..).map(|(id, _)| id.as_str());
        known.take_while(move |id| id.starts_with(digits))
    }

    /// The cgroups of a container by its full id, sorted by path.
    pub fn cgroups(&self, id: &str) -> impl Iterator<Item = &Cgroup> {
        self.found.get(id).into_iter().flat_map(BTreeMap::values)
    }

    /// Reads all events that are there, without waiting; returns the ids whose cgroups are not what they were.
    ///
    /// Nothing is left to read afterwards. An error is made good by the next call, which reads everything again.
    pub fn next_changes(&mut self) -> Result<BTreeSet<String>, CgroupError> {
        let mut hints = self.notifier.read().inspect_err(|_| self.stale = true)?;
        if self.stale || hints.remove(&Hint::Lost) {
            return self.rescan();
        }
        let mut changed = BTreeSet::new();
        for hint in hints {
            let Hint::Look { parent, name } = hint else { continue };
            let looked = self.look(&join(&parent, &name), &name, &mut changed);
            // What was found but not reported must be looked for again: by a rescan that reports all.
            looked.inspect_err(|_| {
                self.stale = true;
                self.found.clear();
            })?;
        }
        Ok(changed)
    }

    fn look(&mut self, path: &str, name: &str, changed: &mut BTreeSet<String>) -> Result<(), CgroupError> {
        if let Some(id) = container_id(name) {
            return self.refresh(id, path, changed);
        }
        let below = format!("{path}/");
        let known: Vec<_> = self
            .found
            .iter()
            .flat_map(|(id, cgroups)| cgroups.keys().map(move |path| (id.clone(), path.clone())))
            .filter(|(_, known)| known.starts_with(&below))
            .collect();
        known.iter().try_for_each(|(id, path)| self.refresh(id, path, changed))?;
        self.scan(path.to_owned(), changed)
    }

    /// Sets what a container has at a path to what is there now.
    fn refresh(&mut self, id: &str, path: &str, changed: &mut BTreeSet<String>) -> Result<(), CgroupError> {
        let found = self.hierarchy.cgroup(path)?;
        let known = self.found.entry(id.to_owned()).or_default();
        if known.get(path) != found.as_ref() {
            changed.insert(id.to_owned());
        }
        match found {
            Some(cgroup) => drop(known.insert(path.to_owned(), cgroup)),
            None => drop(known.remove(path)),
        }
        if known.is_empty() {
            self.found.remove(id);
        }
        Ok(())
    }

    /// Watches and reads a directory and all in it that may hold containers.
    fn scan(&mut self, path: String, changed: &mut BTreeSet<String>) -> Result<(), CgroupError> {
        let mut homes = vec![path];
        while let Some(home) = homes.pop() {
            if !self.is_home(&home)? || !self.notifier.watch(&self.hierarchy, &home)? {
                continue;
            }
            for name in self.hierarchy.children(&home)? {
                let path = join(&home, &name);
                match container_id(&name) {
                    Some(id) => self.refresh(id, &path, changed)?,
                    None => homes.push(path),
                }
            }
        }
        Ok(())
    }

    /// Reads everything again; returns what is not as it was.
    fn rescan(&mut self) -> Result<BTreeSet<String>, CgroupError> {
        let (watched, before) = (self.notifier.take(), take(&mut self.found));
        let outcome = self.scan("/".to_owned(), &mut BTreeSet::new());
        self.stale = outcome.is_err();
        match outcome {
            Ok(()) => {
                self.notifier.unwatch(watched);
                let all = before.keys().chain(self.found.keys());
                Ok(all.filter(|id| before.get(*id) != self.found.get(*id)).cloned().collect())
            }
            Err(error) => {
                // The old answers and watches stand until a scan goes through.
                self.found = before;
                self.notifier.keep(watched);
                Err(error)
            }
        }
    }

    /// True when containers may be right below: see the header of this module.
    fn is_home(&self, path: &str) -> Result<bool, CgroupError> {
        let name = path.rsplit('/').next().unwrap_or_default();
        if !may_be_home(name) {
            return Ok(false);
        }
        let owner = |path: &str| {
            let directory = self.hierarchy.directory(path);
            match std::fs::symlink_metadata(&directory) {
                Ok(metadata) => Ok(metadata.is_dir().then(|| metadata.uid())),
                Err(error) if is_gone(&error) => Ok(None),
                Err(source) => Err(CgroupError::Read { path: directory, source }),
            }
        };
        let found = owner(path)?;
        Ok(found.is_some() && found == owner("/")?)
    }
}

impl AsFd for ContainerWatcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notifier.as_fd()
    }
}

/// The types of units that are no slices (systemd.unit(5)), as far as they have cgroups.
pub(super) const OTHER_UNITS: [&str; 5] = [".service", ".scope", ".mount", ".swap", ".socket"];

/// A slice, or a directory of an engine.
pub(super) fn may_be_home(name: &str) -> bool {
    let is_unit = OTHER_UNITS.iter().any(|kind| name.ends_with(kind));
    // LXC's monitors and systems: `lxc`, `lxc.payload.NAME`.
    let is_lxc = name == "lxc" || name.starts_with("lxc.");
    is_slice(name) || !(is_unit || is_lxc)
}

/// The id in the name of a container's cgroup.
///
/// The processes that watch over containers have cgroups with the same id: `libpod-conmon-ID.scope`.
pub(super) fn container_id(name: &str) -> Option<&str> {
    let stem = name.strip_suffix(".scope").unwrap_or(name);
    let (engine, id) = stem.rsplit_once('-').unwrap_or(("", stem));
    (is_id(id) && !engine.ends_with("conmon")).then_some(id)
}

/// True for 12 to 64 hex digits, as engines write them.
pub fn is_id(text: &str) -> bool {
    (SHORTEST_ID..=LONGEST_ID).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    /// A tree of plain directories: inotify sees them as it sees cgroups.
    struct Tree {
        root: tempfile::TempDir,
    }

    impl Tree {
        fn new(directories: &[String]) -> Self {
            let tree = Self { root: tempfile::tempdir().unwrap() };
            directories.iter().for_each(|directory| tree.make(directory));
            tree
        }

        fn make(&self, path: &str) {
            std::fs::create_dir_all(self.root.path().join(path)).unwrap();
        }

        fn remove(&self, path: &str) {
            std::fs::remove_dir_all(self.root.path().join(path)).unwrap();
        }

        fn watch(&self) -> ContainerWatcher {
            ContainerWatcher::new(Hierarchy::at(self.root.path())).unwrap()
        }
    }

    fn paths(watcher: &ContainerWatcher, id: &str) -> Vec<String> {
        watcher.cgroups(id).map(|cgroup| cgroup.path.clone()).collect()
    }

    #[test]
    fn an_id_stands_in_the_names_that_engines_write() {
        let full = id('a');
        for shape in
            ["docker-@.scope", "libpod-@.scope", "cri-containerd-@.scope", "crio-@.scope", "libpod-@"]
        {
            assert_eq!(container_id(&shape.replace('@', &full)), Some(full.as_str()), "{shape}");
        }
        assert_eq!(container_id(&full), Some(full.as_str()));
        let conmon = ["crio-conmon-@.scope", "libpod-conmon-@.scope"].map(|name| name.replace('@', &full));
        let others = ["libpod_parent", "docker-abc.scope", "session-3.scope", "machine-libpod_pod_@.slice"];
        for name in conmon.iter().map(String::as_str).chain(others) {
            assert_eq!(container_id(name), None, "{name}");
        }
    }

    #[test]
    fn containers_are_found_wherever_an_engine_puts_them_and_nowhere_else() {
        let [a, b, c, d] = ['a', 'b', 'c', 'd'].map(id);
        let tree = Tree::new(&[
            format!("system.slice/docker-{a}.scope/nested"),
            format!("docker/{b}"),
            format!("kubepods/burstable/pod1-2/{c}"),
            format!("kubepods.slice/kubepods-pod1.slice/cri-containerd-{d}.scope"),
            // Whoever lives here could have made any of these.
            format!("system.slice/docker-{a}.scope/docker-{b}.scope"),
            format!("system.slice/x.service/docker-{b}.scope"),
            format!("user.slice/user-1000.slice/user@1000.service/libpod-{b}.scope"),
            format!("lxc.payload.x/docker/{b}"),
            format!("system.slice/libpod-conmon-{b}.scope"),
        ]);
        let watcher = tree.watch();
        let found: Vec<_> = [&a, &b, &c, &d].iter().flat_map(|id| paths(&watcher, id)).collect();
        let expected = [
            format!("/system.slice/docker-{a}.scope"),
            format!("/docker/{b}"),
            format!("/kubepods/burstable/pod1-2/{c}"),
            format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{d}.scope"),
        ];
        assert_eq!(found, expected);
        assert_eq!(watcher.ids(&a[..12]).collect::<Vec<_>>(), [&a]);
        assert_eq!(watcher.ids("").count(), 4);
    }

    #[test]
    fn a_directory_of_another_owner_holds_no_containers() {
        let a = id('a');
        let tree = Tree::new(&[format!("docker/{a}")]);
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: not root");
            return;
        }
        std::os::unix::fs::chown(tree.root.path().join("docker"), Some(65534), None).unwrap();
        assert!(paths(&tree.watch(), &a).is_empty());
    }

    #[test]
    fn a_container_that_starts_and_stops_is_reported_once_each() {
        let [a, b] = ['a', 'b'].map(id);
        let tree = Tree::new(&["system.slice".to_owned()]);
        let mut watcher = tree.watch();
        let scope = format!("system.slice/docker-{a}.scope");
        tree.make(&scope);
        assert_eq!(watcher.next_changes().unwrap(), BTreeSet::from([a.clone()]));
        let first = watcher.cgroups(&a).next().unwrap().id;
        assert!(watcher.next_changes().unwrap().is_empty());
        // Made before the old one goes, so that the file system cannot give it the same number.
        tree.make("other");
        std::fs::rename(tree.root.path().join(&scope), tree.root.path().join("other/x.scope")).unwrap();
        tree.make(&scope);
        watcher.stale = true;
        assert_eq!(watcher.next_changes().unwrap(), BTreeSet::from([a.clone()]));
        assert_ne!(watcher.cgroups(&a).next().unwrap().id, first);
        tree.remove(&scope);
        tree.make(&format!("docker/{b}"));
        assert_eq!(watcher.next_changes().unwrap(), BTreeSet::from([a.clone(), b.clone()]));
        assert!(paths(&watcher, &a).is_empty());
        tree.remove("docker");
        assert_eq!(watcher.next_changes().unwrap(), BTreeSet::from([b.clone()]));
        tree.make(&format!("docker/{b}"));
        assert_eq!(watcher.next_changes().unwrap(), BTreeSet::from([b]));
    }
}
