//! Committed offsets on the wire and in the log: OffsetCommit, OffsetFetch, OffsetDelete.
//!
//! A commit is one batch of `__consumer_offsets`, appended before it is answered; the store in memory follows the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use herdsman_record::{Batch, TopicPartition};
use herdsman_wire::kafka_protocol::ResponseError;
use herdsman_wire::kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use herdsman_wire::kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use herdsman_wire::kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use herdsman_wire::kafka_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest,
    OffsetFetchResponse,
};
use herdsman_wire::kafka_protocol::protocol::StrBytes;

use crate::group::offset_store::encode_batch;
use crate::group::{Committed, OFFSETS_TOPIC};
use crate::metadata::topic_name;
use crate::topic::lock;
use crate::transaction::Claim;
use crate::{Broker, BrokerError};

/// First version of OffsetFetch that asks for several groups.
const MANY_GROUPS: i16 = 8;
/// `offset.metadata.max.bytes`.
pub(crate) const METADATA_BYTES_MAX: usize = 4096;

/// What OffsetFetch tells where nothing was committed.
const NOT_COMMITTED: Committed =
    Committed { offset: -1, leader_epoch: -1, metadata: String::new(), commit_ms: -1 };

/// Topic, and error code per partition.
type CommitAnswers = (Arc<str>, Vec<(i32, i16)>);
/// Segments of `__consumer_offsets` below its largest size: what is given up goes segment by segment.
const OFFSETS_SEGMENTS: u64 = 4;
/// Changes in one batch when it is written anew.
const CHANGES_PER_BATCH: usize = 1_000;
/// One change of a group's offsets; `None` deletes.
pub(crate) type OffsetChange = (TopicPartition, Option<Committed>);

impl Broker {
    /// The only partition of a topic that the broker keeps for itself; made when first needed.
    pub(crate) fn internal_topic(
        &self,
        name: &str,
        segment_bytes: u64,
    ) -> Result<TopicPartition, BrokerError> {
        if self.topic(name).is_none() {
            let configs = BTreeMap::from([
                ("cleanup.policy".to_owned(), "compact".to_owned()),
                ("segment.bytes".to_owned(), segment_bytes.to_string()),
            ]);
            match self.create_topic(name, 1, &configs) {
                Ok(_) | Err(BrokerError::Log(herdsman_log::LogError::TopicExists(_))) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(TopicPartition::new(name, 0))
    }

    /// The partition of `__consumer_offsets` that every group uses.
    pub(crate) fn offsets_partition(&self) -> Result<TopicPartition, BrokerError> {
        self.internal_topic(OFFSETS_TOPIC, self.config.offsets_bytes_max / OFFSETS_SEGMENTS)
    }

    /// The place and the batch that record these changes.
    pub(crate) fn offsets_batch(
        &self,
        group: &str,
        changes: &[OffsetChange],
    ) -> Result<(TopicPartition, Batch), BrokerError> {
        let at = self.offsets_partition()?;
        let changes = changes.iter().map(|(at, committed)| (at, committed.as_ref()));
        let batch = encode_batch(group, changes, None, self.clock.now_ms())
            .map_err(|source| BrokerError::Corrupt { topic_partition: at.clone(), source })?;
        Ok((at, batch))
    }

    /// Writes changes to the log, then to memory.
    pub(crate) fn write_offsets(&self, group: &str, changes: &[OffsetChange]) -> Result<(), BrokerError> {
        if changes.is_empty() {
            return Ok(());
        }
        let (at, batch) = self.offsets_batch(group, changes)?;
        // held over the append: the store must follow the log's order
        let mut store = lock(&self.offsets);
        self.log.append(&at, batch)?;
        for (at, committed) in changes {
            store.set(group, at.clone(), committed.clone());
        }
        Ok(())
    }

    /// Writes every committed offset once more and gives up what stood before, once the topic has grown large. A kill in
    /// between leaves both, which reads back the same.
    pub(crate) fn compact_offsets(&self) -> Result<(), BrokerError> {
        let at = TopicPartition::new(OFFSETS_TOPIC, 0);
        if self.topic(OFFSETS_TOPIC).is_none() {
            return Ok(());
        }
        // three times what all offsets took the last time: many groups do not make a round of every look
        let written = self.compacted_bytes.load(Ordering::Relaxed);
        if self.log.size(&at)? < self.config.offsets_bytes_max.max(written.saturating_mul(3)) {
            return Ok(());
        }
        let corrupt = |source| BrokerError::Corrupt { topic_partition: at.clone(), source };
        let topic = self.known_topic(&at)?;
        let state = topic.state(at.partition)?;
        let partition = state.lock(&self.log, &at)?;
        let store = lock(&self.offsets);
        let mut batches = Vec::new();
        for group in store.groups() {
            for changes in store.all(&group).chunks(CHANGES_PER_BATCH) {
                let changes = changes.iter().map(|(at, committed)| (at, Some(committed)));
                let batch = encode_batch(&group, changes, None, self.clock.now_ms()).map_err(corrupt)?;
                batches.push((at.clone(), batch));
            }
        }
        for (producer_id, pending) in store.pending() {
            let claim = Claim { producer_id: *producer_id, producer_epoch: pending.producer_epoch };
            for (group, at_input, committed) in &pending.changes {
                let change = [(at_input, Some(committed))];
                let batch = encode_batch(group, change, Some(claim), self.clock.now_ms()).map_err(corrupt)?;
                batches.push((at.clone(), batch));
            }
        }
        let bytes: usize = batches.iter().map(|(_, batch)| batch.bytes().len()).sum();
        self.compacted_bytes.store(bytes as u64, Ordering::Relaxed);
        let first = match self.log.append_all(batches)?.first() {
            Some(first) => *first,
            None => self.log.offsets(&at)?.1,
        };
        drop((store, partition));
        self.log.delete_records_before(&at, first)?;
        state.forget(); // open transactions begin elsewhere now
        state.load(&self.log, &at)
    }

    /// A committed offset as of now.
    pub(crate) fn committed_now(&self, offset: i64) -> Committed {
        Committed { offset, leader_epoch: -1, metadata: String::new(), commit_ms: self.clock.now_ms() }
    }

    pub(crate) fn on_offset_commit(&self, request: OffsetCommitRequest) -> OffsetCommitResponse {
        let now_ms = self.clock.now_ms();
        let mut changes = Vec::new();
        let (group, member) = (request.group_id.as_str(), request.member_id.as_str());
        let epoch = request.generation_id_or_member_epoch;
        let checked = lock(&self.consumer_groups).check_commit(group, member, epoch);
        let checked = checked.unwrap_or_else(|| {
            let instance = request.group_instance_id.as_deref();
            lock(&self.groups).check_commit(group, member, instance, epoch, self.steady_ms())
        });
        let mut answers: Vec<CommitAnswers> = Vec::new();
        for topic in &request.topics {
            let name: Arc<str> = Arc::from(topic.name.as_str());
            let mut partitions = Vec::new();
            for partition in &topic.partitions {
                let at = TopicPartition::new(Arc::clone(&name), partition.partition_index);
                let metadata = partition.committed_metadata.as_ref().map_or("", |text| text.as_str());
                let error = match (&checked, self.known_topic(&at)) {
                    (Err(error), _) => BrokerError::Group(*error).code(),
                    (_, Err(error)) => error.code(),
                    _ if metadata.len() > METADATA_BYTES_MAX => ResponseError::OffsetMetadataTooLarge.code(),
                    _ => 0,
                };
                if error == 0 {
                    let committed = Committed {
                        offset: partition.committed_offset,
                        leader_epoch: partition.committed_leader_epoch,
                        metadata: metadata.to_owned(),
                        commit_ms: now_ms,
                    };
                    changes.push((at, Some(committed)));
                }
                partitions.push((partition.partition_index, error));
            }
            answers.push((name, partitions));
        }
        let failure = self.write_offsets(&request.group_id, &changes).err();
        if let Some(error) = &failure {
            tracing::error!(%error, "offset commit failed");
        }
        let topics = answers.into_iter().map(|(name, partitions)| {
            let partitions = partitions.into_iter().map(|(index, error)| {
                let error = if error == 0 { failure.as_ref().map_or(0, BrokerError::code) } else { error };
                OffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(error)
            });
            OffsetCommitResponseTopic::default()
                .with_name(topic_name(&name))
                .with_partitions(partitions.collect())
        });
        OffsetCommitResponse::default().with_topics(topics.collect())
    }

    pub(crate) fn on_offset_fetch(&self, request: OffsetFetchRequest, version: i16) -> OffsetFetchResponse {
        let stable = request.require_stable;
        if version < MANY_GROUPS {
            let asked = request.topics.map(|topics| {
                topics.into_iter().map(|topic| (topic.name.to_string(), topic.partition_indexes)).collect()
            });
            let topics = self.committed_of(&request.group_id, asked).into_iter().map(|(name, partitions)| {
                let partitions = partitions.into_iter().map(|(index, committed)| {
                    let (committed, error) = self.stable(&request.group_id, &name, index, committed, stable);
                    let partition = OffsetFetchResponsePartition::default()
                        .with_partition_index(index)
                        .with_error_code(error)
                        .with_committed_offset(committed.offset)
                        .with_metadata(Some(StrBytes::from_string(committed.metadata)));
                    if version >= 5 {
                        partition.with_committed_leader_epoch(committed.leader_epoch)
                    } else {
                        partition
                    }
                });
                OffsetFetchResponseTopic::default()
                    .with_name(topic_name(&name))
                    .with_partitions(partitions.collect())
            });
            return OffsetFetchResponse::default().with_topics(topics.collect());
        }
        let groups = request.groups.into_iter().map(|group| {
            let member = group.member_id.as_ref().map_or("", |id| id.as_str());
            let known = lock(&self.consumer_groups).check_commit(&group.group_id, member, group.member_epoch);
            if let (false, Some(Err(error))) = (member.is_empty(), known) {
                return OffsetFetchResponseGroup::default()
                    .with_group_id(group.group_id)
                    .with_error_code(BrokerError::Group(error).code());
            }
            let asked = group.topics.map(|topics| {
                topics.into_iter().map(|topic| (topic.name.to_string(), topic.partition_indexes)).collect()
            });
            let topics = self.committed_of(&group.group_id, asked).into_iter().map(|(name, partitions)| {
                let partitions = partitions.into_iter().map(|(index, committed)| {
                    let (committed, error) = self.stable(&group.group_id, &name, index, committed, stable);
                    OffsetFetchResponsePartitions::default()
                        .with_partition_index(index)
                        .with_error_code(error)
                        .with_committed_offset(committed.offset)
                        .with_committed_leader_epoch(committed.leader_epoch)
                        .with_metadata(Some(StrBytes::from_string(committed.metadata)))
                });
                OffsetFetchResponseTopics::default()
                    .with_name(topic_name(&name))
                    .with_partitions(partitions.collect())
            });
            let topics = topics.collect();
            OffsetFetchResponseGroup::default().with_group_id(group.group_id).with_topics(topics)
        });
        OffsetFetchResponse::default().with_groups(groups.collect())
    }

    /// The offset, or the refusal to tell it while an open transaction commits another (`require_stable`, KIP-447).
    fn stable(
        &self,
        group: &str,
        topic: &str,
        index: i32,
        committed: Committed,
        required: bool,
    ) -> (Committed, i16) {
        if required && lock(&self.offsets).is_pending(group, &TopicPartition::new(topic, index)) {
            return (NOT_COMMITTED, ResponseError::UnstableOffsetCommit.code());
        }
        (committed, 0)
    }

    /// What a group committed for the partitions asked (all with `None`); −1 where nothing was.
    fn committed_of(
        &self,
        group: &str,
        asked: Option<Vec<(String, Vec<i32>)>>,
    ) -> Vec<(String, Vec<(i32, Committed)>)> {
        let store = lock(&self.offsets);
        match asked {
            Some(asked) => asked
                .into_iter()
                .map(|(name, indexes)| {
                    let topic: Arc<str> = Arc::from(name.as_str());
                    let partitions = indexes.into_iter().map(|index| {
                        let at = TopicPartition::new(Arc::clone(&topic), index);
                        (index, store.get(group, &at).cloned().unwrap_or(NOT_COMMITTED))
                    });
                    let partitions = partitions.collect();
                    (name, partitions)
                })
                .collect(),
            None => {
                let mut topics: BTreeMap<String, Vec<(i32, Committed)>> = BTreeMap::new();
                for (at, committed) in store.all(group) {
                    topics.entry(at.topic.to_string()).or_default().push((at.partition, committed));
                }
                topics.into_iter().collect()
            }
        }
    }

    pub(crate) fn on_offset_delete(&self, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
        let group = request.group_id.as_str();
        let mut members = lock(&self.groups).describe(group).map_or(0, |group| group.members.len());
        members += lock(&self.consumer_groups).get(group).map_or(0, |group| group.members.len());
        if !lock(&self.offsets).has_group(group) && members == 0 {
            return OffsetDeleteResponse::default().with_error_code(ResponseError::GroupIdNotFound.code());
        }
        // which topics members read is known to them only, so a group with members keeps its offsets
        let refused = if members > 0 { ResponseError::GroupSubscribedToTopic.code() } else { 0 };
        let mut changes = Vec::new();
        let topics = request.topics.into_iter().map(|topic| {
            let name: Arc<str> = Arc::from(topic.name.as_str());
            let partitions = topic.partitions.into_iter().map(|partition| {
                if refused == 0 {
                    changes.push((TopicPartition::new(Arc::clone(&name), partition.partition_index), None));
                }
                OffsetDeleteResponsePartition::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(refused)
            });
            let partitions = partitions.collect();
            OffsetDeleteResponseTopic::default().with_name(topic.name).with_partitions(partitions)
        });
        let topics = topics.collect();
        let failure = self.write_offsets(group, &changes).err();
        OffsetDeleteResponse::default()
            .with_error_code(failure.map_or(0, |error| error.code()))
            .with_topics(topics)
    }
}
