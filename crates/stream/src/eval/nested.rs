//! Arrays, maps and structs: access and construction.

use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::datatypes::{Int32Type, Int64Type};

use super::values::{bounds, list_array, map_array, struct_array};
use super::{EvalError, Frame, Run, eval, eval_guarded, narrow, operand, plan, value_at, values_equal};
use crate::SqlType;
use crate::expr::{Expr, Value};

/// `input[index]`: 1-based from the start, negative from the end, null outside; a map by key.
pub(crate) fn subscript(
    input: &Expr,
    index: &Expr,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
) -> Result<ArrayRef, EvalError> {
    let array = eval(input, frame, run)?;
    let index_type = index.ty();
    let index = operand(index, frame, run)?;
    match input.ty() {
        SqlType::Array(_) => {
            let list = array.as_list::<i32>();
            let position = |row: usize| -> Option<i64> {
                let row = index.at(row);
                if index.array.is_null(row) {
                    return None;
                }
                match index_type {
                    SqlType::Integer => Some(i64::from(index.array.as_primitive::<Int32Type>().value(row))),
                    SqlType::BigInt => Some(index.array.as_primitive::<Int64Type>().value(row)),
                    _ => None,
                }
            };
            let places: UInt32Array = (0..frame.rows)
                .map(|row| {
                    if list.is_null(row) {
                        return None;
                    }
                    let (start, end) = bounds(list.value_offsets(), row);
                    let position = position(row)?;
                    let length = i64::try_from(end - start).ok()?;
                    let at = if position < 0 { length.checked_add(position)? } else { position - 1 };
                    (0..length)
                        .contains(&at)
                        .then(|| usize::try_from(at).ok().map(|at| narrow(start + at)))?
                })
                .collect();
            Ok(arrow::compute::take(list.values(), &places, None)?)
        }
        SqlType::Map(key_type, _) => {
            let map = array.as_map();
            let places: UInt32Array = (0..frame.rows)
                .map(|row| {
                    let wanted = value_at(&index.array, index.at(row), &index_type);
                    if map.is_null(row) || wanted == Value::Null {
                        return None;
                    }
                    let (start, end) = bounds(map.value_offsets(), row);
                    (start..end)
                        .rev()
                        .find(|at| match (&wanted, map.keys().as_string_opt::<i32>()) {
                            (Value::String(wanted), Some(keys)) => keys.value(*at) == wanted,
                            _ => values_equal(&value_at(map.keys(), *at, &key_type), &wanted),
                        })
                        .map(narrow)
                })
                .collect();
            Ok(arrow::compute::take(map.values(), &places, None)?)
        }
        other => Err(plan(format!("a subscript of {other}"))),
    }
}

/// `input->field`, null if the struct is.
pub(crate) fn field(
    input: &Expr,
    index: usize,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
) -> Result<ArrayRef, EvalError> {
    let array = eval(input, frame, run)?;
    let fields = array.as_struct_opt().ok_or_else(|| plan("a field of something that is not a STRUCT"))?;
    if index >= fields.num_columns() {
        return Err(plan(format!("field {index} of a STRUCT")));
    }
    let column = fields.column(index);
    if fields.null_count() == 0 {
        return Ok(column.clone());
    }
    Ok(arrow::compute::nullif(column, &arrow::compute::is_null(&array)?)?)
}

pub(crate) fn make_array(
    elements: &[Expr],
    ty: &SqlType,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
) -> Result<ArrayRef, EvalError> {
    let SqlType::Array(element) = ty else { return Err(plan(format!("ARRAY[] of type {ty}"))) };
    let columns: Vec<ArrayRef> =
        elements.iter().map(|element| eval_guarded(element, frame, run)).collect::<Result<_, _>>()?;
    let child = interleave(&columns, element, frame.rows)?;
    Ok(list_array(child, vec![elements.len(); frame.rows], None))
}

/// Row 0 of each column, then row 1 of each, …
fn interleave(columns: &[ArrayRef], ty: &SqlType, rows: usize) -> Result<ArrayRef, EvalError> {
    if columns.is_empty() {
        return Ok(arrow::array::new_empty_array(&ty.arrow()));
    }
    let arrays: Vec<&dyn Array> = columns.iter().map(AsRef::as_ref).collect();
    let places: Vec<(usize, usize)> =
        (0..rows).flat_map(|row| (0..columns.len()).map(move |column| (column, row))).collect();
    Ok(arrow::compute::interleave(&arrays, &places)?)
}

pub(crate) fn make_map(
    entries: &[(Expr, Expr)],
    ty: &SqlType,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
) -> Result<ArrayRef, EvalError> {
    let SqlType::Map(key_type, value_type) = ty else { return Err(plan(format!("MAP() of type {ty}"))) };
    let mut keys = Vec::with_capacity(entries.len());
    let mut values = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        keys.push(eval_guarded(key, frame, run)?);
        values.push(eval_guarded(value, frame, run)?);
    }
    let all_keys = interleave(&keys, key_type, frame.rows)?;
    let all_values = interleave(&values, value_type, frame.rows)?;
    // Null keys are left out; of equal keys the last wins, in the first one's place, as in Java's LinkedHashMap.
    let mut picked_keys = Vec::new();
    let mut picked_values = Vec::new();
    let mut lengths = Vec::with_capacity(frame.rows);
    for row in 0..frame.rows {
        let start = picked_keys.len();
        let mut seen: Vec<Value> = Vec::with_capacity(entries.len());
        for at in row * entries.len()..(row + 1) * entries.len() {
            if all_keys.is_null(at) {
                continue;
            }
            let key = value_at(&all_keys, at, key_type);
            if let Some(earlier) = seen.iter().position(|other| values_equal(other, &key)) {
                picked_values[start + earlier] = narrow(at);
            } else {
                seen.push(key);
                picked_keys.push(narrow(at));
                picked_values.push(narrow(at));
            }
        }
        lengths.push(picked_keys.len() - start);
    }
    let keys = arrow::compute::take(&all_keys, &UInt32Array::from(picked_keys), None)?;
    let values = arrow::compute::take(&all_values, &UInt32Array::from(picked_values), None)?;
    map_array(keys, values, lengths, None)
}

pub(crate) fn make_struct(
    fields: &[Expr],
    ty: &SqlType,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
) -> Result<ArrayRef, EvalError> {
    let SqlType::Struct(columns) = ty else { return Err(plan(format!("STRUCT() of type {ty}"))) };
    let values: Vec<ArrayRef> =
        fields.iter().map(|field| eval_guarded(field, frame, run)).collect::<Result<_, _>>()?;
    struct_array(values, columns, frame.rows, None)
}
