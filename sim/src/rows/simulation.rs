//! The broker with its clients in a world of one seed: short lives full of faults.

use crate::row::each_seed;
use crate::world::{self, live};
use crate::{Failure, Order, Row, Tally};

/// Short lives.
pub(super) const SHORT: Row = Row {
    name: "simulation",
    what: "the whole broker under crashes, power cuts, failing disks, a bad network and a jumping clock",
    unit: "seeds",
    change: 2_000,
    long: 100_000,
    run: short,
};

/// Long lives: ten simulated minutes each.
pub(super) const LONG: Row = Row {
    name: "simulation-long",
    what: "the same for ten simulated minutes: time-outs, retention, windows that end, expiring sessions",
    unit: "seeds",
    change: 50,
    long: 3_000,
    run: long,
};

/// Every short life twice.
pub(super) const DETERMINISM: Row = Row {
    name: "determinism",
    what: "the same seed twice gives the same hash of every event",
    unit: "seeds",
    change: 200,
    long: 2_000,
    run: twice,
};

fn long(order: &Order) -> Result<Tally, Failure> {
    each_seed(order, |seed| live(seed, &world::LONG).map(|outcome| outcome.tally))
}

fn twice(order: &Order) -> Result<Tally, Failure> {
    each_seed(order, |seed| {
        let (first, second) = (live(seed, &world::SHORT)?, live(seed, &world::SHORT)?);
        if first != second {
            return Err(format!("hash {:016x}, then {:016x}", first.hash, second.hash));
        }
        Ok(first.tally)
    })
}

fn short(order: &Order) -> Result<Tally, Failure> {
    each_seed(order, |seed| live(seed, &world::SHORT).map(|outcome| outcome.tally))
}
