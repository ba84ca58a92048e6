//! Keeps a table so that its consumer learns what each row replaces, and pull queries can read it.

use arrow::array::BooleanArray;

use crate::Schema;
use crate::operator::{ChangeSink, Context, Operator, OperatorError, Scan};
use crate::rows::Rows;
use crate::table_store::TableStore;

/// A materialised table; rows pass through.
pub struct TableState {
    store: TableStore,
    key_len: usize,
    send_old: bool,
}

impl TableState {
    /// An empty table of `schema`.
    ///
    /// # Errors   types that cannot be encoded.
    pub fn new(schema: &Schema, windowed: bool, send_old: bool) -> Result<Self, OperatorError> {
        Ok(Self { store: TableStore::new(schema, windowed)?, key_len: schema.key.len(), send_old })
    }
}

/// `rows` without those whose whole key is null: a table cannot hold them.
pub(crate) fn with_keys(rows: Rows) -> Result<Rows, OperatorError> {
    match &rows.null_keys {
        Some(null) => Ok(rows.filter(&BooleanArray::new(!null, None))?),
        None => Ok(rows),
    }
}

impl Operator for TableState {
    fn on_rows(
        &mut self,
        _side: usize,
        rows: Rows,
        _ctx: &mut Context<'_>,
        out: &mut Vec<Rows>,
    ) -> Result<(), OperatorError> {
        let mut rows = with_keys(rows)?;
        if rows.is_empty() {
            return Ok(());
        }
        let had_old = rows.old.is_some();
        let old = self.store.apply(&rows, self.key_len, self.send_old && !had_old)?;
        if !had_old {
            rows.old = old;
        }
        out.push(rows);
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

    fn scan(&self, scan: &Scan) -> Result<Option<Rows>, OperatorError> {
        self.store.scan(scan).map(Some)
    }
}
