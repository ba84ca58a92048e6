//! One member on its way to its target: gives up first, takes over when others have given up.
//!
//! Source: KIP-848, section "Reconciliation of the group".

use std::collections::BTreeSet;

use super::{Partitions, TopicId};

/// Where a member stands on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MemberState {
    /// It has its target.
    #[default]
    Stable,
    /// It has yet to give partitions up.
    Unrevoked,
    /// It waits for partitions that others have yet to give up.
    Unreleased,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    /// Static name.
    pub instance_id: Option<String>,
    /// Rack.
    pub rack_id: Option<String>,
    /// Client's own name.
    pub client_id: String,
    /// Client's address.
    pub client_host: String,
    /// Time it may take to give partitions up, ms.
    pub rebalance_timeout_ms: u64,
    /// Topic names subscribed to.
    pub topics: BTreeSet<String>,
    /// Pattern subscribed to.
    pub regex: Option<String>,
    /// Topics that match the pattern now.
    pub matched: BTreeSet<String>,
    /// Assignor it would like.
    pub assignor: Option<String>,
    /// Epoch it is at; −2: away, under its static name.
    pub epoch: i32,
    /// Epoch before: a heartbeat whose answer was lost still carries it.
    pub previous_epoch: i32,
    /// Where it stands.
    pub state: MemberState,
    /// Partitions it may use.
    pub assigned: Partitions,
    /// Partitions it has yet to give up.
    pub revoking: Partitions,
    /// When it is taken for dead, ms.
    pub deadline_ms: u64,
    /// When it must have given partitions up, ms.
    pub revoke_by_ms: Option<u64>,
}

/// The partitions of both.
fn shared(one: &Partitions, other: &Partitions) -> Partitions {
    select(one, |topic, index| other.get(topic).is_some_and(|there| there.contains(&index)))
}

/// The partitions of `all` that `wanted` accepts.
pub(crate) fn select(all: &Partitions, wanted: impl Fn(&TopicId, i32) -> bool) -> Partitions {
    let mut found = Partitions::new();
    for (topic, indexes) in all {
        let kept: BTreeSet<i32> = indexes.iter().copied().filter(|index| wanted(topic, *index)).collect();
        if !kept.is_empty() {
            found.insert(*topic, kept);
        }
    }
    found
}

/// Whether `all` has the partition.
pub(crate) fn holds(all: &Partitions, topic: &TopicId, index: i32) -> bool {
    all.get(topic).is_some_and(|indexes| indexes.contains(&index))
}

impl Member {
    /// Every topic it wants to read.
    pub fn subscribed(&self) -> impl Iterator<Item = &str> {
        self.topics.iter().chain(self.matched.difference(&self.topics)).map(String::as_str)
    }

    /// Whether it wants to read the topic.
    #[must_use]
    pub fn reads(&self, topic: &str) -> bool {
        self.topics.contains(topic) || self.matched.contains(topic)
    }

    /// One step towards `target`, which is that of `target_epoch`. `owned` is what the member says it has (`None`: it did not
    /// say); `taken` tells whether another member still holds a partition.
    pub fn step(
        &mut self,
        target: &Partitions,
        target_epoch: i32,
        owned: Option<&Partitions>,
        taken: impl Fn(&TopicId, i32) -> bool,
        now_ms: u64,
    ) {
        match self.state {
            MemberState::Stable if self.epoch == target_epoch => {}
            MemberState::Unrevoked => {
                let gone = owned.is_some_and(|owned| shared(owned, &self.revoking).is_empty());
                if gone {
                    self.revoking.clear();
                    self.revoke_by_ms = None;
                    self.next(self.epoch + 1, target, target_epoch, owned, taken, now_ms);
                }
            }
            MemberState::Stable | MemberState::Unreleased => {
                self.next(self.epoch, target, target_epoch, owned, taken, now_ms);
            }
        }
    }

    fn next(
        &mut self,
        epoch: i32,
        target: &Partitions,
        target_epoch: i32,
        owned: Option<&Partitions>,
        taken: impl Fn(&TopicId, i32) -> bool,
        now_ms: u64,
    ) {
        let kept = shared(&self.assigned, target);
        let revoking = select(&self.assigned, |topic, index| !holds(&kept, topic, index));
        let has_them = owned.is_none_or(|owned| !shared(owned, &revoking).is_empty());
        if !revoking.is_empty() && has_them {
            (self.state, self.assigned, self.revoking) = (MemberState::Unrevoked, kept, revoking);
            self.revoke_by_ms = Some(now_ms + self.rebalance_timeout_ms);
            self.move_to(epoch);
            return;
        }
        let free = select(target, |topic, index| !holds(&kept, topic, index) && !taken(topic, index));
        let missing = select(target, |topic, index| !holds(&kept, topic, index) && taken(topic, index));
        self.assigned = kept;
        for (topic, indexes) in free {
            self.assigned.entry(topic).or_default().extend(indexes);
        }
        self.state = if missing.is_empty() { MemberState::Stable } else { MemberState::Unreleased };
        self.move_to(target_epoch);
    }

    fn move_to(&mut self, epoch: i32) {
        if epoch != self.epoch {
            self.previous_epoch = std::mem::replace(&mut self.epoch, epoch);
        }
    }
}
