//! Three bounded queues: urgent first, bulk shed by age, and a reserved share so that nobody starves.

use std::collections::VecDeque;

use crate::config::Lane;
use crate::slab::Id;

/// Of a full batch one place in so many is kept for the normal lane …
pub(crate) const NORMAL_SHARE: usize = 8;
/// … and for the bulk lane, as long as these have keys waiting. What small batches leave of a share is kept for the next.
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
    /// When the last key of each lane came.
    last_ns: [u64; 3],
    /// Places sent since the last one that was kept for the normal lane, and for the bulk lane.
    since_share: [usize; 2],
    no_shares: bool,
}

impl Lanes {
    pub(crate) fn push(&mut self, lane: Lane, waiting: Waiting) {
        self.last_ns[lane.index()] = waiting.since_ns;
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

    /// Whether a key that came before `before_ns` waits behind a lane that was asked in since `since_ns`.
    pub(crate) fn is_held_up(&self, before_ns: u64, since_ns: u64) -> bool {
        let mut above_in_use = false;
        self.queues.iter().zip(self.last_ns).any(|(queue, last_ns)| {
            let behind = above_in_use && queue.front().is_some_and(|waiting| waiting.since_ns < before_ns);
            above_in_use |= last_ns > since_ns;
            behind
        })
    }

    /// A planted fault: no places are kept any longer.
    pub(crate) fn keep_no_shares(&mut self) {
        self.no_shares = true;
    }

    /// Takes up to `room` keys. Urgent fills first, but for the shares of the others.
    pub(crate) fn take(&mut self, room: usize, out: &mut Vec<Waiting>) {
        let normal_share = self.queues[1].len().min(share(&mut self.since_share[0], room, NORMAL_SHARE));
        let bulk_share = self.queues[2].len().min(share(&mut self.since_share[1], room, BULK_SHARE));
        let (normal_share, bulk_share) = if self.no_shares { (0, 0) } else { (normal_share, bulk_share) };
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

/// Of `room` places and those since the last share: one in `of`.
fn share(since: &mut usize, room: usize, of: usize) -> usize {
    let places = since.saturating_add(room);
    *since = places % of;
    places / of
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
        // Shares of small batches add up: one place in eight, one in thirty-two.
        batch.clear();
        (0..4).for_each(|_| lanes.take(10, &mut batch));
        let count =
            |lane| batch.iter().filter(|w| slab.get(w.flight).is_some_and(|(l, _)| *l == lane)).count();
        assert_eq!((count(Lane::Urgent), count(Lane::Normal), count(Lane::Bulk)), (34, 5, 1));
        batch.clear();
        lanes.take(1_000, &mut batch);
        assert_eq!((batch.len(), lanes.len()), (196, 0), "with room for all, all go");
    }
}
