//! A stream joined with a table on the stream's key.

use arrow::array::{ArrayRef, BooleanArray, UInt32Array};

use crate::Schema;
use crate::operator::{ChangeSink, Context, Operator, OperatorError};
use crate::operators::table_state::with_keys;
use crate::plan::JoinKind;
use crate::rows::{Rows, take_columns};
use crate::table_store::TableStore;

/// Left rows look up the table as it stands; table rows change it (Kafka Streams' `KStreamKTableJoin`).
pub struct StreamTableJoin {
    store: TableStore,
    left_key_len: usize,
    right_key_len: usize,
    left_outer: bool,
}

impl StreamTableJoin {
    /// A join with an empty table of schema `right`.
    ///
    /// # Errors   types that cannot be encoded.
    pub fn new(left: &Schema, right: &Schema, kind: JoinKind) -> Result<Self, OperatorError> {
        Ok(Self {
            store: TableStore::new(right, false)?,
            left_key_len: left.key.len(),
            right_key_len: right.key.len(),
            left_outer: kind == JoinKind::Left,
        })
    }

    fn join(&mut self, rows: Rows) -> Result<Option<Rows>, OperatorError> {
        let rows = match &rows.tombstones {
            Some(gone) => rows.filter(&BooleanArray::new(!gone, None))?,
            None => rows,
        };
        let keys = self.store.encode_keys(&rows.columns[..self.left_key_len], rows.len())?;
        let mut found: Vec<Option<u32>> = (0..rows.len())
            .map(|row| if rows.is_null_key(row) { None } else { self.store.find(keys.get(row)) })
            .collect();
        let mut rows = rows;
        if !self.left_outer && found.contains(&None) {
            rows = rows.filter(&found.iter().map(|slot| Some(slot.is_some())).collect())?;
            found.retain(Option::is_some);
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let matched: UInt32Array =
            (0_u32..).zip(&found).map(|(row, slot)| slot.is_some().then_some(row)).collect();
        let right_key: Vec<ArrayRef> = take_columns(&rows.columns[..self.right_key_len], &matched)?;
        rows.columns.extend(right_key);
        rows.columns.extend(self.store.gather(&found)?);
        Ok(Some(rows))
    }
}

impl Operator for StreamTableJoin {
    fn on_rows(
        &mut self,
        side: usize,
        rows: Rows,
        _ctx: &mut Context<'_>,
        out: &mut Vec<Rows>,
    ) -> Result<(), OperatorError> {
        if side == 0 {
            out.extend(self.join(rows)?);
        } else {
            self.store.apply(&with_keys(rows)?, self.right_key_len, false)?;
        }
        Ok(())
    }

    fn is_stateful(&self) -> bool {
        true
    }

    fn drain_changes(&mut self, sink: &mut ChangeSink<'_>) {
        self.store.drain_changes(b't', sink);
    }

    fn restore(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), OperatorError> {
        self.store.restore(key.get(1..).unwrap_or_default(), value)
    }
}
