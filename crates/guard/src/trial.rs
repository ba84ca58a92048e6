//! What is tried on the guard's decision engine by seed, under a simulated clock, cache and system of record, for the ledger (`sim/`): the cache in
//! trouble, the herd, the lanes and the tuner; and the planted faults that these trials must find. Built for tests and with the feature `trial`.

mod herd;
mod history;
mod trouble;
mod world;

pub use self::herd::herd;
pub use self::history::{History, leases};
pub use self::trouble::{TroubleReport, trouble};
pub use crate::core::Fault;
use crate::core::sim;

impl Fault {
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
    sim::urgent_flood(seed, fault)
}

/// One seed of a steady load: the tuner must be quiet.
///
/// # Errors
/// What it did, if it was not.
pub fn tuner(seed: u64, fault: Option<Fault>) -> Result<(), String> {
    sim::steady_load(seed, fault)
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
