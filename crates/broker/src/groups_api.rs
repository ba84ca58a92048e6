//! Group requests between wire and coordinator: waiting joins and syncs, deadlines, descriptions.

use herdsman_wire::kafka_protocol::ResponseError;
use herdsman_wire::kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use herdsman_wire::kafka_protocol::messages::describe_groups_response::{
    DescribedGroup, DescribedGroupMember,
};
use herdsman_wire::kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use herdsman_wire::kafka_protocol::messages::leave_group_response::MemberResponse;
use herdsman_wire::kafka_protocol::messages::list_groups_response::ListedGroup;
use herdsman_wire::kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, GroupId,
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse, SyncGroupRequest, SyncGroupResponse,
};
use herdsman_wire::kafka_protocol::protocol::StrBytes;
use herdsman_wire::{Peer, Reply};
use tokio::sync::oneshot;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use crate::group::{
    Effect, GroupError, JoinAnswer, JoinRequest, LeaveIdentity, MemberDescription, SyncAnswer, SyncRequest,
};
use crate::topic::lock;
use crate::{Broker, BrokerError};

/// Types of groups, as ListGroups prints them.
const CLASSIC: &str = "classic";
const CONSUMER: &str = "consumer";
const SHARE: &str = "share";

/// Where an answer that comes later is to go.
pub(crate) enum Waiting {
    Join(oneshot::Sender<JoinAnswer>),
    Sync(oneshot::Sender<SyncAnswer>),
}

fn text(value: impl Into<String>) -> StrBytes {
    StrBytes::from_string(value.into())
}

fn code(error: GroupError) -> i16 {
    BrokerError::Group(error).code()
}

fn owned(value: Option<&StrBytes>) -> Option<String> {
    value.map(|value| value.to_string())
}

impl Broker {
    /// The steady clock of group deadlines, ms.
    pub(crate) fn steady_ms(&self) -> u64 {
        self.clock.monotonic_ns() / 1_000_000
    }

    /// Acts on group deadlines that have passed.
    pub(crate) fn tick_groups(&self) {
        let mut effects = Vec::new();
        lock(&self.groups).on_tick(self.steady_ms(), &mut effects);
        self.perform(effects);
    }

    fn perform(&self, effects: Vec<Effect>) {
        if effects.is_empty() {
            return;
        }
        let mut waiting = lock(&self.waiting);
        for effect in effects {
            // a client that has gone does not take its answer; its session time-out removes it
            match effect {
                Effect::Join(ticket, answer) => {
                    if let Some(Waiting::Join(sender)) = waiting.remove(&ticket) {
                        let _ = sender.send(answer);
                    }
                }
                Effect::Sync(ticket, answer) => {
                    if let Some(Waiting::Sync(sender)) = waiting.remove(&ticket) {
                        let _ = sender.send(answer);
                    }
                }
            }
        }
    }

    pub(crate) async fn on_join_group(
        &self,
        peer: &Peer,
        client: String,
        request: JoinGroupRequest,
        version: i16,
    ) -> Reply {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let session_timeout_ms = u64::try_from(request.session_timeout_ms).unwrap_or(0);
        // a number from the clock keeps ids of one run apart from those of the next
        let named = request.group_instance_id.as_ref().map_or(client.as_str(), |name| name.as_str());
        let fresh_member_id = format!("{named}-{:x}-{ticket:x}", self.clock.now_ms());
        let join = JoinRequest {
            group: request.group_id.to_string(),
            member_id: request.member_id.to_string(),
            fresh_member_id,
            instance_id: owned(request.group_instance_id.as_ref()),
            id_required: version >= 4,
            client_id: client,
            client_host: format!("/{}", peer.remote.ip()),
            session_timeout_ms,
            rebalance_timeout_ms: match u64::try_from(request.rebalance_timeout_ms) {
                Ok(ms) if version >= 1 => ms,
                _ => session_timeout_ms,
            },
            protocol_type: request.protocol_type.to_string(),
            protocols: request
                .protocols
                .into_iter()
                .map(|protocol| (protocol.name.to_string(), protocol.metadata))
                .collect(),
        };
        // a group moves over once nobody uses the consumer protocol in it
        if self.is_shared(&join.group) || !lock(&self.consumer_groups).remove_empty(&join.group) {
            let refused = JoinAnswer::refused(GroupError::InconsistentProtocol, &join.member_id);
            return Reply::message(join_response(refused, version));
        }
        let (sender, receiver) = oneshot::channel();
        lock(&self.waiting).insert(ticket, Waiting::Join(sender));
        let mut effects = Vec::new();
        lock(&self.groups).on_join(join, ticket, self.steady_ms(), &mut effects);
        self.perform(effects);
        match receiver.await {
            Ok(answer) => Reply::message(join_response(answer, version)),
            Err(_) => Reply::Close,
        }
    }

    pub(crate) async fn on_sync_group(&self, request: SyncGroupRequest, version: i16) -> Reply {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let sync = SyncRequest {
            group: request.group_id.to_string(),
            member_id: request.member_id.to_string(),
            instance_id: owned(request.group_instance_id.as_ref()),
            generation: request.generation_id,
            protocol_type: owned(request.protocol_type.as_ref()),
            protocol: owned(request.protocol_name.as_ref()),
            assignments: request
                .assignments
                .into_iter()
                .map(|assignment| (assignment.member_id.to_string(), assignment.assignment))
                .collect(),
        };
        let (sender, receiver) = oneshot::channel();
        lock(&self.waiting).insert(ticket, Waiting::Sync(sender));
        let mut effects = Vec::new();
        lock(&self.groups).on_sync(sync, ticket, self.steady_ms(), &mut effects);
        self.perform(effects);
        let Ok(answer) = receiver.await else { return Reply::Close };
        let response = SyncGroupResponse::default()
            .with_error_code(answer.error.map_or(0, code))
            .with_assignment(answer.assignment);
        Reply::message(if version >= 5 {
            response
                .with_protocol_type(answer.protocol_type.map(text))
                .with_protocol_name(answer.protocol.map(text))
        } else {
            response
        })
    }

    pub(crate) fn on_heartbeat(&self, request: HeartbeatRequest) -> HeartbeatResponse {
        let result = lock(&self.groups).on_heartbeat(
            &request.group_id,
            &request.member_id,
            request.group_instance_id.as_deref(),
            request.generation_id,
            self.steady_ms(),
        );
        HeartbeatResponse::default().with_error_code(result.err().map_or(0, code))
    }

    pub(crate) fn on_leave_group(&self, request: LeaveGroupRequest, version: i16) -> LeaveGroupResponse {
        let identities = if version < 3 {
            vec![LeaveIdentity { member_id: request.member_id.to_string(), instance_id: None }]
        } else {
            request
                .members
                .iter()
                .map(|member| LeaveIdentity {
                    member_id: member.member_id.to_string(),
                    instance_id: owned(member.group_instance_id.as_ref()),
                })
                .collect()
        };
        let mut effects = Vec::new();
        let mut members = Vec::new();
        let mut first_error = 0;
        {
            let mut groups = lock(&self.groups);
            for identity in identities {
                let result = groups.on_leave(&request.group_id, &identity, self.steady_ms(), &mut effects);
                let error = result.err().map_or(0, code);
                first_error = if first_error == 0 { error } else { first_error };
                members.push(
                    MemberResponse::default()
                        .with_member_id(text(identity.member_id))
                        .with_group_instance_id(identity.instance_id.map(text))
                        .with_error_code(error),
                );
            }
        }
        self.perform(effects);
        let response = LeaveGroupResponse::default();
        if version < 3 { response.with_error_code(first_error) } else { response.with_members(members) }
    }

    pub(crate) fn on_list_groups(&self, request: ListGroupsRequest, version: i16) -> ListGroupsResponse {
        let mut listed: BTreeMap<String, (String, &'static str, &'static str)> = lock(&self.groups)
            .list()
            .into_iter()
            .map(|group| (group.group, (group.protocol_type, group.state.name(), CLASSIC)))
            .collect();
        for (group, found) in lock(&self.consumer_groups).iter() {
            listed.insert(group.clone(), (CONSUMER.to_owned(), found.state(), CONSUMER));
        }
        {
            let shares = lock(&self.shares);
            for group in shares.names() {
                let state = shares.groups.get(&group).map_or("Empty", |group| group.state());
                listed.insert(group, (SHARE.to_owned(), state, SHARE));
            }
        }
        for group in lock(&self.offsets).groups() {
            listed.entry(group).or_insert_with(|| (String::new(), "Empty", CLASSIC));
        }
        let wanted = |filter: &[StrBytes], value: &str| {
            filter.is_empty() || filter.iter().any(|asked| asked.eq_ignore_ascii_case(value))
        };
        let groups = listed
            .into_iter()
            .filter(|(_, (_, state, _))| wanted(&request.states_filter, state))
            .filter(|(_, (_, _, kind))| wanted(&request.types_filter, kind))
            .map(|(group, (protocol_type, state, kind))| {
                let listed = ListedGroup::default()
                    .with_group_id(GroupId(text(group)))
                    .with_protocol_type(text(protocol_type));
                let listed = if version >= 4 { listed.with_group_state(text(state)) } else { listed };
                if version >= 5 { listed.with_group_type(text(kind)) } else { listed }
            })
            .collect();
        ListGroupsResponse::default().with_groups(groups)
    }

    pub(crate) fn on_describe_groups(
        &self,
        request: DescribeGroupsRequest,
        version: i16,
    ) -> DescribeGroupsResponse {
        let groups = request.groups.into_iter().map(|id| self.described(id, version)).collect();
        DescribeGroupsResponse::default().with_groups(groups)
    }

    fn described(&self, id: GroupId, version: i16) -> DescribedGroup {
        let Some(group) = lock(&self.groups).describe(&id) else {
            let other = lock(&self.consumer_groups).get(&id).is_some();
            let known = !other && lock(&self.offsets).has_group(&id);
            let described = DescribedGroup::default().with_group_id(id);
            return match (known, version >= 6) {
                (true, _) => described.with_group_state(text("Empty")),
                (false, false) => described.with_group_state(text("Dead")),
                (false, true) => described
                    .with_group_state(text("Dead"))
                    .with_error_code(ResponseError::GroupIdNotFound.code())
                    .with_error_message(Some(text("no such group"))),
            };
        };
        let members = group
            .members
            .into_iter()
            .map(|member: MemberDescription| {
                let described = DescribedGroupMember::default()
                    .with_member_id(text(member.member_id))
                    .with_client_id(text(member.client_id))
                    .with_client_host(text(member.client_host))
                    .with_member_metadata(member.metadata)
                    .with_member_assignment(member.assignment);
                if version >= 4 {
                    described.with_group_instance_id(member.instance_id.map(text))
                } else {
                    described
                }
            })
            .collect();
        DescribedGroup::default()
            .with_group_id(id)
            .with_group_state(text(group.state.name()))
            .with_protocol_type(text(group.protocol_type))
            .with_protocol_data(text(group.protocol))
            .with_members(members)
    }

    pub(crate) fn on_delete_groups(&self, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
        let results = request
            .groups_names
            .into_iter()
            .map(|group| {
                let error = self.delete_group(&group).err().map_or(0, |error| error.code());
                DeletableGroupResult::default().with_group_id(group).with_error_code(error)
            })
            .collect();
        DeleteGroupsResponse::default().with_results(results)
    }

    /// Deletes a group without members, and its offsets.
    pub fn delete_group(&self, group: &str) -> Result<(), BrokerError> {
        let mut known = self.delete_share_group(group)?;
        known |= lock(&self.offsets).has_group(group);
        let mut consumer_groups = lock(&self.consumer_groups);
        known |= consumer_groups.get(group).is_some();
        if !consumer_groups.remove_empty(group) {
            return Err(GroupError::NotEmpty.into());
        }
        drop(consumer_groups);
        match lock(&self.groups).delete(group) {
            Ok(()) => {}
            Err(GroupError::NotFound) if known => {}
            Err(error) => return Err(error.into()),
        }
        let gone: Vec<_> = lock(&self.offsets).all(group).into_iter().map(|(at, _)| (at, None)).collect();
        self.write_offsets(group, &gone)
    }
}

fn join_response(answer: JoinAnswer, version: i16) -> JoinGroupResponse {
    let members = answer
        .members
        .into_iter()
        .map(|(id, instance, metadata)| {
            let member = JoinGroupResponseMember::default().with_member_id(text(id)).with_metadata(metadata);
            if version >= 5 { member.with_group_instance_id(instance.map(text)) } else { member }
        })
        .collect();
    // before version 7 the protocol name may not be null
    let protocol = match answer.protocol {
        None if version < 7 => Some(String::new()),
        protocol => protocol,
    };
    let response = JoinGroupResponse::default()
        .with_error_code(answer.error.map_or(0, code))
        .with_generation_id(answer.generation)
        .with_protocol_name(protocol.map(text))
        .with_leader(text(answer.leader))
        .with_member_id(text(answer.member_id))
        .with_members(members);
    let response =
        if version >= 7 { response.with_protocol_type(answer.protocol_type.map(text)) } else { response };
    if version >= 9 { response.with_skip_assignment(answer.skip_assignment) } else { response }
}
