//! Members of a consumer group (KIP-848): they join, follow their assignment, commit where they own, and are gone at times.

use std::collections::BTreeMap;

use herdsman_record::TopicPartition;

use super::World;
use super::door::Ask;
use super::truth::is_doubt;

/// Their group, and the topic it reads.
const GROUP: &str = "members";
const TOPIC: &str = "exact";

/// A member.
#[derive(Debug, Default)]
pub struct Member {
    epoch: i32,
    topic: [u8; 16],
    /// Partitions it has; the offset it commits next, once it knows what was committed.
    owned: BTreeMap<i32, Option<i64>>,
    /// It tells the broker at its next heartbeat what it has.
    tells: bool,
}

impl World {
    /// One step of member `number`.
    pub(super) fn member(&mut self, number: usize) -> Result<(), String> {
        if self.seed.one_in(80) {
            self.note(|| format!("member {number} dies"));
            self.members[number] = Member::default();
        }
        let name = format!("member {number}");
        let member = &self.members[number];
        let owned: Vec<i32> = member.owned.keys().copied().collect();
        if member.epoch == 0 || owned.is_empty() || self.seed.one_in(2) {
            return self.beat(number, name, owned);
        }
        let partition = owned[self.seed.index(owned.len())];
        let at = TopicPartition::new(TOPIC, partition);
        let (epoch, next) = (member.epoch, member.owned.get(&partition).copied().flatten());
        let ask = match next {
            None => Ask::Committed { group: GROUP.to_owned(), at },
            Some(offset) => Ask::Commit { group: GROUP.to_owned(), member: Some((name, epoch)), at, offset },
        };
        // not sent twice or late: a member's own older commit may be repeated, and then counts again
        let Some(answer) = self.deliver(&ask)? else { return Ok(()) };
        if is_doubt(answer.code) {
            return self.trouble();
        }
        let member = &mut self.members[number];
        match (answer.code, next) {
            (0, None) => drop(member.owned.insert(partition, Some(answer.offset.max(0) + 1))),
            (0, Some(offset)) => drop(member.owned.insert(partition, Some(offset + 1))),
            _ => *member = Member::default(),
        }
        Ok(())
    }

    fn beat(&mut self, number: usize, name: String, owned: Vec<i32>) -> Result<(), String> {
        let member = &self.members[number];
        let ask = Ask::Beat {
            group: GROUP.to_owned(),
            member: name,
            epoch: member.epoch,
            topic: TOPIC.to_owned(),
            owned: member.tells.then_some((member.topic, owned)),
        };
        // lost or unanswered, but never late: one connection keeps the order of its requests
        let fate = self.seed.below(20);
        if fate == 0 {
            return Ok(());
        }
        let Some(answer) = self.deliver(&ask)?.filter(|_| fate != 1) else { return Ok(()) };
        let member = &mut self.members[number];
        if answer.code != 0 {
            *member = Member::default();
            return Ok(());
        }
        member.epoch = answer.epoch;
        member.tells = false;
        if let Some(assigned) = answer.assigned {
            let mut had = std::mem::take(&mut member.owned);
            for (topic, partitions) in assigned {
                member.topic = topic;
                let keep = |index: i32| (index, had.remove(&index).flatten());
                member.owned.extend(partitions.into_iter().map(keep));
            }
            member.tells = true;
        }
        Ok(())
    }
}
