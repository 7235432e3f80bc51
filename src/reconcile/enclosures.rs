//! Segments as they are in force, and the resolvers that they may ask.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::World;
use crate::compile;
use crate::model::{HostName, Segment, SegmentName, Subject};
use crate::names;
use crate::ruleset::Part;

#[derive(Debug, Clone, Default)]
pub struct Enclosures {
    /// As their files say them.
    files: BTreeMap<SegmentName, Segment>,
    /// With the addresses that their names have.
    segments: BTreeMap<SegmentName, Segment>,
    subjects: BTreeSet<Subject>,
    /// Those of the segments that name hosts.
    naming: BTreeSet<Subject>,
    by_host: BTreeMap<HostName, BTreeSet<SegmentName>>,
    /// Those that the last change took away: what they refused until then may still be on its way to the record.
    former: BTreeMap<SegmentName, Segment>,
    /// Sorted, without repeats.
    resolvers: Vec<IpAddr>,
}

impl Enclosures {
    pub fn files(&self) -> &BTreeMap<SegmentName, Segment> {
        &self.files
    }

    pub fn segments(&self) -> &BTreeMap<SegmentName, Segment> {
        &self.segments
    }

    /// True when a segment about the subject names hosts.
    pub fn names_hosts(&self, subject: &Subject) -> bool {
        self.naming.contains(subject)
    }

    pub fn hosts(&self) -> impl Iterator<Item = &HostName> {
        self.by_host.keys()
    }

    /// True when a segment allows the name.
    pub fn allows_host(&self, host: &HostName) -> bool {
        self.by_host.contains_key(host)
    }

    pub fn resolvers(&self) -> &[IpAddr] {
        &self.resolvers
    }

    pub fn subjects(&self) -> impl Iterator<Item = &Subject> {
        self.subjects.iter()
    }

    /// True when a segment is about the subject.
    pub fn names(&self, subject: &Subject) -> bool {
        self.subjects.contains(subject)
    }
}

impl World {
    /// Takes over the segments of files that were accepted. Removing one opens its enclosure.
    pub fn enclose(&mut self, segments: BTreeMap<SegmentName, Segment>) {
        if *self.enclosures.files() == segments {
            return;
        }
        let enclosures = Arc::make_mut(&mut self.enclosures);
        enclosures.naming.clear();
        enclosures.by_host.clear();
        for (name, segment) in &segments {
            for host in segment.names() {
                enclosures.naming.insert(segment.subject.clone());
                enclosures.by_host.entry(host.clone()).or_default().insert(name.clone());
            }
        }
        enclosures.files.clone_from(&segments);
        enclosures.subjects = segments.values().map(|segment| segment.subject.clone()).collect();
        let before = std::mem::replace(&mut enclosures.segments, segments);
        enclosures.former =
            before.into_iter().filter(|(name, _)| !enclosures.segments.contains_key(name)).collect();
        self.cut_at = Some(self.latest);
        let all = self.enclosures.files.keys().cloned().collect();
        self.refresh_segments(&all);
    }

    /// Gives segments the addresses that their names have now.
    pub(super) fn refresh_segments(&mut self, segments: &BTreeSet<SegmentName>) {
        let files = segments.iter().filter_map(|name| self.enclosures.files.get(name));
        let effective: Vec<_> =
            files.filter_map(|file| names::allowed(file, &self.names, self.latest)).collect();
        for segment in effective {
            if self.segments().get(&segment.name) != Some(&segment) {
                Arc::make_mut(&mut self.enclosures).segments.insert(segment.name.clone(), segment);
            }
        }
    }

    /// The segments that allow any of these names.
    pub(super) fn segments_of(&self, hosts: &BTreeSet<HostName>) -> BTreeSet<SegmentName> {
        let by_host = &self.enclosures.by_host;
        hosts.iter().filter_map(|host| by_host.get(host)).flatten().cloned().collect()
    }

    /// Returns only what follows the addresses of these names in segments; `None` when no segment allows other ones
    /// than in the world `before`.
    pub fn compile_allowed(&self, hosts: &BTreeSet<HostName>, before: &Self) -> Option<Part> {
        let changed = |name: &SegmentName| {
            let segment = self.segments().get(name)?;
            (before.segments().get(name) != Some(segment)).then_some(segment)
        };
        let segments = self.segments_of(hosts);
        let mut moved = segments.iter().filter_map(changed).peekable();
        moved.peek()?;
        let mut part = Part::new(&self.settings.enforcement.table);
        compile::allowed_sets(&self.input(&[]), moved, &mut part);
        Some(part)
    }

    /// Takes over whom segments may ask for names. True when that is another list than before.
    pub fn set_resolvers(&mut self, mut resolvers: Vec<IpAddr>) -> bool {
        resolvers.sort_unstable();
        resolvers.dedup();
        if self.enclosures.resolvers == resolvers {
            return false;
        }
        Arc::make_mut(&mut self.enclosures).resolvers = resolvers;
        true
    }

    pub fn segments(&self) -> &BTreeMap<SegmentName, Segment> {
        self.enclosures.segments()
    }

    pub fn resolvers(&self) -> &[IpAddr] {
        self.enclosures.resolvers()
    }

    /// A segment that is in force, or was until the last change of files.
    pub fn segment(&self, name: &SegmentName) -> Option<&Segment> {
        self.enclosures.segments.get(name).or_else(|| self.enclosures.former.get(name))
    }
}
