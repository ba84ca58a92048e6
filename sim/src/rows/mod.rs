//! The rows of the ledger, a file or a folder each.

mod guard;
mod planted;
mod simulation;

use crate::Row;

/// All rows, in the order in which they are listed.
pub const ROWS: &[Row] = &[
    simulation::SHORT,
    simulation::LONG,
    simulation::DETERMINISM,
    planted::PLANTED,
    guard::TROUBLE,
    guard::ONE_COPY,
    guard::FAULTS,
];

/// The row called `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}
