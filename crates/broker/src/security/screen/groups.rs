//! Requests about consumer groups and their offsets.

use herdsman_wire::kafka_protocol::messages::consumer_group_describe_response::DescribedGroup as DescribedConsumerGroup;
use herdsman_wire::kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use herdsman_wire::kafka_protocol::messages::describe_groups_response::DescribedGroup;
use herdsman_wire::kafka_protocol::messages::find_coordinator_response::Coordinator;
use herdsman_wire::kafka_protocol::messages::offset_commit_request::OffsetCommitRequestTopic;
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
    BrokerId, ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse,
    DeleteGroupsRequest, DescribeGroupsRequest, FindCoordinatorRequest, FindCoordinatorResponse,
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
    OffsetFetchRequest, OffsetFetchResponse, SyncGroupRequest, SyncGroupResponse, TopicName,
};

use super::{GROUP, PASSED, Screened, TOPIC, TRANSACTIONAL_ID, refused, take, then};
use crate::security::acl::{Operation, Resource};
use crate::security::session::Gate;

/// First version of OffsetFetch that asks for several groups.
const MANY_GROUPS: i16 = 8;
/// FindCoordinator: key type of transactional ids.
const TRANSACTIONS: i8 = 1;

fn commit_refused(topic: OffsetCommitRequestTopic, code: i16) -> OffsetCommitResponseTopic {
    let partitions = topic.partitions.iter().map(|partition| {
        OffsetCommitResponsePartition::default()
            .with_partition_index(partition.partition_index)
            .with_error_code(code)
    });
    OffsetCommitResponseTopic::default().with_partitions(partitions.collect()).with_name(topic.name)
}

pub(super) fn offset_commit(gate: &mut Gate<'_>, request: &mut OffsetCommitRequest) -> Screened {
    if !gate.group(Operation::Read, &request.group_id) {
        let topics = std::mem::take(&mut request.topics);
        let topics = topics.into_iter().map(|topic| commit_refused(topic, GROUP));
        return refused(OffsetCommitResponse::default().with_topics(topics.collect()));
    }
    let denied = take(&mut request.topics, |topic| gate.topic(Operation::Read, &topic.name));
    then!(OffsetCommit, |response, _| {
        response.topics.extend(denied.into_iter().map(|topic| commit_refused(topic, TOPIC)));
    })
}

pub(super) fn offset_fetch(gate: &mut Gate<'_>, request: &mut OffsetFetchRequest, version: i16) -> Screened {
    if version < MANY_GROUPS {
        return offset_fetch_one(gate, request, version);
    }
    let denied_groups = take(&mut request.groups, |group| gate.group(Operation::Describe, &group.group_id));
    let mut denied_topics = Vec::new();
    for group in &mut request.groups {
        if let Some(topics) = &mut group.topics {
            let denied = take(topics, |topic| gate.topic(Operation::Describe, &topic.name));
            denied_topics.push((group.group_id.clone(), denied));
        }
    }
    then!(OffsetFetch, |response, gate| {
        for group in response.groups.iter_mut().filter(|group| group.error_code == 0) {
            group.topics.retain(|topic| gate.topic(Operation::Describe, &topic.name));
        }
        for (id, denied) in denied_topics {
            let Some(group) = response.groups.iter_mut().find(|group| group.group_id == id) else { continue };
            group.topics.extend(denied.into_iter().map(|topic| {
                let partitions = topic.partition_indexes.iter().map(|index| {
                    OffsetFetchResponsePartitions::default()
                        .with_partition_index(*index)
                        .with_error_code(TOPIC)
                        .with_committed_offset(-1)
                });
                OffsetFetchResponseTopics::default()
                    .with_partitions(partitions.collect())
                    .with_name(topic.name)
            }));
        }
        response.groups.extend(denied_groups.into_iter().map(|group| {
            OffsetFetchResponseGroup::default().with_group_id(group.group_id).with_error_code(GROUP)
        }));
    })
}

fn offset_fetch_one(gate: &mut Gate<'_>, request: &mut OffsetFetchRequest, version: i16) -> Screened {
    let refuse =
        |topic: herdsman_wire::kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic,
         code| {
            let partitions = topic.partition_indexes.iter().map(|index| {
                OffsetFetchResponsePartition::default()
                    .with_partition_index(*index)
                    .with_error_code(code)
                    .with_committed_offset(-1)
            });
            OffsetFetchResponseTopic::default().with_partitions(partitions.collect()).with_name(topic.name)
        };
    if !gate.group(Operation::Describe, &request.group_id) {
        let topics = request.topics.take().unwrap_or_default().into_iter().map(|topic| refuse(topic, GROUP));
        let response = OffsetFetchResponse::default().with_topics(topics.collect());
        return refused(if version >= 2 { response.with_error_code(GROUP) } else { response });
    }
    let denied = match &mut request.topics {
        Some(topics) => take(topics, |topic| gate.topic(Operation::Describe, &topic.name)),
        None => Vec::new(),
    };
    then!(OffsetFetch, |response, gate| {
        response.topics.retain(|topic| gate.topic(Operation::Describe, &topic.name));
        response.topics.extend(denied.into_iter().map(|topic| refuse(topic, TOPIC)));
    })
}

pub(super) fn offset_delete(gate: &mut Gate<'_>, request: &mut OffsetDeleteRequest) -> Screened {
    if !gate.group(Operation::Delete, &request.group_id) {
        return refused(OffsetDeleteResponse::default().with_error_code(GROUP));
    }
    let denied = take(&mut request.topics, |topic| gate.topic(Operation::Read, &topic.name));
    then!(OffsetDelete, |response, _| {
        response.topics.extend(denied.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                OffsetDeleteResponsePartition::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(TOPIC)
            });
            OffsetDeleteResponseTopic::default().with_partitions(partitions.collect()).with_name(topic.name)
        }));
    })
}

pub(super) fn find_coordinator(
    gate: &mut Gate<'_>,
    request: &mut FindCoordinatorRequest,
    version: i16,
) -> Screened {
    let (resource, code) = match request.key_type {
        TRANSACTIONS => (Resource::TransactionalId, TRANSACTIONAL_ID),
        _ => (Resource::Group, GROUP),
    };
    if version < 4 {
        if gate.may(Operation::Describe, resource, &request.key) {
            return PASSED;
        }
        let response = FindCoordinatorResponse::default().with_node_id(BrokerId(-1)).with_port(-1);
        return refused(response.with_error_code(code));
    }
    let denied = take(&mut request.coordinator_keys, |key| gate.may(Operation::Describe, resource, key));
    then!(FindCoordinator, |response, _| {
        response.coordinators.extend(denied.into_iter().map(|key| {
            Coordinator::default()
                .with_key(key)
                .with_node_id(BrokerId(-1))
                .with_port(-1)
                .with_error_code(code)
        }));
    })
}

pub(super) fn join(gate: &mut Gate<'_>, request: &mut JoinGroupRequest, version: i16) -> Screened {
    if gate.group(Operation::Read, &request.group_id) {
        return PASSED;
    }
    let response = JoinGroupResponse::default().with_error_code(GROUP).with_generation_id(-1);
    // before version 7 the protocol name may not be null
    let protocol = (version < 7).then(Default::default);
    refused(response.with_protocol_name(protocol).with_member_id(request.member_id.clone()))
}

pub(super) fn sync(gate: &mut Gate<'_>, request: &SyncGroupRequest) -> Screened {
    if gate.group(Operation::Read, &request.group_id) {
        return PASSED;
    }
    refused(SyncGroupResponse::default().with_error_code(GROUP))
}

pub(super) fn heartbeat(gate: &mut Gate<'_>, request: &HeartbeatRequest) -> Screened {
    if gate.group(Operation::Read, &request.group_id) {
        return PASSED;
    }
    refused(HeartbeatResponse::default().with_error_code(GROUP))
}

pub(super) fn leave(gate: &mut Gate<'_>, request: &LeaveGroupRequest) -> Screened {
    if gate.group(Operation::Read, &request.group_id) {
        return PASSED;
    }
    refused(LeaveGroupResponse::default().with_error_code(GROUP))
}

pub(super) fn list(gate: &mut Gate<'_>) -> Screened {
    if gate.may_cluster(Operation::Describe) {
        return PASSED;
    }
    then!(ListGroups, |response, gate| {
        response.groups.retain(|group| gate.group(Operation::Describe, &group.group_id));
    })
}

pub(super) fn describe(gate: &mut Gate<'_>, request: &mut DescribeGroupsRequest, version: i16) -> Screened {
    let denied = take(&mut request.groups, |group| gate.group(Operation::Describe, group));
    let wants_operations = version >= 3 && request.include_authorized_operations;
    then!(DescribeGroups, |response, gate| {
        if wants_operations {
            for group in response.groups.iter_mut().filter(|group| group.error_code == 0) {
                group.authorized_operations = gate.operations(Resource::Group, &group.group_id);
            }
        }
        let denied = denied
            .into_iter()
            .map(|group| DescribedGroup::default().with_group_id(group).with_error_code(GROUP));
        response.groups.extend(denied);
    })
}

pub(super) fn delete(gate: &mut Gate<'_>, request: &mut DeleteGroupsRequest) -> Screened {
    let denied = take(&mut request.groups_names, |group| gate.group(Operation::Delete, group));
    then!(DeleteGroups, |response, _| {
        let denied = denied
            .into_iter()
            .map(|group| DeletableGroupResult::default().with_group_id(group).with_error_code(GROUP));
        response.results.extend(denied);
    })
}

pub(super) fn consumer_heartbeat(gate: &mut Gate<'_>, request: &ConsumerGroupHeartbeatRequest) -> Screened {
    match membership(gate, &request.group_id, request.subscribed_topic_names.as_deref()) {
        Ok(()) => PASSED,
        Err(code) => refused(ConsumerGroupHeartbeatResponse::default().with_error_code(code)),
    }
}

/// Whether the client may be a member of `group` with this subscription, else the error code.
pub(super) fn membership(gate: &mut Gate<'_>, group: &str, topics: Option<&[TopicName]>) -> Result<(), i16> {
    if !gate.group(Operation::Read, group) {
        return Err(GROUP);
    }
    let mut topics = topics.into_iter().flatten();
    if topics.all(|topic| gate.topic(Operation::Describe, topic)) { Ok(()) } else { Err(TOPIC) }
}

pub(super) fn consumer_describe(gate: &mut Gate<'_>, request: &mut ConsumerGroupDescribeRequest) -> Screened {
    let denied = take(&mut request.group_ids, |group| gate.group(Operation::Describe, group));
    let wants_operations = request.include_authorized_operations;
    then!(ConsumerGroupDescribe, |response, gate| {
        for group in response.groups.iter_mut().filter(|group| group.error_code == 0) {
            let mut topics = group.members.iter().flat_map(|member| {
                let assigned = member.assignment.topic_partitions.iter();
                assigned.chain(&member.target_assignment.topic_partitions).map(|topic| &topic.topic_name)
            });
            if !topics.all(|topic| gate.topic(Operation::Describe, topic)) {
                *group = DescribedConsumerGroup::default()
                    .with_group_id(group.group_id.clone())
                    .with_error_code(TOPIC);
            } else if wants_operations {
                group.authorized_operations = gate.operations(Resource::Group, &group.group_id);
            }
        }
        response.groups.extend(
            denied
                .into_iter()
                .map(|group| DescribedConsumerGroup::default().with_group_id(group).with_error_code(GROUP)),
        );
    })
}
