//! The answer to Fetch, encoded by hand so that record bytes go out by reference.

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;

use crate::Chunks;

/// First version with compact lengths and tagged fields.
const FLEXIBLE: i16 = 12;
/// First version that names topics by id.
const TOPIC_IDS: i16 = 13;

/// What a partition answers to Fetch.
#[derive(Debug, Clone)]
pub struct PartitionReply {
    /// Partition index.
    pub index: i32,
    /// Kafka error code, 0 for none.
    pub error_code: i16,
    /// High watermark, −1 if unknown.
    pub high_watermark: i64,
    /// Last stable offset, −1 if unknown.
    pub last_stable_offset: i64,
    /// Log start offset, −1 if unknown.
    pub log_start_offset: i64,
    /// Producer id and first offset of each aborted transaction in the range; `None` for read_uncommitted.
    pub aborted: Option<Vec<(i64, i64)>>,
    /// Whole record batches, in order.
    pub records: Vec<Bytes>,
}

impl PartitionReply {
    /// An answer that is only an error.
    #[must_use]
    pub fn error(index: i32, error_code: i16) -> Self {
        Self {
            index,
            error_code,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            aborted: None,
            records: Vec::new(),
        }
    }

    /// Bytes of its records.
    #[must_use]
    pub fn record_bytes(&self) -> usize {
        self.records.iter().map(Bytes::len).sum()
    }
}

/// The partitions of one topic.
#[derive(Debug, Clone)]
pub struct TopicReply {
    /// Topic name (sent up to version 12).
    pub name: StrBytes,
    /// Topic id (sent from version 13).
    pub id: [u8; 16],
    /// Its partitions.
    pub partitions: Vec<PartitionReply>,
}

/// A whole answer to Fetch.
#[derive(Debug, Clone, Default)]
pub struct FetchReply {
    /// For how long the client is muted, ms (KIP-219).
    pub throttle_time_ms: i32,
    /// Kafka error code of the request as a whole.
    pub error_code: i16,
    /// Fetch session, 0 for none.
    pub session_id: i32,
    /// The topics.
    pub topics: Vec<TopicReply>,
}

impl FetchReply {
    /// Encodes the body at `version` (4 to 17) after what `out` holds.
    pub fn encode(self, out: &mut Chunks, version: i16) {
        let flexible = version >= FLEXIBLE;
        out.put_i32(self.throttle_time_ms);
        if version >= 7 {
            out.put_i16(self.error_code);
            out.put_i32(self.session_id);
        }
        put_count(out, self.topics.len(), flexible);
        for topic in self.topics {
            if version >= TOPIC_IDS {
                out.put_slice(&topic.id);
            } else if flexible {
                out.put_unsigned(topic.name.len() + 1);
                out.put_slice(topic.name.as_bytes());
            } else {
                out.put_i16(i16::try_from(topic.name.len()).unwrap_or(i16::MAX));
                out.put_slice(topic.name.as_bytes());
            }
            put_count(out, topic.partitions.len(), flexible);
            for partition in topic.partitions {
                put_partition(out, partition, version);
            }
            put_no_tags(out, flexible);
        }
        put_no_tags(out, flexible);
    }
}

fn put_partition(out: &mut Chunks, partition: PartitionReply, version: i16) {
    let flexible = version >= FLEXIBLE;
    out.put_i32(partition.index);
    out.put_i16(partition.error_code);
    out.put_i64(partition.high_watermark);
    out.put_i64(partition.last_stable_offset);
    if version >= 5 {
        out.put_i64(partition.log_start_offset);
    }
    match (&partition.aborted, flexible) {
        (None, true) => out.put_unsigned(0),
        (None, false) => out.put_i32(-1),
        (Some(aborted), _) => {
            put_count(out, aborted.len(), flexible);
            for (producer_id, first_offset) in aborted {
                out.put_i64(*producer_id);
                out.put_i64(*first_offset);
                put_no_tags(out, flexible);
            }
        }
    }
    if version >= 11 {
        out.put_i32(-1);
    }
    let len = partition.record_bytes();
    if flexible {
        out.put_unsigned(len + 1);
    } else {
        out.put_i32(i32::try_from(len).unwrap_or(i32::MAX));
    }
    for batch in partition.records {
        out.put_bytes(batch);
    }
    put_no_tags(out, flexible);
}

fn put_count(out: &mut Chunks, count: usize, flexible: bool) {
    if flexible {
        out.put_unsigned(count + 1);
    } else {
        out.put_i32(i32::try_from(count).unwrap_or(i32::MAX));
    }
}

fn put_no_tags(out: &mut Chunks, flexible: bool) {
    if flexible {
        out.put_unsigned(0);
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::FetchResponse;
    use kafka_protocol::messages::fetch_response::{
        AbortedTransaction, FetchableTopicResponse, PartitionData,
    };
    use kafka_protocol::messages::{ProducerId, TopicName};
    use kafka_protocol::protocol::Encodable;

    use super::*;

    /// Our encoder against the codec's, byte for byte, at every version.
    #[tokio::test]
    async fn the_hand_written_encoder_agrees_with_the_codec_at_every_version() {
        for version in 4..=17_i16 {
            let records = Bytes::from(vec![7_u8; 10_000]);
            let mut reply = PartitionReply::error(3, 0);
            reply.high_watermark = 44;
            reply.last_stable_offset = 43;
            reply.log_start_offset = 2;
            reply.aborted = Some(vec![(9, 11)]);
            reply.records = vec![records.slice(..6_000), records.slice(6_000..)];
            let refused = PartitionReply::error(4, 1);
            let name = StrBytes::from_static_str("finds");
            let topic = TopicReply { name: name.clone(), id: [0; 16], partitions: vec![reply, refused] };
            let mut ours = Chunks::new();
            FetchReply { throttle_time_ms: 0, error_code: 0, session_id: 0, topics: vec![topic] }
                .encode(&mut ours, version);
            let mut written = std::io::Cursor::new(Vec::new());
            ours.write_to(&mut written).await.unwrap();

            let start = |offset| if version >= 5 { offset } else { -1 };
            let aborted = AbortedTransaction::default().with_producer_id(ProducerId(9)).with_first_offset(11);
            let good = PartitionData::default()
                .with_partition_index(3)
                .with_high_watermark(44)
                .with_last_stable_offset(43)
                .with_log_start_offset(start(2))
                .with_aborted_transactions(Some(vec![aborted]))
                .with_records(Some(records));
            let bad = PartitionData::default()
                .with_partition_index(4)
                .with_error_code(1)
                .with_high_watermark(-1)
                .with_aborted_transactions(None)
                .with_records(Some(Bytes::new()));
            let topic = FetchableTopicResponse::default().with_partitions(vec![good, bad]);
            let topic = if version < TOPIC_IDS { topic.with_topic(TopicName(name)) } else { topic };
            let mut theirs = bytes::BytesMut::new();
            FetchResponse::default().with_responses(vec![topic]).encode(&mut theirs, version).unwrap();
            assert_eq!(written.get_ref().as_slice(), theirs.as_ref(), "version {version}");
        }
    }
}
