//! How far a partition was compacted, and when: tombstones stay for `delete.retention.ms` after that.
//!
//! ```text
//! herdsman-compacted 1 <crc32c>
//! <end offset> <when, ms> <tombstones and markers left>       one line per round that still counts
//! ```
//! A lost file costs one more round over the whole partition.

use std::path::Path;

use herdsman_host::Disk;

use crate::{LogError, sealed};

const FILE: &str = "compacted";
const MAGIC: &str = "herdsman-compacted 1";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Round {
    until: i64,
    at_ms: i64,
    tombstones: usize,
}

/// The rounds so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cleaned {
    /// Records below were compacted.
    pub(crate) until: i64,
    rounds: Vec<Round>,
}

impl Cleaned {
    pub(crate) fn load(disk: &dyn Disk, dir: &Path) -> Self {
        let path = dir.join(FILE);
        let bytes = if disk.exists(&path) { disk.read_all(&path).unwrap_or_default() } else { Vec::new() };
        let mut found = Self::default();
        for line in sealed::open(MAGIC, &bytes).unwrap_or_default().lines() {
            let mut words = line.split(' ');
            let (Some(until), Some(at_ms), Some(tombstones)) = (
                words.next().and_then(|word| word.parse().ok()),
                words.next().and_then(|word| word.parse().ok()),
                words.next().and_then(|word| word.parse().ok()),
            ) else {
                continue;
            };
            found.rounds.push(Round { until, at_ms, tombstones });
            found.until = until;
        }
        found
    }

    pub(crate) fn store(&self, disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
        let path = dir.join(FILE);
        let body: String = self
            .rounds
            .iter()
            .map(|round| format!("{} {} {}\n", round.until, round.at_ms, round.tombstones))
            .collect();
        disk.replace(&path, &sealed::seal(MAGIC, &body)).map_err(LogError::io("write", &path))
    }

    fn expired(&self, now_ms: i64, retention_ms: i64) -> impl Iterator<Item = &Round> {
        self.rounds.iter().filter(move |round| now_ms.saturating_sub(round.at_ms) > retention_ms)
    }

    /// Whether tombstones can go now that could not before.
    pub(crate) fn has_expired(&self, now_ms: i64, retention_ms: i64) -> bool {
        self.expired(now_ms, retention_ms).any(|round| round.tombstones > 0)
    }

    /// Tombstones below have stayed long enough.
    pub(crate) fn horizon(&self, now_ms: i64, retention_ms: i64) -> i64 {
        self.expired(now_ms, retention_ms).map(|round| round.until).max().unwrap_or(0)
    }

    /// A round has ended. Rounds up to `horizon` have nothing left to wait for.
    pub(crate) fn add(&mut self, until: i64, at_ms: i64, tombstones: usize, horizon: i64) {
        self.rounds.retain(|round| round.until > horizon);
        self.until = self.until.max(until);
        match self.rounds.last_mut().filter(|last| last.until == self.until) {
            // nothing new: its tombstones go on waiting from when they were first seen
            Some(last) => last.tombstones = tombstones,
            None => self.rounds.push(Round { until: self.until, at_ms, tombstones }),
        }
    }
}
