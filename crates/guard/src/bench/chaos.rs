//! The guard in trouble: a real cache behind a relay that fails in every way it knows ([`super::trouble`]), a system of record that is slow and
//! fails too, values that change behind the cache. Every look-up must get its own value, no older than the last invalidation that had returned
//! when it was asked, or an explicit error; none may hang; and the system of record must never see more queries at once than was stated.

use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use herdsman_host::{Clock, RealClock, Seed};
use serde::Serialize;

use super::trouble::Trouble;
use super::{ms, place};
use crate::config::{GuardConfig, Lane};
use crate::error::{GuardError, LoadError};
use crate::guard::Guard;
use crate::histogram::Histogram;
use crate::loading::Loader;
use crate::url::CacheUrl;

const DEADLINE: Duration = Duration::from_secs(2);
const LOADERS: usize = 3;

/// How to make trouble.
#[derive(Debug, Clone)]
pub struct ChaosConfig {
    /// The cache; `embedded` starts one.
    pub cache: String,
    /// How long.
    pub time: Duration,
    /// Decides every dice, if not every interleaving.
    pub seed: u64,
    /// Threads that look up.
    pub threads: usize,
    /// Keys looked up.
    pub keys: u64,
    /// Reads hedged (see [`GuardConfig::hedge`]).
    pub hedge: bool,
}

impl Default for ChaosConfig {
    fn default() -> Self {
        Self {
            cache: "embedded".into(),
            time: Duration::from_secs(10),
            seed: 1,
            threads: 16,
            keys: 2_000,
            hedge: false,
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct ChaosReport {
    /// How long it ran, seconds.
    pub seconds: f64,
    /// Requests, each for one to twenty keys.
    pub requests: u64,
    /// Those answered with a right value for every key.
    pub right: u64,
    /// Those answered with an explicit error.
    pub errors: u64,
    /// Values of another key, or older than the last invalidation; must be 0.
    pub wrong: u64,
    /// The first wrong one, in words.
    pub first_wrong: Option<String>,
    /// Requests that took longer than the deadline allows; must be 0.
    pub hung: u64,
    /// The slowest request, milliseconds; the deadline is 2,000.
    pub slowest_ms: f64,
    /// The longest time in which this machine did not run us at all, milliseconds.
    pub stalled_ms: f64,
    /// Median of a request, milliseconds.
    pub p50_ms: f64,
    /// 99th percentile, milliseconds.
    pub p99_ms: f64,
    /// Values changed and invalidated.
    pub changes: u64,
    /// Times the cache was gone, with all connections.
    pub outages: u64,
    /// Replies cut in the middle.
    pub cuts: u64,
    /// Replies held back by up to 60 ms.
    pub delays: u64,
    /// Replies held back by three seconds.
    pub silences: u64,
    /// Commands answered LOADING, OOM, MOVED, BUSY or READONLY.
    pub error_replies: u64,
    /// Connections that the guard opened.
    pub connects: u64,
    /// Queries at the system of record.
    pub load_queries: u64,
    /// The most at once …
    pub loaders_seen: usize,
    /// … of these allowed.
    pub loaders_allowed: usize,
    /// Requests answered right within a second of the end of all trouble.
    pub recovered: bool,
}

impl ChaosReport {
    /// Everything that must hold, held.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.wrong == 0 && self.hung == 0 && self.loaders_seen <= self.loaders_allowed && self.recovered
    }
}

/// Values with versions; counts the queries that run at once.
#[derive(Debug)]
struct Record {
    versions: Vec<AtomicU64>,
    /// The version at the last invalidation that has returned.
    floors: Vec<AtomicU64>,
    now: AtomicUsize,
    most: AtomicUsize,
    dice: AtomicU64,
    calm: Arc<AtomicBool>,
}

fn number(key: &[u8]) -> Option<usize> {
    std::str::from_utf8(key).ok()?.strip_prefix("chaos:")?.parse().ok()
}

impl Record {
    fn value(&self, key: &Bytes) -> Option<Bytes> {
        let version = self.versions.get(number(key)?)?.load(SeqCst);
        // Of many lengths, so that cuts fall everywhere.
        let padding = "=".repeat(usize::try_from(version).unwrap_or(0) * 37 % 400);
        Some(Bytes::from([key.as_ref(), format!("@{version}@{padding}").as_bytes()].concat()))
    }

    /// What is wrong with `found` as the value of `key`, if anything is.
    fn wrong(&self, key: &Bytes, floor: u64, found: Option<&Bytes>) -> Option<String> {
        let Some(found) = found else { return Some(format!("{key:?} is said not to exist")) };
        let text = String::from_utf8_lossy(found);
        let mut parts = text.split('@');
        let version = (parts.next()?.as_bytes() == key.as_ref()).then(|| parts.next()?.parse::<u64>().ok());
        match version.flatten() {
            None => Some(format!("{key:?} got {text}")),
            Some(version) if version < floor => {
                Some(format!("{key:?} got version {version}, invalidated at {floor}"))
            }
            Some(_) => None,
        }
    }
}

impl Loader for Record {
    fn load(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LoadError> {
        self.most.fetch_max(self.now.fetch_add(1, SeqCst) + 1, SeqCst);
        let dice = Seed::new(self.dice.fetch_add(1, Relaxed)).next_u64();
        let values = keys.iter().map(|key| self.value(key)).collect();
        std::thread::sleep(Duration::from_micros(dice % 4_000));
        self.now.fetch_sub(1, SeqCst);
        if dice.is_multiple_of(50) && !self.calm.load(Relaxed) {
            return Err(LoadError("the table is locked".into()));
        }
        Ok(values)
    }
}

#[derive(Debug, Default)]
struct Seen {
    latency: Histogram,
    right: u64,
    errors: u64,
    wrong: u64,
    first_wrong: Option<String>,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.latency.merge(&other.latency);
        self.right += other.right;
        self.errors += other.errors;
        self.wrong += other.wrong;
        self.first_wrong = self.first_wrong.take().or(other.first_wrong);
    }
}

/// Makes trouble for as long as it is told.
///
/// # Errors
/// When the cache, the relay or the guard cannot be started.
pub fn chaos(config: &ChaosConfig) -> Result<ChaosReport, GuardError> {
    let clock = RealClock::shared();
    let failed = |error: std::io::Error| GuardError::Start(error.to_string());
    let (_server, url) = place(&CacheUrl::parse(&config.cache)?, &clock)?;
    let CacheUrl::Redis { place: at, .. } = &url else {
        return Err(GuardError::Start(format!(
            "chaos needs one Redis server, not {url}: pass redis://host:port"
        )));
    };
    let upstream = (at.host.as_str(), at.port).to_socket_addrs().map_err(failed)?.next();
    let upstream = upstream.ok_or_else(|| GuardError::Address(url.to_string()))?;
    let trouble = Trouble::start(upstream, config.seed).map_err(failed)?;
    let numbers = || (0..config.keys).map(|_| AtomicU64::new(0)).collect();
    let record = Arc::new(Record {
        versions: numbers(),
        floors: numbers(),
        now: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
        dice: AtomicU64::new(config.seed),
        calm: Arc::clone(&trouble.calm),
    });
    let guard_config = GuardConfig {
        cache: CacheUrl::redis(trouble.addr),
        ttl: Duration::from_secs(3),
        near_ttl: Duration::from_millis(300),
        near_capacity: usize::try_from(config.keys / 4).unwrap_or(500),
        deadline: DEADLINE,
        loaders: LOADERS,
        hedge: config.hedge,
        ..GuardConfig::default()
    };
    let guard = Guard::open(guard_config, Arc::clone(&record) as Arc<dyn Loader>, Arc::clone(&clock))?;
    let (stop, begin) = (AtomicBool::new(false), clock.monotonic_ns());
    let mut seen = Seen::default();
    let (mut changes, mut stalled_ns) = (0, 0);
    std::thread::scope(|scope| {
        let askers: Vec<_> = (0..config.threads.max(1) as u64)
            .map(|n| {
                let (guard, record, stop, clock) = (&guard, &record, &stop, &clock);
                let seed = Seed::new(config.seed.wrapping_mul(1_000) + n);
                scope.spawn(move || ask(guard, record, stop, &**clock, seed))
            })
            .collect();
        let changer = scope.spawn(|| change(&guard, &record, &stop, config.seed));
        let end_ns = begin + u64::try_from(config.time.as_nanos()).unwrap_or(u64::MAX);
        let mut now_ns = begin;
        while now_ns < end_ns {
            std::thread::sleep(Duration::from_millis(5));
            let next_ns = clock.monotonic_ns();
            stalled_ns = stalled_ns.max(next_ns - now_ns);
            now_ns = next_ns;
        }
        stop.store(true, SeqCst);
        changes = changer.join().unwrap_or(0);
        askers.into_iter().filter_map(|asker| asker.join().ok()).for_each(|part| seen.add(part));
    });
    trouble.calm.store(true, SeqCst);
    let seconds = ms(clock.monotonic_ns() - begin) / 1e3;
    let recovered = recovers(&guard, &record, &*clock);
    let deeds = &trouble.deeds;
    let limit_ns = u64::try_from(DEADLINE.as_nanos()).unwrap_or(u64::MAX) + 500_000_000 + stalled_ns;
    let hung =
        seen.latency.counts().filter(|(ns, _)| *ns > limit_ns + limit_ns / 16).map(|(_, count)| count).sum();
    let stats = guard.stats();
    Ok(ChaosReport {
        seconds,
        requests: seen.right + seen.errors + u64::from(seen.wrong > 0),
        right: seen.right,
        errors: seen.errors,
        wrong: seen.wrong,
        first_wrong: seen.first_wrong,
        hung,
        slowest_ms: ms(seen.latency.max_ns()),
        stalled_ms: ms(stalled_ns),
        p50_ms: ms(seen.latency.quantile_ns(0.5)),
        p99_ms: ms(seen.latency.quantile_ns(0.99)),
        changes,
        outages: deeds.outages.load(Relaxed),
        cuts: deeds.cuts.load(Relaxed),
        delays: deeds.delays.load(Relaxed),
        silences: deeds.silences.load(Relaxed),
        error_replies: deeds.errors.load(Relaxed),
        connects: stats.connects,
        load_queries: stats.load_queries,
        loaders_seen: record.most.load(SeqCst),
        loaders_allowed: LOADERS,
        recovered,
    })
}

fn ask(guard: &Guard, record: &Record, stop: &AtomicBool, clock: &dyn Clock, mut random: Seed) -> Seen {
    let mut seen = Seen::default();
    while !stop.load(SeqCst) {
        let count = 1 + random.next_u64() % 20;
        let keys: Vec<Bytes> = (0..count)
            .map(|_| Bytes::from(format!("chaos:{}", random.next_u64() % record.versions.len() as u64)))
            .collect();
        let floor =
            |key: &Bytes| number(key).and_then(|n| record.floors.get(n)).map_or(0, |n| n.load(SeqCst));
        let floors: Vec<u64> = keys.iter().map(floor).collect();
        let lane = Lane::ALL[usize::try_from(random.next_u64() % 3).unwrap_or(0)];
        let begin = clock.monotonic_ns();
        let found = guard.get_many(&keys, lane);
        seen.latency.record(clock.monotonic_ns() - begin, 1);
        let Ok(found) = found else {
            seen.errors += 1;
            continue;
        };
        let wrong: Vec<String> = keys
            .iter()
            .zip(&floors)
            .zip(&found)
            .filter_map(|((key, floor), found)| record.wrong(key, *floor, found.as_ref()))
            .collect();
        seen.right += u64::from(wrong.is_empty());
        seen.wrong += wrong.len() as u64;
        seen.first_wrong = seen.first_wrong.take().or(wrong.into_iter().next());
    }
    seen
}

/// Changes values behind the cache, and says so.
fn change(guard: &Guard, record: &Record, stop: &AtomicBool, seed: u64) -> u64 {
    let (mut random, mut changes) = (Seed::new(seed ^ 0xC0FF_EE00), 0);
    while !stop.load(SeqCst) {
        let n = random.next_u64() % record.versions.len() as u64;
        let at = usize::try_from(n).unwrap_or(0);
        if let (Some(version), Some(floor)) = (record.versions.get(at), record.floors.get(at)) {
            let version = version.fetch_add(1, SeqCst) + 1;
            guard.invalidate(&[format!("chaos:{n}")]);
            floor.store(version, SeqCst);
            changes += 1;
        }
        std::thread::sleep(Duration::from_micros(random.next_u64() % 8_000));
    }
    changes
}

/// With no more trouble the cache is asked again, and the answers are right, within two seconds (a back-off takes one at most).
fn recovers(guard: &Guard, record: &Record, clock: &dyn Clock) -> bool {
    let begin = clock.monotonic_ns();
    let keys: Vec<Bytes> = (0..10).map(|n| Bytes::from(format!("chaos:{n}"))).collect();
    while clock.monotonic_ns() - begin < 4_000_000_000 {
        std::thread::sleep(Duration::from_millis(20));
        let right = guard.get_many(&keys, Lane::Urgent).is_ok_and(|found| {
            keys.iter().zip(&found).all(|(key, found)| record.wrong(key, 0, found.as_ref()).is_none())
        });
        if right && guard.explain().breaker == "closed" {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_chaos_every_request_gets_its_right_value_or_an_error() {
        for (seed, hedge) in [(1, false), (2, true)] {
            let config = ChaosConfig { time: Duration::from_secs(5), seed, hedge, ..ChaosConfig::default() };
            let report = chaos(&config).unwrap();
            println!("{}", serde_json::to_string(&report).unwrap());
            assert!(report.is_good(), "{report:?}");
            assert!(report.outages > 0 && report.cuts > 0 && report.error_replies > 0, "{report:?}");
            assert!(report.right > 1_000 && report.errors < report.right, "{report:?}");
        }
    }
}
