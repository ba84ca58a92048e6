//! Misses on their way to the system of record: bounded queries, one per batch of misses, a rate limit while the cache is down.

use std::collections::HashMap;

use bytes::Bytes;

use super::{Core, Effect, Fill, LoadId, Stage, ns};
use crate::config::Lane;
use crate::error::{GuardError, LoadError};
use crate::lanes::{Lanes, Waiting};
use crate::slab::Id;
use crate::stats::Counters;

/// One query asks for at most this many keys.
const LOAD_MAX: usize = 4_096;

/// Queue, queries under way, and the bucket of tokens that a dead cache makes necessary.
#[derive(Debug)]
pub(super) struct Loads {
    queue: Lanes,
    under_way: HashMap<LoadId, Vec<Id>>,
    next: LoadId,
    per_s: u32,
    tokens: f64,
    filled_ns: u64,
}

impl Loads {
    pub(super) fn new(per_s: u32) -> Self {
        let per_s = per_s.max(1);
        Self { queue: Lanes::default(), under_way: HashMap::new(), next: 0, per_s, tokens: 0.0, filled_ns: 0 }
    }

    pub(super) fn push(&mut self, lane: Lane, waiting: Waiting) {
        self.queue.push(lane, waiting);
    }

    pub(super) fn pop_older(&mut self, lane: Lane, before_ns: u64) -> Option<Waiting> {
        self.queue.pop_older(lane, before_ns)
    }

    /// Tokens gathered since the last call; a tenth of a second's worth at most.
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded by the bucket")]
    fn allowed(&mut self, now_ns: u64) -> usize {
        let rate = f64::from(self.per_s);
        let gained = now_ns.saturating_sub(self.filled_ns) as f64 / 1e9 * rate;
        self.filled_ns = now_ns;
        self.tokens = (self.tokens + gained).min((rate / 10.0).max(1.0));
        self.tokens as usize
    }
}

impl Core {
    /// When the rate limit lets the next load pass.
    pub(super) fn tokens_at_ns(&self) -> Option<u64> {
        let loads = &self.loads;
        let waits = self.links.breaker_is_open()
            && loads.queue.len() > 0
            && loads.under_way.len() < self.config.loaders.max(1);
        // At least a millisecond's worth, so that a wake-up moves something.
        waits.then(|| loads.filled_ns + (1_000_000_000 / u64::from(loads.per_s)).max(1_000_000))
    }

    pub(super) fn pump_loads(&mut self, now_ns: u64) {
        while self.loads.under_way.len() < self.config.loaders.max(1) && self.loads.queue.len() > 0 {
            let limited = self.links.breaker_is_open();
            let room = if limited { self.loads.allowed(now_ns).min(LOAD_MAX) } else { LOAD_MAX };
            if room == 0 {
                return;
            }
            let mut taken = std::mem::take(&mut self.scratch);
            self.loads.queue.take(room, &mut taken);
            let (mut keys, mut flights): (Vec<Bytes>, Vec<Id>) = (Vec::new(), Vec::new());
            for Waiting { flight: id, .. } in taken.drain(..) {
                let Some(flight) = self.flights.get_mut(id) else { continue };
                if !matches!(flight.stage, Stage::Queued) || !flight.to_record {
                    continue;
                }
                flight.stage = Stage::Asked;
                keys.push(flight.key.clone());
                flights.push(id);
            }
            self.scratch = taken;
            if keys.is_empty() {
                continue;
            }
            if limited {
                self.loads.tokens -= f64::from(u32::try_from(keys.len()).unwrap_or(u32::MAX));
            }
            let load = self.loads.next;
            self.loads.next += 1;
            Counters::add(&self.counters.loads, keys.len() as u64);
            Counters::add(&self.counters.load_queries, 1);
            self.loads.under_way.insert(load, flights);
            self.effects.push(Effect::Load { load, keys });
        }
    }

    pub(super) fn on_loaded(
        &mut self,
        load: LoadId,
        result: Result<Vec<Option<Bytes>>, LoadError>,
        now_ns: u64,
    ) {
        let Some(flights) = self.loads.under_way.remove(&load) else { return };
        let result = result.and_then(|values| {
            if values.len() == flights.len() {
                return Ok(values);
            }
            Err(LoadError(format!("it answered {} of {} keys", values.len(), flights.len())))
        });
        match result {
            Ok(values) => self.take_loaded(&flights, values, now_ns),
            Err(error) => {
                Counters::add(&self.counters.errors, 1);
                for id in flights {
                    self.count_waiters(id);
                    self.land(id, &Err(GuardError::Load(error.clone())), now_ns);
                }
            }
        }
    }

    fn take_loaded(&mut self, flights: &[Id], values: Vec<Option<Bytes>>, now_ns: u64) {
        let can_fill = self.links.writer().is_some();
        let (mut fills, mut filling) = (Vec::new(), Vec::new());
        for (id, value) in flights.iter().zip(values) {
            self.count_waiters(*id);
            let ttl_ms = (self.spread(ns(self.config.ttl)) / 1_000_000).max(1);
            let Some(flight) = self.flights.get_mut(*id) else { continue };
            let fill = can_fill && !flight.tainted && !self.links.is_deleting(&flight.key);
            let (Some(value), true) = (&value, fill) else {
                self.land(*id, &Ok(value), now_ns);
                continue;
            };
            // Known to all who wait; the flight stays until the cache has it, so nobody loads it twice.
            flight.stage = Stage::Filling(value.clone());
            let (key, first, more) =
                (flight.key.clone(), flight.first.take(), std::mem::take(&mut flight.more));
            self.keep(&key, Some(value.clone()), now_ns);
            self.answer_waiters(first, &more, &Ok(Some(value.clone())));
            fills.push(Fill { key, value: value.clone(), ttl_ms });
            filling.push(*id);
        }
        if !fills.is_empty() {
            self.fill(fills, filling, now_ns);
        }
    }

    fn count_waiters(&self, id: Id) {
        let Some(flight) = self.flights.get(id) else { return };
        let waited = flight.first.iter().chain(&flight.more).map(|waiter| u64::from(waiter.count)).sum();
        Counters::add(&self.counters.loads_without_guard, waited);
    }
}
