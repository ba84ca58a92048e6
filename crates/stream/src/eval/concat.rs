//! `CAST(n AS STRING) + ':' + a`: a chain of texts in one pass, without columns in between.
//!
//! Whole numbers that are cast to text on the way are written where they are needed; a number that equals the one of
//! the row before (times cut to days or half hours often do) is copied instead of printed again.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Int64Type};

use super::{EvalError, Frame, Run, eval, operand, plan};
use crate::SqlType;
use crate::expr::{ArithmeticOp, Expr};

/// One link of the chain.
enum Part {
    Constant(String),
    Text(StringArray),
    Whole(Int64Array),
}

/// Evaluates the chain of text additions of which `left + right` is the last one.
pub(crate) fn concat(
    left: &Expr,
    right: &Expr,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
) -> Result<ArrayRef, EvalError> {
    let mut parts = Vec::new();
    let all_present = collect(left, frame, run, &mut parts)? & collect(right, frame, run, &mut parts)?;
    if !all_present {
        return Ok(arrow::array::new_null_array(&DataType::Utf8, frame.rows));
    }
    join(&parts, frame.rows)
}

/// Adds the links of `expr`; false if one of them is the constant null.
fn collect(
    expr: &Expr,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
    parts: &mut Vec<Part>,
) -> Result<bool, EvalError> {
    match expr {
        Expr::Arithmetic { op: ArithmeticOp::Add, left, right, ty: SqlType::String } => {
            Ok(collect(left, frame, run, parts)? & collect(right, frame, run, parts)?)
        }
        Expr::Cast { input, ty: SqlType::String } if input.ty() == SqlType::BigInt => {
            parts.push(Part::Whole(eval(input, frame, run)?.as_primitive::<Int64Type>().clone()));
            Ok(true)
        }
        _ => {
            let operand = operand(expr, frame, run)?;
            let texts = operand.array.as_string_opt::<i32>().ok_or_else(|| plan("concatenation"))?;
            if !operand.scalar {
                parts.push(Part::Text(texts.clone()));
            } else if texts.is_null(0) {
                return Ok(false);
            } else {
                parts.push(Part::Constant(texts.value(0).to_owned()));
            }
            Ok(true)
        }
    }
}

fn join(parts: &[Part], rows: usize) -> Result<ArrayRef, EvalError> {
    let mut nulls: Option<NullBuffer> = None;
    let mut capacity = 0_usize;
    for part in parts {
        let (bytes, of_part) = match part {
            Part::Constant(text) => (text.len().saturating_mul(rows), None),
            Part::Text(texts) => (texts.value_data().len(), texts.nulls()),
            Part::Whole(values) => (rows.saturating_mul(8), values.nulls()),
        };
        capacity = capacity.saturating_add(bytes);
        nulls = NullBuffer::union(nulls.as_ref(), of_part);
    }
    let mut data: Vec<u8> = Vec::with_capacity(capacity.min(1 << 26));
    let mut offsets = Vec::with_capacity(rows + 1);
    let mut printed = vec![Printed::default(); parts.len()];
    offsets.push(0_i32);
    for row in 0..rows {
        if nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) {
            for (part, printed) in parts.iter().zip(&mut printed) {
                match part {
                    Part::Constant(text) => data.extend_from_slice(text.as_bytes()),
                    Part::Text(texts) => data.extend_from_slice(texts.value(row).as_bytes()),
                    Part::Whole(values) => data.extend_from_slice(printed.text(values.value(row))),
                }
            }
        }
        offsets.push(i32::try_from(data.len()).map_err(|_| plan("a text column of more than 2 GiB"))?);
    }
    // try_new checks UTF-8, which UTF-8 texts side by side keep
    Ok(Arc::new(StringArray::try_new(OffsetBuffer::new(offsets.into()), data.into(), nulls)?))
}

/// The last number of a link and its digits.
#[derive(Clone, Default)]
struct Printed {
    value: i64,
    digits: Vec<u8>,
}

impl Printed {
    #[inline]
    fn text(&mut self, value: i64) -> &[u8] {
        if value != self.value || self.digits.is_empty() {
            use std::io::Write as _;
            self.value = value;
            self.digits.clear();
            let _ = write!(self.digits, "{value}");
        }
        &self.digits
    }
}
