//! MIN and MAX of STRING and BYTES: a group keeps its buffer, so that a better value rarely allocates.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryBuilder, StringBuilder};

use super::codec::{self, Reader, VERSION};
use super::{DecodeStateError, GroupState, Rows};

/// MIN (`LEAST = true`) or MAX by bytes, which for UTF-8 is the order of code points.
#[derive(Debug)]
pub(crate) struct ExtremeBytes<const LEAST: bool> {
    values: Vec<Vec<u8>>,
    present: Vec<bool>,
    text: bool,
    name: &'static str,
    heap: usize,
}

impl<const LEAST: bool> ExtremeBytes<LEAST> {
    pub(crate) fn new(text: bool, name: &'static str) -> Self {
        Self { values: Vec::new(), present: Vec::new(), text, name, heap: 0 }
    }

    #[inline]
    fn offer(&mut self, slot: usize, value: &[u8]) {
        let held = &mut self.values[slot];
        let better = if LEAST { value < held.as_slice() } else { value > held.as_slice() };
        if better || !self.present[slot] {
            let before = held.capacity();
            held.clear();
            held.extend_from_slice(value);
            self.heap += held.capacity() - before;
            self.present[slot] = true;
        }
    }
}

impl<const LEAST: bool> GroupState for ExtremeBytes<LEAST> {
    fn ensure(&mut self, slots: usize) {
        if self.values.len() < slots {
            self.values.resize(slots, Vec::new());
            self.present.resize(slots, false);
        }
    }

    fn update(&mut self, slots: &[u32], rows: Rows<'_>, args: &[ArrayRef]) {
        let nulls = args[0].null_count() > 0;
        if let Some(column) = args[0].as_string_opt::<i32>() {
            rows.each(slots, |slot, row| {
                if !nulls || column.is_valid(row) {
                    self.offer(slot, column.value(row).as_bytes());
                }
            });
        } else {
            let column = args[0].as_binary::<i32>();
            rows.each(slots, |slot, row| {
                if !nulls || column.is_valid(row) {
                    self.offer(slot, column.value(row));
                }
            });
        }
    }

    fn undo(&mut self, _slots: &[u32], _rows: Rows<'_>, _args: &[ArrayRef]) {}

    fn merge(&mut self, into: u32, from: u32) {
        if self.present[from as usize] && into != from {
            let value = std::mem::take(&mut self.values[from as usize]);
            self.offer(into as usize, &value);
            self.values[from as usize] = value;
        }
    }

    fn results(&self, slots: &[u32]) -> ArrayRef {
        let held = |slot: &u32| self.present[*slot as usize].then(|| self.values[*slot as usize].as_slice());
        if self.text {
            let mut builder = StringBuilder::with_capacity(slots.len(), slots.len() * 16);
            for slot in slots {
                builder.append_option(held(slot).map(|bytes| String::from_utf8_lossy(bytes)));
            }
            Arc::new(builder.finish())
        } else {
            let mut builder = BinaryBuilder::with_capacity(slots.len(), slots.len() * 16);
            slots.iter().for_each(|slot| builder.append_option(held(slot)));
            Arc::new(builder.finish())
        }
    }

    fn encode(&self, slot: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&[VERSION, u8::from(self.present[slot as usize])]);
        codec::put_bytes(&self.values[slot as usize], out);
    }

    fn decode(&mut self, slot: u32, bytes: &mut &[u8]) -> Result<(), DecodeStateError> {
        self.ensure(slot as usize + 1);
        self.reset(slot);
        let mut reader = Reader::new(bytes, self.name)?;
        let present = reader.u8()? != 0;
        let length = reader.count(1)?;
        let value = reader.take(length)?;
        if self.text && std::str::from_utf8(value).is_err() {
            return Err(reader.error("text that is not UTF-8"));
        }
        if present {
            self.offer(slot as usize, value);
        }
        Ok(())
    }

    fn reset(&mut self, slot: u32) {
        self.values[slot as usize].clear();
        self.present[slot as usize] = false;
    }

    fn memory_bytes(&self) -> usize {
        self.heap + self.values.capacity() * 25
    }
}
