//! The clients: producers of every kind, readers, members of a consumer group. Each has one request under way and sends it
//! again until it has an answer.

use std::collections::BTreeMap;

use herdsman_host::Clock as _;
use herdsman_record::{BatchBuilder, Compression};

use super::World;
use super::door::{Answer, Ask, Claim};
use super::truth::{ID_HEADER, Kind, Sent, State, Txn, is_doubt};

/// OUT_OF_ORDER_SEQUENCE_NUMBER.
const OUT_OF_ORDER: i16 = 45;
/// Keys of the compacted topic.
const KEYS: u64 = 6;

/// How a producer produces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// No producer id.
    Plain,
    /// With sequences.
    Idempotent,
    /// In transactions.
    Transactional,
}

/// A producer.
#[derive(Debug)]
pub struct Producer {
    style: Style,
    tid: String,
    /// Producer id and epoch; `None`: it has to begin.
    claim: Option<Claim>,
    /// Next sequence of each partition.
    sequences: BTreeMap<usize, i32>,
    /// Sent, and not answered yet.
    pending: Option<Ask>,
    /// Its transaction, and how many more requests go into it.
    txn: Option<(usize, u64)>,
    /// Next offset it commits for its group.
    consumed: i64,
}

impl Producer {
    /// A producer; `tid` is its transactional id and, for its offsets, its group.
    #[must_use]
    pub fn new(style: Style, tid: &str) -> Self {
        Self {
            style,
            tid: tid.to_owned(),
            claim: None,
            sequences: BTreeMap::new(),
            pending: None,
            txn: None,
            consumed: 0,
        }
    }

    fn begin_again(&mut self) {
        *self = Self { consumed: self.consumed, ..Self::new(self.style, &self.tid) };
    }
}

/// Sequence after `count` more records; from `i32::MAX` on to 0.
fn advance(sequence: i32, count: u64) -> i32 {
    let sum = i64::from(sequence) + i64::try_from(count).unwrap_or(0);
    i32::try_from(sum % (i64::from(i32::MAX) + 1)).unwrap_or(0)
}

impl World {
    /// One step of producer `number`.
    pub(super) fn produce(&mut self, number: usize) -> Result<(), String> {
        if self.seed.one_in(60) {
            self.note(|| format!("producer {number} dies"));
            self.producers[number].begin_again();
        }
        let ask = match self.producers[number].pending.take() {
            Some(ask) => ask,
            None => self.next_ask(number),
        };
        self.producers[number].pending = Some(ask.clone());
        let Some(answer) = self.send(&ask)? else { return Ok(()) };
        if is_doubt(answer.code) {
            return self.trouble();
        }
        let was_lost = self.power_cuts > 0; // and with it acknowledged sequences of topics that are not synced
        let producer = &mut self.producers[number];
        producer.pending = None;
        if answer.code != 0 {
            if answer.code == OUT_OF_ORDER && !was_lost {
                return Err(format!("{ask:?} is refused as out of order, nothing was lost"));
            }
            producer.begin_again();
            self.refused += 1;
            return Ok(());
        }
        self.answered(number, &ask, &answer);
        Ok(())
    }

    fn answered(&mut self, number: usize, ask: &Ask, answer: &Answer) {
        let producer = &mut self.producers[number];
        match ask {
            Ask::Init { .. } => {
                producer.claim = Some(answer.claim);
                producer.sequences.clear();
            }
            Ask::End { .. } => {
                producer.claim = Some(answer.claim);
                producer.sequences.clear();
                producer.txn = None;
            }
            _ => {}
        }
    }

    fn next_ask(&mut self, number: usize) -> Ask {
        let producer = &self.producers[number];
        let (style, tid) = (producer.style, producer.tid.clone());
        let Some(claim) = producer.claim.or((style == Style::Plain).then_some((-1, -1))) else {
            return Ask::Init { tid: (style == Style::Transactional).then_some(tid) };
        };
        if style != Style::Transactional {
            return self.batch(number, claim, None);
        }
        let (txn, left) = match self.producers[number].txn {
            Some(txn) => txn,
            None => {
                self.truth.txns.push(Txn {
                    tid: tid.clone(),
                    claim,
                    state: State::Open,
                    maybe: (false, false),
                    since_ms: None,
                    sents: Vec::new(),
                    offsets: Vec::new(),
                });
                (self.truth.txns.len() - 1, 1 + self.seed.below(5))
            }
        };
        self.producers[number].txn = Some((txn, left.saturating_sub(1)));
        if left == 0 {
            return Ask::End { tid, txn, claim, commit: !self.seed.one_in(3) };
        }
        if self.seed.one_in(4) {
            let producer = &mut self.producers[number];
            producer.consumed += 1;
            let (offset, at) = (producer.consumed, self.truth.parts[0].name.clone());
            return Ask::TxnOffset { group: format!("group of {tid}"), tid, txn, claim, at, offset };
        }
        self.batch(number, claim, Some(txn))
    }

    /// A new batch of a producer.
    fn batch(&mut self, number: usize, claim: Claim, txn: Option<usize>) -> Ask {
        let style = self.producers[number].style;
        let fits = |kind: Kind| match style {
            Style::Transactional => matches!(kind, Kind::Exact | Kind::Events | Kind::Table),
            Style::Idempotent => true,
            Style::Plain => kind != Kind::Exact,
        };
        let parts: Vec<usize> =
            (0..self.truth.parts.len()).filter(|part| fits(self.truth.parts[*part].kind)).collect();
        let part = parts[self.seed.index(parts.len())];
        let kind = self.truth.parts[part].kind;
        let first = self.truth.sent_of.len() as u64;
        let ids = first..first + 1 + self.seed.below(4);
        let count = ids.end - ids.start;
        let mut sent = Sent {
            part,
            ids: ids.clone(),
            exact: style != Style::Plain,
            txn,
            events: Vec::new(),
            keys: Vec::new(),
            timestamp_ms: self.clock.now_ms(),
            doubts: 0,
            base: None,
        };
        let mut builder = BatchBuilder::new();
        if style != Style::Plain {
            // sequences of some producers go round early
            let begin = if style == Style::Idempotent { i32::MAX - 5 } else { 0 };
            let sequence = self.producers[number].sequences.entry(part).or_insert(begin);
            builder.producer(claim.0, claim.1, *sequence);
            *sequence = advance(*sequence, count);
        }
        if txn.is_some() {
            builder.attributes(0x10);
        }
        let padding = vec![0x2e; [0, 10, 100, 400][self.seed.index(4)]];
        for id in ids {
            let id = id.to_be_bytes();
            let key = self.seed.below(KEYS);
            let deletes = kind == Kind::Table && self.seed.one_in(4);
            // some events are sent by several producers
            let event =
                if self.seed.one_in(3) { self.seed.below(40) } else { 1_000 + u64::from_be_bytes(id) };
            let name = event.to_be_bytes();
            let mut headers: Vec<(&str, Option<&[u8]>)> = vec![(ID_HEADER, Some(&id))];
            if kind == Kind::Events {
                sent.events.push(event);
                headers.push(("event-id", Some(&name)));
            }
            if kind == Kind::Table {
                sent.keys.push((key, deletes));
            }
            let value = (!deletes).then_some(padding.as_slice());
            builder.append(sent.timestamp_ms, Some(&key.to_be_bytes()), value, &headers);
        }
        let codec = if self.seed.one_in(4) { Compression::Lz4 } else { Compression::None };
        let bytes = builder.finish(codec).map(herdsman_record::Batch::into_bytes).unwrap_or_default();
        let number = self.truth.sents.len();
        self.truth.sent_of.extend((0..count).map(|_| number));
        self.truth.sents.push(sent);
        if let Some(txn) = txn {
            self.truth.txns[txn].sents.push(number);
        }
        let tid = txn.map(|txn| self.truth.txns[txn].tid.clone());
        Ask::Produce { sent: number, at: self.truth.parts[part].name.clone(), tid, bytes }
    }

    /// One page of one reader.
    pub(super) fn read(&mut self, number: usize) -> Result<(), String> {
        let part = self.seed.index(self.truth.parts.len());
        let committed = number % 2 == 1;
        let offset = self.readers[number][part];
        let max_bytes = [1, 300, 3_000, 1 << 20][self.seed.index(4)];
        let name = self.truth.parts[part].name.clone();
        let Some(door) = &mut self.door else { return Ok(()) };
        let page = door.page(&name, offset, committed, max_bytes)?;
        if self.disk.is_dead() {
            return self.restart(false);
        }
        let now_ms = self.clock.now_ms();
        let next = self.truth.check_page(part, offset, committed, &page, now_ms)?;
        self.note(|| format!("reader {number}: {name} {offset} to {next}"));
        self.readers[number][part] = if self.seed.one_in(20) { self.truth.parts[part].start } else { next };
        Ok(())
    }

    /// A simple consumer commits, or looks what it has committed.
    pub(super) fn commit(&mut self) -> Result<(), String> {
        let part = self.seed.index(self.truth.parts.len());
        let at = self.truth.parts[part].name.clone();
        let group = format!("group {}", self.seed.below(2));
        let ask = if self.seed.one_in(3) {
            Ask::Committed { group, at }
        } else {
            Ask::Commit {
                group,
                member: None,
                at,
                offset: i64::try_from(self.seed.below(1_000)).unwrap_or(0),
            }
        };
        match self.send(&ask)? {
            Some(answer) if is_doubt(answer.code) => self.trouble(),
            _ => Ok(()),
        }
    }

    /// An operator deletes records.
    pub(super) fn delete(&mut self) -> Result<(), String> {
        let deletable = |kind| matches!(kind, Kind::Plain | Kind::Exact | Kind::Expiring);
        let parts: Vec<usize> =
            (0..self.truth.parts.len()).filter(|part| deletable(self.truth.parts[*part].kind)).collect();
        let part = &self.truth.parts[parts[self.seed.index(parts.len())]];
        let span = u64::try_from(part.end - part.start).unwrap_or(0) / 2 + 1;
        let offset = part.start + i64::try_from(self.seed.below(span)).unwrap_or(0);
        let ask = Ask::Delete { at: part.name.clone(), offset };
        match self.send(&ask)? {
            Some(answer) if is_doubt(answer.code) => self.trouble(),
            _ => Ok(()),
        }
    }
}
