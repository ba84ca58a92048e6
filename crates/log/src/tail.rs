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

/// Memory shared by all tails.
pub(crate) struct TailBudget {
    max: usize,
    used: AtomicUsize,
    all: Mutex<Registry>,
    count: AtomicUsize,
}

#[derive(Default)]
struct Registry {
    tails: Vec<Weak<Mutex<Batches>>>,
    next: usize,
}

impl TailBudget {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        let (used, count) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { max, used, all: Mutex::new(Registry::default()), count })
    }

    /// Bytes held now.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn over(&self) -> bool {
        self.used() > self.max
    }

    /// Takes from other tails, in turn, until the budget holds again.
    fn reclaim(&self) {
        let mut registry = hold(&self.all);
        for _ in 0..registry.tails.len() {
            if !self.over() {
                return;
            }
            registry.next = (registry.next + 1) % registry.tails.len().max(1);
            let next = registry.next;
            let Some(tail) = registry.tails.get(next).and_then(Weak::upgrade) else { continue };
            if let Ok(mut batches) = tail.try_lock() {
                let floor = batches.bytes / 2;
                while self.over() && batches.bytes > floor {
                    let freed = batches.pop();
                    self.used.fetch_sub(freed, Ordering::Relaxed);
                }
            }
        }
    }
}

impl Tail {
    pub(crate) fn new(budget: &Arc<TailBudget>) -> Self {
        let batches = Arc::new(Mutex::new(Batches::default()));
        let mut registry = hold(&budget.all);
        registry.tails.retain(|tail| tail.strong_count() > 0);
        registry.tails.push(Arc::downgrade(&batches));
        budget.count.store(registry.tails.len(), Ordering::Relaxed);
        drop(registry);
        Self { batches, budget: Arc::clone(budget) }
    }

    /// Adds the newest batch; lets go of the oldest of this tail, then of others, while the budget is exceeded.
    pub(crate) fn push(&self, batch: Batch) {
        let len = batch.bytes().len();
        let mut batches = hold(&self.batches);
        batches.queue.push_back(batch);
        batches.bytes += len;
        self.budget.used.fetch_add(len, Ordering::Relaxed);
        let fair = self.budget.max / self.budget.count.load(Ordering::Relaxed).max(1);
        while self.budget.over() && batches.bytes > fair {
            let freed = batches.pop();
            self.budget.used.fetch_sub(freed, Ordering::Relaxed);
        }
        drop(batches);
        if self.budget.over() {
            self.budget.reclaim();
        }
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
    fn tails_share_one_budget_and_a_busy_one_takes_from_the_idle() {
        let len = batch(0).bytes().len();
        let budget = TailBudget::new(len * 100);
        let (idle, busy) = (Tail::new(&budget), Tail::new(&budget));
        for base in 0..100 {
            idle.push(batch(base));
        }
        for base in 0..90 {
            busy.push(batch(base));
            assert!(budget.used() <= len * 100);
        }
        assert!(idle.read(0, 1, 100).is_none(), "its oldest went");
        assert_eq!(idle.read(99, 1, 100).unwrap().len(), 1);
        assert_eq!(busy.read(89, 1, 90).unwrap()[0].base_offset(), 89);
        drop(idle);
        busy.clear();
        assert_eq!(budget.used(), 0);
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
