//! Every backend gives the right value for the right key, and takes what was loaded.

use std::time::Duration;

use bytes::Bytes;
use herdsman_guard::{Guard, Lane};

use crate::servers::{self, Record, guard, keys, until, value_of};

fn round_trip(url: &str) {
    let record = Record::new(Duration::ZERO);
    let mut asked = keys("k", 3_000);
    asked.extend([
        Bytes::from("no:where"),
        Bytes::from("with blank\r\nand line"),
        Bytes::from("x".repeat(400)),
    ]);
    let expected: Vec<_> = asked.iter().map(value_of).collect();
    // Cold: everything is loaded, in few queries, and written back.
    let cold = guard(url, &record, |config| config.near_capacity = 0);
    assert_eq!(cold.get_many(&asked, Lane::Normal).unwrap(), expected);
    assert_eq!(record.keys(), asked.len(), "{url}");
    until("the cache has what was loaded", || cold.stats().fills as usize == asked.len() - 1);
    assert_eq!(cold.get_many(&asked, Lane::Urgent).unwrap(), expected);
    let stats = cold.stats();
    // That a key does not exist is remembered beside the values, except on memcached.
    let forgotten = u64::from(url.starts_with("memcached"));
    assert_eq!(
        (stats.lookups, stats.loads),
        (2 * asked.len() as u64, asked.len() as u64 + forgotten),
        "{url}: {stats:?}"
    );
    drop(cold);
    // Another process finds the values in the cache; at most what does not exist is asked for.
    let record = Record::new(Duration::ZERO);
    let warm = guard(url, &record, |_| {});
    assert_eq!(warm.get_many(&asked, Lane::Normal).unwrap(), expected, "{url}");
    let stats = warm.stats();
    assert_eq!(
        (stats.cache_hits, stats.misses, stats.loads, stats.shared),
        (asked.len() as u64 - 1, 1, forgotten, 1 - forgotten),
        "{url}: {stats:?}"
    );
    assert!(stats.round_trips < 200, "3,003 look-ups in {} round trips", stats.round_trips);
    // The near cache answers the same without any of both, absence included.
    assert_eq!(warm.get_many(&asked, Lane::Normal).unwrap(), expected);
    let after = warm.stats();
    assert_eq!(
        (after.near_hits, after.round_trips, after.loads),
        (asked.len() as u64, stats.round_trips, forgotten)
    );
    invalidation(&warm, &record, url);
}

fn invalidation(guard: &Guard, record: &Record, url: &str) {
    let asked = keys("k", 10);
    let loaded = record.keys();
    guard.invalidate(&asked);
    let answers = guard.get_many(&asked, Lane::Normal).unwrap();
    assert_eq!(answers, asked.iter().map(value_of).collect::<Vec<_>>());
    assert_eq!(record.keys(), loaded + 10, "{url}: what was invalidated is read from the system of record");
}

#[test]
fn the_embedded_cache_gives_back_what_was_loaded() {
    let cache =
        herdsman_guard::embedded::CacheServer::start(([127, 0, 0, 1], 0).into(), Default::default()).unwrap();
    round_trip(&cache.url().to_string());
}

#[test]
fn redis_gives_back_what_was_loaded() {
    let Some(redis) = servers::redis() else { return };
    round_trip(&format!("redis://127.0.0.1:{}/3", redis.port));
}

#[test]
fn memcached_gives_back_what_was_loaded() {
    let Some(memcached) = servers::memcached() else { return };
    round_trip(&format!("memcached://127.0.0.1:{}", memcached.port));
}

#[test]
fn a_password_opens_the_door_and_is_never_printed() {
    let Some(redis) = servers::redis_on(servers::free_port(), &["--requirepass", "s3cret"]) else { return };
    let record = Record::new(Duration::ZERO);
    let guard = guard(&format!("redis://:s3cret@127.0.0.1:{}", redis.port), &record, |_| {});
    assert!(guard.get_many(&keys("k", 5), Lane::Normal).is_ok());
    until("the cache takes the fills", || guard.stats().fills == 5);
    assert_eq!(guard.stats().errors, 0, "logged in");
    assert!(!format!("{guard:?} {:?} {:?}", guard.stats(), guard.explain()).contains("s3cret"));
    assert!(guard.explain().cache.contains("***"));
}

#[test]
fn a_value_past_its_time_is_answered_once_more_while_one_look_up_refreshes_it() {
    let record = Record::new(Duration::ZERO);
    let guard = guard("embedded", &record, |config| {
        config.near_ttl = Duration::from_millis(50);
        config.stale_while_revalidate = Duration::from_secs(60);
    });
    let asked = keys("k", 100);
    let fresh = guard.get_many(&asked, Lane::Normal).unwrap();
    std::thread::sleep(Duration::from_millis(80));
    let before = guard.stats();
    assert_eq!(guard.get_many(&asked, Lane::Normal).unwrap(), fresh);
    assert_eq!(guard.stats().stale, 100, "answered at once, counted");
    until("the refresh asked the cache", || guard.stats().cache_hits == before.cache_hits + 100);
    assert_eq!((guard.stats().loads, record.keys()), (100, 100), "the cache still had them");
}

#[test]
fn redis_cli_and_redis_benchmark_work_on_the_embedded_cache() {
    let cache =
        herdsman_guard::embedded::CacheServer::start(([127, 0, 0, 1], 0).into(), Default::default()).unwrap();
    let port = cache.addr().port().to_string();
    let cli = |args: &[&str]| {
        let output = std::process::Command::new("redis-cli").args(["-p", &port]).args(args).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    };
    let Some(set) = cli(&["SET", "a", "one two", "EX", "100"]) else {
        return println!("SKIPPED: redis-cli is not installed");
    };
    assert_eq!(set, "OK");
    assert_eq!(cli(&["MGET", "a", "b"]).unwrap(), "one two");
    assert_eq!(cli(&["TTL", "a"]).unwrap(), "100");
    assert!(cli(&["INFO"]).unwrap().contains("db0:keys=1"));
    assert!(cli(&["NOSUCH"]).unwrap().contains("unknown command 'NOSUCH'"));
    let bench = ["-p", &port, "-t", "set,get,incr,mset", "-n", "5000", "-c", "20", "-P", "8", "-q"];
    let output = std::process::Command::new("redis-benchmark").args(bench).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("MSET"), "{text}");
    assert!(cache.commands() >= 20_000, "{} commands", cache.commands());
}
