//! LATEST_BY_OFFSET and EARLIEST_BY_OFFSET of one simple value, in arrival order.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, AsArray, PrimitiveArray, StringBuilder,
};
use arrow::datatypes::{ArrowNativeType, DataType};

use super::codec::{self, Reader, VERSION};
use super::primitives::Fixed;
use super::{DecodeStateError, GroupState, Rows};

/// How arrivals are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Policy {
    /// LATEST rather than EARLIEST.
    pub(crate) latest: bool,
    /// Null arrivals do not count.
    pub(crate) ignore_nulls: bool,
}

impl Policy {
    pub(crate) fn name(self) -> &'static str {
        if self.latest { "LATEST_BY_OFFSET" } else { "EARLIEST_BY_OFFSET" }
    }
}

/// One kept arrival: when (0: none yet), and whether it was null.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    sequence: u64,
    null: bool,
}

/// Arrival numbers of all groups; merging sessions compares them.
#[derive(Debug)]
struct Marks {
    marks: Vec<Mark>,
    next: u64,
    policy: Policy,
}

impl Marks {
    fn new(policy: Policy) -> Self {
        Self { marks: Vec::new(), next: 1, policy }
    }

    fn ensure(&mut self, slots: usize) {
        if self.marks.len() < slots {
            self.marks.resize(slots, Mark::default());
        }
    }

    /// Whether an arrival is to be kept for `slot`; if so it is marked.
    #[inline]
    fn arrives(&mut self, slot: usize, null: bool) -> bool {
        if null && self.policy.ignore_nulls {
            return false;
        }
        let mark = &mut self.marks[slot];
        if !self.policy.latest && mark.sequence > 0 {
            return false;
        }
        *mark = Mark { sequence: self.next, null };
        self.next += 1;
        true
    }

    /// Whether group `from`'s arrival replaces group `into`'s; if so its mark is copied.
    fn merges(&mut self, into: usize, from: usize) -> bool {
        let (own, other) = (self.marks[into], self.marks[from]);
        let better = other.sequence > 0
            && (own.sequence == 0 || (other.sequence > own.sequence) == self.policy.latest);
        if better && into != from {
            self.marks[into] = other;
        }
        better && into != from
    }

    fn holds(&self, slot: usize) -> bool {
        self.marks[slot].sequence > 0 && !self.marks[slot].null
    }

    fn encode(&self, slot: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&[VERSION, u8::from(self.marks[slot].null)]);
        out.extend_from_slice(&self.marks[slot].sequence.to_le_bytes());
    }

    fn read(&mut self, reader: &mut Reader<'_, '_>) -> Result<Mark, DecodeStateError> {
        let null = reader.u8()? != 0;
        let sequence = reader.u64()?;
        self.next = self.next.max(sequence.saturating_add(1));
        Ok(Mark { sequence, null })
    }
}

/// Of a fixed-width type.
#[derive(Debug)]
pub(crate) struct Offset<T: ArrowPrimitiveType> {
    values: Vec<T::Native>,
    marks: Marks,
    data_type: DataType,
}

impl<T: ArrowPrimitiveType> Offset<T> {
    pub(crate) fn new(data_type: DataType, policy: Policy) -> Self {
        Self { values: Vec::new(), marks: Marks::new(policy), data_type }
    }
}

impl<T: ArrowPrimitiveType> GroupState for Offset<T>
where
    T::Native: Fixed,
{
    fn ensure(&mut self, slots: usize) {
        self.marks.ensure(slots);
        if self.values.len() < slots {
            self.values.resize(slots, T::Native::ZERO);
        }
    }

    fn update(&mut self, slots: &[u32], rows: Rows<'_>, args: &[ArrayRef]) {
        let column = args[0].as_primitive::<T>();
        let nulls = column.null_count() > 0;
        rows.each(slots, |slot, row| {
            if self.marks.arrives(slot, nulls && column.is_null(row)) {
                self.values[slot] = column.values()[row];
            }
        });
    }

    fn undo(&mut self, _slots: &[u32], _rows: Rows<'_>, _args: &[ArrayRef]) {}

    fn merge(&mut self, into: u32, from: u32) {
        if self.marks.merges(into as usize, from as usize) {
            self.values[into as usize] = self.values[from as usize];
        }
    }

    fn results(&self, slots: &[u32]) -> ArrayRef {
        let value = |slot: &u32| self.marks.holds(*slot as usize).then(|| self.values[*slot as usize]);
        let array: PrimitiveArray<T> = slots.iter().map(value).collect();
        Arc::new(array.with_data_type(self.data_type.clone()))
    }

    fn encode(&self, slot: u32, out: &mut Vec<u8>) {
        self.marks.encode(slot as usize, out);
        self.values[slot as usize].put(out);
    }

    fn decode(&mut self, slot: u32, bytes: &mut &[u8]) -> Result<(), DecodeStateError> {
        self.ensure(slot as usize + 1);
        self.reset(slot);
        let mut reader = Reader::new(bytes, self.marks.policy.name())?;
        let mark = self.marks.read(&mut reader)?;
        self.values[slot as usize] = T::Native::read(&mut reader)?;
        self.marks.marks[slot as usize] = mark;
        Ok(())
    }

    fn reset(&mut self, slot: u32) {
        self.marks.marks[slot as usize] = Mark::default();
    }

    fn memory_bytes(&self) -> usize {
        self.values.capacity() * (T::Native::get_byte_width() + size_of::<Mark>())
    }
}

/// Of STRING.
#[derive(Debug)]
pub(crate) struct OffsetText {
    values: Vec<String>,
    marks: Marks,
}

impl OffsetText {
    pub(crate) fn new(policy: Policy) -> Self {
        Self { values: Vec::new(), marks: Marks::new(policy) }
    }
}

impl GroupState for OffsetText {
    fn ensure(&mut self, slots: usize) {
        self.marks.ensure(slots);
        if self.values.len() < slots {
            self.values.resize(slots, String::new());
        }
    }

    fn update(&mut self, slots: &[u32], rows: Rows<'_>, args: &[ArrayRef]) {
        let column = args[0].as_string::<i32>();
        let nulls = column.null_count() > 0;
        rows.each(slots, |slot, row| {
            if self.marks.arrives(slot, nulls && column.is_null(row)) {
                let held = &mut self.values[slot];
                held.clear();
                held.push_str(column.value(row));
            }
        });
    }

    fn undo(&mut self, _slots: &[u32], _rows: Rows<'_>, _args: &[ArrayRef]) {}

    fn merge(&mut self, into: u32, from: u32) {
        if self.marks.merges(into as usize, from as usize) {
            self.values[into as usize] = self.values[from as usize].clone();
        }
    }

    fn results(&self, slots: &[u32]) -> ArrayRef {
        let mut builder = StringBuilder::with_capacity(slots.len(), slots.len() * 16);
        for slot in slots {
            let held = self.marks.holds(*slot as usize).then(|| self.values[*slot as usize].as_str());
            builder.append_option(held);
        }
        Arc::new(builder.finish())
    }

    fn encode(&self, slot: u32, out: &mut Vec<u8>) {
        self.marks.encode(slot as usize, out);
        codec::put_bytes(self.values[slot as usize].as_bytes(), out);
    }

    fn decode(&mut self, slot: u32, bytes: &mut &[u8]) -> Result<(), DecodeStateError> {
        self.ensure(slot as usize + 1);
        self.reset(slot);
        let mut reader = Reader::new(bytes, self.marks.policy.name())?;
        let mark = self.marks.read(&mut reader)?;
        self.values[slot as usize].push_str(reader.text()?);
        self.marks.marks[slot as usize] = mark;
        Ok(())
    }

    fn reset(&mut self, slot: u32) {
        self.values[slot as usize].clear();
        self.marks.marks[slot as usize] = Mark::default();
    }

    fn memory_bytes(&self) -> usize {
        self.values.iter().map(|text| text.capacity() + size_of::<String>() + size_of::<Mark>()).sum()
    }
}
