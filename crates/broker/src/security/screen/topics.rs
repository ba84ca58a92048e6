//! Requests about topics and their records.

use herdsman_record::Batch;
use herdsman_wire::kafka_protocol::ResponseError;
use herdsman_wire::kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use herdsman_wire::kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, TopicResponse,
};
use herdsman_wire::kafka_protocol::messages::describe_topic_partitions_request::TopicRequest;
use herdsman_wire::kafka_protocol::messages::describe_topic_partitions_response::DescribeTopicPartitionsResponseTopic;
use herdsman_wire::kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use herdsman_wire::kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use herdsman_wire::kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use herdsman_wire::kafka_protocol::messages::produce_request::TopicProduceData;
use herdsman_wire::kafka_protocol::messages::produce_response::{
    PartitionProduceResponse, TopicProduceResponse,
};
use herdsman_wire::kafka_protocol::messages::{
    DeleteRecordsRequest, DescribeProducersRequest, DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse, FetchRequest, ListOffsetsRequest, MetadataRequest,
    OffsetForLeaderEpochRequest, ProduceRequest, ProduceResponse, ResponseKind,
};
use herdsman_wire::{FetchReply, PartitionReply, Reply, TopicReply};

use super::{PASSED, Screened, TOPIC, TRANSACTIONAL_ID, refused, take, then};
use crate::Broker;
use crate::metadata::topic_name;
use crate::security::acl::{self, Operation, Resource};
use crate::security::session::Gate;

/// First version of Fetch that names topics by id.
const FETCH_IDS: i16 = 13;
/// Session epoch of a Fetch that wants none (KIP-227).
const NO_SESSION: i32 = -1;
/// Bit of a batch's attributes: it belongs to a transaction.
const TRANSACTIONAL: i16 = 1 << 4;

fn produce_refused(topic: TopicProduceData, code: i16) -> TopicProduceResponse {
    let partitions = topic.partition_data.iter().map(|partition| {
        PartitionProduceResponse::default()
            .with_index(partition.index)
            .with_error_code(code)
            .with_base_offset(-1)
            .with_log_append_time_ms(-1)
            .with_log_start_offset(-1)
    });
    TopicProduceResponse::default().with_partition_responses(partitions.collect()).with_name(topic.name)
}

/// Whether a batch of the request belongs to a transaction: read from the batches, whatever the request says of itself.
fn has_transaction(request: &ProduceRequest) -> bool {
    let partitions = request.topic_data.iter().flat_map(|topic| &topic.partition_data);
    partitions.filter_map(|partition| partition.records.clone()).any(|records| {
        Batch::from_bytes(records).is_ok_and(|batch| batch.header().attributes & TRANSACTIONAL != 0)
    })
}

pub(super) fn produce(gate: &mut Gate<'_>, request: &mut ProduceRequest) -> Screened {
    let named = request.transactional_id.as_ref();
    let may_transact = match named {
        Some(id) => gate.transactional_id(Operation::Write, id),
        None => !has_transaction(request),
    };
    if !may_transact {
        if request.acks == 0 {
            return Screened::Refused(Reply::Close);
        }
        let topics = std::mem::take(&mut request.topic_data);
        let topics = topics.into_iter().map(|topic| produce_refused(topic, TRANSACTIONAL_ID));
        return refused(ProduceResponse::default().with_responses(topics.collect()));
    }
    let denied = take(&mut request.topic_data, |topic| gate.topic(Operation::Write, &topic.name));
    if denied.is_empty() {
        return PASSED;
    }
    Screened::Passed(Some(Box::new(move |reply: &mut Reply, _: &mut Gate<'_>| match reply {
        Reply::Nothing => *reply = Reply::Close,
        Reply::Message(message) => {
            if let ResponseKind::Produce(response) = &mut **message {
                response.responses.extend(denied.into_iter().map(|topic| produce_refused(topic, TOPIC)));
            }
        }
        Reply::Fetch(_) | Reply::ShareAcknowledge(..) | Reply::Close => {}
    })))
}

impl Broker {
    pub(super) fn screen_fetch(
        &self,
        gate: &mut Gate<'_>,
        request: &mut FetchRequest,
        version: i16,
    ) -> Screened {
        // a session would remember what the client could read when it began: here every request names all it wants
        if request.session_id != 0 {
            let error_code = ResponseError::FetchSessionIdNotFound.code();
            return Screened::Refused(Reply::Fetch(FetchReply { error_code, ..FetchReply::default() }));
        }
        request.session_epoch = NO_SESSION;
        // replicas read everything: only a broker may say it is one (CVE-2018-1288)
        let is_replica = request.replica_id.0 >= 0 || request.replica_state.replica_id.0 >= 0;
        let may_all = is_replica && gate.may_cluster(Operation::ClusterAction);
        let denied = take(&mut request.topics, |topic| {
            if is_replica {
                return may_all;
            }
            if version < FETCH_IDS {
                return gate.topic(Operation::Read, &topic.topic);
            }
            let known = self.topic_by_id(topic.topic_id.into_bytes());
            known.is_none_or(|topic| gate.topic(Operation::Read, &topic.meta.name))
        });
        if denied.is_empty() {
            return PASSED;
        }
        Screened::Passed(Some(Box::new(move |reply: &mut Reply, _: &mut Gate<'_>| {
            let Reply::Fetch(fetch) = reply else { return };
            fetch.topics.extend(denied.into_iter().map(|topic| TopicReply {
                partitions:
                    topic.partitions.iter().map(|one| PartitionReply::error(one.partition, TOPIC)).collect(),
                name: topic.topic.0,
                id: topic.topic_id.into_bytes(),
            }));
        })))
    }

    pub(super) fn screen_metadata(
        &self,
        gate: &mut Gate<'_>,
        request: &mut MetadataRequest,
        version: i16,
    ) -> Screened {
        let wants_cluster = request.include_cluster_authorized_operations;
        let wants_topics = request.include_topic_authorized_operations;
        let is_all = request.topics.as_ref().is_none_or(|topics| version == 0 && topics.is_empty());
        let creates = self.config.auto_create_topics && (version < 4 || request.allow_auto_topic_creation);
        let mut denied = Vec::new();
        if let Some(topics) = &mut request.topics {
            denied = take(topics, |asked| {
                let known = match &asked.name {
                    Some(name) => self.topic(name),
                    None => self.topic_by_id(asked.topic_id.into_bytes()),
                };
                let name = asked
                    .name
                    .as_ref()
                    .map(|name| name.as_str())
                    .or_else(|| known.as_ref().map(|topic| &*topic.meta.name));
                let Some(name) = name else { return true };
                gate.topic(Operation::Describe, name)
                    && (known.is_some()
                        || !creates
                        || gate.may_cluster(Operation::Create)
                        || gate.topic(Operation::Create, name))
            });
        }
        // an empty list at version 0 asks for every topic
        let is_none = !is_all && request.topics.as_ref().is_some_and(Vec::is_empty);
        then!(Metadata, |response, gate| {
            if is_none {
                response.topics.clear();
            }
            response
                .topics
                .retain(|topic| topic.name.as_ref().is_none_or(|name| gate.topic(Operation::Describe, name)));
            if wants_topics {
                for topic in response.topics.iter_mut().filter(|topic| topic.error_code == 0) {
                    let name = topic.name.as_ref().map_or("", |name| name.as_str());
                    topic.topic_authorized_operations = gate.operations(Resource::Topic, name);
                }
            }
            if wants_cluster {
                response.cluster_authorized_operations = gate.operations(Resource::Cluster, acl::CLUSTER);
            }
            response.topics.extend(denied.into_iter().map(|asked| {
                MetadataResponseTopic::default()
                    .with_error_code(TOPIC)
                    .with_topic_id(asked.topic_id)
                    .with_name(asked.name.or_else(|| (version < 12).then(|| topic_name(""))))
            }));
        })
    }

    pub(super) fn screen_describe_topics(
        &self,
        gate: &mut Gate<'_>,
        request: &mut DescribeTopicPartitionsRequest,
    ) -> Screened {
        let is_all = request.topics.is_empty();
        if is_all {
            let all = self.all_topics();
            request.topics = all
                .iter()
                .map(|topic| TopicRequest::default().with_name(topic_name(&topic.meta.name)))
                .collect();
        }
        let mut denied = take(&mut request.topics, |topic| gate.topic(Operation::Describe, &topic.name));
        if is_all {
            denied.clear();
        }
        let describe = |topic: TopicRequest| {
            DescribeTopicPartitionsResponseTopic::default().with_error_code(TOPIC).with_name(Some(topic.name))
        };
        if request.topics.is_empty() {
            let topics = denied.into_iter().map(describe).collect();
            return refused(DescribeTopicPartitionsResponse::default().with_topics(topics));
        }
        then!(DescribeTopicPartitions, |response, gate| {
            for topic in response.topics.iter_mut().filter(|topic| topic.error_code == 0) {
                let name = topic.name.as_ref().map_or("", |name| name.as_str());
                topic.topic_authorized_operations = gate.operations(Resource::Topic, name);
            }
            response.topics.extend(denied.into_iter().map(describe));
        })
    }
}

pub(super) fn list_offsets(gate: &mut Gate<'_>, request: &mut ListOffsetsRequest) -> Screened {
    let denied = take(&mut request.topics, |topic| gate.topic(Operation::Describe, &topic.name));
    then!(ListOffsets, |response, _| {
        response.topics.extend(denied.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                ListOffsetsPartitionResponse::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(TOPIC)
                    .with_offset(-1)
                    .with_timestamp(-1)
            });
            ListOffsetsTopicResponse::default().with_partitions(partitions.collect()).with_name(topic.name)
        }));
    })
}

pub(super) fn delete_records(gate: &mut Gate<'_>, request: &mut DeleteRecordsRequest) -> Screened {
    let denied = take(&mut request.topics, |topic| gate.topic(Operation::Delete, &topic.name));
    then!(DeleteRecords, |response, _| {
        response.topics.extend(denied.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                DeleteRecordsPartitionResult::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(TOPIC)
                    .with_low_watermark(-1)
            });
            DeleteRecordsTopicResult::default().with_partitions(partitions.collect()).with_name(topic.name)
        }));
    })
}

pub(super) fn leader_epoch(gate: &mut Gate<'_>, request: &mut OffsetForLeaderEpochRequest) -> Screened {
    let denied = take(&mut request.topics, |topic| gate.topic(Operation::Describe, &topic.topic));
    then!(OffsetForLeaderEpoch, |response, _| {
        response.topics.extend(denied.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                EpochEndOffset::default()
                    .with_partition(partition.partition)
                    .with_error_code(TOPIC)
                    .with_leader_epoch(-1)
                    .with_end_offset(-1)
            });
            OffsetForLeaderTopicResult::default()
                .with_partitions(partitions.collect())
                .with_topic(topic.topic)
        }));
    })
}

pub(super) fn describe_producers(gate: &mut Gate<'_>, request: &mut DescribeProducersRequest) -> Screened {
    let denied = take(&mut request.topics, |topic| gate.topic(Operation::Read, &topic.name));
    then!(DescribeProducers, |response, _| {
        response.topics.extend(denied.into_iter().map(|topic| {
            let partitions = topic.partition_indexes.iter().map(|index| {
                PartitionResponse::default().with_partition_index(*index).with_error_code(TOPIC)
            });
            TopicResponse::default().with_partitions(partitions.collect()).with_name(topic.name)
        }));
    })
}
