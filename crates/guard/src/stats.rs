//! What the guard counts, and how it explains itself.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use serde::Serialize;

use crate::config::Lane;
use crate::tuner::Settings;

/// Counters since the guard was opened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GuardStats {
    /// Look-ups asked for (a key with a count of n is n look-ups).
    pub lookups: u64,
    /// Look-ups answered by the near cache, "does not exist" included.
    pub near_hits: u64,
    /// Keys that the cache had.
    pub cache_hits: u64,
    /// Keys that the cache did not have.
    pub misses: u64,
    /// Look-up requests sent to the cache (each one a batch of keys).
    pub round_trips: u64,
    /// Keys asked of the system of record.
    pub loads: u64,
    /// Queries sent to the system of record (each one a batch of keys).
    pub load_queries: u64,
    /// Loads that a plain cache-aside client would have made: every look-up that waited for a load counts one.
    pub loads_without_guard: u64,
    /// Cache requests that a plain client would have made: one for each look-up.
    pub requests_without_guard: u64,
    /// Look-ups answered with a value past its time while it was refreshed.
    pub stale: u64,
    /// Cache requests and loads that failed.
    pub errors: u64,
    /// Look-ups refused or shed.
    pub sheds: u64,
    /// Values written into the cache after a load.
    pub fills: u64,
    /// Values refused by the cache because their lease was gone: deleted, or taken over, while they were loaded.
    pub fills_refused: u64,
    /// Leases asked for, repeated claims included.
    pub claims: u64,
    /// Misses that another process's load answered.
    pub shared: u64,
    /// Values loaded ahead of their expiry.
    pub renewals: u64,
    /// Changes by other clients that the cache told of, keys.
    pub changes: u64,
    /// Keys that a node of a cluster said lie elsewhere.
    pub redirects: u64,
    /// Batches asked for a second time because the first answer was late (`GuardConfig::hedge`).
    pub hedges: u64,
    /// Keys taken from the queues because everybody who waited for them had given up.
    pub cancelled: u64,
    /// Connections opened since the start, the first included.
    pub connects: u64,
    /// Entries of the near cache now.
    pub near_entries: usize,
    /// What the tuner has chosen.
    pub settings: Settings,
    /// Median from a look-up's arrival to its answer when the near cache did not have it, milliseconds.
    pub p50_ms: f64,
    /// 99th percentile of the same, milliseconds.
    pub p99_ms: f64,
}

/// Keys waiting in each lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LaneDepths {
    /// Keys in the urgent lane.
    pub urgent: usize,
    /// Keys in the normal lane.
    pub normal: usize,
    /// Keys in the bulk lane.
    pub bulk: usize,
}

/// Why the guard does what it does now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explain {
    /// The cache, without its password.
    pub cache: String,
    /// What the user asked for, in words.
    pub objective: String,
    /// A batch leaves when this many keys wait.
    pub batch_size: u32,
    /// … or when the oldest has waited this long, microseconds.
    pub linger_us: u32,
    /// Connections wanted.
    pub connections: u32,
    /// Connections that take work now.
    pub connections_ready: u32,
    /// Batches allowed under way per connection.
    pub depth: u32,
    /// Batches under way now.
    pub in_flight: u32,
    /// Keys that may be under way to the busiest node: set while the cache cannot keep up and a more urgent lane is in use.
    pub window_keys: Option<usize>,
    /// Keys waiting.
    pub queued: LaneDepths,
    /// Median from arrival to answer, milliseconds.
    pub p50_ms: f64,
    /// 99th percentile from arrival to answer, milliseconds.
    pub p99_ms: f64,
    /// Keys per second that come past the near cache.
    pub keys_per_s: f64,
    /// The shortest round trip seen lately, microseconds.
    pub rtt_us: f64,
    /// How the near cache learns of changes by others.
    pub near: String,
    /// Whether processes share their loads.
    pub leases: &'static str,
    /// `closed` (the cache answers) or `open` (it does not: the system of record is read).
    pub breaker: &'static str,
    /// The last decision and its reason, one sentence.
    pub reason: String,
    /// How often the settings were changed.
    pub changes_total: u64,
    /// The latest of these changes, the last one first.
    pub changes: Vec<Change>,
    /// What a person would have had to set, and how far it has moved.
    pub by_hand: Vec<ByHand>,
}

/// One change of settings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// How long ago, seconds.
    pub seconds_ago: f64,
    /// Before.
    pub from: Settings,
    /// After.
    pub to: Settings,
    /// Why, one sentence.
    pub reason: String,
}

/// A setting that other clients of a cache ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ByHand {
    /// What it is called elsewhere.
    pub setting: &'static str,
    /// What it is counted in.
    pub unit: &'static str,
    /// What the guard uses now.
    pub now: String,
    /// The lowest that was right since the start.
    pub lowest: String,
    /// The highest.
    pub highest: String,
}

/// Counters that callers and the guard's thread share.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) lookups: AtomicU64,
    pub(crate) near_hits: AtomicU64,
    pub(crate) cache_hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) round_trips: AtomicU64,
    pub(crate) loads: AtomicU64,
    pub(crate) load_queries: AtomicU64,
    pub(crate) loads_without_guard: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) sheds: AtomicU64,
    pub(crate) fills: AtomicU64,
    pub(crate) fills_refused: AtomicU64,
    pub(crate) claims: AtomicU64,
    pub(crate) shared: AtomicU64,
    pub(crate) renewals: AtomicU64,
    pub(crate) changes: AtomicU64,
    pub(crate) redirects: AtomicU64,
    pub(crate) hedges: AtomicU64,
    pub(crate) cancelled: AtomicU64,
    pub(crate) connects: AtomicU64,
    /// Keys handed over but not answered, by lane: the bound of each lane.
    pub(crate) pending: [AtomicUsize; 3],
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        if n > 0 {
            counter.fetch_add(n, Relaxed);
        }
    }

    pub(crate) fn pending(&self, lane: Lane) -> &AtomicUsize {
        &self.pending[lane.index()]
    }

    pub(crate) fn stats(
        &self,
        settings: Settings,
        near_entries: usize,
        p50_ms: f64,
        p99_ms: f64,
    ) -> GuardStats {
        GuardStats {
            lookups: self.lookups.load(Relaxed),
            near_hits: self.near_hits.load(Relaxed),
            cache_hits: self.cache_hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
            round_trips: self.round_trips.load(Relaxed),
            loads: self.loads.load(Relaxed),
            load_queries: self.load_queries.load(Relaxed),
            loads_without_guard: self.loads_without_guard.load(Relaxed),
            requests_without_guard: self.lookups.load(Relaxed),
            stale: self.stale.load(Relaxed),
            errors: self.errors.load(Relaxed),
            sheds: self.sheds.load(Relaxed),
            fills: self.fills.load(Relaxed),
            fills_refused: self.fills_refused.load(Relaxed),
            claims: self.claims.load(Relaxed),
            shared: self.shared.load(Relaxed),
            renewals: self.renewals.load(Relaxed),
            changes: self.changes.load(Relaxed),
            redirects: self.redirects.load(Relaxed),
            hedges: self.hedges.load(Relaxed),
            cancelled: self.cancelled.load(Relaxed),
            connects: self.connects.load(Relaxed),
            near_entries,
            settings,
            p50_ms,
            p99_ms,
        }
    }
}
