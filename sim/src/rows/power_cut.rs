//! Power cuts: a script of 2,000 operations on a recorded disk, cut after every step in three ways, opened again and checked.
//!
//! Run against the broker, not the log alone: what is lost when the power goes shows in transactions, group offsets, event
//! ids and ACLs too. Images are numbered: [`PER_SCRIPT`] of one script, spread over its steps, then the next script.

use std::sync::{Arc, Mutex, PoisonError};

use herdsman_host::{Seed, SimClock};

use crate::house::House;
use crate::row::each_seed;
use crate::script::{EPOCH_MS, Promises, record};
use crate::tape::{Cut, Tape};
use crate::{Failure, Order, Row, Tally};

/// The row.
pub const ROW: Row = Row {
    name: "power-cut",
    what: "a script on a recorded disk, cut after any step; unsynced writes dropped, kept in part or torn",
    unit: "images",
    change: 2_000,
    long: 30_000,
    run: images,
};

/// Operations of one script.
const OPERATIONS: usize = 2_000;
/// Images of one script.
const PER_SCRIPT: u64 = 30_000;
/// Spreads consecutive images over the steps; a prime, so that all are met.
const STRIDE: u64 = 1_000_003;

type Recorded = Arc<(Tape, Promises)>;

fn images(order: &Order) -> Result<Tally, Failure> {
    let scripts: Mutex<Option<(u64, Recorded)>> = Mutex::default();
    let script = |number: u64| -> Result<Recorded, String> {
        let mut held = scripts.lock().unwrap_or_else(PoisonError::into_inner);
        match held.as_ref().filter(|(known, _)| *known == number) {
            Some((_, script)) => Ok(Arc::clone(script)),
            None => {
                let (tape, promises, house) = record("power cut", number, OPERATIONS)?;
                drop(house);
                let script = Arc::new((tape, promises));
                *held = Some((number, Arc::clone(&script)));
                Ok(script)
            }
        }
    };
    each_seed(order, |image| {
        let (tape, promises) = &*script(image / PER_SCRIPT)?;
        let all = tape.steps() as u64 * 3;
        let which = (image % PER_SCRIPT).wrapping_mul(STRIDE) % all;
        let step = usize::try_from(which / 3 + 1).unwrap_or(0);
        let cut = Cut::ALL[usize::try_from(which % 3).unwrap_or(0)];
        check(tape, promises, (step, cut), image)
            .map_err(|what| format!("cut after step {step} of {}, {cut:?}: {what}", all / 3))
    })
}

fn check(tape: &Tape, promises: &Promises, (step, cut): (usize, Cut), image: u64) -> Result<Tally, String> {
    let mut seed = Seed::new(image).stream("image");
    let disk = tape.image(step, cut, &mut seed).map_err(|error| error.to_string())?;
    let clock = Arc::new(SimClock::new(EPOCH_MS + 3_600_000));
    let house =
        House::open(Arc::new(disk), clock, &seed).map_err(|error| format!("does not open: {error}"))?;
    let mut tally = Tally::of(1);
    tally.count("steps", tape.steps() as u64 * u64::from(image.is_multiple_of(PER_SCRIPT)));
    tally.count("records read", promises.check(&house, step)?);
    Ok(tally)
}
