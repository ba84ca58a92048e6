//! What the flows did so far.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Counters of one flow, shared with its thread.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) forwarded: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) foreign: AtomicU64,
    pub(crate) skipped: AtomicU64,
    pub(crate) lag: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) running: AtomicBool,
    last_error: Mutex<Option<String>>,
}

impl Counters {
    /// Counts an error and keeps its sentence.
    pub(crate) fn failed(&self, sentence: String) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(sentence);
    }

    pub(crate) fn snapshot(&self, source: &str, target: &str) -> FlowStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FlowStats {
            source: source.to_owned(),
            target: target.to_owned(),
            running: self.running.load(Ordering::Relaxed),
            forwarded: get(&self.forwarded),
            duplicates: get(&self.duplicates),
            foreign: get(&self.foreign),
            skipped: get(&self.skipped),
            lag: get(&self.lag),
            errors: get(&self.errors),
            last_error: self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// One flow from a source to a target cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowStats {
    /// Cluster read from.
    pub source: String,
    /// Cluster written to.
    pub target: String,
    /// Whether both clusters answered when last asked.
    pub running: bool,
    /// Records written to the target.
    pub forwarded: u64,
    /// Records that the target knew by their event id (where it tells; a herdsman cluster counts them itself).
    pub duplicates: u64,
    /// Records passed over because they originate elsewhere: their own cluster's flow brings them.
    pub foreign: u64,
    /// Records that were gone from the source before this flow could read them.
    pub skipped: u64,
    /// Records behind the source's end, when last read.
    pub lag: u64,
    /// Times that a cluster failed or was away.
    pub errors: u64,
    /// The last such failure.
    pub last_error: Option<String>,
}

/// All flows of a mirror.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MirrorStats {
    /// One entry per ordered pair of clusters.
    pub flows: Vec<FlowStats>,
}

impl MirrorStats {
    /// Records forwarded by all flows.
    #[must_use]
    pub fn forwarded(&self) -> u64 {
        self.flows.iter().map(|flow| flow.forwarded).sum()
    }
}
