//! Faults planted on purpose, one at a time, so that the trials can be seen to find them. Outside tests and the feature `trial` there is none, and
//! every question for one is answered when it is compiled.

/// Faults that may be planted into the engine; each bit somebody once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(any(test, feature = "trial")), allow(dead_code, reason = "only trials plant"))]
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

#[cfg(any(test, feature = "trial"))]
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
}

/// The fault in force.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Planted {
    #[cfg(any(test, feature = "trial"))]
    fault: Option<Fault>,
}

impl Planted {
    #[cfg(any(test, feature = "trial"))]
    pub(super) fn is(self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    #[cfg(not(any(test, feature = "trial")))]
    pub(super) fn is(self, _: Fault) -> bool {
        false
    }
}

#[cfg(any(test, feature = "trial"))]
impl super::Core {
    /// With this fault.
    pub(crate) fn with_planted(mut self, fault: Option<Fault>) -> Self {
        self.planted.fault = fault;
        if fault == Some(Fault::TunerOscillates) {
            self.tuner.keeps_whatever_it_tries();
        }
        self
    }

    /// Counts keys as handed over, as the callers' side does.
    pub(crate) fn pending(&self, lane: crate::config::Lane, keys: usize) {
        self.counters.pending(lane).fetch_add(keys, std::sync::atomic::Ordering::Relaxed);
    }
}
