//! What was promised: every record sent, where it stands, which transaction it belongs to, what groups have committed.
//!
//! An answer without an error is a promise, whether or not the client got it. After an error other than a refusal the request
//! is in doubt: what it asked for may be there after the next start or not, but never in part and never twice.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use herdsman_record::TopicPartition;

use super::door::{Answer, Ask, Claim, Door, TRANSACTION_TIMEOUT_MS};

/// Header that carries a record's number.
pub const ID_HEADER: &str = "id";
/// Codes that say that nothing was done and nothing will be: UNKNOWN_TOPIC_OR_PARTITION, UNKNOWN_MEMBER_ID,
/// OFFSET_OUT_OF_RANGE, ILLEGAL_GENERATION, OUT_OF_ORDER_SEQUENCE_NUMBER, DUPLICATE_SEQUENCE_NUMBER, INVALID_PRODUCER_EPOCH,
/// INVALID_TXN_STATE, INVALID_PRODUCER_ID_MAPPING, PRODUCER_FENCED, FENCED_MEMBER_EPOCH, STALE_MEMBER_EPOCH,
/// TRANSACTION_ABORTABLE.
const REFUSALS: [i16; 13] = [1, 3, 22, 25, 45, 46, 47, 48, 49, 90, 110, 113, 120];

/// What a topic is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Plain and idempotent producers.
    Plain,
    /// Transactions, too.
    Exact,
    /// Each event id once.
    Events,
    /// Compacted.
    Table,
    /// Records go when they are old.
    Expiring,
}

/// A record that stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rec {
    /// Its number.
    pub id: u64,
    /// Promised to survive a power cut.
    pub durable: bool,
}

/// One partition.
#[derive(Debug)]
pub struct Part {
    /// Its name.
    pub name: TopicPartition,
    /// What its topic is for.
    pub kind: Kind,
    /// Whether an acknowledged record survives a power cut.
    pub strict: bool,
    /// Records by offset.
    pub records: BTreeMap<i64, Rec>,
    /// Records below a start that was not acknowledged: they may be back after a restart.
    pub hidden: BTreeMap<i64, Rec>,
    /// Log start offset.
    pub start: i64,
    /// Highest start that was acknowledged.
    pub start_promised: i64,
    /// Highest start that may have been set.
    pub start_max: i64,
    /// Highest end that was acknowledged or seen.
    pub end: i64,
}

/// A batch that some client sends, maybe often.
#[derive(Debug)]
pub struct Sent {
    /// Its partition.
    pub part: usize,
    /// Numbers of its records.
    pub ids: Range<u64>,
    /// Sent by an idempotent producer: stands once at most.
    pub exact: bool,
    /// Its transaction.
    pub txn: Option<usize>,
    /// Event id of each record, in a topic that has them.
    pub events: Vec<u64>,
    /// Key of each record and whether it deletes the key, in a compacted topic.
    pub keys: Vec<(u64, bool)>,
    /// Its records' timestamp.
    pub timestamp_ms: i64,
    /// Times it was answered with an error that leaves it in doubt.
    pub doubts: u32,
    /// Acknowledged at this offset.
    pub base: Option<i64>,
}

/// Where a transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Not ended.
    Open,
    /// Committed.
    Committed,
    /// Aborted.
    Aborted,
}

/// A group's offset: group, partition, offset.
pub type GroupOffset = (String, TopicPartition, i64);

/// One transaction.
#[derive(Debug)]
pub struct Txn {
    /// Transactional id.
    pub tid: String,
    /// Its producer.
    pub claim: Claim,
    /// Where it stands.
    pub state: State,
    /// A commit, an abort is in doubt.
    pub maybe: (bool, bool),
    /// Wall-clock time of its first request; `None` before.
    pub since_ms: Option<i64>,
    /// Its batches.
    pub sents: Vec<usize>,
    /// Offsets committed with it; whether that is in doubt.
    pub offsets: Vec<(GroupOffset, bool)>,
}

/// What a group has committed for a partition.
#[derive(Debug, Default)]
pub struct Held {
    /// The offset; −1 for none.
    pub value: i64,
    /// Offsets in doubt.
    pub maybe: Vec<i64>,
}

/// Everything promised.
#[derive(Debug, Default)]
pub struct Truth {
    /// Partitions.
    pub parts: Vec<Part>,
    /// Batches.
    pub sents: Vec<Sent>,
    /// Batch of each record.
    pub sent_of: Vec<usize>,
    /// Transactions.
    pub txns: Vec<Txn>,
    /// Committed offsets.
    pub groups: BTreeMap<(String, TopicPartition), Held>,
    /// The present producer of each transactional id.
    pub claims: BTreeMap<String, Claim>,
    /// Where each event id stands: partition, offset, when it was accepted.
    pub events: BTreeMap<u64, (usize, i64, i64)>,
    /// Event ids that an aborted transaction gave back: what was dropped for them meanwhile is not written after all.
    pub given_back: BTreeSet<u64>,
    /// `herdsman.dedupe.window.ms`.
    pub window_ms: i64,
    /// `delete.retention.ms` of compacted topics.
    pub tombstones_ms: i64,
    /// Records acknowledged.
    pub acknowledged: u64,
}

/// Whether a code leaves a request in doubt.
#[must_use]
pub fn is_doubt(code: i16) -> bool {
    code != 0 && !REFUSALS.contains(&code)
}

impl Part {
    /// The log starts at `start` now.
    pub fn begin_at(&mut self, start: i64) {
        let kept = self.records.split_off(&start);
        self.hidden.extend(std::mem::replace(&mut self.records, kept));
        self.records.extend(self.hidden.split_off(&start));
        self.start = start;
    }
}

impl Truth {
    /// Number of the partition called `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn part_of(&self, name: &TopicPartition) -> Result<usize, String> {
        let found = self.parts.iter().position(|part| part.name == *name);
        found.ok_or_else(|| format!("{name} is no partition of the simulation"))
    }

    /// Transaction of a record, and where it stands.
    #[must_use]
    pub fn txn_of(&self, id: u64) -> Option<(usize, State)> {
        let sent = self.sents.get(self.sent_number(id)?)?;
        sent.txn.map(|txn| (txn, self.txns[txn].state))
    }

    /// Number of the batch of a record.
    #[must_use]
    pub fn sent_number(&self, id: u64) -> Option<usize> {
        usize::try_from(id).ok().and_then(|id| self.sent_of.get(id)).copied()
    }

    /// A request is about to be handed in.
    ///
    /// # Errors
    /// It names what is not in the simulation.
    pub fn before(&mut self, ask: &Ask, now_ms: i64) -> Result<(), String> {
        let txn = match ask {
            Ask::Produce { sent, .. } => self.sents[*sent].txn,
            Ask::TxnOffset { txn, .. } => Some(*txn),
            Ask::Delete { at, offset } => {
                let part = self.part_of(at)?;
                let part = &mut self.parts[part];
                part.start_max = part.start_max.max(*offset);
                None
            }
            _ => None,
        };
        if let Some(txn) = txn {
            let since = &mut self.txns[txn].since_ms;
            *since = Some(since.map_or(now_ms, |since| since.min(now_ms)));
        }
        Ok(())
    }

    /// Takes in an answer; `alive`: the process was still there to give it.
    ///
    /// # Errors
    /// What the answer breaks.
    pub fn judge(
        &mut self,
        ask: &Ask,
        answer: &Answer,
        alive: bool,
        door: &Door,
        now_ms: i64,
    ) -> Result<(), String> {
        let done = answer.code == 0 && alive;
        let doubt = !alive || is_doubt(answer.code);
        if let (true, Ask::Init { tid: Some(tid) } | Ask::End { tid, .. }) = (done, ask) {
            self.claims.insert(tid.clone(), answer.claim);
        }
        match ask {
            Ask::Produce { sent, .. } if done => self.acknowledge(*sent, answer.offset, door, now_ms)?,
            Ask::Produce { sent, .. } => self.sents[*sent].doubts += u32::from(doubt),
            Ask::Init { tid: Some(tid) } => {
                for number in 0..self.txns.len() {
                    let txn = &mut self.txns[number];
                    if txn.tid == *tid && txn.state == State::Open {
                        txn.maybe.1 |= doubt;
                        if done {
                            self.end(number, State::Aborted);
                        }
                    }
                }
            }
            Ask::End { txn, commit, .. } => self.judge_end(*txn, *commit, done, doubt)?,
            Ask::TxnOffset { txn, group, at, offset, .. } if done || doubt => {
                let number = *txn;
                let txn = &mut self.txns[number];
                if done && txn.state != State::Open {
                    return Err(format!(
                        "offsets of transaction {number} accepted, which is {:?}",
                        txn.state
                    ));
                }
                txn.offsets.push(((group.clone(), at.clone(), *offset), !done));
            }
            Ask::Commit { group, at, offset, member } if done || doubt => {
                let held = self.held(group, at);
                // a member commits behind what it found committed: below that is only one that lost the partition
                if done && member.is_some() && *offset < held.value {
                    return Err(format!("{member:?} of {group} commits {offset} for {at}, after {held:?}"));
                }
                if done {
                    *held = Held { value: *offset, maybe: Vec::new() };
                } else {
                    held.maybe.push(*offset);
                }
            }
            Ask::Committed { group, at } if done => self.judge_committed(group, at, answer.offset)?,
            Ask::Delete { at, offset } => self.judge_delete(at, *offset, answer, done, door)?,
            _ => {}
        }
        Ok(())
    }

    fn held(&mut self, group: &str, at: &TopicPartition) -> &mut Held {
        let new = || Held { value: -1, maybe: Vec::new() };
        self.groups.entry((group.to_owned(), at.clone())).or_insert_with(new)
    }

    fn judge_end(&mut self, number: usize, commit: bool, done: bool, doubt: bool) -> Result<(), String> {
        let wanted = if commit { State::Committed } else { State::Aborted };
        let txn = &mut self.txns[number];
        if doubt && txn.state == State::Open {
            *(if commit { &mut txn.maybe.0 } else { &mut txn.maybe.1 }) = true;
        }
        match txn.state {
            _ if !done => {}
            State::Open => self.end(number, wanted),
            state if state == wanted => {}
            state => {
                return Err(format!("transaction {number} is {state:?}, and now acknowledged as {wanted:?}"));
            }
        }
        Ok(())
    }

    /// A transaction ends: its offsets count, or its event ids are free again.
    pub fn end(&mut self, number: usize, state: State) {
        let txn = &mut self.txns[number];
        txn.state = state;
        let offsets = std::mem::take(&mut txn.offsets);
        let sents = txn.sents.clone();
        if state == State::Committed {
            for ((group, at, offset), doubt) in offsets {
                let held = self.held(&group, &at);
                if doubt {
                    held.maybe.push(offset);
                } else {
                    *held = Held { value: offset, maybe: Vec::new() };
                }
            }
            return;
        }
        for sent in sents {
            let (part, ids) = (self.sents[sent].part, self.sents[sent].ids.clone());
            self.given_back.extend(&self.sents[sent].events);
            let records = &self.parts[part].records;
            self.events.retain(|_, (at, offset, _)| {
                *at != part || records.get(offset).is_none_or(|record| !ids.contains(&record.id))
            });
        }
    }

    /// A group's offset as the broker tells it.
    fn judge_committed(&mut self, group: &str, at: &TopicPartition, offset: i64) -> Result<(), String> {
        let held = self.held(group, at);
        if offset != held.value && !held.maybe.contains(&offset) {
            return Err(format!("group {group} has {offset} for {at}, committed was {held:?}"));
        }
        held.value = offset;
        Ok(())
    }

    fn judge_delete(
        &mut self,
        at: &TopicPartition,
        offset: i64,
        answer: &Answer,
        done: bool,
        door: &Door,
    ) -> Result<(), String> {
        let number = self.part_of(at)?;
        let part = &mut self.parts[number];
        if done {
            if answer.offset < offset {
                return Err(format!("{at} starts at {} after deleting below {offset}", answer.offset));
            }
            part.start_promised = part.start_promised.max(offset);
        }
        self.adopt_start(number, door)
    }

    /// Takes over where a partition begins now, if it may begin there.
    ///
    /// # Errors
    /// It may not.
    pub fn adopt_start(&mut self, number: usize, door: &Door) -> Result<(), String> {
        let part = &mut self.parts[number];
        let Ok((start, _)) = door.broker.log().offsets(&part.name) else { return Ok(()) };
        if start < part.start || start > part.start_max {
            let (from, to) = (part.start, part.start_max);
            return Err(format!("{} starts at {start}, expected {from}..={to}", part.name));
        }
        part.begin_at(start);
        Ok(())
    }

    fn acknowledge(&mut self, number: usize, base: i64, door: &Door, now_ms: i64) -> Result<(), String> {
        let sent = &self.sents[number];
        let (part, exact, before) = (sent.part, sent.exact, sent.base);
        let name = self.parts[part].name.clone();
        if exact && before == Some(base) {
            return Ok(());
        }
        if let (true, Some(before), Kind::Plain | Kind::Exact) = (exact, before, self.parts[part].kind) {
            return Err(format!("batch {number} acknowledged at {before} of {name}, and now at {base}"));
        }
        if let Some(txn) = sent.txn.filter(|txn| self.txns[*txn].state != State::Open && before.is_none()) {
            let state = self.txns[txn].state;
            return Err(format!("batch {number} of transaction {txn} accepted, which is {state:?}"));
        }
        let ids = sent.ids.clone();
        self.sents[number].base = Some(base);
        if self.parts[part].kind == Kind::Events {
            self.sents[number].doubts += 1; // which of its records are new is read from the log
            let count = i64::try_from(ids.end - ids.start).unwrap_or(0);
            if self.learn(part, base, base + count, door, now_ms)? {
                let sent = &mut self.sents[number];
                sent.doubts -= 1;
                let excused = |event: &u64| sent.doubts > 0 && self.given_back.contains(event);
                let lost = |event: &&u64| !self.events.contains_key(event) && !excused(event);
                if let Some(event) = sent.events.iter().find(lost) {
                    return Err(format!(
                        "event {event} of batch {number} is acknowledged, and stands nowhere"
                    ));
                }
            }
        } else {
            for (offset, id) in (base..).zip(ids.clone()) {
                self.find(part, offset, id, now_ms)?;
            }
        }
        self.acknowledged += ids.end - ids.start;
        Ok(())
    }

    /// Reads what stands in offsets `from .. to` now; false if the process dies over it.
    fn learn(&mut self, part: usize, from: i64, to: i64, door: &Door, now_ms: i64) -> Result<bool, String> {
        let name = self.parts[part].name.clone();
        let (start, end) = door.broker.log().offsets(&name).map_err(|error| error.to_string())?;
        let mut next = from.max(start);
        while next < to.min(end) {
            let Ok(out) = door.broker.log().read(&name, next, 4_096) else { return Ok(false) };
            let Some(last) = out.batches.last() else { break };
            for (offset, id) in records_of(&out.batches, next)? {
                if offset < to {
                    self.find(part, offset, id, now_ms)?;
                }
            }
            next = last.next_offset();
        }
        Ok(true)
    }

    /// A reader found record `id` at `offset`.
    ///
    /// # Errors
    /// It is not what stood there, nobody can have written it, or it stands elsewhere as well.
    pub fn find(&mut self, number: usize, offset: i64, id: u64, now_ms: i64) -> Result<(), String> {
        let part = &self.parts[number];
        let name = &part.name;
        if let Some(known) = part.records.get(&offset) {
            return if known.id == id {
                Ok(())
            } else {
                Err(format!("offset {offset} of {name} was record {}, now it is {id}", known.id))
            };
        }
        let sent = self.sent_number(id).ok_or_else(|| format!("nobody has sent record {id} of {name}"))?;
        let sent = &self.sents[sent];
        let known = sent.base.is_some_and(|base| offset == base + id_delta(&sent.ids, id));
        if sent.part != number || (sent.doubts == 0 && !known) {
            return Err(format!("record {id} stands at {offset} of {name}, where nobody has put it"));
        }
        if sent.exact && part.records.values().any(|record| record.id == id) {
            return Err(format!("record {id} of an idempotent producer stands twice in {name}"));
        }
        if let Some(txn) = sent.txn.filter(|txn| self.txns[*txn].state == State::Committed && !known) {
            return Err(format!("record {id} came into transaction {txn} after its end"));
        }
        let durable = part.strict;
        if let Some(event) = sent.events.get(usize::try_from(id_delta(&sent.ids, id)).unwrap_or(usize::MAX)) {
            let event = *event;
            let is_aborted = matches!(self.txn_of(id), Some((_, State::Aborted)));
            if let Some((at, other, accepted_ms)) = self.events.get(&event)
                && (*at, *other) != (number, offset)
                && now_ms - accepted_ms < self.window_ms
            {
                let at = &self.parts[*at].name;
                return Err(format!("event {event} stands at {other} of {at} and at {offset} of {name}"));
            }
            if !is_aborted {
                self.events.insert(event, (number, offset, now_ms));
            }
        }
        let part = &mut self.parts[number];
        part.records.insert(offset, Rec { id, durable });
        part.end = part.end.max(offset + 1);
        Ok(())
    }

    /// Asks where open transactions stand: after a round of time-outs, and after a start.
    ///
    /// # Errors
    /// One was ended by nobody.
    pub fn settle(&mut self, door: &mut Door, started: bool, now_ms: i64) -> Result<(), String> {
        for number in 0..self.txns.len() {
            let txn = &self.txns[number];
            let Some(since_ms) = txn.since_ms.filter(|_| txn.state == State::Open) else { continue };
            let answer = door.ask(&Ask::Describe { tid: txn.tid.clone() })?;
            let said = format!("transaction {number} of {}: {answer:?}", txn.tid);
            if answer.code != 0 {
                return Err(said);
            }
            let has_begun = txn.sents.iter().any(|sent| self.sents[*sent].base.is_some())
                || txn.offsets.iter().any(|(_, doubt)| !doubt);
            if answer.claim == txn.claim {
                if answer.state != "Ongoing" && has_begun {
                    return Err(format!("{said}, but it was open"));
                }
                if started {
                    self.txns[number].maybe = (false, false);
                }
                continue;
            }
            let is_overdue = now_ms - since_ms > i64::from(TRANSACTION_TIMEOUT_MS);
            let committed = answer.state == "CompleteCommit";
            // a producer that was fenced before it wrote anything has no transaction
            let by_somebody = if committed { txn.maybe.0 } else { txn.maybe.1 || is_overdue || !has_begun };
            if !by_somebody {
                return Err(format!("{said}, but nobody has ended it"));
            }
            self.end(number, if committed { State::Committed } else { State::Aborted });
        }
        Ok(())
    }
}

/// Place of record `id` in its batch.
fn id_delta(ids: &Range<u64>, id: u64) -> i64 {
    i64::try_from(id - ids.start).unwrap_or(i64::MAX)
}

/// Offset and number of each record at or above `from`; control batches have none.
///
/// # Errors
/// A record without its number.
pub fn records_of(batches: &[herdsman_record::Batch], from: i64) -> Result<Vec<(i64, u64)>, String> {
    let mut found = Vec::new();
    for batch in batches.iter().filter(|batch| !batch.header().is_control()) {
        let records = batch.records().map_err(|error| error.to_string())?;
        for record in records.iter() {
            let record = record.map_err(|error| error.to_string())?;
            let id = record.headers.get(ID_HEADER).and_then(|id| id.first_chunk().copied());
            let id = id.ok_or_else(|| format!("offset {} has no number", record.offset))?;
            if record.offset >= from {
                found.push((record.offset, u64::from_be_bytes(id)));
            }
        }
    }
    Ok(found)
}
