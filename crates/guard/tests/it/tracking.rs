//! What lies in the near cache and is changed in the cache by others: how long it is still answered.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use herdsman_guard::{CacheUrl, Guard, GuardConfig, Lane, LoadError, Loader};
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

/// Reads `version:N` and answers when it is let.
#[derive(Default)]
struct Gate {
    version: AtomicUsize,
    loads: AtomicUsize,
    closed: Mutex<()>,
}

impl Loader for Gate {
    fn load(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LoadError> {
        let value = Bytes::from(format!("version:{}", self.version.load(Ordering::SeqCst)));
        self.loads.fetch_add(1, Ordering::SeqCst);
        drop(self.closed.lock());
        Ok(vec![Some(value); keys.len()])
    }
}

/// One load of a key that another client changes meanwhile by these commands; what the key then holds, in the client's words.
fn changed_while_loaded(port: u16, commands: &[&str]) -> (Arc<Gate>, Guard, String) {
    let gate = Arc::new(Gate::default());
    let config = GuardConfig {
        cache: CacheUrl::parse(&format!("redis://127.0.0.1:{port}")).unwrap(),
        ttl: Duration::from_secs(1),
        ..GuardConfig::default()
    };
    let guard = Guard::open(config, Arc::clone(&gate) as Arc<dyn Loader>, RealClock::shared()).unwrap();
    until("the cache tells of changes", || guard.explain().near == "the cache tells of changes");
    let mut other = Other::new(port);
    other.say("DEL treasure:1 herdsman:lease:treasure:1");
    std::thread::scope(|scope| {
        let closed = gate.closed.lock().unwrap();
        let asker = scope.spawn(|| near(&guard));
        until("the load has read", || gate.loads.load(Ordering::SeqCst) == 1);
        gate.version.store(1, Ordering::SeqCst);
        commands.iter().for_each(|command| drop(other.say(command)));
        std::thread::sleep(Duration::from_millis(50));
        drop(closed);
        assert_eq!(asker.join().unwrap(), Some(Bytes::from_static(b"version:0")), "asked before the change");
    });
    until("the lease has ended", || other.say("EXISTS herdsman:lease:treasure:1") == ":0\r\n");
    let kept = other.say("GET treasure:1");
    (gate, guard, kept)
}

#[test]
fn a_change_by_another_client_ends_the_lease_under_which_the_older_value_would_be_written() {
    let Some(redis) = servers::redis() else { return };
    for commands in [
        &["SET treasure:1 theirs", "DEL treasure:1"][..],
        &["SET treasure:1 theirs"],
        &["DEL treasure:1 herdsman:lease:treasure:1"],
    ] {
        let (_, guard, kept) = changed_while_loaded(redis.port, commands);
        let gone = commands.iter().any(|command| command.starts_with("DEL"));
        assert_eq!(kept, if gone { "$-1\r\n" } else { "$6\r\ntheirs\r\n" }, "{commands:?}");
        let now = if gone { "version:1" } else { "theirs" };
        assert_eq!(near(&guard), Some(Bytes::from(now)), "{commands:?}: nothing older is near");
    }
}

#[test]
fn a_plain_delete_of_a_key_that_is_not_there_is_bounded_by_the_time_to_live() {
    let Some(redis) = servers::redis() else { return };
    let clock = RealClock::shared();
    let (_, guard, kept) = changed_while_loaded(redis.port, &["DEL treasure:1"]);
    // Redis says nothing of it to anybody: if this fails one day, the bound can go.
    assert_eq!(kept, "$9\r\nversion:0\r\n");
    let written_ns = clock.monotonic_ns();
    until("the older value has expired", || near(&guard) == Some(Bytes::from_static(b"version:1")));
    let stale_ms = (clock.monotonic_ns() - written_ns) / 1_000_000;
    println!(
        "a plain DEL of an absent key while it was loaded: the older value was answered for {stale_ms} ms, ttl 1,000 ms"
    );
    assert!(stale_ms <= 1_100 + 100, "{stale_ms} ms");
}
