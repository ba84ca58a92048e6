//! GROUP BY: unwindowed, TUMBLING and HOPPING, from streams and from tables.
//!
//! Per batch one vector of slots is computed, then each aggregate is updated once. A row is late when its window's end
//! plus grace lies at or before stream time as Kafka Streams observes it; behind several upstream partitions each row
//! carries the stream time of its own, so that neither threads nor batches can change what is late.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, UInt32Array};
use arrow::buffer::{BooleanBuffer, ScalarBuffer};

use crate::Schema;
use crate::aggregate::{AggregateCall, GroupState, Rows as Picked};
use crate::keys::{BatchKeys, KeyCodec, hash_key};
use crate::operator::{ChangeSink, Context, NO_TIME, Operator, OperatorError, Scan, old_columns};
use crate::plan::{Emit, Window, WindowSpec};
use crate::rows::{OldRows, Rows, Windows, take_columns};
use crate::slots::Slots;

/// Changelog key of what is not a group: stream time and the last close.
const META_KEY: &[u8] = b"m";
const GROUP: u8 = b'k';

/// What an [`Aggregate`] does.
pub struct AggregateSpec {
    /// Input columns.
    pub input: Schema,
    /// Aggregates with their arguments.
    pub calls: Vec<AggregateCall>,
    /// Window, if any (not a session).
    pub window: Option<WindowSpec>,
    /// When results go out.
    pub emit: Emit,
    /// Append WINDOWSTART and WINDOWEND.
    pub bounds: bool,
    /// Input is a table: old rows are undone first.
    pub from_table: bool,
    /// The consumer undoes old results.
    pub send_old: bool,
    /// GROUP BY on other columns: a null in any key column drops the row.
    pub regrouped: bool,
}

/// A group that a batch changed: its slot, the first row that did it, and whether it was there before.
#[derive(Clone, Copy)]
struct Touch {
    slot: u32,
    row: u32,
    existed: bool,
}

/// A grouped aggregate with its state.
pub struct Aggregate {
    spec: AggregateSpec,
    codec: KeyCodec,
    slots: Slots,
    states: Vec<Box<dyn GroupState>>,
    stream_time: i64,
    closed_until: i64,
    epoch: u32,
    dirty: Vec<u32>,
    removed: Vec<Vec<u8>>,
    meta_dirty: bool,
    slot_of: Vec<u32>,
    picked: Vec<u32>,
    touched: Vec<Touch>,
}

impl Aggregate {
    /// An aggregate without groups.
    ///
    /// # Errors   key types that cannot be encoded.
    pub fn new(spec: AggregateSpec) -> Result<Self, OperatorError> {
        Ok(Self {
            codec: KeyCodec::new(&spec.input.key)?,
            slots: Slots::new(spec.window.is_some()),
            states: spec.calls.iter().map(|call| call.function.new_state()).collect(),
            stream_time: NO_TIME,
            closed_until: NO_TIME,
            epoch: 0,
            dirty: Vec::new(),
            removed: Vec::new(),
            meta_dirty: false,
            slot_of: Vec::new(),
            picked: Vec::new(),
            touched: Vec::new(),
            spec,
        })
    }

    fn key_len(&self) -> usize {
        self.spec.input.key.len()
    }

    fn arguments(
        &self,
        rows: &Rows,
        from: &[ArrayRef],
        ctx: &mut Context<'_>,
    ) -> Result<Vec<Vec<ArrayRef>>, OperatorError> {
        let one = |call: &AggregateCall, ctx: &mut Context<'_>| {
            call.args.iter().map(|arg| ctx.evaluate(arg, rows, from)).collect::<Result<Vec<_>, _>>()
        };
        self.spec.calls.iter().map(|call| one(call, ctx)).collect()
    }

    /// Marks `slot` as changed by `row` and raises its time.
    #[inline]
    fn touch(&mut self, slot: u32, row: u32, time: i64) {
        let meta = self.slots.meta(slot);
        let existed = meta.time != NO_TIME;
        meta.time = meta.time.max(time);
        if meta.epoch != self.epoch {
            meta.epoch = self.epoch;
            self.touched.push(Touch { slot, row, existed });
            if !meta.dirty {
                meta.dirty = true;
                self.dirty.push(slot);
            }
        }
    }

    /// Fills `slot_of` (and `picked` where it is not row by row); returns whether every row has exactly one slot.
    fn assign(&mut self, rows: &Rows, keys: &BatchKeys, ctx: &mut Context<'_>) -> bool {
        self.slot_of.clear();
        self.picked.clear();
        let Some(spec) = self.spec.window else {
            for row in 0..rows.len() {
                let key = keys.get(row);
                let slot = self.slots.find_or_insert(key, hash_key(key), 0);
                self.touch(slot, u32::try_from(row).unwrap_or(u32::MAX), rows.times[row]);
                self.slot_of.push(slot);
            }
            return true;
        };
        match spec.window {
            Window::Tumbling { size_ms } => {
                self.assign_tumbling(rows, keys, size_ms.max(1), spec.grace_ms, ctx)
            }
            Window::Hopping { size_ms, advance_ms } => {
                self.assign_hopping(rows, keys, (size_ms.max(1), advance_ms.max(1)), spec.grace_ms, ctx);
                false
            }
            Window::Session { .. } => unreachable!("sessions have their own operator"),
        }
    }

    fn observe(&mut self, observed: Option<&ScalarBuffer<i64>>, row: usize, time: i64) -> i64 {
        match observed {
            // Never below the watermark: an upstream partition that was idle may come back with old rows.
            Some(observed) => observed[row].max(self.stream_time),
            None => {
                self.stream_time = self.stream_time.max(time);
                self.stream_time
            }
        }
    }

    fn assign_tumbling(
        &mut self,
        rows: &Rows,
        keys: &BatchKeys,
        size: i64,
        grace: i64,
        ctx: &mut Context<'_>,
    ) -> bool {
        let observed = rows.observed.as_ref().filter(|_| ctx.merged);
        let mut start = i64::MIN;
        let mut end = i64::MIN;
        let mut whole = true;
        for (row, time) in rows.times.iter().copied().enumerate() {
            let now = self.observe(observed, row, time);
            if time < start || time >= end {
                start = time - time.rem_euclid(size);
                end = start.saturating_add(size);
            }
            let index = u32::try_from(row).unwrap_or(u32::MAX);
            let close = now.saturating_sub(grace);
            if end <= close {
                ctx.late.add(close - end, grace);
                if whole {
                    whole = false;
                    self.picked.extend(0..index);
                }
                continue;
            }
            let key = keys.get(row);
            let slot = self.slots.find_or_insert(key, hash_key(key), start);
            self.touch(slot, index, time);
            self.slot_of.push(slot);
            if !whole {
                self.picked.push(index);
            }
        }
        whole
    }

    fn assign_hopping(
        &mut self,
        rows: &Rows,
        keys: &BatchKeys,
        hop: (i64, i64),
        grace: i64,
        ctx: &mut Context<'_>,
    ) {
        let (size, advance) = hop;
        let observed = rows.observed.as_ref().filter(|_| ctx.merged);
        for (row, time) in rows.times.iter().copied().enumerate() {
            let close = self.observe(observed, row, time).saturating_sub(grace);
            let key = keys.get(row);
            let key_hash = hash_key(key);
            let index = u32::try_from(row).unwrap_or(u32::MAX);
            let mut start = (time - size + advance).max(0) / advance * advance;
            let (mut any, mut last_end) = (false, NO_TIME);
            while start <= time {
                let end = start.saturating_add(size);
                if end > close {
                    any = true;
                    let slot = self.slots.find_or_insert(key, key_hash, start);
                    self.touch(slot, index, time);
                    self.slot_of.push(slot);
                    self.picked.push(index);
                }
                last_end = end;
                start += advance;
            }
            if !any && last_end != NO_TIME {
                ctx.late.add(close - last_end, grace);
            }
        }
    }

    /// Rows of the touched or closed groups.
    fn results(&self, slots: &[u32], key: Vec<ArrayRef>, old: Option<OldRows>) -> Rows {
        let mut columns = key;
        columns.extend(self.states.iter().map(|state| state.results(slots)));
        let times = slots.iter().map(|slot| self.slots.peek(*slot).time).collect();
        let mut rows = Rows::new(columns, times);
        rows.old = old;
        if let Some(size) = self.size() {
            let start: ScalarBuffer<i64> = slots.iter().map(|slot| self.slots.peek(*slot).start).collect();
            let end: ScalarBuffer<i64> = start.iter().map(|start| start.saturating_add(size)).collect();
            if self.spec.bounds {
                let bounds = [&start, &end].map(|b| Arc::new(Int64Array::new(b.clone(), None)) as ArrayRef);
                if let Some(old) = rows.old.as_mut() {
                    old.values.extend(bounds.iter().cloned());
                }
                rows.columns.extend(bounds);
            }
            rows.windows = Some(Windows { start, end });
        }
        rows
    }

    fn size(&self) -> Option<i64> {
        match self.spec.window?.window {
            Window::Tumbling { size_ms } | Window::Hopping { size_ms, .. } => Some(size_ms.max(1)),
            Window::Session { .. } => None,
        }
    }

    /// Closes windows and forgets those past retention; `now` is stream time.
    fn advance(&mut self, now: i64, out: &mut Vec<Rows>) -> Result<(), OperatorError> {
        let (Some(spec), Some(size)) = (self.spec.window, self.size()) else { return Ok(()) };
        if now == NO_TIME {
            return Ok(());
        }
        self.meta_dirty = true;
        if self.spec.emit == Emit::Final {
            let last = now.saturating_sub(spec.grace_ms).saturating_sub(size);
            let first = self.closed_until.saturating_add(1);
            if last > self.closed_until {
                let mut slots = Vec::new();
                for (_, window) in self.slots.windows(first, last) {
                    let from = slots.len();
                    slots.extend_from_slice(window);
                    self.sort_by_key(&mut slots[from..]);
                }
                self.closed_until = last;
                for part in slots.chunks(16_384) {
                    out.push(self.stored(part)?);
                }
            }
        }
        let horizon = now.saturating_sub(spec.retention_ms.max(size.saturating_add(spec.grace_ms)));
        for slot in self.slots.expire(horizon) {
            // a group that came and went between two commits leaves no trace
            if self.slots.peek(slot).logged {
                self.removed.push(group_key(self.slots.key(slot), self.slots.peek(slot).start));
            }
            self.slots.meta(slot).dirty = false;
            for state in &mut self.states {
                state.reset(slot);
            }
        }
        Ok(())
    }

    /// Orders groups by their keys; the first 16 bytes decide most comparisons.
    fn sort_by_key(&self, slots: &mut [u32]) {
        let mut keyed: Vec<(u128, u32)> =
            slots.iter().map(|slot| (self.codec.prefix(self.slots.key(*slot)), *slot)).collect();
        keyed.sort_unstable_by(|(a, left), (b, right)| {
            a.cmp(b).then_with(|| self.codec.compare(self.slots.key(*left), self.slots.key(*right)))
        });
        for (place, (_, slot)) in slots.iter_mut().zip(keyed) {
            *place = slot;
        }
    }

    fn stored(&self, slots: &[u32]) -> Result<Rows, OperatorError> {
        let keys: Vec<&[u8]> = slots.iter().map(|slot| self.slots.key(*slot)).collect();
        let old = self.spec.send_old.then(|| OldRows {
            values: self.states.iter().map(|state| state.results(slots)).collect(),
            present: BooleanBuffer::new_unset(slots.len()),
        });
        Ok(self.results(slots, self.codec.decode(&keys)?, old))
    }

    fn emit_changes(
        &mut self,
        rows: &Rows,
        old: Option<OldRows>,
        out: &mut Vec<Rows>,
    ) -> Result<(), OperatorError> {
        let touched = std::mem::take(&mut self.touched);
        if self.spec.emit == Emit::Changes && !touched.is_empty() {
            let indices = UInt32Array::from_iter_values(touched.iter().map(|touch| touch.row));
            let slots: Vec<u32> = touched.iter().map(|touch| touch.slot).collect();
            let key = take_columns(&rows.columns[..self.key_len()], &indices)?;
            out.push(self.results(&slots, key, old));
        }
        self.touched = touched;
        self.touched.clear();
        Ok(())
    }

    /// Results of the touched groups before the batch, for a consumer that undoes them.
    fn before(&self) -> Option<OldRows> {
        if !self.spec.send_old {
            return None;
        }
        let slots: Vec<u32> = self.touched.iter().map(|touch| touch.slot).collect();
        let values = self.states.iter().map(|state| state.results(&slots)).collect();
        Some(OldRows { values, present: self.touched.iter().map(|touch| touch.existed).collect() })
    }

    fn update_stream(
        &mut self,
        rows: &Rows,
        whole: bool,
        ctx: &mut Context<'_>,
    ) -> Result<(), OperatorError> {
        let args = self.arguments(rows, &rows.columns, ctx)?;
        let picked = if whole { Picked::All } else { Picked::Selected(&self.picked) };
        for (state, args) in self.states.iter_mut().zip(&args) {
            state.update(&self.slot_of, picked, args);
        }
        Ok(())
    }

    /// Row by row, as the order of adding and undoing matters to some aggregates (COLLECT_LIST).
    fn update_table(&mut self, rows: &Rows, ctx: &mut Context<'_>) -> Result<(), OperatorError> {
        let args = self.arguments(rows, &rows.columns, ctx)?;
        let old_args = match old_columns(rows, self.key_len()) {
            Some(before) => Some(self.arguments(rows, &before, ctx)?),
            None => None,
        };
        for (row, slot) in self.slot_of.iter().enumerate() {
            let index = [u32::try_from(row).unwrap_or(u32::MAX)];
            let undo = rows.old.as_ref().is_some_and(|old| old.present.value(row));
            for (position, state) in self.states.iter_mut().enumerate() {
                if let (true, Some(old_args)) = (undo, &old_args) {
                    state.undo(&[*slot], Picked::Selected(&index), &old_args[position]);
                }
                if !rows.is_tombstone(row) {
                    state.update(&[*slot], Picked::Selected(&index), &args[position]);
                }
            }
        }
        Ok(())
    }
}

/// Rows that count: with a key, and with a value unless they undo one.
pub(crate) fn relevant(spec: &AggregateSpec, rows: Rows) -> Result<Rows, OperatorError> {
    let mut drop: Option<BooleanBuffer> = rows.null_keys.clone();
    let mut add = |mask: BooleanBuffer| {
        drop = Some(match drop.take() {
            Some(other) => &other | &mask,
            None => mask,
        });
    };
    if spec.regrouped {
        for column in &rows.columns[..spec.input.key.len()] {
            if let Some(nulls) = column.nulls().filter(|nulls| nulls.null_count() > 0) {
                add(!nulls.inner());
            }
        }
    }
    if let Some(tombstones) = &rows.tombstones {
        match &rows.old {
            Some(old) if spec.from_table => add(tombstones & &!&old.present),
            _ => add(tombstones.clone()),
        }
    }
    match drop {
        Some(drop) => Ok(rows.filter(&BooleanArray::new(!&drop, None))?),
        None => Ok(rows),
    }
}

fn group_key(key: &[u8], start: i64) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 9);
    out.push(GROUP);
    out.extend_from_slice(&start.to_be_bytes());
    out.extend_from_slice(key);
    out
}

/// Reads a big-endian integer and moves past it.
pub(crate) fn take_i64(bytes: &mut &[u8]) -> Result<i64, OperatorError> {
    let (head, rest) = bytes
        .split_first_chunk::<8>()
        .ok_or_else(|| OperatorError::Other("a changelog record is cut short".into()))?;
    *bytes = rest;
    Ok(i64::from_be_bytes(*head))
}

impl Operator for Aggregate {
    fn on_rows(
        &mut self,
        _side: usize,
        rows: Rows,
        ctx: &mut Context<'_>,
        out: &mut Vec<Rows>,
    ) -> Result<(), OperatorError> {
        let rows = relevant(&self.spec, rows)?;
        if rows.is_empty() {
            return Ok(());
        }
        self.epoch = self.epoch.wrapping_add(1).max(1);
        let keys = self.codec.encode(&rows.columns[..self.key_len()], rows.len())?;
        let whole = self.assign(&rows, &keys, ctx);
        for state in &mut self.states {
            state.ensure(self.slots.capacity());
        }
        let old = self.before();
        if self.spec.from_table {
            self.update_table(&rows, ctx)?;
        } else {
            self.update_stream(&rows, whole, ctx)?;
        }
        self.emit_changes(&rows, old, out)?;
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
        for key in self.removed.drain(..) {
            sink(&key, None);
        }
        let (mut key, mut value) = (Vec::new(), Vec::new());
        for slot in self.dirty.drain(..) {
            let meta = self.slots.meta(slot);
            if !std::mem::take(&mut meta.dirty) {
                continue;
            }
            meta.logged = true;
            value.clear();
            value.extend_from_slice(&meta.time.to_be_bytes());
            let start = meta.start;
            for state in &self.states {
                state.encode(slot, &mut value);
            }
            key.clear();
            key.push(GROUP);
            key.extend_from_slice(&start.to_be_bytes());
            key.extend_from_slice(self.slots.key(slot));
            sink(&key, Some(&value));
        }
        if std::mem::take(&mut self.meta_dirty) {
            let meta = [self.stream_time.to_be_bytes(), self.closed_until.to_be_bytes()].concat();
            sink(META_KEY, Some(&meta));
        }
    }

    fn restore(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), OperatorError> {
        let Some((GROUP, mut rest)) = key.split_first().map(|(kind, rest)| (*kind, rest)) else {
            if let Some(mut value) = value {
                self.stream_time = take_i64(&mut value)?;
                self.closed_until = take_i64(&mut value)?;
            }
            return Ok(());
        };
        let start = take_i64(&mut rest)?;
        let Some(mut value) = value else {
            if let Some(slot) = self.slots.find(rest, start) {
                self.slots.remove(slot);
                self.states.iter_mut().for_each(|state| state.reset(slot));
            }
            return Ok(());
        };
        let time = take_i64(&mut value)?;
        let slot = self.slots.find_or_insert(rest, hash_key(rest), start);
        let meta = self.slots.meta(slot);
        meta.time = time;
        meta.logged = true;
        for state in &mut self.states {
            state.ensure(self.slots.capacity());
            state.decode(slot, &mut value)?;
        }
        Ok(())
    }

    fn scan(&self, scan: &Scan) -> Result<Option<Rows>, OperatorError> {
        let size = self.size();
        let (low, high) = scan.start.unwrap_or((i64::MIN, i64::MAX));
        let mut slots = Vec::new();
        match &scan.keys {
            Some(keys) => {
                let keys = self.codec.encode(keys, keys.first().map_or(0, |column| column.len()))?;
                for row in 0..keys.len() {
                    match size {
                        None => slots.extend(self.slots.find(keys.get(row), 0)),
                        Some(_) => {
                            let starts = self.slots.windows(low, high).map(|(start, _)| start);
                            slots.extend(starts.filter_map(|start| self.slots.find(keys.get(row), start)));
                        }
                    }
                }
            }
            None if size.is_some() => {
                slots.extend(self.slots.windows(low, high).flat_map(|(_, slots)| slots))
            }
            None => slots.extend(self.slots.all()),
        }
        if let Some(size) = size {
            slots.retain(|slot| {
                let start = self.slots.peek(*slot).start;
                scan.wants(start, start.saturating_add(size))
            });
        }
        if self.spec.emit == Emit::Final {
            let closed = self.closed_until;
            slots.retain(|slot| self.slots.peek(*slot).start <= closed);
        }
        self.stored(&slots).map(Some)
    }
}
