//! Misses on their way to the system of record: bounded queries, one per batch of misses, a rate limit while the cache is down.

use std::collections::HashMap;

use bytes::Bytes;

use super::leases::released;
use super::{Core, Effect, Fault, Fill, Found, LeasedFill, LoadId, Loaded, Stage, ns};
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
    /// Flights, and when they were asked for.
    under_way: HashMap<LoadId, (Vec<Id>, u64)>,
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
        let waits = self.nodes.any_down()
            && loads.queue.len() > 0
            && loads.under_way.len() < self.config.loaders.max(1);
        // At least a millisecond's worth, so that a wake-up moves something.
        waits.then(|| loads.filled_ns + (1_000_000_000 / u64::from(loads.per_s)).max(1_000_000))
    }

    pub(super) fn pump_loads(&mut self, now_ns: u64) {
        while self.loads.under_way.len() < self.config.loaders.max(1) && self.loads.queue.len() > 0 {
            let limited = self.nodes.any_down();
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
            self.loads.under_way.insert(load, (flights, now_ns));
            self.effects.push(Effect::Load { load, keys });
        }
    }

    pub(super) fn on_loaded(
        &mut self,
        load: LoadId,
        result: Result<Vec<Option<Bytes>>, LoadError>,
        now_ns: u64,
    ) {
        let Some((flights, asked_ns)) = self.loads.under_way.remove(&load) else { return };
        let result = result.and_then(|values| {
            if values.len() == flights.len() {
                return Ok(values);
            }
            Err(LoadError(format!("it answered {} of {} keys", values.len(), flights.len())))
        });
        match result {
            Ok(values) => self.take_loaded(&flights, values, asked_ns, now_ns),
            Err(error) => self.load_failed(flights, &error, now_ns),
        }
    }

    fn load_failed(&mut self, flights: Vec<Id>, error: &LoadError, now_ns: u64) {
        Counters::add(&self.counters.errors, 1);
        let mut back = Vec::new();
        for id in flights {
            self.count_waiters(id);
            if let Some(flight) = self.flights.get(id)
                && let Some(token) = flight.lease
            {
                back.push((released(flight, token), None));
            }
            self.land(id, &Err(GuardError::Load(error.clone())), now_ns);
        }
        self.fill_leased(back, now_ns);
    }

    fn take_loaded(&mut self, flights: &[Id], values: Vec<Option<Bytes>>, asked_ns: u64, now_ns: u64) {
        let leased = self.leases.in_use(now_ns);
        let (mut plain, mut under_lease, mut absent, mut back) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (id, value) in flights.iter().zip(values) {
            self.count_waiters(*id);
            let Some(flight) = self.flights.get(*id) else { continue };
            let node = self.nodes.get(self.nodes.of(&flight.key));
            let can_fill = node.is_some_and(|node| node.links.writer().is_some());
            let kept = can_fill && !flight.tainted && !self.deletes.is_deleting(&flight.key);
            let lease = flight.lease.filter(|_| kept);
            match (value, lease) {
                (Some(value), Some(_)) if self.planted.is(Fault::StaleFillAfterDelete) => {
                    plain.extend(self.plain_fill(*id, value, asked_ns, now_ns).map(|fill| (fill, *id)));
                }
                (Some(value), Some(token)) => {
                    let fill = self.leased_fill(*id, value, token, asked_ns, now_ns);
                    under_lease.extend(fill.map(|fill| (fill, Some(*id))));
                }
                (Some(value), None) if kept && !leased => {
                    plain.extend(self.plain_fill(*id, value, asked_ns, now_ns).map(|fill| (fill, *id)));
                }
                (value, lease) => {
                    if let (None, Some(token)) = (&value, lease) {
                        let ttl_ms = (ns(self.negative_ttl()) / 1_000_000).max(1);
                        let found = Found::Absent { ttl_ms };
                        absent.push((LeasedFill { found, ..released(flight, token) }, None));
                    }
                    if let (None, Some(token)) = (lease, flight.lease) {
                        back.push((released(flight, token), None));
                    }
                    self.land(*id, &Ok(value), now_ns);
                }
            }
        }
        self.fill_leased(back, now_ns);
        if !plain.is_empty() {
            self.fill(plain, now_ns);
        }
        self.fill_leased(under_lease, now_ns);
        self.fill_leased(absent, now_ns);
    }

    fn leased_fill(
        &mut self,
        id: Id,
        value: Bytes,
        token: u64,
        asked_ns: u64,
        now_ns: u64,
    ) -> Option<LeasedFill> {
        let ttl_ms = self.start_filling(id, &value, asked_ns, now_ns);
        let flight = self.flights.get(id)?;
        Some(LeasedFill { found: Found::Value { value, ttl_ms }, ..released(flight, token) })
    }

    fn plain_fill(&mut self, id: Id, value: Bytes, asked_ns: u64, now_ns: u64) -> Option<Fill> {
        let ttl_ms = self.start_filling(id, &value, asked_ns, now_ns);
        let key = self.flights.get(id).map(|flight| flight.key.clone())?;
        Some(Fill { key, value, ttl_ms })
    }

    /// Answers all who wait; the flight stays until the cache has the value, so nobody loads it twice. Returns the value's
    /// time to live, milliseconds.
    fn start_filling(&mut self, id: Id, value: &Bytes, asked_ns: u64, now_ns: u64) -> u64 {
        let ttl_ms = (self.spread(ns(self.config.ttl)) / 1_000_000).max(1);
        let expires_ns = now_ns.saturating_add(ttl_ms.saturating_mul(1_000_000));
        let load_ns = now_ns.saturating_sub(asked_ns);
        let Some(flight) = self.flights.get_mut(id) else { return ttl_ms };
        flight.stage = Stage::Filling(value.clone());
        let (key, first, more) = (flight.key.clone(), flight.first.take(), std::mem::take(&mut flight.more));
        self.keep_loaded(&key, Loaded { value: value.clone(), expires_ns, load_ns }, now_ns);
        self.answer_waiters(first, &more, &Ok(Some(value.clone())));
        ttl_ms
    }

    fn count_waiters(&self, id: Id) {
        let Some(flight) = self.flights.get(id) else { return };
        let waited = flight.first.iter().chain(&flight.more).map(|waiter| u64::from(waiter.count)).sum();
        Counters::add(&self.counters.loads_without_guard, waited);
    }
}
