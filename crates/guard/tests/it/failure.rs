//! A cache that is dead, restarts, cuts replies or never answers: the right value or an explicit error, never another's.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use herdsman_guard::embedded::CacheServer;
use herdsman_guard::{GuardError, Lane};

use crate::servers::{self, Record, free_port, guard, keys, until, value_of};

#[test]
fn a_dead_cache_degrades_to_the_system_of_record_within_its_limit_and_comes_back() {
    let port = free_port();
    let record = Record::new(Duration::ZERO);
    let guard = guard(&format!("redis://127.0.0.1:{port}"), &record, |config| {
        config.degraded_loads_per_s = 1_000;
        config.near_capacity = 0;
    });
    let asked = keys("k", 300);
    let expected: Vec<_> = asked.iter().map(value_of).collect();
    let start = herdsman_host::RealClock::shared();
    let from = start.monotonic_ns();
    assert_eq!(guard.get_many(&asked, Lane::Normal).unwrap(), expected);
    let elapsed_ms = (start.monotonic_ns() - from) / 1_000_000;
    assert!(elapsed_ms >= 150, "300 loads at 1,000/s after a burst of 100 took only {elapsed_ms} ms");
    until("the breaker is seen", || guard.explain().breaker == "open");
    assert_eq!((record.keys(), guard.stats().round_trips), (300, 0));
    let Some(_redis) = servers::redis_on(port, &[]) else { return };
    until("the breaker closes", || guard.explain().breaker == "closed");
    assert_eq!(guard.get_many(&asked, Lane::Normal).unwrap(), expected);
    assert!(guard.stats().round_trips > 0, "the cache is asked again");
}

#[test]
fn a_bulk_look_up_is_shed_by_age_and_every_wait_has_an_end() {
    let record = Record::new(Duration::from_millis(800));
    let guard = guard("embedded", &record, |config| {
        config.bulk_age = Duration::from_millis(100);
        config.deadline = Duration::from_secs(5);
        config.loaders = 1;
        config.lane_capacity = 3;
    });
    let ask = |name: &'static str, lane| {
        let guard = guard.clone();
        std::thread::spawn(move || guard.get_many(&keys(name, 1), lane))
    };
    let first = ask("a", Lane::Normal);
    until("the only loader is busy", || record.queries.load(Ordering::SeqCst) == 1);
    let (bulk, urgent) = (ask("b", Lane::Bulk), ask("c", Lane::Urgent));
    let queue: Vec<_> = ["d", "e", "f"].into_iter().map(|name| ask(name, Lane::Normal)).collect();
    assert!(matches!(bulk.join().unwrap(), Err(GuardError::Shed { lane: Lane::Bulk, limit_ms: 100, .. })));
    let results: Vec<_> = queue.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(first.join().unwrap().is_ok() && urgent.join().unwrap().is_ok());
    assert!(results.iter().any(|r| matches!(r, Err(GuardError::Full { limit: 3, .. }))), "{results:?}");
    let hasty = servers::guard("embedded", &record, |config| config.deadline = Duration::from_millis(100));
    assert_eq!(hasty.get_many(&keys("k", 2), Lane::Urgent), Err(GuardError::Deadline { limit_ms: 100 }));
    let loader = |_: &[bytes::Bytes]| Err(herdsman_guard::LoadError::new("table locked"));
    let config = herdsman_guard::GuardConfig::default();
    let broken =
        herdsman_guard::Guard::open(config, Arc::new(loader), herdsman_host::RealClock::shared()).unwrap();
    let Err(GuardError::Load(error)) = broken.get_many(&keys("k", 2), Lane::Normal) else {
        panic!("must fail")
    };
    assert_eq!(error.to_string(), "table locked");
}

/// Forwards to `upstream`, and cuts the connection in the middle of a reply, each time after another number of bytes.
fn cutting_proxy(upstream: u16) -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let cuts = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&cuts);
    std::thread::spawn(move || {
        let mut random = 0x9E37_79B9_7F4A_7C15_u64;
        for client in listener.incoming() {
            let (Ok(mut client), Ok(mut server)) = (client, TcpStream::connect(("127.0.0.1", upstream)))
            else {
                return;
            };
            let (mut client_in, mut server_out) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                drop(std::io::copy(&mut client_in, &mut server_out));
                drop(server_out.shutdown(std::net::Shutdown::Both));
            });
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut allowed = 200 + (random >> 33) as usize % 60_000;
            let counted = Arc::clone(&counted);
            std::thread::spawn(move || {
                let mut buffer = [0_u8; 4_096];
                while let Ok(n @ 1..) = server.read(&mut buffer) {
                    let n = n.min(allowed);
                    allowed -= n;
                    if client.write_all(&buffer[..n]).is_err() || allowed == 0 {
                        break;
                    }
                }
                counted.fetch_add(1, Ordering::SeqCst);
                drop(client.shutdown(std::net::Shutdown::Both));
                drop(server.shutdown(std::net::Shutdown::Both));
            });
        }
    });
    (port, cuts)
}

#[test]
fn replies_cut_in_the_middle_never_answer_another_key() {
    let cache = CacheServer::start(([127, 0, 0, 1], 0).into(), Default::default()).unwrap();
    let (port, cuts) = cutting_proxy(cache.addr().port());
    let record = Record::new(Duration::ZERO);
    let guard = guard(&format!("redis://127.0.0.1:{port}"), &record, |config| {
        config.near_capacity = 0;
        config.degraded_loads_per_s = 1_000_000;
    });
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let guard = guard.clone();
            scope.spawn(move || {
                let all = keys("k", 5_000);
                for round in 0..150 {
                    let from = (thread * 1_237 + round * 613) % 4_000;
                    let asked = &all[from..from + 200 + round];
                    let found = guard.get_many(asked, Lane::Normal).unwrap();
                    assert!(
                        found.iter().zip(asked).all(|(value, key)| *value == value_of(key)),
                        "round {round}"
                    );
                }
            });
        }
    });
    let stats = guard.stats();
    assert!(cuts.load(Ordering::SeqCst) >= 20, "only {} connections were cut", cuts.load(Ordering::SeqCst));
    assert!(stats.connects >= 10 && stats.cache_hits > 10_000, "{stats:?}");
}

#[test]
fn a_cache_that_accepts_and_never_answers_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let held = std::thread::spawn(move || {
        // Says PONG to the handshake and nothing to the rest.
        let mut streams = Vec::new();
        for stream in listener.incoming().take(6) {
            let Ok(mut stream) = stream else { return };
            drop(stream.write_all(b"+PONG\r\n"));
            streams.push(stream);
        }
        std::thread::sleep(Duration::from_secs(5));
    });
    let record = Record::new(Duration::ZERO);
    let guard = guard(&format!("redis://127.0.0.1:{port}"), &record, |config| config.near_capacity = 0);
    let asked = keys("k", 10);
    let found = guard.get_many(&asked, Lane::Normal).unwrap();
    assert_eq!(found, asked.iter().map(value_of).collect::<Vec<_>>(), "two tries, then the system of record");
    assert!(guard.stats().errors >= 1);
    drop(held);
}
