//! The pool while it changes: what look-ups see of connections that are opened and drained under load, and of a server that comes back to
//! a thousand clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use herdsman_host::{Clock, RealClock, Seed};
use serde::Serialize;

use super::member::exponential_ns;
use super::sweep::Samples;
use super::{ms, place};
use crate::config::{GuardConfig, Lane};
use crate::core::Measured;
use crate::embedded::{CacheConfig, CacheServer};
use crate::error::GuardError;
use crate::guard::Guard;
use crate::histogram::Histogram;
use crate::tuner::Settings;
use crate::url::CacheUrl;

const WINDOW: Duration = Duration::from_millis(100);
const BASE: u32 = 8;

/// What to measure.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// The cache; `embedded` starts one.
    pub cache: String,
    /// Look-ups per second.
    pub rate: f64,
    /// How often the pool grows and shrinks by eight.
    pub repeats: usize,
    /// Connections added at once.
    pub many: u32,
    /// Clients of the server that restarts.
    pub clients: usize,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self { cache: "embedded".into(), rate: 20_000.0, repeats: 15, many: 500, clients: 1_000 }
    }
}

/// What look-ups saw of one kind of change, medians over the repeats.
#[derive(Debug, Clone, Serialize)]
pub struct PoolRow {
    /// `control`, `+8`, `-8`, `+500` …
    pub change: String,
    /// From the change on, milliseconds.
    pub window_ms: f64,
    /// Median, milliseconds.
    pub p50_ms: f64,
    /// 99th percentile, milliseconds.
    pub p99_ms: f64,
    /// The slowest look-up, milliseconds.
    pub max_ms: f64,
    /// Connections ready at the end.
    pub connections: u32,
}

/// What a restart looked like from its clients.
#[derive(Debug, Clone, Serialize)]
pub struct RestartReport {
    /// Clients, each with its own guard.
    pub clients: usize,
    /// How long the server was away, milliseconds.
    pub away_ms: f64,
    /// From its return to the first client's first answer, milliseconds.
    pub first_ms: f64,
    /// To the median client's.
    pub p50_ms: f64,
    /// To the last client's.
    pub last_ms: f64,
    /// The most clients that came back within the same 10 ms.
    pub most_in_10_ms: u64,
}

/// Measures a pool of eight that grows and shrinks under load.
///
/// # Errors
/// When the cache or the guard cannot be started.
pub fn pool(config: &PoolConfig, mut each: impl FnMut(&PoolRow)) -> Result<(), GuardError> {
    let clock = RealClock::shared();
    let (_server, url) = place(&CacheUrl::parse(&config.cache)?, &clock)?;
    let guard_config = GuardConfig { cache: url, near_capacity: 0, ..GuardConfig::default() };
    let guard = Guard::open_to_measure(guard_config, Some(settings(BASE)), Arc::clone(&clock))?;
    let bench = Bench { guard, rate: config.rate, clock };
    bench.wait_for(BASE)?;
    bench.run(Duration::from_secs(1), 0); // warm
    let mut windows: [Vec<Histogram>; 3] = Default::default();
    for repeat in 0..config.repeats.max(1) {
        let [control, grown, shrunk] = &mut windows;
        control.push(bench.run(WINDOW, repeat));
        bench.guard.fix(settings(BASE + 8));
        grown.push(bench.run(WINDOW, repeat));
        bench.wait_for(BASE + 8)?;
        bench.run(WINDOW, repeat);
        bench.guard.fix(settings(BASE));
        shrunk.push(bench.run(WINDOW, repeat));
        bench.wait_for(BASE)?;
        bench.run(WINDOW, repeat);
    }
    for (change, (windows, connections)) in
        ["control", "+8", "-8"].iter().zip(windows.iter().zip([BASE, BASE + 8, BASE]))
    {
        each(&row(change, windows, WINDOW, connections));
    }
    bench.guard.fix(settings(BASE + config.many));
    let long = Duration::from_millis(500 + 2 * u64::from(config.many));
    let grown = bench.run(long, 0);
    bench.wait_for(BASE + config.many)?;
    each(&row(&format!("+{}", config.many), &[grown], long, BASE + config.many));
    let steady = bench.run(long, 1);
    each(&row("control", &[steady], long, BASE + config.many));
    bench.guard.fix(settings(BASE));
    let shrunk = bench.run(long, 0);
    each(&row(&format!("-{}", config.many), &[shrunk], long, bench.guard.explain().connections_ready));
    Ok(())
}

fn settings(connections: u32) -> Settings {
    Settings { batch_size: 1, linger_us: 0, connections, depth: 4 }
}

fn row(change: &str, windows: &[Histogram], window: Duration, connections: u32) -> PoolRow {
    let median = |figure: &dyn Fn(&Histogram) -> u64| {
        let mut all: Vec<u64> = windows.iter().map(figure).collect();
        all.sort_unstable();
        ms(all.get(all.len() / 2).copied().unwrap_or(0))
    };
    PoolRow {
        change: change.to_owned(),
        window_ms: window.as_secs_f64() * 1e3,
        p50_ms: median(&|window| window.quantile_ns(0.5)),
        p99_ms: median(&|window| window.quantile_ns(0.99)),
        max_ms: median(&Histogram::max_ns),
        connections,
    }
}

struct Bench {
    guard: Guard,
    rate: f64,
    clock: Arc<dyn Clock>,
}

impl Bench {
    fn wait_for(&self, connections: u32) -> Result<(), GuardError> {
        for _ in 0..1_000 {
            if self.guard.explain().connections_ready == connections {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(GuardError::Start(format!("the pool does not come to {connections} connections within 10 s")))
    }

    /// Open loop: each look-up counts from its intended arrival.
    fn run(&self, time: Duration, offset: usize) -> Histogram {
        let measured = Arc::new(Samples::new(&self.clock));
        let mut random = Seed::new(offset as u64 + 1);
        let begin = self.clock.monotonic_ns();
        let end = begin + u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let (mut next, mut asked) = (begin, 0_u64);
        while next < end {
            let now = self.clock.monotonic_ns();
            while next <= now && next < end {
                let key = Bytes::from(format!("pool:{}", random.next_u64() % 100_000));
                self.guard.measure(key, Lane::Normal, next, Arc::clone(&measured) as Arc<dyn Measured>);
                asked += 1;
                next += exponential_ns(&mut random, 1e9 / self.rate).max(1);
            }
            std::thread::sleep(Duration::from_micros(20));
        }
        while measured.count() < asked {
            std::thread::sleep(Duration::from_micros(100));
        }
        measured.latency()
    }
}

/// Takes the embedded cache away from its clients for `away`, and gives it back on the same port.
///
/// # Errors
/// When the cache or a guard cannot be started, or a client never comes back.
pub fn restart(clients: usize, away: Duration) -> Result<RestartReport, GuardError> {
    let clock = RealClock::shared();
    let failed = |error: std::io::Error| GuardError::Start(error.to_string());
    let cache = |addr| {
        CacheServer::start(addr, CacheConfig { clock: Arc::clone(&clock), ..CacheConfig::default() })
            .map_err(failed)
    };
    let server = cache(([127, 0, 0, 1], 0).into())?;
    let addr = server.addr();
    let config = GuardConfig { cache: CacheUrl::redis(addr), near_capacity: 0, ..GuardConfig::default() };
    let guards: Vec<Guard> = (0..clients)
        .map(|_| Guard::open_without_record(config.clone(), Arc::clone(&clock)))
        .collect::<Result<_, _>>()?;
    for guard in &guards {
        guard.get_many(&["a"], Lane::Normal)?;
    }
    let back_ns: Vec<AtomicU64> = guards.iter().map(|_| AtomicU64::new(0)).collect();
    let stop = AtomicBool::new(false);
    let (mut returned_ns, mut away_ns) = (0, 0);
    std::thread::scope(|scope| -> Result<(), GuardError> {
        let gone_ns = clock.monotonic_ns();
        drop(server);
        // Four threads ask on behalf of all clients, each at least every 20 ms or as fast as it goes.
        for (guards, back_ns) in guards.chunks(clients.div_ceil(4)).zip(back_ns.chunks(clients.div_ceil(4))) {
            let (stop, clock) = (&stop, &clock);
            scope.spawn(move || {
                while !stop.load(SeqCst) && back_ns.iter().any(|back| back.load(SeqCst) == 0) {
                    for (guard, back) in guards.iter().zip(back_ns) {
                        // Notices the loss first: asking is what finds it.
                        if back.load(SeqCst) == 0 && guard.explain().breaker == "closed" {
                            let found = guard.get_many(&["a"], Lane::Normal);
                            if found.is_ok() {
                                back.store(clock.monotonic_ns(), SeqCst);
                            }
                        }
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        }
        std::thread::sleep(away);
        let _server = cache(addr).inspect_err(|_| stop.store(true, SeqCst))?;
        returned_ns = clock.monotonic_ns();
        away_ns = returned_ns - gone_ns;
        for _ in 0..1_000 {
            if back_ns.iter().all(|back| back.load(SeqCst) > 0) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        stop.store(true, SeqCst);
        Ok(())
    })?;
    let mut waits: Vec<u64> =
        back_ns.iter().map(|back| back.load(SeqCst).saturating_sub(returned_ns)).collect();
    if back_ns.iter().any(|back| back.load(SeqCst) == 0) {
        return Err(GuardError::Start("a client has not come back within 10 s".into()));
    }
    waits.sort_unstable();
    let at = |share: usize| ms(waits.get(share * waits.len().saturating_sub(1) / 100).copied().unwrap_or(0));
    let mut most = 0;
    for (n, wait) in waits.iter().enumerate() {
        most = most.max(waits[n..].iter().take_while(|other| **other < wait + 10_000_000).count() as u64);
    }
    Ok(RestartReport {
        clients,
        away_ms: ms(away_ns),
        first_ms: at(0),
        p50_ms: at(50),
        last_ms: at(100),
        most_in_10_ms: most,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_changes_under_load_without_losing_a_look_up() {
        let config = PoolConfig { rate: 2_000.0, repeats: 2, many: 50, ..PoolConfig::default() };
        let mut rows = Vec::new();
        pool(&config, |row| rows.push(row.clone())).unwrap();
        let seen: Vec<_> = rows.iter().map(|row| (row.change.as_str(), row.connections)).collect();
        let expected = [("control", 8), ("+8", 16), ("-8", 8), ("+50", 58), ("control", 58), ("-50", 8)];
        assert_eq!(seen, expected);
        println!("{rows:?}");
    }

    #[test]
    fn the_clients_of_a_server_that_restarts_come_back_one_after_the_other() {
        let report = restart(100, Duration::from_millis(1_500)).unwrap();
        println!("{report:?}");
        assert!(report.first_ms < 1_000.0 && report.most_in_10_ms < 50, "{report:?}");
    }

    /// Run with `--ignored --nocapture` in release.
    #[test]
    #[ignore = "a measurement"]
    fn measure_the_pool() {
        pool(&PoolConfig::default(), |row| println!("{}", serde_json::to_string(row).unwrap())).unwrap();
        println!("{:?}", restart(1_000, Duration::from_secs(3)).unwrap());
    }
}
