//! `+ - * / %` and negation, with Java's overflow and ksqlDB's decimals.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, Decimal128Array, PrimitiveArray};
use arrow::compute::kernels::numeric;
use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int32Type, Int64Type, i256};

use super::{EvalError, Frame, Operand, Run, operand, plan};
use crate::SqlType;
use crate::expr::{ArithmeticOp, Expr};
use crate::functions::typing;
use crate::numbers::{self, Rounding};

/// Whether the operation can never fail on any row.
pub(crate) fn infallible(op: ArithmeticOp, ty: &SqlType) -> bool {
    match ty {
        SqlType::Double => true,
        SqlType::Integer | SqlType::BigInt => !matches!(op, ArithmeticOp::Divide | ArithmeticOp::Modulo),
        _ => false,
    }
}

pub(crate) fn binary(
    op: ArithmeticOp,
    left: &Expr,
    right: &Expr,
    ty: &SqlType,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
) -> Result<ArrayRef, EvalError> {
    if *ty == SqlType::String {
        return super::concat::concat(left, right, frame, run);
    }
    let (left_type, right_type) = (left.ty(), right.ty());
    let left = operand(left, frame, run)?;
    let right = operand(right, frame, run)?;
    let array = match ty {
        SqlType::Decimal { precision, scale } => {
            let types = (decimal_of(&left_type)?, decimal_of(&right_type)?, (*precision, *scale));
            let left = widen(left, &left_type)?;
            let right = widen(right, &right_type)?;
            decimals(op, &left, &right, types, frame, run)?
        }
        SqlType::Integer | SqlType::BigInt | SqlType::Double => {
            let target = ty.arrow();
            let left = to_type(left, &left_type, &target)?;
            let right = to_type(right, &right_type, &target)?;
            numbers_of(op, &left, &right, ty, frame, run)?
        }
        other => return Err(plan(format!("arithmetic of type {other}"))),
    };
    if array.len() == frame.rows { Ok(array) } else { spread(&array, frame.rows) }
}

/// A result of two constants, for all rows.
pub(crate) fn spread(one: &ArrayRef, rows: usize) -> Result<ArrayRef, EvalError> {
    let zeros = arrow::array::UInt32Array::from_value(0, rows);
    Ok(arrow::compute::take(one, &zeros, None)?)
}

fn to_type(operand: Operand, from: &SqlType, target: &DataType) -> Result<Operand, EvalError> {
    if operand.array.data_type() == target {
        return Ok(operand);
    }
    let array: ArrayRef = if let SqlType::Decimal { scale, .. } = from {
        let values = operand.array.as_primitive::<Decimal128Type>();
        Arc::new(values.unary::<_, Float64Type>(|value| numbers::decimal_to_double(value, *scale)))
    } else {
        arrow::compute::cast(&operand.array, target)?
    };
    Ok(Operand { array, scalar: operand.scalar })
}

fn numbers_of(
    op: ArithmeticOp,
    left: &Operand,
    right: &Operand,
    ty: &SqlType,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
) -> Result<ArrayRef, EvalError> {
    Ok(match op {
        ArithmeticOp::Add => numeric::add_wrapping(left, right)?,
        ArithmeticOp::Subtract => numeric::sub_wrapping(left, right)?,
        ArithmeticOp::Multiply => numeric::mul_wrapping(left, right)?,
        ArithmeticOp::Divide | ArithmeticOp::Modulo => match (ty, op) {
            (SqlType::Double, ArithmeticOp::Divide) => numeric::div(left, right)?,
            (SqlType::Double, _) => numeric::rem(left, right)?,
            (SqlType::Integer, ArithmeticOp::Divide) => {
                divide::<Int32Type>(left, right, frame, run, 0, i32::wrapping_div)
            }
            (SqlType::Integer, _) => divide::<Int32Type>(left, right, frame, run, 0, i32::wrapping_rem),
            (_, ArithmeticOp::Divide) => divide::<Int64Type>(left, right, frame, run, 0, i64::wrapping_div),
            _ => divide::<Int64Type>(left, right, frame, run, 0, i64::wrapping_rem),
        },
    })
}

fn divide<T: ArrowPrimitiveType>(
    left: &Operand,
    right: &Operand,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
    zero: T::Native,
    apply: impl Fn(T::Native, T::Native) -> T::Native,
) -> ArrayRef {
    let a = left.array.as_primitive::<T>();
    let b = right.array.as_primitive::<T>();
    if right.scalar && !left.scalar && b.is_valid(0) && b.value(0) != zero {
        let divisor = b.value(0);
        return Arc::new(a.unary::<_, T>(|value| apply(value, divisor)));
    }
    let result: PrimitiveArray<T> = (0..frame.rows)
        .map(|row| {
            let (left_row, right_row) = (left.at(row), right.at(row));
            if a.is_null(left_row) || b.is_null(right_row) {
                return None;
            }
            let divisor = b.value(right_row);
            if divisor == zero {
                run.fail(frame, row, "/ by zero");
                return None;
            }
            Some(apply(a.value(left_row), divisor))
        })
        .collect();
    Arc::new(result)
}

fn decimal_of(ty: &SqlType) -> Result<(u8, u8), EvalError> {
    typing::as_decimal(ty).ok_or_else(|| plan(format!("decimal arithmetic on {ty}")))
}

/// The operand as unscaled 128-bit numbers.
fn widen(operand: Operand, ty: &SqlType) -> Result<Operand, EvalError> {
    let array: ArrayRef = match ty {
        SqlType::Integer => {
            Arc::new(operand.array.as_primitive::<Int32Type>().unary::<_, Decimal128Type>(i128::from))
        }
        SqlType::BigInt => {
            Arc::new(operand.array.as_primitive::<Int64Type>().unary::<_, Decimal128Type>(i128::from))
        }
        SqlType::Decimal { .. } => operand.array,
        other => return Err(plan(format!("decimal arithmetic on {other}"))),
    };
    Ok(Operand { array, scalar: operand.scalar })
}

type DecimalTypes = ((u8, u8), (u8, u8), (u8, u8));

fn decimals(
    op: ArithmeticOp,
    left: &Operand,
    right: &Operand,
    types: DecimalTypes,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
) -> Result<ArrayRef, EvalError> {
    let a = left.array.as_primitive::<Decimal128Type>();
    let b = right.array.as_primitive::<Decimal128Type>();
    let mut results = Vec::with_capacity(frame.rows);
    for row in 0..frame.rows {
        let (i, j) = (left.at(row), right.at(row));
        if a.is_null(i) || b.is_null(j) {
            results.push(None);
            continue;
        }
        match decimal(op, a.value(i), b.value(j), types) {
            Ok(value) => results.push(Some(value)),
            Err(reason) => {
                run.fail(frame, row, reason);
                results.push(None);
            }
        }
    }
    let (_, _, (precision, scale)) = types;
    let scale = i8::try_from(scale).unwrap_or(i8::MAX);
    Ok(Arc::new(Decimal128Array::from(results).with_precision_and_scale(precision, scale)?))
}

/// One decimal operation. Java's `MathContext(precision, UNNECESSARY)`: a result that needs more digits than its type
/// has is an error; only where our cap of 38 digits took scale away is it rounded half up.
fn decimal(op: ArithmeticOp, a: i128, b: i128, types: DecimalTypes) -> Result<i128, &'static str> {
    const OVERFLOW: &str = "Numeric field overflow";
    const INEXACT: &str = "Rounding necessary: the exact decimal result has too many digits";
    let ((_, a_scale), (_, b_scale), (precision, scale)) = types;
    let (a_scale, b_scale, scale) = (i32::from(a_scale), i32::from(b_scale), i32::from(scale));
    let rounding = if precision == typing::MAX_PRECISION { Rounding::HalfUp } else { Rounding::Unnecessary };
    let (a, b) = (i256::from_i128(a), i256::from_i128(b));
    let common = a_scale.max(b_scale);
    let at = |value, from| numbers::rescale_wide(value, from, common, Rounding::Unnecessary).ok_or(OVERFLOW);
    let (value, from) = match op {
        ArithmeticOp::Add => (at(a, a_scale)?.checked_add(at(b, b_scale)?).ok_or(OVERFLOW)?, common),
        ArithmeticOp::Subtract => (at(a, a_scale)?.checked_sub(at(b, b_scale)?).ok_or(OVERFLOW)?, common),
        ArithmeticOp::Multiply => (a.checked_mul(b).ok_or(OVERFLOW)?, a_scale + b_scale),
        ArithmeticOp::Divide => {
            if b == i256::ZERO {
                return Err("Division by zero");
            }
            let shift = scale - a_scale + b_scale;
            let (numerator, denominator) = if shift >= 0 {
                (numbers::rescale_wide(a, 0, shift, rounding).ok_or(OVERFLOW)?, b)
            } else {
                (a, numbers::rescale_wide(b, 0, -shift, rounding).ok_or(OVERFLOW)?)
            };
            (numbers::divide_rounded(numerator, denominator, rounding).ok_or(INEXACT)?, scale)
        }
        ArithmeticOp::Modulo => {
            let divisor = at(b, b_scale)?;
            if divisor == i256::ZERO {
                return Err("Division by zero");
            }
            (at(a, a_scale)?.checked_rem(divisor).ok_or(OVERFLOW)?, common)
        }
    };
    let value =
        numbers::rescale_wide(value, from, scale, rounding).ok_or(INEXACT)?.to_i128().ok_or(OVERFLOW)?;
    if numbers::digits(value) > u32::from(precision) && value != 0 { Err(OVERFLOW) } else { Ok(value) }
}

pub(crate) fn negate(array: &ArrayRef, ty: &SqlType) -> Result<ArrayRef, EvalError> {
    Ok(match ty {
        SqlType::Integer | SqlType::BigInt | SqlType::Double => numeric::neg_wrapping(array)?,
        SqlType::Decimal { .. } => numeric::neg(array)?,
        other => return Err(plan(format!("negation of {other}"))),
    })
}
