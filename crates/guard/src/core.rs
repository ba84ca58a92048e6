//! The guard's decisions without its sockets: events in, effects out, time as a number.
//!
//! A key that nobody is asking for becomes a **flight**; whoever asks for it meanwhile waits on the same flight. A
//! flight is in exactly one place: a lane, a batch under way, the claims, the load queue, a load under way, or (its value known)
//! waiting until the cache has taken the value. The thread around this (`driver`) performs the effects; the tests run it under a
//! simulated clock and cache.

mod batches;
#[cfg(test)]
mod chaos;
mod deletes;
mod explain;
mod hedge;
mod leases;
mod links;
mod loads;
mod messages;
#[cfg(any(test, feature = "trial"))]
pub(crate) mod model;
mod nodes;
mod planted;
mod redirect;
#[cfg(test)]
mod scripted;
#[cfg(any(test, feature = "trial"))]
#[cfg_attr(not(test), allow(dead_code, reason = "the tests look at more than the trials"))]
pub(crate) mod sim;
#[cfg(test)]
mod stampede;
mod window;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rapidhash::fast::RandomState;

pub(crate) use self::messages::{
    Abilities, Answer, Claim, Claimed, Command, Effect, Elsewhere, Event, Fill, Found, LeasedFill, LinkId,
    LoadId, Measured, Reply, Values, Want,
};
pub use self::planted::Fault;
use crate::config::{GuardConfig, Lane, Objective};
use crate::error::GuardError;
use crate::histogram::Histogram;
use crate::lanes::Waiting;
use crate::near::{Keep, NearCache};
use crate::slab::{Id, Slab};
use crate::stats::Counters;
use crate::tuner::{Measurement, Settings, Tuner};
use crate::url::CacheUrl;

/// One interval of measurement and housekeeping.
pub(crate) const TICK_NS: u64 = 50_000_000;

#[derive(Debug, Clone, Copy)]
struct Waiter {
    request: Id,
    slot: u32,
    count: u32,
}

#[derive(Debug)]
enum Stage {
    /// In a lane, for the cache or for the system of record.
    Queued,
    /// In a batch or a load under way.
    Asked,
    /// The cache does not have it: its lease is asked for.
    Claiming,
    /// Another process has the lease: it is asked for again then, or when the key is changed.
    Held(u64),
    /// The value is known and on its way into the cache.
    Filling(Bytes),
}

/// A value from the system of record.
#[derive(Debug, Clone)]
struct Loaded {
    value: Bytes,
    /// When the cache will have forgotten it.
    expires_ns: u64,
    /// How long the load took.
    load_ns: u64,
}

#[derive(Debug)]
struct Flight {
    key: Bytes,
    lane: Lane,
    stage: Stage,
    first: Option<Waiter>,
    more: Vec<Waiter>,
    since_ns: u64,
    attempts: u8,
    to_record: bool,
    /// The lease it holds in the cache.
    lease: Option<u64>,
    /// Loaded ahead of its expiry: the value it replaces.
    renews: Option<Bytes>,
    /// Invalidated since it started: answer those who wait, keep nothing.
    tainted: bool,
}

#[derive(Debug)]
struct Request {
    answers: Vec<Option<Bytes>>,
    left: usize,
    error: Option<GuardError>,
    reply: Reply,
    lane: Lane,
    at_ns: u64,
}

impl Flight {
    /// The cache is asked for it.
    fn is_asked(&self) -> bool {
        matches!(self.stage, Stage::Asked) && !self.to_record
    }
}

/// What one interval collects for the tuner.
#[derive(Debug, Default)]
struct Interval {
    since_ns: u64,
    m: Measurement,
    latency: Histogram,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Core {
    config: GuardConfig,
    has_record: bool,
    near: Arc<NearCache>,
    counters: Arc<Counters>,
    flights: Slab<Flight>,
    by_key: HashMap<Bytes, Id, RandomState>,
    requests: Slab<Request>,
    nodes: nodes::Nodes,
    deletes: deletes::Deletes,
    loads: loads::Loads,
    leases: leases::Leases,
    hedges: hedge::Hedges,
    tuner: Tuner,
    history: explain::History,
    interval: Interval,
    idle: bool,
    next_tick_ns: u64,
    recent: [Histogram; 2],
    recent_since_ns: u64,
    total: Histogram,
    keeps: Vec<Keep>,
    /// Keys that the cache says were changed.
    changed: Vec<Bytes>,
    outbox: Vec<(Reply, Values)>,
    random: u64,
    scratch: Vec<Waiting>,
    /// When the present group of events is handled.
    now_ns: u64,
    effects: Vec<Effect>,
    planted: planted::Planted,
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Core {
    pub(crate) fn new(config: GuardConfig, near: Arc<NearCache>, counters: Arc<Counters>, seed: u64) -> Self {
        let tuner = Tuner::new(config.objective);
        Self {
            has_record: true,
            near,
            counters,
            flights: Slab::new(),
            by_key: HashMap::default(),
            requests: Slab::new(),
            nodes: nodes::Nodes::new(&config.cache),
            deletes: deletes::Deletes::default(),
            loads: loads::Loads::new(config.degraded_loads_per_s),
            leases: leases::Leases::new(config.lease),
            hedges: hedge::Hedges::new(config.hedge),
            history: explain::History::new(tuner.settings()),
            tuner,
            interval: Interval::default(),
            idle: true,
            next_tick_ns: 0,
            recent: Default::default(),
            recent_since_ns: 0,
            total: Histogram::default(),
            keeps: Vec::new(),
            changed: Vec::new(),
            outbox: Vec::new(),
            random: seed | 1,
            scratch: Vec::new(),
            now_ns: 0,
            effects: Vec::new(),
            planted: planted::Planted::default(),
            config,
        }
    }

    /// The embedded cache has been started there.
    pub(crate) fn at(self, url: &CacheUrl) -> Self {
        Self { nodes: nodes::Nodes::new(url), ..self }
    }

    /// No system of record: a miss is the answer, and a dead cache an error.
    pub(crate) fn without_record(self) -> Self {
        Self { has_record: false, ..self }
    }

    /// Never moves its settings: for measurements.
    pub(crate) fn with_fixed(self, settings: Settings) -> Self {
        Self { tuner: Tuner::fixed(settings), history: explain::History::new(settings), ..self }
    }

    /// Takes one event. Call [`Core::settle`] after the last of a group.
    pub(crate) fn on_event(&mut self, event: Event, now_ns: u64) {
        self.now_ns = now_ns;
        match event {
            Event::Lookup { keys, counts, lane, at_ns, reply } => {
                self.on_lookup(keys, &counts, lane, at_ns, reply, now_ns);
            }
            Event::Refresh { keys } => {
                for key in keys {
                    if !self.by_key.contains_key(&key) {
                        self.start(key, Lane::Normal, None, now_ns);
                    }
                }
            }
            Event::Renew { entries } => self.on_renew(entries, now_ns),
            Event::Invalidate { keys } => self.on_invalidate(keys),
            Event::Fix(settings) => self.tuner = Tuner::fixed(settings),
            Event::Up { link, abilities } => self.on_up(link, abilities),
            Event::Refused { link, error } => self.on_refused(link, &error, now_ns),
            Event::Down { link, error } => self.on_down(link, &error, now_ns),
            Event::Discovered { result } => self.on_discovered(result, now_ns),
            Event::Answers { link, answers } => {
                for answer in answers {
                    self.on_answer(link, answer, now_ns);
                }
            }
            Event::Loaded { load, result } => self.on_loaded(load, result, now_ns),
        }
    }

    /// Acts on what the events changed: housekeeping, batches, loads, answers. Appends what is to be done outside.
    pub(crate) fn settle(&mut self, now_ns: u64, effects: &mut Vec<Effect>) {
        self.now_ns = now_ns;
        if self.idle && !self.is_quiet() {
            self.idle = false;
            self.interval.since_ns = now_ns;
            self.next_tick_ns = now_ns + TICK_NS;
        }
        if !self.idle && now_ns >= self.next_tick_ns {
            self.tick(now_ns);
        }
        self.discover(now_ns);
        self.manage_links(now_ns);
        self.pump(now_ns);
        self.pump_hedges(now_ns);
        self.pump_claims(now_ns);
        self.pump_loads(now_ns);
        self.flush();
        effects.append(&mut self.effects);
    }

    /// When `settle` must run again though nothing happens.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        let tick = (!self.idle).then_some(self.next_tick_ns);
        let (claims, nodes) = (self.leases.next_poll_ns(), self.nodes.next_discovery_ns());
        let hedge = self.next_hedge_ns();
        [tick, self.linger_ends_ns(), self.next_open_ns(), self.tokens_at_ns(), claims, nodes, hedge]
            .into_iter()
            .flatten()
            .min()
    }

    fn is_quiet(&self) -> bool {
        self.requests.len() == 0
            && self.flights.len() == 0
            && self.deletes.is_quiet()
            && self.nodes.is_quiet()
    }

    fn on_lookup(
        &mut self,
        keys: Vec<Bytes>,
        counts: &[u32],
        lane: Lane,
        at_ns: u64,
        reply: Reply,
        now_ns: u64,
    ) {
        let left = keys.len();
        let answers = vec![None; left];
        let request = self.requests.insert(Request { answers, left, error: None, reply, lane, at_ns });
        for (slot, key) in keys.into_iter().enumerate() {
            let count = counts.get(slot).copied().unwrap_or(1);
            let waiter = Waiter { request, slot: u32::try_from(slot).unwrap_or(u32::MAX), count };
            let joined = match self.by_key.entry(key) {
                Entry::Occupied(found) => Ok(*found.get()),
                Entry::Vacant(vacant) => Err(vacant.into_key()),
            };
            match joined {
                Ok(flight) if self.may_join(flight) => self.join(flight, waiter, lane),
                Ok(flight) => {
                    let Some(key) = self.flights.get(flight).map(|flight| flight.key.clone()) else {
                        continue;
                    };
                    self.start(key, lane, Some(waiter), now_ns);
                }
                Err(key) => self.start(key, lane, Some(waiter), now_ns),
            }
        }
    }

    /// Without a system of record the guard stands in for the cache itself: an answer must have been read after it was
    /// asked for, so only a flight that has not left yet can be shared.
    fn may_join(&self, id: Id) -> bool {
        if self.planted.is(Fault::TwoFlightsForOneKey) {
            return false;
        }
        self.has_record || self.flights.get(id).is_none_or(|flight| matches!(flight.stage, Stage::Queued))
    }

    fn join(&mut self, id: Id, waiter: Waiter, lane: Lane) {
        let Some(flight) = self.flights.get_mut(id) else { return };
        if let Stage::Filling(value) = &flight.stage {
            let value = value.clone();
            Counters::add(&self.counters.loads_without_guard, waiter.count.into());
            self.deliver(waiter, &Ok(Some(value)));
            return;
        }
        if flight.first.is_none() {
            flight.first = Some(waiter)
        } else {
            flight.more.push(waiter)
        }
        if lane < flight.lane {
            // Somebody more urgent waits for it now: it moves up; its old place in the queue is skipped when popped.
            flight.lane = lane;
            if matches!(flight.stage, Stage::Queued) {
                let waiting = Waiting { flight: id, since_ns: flight.since_ns };
                if flight.to_record {
                    self.loads.push(lane, waiting)
                } else {
                    self.nodes.push(&flight.key, lane, waiting)
                }
            }
        }
    }

    fn start(&mut self, key: Bytes, lane: Lane, first: Option<Waiter>, now_ns: u64) {
        let node = self.nodes.of(&key);
        let to_record = self.has_record && (self.nodes.is_down(node) || self.deletes.is_deleting(&key));
        let flight = Flight {
            key: key.clone(),
            lane,
            stage: Stage::Queued,
            first,
            more: Vec::new(),
            since_ns: now_ns,
            attempts: 0,
            to_record,
            lease: None,
            renews: None,
            tainted: false,
        };
        let id = self.flights.insert(flight);
        self.by_key.insert(key, id);
        self.interval.m.arrivals += 1;
        let waiting = Waiting { flight: id, since_ns: now_ns };
        if to_record {
            self.loads.push(lane, waiting);
        } else if let Some(node) = self.nodes.get_mut(node) {
            node.lanes.push(lane, waiting);
        }
    }

    fn on_invalidate(&mut self, keys: Vec<Bytes>) {
        // What was learnt before goes in (and is refused: the keys are blocked), then the block ends.
        self.near.insert_many(self.keeps.drain(..), self.now_ns);
        for key in &keys {
            if let Some(id) = self.by_key.remove(key)
                && let Some(flight) = self.flights.get_mut(id)
            {
                flight.tainted = true;
            }
        }
        self.near.release(&keys);
        self.delete(keys);
    }

    /// Ends a flight: answers whoever waits; keeps the value near unless it was invalidated meanwhile.
    fn land(&mut self, id: Id, result: &Result<Option<Bytes>, GuardError>, now_ns: u64) {
        let Some(flight) = self.flights.remove(id) else { return };
        if self.by_key.get(&flight.key) == Some(&id) {
            self.by_key.remove(&flight.key);
        }
        if let (Ok(value), false) = (result, flight.tainted) {
            self.keep(&flight.key, value.clone(), now_ns);
        }
        self.answer_waiters(flight.first, &flight.more, result);
    }

    fn answer_waiters(
        &mut self,
        first: Option<Waiter>,
        more: &[Waiter],
        result: &Result<Option<Bytes>, GuardError>,
    ) {
        for waiter in first.iter().chain(more) {
            self.deliver(*waiter, result);
        }
    }

    fn keep(&mut self, key: &Bytes, value: Option<Bytes>, now_ns: u64) {
        let ttl = if value.is_some() { self.config.near_ttl } else { self.negative_ttl() };
        let fresh_until_ns = now_ns.saturating_add(self.spread(ns(ttl)));
        let stale_until_ns = fresh_until_ns.saturating_add(ns(self.config.stale_while_revalidate));
        let keep =
            Keep { key: key.clone(), value, fresh_until_ns, stale_until_ns, expires_ns: 0, load_ns: 0 };
        self.keeps.push(keep);
    }

    fn negative_ttl(&self) -> Duration {
        if self.planted.is(Fault::NegativeCacheNeverExpires) {
            return Duration::from_secs(1_000_000);
        }
        self.config.negative_ttl
    }

    /// Keeps what this process loaded itself: it knows when the cache forgets it, and never outlives that.
    fn keep_loaded(&mut self, key: &Bytes, loaded: Loaded, now_ns: u64) {
        let Loaded { value, expires_ns, load_ns } = loaded;
        let near_ns = now_ns.saturating_add(self.spread(ns(self.config.near_ttl)));
        let fresh_until_ns = near_ns.min(expires_ns);
        let stale_until_ns = fresh_until_ns.saturating_add(ns(self.config.stale_while_revalidate));
        let value = Some(value);
        self.keeps.push(Keep {
            key: key.clone(),
            value,
            fresh_until_ns,
            stale_until_ns,
            expires_ns,
            load_ns,
        });
    }

    /// ± 10 %, so that what came together does not go together.
    fn spread(&mut self, length: u64) -> u64 {
        let permille = 900 + self.draw() % 201;
        u64::try_from(u128::from(length) * u128::from(permille) / 1_000).unwrap_or(u64::MAX)
    }

    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn deliver(&mut self, waiter: Waiter, result: &Result<Option<Bytes>, GuardError>) {
        let Some(request) = self.requests.get_mut(waiter.request) else { return };
        match result {
            Ok(value) => {
                if let Some(slot) = request.answers.get_mut(waiter.slot as usize) {
                    slot.clone_from(value);
                }
            }
            Err(error) => request.error = Some(error.clone()),
        }
        request.left = request.left.saturating_sub(1);
        if request.left == 0 {
            self.finish(waiter.request);
        }
    }

    fn finish(&mut self, id: Id) {
        let Some(request) = self.requests.remove(id) else { return };
        let keys = request.answers.len();
        self.counters.pending(request.lane).fetch_sub(keys, std::sync::atomic::Ordering::Relaxed);
        let result = match request.error {
            Some(error) => Err(error),
            None => Ok(request.answers),
        };
        let latency = self.now_ns.saturating_sub(request.at_ns);
        self.total.record(latency, keys as u64);
        self.recent[0].record(latency, keys as u64);
        self.outbox.push((request.reply, result));
    }

    /// The near cache first, then the answers: who asks again at once finds the value near. What was changed goes after
    /// what was read before it.
    fn flush(&mut self) {
        if !self.keeps.is_empty() {
            self.near.insert_many(self.keeps.drain(..), self.now_ns);
        }
        if !self.changed.is_empty() {
            self.near.forget(self.changed.drain(..));
        }
        for (reply, result) in self.outbox.drain(..) {
            reply.send(result);
        }
    }

    fn tick(&mut self, now_ns: u64) {
        self.next_tick_ns = now_ns + TICK_NS;
        self.expire_requests(now_ns);
        self.shed_bulk(now_ns);
        self.expire_trips(now_ns);
        self.extend_leases(now_ns);
        self.retry_deletes();
        self.nodes.tick(now_ns);
        let m = &mut self.interval.m;
        // A trickle is measured over longer intervals: a percentile needs something to stand on.
        let elapsed = now_ns.saturating_sub(self.interval.since_ns);
        if m.keys >= 200 || elapsed >= 10 * TICK_NS {
            m.interval_ns = elapsed;
            m.backlog = self.nodes.waiting() as u64;
            m.share_among(self.nodes.used());
            m.p99_ns = self.interval.latency.quantile_ns(0.99);
            self.hedges.learn(m.p99_ns, m.batches);
            let quiet = m.arrivals == 0 && m.batches == 0;
            if !quiet {
                let tuner = std::mem::replace(&mut self.tuner, Tuner::new(Objective::AsLowAsPossible));
                let before = tuner.settings();
                self.tuner = tuner.step(&self.interval.m, now_ns);
                self.history.note(before, self.tuner.settings(), self.tuner.reason(), now_ns);
            }
            self.interval.m = Measurement::default();
            self.interval.latency.clear();
            self.interval.since_ns = now_ns;
            self.idle = quiet && self.is_quiet();
        }
        if now_ns.saturating_sub(self.recent_since_ns) > 5_000_000_000 {
            self.recent.swap(0, 1);
            self.recent[0].clear();
            self.recent_since_ns = now_ns;
        }
    }

    fn expire_requests(&mut self, now_ns: u64) {
        let limit = ns(self.config.deadline);
        let late: Vec<Id> = self
            .requests
            .ids()
            .filter(|id| self.requests.get(*id).is_some_and(|r| now_ns.saturating_sub(r.at_ns) > limit))
            .collect();
        let any = !late.is_empty();
        for id in late {
            Counters::add(&self.counters.errors, 1);
            if let Some(request) = self.requests.get_mut(id) {
                request.error = Some(GuardError::Deadline { limit_ms: limit / 1_000_000 });
            }
            self.finish(id);
        }
        if any {
            self.cancel();
        }
    }

    /// Drops the queued flights for which nobody waits any longer; those that somebody started to learn a value (no waiter at all) stay.
    fn cancel(&mut self) {
        let given_up = |flight: &Flight| {
            let mut waiters = flight.first.iter().chain(&flight.more).peekable();
            matches!(flight.stage, Stage::Queued)
                && waiters.peek().is_some()
                && waiters.all(|waiter| self.requests.get(waiter.request).is_none())
        };
        let dropped: Vec<Id> =
            self.flights.ids().filter(|id| self.flights.get(*id).is_some_and(given_up)).collect();
        Counters::add(&self.counters.cancelled, dropped.len() as u64);
        let mut back = Vec::new();
        for id in dropped {
            if let Some(flight) = self.flights.get(id)
                && let Some(token) = flight.lease
            {
                back.push((leases::released(flight, token), None));
            }
            self.land(id, &Err(GuardError::Closed), self.now_ns);
        }
        self.fill_leased(back, self.now_ns);
    }

    fn shed_bulk(&mut self, now_ns: u64) {
        let limit = ns(self.config.bulk_age);
        let before = now_ns.saturating_sub(limit);
        loop {
            let queued = self.nodes.pop_older(Lane::Bulk, before);
            let Some(waiting) = queued.or_else(|| self.loads.pop_older(Lane::Bulk, before)) else { return };
            if !self.is_waiting_in(waiting.flight, Lane::Bulk) {
                continue;
            }
            let waited_ms = now_ns.saturating_sub(waiting.since_ns) / 1_000_000;
            let error = GuardError::Shed { lane: Lane::Bulk, waited_ms, limit_ms: limit / 1_000_000 };
            Counters::add(&self.counters.sheds, 1);
            self.land(waiting.flight, &Err(error), now_ns);
        }
    }

    fn is_waiting_in(&self, id: Id, lane: Lane) -> bool {
        self.flights.get(id).is_some_and(|f| matches!(f.stage, Stage::Queued) && f.lane == lane)
    }

    /// Answers everybody with `Closed`: the guard is going.
    pub(crate) fn close(&mut self) {
        let all: Vec<Id> = self.requests.ids().collect();
        for id in all {
            if let Some(request) = self.requests.get_mut(id) {
                request.error = Some(GuardError::Closed);
            }
            self.finish(id);
        }
        self.flush();
    }

    /// Median and 99th percentile since the start, milliseconds.
    pub(crate) fn percentiles_ms(&self) -> (f64, f64) {
        (ms(self.total.quantile_ns(0.5)), ms(self.total.quantile_ns(0.99)))
    }

    pub(crate) fn settings(&self) -> Settings {
        self.tuner.settings()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a latency for people")]
fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}
