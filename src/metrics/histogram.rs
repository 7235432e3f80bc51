//! How long things took, in buckets that Prometheus understands.

use std::time::Duration;

/// Upper bounds in seconds: from a change of one element to a table of 100,000 (`docs/churn.md`).
pub const BOUNDS: [f64; 13] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Counts of durations.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Histogram {
    /// One for each bound, each for itself, and one for what is longer than all of them.
    counts: [u64; BOUNDS.len() + 1],
    sum: Duration,
}

impl Histogram {
    pub fn observe(&mut self, took: Duration) {
        let bucket = BOUNDS.iter().position(|bound| took.as_secs_f64() <= *bound).unwrap_or(BOUNDS.len());
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum += took;
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// In seconds.
    pub fn sum(&self) -> f64 {
        self.sum.as_secs_f64()
    }

    /// Each bound with the count of its own bucket alone, infinity at the end.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        BOUNDS.into_iter().chain([f64::INFINITY]).zip(self.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_the_first_bucket_that_holds_it() {
        let mut histogram = Histogram::default();
        for millis in [0, 1, 2, 20_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let filled: Vec<f64> =
            histogram.buckets().filter(|(_, count)| *count > 0).map(|(bound, _)| bound).collect();
        assert_eq!(filled, [0.0005, 0.001, 0.0025, f64::INFINITY]);
        assert_eq!(histogram.count(), 4);
        assert!((histogram.sum() - 20.003).abs() < 1e-9);
    }
}
