//! Table functions in SELECT: several rows per row.

use std::sync::Arc;

use crate::Column;
use crate::expr::Expr;
use crate::functions::TableFunction;
use crate::functions::zip_results;
use crate::operator::{Context, Operator, OperatorError};
use crate::rows::Rows;

/// Repeats each row for its results and appends one column per function; shorter results pad with null.
pub struct FlatMap {
    /// Function, arguments over the input, name and type of the new column.
    pub functions: Vec<(Arc<TableFunction>, Vec<Expr>, Column)>,
}

impl Operator for FlatMap {
    fn on_rows(
        &mut self,
        _side: usize,
        rows: Rows,
        ctx: &mut Context<'_>,
        out: &mut Vec<Rows>,
    ) -> Result<(), OperatorError> {
        let rows = match &rows.tombstones {
            Some(gone) => rows.filter(&arrow::array::BooleanArray::new(!gone, None))?,
            None => rows,
        };
        if rows.is_empty() {
            return Ok(());
        }
        let mut lists = Vec::with_capacity(self.functions.len());
        for (function, args, _) in &self.functions {
            let args = args
                .iter()
                .map(|arg| ctx.evaluate(arg, &rows, &rows.columns))
                .collect::<Result<Vec<_>, _>>()?;
            lists.push(function.apply(&args, rows.len())?);
        }
        let (indices, columns) = zip_results(&lists, rows.len())?;
        if indices.is_empty() {
            return Ok(());
        }
        let mut rows = rows.take(&indices)?;
        rows.columns.extend(columns);
        out.push(rows);
        Ok(())
    }
}
