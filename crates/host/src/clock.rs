//! Time: wall clock for what users see, a monotonic clock for durations.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The two clocks of a host. Read once per cycle or batch, never per record.
pub trait Clock: Send + Sync + 'static {
    /// Wall clock, milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;
    /// Monotonic clock, nanoseconds since an arbitrary start; only differences mean anything.
    fn monotonic_ns(&self) -> u64;
}

/// The operating system's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealClock;

impl RealClock {
    /// The shared real clock.
    #[must_use]
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self)
    }
}

impl Clock for RealClock {
    #[expect(clippy::disallowed_methods, reason = "this is the door")]
    fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the door")]
    fn monotonic_ns(&self) -> u64 {
        static START: OnceLock<Instant> = OnceLock::new();
        let start = *START.get_or_init(Instant::now);
        u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A clock that moves only when a simulation moves it.
#[derive(Debug, Default)]
pub struct SimClock {
    ns: AtomicU64,
    epoch_ms: AtomicI64,
}

impl SimClock {
    /// Starts at `epoch_ms` (milliseconds since the Unix epoch) on the wall, zero on the monotonic clock.
    #[must_use]
    pub fn new(epoch_ms: i64) -> Self {
        Self { ns: AtomicU64::new(0), epoch_ms: AtomicI64::new(epoch_ms) }
    }

    /// Moves both clocks forward by `ns` nanoseconds.
    pub fn advance_ns(&self, ns: u64) {
        self.ns.fetch_add(ns, Ordering::SeqCst);
    }

    /// Somebody sets the wall clock forward or (below 0) back; the monotonic clock does not notice.
    pub fn jump_ms(&self, ms: i64) {
        self.epoch_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> i64 {
        let elapsed_ms = i64::try_from(self.ns.load(Ordering::SeqCst) / 1_000_000).unwrap_or(i64::MAX);
        self.epoch_ms.load(Ordering::SeqCst).saturating_add(elapsed_ms)
    }

    fn monotonic_ns(&self) -> u64 {
        self.ns.load(Ordering::SeqCst)
    }
}
