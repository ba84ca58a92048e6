//! De-duplication by event id: each id is accepted once per window, exactly, within a stated memory budget.
//!
//! [`Dedupe`] remembers 128-bit fingerprints ([`EventId`]) in a ring of generations, each a table of 16-byte slots with a one-byte tag. An id is remembered for at least the window, unless the budget forces the oldest
//! generation out before its time: that is counted, never silent. [`EventIdSource`] says where the id of a record is;
//! [`Extractor`] reads it. Both work on any record batches, so a client of a real cluster can use them as well.
//!
//! Budget sketch: 272 MiB hold four generations of 2.1 M ids, 8.4 M in all. A fresh id costs a byte per older
//! generation; a batch asks for the lines of 64 ids at a time, so that they arrive side by side.

pub mod extract;
mod table;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use herdsman_record::EventId;

pub use extract::{EventIdSource, Extractor, IdError};
use table::{SLOT_BYTES, Table};

/// Default memory budget of one topic, bytes.
pub const MEMORY_BYTES_DEFAULT: usize = 272 << 20;
/// Stands for "this record has no id": it is always accepted.
pub const NO_ID: EventId = EventId(0);
/// Generations that fill the budget; the oldest of them goes at once when it is full.
const GENERATIONS_BY_MEMORY: usize = 4;
/// A generation spans this part of the window, so that an id stays between 1 and 1.5 windows.
const WINDOW_PARTS: i64 = 2;
/// Slots of the upcoming table that get their memory with every id of the present one.
const SLOTS_TOUCHED_PER_ID: usize = 5;
/// Smallest table, slots.
const SLOTS_MIN: usize = 1 << 10;

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
    ids: Table,
    last_ms: i64,
    first_ms: i64,
}

impl Generation {
    fn new(ids: Table, now_ms: i64) -> Self {
        Self { ids, first_ms: now_ms, last_ms: now_ms }
    }

    fn bytes(&self) -> usize {
        self.ids.bytes()
    }
}

/// The ids of one topic within their window. One owner at a time; no clock of its own.
pub struct Dedupe {
    window_ms: i64,
    ids_per_generation_max: usize,
    memory_bytes_max: usize,
    /// Oldest first; the last one takes new ids.
    generations: VecDeque<Generation>,
    /// The table that is needed next, and how many of its slots have memory behind them.
    upcoming: Option<(Table, usize)>,
    stats: DedupeStats,
}

impl Dedupe {
    /// Remembers each id for at least `window_ms`, in at most about `memory_bytes_max`.
    #[must_use]
    pub fn new(window_ms: i64, memory_bytes_max: usize) -> Self {
        let share = memory_bytes_max / GENERATIONS_BY_MEMORY / SLOT_BYTES;
        let slots = (share + 1).next_power_of_two() / 2;
        Self {
            window_ms: window_ms.max(1),
            ids_per_generation_max: slots.max(SLOTS_MIN) / 2,
            memory_bytes_max,
            generations: VecDeque::new(),
            upcoming: None,
            stats: DedupeStats::default(),
        }
    }

    /// Ids that fit the budget; older ones are forgotten early.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.ids_per_generation_max * GENERATIONS_BY_MEMORY
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> DedupeStats {
        let mut stats = self.stats;
        stats.remembered = self.generations.iter().map(|generation| generation.ids.len() as u64).sum();
        stats.memory_bytes =
            (self.bytes() + self.upcoming.as_ref().map_or(0, |(table, _)| table.bytes())) as u64;
        stats
    }

    /// Which of `ids` are new. They are remembered from now (`now_ms`) on; an id that is twice in `ids` is new once.
    pub fn filter(&mut self, ids: &[EventId], now_ms: i64) -> Fresh {
        let mut fresh = Fresh { words: vec![0; ids.len().div_ceil(64)], len: ids.len(), duplicates: 0 };
        self.turn(now_ms);
        for (chunk, word) in ids.chunks(64).zip(fresh.words.iter_mut()) {
            self.make_room(chunk.len(), now_ms);
            for generation in &self.generations {
                std::hint::black_box(chunk.iter().fold(0, |sum, id| sum ^ generation.ids.touch(id.0)));
            }
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
            for generation in self.generations.iter_mut().rev() {
                if generation.ids.remove(id.0) {
                    break;
                }
            }
        }
        self.stats.accepted = self.stats.accepted.saturating_sub((ids.len() - fresh.duplicates) as u64);
        self.stats.duplicates = self.stats.duplicates.saturating_sub(fresh.duplicates as u64);
    }

    /// Forgets ids whose records were written and then aborted with their transaction.
    pub fn withdraw(&mut self, ids: &[EventId]) {
        for id in ids.iter().filter(|id| **id != NO_ID) {
            let held = self.generations.iter_mut().rev().any(|generation| generation.ids.remove(id.0));
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
        let Some(newest) = self.generations.len().checked_sub(1) else { return true };
        if self.generations.range(..newest).any(|generation| generation.ids.contains(id.0)) {
            return false;
        }
        self.generations.back_mut().is_none_or(|newest| newest.ids.insert(id.0))
    }

    /// Forgets generations whose window is over and begins a new one when the newest has spanned its part.
    fn turn(&mut self, now_ms: i64) {
        while self
            .generations
            .front()
            .is_some_and(|oldest| now_ms.saturating_sub(oldest.last_ms) >= self.window_ms)
        {
            self.generations.pop_front();
        }
        let part = (self.window_ms / WINDOW_PARTS).max(1);
        let due = self.generations.back().is_none_or(|newest| now_ms.saturating_sub(newest.first_ms) >= part);
        if due {
            self.begin(now_ms);
        }
    }

    /// Makes sure that the newest generation takes `count` more without outgrowing its share.
    fn make_room(&mut self, count: usize, now_ms: i64) {
        let full = self
            .generations
            .back()
            .is_none_or(|newest| newest.ids.len() + count > self.ids_per_generation_max);
        if full {
            self.begin(now_ms);
        }
        self.prepare(count);
    }

    /// Makes the table that is needed next while the present one fills, a little with every call: the system hands out
    /// memory at about 1 GB/s, and 68 MiB at once would be a pause of a tenth of a second. Moves into it when it is time.
    fn prepare(&mut self, count: usize) {
        let (largest, held) = (self.ids_per_generation_max, self.bytes());
        let Some(newest) = self.generations.back_mut() else { return };
        let (len, room) = (newest.ids.len(), newest.ids.room());
        let next = (room * 2).min(largest);
        let affordable = held + next * 2 * SLOT_BYTES <= self.memory_bytes_max;
        if len * 8 < room || (self.upcoming.is_none() && !affordable) {
            return;
        }
        let (table, touched) = self.upcoming.get_or_insert_with(|| (Table::with_capacity(next), 0));
        // seven eighths of the present table's room are left for four slots for each id of it
        *touched = table.touch_pages(*touched, count * SLOTS_TOUCHED_PER_ID);
        if len + count > room
            && table.room() >= room * 2
            && let Some((larger, _)) = self.upcoming.take()
        {
            newest.ids.move_into(larger);
        }
    }

    fn begin(&mut self, now_ms: i64) {
        if let Some(newest) = self.generations.back_mut().filter(|newest| newest.ids.is_empty()) {
            newest.first_ms = now_ms;
            newest.last_ms = now_ms;
            return;
        }
        let full = self.ids_per_generation_max * 2 * SLOT_BYTES;
        while !self.generations.is_empty() && self.bytes() + full > self.memory_bytes_max {
            let Some(oldest) = self.generations.pop_front() else { break };
            if now_ms.saturating_sub(oldest.last_ms) < self.window_ms {
                self.stats.forgotten_early += oldest.ids.len() as u64;
            }
            self.upcoming = Some((oldest.ids.emptied(), usize::MAX));
        }
        let like_last = self.generations.back().map_or(0, |newest| newest.ids.len());
        let ids = like_last.clamp(SLOTS_MIN / 2, self.ids_per_generation_max);
        let table = match self.upcoming.take() {
            Some((table, _)) if table.room() >= ids => table,
            _ => Table::with_capacity(ids),
        };
        self.generations.push_back(Generation::new(table, now_ms));
    }

    fn bytes(&self) -> usize {
        self.generations.iter().map(Generation::bytes).sum()
    }
}
