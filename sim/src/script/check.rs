//! Whether a broker opened after the script was cut keeps what the script was promised.

use std::collections::{BTreeMap, BTreeSet};

use herdsman_record::TopicPartition;

use super::{Act, EPOCH_MS, GROUP, IDS, What};
use crate::house::{House, Seen, batch};

/// How many of the last event ids are sent again.
const IDS_RESENT: usize = 3;

/// What a script did and was promised.
#[derive(Debug, Clone)]
pub struct Promises {
    /// In order; one at a time.
    pub acts: Vec<Act>,
    /// Transactions still open at its end.
    pub open: Vec<usize>,
}

/// How a transaction stood at the cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Committed,
    Gone,
    /// Its commit was asked for and not answered.
    Either,
}

/// What was known of one partition at the cut.
#[derive(Default)]
pub(super) struct Part<'a> {
    /// Value and transaction of each offset that may be there.
    may: BTreeMap<i64, (&'a str, Option<usize>)>,
    /// Offsets that must be there.
    pub(super) must: BTreeSet<i64>,
    start_promised: i64,
    pub(super) start_max: i64,
}

impl Promises {
    /// Checks a broker opened after a cut behind step `cut`; writes to it. Returns how many records were read.
    ///
    /// # Errors
    /// What was promised and is not so.
    pub fn check(&self, house: &House, cut: usize) -> Result<u64, String> {
        let done = |act: &Act| act.done.is_some_and(|done| done <= cut);
        let begun: Vec<&Act> = self.acts.iter().take_while(|act| act.begun < cut || done(act)).collect();
        let fates = fates(&begun, &done);
        let parts = parts(&begun, &done, false);
        let gone = topics(house, &begun, &done)?;
        let parts = parts.iter().filter(|(at, _)| !gone.contains(at.topic.as_ref()));
        let mut read = 0;
        for (at, part) in parts.clone() {
            let (start, _) = house.broker.log().offsets(at).map_err(|error| error.to_string())?;
            if !(part.start_promised..=part.start_max.max(part.start_promised)).contains(&start) {
                let (least, most) = (part.start_promised, part.start_max);
                return Err(format!("{at} starts at {start}, promised {least} to {most}"));
            }
            let seen = records(house, at, start, false)?;
            part.check(at, start, &seen)?;
            read += seen.len() as u64;
            let early = records(house, at, start, true)?;
            part.check_committed(at, &early, &fates, false)?;
        }
        for (id, _) in IDS {
            house
                .init_producer(Some(id), None)
                .map_err(|code| format!("{id}: InitProducerId answers {code}"))?;
        }
        let mut visible = BTreeSet::new();
        for (at, part) in parts.clone() {
            let (start, _) = house.broker.log().offsets(at).map_err(|error| error.to_string())?;
            let seen = records(house, at, start, true)?;
            let found = part.check_committed(at, &seen, &fates, true)?;
            visible.extend(found.into_iter().map(|number| (number, at.clone())));
        }
        whole(&begun, &fates, &visible, parts.clone())?;
        offsets(house, &begun, &done, &fates, &visible)?;
        acls(house, &begun, &done)?;
        repeats(house, &begun, &done)?;
        for (at, part) in parts.filter(|(at, _)| !matches!(at.topic.as_ref(), "ids")) {
            part.goes_on(house, at)?;
        }
        Ok(read)
    }
}

pub(super) fn fates(begun: &[&Act], done: &impl Fn(&Act) -> bool) -> BTreeMap<usize, Fate> {
    let mut fates = BTreeMap::new();
    for act in begun {
        if let What::End { transaction, commit } = act.what {
            let fate = match (commit, done(act)) {
                (true, true) => Fate::Committed,
                (true, false) => Fate::Either,
                (false, _) => Fate::Gone,
            };
            fates.insert(transaction, fate);
        }
    }
    fates
}

/// `whole`: nothing unsynced was lost.
pub(super) fn parts<'a>(
    begun: &[&'a Act],
    done: &impl Fn(&Act) -> bool,
    whole: bool,
) -> BTreeMap<TopicPartition, Part<'a>> {
    let mut parts: BTreeMap<TopicPartition, Part<'a>> = BTreeMap::new();
    for act in begun {
        match &act.what {
            What::Produce { at, values, base, transaction, .. } => {
                let part = parts.entry(at.clone()).or_default();
                let durable = done(act) && (whole || at.topic.as_ref() != "relaxed");
                for (offset, value) in (*base..).zip(values) {
                    if at.topic.as_ref() == "latest" {
                        // an older record of the key may be gone
                        let key = value.split(':').next();
                        part.must.retain(|old| {
                            part.may.get(old).is_none_or(|(old, _)| old.split(':').next() != key)
                        });
                    }
                    part.may.insert(offset, (value, *transaction));
                    if durable {
                        part.must.insert(offset);
                    }
                }
            }
            What::Delete { at, before } => {
                let part = parts.entry(at.clone()).or_default();
                part.start_max = part.start_max.max(*before);
                if done(act) {
                    part.start_promised = part.start_promised.max(*before);
                }
            }
            _ => {}
        }
    }
    parts
}

impl Part<'_> {
    /// Every record is the one written at its offset.
    pub(super) fn check_values(&self, at: &TopicPartition, seen: &[Seen]) -> Result<(), String> {
        let mut last = -1;
        for one in seen {
            if one.offset <= last {
                return Err(format!("{at}: offset {} behind {last}", one.offset));
            }
            last = one.offset;
            match self.may.get(&one.offset) {
                Some((value, _)) if *value == one.value => {}
                Some((value, _)) => {
                    return Err(format!("{at} offset {} was {value:?} and is {:?}", one.offset, one.value));
                }
                None => return Err(format!("{at} offset {} was not written: {:?}", one.offset, one.value)),
            }
        }
        Ok(())
    }

    /// Every record is the one written at its offset; what must be there is.
    fn check(&self, at: &TopicPartition, start: i64, seen: &[Seen]) -> Result<(), String> {
        self.check_values(at, seen)?;
        let there: BTreeSet<i64> = seen.iter().map(|one| one.offset).collect();
        match self.must.iter().find(|offset| **offset >= start && !there.contains(offset)) {
            Some(lost) => Err(format!("{at} offset {lost} was acknowledged as durable and is gone")),
            None => Ok(()),
        }
    }

    /// No record of a transaction that was not committed; with `ended`, all that must be there. Returns the transactions seen.
    pub(super) fn check_committed(
        &self,
        at: &TopicPartition,
        seen: &[Seen],
        fates: &BTreeMap<usize, Fate>,
        ended: bool,
    ) -> Result<BTreeSet<usize>, String> {
        let mut visible = BTreeSet::new();
        for one in seen {
            let Some((value, transaction)) = self.may.get(&one.offset) else { continue };
            if *value != one.value {
                return Err(format!("{at} offset {} was {value:?} and is {:?}", one.offset, one.value));
            }
            let Some(transaction) = transaction else { continue };
            if matches!(fates.get(transaction), None | Some(Fate::Gone)) {
                let when = if ended { "after" } else { "before" };
                let fate = fates.get(transaction);
                return Err(format!(
                    "{at} offset {} of transaction {transaction} ({fate:?}) is visible {when} its producer began anew",
                    one.offset
                ));
            }
            visible.insert(*transaction);
        }
        let there: BTreeSet<i64> = seen.iter().map(|one| one.offset).collect();
        let start = self.start_max;
        let lost = self.must.iter().filter(|offset| **offset >= start).find(|offset| {
            let committed = match self.may.get(offset).and_then(|(_, transaction)| *transaction) {
                None => true,
                Some(transaction) => fates.get(&transaction) == Some(&Fate::Committed),
            };
            committed && !there.contains(offset)
        });
        match lost.filter(|_| ended) {
            Some(lost) => Err(format!("{at} offset {lost} was committed and is not visible")),
            None => Ok(visible),
        }
    }

    /// The next record gets a new offset and is read back.
    fn goes_on(&self, house: &House, at: &TopicPartition) -> Result<(), String> {
        let value = "after:the cut".to_owned();
        let made = batch(std::slice::from_ref(&value), None, false, EPOCH_MS);
        let base = house.produce(None, at, made).map_err(|code| format!("{at}: Produce answers {code}"))?;
        if self.must.last().is_some_and(|last| base <= *last) {
            return Err(format!("{at}: offset {base} given twice"));
        }
        // a marker may be among the records that the cut took and recovery named: its transaction stays open then
        let committed = !is_named(house, at);
        let seen = house.read(at, base, committed).map_err(|code| format!("{at}: Fetch answers {code}"))?;
        if seen == [Seen { offset: base, value }] {
            Ok(())
        } else {
            Err(format!("{at}: the record after the cut is not the last visible: {seen:?}"))
        }
    }
}

/// What a consumer gets of a partition. Only what need not be durable may be damaged, and recovery must have said so.
fn records(house: &House, at: &TopicPartition, start: i64, committed: bool) -> Result<Vec<Seen>, String> {
    let read = house.read_around(at, start, committed);
    let (seen, told) = read.map_err(|code| format!("{at}: Fetch answers {code}"))?;
    let Some(damage) = told.first() else { return Ok(seen) };
    if is_named(house, at) { Ok(seen) } else { Err(damage.sentence.clone()) }
}

/// Whether the partition may lose what was not synced, and recovery said that it did.
fn is_named(house: &House, at: &TopicPartition) -> bool {
    at.topic.as_ref() == "relaxed" && house.recovery.notes.iter().any(|note| note.contains(&at.to_string()))
}

/// Topics made are there, topics deleted are not. Returns those that need not be.
fn topics(house: &House, begun: &[&Act], done: &impl Fn(&Act) -> bool) -> Result<BTreeSet<String>, String> {
    let mut gone = BTreeSet::new();
    let mut expected = BTreeMap::new();
    for act in begun {
        match &act.what {
            What::Make { topic } => drop(expected.insert(topic, (true, done(act)))),
            What::Drop { topic } => drop(expected.insert(topic, (false, done(act)))),
            _ => {}
        }
    }
    for (topic, (there, promised)) in expected {
        let found = house.broker.log().topic(topic).is_some();
        if promised && found != there {
            return Err(format!(
                "topic {topic} was {}",
                if there { "made and is gone" } else { "deleted and is back" }
            ));
        }
        if !found {
            gone.insert(topic.clone());
        }
    }
    Ok(gone)
}

/// A transaction whose commit was not answered is seen in every partition whose records stay, or in none.
fn whole<'a>(
    begun: &[&Act],
    fates: &BTreeMap<usize, Fate>,
    visible: &BTreeSet<(usize, TopicPartition)>,
    parts: impl Iterator<Item = (&'a TopicPartition, &'a Part<'a>)>,
) -> Result<(), String> {
    let starts: BTreeMap<&TopicPartition, i64> = parts.map(|(at, part)| (at, part.start_max)).collect();
    for (number, _) in fates.iter().filter(|(_, fate)| **fate == Fate::Either) {
        let Some((_, seen)) = visible.iter().find(|(of, _)| of == number) else { continue };
        for act in begun {
            let What::Produce { at, base, transaction: Some(of), .. } = &act.what else { continue };
            let stays = at.topic.as_ref() != "relaxed" && starts.get(at).is_some_and(|start| base >= start);
            if of == number && stays && !visible.contains(&(*of, at.clone())) {
                return Err(format!(
                    "transaction {number} is torn: visible in {seen}, not in {at} at {base}"
                ));
            }
        }
    }
    Ok(())
}

/// The group's offset is the last that counts.
fn offsets(
    house: &House,
    begun: &[&Act],
    done: &impl Fn(&Act) -> bool,
    fates: &BTreeMap<usize, Fate>,
    visible: &BTreeSet<(usize, TopicPartition)>,
) -> Result<(), String> {
    let mut counts: BTreeMap<&TopicPartition, Vec<i64>> = BTreeMap::new();
    let mut pending: BTreeMap<usize, BTreeMap<&TopicPartition, i64>> = BTreeMap::new();
    for act in begun {
        match &act.what {
            What::Offset { at, offset, transaction: None } => {
                let one = counts.entry(at).or_insert_with(|| vec![-1]);
                if done(act) {
                    one.clear();
                }
                one.push(*offset);
            }
            What::Offset { at, offset, transaction: Some(transaction) } => {
                pending.entry(*transaction).or_default().insert(at, *offset);
            }
            What::End { transaction, .. } => {
                let fate = fates.get(transaction).copied().unwrap_or(Fate::Gone);
                for (at, offset) in pending.remove(transaction).unwrap_or_default() {
                    let one = counts.entry(at).or_insert_with(|| vec![-1]);
                    match fate {
                        Fate::Gone => {}
                        Fate::Committed => *one = vec![offset],
                        Fate::Either if visible.iter().any(|(of, _)| of == transaction) => {
                            *one = vec![offset]
                        }
                        Fate::Either => one.push(offset),
                    }
                }
            }
            _ => {}
        }
    }
    for (at, allowed) in counts {
        let found = house.committed(GROUP, at).map_err(|code| format!("{at}: OffsetFetch answers {code}"))?;
        if !allowed.contains(&found) {
            return Err(format!("{at}: committed offset {found}, promised {allowed:?}"));
        }
    }
    Ok(())
}

fn acls(house: &House, begun: &[&Act], done: &impl Fn(&Act) -> bool) -> Result<(), String> {
    let found = house.allowed().map_err(|code| format!("DescribeAcls answers {code}"))?;
    for act in begun.iter().filter(|act| done(act)) {
        let What::Allow { user } = &act.what else { continue };
        if !found.contains(&format!("User:{user}")) {
            return Err(format!("the ACL of {user} was acknowledged and is gone; there are {found:?}"));
        }
    }
    Ok(())
}

/// Event ids are known, and the last batch of an idempotent producer is a repeat.
fn repeats(house: &House, begun: &[&Act], done: &impl Fn(&Act) -> bool) -> Result<(), String> {
    let acts = begun.iter().rev().filter(|act| done(act));
    let mut events = 0;
    let mut producers = BTreeSet::new();
    for act in acts {
        let What::Produce { at, values, base, transaction, sequence } = &act.what else { continue };
        if at.topic.as_ref() == "ids" && events < IDS_RESENT {
            events += 1;
            let again = house.broker.produce(at, batch(values, None, false, EPOCH_MS));
            let again = again.map_err(|error| error.to_string())?;
            if again.duplicates != 1 || again.accepted != 0 {
                return Err(format!("{at}: event {} is accepted twice", values.concat()));
            }
        }
        let is_plain = transaction.is_none() && matches!(at.topic.as_ref(), "strict");
        if let (Some(sequence), true) = (sequence, is_plain)
            && producers.insert(at.clone())
        {
            let again = house.produce(None, at, batch(values, Some(*sequence), false, EPOCH_MS));
            if again != Ok(*base) {
                return Err(format!("{at}: the batch at {base}, sent again, is answered {again:?}"));
            }
        }
    }
    Ok(())
}
