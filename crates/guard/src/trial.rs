//! What is tried on the guard's decision engine by seed, under a simulated clock, cache and system of record, for the ledger (`sim/`): the cache in
//! trouble, the herd, the lanes and the tuner; and the planted faults that these trials must find. Built for tests and with the feature `trial`.

mod herd;
mod history;
mod trouble;
mod world;

use serde::Serialize;

pub use self::herd::herd;
pub use self::history::{History, leases};
pub use self::trouble::{TroubleReport, trouble};
use crate::core::Fault as Planted;
use crate::core::sim;

/// Faults that may be planted into the engine; each bit somebody once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Fault {
    /// A lease that outlives its holder for ever.
    LeaseHeldByTheDead,
    /// "Does not exist" is remembered for ever.
    NegativeCacheNeverExpires,
    /// A value is written though its lease was deleted while it was loaded.
    StaleFillAfterDelete,
    /// A look-up does not join the flight of its key.
    TwoFlightsForOneKey,
    /// Answers are given to the next key of the batch.
    ReplyToTheWrongRequest,
    /// A full batch keeps no places for the less urgent lanes.
    LaneStarvation,
    /// The tuner keeps whatever it tries.
    TunerOscillates,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::LeaseHeldByTheDead,
        Self::NegativeCacheNeverExpires,
        Self::StaleFillAfterDelete,
        Self::TwoFlightsForOneKey,
        Self::ReplyToTheWrongRequest,
        Self::LaneStarvation,
        Self::TunerOscillates,
    ];

    fn planted(self) -> Planted {
        match self {
            Self::LeaseHeldByTheDead => Planted::LeaseHeldByTheDead,
            Self::NegativeCacheNeverExpires => Planted::NegativeCacheNeverExpires,
            Self::StaleFillAfterDelete => Planted::StaleFillAfterDelete,
            Self::TwoFlightsForOneKey => Planted::TwoFlightsForOneKey,
            Self::ReplyToTheWrongRequest => Planted::ReplyToTheWrongRequest,
            Self::LaneStarvation => Planted::LaneStarvation,
            Self::TunerOscillates => Planted::TunerOscillates,
        }
    }

    /// Runs the trial that is to find it, with it planted; the finding, if there was one.
    ///
    /// # Errors
    /// What the trial found: that is what is wanted.
    pub fn hunt(self, seed: u64) -> Result<(), String> {
        match self {
            Self::LaneStarvation => lanes(seed, Some(self)),
            Self::TunerOscillates => tuner(seed, Some(self)),
            Self::LeaseHeldByTheDead | Self::TwoFlightsForOneKey => herd(seed, Some(self)),
            _ => trouble(seed, Some(self)).map(|_| ()),
        }
    }
}

/// One seed of urgent look-ups beyond what the cache can do: the other lanes must get their shares.
///
/// # Errors
/// What a lane got, if that is less.
pub fn lanes(seed: u64, fault: Option<Fault>) -> Result<(), String> {
    sim::urgent_flood(seed, fault.map(Fault::planted))
}

/// One seed of a steady load: the tuner must be quiet.
///
/// # Errors
/// What it did, if it was not.
pub fn tuner(seed: u64, fault: Option<Fault>) -> Result<(), String> {
    sim::steady_load(seed, fault.map(Fault::planted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_planted_fault_is_found() {
        for fault in Fault::ALL {
            let found = (1..=40).find_map(|seed| Some((seed, fault.hunt(seed).err()?)));
            let (seed, what) = found.unwrap_or_else(|| panic!("{fault:?} is not found"));
            println!("{fault:?}: seed {seed}: {what:.200}");
        }
    }
}
