//! When an upstream partition counts as idle, so that the others need not wait for it.
//!
//! Behind a repartition, stream time is the lowest of all upstream partitions. One that has nothing to say would hold it
//! for ever; one that is taken for idle too early finds its rows late. The rule, for one query over all its threads:
//!
//! - The query is *busy* from the first row until [`QUIET_MS`] after the last one. While it is quiet nobody is idle: there
//!   is nothing to advance for, and when rows come again every partition gets [`IDLE_MS`] to bring its own.
//! - While it is busy, a task is idle when it has read everything there is, another task had rows after it, and it had
//!   none for [`IDLE_MS`] of this busy time.

use std::sync::{Mutex, PoisonError};

/// An upstream partition without rows for so long counts as idle, ms of the wall clock.
pub(crate) const IDLE_MS: i64 = 5_000;
/// A query without rows for so long is quiet, ms of the wall clock.
pub(crate) const QUIET_MS: i64 = 2 * IDLE_MS;

/// When a query's first stages had rows, as all threads see it.
#[derive(Debug, Default)]
pub struct Activity(Mutex<Option<Busy>>);

#[derive(Debug, Clone, Copy)]
struct Busy {
    since_ms: i64,
    last_ms: i64,
}

impl Activity {
    /// Some task had rows at `now_ms`.
    pub(crate) fn note(&self, now_ms: i64) {
        let mut busy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *busy = Some(match *busy {
            Some(Busy { since_ms, last_ms }) if now_ms.saturating_sub(last_ms) < QUIET_MS => {
                Busy { since_ms, last_ms: last_ms.max(now_ms) }
            }
            _ => Busy { since_ms: now_ms, last_ms: now_ms },
        });
    }

    /// Whether a task that had its last rows at `active_ms` has been silent for long enough while others were not.
    pub(crate) fn outran(&self, active_ms: i64, now_ms: i64) -> bool {
        let busy = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        busy.is_some_and(|Busy { since_ms, last_ms }| {
            now_ms.saturating_sub(last_ms) < QUIET_MS
                && active_ms < last_ms
                && now_ms.saturating_sub(active_ms.max(since_ms)) >= IDLE_MS
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_idle_before_the_first_row_or_after_a_quiet_time() {
        let activity = Activity::default();
        assert!(!activity.outran(0, 60_000), "queries that start slowly make nobody idle");
        activity.note(60_000);
        assert!(!activity.outran(0, 60_000 + IDLE_MS - 1), "five seconds from the first row on");
        assert!(activity.outran(0, 60_000 + IDLE_MS));
        assert!(!activity.outran(60_000, 60_000 + IDLE_MS), "the task with the last rows leads");
        assert!(!activity.outran(0, 60_000 + QUIET_MS), "the query is quiet");
        activity.note(200_000);
        assert!(!activity.outran(0, 200_001), "rows come again: everybody has time to bring some");
        assert!(activity.outran(0, 200_000 + IDLE_MS));
    }
}
