//! The guard: its cache in trouble, its leases and flights as one copy, and the faults that these trials must find.

use std::net::SocketAddr;
use std::process::Command;

use herdsman_guard::trial::{self, Fault};
use herdsman_testkit::RedisServer;

use crate::row::{Failure, Order, Row, Tally, each_seed};

/// The cache killed, standing still, loading, far away, cutting replies, written to behind the guards.
pub const TROUBLE: Row = Row {
    name: "guard-trouble",
    what: "three guards, their cache killed, paused 5 s, loading, 50 ms away, half its replies cut, keys written behind it",
    unit: "seeds",
    change: 20,
    long: 500,
    run: trouble,
};

/// Leases of a real cache, and single flight across simulated processes.
pub const ONE_COPY: Row = Row {
    name: "one-copy-guard",
    what: "200 claims, fills, reads and deletions by four clients of a Redis or the embedded cache: linearizable; four guards load a missing key once",
    unit: "histories",
    change: 50,
    long: 1_000,
    run: one_copy,
};

/// Seven known faults.
pub const FAULTS: Row = Row {
    name: "guard-faults",
    what: "each of the guard's seven planted faults is found, within 40 seeds",
    unit: "faults",
    change: 7,
    long: 70,
    run: faults,
};

fn trouble(order: &Order) -> Result<Tally, Failure> {
    each_seed(order, |seed| {
        let report = trial::trouble(seed, None)?;
        let mut tally = Tally { simulated_ms: report.simulated_ms, ..Tally::of(1) };
        for (name, count) in [
            ("answered right", report.right),
            ("explicit errors", report.errors),
            ("loads", report.loads),
            ("guards killed", report.kills),
        ] {
            tally.count(name, count);
        }
        Ok(tally)
    })
}

/// Odd seeds ask a real Redis, if there is one to start.
fn one_copy(order: &Order) -> Result<Tally, Failure> {
    let has_redis = Command::new("redis-server").arg("--version").output().is_ok();
    let redis = has_redis.then(RedisServer::start);
    if redis.is_none() {
        eprintln!("one-copy-guard: no redis-server here, the embedded cache stands in for it");
    }
    each_seed(order, |seed| {
        let on_redis = redis.as_ref().filter(|_| seed % 2 == 1);
        let history =
            trial::leases(seed, on_redis.map(|redis| SocketAddr::from(([127, 0, 0, 1], redis.port()))))?;
        trial::herd(seed, None)?;
        let mut tally = Tally::of(1);
        tally.count("operations", history.len() as u64);
        tally.count("on Redis", u64::from(on_redis.is_some()));
        Ok(tally)
    })
}

/// The `n`th unit hunts fault `n % 7`, from seed `40 n` on.
fn faults(order: &Order) -> Result<Tally, Failure> {
    each_seed(order, |n| {
        let fault = Fault::ALL[usize::try_from(n).unwrap_or(0) % Fault::ALL.len()];
        let tries = (1..=40).find(|seed| fault.hunt(n * 40 + seed).is_err());
        let tries = tries.ok_or_else(|| format!("{fault:?} is not found in 40 seeds"))?;
        let mut tally = Tally::of(1);
        tally.count("seeds until found", tries);
        Ok(tally)
    })
}
