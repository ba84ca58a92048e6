//! The classic group protocol: join, sync, heartbeat, leave, static members, rebalance, time-outs.
//!
//! ```text
//!           join            all joined, or deadline        leader's sync
//! Empty ───────────► PreparingRebalance ───────► CompletingRebalance ───────► Stable
//!   ▲                    ▲      join, leave, death at any later state ◄──────────┘
//!   └── last member gone ┘
//! ```
//! Times are milliseconds of any steady clock. Source: KIP-62, KIP-345 (static members), KIP-394 (member ids).

use std::collections::BTreeMap;

use bytes::Bytes;

use super::GroupError;
use super::group_state::{Group, State};

/// Limits of groups, named as Kafka names them.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// `group.min.session.timeout.ms`.
    pub min_session_timeout_ms: u64,
    /// `group.max.session.timeout.ms`.
    pub max_session_timeout_ms: u64,
    /// `group.initial.rebalance.delay.ms`: Kafka waits 3 s; 200 ms gathers the members of one deployment as well.
    pub initial_rebalance_delay_ms: u64,
    /// `group.max.size`.
    pub max_size: usize,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            min_session_timeout_ms: 1_000,
            max_session_timeout_ms: 1_800_000,
            initial_rebalance_delay_ms: 200,
            max_size: 10_000,
        }
    }
}

/// A member's wish to join.
#[derive(Debug, Clone)]
pub struct JoinRequest {
    /// Group.
    pub group: String,
    /// Member id, empty for a new member.
    pub member_id: String,
    /// Member id to give a new member.
    pub fresh_member_id: String,
    /// Static name.
    pub instance_id: Option<String>,
    /// Whether a new member must come back with its id first (version 4 on).
    pub id_required: bool,
    /// Client's own name.
    pub client_id: String,
    /// Client's address.
    pub client_host: String,
    /// Session time-out.
    pub session_timeout_ms: u64,
    /// Time it may take to rejoin.
    pub rebalance_timeout_ms: u64,
    /// `consumer`, `connect` …
    pub protocol_type: String,
    /// Protocol names and metadata, preferred first.
    pub protocols: Vec<(String, Bytes)>,
}

/// What a join is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinAnswer {
    /// Refusal, if any.
    pub error: Option<GroupError>,
    /// Generation, −1 on refusal.
    pub generation: i32,
    /// Protocol type.
    pub protocol_type: Option<String>,
    /// Protocol chosen.
    pub protocol: Option<String>,
    /// Member id of the leader.
    pub leader: String,
    /// Member id of the receiver.
    pub member_id: String,
    /// Everyone, for the leader: id, static name, metadata.
    pub members: Vec<(String, Option<String>, Bytes)>,
    /// Whether the leader keeps the old assignment (a static leader that came back).
    pub skip_assignment: bool,
}

/// A member's wish for its assignment; the leader brings everyone's.
#[derive(Debug, Clone, Default)]
pub struct SyncRequest {
    /// Group.
    pub group: String,
    /// Member id.
    pub member_id: String,
    /// Static name.
    pub instance_id: Option<String>,
    /// Generation.
    pub generation: i32,
    /// Protocol type the member believes in.
    pub protocol_type: Option<String>,
    /// Protocol the member believes in.
    pub protocol: Option<String>,
    /// The leader's assignments.
    pub assignments: Vec<(String, Bytes)>,
}

/// What a sync is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncAnswer {
    /// Refusal, if any.
    pub error: Option<GroupError>,
    /// Protocol type.
    pub protocol_type: Option<String>,
    /// Protocol.
    pub protocol: Option<String>,
    /// The member's assignment.
    pub assignment: Bytes,
}

/// What the broker must do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Answer the join that waits under this ticket.
    Join(u64, JoinAnswer),
    /// Answer the sync that waits under this ticket.
    Sync(u64, SyncAnswer),
}

/// Who leaves: member id, or static name alone.
#[derive(Debug, Clone)]
pub struct LeaveIdentity {
    /// Member id, empty if only the static name is known.
    pub member_id: String,
    /// Static name.
    pub instance_id: Option<String>,
}

/// A member as DescribeGroups shows it.
#[derive(Debug, Clone)]
pub struct MemberDescription {
    /// Member id.
    pub member_id: String,
    /// Static name.
    pub instance_id: Option<String>,
    /// Client's own name.
    pub client_id: String,
    /// Client's address.
    pub client_host: String,
    /// Metadata for the chosen protocol.
    pub metadata: Bytes,
    /// Assignment.
    pub assignment: Bytes,
}

/// A group as ListGroups and DescribeGroups show it.
#[derive(Debug, Clone)]
pub struct GroupDescription {
    /// Group.
    pub group: String,
    /// State.
    pub state: State,
    /// Protocol type, empty if none.
    pub protocol_type: String,
    /// Protocol, empty if none.
    pub protocol: String,
    /// Members.
    pub members: Vec<MemberDescription>,
}

/// All groups of this broker.
#[derive(Debug, Default)]
pub struct Coordinator {
    config: GroupConfig,
    groups: BTreeMap<String, Group>,
}

impl JoinAnswer {
    pub(crate) fn refused(error: GroupError, member_id: &str) -> Self {
        Self {
            error: Some(error),
            generation: -1,
            protocol_type: None,
            protocol: None,
            leader: String::new(),
            member_id: member_id.to_owned(),
            members: Vec::new(),
            skip_assignment: false,
        }
    }
}

impl SyncAnswer {
    pub(super) fn refused(error: GroupError) -> Self {
        Self { error: Some(error), protocol_type: None, protocol: None, assignment: Bytes::new() }
    }
}

impl Coordinator {
    /// No groups yet.
    #[must_use]
    pub fn new(config: GroupConfig) -> Self {
        Self { config, groups: BTreeMap::new() }
    }

    /// A member joins; the answer comes as an effect under `ticket`, now or when the rebalance completes.
    pub fn on_join(&mut self, request: JoinRequest, ticket: u64, now_ms: u64, effects: &mut Vec<Effect>) {
        if let Err((error, member_id)) = self.join(request, ticket, now_ms, effects) {
            effects.push(Effect::Join(ticket, JoinAnswer::refused(error, &member_id)));
        }
    }

    fn join(
        &mut self,
        request: JoinRequest,
        ticket: u64,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<(), (GroupError, String)> {
        let given = request.member_id.clone();
        let refuse = |error| Err((error, given.clone()));
        if request.group.is_empty() {
            return refuse(GroupError::InvalidGroupId);
        }
        let allowed = self.config.min_session_timeout_ms..=self.config.max_session_timeout_ms;
        if !allowed.contains(&request.session_timeout_ms) {
            return refuse(GroupError::InvalidSessionTimeout);
        }
        if !request.member_id.is_empty() && !self.groups.contains_key(&request.group) {
            return refuse(GroupError::UnknownMember);
        }
        let config = self.config.clone();
        let group = self.groups.entry(request.group.clone()).or_default();
        let known = group.members.contains_key(&request.member_id);
        if !known && group.members.len() + group.pending.len() >= config.max_size {
            return refuse(GroupError::GroupFull);
        }
        let replaced = request.instance_id.as_ref().and_then(|name| group.static_members.get(name)).cloned();
        let except = if known { Some(request.member_id.as_str()) } else { replaced.as_deref() };
        if !group.accepts(&request.protocol_type, &request.protocols, except) {
            return refuse(GroupError::InconsistentProtocol);
        }
        if request.member_id.is_empty() {
            return match replaced {
                Some(old) => {
                    group.replace_static(&old, request, ticket, now_ms, effects);
                    Ok(())
                }
                None => group.join_new(request, ticket, now_ms, &config, effects),
            };
        }
        if replaced.is_some_and(|current| current != request.member_id) {
            return refuse(GroupError::FencedInstance);
        }
        if group.pending.remove(&request.member_id).is_some() {
            let id = request.member_id.clone();
            group.add(id, request, ticket, now_ms);
            group.prepare_rebalance(now_ms, &config, effects);
            return Ok(());
        }
        if !known {
            return refuse(GroupError::UnknownMember);
        }
        group.rejoin(request, ticket, now_ms, &config, effects);
        Ok(())
    }

    /// A member asks for its assignment; the answer comes as an effect under `ticket`.
    pub fn on_sync(&mut self, request: SyncRequest, ticket: u64, now_ms: u64, effects: &mut Vec<Effect>) {
        let refused = |error| Effect::Sync(ticket, SyncAnswer::refused(error));
        let checked = self.member(
            &request.group,
            &request.member_id,
            request.instance_id.as_deref(),
            Some(request.generation),
        );
        let group = match checked {
            Ok(group) => group,
            Err(error) => return effects.push(refused(error)),
        };
        let differs = |asked: &Option<String>, has: &Option<String>| asked.is_some() && asked != has;
        if differs(&request.protocol_type, &group.protocol_type)
            || differs(&request.protocol, &group.protocol)
        {
            return effects.push(refused(GroupError::InconsistentProtocol));
        }
        group.touch(&request.member_id, now_ms);
        match group.state {
            State::Empty => effects.push(refused(GroupError::UnknownMember)),
            State::PreparingRebalance => effects.push(refused(GroupError::RebalanceInProgress)),
            State::Stable => {
                let answer = group.sync_answer(&request.member_id);
                effects.push(Effect::Sync(ticket, answer));
            }
            State::CompletingRebalance => {
                if let Some(member) = group.members.get_mut(&request.member_id) {
                    member.awaiting_sync = Some(ticket);
                    member.synced = true;
                }
                if group.leader.as_deref() == Some(request.member_id.as_str()) {
                    group.finish_sync(request.assignments, now_ms, effects);
                }
            }
        }
    }

    /// A member says it lives.
    pub fn on_heartbeat(
        &mut self,
        group: &str,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
        now_ms: u64,
    ) -> Result<(), GroupError> {
        let group = self.member(group, member_id, instance_id, Some(generation))?;
        group.touch(member_id, now_ms);
        match group.state {
            State::Empty => Err(GroupError::UnknownMember),
            State::PreparingRebalance => Err(GroupError::RebalanceInProgress),
            State::CompletingRebalance | State::Stable => Ok(()),
        }
    }

    /// A member leaves, or is sent away by an administrator through its static name. Returns its member id.
    pub fn on_leave(
        &mut self,
        group_id: &str,
        identity: &LeaveIdentity,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<String, GroupError> {
        let config = self.config.clone();
        let group = self.groups.get_mut(group_id).ok_or(GroupError::UnknownMember)?;
        let named = identity.instance_id.as_ref().and_then(|name| group.static_members.get(name)).cloned();
        let member_id = match (named, identity.instance_id.is_some()) {
            (None, true) => return Err(GroupError::UnknownMember),
            (Some(current), true) if identity.member_id.is_empty() || identity.member_id == current => {
                current
            }
            (Some(_), true) => return Err(GroupError::FencedInstance),
            (_, false) => identity.member_id.clone(),
        };
        if group.pending.remove(&member_id).is_some() {
            group.try_complete_join(now_ms, effects);
            return Ok(member_id);
        }
        group.drop_member(&member_id, now_ms, &config, effects).ok_or(GroupError::UnknownMember)?;
        Ok(member_id)
    }

    /// Whether this commit may be written. A commit without a member (generation −1) belongs to a group without members.
    pub fn check_commit(
        &mut self,
        group_id: &str,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
        now_ms: u64,
    ) -> Result<(), GroupError> {
        if group_id.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        let has_members = self.groups.get(group_id).is_some_and(|group| !group.members.is_empty());
        if generation < 0 && member_id.is_empty() {
            return if has_members { Err(GroupError::UnknownMember) } else { Ok(()) };
        }
        if !self.groups.contains_key(group_id) {
            return Err(GroupError::IllegalGeneration);
        }
        let group = self.member(group_id, member_id, instance_id, Some(generation))?;
        group.touch(member_id, now_ms);
        if group.state == State::CompletingRebalance { Err(GroupError::RebalanceInProgress) } else { Ok(()) }
    }

    /// Whether a commit inside a transaction may be written. Producers of before KIP-447 do not name their member.
    pub fn check_transactional_commit(
        &mut self,
        group_id: &str,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
        now_ms: u64,
    ) -> Result<(), GroupError> {
        if generation < 0 && member_id.is_empty() && instance_id.is_none() && !group_id.is_empty() {
            return Ok(());
        }
        self.check_commit(group_id, member_id, instance_id, generation, now_ms)
    }

    /// Forgets an empty group. Errors: it has members, or does not exist here.
    pub fn delete(&mut self, group_id: &str) -> Result<(), GroupError> {
        match self.groups.get(group_id) {
            None => Err(GroupError::NotFound),
            Some(group) if group.members.is_empty() => {
                self.groups.remove(group_id);
                Ok(())
            }
            Some(_) => Err(GroupError::NotEmpty),
        }
    }

    /// Acts on every deadline that has passed: dead members, unclaimed ids, rebalances that waited long enough.
    pub fn on_tick(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        let config = self.config.clone();
        for group in self.groups.values_mut() {
            group.tick(now_ms, &config, effects);
        }
    }

    /// Every group that has or had members.
    #[must_use]
    pub fn list(&self) -> Vec<GroupDescription> {
        self.groups.keys().filter_map(|group| self.describe(group)).collect()
    }

    /// One group; `None` if it never had a member.
    #[must_use]
    pub fn describe(&self, group_id: &str) -> Option<GroupDescription> {
        let group = self.groups.get(group_id)?;
        let protocol = group.protocol.clone().unwrap_or_default();
        let members = group
            .members
            .iter()
            .map(|(id, member)| MemberDescription {
                member_id: id.clone(),
                instance_id: member.instance_id.clone(),
                client_id: member.client_id.clone(),
                client_host: member.client_host.clone(),
                metadata: member.metadata_of(&protocol),
                assignment: member.assignment.clone(),
            })
            .collect();
        Some(GroupDescription {
            group: group_id.to_owned(),
            state: group.state,
            protocol_type: group.protocol_type.clone().unwrap_or_default(),
            protocol,
            members,
        })
    }

    fn member(
        &mut self,
        group_id: &str,
        member_id: &str,
        instance_id: Option<&str>,
        generation: Option<i32>,
    ) -> Result<&mut Group, GroupError> {
        let group = self.groups.get_mut(group_id).ok_or(GroupError::UnknownMember)?;
        if let Some(instance) = instance_id {
            match group.static_members.get(instance) {
                None => return Err(GroupError::UnknownMember),
                Some(current) if current != member_id => return Err(GroupError::FencedInstance),
                Some(_) => {}
            }
        }
        if !group.members.contains_key(member_id) {
            return Err(GroupError::UnknownMember);
        }
        if generation.is_some_and(|generation| generation != group.generation) {
            return Err(GroupError::IllegalGeneration);
        }
        Ok(group)
    }
}
