//! Whether the simulation sees what it is to see: known faults, one after another, each to be found within 2,000 seeds.
//!
//! Twenty-two of the forty of the trust page are planted here, at the doors of the broker (see `world::plant`). Not here: index ahead of
//! log, corrupt middle, lock after open, misdirected writes (the rows of rot and failing disks); marker with an equal epoch (that
//! of late transaction messages); sequence wrap and truncation below the high watermark, which no door can show; all of SQL,
//! mirror and guard.

use herdsman_host::{Clock as _, RealClock};

use crate::world::plant::FAULTS;
use crate::world::{self, live_with};
use crate::{Failure, Order, Row, Tally};

/// Seeds within which a fault must be found.
const SEEDS_MAX: u64 = 2_000;
/// Faults on every change.
const CHANGE: u64 = 2;
const DAY_MS: i64 = 86_400_000;

/// Planted faults.
pub(super) const PLANTED: Row = Row {
    name: "planted",
    what: "known faults at the doors of the broker: each is found within 2,000 seeds; the counts say which seed found it",
    unit: "faults",
    change: CHANGE,
    long: FAULTS.len() as u64,
    run,
};

/// The figure of a change takes others each day; any other order begins at fault number `from`.
fn run(order: &Order) -> Result<Tally, Failure> {
    let turn = RealClock.now_ms().div_euclid(DAY_MS).unsigned_abs() * CHANGE;
    let first = if (order.from, order.count) == (1, CHANGE) { turn } else { order.from.saturating_sub(1) };
    let mut tally = Tally::default();
    for number in (first..).take(usize::try_from(order.count).unwrap_or(usize::MAX)) {
        let at = usize::try_from(number % FAULTS.len() as u64).unwrap_or(0);
        let (fault, name) = FAULTS[at];
        let found = (1..=SEEDS_MAX).find_map(|seed| {
            let why = live_with(seed, &world::SHORT, Some(fault)).err()?;
            Some((seed, why.lines().next().unwrap_or_default().to_owned()))
        });
        let Some((seed, why)) = found else {
            return Err(Failure {
                seed: at as u64 + 1,
                what: format!("{name}: not found in {SEEDS_MAX} seeds"),
            });
        };
        println!("{name}, seed {seed}: {why}");
        tally.done += 1;
        tally.count(name, seed);
    }
    Ok(tally)
}
