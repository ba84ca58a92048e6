//! Where partitions begin and end: ListOffsets, DeleteRecords, OffsetForLeaderEpoch.

use std::sync::Arc;

use herdsman_record::TopicPartition;
use herdsman_wire::kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use herdsman_wire::kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use herdsman_wire::kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use herdsman_wire::kafka_protocol::messages::{
    DeleteRecordsRequest, DeleteRecordsResponse, ListOffsetsRequest, ListOffsetsResponse,
    OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
};

use crate::{Broker, BrokerError};

/// ListOffsets: the next offset to be written.
const LATEST: i64 = -1;
/// ListOffsets: the first offset.
const EARLIEST: i64 = -2;
/// ListOffsets: the record with the largest timestamp (KIP-734).
const MAX_TIMESTAMP: i64 = -3;
/// ListOffsets: the first offset on local disk (KIP-405); all of it is.
const EARLIEST_LOCAL: i64 = -4;
/// ListOffsets: the last offset in remote storage (KIP-1005); there is none.
const LATEST_TIERED: i64 = -5;
/// Bytes read at a time while looking for the largest timestamp.
const SCAN_BYTES: usize = 4 << 20;

impl Broker {
    pub(crate) fn on_list_offsets(&self, request: ListOffsetsRequest, version: i16) -> ListOffsetsResponse {
        let topics = request.topics.into_iter().map(|topic| {
            let name: Arc<str> = Arc::from(topic.name.as_str());
            let partitions = topic.partitions.into_iter().map(|partition| {
                let at = TopicPartition::new(Arc::clone(&name), partition.partition_index);
                let response = ListOffsetsPartitionResponse::default().with_partition_index(at.partition);
                match self.offset_at(&at, partition.timestamp, request.isolation_level == 1) {
                    Ok((offset, timestamp)) => {
                        let response = response.with_offset(offset).with_timestamp(timestamp);
                        if offset >= 0 && version >= 4 { response.with_leader_epoch(0) } else { response }
                    }
                    Err(error) => response.with_error_code(error.code()).with_offset(-1).with_timestamp(-1),
                }
            });
            ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions.collect())
        });
        ListOffsetsResponse::default().with_topics(topics.collect())
    }

    /// Offset and timestamp for one of Kafka's special numbers, or for a time; (−1, −1) if there is none.
    fn offset_at(
        &self,
        at: &TopicPartition,
        timestamp: i64,
        committed: bool,
    ) -> Result<(i64, i64), BrokerError> {
        let topic = self.known_topic(at)?;
        let (start, mut end) = self.log.offsets(at)?;
        if committed {
            let state = topic.state(at.partition)?;
            state.load(&self.log, at)?;
            end = state.last_stable(end);
        }
        Ok(match timestamp {
            LATEST => (end, -1),
            EARLIEST | EARLIEST_LOCAL => (start, -1),
            LATEST_TIERED => (-1, -1),
            MAX_TIMESTAMP => self.largest_timestamp(at, start, end)?,
            time if time >= 0 => {
                self.log.offset_for_time(at, time)?.filter(|(offset, _)| *offset < end).unwrap_or((-1, -1))
            }
            other => return Err(BrokerError::InvalidRequest(format!("no meaning for timestamp {other}"))),
        })
    }

    /// First record with the largest timestamp. Reads every batch header: the question is rare.
    fn largest_timestamp(
        &self,
        at: &TopicPartition,
        start: i64,
        end: i64,
    ) -> Result<(i64, i64), BrokerError> {
        let corrupt = |source| BrokerError::Corrupt { topic_partition: at.clone(), source };
        let mut best: Option<herdsman_record::Batch> = None;
        let mut next = start;
        while next < end {
            let out = self.log.read(at, next, SCAN_BYTES)?;
            let Some(last) = out.batches.last() else { break };
            next = last.next_offset();
            for batch in out.batches {
                let larger = best
                    .as_ref()
                    .is_none_or(|best| batch.header().max_timestamp_ms > best.header().max_timestamp_ms);
                if larger && batch.record_count() > 0 {
                    best = Some(batch);
                }
            }
        }
        let Some(batch) = best else { return Ok((-1, -1)) };
        let mut found = (-1, -1);
        for record in batch.records().map_err(corrupt)?.iter() {
            let record = record.map_err(corrupt)?;
            if record.timestamp_ms > found.1 {
                found = (record.offset, record.timestamp_ms);
            }
        }
        Ok(found)
    }

    pub(crate) fn on_delete_records(&self, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
        let topics = request.topics.into_iter().map(|topic| {
            let name: Arc<str> = Arc::from(topic.name.as_str());
            let partitions = topic.partitions.into_iter().map(|partition| {
                let at = TopicPartition::new(Arc::clone(&name), partition.partition_index);
                let result = DeleteRecordsPartitionResult::default().with_partition_index(at.partition);
                let done = match name.starts_with("__") {
                    true => Err(BrokerError::InternalTopic(name.to_string())),
                    false => self.delete_records(&at, partition.offset),
                };
                match done {
                    Ok(low_watermark) => result.with_low_watermark(low_watermark),
                    Err(error) => result.with_error_code(error.code()).with_low_watermark(-1),
                }
            });
            DeleteRecordsTopicResult::default().with_name(topic.name).with_partitions(partitions.collect())
        });
        DeleteRecordsResponse::default().with_topics(topics.collect())
    }

    /// Deletes records below `offset` (−1: all); returns the new log start.
    fn delete_records(&self, at: &TopicPartition, offset: i64) -> Result<i64, BrokerError> {
        let end = self.log.offsets(at)?.1;
        let start = if offset == -1 { end } else { offset.min(end) };
        self.state(at)?.keep_before(&self.log, at, start)?;
        Ok(self.log.delete_records_before(at, offset)?)
    }

    pub(crate) fn on_leader_epoch(
        &self,
        request: OffsetForLeaderEpochRequest,
    ) -> OffsetForLeaderEpochResponse {
        let topics = request.topics.into_iter().map(|topic| {
            let name: Arc<str> = Arc::from(topic.topic.as_str());
            let partitions = topic.partitions.into_iter().map(|partition| {
                let at = TopicPartition::new(Arc::clone(&name), partition.partition);
                let answer = EpochEndOffset::default().with_partition(at.partition);
                let end = self.known_topic(&at).and_then(|_| Ok(self.log.offsets(&at)?.1));
                match end {
                    // there is one leader epoch, 0; of a later one nothing is known
                    Ok(end) if partition.leader_epoch == 0 => {
                        answer.with_leader_epoch(0).with_end_offset(end)
                    }
                    Ok(_) => answer.with_leader_epoch(-1).with_end_offset(-1),
                    Err(error) => {
                        answer.with_error_code(error.code()).with_leader_epoch(-1).with_end_offset(-1)
                    }
                }
            });
            OffsetForLeaderTopicResult::default()
                .with_topic(topic.topic)
                .with_partitions(partitions.collect())
        });
        OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
    }
}
