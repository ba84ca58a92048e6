//! The shared nouns: record batch v2, offsets, topic partitions, event ids.
//!
//! A [`Batch`] is the same bytes on the wire, in the log and between rooms (magic 2, KIP-98). It is built once by
//! [`BatchBuilder`] or taken as it came from a producer; only base offset and leader epoch are patched, both of
//! which lie outside the CRC.

pub mod batch;
pub mod builder;
pub mod compression;
pub mod event_id;
pub mod partitioner;
pub mod retain;
pub mod topic_partition;
pub mod varint;

pub use batch::{Batch, Header, Headers, Record, Records};
pub use builder::BatchBuilder;
pub use compression::Compression;
pub use event_id::{EVENT_ID_HEADER, EventId};
pub use partitioner::{murmur2, partition_for_key};
pub use topic_partition::TopicPartition;

/// Why bytes are not a record batch, or cannot be made one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordError {
    /// Fewer bytes than the header or a length field announces.
    #[error("record batch cut short: {needed} bytes needed, {present} present")]
    Truncated {
        /// Bytes needed.
        needed: usize,
        /// Bytes present.
        present: usize,
    },
    /// A magic byte other than 2.
    #[error("record batch has magic {0}, only version 2 is supported: use a client of Kafka 0.11 or later")]
    Magic(i8),
    /// Stored and computed CRC-32C differ.
    #[error("record batch at offset {base_offset}: CRC-32C is {computed:08x}, stored {stored:08x}")]
    Crc {
        /// Base offset of the batch.
        base_offset: i64,
        /// CRC found in the header.
        stored: u32,
        /// CRC of the bytes.
        computed: u32,
    },
    /// A compression codec this build does not know.
    #[error("unknown compression codec {0}")]
    Codec(u8),
    /// The payload does not decompress, or would grow past the cap.
    #[error("cannot decompress {codec}: {reason}")]
    Decompress {
        /// Codec name.
        codec: &'static str,
        /// What the codec said.
        reason: String,
    },
    /// A field inside the batch contradicts another.
    #[error("malformed record batch: {0}")]
    Malformed(&'static str),
}
