//! What a hunt ends with: one screen for a person, the same as JSON for a program.

use std::fmt;

use serde::Serialize;

use crate::watch::Latency;

/// One line of the leaderboard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The hunt.
    pub hunt: String,
    /// The player.
    pub player: String,
    /// Points.
    pub points: i64,
}

/// Look-ups and what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CacheSummary {
    /// Look-ups that the queries asked for, one per event that needed one.
    pub lookups: u64,
    /// Requests that went to the cache, each a batch.
    pub round_trips: u64,
    /// Look-ups answered by the near cache or the cache.
    pub hits: u64,
    /// Keys that the cache did not have.
    pub misses: u64,
    /// Keys asked of the system of record.
    pub loads: u64,
    /// Loads that a plain cache-aside client would have made (counted as they would have happened).
    pub loads_without_guard: u64,
    /// Cache requests that a plain client would have made.
    pub requests_without_guard: u64,
}

/// What the guard has chosen and what it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct GuardSummary {
    /// Keys per request.
    pub batch_size: u64,
    /// Connections.
    pub connections: u64,
    /// 99th percentile of a look-up that left the process, milliseconds.
    pub p99_ms: f64,
}

/// Everything a hunt ends with. The keys of the JSON form are fixed.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// What was hunted.
    pub input: String,
    /// Events offered, all runs on this data folder.
    pub events_in: u64,
    /// Events with a new id.
    pub events_unique: u64,
    /// Events dropped because their id was known.
    pub duplicates_dropped: u64,
    /// Events dropped from windows that had closed.
    pub late_events: u64,
    /// Rows of the input that could not be read (in topic `checkins-dead-letter`).
    pub rejected_rows: u64,
    /// The first of them, in words.
    pub rejected_first: Vec<String>,
    /// Treasures dropped.
    pub treasures: u64,
    /// Treasures claimed and settled.
    pub claims: u64,
    /// Treasures claimed, not settled yet.
    pub claims_provisional: u64,
    /// Clues solved.
    pub clues: u64,
    /// Rounds in which a player was in two places at once.
    pub fouls: u64,
    /// Points per hunt and player: by hunt, most points first, then by player.
    pub leaderboard: Vec<Standing>,
    /// Seconds of this run, from the first event to the last visible result.
    pub elapsed_s: f64,
    /// Events of this run per second.
    pub events_per_s: f64,
    /// From an event's arrival to its visible result, this run.
    pub latency_ms: Latency,
    /// The cache.
    pub cache: CacheSummary,
    /// The guard.
    pub guard: GuardSummary,
    /// Peak resident memory of this process, MiB.
    pub peak_rss_mb: f64,
    /// CPU seconds of this process, user and system.
    pub cpu_s: f64,
    /// Whether the whole input was sent; false after Ctrl-C.
    pub complete: bool,
}

/// `1234567` as `1,234,567`.
#[must_use]
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

impl Summary {
    /// The best players over all hunts, most points first.
    fn best(&self, count: usize) -> Vec<&Standing> {
        let mut all: Vec<&Standing> = self.leaderboard.iter().collect();
        all.sort_by(|a, b| b.points.cmp(&a.points).then_with(|| a.player.cmp(&b.player)));
        all.truncate(count);
        all
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.complete {
            "The hunt is over"
        } else {
            "The hunt stopped early; the same --data goes on"
        };
        writeln!(f, "{state}: {}", self.input)?;
        writeln!(
            f,
            "  events      {} in, {} unique, {} duplicates dropped, {} late, {} rows rejected",
            thousands(self.events_in),
            thousands(self.events_unique),
            thousands(self.duplicates_dropped),
            thousands(self.late_events),
            thousands(self.rejected_rows),
        )?;
        for sentence in self.rejected_first.iter().take(3) {
            writeln!(f, "              rejected {sentence}")?;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate is positive and small"
        )]
        let rate = self.events_per_s.max(0.0) as u64;
        writeln!(
            f,
            "  speed       {} events/s over {:.2} s, {:.1} CPU s, {:.0} MiB at most",
            thousands(rate),
            self.elapsed_s,
            self.cpu_s,
            self.peak_rss_mb
        )?;
        let latency = &self.latency_ms;
        writeln!(
            f,
            "  latency     p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms, max {:.1} ms from arrival to visible result",
            latency.p50, latency.p99, latency.p999, latency.max
        )?;
        writeln!(
            f,
            "  treasures   {} dropped, {} claimed, {} provisional; {} clues solved, {} foul rounds",
            thousands(self.treasures),
            thousands(self.claims),
            thousands(self.claims_provisional),
            thousands(self.clues),
            thousands(self.fouls),
        )?;
        let cache = &self.cache;
        writeln!(
            f,
            "  cache       {} look-ups in {} round trips (plain client: {}), {} loads (plain client: {})",
            thousands(cache.lookups),
            thousands(cache.round_trips),
            thousands(cache.requests_without_guard),
            thousands(cache.loads),
            thousands(cache.loads_without_guard),
        )?;
        writeln!(
            f,
            "  guard       chose batches of {}, {} connections; p99 {:.2} ms",
            self.guard.batch_size, self.guard.connections, self.guard.p99_ms
        )?;
        writeln!(f, "  leaderboard {} players in all", thousands(self.leaderboard.len() as u64))?;
        for (place, standing) in self.best(5).into_iter().enumerate() {
            writeln!(
                f,
                "    {}. {:<10} {:<6} {:>8}",
                place + 1,
                standing.player,
                standing.hunt,
                standing.points
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_keys_are_the_fixed_ones() {
        let value = serde_json::to_value(Summary::default()).unwrap();
        for key in [
            "events_in",
            "events_unique",
            "duplicates_dropped",
            "late_events",
            "treasures",
            "claims",
            "leaderboard",
            "elapsed_s",
            "events_per_s",
            "latency_ms",
            "cache",
            "guard",
            "peak_rss_mb",
        ] {
            assert!(value.get(key).is_some(), "{key}");
        }
        for (group, keys) in [
            ("latency_ms", &["p50", "p99", "p999", "max"][..]),
            ("cache", &["lookups", "round_trips", "hits", "misses", "loads", "loads_without_guard"]),
            ("guard", &["batch_size", "connections", "p99_ms"]),
        ] {
            for key in keys {
                assert!(value[group].get(key).is_some(), "{group}.{key}");
            }
        }
        assert_eq!(thousands(1_234_567), "1,234,567");
    }
}
