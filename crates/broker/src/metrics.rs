//! Counters of the broker as plain numbers.

use std::sync::atomic::Ordering;

use crate::Broker;
use crate::dedupe::DedupeStats;
use crate::topic::lock;

/// Counters of one topic since the broker was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicMetrics {
    /// Topic.
    pub topic: String,
    /// Records written by producers.
    pub produced_records: u64,
    /// Bytes of the batches producers sent.
    pub produced_bytes: u64,
    /// Records dropped because their event id was in the window.
    pub duplicates_dropped: u64,
    /// Bytes of the batches readers got.
    pub fetched_bytes: u64,
    /// The event-id window, if the topic has one.
    pub dedupe: Option<DedupeStats>,
    /// Length of the window, ms; 0 without one.
    pub dedupe_window_ms: i64,
}

/// Counters of the broker since it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerMetrics {
    /// One entry per topic, sorted by name.
    pub topics: Vec<TopicMetrics>,
    /// Groups with members.
    pub groups: usize,
}

impl Broker {
    /// A snapshot of all counters.
    #[must_use]
    pub fn metrics(&self) -> BrokerMetrics {
        let topics = self
            .all_topics()
            .iter()
            .map(|topic| TopicMetrics {
                topic: topic.meta.name.to_string(),
                produced_records: topic.counters.produced_records.load(Ordering::Relaxed),
                produced_bytes: topic.counters.produced_bytes.load(Ordering::Relaxed),
                duplicates_dropped: topic.counters.duplicates.load(Ordering::Relaxed),
                fetched_bytes: topic.counters.fetched_bytes.load(Ordering::Relaxed),
                dedupe: topic.dedupe.as_ref().map(|dedupe| dedupe.stats()),
                dedupe_window_ms: topic.dedupe.as_ref().map_or(0, |dedupe| dedupe.window_ms),
            })
            .collect();
        let groups = lock(&self.groups).list().iter().filter(|group| !group.members.is_empty()).count();
        BrokerMetrics { topics, groups }
    }
}
