//! Requests about share groups (KIP-932): a group's READ, and READ of the topics, as for consumer groups.

use herdsman_wire::Reply;
use herdsman_wire::kafka_protocol::messages::alter_share_group_offsets_response::{
    AlterShareGroupOffsetsResponsePartition, AlterShareGroupOffsetsResponseTopic,
};
use herdsman_wire::kafka_protocol::messages::delete_share_group_offsets_response::DeleteShareGroupOffsetsResponseTopic;
use herdsman_wire::kafka_protocol::messages::describe_share_group_offsets_response::{
    DescribeShareGroupOffsetsResponseGroup, DescribeShareGroupOffsetsResponsePartition,
    DescribeShareGroupOffsetsResponseTopic,
};
use herdsman_wire::kafka_protocol::messages::share_acknowledge_response::{
    PartitionData as Acknowledged, ShareAcknowledgeTopicResponse,
};
use herdsman_wire::kafka_protocol::messages::share_fetch_response::{
    PartitionData as Fetched, ShareFetchableTopicResponse,
};
use herdsman_wire::kafka_protocol::messages::share_group_describe_response::DescribedGroup;
use herdsman_wire::kafka_protocol::messages::{
    AlterShareGroupOffsetsRequest, AlterShareGroupOffsetsResponse, DeleteShareGroupOffsetsRequest,
    DeleteShareGroupOffsetsResponse, DescribeShareGroupOffsetsRequest, ShareAcknowledgeRequest,
    ShareAcknowledgeResponse, ShareFetchRequest, ShareFetchResponse, ShareGroupDescribeRequest,
    ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse,
};

use super::groups::membership;
use super::{GROUP, PASSED, Screened, TOPIC, refused, take, then};
use crate::Broker;
use crate::security::acl::{Operation, Resource};
use crate::security::session::Gate;

pub(super) fn heartbeat(gate: &mut Gate<'_>, request: &ShareGroupHeartbeatRequest) -> Screened {
    match membership(gate, &request.group_id, request.subscribed_topic_names.as_deref()) {
        Ok(()) => PASSED,
        Err(code) => refused(ShareGroupHeartbeatResponse::default().with_error_code(code)),
    }
}

pub(super) fn describe(gate: &mut Gate<'_>, request: &mut ShareGroupDescribeRequest) -> Screened {
    let denied = take(&mut request.group_ids, |group| gate.group(Operation::Describe, group));
    let wants_operations = request.include_authorized_operations;
    then!(ShareGroupDescribe, |response, gate| {
        for group in response.groups.iter_mut().filter(|group| group.error_code == 0) {
            let mut topics = group
                .members
                .iter()
                .flat_map(|member| member.assignment.topic_partitions.iter().map(|topic| &topic.topic_name));
            if !topics.all(|topic| gate.topic(Operation::Describe, topic)) {
                let id = group.group_id.clone();
                *group = DescribedGroup::default().with_group_id(id).with_error_code(TOPIC);
            } else if wants_operations {
                group.authorized_operations = gate.operations(Resource::Group, &group.group_id);
            }
        }
        let denied = denied.into_iter();
        response.groups.extend(
            denied.map(|group| DescribedGroup::default().with_group_id(group).with_error_code(GROUP)),
        );
    })
}

impl Broker {
    /// Whether the topic with this id is unknown, or may be read.
    fn may_read(&self, gate: &mut Gate<'_>, id: [u8; 16]) -> bool {
        self.topic_by_id(id).is_none_or(|topic| gate.topic(Operation::Read, &topic.meta.name))
    }

    pub(super) fn screen_share_fetch(
        &self,
        gate: &mut Gate<'_>,
        request: &mut ShareFetchRequest,
    ) -> Screened {
        if !request.group_id.as_ref().is_some_and(|group| gate.group(Operation::Read, group)) {
            return refused(ShareFetchResponse::default().with_error_code(GROUP));
        }
        let denied = take(&mut request.topics, |topic| self.may_read(gate, topic.topic_id.into_bytes()));
        then!(ShareFetch, |response, _| {
            response.responses.extend(denied.into_iter().map(|topic| {
                let partitions = topic.partitions.iter().map(|one| {
                    Fetched::default().with_partition_index(one.partition_index).with_error_code(TOPIC)
                });
                ShareFetchableTopicResponse::default()
                    .with_topic_id(topic.topic_id)
                    .with_partitions(partitions.collect())
            }));
        })
    }

    pub(super) fn screen_share_acknowledge(
        &self,
        gate: &mut Gate<'_>,
        request: &mut ShareAcknowledgeRequest,
    ) -> Screened {
        if !request.group_id.as_ref().is_some_and(|group| gate.group(Operation::Read, group)) {
            let response = ShareAcknowledgeResponse::default().with_error_code(GROUP);
            return Screened::Refused(Reply::ShareAcknowledge(Box::new(response), 0));
        }
        let denied = take(&mut request.topics, |topic| self.may_read(gate, topic.topic_id.into_bytes()));
        Screened::Passed(Some(Box::new(move |reply: &mut Reply, _: &mut Gate<'_>| {
            let Reply::ShareAcknowledge(response, _) = reply else { return };
            response.responses.extend(denied.into_iter().map(|topic| {
                let partitions = topic.partitions.iter().map(|one| {
                    Acknowledged::default().with_partition_index(one.partition_index).with_error_code(TOPIC)
                });
                ShareAcknowledgeTopicResponse::default()
                    .with_topic_id(topic.topic_id)
                    .with_partitions(partitions.collect())
            }));
        })))
    }
}

pub(super) fn describe_offsets(
    gate: &mut Gate<'_>,
    request: &mut DescribeShareGroupOffsetsRequest,
) -> Screened {
    let denied_groups = take(&mut request.groups, |group| gate.group(Operation::Describe, &group.group_id));
    let mut denied_topics = Vec::new();
    for group in &mut request.groups {
        if let Some(topics) = &mut group.topics {
            let denied = take(topics, |topic| gate.topic(Operation::Describe, &topic.topic_name));
            denied_topics.push((group.group_id.clone(), denied));
        }
    }
    then!(DescribeShareGroupOffsets, |response, gate| {
        for group in &mut response.groups {
            group.topics.retain(|topic| gate.topic(Operation::Describe, &topic.topic_name));
        }
        for (id, denied) in denied_topics {
            let Some(group) = response.groups.iter_mut().find(|group| group.group_id == id) else { continue };
            group.topics.extend(denied.into_iter().map(|topic| {
                let partitions = topic.partitions.iter().map(|index| {
                    DescribeShareGroupOffsetsResponsePartition::default()
                        .with_partition_index(*index)
                        .with_error_code(TOPIC)
                });
                DescribeShareGroupOffsetsResponseTopic::default()
                    .with_partitions(partitions.collect())
                    .with_topic_name(topic.topic_name)
            }));
        }
        response.groups.extend(denied_groups.into_iter().map(|group| {
            DescribeShareGroupOffsetsResponseGroup::default()
                .with_group_id(group.group_id)
                .with_error_code(GROUP)
        }));
    })
}

pub(super) fn alter_offsets(gate: &mut Gate<'_>, request: &mut AlterShareGroupOffsetsRequest) -> Screened {
    if !gate.group(Operation::Read, &request.group_id) {
        return refused(AlterShareGroupOffsetsResponse::default().with_error_code(GROUP));
    }
    let denied = take(&mut request.topics, |topic| gate.topic(Operation::Read, &topic.topic_name));
    then!(AlterShareGroupOffsets, |response, _| {
        response.responses.extend(denied.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|one| {
                AlterShareGroupOffsetsResponsePartition::default()
                    .with_partition_index(one.partition_index)
                    .with_error_code(TOPIC)
            });
            AlterShareGroupOffsetsResponseTopic::default()
                .with_partitions(partitions.collect())
                .with_topic_name(topic.topic_name)
        }));
    })
}

pub(super) fn delete_offsets(gate: &mut Gate<'_>, request: &mut DeleteShareGroupOffsetsRequest) -> Screened {
    if !gate.group(Operation::Delete, &request.group_id) {
        return refused(DeleteShareGroupOffsetsResponse::default().with_error_code(GROUP));
    }
    let denied = take(&mut request.topics, |topic| gate.topic(Operation::Read, &topic.topic_name));
    then!(DeleteShareGroupOffsets, |response, _| {
        response.responses.extend(denied.into_iter().map(|topic| {
            DeleteShareGroupOffsetsResponseTopic::default()
                .with_topic_name(topic.topic_name)
                .with_error_code(TOPIC)
        }));
    })
}
