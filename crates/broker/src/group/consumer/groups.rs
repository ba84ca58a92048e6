//! All groups of the consumer protocol, and what a heartbeat does to one.

use std::collections::BTreeMap;

use super::member::{Member, MemberState, holds};
use super::{
    Assignor, ConsumerAnswer, ConsumerGroupConfig, ConsumerHeartbeat, JOIN, LEAVE, LEAVE_STATIC, Partitions,
    TopicId, TopicLookup,
};
use crate::group::GroupError;
use crate::pattern;

/// One group.
#[derive(Debug, Clone, Default)]
pub struct ConsumerGroup {
    /// Epoch of subscriptions and topics; a new one means a new target.
    pub epoch: i32,
    /// Members by id.
    pub members: BTreeMap<String, Member>,
    /// Target of each member.
    pub target: BTreeMap<String, Partitions>,
    /// The topics read, as they were when the target was made: id and partition count by name.
    pub topics: BTreeMap<String, (TopicId, i32)>,
    /// [`TopicLookup::version`] then.
    topics_version: u64,
}

/// All groups of this broker that use the consumer protocol.
#[derive(Debug, Default)]
pub struct ConsumerGroups {
    config: ConsumerGroupConfig,
    groups: BTreeMap<String, ConsumerGroup>,
}

impl ConsumerGroups {
    /// No groups yet.
    #[must_use]
    pub fn new(config: ConsumerGroupConfig) -> Self {
        Self { config, groups: BTreeMap::new() }
    }

    /// Limits.
    #[must_use]
    pub fn config(&self) -> &ConsumerGroupConfig {
        &self.config
    }

    /// Every group, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &ConsumerGroup)> {
        self.groups.iter()
    }

    /// One group.
    #[must_use]
    pub fn get(&self, group: &str) -> Option<&ConsumerGroup> {
        self.groups.get(group)
    }

    /// Forgets a group without members; false if it has some.
    pub fn remove_empty(&mut self, group: &str) -> bool {
        if self.groups.get(group).is_some_and(|group| !group.members.is_empty()) {
            return false;
        }
        self.groups.remove(group);
        true
    }

    /// A member says what it wants and has, and is told what to have.
    ///
    /// # Errors
    /// Unknown or fenced members, a full group, a pattern or assignor that is not known: see [`GroupError`].
    pub fn on_heartbeat(
        &mut self,
        beat: ConsumerHeartbeat,
        topics: &dyn TopicLookup,
        now_ms: u64,
    ) -> Result<ConsumerAnswer, GroupError> {
        self.check(&beat)?;
        if beat.member_epoch < JOIN {
            return self.leave(&beat, topics, now_ms);
        }
        if beat.member_epoch == JOIN {
            self.groups.entry(beat.group.clone()).or_default();
        }
        let config = self.config.clone();
        let group = self.groups.get_mut(&beat.group).ok_or(GroupError::UnknownMember)?;
        let is_full = beat.member_epoch == JOIN
            || (beat.rebalance_timeout_ms.is_some()
                && (beat.topics.is_some() || beat.regex.is_some())
                && beat.owned.is_some());
        let id = beat.member_id.clone();
        let owned = beat.owned.clone();
        let mut changed = group.admit(&beat, &config)?;
        changed |= group.update(beat, topics, now_ms + config.session_timeout_ms)?;
        changed |= group.look_at_topics(topics);
        if changed {
            group.retarget();
        }
        let before = group.members.get(&id).map(|member| member.assigned.clone());
        group.step(&id, owned.as_ref(), now_ms);
        let member = group.members.get(&id).ok_or(GroupError::UnknownMember)?;
        let tells = is_full || before.as_ref() != Some(&member.assigned);
        Ok(ConsumerAnswer { member_epoch: member.epoch, assignment: tells.then(|| member.assigned.clone()) })
    }

    fn check(&self, beat: &ConsumerHeartbeat) -> Result<(), GroupError> {
        let joins = beat.member_epoch == JOIN;
        let subscribes = beat.topics.is_some() || beat.regex.is_some();
        if beat.group.trim().is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        if beat.member_id.is_empty()
            || beat.member_epoch < LEAVE_STATIC
            || (beat.member_epoch == LEAVE_STATIC && beat.instance_id.is_none())
            || beat.instance_id.as_deref() == Some("")
            || (joins && (beat.rebalance_timeout_ms.is_none() || !subscribes))
            || (joins && beat.owned.as_ref().is_some_and(|owned| !owned.is_empty()))
        {
            return Err(GroupError::InvalidHeartbeat);
        }
        if beat.assignor.as_deref().is_some_and(|name| Assignor::named(name).is_none()) {
            return Err(GroupError::UnknownAssignor);
        }
        Ok(())
    }

    fn leave(
        &mut self,
        beat: &ConsumerHeartbeat,
        topics: &dyn TopicLookup,
        now_ms: u64,
    ) -> Result<ConsumerAnswer, GroupError> {
        let session_timeout_ms = self.config.session_timeout_ms;
        let group = self.groups.get_mut(&beat.group).ok_or(GroupError::UnknownMember)?;
        let id = group.named(&beat.member_id, beat.instance_id.as_deref())?;
        if beat.member_epoch == LEAVE_STATIC {
            if let Some(member) = group.members.get_mut(&id) {
                member.epoch = LEAVE_STATIC;
                member.deadline_ms = now_ms + session_timeout_ms;
            }
        } else {
            group.members.remove(&id);
            group.look_at_topics(topics);
            group.retarget();
        }
        Ok(ConsumerAnswer { member_epoch: beat.member_epoch, assignment: None })
    }

    /// Takes members for dead that were silent, or held on to partitions, for too long.
    pub fn on_tick(&mut self, topics: &dyn TopicLookup, now_ms: u64) {
        for group in self.groups.values_mut() {
            let before = group.members.len();
            group.members.retain(|_, member| {
                member.deadline_ms > now_ms && member.revoke_by_ms.is_none_or(|until| until > now_ms)
            });
            if group.members.len() != before {
                group.look_at_topics(topics);
                group.retarget();
            }
        }
    }

    /// Whether this commit, or fetch of committed offsets, comes from a member at its epoch. `None`: the group does not use
    /// this protocol, or has no members and the commit names none.
    pub fn check_commit(&self, group: &str, member_id: &str, epoch: i32) -> Option<Result<(), GroupError>> {
        let group = self.groups.get(group)?;
        if group.members.is_empty() && member_id.is_empty() {
            return None;
        }
        Some(match group.members.get(member_id) {
            None => Err(GroupError::UnknownMember),
            Some(member) if member.epoch != epoch => Err(GroupError::StaleEpoch),
            Some(_) => Ok(()),
        })
    }
}

impl ConsumerGroup {
    /// Name of its state, as ConsumerGroupDescribe and ListGroups print it.
    #[must_use]
    pub fn state(&self) -> &'static str {
        let settled = |member: &Member| member.state == MemberState::Stable && member.epoch == self.epoch;
        if self.members.is_empty() {
            "Empty"
        } else if self.members.values().all(settled) {
            "Stable"
        } else {
            "Reconciling"
        }
    }

    /// The assignor most members ask for.
    #[must_use]
    pub fn assignor(&self) -> Assignor {
        let mut votes: BTreeMap<Assignor, usize> = BTreeMap::new();
        for name in self.members.values().filter_map(|member| member.assignor.as_deref()) {
            *votes.entry(Assignor::named(name).unwrap_or_default()).or_default() += 1;
        }
        let most = votes.into_iter().max_by_key(|(assignor, count)| (*count, std::cmp::Reverse(*assignor)));
        most.map(|(assignor, _)| assignor).unwrap_or_default()
    }

    /// The member that this id, or static name, stands for.
    fn named(&self, member_id: &str, instance_id: Option<&str>) -> Result<String, GroupError> {
        let Some(instance) = instance_id else {
            return if self.members.contains_key(member_id) {
                Ok(member_id.to_owned())
            } else {
                Err(GroupError::UnknownMember)
            };
        };
        let is_it = |member: &Member| member.instance_id.as_deref() == Some(instance);
        match self.members.iter().find(|(_, member)| is_it(member)) {
            None => Err(GroupError::UnknownMember),
            Some((id, _)) if id == member_id => Ok(id.clone()),
            Some(_) => Err(GroupError::FencedInstance),
        }
    }

    /// Lets a member in, or checks that it is the one it says at the epoch it says. Returns whether it is new.
    fn admit(&mut self, beat: &ConsumerHeartbeat, config: &ConsumerGroupConfig) -> Result<bool, GroupError> {
        match self.named(&beat.member_id, beat.instance_id.as_deref()) {
            Ok(id) => {
                let Some(member) = self.members.get_mut(&id) else { return Err(GroupError::UnknownMember) };
                if beat.member_epoch == JOIN {
                    // it begins anew and has nothing
                    (member.revoking, member.revoke_by_ms) = (Partitions::new(), None);
                    (member.state, member.assigned) = (MemberState::Stable, Partitions::new());
                    (member.epoch, member.previous_epoch) = (JOIN, JOIN);
                    return Ok(false);
                }
                if beat.member_epoch == member.epoch {
                    return Ok(false);
                }
                let had = |topic: &TopicId, index: &i32| holds(&member.assigned, topic, *index);
                let is_subset = beat.owned.as_ref().is_some_and(|owned| {
                    owned.iter().all(|(topic, indexes)| indexes.iter().all(|index| had(topic, index)))
                });
                // the answer that told the present epoch was lost
                let repeats = beat.member_epoch == member.previous_epoch && is_subset;
                if repeats { Ok(false) } else { Err(GroupError::FencedEpoch) }
            }
            Err(GroupError::FencedInstance) if beat.member_epoch == JOIN => {
                self.replace(beat).map(|()| false)
            }
            Err(GroupError::UnknownMember) if beat.member_epoch == JOIN => {
                if self.members.len() >= config.max_size {
                    return Err(GroupError::GroupFull);
                }
                let member = Member { instance_id: beat.instance_id.clone(), ..Member::default() };
                self.members.insert(beat.member_id.clone(), member);
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// A static member comes back under another id and takes over what it had.
    fn replace(&mut self, beat: &ConsumerHeartbeat) -> Result<(), GroupError> {
        let away = self.members.iter().find(|(_, member)| member.instance_id == beat.instance_id);
        let Some(old) = away.filter(|(_, member)| member.epoch == LEAVE_STATIC).map(|(id, _)| id.clone())
        else {
            return Err(GroupError::UnreleasedInstance);
        };
        let Some(member) = self.members.remove(&old) else { return Err(GroupError::UnknownMember) };
        let fresh = Member {
            epoch: JOIN,
            previous_epoch: JOIN,
            state: MemberState::Stable,
            assigned: Partitions::new(),
            revoking: Partitions::new(),
            revoke_by_ms: None,
            ..member
        };
        self.members.insert(beat.member_id.clone(), fresh);
        if let Some(target) = self.target.remove(&old) {
            self.target.insert(beat.member_id.clone(), target);
        }
        Ok(())
    }

    /// Takes over what the heartbeat says; returns whether the subscription changed.
    fn update(
        &mut self,
        beat: ConsumerHeartbeat,
        topics: &dyn TopicLookup,
        deadline_ms: u64,
    ) -> Result<bool, GroupError> {
        let matched = match beat.regex.as_deref() {
            Some("") => Some((None, Default::default())),
            Some(regex) => Some((Some(regex.to_owned()), matching(regex, topics)?)),
            None => None,
        };
        let Some(member) = self.members.get_mut(&beat.member_id) else {
            return Err(GroupError::UnknownMember);
        };
        member.deadline_ms = deadline_ms;
        (member.client_id, member.client_host) = (beat.client_id, beat.client_host);
        if let Some(ms) = beat.rebalance_timeout_ms {
            member.rebalance_timeout_ms = ms;
        }
        member.rack_id = beat.rack_id.or(member.rack_id.take());
        let mut changed = false;
        if let Some(names) = beat.topics {
            changed |= names != member.topics;
            member.topics = names;
        }
        if let Some((regex, matched)) = matched {
            changed |= matched != member.matched;
            (member.regex, member.matched) = (regex, matched);
        }
        if beat.assignor.is_some() && beat.assignor != member.assignor {
            member.assignor = beat.assignor;
            changed = true;
        }
        Ok(changed)
    }

    /// Looks whether topics that members read came, grew or went; patterns are resolved anew.
    fn look_at_topics(&mut self, topics: &dyn TopicLookup) -> bool {
        if topics.version() != self.topics_version {
            for member in self.members.values_mut() {
                if let Some(found) = member.regex.as_ref().and_then(|regex| matching(regex, topics).ok()) {
                    member.matched = found;
                }
            }
            self.topics_version = topics.version();
        }
        let mut now = BTreeMap::new();
        for name in self.members.values().flat_map(Member::subscribed) {
            if !now.contains_key(name)
                && let Some(found) = topics.find(name)
            {
                now.insert(name.to_owned(), found);
            }
        }
        let changed = now != self.topics;
        self.topics = now;
        changed
    }

    /// A new epoch and a new target.
    fn retarget(&mut self) {
        self.epoch += 1;
        self.target.retain(|id, _| self.members.contains_key(id));
        self.target = self.assignor().assign(&self.members, &self.topics, &self.target);
    }

    /// Moves one member on.
    fn step(&mut self, id: &str, owned: Option<&Partitions>, now_ms: u64) {
        let Some(mut member) = self.members.remove(id) else { return };
        let none = Partitions::new();
        let target = self.target.get(id).unwrap_or(&none);
        let taken = |topic: &TopicId, index: i32| {
            self.members
                .values()
                .any(|other| holds(&other.assigned, topic, index) || holds(&other.revoking, topic, index))
        };
        member.step(target, self.epoch, owned, taken, now_ms);
        self.members.insert(id.to_owned(), member);
    }
}

/// Topics whose whole name the pattern matches.
fn matching(regex: &str, topics: &dyn TopicLookup) -> Result<std::collections::BTreeSet<String>, GroupError> {
    let pattern = pattern::whole(regex).map_err(|_| GroupError::InvalidPattern)?;
    Ok(topics.names().into_iter().filter(|name| pattern.is_match(name)).collect())
}

impl ConsumerAnswer {
    /// Whether the answer is to a member that left.
    #[must_use]
    pub fn is_leave(&self) -> bool {
        self.member_epoch == LEAVE || self.member_epoch == LEAVE_STATIC
    }
}
