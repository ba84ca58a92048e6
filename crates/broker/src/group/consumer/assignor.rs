//! Who reads what: the assignors a group can choose from.
//!
//! `uniform` keeps what members have and evens out the counts; `range` gives each member neighbouring partitions, the same
//! ones of every topic. Source: KIP-848.

use std::collections::{BTreeMap, BTreeSet};

use super::member::Member;
use super::{Partitions, TopicId};

/// An assignor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Assignor {
    /// Even counts, few moves.
    #[default]
    Uniform,
    /// Neighbouring partitions.
    Range,
}

impl Assignor {
    /// The assignor of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "uniform" => Some(Self::Uniform),
            "range" => Some(Self::Range),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }

    /// Assigns every partition of `topics` (id and count by name) to one member that reads the topic, if there is one.
    /// `before` is what each had as its target.
    #[must_use]
    pub fn assign(
        self,
        members: &BTreeMap<String, Member>,
        topics: &BTreeMap<String, (TopicId, i32)>,
        before: &BTreeMap<String, Partitions>,
    ) -> BTreeMap<String, Partitions> {
        match self {
            Self::Uniform => uniform(members, topics, before),
            Self::Range => range(members, topics),
        }
    }
}

fn range(
    members: &BTreeMap<String, Member>,
    topics: &BTreeMap<String, (TopicId, i32)>,
) -> BTreeMap<String, Partitions> {
    let mut found: BTreeMap<String, Partitions> = BTreeMap::new();
    // static members keep their place when they come back under another id
    let mut order: Vec<(&String, &Member)> = members.iter().collect();
    order.sort_by_key(|(id, member)| (member.instance_id.is_none(), member.instance_id.as_ref(), *id));
    for (name, (topic, count)) in topics {
        let readers: Vec<_> = order.iter().filter(|(_, member)| member.reads(name)).collect();
        let Ok(total) = i32::try_from(readers.len()) else { continue };
        if total == 0 {
            continue;
        }
        let mut next = 0;
        for ((id, _), place) in readers.into_iter().zip(0..) {
            let share = count / total + i32::from(place < count % total);
            let indexes: BTreeSet<i32> = (next..next + share).collect();
            next += share;
            if !indexes.is_empty() {
                found.entry((*id).clone()).or_default().insert(*topic, indexes);
            }
        }
    }
    found
}

/// A share as it grows.
struct Share<'a> {
    id: &'a str,
    member: &'a Member,
    partitions: BTreeSet<(&'a str, i32)>,
}

fn uniform<'a>(
    members: &'a BTreeMap<String, Member>,
    topics: &'a BTreeMap<String, (TopicId, i32)>,
    before: &BTreeMap<String, Partitions>,
) -> BTreeMap<String, Partitions> {
    let mut free: BTreeSet<(&str, i32)> = topics
        .iter()
        .flat_map(|(name, (_, count))| (0..*count).map(move |index| (name.as_str(), index)))
        .collect();
    let mut shares: Vec<Share<'a>> = members
        .iter()
        .map(|(id, member)| {
            let mut partitions = BTreeSet::new();
            for (name, (topic, _)) in topics.iter().filter(|(name, _)| member.reads(name)) {
                let had = before.get(id).and_then(|had| had.get(topic)).into_iter().flatten();
                partitions.extend(had.map(|index| (name.as_str(), *index)).filter(|at| free.remove(at)));
            }
            Share { id, member, partitions }
        })
        .collect();
    for at in free {
        let readers = shares.iter_mut().filter(|share| share.member.reads(at.0));
        if let Some(least) = readers.min_by_key(|share| share.partitions.len()) {
            least.partitions.insert(at);
        }
    }
    let total: usize = shares.iter().map(|share| share.partitions.len()).sum();
    for _ in 0..total {
        if !even_out(&mut shares) {
            break;
        }
    }
    let mut found: BTreeMap<String, Partitions> = BTreeMap::new();
    for share in shares {
        for (name, index) in share.partitions {
            let Some((topic, _)) = topics.get(name) else { continue };
            found.entry(share.id.to_owned()).or_default().entry(*topic).or_default().insert(index);
        }
    }
    found
}

/// Moves one partition from a member with many to one with at least two fewer that reads it. False: there is none.
fn even_out(shares: &mut [Share<'_>]) -> bool {
    shares.sort_by_key(|share| share.partitions.len());
    for from in (0..shares.len()).rev() {
        for to in 0..from {
            let (Some(rich), Some(poor)) = (shares.get(from), shares.get(to)) else { return false };
            if rich.partitions.len() < poor.partitions.len() + 2 {
                break;
            }
            let Some(at) = rich.partitions.iter().rev().find(|at| poor.member.reads(at.0)).copied() else {
                continue;
            };
            if let Some(rich) = shares.get_mut(from) {
                rich.partitions.remove(&at);
            }
            if let Some(poor) = shares.get_mut(to) {
                poor.partitions.insert(at);
            }
            return true;
        }
    }
    false
}
