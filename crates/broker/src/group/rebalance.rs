//! How one group moves: members come, go, fall silent; generations begin and get their assignments.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::GroupError;
use super::coordinator::{Effect, GroupConfig, JoinAnswer, JoinRequest, SyncAnswer};
use super::group_state::{Group, Member, State};

impl Group {
    pub(super) fn touch(&mut self, member_id: &str, now_ms: u64) {
        if let Some(member) = self.members.get_mut(member_id) {
            member.deadline_ms = now_ms + member.session_timeout_ms;
        }
    }

    pub(super) fn add(&mut self, member_id: String, request: JoinRequest, ticket: u64, now_ms: u64) {
        if self.members.is_empty() || self.protocol_type.is_none() {
            self.protocol_type = Some(request.protocol_type);
        }
        if let Some(instance) = &request.instance_id {
            self.static_members.insert(instance.clone(), member_id.clone());
        }
        if self.leader.is_none() {
            self.leader = Some(member_id.clone());
        }
        let member = Member {
            instance_id: request.instance_id,
            client_id: request.client_id,
            client_host: request.client_host,
            session_timeout_ms: request.session_timeout_ms,
            rebalance_timeout_ms: request.rebalance_timeout_ms,
            protocols: request.protocols,
            assignment: Bytes::new(),
            awaiting_join: Some(ticket),
            awaiting_sync: None,
            synced: false,
            deadline_ms: now_ms + request.session_timeout_ms,
        };
        self.members.insert(member_id, member);
    }

    pub(super) fn join_new(
        &mut self,
        request: JoinRequest,
        ticket: u64,
        now_ms: u64,
        config: &GroupConfig,
        effects: &mut Vec<Effect>,
    ) -> Result<(), (GroupError, String)> {
        let fresh = request.fresh_member_id.clone();
        if request.id_required && request.instance_id.is_none() {
            self.pending.insert(fresh.clone(), now_ms + request.session_timeout_ms);
            return Err((GroupError::MemberIdRequired, fresh));
        }
        self.add(fresh, request, ticket, now_ms);
        self.prepare_rebalance(now_ms, config, effects);
        Ok(())
    }

    /// A static member came back under a new id: it takes the old one's place, without a rebalance if nothing changed.
    pub(super) fn replace_static(
        &mut self,
        old: &str,
        request: JoinRequest,
        ticket: u64,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) {
        let fresh = request.fresh_member_id.clone();
        let Some(mut member) = self.members.remove(old) else { return };
        if let Some(waiting) = member.awaiting_join.take() {
            effects.push(Effect::Join(waiting, JoinAnswer::refused(GroupError::FencedInstance, old)));
        }
        if let Some(waiting) = member.awaiting_sync.take() {
            effects.push(Effect::Sync(waiting, SyncAnswer::refused(GroupError::FencedInstance)));
        }
        let same = member.protocols == request.protocols;
        let was_leader = self.leader.as_deref() == Some(old);
        member.protocols = request.protocols;
        member.client_id = request.client_id;
        member.client_host = request.client_host;
        member.session_timeout_ms = request.session_timeout_ms;
        member.rebalance_timeout_ms = request.rebalance_timeout_ms;
        member.deadline_ms = now_ms + request.session_timeout_ms;
        if let Some(instance) = request.instance_id {
            self.static_members.insert(instance, fresh.clone());
        }
        if was_leader {
            self.leader = Some(fresh.clone());
        }
        if self.state == State::Stable && same {
            self.members.insert(fresh.clone(), member);
            let mut answer = self.join_answer(&fresh);
            answer.skip_assignment = was_leader;
            effects.push(Effect::Join(ticket, answer));
            return;
        }
        member.awaiting_join = Some(ticket);
        self.members.insert(fresh, member);
        self.begin_rebalance(now_ms, effects);
        self.try_complete_join(now_ms, effects);
    }

    pub(super) fn rejoin(
        &mut self,
        request: JoinRequest,
        ticket: u64,
        now_ms: u64,
        config: &GroupConfig,
        effects: &mut Vec<Effect>,
    ) {
        let is_leader = self.leader.as_deref() == Some(request.member_id.as_str());
        let id = request.member_id.clone();
        let Some(member) = self.members.get_mut(&id) else { return };
        let same = member.protocols == request.protocols;
        let answer_at_once = same
            && match self.state {
                State::CompletingRebalance => true,
                State::Stable => !is_leader,
                State::Empty | State::PreparingRebalance => false,
            };
        member.session_timeout_ms = request.session_timeout_ms;
        member.rebalance_timeout_ms = request.rebalance_timeout_ms;
        member.deadline_ms = now_ms + request.session_timeout_ms;
        if answer_at_once {
            let answer = self.join_answer(&id);
            effects.push(Effect::Join(ticket, answer));
            return;
        }
        member.protocols = request.protocols;
        if let Some(older) = member.awaiting_join.replace(ticket) {
            effects.push(Effect::Join(older, JoinAnswer::refused(GroupError::RebalanceInProgress, &id)));
        }
        self.prepare_rebalance(now_ms, config, effects);
    }

    /// Starts a rebalance unless one waits already, then completes it if nobody is missing.
    pub(super) fn prepare_rebalance(&mut self, now_ms: u64, config: &GroupConfig, effects: &mut Vec<Effect>) {
        if self.state == State::Empty {
            self.hold_until_ms = Some(now_ms + config.initial_rebalance_delay_ms);
        }
        self.begin_rebalance(now_ms, effects);
        self.try_complete_join(now_ms, effects);
    }

    pub(super) fn begin_rebalance(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        if self.state == State::PreparingRebalance {
            return;
        }
        for member in self.members.values_mut() {
            if let Some(ticket) = member.awaiting_sync.take() {
                effects.push(Effect::Sync(ticket, SyncAnswer::refused(GroupError::RebalanceInProgress)));
            }
        }
        self.state = State::PreparingRebalance;
        self.phase_deadline_ms = now_ms.saturating_add(self.longest_rebalance_ms());
    }

    pub(super) fn try_complete_join(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        let held = self.hold_until_ms.is_some_and(|until| now_ms < until);
        if self.state == State::PreparingRebalance && !held && self.all_joined() {
            self.complete_join(now_ms, effects);
        }
    }

    /// Everyone who is coming has come: a new generation begins.
    pub(super) fn complete_join(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        self.hold_until_ms = None;
        let missing: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| member.awaiting_join.is_none() && member.instance_id.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in missing {
            self.remove(&id);
        }
        self.generation = self.generation.wrapping_add(1).max(1);
        if self.members.is_empty() {
            self.become_empty();
            return;
        }
        self.protocol = self.select_protocol();
        let leader_joined = self
            .leader
            .as_ref()
            .and_then(|id| self.members.get(id))
            .is_some_and(|m| m.awaiting_join.is_some());
        if !leader_joined {
            let joined = self.members.iter().find(|(_, member)| member.awaiting_join.is_some());
            self.leader = joined.or_else(|| self.members.iter().next()).map(|(id, _)| id.clone());
        }
        self.state = State::CompletingRebalance;
        self.phase_deadline_ms = now_ms.saturating_add(self.longest_rebalance_ms());
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let Some(member) = self.members.get_mut(&id) else { continue };
            member.deadline_ms = now_ms + member.session_timeout_ms;
            member.synced = false;
            if let Some(ticket) = member.awaiting_join.take() {
                effects.push(Effect::Join(ticket, self.join_answer(&id)));
            }
        }
    }

    pub(super) fn finish_sync(
        &mut self,
        assignments: Vec<(String, Bytes)>,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) {
        let mut assignments: BTreeMap<String, Bytes> = assignments.into_iter().collect();
        self.state = State::Stable;
        self.phase_deadline_ms = now_ms.saturating_add(self.longest_rebalance_ms());
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let Some(member) = self.members.get_mut(&id) else { continue };
            member.assignment = assignments.remove(&id).unwrap_or_default();
            if let Some(ticket) = member.awaiting_sync.take() {
                member.deadline_ms = now_ms + member.session_timeout_ms;
                effects.push(Effect::Sync(ticket, self.sync_answer(&id)));
            }
        }
    }

    pub(super) fn drop_member(
        &mut self,
        member_id: &str,
        now_ms: u64,
        config: &GroupConfig,
        effects: &mut Vec<Effect>,
    ) -> Option<()> {
        let member = self.remove(member_id)?;
        if let Some(ticket) = member.awaiting_join {
            effects.push(Effect::Join(ticket, JoinAnswer::refused(GroupError::UnknownMember, member_id)));
        }
        if let Some(ticket) = member.awaiting_sync {
            effects.push(Effect::Sync(ticket, SyncAnswer::refused(GroupError::UnknownMember)));
        }
        if self.members.is_empty() && self.pending.is_empty() {
            self.generation = self.generation.wrapping_add(1).max(1);
            self.become_empty();
        } else if self.state != State::Empty {
            self.prepare_rebalance(now_ms, config, effects);
        }
        Some(())
    }

    pub(super) fn become_empty(&mut self) {
        self.state = State::Empty;
        self.leader = None;
        self.protocol = None;
        self.hold_until_ms = None;
        self.phase_deadline_ms = u64::MAX;
    }

    pub(super) fn join_answer(&self, member_id: &str) -> JoinAnswer {
        let leader = self.leader.clone().unwrap_or_default();
        let protocol = self.protocol.clone().unwrap_or_default();
        let members = if leader == member_id {
            self.members
                .iter()
                .map(|(id, member)| (id.clone(), member.instance_id.clone(), member.metadata_of(&protocol)))
                .collect()
        } else {
            Vec::new()
        };
        JoinAnswer {
            error: None,
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader,
            member_id: member_id.to_owned(),
            members,
            skip_assignment: false,
        }
    }

    pub(super) fn sync_answer(&self, member_id: &str) -> SyncAnswer {
        SyncAnswer {
            error: None,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: self
                .members
                .get(member_id)
                .map(|member| member.assignment.clone())
                .unwrap_or_default(),
        }
    }

    pub(super) fn tick(&mut self, now_ms: u64, config: &GroupConfig, effects: &mut Vec<Effect>) {
        let lapsed = self.pending.len();
        self.pending.retain(|_, deadline| *deadline > now_ms);
        let lapsed = lapsed != self.pending.len();
        let dead: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| !member.is_waiting() && member.deadline_ms <= now_ms)
            .map(|(id, _)| id.clone())
            .collect();
        for id in dead {
            tracing::info!(member = %id.escape_debug(), "group member timed out");
            self.drop_member(&id, now_ms, config, effects);
        }
        match self.state {
            State::PreparingRebalance if now_ms >= self.phase_deadline_ms => {
                self.pending.clear();
                self.complete_join(now_ms, effects);
            }
            State::PreparingRebalance
                if lapsed || self.hold_until_ms.is_some_and(|until| now_ms >= until) =>
            {
                self.try_complete_join(now_ms, effects);
            }
            State::CompletingRebalance if now_ms >= self.phase_deadline_ms => {
                let silent: Vec<String> = self
                    .members
                    .iter()
                    .filter(|(_, member)| !member.synced)
                    .map(|(id, _)| id.clone())
                    .collect();
                for id in silent {
                    self.drop_member(&id, now_ms, config, effects);
                }
            }
            _ => {}
        }
    }
}
