//! A table in memory: the last row per key, for joins, undo and pull queries.

use arrow::array::{Array, ArrayRef, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::DataType;

use crate::Schema;
use crate::keys::{BatchKeys, KeyCodec, RowCodec, arrow_types, hash_key};
use crate::operator::{ChangeSink, NO_TIME, OperatorError, Scan};
use crate::operators::aggregate::take_i64;
use crate::rows::{OldRows, Rows, Windows, take_columns};
use crate::slots::Slots;

/// The last row per key (and window), as bytes in Arrow's row format; a small table is also kept decoded, so that a
/// join is one `take`.
pub struct TableStore {
    keys: KeyCodec,
    rows: RowCodec,
    types: Vec<DataType>,
    slots: Slots,
    values: Vec<Option<Box<[u8]>>>,
    decoded: Option<Vec<ArrayRef>>,
    dirty: Vec<u32>,
    removed: Vec<Box<[u8]>>,
    windowed: bool,
    scratch: Vec<u8>,
}

impl TableStore {
    /// An empty table of `schema`; `windowed`: the key has a window.
    ///
    /// # Errors   types that Arrow's row format cannot hold.
    pub fn new(schema: &Schema, windowed: bool) -> Result<Self, OperatorError> {
        Ok(Self {
            keys: KeyCodec::new(&schema.key)?,
            rows: RowCodec::new(&schema.value)?,
            types: arrow_types(&schema.value),
            slots: Slots::new(false),
            values: Vec::new(),
            decoded: None,
            dirty: Vec::new(),
            removed: Vec::new(),
            windowed,
            scratch: Vec::new(),
        })
    }

    /// Key bytes of `rows`, as [`TableStore::find`] takes them.
    ///
    /// # Errors   columns of other types.
    pub fn encode_keys(&self, key: &[ArrayRef], rows: usize) -> Result<BatchKeys, OperatorError> {
        Ok(self.keys.encode(key, rows)?)
    }

    /// Slot of a key, if it has a row.
    #[must_use]
    pub fn find(&self, key: &[u8]) -> Option<u32> {
        self.slots.find(key, 0)
    }

    /// Slot per row of `rows`, by key (and window).
    ///
    /// # Errors   columns of other types.
    pub fn find_all(&self, rows: &Rows, key_len: usize) -> Result<Vec<Option<u32>>, OperatorError> {
        let keys = self.keys.encode(&rows.columns[..key_len], rows.len())?;
        let mut scratch = Vec::new();
        let find = |row: usize| match &rows.windows {
            Some(windows) if self.windowed => {
                scratch.clear();
                scratch.extend_from_slice(&windows.start[row].to_be_bytes());
                scratch.extend_from_slice(&windows.end[row].to_be_bytes());
                scratch.extend_from_slice(keys.get(row));
                self.slots.find(&scratch, 0)
            }
            _ => self.slots.find(keys.get(row), 0),
        };
        Ok((0..rows.len()).map(find).collect())
    }

    /// Event time of a row.
    #[must_use]
    pub fn time(&self, slot: u32) -> i64 {
        self.slots.peek(slot).time
    }

    /// Stored bytes of a row.
    #[must_use]
    pub fn row(&self, slot: u32) -> Option<&[u8]> {
        self.values.get(slot as usize).and_then(Option::as_deref)
    }

    /// Applies `rows` (null keys must be gone): the last row per key wins, tombstones delete. With `want_old`, gives
    /// the row that each replaced.
    ///
    /// # Errors   columns of other types.
    pub fn apply(
        &mut self,
        rows: &Rows,
        key_len: usize,
        want_old: bool,
    ) -> Result<Option<OldRows>, OperatorError> {
        let keys = self.keys.encode(&rows.columns[..key_len], rows.len())?;
        let encoded = self.rows.encode(&rows.columns[key_len..], rows.len())?;
        let mut old: Vec<Option<Box<[u8]>>> = Vec::new();
        self.decoded = None;
        let mut scratch = std::mem::take(&mut self.scratch);
        for row in 0..rows.len() {
            let mut key = keys.get(row);
            if let (true, Some(windows)) = (self.windowed, &rows.windows) {
                scratch.clear();
                scratch.extend_from_slice(&windows.start[row].to_be_bytes());
                scratch.extend_from_slice(&windows.end[row].to_be_bytes());
                scratch.extend_from_slice(key);
                key = &scratch;
            }
            let value = (!rows.is_tombstone(row)).then(|| Box::from(encoded.value(row)));
            let before = self.put(key, value, rows.times[row], true);
            if want_old {
                old.push(before);
            }
        }
        self.scratch = scratch;
        if !want_old {
            return Ok(None);
        }
        let present: BooleanBuffer = old.iter().map(Option::is_some).collect();
        let bytes: Vec<Option<&[u8]>> = old.iter().map(Option::as_deref).collect();
        Ok(Some(OldRows { values: self.rows.decode_optional(&bytes, &self.types)?, present }))
    }

    fn put(&mut self, key: &[u8], value: Option<Box<[u8]>>, time: i64, log: bool) -> Option<Box<[u8]>> {
        let Some(value) = value else {
            let slot = self.slots.find(key, 0)?;
            self.slots.meta(slot).dirty = false;
            self.slots.remove(slot);
            if log {
                self.removed.push(key.into());
            }
            return self.values[slot as usize].take();
        };
        let slot = self.slots.find_or_insert(key, hash_key(key), 0);
        if self.values.len() < self.slots.capacity() {
            self.values.resize(self.slots.capacity(), None);
        }
        let meta = self.slots.meta(slot);
        meta.time = time;
        if log && !meta.dirty {
            meta.dirty = true;
            self.dirty.push(slot);
        }
        self.values[slot as usize].replace(value)
    }

    /// Value columns of the rows in `slots`; `None` gives nulls. A small table is decoded once and kept.
    ///
    /// # Errors   stored bytes that do not decode.
    pub fn gather(&mut self, slots: &[Option<u32>]) -> Result<Vec<ArrayRef>, OperatorError> {
        if self.decoded.is_none() && self.slots.capacity() <= (slots.len() * 4).max(64) {
            let all: Vec<Option<&[u8]>> = self.values.iter().map(Option::as_deref).collect();
            self.decoded = Some(self.rows.decode_optional(&all, &self.types)?);
        }
        if let Some(decoded) = &self.decoded {
            return Ok(take_columns(decoded, &UInt32Array::from_iter(slots.iter().copied()))?);
        }
        let mut seen = hashbrown::HashMap::<u32, u32>::with_capacity(slots.len());
        let mut unique = Vec::new();
        let indices: UInt32Array = slots
            .iter()
            .map(|slot| {
                let slot = (*slot)?;
                Some(*seen.entry(slot).or_insert_with(|| {
                    unique.push(self.row(slot).unwrap_or_default());
                    u32::try_from(unique.len() - 1).unwrap_or(u32::MAX)
                }))
            })
            .collect();
        if unique.is_empty() {
            return Ok(self.types.iter().map(|ty| arrow::array::new_null_array(ty, slots.len())).collect());
        }
        Ok(take_columns(&self.rows.decode(&unique)?, &indices)?)
    }

    /// Value columns of rows given as their stored bytes.
    ///
    /// # Errors   bytes that do not decode.
    pub fn decode(&self, rows: &[Option<&[u8]>]) -> Result<Vec<ArrayRef>, OperatorError> {
        Ok(self.rows.decode_optional(rows, &self.types)?)
    }

    /// Hands over what changed; `tag` tells stores of one operator apart.
    pub fn drain_changes(&mut self, tag: u8, sink: &mut ChangeSink<'_>) {
        let mut key = vec![tag];
        for removed in std::mem::take(&mut self.removed) {
            if self.slots.find(&removed, 0).is_none() {
                key.truncate(1);
                key.extend_from_slice(&removed);
                sink(&key, None);
            }
        }
        let mut value = Vec::new();
        for slot in std::mem::take(&mut self.dirty) {
            if !std::mem::take(&mut self.slots.meta(slot).dirty) {
                continue;
            }
            let Some(row) = self.values[slot as usize].as_deref() else { continue };
            key.truncate(1);
            key.extend_from_slice(self.slots.key(slot));
            value.clear();
            value.extend_from_slice(&self.slots.peek(slot).time.to_be_bytes());
            value.extend_from_slice(row);
            sink(&key, Some(&value));
        }
    }

    /// Takes back one change (key without its tag).
    ///
    /// # Errors   a record that is cut short.
    pub fn restore(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), OperatorError> {
        self.decoded = None;
        match value {
            Some(mut value) => {
                let time = take_i64(&mut value)?;
                self.put(key, Some(value.into()), time, false);
            }
            None => {
                self.put(key, None, NO_TIME, false);
            }
        }
        Ok(())
    }

    /// Rows that a pull query asks for.
    ///
    /// # Errors   stored bytes that do not decode.
    pub fn scan(&self, scan: &Scan) -> Result<Rows, OperatorError> {
        let mut slots: Vec<u32> = Vec::new();
        match &scan.keys {
            Some(columns) => {
                let wanted = self.keys.encode(columns, columns.first().map_or(0, |column| column.len()))?;
                for row in 0..wanted.len() {
                    if self.windowed {
                        slots.extend(self.slots.all().filter(|slot| self.bare_key(*slot) == wanted.get(row)));
                    } else {
                        slots.extend(self.slots.find(wanted.get(row), 0));
                    }
                }
            }
            None => slots.extend(self.slots.all()),
        }
        if self.windowed {
            slots.retain(|slot| {
                let (start, end) = self.bounds(*slot);
                scan.wants(start, end)
            });
        }
        let keys: Vec<&[u8]> = slots.iter().map(|slot| self.bare_key(*slot)).collect();
        let mut columns = self.keys.decode(&keys)?;
        let values: Vec<Option<&[u8]>> = slots.iter().map(|slot| self.row(*slot)).collect();
        columns.extend(self.rows.decode_optional(&values, &self.types)?);
        let mut rows = Rows::new(columns, slots.iter().map(|slot| self.time(*slot)).collect());
        if self.windowed {
            let bounds: Vec<(i64, i64)> = slots.iter().map(|slot| self.bounds(*slot)).collect();
            rows.windows = Some(Windows {
                start: bounds.iter().map(|(start, _)| *start).collect(),
                end: bounds.iter().map(|(_, end)| *end).collect(),
            });
        }
        Ok(rows)
    }

    fn bare_key(&self, slot: u32) -> &[u8] {
        let key = self.slots.key(slot);
        if self.windowed { key.get(16..).unwrap_or_default() } else { key }
    }

    fn bounds(&self, slot: u32) -> (i64, i64) {
        let mut key = self.slots.key(slot);
        (take_i64(&mut key).unwrap_or(0), take_i64(&mut key).unwrap_or(0))
    }
}
