//! Single values out of Arrow columns and columns out of single values: the row-wise path of rare functions.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, BooleanBuilder, Date32Array, Decimal128Array, Float64Array,
    Int32Array, Int64Array, ListArray, MapArray, StringBuilder, StructArray, Time32MillisecondArray,
    TimestampMillisecondArray, UInt32Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Fields, Float64Type, Int32Type, Int64Type,
    Time32MillisecondType, TimestampMillisecondType,
};

use super::EvalError;
use crate::SqlType;
use crate::expr::Value;

/// Value of row `row` of `column`; the column's Arrow type must be `ty.arrow()`.
///
/// # Panics   if the column is of another type (a broken plan).
#[must_use]
pub fn value_at(column: &dyn Array, row: usize, ty: &SqlType) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    match ty {
        SqlType::Boolean => Value::Boolean(column.as_boolean().value(row)),
        SqlType::Integer => Value::Integer(column.as_primitive::<Int32Type>().value(row)),
        SqlType::BigInt => Value::BigInt(column.as_primitive::<Int64Type>().value(row)),
        SqlType::Double => Value::Double(column.as_primitive::<Float64Type>().value(row)),
        SqlType::Decimal { precision, scale } => {
            Value::Decimal(column.as_primitive::<Decimal128Type>().value(row), *precision, *scale)
        }
        SqlType::String => Value::String(column.as_string::<i32>().value(row).to_owned()),
        SqlType::Bytes => Value::Bytes(column.as_binary::<i32>().value(row).to_vec()),
        SqlType::Date => Value::Date(column.as_primitive::<Date32Type>().value(row)),
        SqlType::Time => Value::Time(column.as_primitive::<Time32MillisecondType>().value(row)),
        SqlType::Timestamp => Value::Timestamp(column.as_primitive::<TimestampMillisecondType>().value(row)),
        SqlType::Array(element) => {
            let list = column.as_list::<i32>();
            let (start, end) = bounds(list.value_offsets(), row);
            Value::Array((start..end).map(|index| value_at(list.values(), index, element)).collect())
        }
        SqlType::Map(key, value) => {
            let map = column.as_map();
            let (start, end) = bounds(map.value_offsets(), row);
            let entry = |index| (value_at(map.keys(), index, key), value_at(map.values(), index, value));
            Value::Map((start..end).map(entry).collect())
        }
        SqlType::Struct(fields) => {
            let columns = column.as_struct();
            let field =
                |(index, field): (usize, &crate::Column)| value_at(columns.column(index), row, &field.ty);
            Value::Struct(fields.iter().enumerate().map(field).collect())
        }
    }
}

/// Start and end of a list's or map's row in its child columns.
pub(crate) fn bounds(offsets: &[i32], row: usize) -> (usize, usize) {
    (offset(offsets[row]), offset(offsets[row + 1]))
}

fn offset(value: i32) -> usize {
    usize::try_from(value).unwrap_or(0)
}

macro_rules! primitive {
    ($values:expr, $array:ty, $variant:ident, $what:literal) => {{
        let mut items = Vec::with_capacity($values.len());
        for value in $values {
            items.push(match value {
                Value::$variant(value) => Some(*value),
                Value::Null => None,
                other => return Err(mismatch($what, other)),
            });
        }
        Arc::new(<$array>::from(items)) as ArrayRef
    }};
}

fn mismatch(expected: &str, got: &Value) -> EvalError {
    EvalError::Plan { what: format!("a value: {expected} expected, got {got:?}") }
}

/// A column of type `ty.arrow()` with these values.
///
/// # Errors   [`EvalError::Plan`] if a value is not of type `ty`.
pub fn array_of(values: &[Value], ty: &SqlType) -> Result<ArrayRef, EvalError> {
    Ok(match ty {
        SqlType::Integer => primitive!(values, Int32Array, Integer, "INTEGER"),
        SqlType::BigInt => primitive!(values, Int64Array, BigInt, "BIGINT"),
        SqlType::Double => primitive!(values, Float64Array, Double, "DOUBLE"),
        SqlType::Date => primitive!(values, Date32Array, Date, "DATE"),
        SqlType::Time => primitive!(values, Time32MillisecondArray, Time, "TIME"),
        SqlType::Timestamp => primitive!(values, TimestampMillisecondArray, Timestamp, "TIMESTAMP"),
        SqlType::Boolean => {
            let mut builder = BooleanBuilder::with_capacity(values.len());
            for value in values {
                match value {
                    Value::Boolean(value) => builder.append_value(*value),
                    Value::Null => builder.append_null(),
                    other => return Err(mismatch("BOOLEAN", other)),
                }
            }
            Arc::new(builder.finish())
        }
        SqlType::Decimal { precision, scale } => {
            let mut items = Vec::with_capacity(values.len());
            for value in values {
                items.push(match value {
                    Value::Decimal(unscaled, _, from) => {
                        crate::numbers::rescale(*unscaled, *from, *scale, crate::numbers::Rounding::HalfUp)
                    }
                    Value::Null => None,
                    other => return Err(mismatch("DECIMAL", other)),
                });
            }
            let scale = i8::try_from(*scale).unwrap_or(i8::MAX);
            Arc::new(Decimal128Array::from(items).with_precision_and_scale(*precision, scale)?)
        }
        SqlType::String => {
            let mut builder = StringBuilder::with_capacity(values.len(), values.len() * 16);
            for value in values {
                match value {
                    Value::String(value) => builder.append_value(value),
                    Value::Null => builder.append_null(),
                    other => return Err(mismatch("STRING", other)),
                }
            }
            Arc::new(builder.finish())
        }
        SqlType::Bytes => {
            let mut builder = BinaryBuilder::with_capacity(values.len(), values.len() * 16);
            for value in values {
                match value {
                    Value::Bytes(value) => builder.append_value(value),
                    Value::Null => builder.append_null(),
                    other => return Err(mismatch("BYTES", other)),
                }
            }
            Arc::new(builder.finish())
        }
        SqlType::Array(element) => array_of_lists(values, element)?,
        SqlType::Map(key, value) => array_of_maps(values, key, value)?,
        SqlType::Struct(fields) => array_of_structs(values, fields)?,
    })
}

fn array_of_lists(values: &[Value], element: &SqlType) -> Result<ArrayRef, EvalError> {
    let mut items = Vec::new();
    let mut lengths = Vec::with_capacity(values.len());
    for value in values {
        match value {
            Value::Array(elements) => {
                lengths.push(elements.len());
                items.extend_from_slice(elements);
            }
            Value::Null => lengths.push(0),
            other => return Err(mismatch("ARRAY", other)),
        }
    }
    let child = array_of(&items, element)?;
    Ok(list_array(child, lengths, nulls(values)))
}

/// A list column from its child, the length of each row, and which rows are null.
pub(crate) fn list_array(child: ArrayRef, lengths: Vec<usize>, nulls: Option<NullBuffer>) -> ArrayRef {
    let field = Arc::new(Field::new("item", child.data_type().clone(), true));
    Arc::new(ListArray::new(field, OffsetBuffer::from_lengths(lengths), child, nulls))
}

/// A map column from its keys, values, the length of each row, and which rows are null.
pub(crate) fn map_array(
    keys: ArrayRef,
    values: ArrayRef,
    lengths: Vec<usize>,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, EvalError> {
    let fields = Fields::from(vec![
        Field::new("keys", keys.data_type().clone(), false),
        Field::new("values", values.data_type().clone(), true),
    ]);
    let entries = StructArray::try_new(fields.clone(), vec![keys, values], None)?;
    let field = Arc::new(Field::new("entries", DataType::Struct(fields), false));
    Ok(Arc::new(MapArray::try_new(field, OffsetBuffer::from_lengths(lengths), entries, nulls, false)?))
}

fn array_of_maps(values: &[Value], key: &SqlType, value: &SqlType) -> Result<ArrayRef, EvalError> {
    let (mut keys, mut items) = (Vec::new(), Vec::new());
    let mut lengths = Vec::with_capacity(values.len());
    for value in values {
        match value {
            Value::Map(entries) => {
                let before = keys.len();
                for (key, item) in entries.iter().filter(|(key, _)| *key != Value::Null) {
                    keys.push(key.clone());
                    items.push(item.clone());
                }
                lengths.push(keys.len() - before);
            }
            Value::Null => lengths.push(0),
            other => return Err(mismatch("MAP", other)),
        }
    }
    map_array(array_of(&keys, key)?, array_of(&items, value)?, lengths, nulls(values))
}

fn array_of_structs(values: &[Value], fields: &[crate::Column]) -> Result<ArrayRef, EvalError> {
    let mut columns = vec![Vec::with_capacity(values.len()); fields.len()];
    for value in values {
        match value {
            Value::Struct(items) => {
                for (index, column) in columns.iter_mut().enumerate() {
                    column.push(items.get(index).cloned().unwrap_or(Value::Null));
                }
            }
            Value::Null => columns.iter_mut().for_each(|column| column.push(Value::Null)),
            other => return Err(mismatch("STRUCT", other)),
        }
    }
    let arrays = columns.iter().zip(fields).map(|(column, field)| array_of(column, &field.ty));
    struct_array(arrays.collect::<Result<_, _>>()?, fields, values.len(), nulls(values))
}

/// A struct column from its fields' columns.
pub(crate) fn struct_array(
    columns: Vec<ArrayRef>,
    fields: &[crate::Column],
    rows: usize,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, EvalError> {
    let arrow_fields: Fields =
        fields.iter().map(|field| Field::new(&field.name, field.ty.arrow(), true)).collect();
    if fields.is_empty() {
        return Ok(Arc::new(StructArray::new_empty_fields(rows, nulls)));
    }
    Ok(Arc::new(StructArray::try_new(arrow_fields, columns, nulls)?))
}

fn nulls(values: &[Value]) -> Option<NullBuffer> {
    values
        .contains(&Value::Null)
        .then(|| NullBuffer::from_iter(values.iter().map(|value| *value != Value::Null)))
}

/// `rows` copies of `value`.
///
/// # Errors   as [`array_of`].
pub fn repeat(value: &Value, ty: &SqlType, rows: usize) -> Result<ArrayRef, EvalError> {
    match value {
        Value::Null => Ok(arrow::array::new_null_array(&ty.arrow(), rows)),
        Value::BigInt(value) => Ok(Arc::new(Int64Array::from_value(*value, rows))),
        Value::Integer(value) => Ok(Arc::new(Int32Array::from_value(*value, rows))),
        Value::Double(value) => Ok(Arc::new(Float64Array::from_value(*value, rows))),
        _ => {
            let one = array_of(std::slice::from_ref(value), ty)?;
            let zeros = UInt32Array::from_value(0, rows);
            Ok(arrow::compute::take(&one, &zeros, None)?)
        }
    }
}
