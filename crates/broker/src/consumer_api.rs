//! Requests of the consumer group protocol (KIP-848): ConsumerGroupHeartbeat, ConsumerGroupDescribe.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use herdsman_wire::Peer;
use herdsman_wire::kafka_protocol::ResponseError;
use herdsman_wire::kafka_protocol::messages::consumer_group_describe_response::{
    Assignment as DescribedAssignment, DescribedGroup, Member as DescribedMember,
    TopicPartitions as DescribedPartitions,
};
use herdsman_wire::kafka_protocol::messages::consumer_group_heartbeat_response::{
    Assignment, TopicPartitions,
};
use herdsman_wire::kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse, GroupId,
};
use herdsman_wire::kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::group::consumer::groups::ConsumerGroup;
use crate::group::consumer::member::Member;
use crate::group::consumer::{ConsumerHeartbeat, JOIN, Partitions, TopicId, TopicLookup};
use crate::group::{ConsumerAnswer, GroupError};
use crate::metadata::topic_name;
use crate::topic::{Topics, lock};
use crate::{Broker, BrokerError};

fn text(value: impl Into<String>) -> StrBytes {
    StrBytes::from_string(value.into())
}

impl TopicLookup for Topics {
    fn version(&self) -> u64 {
        self.version
    }

    fn find(&self, name: &str) -> Option<(TopicId, i32)> {
        self.by_name.get(name).map(|topic| (topic.meta.id.0, topic.meta.partitions))
    }

    fn names(&self) -> Vec<String> {
        self.by_name.keys().map(ToString::to_string).collect()
    }
}

impl Broker {
    pub(crate) fn on_consumer_heartbeat(
        &self,
        peer: &Peer,
        client: String,
        request: ConsumerGroupHeartbeatRequest,
    ) -> ConsumerGroupHeartbeatResponse {
        let member_id = request.member_id.clone();
        match self.consumer_heartbeat(heartbeat(peer, client, request)) {
            Ok(answer) => {
                let assignment = answer.assignment.as_ref().map(|partitions| {
                    Assignment::default().with_topic_partitions(
                        partitions
                            .iter()
                            .map(|(topic, indexes)| {
                                TopicPartitions::default()
                                    .with_topic_id(Uuid::from_bytes(*topic))
                                    .with_partitions(indexes.iter().copied().collect())
                            })
                            .collect(),
                    )
                });
                ConsumerGroupHeartbeatResponse::default()
                    .with_member_id(Some(member_id))
                    .with_member_epoch(answer.member_epoch)
                    .with_heartbeat_interval_ms(self.config.consumer_groups.heartbeat_interval_ms)
                    .with_assignment(assignment)
            }
            Err(error) => ConsumerGroupHeartbeatResponse::default()
                .with_error_code(BrokerError::Group(error).code())
                .with_error_message(Some(text(error.to_string()))),
        }
    }

    fn consumer_heartbeat(&self, beat: ConsumerHeartbeat) -> Result<ConsumerAnswer, GroupError> {
        if beat.member_epoch == JOIN && self.is_shared(&beat.group) {
            return Err(GroupError::OtherProtocol);
        }
        let mut groups = lock(&self.consumer_groups);
        if beat.member_epoch == JOIN && groups.get(&beat.group).is_none() {
            // a group moves over once nobody uses the classic protocol in it
            match lock(&self.groups).delete(&beat.group) {
                Ok(()) | Err(GroupError::NotFound) => {}
                Err(_) => return Err(GroupError::OtherProtocol),
            }
        }
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        groups.on_heartbeat(beat, &*topics, self.steady_ms())
    }

    /// Acts on deadlines of the consumer protocol that have passed.
    pub(crate) fn tick_consumer_groups(&self) {
        let mut groups = lock(&self.consumer_groups);
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        groups.on_tick(&*topics, self.steady_ms());
    }

    pub(crate) fn on_consumer_describe(
        &self,
        request: ConsumerGroupDescribeRequest,
    ) -> ConsumerGroupDescribeResponse {
        let groups = lock(&self.consumer_groups);
        let described = request.group_ids.into_iter().map(|id| match groups.get(&id) {
            Some(group) => self.described_consumer_group(id, group),
            None => DescribedGroup::default()
                .with_error_code(ResponseError::GroupIdNotFound.code())
                .with_error_message(Some(text(format!(
                    "group {} does not use the consumer protocol",
                    id.as_str()
                ))))
                .with_group_id(id),
        });
        let described = described.collect();
        ConsumerGroupDescribeResponse::default().with_groups(described)
    }

    fn described_consumer_group(&self, id: GroupId, group: &ConsumerGroup) -> DescribedGroup {
        let none = Partitions::new();
        let members = group.members.iter().map(|(id, member)| {
            let target = group.target.get(id).unwrap_or(&none);
            self.described_member(id, member, target)
        });
        DescribedGroup::default()
            .with_group_id(id)
            .with_group_state(text(group.state()))
            .with_group_epoch(group.epoch)
            .with_assignment_epoch(group.epoch)
            .with_assignor_name(text(group.assignor().name()))
            .with_members(members.collect())
    }

    fn described_member(&self, id: &str, member: &Member, target: &Partitions) -> DescribedMember {
        DescribedMember::default()
            .with_member_id(text(id))
            .with_instance_id(member.instance_id.clone().map(text))
            .with_rack_id(member.rack_id.clone().map(text))
            .with_member_epoch(member.epoch)
            .with_client_id(text(member.client_id.as_str()))
            .with_client_host(text(member.client_host.as_str()))
            .with_subscribed_topic_names(member.topics.iter().map(|name| topic_name(name)).collect())
            .with_subscribed_topic_regex(member.regex.clone().map(text))
            .with_assignment(self.described_partitions(&member.assigned))
            .with_target_assignment(self.described_partitions(target))
    }

    fn described_partitions(&self, partitions: &Partitions) -> DescribedAssignment {
        let topics = partitions.iter().filter_map(|(id, indexes)| {
            let topic = self.topic_by_id(*id)?;
            Some(
                DescribedPartitions::default()
                    .with_topic_id(Uuid::from_bytes(*id))
                    .with_topic_name(topic_name(&topic.meta.name))
                    .with_partitions(indexes.iter().copied().collect()),
            )
        });
        DescribedAssignment::default().with_topic_partitions(topics.collect())
    }
}

fn heartbeat(peer: &Peer, client_id: String, request: ConsumerGroupHeartbeatRequest) -> ConsumerHeartbeat {
    let owned = request.topic_partitions.map(|topics| {
        topics
            .into_iter()
            .map(|topic| {
                let indexes: BTreeSet<i32> = topic.partitions.into_iter().collect();
                (topic.topic_id.into_bytes(), indexes)
            })
            .collect()
    });
    ConsumerHeartbeat {
        group: request.group_id.to_string(),
        member_id: request.member_id.to_string(),
        member_epoch: request.member_epoch,
        instance_id: request.instance_id.map(|value| value.to_string()),
        rack_id: request.rack_id.map(|value| value.to_string()),
        rebalance_timeout_ms: u64::try_from(request.rebalance_timeout_ms).ok(),
        topics: request
            .subscribed_topic_names
            .map(|names| names.into_iter().map(|name| name.to_string()).collect()),
        regex: request.subscribed_topic_regex.map(|value| value.to_string()),
        assignor: request.server_assignor.map(|value| value.to_string()),
        owned,
        client_id,
        client_host: format!("/{}", peer.remote.ip()),
    }
}
