//! The newest batches of each partition, kept in memory within one budget for all, so that a reader that keeps up
//! makes no system call.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use herdsman_record::Batch;

use crate::hold;

/// Batches cloned (a reference count each) under one hold of the tail's lock.
const CLONED_AT_ONCE: usize = 64;

/// Newest batches of one partition, contiguous up to its end.
#[derive(Default)]
struct Batches {
    queue: VecDeque<Batch>,
    bytes: usize,
}

impl Batches {
    fn pop(&mut self) -> usize {
        let freed = self.queue.pop_front().map_or(0, |batch| batch.bytes().len());
        self.bytes -= freed;
        freed
    }
}

/// The tail of one partition.
pub(crate) struct Tail {
    batches: Arc<Mutex<Batches>>,
    budget: Arc<TailBudget>,
}

/// Memory of all tails together while nobody in this process reads: enough for the newest batches of clients at the end
/// of a topic; those further behind read from the page cache.
const UNREAD_BYTES_MAX: usize = 1 << 20;

/// Memory shared by all tails. Whichever batch was appended first, of all partitions, goes first: what nobody reads (a
/// changelog, a topic whose readers are through) never takes memory from what is still on its way to a reader.
pub(crate) struct TailBudget {
    max: usize,
    /// Readers in this process: while there are any, tails may take all of `max`.
    readers: AtomicUsize,
    used: AtomicUsize,
    /// Whose batch each one was, oldest first.
    order: Mutex<VecDeque<Weak<Mutex<Batches>>>>,
}

impl TailBudget {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            readers: AtomicUsize::new(0),
            used: AtomicUsize::new(0),
            order: Mutex::new(VecDeque::new()),
        })
    }

    /// What tails may hold now.
    fn limit(&self) -> usize {
        if self.readers.load(Ordering::Relaxed) > 0 { self.max } else { self.max.min(UNREAD_BYTES_MAX) }
    }

    /// Bytes held now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes in that `tail` got a batch of `len` bytes, and lets go of the oldest while the budget is exceeded.
    fn admit(&self, tail: &Arc<Mutex<Batches>>, len: usize) {
        self.used.fetch_add(len, Ordering::Relaxed);
        let mut order = hold(&self.order);
        order.push_back(Arc::downgrade(tail));
        let limit = self.limit();
        while self.used() > limit
            && let Some(oldest) = order.pop_front()
        {
            if let Some(oldest) = oldest.upgrade() {
                let freed = hold(&oldest).pop();
                self.used.fetch_sub(freed, Ordering::Relaxed);
            }
        }
    }
}

/// A reader in this process; tails are kept for it while it lives.
pub struct TailReader(Arc<TailBudget>);

impl TailReader {
    pub(crate) fn new(budget: &Arc<TailBudget>) -> Self {
        budget.readers.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(budget))
    }
}

impl Drop for TailReader {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Tail {
    pub(crate) fn new(budget: &Arc<TailBudget>) -> Self {
        Self { batches: Arc::default(), budget: Arc::clone(budget) }
    }

    /// Adds the newest batch.
    pub(crate) fn push(&self, batch: Batch) {
        let len = batch.bytes().len();
        let mut batches = hold(&self.batches);
        batches.queue.push_back(batch);
        batches.bytes += len;
        drop(batches);
        self.budget.admit(&self.batches, len);
    }

    /// Batches from the one that holds `offset` on, at least one, about `max_bytes`, none at or above
    /// `high_watermark`. `None` if the tail begins behind `offset`.
    pub(crate) fn read(&self, mut offset: i64, max_bytes: usize, high_watermark: i64) -> Option<Vec<Batch>> {
        let mut out: Vec<Batch> = Vec::new();
        let mut bytes = 0;
        loop {
            let batches = hold(&self.batches);
            if batches.queue.front().is_none_or(|first| first.base_offset() > offset) {
                return if out.is_empty() { None } else { Some(out) };
            }
            let from = batches.queue.partition_point(|batch| batch.next_offset() <= offset);
            let mut taken = 0;
            for batch in batches.queue.iter().skip(from).take(CLONED_AT_ONCE) {
                let len = batch.bytes().len();
                if batch.base_offset() >= high_watermark || (!out.is_empty() && bytes + len > max_bytes) {
                    return Some(out);
                }
                bytes += len;
                offset = batch.next_offset();
                out.push(batch.clone());
                taken += 1;
            }
            if taken < CLONED_AT_ONCE {
                return Some(out);
            }
        }
    }

    /// Lets go of the batches below `offset`.
    pub(crate) fn forget_below(&self, offset: i64) {
        let mut order = hold(&self.budget.order);
        let (mut gone, mut freed) = (0, 0);
        let mut batches = hold(&self.batches);
        while batches.queue.front().is_some_and(|first| first.base_offset() < offset) {
            freed += batches.pop();
            gone += 1;
        }
        drop(batches);
        self.budget.used.fetch_sub(freed, Ordering::Relaxed);
        let own = Arc::as_ptr(&self.batches);
        order.retain(|one| {
            let goes = gone > 0 && std::ptr::eq(one.as_ptr(), own);
            gone -= usize::from(goes);
            !goes
        });
    }

    /// Lets go of everything.
    pub(crate) fn clear(&self) {
        let mut batches = hold(&self.batches);
        batches.queue.clear();
        self.budget.used.fetch_sub(std::mem::take(&mut batches.bytes), Ordering::Relaxed);
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use herdsman_record::{BatchBuilder, Compression};

    fn batch(base: i64) -> Batch {
        let mut builder = BatchBuilder::new();
        builder.append(0, None, Some(&[7; 39]), &[]);
        builder.finish(Compression::None).unwrap().with_base_offset(base, 0)
    }

    #[test]
    fn tails_share_one_budget_and_the_oldest_batch_of_all_goes_first() {
        let len = batch(0).bytes().len();
        let budget = TailBudget::new(len * 100);
        let (idle, busy) = (Tail::new(&budget), Tail::new(&budget));
        for base in 0..100 {
            idle.push(batch(base));
        }
        for base in 0..90 {
            busy.push(batch(base));
            assert_eq!(budget.used(), len * 100);
        }
        assert!(idle.read(89, 1, 100).is_none(), "its oldest went");
        assert_eq!(idle.read(90, usize::MAX, 100).unwrap().len(), 10);
        assert_eq!(busy.read(0, usize::MAX, 90).unwrap().len(), 90, "all of the newer");
        drop(idle);
        busy.clear();
        assert_eq!(budget.used(), 0);
        for base in 0..100 {
            busy.push(batch(base));
        }
        assert_eq!(budget.used(), len * 100);
    }

    #[test]
    fn what_is_let_go_gives_its_room_to_others() {
        let len = batch(0).bytes().len();
        let budget = TailBudget::new(len * 10);
        let (compacted, other) = (Tail::new(&budget), Tail::new(&budget));
        (0..5).for_each(|base| compacted.push(batch(base)));
        compacted.forget_below(4);
        assert!(compacted.read(3, 1, 5).is_none());
        assert_eq!(budget.used(), len);
        (0..9).for_each(|base| other.push(batch(base)));
        assert_eq!((compacted.read(4, 1, 5).unwrap().len(), budget.used()), (1, len * 10));
        other.push(batch(9));
        assert!(compacted.read(4, 1, 5).is_none(), "it was the oldest");
        assert_eq!(other.read(0, usize::MAX, 10).unwrap().len(), 10);
    }

    #[test]
    fn tails_are_short_unless_somebody_in_this_process_reads() {
        let len = batch(0).bytes().len();
        let budget = TailBudget::new(4 * UNREAD_BYTES_MAX);
        let tail = Tail::new(&budget);
        let fill = || (0..3 * UNREAD_BYTES_MAX / len).for_each(|base| tail.push(batch(base as i64)));
        fill();
        assert!((UNREAD_BYTES_MAX - len..=UNREAD_BYTES_MAX).contains(&budget.used()), "{}", budget.used());
        tail.clear();
        let reader = TailReader::new(&budget);
        fill();
        assert_eq!(budget.used(), 3 * UNREAD_BYTES_MAX / len * len);
        drop(reader);
        tail.push(batch(1 << 40));
        assert!(budget.used() <= UNREAD_BYTES_MAX, "the next append lets go: {}", budget.used());
    }

    #[test]
    fn reads_stop_at_the_size_and_at_the_high_watermark() {
        let tail = Tail::new(&TailBudget::new(1 << 20));
        for base in 0..300 {
            tail.push(batch(base));
        }
        let len = batch(0).bytes().len();
        assert_eq!(tail.read(10, len * 200, 300).unwrap().len(), 200);
        assert_eq!(tail.read(10, usize::MAX, 250).unwrap().len(), 240);
        assert_eq!(tail.read(10, 1, 300).unwrap().len(), 1, "always one");
        assert_eq!(tail.read(300, 1, 300).unwrap().len(), 0);
    }
}
