//! Streams of spans in order of their beginning.

use std::iter;

use crate::model::Span;

/// Spans by `opens_at`, ascending.
pub type Spans<'a> = Box<dyn Iterator<Item = Span> + 'a>;

/// One stream of several.
pub fn interleave(sources: Vec<Spans<'_>>) -> impl Iterator<Item = Span> {
    let mut sources: Vec<_> = sources.into_iter().map(Iterator::peekable).collect();
    iter::from_fn(move || {
        let heads = sources.iter_mut().filter_map(|source| Some((source.peek()?.opens_at(), source)));
        let (_, first) = heads.min_by_key(|(opens_at, _)| *opens_at)?;
        first.next()
    })
}

/// The same instants in the fewest spans: what overlaps or touches becomes one.
pub fn merge(spans: impl Iterator<Item = Span>) -> impl Iterator<Item = Span> {
    let mut spans = spans.peekable();
    iter::from_fn(move || {
        let mut merged = spans.next()?;
        while let Some(next) = spans.next_if(|next| next.opens_at() <= merged.closes_at()) {
            merged = hull(merged, next);
        }
        Some(merged)
    })
}

fn hull(earlier: Span, later: Span) -> Span {
    let closes_at = earlier.closes_at().max(later.closes_at());
    Span::new(earlier.opens_at(), closes_at).unwrap_or(earlier)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Time;

    fn span(opens_at: i64, closes_at: i64) -> Span {
        let second = |at| Time::from_timestamp(at, 0).unwrap();
        Span::new(second(opens_at), second(closes_at)).unwrap()
    }

    #[test]
    fn spans_that_overlap_touch_or_nest_become_one() {
        let spans = [span(0, 9), span(1, 2), span(9, 10), span(11, 12), span(11, 13)];
        assert_eq!(merge(spans.into_iter()).collect::<Vec<_>>(), [span(0, 10), span(11, 13)]);
    }

    #[test]
    fn several_streams_become_one_in_order() {
        let sources: Vec<Spans<'_>> = vec![
            Box::new([span(0, 1), span(4, 5)].into_iter()),
            Box::new(iter::empty()),
            Box::new([span(2, 9), span(3, 4)].into_iter()),
        ];
        let all: Vec<_> = interleave(sources).collect();
        assert_eq!(all, [span(0, 1), span(2, 9), span(3, 4), span(4, 5)]);
    }

    #[test]
    fn no_stream_gives_no_span() {
        assert_eq!(interleave(Vec::new()).count(), 0);
    }
}
