//! Tells when the cgroups of subjects come and go.
//!
//! An event is only a hint where to look: the answer is what the file system says afterwards, so that events that
//! are late, doubled or merged do no harm. No gap: a directory is watched before it is read, so what appears in
//! between is seen once by reading or once by its event. Rejected: reading whole slices at each event, which costs
//! milliseconds with 10,000 units; an event carries a name, and only the subjects of that name are looked up.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;
use std::os::fd::{AsFd, BorrowedFd};

use super::CgroupError;
use super::hierarchy::{Cgroup, Hierarchy, is_slice, is_slice_chain, join, units_of};
use super::notifier::{Hint, Notifier};
use crate::model::Subject;

/// A subject whose cgroups are not what they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub subject: Subject,
    /// All its cgroups now, sorted by path; none: no process is this subject any more.
    pub cgroups: Vec<Cgroup>,
}

/// What subjects have, by path.
type Answers = BTreeMap<Subject, BTreeMap<String, Cgroup>>;

/// Watches the cgroups of a set of subjects.
#[derive(Debug)]
pub struct Watcher {
    hierarchy: Hierarchy,
    notifier: Notifier,
    index: Index,
    resolved: Answers,
    /// Events were lost, or an error left a part unread: everything is read again before the next answer.
    stale: bool,
}

impl Watcher {
    /// Watches and resolves these subjects; [`Watcher::resolved`] has the first answers.
    pub fn new(hierarchy: Hierarchy, subjects: &[Subject]) -> Result<Self, CgroupError> {
        let mut watcher = Self {
            notifier: Notifier::new()?,
            hierarchy,
            index: Index::default(),
            resolved: BTreeMap::new(),
            stale: false,
        };
        watcher.set_subjects(subjects)?;
        Ok(watcher)
    }

    /// Watches these subjects from now on; returns the new ones, and those of the others that changed.
    ///
    /// After an error the next call of [`Watcher::next_changes`] tries again.
    pub fn set_subjects(&mut self, subjects: &[Subject]) -> Result<Vec<Change>, CgroupError> {
        self.index = Index::new(subjects);
        self.rescan()
    }

    pub fn hierarchy(&self) -> &Hierarchy {
        &self.hierarchy
    }

    /// The cgroups of every watched subject as of the last call, sorted.
    pub fn resolved(&self) -> impl Iterator<Item = (&Subject, Vec<Cgroup>)> {
        self.resolved.iter().map(|(subject, cgroups)| (subject, cgroups.values().cloned().collect()))
    }

    /// Reads all events that are there, without waiting, and returns what changed by them, sorted by subject.
    ///
    /// Nothing is left to read afterwards. An error is made good by the next call, which reads everything again.
    pub fn next_changes(&mut self) -> Result<Vec<Change>, CgroupError> {
        let mut hints = self.notifier.read().inspect_err(|_| self.stale = true)?;
        if self.stale || hints.remove(&Hint::Lost) {
            return self.rescan();
        }
        let mut before = BTreeMap::new();
        let outcome = hints.into_iter().try_for_each(|hint| match hint {
            Hint::Lost => Ok(()),
            Hint::Look { parent, name } => self.look(&parent, &name, &mut before),
        });
        if let Err(error) = outcome {
            // What was found but not reported must still differ at the next call.
            self.resolved.extend(before);
            self.stale = true;
            return Err(error);
        }
        Ok(self.changes(before.keys(), &before))
    }

    /// Looks up what a name in a directory means for the subjects. `before` keeps their first answers.
    fn look(&mut self, parent: &str, name: &str, before: &mut Answers) -> Result<(), CgroupError> {
        let path = join(parent, name);
        if is_slice_chain(parent) && self.index.has_units() {
            self.look_for_units(&path, name, before)?;
            if is_slice(name) {
                self.refresh_below(&path, before)?;
                self.scan_slices(path.clone(), before)?;
            }
        }
        for target in self.index.paths_at_or_below(&path) {
            self.follow(&target, before)?;
        }
        Ok(())
    }

    fn look_for_units(&mut self, path: &str, name: &str, before: &mut Answers) -> Result<(), CgroupError> {
        for subject in self.index.units_named(name) {
            self.refresh(&subject, path, before)?;
        }
        Ok(())
    }

    /// Looks again at everything that is known below a slice.
    ///
    /// A slice may be replaced between watching and reading it: then what was read is not what is watched, and
    /// nobody tells when it goes. The slice's own event does.
    fn refresh_below(&mut self, slice: &str, before: &mut Answers) -> Result<(), CgroupError> {
        let below = format!("{slice}/")..format!("{slice}0");
        let known: Vec<_> = self
            .resolved
            .iter()
            .flat_map(|(subject, cgroups)| cgroups.range(below.clone()).map(move |(path, _)| (subject, path)))
            .map(|(subject, path)| (subject.clone(), path.clone()))
            .collect();
        known.iter().try_for_each(|(subject, path)| self.refresh(subject, path, before))
    }

    /// Watches and reads a slice and all slices in it.
    fn scan_slices(&mut self, slice: String, before: &mut Answers) -> Result<(), CgroupError> {
        let mut slices = vec![slice];
        while let Some(slice) = slices.pop() {
            if !self.notifier.watch(&self.hierarchy, &slice)? {
                continue;
            }
            for name in self.hierarchy.children(&slice)? {
                let path = join(&slice, &name);
                self.look_for_units(&path, &name, before)?;
                if is_slice(&name) {
                    slices.push(path);
                }
            }
        }
        Ok(())
    }

    /// Watches every directory above a path, as far as they exist, from the root down; then looks at the path.
    fn follow(&mut self, path: &str, before: &mut Answers) -> Result<(), CgroupError> {
        for (end, _) in path.match_indices('/') {
            let above = if end == 0 { "/" } else { &path[..end] };
            if path == "/" || !self.notifier.watch(&self.hierarchy, above)? {
                break;
            }
        }
        self.refresh(&Subject::Cgroup(path.to_owned()), path, before)
    }

    /// Sets what a subject has at a path to what is there now.
    fn refresh(&mut self, subject: &Subject, path: &str, before: &mut Answers) -> Result<(), CgroupError> {
        let found = self.hierarchy.cgroup(path)?;
        let known = self.resolved.entry(subject.clone()).or_default();
        if known.get(path) == found.as_ref() {
            return Ok(());
        }
        before.entry(subject.clone()).or_insert_with(|| known.clone());
        match found {
            Some(cgroup) => known.insert(path.to_owned(), cgroup),
            None => known.remove(path),
        };
        Ok(())
    }

    /// Reads everything again; returns what is not as it was.
    fn rescan(&mut self) -> Result<Vec<Change>, CgroupError> {
        let watched = self.notifier.take();
        let before = take(&mut self.resolved);
        let outcome = self.scan();
        self.stale = outcome.is_err();
        match outcome {
            Ok(()) => {
                self.notifier.unwatch(watched);
                Ok(self.changes(self.resolved.keys(), &before))
            }
            Err(error) => {
                // The old answers and watches stand until a scan goes through.
                self.resolved = before;
                self.notifier.keep(watched);
                Err(error)
            }
        }
    }

    fn scan(&mut self) -> Result<(), CgroupError> {
        for subject in self.index.subjects() {
            self.resolved.insert(subject, BTreeMap::new());
        }
        let mut ignored = BTreeMap::new();
        if self.index.has_units() {
            self.scan_slices("/".to_owned(), &mut ignored)?;
        }
        for path in self.index.paths.clone() {
            self.follow(&path, &mut ignored)?;
        }
        Ok(())
    }

    /// Those of the subjects whose answers are not the ones before.
    fn changes<'a>(&self, subjects: impl Iterator<Item = &'a Subject>, before: &Answers) -> Vec<Change> {
        subjects
            .filter(|subject| before.get(subject) != self.resolved.get(subject))
            .map(|subject| Change {
                subject: subject.clone(),
                cgroups: self
                    .resolved
                    .get(subject)
                    .into_iter()
                    .flat_map(|now| now.values().cloned())
                    .collect(),
            })
            .collect()
    }
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notifier.as_fd()
    }
}

/// The subjects by what an event names.
#[derive(Debug, Default)]
struct Index {
    units: BTreeMap<String, Subject>,
    paths: BTreeSet<String>,
}

impl Index {
    fn new(subjects: &[Subject]) -> Self {
        let mut index = Self::default();
        for subject in subjects {
            match subject {
                Subject::Unit(unit) => drop(index.units.insert(unit.clone(), subject.clone())),
                Subject::Cgroup(path) => drop(index.paths.insert(path.clone())),
                // Others know where these are.
                Subject::Exe { .. } | Subject::User(_) | Subject::Group(_) | Subject::Container(_) => {}
            }
        }
        index
    }

    fn has_units(&self) -> bool {
        !self.units.is_empty()
    }

    fn subjects(&self) -> Vec<Subject> {
        let paths = self.paths.iter().cloned().map(Subject::Cgroup);
        self.units.values().cloned().chain(paths).collect()
    }

    fn units_named(&self, name: &str) -> Vec<Subject> {
        let subjects = units_of(name).filter_map(|unit| self.units.get(unit.as_ref()));
        subjects.cloned().collect()
    }

    fn paths_at_or_below(&self, path: &str) -> Vec<String> {
        // `0` is the character after `/`.
        let below = self.paths.range(format!("{path}/")..format!("{path}0"));
        self.paths.get(path).into_iter().chain(below).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// A tree of plain directories: inotify sees them as it sees cgroups.
    struct Tree {
        root: tempfile::TempDir,
    }

    impl Tree {
        fn new(directories: &[&str]) -> Self {
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

        fn watch(&self, subjects: &[&str]) -> Watcher {
            Watcher::new(Hierarchy::at(self.root.path()), &parsed(subjects)).unwrap()
        }
    }

    fn parsed(subjects: &[&str]) -> Vec<Subject> {
        let parse = |text: &&str| match text.starts_with('/') {
            true => Subject::cgroup(text).unwrap(),
            false => Subject::unit(text).unwrap(),
        };
        subjects.iter().map(parse).collect()
    }

    /// `SUBJECT=PATH,PATH` for each change.
    fn printed(changes: Vec<Change>) -> Vec<String> {
        let print = |change: Change| {
            let paths: Vec<_> = change.cgroups.into_iter().map(|cgroup| cgroup.path).collect();
            format!("{}={}", change.subject.value(), paths.join(","))
        };
        changes.into_iter().map(print).collect()
    }

    fn next(watcher: &mut Watcher) -> Vec<String> {
        printed(watcher.next_changes().unwrap())
    }

    const NOTHING: [&str; 0] = [];

    #[test]
    fn a_unit_that_starts_and_stops_is_reported_once_each() {
        let tree = Tree::new(&["system.slice"]);
        let mut watcher = tree.watch(&["x.service"]);
        tree.make("system.slice/x.service");
        assert_eq!(next(&mut watcher), ["x.service=/system.slice/x.service"]);
        assert_eq!(next(&mut watcher), NOTHING);
        tree.remove("system.slice/x.service");
        assert_eq!(next(&mut watcher), ["x.service="]);
    }

    #[test]
    fn what_came_and_went_between_two_reads_is_no_change() {
        let tree = Tree::new(&["system.slice"]);
        let mut watcher = tree.watch(&["x.service"]);
        tree.make("system.slice/x.service");
        tree.remove("system.slice/x.service");
        assert_eq!(next(&mut watcher), NOTHING);
    }

    #[test]
    fn slices_that_appear_are_read_and_watched() {
        let tree = Tree::new(&[]);
        let mut watcher = tree.watch(&["x.service", "a-b.slice"]);
        tree.make("a.slice/a-b.slice/x.service");
        let expected = ["a-b.slice=/a.slice/a-b.slice", "x.service=/a.slice/a-b.slice/x.service"];
        assert_eq!(next(&mut watcher), expected);
        tree.remove("a.slice/a-b.slice/x.service");
        assert_eq!(next(&mut watcher), ["x.service="]);
        tree.remove("a.slice");
        assert_eq!(next(&mut watcher), ["a-b.slice="]);
        tree.make("a.slice/a-b.slice/x.service");
        assert_eq!(next(&mut watcher), expected);
    }

    #[test]
    fn look_alikes_in_delegated_trees_are_ignored() {
        let tree = Tree::new(&["user.slice/user@1000.service/app.slice", "docker/1/system.slice"]);
        let mut watcher = tree.watch(&["x.service", "x@.service", "/docker/1/system.slice/y"]);
        tree.make("user.slice/user@1000.service/app.slice/x.service");
        tree.make("user.slice/user@1000.service/x@1.service");
        tree.make("docker/1/system.slice/x.service");
        assert_eq!(next(&mut watcher), NOTHING);
        tree.make("user.slice/x@1.service");
        assert_eq!(next(&mut watcher), ["x@.service=/user.slice/x@1.service"]);
    }

    #[test]
    fn a_path_is_followed_however_deep_it_appears() {
        let tree = Tree::new(&[]);
        let mut watcher = tree.watch(&["/a/b/c", "/a/b", "/a/bc"]);
        tree.make("a/b/c");
        assert_eq!(next(&mut watcher), ["/a/b=/a/b", "/a/b/c=/a/b/c"]);
        tree.remove("a/b/c");
        assert_eq!(next(&mut watcher), ["/a/b/c="]);
        tree.make("a/b/c/d");
        assert_eq!(next(&mut watcher), ["/a/b/c=/a/b/c"]);
        tree.remove("a");
        assert_eq!(next(&mut watcher), ["/a/b=", "/a/b/c="]);
    }

    #[test]
    fn what_was_read_in_a_slice_that_replaced_the_watched_one_does_not_stay() {
        let tree = Tree::new(&["a.slice/x.service"]);
        let mut watcher = tree.watch(&["x.service"]);
        // The watch was on the predecessor of the slice that was read.
        watcher.notifier.forget("/a.slice");
        tree.remove("a.slice");
        assert_eq!(next(&mut watcher), ["x.service="]);
    }

    #[test]
    fn lost_events_are_made_good_by_reading_everything() {
        let tree = Tree::new(&["system.slice/gone.service", "system.slice/kept.service"]);
        let mut watcher = tree.watch(&["gone.service", "kept.service", "new.service"]);
        // Eats the events that a full queue would have dropped.
        tree.remove("system.slice/gone.service");
        tree.make("a.slice/new.service");
        watcher.notifier.read().unwrap();
        watcher.stale = true;
        assert_eq!(next(&mut watcher), ["gone.service=", "new.service=/a.slice/new.service"]);
        tree.make("a.slice/gone.service");
        assert_eq!(next(&mut watcher), ["gone.service=/a.slice/gone.service"]);
    }

    #[test]
    fn new_subjects_are_answered_and_old_ones_forgotten() {
        let tree = Tree::new(&["system.slice/x.service", "b/c"]);
        let mut watcher = tree.watch(&["x.service"]);
        let answer = watcher.set_subjects(&parsed(&["x.service", "/b/c", "y.service"]));
        assert_eq!(printed(answer.unwrap()), ["y.service=", "/b/c=/b/c"]);
        assert!(watcher.set_subjects(&parsed(&["/b/c"])).unwrap().is_empty());
        assert_eq!(watcher.notifier.paths(), ["/", "/b"]);
        tree.remove("system.slice/x.service");
        tree.remove("b/c");
        assert_eq!(next(&mut watcher), ["/b/c="]);
    }

    #[test]
    fn the_root_needs_no_watch() {
        let tree = Tree::new(&["a"]);
        let watcher = tree.watch(&["/"]);
        assert_eq!(watcher.resolved().next().unwrap().1[0].level, 0);
        assert!(watcher.notifier.paths().is_empty());
    }

    #[test]
    fn a_hierarchy_that_is_not_there_leaves_its_subjects_unresolved() {
        let watcher =
            Watcher::new(Hierarchy::at(Path::new("/nonexistent")), &parsed(&["x.service"])).unwrap();
        assert!(watcher.resolved().all(|(_, cgroups)| cgroups.is_empty()));
    }
}
