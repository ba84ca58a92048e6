//! Fetch: whole batches by reference, waiting for `min_bytes` or `max_wait_ms`.
//!
//! In a fetch session (`fetch_session`) a request names only what changed and an answer only what is new.
//! `read_committed` gets nothing at or above the last stable offset, and the list of aborted transactions in the range; it
//! skips their records and the markers itself (KIP-98).

use std::sync::atomic::Ordering;
use std::time::Duration;

use herdsman_record::{Batch, TopicPartition};
use herdsman_wire::kafka_protocol::messages::FetchRequest;
use herdsman_wire::kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use herdsman_wire::kafka_protocol::protocol::StrBytes;
use herdsman_wire::{FetchReply, PartitionReply, Reply, TopicReply};

use crate::fetch_session::Answer;
use crate::topic::lock;
use crate::{Broker, BrokerError};

/// First version that names topics by id.
const TOPIC_IDS: i16 = 13;
/// Longest a fetch may wait.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// What reading gave.
struct Round {
    reply: FetchReply,
    bytes: usize,
    has_error: bool,
}

impl Broker {
    pub(crate) async fn on_fetch(&self, mut request: FetchRequest, version: i16) -> Reply {
        // before version 7 there are no sessions, and the codec says epoch −1: none wanted
        let opened = lock(&self.fetch_sessions).open(&mut request, version >= TOPIC_IDS, self.steady_ms());
        let mut reply = match &opened {
            Ok(_) => self.read_in_time(&request, version).await,
            Err(error) => FetchReply { error_code: error.code(), ..FetchReply::default() },
        };
        match opened {
            Ok(Answer::Begin(session)) => lock(&session).tell(&mut reply, false),
            Ok(Answer::Incremental(session)) => lock(&session).tell(&mut reply, true),
            Ok(Answer::Full) | Err(_) => {}
        }
        Reply::Fetch(reply)
    }

    /// Reads once there are `min_bytes`, or when `max_wait_ms` are over.
    async fn read_in_time(&self, request: &FetchRequest, version: i16) -> FetchReply {
        let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)).min(WAIT_MAX);
        let wanted = usize::try_from(request.min_bytes).unwrap_or(0);
        let mut appended = self.log.subscribe();
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            appended.mark_unchanged();
            let round = self.read_round(request, version);
            if round.bytes >= wanted || round.has_error || request.topics.is_empty() || wait.is_zero() {
                return round.reply;
            }
            match tokio::time::timeout_at(deadline, appended.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return self.read_round(request, version).reply,
            }
        }
    }

    fn read_round(&self, request: &FetchRequest, version: i16) -> Round {
        let asked = usize::try_from(request.max_bytes).unwrap_or(0);
        let mut left = asked.min(self.config.fetch_bytes_max);
        let mut round = Round { reply: FetchReply::default(), bytes: 0, has_error: false };
        for topic in &request.topics {
            let (name, id) = self.name_of(topic, version);
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let reply = match &name {
                    None => Err(BrokerError::UnknownTopicId),
                    Some(name) => {
                        let committed = request.isolation_level == 1;
                        self.read_partition(name, partition, committed, left, round.bytes == 0)
                    }
                };
                let reply = reply.unwrap_or_else(|error| self.refused(name.as_deref(), partition, &error));
                let bytes = reply.record_bytes();
                left = left.saturating_sub(bytes);
                round.bytes += bytes;
                round.has_error |= reply.error_code != 0;
                partitions.push(reply);
            }
            let name = StrBytes::from_string(name.unwrap_or_default());
            round.reply.topics.push(TopicReply { name, id, partitions });
        }
        round
    }

    fn name_of(&self, topic: &FetchTopic, version: i16) -> (Option<String>, [u8; 16]) {
        if version < TOPIC_IDS {
            return (Some(topic.topic.to_string()), [0; 16]);
        }
        let id = topic.topic_id.into_bytes();
        (self.topic_by_id(id).map(|topic| topic.meta.name.to_string()), id)
    }

    fn read_partition(
        &self,
        name: &str,
        partition: &FetchPartition,
        committed: bool,
        left: usize,
        is_first: bool,
    ) -> Result<PartitionReply, BrokerError> {
        let topic = self.topic(name).ok_or_else(|| {
            BrokerError::UnknownTopicPartition(TopicPartition::new(name, partition.partition))
        })?;
        let at = topic.partition(partition.partition)?;
        let cap = usize::try_from(partition.partition_max_bytes).unwrap_or(0).min(left);
        let state = topic.state(partition.partition)?;
        if committed {
            state.load(&self.log, &at)?;
        }
        let mut out = self.log.read(&at, partition.fetch_offset, cap)?;
        let mut reply = PartitionReply::error(partition.partition, 0);
        reply.high_watermark = out.high_watermark;
        reply.last_stable_offset = state.last_stable(out.high_watermark);
        reply.log_start_offset = out.log_start;
        if committed {
            out.batches.retain(|batch| batch.base_offset() < reply.last_stable_offset);
            let end = out.batches.last().map_or(partition.fetch_offset, Batch::next_offset);
            let aborted = state.aborted_in(partition.fetch_offset, end);
            reply.aborted = Some(aborted.into_iter().map(|one| (one.producer_id, one.first)).collect());
        }
        // the first batch goes out whatever its size, or a reader could never pass it
        let first = out.batches.first().map_or(0, |batch| batch.bytes().len());
        if first <= cap || is_first {
            reply.records = out.batches.into_iter().map(Batch::into_bytes).collect();
            topic.counters.fetched_bytes.fetch_add(reply.record_bytes() as u64, Ordering::Relaxed);
        }
        Ok(reply)
    }

    fn refused(&self, name: Option<&str>, partition: &FetchPartition, error: &BrokerError) -> PartitionReply {
        tracing::debug!(topic = name.unwrap_or("?"), partition = partition.partition, %error, "fetch refused");
        let mut reply = PartitionReply::error(partition.partition, error.code());
        if let Some(name) = name {
            let at = TopicPartition::new(name, partition.partition);
            if let Ok((start, end)) = self.log.offsets(&at) {
                reply.log_start_offset = start;
                reply.high_watermark = end;
            }
        }
        reply
    }
}
