//! Two streams joined on their keys within a time range, as Kafka Streams' `KStreamKStreamJoin` does it.
//!
//! With a grace period, rows of an outer side wait for their partner and go out alone when stream time has passed the
//! window and its grace; without one (`grace_ms: None`) they go out alone at once, as ksqlDB always did.

use std::collections::{BTreeMap, HashMap, HashSet};

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

use crate::Schema;
use crate::keys::{KeyCodec, RowCodec, arrow_types};
use crate::operator::{ChangeSink, Context, NO_TIME, Operator, OperatorError};
use crate::operators::aggregate::take_i64;
use crate::plan::JoinKind;
use crate::rows::{Rows, Windows};

/// ksqlDB's grace period when none is stated, ms.
const DEFAULT_GRACE_MS: i64 = 24 * 60 * 60 * 1_000;

/// How the join works. Times are milliseconds.
pub struct JoinSpec {
    /// Left columns.
    pub left: Schema,
    /// Right columns.
    pub right: Schema,
    /// Kind.
    pub kind: JoinKind,
    /// Right rows may be so much older.
    pub before_ms: i64,
    /// Right rows may be so much younger.
    pub after_ms: i64,
    /// Grace; `None`: outer rows go out at once.
    pub grace_ms: Option<i64>,
    /// Keys have windows, which must be equal too.
    pub windowed: bool,
}

/// Window start and end stand before the key of windowed streams.
const WINDOW_LEN: usize = 16;

type Bytes = Box<[u8]>;

/// The rows of one side, by key and time.
struct Side {
    key: KeyCodec,
    value: RowCodec,
    types: Vec<DataType>,
    rows: HashMap<Bytes, Vec<(i64, u32, Bytes)>>,
    by_time: BTreeMap<i64, Vec<Bytes>>,
    sequence: u32,
    /// Largest time stored: each side forgets by its own, as the two window stores of Kafka Streams do.
    observed: i64,
}

impl Side {
    fn new(schema: &Schema) -> Result<Self, OperatorError> {
        Ok(Self {
            key: KeyCodec::new(&schema.key)?,
            value: RowCodec::new(&schema.value)?,
            types: arrow_types(&schema.value),
            rows: HashMap::new(),
            by_time: BTreeMap::new(),
            sequence: 0,
            observed: NO_TIME,
        })
    }

    fn insert(&mut self, key: &[u8], time: i64, sequence: u32, row: &[u8]) {
        self.sequence = self.sequence.max(sequence.wrapping_add(1));
        self.observed = self.observed.max(time);
        let all = self.rows.entry(key.into()).or_default();
        let at = all.partition_point(|(other, ..)| *other <= time);
        all.insert(at, (time, sequence, row.into()));
        self.by_time.entry(time).or_default().push(key.into());
    }

    fn expire(&mut self, before: i64, mut gone: impl FnMut(&[u8], i64, u32)) {
        while let Some(entry) = self.by_time.first_entry().filter(|entry| *entry.key() < before) {
            let (time, keys) = entry.remove_entry();
            for key in keys {
                let Some(all) = self.rows.get_mut(&key) else { continue };
                all.retain(|(at, sequence, _)| {
                    if *at == time {
                        gone(&key, *at, *sequence);
                    }
                    *at != time
                });
                if all.is_empty() {
                    self.rows.remove(&key);
                }
            }
        }
    }
}

/// One line of output.
struct Line {
    key: Bytes,
    left: Option<Bytes>,
    right: Option<Bytes>,
    time: i64,
}

/// A stream-stream join with its window stores.
pub struct StreamStreamJoin {
    spec: JoinSpec,
    sides: [Side; 2],
    /// Outer rows that wait for a partner: (time, side (right first), key).
    waiting: BTreeMap<(i64, u8, Bytes), Vec<Bytes>>,
    stream_time: i64,
    dirty: HashSet<Vec<u8>>,
    meta_dirty: bool,
}

impl StreamStreamJoin {
    /// A join that has seen nothing.
    ///
    /// # Errors   types that cannot be encoded.
    pub fn new(spec: JoinSpec) -> Result<Self, OperatorError> {
        Ok(Self {
            sides: [Side::new(&spec.left)?, Side::new(&spec.right)?],
            spec,
            waiting: BTreeMap::new(),
            stream_time: NO_TIME,
            dirty: HashSet::new(),
            meta_dirty: false,
        })
    }

    fn outer(&self, side: usize) -> bool {
        match self.spec.kind {
            JoinKind::Inner => false,
            JoinKind::Left => side == 0,
            JoinKind::Right => side == 1,
            JoinKind::Outer => true,
        }
    }

    fn grace(&self) -> i64 {
        self.spec.grace_ms.unwrap_or(DEFAULT_GRACE_MS)
    }

    /// How far back and ahead of its own time a row of `side` looks on the other side.
    fn reach(&self, side: usize) -> (i64, i64) {
        if side == 0 {
            (self.spec.before_ms, self.spec.after_ms)
        } else {
            (self.spec.after_ms, self.spec.before_ms)
        }
    }

    fn retention(&self) -> i64 {
        self.spec.before_ms.saturating_add(self.spec.after_ms).saturating_add(self.grace())
    }

    fn line(side: usize, key: &[u8], own: &[u8], other: Option<&[u8]>, time: i64) -> Line {
        let (own, other) = (Some(own.into()), other.map(Into::into));
        let (left, right) = if side == 0 { (own, other) } else { (other, own) };
        Line { key: key.into(), left, right, time }
    }

    fn join_row(&mut self, side: usize, key: &[u8], time: i64, row: &[u8], lines: &mut Vec<Line>) {
        let other = 1 - side;
        let (back, ahead) = self.reach(side);
        let (from, to) = (time.saturating_sub(back).max(0), time.saturating_add(ahead).max(0));
        let oldest = self.sides[other].observed.saturating_sub(self.retention());
        let mut alone = true;
        let mut matched = Vec::new();
        let stored = self.sides[other].rows.get(key).map(Vec::as_slice).unwrap_or_default();
        let first = stored.partition_point(|(at, ..)| *at < from);
        for (at, _, partner) in stored[first..].iter().take_while(|(at, ..)| *at <= to) {
            if *at <= oldest {
                continue;
            }
            alone = false;
            matched.push(*at);
            lines.push(Self::line(side, key, row, Some(partner), time.max(*at)));
        }
        for at in matched {
            let waiting = (at, waiting_side(other), Bytes::from(key));
            if self.waiting.remove(&waiting).is_some() {
                self.dirty.insert(waiting_key(&waiting));
            }
        }
        if alone && self.outer(side) {
            if self.spec.grace_ms.is_none() || to < self.stream_time {
                lines.push(Self::line(side, key, row, None, time));
            } else {
                let waiting = (time, waiting_side(side), Bytes::from(key));
                self.dirty.insert(waiting_key(&waiting));
                self.waiting.entry(waiting).or_default().push(row.into());
            }
        }
    }

    /// Outer rows whose window and grace have passed.
    fn release(&mut self, lines: &mut Vec<Line>) {
        let ready: Vec<(i64, u8, Bytes)> = self
            .waiting
            .keys()
            .take_while(|(time, ..)| *time < self.stream_time)
            .filter(|(time, side, _)| {
                let (_, ahead) = self.reach(usize::from(*side == 0));
                time.saturating_add(ahead).saturating_add(self.grace()) < self.stream_time
            })
            .cloned()
            .collect();
        for waiting in ready {
            self.dirty.insert(waiting_key(&waiting));
            for row in self.waiting.remove(&waiting).unwrap_or_default() {
                lines.push(Self::line(usize::from(waiting.1 == 0), &waiting.2, &row, None, waiting.0));
            }
        }
    }

    fn expire(&mut self) {
        let retention = self.retention();
        for side in 0..2 {
            let before = self.sides[side].observed.saturating_sub(retention).saturating_add(1);
            let dirty = &mut self.dirty;
            self.sides[side].expire(before, |key, time, sequence| {
                dirty.insert(row_key(side, key, time, sequence));
            });
        }
    }

    fn output(&self, lines: &[Line]) -> Result<Option<Rows>, OperatorError> {
        if lines.is_empty() {
            return Ok(None);
        }
        let bare = if self.spec.windowed { WINDOW_LEN } else { 0 };
        let keys: Vec<&[u8]> = lines.iter().map(|line| line.key.get(bare..).unwrap_or_default()).collect();
        let key = self.sides[0].key.decode(&keys)?;
        let mut columns = key.clone();
        for (side, rows) in self.sides.iter().zip([
            lines.iter().map(|line| line.left.as_deref()).collect::<Vec<_>>(),
            lines.iter().map(|line| line.right.as_deref()).collect(),
        ]) {
            columns.extend(present_only(&key, &rows)?);
            columns.extend(side.value.decode_optional(&rows, &side.types)?);
        }
        let mut rows = Rows::new(columns, lines.iter().map(|line| line.time).collect());
        if self.spec.windowed {
            let bounds = lines.iter().map(|line| {
                let mut key = &*line.key;
                Ok((take_i64(&mut key)?, take_i64(&mut key)?))
            });
            let bounds = bounds.collect::<Result<Vec<(i64, i64)>, OperatorError>>()?;
            rows.windows = Some(Windows {
                start: bounds.iter().map(|(start, _)| *start).collect(),
                end: bounds.iter().map(|(_, end)| *end).collect(),
            });
        }
        Ok(Some(rows))
    }
}

/// Key columns, null where the side has no row.
pub(crate) fn present_only(key: &[ArrayRef], rows: &[Option<&[u8]>]) -> Result<Vec<ArrayRef>, OperatorError> {
    let indices = (0_u32..).zip(rows).map(|(at, row)| row.is_some().then_some(at)).collect();
    Ok(crate::rows::take_columns(key, &indices)?)
}

/// Right rows wait before left ones of the same time, as in Kafka Streams' outer store.
fn waiting_side(side: usize) -> u8 {
    u8::from(side == 0)
}

fn waiting_key((time, side, key): &(i64, u8, Bytes)) -> Vec<u8> {
    let mut out = vec![b'w', *side];
    out.extend_from_slice(&time.to_be_bytes());
    out.extend_from_slice(key);
    out
}

fn row_key(side: usize, key: &[u8], time: i64, sequence: u32) -> Vec<u8> {
    let mut out = vec![b'r', u8::from(side == 1)];
    out.extend_from_slice(&time.to_be_bytes());
    out.extend_from_slice(&sequence.to_be_bytes());
    out.extend_from_slice(key);
    out
}

impl Operator for StreamStreamJoin {
    fn on_rows(
        &mut self,
        side: usize,
        rows: Rows,
        ctx: &mut Context<'_>,
        out: &mut Vec<Rows>,
    ) -> Result<(), OperatorError> {
        let schema = if side == 0 { &self.spec.left } else { &self.spec.right };
        let key_len = schema.key.len();
        let keys = self.sides[side].key.encode(&rows.columns[..key_len], rows.len())?;
        let values = self.sides[side].value.encode(&rows.columns[key_len..], rows.len())?;
        let observed = rows.observed.clone().filter(|_| ctx.merged);
        let (mut lines, mut scratch) = (Vec::new(), Vec::new());
        for row in 0..rows.len() {
            let time = rows.times[row];
            match &observed {
                Some(observed) if time < observed[row].saturating_sub(self.retention()) => {
                    ctx.late.add(observed[row] - time, self.grace());
                    continue;
                }
                Some(_) => {}
                None => self.stream_time = self.stream_time.max(time),
            }
            if rows.is_tombstone(row) {
                continue;
            }
            if rows.is_null_key(row) {
                if self.outer(side) {
                    // KIP-962: an outer row without a key joins with nothing.
                    lines.push(Self::line(side, keys.get(row), values.value(row), None, time));
                }
                continue;
            }
            let (mut key, value) = (keys.get(row), values.value(row));
            if let (true, Some(windows)) = (self.spec.windowed, &rows.windows) {
                scratch.clear();
                scratch.extend_from_slice(&windows.start[row].to_be_bytes());
                scratch.extend_from_slice(&windows.end[row].to_be_bytes());
                scratch.extend_from_slice(key);
                key = &scratch;
            }
            if observed.is_none() {
                self.release(&mut lines);
            }
            let sequence = self.sides[side].sequence;
            let observed = self.sides[side].observed.max(time);
            self.sides[side].observed = observed;
            if time > observed.saturating_sub(self.retention()) {
                self.sides[side].insert(key, time, sequence, value);
                self.dirty.insert(row_key(side, key, time, sequence));
            }
            self.join_row(side, key, time, value, &mut lines);
        }
        self.expire();
        self.meta_dirty = true;
        out.extend(self.output(&lines)?);
        Ok(())
    }

    fn on_watermark(
        &mut self,
        watermark: i64,
        _ctx: &mut Context<'_>,
        out: &mut Vec<Rows>,
    ) -> Result<(), OperatorError> {
        self.stream_time = self.stream_time.max(watermark);
        self.meta_dirty = true;
        let mut lines = Vec::new();
        self.release(&mut lines);
        self.expire();
        out.extend(self.output(&lines)?);
        Ok(())
    }

    fn is_stateful(&self) -> bool {
        true
    }

    fn drain_changes(&mut self, sink: &mut ChangeSink<'_>) {
        for key in std::mem::take(&mut self.dirty) {
            let mut rest = &key[2..];
            let Ok(time) = take_i64(&mut rest) else { continue };
            if key[0] == b'w' {
                match self.waiting.get(&(time, key[1], Bytes::from(rest))) {
                    Some(rows) => {
                        let mut value = Vec::new();
                        for row in rows {
                            value.extend_from_slice(
                                &u32::try_from(row.len()).unwrap_or(u32::MAX).to_be_bytes(),
                            );
                            value.extend_from_slice(row);
                        }
                        sink(&key, Some(&value));
                    }
                    None => sink(&key, None),
                }
                continue;
            }
            let Some((sequence, rest)) = rest.split_first_chunk::<4>() else { continue };
            let sequence = u32::from_be_bytes(*sequence);
            let rows = self.sides[usize::from(key[1])].rows.get(rest).map(Vec::as_slice).unwrap_or_default();
            let found = rows.iter().find(|(at, other, _)| *at == time && *other == sequence);
            sink(&key, found.map(|(_, _, row)| &**row));
        }
        if std::mem::take(&mut self.meta_dirty) {
            sink(b"mm", Some(&self.stream_time.to_be_bytes()));
        }
    }

    fn restore(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), OperatorError> {
        let (Some(kind), Some(side), Some(mut rest)) = (key.first(), key.get(1), key.get(2..)) else {
            return Ok(());
        };
        if *kind == b'm' {
            if let Some(mut value) = value {
                self.stream_time = take_i64(&mut value)?;
            }
            return Ok(());
        }
        let time = take_i64(&mut rest)?;
        if *kind == b'w' {
            let waiting = (time, *side, Bytes::from(rest));
            self.waiting.remove(&waiting);
            let mut value = value.unwrap_or_default();
            while let Some((len, more)) = value.split_first_chunk::<4>() {
                let len = usize::try_from(u32::from_be_bytes(*len)).unwrap_or(usize::MAX);
                let Some((row, more)) = more.split_at_checked(len) else { break };
                self.waiting.entry(waiting.clone()).or_default().push(row.into());
                value = more;
            }
            return Ok(());
        }
        let Some((sequence, rest)) = rest.split_first_chunk::<4>() else { return Ok(()) };
        let sequence = u32::from_be_bytes(*sequence);
        let side = &mut self.sides[usize::from(*side == 1)];
        match value {
            Some(row) => side.insert(rest, time, sequence, row),
            None => {
                if let Some(all) = side.rows.get_mut(rest) {
                    all.retain(|(at, other, _)| (*at, *other) != (time, sequence));
                }
            }
        }
        Ok(())
    }
}
