//! Hedged reads: a batch whose answer is late is asked for once more on another connection; the first answer counts.
//!
//! "Late" is the 99th percentile of the last interval (1 ms at least); one batch in twenty at most is hedged, so that a cache that is slow as a
//! whole gets 5 % more requests and not twice as many. Source: Dean and Barroso, "The Tail at Scale" (CACM 2013).

use bytes::Bytes;

use super::links::{Outstanding, What};
use super::{Command, Core, Effect, LinkId};
use crate::placement::NodeIndex;
use crate::slab::Id;
use crate::stats::Counters;

const LATE_MIN_NS: u64 = 1_000_000;
/// Batches answered for one that may be hedged.
const BATCHES_PER_HEDGE: u64 = 20;
/// Batches that may be hedged at once, after a quiet time.
const SAVED_MAX: u64 = 10 * BATCHES_PER_HEDGE;

/// When to hedge, and how often still.
#[derive(Debug)]
pub(super) struct Hedges {
    on: bool,
    late_ns: u64,
    saved: u64,
}

impl Hedges {
    pub(super) fn new(on: bool) -> Self {
        Self { on, late_ns: 10 * LATE_MIN_NS, saved: BATCHES_PER_HEDGE }
    }

    /// What an interval showed.
    pub(super) fn learn(&mut self, p99_ns: u64, batches: u64) {
        if p99_ns > 0 {
            self.late_ns = p99_ns.max(LATE_MIN_NS);
        }
        self.saved = (self.saved + batches).min(SAVED_MAX);
    }

    fn may(&self) -> bool {
        self.on && self.saved >= BATCHES_PER_HEDGE
    }
}

impl Core {
    /// Batches that no hedge was sent for: when each was sent, its link.
    fn unanswered(&self) -> impl Iterator<Item = (NodeIndex, u64, LinkId)> + '_ {
        self.nodes.indices().zip(self.nodes.iter()).flat_map(|(index, node)| {
            node.links.waiting_longest().map(move |(sent_ns, link)| (index, sent_ns, link))
        })
    }

    pub(super) fn next_hedge_ns(&self) -> Option<u64> {
        if !self.hedges.may() {
            return None;
        }
        self.unanswered().map(|(_, sent_ns, _)| sent_ns + self.hedges.late_ns).min()
    }

    pub(super) fn pump_hedges(&mut self, now_ns: u64) {
        if !self.hedges.on {
            return;
        }
        while self.hedges.may() {
            let late_ns = self.hedges.late_ns;
            let late = self.unanswered().find(|(_, sent_ns, _)| now_ns >= sent_ns + late_ns);
            let Some((node, _, link)) = late else { return };
            self.hedge(node, link, now_ns);
        }
    }

    fn hedge(&mut self, node: NodeIndex, link: LinkId, now_ns: u64) {
        let Some(links) = self.nodes.links_mut(node) else { return };
        let flights: Vec<Id> = links.hedge(link);
        let known = |id: &Id| self.flights.get(*id).filter(|flight| flight.is_asked()).map(|f| f.key.clone());
        let (keys, flights): (Vec<Bytes>, Vec<Id>) =
            flights.into_iter().filter_map(|id| Some((known(&id)?, id))).unzip();
        let other = self.nodes.links_mut(node).and_then(|links| links.least_busy_but(link));
        let Some(other) = other.filter(|_| !keys.is_empty()) else { return };
        other.outstanding.push_back(Outstanding { what: What::Hedge(flights), sent_ns: now_ns });
        other.gets += 1;
        self.hedges.saved -= BATCHES_PER_HEDGE;
        Counters::add(&self.counters.hedges, 1);
        self.effects.push(Effect::Send { link: other.id, command: Command::Get(keys) });
    }
}
