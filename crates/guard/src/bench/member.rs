//! One process of the herd: takes its orders from one stream, says how it went on another.
//!
//! ```text
//! in   the orders, one line of JSON      out   herd: ready
//!      anything, one line: begin               herd: {"latencies":[[ns,count],…],…}
//! ```

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::AcqRel, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use herdsman_host::{Clock, RealClock, Seed};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::plain::Plain;
use crate::config::{GuardConfig, Lane};
use crate::error::{GuardError, LoadError};
use crate::guard::Guard;
use crate::histogram::Histogram;
use crate::loading::Loader;
use crate::timer::Timer;
use crate::url::CacheUrl;

/// The number of a key that warms the process up: its memory is there when what is measured begins, as in a service that runs.
const WARM: u64 = u64::MAX;

/// Goes before each line that a member says, since its output may hold other things.
pub(super) const SAYS: &str = "herd: ";

/// How look-ups are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Through the guard with its defaults.
    Guard,
    /// GET, load, SET per look-up; 64 connections to the cache and 64 to the system of record.
    Plain,
}

/// What a member is to do.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Work {
    /// So many look-ups of one key at once.
    Burst { lookups: usize },
    /// Poisson arrivals at `rate` per second over `keys` keys, for a time.
    Stream { rate: f64, keys: u64, seconds: u64 },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Orders {
    pub(super) way: Way,
    pub(super) cache: String,
    /// Keys begin with this.
    pub(super) prefix: String,
    /// Gets one line, the process's id, per load.
    pub(super) loads: PathBuf,
    pub(super) load_ms: u64,
    pub(super) ttl_ms: u64,
    pub(super) work: Work,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// Nanoseconds (upper edge of the histogram's bucket) and how often.
    pub(super) latencies: Vec<(u64, u64)>,
    /// From the beginning to the last answer, nanoseconds.
    pub(super) took_ns: u64,
    pub(super) cache_requests: u64,
}

struct Record {
    orders: Orders,
}

impl Orders {
    fn note_load(&self) -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&self.loads)?;
        file.write_all(format!("{}\n", std::process::id()).as_bytes())
    }

    fn key(&self, number: u64) -> Bytes {
        Bytes::from(format!("{}:{number}", self.prefix))
    }
}

impl Loader for Record {
    fn load(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LoadError> {
        for _ in keys.iter().filter(|key| **key != self.orders.key(WARM)) {
            self.orders.note_load().map_err(LoadError::new)?;
        }
        std::thread::sleep(Duration::from_millis(self.orders.load_ms));
        Ok(vec![Some(Bytes::from_static(b"treasure")); keys.len()])
    }
}

enum Client {
    Guard(Guard),
    Plain(Plain),
}

impl Client {
    async fn open(orders: &Orders, clock: &Arc<dyn Clock>) -> Result<Self, GuardError> {
        let cache = CacheUrl::parse(&orders.cache)?;
        let ttl = Duration::from_millis(orders.ttl_ms);
        if orders.way == Way::Plain {
            let noted = orders.clone();
            let load = Arc::new(move || {
                if let Err(error) = noted.note_load() {
                    tracing::error!("a load is not counted: {error}");
                }
            });
            return Plain::open(&cache, ttl, Duration::from_millis(orders.load_ms), load)
                .await
                .map(Self::Plain);
        }
        let config = GuardConfig { cache, ttl, ..GuardConfig::default() };
        let guard = Guard::open(config, Arc::new(Record { orders: orders.clone() }), Arc::clone(clock))?;
        while guard.explain().connections_ready == 0 && guard.explain().breaker == "closed" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(Self::Guard(guard))
    }

    async fn look_up(&self, key: Bytes) -> Result<(), GuardError> {
        match self {
            Self::Guard(guard) => guard.get(key, Lane::Normal).await.map(|_| ()),
            Self::Plain(plain) => {
                plain.look_up(&key).await.map_err(|error| GuardError::Start(error.to_string()))
            }
        }
    }
}

/// Obeys one line of orders from `orders` and reports to `report`.
///
/// # Errors
/// When the orders make no sense, the cache cannot be reached or a look-up fails.
pub fn member(mut orders: impl BufRead, mut report: impl Write) -> Result<(), GuardError> {
    let failed = |error: std::io::Error| GuardError::Start(error.to_string());
    let mut line = String::new();
    orders.read_line(&mut line).map_err(failed)?;
    let parsed: Orders = serde_json::from_str(&line).map_err(|error| GuardError::Start(error.to_string()))?;
    let clock = RealClock::shared();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(failed)?;
    let answers = Answers::new(runtime.block_on(Client::open(&parsed, &clock))?, &clock);
    runtime.block_on(async {
        match parsed.work {
            // What is measured is life after the first load.
            Work::Stream { keys, .. } => (0..keys).for_each(|key| answers.ask(parsed.key(key), 0)),
            Work::Burst { lookups } if parsed.way == Way::Guard => {
                (0..lookups).for_each(|_| answers.ask(parsed.key(WARM), 0));
            }
            Work::Burst { .. } => {}
        }
        answers.all().await
    })?;
    writeln!(report, "\n{SAYS}ready").map_err(failed)?;
    orders.read_line(&mut line).map_err(failed)?;
    // On one of the runtime's own threads, as a service would: they take from each other.
    let outcome = runtime.block_on(runtime.spawn(async move { work(&parsed, &answers).await }));
    let outcome = outcome.map_err(|error| GuardError::Start(error.to_string()))??;
    let text = serde_json::to_string(&outcome).map_err(|error| GuardError::Start(error.to_string()))?;
    writeln!(report, "\n{SAYS}{text}").map_err(failed)
}

async fn work(orders: &Orders, answers: &Arc<Answers>) -> Result<Outcome, GuardError> {
    let begin = answers.clock.monotonic_ns();
    let latency = match orders.work {
        Work::Burst { lookups } => burst(orders, answers, lookups).await?,
        Work::Stream { rate, keys, seconds } => stream(orders, answers, rate, keys, seconds).await?,
    };
    let cache_requests = match &answers.client {
        Client::Guard(guard) => guard.stats().round_trips,
        Client::Plain(_) => latency.len(),
    };
    let took_ns = answers.clock.monotonic_ns() - begin;
    Ok(Outcome { latencies: latency.counts().collect(), took_ns, cache_requests })
}

/// The look-ups under way. Each records its answer itself, as a request's own task would: nobody collects them one by one.
struct Answers {
    client: Client,
    clock: Arc<dyn Clock>,
    seen: Mutex<(Histogram, Option<GuardError>)>,
    under_way: AtomicUsize,
    done: Notify,
}

impl Answers {
    fn new(client: Client, clock: &Arc<dyn Clock>) -> Arc<Self> {
        // One more than there are, until the last was asked.
        let under_way = AtomicUsize::new(1);
        Arc::new(Self {
            client,
            clock: Arc::clone(clock),
            seen: Mutex::default(),
            under_way,
            done: Notify::new(),
        })
    }

    fn ask(self: &Arc<Self>, key: Bytes, since_ns: u64) {
        self.under_way.fetch_add(1, Relaxed);
        let answers = Arc::clone(self);
        tokio::spawn(async move {
            let answer = answers.client.look_up(key).await;
            let ns = answers.clock.monotonic_ns().saturating_sub(since_ns);
            {
                let mut seen = answers.seen.lock().unwrap_or_else(PoisonError::into_inner);
                match answer {
                    Ok(()) => seen.0.record(ns, 1),
                    Err(error) => seen.1 = Some(error),
                }
            }
            answers.end();
        });
    }

    fn end(&self) {
        if self.under_way.fetch_sub(1, AcqRel) == 1 {
            self.done.notify_one();
        }
    }

    /// Waits for all of them, and may then be asked again.
    async fn all(&self) -> Result<Histogram, GuardError> {
        self.end();
        self.done.notified().await;
        self.under_way.store(1, Relaxed);
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        seen.1.map_or(Ok(seen.0), Err)
    }
}

async fn burst(orders: &Orders, answers: &Arc<Answers>, lookups: usize) -> Result<Histogram, GuardError> {
    let begin = answers.clock.monotonic_ns();
    for _ in 0..lookups {
        answers.ask(orders.key(0), begin);
    }
    answers.all().await
}

/// Open loop: each look-up counts from its intended arrival, however late it is sent.
async fn stream(
    orders: &Orders,
    answers: &Arc<Answers>,
    rate: f64,
    keys: u64,
    seconds: u64,
) -> Result<Histogram, GuardError> {
    let timer = Timer::new().map_err(|error| GuardError::Start(error.to_string()))?;
    let (clock, mut random) = (Arc::clone(&answers.clock), Seed::from_entropy());
    let mut next_ns = clock.monotonic_ns();
    let end_ns = next_ns + seconds * 1_000_000_000;
    while next_ns < end_ns {
        let now_ns = clock.monotonic_ns();
        while next_ns <= now_ns.min(end_ns) {
            answers.ask(orders.key(random.next_u64() % keys.max(1)), next_ns);
            next_ns += exponential_ns(&mut random, 1e9 / rate);
        }
        timer.sleep(Duration::from_nanos(next_ns.saturating_sub(clock.monotonic_ns()).max(50_000))).await;
    }
    answers.all().await
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a draw"
)]
pub(super) fn exponential_ns(random: &mut Seed, mean_ns: f64) -> u64 {
    let unit = ((random.next_u64() >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
    (-unit.ln() * mean_ns) as u64
}
