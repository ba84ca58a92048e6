//! The two quick measurements behind `herdsman bench herd` and `herdsman bench guard`. They return numbers; the command line
//! prints them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use herdsman_host::{Clock, RealClock};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;

use crate::config::{CacheUrl, GuardConfig, Lane};
use crate::connection::ready;
use crate::embedded::{CacheConfig, CacheServer};
use crate::error::{GuardError, LoadError};
use crate::guard::Guard;
use crate::histogram::Histogram;
use crate::loading::Loader;
use crate::protocol::{put_array, put_bulk};
use crate::tuner::Settings;

/// Connections of the plain client, to the cache and to its system of record: what a service would configure.
const PLAIN_POOL: usize = 64;

/// One way of serving the herd.
#[derive(Debug, Clone, Serialize)]
pub struct HerdSide {
    /// Keys asked of the system of record.
    pub loads: u64,
    /// Look-up requests sent to the cache.
    pub cache_requests: u64,
    /// Median from the common start to an answer, milliseconds.
    pub p50_ms: f64,
    /// 99th percentile of the same, milliseconds.
    pub p99_ms: f64,
    /// The last answer, milliseconds.
    pub max_ms: f64,
}

/// The guard beside a plain cache-aside client, in one run.
#[derive(Debug, Clone, Serialize)]
pub struct HerdReport {
    /// Identical look-ups at once.
    pub lookups: u64,
    /// What one load takes, milliseconds.
    pub load_ms: f64,
    /// Through the guard.
    pub guard: HerdSide,
    /// GET, load, SET per look-up; 64 connections to the cache and 64 to the system of record.
    pub plain: HerdSide,
}

/// How fast batches of look-ups go.
#[derive(Debug, Clone, Serialize)]
pub struct LookupReport {
    /// Look-ups per second of one calling thread, Zipf 0.99 over `keys` keys, in batches of `batch`.
    pub lookups_per_s: f64,
    /// Distinct keys.
    pub keys: usize,
    /// Keys per call.
    pub batch: usize,
    /// Share answered by the near cache.
    pub near_hit_ratio: f64,
    /// Nanoseconds per key when every key is in the near cache.
    pub near_ns_per_key: f64,
    /// Median of one call, milliseconds.
    pub call_p50_ms: f64,
    /// 99th percentile of one call, milliseconds.
    pub call_p99_ms: f64,
    /// Requests to the cache.
    pub round_trips: u64,
    /// Keys asked of the system of record.
    pub loads: u64,
    /// What the tuner had chosen at the end.
    pub settings: Settings,
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

struct SlowRecord {
    delay: Duration,
    loads: AtomicU64,
}

impl Loader for SlowRecord {
    fn load(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LoadError> {
        self.loads.fetch_add(keys.len() as u64, Relaxed);
        std::thread::sleep(self.delay);
        Ok(keys.iter().map(|_| Some(Bytes::from_static(b"treasure"))).collect())
    }
}

/// [`herd_on`] a cache of our own.
///
/// # Errors
/// When a thread or the cache cannot be started.
pub fn herd(n: usize, load: Duration) -> Result<HerdReport, GuardError> {
    herd_on(n, load, &CacheUrl::Embedded, &RealClock::shared())
}

/// `n` identical cold misses at once: through the guard, then as plain cache-aside, on the same cache. `Embedded` starts one.
///
/// # Errors
/// When the cache or a thread cannot be started, or a look-up fails.
pub fn herd_on(
    n: usize,
    load: Duration,
    cache: &CacheUrl,
    clock: &Arc<dyn Clock>,
) -> Result<HerdReport, GuardError> {
    let (_server, url) = place(cache, clock)?;
    let start = |error: std::io::Error| GuardError::Start(error.to_string());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(start)?;
    let nonce = clock.monotonic_ns() ^ clock.now_ms().unsigned_abs();
    let guard =
        runtime.block_on(guarded(n, load, &url, Bytes::from(format!("herd:{nonce}:guard")), clock))?;
    let plain = runtime.block_on(plain(n, load, &url, Bytes::from(format!("herd:{nonce}:plain")), clock))?;
    Ok(HerdReport { lookups: n as u64, load_ms: load.as_secs_f64() * 1e3, guard, plain })
}

fn place(cache: &CacheUrl, clock: &Arc<dyn Clock>) -> Result<(Option<CacheServer>, CacheUrl), GuardError> {
    if *cache != CacheUrl::Embedded {
        return Ok((None, cache.clone()));
    }
    let config = CacheConfig { clock: Arc::clone(clock), ..CacheConfig::default() };
    let server = CacheServer::start(([127, 0, 0, 1], 0).into(), config);
    let server = server.map_err(|error| GuardError::Start(error.to_string()))?;
    let url = server.url();
    Ok((Some(server), url))
}

async fn guarded(
    n: usize,
    load: Duration,
    url: &CacheUrl,
    key: Bytes,
    clock: &Arc<dyn Clock>,
) -> Result<HerdSide, GuardError> {
    let record = Arc::new(SlowRecord { delay: load, loads: AtomicU64::new(0) });
    // No near cache: what is measured is the single flight.
    let config = GuardConfig { cache: url.clone(), near_capacity: 0, ..GuardConfig::default() };
    let guard = Guard::open(config, Arc::clone(&record) as Arc<dyn Loader>, Arc::clone(clock))?;
    while guard.explain().connections_ready == 0 && guard.explain().breaker == "closed" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (begin, mut tasks) = (clock.monotonic_ns(), JoinSet::new());
    for _ in 0..n {
        let (guard, key, clock) = (guard.clone(), key.clone(), Arc::clone(clock));
        tasks.spawn(async move { guard.get(key, Lane::Normal).await.map(|_| clock.monotonic_ns()) });
    }
    let latency = gather(tasks, begin).await?;
    Ok(side(record.loads.load(Relaxed), guard.stats().round_trips, &latency))
}

async fn gather(mut tasks: JoinSet<Result<u64, GuardError>>, begin: u64) -> Result<Histogram, GuardError> {
    let mut latency = Histogram::default();
    while let Some(done) = tasks.join_next().await {
        let end = done.map_err(|error| GuardError::Start(error.to_string()))??;
        latency.record(end.saturating_sub(begin), 1);
    }
    Ok(latency)
}

fn side(loads: u64, cache_requests: u64, latency: &Histogram) -> HerdSide {
    HerdSide {
        loads,
        cache_requests,
        p50_ms: ms(latency.quantile_ns(0.5)),
        p99_ms: ms(latency.quantile_ns(0.99)),
        max_ms: ms(latency.max_ns()),
    }
}

/// What every service writes first: GET; if absent, read the system of record and SET. Connections come from a pool.
struct Plain {
    free: Semaphore,
    pool: Mutex<Vec<TcpStream>>,
    record: Semaphore,
    memcached: bool,
    loads: AtomicU64,
    gets: AtomicU64,
}

async fn plain(
    n: usize,
    load: Duration,
    url: &CacheUrl,
    key: Bytes,
    clock: &Arc<dyn Clock>,
) -> Result<HerdSide, GuardError> {
    let mut pool = Vec::new();
    for _ in 0..PLAIN_POOL {
        pool.push(ready(url).await.map_err(GuardError::Start)?.0);
    }
    let plain = Arc::new(Plain {
        free: Semaphore::new(PLAIN_POOL),
        pool: Mutex::new(pool),
        record: Semaphore::new(PLAIN_POOL),
        memcached: matches!(url, CacheUrl::Memcached { .. }),
        loads: AtomicU64::new(0),
        gets: AtomicU64::new(0),
    });
    let (begin, mut tasks) = (clock.monotonic_ns(), JoinSet::new());
    for _ in 0..n {
        let (plain, key, clock) = (Arc::clone(&plain), key.clone(), Arc::clone(clock));
        tasks.spawn(async move {
            plain.look_up(&key, load).await.map_err(|error| GuardError::Start(error.to_string()))?;
            Ok(clock.monotonic_ns())
        });
    }
    let latency = gather(tasks, begin).await?;
    Ok(side(plain.loads.load(Relaxed), plain.gets.load(Relaxed), &latency))
}

impl Plain {
    async fn look_up(&self, key: &[u8], load: Duration) -> std::io::Result<()> {
        self.gets.fetch_add(1, Relaxed);
        if self.say(&[b"GET", key]).await? {
            return Ok(());
        }
        {
            let _permit = self.record.acquire().await.map_err(std::io::Error::other)?;
            self.loads.fetch_add(1, Relaxed);
            tokio::time::sleep(load).await;
        }
        self.say(&[b"SET", key, b"treasure"]).await.map(|_| ())
    }

    /// One command on one pooled connection: whether a value came back.
    async fn say(&self, words: &[&[u8]]) -> std::io::Result<bool> {
        let _permit = self.free.acquire().await.map_err(std::io::Error::other)?;
        let stream = self.pool.lock().await.pop();
        let mut stream = stream.ok_or_else(|| std::io::Error::other("the pool is empty"))?;
        let mut bytes = BytesMut::new();
        match words {
            [b"GET", key] if self.memcached => bytes.extend_from_slice(&[b"get ", *key, b"\r\n"].concat()),
            [_, key, value] if self.memcached => {
                let head = format!(" 0 60 {}\r\n", value.len());
                bytes.extend_from_slice(&[b"set ", *key, head.as_bytes(), value, b"\r\n"].concat());
            }
            _ => {
                put_array(&mut bytes, words.len());
                words.iter().for_each(|word| put_bulk(&mut bytes, word));
            }
        }
        stream.write_all(&bytes).await?;
        bytes.clear();
        let get = words.len() == 2;
        let found = loop {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let value = bytes.starts_with(b"$8") || bytes.starts_with(b"VALUE");
            let whole: &[u8] = if self.memcached && get { b"END\r\n" } else { b"\r\n" };
            let lines = if value && !self.memcached { 2 } else { 1 };
            if bytes.ends_with(whole) && bytes.iter().filter(|byte| **byte == b'\n').count() >= lines {
                break value;
            }
        };
        self.pool.lock().await.push(stream);
        Ok(found)
    }
}

/// [`lookups_of`] 100,000 keys in batches of 1,000.
///
/// # Errors
/// When the cache or a thread cannot be started, or a look-up fails.
pub fn lookups(cache: CacheUrl, time: Duration) -> Result<LookupReport, GuardError> {
    lookups_of(100_000, 1_000, time, &cache, &RealClock::shared())
}

/// Batches of `batch` different keys, Zipf 0.99 over `keys`, for `time`, from one thread; then the near cache alone.
///
/// # Errors
/// When the cache or a thread cannot be started, or a look-up fails.
pub fn lookups_of(
    keys: usize,
    batch: usize,
    time: Duration,
    cache: &CacheUrl,
    clock: &Arc<dyn Clock>,
) -> Result<LookupReport, GuardError> {
    let record = Arc::new(SlowRecord { delay: Duration::ZERO, loads: AtomicU64::new(0) });
    let config = GuardConfig { cache: cache.clone(), near_capacity: keys / 2, ..GuardConfig::default() };
    let guard = Guard::open(config, record, Arc::clone(clock))?;
    let batches = zipf_batches(keys.max(1), batch.clamp(1, keys.max(1)), 200);
    let (mut out, mut calls) = (Vec::with_capacity(batch), Histogram::default());
    let begin = clock.monotonic_ns();
    let limit = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let mut last = begin;
    for keys in batches.iter().cycle() {
        out.clear();
        guard.get_many_into(keys, &[], Lane::Normal, &mut out)?;
        let now = clock.monotonic_ns();
        calls.record(now - last, 1);
        last = now;
        if now - begin > limit {
            break;
        }
    }
    let stats = guard.stats();
    let near_ns_per_key = near_hits(&guard, batches.first().map_or(&[][..], |keys| keys), clock)?;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let (lookups, near) = (stats.lookups as f64, stats.near_hits as f64);
    Ok(LookupReport {
        lookups_per_s: lookups / (ms(last - begin) / 1e3),
        keys,
        batch,
        near_hit_ratio: near / lookups,
        near_ns_per_key,
        call_p50_ms: ms(calls.quantile_ns(0.5)),
        call_p99_ms: ms(calls.quantile_ns(0.99)),
        round_trips: stats.round_trips,
        loads: stats.loads,
        settings: stats.settings,
    })
}

/// The same batch again and again, read once before: nothing leaves the near cache.
fn near_hits(guard: &Guard, keys: &[Bytes], clock: &Arc<dyn Clock>) -> Result<f64, GuardError> {
    let mut out = Vec::with_capacity(keys.len());
    let rounds = 1 + 2_000_000 / keys.len().max(1);
    guard.get_many_into(keys, &[], Lane::Normal, &mut out)?;
    let begin = clock.monotonic_ns();
    for _ in 0..rounds {
        out.clear();
        guard.get_many_into(keys, &[], Lane::Normal, &mut out)?;
    }
    let elapsed_ms = ms(clock.monotonic_ns() - begin);
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let asked = (rounds * keys.len()) as f64;
    Ok(elapsed_ms * 1e6 / asked)
}

#[expect(clippy::cast_precision_loss, reason = "a distribution")]
fn zipf_batches(keys: usize, batch: usize, batches: usize) -> Vec<Vec<Bytes>> {
    let mut sum = 0.0;
    let weight = |rank: usize| 1.0 / (rank as f64).powf(0.99);
    let cumulative: Vec<f64> = (1..=keys)
        .map(|rank| {
            sum += weight(rank);
            sum
        })
        .collect();
    let mut random = 0x2545_F491_4F6C_DD1D_u64;
    let mut draw = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let at = (random >> 11) as f64 / (1_u64 << 53) as f64 * sum;
        cumulative.partition_point(|edge| *edge < at).min(keys - 1)
    };
    (0..batches)
        .map(|_| {
            // A stream asks once per batch for each key; a draw that repeats stands for the events that share it.
            let mut ranks: Vec<usize> = (0..batch * 2).map(|_| draw()).collect();
            ranks.sort_unstable();
            ranks.dedup();
            ranks.truncate(batch);
            ranks.into_iter().map(|rank| Bytes::from(format!("bench:{rank:08}"))).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_herd_makes_one_load_through_the_guard_and_many_without() {
        let report = herd(500, Duration::from_millis(20)).unwrap();
        assert_eq!((report.guard.loads, report.plain.cache_requests), (1, 500));
        assert!(report.plain.loads > 1, "{report:?}");
    }

    #[test]
    fn look_ups_are_measured_on_the_embedded_cache() {
        let time = Duration::from_millis(200);
        let report = lookups_of(10_000, 500, time, &CacheUrl::Embedded, &RealClock::shared()).unwrap();
        assert!(
            report.lookups_per_s > 1_000.0 && report.near_hit_ratio > 0.0 && report.loads > 0,
            "{report:?}"
        );
    }

    /// Run with `--ignored --nocapture` in release.
    #[test]
    #[ignore = "a measurement"]
    fn measure_herd_and_look_ups() {
        let clock = RealClock::shared();
        println!("{:#?}", herd(10_000, Duration::from_millis(20)).unwrap());
        for (keys, batch) in [(2_000, 500), (100_000, 1_000), (1_000_000, 5_000)] {
            let report =
                lookups_of(keys, batch, Duration::from_secs(3), &CacheUrl::Embedded, &clock).unwrap();
            println!("{report:#?}");
        }
    }
}
