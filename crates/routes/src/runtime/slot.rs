//! What a step keeps between batches: open sinks, groups, permits, seen keys, a breaker's window.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::connectors::{Held, SendError, Sink, hold};
use crate::exchange::Exchange;

/// Keys that `idempotentConsumer` remembers.
const SEEN_MAX: usize = 1 << 17;
/// Sinks that one `toD` keeps open.
const SINKS_MAX: usize = 64;

/// The state of one step.
#[derive(Default)]
pub(crate) struct Slot {
    pub sinks: Mutex<HashMap<String, Box<dyn Sink>>>,
    pub groups: Mutex<Groups>,
    pub bucket: Mutex<Bucket>,
    pub seen: Mutex<Seen>,
    pub breaker: Mutex<Breaker>,
}

/// Locks, whatever a panicking thread left.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Exchanges that wait for their group to be complete, by correlation key.
#[derive(Default)]
pub(crate) struct Groups {
    pub open: BTreeMap<String, Group>,
    pub count: usize,
}

/// One group.
pub(crate) struct Group {
    pub exchanges: Vec<Exchange>,
    /// Monotonic time of the last arrival.
    pub last_ns: u64,
}

/// Permits used in the current period.
#[derive(Default)]
pub(crate) struct Bucket {
    pub period_start_ns: u64,
    pub used: u64,
}

/// A bounded set of keys, oldest forgotten first.
#[derive(Default)]
pub(crate) struct Seen {
    keys: HashSet<String>,
    order: VecDeque<String>,
}

impl Seen {
    /// Whether `key` is new; remembers it.
    pub fn insert(&mut self, key: String) -> bool {
        if !self.keys.insert(key.clone()) {
            return false;
        }
        self.order.push_back(key);
        while self.keys.len() > SEEN_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            self.keys.remove(&oldest);
        }
        true
    }

    /// Forgets `keys`.
    pub fn forget(&mut self, keys: &HashSet<String>) {
        if keys.is_empty() {
            return;
        }
        self.keys.retain(|key| !keys.contains(key));
        self.order.retain(|key| !keys.contains(key));
    }
}

/// A circuit breaker's window of outcomes.
#[derive(Default)]
pub(crate) struct Breaker {
    pub outcomes: VecDeque<bool>,
    /// Monotonic time until which it is open; 0 is closed.
    pub open_until_ns: u64,
}

impl Slot {
    /// Flushes the sinks.
    pub fn flush(&self, force: bool) -> Result<(), SendError> {
        lock(&self.sinks).values_mut().try_for_each(|sink| sink.flush(force))
    }

    /// Reports what the slot holds.
    pub fn held(&self, held: &mut Held) {
        lock(&self.sinks).values().for_each(|sink| sink.held(held));
        let groups = lock(&self.groups);
        groups.open.values().flat_map(|group| &group.exchanges).for_each(|exchange| hold(held, exchange));
    }

    /// Forgets everything: what was held is read again.
    pub fn reset(&self) {
        lock(&self.sinks).clear();
        *lock(&self.groups) = Groups::default();
        *lock(&self.seen) = Seen::default();
    }

    /// Runs `send` with the sink for `key`, opened by `open` on first use.
    pub fn with_sink(
        &self,
        key: &str,
        open: impl FnOnce() -> Result<Box<dyn Sink>, SendError>,
        send: impl FnOnce(&mut dyn Sink) -> Result<(), SendError>,
    ) -> Result<(), SendError> {
        let mut sinks = lock(&self.sinks);
        if !sinks.contains_key(key) {
            if sinks.len() >= SINKS_MAX {
                sinks.values_mut().try_for_each(|sink| sink.flush(true))?;
                sinks.clear();
            }
            sinks.insert(key.to_owned(), open()?);
        }
        match sinks.get_mut(key) {
            Some(sink) => send(sink.as_mut()),
            None => Ok(()),
        }
    }
}
