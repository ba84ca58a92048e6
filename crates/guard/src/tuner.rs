//! The tuner: batch size, linger, connections and depth as a pure function of (state, measurement, now).
//!
//! # The control law
//! Every interval the guard hands over what it measured; the answer is the next state. Four ideas, each with its source:
//!
//! 1. **Outstanding batches by Little's law** (Little 1961, L = λ·W): with λ keys/s arriving, batches of B keys and a
//!    round trip R, λ·R/B batches are under way. Twice that many slots are kept (so half of them are busy: the best
//!    fixed configurations of the reference sweep kept 25 to 65 % busy). R is the **windowed minimum** of the trips, never the
//!    mean: a queue of our own making must not ask for more slots (BBR, Cardwell et al. 2016; its gain is 2 as well).
//! 2. **Feed-forward**: when λ or R moves by half or more, the batch size jumps to a first guess, B = λ / 16,000 requests per
//!    second but at most λ·R/2 (half a round trip's arrivals): the best fixed configurations of the reference sweep send 5,000 to
//!    25,000 requests per second whatever the load. The linger is B/λ, the time that many keys take to arrive. Below two
//!    keys the batch leaves at once ("greedy").
//! 3. **Hill climbing**: in steady state it now and then tries the neighbouring batch size (a factor of two), for long enough to see
//!    its p99, and stays only if the objective is better by 5 %. Each refused trial doubles the time to the next
//!    (0.4 s to 12.8 s), so a settled tuner is quiet; a change of regime resets that.
//! 4. **Escape**: when the backlog grows while all slots are busy, batch size doubles at once.
//!
//! The objective of `AsLowAsPossible` is p99 × (requests per key)^0.05: halving the requests is worth 3.4 % of p99. That of
//! `P99(x)` is requests per key, with a steep penalty above 0.9·x.

use std::time::Duration;

use serde::Serialize;

use crate::config::Objective;

#[cfg(test)]
mod tests;

const LEVEL_MAX: u32 = 9; // batches of 512
const SLOTS_MIN: u32 = 4;
const SLOTS_MAX: u32 = 256;
const DEPTH: u32 = 4;
/// Requests per second of the first guess.
const REQUESTS_PER_S: f64 = 16_000.0;
const RTT_WINDOW_NS: u64 = 1_000_000_000;
const PROBE_GAP_MIN_NS: u64 = 400_000_000;
const PROBE_GAP_MAX_NS: u64 = 12_800_000_000;
const PROBE_SAMPLES: usize = 4;
const BETTER: f64 = 0.95;
const REGIME: f64 = 1.5;

/// What the batcher and the pool obey.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// A batch leaves when this many keys wait (1: as soon as a slot is free).
    pub batch_size: u32,
    /// … or when the oldest key has waited this long, microseconds.
    pub linger_us: u32,
    /// Connections to the cache.
    pub connections: u32,
    /// Batches under way per connection.
    pub depth: u32,
}

impl Settings {
    /// Batches under way in all.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.connections * self.depth
    }
}

/// What one interval showed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measurement {
    /// How long it was, nanoseconds.
    pub interval_ns: u64,
    /// Keys that came to the lanes.
    pub arrivals: u64,
    /// Keys that the cache answered.
    pub keys: u64,
    /// Batches that the cache answered.
    pub batches: u64,
    /// The shortest trip of a batch, nanoseconds; 0 when none came back.
    pub trip_min_ns: u64,
    /// All trips added up, nanoseconds; divided by the interval it is the mean number under way.
    pub trip_sum_ns: u64,
    /// 99th percentile from a key's arrival to the cache's answer, nanoseconds.
    pub p99_ns: u64,
    /// Keys waiting in the lanes at the end.
    pub backlog: u64,
}

impl Measurement {
    /// What one of `nodes` alike saw of it: the settings hold for each.
    pub(crate) fn share_among(&mut self, nodes: u64) {
        let nodes = nodes.max(1);
        for whole in
            [&mut self.arrivals, &mut self.keys, &mut self.batches, &mut self.trip_sum_ns, &mut self.backlog]
        {
            *whole = whole.div_ceil(nodes);
        }
    }
}

#[derive(Debug, Clone)]
struct Probe {
    back_to: u32,
    base: f64,
    skip: u32,
    seen: Vec<f64>,
}

/// The state of the control law.
#[derive(Debug, Clone)]
pub struct Tuner {
    objective: Objective,
    fixed: bool,
    settings: Settings,
    level: u32,
    rate: f64,
    fill: f64,
    rtt_ns: f64,
    rtt_next_ns: f64,
    rtt_window_since: u64,
    regime_rate: f64,
    regime_rtt_ns: f64,
    odd_intervals: u32,
    steady: Vec<f64>,
    probe: Option<Probe>,
    probe_gap_ns: u64,
    next_probe_ns: u64,
    upwards: bool,
    shrink_since: Option<u64>,
    crowded: u32,
    /// What a trial must be better than, as a share of what was.
    better: f64,
    reason: String,
}

impl Tuner {
    /// A tuner that knows nothing yet: greedy, on one connection.
    #[must_use]
    pub fn new(objective: Objective) -> Self {
        let settings = Settings { batch_size: 1, linger_us: 0, connections: 1, depth: DEPTH };
        Self {
            objective,
            fixed: false,
            settings,
            level: 0,
            rate: 0.0,
            fill: 1.0,
            rtt_ns: 0.0,
            rtt_next_ns: 0.0,
            rtt_window_since: 0,
            regime_rate: 0.0,
            regime_rtt_ns: 0.0,
            odd_intervals: 0,
            steady: Vec::new(),
            probe: None,
            probe_gap_ns: PROBE_GAP_MIN_NS,
            next_probe_ns: 0,
            upwards: true,
            shrink_since: None,
            crowded: 0,
            better: BETTER,
            reason: "nothing measured yet: one connection, a batch leaves as soon as a slot is free".into(),
        }
    }

    /// Never moves: for sweeps that compare the tuner with fixed settings.
    #[must_use]
    pub fn fixed(settings: Settings) -> Self {
        let reason = "fixed by a benchmark".into();
        Self { fixed: true, settings, reason, ..Self::new(Objective::AsLowAsPossible) }
    }

    /// A planted fault.
    #[cfg(any(test, feature = "trial"))]
    pub(crate) fn keeps_whatever_it_tries(&mut self) {
        self.better = f64::MAX;
    }

    /// What is in force.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// The last decision, in a sentence.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The arrival rate it believes in, keys per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// The windowed minimum round trip, nanoseconds.
    #[must_use]
    pub fn rtt_ns(&self) -> f64 {
        self.rtt_ns
    }

    /// One interval later. `now_ns` is monotonic.
    #[must_use]
    pub fn step(mut self, m: &Measurement, now_ns: u64) -> Self {
        if self.fixed || m.interval_ns == 0 {
            return self;
        }
        self.observe(m, now_ns);
        if self.rtt_ns == 0.0 {
            return self;
        }
        let (before, said) = (self.settings, self.reason.clone());
        if self.regime_changed() {
            self.feed_forward(now_ns);
        } else if self.is_crowded(m) {
            self.escape(now_ns);
        } else if m.batches > 0 {
            self.climb(self.cost(m), now_ns);
        }
        self.apply(now_ns);
        if self.settings != before && self.reason == said {
            self.reason = format!(
                "linger and slots follow the load: {:.0} keys/s, round trip {:.0} us",
                self.rate,
                self.rtt_ns / 1e3
            );
        }
        self
    }

    fn observe(&mut self, m: &Measurement, now_ns: u64) {
        let rate = as_f64(m.arrivals) * 1e9 / as_f64(m.interval_ns);
        self.rate = if self.rate == 0.0 { rate } else { self.rate * 0.6 + rate * 0.4 };
        if m.batches > 0 {
            self.fill = self.fill * 0.6 + as_f64(m.keys) / as_f64(m.batches) * 0.4;
        }
        // Two half windows: the minimum of this one and of the one before.
        if now_ns.saturating_sub(self.rtt_window_since) > RTT_WINDOW_NS / 2 {
            if self.rtt_next_ns > 0.0 {
                self.rtt_ns = self.rtt_next_ns;
            }
            self.rtt_next_ns = 0.0;
            self.rtt_window_since = now_ns;
        }
        if m.trip_min_ns > 0 {
            let trip = as_f64(m.trip_min_ns);
            self.rtt_next_ns = if self.rtt_next_ns == 0.0 { trip } else { self.rtt_next_ns.min(trip) };
            self.rtt_ns = if self.rtt_ns == 0.0 { trip } else { self.rtt_ns.min(trip) };
        }
    }

    /// Keys that arrive during one round trip.
    fn keys_per_trip(&self) -> f64 {
        self.rate * self.rtt_ns / 1e9
    }

    fn regime_changed(&mut self) -> bool {
        let apart = |a: f64, b: f64| a > b * REGIME || b > a * REGIME;
        // Tiny rates and trips are noise: below two keys per trip everything is greedy anyway.
        let light = self.keys_per_trip() < 2.0 && self.regime_rate * self.regime_rtt_ns / 1e9 < 2.0;
        let odd = !light && (apart(self.rate, self.regime_rate) || apart(self.rtt_ns, self.regime_rtt_ns));
        self.odd_intervals = if odd { self.odd_intervals + 1 } else { 0 };
        self.odd_intervals >= 2
    }

    fn feed_forward(&mut self, now_ns: u64) {
        let gather = (self.rate / REQUESTS_PER_S).min(self.keys_per_trip() / 2.0);
        let room = match self.objective {
            Objective::AsLowAsPossible => gather,
            Objective::P99(limit) => gather.max(self.rate * linger_room_ns(limit, self.rtt_ns) / 1e9),
        };
        let level = level_of(room);
        self.reason = format!(
            "load or round trip changed to {:.0} keys/s and {:.0} us: a first guess is a batch of {}",
            self.rate,
            self.rtt_ns / 1e3,
            1_u32 << level
        );
        self.level = level;
        self.regime_rate = self.rate;
        self.regime_rtt_ns = self.rtt_ns;
        self.odd_intervals = 0;
        self.settle(now_ns, PROBE_GAP_MIN_NS);
    }

    fn settle(&mut self, now_ns: u64, gap_ns: u64) {
        self.probe = None;
        self.steady.clear();
        self.probe_gap_ns = gap_ns;
        self.next_probe_ns = now_ns + gap_ns;
    }

    fn is_crowded(&mut self, m: &Measurement) -> bool {
        let busy = as_f64(m.trip_sum_ns) / as_f64(m.interval_ns);
        let full = busy > 0.9 * f64::from(self.settings.slots());
        let behind = as_f64(m.backlog) > f64::from(self.settings.slots()) * f64::from(1_u32 << self.level);
        self.crowded = if full && behind { self.crowded + 1 } else { 0 };
        self.crowded >= 2 && self.level < LEVEL_MAX
    }

    fn escape(&mut self, now_ns: u64) {
        self.crowded = 0;
        self.level += 1;
        self.reason = format!("the backlog grows with every slot busy: batch of {}", 1_u32 << self.level);
        self.settle(now_ns, PROBE_GAP_MIN_NS);
    }

    fn cost(&self, m: &Measurement) -> f64 {
        let per_key = as_f64(m.batches) / as_f64(m.keys.max(1));
        let p99 = as_f64(m.p99_ns.max(1));
        match self.objective {
            Objective::AsLowAsPossible => p99 * per_key.powf(0.05),
            Objective::P99(limit) => {
                let over = (p99 / (0.9 * limit.as_secs_f64() * 1e9) - 1.0).max(0.0);
                per_key * (1.0 + 10.0 * over)
            }
        }
    }

    fn climb(&mut self, cost: f64, now_ns: u64) {
        let Some(probe) = &mut self.probe else {
            self.steady.push(cost);
            if self.steady.len() > 2 * PROBE_SAMPLES {
                self.steady.remove(0);
            }
            if now_ns >= self.next_probe_ns && self.steady.len() >= PROBE_SAMPLES {
                self.start_probe();
            }
            return;
        };
        if probe.skip > 0 {
            probe.skip -= 1;
            return;
        }
        probe.seen.push(cost);
        if probe.seen.len() < PROBE_SAMPLES {
            return;
        }
        let (found, base, back_to) = (median(&probe.seen), probe.base, probe.back_to);
        let (tried, change) = (1_u32 << self.level, (1.0 - found / base) * 100.0);
        if found < base * self.better {
            self.reason =
                format!("batch {} to {tried}: the objective improved by {change:.0} %", 1_u32 << back_to);
            self.settle(now_ns, PROBE_GAP_MIN_NS);
        } else {
            self.level = back_to;
            self.upwards = !self.upwards;
            self.reason =
                format!("tried a batch of {tried}: no better ({change:+.0} %), back to {}", 1_u32 << back_to);
            let gap = (self.probe_gap_ns * 2).min(PROBE_GAP_MAX_NS);
            self.settle(now_ns, gap);
        }
    }

    fn start_probe(&mut self) {
        if (self.upwards && self.level == LEVEL_MAX) || (!self.upwards && self.level == 0) {
            self.upwards = !self.upwards;
        }
        let probe = Probe { back_to: self.level, base: median(&self.steady), skip: 1, seen: Vec::new() };
        self.level = if self.upwards { self.level + 1 } else { self.level - 1 };
        self.reason =
            format!("trying a batch of {} in place of {}", 1_u32 << self.level, 1_u32 << probe.back_to);
        self.probe = Some(probe);
    }

    /// Turns the level and the model into settings, with a dead band around each so that noise moves nothing.
    fn apply(&mut self, now_ns: u64) {
        let batch = 1_u32 << self.level;
        let linger_ns = if batch == 1 || self.rate < 1.0 {
            0.0
        } else {
            let cap = match self.objective {
                Objective::AsLowAsPossible => 2.0 * self.rtt_ns,
                Objective::P99(limit) => linger_room_ns(limit, self.rtt_ns),
            };
            (f64::from(batch) * 1e9 / self.rate).min(cap)
        };
        let linger_us = round_us(linger_ns);
        let old = self.settings.linger_us;
        if batch != self.settings.batch_size || linger_us.abs_diff(old) * 4 > old {
            self.settings.linger_us = linger_us;
        }
        self.settings.batch_size = batch;
        // Callers that bring whole batches fill requests beyond the batch size: these need fewer slots.
        self.apply_slots(f64::from(batch).max(self.fill), now_ns);
    }

    fn apply_slots(&mut self, fill: f64, now_ns: u64) {
        let wanted =
            (2.0 * self.keys_per_trip() / fill).ceil().clamp(f64::from(SLOTS_MIN), f64::from(SLOTS_MAX));
        let wanted = round_us(wanted * 1e3).div_ceil(DEPTH);
        let have = self.settings.connections;
        if wanted > have {
            self.settings.connections = wanted;
            self.shrink_since = None;
        } else if wanted * 4 < have * 3 {
            // Shrinks only after two quiet seconds: opening a connection costs more than keeping one.
            let since = *self.shrink_since.get_or_insert(now_ns);
            if now_ns.saturating_sub(since) > 2_000_000_000 {
                self.settings.connections = wanted;
                self.shrink_since = None;
            }
        } else {
            self.shrink_since = None;
        }
    }
}

/// What the objective leaves for gathering a batch: half of what two round trips do not use.
fn linger_room_ns(limit: Duration, rtt_ns: f64) -> f64 {
    ((limit.as_secs_f64() * 1e9 - 2.0 * rtt_ns) / 2.0).max(0.0)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the ladder")]
fn level_of(keys: f64) -> u32 {
    if keys < 2.0 { 0 } else { keys.log2().round().clamp(1.0, f64::from(LEVEL_MAX)) as u32 }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to ten seconds")]
fn round_us(ns: f64) -> u32 {
    (ns / 1e3).round().clamp(0.0, 1e7) as u32
}

#[expect(clippy::cast_precision_loss, reason = "measurements, 53 bits are plenty")]
fn as_f64(n: u64) -> f64 {
    n as f64
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}
