//! GROUP BY in SESSION windows: sessions grow and merge, as Kafka Streams' `KStreamSessionWindowAggregate` does it.
//!
//! A row that extends or merges sessions deletes them (one tombstone each) and writes the merged one, even when its
//! bounds are those of a deleted one; batches of several rows write only the last of the two.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, UInt32Array, new_null_array};
use arrow::buffer::{BooleanBuffer, ScalarBuffer};

use crate::aggregate::{AggregateCall, GroupState, Rows as Picked};
use crate::keys::KeyCodec;
use crate::operator::{ChangeSink, Context, NO_TIME, Operator, OperatorError, Scan};
use crate::operators::aggregate::{AggregateSpec, take_i64};
use crate::plan::{Emit, Window, WindowSpec};
use crate::rows::{Rows, Windows, take_columns};

const META_KEY: &[u8] = b"m";
const GROUP: u8 = b'k';

#[derive(Debug, Clone, Copy)]
struct Session {
    start: i64,
    end: i64,
    slot: u32,
}

/// One line of output: the row whose key it has, bounds, and the slot or nothing (deleted).
#[derive(Debug, Clone, Copy)]
struct Line {
    row: u32,
    start: i64,
    end: i64,
    slot: Option<u32>,
}

/// A session aggregate with its state.
pub struct SessionAggregate {
    spec: AggregateSpec,
    window: WindowSpec,
    gap: i64,
    codec: KeyCodec,
    sessions: HashMap<Box<[u8]>, Vec<Session>>,
    /// Keys by session end; entries of sessions that have grown since are stale and skipped.
    ends: BTreeMap<i64, Vec<Box<[u8]>>>,
    free: Vec<u32>,
    slots: u32,
    states: Vec<Box<dyn GroupState>>,
    stream_time: i64,
    closed_until: i64,
    dirty: HashSet<Vec<u8>>,
    meta_dirty: bool,
}

fn group_key(key: &[u8], start: i64, end: i64) -> Vec<u8> {
    let mut out = vec![GROUP];
    out.extend_from_slice(&start.to_be_bytes());
    out.extend_from_slice(&end.to_be_bytes());
    out.extend_from_slice(key);
    out
}

impl SessionAggregate {
    /// A session aggregate without groups.
    ///
    /// # Errors   key types that cannot be encoded, or a window that is no session.
    pub fn new(spec: AggregateSpec) -> Result<Self, OperatorError> {
        let Some(window @ WindowSpec { window: Window::Session { gap_ms }, .. }) = spec.window else {
            return Err(OperatorError::Other("a session aggregate needs a SESSION window".to_owned()));
        };
        Ok(Self {
            codec: KeyCodec::new(&spec.input.key)?,
            states: spec.calls.iter().map(|call| call.function.new_state()).collect(),
            spec,
            window,
            gap: gap_ms.max(0),
            sessions: HashMap::new(),
            ends: BTreeMap::new(),
            free: Vec::new(),
            slots: 0,
            stream_time: NO_TIME,
            closed_until: NO_TIME,
            dirty: HashSet::new(),
            meta_dirty: false,
        })
    }

    fn new_slot(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.slots += 1;
            for state in &mut self.states {
                state.ensure(self.slots as usize);
            }
            self.slots - 1
        })
    }

    fn free_slot(&mut self, slot: u32) {
        self.states.iter_mut().for_each(|state| state.reset(slot));
        self.free.push(slot);
    }

    /// Sessions of `key` that `time` touches, taken out.
    fn take_touched(&mut self, key: &[u8], time: i64) -> Vec<Session> {
        let gap = self.gap;
        let Some(all) = self.sessions.get_mut(key) else { return Vec::new() };
        let touches = |session: &Session| {
            session.end >= time.saturating_sub(gap) && session.start <= time.saturating_add(gap)
        };
        let touched: Vec<Session> = all.iter().copied().filter(touches).collect();
        all.retain(|session| !touches(session));
        touched
    }

    fn insert(&mut self, key: &[u8], session: Session) {
        let all = self.sessions.entry(key.into()).or_default();
        let at = all.partition_point(|other| other.start < session.start);
        all.insert(at, session);
        self.ends.entry(session.end).or_default().push(key.into());
    }

    fn add_row(
        &mut self,
        key: &[u8],
        row: u32,
        time: i64,
        close: i64,
        args: &[Vec<ArrayRef>],
        lines: &mut Vec<Line>,
    ) -> Option<i64> {
        let touched = self.take_touched(key, time);
        let start = touched.iter().map(|session| session.start).fold(time, i64::min);
        let end = touched.iter().map(|session| session.end).fold(time, i64::max);
        if end < close {
            for session in touched {
                self.insert(key, session);
            }
            return Some(close - end);
        }
        let slot = match touched.first() {
            Some(first) => first.slot,
            None => self.new_slot(),
        };
        for other in touched.iter().skip(1) {
            self.states.iter_mut().for_each(|state| state.merge(slot, other.slot));
            self.free_slot(other.slot);
        }
        if (start, end) != (time, time) {
            for session in &touched {
                self.dirty.insert(group_key(key, session.start, session.end));
                lines.push(Line { row, start: session.start, end: session.end, slot: None });
            }
        }
        for (state, args) in self.states.iter_mut().zip(args) {
            state.update(&[slot], Picked::Selected(&[row]), args);
        }
        self.insert(key, Session { start, end, slot });
        self.dirty.insert(group_key(key, start, end));
        lines.push(Line { row, start, end, slot: Some(slot) });
        None
    }

    fn output(&self, key: Vec<ArrayRef>, lines: &[Line]) -> Rows {
        let slots: Vec<u32> = lines.iter().filter_map(|line| line.slot).collect();
        let mut next = 0_u32;
        let picked: UInt32Array = lines
            .iter()
            .map(|line| {
                line.slot.map(|_| {
                    next += 1;
                    next - 1
                })
            })
            .collect();
        let mut columns = key;
        for state in &self.states {
            let values = state.results(&slots);
            let column = match arrow::compute::take(values.as_ref(), &picked, None) {
                Ok(column) => column,
                Err(_) => new_null_array(values.data_type(), lines.len()),
            };
            columns.push(column);
        }
        let start: ScalarBuffer<i64> = lines.iter().map(|line| line.start).collect();
        let end: ScalarBuffer<i64> = lines.iter().map(|line| line.end).collect();
        if self.spec.bounds {
            columns.extend([&start, &end].map(|b| Arc::new(Int64Array::new(b.clone(), None)) as ArrayRef));
        }
        let mut rows = Rows::new(columns, end.to_vec());
        rows.windows = Some(Windows { start, end });
        rows.tombstones = Some(lines.iter().map(|line| line.slot.is_none()).collect::<BooleanBuffer>());
        rows.normal()
    }

    fn stored(&self, found: &[(&[u8], Session)]) -> Result<Rows, OperatorError> {
        let keys: Vec<&[u8]> = found.iter().map(|(key, _)| *key).collect();
        let lines: Vec<Line> = found
            .iter()
            .map(|(_, session)| Line {
                row: 0,
                start: session.start,
                end: session.end,
                slot: Some(session.slot),
            })
            .collect();
        Ok(self.output(self.codec.decode(&keys)?, &lines))
    }

    /// Live sessions that end within `low ..= high`, by end and key.
    fn ending(&self, low: i64, high: i64) -> Vec<(&[u8], Session)> {
        let mut found = Vec::new();
        if low > high {
            return found;
        }
        for (end, keys) in self.ends.range(low..=high) {
            let from = found.len();
            for key in keys {
                let all = self.sessions.get(key).map(Vec::as_slice).unwrap_or_default();
                found.extend(
                    all.iter().filter(|session| session.end == *end).map(|session| (&**key, *session)),
                );
            }
            found[from..].sort_by(|a, b| (a.0, a.1.start).cmp(&(b.0, b.1.start)));
            let mut last = None;
            let mut at = 0;
            found.retain(|(key, session)| {
                at += 1;
                let fresh = at <= from || last != Some((*key, session.start));
                last = Some((*key, session.start));
                fresh
            });
        }
        found
    }

    fn advance(&mut self, now: i64, out: &mut Vec<Rows>) -> Result<(), OperatorError> {
        if now == NO_TIME {
            return Ok(());
        }
        self.meta_dirty = true;
        let close = now.saturating_sub(self.window.grace_ms).saturating_sub(self.gap);
        if self.spec.emit == Emit::Final && close > self.closed_until {
            let found = self.ending(self.closed_until, close.saturating_sub(1));
            if !found.is_empty() {
                out.push(self.stored(&found)?);
            }
            self.closed_until = close;
        }
        let keep = self.window.retention_ms.max(self.gap.saturating_add(self.window.grace_ms));
        let horizon = now.saturating_sub(keep).saturating_sub(1);
        while let Some(entry) = self.ends.first_entry().filter(|entry| *entry.key() < horizon) {
            let (end, keys) = entry.remove_entry();
            for key in keys {
                let Some(all) = self.sessions.get_mut(&key) else { continue };
                let (gone, stay): (Vec<Session>, Vec<Session>) =
                    all.iter().partition(|session| session.end == end);
                *all = stay;
                if all.is_empty() {
                    self.sessions.remove(&key);
                }
                for session in gone {
                    self.dirty.insert(group_key(&key, session.start, session.end));
                    self.free_slot(session.slot);
                }
            }
        }
        Ok(())
    }

    fn find(&self, key: &[u8], start: i64, end: i64) -> Option<Session> {
        self.sessions.get(key)?.iter().copied().find(|session| session.start == start && session.end == end)
    }
}

/// Keeps the last line per key and bounds.
fn last_lines(lines: Vec<Line>, keys: &crate::keys::BatchKeys) -> Vec<Line> {
    let mut last: HashMap<(&[u8], i64, i64), usize> = HashMap::new();
    for (at, line) in lines.iter().enumerate() {
        last.insert((keys.get(line.row as usize), line.start, line.end), at);
    }
    let keep: Vec<bool> = lines
        .iter()
        .enumerate()
        .map(|(at, line)| last.get(&(keys.get(line.row as usize), line.start, line.end)) == Some(&at))
        .collect();
    lines.into_iter().zip(keep).filter_map(|(line, keep)| keep.then_some(line)).collect()
}

impl Operator for SessionAggregate {
    fn on_rows(
        &mut self,
        _side: usize,
        rows: Rows,
        ctx: &mut Context<'_>,
        out: &mut Vec<Rows>,
    ) -> Result<(), OperatorError> {
        let rows = crate::operators::aggregate::relevant(&self.spec, rows)?;
        if rows.is_empty() {
            return Ok(());
        }
        let key_len = self.spec.input.key.len();
        let one = |call: &AggregateCall, ctx: &mut Context<'_>| {
            call.args.iter().map(|arg| ctx.evaluate(arg, &rows, &rows.columns)).collect::<Result<Vec<_>, _>>()
        };
        let args = self.spec.calls.iter().map(|call| one(call, ctx)).collect::<Result<Vec<_>, _>>()?;
        let keys = self.codec.encode(&rows.columns[..key_len], rows.len())?;
        let observed = rows.observed.clone().filter(|_| ctx.merged);
        let mut lines = Vec::new();
        for row in 0..rows.len() {
            let time = rows.times[row];
            let now = match &observed {
                Some(observed) => observed[row].max(self.stream_time),
                None => {
                    self.stream_time = self.stream_time.max(time);
                    self.stream_time
                }
            };
            let close = now.saturating_sub(self.window.grace_ms).saturating_sub(self.gap);
            let index = u32::try_from(row).unwrap_or(u32::MAX);
            if let Some(past) = self.add_row(keys.get(row), index, time, close, &args, &mut lines) {
                ctx.late.add(past, self.window.grace_ms);
            }
        }
        if rows.len() > 1 {
            lines = last_lines(lines, &keys);
        }
        if self.spec.emit == Emit::Changes && !lines.is_empty() {
            let indices = UInt32Array::from_iter_values(lines.iter().map(|line| line.row));
            out.push(self.output(take_columns(&rows.columns[..key_len], &indices)?, &lines));
        }
        if !ctx.merged {
            self.advance(self.stream_time, out)?;
        }
        Ok(())
    }

    fn on_watermark(
        &mut self,
        watermark: i64,
        _ctx: &mut Context<'_>,
        out: &mut Vec<Rows>,
    ) -> Result<(), OperatorError> {
        self.stream_time = self.stream_time.max(watermark);
        self.advance(self.stream_time, out)
    }

    fn is_stateful(&self) -> bool {
        true
    }

    fn drain_changes(&mut self, sink: &mut ChangeSink<'_>) {
        let mut value = Vec::new();
        for key in std::mem::take(&mut self.dirty) {
            let mut rest = &key[1..];
            let (Ok(start), Ok(end)) = (take_i64(&mut rest), take_i64(&mut rest)) else { continue };
            match self.find(rest, start, end) {
                Some(session) => {
                    value.clear();
                    self.states.iter().for_each(|state| state.encode(session.slot, &mut value));
                    sink(&key, Some(&value));
                }
                None => sink(&key, None),
            }
        }
        if std::mem::take(&mut self.meta_dirty) {
            sink(META_KEY, Some(&[self.stream_time.to_be_bytes(), self.closed_until.to_be_bytes()].concat()));
        }
    }

    fn restore(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), OperatorError> {
        if key == META_KEY {
            if let Some(mut value) = value {
                self.stream_time = take_i64(&mut value)?;
                self.closed_until = take_i64(&mut value)?;
            }
            return Ok(());
        }
        let mut rest = key.get(1..).unwrap_or_default();
        let (start, end) = (take_i64(&mut rest)?, take_i64(&mut rest)?);
        if let Some(session) = self.find(rest, start, end) {
            if let Some(all) = self.sessions.get_mut(rest) {
                all.retain(|other| other.slot != session.slot);
            }
            self.free_slot(session.slot);
        }
        if let Some(mut value) = value {
            let slot = self.new_slot();
            for state in &mut self.states {
                state.decode(slot, &mut value)?;
            }
            self.insert(rest, Session { start, end, slot });
        }
        Ok(())
    }

    fn scan(&self, scan: &Scan) -> Result<Option<Rows>, OperatorError> {
        let mut found: Vec<(&[u8], Session)> = Vec::new();
        match &scan.keys {
            Some(columns) => {
                let keys = self.codec.encode(columns, columns.first().map_or(0, |column| column.len()))?;
                for row in 0..keys.len() {
                    if let Some((key, all)) = self.sessions.get_key_value(keys.get(row)) {
                        found.extend(all.iter().map(|session| (&**key, *session)));
                    }
                }
            }
            None => {
                for (key, all) in &self.sessions {
                    found.extend(all.iter().map(|session| (&**key, *session)));
                }
                found.sort_by(|a, b| (a.0, a.1.start).cmp(&(b.0, b.1.start)));
            }
        }
        found.retain(|(_, session)| scan.wants(session.start, session.end));
        if self.spec.emit == Emit::Final {
            found.retain(|(_, session)| session.end < self.closed_until);
        }
        self.stored(&found).map(Some)
    }
}
