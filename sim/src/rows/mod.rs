//! The rows of the ledger, a file or a folder each.

use crate::Row;

pub mod failing_disk;
pub mod late_transactions;
pub mod one_copy;
pub mod power_cut;
pub mod rot;

/// All rows, in the order in which they are listed.
pub const ROWS: &[Row] =
    &[power_cut::ROW, late_transactions::ROW, rot::ROW, failing_disk::ROW, one_copy::ROW];

/// The row called `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}
