//! The broker of this process as the house's event bus: no socket, the same rules.
//!
//! Produce takes the path of the wire (checks, event ids, counters). A commit is one atomic append of all outputs and of
//! the offsets' batch in `__consumer_offsets`: after a kill either all of it is there or none. Readers see what is committed:
//! records of open and aborted transactions of Kafka clients stay hidden, and the end of a partition is its last stable
//! offset.

use std::sync::Arc;
use std::time::Duration;

use herdsman_bus::{
    Bus, BusError, Committer, Fetched, OffsetRange, Produced, Reader, TopicDescription, TopicSpec,
};
use herdsman_log::{LogError, TailReader, TopicMeta};
use herdsman_record::{Batch, TopicPartition};

use crate::partition_state::PartitionState;
use crate::topic::lock;
use crate::{Broker, BrokerError};

/// [`Bus`] over a [`Broker`] of this process.
#[derive(Clone)]
pub struct EmbeddedBus {
    broker: Arc<Broker>,
    url: String,
}

impl EmbeddedBus {
    /// The bus of `broker`; `name` says where its data is, for `url()`.
    #[must_use]
    pub fn new(broker: Arc<Broker>, name: &str) -> Self {
        Self { broker, url: format!("embedded:{name}") }
    }

    /// The broker behind it.
    #[must_use]
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }
}

fn bus_error(error: BrokerError) -> BusError {
    match error {
        BrokerError::UnknownTopicPartition(at) => BusError::UnknownTopic(at),
        BrokerError::Corrupt { source, .. } => BusError::Record(source),
        BrokerError::Log(error) => log_error(error),
        BrokerError::MessageTooLarge { .. }
        | BrokerError::InvalidTimestamp { .. }
        | BrokerError::InvalidRecord { .. } => BusError::Refused(error.to_string()),
        error => BusError::Unavailable { bus: "embedded".to_owned(), reason: error.to_string() },
    }
}

fn log_error(error: LogError) -> BusError {
    let sentence = error.to_string();
    match error {
        LogError::UnknownTopic { topic, .. } => BusError::UnknownTopic(TopicPartition::new(topic, 0)),
        LogError::UnknownPartition { topic_partition, .. } => BusError::UnknownTopic(topic_partition),
        LogError::TopicExists(topic) => BusError::TopicExists(topic),
        LogError::InvalidName { name, .. } => BusError::InvalidTopic { topic: name, reason: sentence },
        LogError::InvalidPartitions { topic, .. } => BusError::InvalidTopic { topic, reason: sentence },
        LogError::UnknownConfig { key, .. } => BusError::InvalidTopic { topic: key, reason: sentence },
        LogError::InvalidConfig { key, .. } => {
            BusError::InvalidTopic { topic: key.to_owned(), reason: sentence }
        }
        LogError::OffsetOutOfRange { topic_partition, start, end, asked } => {
            BusError::OffsetOutOfRange { topic_partition, start, end, asked }
        }
        LogError::Record(error) => BusError::Record(error),
        LogError::NoSpace { .. } => BusError::NoSpace(sentence),
        _ => BusError::Storage(sentence),
    }
}

fn describe(meta: TopicMeta) -> TopicDescription {
    TopicDescription {
        name: meta.name.to_string(),
        partitions: meta.partitions,
        internal: meta.internal,
        configs: meta.configs,
    }
}

impl Bus for EmbeddedBus {
    fn url(&self) -> String {
        self.url.clone()
    }

    fn create_topic(&self, spec: &TopicSpec) -> Result<(), BusError> {
        self.broker.create_topic(&spec.name, spec.partitions, &spec.configs).map_err(
            |error| match bus_error(error) {
                BusError::InvalidTopic { reason, .. } => {
                    BusError::InvalidTopic { topic: spec.name.clone(), reason }
                }
                other => other,
            },
        )?;
        Ok(())
    }

    fn delete_topic(&self, topic: &str) -> Result<(), BusError> {
        self.broker.delete_topic(topic).map_err(bus_error)
    }

    fn topic(&self, topic: &str) -> Result<Option<TopicDescription>, BusError> {
        Ok(self.broker.log.topic(topic).map(describe))
    }

    fn topics(&self) -> Result<Vec<TopicDescription>, BusError> {
        let mut topics: Vec<_> = self.broker.log.topics().into_iter().map(describe).collect();
        topics.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(topics)
    }

    fn offsets(&self, topic_partition: &TopicPartition) -> Result<OffsetRange, BusError> {
        let (start, end) = self.broker.log.offsets(topic_partition).map_err(log_error)?;
        let state = self.broker.state(topic_partition).map_err(bus_error)?;
        Ok(OffsetRange { start, end: state.last_stable(end) })
    }

    fn produce(&self, topic_partition: &TopicPartition, batch: Batch) -> Result<Produced, BusError> {
        let outcome = self.broker.produce(topic_partition, batch).map_err(bus_error)?;
        Ok(Produced {
            base_offset: outcome.base_offset,
            accepted: outcome.accepted,
            duplicates: outcome.duplicates,
        })
    }

    fn reader(&self, start: &[(TopicPartition, i64)]) -> Result<Box<dyn Reader>, BusError> {
        let mut reader = EmbeddedReader {
            _tails: self.broker.log.tail_reader(),
            broker: Arc::clone(&self.broker),
            positions: Vec::new(),
            turn: 0,
        };
        for (topic_partition, offset) in start {
            reader.seek(topic_partition, *offset)?;
        }
        Ok(Box::new(reader))
    }

    fn committer(&self, id: &str) -> Result<Box<dyn Committer>, BusError> {
        let mut fences = lock(&self.broker.fences);
        let fence = fences.entry(id.to_owned()).or_default();
        *fence += 1;
        Ok(Box::new(EmbeddedCommitter { broker: Arc::clone(&self.broker), id: id.to_owned(), fence: *fence }))
    }

    fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Result<Vec<Option<i64>>, BusError> {
        let store = lock(&self.broker.offsets);
        Ok(partitions.iter().map(|at| store.get(group, at).map(|committed| committed.offset)).collect())
    }

    fn commit_offsets(&self, group: &str, offsets: &[(TopicPartition, i64)]) -> Result<(), BusError> {
        let changes: Vec<_> = offsets
            .iter()
            .map(|(at, offset)| (at.clone(), Some(self.broker.committed_now(*offset))))
            .collect();
        self.broker.write_offsets(group, &changes).map_err(bus_error)
    }

    fn sync(&self) -> Result<(), BusError> {
        self.broker.sync().map_err(log_error)
    }
}

struct Position {
    at: TopicPartition,
    state: Arc<PartitionState>,
    offset: i64,
    paused: bool,
}

struct EmbeddedReader {
    /// Keeps what is appended in memory for it.
    _tails: TailReader,
    broker: Arc<Broker>,
    positions: Vec<Position>,
    /// Which partition begins the next round, so that none starves when `max_bytes` is short.
    turn: usize,
}

impl EmbeddedReader {
    fn collect(&mut self, max_bytes: usize) -> Result<Vec<Fetched>, BusError> {
        let active = self.positions.iter().filter(|position| !position.paused).count().max(1);
        let mut left = max_bytes;
        let share = (max_bytes / active).max(1);
        let count = self.positions.len();
        let mut found = Vec::new();
        for step in 0..count {
            let Some(position) = self.positions.get_mut((self.turn + step) % count) else { continue };
            if position.paused || left == 0 {
                continue;
            }
            let log = &self.broker.log;
            let mut out = log.read(&position.at, position.offset, share.min(left)).map_err(log_error)?;
            let Some(next_offset) = position.state.keep_committed(&mut out.batches) else { continue };
            left = left.saturating_sub(out.batches.iter().map(|batch| batch.bytes().len()).sum());
            found.push(Fetched {
                topic_partition: position.at.clone(),
                batches: out.batches,
                position: position.offset,
                next_offset,
                high_watermark: position.state.last_stable(out.high_watermark),
            });
            position.offset = next_offset;
        }
        self.turn = self.turn.wrapping_add(1);
        Ok(found)
    }
}

impl Reader for EmbeddedReader {
    fn poll(&mut self, max_bytes: usize, timeout: Duration) -> Result<Vec<Fetched>, BusError> {
        let mut left = timeout;
        let mut seen = self.broker.log.version();
        loop {
            let found = self.collect(max_bytes)?;
            if !found.is_empty() || left.is_zero() {
                return Ok(found);
            }
            // an append to a partition of someone else wakes us too; waiting goes on in slices of the time-out
            let slice = left.min(Duration::from_millis(20).max(timeout / 4));
            let now = self.broker.log.wait_for_append(seen, slice);
            if now == seen {
                left = left.saturating_sub(slice);
            } else {
                left = left.saturating_sub(Duration::from_micros(100));
            }
            seen = now;
        }
    }

    fn seek(&mut self, topic_partition: &TopicPartition, offset: i64) -> Result<(), BusError> {
        let (start, end) = self.broker.log.offsets(topic_partition).map_err(log_error)?;
        let state = self.broker.state(topic_partition).map_err(bus_error)?;
        if !(start..=end).contains(&offset) {
            let topic_partition = topic_partition.clone();
            return Err(BusError::OffsetOutOfRange { topic_partition, start, end, asked: offset });
        }
        match self.positions.iter_mut().find(|position| position.at == *topic_partition) {
            Some(position) => (position.offset, position.state) = (offset, state),
            None => {
                self.positions.push(Position { at: topic_partition.clone(), state, offset, paused: false });
            }
        }
        Ok(())
    }

    fn pause(&mut self, topic_partition: &TopicPartition, paused: bool) {
        for position in self.positions.iter_mut().filter(|position| position.at == *topic_partition) {
            position.paused = paused;
        }
    }
}

struct EmbeddedCommitter {
    broker: Arc<Broker>,
    id: String,
    fence: u64,
}

impl Committer for EmbeddedCommitter {
    fn commit(
        &mut self,
        outputs: Vec<(TopicPartition, Batch)>,
        group: &str,
        offsets: &[(TopicPartition, i64)],
    ) -> Result<Vec<i64>, BusError> {
        let output_count = outputs.len();
        let mut batches = outputs;
        let changes: Vec<_> = offsets
            .iter()
            .map(|(at, offset)| (at.clone(), Some(self.broker.committed_now(*offset))))
            .collect();
        if !changes.is_empty() {
            batches.push(self.broker.offsets_batch(group, &changes).map_err(bus_error)?);
        }
        // both held over the append: a newer committer waits, and the store follows the log's order
        let fences = lock(&self.broker.fences);
        if fences.get(&self.id) != Some(&self.fence) {
            return Err(BusError::Fenced(self.id.clone()));
        }
        let mut store = lock(&self.broker.offsets);
        let mut bases = if batches.is_empty() {
            Vec::new()
        } else {
            self.broker.log.append_all(batches).map_err(log_error)?
        };
        for (at, committed) in changes {
            store.set(group, at, committed);
        }
        drop(store);
        drop(fences);
        bases.truncate(output_count);
        Ok(bases)
    }
}
