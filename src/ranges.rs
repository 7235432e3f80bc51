//! Cuts overlapping ranges into disjoint ones.

use std::collections::BTreeMap;

/// A closed range with everything that covers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment<T> {
    pub first: u128,
    pub last: u128,
    /// Sorted, without repeats, never empty.
    pub covers: Vec<T>,
}

/// Returns the disjoint segments of closed ranges, in order; neighbours that are covered alike are one segment.
pub fn sweep<T: Ord + Copy>(ranges: impl IntoIterator<Item = (u128, u128, T)>) -> Vec<Segment<T>> {
    // (where, begins?, what); `None` for an end beyond the last address.
    let mut events: Vec<(u128, bool, T)> = Vec::new();
    for (first, last, tag) in ranges {
        events.push((first, true, tag));
        if let Some(after) = last.checked_add(1) {
            events.push((after, false, tag));
        }
    }
    events.sort_unstable();
    let mut active: BTreeMap<T, usize> = BTreeMap::new();
    let mut segments: Vec<Segment<T>> = Vec::new();
    let mut events = events.into_iter().peekable();
    while let Some((position, begins, tag)) = events.next() {
        let count = active.entry(tag).or_insert(0);
        *count = if begins { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            active.remove(&tag);
        }
        let next = events.peek().map(|(position, ..)| *position);
        if next != Some(position) && !active.is_empty() {
            let last = next.map_or(u128::MAX, |next| next - 1);
            push(&mut segments, position, last, active.keys().copied().collect());
        }
    }
    segments
}

fn push<T: PartialEq>(segments: &mut Vec<Segment<T>>, first: u128, last: u128, covers: Vec<T>) {
    match segments.last_mut() {
        Some(before) if before.last.checked_add(1) == Some(first) && before.covers == covers => {
            before.last = last;
        }
        Some(_) | None => segments.push(Segment { first, last, covers }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_inner_range_cuts_the_outer_one_in_three() {
        let segments = sweep([(10, 20, 'a'), (13, 15, 'b')]);
        let spans: Vec<_> = segments.iter().map(|s| (s.first, s.last, s.covers.clone())).collect();
        assert_eq!(spans, [(10, 12, vec!['a']), (13, 15, vec!['a', 'b']), (16, 20, vec!['a'])]);
    }

    #[test]
    fn touching_ranges_of_one_owner_become_one() {
        let segments = sweep([(0, 9, 'a'), (10, u128::MAX, 'a')]);
        assert_eq!(segments.len(), 1);
        assert_eq!((segments[0].first, segments[0].last), (0, u128::MAX));
    }

    proptest! {
        #[test]
        fn every_point_has_exactly_the_covers_of_a_plain_look(
            ranges in prop::collection::vec((0u128..60, 0u128..12, 0u8..5), 0..12),
        ) {
            let ranges: Vec<_> = ranges.into_iter().map(|(first, width, tag)| (first, first + width, tag)).collect();
            let segments = sweep(ranges.iter().copied());
            for pair in segments.windows(2) {
                prop_assert!(pair[0].last < pair[1].first);
            }
            for point in 0..80u128 {
                let mut plain: Vec<_> = ranges.iter().filter(|(f, l, _)| (*f..=*l).contains(&point)).map(|r| r.2).collect();
                plain.sort_unstable();
                plain.dedup();
                let found = segments.iter().find(|s| (s.first..=s.last).contains(&point));
                prop_assert_eq!(found.map(|s| s.covers.clone()).unwrap_or_default(), plain);
            }
        }
    }
}
