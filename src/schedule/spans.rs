//! Spans as sets of instants.

use std::iter;

use crate::model::{Span, Time};

/// The same instants in the fewest spans, by time: what overlaps or touches becomes one.
pub fn merge(spans: impl Iterator<Item = Span>) -> Vec<Span> {
    let mut spans = sort(spans).into_iter().peekable();
    let merged = iter::from_fn(|| {
        let mut merged = spans.next()?;
        while let Some(next) = spans.next_if(|next| next.opens_at() <= merged.closes_at()) {
            merged = prolong(merged, next.closes_at());
        }
        Some(merged)
    });
    merged.collect()
}

/// By `opens_at`.
pub fn sort(spans: impl Iterator<Item = Span>) -> Vec<Span> {
    let mut spans: Vec<_> = spans.collect();
    spans.sort_unstable();
    spans
}

/// The span with a later end; the same one where the end is not later.
pub fn prolong(span: Span, closes_at: Time) -> Span {
    Span::new(span.opens_at(), span.closes_at().max(closes_at)).unwrap_or(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(opens_at: i64, closes_at: i64) -> Span {
        let second = |at| Time::from_timestamp(at, 0).unwrap();
        Span::new(second(opens_at), second(closes_at)).unwrap()
    }

    #[test]
    fn spans_that_overlap_touch_or_nest_become_one() {
        let spans = [span(11, 13), span(9, 10), span(0, 9), span(1, 2), span(11, 12)];
        assert_eq!(merge(spans.into_iter()), [span(0, 10), span(11, 13)]);
    }

    #[test]
    fn a_span_is_never_cut_by_prolonging_it() {
        assert_eq!(prolong(span(1, 5), span(0, 3).closes_at()), span(1, 5));
    }
}
