//! The lanes when more is asked than the cache can do: a real Redis behind the delaying relay, whose line back carries so many keys a
//! second and no more. Open loop, Poisson arrivals, latency from the intended arrival to the guard's answer.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use herdsman_host::{Clock, RealClock, Seed};
use serde::Serialize;

use super::delay::Delay;
use super::member::exponential_ns;
use super::sweep::{KEYS, fill_cache, key, upstream_of};
use super::{ms, place};
use crate::config::{GuardConfig, Lane};
use crate::core::Measured;
use crate::error::GuardError;
use crate::guard::Guard;
use crate::histogram::Histogram;
use crate::url::CacheUrl;

/// A value of 100 bytes in an answer: `$100`, the bytes, two line ends.
const BYTES_PER_KEY: f64 = 108.0;

/// Shares of the capacity asked for in each lane.
const LOADS: [(&str, [f64; 3]); 3] =
    [("half load", [0.1, 0.2, 0.2]), ("bulk flood", [0.15, 0.45, 0.9]), ("urgent flood", [1.1, 0.2, 0.2])];

/// What to measure.
#[derive(Debug, Clone)]
pub struct LanesConfig {
    /// A Redis; `embedded` starts a cache of our own.
    pub cache: String,
    /// Simulated round trip.
    pub rtt: Duration,
    /// Keys per second that the line to the cache carries.
    pub capacity: f64,
    /// How long each load is measured; a second of it comes before.
    pub time: Duration,
}

impl Default for LanesConfig {
    fn default() -> Self {
        Self {
            cache: "embedded".into(),
            rtt: Duration::from_micros(500),
            capacity: 30_000.0,
            time: Duration::from_secs(5),
        }
    }
}

/// What one lane saw under one load.
#[derive(Debug, Clone, Serialize)]
pub struct LanesRow {
    /// `half load`, `bulk flood` (1.5 × what the cache can do, 0.9 of it bulk) or `urgent flood` (1.5 ×, 1.1 of it urgent).
    pub load: &'static str,
    /// The lane.
    pub lane: Lane,
    /// Look-ups asked per second.
    pub asked_per_s: f64,
    /// Look-ups answered with a value, per second.
    pub answered_per_s: f64,
    /// Look-ups that ended with an error (shed by age, or the lane full), per second.
    pub refused_per_s: f64,
    /// Median of those answered, microseconds.
    pub p50_us: u64,
    /// 99th percentile of those answered, microseconds.
    pub p99_us: u64,
    /// The most keys that were seen waiting in the lane.
    pub queued_most: usize,
    /// How much longer a lone small request takes behind the relay than the round trip, microseconds.
    pub rtt_error_us: u64,
    /// Keys under way at most when last looked, if that was bounded.
    pub window_keys: Option<usize>,
}

/// Measures the three loads; `each` gets a row per load and lane.
///
/// # Errors
/// When the cache, the relay or the guard cannot be started.
pub fn lanes(config: &LanesConfig, mut each: impl FnMut(&LanesRow)) -> Result<(), GuardError> {
    let clock = RealClock::shared();
    let (_server, url) = place(&CacheUrl::parse(&config.cache)?, &clock)?;
    let upstream: SocketAddr = upstream_of(&url)?;
    fill_cache(&url, &clock)?;
    let ns_per_byte = 1e9 / (config.capacity * BYTES_PER_KEY);
    let delay = Delay::narrow(upstream, config.rtt, ns_per_byte, Arc::clone(&clock))
        .map_err(|error| GuardError::Start(error.to_string()))?;
    let rtt_error_us = delay.error_ns(config.rtt, 200, &clock);
    let rtt_error_us = rtt_error_us.map_err(|error| GuardError::Start(error.to_string()))? / 1_000;
    let cache = CacheUrl::redis(delay.addr);
    let guard_config = GuardConfig { cache, near_capacity: 0, ..GuardConfig::default() };
    let guard = Guard::open_to_measure(guard_config, None, Arc::clone(&clock))?;
    // Each key in its turn: none is asked for twice at once, so no look-up shares another's flight.
    let (mut random, mut last) = (Seed::new(1), 0);
    for (load, shares) in LOADS {
        let rates = shares.map(|share| share * config.capacity);
        let bench = Bench { guard: &guard, clock: &clock, rates };
        bench.run(Duration::from_secs(1), &mut random, &mut last);
        let (seen, queued) = bench.run(config.time, &mut random, &mut last);
        for lane in Lane::ALL {
            let (seen, queued_most) = (&seen[lane.index()], queued[lane.index()]);
            let per_s = |count: u64| ms(count) * 1e6 / config.time.as_secs_f64();
            let latency = seen.latency.lock().unwrap_or_else(PoisonError::into_inner);
            each(&LanesRow {
                load,
                lane,
                asked_per_s: per_s(seen.asked.load(Relaxed)),
                answered_per_s: per_s(latency.len()),
                refused_per_s: per_s(seen.refused.load(Relaxed)),
                p50_us: latency.quantile_ns(0.5) / 1_000,
                p99_us: latency.quantile_ns(0.99) / 1_000,
                queued_most,
                rtt_error_us,
                window_keys: guard.explain().window_keys,
            });
        }
    }
    Ok(())
}

/// What the look-ups of one lane came to.
struct Seen {
    clock: Arc<dyn Clock>,
    latency: Mutex<Histogram>,
    asked: AtomicU64,
    refused: AtomicU64,
}

impl Seen {
    fn ended(&self) -> u64 {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner).len() + self.refused.load(Relaxed)
    }
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seen").field("asked", &self.asked).finish_non_exhaustive()
    }
}

impl Measured for Seen {
    fn answered(&self, since_ns: u64, found: bool) {
        if !found {
            self.refused.fetch_add(1, Relaxed);
            return;
        }
        let ns = self.clock.monotonic_ns().saturating_sub(since_ns);
        self.latency.lock().unwrap_or_else(PoisonError::into_inner).record(ns, 1);
    }
}

struct Bench<'a> {
    guard: &'a Guard,
    clock: &'a Arc<dyn Clock>,
    /// Look-ups per second of each lane.
    rates: [f64; 3],
}

impl Bench<'_> {
    /// What each lane saw, and the most keys that waited in it. Ends when all look-ups have.
    fn run(&self, time: Duration, random: &mut Seed, last: &mut u32) -> ([Arc<Seen>; 3], [usize; 3]) {
        let seen = Lane::ALL.map(|_| {
            let (asked, refused) = (AtomicU64::new(0), AtomicU64::new(0));
            Arc::new(Seen { clock: Arc::clone(self.clock), latency: Mutex::default(), asked, refused })
        });
        let begin = self.clock.monotonic_ns();
        let end = begin + u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let (mut next, mut queued) = ([begin; 3], [0; 3]);
        let (mut now, mut rounds) = (begin, 0_u64);
        while now < end {
            now = self.clock.monotonic_ns();
            for lane in Lane::ALL {
                let at = lane.index();
                while next[at] <= now.min(end) {
                    *last = (*last + 1) % u32::try_from(KEYS).unwrap_or(u32::MAX);
                    let measured = Arc::clone(&seen[at]) as Arc<dyn Measured>;
                    seen[at].asked.fetch_add(1, Relaxed);
                    self.guard.measure(key(*last), lane, next[at], measured);
                    next[at] += exponential_ns(random, 1e9 / self.rates[at]).max(1);
                }
            }
            rounds += 1;
            if rounds.is_multiple_of(256) {
                let depths = self.guard.explain().queued;
                for (most, depth) in queued.iter_mut().zip([depths.urgent, depths.normal, depths.bulk]) {
                    *most = depth.max(*most);
                }
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        // The deadline ends whatever the lanes do not.
        while seen.iter().any(|seen| seen.ended() < seen.asked.load(Relaxed)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        (seen, queued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_flood_of_bulk_look_ups_the_urgent_lane_is_served_and_bulk_is_told_so() {
        let config =
            LanesConfig { capacity: 20_000.0, time: Duration::from_secs(2), ..LanesConfig::default() };
        let mut rows = Vec::new();
        lanes(&config, |row| rows.push(row.clone())).unwrap();
        rows.iter().for_each(|row| println!("{}", serde_json::to_string(row).unwrap()));
        let row = |load, lane| rows.iter().find(|row| row.load == load && row.lane == lane).unwrap();
        let [urgent, normal, bulk] = Lane::ALL.map(|lane| row("bulk flood", lane));
        assert_eq!((urgent.refused_per_s, normal.refused_per_s), (0.0, 0.0), "{urgent:?} {normal:?}");
        assert!(bulk.refused_per_s > 1_000.0 && bulk.queued_most < 20_000, "{bulk:?}");
        // Bulk waits for half a second; whatever else runs on this machine, urgent does not.
        assert!(bulk.p50_us > 200_000 && urgent.p50_us * 4 < bulk.p50_us, "{urgent:?} {bulk:?}");
        let [urgent, normal, bulk] = Lane::ALL.map(|lane| row("urgent flood", lane));
        assert!(normal.answered_per_s * 10.0 >= urgent.answered_per_s, "{urgent:?} {normal:?}");
        assert!(bulk.answered_per_s * 64.0 >= urgent.answered_per_s, "{urgent:?} {bulk:?}");
    }
}
