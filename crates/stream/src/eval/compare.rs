//! Comparisons: false when a side is null (IS DISTINCT FROM excepted), numbers widened, times read from text.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Datum};
use arrow::buffer::BooleanBuffer;
use arrow::compute::kernels::cmp;
use arrow::datatypes::{DataType, i256};

use super::{EvalError, Frame, Operand, Run, operand, time, truth, value_at};
use crate::expr::{CompareOp, Expr, Value};
use crate::numbers;
use crate::{SqlType, functions::typing};

pub(crate) fn compare(
    op: CompareOp,
    left: &Expr,
    right: &Expr,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
) -> Result<ArrayRef, EvalError> {
    let left_value = operand(left, frame, run)?;
    let right_value = operand(right, frame, run)?;
    let result = operands(op, &left_value, &left.ty(), &right_value, &right.ty(), frame, run)?;
    Ok(Arc::new(BooleanArray::new(result, None)))
}

/// Whether comparing these types can never fail (texts read as times can).
pub(crate) fn infallible(left: &SqlType, right: &SqlType) -> bool {
    left == right || (left.is_numeric() && right.is_numeric())
}

/// Compares two operands row by row.
pub(crate) fn operands(
    op: CompareOp,
    left: &Operand,
    left_type: &SqlType,
    right: &Operand,
    right_type: &SqlType,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
) -> Result<BooleanBuffer, EvalError> {
    if left.scalar && right.scalar {
        let one = Operand {
            array: super::values::repeat(&value_at(&left.array, 0, left_type), left_type, frame.rows)?,
            scalar: false,
        };
        return operands(op, &one, left_type, right, right_type, frame, run);
    }
    let structured = matches!(left_type, SqlType::Array(_) | SqlType::Map(..) | SqlType::Struct(_));
    if left_type == right_type && !structured {
        return kernel(op, left, right);
    }
    if let Some(target) = plain_target(left_type, right_type) {
        let widen = |operand: &Operand| -> Result<Operand, EvalError> {
            Ok(Operand { array: arrow::compute::cast(&operand.array, &target)?, scalar: operand.scalar })
        };
        return kernel(op, &widen(left)?, &widen(right)?);
    }
    let mut builder = Vec::with_capacity(frame.rows);
    // A text constant compared with times is read once.
    let left_constant = constant(left, left_type, right_type);
    let right_constant = constant(right, right_type, left_type);
    for row in 0..frame.rows {
        let left =
            left_constant.clone().unwrap_or_else(|| Ok(value_at(&left.array, left.at(row), left_type)));
        let right =
            right_constant.clone().unwrap_or_else(|| Ok(value_at(&right.array, right.at(row), right_type)));
        let outcome = left.and_then(|left| right.and_then(|right| decide(op, &left, &right)));
        builder.push(outcome.unwrap_or_else(|reason| {
            run.fail(frame, row, &reason);
            false
        }));
    }
    Ok(BooleanBuffer::from(builder))
}

/// A scalar text that is compared with a time, read as that time.
fn constant(operand: &Operand, own: &SqlType, other: &SqlType) -> Option<Result<Value, String>> {
    if !operand.scalar {
        return None;
    }
    let value = value_at(&operand.array, 0, own);
    Some(match (&value, other) {
        (Value::String(text), SqlType::Timestamp) => time::parse_timestamp(text).map(Value::Timestamp),
        (Value::String(text), SqlType::Date) => time::parse_date(text).map(Value::Date),
        (Value::String(text), SqlType::Time) => time::parse_time(text).map(Value::Time),
        _ => Ok(value),
    })
}

/// The Arrow type in which two numbers of different types compare exactly, if there is one.
fn plain_target(left: &SqlType, right: &SqlType) -> Option<DataType> {
    match (left, right) {
        (SqlType::Integer | SqlType::BigInt, SqlType::Integer | SqlType::BigInt) => Some(DataType::Int64),
        (SqlType::Integer | SqlType::BigInt | SqlType::Double, SqlType::Double)
        | (SqlType::Double, SqlType::Integer | SqlType::BigInt) => Some(DataType::Float64),
        (SqlType::Decimal { .. }, r) | (r, SqlType::Decimal { .. }) if *r != SqlType::Double => {
            let (lp, ls) = typing::as_decimal(left)?;
            let (rp, rs) = typing::as_decimal(right)?;
            let scale = ls.max(rs);
            let precision = (lp - ls).max(rp - rs) + scale;
            (precision <= typing::MAX_PRECISION).then(|| SqlType::Decimal { precision, scale }.arrow())
        }
        _ => None,
    }
}

fn kernel(op: CompareOp, left: &dyn Datum, right: &dyn Datum) -> Result<BooleanBuffer, EvalError> {
    let result = match op {
        CompareOp::Equal => cmp::eq(left, right)?,
        CompareOp::NotEqual => cmp::neq(left, right)?,
        CompareOp::Less => cmp::lt(left, right)?,
        CompareOp::LessOrEqual => cmp::lt_eq(left, right)?,
        CompareOp::Greater => cmp::gt(left, right)?,
        CompareOp::GreaterOrEqual => cmp::gt_eq(left, right)?,
        CompareOp::IsDistinctFrom => cmp::distinct(left, right)?,
        CompareOp::IsNotDistinctFrom => cmp::not_distinct(left, right)?,
    };
    Ok(truth(&result))
}

fn decide(op: CompareOp, left: &Value, right: &Value) -> Result<bool, String> {
    if *left == Value::Null || *right == Value::Null {
        let both = *left == *right;
        return Ok(match op {
            CompareOp::IsDistinctFrom => !both,
            CompareOp::IsNotDistinctFrom => both,
            _ => false,
        });
    }
    if matches!(left, Value::Array(_) | Value::Map(_) | Value::Struct(_)) {
        let equal = values_equal(left, right);
        return Ok(match op {
            CompareOp::Equal | CompareOp::IsNotDistinctFrom => equal,
            _ => !equal,
        });
    }
    let order = compare_values(left, right)?;
    Ok(match op {
        CompareOp::Equal | CompareOp::IsNotDistinctFrom => order.is_eq(),
        CompareOp::NotEqual | CompareOp::IsDistinctFrom => order.is_ne(),
        CompareOp::Less => order.is_lt(),
        CompareOp::LessOrEqual => order.is_le(),
        CompareOp::Greater => order.is_gt(),
        CompareOp::GreaterOrEqual => order.is_ge(),
    })
}

/// Orders two non-null simple values as ksqlDB compares them (numbers by value, texts read as times if need be).
///
/// # Errors   a text that is not a time, or types that do not compare.
pub fn compare_values(left: &Value, right: &Value) -> Result<Ordering, String> {
    Ok(match (left, right) {
        (Value::Boolean(a), Value::Boolean(b)) => a.cmp(b),
        (Value::Integer(a), Value::Integer(b)) => a.cmp(b),
        (Value::BigInt(a), Value::BigInt(b)) => a.cmp(b),
        (Value::Double(a), Value::Double(b)) => a.total_cmp(b),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
        (Value::Date(a), Value::Date(b)) | (Value::Time(a), Value::Time(b)) => a.cmp(b),
        (Value::Timestamp(a), Value::Timestamp(b)) => a.cmp(b),
        (Value::Timestamp(a), Value::String(b)) => a.cmp(&time::parse_timestamp(b)?),
        (Value::String(a), Value::Timestamp(b)) => time::parse_timestamp(a)?.cmp(b),
        (Value::Date(a), Value::String(b)) => a.cmp(&time::parse_date(b)?),
        (Value::String(a), Value::Date(b)) => time::parse_date(a)?.cmp(b),
        (Value::Time(a), Value::String(b)) => a.cmp(&time::parse_time(b)?),
        (Value::String(a), Value::Time(b)) => time::parse_time(a)?.cmp(b),
        (Value::Date(a), Value::Timestamp(b)) => (i64::from(*a) * time::DAY_MS).cmp(b),
        (Value::Timestamp(a), Value::Date(b)) => a.cmp(&(i64::from(*b) * time::DAY_MS)),
        (a, b) if is_decimal(a) || is_decimal(b) => compare_decimals(a, b)?,
        (a, b) => match (as_double(a), as_double(b)) {
            (Some(a), Some(b)) => a.total_cmp(&b),
            _ => return Err(format!("cannot compare {a:?} with {b:?}")),
        },
    })
}

fn is_decimal(value: &Value) -> bool {
    matches!(value, Value::Decimal(..))
}

pub(crate) fn as_double(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(value) => Some(f64::from(*value)),
        Value::BigInt(value) => Some(*value as f64),
        Value::Double(value) => Some(*value),
        Value::Decimal(unscaled, _, scale) => Some(numbers::decimal_to_double(*unscaled, *scale)),
        _ => None,
    }
}

fn wide(value: &Value) -> Result<(i256, i32), String> {
    match value {
        Value::Decimal(unscaled, _, scale) => Ok((i256::from_i128(*unscaled), i32::from(*scale))),
        Value::Integer(value) => Ok((i256::from_i128(i128::from(*value)), 0)),
        Value::BigInt(value) => Ok((i256::from_i128(i128::from(*value)), 0)),
        // BigDecimal.valueOf(double): the digits that Double.toString prints.
        Value::Double(value) => numbers::parse_decimal(&numbers::double_to_string(*value)),
        other => Err(format!("{other:?} is not a number")),
    }
}

fn compare_decimals(left: &Value, right: &Value) -> Result<Ordering, String> {
    let ((a, a_scale), (b, b_scale)) = (wide(left)?, wide(right)?);
    let scale = a_scale.max(b_scale);
    let a = numbers::rescale_wide(a, a_scale, scale, numbers::Rounding::Down);
    let b = numbers::rescale_wide(b, b_scale, scale, numbers::Rounding::Down);
    match (a, b) {
        (Some(a), Some(b)) => Ok(a.cmp(&b)),
        // One is beyond 76 digits at the other's scale: doubles tell them apart.
        _ => Ok(as_double(left).unwrap_or(0.0).total_cmp(&as_double(right).unwrap_or(0.0))),
    }
}

/// Java's `equals` on values of one type: maps in any order, decimals by value, doubles by bits.
#[must_use]
pub fn values_equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Null, Value::Null) => true,
        (Value::Array(a), Value::Array(b)) | (Value::Struct(a), Value::Struct(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| values_equal(a, b))
        }
        (Value::Map(a), Value::Map(b)) => {
            a.len() == b.len()
                && a.iter().all(|(key, value)| {
                    b.iter().any(|(other, item)| values_equal(key, other) && values_equal(value, item))
                })
        }
        (Value::Null, _) | (_, Value::Null) => false,
        (a, b) => compare_values(a, b).is_ok_and(Ordering::is_eq),
    }
}
