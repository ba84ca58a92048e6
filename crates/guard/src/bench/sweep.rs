//! The tuner against fixed settings, in turns, behind a simulated round trip.
//!
//! Arrivals are Poisson, keys Zipf 0.99 over 100,000; a look-up counts from its intended arrival to the guard's answer (the hop to a waiting
//! thread is left out, alike for all), however late it was sent; what is unanswered a while after the end counts with its age. The
//! guard's near cache and system of record are off: what is compared is the way to the cache alone. All guards of one point stay open, each
//! repeat runs every one of them once, and the figures are medians over the repeats.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use herdsman_host::{Clock, RealClock, Seed};
use serde::Serialize;

use super::delay::Delay;
use super::lookups::zipf_ranks;
use super::member::exponential_ns;
use super::place;
use crate::config::{GuardConfig, Lane};
use crate::core::Measured;
use crate::error::GuardError;
use crate::guard::Guard;
use crate::histogram::Histogram;
use crate::tuner::Settings;
use crate::url::CacheUrl;

pub(super) const KEYS: usize = 100_000;
/// After the last arrival, unanswered look-ups are waited for this long.
const PATIENCE: Duration = Duration::from_secs(2);

/// A run whose sender did not run for so long says nothing about settings.
const STALL_NS: u64 = 20_000_000;

/// What to compare.
#[derive(Debug, Clone)]
pub struct SweepConfig {
    /// A Redis; `embedded` starts a cache of our own.
    pub cache: String,
    /// Simulated round trips.
    pub rtts: Vec<Duration>,
    /// Look-ups per second.
    pub rates: Vec<f64>,
    /// How often every configuration runs.
    pub repeats: usize,
    /// How long one run is measured; half as long comes before.
    pub run: Duration,
}

impl Default for SweepConfig {
    fn default() -> Self {
        Self {
            cache: "embedded".into(),
            rtts: vec![Duration::from_micros(500), Duration::from_millis(2)],
            rates: vec![20e3, 100e3, 300e3, 600e3],
            repeats: 7,
            run: Duration::from_millis(500),
        }
    }
}

/// One configuration at one point, medians over the repeats.
#[derive(Debug, Clone, Serialize)]
pub struct SweepRow {
    /// Simulated round trip, microseconds.
    pub rtt_us: u64,
    /// How much longer a lone small request takes behind the relay than that, microseconds.
    pub rtt_error_us: u64,
    /// Look-ups per second intended.
    pub rate: f64,
    /// Chosen by the tuner; otherwise fixed.
    pub tuned: bool,
    /// In force at the end.
    pub settings: Settings,
    /// Median latency, microseconds.
    pub p50_us: u64,
    /// 99th percentile, microseconds.
    pub p99_us: u64,
    /// Requests to the cache per second.
    pub requests_per_s: u64,
    /// Every look-up was answered, in every repeat.
    pub sustained: bool,
}

/// The configurations that the tuner is compared with: greedy ones first.
fn fixed_settings() -> Vec<Settings> {
    let mut all = Vec::new();
    for (batch_size, linger_us) in [(1, 0), (8, 100), (16, 400), (16, 1_000), (32, 100), (128, 400)] {
        for connections in [2, 8] {
            all.push(Settings { batch_size, linger_us, connections, depth: 4 });
        }
    }
    all
}

/// Runs the sweep; `each` gets all rows of a point together, the tuner's first.
///
/// # Errors
/// When the cache, the relay or a guard cannot be started.
pub fn sweep(config: &SweepConfig, mut each: impl FnMut(&[SweepRow])) -> Result<(), GuardError> {
    let clock = RealClock::shared();
    let (_server, url) = place(&CacheUrl::parse(&config.cache)?, &clock)?;
    let upstream = upstream_of(&url)?;
    let failed = |error: std::io::Error| GuardError::Start(error.to_string());
    fill_cache(&url, &clock)?;
    let ranks = zipf_ranks(KEYS, 1 << 20);
    for rtt in &config.rtts {
        let delay = Delay::start(upstream, *rtt, Arc::clone(&clock)).map_err(failed)?;
        let error_us = delay.error_ns(*rtt, 200, &clock).map_err(failed)? / 1_000;
        for rate in &config.rates {
            let point = Point { config, rtt: *rtt, error_us, rate: *rate, clock: &clock, ranks: &ranks };
            each(&point.rows(&delay)?);
        }
    }
    Ok(())
}

pub(super) fn key(rank: u32) -> Bytes {
    Bytes::from(format!("sweep:{rank:07}"))
}

/// Where a measurement's Redis listens.
pub(super) fn upstream_of(url: &CacheUrl) -> Result<SocketAddr, GuardError> {
    let CacheUrl::Redis { place: at, .. } = url else {
        return Err(GuardError::Start(format!("this measurement needs a Redis, not {url}")));
    };
    let found = (at.host.as_str(), at.port).to_socket_addrs();
    let found = found.map_err(|error| GuardError::Start(error.to_string()))?.next();
    found.ok_or_else(|| GuardError::Address(url.to_string()))
}

/// 100-byte values for all keys, through a guard whose loader makes them.
pub(super) fn fill_cache(url: &CacheUrl, clock: &Arc<dyn Clock>) -> Result<(), GuardError> {
    let loader = |keys: &[Bytes]| Ok(vec![Some(Bytes::from_static(&[b'v'; 100])); keys.len()]);
    let config = GuardConfig {
        cache: url.clone(),
        near_capacity: 0,
        ttl: Duration::from_secs(24 * 3_600),
        ..GuardConfig::default()
    };
    let guard = Guard::open(config, Arc::new(loader), Arc::clone(clock))?;
    let keys: Vec<Bytes> = (0..KEYS).filter_map(|rank| u32::try_from(rank).ok()).map(key).collect();
    // Answers come before the cache has taken the values: they are there once nothing is loaded any more.
    for _ in 0..10 {
        let before = guard.stats().loads;
        for keys in keys.chunks(10_000) {
            guard.get_many(keys, Lane::Normal)?;
        }
        std::thread::sleep(Duration::from_millis(200));
        if guard.stats().loads == before {
            return Ok(());
        }
    }
    Err(GuardError::Start(format!("{url} does not keep {KEYS} values of 100 bytes: give it more memory")))
}

/// One round trip and rate.
struct Point<'a> {
    config: &'a SweepConfig,
    rtt: Duration,
    error_us: u64,
    rate: f64,
    clock: &'a Arc<dyn Clock>,
    ranks: &'a [u32],
}

/// One run: latencies in nanoseconds.
struct Run {
    latency: Histogram,
    requests_per_s: u64,
    sustained: bool,
    /// The longest time for which the sending thread did not run.
    gap_ns: u64,
}

impl Point<'_> {
    fn rows(&self, delay: &Delay) -> Result<Vec<SweepRow>, GuardError> {
        let url = format!("redis://{}", delay.addr);
        let open = |fixed: Option<Settings>| {
            let config =
                GuardConfig { cache: CacheUrl::parse(&url)?, near_capacity: 0, ..GuardConfig::default() };
            Guard::open_to_measure(config, fixed, Arc::clone(self.clock)).map(|guard| (fixed, guard))
        };
        let choices = std::iter::once(None).chain(fixed_settings().into_iter().map(Some));
        let guards: Vec<_> = choices.map(open).collect::<Result<_, _>>()?;
        // The tuner finds its settings first.
        self.run(&guards[0].1, 0, Duration::from_secs(3));
        let mut runs: Vec<Vec<Run>> = guards.iter().map(|_| Vec::new()).collect();
        for repeat in 0..self.config.repeats.max(1) {
            for (at, (_, guard)) in guards.iter().enumerate() {
                let offset = (repeat * guards.len() + at) * 7_919;
                runs[at].push(self.run_undisturbed(guard, offset));
            }
        }
        Ok(guards.iter().zip(runs).map(|((fixed, guard), runs)| self.row(*fixed, guard, &runs)).collect())
    }

    fn row(&self, fixed: Option<Settings>, guard: &Guard, runs: &[Run]) -> SweepRow {
        let median = |figure: fn(&Run) -> u64| {
            let mut all: Vec<u64> = runs.iter().map(figure).collect();
            all.sort_unstable();
            all.get(all.len() / 2).copied().unwrap_or(0)
        };
        SweepRow {
            rtt_us: u64::try_from(self.rtt.as_micros()).unwrap_or(u64::MAX),
            rtt_error_us: self.error_us,
            rate: self.rate,
            tuned: fixed.is_none(),
            settings: guard.stats().settings,
            p50_us: median(|run| run.latency.quantile_ns(0.5)) / 1_000,
            p99_us: median(|run| run.latency.quantile_ns(0.99)) / 1_000,
            requests_per_s: median(|run| run.requests_per_s),
            sustained: runs.iter().all(|run| run.sustained),
        }
    }

    /// A run in which the machine did not stand still; after five tries whatever there is.
    fn run_undisturbed(&self, guard: &Guard, offset: usize) -> Run {
        for _ in 0..4 {
            let warm = self.run(guard, offset, self.config.run / 2);
            let run = self.run(guard, offset + 1, self.config.run);
            if warm.gap_ns.max(run.gap_ns) < STALL_NS {
                return run;
            }
        }
        self.run(guard, offset + 1, self.config.run)
    }

    fn run(&self, guard: &Guard, offset: usize, time: Duration) -> Run {
        let measured = Arc::new(Samples::new(self.clock));
        let mut random = Seed::new(offset as u64 + 1);
        let (requests, begin) = (guard.stats().round_trips, self.clock.monotonic_ns());
        let end = begin + u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let (mut next, mut asked, mut last, mut gap_ns) = (begin, 0_u64, begin, 0);
        let mut ranks = self.ranks.iter().cycle().skip(offset % self.ranks.len().max(1));
        while next < end {
            let now = self.clock.monotonic_ns();
            gap_ns = gap_ns.max(now - last);
            last = now;
            while next <= now && next < end {
                let Some(rank) = ranks.next() else { break };
                guard.measure(key(*rank), Lane::Normal, next, Arc::clone(&measured) as Arc<dyn Measured>);
                asked += 1;
                next += exponential_ns(&mut random, 1e9 / self.rate).max(1);
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        let patience = end + u64::try_from(PATIENCE.as_nanos()).unwrap_or(u64::MAX);
        while measured.count.load(Relaxed) < asked && self.clock.monotonic_ns() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
        let elapsed = (self.clock.monotonic_ns() - begin).max(1);
        let mut latency = measured.latency.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let missing = asked.saturating_sub(latency.len());
        latency.record(self.clock.monotonic_ns() - begin, missing);
        let requests_per_s = (guard.stats().round_trips - requests).saturating_mul(1_000_000_000) / elapsed;
        let failed = measured.failed.load(Relaxed);
        Run { latency, requests_per_s, sustained: missing == 0 && failed == 0, gap_ns }
    }
}

/// Where the answers of one run are counted.
pub(super) struct Samples {
    clock: Arc<dyn Clock>,
    latency: Mutex<Histogram>,
    count: AtomicU64,
    failed: AtomicU64,
}

impl Samples {
    pub(super) fn new(clock: &Arc<dyn Clock>) -> Self {
        Self { clock: Arc::clone(clock), ..Self::default() }
    }

    pub(super) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    pub(super) fn latency(&self) -> Histogram {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Default for Samples {
    fn default() -> Self {
        Self {
            clock: RealClock::shared(),
            latency: Mutex::default(),
            count: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }
}

impl std::fmt::Debug for Samples {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Samples").field("count", &self.count).finish_non_exhaustive()
    }
}

impl Measured for Samples {
    fn answered(&self, since_ns: u64, found: bool) {
        let ns = self.clock.monotonic_ns().saturating_sub(since_ns);
        self.latency.lock().unwrap_or_else(PoisonError::into_inner).record(ns, 1);
        self.failed.fetch_add(u64::from(!found), Relaxed);
        self.count.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tuner_runs_in_turns_with_fixed_settings_behind_a_round_trip() {
        let config = SweepConfig {
            rtts: vec![Duration::from_millis(2)],
            rates: vec![3_000.0],
            repeats: 1,
            run: Duration::from_millis(100),
            ..SweepConfig::default()
        };
        let mut rows = Vec::new();
        sweep(&config, |point| rows.extend_from_slice(point)).unwrap();
        assert_eq!(rows.len(), 1 + fixed_settings().len());
        assert!(rows[0].tuned && rows.iter().skip(1).all(|row| !row.tuned));
        assert!(rows.iter().all(|row| row.p50_us >= 2_000), "a round trip at least: {rows:?}");
        assert!(rows.iter().filter(|row| row.sustained).count() * 2 > rows.len(), "{rows:?}");
        let fixed: Vec<_> = rows.iter().skip(1).map(|row| row.settings).collect();
        assert_eq!(fixed, fixed_settings(), "nothing moves what is fixed");
        assert!(rows[0].rtt_error_us < 1_000_000, "{}", rows[0].rtt_error_us);
    }

    /// Run with `--ignored --nocapture` in release; `RATES`, `RTTS` (us) and `REPEATS` narrow it.
    #[test]
    #[ignore = "a measurement"]
    fn measure_the_tuner() {
        let list = |name: &str, all: &str| -> Vec<f64> {
            let text = std::env::var(name).unwrap_or_else(|_| all.into());
            text.split(',').map(|number| number.parse().unwrap()).collect()
        };
        let config = SweepConfig {
            rtts: list("RTTS", "500,2000").into_iter().map(|us| Duration::from_secs_f64(us / 1e6)).collect(),
            rates: list("RATES", "20e3,100e3"),
            repeats: list("REPEATS", "3").first().map_or(3, |n| *n as usize),
            ..SweepConfig::default()
        };
        sweep(&config, |rows| {
            rows.iter().for_each(|row| println!("{}", serde_json::to_string(row).unwrap()));
        })
        .unwrap();
    }
}
