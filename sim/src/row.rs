//! One kind of trouble, and how its seeds are run.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// One row of the ledger.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its name on the command line and in the ledger.
    pub name: &'static str,
    /// What it does, one sentence.
    pub what: &'static str,
    /// What is counted: `seeds`, `kills`, `images` …
    pub unit: &'static str,
    /// How many run on every change.
    pub change: u64,
    /// How many run on demand, in an hour at most.
    pub long: u64,
    /// Runs an order; stops at the first failure.
    pub run: fn(&Order) -> Result<Tally, Failure>,
}

/// What to run: seeds `from .. from + count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// The first seed.
    pub from: u64,
    /// How many of the row's unit.
    pub count: u64,
}

/// What a run did, for its line in the ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many of the row's unit were done.
    pub done: u64,
    /// Simulated time that passed, in milliseconds.
    pub simulated_ms: u64,
    /// Further counts by name: kills, operations, records acknowledged …
    pub counts: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// A tally of `done` units.
    #[must_use]
    pub fn of(done: u64) -> Self {
        Self { done, ..Self::default() }
    }

    /// Adds `by` to the count called `name`.
    pub fn count(&mut self, name: &'static str, by: u64) {
        *self.counts.entry(name).or_default() += by;
    }

    /// Adds another tally to this one.
    pub fn add(&mut self, other: &Self) {
        self.done += other.done;
        self.simulated_ms += other.simulated_ms;
        for (name, by) in &other.counts {
            self.count(name, *by);
        }
    }
}

/// What did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The seed that shows it again.
    pub seed: u64,
    /// What was promised and what was seen.
    pub what: String,
}

/// Runs `one` for every seed of `order` on every processor, and stops at the first failure (the lowest seed among those that failed).
///
/// # Errors
/// The failure with the lowest seed.
pub fn each_seed(order: &Order, one: impl Fn(u64) -> Result<Tally, String> + Sync) -> Result<Tally, Failure> {
    let next = AtomicU64::new(order.from);
    let end = order.from.saturating_add(order.count);
    let stop = AtomicBool::new(false);
    let total = Mutex::new((Tally::default(), None::<Failure>));
    let worker = || {
        let mut mine = Tally::default();
        let mut failed = None;
        while failed.is_none() && !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                break;
            }
            match one(seed) {
                Ok(tally) => mine.add(&tally),
                Err(what) => failed = Some(Failure { seed, what }),
            }
        }
        let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        total.0.add(&mine);
        if let Some(failure) = failed {
            stop.store(true, Ordering::Relaxed);
            if total.1.as_ref().is_none_or(|other| failure.seed < other.seed) {
                total.1 = Some(failure);
            }
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(worker);
        }
    });
    let (tally, failure) = total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    failure.map_or(Ok(tally), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_runs_once_and_the_lowest_failure_is_told() {
        let order = Order { from: 10, count: 100 };
        let tally = each_seed(&order, |_| Ok(Tally::of(1))).expect("none fails");
        assert_eq!(tally.done, 100);
        let failure =
            each_seed(&order, |seed| if seed >= 40 { Err("no".to_owned()) } else { Ok(Tally::of(1)) });
        let failure = failure.expect_err("seed 40 fails");
        assert!((40..=41).contains(&failure.seed), "{failure:?}");
    }
}
