//! The rows of the ledger, a file or a folder each.

mod failing_disk;
mod guard;
mod hostile;
mod kill;
mod late_transactions;
mod one_copy;
mod planted;
mod power_cut;
mod rot;
mod script;
mod simulation;

use crate::Row;

/// All rows, in the order in which they are listed.
pub const ROWS: &[Row] = &[
    simulation::SHORT,
    simulation::LONG,
    simulation::DETERMINISM,
    planted::PLANTED,
    power_cut::ROW,
    late_transactions::ROW,
    rot::ROW,
    failing_disk::ROW,
    one_copy::ROW,
    kill::ROW,
    hostile::ROW,
    guard::TROUBLE,
    guard::ONE_COPY,
    guard::FAULTS,
];

/// The row called `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}
