//! Evaluates expressions on columns.
//!
//! A failing row (a cast, a division by zero, a function's own complaint) makes the nearest enclosing function
//! argument, array element, map entry or struct field null, else the whole expression, as in ksqlDB; it is reported
//! once, and the batch goes on. CASE, AND and OR evaluate their later parts only for the rows that need them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::Float64Type;

use crate::SqlType;
use crate::expr::{Expr, Value};
use crate::functions::{ArgColumn, Kernel};

mod arithmetic;
mod cast;
mod compare;
mod concat;
mod lambda;
mod logic;
mod nested;
pub mod time;
pub mod values;

#[cfg(test)]
mod tests;

pub(crate) use arithmetic::spread;
pub use cast::cast_value;
pub(crate) use cast::value_to_string;
pub use compare::{compare_values, values_equal};
pub(crate) use lambda::LambdaKind;
pub use values::{array_of, repeat, value_at};

/// What evaluation needs from outside: the time, and where failing rows are reported.
pub struct EvalContext<'a> {
    /// Wall clock, milliseconds since the Unix epoch (UNIX_TIMESTAMP() and the like).
    pub now_ms: i64,
    /// Called once per failing row and place, with the row's index and the reason.
    pub on_error: &'a mut dyn FnMut(usize, &str),
}

/// A broken invariant: the plan's types do not fit the columns. Never caused by data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// Arrow refused.
    #[error("cannot evaluate an expression: the plan and its columns disagree")]
    Arrow(#[from] arrow::error::ArrowError),
    /// A column or type is not what the plan says.
    #[error("cannot evaluate {what}: the plan and its columns disagree")]
    Plan {
        /// Which part.
        what: String,
    },
}

/// The rows an expression is evaluated on; `ids` are their indices in the batch, if they are only some of it.
#[derive(Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) columns: &'a [ArrayRef],
    pub(crate) rows: usize,
    pub(crate) ids: Option<&'a [u32]>,
}

impl Frame<'_> {
    pub(crate) fn id(&self, row: usize) -> usize {
        self.ids.map_or(row, |ids| ids[row] as usize)
    }
}

/// One evaluation: its context, and which rows of the batch have failed inside the current boundary.
pub(crate) struct Run<'c, 'a> {
    pub(crate) ctx: &'c mut EvalContext<'a>,
    failed: Option<Vec<bool>>,
    total: usize,
}

impl Run<'_, '_> {
    /// Marks row `row` of `frame` as failed and reports it, once.
    pub(crate) fn fail(&mut self, frame: &Frame<'_>, row: usize, reason: &str) {
        let id = frame.id(row);
        let failed = self.failed.get_or_insert_with(|| vec![false; self.total]);
        if !failed[id] {
            failed[id] = true;
            (self.ctx.on_error)(id, reason);
        }
    }
}

impl Expr {
    /// Value of the expression for each of `rows` rows of `columns` (key columns first), type `self.ty().arrow()`.
    /// A row that fails gives null and one call of [`EvalContext::on_error`]; the batch goes on.
    ///
    /// # Errors   [`EvalError`] only if plan and columns disagree.
    pub fn evaluate(
        &self,
        columns: &[ArrayRef],
        rows: usize,
        ctx: &mut EvalContext<'_>,
    ) -> Result<ArrayRef, EvalError> {
        if let Self::Column { index, .. } = self {
            return column(columns, *index);
        }
        let frame = Frame { columns, rows, ids: None };
        eval_guarded(self, &frame, &mut Run { ctx, failed: None, total: rows })
    }

    /// Rows for which a BOOLEAN expression is true (null and failing rows are not): what a filter keeps.
    ///
    /// # Errors   as [`Expr::evaluate`].
    pub fn evaluate_filter(
        &self,
        columns: &[ArrayRef],
        rows: usize,
        ctx: &mut EvalContext<'_>,
    ) -> Result<BooleanArray, EvalError> {
        let result = self.evaluate(columns, rows, ctx)?;
        let result = result.as_boolean_opt().ok_or_else(|| plan("a filter that is not BOOLEAN"))?;
        Ok(BooleanArray::new(truth(result), None))
    }

    /// Value of an expression that names no column (INSERT VALUES, literals).
    ///
    /// # Errors   the reason, if it fails.
    pub fn evaluate_constant(&self, now_ms: i64) -> Result<Value, String> {
        let mut reason = None;
        let mut on_error = |_: usize, message: &str| {
            reason.get_or_insert_with(|| message.to_owned());
        };
        let mut ctx = EvalContext { now_ms, on_error: &mut on_error };
        let array = self.evaluate(&[], 1, &mut ctx).map_err(|error| error.to_string())?;
        match reason {
            Some(reason) => Err(reason),
            None => Ok(value_at(&array, 0, &self.ty())),
        }
    }

    /// Whether evaluation can never fail on any row, so that it may be done for rows that do not need it.
    pub(crate) fn infallible(&self) -> bool {
        match self {
            Self::Column { .. } | Self::Literal { .. } => true,
            Self::Compare { left, right, .. } => {
                left.infallible() && right.infallible() && compare::infallible(&left.ty(), &right.ty())
            }
            Self::Arithmetic { op, left, right, ty } => {
                left.infallible() && right.infallible() && arithmetic::infallible(*op, ty)
            }
            Self::IsNull { input, .. } | Self::Field { input, .. } => input.infallible(),
            Self::And(left, right) | Self::Or(left, right) => {
                matches!(**left, Self::Compare { .. } | Self::IsNull { .. })
                    && matches!(**right, Self::Compare { .. } | Self::IsNull { .. })
                    && left.infallible()
                    && right.infallible()
            }
            _ => false,
        }
    }
}

pub(crate) fn plan(what: impl Into<String>) -> EvalError {
    EvalError::Plan { what: what.into() }
}

fn column(columns: &[ArrayRef], index: usize) -> Result<ArrayRef, EvalError> {
    columns.get(index).cloned().ok_or_else(|| plan(format!("column {index} of {}", columns.len())))
}

/// True rows of a boolean column: null counts as false.
pub(crate) fn truth(array: &BooleanArray) -> BooleanBuffer {
    match array.nulls() {
        Some(nulls) => array.values() & nulls.inner(),
        None => array.values().clone(),
    }
}

/// A column, or one value for all rows.
pub(crate) struct Operand {
    pub(crate) array: ArrayRef,
    pub(crate) scalar: bool,
}

impl Operand {
    pub(crate) fn at(&self, row: usize) -> usize {
        if self.scalar { 0 } else { row }
    }
}

impl arrow::array::Datum for Operand {
    fn get(&self) -> (&dyn Array, bool) {
        (self.array.as_ref(), self.scalar)
    }
}

/// Like [`eval`], but a literal stays one value.
pub(crate) fn operand(expr: &Expr, frame: &Frame<'_>, run: &mut Run<'_, '_>) -> Result<Operand, EvalError> {
    match expr {
        Expr::Literal { value, ty } => Ok(Operand { array: repeat(value, ty, 1)?, scalar: true }),
        _ => Ok(Operand { array: eval(expr, frame, run)?, scalar: false }),
    }
}

/// Evaluates `expr`; rows that fail inside it become null here and nowhere else.
pub(crate) fn eval_guarded(
    expr: &Expr,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
) -> Result<ArrayRef, EvalError> {
    let saved = run.failed.take();
    let result = eval(expr, frame, run);
    let failed = std::mem::replace(&mut run.failed, saved);
    let array = result?;
    match failed {
        None => Ok(array),
        Some(failed) => {
            let mask: BooleanArray = (0..frame.rows).map(|row| Some(failed[frame.id(row)])).collect();
            Ok(arrow::compute::nullif(&array, &mask)?)
        }
    }
}

fn operand_guarded(expr: &Expr, frame: &Frame<'_>, run: &mut Run<'_, '_>) -> Result<Operand, EvalError> {
    match expr {
        Expr::Literal { .. } => operand(expr, frame, run),
        _ => Ok(Operand { array: eval_guarded(expr, frame, run)?, scalar: false }),
    }
}

/// Evaluates `expr` on all rows of `frame`; failing rows are marked in `run`, their values are arbitrary.
pub(crate) fn eval(expr: &Expr, frame: &Frame<'_>, run: &mut Run<'_, '_>) -> Result<ArrayRef, EvalError> {
    match expr {
        Expr::Column { index, .. } => column(frame.columns, *index),
        Expr::Literal { value, ty } => repeat(value, ty, frame.rows),
        Expr::Cast { input, ty } => {
            let array = eval(input, frame, run)?;
            cast::cast(&array, &input.ty(), ty, frame, run)
        }
        Expr::Arithmetic { op, left, right, ty } => arithmetic::binary(*op, left, right, ty, frame, run),
        Expr::Negate(input) => arithmetic::negate(&eval(input, frame, run)?, &input.ty()),
        Expr::Compare { op, left, right } => compare::compare(*op, left, right, frame, run),
        Expr::And(left, right) => logic::binary(true, left, right, frame, run),
        Expr::Or(left, right) => logic::binary(false, left, right, frame, run),
        Expr::Not(input) => {
            let array = eval(input, frame, run)?;
            Ok(Arc::new(arrow::compute::not(boolean(&array)?)?))
        }
        Expr::IsNull { input, negated } => {
            let array = eval(input, frame, run)?;
            let is_null = arrow::compute::is_null(&array)?;
            Ok(if *negated { Arc::new(arrow::compute::not(&is_null)?) } else { Arc::new(is_null) })
        }
        Expr::Between { input, low, high, negated } => logic::between(input, low, high, *negated, frame, run),
        Expr::In { input, list, negated } => logic::is_in(input, list, *negated, frame, run),
        Expr::Like { input, pattern, escape, negated } => {
            logic::like(input, pattern, *escape, *negated, frame, run)
        }
        Expr::Case { branches, otherwise, ty } => logic::case(branches, otherwise.as_deref(), ty, frame, run),
        Expr::Call { function, args, ty } => call(function, args, ty, frame, run),
        Expr::Lambda { .. } => Err(plan("a lambda outside a function call")),
        Expr::Subscript { input, index, .. } => nested::subscript(input, index, frame, run),
        Expr::Field { input, index, .. } => nested::field(input, *index, frame, run),
        Expr::MakeArray { elements, ty } => nested::make_array(elements, ty, frame, run),
        Expr::MakeMap { entries, ty } => nested::make_map(entries, ty, frame, run),
        Expr::MakeStruct { fields, ty } => nested::make_struct(fields, ty, frame, run),
    }
}

pub(crate) fn boolean(array: &ArrayRef) -> Result<&BooleanArray, EvalError> {
    array.as_boolean_opt().ok_or_else(|| plan("a condition that is not BOOLEAN"))
}

/// Evaluates `expr` only for the rows of `mask`; the others are null.
pub(crate) fn eval_selected(
    expr: &Expr,
    mask: &BooleanBuffer,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
) -> Result<ArrayRef, EvalError> {
    let count = mask.count_set_bits();
    if count == frame.rows || expr.infallible() {
        return eval(expr, frame, run);
    }
    if count == 0 {
        return Ok(arrow::array::new_null_array(&expr.ty().arrow(), frame.rows));
    }
    let filter = BooleanArray::new(mask.clone(), None);
    let columns: Vec<ArrayRef> = frame
        .columns
        .iter()
        .map(|column| arrow::compute::filter(column, &filter))
        .collect::<Result<_, _>>()?;
    let ids: Vec<u32> = mask.set_indices().map(|row| narrow(frame.id(row))).collect();
    let selected = eval(expr, &Frame { columns: &columns, rows: count, ids: Some(&ids) }, run)?;
    let mut next = 0_u32;
    let places: UInt32Array = mask
        .iter()
        .map(|wanted| {
            wanted.then(|| {
                next += 1;
                next - 1
            })
        })
        .collect();
    Ok(arrow::compute::take(&selected, &places, None)?)
}

pub(crate) fn narrow(row: usize) -> u32 {
    u32::try_from(row).expect("a batch has fewer than 2^32 rows")
}

fn call(
    function: &crate::functions::ScalarFunction,
    args: &[Expr],
    ty: &SqlType,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
) -> Result<ArrayRef, EvalError> {
    if let Kernel::Lambda(kind) = function.kernel {
        return lambda::call(kind, args, ty, frame, run);
    }
    let mut operands = Vec::with_capacity(args.len());
    for arg in args {
        operands.push(operand_guarded(arg, frame, run)?);
    }
    match function.kernel {
        Kernel::Doubles(compute) => {
            let operand =
                operands.first().ok_or_else(|| plan(format!("{} without arguments", function.name)))?;
            let values = operand.array.as_primitive::<Float64Type>().unary::<_, Float64Type>(compute);
            let array: ArrayRef = Arc::new(values);
            if operand.scalar { spread(&array, frame.rows) } else { Ok(array) }
        }
        Kernel::Columns(kernel) => {
            let columns: Vec<ArgColumn<'_>> = operands
                .iter()
                .map(|operand| ArgColumn { array: &operand.array, scalar: operand.scalar })
                .collect();
            let now_ms = run.ctx.now_ms;
            let mut fail = |row: usize, reason: &str| run.fail(frame, row, reason);
            kernel(function, &columns, frame.rows, now_ms, &mut fail)
        }
        Kernel::Row(kernel) | Kernel::Strict(kernel) => {
            let strict = matches!(function.kernel, Kernel::Strict(_));
            let now_ms = run.ctx.now_ms;
            let mut results = Vec::with_capacity(frame.rows);
            let mut row_args = Vec::with_capacity(operands.len());
            for row in 0..frame.rows {
                row_args.clear();
                for (operand, ty) in operands.iter().zip(&function.arg_types) {
                    row_args.push(value_at(&operand.array, operand.at(row), ty));
                }
                if strict && row_args.contains(&Value::Null) {
                    results.push(Value::Null);
                    continue;
                }
                let call = crate::functions::RowCall { function, now_ms };
                match kernel(&call, &row_args) {
                    Ok(value) => results.push(value),
                    Err(reason) => {
                        run.fail(frame, row, &format!("Failed to evaluate {}: {reason}", function.name));
                        results.push(Value::Null);
                    }
                }
            }
            array_of(&results, ty)
        }
        Kernel::Lambda(_) => unreachable!("handled above"),
    }
}
