//! Latency counts in log-linear buckets (16 per octave, error ≤ 6.25 %), cheap to clear every interval.

const PER_OCTAVE: usize = 16;
const OCTAVES: usize = 42; // 2^42 ns is more than an hour
const BUCKETS: usize = PER_OCTAVE * OCTAVES;

/// Counts of durations in nanoseconds.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Box<[u64]>,
    total: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into_boxed_slice(), total: 0, max_ns: 0 }
    }
}

fn bucket(ns: u64) -> usize {
    if ns < PER_OCTAVE as u64 {
        return usize::try_from(ns).unwrap_or(0);
    }
    let octave = 63 - ns.leading_zeros() as usize; // ≥ 4
    let within = usize::try_from((ns >> (octave - 4)) & 15).unwrap_or(0);
    ((octave - 3) * PER_OCTAVE + within).min(BUCKETS - 1)
}

fn upper_edge(bucket: usize) -> u64 {
    if bucket < PER_OCTAVE {
        return bucket as u64;
    }
    let octave = bucket / PER_OCTAVE + 3;
    ((16 + (bucket % PER_OCTAVE) as u64 + 1) << (octave - 4)) - 1
}

impl Histogram {
    /// Counts `n` observations of `ns` nanoseconds.
    pub fn record(&mut self, ns: u64, n: u64) {
        self.counts[bucket(ns)] += n;
        self.total += n;
        self.max_ns = self.max_ns.max(ns);
    }

    /// The value below which `share` (0 to 1) of the observations lie, nanoseconds; 0 when empty.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank"
    )]
    pub fn quantile_ns(&self, share: f64) -> u64 {
        let rank = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_edge(index).min(self.max_ns);
            }
        }
        self.max_ns
    }

    /// Observations counted.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.total
    }

    /// Nothing counted yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The largest observation, nanoseconds.
    #[must_use]
    pub fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// What was counted: the upper edge of each bucket, nanoseconds, with its count.
    pub fn counts(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let counted = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        counted.map(|(index, count)| (upper_edge(index).min(self.max_ns), *count))
    }

    /// Adds another histogram's counts.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        if self.total > 0 {
            self.counts.fill(0);
        }
        self.total = 0;
        self.max_ns = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_one_sixteenth_of_the_truth() {
        let mut histogram = Histogram::default();
        for us in 1..=10_000_u64 {
            histogram.record(us * 1_000, 1);
        }
        for (share, truth) in [(0.5, 5_000_000_u64), (0.99, 9_900_000), (0.999, 9_990_000)] {
            let found = histogram.quantile_ns(share);
            assert!(found >= truth && found <= truth + truth / 16, "{share}: {found}");
        }
        assert_eq!(histogram.quantile_ns(1.0), 10_000_000);
        histogram.record(u64::MAX, 1);
        assert_eq!(histogram.quantile_ns(1.0), upper_edge(BUCKETS - 1));
        histogram.clear();
        assert_eq!(histogram.quantile_ns(0.99), 0);
    }
}
