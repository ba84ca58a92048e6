//! State of share groups on disk and by request: Describe-, Alter-, DeleteShareGroupOffsets; configs of groups.
//!
//! What was decided is a batch of `__share_group_state`, appended before it is answered. A partition's lock is held over its
//! change and its append, so the last record of a partition is its last state.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use herdsman_log::Log;
use herdsman_record::{BatchBuilder, Compression, TopicPartition};
use herdsman_wire::kafka_protocol::ResponseError;
use herdsman_wire::kafka_protocol::messages::alter_share_group_offsets_response::{
    AlterShareGroupOffsetsResponsePartition, AlterShareGroupOffsetsResponseTopic,
};
use herdsman_wire::kafka_protocol::messages::delete_share_group_offsets_response::DeleteShareGroupOffsetsResponseTopic;
use herdsman_wire::kafka_protocol::messages::describe_share_group_offsets_request::DescribeShareGroupOffsetsRequestGroup;
use herdsman_wire::kafka_protocol::messages::describe_share_group_offsets_response::{
    DescribeShareGroupOffsetsResponseGroup, DescribeShareGroupOffsetsResponsePartition,
    DescribeShareGroupOffsetsResponseTopic,
};
use herdsman_wire::kafka_protocol::messages::{
    AlterShareGroupOffsetsRequest, AlterShareGroupOffsetsResponse, DeleteShareGroupOffsetsRequest,
    DeleteShareGroupOffsetsResponse, DescribeShareGroupOffsetsRequest, DescribeShareGroupOffsetsResponse,
};
use herdsman_wire::kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::group::GroupError;
use crate::metadata::topic_name;
use crate::replay::replay;
use crate::share::config::check_group_configs;
use crate::share::store;
use crate::share::{SHARE_TOPIC, ShareConfig, ShareKey, SharePartition, Shares};
use crate::topic::lock;
use crate::{Broker, BrokerError};

/// Segments of `__share_group_state` below its largest size.
const SEGMENTS: u64 = 4;
/// Records in one batch when it is written anew.
const RECORDS_PER_BATCH: usize = 100;

/// Reads share groups back from the log.
pub(crate) fn load(log: &Log, config: ShareConfig) -> Result<Shares, BrokerError> {
    let mut shares = Shares { config, ..Shares::default() };
    if log.topic(SHARE_TOPIC).is_none() {
        return Ok(shares);
    }
    replay(log, &TopicPartition::new(SHARE_TOPIC, 0), |batch| store::load(&mut shares, batch))?;
    Ok(shares)
}

fn sentence(error: &BrokerError) -> Option<StrBytes> {
    Some(StrBytes::from_string(error.to_string()))
}

impl Broker {
    /// The partition of `__share_group_state`. Ask before taking the lock of `shares`: it may make the topic.
    fn share_topic(&self) -> Result<TopicPartition, BrokerError> {
        self.internal_topic(SHARE_TOPIC, self.config.offsets_bytes_max / SEGMENTS)
    }

    fn append_share(&self, at: &TopicPartition, mut builder: BatchBuilder) -> Result<(), BrokerError> {
        let batch = builder
            .finish(Compression::None)
            .map_err(|source| BrokerError::Corrupt { topic_partition: at.clone(), source })?;
        self.log.append(at, batch)?;
        Ok(())
    }

    /// Writes the state of one partition down.
    pub(crate) fn write_share(
        &self,
        key: &ShareKey,
        partition: &mut SharePartition,
    ) -> Result<(), BrokerError> {
        let at = self.share_topic()?;
        let mut builder = BatchBuilder::new();
        store::put_partition(&mut builder, key, Some(partition), self.clock.now_ms());
        self.append_share(&at, builder)?;
        partition.is_dirty = false;
        Ok(())
    }

    /// Forgets partitions of groups, on disk and in memory.
    pub(crate) fn forget_shares(&self, keys: &[ShareKey]) -> Result<(), BrokerError> {
        if keys.is_empty() {
            return Ok(());
        }
        let at = self.share_topic()?;
        let mut shares = lock(&self.shares);
        let mut builder = BatchBuilder::new();
        for key in keys {
            store::put_partition(&mut builder, key, None, self.clock.now_ms());
        }
        self.append_share(&at, builder)?;
        for key in keys {
            shares.partitions.remove(key);
        }
        Ok(())
    }

    /// Forgets a topic that was deleted.
    pub(crate) fn forget_shared_topic(&self, topic: [u8; 16]) -> Result<(), BrokerError> {
        let keys: Vec<ShareKey> =
            lock(&self.shares).partitions.keys().filter(|key| key.topic == topic).cloned().collect();
        self.forget_shares(&keys)
    }

    /// Writes every state once more and gives up what stood before, once the topic has grown large.
    pub(crate) fn compact_shares(&self) -> Result<(), BrokerError> {
        let at = TopicPartition::new(SHARE_TOPIC, 0);
        if self.topic(SHARE_TOPIC).is_none() {
            return Ok(());
        }
        let written = self.compacted_share_bytes.load(Ordering::Relaxed);
        if self.log.size(&at)? < self.config.offsets_bytes_max.max(written.saturating_mul(3)) {
            return Ok(());
        }
        // every partition's lock is held until all stand in the log: none may be written in between
        let shares = lock(&self.shares);
        let held: Vec<_> = shares.partitions.iter().map(|(key, one)| (key, lock(one))).collect();
        let batches = store::encode_all(
            held.iter().map(|(key, one)| (*key, &**one)),
            &shares.configs,
            RECORDS_PER_BATCH,
            self.clock.now_ms(),
        )
        .map_err(|source| BrokerError::Corrupt { topic_partition: at.clone(), source })?;
        let bytes: usize = batches.iter().map(|batch| batch.bytes().len()).sum();
        self.compacted_share_bytes.store(bytes as u64, Ordering::Relaxed);
        let batches = batches.into_iter().map(|batch| (at.clone(), batch)).collect();
        let first = match self.log.append_all(batches)?.first() {
            Some(first) => *first,
            None => self.log.offsets(&at)?.1,
        };
        drop(held);
        self.log.delete_records_before(&at, first)?;
        Ok(())
    }

    /// Replaces the configs a group has set.
    pub(crate) fn set_group_configs(
        &self,
        group: &str,
        configs: &BTreeMap<String, String>,
        validate_only: bool,
    ) -> Result<(), BrokerError> {
        if group.trim().is_empty() {
            return Err(GroupError::InvalidGroupId.into());
        }
        check_group_configs(configs)?;
        if validate_only {
            return Ok(());
        }
        let at = self.share_topic()?;
        let mut shares = lock(&self.shares);
        let mut builder = BatchBuilder::new();
        store::put_configs(&mut builder, group, configs, self.clock.now_ms());
        self.append_share(&at, builder)?;
        if configs.is_empty() {
            shares.configs.remove(group);
        } else {
            shares.configs.insert(group.to_owned(), configs.clone());
        }
        Ok(())
    }

    pub(crate) fn on_describe_share_offsets(
        &self,
        request: DescribeShareGroupOffsetsRequest,
    ) -> DescribeShareGroupOffsetsResponse {
        let groups = request.groups.into_iter().map(|group| self.described_share_offsets(group)).collect();
        DescribeShareGroupOffsetsResponse::default().with_groups(groups)
    }

    fn described_share_offsets(
        &self,
        request: DescribeShareGroupOffsetsRequestGroup,
    ) -> DescribeShareGroupOffsetsResponseGroup {
        let response = DescribeShareGroupOffsetsResponseGroup::default();
        let mut known: BTreeMap<([u8; 16], i32), Arc<Mutex<SharePartition>>> = BTreeMap::new();
        {
            let shares = lock(&self.shares);
            if !shares.has_group(&request.group_id) {
                let error = BrokerError::Group(GroupError::NotFound);
                return response
                    .with_group_id(request.group_id)
                    .with_error_code(error.code())
                    .with_error_message(sentence(&error));
            }
            for (key, partition) in shares.of_group(&request.group_id) {
                known.insert((key.topic, key.index), Arc::clone(partition));
            }
        }
        let asked: Vec<(String, Vec<i32>)> = match request.topics {
            Some(topics) => {
                topics.into_iter().map(|topic| (topic.topic_name.to_string(), topic.partitions)).collect()
            }
            None => {
                let mut all: BTreeMap<String, Vec<i32>> = BTreeMap::new();
                for (id, index) in known.keys() {
                    if let Some(topic) = self.topic_by_id(*id) {
                        all.entry(topic.meta.name.to_string()).or_default().push(*index);
                    }
                }
                all.into_iter().collect()
            }
        };
        let topics = asked.into_iter().map(|(name, indexes)| {
            let id = self.topic(&name).map(|topic| topic.meta.id.0);
            let partitions = indexes.into_iter().map(|index| {
                let described = DescribeShareGroupOffsetsResponsePartition::default();
                let described = described.with_partition_index(index).with_start_offset(-1);
                let Some(id) = id else {
                    return described.with_error_code(ResponseError::UnknownTopicOrPartition.code());
                };
                match known.get(&(id, index)) {
                    Some(partition) => described.with_start_offset(lock(partition).start()),
                    None => described,
                }
            });
            DescribeShareGroupOffsetsResponseTopic::default()
                .with_topic_name(topic_name(&name))
                .with_topic_id(Uuid::from_bytes(id.unwrap_or_default()))
                .with_partitions(partitions.collect())
        });
        let topics = topics.collect();
        response.with_group_id(request.group_id).with_topics(topics)
    }

    pub(crate) fn on_alter_share_offsets(
        &self,
        request: AlterShareGroupOffsetsRequest,
    ) -> AlterShareGroupOffsetsResponse {
        let group = request.group_id.as_str();
        if let Err(error) = self.check_unread(group) {
            return AlterShareGroupOffsetsResponse::default()
                .with_error_code(error.code())
                .with_error_message(sentence(&error));
        }
        let topics = request.topics.iter().map(|topic| {
            let name = topic.topic_name.as_str();
            let id = self.topic(name).map(|topic| topic.meta.id.0).unwrap_or_default();
            let partitions = topic.partitions.iter().map(|partition| {
                let index = partition.partition_index;
                let result = self.set_share_start(group, name, index, partition.start_offset);
                let response = AlterShareGroupOffsetsResponsePartition::default().with_partition_index(index);
                match result {
                    Ok(()) => response,
                    Err(error) => response.with_error_code(error.code()).with_error_message(sentence(&error)),
                }
            });
            AlterShareGroupOffsetsResponseTopic::default()
                .with_topic_name(topic.topic_name.clone())
                .with_topic_id(Uuid::from_bytes(id))
                .with_partitions(partitions.collect())
        });
        AlterShareGroupOffsetsResponse::default().with_responses(topics.collect())
    }

    /// Whether the offsets of a share group may change: nobody reads by them.
    fn check_unread(&self, group: &str) -> Result<(), BrokerError> {
        let in_use = lock(&self.groups).describe(group).is_some_and(|group| !group.members.is_empty())
            || lock(&self.consumer_groups).get(group).is_some_and(|group| !group.members.is_empty());
        if group.trim().is_empty() {
            Err(GroupError::InvalidGroupId.into())
        } else if in_use {
            Err(GroupError::OtherProtocol.into())
        } else if self.is_shared(group) {
            Err(GroupError::NotEmpty.into())
        } else {
            Ok(())
        }
    }

    fn set_share_start(&self, group: &str, name: &str, index: i32, start: i64) -> Result<(), BrokerError> {
        let at = TopicPartition::new(name, index);
        let topic = self.known_topic(&at)?;
        if start < 0 {
            return Err(BrokerError::InvalidRequest(format!("no start offset {start}: use 0 or more")));
        }
        let key = ShareKey { group: group.to_owned(), topic: topic.meta.id.0, index };
        let mut fresh = SharePartition::new(start);
        self.write_share(&key, &mut fresh)?;
        lock(&self.shares).partitions.insert(key, Arc::new(Mutex::new(fresh)));
        Ok(())
    }

    pub(crate) fn on_delete_share_offsets(
        &self,
        request: DeleteShareGroupOffsetsRequest,
    ) -> DeleteShareGroupOffsetsResponse {
        let group = request.group_id.as_str();
        let known = lock(&self.shares).has_group(group);
        let checked = self.check_unread(group);
        let checked = checked.and(if known { Ok(()) } else { Err(GroupError::NotFound.into()) });
        if let Err(error) = checked {
            return DeleteShareGroupOffsetsResponse::default()
                .with_error_code(error.code())
                .with_error_message(sentence(&error));
        }
        let topics = request.topics.into_iter().map(|topic| {
            let id = self.topic(&topic.topic_name).map(|topic| topic.meta.id.0);
            let response = DeleteShareGroupOffsetsResponseTopic::default()
                .with_topic_id(Uuid::from_bytes(id.unwrap_or_default()));
            let done = match id {
                Some(id) => {
                    let shares = lock(&self.shares);
                    let keys: Vec<ShareKey> = shares
                        .of_group(group)
                        .map(|(key, _)| key)
                        .filter(|key| key.topic == id)
                        .cloned()
                        .collect();
                    drop(shares);
                    self.forget_shares(&keys)
                }
                None => {
                    Err(BrokerError::UnknownTopicPartition(TopicPartition::new(topic.topic_name.as_str(), 0)))
                }
            };
            let response = response.with_topic_name(topic.topic_name);
            match done {
                Ok(()) => response,
                Err(error) => response.with_error_code(error.code()).with_error_message(sentence(&error)),
            }
        });
        let topics = topics.collect();
        DeleteShareGroupOffsetsResponse::default().with_responses(topics)
    }
}
