//! One trait for the event bus, three implementations behind it.
//!
//! | implementation | what it is |
//! |---|---|
//! | [`memory::MemoryBus`] | topics in memory, for cases, examples and tests |
//! | `herdsman_broker::EmbeddedBus` | the broker of this process (log on disk) |
//! | `herdsman_kafka::KafkaBus` | a real Apache Kafka cluster, through librdkafka |
//!
//! The unit that moves is a record batch ([`herdsman_record::Batch`]); nothing here handles a record at a time.

pub mod memory;

use std::collections::BTreeMap;
use std::time::Duration;

use herdsman_record::{Batch, TopicPartition};

/// What a topic should be when it is created. Configuration keys are Kafka's, plus `herdsman.*`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicSpec {
    /// Topic name, as Kafka allows: 1 to 249 of `[a-zA-Z0-9._-]`.
    pub name: String,
    /// Number of partitions, at least 1.
    pub partitions: i32,
    /// Topic configuration, for example `cleanup.policy`, `retention.ms`, `herdsman.dedupe.window.ms`.
    pub configs: BTreeMap<String, String>,
}

/// A topic as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicDescription {
    /// Topic name.
    pub name: String,
    /// Number of partitions.
    pub partitions: i32,
    /// Whether the house or the broker made it for itself (`__consumer_offsets` …).
    pub internal: bool,
    /// Configuration that differs from the defaults.
    pub configs: BTreeMap<String, String>,
}

/// First and next offset of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetRange {
    /// Log start offset.
    pub start: i64,
    /// Offset that the next record will get (high watermark).
    pub end: i64,
}

/// Answer to a produce call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Produced {
    /// Offset of the first accepted record; where the log ended if none was accepted.
    pub base_offset: i64,
    /// Records written.
    pub accepted: u32,
    /// Records dropped because their event id is already in the topic's window.
    pub duplicates: u32,
}

/// Batches read from one partition, in offset order.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Where they were read.
    pub topic_partition: TopicPartition,
    /// Whole batches; the first may begin before the asked offset (skip records below [`Fetched::position`]).
    pub batches: Vec<Batch>,
    /// The offset that was asked for: records below it were already delivered.
    pub position: i64,
    /// Offset to ask for next.
    pub next_offset: i64,
    /// High watermark of the partition when it was read.
    pub high_watermark: i64,
}

/// What may go wrong on a bus.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BusError {
    /// The topic or partition does not exist.
    #[error("no topic partition {0}: create the topic first")]
    UnknownTopic(TopicPartition),
    /// A topic of that name exists already.
    #[error("topic {0} exists already")]
    TopicExists(String),
    /// The name, partition count or configuration of a topic is refused.
    #[error("topic {topic}: {reason}")]
    InvalidTopic {
        /// The topic.
        topic: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The position is outside the log.
    #[error("{topic_partition} holds offsets {start} to {end}, asked for {asked}")]
    OffsetOutOfRange {
        /// Where.
        topic_partition: TopicPartition,
        /// Log start offset.
        start: i64,
        /// Log end offset.
        end: i64,
        /// The offset asked for.
        asked: i64,
    },
    /// A batch could not be read or was refused.
    #[error(transparent)]
    Record(#[from] herdsman_record::RecordError),
    /// The bus will never take this batch: a record is too large, too far from the clock, without a needed key.
    #[error("{0}")]
    Refused(String),
    /// Another instance took over this transactional id: stop.
    #[error("{0} was fenced by a newer instance: stop this one")]
    Fenced(String),
    /// The bus cannot serve now; the same call may succeed later.
    #[error("{bus}: {reason}")]
    Unavailable {
        /// Which bus.
        bus: String,
        /// What happened and what to do next.
        reason: String,
    },
    /// The disk is full: nothing was written, and the same call succeeds when there is room.
    #[error("{0}")]
    NoSpace(String),
    /// Writes are refused until a restart (failed sync).
    #[error("{0}")]
    Storage(String),
}

/// An event bus. All calls may block the calling thread for as long as a disk or a cluster needs.
pub trait Bus: Send + Sync + 'static {
    /// How to address it: `memory`, `embedded:DIR` or `kafka://host:port`.
    fn url(&self) -> String;
    /// Creates a topic. Errors: [`BusError::TopicExists`], [`BusError::InvalidTopic`].
    fn create_topic(&self, spec: &TopicSpec) -> Result<(), BusError>;
    /// Deletes a topic and its records.
    fn delete_topic(&self, topic: &str) -> Result<(), BusError>;
    /// One topic, or `None` if it does not exist.
    fn topic(&self, topic: &str) -> Result<Option<TopicDescription>, BusError>;
    /// All topics, sorted by name, internal ones included.
    fn topics(&self) -> Result<Vec<TopicDescription>, BusError>;
    /// First and next offset of a partition.
    fn offsets(&self, topic_partition: &TopicPartition) -> Result<OffsetRange, BusError>;
    /// Appends one batch (validated, given offsets, de-duplicated by event id if the topic asks for it).
    fn produce(&self, topic_partition: &TopicPartition, batch: Batch) -> Result<Produced, BusError>;
    /// A reader over partitions, each from its own start offset; reads committed records only.
    fn reader(&self, start: &[(TopicPartition, i64)]) -> Result<Box<dyn Reader>, BusError>;
    /// A writer whose commits are atomic. A second writer with the same `id` fences the first.
    fn committer(&self, id: &str) -> Result<Box<dyn Committer>, BusError>;
    /// Committed offsets of a consumer group, one answer per partition asked.
    fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Result<Vec<Option<i64>>, BusError>;
    /// Commits offsets of a consumer group outside any transaction.
    fn commit_offsets(&self, group: &str, offsets: &[(TopicPartition, i64)]) -> Result<(), BusError>;
    /// Makes everything acknowledged so far durable (a no-op where the cluster decides).
    fn sync(&self) -> Result<(), BusError>;
}

/// Reads partitions; owned by one thread.
pub trait Reader: Send {
    /// Waits up to `timeout` for records and returns what is there, at most about `max_bytes` in all.
    /// Partitions take turns; the same partition may appear once per call. Empty when nothing came.
    fn poll(&mut self, max_bytes: usize, timeout: Duration) -> Result<Vec<Fetched>, BusError>;
    /// Moves the position of one assigned partition, or assigns it.
    fn seek(&mut self, topic_partition: &TopicPartition, offset: i64) -> Result<(), BusError>;
    /// Stops (or resumes) delivering one partition.
    fn pause(&mut self, topic_partition: &TopicPartition, paused: bool);
}

/// Writes outputs, changelogs and input offsets together or not at all; owned by one thread.
pub trait Committer: Send {
    /// One atomic commit: every batch and every offset, or none.
    /// Returns the base offset of each output batch, in order (−1 where the cluster does not tell).
    fn commit(
        &mut self,
        outputs: Vec<(TopicPartition, Batch)>,
        group: &str,
        offsets: &[(TopicPartition, i64)],
    ) -> Result<Vec<i64>, BusError>;
}
