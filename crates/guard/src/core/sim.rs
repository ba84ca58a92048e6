//! The whole decision engine under a simulated clock and cache: Poisson arrivals, one server with a queue, a round trip.
//!
//! What is simulated: each request costs the server `per_request` plus `per_key`; the reply arrives `rtt` after the server is done.
//! What is not: the client's own CPU, TCP. It is meant for the shape of the control law, not for absolute figures.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Abilities, Answer, Command, Core, Effect, Event, Fault, Measured, Reply};
use crate::config::{GuardConfig, Lane, Objective};
use crate::histogram::Histogram;
use crate::near::NearCache;
use crate::stats::Counters;
use crate::tuner::{Settings, Tuner};

/// A xorshift generator: the seed decides everything.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a simulation"
    )]
    fn exponential_ns(&mut self, mean_ns: f64) -> u64 {
        let unit = ((self.next() >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        (-unit.ln() * mean_ns) as u64
    }
}

/// The simulated cache.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Server {
    pub(crate) rtt_ns: u64,
    pub(crate) per_request_ns: u64,
    pub(crate) per_key_ns: u64,
}

impl Server {
    pub(crate) fn with_rtt_us(rtt_us: u64) -> Self {
        // About what Redis 7 costs here: a million keys a second in batches, 130,000 in single requests.
        Self { rtt_ns: rtt_us * 1_000, per_request_ns: 7_000, per_key_ns: 700 }
    }
}

/// Something at a moment: a link is up, or a reply arrives.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Coming {
    Up(u64),
    Reply { link: u64, keys: usize },
}

/// What the look-ups of one lane saw since the last `run`.
#[derive(Debug, Default)]
pub(crate) struct LaneSeen {
    now_ns: AtomicU64,
    latency: Mutex<Histogram>,
    pub(crate) asked: AtomicU64,
    pub(crate) failed: AtomicU64,
}

impl LaneSeen {
    fn seen(&self) -> MutexGuard<'_, Histogram> {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn answered(&self) -> u64 {
        self.seen().len()
    }

    pub(crate) fn p99_us(&self) -> u64 {
        self.seen().quantile_ns(0.99) / 1_000
    }

    fn clear(&self) {
        self.seen().clear();
        self.asked.store(0, Relaxed);
        self.failed.store(0, Relaxed);
    }
}

impl Measured for LaneSeen {
    fn answered(&self, since_ns: u64, found: bool) {
        if found {
            self.seen().record(self.now_ns.load(Relaxed) - since_ns, 1);
        } else {
            self.failed.fetch_add(1, Relaxed);
        }
    }
}

/// See the module.
pub(crate) struct Sim {
    core: Core,
    server: Server,
    rate: f64,
    random: Random,
    now_ns: u64,
    next_arrival_ns: u64,
    server_free_ns: u64,
    coming: BinaryHeap<Reverse<(u64, u64, Coming)>>,
    sequence: u64,
    keys: u64,
    requests: u64,
    /// Of a thousand look-ups, how many are urgent and how many normal; the rest is bulk.
    pub(crate) mix: [u64; 2],
    pub(crate) lanes: [Arc<LaneSeen>; 3],
    /// The most keys that ever waited in the lanes.
    pub(crate) queued_most: usize,
    /// Settings seen at the end of each 50 ms, since the last `run`.
    pub(crate) seen: Vec<Settings>,
}

/// What a stretch of simulated time showed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch {
    pub(crate) p99_us: u64,
    pub(crate) requests_per_s: u64,
}

impl Sim {
    pub(crate) fn new(objective: Objective, server: Server, rate: f64, seed: u64) -> Self {
        let config = GuardConfig { near_capacity: 0, objective, ..GuardConfig::default() };
        let core = Core::new(config, Arc::new(NearCache::new(0)), Arc::new(Counters::default()), seed);
        Self {
            core,
            server,
            rate,
            random: Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            now_ns: 1,
            next_arrival_ns: 2,
            server_free_ns: 0,
            coming: BinaryHeap::new(),
            sequence: 0,
            keys: 0,
            requests: 0,
            mix: [0, 1_000],
            lanes: Default::default(),
            queued_most: 0,
            seen: Vec::new(),
        }
    }

    pub(crate) fn fixed(settings: Settings, server: Server, rate: f64, seed: u64) -> Self {
        let mut sim = Self::new(Objective::AsLowAsPossible, server, rate, seed);
        sim.core.tuner = Tuner::fixed(settings);
        sim
    }

    fn planted(mut self, fault: Option<Fault>) -> Self {
        self.core = self.core.with_planted(fault);
        self
    }

    pub(crate) fn set(&mut self, server: Server, rate: f64) {
        self.server = server;
        self.rate = rate;
        self.next_arrival_ns = self.now_ns;
    }

    /// Runs for `ms` and reports p99 (from arrival to answer) and requests of that time.
    pub(crate) fn run(&mut self, ms: u64) -> Stretch {
        let end_ns = self.now_ns + ms * 1_000_000;
        self.core.total = Histogram::default();
        self.seen.clear();
        self.lanes.iter().for_each(|lane| lane.clear());
        let (requests, mut next_sample) = (self.requests, self.now_ns);
        let mut effects = Vec::new();
        while self.now_ns < end_ns {
            self.core.settle(self.now_ns, &mut effects);
            for effect in effects.drain(..) {
                self.perform(effect);
            }
            if self.now_ns >= next_sample {
                self.seen.push(self.core.tuner.settings());
                self.queued_most = self.queued_most.max(self.core.nodes.waiting());
                next_sample += 50_000_000;
            }
            let reply = self.coming.peek().map_or(u64::MAX, |Reverse((at, ..))| *at);
            let wake = self.core.deadline_ns().unwrap_or(u64::MAX);
            self.now_ns = self.next_arrival_ns.min(reply).min(wake.max(self.now_ns + 1)).max(self.now_ns);
            self.lanes.iter().for_each(|lane| lane.now_ns.store(self.now_ns, Relaxed));
            self.happen();
        }
        let requests_per_s = (self.requests - requests) * 1_000 / ms;
        Stretch { p99_us: self.core.total.quantile_ns(0.99) / 1_000, requests_per_s }
    }

    fn happen(&mut self) {
        if self.now_ns >= self.next_arrival_ns {
            let [urgent, normal] = self.mix;
            let lane = match self.random.next() % 1_000 {
                dice if dice < urgent => Lane::Urgent,
                dice if dice < urgent + normal => Lane::Normal,
                _ => Lane::Bulk,
            };
            let seen = &self.lanes[lane.index()];
            seen.asked.fetch_add(1, Relaxed);
            let key = Bytes::copy_from_slice(&self.keys.to_be_bytes());
            self.keys += 1;
            let at_ns = self.next_arrival_ns;
            let lookup = Event::Lookup {
                keys: vec![key],
                counts: Vec::new(),
                lane,
                at_ns,
                reply: Reply::Measured(at_ns, Arc::clone(seen) as Arc<dyn Measured>),
            };
            self.core.counters.pending(lane).fetch_add(1, Relaxed);
            self.core.on_event(lookup, self.now_ns);
            self.next_arrival_ns += self.random.exponential_ns(1e9 / self.rate).max(1);
        }
        while self.coming.peek().is_some_and(|Reverse((at, ..))| *at <= self.now_ns) {
            let Some(Reverse((_, _, coming))) = self.coming.pop() else { return };
            let event = match coming {
                Coming::Up(link) => Event::Up { link, abilities: Abilities::default() },
                Coming::Reply { link, keys } => {
                    let value = Some(Bytes::from_static(b"v"));
                    Event::Answers { link, answers: vec![Answer::Values(vec![value; keys])] }
                }
            };
            self.core.on_event(event, self.now_ns);
        }
    }

    fn perform(&mut self, effect: Effect) {
        self.sequence += 1;
        let (at, coming) = match effect {
            Effect::Open { link, .. } => (self.now_ns + 2 * self.server.rtt_ns + 50_000, Coming::Up(link)),
            Effect::Send { link, command: Command::Get(keys) } => {
                self.requests += 1;
                let cost = self.server.per_request_ns + self.server.per_key_ns * keys.len() as u64;
                self.server_free_ns = self.server_free_ns.max(self.now_ns) + cost;
                (self.server_free_ns + self.server.rtt_ns, Coming::Reply { link, keys: keys.len() })
            }
            Effect::Close { .. } => return,
            Effect::Discover { .. } | Effect::Send { .. } | Effect::Load { .. } => {
                unreachable!("every key is in the simulated cache")
            }
        };
        self.coming.push(Reverse((at, self.sequence, coming)));
    }
}

/// A cache that is slow: 60 to 90 thousand keys a second.
fn slow_server(seed: u64) -> Server {
    let rtt_ns = 250_000 << (seed % 3);
    Server { rtt_ns, per_request_ns: 30_000 + seed % 5 * 5_000, per_key_ns: 10_000 + seed % 4 * 1_000 }
}

/// What the slow cache does in requests of sixteen keys, keys per second.
fn capacity(server: Server) -> f64 {
    16e9 / (server.per_request_ns + 16 * server.per_key_ns) as f64
}

/// Half as many look-ups again as the cache can do, four of five of them urgent: the others must get their shares.
pub(crate) fn urgent_flood(seed: u64, planted: Option<Fault>) -> Result<(), String> {
    let server = slow_server(seed);
    let mut sim = Sim::new(Objective::AsLowAsPossible, server, capacity(server) * 1.5, seed).planted(planted);
    sim.mix = [800, 150];
    sim.run(1_500);
    sim.run(1_000);
    let [urgent, normal, bulk] = sim.lanes.each_ref().map(|lane| lane.answered());
    let done = urgent + normal + bulk;
    if normal * 9 < done || bulk * 36 < done {
        return Err(format!("answered {urgent} urgent, {normal} normal, {bulk} bulk"));
    }
    Ok(())
}

/// Fourteen seconds of the same load: in the last ten the tuner may try a neighbour now and then, no more.
pub(crate) fn steady_load(seed: u64, planted: Option<Fault>) -> Result<(), String> {
    let rate = 20e3 * (1 + seed % 4) as f64;
    let mut sim = Sim::new(Objective::AsLowAsPossible, Server::with_rtt_us(500 + seed % 3 * 500), rate, seed)
        .planted(planted);
    sim.run(4_000);
    sim.run(10_000);
    let batches: Vec<u32> = sim.seen.iter().map(|settings| settings.batch_size).collect();
    let moves = batches.windows(2).filter(|pair| pair[0] != pair[1]).count();
    let (low, high) =
        (batches.iter().min().copied().unwrap_or(1), batches.iter().max().copied().unwrap_or(1));
    if moves > 16 || high > low * 4 {
        return Err(format!("{moves} moves in ten seconds of {rate:.0} keys/s, batches of {low} to {high}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_bulk_look_ups_is_shed_by_age_and_moves_the_urgent_ones_little() {
        for seed in 1..=24 {
            let server = slow_server(seed);
            // What it does in requests of sixteen keys; half as much again comes.
            let capacity = capacity(server);
            let mut sim = Sim::new(Objective::AsLowAsPossible, server, capacity / 2.0, seed);
            sim.mix = [100, 300];
            sim.run(1_000);
            sim.set(server, capacity * 1.5);
            sim.run(1_500);
            sim.run(1_000);
            let [urgent, normal, bulk] = &sim.lanes;
            let (p99_us, rtt_us) = (urgent.p99_us(), server.rtt_ns / 1_000);
            println!(
                "seed {seed}: {server:?} urgent {p99_us} us, normal {} us, bulk {} of {} answered",
                normal.p99_us(),
                bulk.answered(),
                bulk.asked.load(Relaxed)
            );
            assert!(
                p99_us <= 4 * rtt_us + 300,
                "seed {seed}: urgent p99 {p99_us} us, round trip {rtt_us} us"
            );
            assert_eq!((urgent.failed.load(Relaxed), normal.failed.load(Relaxed)), (0, 0), "seed {seed}");
            assert!(normal.p99_us() <= 8 * rtt_us + 300, "seed {seed}: normal p99 {} us", normal.p99_us());
            // The cache is kept busy: what the others leave is bulk's.
            let done = urgent.answered() + normal.answered() + bulk.answered();
            assert!(done as f64 >= capacity * 0.8, "seed {seed}: {done} answered, {capacity} possible");
            assert!(bulk.failed.load(Relaxed) > 0, "seed {seed}");
            // Half a second and a tick of what comes too much.
            assert!(
                sim.queued_most as f64 <= capacity * 1.5 * 0.6,
                "seed {seed}: {} keys waited",
                sim.queued_most
            );
        }
    }

    #[test]
    fn a_flood_of_urgent_look_ups_leaves_the_others_their_shares() {
        (1..=12)
            .for_each(|seed| urgent_flood(seed, None).unwrap_or_else(|what| panic!("seed {seed}: {what}")));
    }

    #[test]
    fn a_steady_load_leaves_the_tuner_quiet() {
        (1..=4).for_each(|seed| steady_load(seed, None).unwrap_or_else(|what| panic!("seed {seed}: {what}")));
    }
}
