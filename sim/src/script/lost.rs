//! What a whole folder lost to rot, and whether the broker says so.

use std::collections::{BTreeMap, BTreeSet};

use herdsman_record::TopicPartition;

use super::check::{Fate, Part, fates, parts};
use super::{Act, GROUP, IDS, Promises, What};
use crate::house::House;

/// What is gone.
#[derive(Debug, Default)]
pub struct Lost {
    /// Records that are gone and named.
    pub named: usize,
    /// Batches they stood in.
    pub batches: usize,
    /// The first that is gone and not named.
    pub silent: Option<String>,
}

impl Promises {
    /// Compares a broker, opened over the whole folder, with everything that was acknowledged.
    ///
    /// # Errors
    /// Something is read that was not written there, or that was aborted.
    pub fn lost(&self, house: &House) -> Result<Lost, String> {
        let everything = |_: &Act| true;
        let begun: Vec<&Act> = self.acts.iter().collect();
        let fates = fates(&begun, &everything);
        let parts = parts(&begun, &everything, true);
        let dropped: BTreeSet<&str> = begun
            .iter()
            .filter_map(|act| if let What::Drop { topic } = &act.what { Some(topic.as_str()) } else { None })
            .collect();
        let mut lost = Lost::default();
        for (at, part) in parts.iter().filter(|(at, _)| !dropped.contains(at.topic.as_ref())) {
            lost.records(house, at, part, &begun)?;
            committed(house, at, part, &fates)?;
        }
        lost.offsets(house, &begun, &fates);
        lost.rest(house, &begun);
        Ok(lost)
    }
}

/// Whether recovery, or the log when asked, names the partition.
fn is_named(house: &House, at: &TopicPartition) -> bool {
    let noted = house.recovery.notes.iter().any(|note| note.contains(&at.to_string()));
    noted || {
        let start = house.broker.log().offsets(at).map_or(0, |(start, _)| start);
        house.read_around(at, start, false).is_ok_and(|(_, told)| !told.is_empty())
    }
}

/// No record of a transaction that was not committed is read by consumers of committed ones.
fn committed(
    house: &House,
    at: &TopicPartition,
    part: &Part<'_>,
    fates: &BTreeMap<usize, Fate>,
) -> Result<(), String> {
    let start = house.broker.log().offsets(at).map_or(0, |(start, _)| start);
    let read = house.read_around(at, start, true);
    let (seen, _) = read.map_err(|code| format!("{at}: Fetch answers {code}"))?;
    part.check_committed(at, &seen, fates, false).map(drop)
}

impl Lost {
    fn miss(&mut self, named: bool, what: impl FnOnce() -> String) {
        if named {
            self.named += 1;
        } else if self.silent.is_none() {
            self.silent = Some(what());
        }
    }

    fn records(
        &mut self,
        house: &House,
        at: &TopicPartition,
        part: &Part<'_>,
        begun: &[&Act],
    ) -> Result<(), String> {
        let Ok((start, _)) = house.broker.log().offsets(at) else {
            self.miss(false, || format!("topic {at}"));
            return Ok(());
        };
        let read = house.read_around(at, start, false);
        let (seen, _) = read.map_err(|code| format!("{at}: Fetch answers {code}"))?;
        part.check_values(at, &seen)?;
        let there: BTreeSet<i64> = seen.iter().map(|one| one.offset).collect();
        let named = is_named(house, at);
        let mut gone = BTreeSet::new();
        for offset in part.must.iter().filter(|offset| **offset >= part.start_max && !there.contains(offset))
        {
            gone.insert(*offset);
            self.miss(named, || format!("{at} offset {offset}"));
        }
        self.batches += begun
            .iter()
            .filter(|act| match &act.what {
                What::Produce { at: of, base, values, .. } => {
                    let end = base + i64::try_from(values.len()).unwrap_or(0);
                    of == at && gone.range(*base..end).next().is_some()
                }
                _ => false,
            })
            .count();
        Ok(())
    }

    /// The group's last offsets.
    fn offsets(&mut self, house: &House, begun: &[&Act], fates: &BTreeMap<usize, Fate>) {
        let mut last: BTreeMap<&TopicPartition, i64> = BTreeMap::new();
        let mut pending: BTreeMap<usize, BTreeMap<&TopicPartition, i64>> = BTreeMap::new();
        for act in begun {
            match &act.what {
                What::Offset { at, offset, transaction: None } => drop(last.insert(at, *offset)),
                What::Offset { at, offset, transaction: Some(number) } => {
                    pending.entry(*number).or_default().insert(at, *offset);
                }
                What::End { transaction, .. } if fates.get(transaction) == Some(&Fate::Committed) => {
                    last.extend(pending.remove(transaction).unwrap_or_default());
                }
                _ => {}
            }
        }
        let named = is_named(house, &TopicPartition::new("__consumer_offsets", 0));
        // of an open transaction nothing counts, so the offset before it does
        for (id, _) in IDS {
            let _aborts = house.init_producer(Some(id), None);
        }
        for (at, offset) in last {
            if house.committed(GROUP, at) != Ok(offset) {
                self.miss(named, || format!("the group's offset {offset} of {at}"));
            }
        }
    }

    /// ACLs.
    fn rest(&mut self, house: &House, begun: &[&Act]) {
        let found = house.allowed().unwrap_or_default();
        for act in begun {
            let What::Allow { user } = &act.what else { continue };
            if !found.contains(&format!("User:{user}")) {
                self.miss(false, || format!("the ACL of {user}"));
            }
        }
    }
}
