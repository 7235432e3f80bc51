//! Where containers are: by cgroup where they share the host's network, else by their addresses.
//!
//! A cgroup comes before its first process, and that before its addresses, of which nobody tells: after each change of
//! a cgroup it is looked at often for a while, later now and then. Names need no watching of their own: an engine
//! writes a name down before it makes the cgroup.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Resolved;
use crate::compile::Place;
use crate::kernel::cgroups::{ContainerWatcher, Hierarchy, is_id};
use crate::kernel::containers::{Engines, Home, network_of};
use crate::kernel::wait::Waiting;
use crate::model::Subject;

/// Between two looks at a container whose cgroup has just changed, and for how long it counts as such.
const HURRY: Duration = Duration::from_millis(10);
const NEW: Duration = Duration::from_secs(10);

/// Between two looks at all others: an address may come or go, and a name change.
const CALM: Duration = Duration::from_secs(1);

/// How many are looked at in a row: the daemon has other things to do.
const AT_ONCE: usize = 32;

/// Finds containers by name or id, and follows them.
pub struct Containers {
    hierarchy: Hierarchy,
    names: Names,
    /// Nothing is watched while no policy names a container.
    watcher: Option<Waiting<ContainerWatcher>>,
    known: BTreeMap<Subject, Known>,
    /// Whose cgroup has changed, and until when that is new.
    new: VecDeque<(Subject, Instant)>,
    /// All, in the order in which they are looked at.
    calm: VecDeque<Subject>,
    next_new: Instant,
    next_calm: Instant,
}

/// What is known of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Known {
    /// The full id.
    id: Option<String>,
    places: Vec<Place>,
    /// One process in each network namespace of its own.
    processes: Vec<u32>,
    /// Several containers fit.
    ambiguous: bool,
}

impl Containers {
    pub fn new(hierarchy: Hierarchy, engines: Engines) -> Self {
        let now = Instant::now();
        Self {
            hierarchy,
            names: Names { engines, by_id: BTreeMap::new(), by_name: BTreeMap::new(), next: String::new() },
            watcher: None,
            known: BTreeMap::new(),
            new: VecDeque::new(),
            calm: VecDeque::new(),
            next_new: now,
            next_calm: now,
        }
    }

    /// Watches these subjects, as far as they are containers; returns the new ones, and those of the others that moved.
    pub fn set(&mut self, subjects: &[Subject]) -> Vec<Resolved> {
        let wanted: BTreeSet<&Subject> =
            subjects.iter().filter(|subject| matches!(subject, Subject::Container(_))).collect();
        let before = std::mem::take(&mut self.known);
        if wanted.is_empty() {
            self.watcher = None;
            self.new.clear();
            self.calm.clear();
            return Vec::new();
        }
        if let Err(error) = self.watch() {
            tracing::error!(%error, "cannot watch containers: they stay unresolved");
        }
        self.calm = wanted.iter().map(|subject| (*subject).clone()).collect();
        let mut changes = Vec::new();
        for subject in wanted {
            let known = self.look(subject);
            if before.get(subject).is_none_or(|before| before.places != known.places) {
                changes.push((subject.clone(), known.places.clone()));
                self.hurry(subject.clone());
            }
            self.known.insert(subject.clone(), known);
        }
        changes
    }

    fn watch(&mut self) -> Result<(), super::SubjectsError> {
        match &mut self.watcher {
            // What came meanwhile has to be known before anyone is looked up.
            Some(watcher) => drop(watcher.get_mut().next_changes()?),
            None => {
                let watcher = ContainerWatcher::new(self.hierarchy.clone())?;
                self.watcher = Some(Waiting::new(watcher).map_err(super::SubjectsError::Wait)?);
            }
        }
        if let Some(watcher) = &mut self.watcher {
            self.names.read_all(watcher.get_mut());
        }
        Ok(())
    }

    /// Every watched container as of the last look.
    pub fn resolved(&self) -> Vec<Resolved> {
        self.known.iter().map(|(subject, known)| (subject.clone(), known.places.clone())).collect()
    }

    /// A process in each network namespace that a watched container has of its own, with its container.
    pub fn namespaces(&self) -> Vec<(Subject, u32)> {
        let of = |(subject, known): (&Subject, &Known)| {
            known.processes.iter().map(|process| (subject.clone(), *process)).collect::<Vec<_>>()
        };
        self.known.iter().flat_map(of).collect()
    }

    /// Waits until some container may have moved. Safe in `select!`.
    pub async fn changed(&mut self) {
        let next = match (self.new.is_empty(), self.known.is_empty()) {
            (_, true) => return std::future::pending().await,
            (true, false) => self.next_calm,
            (false, false) => self.next_calm.min(self.next_new),
        };
        let events = async {
            match &mut self.watcher {
                // An error shows again when the watcher is read.
                Some(watcher) => drop(watcher.readable().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = events => {}
            () = tokio::time::sleep_until(next.into()) => {}
        }
    }

    /// Returns what has moved since the last call, without waiting.
    pub fn next_changes(&mut self) -> Vec<Resolved> {
        let mut due = self.touched();
        let now = Instant::now();
        if self.next_new <= now {
            self.next_new = now + HURRY;
            due.extend(self.take_new(now));
        }
        if self.next_calm <= now {
            let most = self.calm.len().max(self.names.by_id.len());
            let rounds = u32::try_from(most.div_ceil(AT_ONCE)).unwrap_or(u32::MAX);
            self.next_calm = now + CALM / rounds.max(1);
            self.names.read_some(AT_ONCE);
            due.extend(self.take_calm());
        }
        due.into_iter().filter_map(|subject| self.update(subject)).collect()
    }

    /// The subjects whose cgroups have changed.
    fn touched(&mut self) -> BTreeSet<Subject> {
        if self.watcher.is_none()
            && !self.known.is_empty()
            && let Err(error) = self.watch()
        {
            tracing::debug!(%error, "cannot watch containers yet");
        }
        let Some(watcher) = &mut self.watcher else { return BTreeSet::new() };
        let ids = watcher.get_mut().next_changes().unwrap_or_else(|error| {
            tracing::error!(%error, "cannot read what happened to the cgroups of containers");
            BTreeSet::new()
        });
        let mut touched = BTreeSet::new();
        for id in ids {
            let is_there = watcher.get_mut().cgroups(&id).next().is_some();
            let names = self.names.read(&id, is_there).clone();
            let means = |(subject, known): &(&Subject, &Known)| match subject_id(subject) {
                Some(digits) => id.starts_with(digits),
                None => names.contains(subject.value()) || known.id.as_ref() == Some(&id),
            };
            touched.extend(self.known.iter().filter(means).map(|(subject, _)| subject.clone()));
        }
        touched.iter().for_each(|subject| self.hurry(subject.clone()));
        touched
    }

    fn hurry(&mut self, subject: Subject) {
        let now = Instant::now();
        self.new.retain(|(other, _)| *other != subject);
        self.new.push_back((subject, now + NEW));
        self.next_new = self.next_new.min(now + HURRY);
    }

    fn take_new(&mut self, now: Instant) -> Vec<Subject> {
        let count = self.new.len().min(AT_ONCE);
        let taken: Vec<_> = self.new.drain(..count).filter(|(_, until)| now < *until).collect();
        self.new.extend(taken.iter().cloned());
        taken
            .into_iter()
            .map(|(subject, _)| subject)
            .filter(|subject| self.known.contains_key(subject))
            .collect()
    }

    fn take_calm(&mut self) -> Vec<Subject> {
        let count = self.calm.len().min(AT_ONCE);
        self.calm.rotate_left(count);
        self.calm.iter().rev().take(count).cloned().collect()
    }

    /// Looks again; the new places when they are others.
    fn update(&mut self, subject: Subject) -> Option<Resolved> {
        let now = self.look(&subject);
        let before = self.known.insert(subject.clone(), now.clone()).unwrap_or_default();
        if now.ambiguous && !before.ambiguous {
            tracing::warn!(%subject, "several containers fit: none of them is meant");
        }
        (before.places != now.places).then_some((subject, now.places))
    }

    fn look(&mut self, subject: &Subject) -> Known {
        let Some(watcher) = self.watcher.as_mut().map(Waiting::get_mut) else { return Known::default() };
        let mut ids: Vec<String> = match subject_id(subject) {
            Some(digits) => watcher.ids(digits).map(str::to_owned).collect(),
            None => self.names.ids(subject.value()).cloned().collect(),
        };
        let Some(id) = ids.pop() else { return Known::default() };
        if !ids.is_empty() {
            return Known { ambiguous: true, ..Known::default() };
        }
        let mut known = Known::default();
        let mut shared = Vec::new();
        let mut addresses = BTreeSet::<IpAddr>::new();
        for cgroup in watcher.cgroups(&id) {
            let directory = self.hierarchy.mount().join(cgroup.path.trim_start_matches('/'));
            match network_of(&directory).map(|network| (network.home, network.process)) {
                // Before its first process too, which has then no time in which it is refused.
                None | Some((Home::Host, _)) => shared.push(cgroup.clone()),
                Some((Home::Own(own), process)) => {
                    addresses.extend(own);
                    known.processes.push(process);
                }
            }
        }
        known.id = Some(id);
        known.places = self.hierarchy.places(shared);
        known.places.extend(addresses.into_iter().map(Place::Address));
        known
    }
}

/// The digits by which a subject names a container; `None`: it is a name.
fn subject_id(subject: &Subject) -> Option<&str> {
    Some(subject.value()).filter(|value| is_id(value))
}

/// The names of all containers that have a cgroup.
struct Names {
    engines: Engines,
    by_id: BTreeMap<String, BTreeSet<String>>,
    by_name: BTreeMap<String, BTreeSet<String>>,
    /// The id whose names are read next.
    next: String,
}

impl Names {
    fn ids(&self, name: &str) -> impl Iterator<Item = &String> {
        self.by_name.get(name).into_iter().flatten()
    }

    /// Reads the names of a container; none when it is gone.
    fn read(&mut self, id: &str, is_there: bool) -> &BTreeSet<String> {
        for name in self.by_id.remove(id).unwrap_or_default() {
            if let Some(ids) = self.by_name.get_mut(&name) {
                ids.remove(id);
                if ids.is_empty() {
                    self.by_name.remove(&name);
                }
            }
        }
        let names = match is_there {
            true => self.engines.names(id),
            false => BTreeSet::new(),
        };
        for name in &names {
            self.by_name.entry(name.clone()).or_default().insert(id.to_owned());
        }
        match is_there {
            true => self.by_id.entry(id.to_owned()).or_insert(names),
            false => {
                self.engines.forget(id);
                const { &BTreeSet::new() }
            }
        }
    }

    fn read_all(&mut self, watcher: &ContainerWatcher) {
        let there: BTreeSet<String> = watcher.ids("").map(str::to_owned).collect();
        let gone: Vec<_> = self.by_id.keys().filter(|id| !there.contains(*id)).cloned().collect();
        for (id, is_there) in gone.iter().map(|id| (id, false)).chain(there.iter().map(|id| (id, true))) {
            self.read(id, is_there);
        }
    }

    /// Reads the names of some again: they may have been renamed.
    fn read_some(&mut self, count: usize) {
        let from_next = self.by_id.range(self.next.clone()..).map(|(id, _)| id);
        let some: Vec<String> =
            from_next.chain(self.by_id.keys()).take(count.min(self.by_id.len())).cloned().collect();
        for id in &some {
            self.read(id, true);
        }
        self.next = some.last().map(|last| format!("{last}~")).unwrap_or_default();
    }
}
