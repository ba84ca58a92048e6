//! Three bounded queues: urgent first, bulk shed by age, and a reserved share so that nobody starves.

use std::collections::VecDeque;

use crate::config::Lane;
use crate::slab::Id;

/// Of a full batch one place in so many is kept for the normal lane …
pub(crate) const NORMAL_SHARE: usize = 8;
/// … and for the bulk lane (at least one of eight keys), as long as these have keys waiting.
pub(crate) const BULK_SHARE: usize = 32;

/// A key that waits for a place in a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    pub(crate) flight: Id,
    pub(crate) since_ns: u64,
}

/// See the module. Entries may be out of date (a flight moved to a more urgent lane): whoever pops checks.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    queues: [VecDeque<Waiting>; 3],
}

impl Lanes {
    pub(crate) fn push(&mut self, lane: Lane, waiting: Waiting) {
        self.queues[lane.index()].push_back(waiting);
    }

    /// Back to the head of its lane, after a connection was lost.
    pub(crate) fn push_front(&mut self, lane: Lane, waiting: Waiting) {
        self.queues[lane.index()].push_front(waiting);
    }

    pub(crate) fn len(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }

    pub(crate) fn depth(&self, lane: Lane) -> usize {
        self.queues[lane.index()].len()
    }

    /// When the oldest entry of any lane came.
    pub(crate) fn oldest_ns(&self) -> Option<u64> {
        self.queues.iter().filter_map(|queue| queue.front()).map(|waiting| waiting.since_ns).min()
    }

    /// Takes up to `room` keys. Urgent fills first, but for the shares of the others.
    pub(crate) fn take(&mut self, room: usize, out: &mut Vec<Waiting>) {
        let normal_share = self.queues[1].len().min(room / NORMAL_SHARE);
        let bulk_share = self.queues[2].len().min((room / BULK_SHARE).max(usize::from(room >= 8)));
        let mut left = room;
        for (lane, kept_back) in [(0, normal_share + bulk_share), (1, bulk_share), (2, 0)] {
            let n = self.queues[lane].len().min(left - kept_back.min(left));
            out.extend(self.queues[lane].drain(..n));
            left -= n;
        }
    }

    /// Takes the head of a lane if it came before `limit_ns`.
    pub(crate) fn pop_older(&mut self, lane: Lane, limit_ns: u64) -> Option<Waiting> {
        let queue = &mut self.queues[lane.index()];
        if queue.front()?.since_ns < limit_ns { queue.pop_front() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::Slab;

    #[test]
    fn urgent_goes_first_and_nobody_starves() {
        let (mut lanes, mut slab) = (Lanes::default(), Slab::new());
        let mut ids = Vec::new();
        for lane in [Lane::Bulk, Lane::Normal, Lane::Urgent] {
            for n in 0..100 {
                let flight = slab.insert((lane, n));
                ids.push(flight);
                lanes.push(lane, Waiting { flight, since_ns: n });
            }
        }
        let mut batch = Vec::new();
        lanes.take(64, &mut batch);
        let count =
            |lane| batch.iter().filter(|w| slab.get(w.flight).is_some_and(|(l, _)| *l == lane)).count();
        assert_eq!((count(Lane::Urgent), count(Lane::Normal), count(Lane::Bulk)), (54, 8, 2));
        assert_eq!(slab.get(batch[0].flight), Some(&(Lane::Urgent, 0)));
        batch.clear();
        lanes.take(1_000, &mut batch);
        assert_eq!((batch.len(), lanes.len()), (236, 0), "with room for all, all go");
    }
}
