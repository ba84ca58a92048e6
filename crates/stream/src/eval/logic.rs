//! AND, OR, BETWEEN, IN, LIKE and CASE.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, new_null_array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::kernels::zip::zip;

use super::{
    EvalError, Frame, Operand, Run, boolean, compare, eval, eval_selected, operand, truth, value_at,
    values_equal,
};
use crate::SqlType;
use crate::expr::{CompareOp, Expr, Value};

/// AND (`and`) or OR: the right side is evaluated only where the left does not decide. A null side is an error, as
/// in Java, where ksqlDB unboxes it.
pub(crate) fn binary(
    and: bool,
    left: &Expr,
    right: &Expr,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
) -> Result<ArrayRef, EvalError> {
    let left_array = eval(left, frame, run)?;
    let left_array = boolean(&left_array)?;
    let left_true = truth(left_array);
    fail_nulls(left_array, None, frame, run);
    let undecided = if and { left_true.clone() } else { !&left_true };
    if undecided.count_set_bits() == 0 {
        return Ok(Arc::new(BooleanArray::new(left_true, None)));
    }
    let right_array = eval_selected(right, &undecided, frame, run)?;
    let right_array = boolean(&right_array)?;
    fail_nulls(right_array, Some(&undecided), frame, run);
    let right_true = truth(right_array);
    let result = if and { &left_true & &right_true } else { &left_true | &right_true };
    Ok(Arc::new(BooleanArray::new(result, None)))
}

fn fail_nulls(array: &BooleanArray, of: Option<&BooleanBuffer>, frame: &Frame<'_>, run: &mut Run<'_, '_>) {
    if array.null_count() > 0 {
        for row in 0..frame.rows {
            if array.is_null(row) && of.is_none_or(|of| of.value(row)) {
                run.fail(frame, row, "a side of a logical expression is null");
            }
        }
    }
}

fn negate_if(negated: bool, result: BooleanBuffer) -> ArrayRef {
    Arc::new(BooleanArray::new(if negated { !&result } else { result }, None))
}

/// `input >= low AND input <= high`; false if any is null.
pub(crate) fn between(
    input: &Expr,
    low: &Expr,
    high: &Expr,
    negated: bool,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
) -> Result<ArrayRef, EvalError> {
    let value = operand(input, frame, run)?;
    let ty = input.ty();
    let low_value = operand(low, frame, run)?;
    let above = compare::operands(CompareOp::GreaterOrEqual, &value, &ty, &low_value, &low.ty(), frame, run)?;
    let high_value = operand(high, frame, run)?;
    let below = compare::operands(CompareOp::LessOrEqual, &value, &ty, &high_value, &high.ty(), frame, run)?;
    Ok(negate_if(negated, &above & &below))
}

/// `input IN (list)`; false if the input is null.
pub(crate) fn is_in(
    input: &Expr,
    list: &[Expr],
    negated: bool,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
) -> Result<ArrayRef, EvalError> {
    let ty = input.ty();
    let value = operand(input, frame, run)?;
    let mut found = BooleanBuffer::new_unset(frame.rows);
    for item in list {
        if matches!(item, Expr::Literal { value: Value::Null, .. }) {
            continue;
        }
        let candidate = operand(item, frame, run)?;
        let equal = if matches!(ty, SqlType::Array(_) | SqlType::Map(..) | SqlType::Struct(_)) {
            nested_equal(&value, &candidate, &ty, &item.ty(), frame.rows)
        } else {
            compare::operands(CompareOp::Equal, &value, &ty, &candidate, &item.ty(), frame, run)?
        };
        found = &found | &equal;
    }
    Ok(negate_if(negated, found))
}

fn nested_equal(left: &Operand, right: &Operand, lt: &SqlType, rt: &SqlType, rows: usize) -> BooleanBuffer {
    BooleanBuffer::collect_bool(rows, |row| {
        let left = value_at(&left.array, left.at(row), lt);
        left != Value::Null && values_equal(&left, &value_at(&right.array, right.at(row), rt))
    })
}

/// `input LIKE pattern`; false if either is null.
pub(crate) fn like(
    input: &Expr,
    pattern: &Expr,
    escape: Option<char>,
    negated: bool,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
) -> Result<ArrayRef, EvalError> {
    let value = operand(input, frame, run)?;
    let pattern = operand(pattern, frame, run)?;
    let texts = value
        .array
        .as_string_opt::<i32>()
        .ok_or_else(|| super::plan("LIKE on a column that is not STRING"))?;
    let patterns = pattern
        .array
        .as_string_opt::<i32>()
        .ok_or_else(|| super::plan("a LIKE pattern that is not STRING"))?;
    let mut compiled: Option<(String, LikePattern)> = None;
    let result = BooleanBuffer::collect_bool(frame.rows, |row| {
        let (text_row, pattern_row) = (value.at(row), pattern.at(row));
        if texts.is_null(text_row) || patterns.is_null(pattern_row) {
            return false;
        }
        let pattern = patterns.value(pattern_row);
        match &compiled {
            Some((source, like)) if source == pattern => like.matches(texts.value(text_row)),
            _ => {
                let like = LikePattern::new(pattern, escape);
                let matched = like.matches(texts.value(text_row));
                compiled = Some((pattern.to_owned(), like));
                matched
            }
        }
    });
    Ok(negate_if(negated, result))
}

/// A LIKE pattern cut into the pieces between its `%`s; `None` in a piece is `_`.
struct LikePattern {
    pieces: Vec<Vec<Option<char>>>,
}

impl LikePattern {
    fn new(pattern: &str, escape: Option<char>) -> Self {
        let mut pieces = vec![Vec::new()];
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            let last = pieces.last_mut().expect("there is always a piece");
            if Some(c) == escape {
                last.extend(chars.next().map(Some));
            } else if c == '%' {
                pieces.push(Vec::new());
            } else {
                last.push((c != '_').then_some(c));
            }
        }
        Self { pieces }
    }

    /// Greedy left to right; linear in text × longest piece.
    fn matches(&self, text: &str) -> bool {
        let (first, rest) = self.pieces.split_first().expect("there is always a piece");
        let Some(mut text) = strip(text, first) else { return false };
        let Some((last, middle)) = rest.split_last() else { return text.is_empty() };
        for piece in middle {
            let found = text
                .char_indices()
                .map(|(at, _)| at)
                .chain(std::iter::once(text.len()))
                .find_map(|at| strip(&text[at..], piece));
            match found {
                Some(after) => text = after,
                None => return false,
            }
        }
        let length = text.chars().count();
        if length < last.len() {
            return false;
        }
        let tail = text.char_indices().nth(length - last.len()).map_or("", |(at, _)| &text[at..]);
        strip(tail, last).is_some_and(str::is_empty)
    }
}

/// The rest of `text` after `piece`, if it begins so.
fn strip<'t>(text: &'t str, piece: &[Option<char>]) -> Option<&'t str> {
    let mut chars = text.chars();
    for wanted in piece {
        let c = chars.next()?;
        if wanted.is_some_and(|wanted| wanted != c) {
            return None;
        }
    }
    Some(chars.as_str())
}

/// Searched CASE: the first branch whose condition is true; later conditions and results are evaluated only where
/// they are reached.
pub(crate) fn case(
    branches: &[(Expr, Expr)],
    otherwise: Option<&Expr>,
    ty: &SqlType,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
) -> Result<ArrayRef, EvalError> {
    let mut open = BooleanBuffer::new_set(frame.rows);
    let mut chosen = Vec::with_capacity(branches.len());
    for (condition, result) in branches {
        let condition = eval_selected(condition, &open, frame, run)?;
        let taken = &truth(boolean(&condition)?) & &open;
        open = &open & &!&taken;
        if taken.count_set_bits() > 0 {
            chosen.push((selected_operand(result, &taken, frame, run)?, taken));
        }
    }
    let mut result = match otherwise {
        Some(otherwise) => eval_selected(otherwise, &open, frame, run)?,
        None => new_null_array(&ty.arrow(), frame.rows),
    };
    for (value, taken) in chosen.into_iter().rev() {
        result = zip(&BooleanArray::new(taken, None), &value, &result)?;
    }
    Ok(result)
}

fn selected_operand(
    expr: &Expr,
    mask: &BooleanBuffer,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
) -> Result<Operand, EvalError> {
    match expr {
        Expr::Literal { .. } => operand(expr, frame, run),
        _ => Ok(Operand { array: eval_selected(expr, mask, frame, run)?, scalar: false }),
    }
}
