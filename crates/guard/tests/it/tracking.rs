//! What lies in the near cache and is changed in the cache by others: how long it is still answered.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use herdsman_guard::{Guard, Lane};
use herdsman_host::RealClock;

use crate::servers::{self, Record, guard, until};

/// A client that is no guard.
struct Other(TcpStream);

impl Other {
    fn new(port: u16) -> Self {
        Self(TcpStream::connect(("127.0.0.1", port)).unwrap())
    }

    fn say(&mut self, command: &str) -> String {
        self.0.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        let mut buffer = [0_u8; 4_096];
        let n = self.0.read(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    }
}

fn key() -> [Bytes; 1] {
    [Bytes::from_static(b"treasure:1")]
}

fn near(guard: &Guard) -> Option<Bytes> {
    guard.get_many(&key(), Lane::Normal).unwrap().remove(0)
}

/// From the other's `OK` to the first answer that is new, milliseconds; sorted.
fn lags(guard: &Guard, other: &mut Other, rounds: usize) -> Vec<f64> {
    let clock = RealClock::shared();
    let mut lags: Vec<f64> = (0..rounds)
        .map(|round| {
            until("the value lies in the near cache", || {
                near(guard);
                let before = guard.stats().near_hits;
                near(guard);
                guard.stats().near_hits > before
            });
            assert_eq!(other.say(&format!("SET treasure:1 round-{round}")), "+OK\r\n");
            let changed_ns = clock.monotonic_ns();
            until("the change is seen", || near(guard) == Some(Bytes::from(format!("round-{round}"))));
            (clock.monotonic_ns() - changed_ns) as f64 / 1e6
        })
        .collect();
    lags.sort_by(f64::total_cmp);
    lags
}

#[test]
fn a_value_changed_in_redis_is_not_answered_from_the_near_cache_beyond_a_trip() {
    let Some(redis) = servers::redis() else { return };
    let record = Record::new(Duration::ZERO);
    // So long that only the cache's own word can end a value within this test.
    let guard = guard(&format!("redis://127.0.0.1:{}", redis.port), &record, |config| {
        config.near_ttl = Duration::from_secs(600);
    });
    until("the cache tells of changes", || {
        guard.explain().near == "the cache tells of changes" && near(&guard).is_some()
    });
    let mut other = Other::new(redis.port);
    let lags = lags(&guard, &mut other, 300);
    println!(
        "changed by another: seen after p50 {:.2}, p99 {:.2}, max {:.2} ms",
        lags[150], lags[297], lags[299]
    );
    // `until` looks every 10 ms.
    assert!(lags[270] <= 50.0 && lags[299] <= 1_000.0, "{lags:?}");
    assert!(guard.stats().changes >= 300);
    let loads = guard.stats().loads;
    other.say("FLUSHALL");
    until("an empty cache is seen", || near(&guard) == Some(Bytes::from_static(b"record:treasure:1")));
    assert_eq!(guard.stats().loads, loads + 1, "loaded again, once");
    // What this process has written itself is watched as well.
    assert_eq!(other.say("SET treasure:1 behind"), "+OK\r\n");
    until("a change to what was just loaded is seen", || near(&guard) == Some(Bytes::from_static(b"behind")));
}

#[test]
fn without_news_of_changes_the_near_caches_own_expiry_is_the_bound() {
    let Some(redis) = servers::redis_on(servers::free_port(), &["--rename-command", "HELLO", "\"\""]) else {
        return;
    };
    let record = Record::new(Duration::ZERO);
    let guard = guard(&format!("redis://127.0.0.1:{}", redis.port), &record, |config| {
        config.near_ttl = Duration::from_millis(300);
    });
    until("a value is near", || near(&guard).is_some());
    assert!(guard.explain().near.starts_with("asks again after 300ms"), "{}", guard.explain().near);
    let lags = lags(&guard, &mut Other::new(redis.port), 8);
    println!("changed by another, no news: seen after {lags:.0?} ms, bound 330 ms");
    assert!(lags[7] >= 50.0 && lags[3] <= 380.0 && lags[7] <= 1_000.0, "{lags:?}");
    assert_eq!(guard.stats().changes, 0);
}
