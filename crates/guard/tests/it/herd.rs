//! N identical misses make one load.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use herdsman_guard::{CacheUrl, Guard, GuardConfig, Lane, LoadError, Loader};
use herdsman_host::RealClock;

use crate::servers::{self, Record, guard, keys, until};

const HERD: usize = 10_000;

/// Answers when the whole herd has asked, and 20 ms more.
struct Slow {
    guard: OnceLock<Guard>,
    loads: AtomicUsize,
}

impl Loader for Slow {
    fn load(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LoadError> {
        self.loads.fetch_add(keys.len(), Ordering::SeqCst);
        until("the herd has come", || {
            self.guard.get().is_some_and(|guard| guard.stats().lookups >= HERD as u64)
        });
        std::thread::sleep(Duration::from_millis(20));
        Ok(keys.iter().map(servers::value_of).collect())
    }
}

fn herd(url: &str, near_capacity: usize) {
    let slow = Arc::new(Slow { guard: OnceLock::new(), loads: AtomicUsize::new(0) });
    let config =
        GuardConfig { cache: CacheUrl::parse(url).unwrap(), near_capacity, ..GuardConfig::default() };
    let guard = Guard::open(config, Arc::clone(&slow) as Arc<dyn Loader>, RealClock::shared()).unwrap();
    assert!(slow.guard.set(guard.clone()).is_ok());
    let key = Bytes::from_static(b"treasure:1");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..HERD)
            .map(|_| {
                let (guard, key) = (guard.clone(), key.clone());
                tokio::spawn(async move { guard.get(key, Lane::Normal).await })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap(), Ok(Some(Bytes::from_static(b"record:treasure:1"))));
        }
    });
    let stats = guard.stats();
    assert_eq!(
        (slow.loads.load(Ordering::SeqCst), stats.loads, stats.load_queries),
        (1, 1, 1),
        "{url}: {stats:?}"
    );
    assert_eq!(
        (stats.requests_without_guard, stats.loads_without_guard),
        (HERD as u64, HERD as u64),
        "{stats:?}"
    );
}

#[test]
fn ten_thousand_identical_cold_misses_make_one_load() {
    herd("embedded", 1_000);
    herd("embedded", 0);
    if let Some(redis) = servers::redis() {
        herd(&format!("redis://127.0.0.1:{}", redis.port), 0);
    }
}

#[test]
fn many_threads_asking_for_overlapping_batches_load_each_key_once() {
    let record = Record::new(Duration::from_millis(5));
    let guard = guard("embedded", &record, |_| {});
    std::thread::scope(|scope| {
        for start in 0..8 {
            let guard = guard.clone();
            scope.spawn(move || {
                let mine = &keys("k", 2_000)[start * 100..start * 100 + 1_000];
                let found = guard.get_many(mine, Lane::Normal).unwrap();
                assert!(found.iter().zip(mine).all(|(value, key)| *value == servers::value_of(key)));
            });
        }
    });
    assert_eq!((record.keys(), guard.stats().loads), (1_700, 1_700));
}

#[test]
fn a_key_that_stands_for_many_look_ups_counts_as_many() {
    let record = Record::new(Duration::ZERO);
    let guard = guard("embedded", &record, |_| {});
    let mut out = Vec::new();
    for _ in 0..2 {
        guard.get_many_into(&keys("k", 2), &[10, 5], Lane::Normal, &mut out).unwrap();
        until("both are near", || guard.stats().near_entries == 2);
    }
    let stats = guard.stats();
    assert_eq!((stats.lookups, stats.near_hits, stats.loads, stats.loads_without_guard), (30, 15, 2, 15));
    until("the report is out", || guard.explain().connections_ready > 0);
}
