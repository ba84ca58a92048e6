//! Who is in a share group and reads which partitions: partitions are shared, so nothing has to be given up first.

use std::collections::{BTreeMap, BTreeSet};

use crate::group::GroupError;
use crate::group::consumer::{JOIN, LEAVE, Partitions, TopicId, TopicLookup};

/// One member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShareMember {
    /// Epoch it is at.
    pub epoch: i32,
    /// Epoch before: a heartbeat whose answer was lost still carries it.
    pub previous_epoch: i32,
    /// Rack.
    pub rack_id: Option<String>,
    /// Client's own name.
    pub client_id: String,
    /// Client's address.
    pub client_host: String,
    /// Topics subscribed to.
    pub topics: BTreeSet<String>,
    /// Partitions it reads, as last told.
    pub assigned: Partitions,
    /// When it is taken for dead, ms of the steady clock.
    pub deadline_ms: u64,
}

/// One group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShareGroup {
    /// Epoch of subscriptions and topics.
    pub epoch: i32,
    /// Members by id.
    pub members: BTreeMap<String, ShareMember>,
    /// What each member is to read.
    pub target: BTreeMap<String, Partitions>,
    topics: BTreeMap<String, (TopicId, i32)>,
}

/// One heartbeat; `None` means unchanged since the last.
#[derive(Debug, Clone, Default)]
pub struct ShareHeartbeat {
    /// Member id, chosen by the member.
    pub member_id: String,
    /// Epoch the member is at, or [`JOIN`], [`LEAVE`].
    pub member_epoch: i32,
    /// Rack.
    pub rack_id: Option<String>,
    /// Topic names.
    pub topics: Option<BTreeSet<String>>,
    /// Client's own name.
    pub client_id: String,
    /// Client's address.
    pub client_host: String,
    /// When the member is taken for dead unless it is heard of, ms of the steady clock.
    pub deadline_ms: u64,
    /// Most members.
    pub members_max: usize,
}

impl ShareGroup {
    /// Name of its state, as ShareGroupDescribe and ListGroups print it.
    #[must_use]
    pub fn state(&self) -> &'static str {
        if self.members.is_empty() { "Empty" } else { "Stable" }
    }

    /// A member says what it reads; it is told its epoch and, when that changed, its partitions.
    ///
    /// # Errors
    /// Unknown or fenced members, a full group, a heartbeat that lacks what it must say.
    pub fn on_heartbeat(
        &mut self,
        beat: ShareHeartbeat,
        topics: &dyn TopicLookup,
    ) -> Result<(i32, Option<Partitions>), GroupError> {
        let joins = beat.member_epoch == JOIN;
        let lacks_topics = joins && beat.topics.as_ref().is_none_or(BTreeSet::is_empty);
        if beat.member_id.is_empty() || beat.member_epoch < LEAVE || lacks_topics {
            return Err(GroupError::InvalidHeartbeat);
        }
        if beat.member_epoch == LEAVE {
            self.members.remove(&beat.member_id).ok_or(GroupError::UnknownMember)?;
            self.epoch += 1;
            self.retarget();
            return Ok((LEAVE, None));
        }
        let is_new = !self.members.contains_key(&beat.member_id);
        match self.members.get(&beat.member_id) {
            None if !joins => return Err(GroupError::UnknownMember),
            None if self.members.len() >= beat.members_max => return Err(GroupError::GroupFull),
            Some(member)
                if !joins
                    && beat.member_epoch != member.epoch
                    && beat.member_epoch != member.previous_epoch =>
            {
                return Err(GroupError::FencedEpoch);
            }
            _ => {}
        }
        let member = self.members.entry(beat.member_id.clone()).or_default();
        (member.client_id, member.client_host) = (beat.client_id, beat.client_host);
        member.deadline_ms = beat.deadline_ms;
        member.rack_id = beat.rack_id.or(member.rack_id.take());
        let mut changed = is_new;
        if let Some(names) = beat.topics {
            changed |= names != member.topics;
            member.topics = names;
        }
        changed |= self.look_at_topics(topics);
        if changed {
            self.epoch += 1;
            self.retarget();
        }
        let epoch = self.epoch;
        let target = self.target.get(&beat.member_id).cloned().unwrap_or_default();
        let Some(member) = self.members.get_mut(&beat.member_id) else {
            return Err(GroupError::UnknownMember);
        };
        if member.epoch != epoch {
            member.previous_epoch = std::mem::replace(&mut member.epoch, epoch);
        }
        // told again to a member whose last answer was lost
        let tells = joins || target != member.assigned || beat.member_epoch != epoch;
        member.assigned.clone_from(&target);
        Ok((epoch, tells.then_some(target)))
    }

    /// Takes members for dead that were silent for too long; returns their ids.
    pub fn on_tick(&mut self, now_ms: u64) -> Vec<String> {
        let silent: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| member.deadline_ms <= now_ms)
            .map(|(id, _)| id.clone())
            .collect();
        if !silent.is_empty() {
            self.members.retain(|id, _| !silent.contains(id));
            self.epoch += 1;
            self.retarget();
        }
        silent
    }

    fn look_at_topics(&mut self, topics: &dyn TopicLookup) -> bool {
        let names: BTreeSet<&String> = self.members.values().flat_map(|member| &member.topics).collect();
        let now: BTreeMap<String, (TopicId, i32)> =
            names.into_iter().filter_map(|name| Some((name.clone(), topics.find(name)?))).collect();
        let changed = now != self.topics;
        self.topics = now;
        changed
    }

    /// Gives every partition of a topic to at least one of its readers and every reader at least one partition.
    fn retarget(&mut self) {
        self.target = self.members.keys().map(|id| (id.clone(), Partitions::new())).collect();
        for (name, (topic, count)) in &self.topics {
            let readers: Vec<&String> = self
                .members
                .iter()
                .filter(|(_, member)| member.topics.contains(name))
                .map(|(id, _)| id)
                .collect();
            let Ok(count) = usize::try_from(*count) else { continue };
            for turn in 0..readers.len().max(count) {
                let (Some(id), Ok(index)) =
                    (readers.get(turn % readers.len().max(1)), i32::try_from(turn % count.max(1)))
                else {
                    continue;
                };
                if count > 0
                    && let Some(target) = self.target.get_mut(*id)
                {
                    target.entry(*topic).or_default().insert(index);
                }
            }
        }
    }
}
