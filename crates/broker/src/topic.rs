//! What the broker keeps of a topic beside its log: limits, de-duplication, producers, counters.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use herdsman_log::{Log, TopicMeta};
use herdsman_record::{Batch, EventId, TopicPartition};

use crate::BrokerError;
use crate::dedupe::{Dedupe, DedupeStats, EventIdSource, Extractor};
use crate::partition_state::PartitionState;
use crate::repeats::Repeats;
use crate::replay::read_on;

/// Bytes read at a time while state is read back from the log.
const REPLAY_BYTES: usize = 4 << 20;

/// Takes a lock whose holder cannot have left it half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counters of one topic; they outlive changes of its configs.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) produced_records: AtomicU64,
    pub(crate) produced_bytes: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) fetched_bytes: AtomicU64,
    pub(crate) repeats: Repeats,
    /// When a refusal was last told, ms since the Unix epoch; 0: never.
    pub(crate) refusal_told_ms: AtomicI64,
}

/// The event ids of one topic.
pub(crate) struct TopicDedupe {
    pub(crate) window_ms: i64,
    memory_bytes: usize,
    source: EventIdSource,
    guess: AtomicUsize,
    pub(crate) seen: Mutex<Dedupe>,
}

impl TopicDedupe {
    /// Where ids come from.
    pub(crate) fn source(&self) -> &EventIdSource {
        &self.source
    }

    /// A reader of ids that starts with what earlier batches taught.
    pub(crate) fn extractor(&self) -> Extractor {
        let mut extractor = Extractor::new(self.source.clone());
        extractor.set_guess(self.guess.load(Ordering::Relaxed));
        extractor
    }

    /// Keeps what the reader learned.
    pub(crate) fn learned(&self, extractor: &Extractor) {
        self.guess.store(extractor.guess(), Ordering::Relaxed);
    }

    /// Ids of what one producer wrote in transactions from offset `first` on.
    pub(crate) fn ids_of_producer(
        &self,
        log: &Log,
        at: &TopicPartition,
        first: i64,
        producer_id: i64,
    ) -> Result<Vec<EventId>, BrokerError> {
        let (mut all, mut ids, mut extractor) = (Vec::new(), Vec::new(), self.extractor());
        let (start, end) = log.offsets(at)?;
        let mut next = first.max(start);
        while next < end {
            let Some(batches) = read_on(log, at, &mut next, REPLAY_BYTES)? else { break };
            for batch in &batches {
                let header = batch.header();
                if header.producer_id == producer_id && header.is_transactional() && !header.is_control() {
                    read_ids(&mut extractor, batch, at, &mut ids)?;
                    all.append(&mut ids);
                }
            }
        }
        Ok(all)
    }

    /// Counters of the window.
    pub(crate) fn stats(&self) -> DedupeStats {
        lock(&self.seen).stats()
    }

    /// Reads the ids back from the newest part of the log, as many as the window's memory holds.
    fn restore(
        &self,
        log: &Log,
        meta: &TopicMeta,
        states: &[Arc<PartitionState>],
        now_ms: i64,
    ) -> Result<(), BrokerError> {
        let mut seen = lock(&self.seen);
        let per_partition = seen.capacity() as i64 / i64::from(meta.partitions.max(1));
        let mut extractor = self.extractor();
        let mut ids = Vec::new();
        for (partition, state) in (0..meta.partitions).zip(states) {
            let at = TopicPartition::new(Arc::clone(&meta.name), partition);
            state.load(log, &at)?;
            let (start, end) = log.offsets(&at)?;
            let mut next = start.max(end.saturating_sub(per_partition));
            while next < end {
                let begin = next;
                let Some(batches) = read_on(log, &at, &mut next, REPLAY_BYTES)? else { break };
                let aborted = state.aborted_in(begin, next);
                for batch in &batches {
                    let header = batch.header();
                    if header.is_control() || aborted.iter().any(|one| one.holds(&header)) {
                        continue;
                    }
                    read_ids(&mut extractor, batch, &at, &mut ids)?;
                    seen.restore(&ids, now_ms);
                }
            }
        }
        self.learned(&extractor);
        Ok(())
    }
}

fn read_ids(
    extractor: &mut Extractor,
    batch: &Batch,
    at: &TopicPartition,
    ids: &mut Vec<EventId>,
) -> Result<(), BrokerError> {
    let corrupt = |source| BrokerError::Corrupt { topic_partition: at.clone(), source };
    let records = batch.records().map_err(corrupt)?;
    extractor.ids_of(&records, None, ids).map_err(|error| BrokerError::from_ids(error, at))
}

/// One topic.
pub(crate) struct Topic {
    pub(crate) meta: TopicMeta,
    pub(crate) max_message_bytes: usize,
    pub(crate) log_append_time: bool,
    pub(crate) compacted: bool,
    /// Whether an append waits for the disk (`flush.messages` below 1,000).
    pub(crate) waits_for_disk: bool,
    pub(crate) timestamp_after_max_ms: i64,
    pub(crate) timestamp_before_max_ms: i64,
    pub(crate) dedupe: Option<Arc<TopicDedupe>>,
    /// Producers and transactions of each partition.
    pub(crate) states: Vec<Arc<PartitionState>>,
    pub(crate) counters: Arc<Counters>,
}

impl Topic {
    /// Reads the topic's configs; keeps the state of `before`, its former self, where it is still right.
    pub(crate) fn open(
        log: &Log,
        meta: TopicMeta,
        before: Option<&Self>,
        dedupe_memory_bytes: usize,
        now_ms: i64,
    ) -> Result<Self, BrokerError> {
        let before = before.filter(|before| before.meta.id == meta.id);
        let text = |key: &str| log.topic_config(&meta.name, key).or_else(|| meta.configs.get(key).cloned());
        let number =
            |key: &str, otherwise: i64| text(key).and_then(|value| value.parse().ok()).unwrap_or(otherwise);
        let mut states = before.map(|before| before.states.clone()).unwrap_or_default();
        states.resize_with(usize::try_from(meta.partitions).unwrap_or(0), Arc::default);
        let window_ms = number("herdsman.dedupe.window.ms", 0);
        let memory_bytes = text("herdsman.dedupe.memory.bytes")
            .and_then(|value| value.parse().ok())
            .unwrap_or(dedupe_memory_bytes);
        let source = EventIdSource::from_config(text("herdsman.event.id").as_deref());
        let kept = before.and_then(|before| before.dedupe.clone()).filter(|kept| {
            kept.window_ms == window_ms && kept.source == source && kept.memory_bytes == memory_bytes
        });
        let dedupe = match kept {
            Some(kept) => Some(kept),
            None if window_ms > 0 => {
                let fresh = TopicDedupe {
                    window_ms,
                    memory_bytes,
                    source,
                    guess: AtomicUsize::new(1),
                    seen: Mutex::new(Dedupe::new(window_ms, memory_bytes)),
                };
                fresh.restore(log, &meta, &states, now_ms)?;
                Some(Arc::new(fresh))
            }
            None => None,
        };
        Ok(Self {
            max_message_bytes: usize::try_from(number("max.message.bytes", 1_048_588)).unwrap_or(usize::MAX),
            log_append_time: text("message.timestamp.type").as_deref() == Some("LogAppendTime"),
            compacted: text("cleanup.policy").is_some_and(|policy| policy.contains("compact")),
            waits_for_disk: number("flush.messages", i64::MAX) < 1_000,
            timestamp_after_max_ms: number("message.timestamp.after.max.ms", 3_600_000),
            timestamp_before_max_ms: number("message.timestamp.before.max.ms", i64::MAX),
            dedupe,
            states,
            counters: before.map(|before| Arc::clone(&before.counters)).unwrap_or_default(),
            meta,
        })
    }

    /// Producers and transactions of one partition.
    pub(crate) fn state(&self, index: i32) -> Result<&Arc<PartitionState>, BrokerError> {
        usize::try_from(index).ok().and_then(|index| self.states.get(index)).ok_or_else(|| {
            BrokerError::UnknownTopicPartition(TopicPartition::new(Arc::clone(&self.meta.name), index))
        })
    }

    /// The address of one partition, if the topic has it.
    pub(crate) fn partition(&self, index: i32) -> Result<TopicPartition, BrokerError> {
        let at = TopicPartition::new(Arc::clone(&self.meta.name), index);
        if (0..self.meta.partitions).contains(&index) {
            Ok(at)
        } else {
            Err(BrokerError::UnknownTopicPartition(at))
        }
    }
}

/// All topics by name and by id.
#[derive(Default)]
pub(crate) struct Topics {
    pub(crate) by_name: BTreeMap<Arc<str>, Arc<Topic>>,
    pub(crate) names: std::collections::HashMap<[u8; 16], Arc<str>>,
    /// Changes whenever a topic comes, changes or goes.
    pub(crate) version: u64,
}
