//! Columnar frames: how rows travel through repartition topics, one record per batch of rows.
//!
//! A frame is written and read by this program only. It holds Arrow buffers as they lie in memory:
//!
//! ```text
//! version u8 | rows u32 | columns u16 | array … | times | flags u8 | [windows] [tombstones] [null keys] [old] [observed]
//! array = len u32 | has_nulls u8 | [null bits] | buffers u8 | (len u32, bytes)… | children u8 | array…
//! ```

use arrow::array::{Array, ArrayData, ArrayRef, BooleanArray, make_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, ScalarBuffer};
use arrow::datatypes::DataType;

use crate::rows::{OldRows, Rows, Windows};

const VERSION: u8 = 1;
const WINDOWS: u8 = 1;
const TOMBSTONES: u8 = 2;
const NULL_KEYS: u8 = 4;
const OLD: u8 = 8;
const OBSERVED: u8 = 16;
const DEPTH_MAX: usize = 128;

/// A frame that does not read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a repartition record is damaged ({0}): delete the query's internal topics and restart it")]
pub struct FrameError(&'static str);

/// Writes `rows` (buffers are compacted first).
#[must_use]
pub fn encode(rows: &Rows) -> Vec<u8> {
    let mut out = Vec::with_capacity(rows.len() * 32);
    out.push(VERSION);
    put_len(&mut out, rows.len());
    for column in &rows.columns {
        put_array(&mut out, &compact(column));
    }
    put_i64s(&mut out, &rows.times);
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    out.push(
        flag(rows.windows.is_some(), WINDOWS)
            | flag(rows.tombstones.is_some(), TOMBSTONES)
            | flag(rows.null_keys.is_some(), NULL_KEYS)
            | flag(rows.old.is_some(), OLD)
            | flag(rows.observed.is_some(), OBSERVED),
    );
    if let Some(windows) = &rows.windows {
        put_i64s(&mut out, &windows.start);
        put_i64s(&mut out, &windows.end);
    }
    for mask in [&rows.tombstones, &rows.null_keys].into_iter().flatten() {
        put_bits(&mut out, mask);
    }
    if let Some(old) = &rows.old {
        put_bits(&mut out, &old.present);
        for column in &old.values {
            put_array(&mut out, &compact(column));
        }
    }
    if let Some(observed) = &rows.observed {
        put_i64s(&mut out, observed);
    }
    out
}

/// Reads a frame whose columns have `types` (`key_len` of them are key columns).
///
/// # Errors   bytes that are cut short, of another version or of another shape.
pub fn decode(bytes: &[u8], types: &[DataType], key_len: usize) -> Result<Rows, FrameError> {
    let mut input = Input { bytes };
    if input.byte()? != VERSION {
        return Err(FrameError("unknown version"));
    }
    let len = input.len()?;
    let columns = types.iter().map(|ty| input.array(ty, 0)).collect::<Result<Vec<_>, _>>()?;
    let times = input.i64s(len)?;
    let flags = input.byte()?;
    let windows = if flags & WINDOWS != 0 {
        Some(Windows { start: input.i64s(len)?, end: input.i64s(len)? })
    } else {
        None
    };
    let tombstones = if flags & TOMBSTONES != 0 { Some(input.bits(len)?) } else { None };
    let null_keys = if flags & NULL_KEYS != 0 { Some(input.bits(len)?) } else { None };
    let old = if flags & OLD != 0 {
        let present = input.bits(len)?;
        let values = types[key_len..].iter().map(|ty| input.array(ty, 0)).collect::<Result<Vec<_>, _>>()?;
        Some(OldRows { values, present })
    } else {
        None
    };
    let observed = if flags & OBSERVED != 0 { Some(input.i64s(len)?) } else { None };
    if columns.iter().any(|column| column.len() != len) {
        return Err(FrameError("columns of different lengths"));
    }
    Ok(Rows { columns, times, windows, tombstones, null_keys, old, observed, offsets: None })
}

/// A copy whose buffers start at 0 and hold nothing else.
fn compact(column: &ArrayRef) -> ArrayData {
    let data = column.to_data();
    if data.offset() == 0 && whole(&data) {
        return data;
    }
    let mut mutable = arrow::array::MutableArrayData::new(vec![&data], false, data.len());
    mutable.try_extend(0, 0, data.len()).expect("a part of an array is no larger than the array");
    mutable.freeze()
}

/// Whether fixed-width buffers hold `data`'s rows and nothing else; other layouts are copied to be sure.
fn whole(data: &ArrayData) -> bool {
    let width = data.data_type().primitive_width();
    width.is_some_and(|width| data.buffers().iter().all(|buffer| buffer.len() == width * data.len()))
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_i64s(out: &mut Vec<u8>, values: &ScalarBuffer<i64>) {
    out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

fn put_bits(out: &mut Vec<u8>, bits: &BooleanBuffer) {
    let packed = BooleanArray::new(bits.iter().collect(), None);
    put_bytes(out, packed.values().inner().as_slice());
}

fn put_array(out: &mut Vec<u8>, data: &ArrayData) {
    put_len(out, data.len());
    out.push(u8::from(data.nulls().is_some()));
    if let Some(nulls) = data.nulls() {
        put_bits(out, nulls.inner());
    }
    out.push(u8::try_from(data.buffers().len()).unwrap_or(u8::MAX));
    for buffer in data.buffers() {
        put_bytes(out, buffer.as_slice());
    }
    for child in data.child_data() {
        put_array(out, child);
    }
}

struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], FrameError> {
        let (head, rest) = self.bytes.split_at_checked(len).ok_or(FrameError("cut short"))?;
        self.bytes = rest;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8, FrameError> {
        Ok(self.take(1)?[0])
    }

    fn len(&mut self) -> Result<usize, FrameError> {
        let bytes = <[u8; 4]>::try_from(self.take(4)?).map_err(|_| FrameError("cut short"))?;
        usize::try_from(u32::from_le_bytes(bytes)).map_err(|_| FrameError("too large"))
    }

    fn i64s(&mut self, len: usize) -> Result<ScalarBuffer<i64>, FrameError> {
        let bytes = self.take(len.checked_mul(8).ok_or(FrameError("too large"))?)?;
        Ok(bytes
            .chunks_exact(8)
            .map(|c| i64::from_le_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]]))
            .collect())
    }

    fn bits(&mut self, len: usize) -> Result<BooleanBuffer, FrameError> {
        let bytes_len = self.len()?;
        let bytes = self.take(bytes_len)?;
        if bytes.len() < len.div_ceil(8) {
            return Err(FrameError("too few bits"));
        }
        Ok(BooleanBuffer::new(Buffer::from(bytes), 0, len))
    }

    fn array(&mut self, ty: &DataType, depth: usize) -> Result<ArrayRef, FrameError> {
        Ok(make_array(self.array_data(ty, depth)?))
    }

    fn array_data(&mut self, ty: &DataType, depth: usize) -> Result<ArrayData, FrameError> {
        if depth > DEPTH_MAX {
            return Err(FrameError("nested too deep"));
        }
        let len = self.len()?;
        let nulls = if self.byte()? != 0 { Some(NullBuffer::new(self.bits(len)?)) } else { None };
        let buffers = self.byte()?;
        let mut builder = ArrayData::builder(ty.clone()).len(len).nulls(nulls);
        for _ in 0..buffers {
            let bytes_len = self.len()?;
            builder = builder.add_buffer(Buffer::from(self.take(bytes_len)?));
        }
        match ty {
            DataType::List(field) | DataType::Map(field, _) => {
                builder = builder.add_child_data(self.array_data(field.data_type(), depth + 1)?);
            }
            DataType::Struct(fields) => {
                for field in fields {
                    builder = builder.add_child_data(self.array_data(field.data_type(), depth + 1)?);
                }
            }
            _ => {}
        }
        builder.align_buffers(true).build().map_err(|_| FrameError("buffers do not fit their type"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, ListArray, StringArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn a_frame_comes_back_and_a_cut_frame_is_an_error() {
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![
            Some(vec![Some(1), None]),
            None,
            Some(vec![]),
        ]);
        let mut rows = Rows::new(
            vec![
                Arc::new(StringArray::from(vec![Some("a"), None, Some("ccc")])),
                Arc::new(Int64Array::from(vec![Some(1), Some(2), None])),
                Arc::new(list),
            ],
            vec![5, 6, 7],
        );
        rows.tombstones = Some(BooleanBuffer::from(vec![false, true, false]));
        rows.observed = Some(vec![5, 6, 9].into());
        let rows = rows.slice(1, 2);
        let types: Vec<DataType> = rows.columns.iter().map(|c| c.data_type().clone()).collect();
        let bytes = encode(&rows);
        let back = decode(&bytes, &types, 1).unwrap();
        assert_eq!(back.columns, rows.columns);
        assert_eq!(
            (back.times, back.tombstones, back.observed),
            (rows.times, rows.tombstones, rows.observed)
        );
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut], &types, 1).is_err());
        }
    }
}
