//! Requests about share groups and their members (KIP-932): ShareGroupHeartbeat, ShareGroupDescribe; deadlines.

use std::sync::{Arc, PoisonError};

use herdsman_wire::Peer;
use herdsman_wire::kafka_protocol::ResponseError;
use herdsman_wire::kafka_protocol::messages::share_group_describe_response::{
    Assignment as DescribedAssignment, DescribedGroup, Member as DescribedMember,
    TopicPartitions as DescribedPartitions,
};
use herdsman_wire::kafka_protocol::messages::share_group_heartbeat_response::{Assignment, TopicPartitions};
use herdsman_wire::kafka_protocol::messages::{
    GroupId, ShareGroupDescribeRequest, ShareGroupDescribeResponse, ShareGroupHeartbeatRequest,
    ShareGroupHeartbeatResponse,
};
use herdsman_wire::kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::group::GroupError;
use crate::group::consumer::{JOIN, LEAVE, Partitions};
use crate::metadata::topic_name;
use crate::share::group::{ShareHeartbeat, ShareMember};
use crate::share::{ShareGroup, ShareKey};
use crate::topic::lock;
use crate::{Broker, BrokerError};

/// Name of the only assignor.
const ASSIGNOR: &str = "simple";

fn text(value: impl Into<String>) -> StrBytes {
    StrBytes::from_string(value.into())
}

impl Broker {
    pub(crate) fn on_share_heartbeat(
        &self,
        peer: &Peer,
        client: String,
        request: ShareGroupHeartbeatRequest,
    ) -> ShareGroupHeartbeatResponse {
        let member_id = request.member_id.clone();
        match self.share_heartbeat(peer, client, request) {
            Ok((epoch, assignment, interval_ms)) => {
                let assignment = assignment.map(|partitions| {
                    let topics = partitions.into_iter().map(|(topic, indexes)| {
                        TopicPartitions::default()
                            .with_topic_id(Uuid::from_bytes(topic))
                            .with_partitions(indexes.into_iter().collect())
                    });
                    Assignment::default().with_topic_partitions(topics.collect())
                });
                ShareGroupHeartbeatResponse::default()
                    .with_member_id(Some(member_id))
                    .with_member_epoch(epoch)
                    .with_heartbeat_interval_ms(interval_ms)
                    .with_assignment(assignment)
            }
            Err(error) => ShareGroupHeartbeatResponse::default()
                .with_error_code(BrokerError::Group(error).code())
                .with_error_message(Some(text(error.to_string()))),
        }
    }

    fn share_heartbeat(
        &self,
        peer: &Peer,
        client_id: String,
        request: ShareGroupHeartbeatRequest,
    ) -> Result<(i32, Option<Partitions>, i32), GroupError> {
        let (name, member) = (request.group_id.to_string(), request.member_id.to_string());
        if name.trim().is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        let leaves = request.member_epoch == LEAVE;
        if request.member_epoch == JOIN {
            self.leave_to_shares(&name)?;
        }
        let mut shares = lock(&self.shares);
        let settings = shares.settings(&name);
        let beat = ShareHeartbeat {
            member_id: member.clone(),
            member_epoch: request.member_epoch,
            rack_id: request.rack_id.map(|value| value.to_string()),
            topics: request
                .subscribed_topic_names
                .map(|names| names.into_iter().map(|name| name.to_string()).collect()),
            client_id,
            client_host: format!("/{}", peer.remote.ip()),
            deadline_ms: self.steady_ms() + settings.session_timeout_ms,
            members_max: shares.config.max_size,
        };
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let is_new = !shares.groups.contains_key(&name);
        let group = shares.groups.entry(name.clone()).or_default();
        let answer = group.on_heartbeat(beat, &*topics);
        if is_new && group.members.is_empty() {
            shares.groups.remove(&name);
        }
        drop((shares, topics));
        let (epoch, assignment) = answer?;
        if leaves {
            self.release_shares(&name, &member);
        }
        Ok((epoch, assignment, settings.heartbeat_interval_ms))
    }

    /// A name moves over to the share groups once nobody uses another protocol under it.
    fn leave_to_shares(&self, group: &str) -> Result<(), GroupError> {
        if !lock(&self.consumer_groups).remove_empty(group) {
            return Err(GroupError::OtherProtocol);
        }
        match lock(&self.groups).delete(group) {
            Ok(()) | Err(GroupError::NotFound) => Ok(()),
            Err(_) => Err(GroupError::OtherProtocol),
        }
    }

    /// Whether members of a share group use this name.
    pub(crate) fn is_shared(&self, group: &str) -> bool {
        lock(&self.shares).has_members(group)
    }

    /// Ends a member's session and gives back what it holds.
    fn release_shares(&self, group: &str, member: &str) {
        lock(&self.shares).sessions.remove(&(group.to_owned(), member.to_owned()));
        self.give_back(group, member);
    }

    /// Gives back what a member holds.
    pub(crate) fn give_back(&self, group: &str, member: &str) {
        let partitions: Vec<_> =
            lock(&self.shares).of_group(group).map(|(_, partition)| Arc::clone(partition)).collect();
        let mut released = false;
        for partition in partitions {
            released |= lock(&partition).release(member);
        }
        if released {
            self.shares_changed.send_modify(|count| *count += 1);
        }
    }

    /// Acts on deadlines of share groups that have passed: silent members, acquisition locks; writes down what that decided.
    pub(crate) fn tick_shares(&self) {
        let now_ms = self.steady_ms();
        let mut silent = Vec::new();
        let mut partitions = Vec::new();
        {
            let mut shares = lock(&self.shares);
            for (name, group) in &mut shares.groups {
                silent.extend(group.on_tick(now_ms).into_iter().map(|member| (name.clone(), member)));
            }
            for (key, partition) in &shares.partitions {
                partitions.push((key.clone(), Arc::clone(partition), shares.settings(&key.group)));
            }
        }
        for (group, member) in silent {
            self.release_shares(&group, &member);
        }
        let mut released = false;
        for (key, partition, settings) in partitions {
            let mut partition = lock(&partition);
            released |= partition.expire(&settings, now_ms);
            if partition.is_dirty
                && let Err(error) = self.write_share(&key, &mut partition)
            {
                tracing::warn!(group = key.group, %error, "share state not written, tried again");
            }
        }
        if released {
            self.shares_changed.send_modify(|count| *count += 1);
        }
    }

    pub(crate) fn on_share_describe(&self, request: ShareGroupDescribeRequest) -> ShareGroupDescribeResponse {
        let shares = lock(&self.shares);
        let none = ShareGroup::default();
        let groups = request.group_ids.into_iter().map(|id| match shares.groups.get(id.as_str()) {
            Some(group) => self.described_share_group(id, group),
            None if shares.has_group(&id) => self.described_share_group(id, &none),
            None => DescribedGroup::default()
                .with_error_code(ResponseError::GroupIdNotFound.code())
                .with_error_message(Some(text(format!("group {} is no share group", id.as_str()))))
                .with_group_id(id),
        });
        let groups = groups.collect();
        ShareGroupDescribeResponse::default().with_groups(groups)
    }

    fn described_share_group(&self, id: GroupId, group: &ShareGroup) -> DescribedGroup {
        let members = group.members.iter().map(|(id, member)| self.described_share_member(id, member));
        DescribedGroup::default()
            .with_group_id(id)
            .with_group_state(text(group.state()))
            .with_group_epoch(group.epoch)
            .with_assignment_epoch(group.epoch)
            .with_assignor_name(text(ASSIGNOR))
            .with_members(members.collect())
    }

    fn described_share_member(&self, id: &str, member: &ShareMember) -> DescribedMember {
        let topics = member.assigned.iter().filter_map(|(topic, indexes)| {
            let name = self.topic_by_id(*topic)?.meta.name.to_string();
            Some(
                DescribedPartitions::default()
                    .with_topic_id(Uuid::from_bytes(*topic))
                    .with_topic_name(topic_name(&name))
                    .with_partitions(indexes.iter().copied().collect()),
            )
        });
        DescribedMember::default()
            .with_member_id(text(id))
            .with_rack_id(member.rack_id.clone().map(text))
            .with_member_epoch(member.epoch)
            .with_client_id(text(member.client_id.as_str()))
            .with_client_host(text(member.client_host.as_str()))
            .with_subscribed_topic_names(member.topics.iter().map(|name| topic_name(name)).collect())
            .with_assignment(DescribedAssignment::default().with_topic_partitions(topics.collect()))
    }

    /// Deletes a share group without members, its state and its configs. False: there is no such group.
    pub(crate) fn delete_share_group(&self, group: &str) -> Result<bool, BrokerError> {
        let keys: Vec<ShareKey> = {
            let mut shares = lock(&self.shares);
            if shares.has_members(group) {
                return Err(GroupError::NotEmpty.into());
            }
            if !shares.has_group(group) {
                return Ok(false);
            }
            shares.groups.remove(group);
            shares.of_group(group).map(|(key, _)| key.clone()).collect()
        };
        self.forget_shares(&keys)?;
        Ok(true)
    }
}
