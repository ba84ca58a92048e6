//! Growing columns that can forget their last rows, so that a row that fails half-way leaves no trace.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, BooleanBufferBuilder, Date32Array, Decimal128Array, Float64Array,
    Int32Array, Int64Array, ListArray, MapArray, StringArray, StructArray, Time32MillisecondArray,
    TimestampMillisecondArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Fields};
use arrow::error::ArrowError;

use crate::SqlType;

/// Values of one column, and which of them are null.
#[derive(Debug)]
pub(crate) struct ColumnBuilder {
    pub(crate) values: Values,
    /// Validity, only once a null was seen.
    validity: Option<BooleanBufferBuilder>,
}

/// Text or bytes behind offsets.
#[derive(Debug)]
pub(crate) struct Blob {
    pub(crate) offsets: Vec<i32>,
    pub(crate) bytes: Vec<u8>,
}

impl Blob {
    fn new() -> Self {
        Self { offsets: vec![0], bytes: Vec::new() }
    }

    /// Ends the current value where the bytes end. The decoder bounds all bytes of a call below 2 GiB.
    #[inline]
    pub(crate) fn end(&mut self) {
        self.offsets.push(i32::try_from(self.bytes.len()).unwrap_or(i32::MAX));
    }

    /// Appends the first `value.len()` bytes of `tail`, which begins with `value`. Short values are copied 16 bytes at
    /// once where the tail has them, which spares a call.
    #[inline]
    pub(crate) fn append(&mut self, value: &[u8], tail: &[u8]) {
        match tail.first_chunk::<16>() {
            Some(chunk) if value.len() <= 16 => {
                let end = self.bytes.len() + value.len();
                self.bytes.extend_from_slice(chunk);
                self.bytes.truncate(end);
            }
            _ => self.bytes.extend_from_slice(value),
        }
    }

    /// Appends one whole value.
    #[inline]
    pub(crate) fn push(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        self.end();
    }

    fn truncate(&mut self, rows: usize) {
        self.offsets.truncate(rows + 1);
        let end = self.offsets.last().copied().unwrap_or(0);
        self.bytes.truncate(usize::try_from(end).unwrap_or(0));
    }

    fn take(&mut self) -> (OffsetBuffer<i32>, Buffer) {
        let bytes_hint = self.bytes.len() + self.bytes.len() / 8;
        let rows_hint = self.offsets.len();
        let offsets = std::mem::replace(&mut self.offsets, Vec::with_capacity(rows_hint));
        self.offsets.push(0);
        let bytes = std::mem::replace(&mut self.bytes, Vec::with_capacity(bytes_hint));
        (OffsetBuffer::new(ScalarBuffer::from(offsets)), Buffer::from_vec(bytes))
    }
}

#[derive(Debug)]
pub(crate) enum Values {
    Boolean(Vec<bool>),
    Integer(Vec<i32>),
    BigInt(Vec<i64>),
    Double(Vec<f64>),
    Decimal { values: Vec<i128>, precision: u8, scale: u8 },
    Text(Blob),
    Bytes(Blob),
    Date(Vec<i32>),
    Time(Vec<i32>),
    Timestamp(Vec<i64>),
    Array { offsets: Vec<i32>, element: Box<ColumnBuilder> },
    Map { offsets: Vec<i32>, keys: Box<ColumnBuilder>, values: Box<ColumnBuilder> },
    Struct { len: usize, fields: Vec<(String, ColumnBuilder)> },
}

fn take<T>(values: &mut Vec<T>) -> Vec<T> {
    let hint = values.len();
    std::mem::replace(values, Vec::with_capacity(hint))
}

fn offset(len: usize) -> i32 {
    i32::try_from(len).unwrap_or(i32::MAX)
}

impl ColumnBuilder {
    pub(crate) fn new(ty: &SqlType) -> Self {
        let values = match ty {
            SqlType::Boolean => Values::Boolean(Vec::new()),
            SqlType::Integer => Values::Integer(Vec::new()),
            SqlType::BigInt => Values::BigInt(Vec::new()),
            SqlType::Double => Values::Double(Vec::new()),
            SqlType::Decimal { precision, scale } => {
                Values::Decimal { values: Vec::new(), precision: *precision, scale: *scale }
            }
            SqlType::String => Values::Text(Blob::new()),
            SqlType::Bytes => Values::Bytes(Blob::new()),
            SqlType::Date => Values::Date(Vec::new()),
            SqlType::Time => Values::Time(Vec::new()),
            SqlType::Timestamp => Values::Timestamp(Vec::new()),
            SqlType::Array(element) => {
                Values::Array { offsets: vec![0], element: Box::new(Self::new(element)) }
            }
            SqlType::Map(key, value) => Values::Map {
                offsets: vec![0],
                keys: Box::new(Self::new(key)),
                values: Box::new(Self::new(value)),
            },
            SqlType::Struct(columns) => Values::Struct {
                len: 0,
                fields: columns.iter().map(|column| (column.name.clone(), Self::new(&column.ty))).collect(),
            },
        };
        Self { values, validity: None }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        match &self.values {
            Values::Boolean(values) => values.len(),
            Values::Integer(values) | Values::Date(values) | Values::Time(values) => values.len(),
            Values::BigInt(values) | Values::Timestamp(values) => values.len(),
            Values::Double(values) => values.len(),
            Values::Decimal { values, .. } => values.len(),
            Values::Text(blob) | Values::Bytes(blob) => blob.offsets.len() - 1,
            Values::Array { offsets, .. } | Values::Map { offsets, .. } => offsets.len() - 1,
            Values::Struct { len, .. } => *len,
        }
    }

    /// Marks the value that was just pushed as present.
    #[inline]
    pub(crate) fn mark_valid(&mut self) {
        if let Some(validity) = &mut self.validity {
            validity.append(true);
        }
    }

    pub(crate) fn push_null(&mut self) {
        let rows = self.len();
        self.validity
            .get_or_insert_with(|| {
                let mut validity = BooleanBufferBuilder::new(rows + 64);
                validity.append_n(rows, true);
                validity
            })
            .append(false);
        match &mut self.values {
            Values::Boolean(values) => values.push(false),
            Values::Integer(values) | Values::Date(values) | Values::Time(values) => values.push(0),
            Values::BigInt(values) | Values::Timestamp(values) => values.push(0),
            Values::Double(values) => values.push(0.0),
            Values::Decimal { values, .. } => values.push(0),
            Values::Text(blob) | Values::Bytes(blob) => blob.end(),
            Values::Array { offsets, element } => offsets.push(offset(element.len())),
            Values::Map { offsets, keys, .. } => offsets.push(offset(keys.len())),
            Values::Struct { len, fields } => {
                *len += 1;
                for (_, field) in fields {
                    field.push_null();
                }
            }
        }
    }

    /// Forgets all rows from `rows` on; a value that was only begun is forgotten too.
    pub(crate) fn truncate(&mut self, rows: usize) {
        if let Some(validity) = &mut self.validity {
            validity.truncate(rows.min(validity.len()));
        }
        match &mut self.values {
            Values::Boolean(values) => values.truncate(rows),
            Values::Integer(values) | Values::Date(values) | Values::Time(values) => values.truncate(rows),
            Values::BigInt(values) | Values::Timestamp(values) => values.truncate(rows),
            Values::Double(values) => values.truncate(rows),
            Values::Decimal { values, .. } => values.truncate(rows),
            Values::Text(blob) | Values::Bytes(blob) => blob.truncate(rows),
            Values::Array { offsets, element } => {
                offsets.truncate(rows + 1);
                element.truncate(usize::try_from(offsets.last().copied().unwrap_or(0)).unwrap_or(0));
            }
            Values::Map { offsets, keys, values } => {
                offsets.truncate(rows + 1);
                let end = usize::try_from(offsets.last().copied().unwrap_or(0)).unwrap_or(0);
                keys.truncate(end);
                values.truncate(end);
            }
            Values::Struct { len, fields } => {
                *len = rows.min(*len);
                for (_, field) in fields {
                    field.truncate(rows);
                }
            }
        }
    }

    /// Closes an array, map or struct value after its parts were pushed.
    #[inline]
    pub(crate) fn close_nested(&mut self) {
        match &mut self.values {
            Values::Array { offsets, element } => offsets.push(offset(element.len())),
            Values::Map { offsets, keys, .. } => offsets.push(offset(keys.len())),
            Values::Struct { len, .. } => *len += 1,
            _ => {}
        }
        self.mark_valid();
    }

    /// Takes the rows out as an array of `ty`. Errors: text that is not UTF-8.
    pub(crate) fn finish(&mut self, ty: &DataType) -> Result<ArrayRef, ArrowError> {
        let nulls = self.validity.take().map(|mut validity| NullBuffer::new(validity.finish()));
        Ok(match &mut self.values {
            Values::Boolean(values) => {
                let bits = BooleanBuffer::from_iter(values.iter().copied());
                values.clear();
                Arc::new(BooleanArray::new(bits, nulls))
            }
            Values::Integer(values) => Arc::new(Int32Array::try_new(take(values).into(), nulls)?),
            Values::Date(values) => Arc::new(Date32Array::try_new(take(values).into(), nulls)?),
            Values::Time(values) => Arc::new(Time32MillisecondArray::try_new(take(values).into(), nulls)?),
            Values::BigInt(values) => Arc::new(Int64Array::try_new(take(values).into(), nulls)?),
            Values::Timestamp(values) => {
                Arc::new(TimestampMillisecondArray::try_new(take(values).into(), nulls)?)
            }
            Values::Double(values) => Arc::new(Float64Array::try_new(take(values).into(), nulls)?),
            Values::Decimal { values, precision, scale } => Arc::new(
                Decimal128Array::try_new(take(values).into(), nulls)?
                    .with_precision_and_scale(*precision, i8::try_from(*scale).unwrap_or(i8::MAX))?,
            ),
            Values::Text(blob) => {
                let (offsets, bytes) = blob.take();
                Arc::new(StringArray::try_new(offsets, bytes, nulls)?)
            }
            Values::Bytes(blob) => {
                let (offsets, bytes) = blob.take();
                Arc::new(BinaryArray::try_new(offsets, bytes, nulls)?)
            }
            Values::Array { offsets, element } => {
                let DataType::List(field) = ty else { return Err(wrong(ty)) };
                let items = element.finish(field.data_type())?;
                Arc::new(ListArray::try_new(Arc::clone(field), take_offsets(offsets), items, nulls)?)
            }
            Values::Map { offsets, keys, values } => {
                let DataType::Map(entries, _) = ty else { return Err(wrong(ty)) };
                let fields = struct_fields(entries)?;
                let parts = fields
                    .iter()
                    .zip([keys, values])
                    .map(|(field, part)| part.finish(field.data_type()))
                    .collect::<Result<Vec<_>, _>>()?;
                let inner = StructArray::try_new(fields.clone(), parts, None)?;
                Arc::new(MapArray::try_new(Arc::clone(entries), take_offsets(offsets), inner, nulls, false)?)
            }
            Values::Struct { len, fields } => {
                let DataType::Struct(types) = ty else { return Err(wrong(ty)) };
                let parts = types
                    .iter()
                    .zip(fields)
                    .map(|(field, (_, part))| part.finish(field.data_type()))
                    .collect::<Result<Vec<_>, _>>()?;
                let rows = std::mem::take(len);
                Arc::new(StructArray::try_new_with_length(types.clone(), parts, nulls, rows)?)
            }
        })
    }
}

fn take_offsets(offsets: &mut Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(offsets, vec![0])))
}

fn struct_fields(entries: &Field) -> Result<&Fields, ArrowError> {
    match entries.data_type() {
        DataType::Struct(fields) => Ok(fields),
        other => Err(wrong(other)),
    }
}

fn wrong(ty: &DataType) -> ArrowError {
    ArrowError::SchemaError(format!("column builder cannot make {ty}"))
}
