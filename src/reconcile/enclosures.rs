//! Segments as they are in force, and the resolvers that they may ask.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::World;
use crate::model::{Segment, SegmentName, Subject};

#[derive(Debug, Clone, Default)]
pub struct Enclosures {
    segments: BTreeMap<SegmentName, Segment>,
    subjects: BTreeSet<Subject>,
    /// Those that the last change took away: what they refused until then may still be on its way to the record.
    former: BTreeMap<SegmentName, Segment>,
    /// Sorted, without repeats.
    resolvers: Vec<IpAddr>,
}

impl Enclosures {
    pub fn segments(&self) -> &BTreeMap<SegmentName, Segment> {
        &self.segments
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
        if *self.segments() == segments {
            return;
        }
        let enclosures = Arc::make_mut(&mut self.enclosures);
        enclosures.subjects = segments.values().map(|segment| segment.subject.clone()).collect();
        let before = std::mem::replace(&mut enclosures.segments, segments);
        enclosures.former =
            before.into_iter().filter(|(name, _)| !enclosures.segments.contains_key(name)).collect();
        self.cut_at = Some(self.latest);
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
