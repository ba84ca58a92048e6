//! WHERE and HAVING.

use arrow::array::BooleanArray;
use arrow::buffer::BooleanBuffer;

use crate::Rows;
use crate::expr::Expr;
use crate::operator::{Context, Operator, OperatorError, old_columns};

/// Keeps the rows for which a predicate is true. In a table, a row that is filtered out deletes its key, as in
/// Kafka Streams (`KTableFilter`).
pub struct Filter {
    /// BOOLEAN over the input.
    pub predicate: Expr,
    /// Whether the input is a table.
    pub is_table: bool,
    /// Number of key columns.
    pub key_len: usize,
}

impl Operator for Filter {
    fn on_rows(
        &mut self,
        _side: usize,
        mut rows: Rows,
        ctx: &mut Context<'_>,
        out: &mut Vec<Rows>,
    ) -> Result<(), OperatorError> {
        let columns = rows.columns.clone();
        let passes = ctx.evaluate_filter(&self.predicate, &rows, &columns)?;
        let mut keep = passes.values().clone();
        if let Some(tombstones) = &rows.tombstones {
            keep = &keep & &!tombstones;
        }
        if !self.is_table {
            push(out, rows.filter(&BooleanArray::new(keep, None))?);
            return Ok(());
        }
        let gone = !&keep;
        if let Some(before) = old_columns(&rows, self.key_len) {
            let passed = ctx.evaluate_filter(&self.predicate, &rows, &before)?;
            let old = rows.old.as_mut().expect("old_columns gave some");
            old.present = &old.present & passed.values();
            let told: BooleanBuffer = &keep | &old.present;
            rows.tombstones = Some(gone);
            push(out, rows.filter(&BooleanArray::new(told, None))?);
        } else {
            rows.tombstones = Some(gone);
            push(out, rows.normal());
        }
        Ok(())
    }
}

fn push(out: &mut Vec<Rows>, rows: Rows) {
    if !rows.is_empty() {
        out.push(rows);
    }
}
