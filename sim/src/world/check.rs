//! What readers may see, and what must be there after a start.

use std::collections::{BTreeMap, BTreeSet};

use super::door::{Ask, Door, Page};
use super::truth::{Kind, State, Truth, records_of};

/// OFFSET_OUT_OF_RANGE.
const OUT_OF_RANGE: i16 = 1;
/// Bytes of one page while everything is read.
const PAGE_BYTES: i32 = 3_000;

/// A page as a reader of committed records takes it: which records it keeps, which it leaves out.
struct Taken {
    kept: Vec<(i64, u64)>,
    left_out: Vec<(i64, u64)>,
}

/// Leaves out aborted records by the list that came with them, as clients do (KIP-98).
fn take(page: &Page, from: i64, committed: bool) -> Result<Taken, String> {
    let mut taken = Taken { kept: Vec::new(), left_out: Vec::new() };
    let mut waiting = page.aborted.clone();
    waiting.sort_by_key(|(_, first)| *first);
    let mut waiting = waiting.into_iter().peekable();
    let mut aborted = BTreeSet::new();
    for batch in &page.batches {
        let header = batch.header();
        while let Some((producer, _)) = waiting.next_if(|(_, first)| *first < header.next_offset()) {
            aborted.insert(producer);
        }
        if header.is_control() {
            aborted.remove(&header.producer_id);
            continue;
        }
        let hidden = committed && header.is_transactional() && aborted.contains(&header.producer_id);
        let to = if hidden { &mut taken.left_out } else { &mut taken.kept };
        to.extend(records_of(std::slice::from_ref(batch), from)?);
    }
    Ok(taken)
}

impl Truth {
    /// Holds one page that a reader got at `offset` against what was promised; returns where to read on.
    ///
    /// # Errors
    /// What it breaks.
    pub fn check_page(
        &mut self,
        number: usize,
        offset: i64,
        committed: bool,
        page: &Page,
        now_ms: i64,
    ) -> Result<i64, String> {
        let part = &mut self.parts[number];
        let name = part.name.clone();
        if page.code == OUT_OF_RANGE && (offset < page.start || offset > page.high_watermark) {
            return if offset <= part.end && offset >= part.start_max {
                Err(format!("{name}: offset {offset} was there, now {}..{}", page.start, page.high_watermark))
            } else {
                Ok(page.start)
            };
        }
        if page.code != 0 {
            return Err(format!("{name}: reading at {offset} fails with code {}", page.code));
        }
        if page.high_watermark < part.end || page.start < part.start || page.start > part.start_max {
            let (start, end) = (page.start, page.high_watermark);
            return Err(format!("{name} is {start}..{end}, it was {}..{}", part.start, part.end));
        }
        part.end = page.high_watermark;
        let next = page.batches.last().map_or(offset, herdsman_record::Batch::next_offset);
        let taken = take(page, offset, committed)?;
        let mut found = BTreeMap::new();
        for (at, id) in taken.kept.iter().chain(&taken.left_out) {
            self.find(number, *at, *id, now_ms)?;
            found.insert(*at, *id);
        }
        if committed {
            self.check_committed(number, page, &taken)?;
        }
        let limit = match page.batches.is_empty() {
            true if committed => page.last_stable,
            true => page.high_watermark,
            false => next,
        };
        let part = &self.parts[number];
        let missed = part.records.range(offset.max(part.start)..limit.max(offset).max(part.start));
        if part.kind != Kind::Table
            && let Some((at, record)) = missed.clone().find(|(at, _)| !found.contains_key(at))
        {
            return Err(format!(
                "{name}: record {} at {at} is not there for a reader at {offset}",
                record.id
            ));
        }
        Ok(next)
    }

    fn check_committed(&mut self, number: usize, page: &Page, taken: &Taken) -> Result<(), String> {
        let name = self.parts[number].name.clone();
        if let Some(batch) = page.batches.iter().find(|batch| batch.next_offset() > page.last_stable) {
            let at = batch.base_offset();
            return Err(format!("{name}: {at} is read as committed above {}", page.last_stable));
        }
        for (at, id) in &taken.kept {
            match self.txn_of(*id) {
                Some((txn, State::Open)) if self.txns[txn].maybe.0 => self.end(txn, State::Committed),
                Some((txn, state)) if state != State::Committed => {
                    return Err(format!(
                        "{name}: record {id} at {at} is read as committed, transaction {txn} is {state:?}"
                    ));
                }
                _ => {}
            }
        }
        for (at, id) in &taken.left_out {
            match self.txn_of(*id) {
                Some((_, State::Aborted)) => {}
                Some((txn, State::Open)) if self.txns[txn].maybe.1 => self.end(txn, State::Aborted),
                other => return Err(format!("{name}: record {id} at {at} is left out, but {other:?}")),
            }
        }
        let mut may_be_unstable = false;
        for (txn_number, txn) in self.txns.iter().enumerate().filter(|(_, txn)| txn.state == State::Open) {
            for sent in txn.sents.iter().map(|sent| &self.sents[*sent]).filter(|sent| sent.part == number) {
                may_be_unstable |= sent.doubts > 0 || sent.base.is_some();
                let part = &self.parts[number];
                let first = part.records.iter().find(|(_, record)| sent.ids.contains(&record.id));
                if let Some((first, _)) = first
                    && page.last_stable > *first
                    && txn.maybe == (false, false)
                {
                    let stable = page.last_stable;
                    return Err(format!("{name}: {stable} is stable, transaction {txn_number} has {first}"));
                }
            }
        }
        if !may_be_unstable && page.last_stable != page.high_watermark {
            let (stable, end) = (page.last_stable, page.high_watermark);
            return Err(format!("{name}: {stable} is stable of {end}, but no transaction is open"));
        }
        Ok(())
    }

    /// Holds everything against what was promised, after a start or at the end.
    ///
    /// # Errors
    /// What is broken.
    pub fn compare(&mut self, door: &mut Door, power_cut: bool, now_ms: i64) -> Result<(), String> {
        let mut standing = Vec::new();
        for number in 0..self.parts.len() {
            standing.push(self.compare_part(number, door, power_cut, now_ms)?);
        }
        self.settle(door, true, now_ms)?;
        for (number, found) in standing.iter().enumerate() {
            if self.parts[number].kind == Kind::Table {
                self.compare_table(number, found, now_ms)?;
            }
            let mut offset = self.parts[number].start;
            loop {
                let page = door.page(&self.parts[number].name, offset, true, PAGE_BYTES)?;
                let next = self.check_page(number, offset, true, &page, now_ms)?;
                if next <= offset {
                    break;
                }
                offset = next;
            }
        }
        let groups: Vec<_> = self.groups.keys().cloned().collect();
        for (group, at) in groups {
            let ask = Ask::Committed { group, at };
            let answer = door.ask(&ask)?;
            if answer.code != 0 {
                return Err(format!("{ask:?}: {answer:?}"));
            }
            self.judge(&ask, &answer, true, door, now_ms)?;
        }
        self.groups.values_mut().for_each(|held| held.maybe.clear());
        Ok(())
    }

    /// Compares one partition; returns what stands in it.
    fn compare_part(
        &mut self,
        number: usize,
        door: &mut Door,
        power_cut: bool,
        now_ms: i64,
    ) -> Result<BTreeMap<i64, u64>, String> {
        let part = &mut self.parts[number];
        let name = part.name.clone();
        let (start, end) = door.broker.log().offsets(&name).map_err(|error| error.to_string())?;
        if start < part.start_promised || start > part.start_max.max(part.start) {
            let (from, to) = (part.start_promised, part.start_max);
            return Err(format!("{name} starts at {start}, expected {from}..={to}"));
        }
        let may_lose = power_cut && !part.strict;
        if end < part.end && !may_lose {
            return Err(format!("{name} ends at {end}, before at {}", part.end));
        }
        part.begin_at(start);
        if may_lose {
            part.end = end;
        }
        let mut found = BTreeMap::new();
        let mut offset = start;
        while offset < end {
            let page = door.page(&name, offset, false, PAGE_BYTES)?;
            if page.code != 0 {
                return Err(format!("{name}: reading at {offset} fails with code {}", page.code));
            }
            let Some(last) = page.batches.last() else { break };
            found.extend(records_of(&page.batches, offset)?);
            offset = last.next_offset();
        }
        let is_table = part.kind == Kind::Table;
        let mut lost = Vec::new();
        for (offset, record) in &part.records {
            let id = found.get(offset);
            let excused = is_table && id.is_none() || may_lose && !record.durable;
            if id != Some(&record.id) && !excused {
                return Err(format!("{name}: record {} at {offset} is now {id:?}", record.id));
            }
            if id != Some(&record.id) && !is_table {
                lost.push((*offset, record.id));
            }
        }
        for (offset, id) in lost {
            self.parts[number].records.remove(&offset);
            if let Some(sent) = self.sent_number(id) {
                self.sents[sent].base = None;
                self.sents[sent].doubts += 1; // a part of it may be left
            }
        }
        for (offset, id) in &found {
            self.find(number, *offset, *id, now_ms)?;
        }
        if power_cut {
            self.parts[number].records.values_mut().for_each(|record| record.durable = true);
        }
        Ok(found)
    }

    /// A compacted partition may lack what was aborted, what a newer committed record of its key replaces, and deletions whose
    /// time is over.
    fn compare_table(
        &mut self,
        number: usize,
        found: &BTreeMap<i64, u64>,
        now_ms: i64,
    ) -> Result<(), String> {
        let part = &self.parts[number];
        let mut newest = BTreeMap::new();
        for (offset, record) in &part.records {
            if !matches!(self.txn_of(record.id), Some((_, State::Aborted | State::Open)))
                && let Some((key, _)) = self.key_of(record.id)
            {
                newest.insert(key, *offset);
            }
        }
        let mut gone = Vec::new();
        for (offset, record) in part.records.iter().filter(|(offset, _)| !found.contains_key(offset)) {
            let Some((key, deletes)) = self.key_of(record.id) else { continue };
            let sent = self.sent_number(record.id).map_or(now_ms, |sent| self.sents[sent].timestamp_ms);
            let is_replaced = newest.get(&key).is_some_and(|newest| newest > offset);
            let is_aborted = matches!(self.txn_of(record.id), Some((_, State::Aborted)));
            if !(is_replaced || is_aborted || deletes && now_ms - sent > self.tombstones_ms) {
                let name = &part.name;
                return Err(format!(
                    "{name}: record {} at {offset}, the newest of its key, is gone",
                    record.id
                ));
            }
            gone.push(*offset);
        }
        let records = &mut self.parts[number].records;
        records.retain(|offset, _| !gone.contains(offset));
        Ok(())
    }

    fn key_of(&self, id: u64) -> Option<(u64, bool)> {
        let sent = &self.sents[self.sent_number(id)?];
        sent.keys.get(usize::try_from(id - sent.ids.start).ok()?).copied()
    }
}
