//! Topic, partition, segment: append, read, index, retention, recovery.
//!
//! ```text
//! data folder
//! ├── lock                       held while the log is open; names its holder
//! ├── topics.json                the catalog: every topic's name, id, partitions, configs
//! ├── checkpoint                 per partition: durable up to, log start
//! ├── journal.0, journal.1       intents of atomic appends
//! └── topics/finds-0/
//!     ├── 00000000000000000000.log      record batches back to back, byte for byte as Kafka stores them
//!     ├── 00000000000000000000.index    sparse offset and time index, rebuilt when missing or wrong
//!     ├── compacted                     how far a compacted topic was compacted, and when
//!     ├── producers.snapshot            what the broker knew of producers up to some offset
//!     └── partition.metadata            the topic's id
//! ```
//!
//! What an acknowledgement means: a process kill loses nothing under any setting, since every append reaches the page
//! cache before it returns. A power cut loses nothing of topics with `flush.messages=1`, whose readers see a record only
//! once it is durable, and otherwise at most what was appended during the last `flush.ms` (and one maintenance period).
//! An atomic append ([`Log::append_all`]) survives a kill whole or not at all; a power cut too if one of its topics has
//! `flush.messages=1`.
//!
//! Cost of an append: one lock, a header patched in place, one write of the whole batch, one index check. A reader that
//! keeps up clones reference counts out of the tail.

mod atomic;
mod checkpoint;
mod cleaned;
mod compaction;
mod config;
mod error;
mod index;
mod journal;
mod log;
mod notify;
mod partition;
mod producers;
mod recovery;
mod scan;
mod sealed;
mod segment;
mod tail;
mod topic;

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use herdsman_record::{Batch, TopicPartition};

pub use compaction::{Compacted, Transactions};
pub use config::{ConfigKey, ConfigKind, LogConfig, TOPIC_CONFIGS, check_configs};
pub use error::LogError;
pub use log::Log;
pub use recovery::Recovery;
pub use tail::TailReader;
pub use topic::{PARTITIONS_MAX, TopicId, TopicMeta, check_name};

/// Where a partition stands while its append lock is held.
#[derive(Debug, Clone, Copy)]
pub struct PartitionTail<'a> {
    /// Which partition.
    pub topic_partition: &'a TopicPartition,
    /// Log start offset.
    pub start: i64,
    /// Offset the next record will get.
    pub end: i64,
}

/// Answer of [`Log::read`].
#[derive(Debug, Clone)]
pub struct ReadOut {
    /// Whole batches; the first may begin before the asked offset.
    pub batches: Vec<Batch>,
    /// Offset after the last record readers may see.
    pub high_watermark: i64,
    /// First offset.
    pub log_start: i64,
}

/// What [`Log::maintain`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Maintained {
    /// Segments deleted by retention.
    pub segments_deleted: usize,
    /// Their bytes.
    pub bytes_deleted: u64,
}

/// Takes a lock; a panic elsewhere does not take the log with it.
pub(crate) fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn read_lock<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write_lock<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
