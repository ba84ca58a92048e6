//! kill -9 of the real server at random instants, real clients writing all the while.
//!
//! Some servers run at the same time, each under a plain, an idempotent and three transactional producers, a group that copies a topic
//! inside transactions, and two persistent queries; the clients (librdkafka) hold what they were told against what is there at the end.
//! The instants differ from run to run whatever the seed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use herdsman_testkit::{TempDir, free_port};

use super::script::Script;
use crate::server::Server;
use crate::{Failure, Order, Row, Tally};

/// The row.
pub const ROW: Row = Row {
    name: "kill",
    what: "kill -9 of the real server under plain, idempotent and transactional producers, a group and persistent queries",
    unit: "kills",
    change: 100,
    long: 1_000,
    run,
};

/// Servers at the same time.
const SERVERS: u64 = 4;
/// Most kills of one server before its clients check what is there.
const KILLS_MAX: u64 = 50;
/// Half of all restarts must be ready within it, on whatever machine this is; the slowest is told.
const READY: Duration = Duration::from_secs(1);

fn run(order: &Order) -> Result<Tally, Failure> {
    let each = order.count.div_ceil(SERVERS).clamp(1, KILLS_MAX);
    let end = order.from.saturating_add(order.count);
    let next = AtomicU64::new(order.from);
    let all = Mutex::new((Tally::default(), Vec::new(), None::<Failure>));
    let worker = || loop {
        let seed = next.fetch_add(each, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        let outcome = one_server(seed, each.min(end - seed));
        let mut all = all.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match outcome {
            Ok((tally, ready)) => {
                all.0.add(&tally);
                all.1.extend(ready);
            }
            Err(what) => {
                next.store(end, Ordering::Relaxed);
                all.2.get_or_insert(Failure { seed, what });
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..SERVERS {
            scope.spawn(worker);
        }
    });
    let (mut tally, mut ready, failure) = all.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(failure) = failure {
        return Err(failure);
    }
    ready.sort_unstable();
    let ms = |ready: Duration| u64::try_from(ready.as_millis()).unwrap_or(u64::MAX);
    let median = ready.get(ready.len() / 2).copied().unwrap_or_default();
    tally.count("ready_ms_median", ms(median));
    tally.count("ready_ms_worst", ready.last().copied().map_or(0, ms));
    tally.count("ready_over_1_s", ready.iter().filter(|ready| **ready > READY).count() as u64);
    if median > READY {
        return Err(Failure { seed: order.from, what: format!("half of the restarts took over {median:?}") });
    }
    Ok(tally)
}

/// Kills one server `kills` times; gives what was counted and how long each restart took to its ready line.
fn one_server(seed: u64, kills: u64) -> Result<(Tally, Vec<Duration>), String> {
    let folder = TempDir::new().map_err(|error| error.to_string())?;
    let data = folder.path().join("data");
    let address = format!("127.0.0.1:{}", free_port());
    let mut server = Server::start(&data, &["--kafka", &address])?;
    let mut clients = [
        Script::start("kill/producers.py", &[&address])?,
        Script::start("kill/transactions.py", &[&address, &seed.to_string(), &server.http])?,
    ];
    for client in &mut clients {
        client.hear()?;
    }
    let mut ready = Vec::new();
    for kill in seed..seed + kills {
        let random = kill.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        std::thread::sleep(Duration::from_millis(60 + random % 400));
        server.process.kill();
        server = Server::start(&data, &["--kafka", &address])?;
        ready.push(server.ready);
    }
    std::thread::sleep(Duration::from_millis(500));
    for client in &mut clients {
        client.tell("stop")?;
    }
    let mut tally = Tally::of(kills);
    for client in clients {
        let (report, well) = client.end();
        if !well || !report.ends_with("all good") {
            return Err(keep(folder, &report));
        }
        for line in report.lines() {
            if let Some((name, by)) = count_of(line) {
                tally.count(name, by);
            }
        }
    }
    Ok((tally, ready))
}

/// A line `COUNT name NUMBER` of a client's report.
fn count_of(line: &str) -> Option<(&'static str, u64)> {
    const NAMES: [&str; 4] = ["acknowledged", "transactions", "copied", "queried"];
    let (name, by) = line.strip_prefix("COUNT ")?.split_once(' ')?;
    Some((NAMES.into_iter().find(|known| *known == name)?, by.parse().ok()?))
}

/// The report, and where the data was left for who wants to look.
fn keep(folder: TempDir, report: &str) -> String {
    format!("{report}\nthe data is left in {}", folder.keep().display())
}
