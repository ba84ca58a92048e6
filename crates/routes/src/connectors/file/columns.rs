//! JSON objects to Arrow columns whose types come from the values.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::Value;

use crate::exchange::text_of;

/// Widens `schema` (fields in first-seen order) until it holds `rows`.
/// `None` if it already did.
pub(crate) fn widen(schema: &Schema, rows: &[Arc<Value>]) -> Option<SchemaRef> {
    let mut fields: Vec<(String, DataType)> =
        schema.fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect();
    let mut changed = false;
    for row in rows {
        let Value::Object(row) = row.as_ref() else { continue };
        for (name, value) in row {
            let Some(found) = type_of(value) else { continue };
            match fields.iter_mut().find(|(known, _)| known == name) {
                None => {
                    fields.push((name.clone(), found));
                    changed = true;
                }
                Some((_, known)) if *known == found => {}
                Some((_, known)) => {
                    let wider = match (&*known, &found) {
                        (DataType::Int64, DataType::Float64) | (DataType::Float64, DataType::Int64) => {
                            DataType::Float64
                        }
                        _ => DataType::Utf8,
                    };
                    changed |= *known != wider;
                    *known = wider;
                }
            }
        }
    }
    let fields: Vec<Field> = fields.into_iter().map(|(name, kind)| Field::new(name, kind, true)).collect();
    changed.then(|| Arc::new(Schema::new(fields)))
}

fn type_of(value: &Value) -> Option<DataType> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(_) => DataType::Boolean,
        Value::Number(number) if number.is_i64() => DataType::Int64,
        Value::Number(_) => DataType::Float64,
        Value::String(_) | Value::Array(_) | Value::Object(_) => DataType::Utf8,
    })
}

/// The rows as columns of `schema`; a value that does not fit its column is null only if it is absent.
pub(crate) fn columns(
    schema: &SchemaRef,
    rows: &[Arc<Value>],
) -> Result<RecordBatch, arrow::error::ArrowError> {
    let arrays: Vec<ArrayRef> = schema
        .fields()
        .iter()
        .map(|field| {
            let cells = rows.iter().map(|row| row.get(field.name()).filter(|value| !value.is_null()));
            match field.data_type() {
                DataType::Boolean => {
                    Arc::new(cells.map(|cell| cell?.as_bool()).collect::<BooleanArray>()) as ArrayRef
                }
                DataType::Int64 => Arc::new(cells.map(|cell| cell?.as_i64()).collect::<Int64Array>()),
                DataType::Float64 => Arc::new(cells.map(|cell| cell?.as_f64()).collect::<Float64Array>()),
                _ => Arc::new(cells.map(|cell| cell.map(text_of)).collect::<StringArray>()),
            }
        })
        .collect();
    RecordBatch::try_new(Arc::clone(schema), arrays)
}
