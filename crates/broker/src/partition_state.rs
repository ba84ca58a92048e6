//! What the broker keeps of one partition: its producers, and what a reader of committed records may see.
//!
//! ```text
//! offsets   0 … 41 │ 42: open transaction begins … │ 97
//!                  └ last stable offset            └ high watermark
//! ```
//! A reader takes batches from the log first and asks for the last stable offset after that; a writer lowers the last stable
//! offset before its batch becomes readable. So no reader takes a batch of an open transaction for a committed one.
//! A partition that never saw a transaction costs its readers one atomic load.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use herdsman_log::{Log, Transactions};
use herdsman_record::{Batch, Header, TopicPartition};

use crate::BrokerError;
use crate::markers::{Outcome, outcome_of};
use crate::producers::Producers;
use crate::replay::read_on;
use crate::snapshot::Snapshot;
use crate::topic::lock;

/// Bytes read at a time while producers are read back from the log.
const REPLAY_BYTES: usize = 4 << 20;
/// Last stable offset of a partition without an open transaction: all of it.
const ALL: i64 = i64::MAX;
/// Last stable offset of a partition whose producers were not read back yet.
const UNKNOWN: i64 = i64::MIN;

/// An aborted transaction of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Aborted {
    pub(crate) producer_id: i64,
    /// Offset of its first record.
    pub(crate) first: i64,
    /// Offset of its marker.
    pub(crate) last: i64,
    /// Last stable offset behind the marker: whatever is aborted later begins there or behind it.
    pub(crate) stable: i64,
}

/// Producers and transactions of one partition.
#[derive(Debug)]
pub(crate) struct PartitionState {
    /// `None` until first asked for.
    producers: Mutex<Option<Producers>>,
    /// First offset of the oldest open transaction, [`ALL`] or [`UNKNOWN`].
    unstable: AtomicI64,
    /// Whether there ever was a transaction.
    has_transactions: AtomicBool,
    /// Sorted by `last`.
    aborted: RwLock<Vec<Aborted>>,
    /// Bytes of the partition when its producers were last kept in a snapshot.
    kept_at_bytes: AtomicU64,
    /// Offset of that snapshot.
    kept_at: AtomicI64,
}

impl Default for PartitionState {
    fn default() -> Self {
        Self {
            producers: Mutex::default(),
            unstable: AtomicI64::new(UNKNOWN),
            has_transactions: AtomicBool::new(false),
            aborted: RwLock::default(),
            kept_at_bytes: AtomicU64::new(0),
            kept_at: AtomicI64::new(0),
        }
    }
}

/// The producers of a partition, locked and read back.
pub(crate) struct Locked<'a> {
    state: &'a PartitionState,
    guard: MutexGuard<'a, Option<Producers>>,
}

impl PartitionState {
    /// Locks the producers; reads them back from snapshot and log if that was not done yet.
    pub(crate) fn lock(&self, log: &Log, at: &TopicPartition) -> Result<Locked<'_>, BrokerError> {
        let mut guard = lock(&self.producers);
        if guard.is_none() {
            let (kept_at, producers, mut aborted) = replay(log, at)?;
            let cleaned = log.cleaned_until(at)?;
            aborted.retain(|one| one.last >= cleaned);
            self.kept_at.store(kept_at, Ordering::Relaxed);
            // any producer may have had a transaction
            self.has_transactions
                .store(!producers.all().is_empty() || !aborted.is_empty(), Ordering::Release);
            *self.aborted.write().unwrap_or_else(PoisonError::into_inner) = aborted;
            self.unstable.store(producers.first_open().unwrap_or(ALL), Ordering::Release);
            *guard = Some(producers);
        }
        Ok(Locked { state: self, guard })
    }

    /// Reads the producers back if that was not done yet, so that [`PartitionState::last_stable`] knows.
    pub(crate) fn load(&self, log: &Log, at: &TopicPartition) -> Result<(), BrokerError> {
        if self.unstable.load(Ordering::Acquire) == UNKNOWN { self.lock(log, at).map(|_| ()) } else { Ok(()) }
    }

    /// The offset below which every transaction is decided. Ask after reading the batches it is to cut.
    pub(crate) fn last_stable(&self, high_watermark: i64) -> i64 {
        match self.unstable.load(Ordering::Acquire) {
            UNKNOWN => high_watermark,
            unstable => unstable.min(high_watermark),
        }
    }

    /// Aborted transactions with records in offsets `from .. to`.
    pub(crate) fn aborted_in(&self, from: i64, to: i64) -> Vec<Aborted> {
        let aborted = self.aborted.read().unwrap_or_else(PoisonError::into_inner);
        let begin = aborted.partition_point(|one| one.last < from);
        let mut found = Vec::new();
        for one in aborted.iter().skip(begin) {
            if one.first < to {
                found.push(*one);
            }
            if one.stable >= to {
                break;
            }
        }
        found
    }

    /// Leaves of `batches`, just read, only what is committed: no open or aborted transactions, no markers.
    /// Returns the offset up to which something was decided.
    pub(crate) fn keep_committed(&self, batches: &mut Vec<Batch>) -> Option<i64> {
        let stable = self.last_stable(ALL);
        if stable == ALL && !self.has_transactions.load(Ordering::Acquire) {
            return batches.last().map(Batch::next_offset);
        }
        batches.retain(|batch| batch.base_offset() < stable);
        let next = batches.last().map(Batch::next_offset)?;
        let from = batches.first().map_or(next, Batch::base_offset);
        let aborted = self.aborted_in(from, next);
        batches.retain(|batch| {
            let header = batch.header();
            let is_aborted = header.is_transactional() && aborted.iter().any(|one| one.holds(&header));
            !header.is_control() && !is_aborted
        });
        Some(next)
    }

    /// Keeps the producers in a file if the partition grew by `bytes_grown` since it was last done.
    pub(crate) fn keep(&self, log: &Log, at: &TopicPartition, bytes_grown: u64) -> Result<(), BrokerError> {
        if self.unstable.load(Ordering::Acquire) == UNKNOWN {
            return Ok(());
        }
        let bytes = log.size(at)?;
        if bytes.abs_diff(self.kept_at_bytes.load(Ordering::Relaxed)) < bytes_grown.max(1) {
            return Ok(());
        }
        self.store(log, at)?;
        self.kept_at_bytes.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Records below `start` are about to be deleted: what they say of producers is kept in a snapshot first, or a batch
    /// that is sent again would be written again after a restart.
    pub(crate) fn keep_before(&self, log: &Log, at: &TopicPartition, start: i64) -> Result<(), BrokerError> {
        if start <= log.offsets(at)?.0 {
            return Ok(());
        }
        self.load(log, at)?;
        if start <= self.kept_at.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.store(log, at)
    }

    /// Writes a snapshot of the producers, if there are any.
    fn store(&self, log: &Log, at: &TopicPartition) -> Result<(), BrokerError> {
        let start = log.offsets(at)?.0;
        let (offset, snapshot) = {
            let guard = lock(&self.producers);
            let Some(producers) = guard.as_ref().filter(|producers| !producers.all().is_empty()) else {
                return Ok(());
            };
            let mut aborted = self.aborted.write().unwrap_or_else(PoisonError::into_inner);
            aborted.retain(|one| one.last >= start);
            // no batch of a producer is written while the guard is held: this is the state at that offset
            let offset = log.offsets(at)?.1;
            (offset, Snapshot::of(offset, producers, &aborted).encode())
        };
        // what a snapshot says must not outlive the records it says it of
        log.flush(at)?;
        log.store_producers(at, &snapshot)?;
        self.kept_at.store(offset, Ordering::Relaxed);
        Ok(())
    }

    /// Compacts the partition if enough of it is dirty.
    pub(crate) fn compact(&self, log: &Log, at: &TopicPartition, now_ms: i64) -> Result<(), BrokerError> {
        self.load(log, at)?;
        // what was aborted below is gone since an earlier round, and its marker goes soon: a client that were told of it and
        // met no marker would leave out all that the producer committed since
        let cleaned = log.cleaned_until(at)?;
        self.aborted.write().unwrap_or_else(PoisonError::into_inner).retain(|one| one.last >= cleaned);
        let stable = self.last_stable(log.offsets(at)?.1);
        let is_aborted = |header: &Header| {
            let found = self.aborted_in(header.base_offset, header.next_offset());
            found.iter().any(|one| one.holds(header))
        };
        log.compact(at, &Transactions { stable, is_aborted: &is_aborted }, now_ms)?;
        Ok(())
    }

    /// Forgets what was read back: it has to be read again.
    pub(crate) fn forget(&self) {
        let mut guard = lock(&self.producers);
        *guard = None;
        self.unstable.store(UNKNOWN, Ordering::Release);
    }
}

impl Aborted {
    /// Whether the batch with this header belongs to the transaction.
    pub(crate) fn holds(&self, header: &Header) -> bool {
        self.producer_id == header.producer_id && (self.first..self.last).contains(&header.base_offset)
    }
}

impl Locked<'_> {
    /// The producers.
    pub(crate) fn producers(&mut self) -> &mut Producers {
        self.guard.get_or_insert_default()
    }

    /// A transactional batch is about to be written at or behind `offset`: no reader of committed records may pass it.
    pub(crate) fn about_to_open(&self, offset: i64) {
        self.state.has_transactions.store(true, Ordering::Release);
        self.state.unstable.fetch_min(offset, Ordering::AcqRel);
    }

    /// The last stable offset follows from the producers again.
    pub(crate) fn settle(&mut self) {
        let first = self.producers().first_open().unwrap_or(ALL);
        self.state.unstable.store(first, Ordering::Release);
    }

    /// Says before its marker is written that the transaction of this producer is aborted.
    pub(crate) fn about_to_abort(&mut self, producer_id: i64) {
        if let Some(first) = self.producers().first_of(producer_id) {
            let entry = Aborted { producer_id, first, last: ALL, stable: ALL };
            self.state.aborted.write().unwrap_or_else(PoisonError::into_inner).push(entry);
        }
    }

    /// The marker of [`Locked::about_to_abort`] was not written.
    pub(crate) fn undo_abort(&mut self) {
        self.state.aborted.write().unwrap_or_else(PoisonError::into_inner).retain(|one| one.last != ALL);
    }

    /// Takes in a marker that stands at its header's offset.
    pub(crate) fn ended(&mut self, marker: &Header) {
        self.producers().end(marker);
        let stable = self.producers().first_open().unwrap_or_else(|| marker.next_offset());
        let mut aborted = self.state.aborted.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = aborted.iter_mut().find(|one| one.last == ALL) {
            (entry.last, entry.stable) = (marker.base_offset, stable);
        }
        drop(aborted);
        self.settle();
    }
}

/// The offset of the partition's snapshot; producers and aborted transactions from it and the batches behind it.
fn replay(log: &Log, at: &TopicPartition) -> Result<(i64, Producers, Vec<Aborted>), BrokerError> {
    let stored = log.load_producers(at)?.and_then(|body| Snapshot::decode(&body));
    let (from, mut producers, mut aborted) = match stored {
        Some(snapshot) if snapshot.offset <= log.offsets(at)?.1 => snapshot.into_state(),
        _ => (0, Producers::default(), Vec::new()),
    };
    for range in log.producer_ranges(at)? {
        let mut next = range.start.max(from);
        while next < range.end {
            let begin = next;
            let Some(batches) = read_on(log, at, &mut next, REPLAY_BYTES)? else { break };
            let mut expected = begin;
            // the first may begin before the log start, which DeleteRecords may have put in its middle
            for batch in batches.iter().filter(|batch| batch.base_offset() >= from) {
                if batch.base_offset() > expected {
                    give_up_open(&mut producers, &mut aborted, batch.base_offset(), at);
                }
                expected = batch.next_offset();
                take_in(&mut producers, &mut aborted, batch, at)?;
            }
            if batches.is_empty() {
                give_up_open(&mut producers, &mut aborted, next, at);
            }
        }
    }
    Ok((from, producers, aborted))
}

/// Offsets below `end` are missing, and a marker may be among them: transactions open there count as aborted, for what was
/// aborted must never be read as committed. (Where compaction left a gap none was open.)
fn give_up_open(producers: &mut Producers, aborted: &mut Vec<Aborted>, end: i64, at: &TopicPartition) {
    let mut open = producers.give_up_open();
    while let Some((first, producer_id)) = open.pop_first() {
        tracing::error!(topic_partition = %at, first, end, producer_id, "the end of a transaction may be lost: it counts as aborted");
        let stable = open.keys().next().copied().unwrap_or(end);
        aborted.push(Aborted { producer_id, first, last: end, stable });
    }
}

fn take_in(
    producers: &mut Producers,
    aborted: &mut Vec<Aborted>,
    batch: &Batch,
    at: &TopicPartition,
) -> Result<(), BrokerError> {
    let header = batch.header();
    if header.producer_id < 0 {
        return Ok(());
    }
    if !header.is_control() {
        producers.record(&header, header.base_offset);
        return Ok(());
    }
    let outcome =
        outcome_of(batch).map_err(|source| BrokerError::Corrupt { topic_partition: at.clone(), source })?;
    let ended = producers.end(&header);
    if let (Some(first), Some(Outcome::Abort)) = (ended, outcome) {
        aborted.push(Aborted {
            producer_id: header.producer_id,
            first,
            last: header.base_offset,
            stable: producers.first_open().unwrap_or_else(|| header.next_offset()),
        });
    }
    Ok(())
}
