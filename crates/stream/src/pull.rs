//! What pull queries ask.

use arrow::array::{Array, ArrayRef};

use crate::Column;
use crate::eval::EvalContext;
use crate::expr::{Expr, Value};

/// What a pull query asks of materialised state.
#[derive(Debug, Clone, Default)]
pub struct PullRequest {
    /// Which keys.
    pub keys: PullKeys,
    /// Lowest window start (inclusive) and highest window start (inclusive), ms.
    pub window_start: Option<(i64, i64)>,
    /// Lowest and highest window end, ms, both inclusive.
    pub window_end: Option<(i64, i64)>,
}

/// Keys of a pull query.
#[derive(Debug, Clone, Default)]
pub enum PullKeys {
    /// A table scan.
    #[default]
    All,
    /// Exactly these keys: one value per key column.
    Keys(Vec<Vec<Value>>),
}

/// Key values as columns, one row per key.
///
/// # Errors   a sentence: values of another type than the key's.
pub(crate) fn key_columns(keys: &[Vec<Value>], columns: &[Column]) -> Result<Vec<ArrayRef>, String> {
    columns
        .iter()
        .enumerate()
        .map(|(index, column)| {
            let parts = keys
                .iter()
                .map(|key| literal_column(key.get(index).unwrap_or(&Value::Null), column))
                .collect::<Result<Vec<_>, _>>()?;
            let arrays: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
            if arrays.is_empty() {
                return Ok(arrow::array::new_empty_array(&column.ty.arrow()));
            }
            arrow::compute::concat(&arrays).map_err(|error| error.to_string())
        })
        .collect()
}

fn literal_column(value: &Value, column: &Column) -> Result<ArrayRef, String> {
    let literal = Expr::Literal { value: value.clone(), ty: column.ty.clone() };
    let mut on_error = |_: usize, _: &str| {};
    let mut ctx = EvalContext { now_ms: 0, on_error: &mut on_error };
    literal.evaluate(&[], 1, &mut ctx).map_err(|error| error.to_string())
}
