//! The rows of the ledger, a file or a folder each.

use crate::Row;

mod hostile;
mod kill;
mod script;

/// All rows, in the order in which they are listed.
pub const ROWS: &[Row] = &[kill::ROW, hostile::ROW];

/// The row called `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}
