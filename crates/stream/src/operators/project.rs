//! SELECT: new value columns, same key.

use crate::Rows;
use crate::operator::{Context, Operator, OperatorError, old_columns};
use crate::plan::NamedExpr;

/// Computes new value columns.
pub struct Project {
    /// New value columns over the input.
    pub columns: Vec<NamedExpr>,
    /// Number of key columns.
    pub key_len: usize,
}

impl Operator for Project {
    fn on_rows(
        &mut self,
        _side: usize,
        mut rows: Rows,
        ctx: &mut Context<'_>,
        out: &mut Vec<Rows>,
    ) -> Result<(), OperatorError> {
        let mut columns = rows.columns[..self.key_len].to_vec();
        for column in &self.columns {
            columns.push(ctx.evaluate(&column.expr, &rows, &rows.columns)?);
        }
        if let Some(before) = old_columns(&rows, self.key_len) {
            let values = self
                .columns
                .iter()
                .map(|column| ctx.evaluate(&column.expr, &rows, &before))
                .collect::<Result<Vec<_>, _>>()?;
            rows.old.as_mut().expect("old_columns gave some").values = values;
        }
        rows.columns = columns;
        out.push(rows);
        Ok(())
    }
}
