//! De-duplication by event id: each id is accepted once per window, exactly, within a stated memory budget.
//!
//! [`Dedupe`] remembers fingerprints ([`EventId`]) in up to four generations. An id is remembered for at least the
//! window, unless the budget forces the oldest generation out before its time: that is counted, never silent. [`EventIdSource`] says where the id of a record is;
//! [`Extractor`] reads it. Both work on any record batches, so a client of a real cluster can use them as well.
//!
//! Budget sketch: 200 MiB hold four generations of 2.2 M ids, 8.8 M in all, 24 bytes each. A fresh id costs one cache
//! line to find that nobody has it and one to be stored; a batch asks for the lines of 64 ids at a time, so that they
//! arrive side by side.

pub mod extract;
mod lanes;
#[cfg(test)]
mod tests;

use std::collections::{HashSet, VecDeque};

use herdsman_record::EventId;

pub use extract::{EventIdSource, Extractor, IdError};
use lanes::{GROUP_BYTES, LANES, Lanes};

/// Default memory budget of one topic, bytes.
pub const MEMORY_BYTES_DEFAULT: usize = 200 << 20;
/// Stands for "this record has no id": it is always accepted.
pub const NO_ID: EventId = EventId(0);
/// A generation spans this part of the window, so that an id stays between 1 and 1.5 windows.
const WINDOW_PARTS: i64 = 2;
/// Groups of the memory needed next that are made ready for each id: twice the memory has two groups for each of now,
/// whose last 3.7 ids come while it is prepared.
const GROUPS_TOUCHED_PER_ID: (usize, usize) = (3, 5);

/// What the window has seen so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DedupeStats {
    /// Ids accepted.
    pub accepted: u64,
    /// Ids refused because the window held them.
    pub duplicates: u64,
    /// Records without an id, accepted unchecked.
    pub without_id: u64,
    /// Ids forgotten before their window was over, for want of memory: raise `herdsman.dedupe.memory.bytes`.
    pub forgotten_early: u64,
    /// Ids remembered now.
    pub remembered: u64,
    /// Bytes of the tables now.
    pub memory_bytes: u64,
}

/// One bit per record of a batch: set when the record is to be kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fresh {
    words: Vec<u64>,
    len: usize,
    duplicates: usize,
}

impl Fresh {
    /// Number of records looked at.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there was none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many are duplicates.
    #[must_use]
    pub fn duplicates(&self) -> usize {
        self.duplicates
    }

    /// Whether record `index` is to be kept.
    #[inline]
    #[must_use]
    pub fn is_fresh(&self, index: usize) -> bool {
        self.words.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }
}

struct Generation {
    lane: usize,
    last_ms: i64,
    first_ms: i64,
}

/// Memory that is needed next, and how many of its groups the system has backed already.
enum Upcoming {
    /// More groups.
    Larger(Lanes, usize),
    /// One more lane.
    Lane(usize, usize),
}

/// The ids of one topic within their window. One owner at a time; no clock of its own.
pub struct Dedupe {
    window_ms: i64,
    groups_max: usize,
    memory_bytes_max: usize,
    lanes: Lanes,
    /// Oldest first; the last one takes new ids.
    generations: VecDeque<Generation>,
    upcoming: Option<Upcoming>,
    /// Ids of writes that failed and may stand after a restart all the same; few, for a failed write closes its partition.
    doubtful: HashSet<EventId>,
    stats: DedupeStats,
}

impl Dedupe {
    /// Remembers each id for at least `window_ms`, in at most about `memory_bytes_max`.
    #[must_use]
    pub fn new(window_ms: i64, memory_bytes_max: usize) -> Self {
        let lanes = Lanes::with_groups(0);
        Self {
            window_ms: window_ms.max(1),
            groups_max: (memory_bytes_max / GROUP_BYTES).max(lanes.groups()),
            memory_bytes_max,
            lanes,
            generations: VecDeque::new(),
            upcoming: None,
            doubtful: HashSet::new(),
            stats: DedupeStats::default(),
        }
    }

    /// Ids that fit the budget; older ones are forgotten early.
    #[must_use]
    pub fn capacity(&self) -> usize {
        Lanes::room_of(self.groups_max) * LANES
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> DedupeStats {
        let mut stats = self.stats;
        stats.remembered = self.lanes.total() as u64;
        let upcoming = match &self.upcoming {
            Some(Upcoming::Larger(larger, _)) => larger.bytes(),
            _ => 0,
        };
        stats.memory_bytes = (self.lanes.bytes() + upcoming) as u64;
        stats
    }

    /// Which of `ids` are new. They are remembered from now (`now_ms`) on; an id that is twice in `ids` is new once.
    pub fn filter(&mut self, ids: &[EventId], now_ms: i64) -> Fresh {
        let mut fresh = Fresh { words: vec![0; ids.len().div_ceil(64)], len: ids.len(), duplicates: 0 };
        self.turn(now_ms);
        for (chunk, word) in ids.chunks(64).zip(fresh.words.iter_mut()) {
            self.make_room(chunk.len(), now_ms);
            std::hint::black_box(chunk.iter().fold(0, |sum, id| sum ^ self.lanes.touch(id.0)));
            let mut bits = 0_u64;
            for (bit, id) in chunk.iter().enumerate() {
                bits |= u64::from(self.admit(*id)) << bit;
            }
            *word = bits;
            fresh.duplicates += chunk.len() - bits.count_ones() as usize;
        }
        self.stats.duplicates += fresh.duplicates as u64;
        self.stats.accepted += (ids.len() - fresh.duplicates) as u64;
        if let Some(newest) = self.generations.back_mut() {
            newest.last_ms = newest.last_ms.max(now_ms);
        }
        fresh
    }

    /// Takes back what [`Dedupe::filter`] accepted: the batch was not written.
    pub fn forget(&mut self, ids: &[EventId], fresh: &Fresh) {
        for (index, id) in ids.iter().enumerate() {
            if !fresh.is_fresh(index) || *id == NO_ID {
                continue;
            }
            self.lanes.remove(id.0);
        }
        self.stats.accepted = self.stats.accepted.saturating_sub((ids.len() - fresh.duplicates) as u64);
        self.stats.duplicates = self.stats.duplicates.saturating_sub(fresh.duplicates as u64);
    }

    /// Takes back what [`Dedupe::filter`] accepted, but the batch may stand after a restart: until then nobody knows whether its
    /// ids are new.
    pub fn doubt(&mut self, ids: &[EventId], fresh: &Fresh) {
        self.forget(ids, fresh);
        let of_batch = ids.iter().enumerate().filter(|(index, id)| fresh.is_fresh(*index) && **id != NO_ID);
        self.doubtful.extend(of_batch.map(|(_, id)| *id));
    }

    /// Whether one of `ids` was in a write that failed and may stand all the same.
    #[must_use]
    pub fn is_doubtful(&self, ids: &[EventId]) -> bool {
        !self.doubtful.is_empty() && ids.iter().any(|id| self.doubtful.contains(id))
    }

    /// Forgets ids whose records were written and then aborted with their transaction.
    pub fn withdraw(&mut self, ids: &[EventId]) {
        for id in ids.iter().filter(|id| **id != NO_ID) {
            let held = self.lanes.remove(id.0);
            self.stats.accepted = self.stats.accepted.saturating_sub(u64::from(held));
        }
    }

    /// Puts ids back that the log holds already (after a restart); counted neither as accepted nor as duplicates.
    pub fn restore(&mut self, ids: &[EventId], now_ms: i64) {
        let before = self.stats;
        self.filter(ids, now_ms);
        self.stats = DedupeStats { forgotten_early: self.stats.forgotten_early, ..before };
    }

    #[inline]
    fn admit(&mut self, id: EventId) -> bool {
        if id == NO_ID {
            self.stats.without_id += 1;
            return true;
        }
        let Some(newest) = self.generations.back() else { return true };
        let fresh = !self.lanes.contains(id.0);
        if fresh {
            self.lanes.put(newest.lane, id.0);
        }
        fresh
    }

    /// Forgets generations whose window is over and begins a new one when the newest has spanned its part.
    fn turn(&mut self, now_ms: i64) {
        while self
            .generations
            .front()
            .is_some_and(|oldest| now_ms.saturating_sub(oldest.last_ms) >= self.window_ms)
        {
            self.retire(now_ms);
        }
        if self.generations.is_empty() && self.upcoming.is_none() {
            self.lanes = Lanes::with_groups(0);
        }
        let part = (self.window_ms / WINDOW_PARTS).max(1);
        let due = self.generations.back().is_none_or(|newest| now_ms.saturating_sub(newest.first_ms) >= part);
        if due {
            self.begin(now_ms);
        }
    }

    /// Makes sure that the newest generation takes `count` more without outgrowing its share.
    fn make_room(&mut self, count: usize, now_ms: i64) {
        let most = Lanes::room_of(self.groups_max);
        if self.generations.back().is_none_or(|newest| self.lanes.len(newest.lane) + count > most) {
            self.begin(now_ms);
        }
        self.prepare(count);
    }

    /// Makes the memory that is needed next ready while the present one fills, a little with every call: the system hands
    /// out memory at about 1 GB/s, and 50 MB at once would be a pause of a twentieth of a second. Moves into it when it
    /// is time.
    fn prepare(&mut self, count: usize) {
        let Some(newest) = self.generations.back() else { return };
        let (len, room) = (self.lanes.len(newest.lane), self.lanes.room());
        if len * 8 >= room {
            let touched = (count * GROUPS_TOUCHED_PER_ID.0).div_ceil(GROUPS_TOUCHED_PER_ID.1);
            match self.upcoming.take().or_else(|| self.plan()) {
                Some(Upcoming::Larger(mut larger, from)) => {
                    let to = larger.touch_all(from, touched);
                    self.upcoming = Some(Upcoming::Larger(larger, to));
                }
                Some(Upcoming::Lane(lane, from)) => {
                    let to = self.lanes.touch_lane(lane, from, touched);
                    self.upcoming = Some(Upcoming::Lane(lane, to));
                }
                None => {}
            }
        }
        if len + count > room {
            let larger = match self.upcoming.take() {
                Some(Upcoming::Larger(larger, _)) => larger,
                _ => self.lanes.larger((self.lanes.groups() * 2).min(self.groups_max)),
            };
            self.lanes.move_into(larger);
        }
    }

    /// What will be needed next, if it can be had within the budget: more groups, or, when there are as many as may be, one
    /// more lane.
    fn plan(&mut self) -> Option<Upcoming> {
        let groups = (self.lanes.groups() * 2).min(self.groups_max);
        if groups > self.lanes.groups() {
            let affordable = self.lanes.bytes() + self.lanes.bytes_of_larger(groups) <= self.memory_bytes_max;
            return affordable.then(|| Upcoming::Larger(self.lanes.larger(groups), 0));
        }
        let lane = self.free_lane().filter(|lane| !self.lanes.is_open(*lane))?;
        self.lanes.open(lane);
        Some(Upcoming::Lane(lane, 0))
    }

    fn free_lane(&self) -> Option<usize> {
        (0..LANES).find(|lane| self.generations.iter().all(|generation| generation.lane != *lane))
    }

    /// Forgets the oldest generation.
    fn retire(&mut self, now_ms: i64) {
        let Some(oldest) = self.generations.pop_front() else { return };
        if now_ms.saturating_sub(oldest.last_ms) < self.window_ms {
            self.stats.forgotten_early += self.lanes.len(oldest.lane) as u64;
        }
        self.lanes.clear(oldest.lane);
    }

    fn begin(&mut self, now_ms: i64) {
        if let Some(newest) = self.generations.back_mut().filter(|newest| self.lanes.len(newest.lane) == 0) {
            newest.first_ms = now_ms;
            newest.last_ms = now_ms;
            return;
        }
        if self.generations.len() >= LANES {
            self.retire(now_ms);
        }
        let Some(lane) = self.free_lane() else { return };
        self.upcoming = self.upcoming.take().filter(|upcoming| matches!(upcoming, Upcoming::Larger(..)));
        self.lanes.open(lane);
        self.generations.push_back(Generation { lane, first_ms: now_ms, last_ms: now_ms });
    }
}
