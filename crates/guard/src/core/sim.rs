//! The whole decision engine under a simulated clock and cache: Poisson arrivals, one server with a queue, a round trip.
//!
//! What is simulated: each request costs the server `per_request` plus `per_key`; the reply arrives `rtt` after the server is done.
//! What is not: the client's own CPU, TCP. It is meant for the shape of the control law, not for absolute figures.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;

use super::{Abilities, Answer, Command, Core, Effect, Event, Reply};
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
            seen: Vec::new(),
        }
    }

    pub(crate) fn fixed(settings: Settings, server: Server, rate: f64, seed: u64) -> Self {
        let mut sim = Self::new(Objective::AsLowAsPossible, server, rate, seed);
        sim.core.tuner = Tuner::fixed(settings);
        sim
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
        let (requests, mut next_sample) = (self.requests, self.now_ns);
        let mut effects = Vec::new();
        while self.now_ns < end_ns {
            self.core.settle(self.now_ns, &mut effects);
            for effect in effects.drain(..) {
                self.perform(effect);
            }
            if self.now_ns >= next_sample {
                self.seen.push(self.core.tuner.settings());
                next_sample += 50_000_000;
            }
            let reply = self.coming.peek().map_or(u64::MAX, |Reverse((at, ..))| *at);
            let wake = self.core.deadline_ns().unwrap_or(u64::MAX);
            self.now_ns = self.next_arrival_ns.min(reply).min(wake.max(self.now_ns + 1)).max(self.now_ns);
            self.happen();
        }
        let requests_per_s = (self.requests - requests) * 1_000 / ms;
        Stretch { p99_us: self.core.total.quantile_ns(0.99) / 1_000, requests_per_s }
    }

    fn happen(&mut self) {
        if self.now_ns >= self.next_arrival_ns {
            let (sender, _receiver) = sync_channel(1);
            let key = Bytes::copy_from_slice(&self.keys.to_be_bytes());
            self.keys += 1;
            let at_ns = self.next_arrival_ns;
            let lookup = Event::Lookup {
                keys: vec![key],
                counts: Vec::new(),
                lane: Lane::Normal,
                at_ns,
                reply: Reply::Thread(sender),
            };
            self.core.counters.pending(Lane::Normal).fetch_add(1, std::sync::atomic::Ordering::Relaxed);
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
