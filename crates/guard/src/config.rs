//! What a user states about the cache: where it is, what is wanted, how long things live. No batch size, no pool size.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::url::CacheUrl;

/// The one thing a user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objective {
    /// Hold this 99th percentile of the cache's answer time with the fewest requests.
    P99(Duration),
    /// The lowest 99th percentile, and among near-equal ones the fewest requests.
    AsLowAsPossible,
}

impl From<Option<Duration>> for Objective {
    /// A 99th percentile to hold, or none: as low as possible.
    fn from(p99: Option<Duration>) -> Self {
        p99.map_or(Self::AsLowAsPossible, Self::P99)
    }
}

/// The three priorities. Urgent goes first, bulk is shed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// Somebody waits for this one.
    Urgent,
    /// The stream's own look-ups.
    Normal,
    /// Warm-ups and scans: answered when there is room, shed by age when there is not.
    Bulk,
}

impl Lane {
    /// All lanes, first served first.
    pub const ALL: [Self; 3] = [Self::Urgent, Self::Normal, Self::Bulk];

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Urgent => 0,
            Self::Normal => 1,
            Self::Bulk => 2,
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Urgent => "urgent",
            Self::Normal => "normal",
            Self::Bulk => "bulk",
        })
    }
}

/// What a guard needs to know. Batch size, linger, connections and depth are not here: the tuner chooses them.
#[derive(Debug, Clone)]
pub struct GuardConfig {
    /// Where the cache is.
    pub cache: CacheUrl,
    /// What to hold.
    pub objective: Objective,
    /// How long a loaded value lives in the cache; each one is spread by ± 10 % so that they do not expire together.
    pub ttl: Duration,
    /// How long "does not exist" is remembered: in this process, and where the backend has room beside the values (Redis, the
    /// embedded cache) by all processes.
    pub negative_ttl: Duration,
    /// Entries of the near cache in this process; 0 turns it off.
    pub near_capacity: usize,
    /// How long the near cache may answer without asking the cache again (± 10 %). Where the cache tells of changes (Redis 6 and later), what
    /// another client changes is answered for one trip longer, a few milliseconds; where it does not, or after a lost connection, for this long.
    pub near_ttl: Duration,
    /// For this long after `near_ttl` the old value is still answered while one look-up refreshes it; zero turns it off. A value behind which
    /// the record has changed without [`crate::Guard::invalidate`] is answered for at most 1.1 × (`ttl` + `near_ttl`) plus this.
    pub stale_while_revalidate: Duration,
    /// How long a lease on a missing key lives in the cache: one process at a time loads it, and if that dies another takes over
    /// within this time (memcached counts whole seconds: at least two). A load that takes longer keeps its lease. What another client
    /// changes ends it where the cache tells of that, and `DEL key herdsman:lease:key` always does; a plain DEL of a key that is not there does not:
    /// what was loaded meanwhile then lives for its `ttl`. Zero turns leases off: then only look-ups of one process share a load, as with the embedded cache, which no other process knows.
    pub lease: Duration,
    /// Queries in flight at the system of record at most, and threads that run them.
    pub loaders: usize,
    /// While the cache is down: keys per second asked of the system of record at most.
    pub degraded_loads_per_s: u32,
    /// A bulk look-up older than this in the queue is shed with `GuardError::Shed`.
    pub bulk_age: Duration,
    /// A look-up unanswered after this gets `GuardError::Deadline`.
    pub deadline: Duration,
    /// Hedged reads: a batch that the cache has not answered for longer than 99 % of the look-ups of late is asked for once more on another
    /// connection, and the first answer counts; at most one batch in twenty. Helps against a connection that stalls, costs requests.
    pub hedge: bool,
    /// Keys that may wait in one lane before new look-ups are refused.
    pub lane_capacity: usize,
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self {
            cache: CacheUrl::Embedded,
            objective: Objective::AsLowAsPossible,
            ttl: Duration::from_secs(300),
            negative_ttl: Duration::from_secs(5),
            near_capacity: 65_536,
            near_ttl: Duration::from_secs(5),
            stale_while_revalidate: Duration::ZERO,
            lease: Duration::from_secs(2),
            loaders: 2,
            degraded_loads_per_s: 10_000,
            bulk_age: Duration::from_millis(500),
            deadline: Duration::from_secs(10),
            hedge: false,
            lane_capacity: 262_144,
        }
    }
}
