//! What may go wrong in the log, in sentences that say what to do next.

use std::io;
use std::path::{Path, PathBuf};

use herdsman_record::{RecordError, TopicPartition};

/// Error of the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Another process holds the data folder.
    #[error("{} is in use by {holder}, nothing was touched: stop it or pass another --data", dir.display())]
    InUse {
        /// The data folder.
        dir: PathBuf,
        /// Program, pid and start time, as the holder wrote them.
        holder: String,
    },
    /// No such topic.
    #[error("no topic {topic}{}", hint.as_ref().map(|near| format!(": did you mean {near}?")).unwrap_or_default())]
    UnknownTopic {
        /// The name asked for.
        topic: String,
        /// The nearest existing name, if one is near.
        hint: Option<String>,
    },
    /// The topic has no such partition.
    #[error("topic {} has partitions 0 to {}, not {}", topic_partition.topic, partitions - 1, topic_partition.partition)]
    UnknownPartition {
        /// The partition asked for.
        topic_partition: TopicPartition,
        /// Number of partitions of the topic.
        partitions: i32,
    },
    /// A topic of that name exists already.
    #[error("topic {0} exists already")]
    TopicExists(String),
    /// A topic name Kafka would refuse.
    #[error("topic name {name:?} is refused: {reason}")]
    InvalidName {
        /// The name.
        name: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// A partition count Kafka would refuse.
    #[error("topic {topic}: {partitions} partitions asked for, {reason}")]
    InvalidPartitions {
        /// The topic.
        topic: String,
        /// The count asked for.
        partitions: i32,
        /// What is allowed.
        reason: String,
    },
    /// An unknown configuration key.
    #[error("unknown topic config {key}{}", nearest.map(|near| format!(": did you mean {near}?")).unwrap_or_default())]
    UnknownConfig {
        /// The key.
        key: String,
        /// The nearest known key.
        nearest: Option<&'static str>,
    },
    /// A configuration value out of range.
    #[error("topic config {key}={value} is refused: {expected}")]
    InvalidConfig {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// What is allowed.
        expected: String,
    },
    /// An offset outside the partition.
    #[error("{topic_partition} holds offsets {start} to {end}, asked for {asked}")]
    OffsetOutOfRange {
        /// Where.
        topic_partition: TopicPartition,
        /// Log start offset.
        start: i64,
        /// High watermark.
        end: i64,
        /// The offset asked for.
        asked: i64,
    },
    /// Bytes on disk that fail their checksum.
    #[error(
        "{} is damaged at byte {position}: offsets {offset} to {} of {topic_partition} cannot be read; \
         restore the file from a copy, or delete records before {next_offset} to go on without them",
        path.display(), next_offset - 1
    )]
    Corrupt {
        /// Where.
        topic_partition: TopicPartition,
        /// The segment file.
        path: PathBuf,
        /// Byte where the damage begins.
        position: u64,
        /// First offset that cannot be read.
        offset: i64,
        /// Next offset that can.
        next_offset: i64,
    },
    /// The batch given is not one.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The disk is full. Writes resume by themselves when there is space again.
    #[error("no space in {}: writes refused, reads go on; free space or lower retention.bytes of {topic}, then writes resume by themselves", dir.display())]
    NoSpace {
        /// The data folder.
        dir: PathBuf,
        /// The topic that was written.
        topic: String,
    },
    /// The partition takes no more writes since a write or sync failed.
    #[error("{topic_partition} is closed for writes ({reason}), reads go on: check the disk, then restart")]
    Closed {
        /// Where.
        topic_partition: TopicPartition,
        /// What failed.
        reason: String,
    },
    /// The journal of atomic appends takes no more writes.
    #[error("atomic appends are closed ({reason}): check the disk, then restart")]
    JournalClosed {
        /// What failed.
        reason: String,
    },
    /// A file of the data folder that this version does not understand.
    #[error("{} is not readable by this version: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl LogError {
    /// Whether the same call may succeed later without a restart.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::Io { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            _ => false,
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
