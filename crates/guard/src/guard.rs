//! The guard as callers hold it.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use herdsman_host::{Clock, Seed};
use tokio::sync::oneshot;

use crate::config::{GuardConfig, Lane};
use crate::core::{Core, Event, Measured, Reply};
use crate::dialer::Dialer;
use crate::driver::{Driver, Inbox, Message, Report};
use crate::embedded::{CacheConfig, CacheServer};
use crate::error::GuardError;
use crate::loading::{Loader, LoaderPool};
use crate::near::{NearCache, Pass};
use crate::stats::{Counters, Explain, GuardStats};
use crate::tuner::Settings;
use crate::url::CacheUrl;

/// The connection to a slow cache and the system of record behind it. Cheap to clone; the last clone closes it.
///
/// ```
/// use std::sync::Arc;
/// use bytes::Bytes;
/// use herdsman_guard::{Guard, GuardConfig, Lane, LoadError};
/// use herdsman_host::RealClock;
///
/// // The system of record: one query for a whole batch of misses.
/// let loader = |keys: &[Bytes]| Ok::<_, LoadError>(keys.iter().map(|key| Some(key.clone())).collect());
/// let guard = Guard::open(GuardConfig::default(), Arc::new(loader), RealClock::shared())?;
/// let answers = guard.get_many(&[Bytes::from_static(b"treasure:1")], Lane::Normal)?;
/// assert_eq!(answers, [Some(Bytes::from_static(b"treasure:1"))]);
/// assert_eq!(guard.stats().loads, 1);
/// # Ok::<(), herdsman_guard::GuardError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Guard {
    inner: Arc<Inner>,
}

struct Inner {
    near: Arc<NearCache>,
    counters: Arc<Counters>,
    inbox: Arc<Inbox>,
    clock: Arc<dyn Clock>,
    report: Arc<Mutex<Report>>,
    lane_capacity: usize,
    thread: Option<JoinHandle<()>>,
    embedded: Option<CacheServer>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.inbox.push_message(Message::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the guard's thread had panicked");
        }
    }
}

impl Guard {
    /// Starts the guard's thread; the connection opens in the background. A cache that is down is no error: the system of record is
    /// read, at `config.degraded_loads_per_s`, until it answers.
    ///
    /// # Errors
    /// When a thread or the embedded cache cannot be started.
    pub fn open(
        config: GuardConfig,
        loader: Arc<dyn Loader>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, GuardError> {
        Self::start(config, Some(&loader), None, clock)
    }

    /// As [`Guard::open`] with nothing behind the cache: a miss is answered with `None`, a dead cache with
    /// `GuardError::CacheDown`. Every answer was read from the cache after it was asked for (or lies in the near cache).
    ///
    /// # Errors
    /// When a thread or the embedded cache cannot be started.
    pub fn open_without_record(config: GuardConfig, clock: Arc<dyn Clock>) -> Result<Self, GuardError> {
        Self::start(config, None, None, clock)
    }

    /// As [`Guard::open_without_record`], with settings that never move or the tuner's.
    pub(crate) fn open_to_measure(
        config: GuardConfig,
        fixed: Option<Settings>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, GuardError> {
        Self::start(config, None, fixed, clock)
    }

    /// Looks up one key for a measurement that counts from `since_ns`.
    pub(crate) fn measure(&self, key: Bytes, lane: Lane, since_ns: u64, measured: Arc<dyn Measured>) {
        let reply = Reply::Measured(since_ns, Arc::clone(&measured));
        if self.hand_over(vec![key], Vec::new(), lane, since_ns, reply).is_err() {
            measured.answered(since_ns, false);
        }
    }

    /// Other settings that never move, for a measurement.
    pub(crate) fn fix(&self, settings: Settings) {
        self.inner.inbox.push(Event::Fix(settings));
    }

    fn start(
        mut config: GuardConfig,
        loader: Option<&Arc<dyn Loader>>,
        fixed: Option<Settings>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, GuardError> {
        let start = |error: std::io::Error| GuardError::Start(error.to_string());
        let mut embedded = None;
        let mut url = config.cache.clone();
        if url == CacheUrl::Embedded {
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
            let server = CacheServer::start(
                address,
                CacheConfig { clock: Arc::clone(&clock), ..CacheConfig::default() },
            )
            .map_err(start)?;
            url = server.url();
            embedded = Some(server);
            config.lease = Duration::ZERO; // nobody else knows its port: one flight in this process is one load
        }
        reserve_descriptors();
        let near = Arc::new(NearCache::new(config.near_capacity));
        let (counters, inbox) = (Arc::new(Counters::default()), Arc::new(Inbox::default()));
        let loaders = loader.map(|loader| LoaderPool::start(config.loaders, loader, &inbox)).transpose()?;
        let (lane_capacity, tracking) =
            (config.lane_capacity.max(1), config.near_capacity > 0 && embedded.is_none());
        // Names leases as well: two processes must not draw the same.
        let seed = Seed::from_entropy().next_u64();
        let core = Core::new(config, Arc::clone(&near), Arc::clone(&counters), seed).at(&url);
        let dialer = Dialer::new(url, tracking)?;
        let core = if loaders.is_some() { core } else { core.without_record() };
        let core = if let Some(settings) = fixed { core.with_fixed(settings) } else { core };
        let (explain, settings) = (core.explain(), core.settings());
        let report = Arc::new(Mutex::new(Report { explain, settings, p50_ms: 0.0, p99_ms: 0.0 }));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(start)?;
        let driver = Driver {
            core,
            dialer,
            inbox: Arc::clone(&inbox),
            loaders,
            clock: Arc::clone(&clock),
            report: Arc::clone(&report),
            connections: HashMap::new(),
        };
        let thread = std::thread::Builder::new()
            .name("guard".into())
            .spawn(move || runtime.block_on(driver.run()))
            .map_err(start)?;
        let thread = Some(thread);
        let inner = Inner { near, counters, inbox, clock, report, lane_capacity, thread, embedded };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Looks up a batch and waits for it: the near cache first, then one shared trip for what is missing. Answers in the order of
    /// `keys`; `None` means that the key exists neither in the cache nor in the system of record.
    ///
    /// # Errors
    /// The first error of any of its keys.
    pub fn get_many<K: AsRef<[u8]>>(&self, keys: &[K], lane: Lane) -> Result<Vec<Option<Bytes>>, GuardError> {
        let mut out = Vec::with_capacity(keys.len());
        self.get_many_into(keys, &[], lane, &mut out)?;
        Ok(out)
    }

    /// As [`Guard::get_many`], appending to `out`. `counts[i]` says how many look-ups `keys[i]` stands for (a stream that asks
    /// once for a key that fifty of its events need): it only changes what is counted. Empty means one each.
    ///
    /// # Errors
    /// The first error of any of its keys; `out` is then as it was.
    pub fn get_many_into<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        counts: &[u32],
        lane: Lane,
        out: &mut Vec<Option<Bytes>>,
    ) -> Result<(), GuardError> {
        let now_ns = self.inner.clock.monotonic_ns();
        let (first, pass) = (out.len(), self.near_pass(keys, counts, now_ns, out));
        if pass.missing.is_empty() {
            return Ok(());
        }
        let (sender, receiver) = sync_channel(1);
        let asked = copy(keys, &pass.missing);
        let asked_counts = pass.missing.iter().filter_map(|at| counts.get(*at as usize).copied()).collect();
        let answers = self
            .hand_over(asked, asked_counts, lane, now_ns, Reply::Thread(sender))
            .and_then(|()| receiver.recv().unwrap_or(Err(GuardError::Closed)));
        match answers {
            Ok(answers) => {
                for (at, answer) in pass.missing.iter().zip(answers) {
                    out[first + *at as usize] = answer;
                }
                Ok(())
            }
            Err(error) => {
                out.truncate(first);
                Err(error)
            }
        }
    }

    /// Looks up one key without blocking the thread.
    ///
    /// # Errors
    /// When the look-up was shed or timed out, or the system of record failed.
    pub async fn get(&self, key: Bytes, lane: Lane) -> Result<Option<Bytes>, GuardError> {
        let mut answers = self.get_many_async(&[key], lane).await?;
        Ok(answers.pop().flatten())
    }

    /// As [`Guard::get_many`], without blocking the thread.
    ///
    /// # Errors
    /// The first error of any of its keys.
    pub async fn get_many_async(&self, keys: &[Bytes], lane: Lane) -> Result<Vec<Option<Bytes>>, GuardError> {
        let now_ns = self.inner.clock.monotonic_ns();
        let mut out = Vec::with_capacity(keys.len());
        let pass = self.near_pass(keys, &[], now_ns, &mut out);
        if pass.missing.is_empty() {
            return Ok(out);
        }
        let (sender, receiver) = oneshot::channel();
        let asked = copy(keys, &pass.missing);
        self.hand_over(asked, Vec::new(), lane, now_ns, Reply::Task(sender))?;
        let answers = receiver.await.unwrap_or(Err(GuardError::Closed))?;
        for (at, answer) in pass.missing.iter().zip(answers) {
            out[*at as usize] = answer;
        }
        Ok(out)
    }

    fn near_pass<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        counts: &[u32],
        now_ns: u64,
        out: &mut Vec<Option<Bytes>>,
    ) -> Pass {
        let (first, mut pass) = (out.len(), Pass::default());
        self.inner.near.get_many(keys, now_ns, out, &mut pass);
        let counters = &self.inner.counters;
        let count_of = |at: &u32| counts.get(*at as usize).map_or(1, |n| u64::from(*n));
        let all: u64 = if counts.is_empty() {
            keys.len() as u64
        } else {
            counts.iter().take(keys.len()).map(|n| u64::from(*n)).sum::<u64>()
                + keys.len().saturating_sub(counts.len()) as u64
        };
        let missed: u64 = pass.missing.iter().map(count_of).sum();
        Counters::add(&counters.lookups, all);
        Counters::add(&counters.near_hits, all - missed);
        Counters::add(&counters.stale, pass.stale);
        if !pass.refresh.is_empty() {
            let keys = copy(keys, &pass.refresh);
            self.inner.inbox.push(Event::Refresh { keys });
        }
        if !pass.renew.is_empty() {
            let values = pass.renew.iter().filter_map(|at| out.get(first + *at as usize).cloned().flatten());
            let entries = copy(keys, &pass.renew).into_iter().zip(values).collect();
            self.inner.inbox.push(Event::Renew { entries });
        }
        pass
    }

    fn hand_over(
        &self,
        keys: Vec<Bytes>,
        counts: Vec<u32>,
        lane: Lane,
        at_ns: u64,
        reply: Reply,
    ) -> Result<(), GuardError> {
        let pending = self.inner.counters.pending(lane);
        // One batch may pass the bound: a caller with many keys is let in when there is room for one.
        if pending.fetch_add(keys.len(), Relaxed) >= self.inner.lane_capacity {
            pending.fetch_sub(keys.len(), Relaxed);
            Counters::add(&self.inner.counters.sheds, keys.len() as u64);
            return Err(GuardError::Full { lane, limit: self.inner.lane_capacity });
        }
        self.inner.inbox.push(Event::Lookup { keys, counts, lane, at_ns, reply });
        Ok(())
    }

    /// Forgets `keys` here at once and deletes them from the cache. A look-up that begins after this returns never gets a value that
    /// was read before; until the cache has confirmed the deletion it is answered by the system of record.
    pub fn invalidate<K: AsRef<[u8]>>(&self, keys: &[K]) {
        if keys.is_empty() {
            return;
        }
        let keys: Vec<Bytes> = keys.iter().map(|key| Bytes::copy_from_slice(key.as_ref())).collect();
        self.inner.near.block(&keys);
        self.inner.inbox.push(Event::Invalidate { keys });
    }

    /// Counters since the start. Percentiles and settings are at most 50 ms old.
    #[must_use]
    pub fn stats(&self) -> GuardStats {
        let report = self.inner.report.lock().unwrap_or_else(PoisonError::into_inner);
        let (settings, p50, p99) = (report.settings, report.p50_ms, report.p99_ms);
        drop(report);
        self.inner.counters.stats(settings, self.inner.near.len(), p50, p99)
    }

    /// What the guard does now and why; at most 50 ms old.
    #[must_use]
    pub fn explain(&self) -> Explain {
        self.inner.report.lock().unwrap_or_else(PoisonError::into_inner).explain.clone()
    }

    /// Where the embedded cache listens, when `GuardConfig::cache` is `Embedded`.
    #[must_use]
    pub fn embedded_addr(&self) -> Option<std::net::SocketAddr> {
        self.inner.embedded.as_ref().map(CacheServer::addr)
    }
}

/// Makes the kernel's table of this process's descriptors large once. It doubles when it is full (64, 128, …), and in a process with threads
/// whoever opens the connection that fills it waits for a grace period of the whole machine, 10 ms and more, with look-ups behind it.
fn reserve_descriptors() {
    // Where fewer are allowed the table stays as it is.
    drop(std::io::stderr().as_fd().try_clone_to_owned().ok().and_then(|any| {
        [4_095, 1_023].into_iter().find_map(|high| rustix::io::fcntl_dupfd_cloexec(&any, high).ok())
    }));
}

/// Copies what is asked for: a slice of the caller's buffer would keep that whole buffer alive in the near cache.
fn copy<K: AsRef<[u8]>>(keys: &[K], positions: &[u32]) -> Vec<Bytes> {
    positions
        .iter()
        .filter_map(|at| keys.get(*at as usize))
        .map(|key| Bytes::copy_from_slice(key.as_ref()))
        .collect()
}
