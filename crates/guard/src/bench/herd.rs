//! The herd in several processes, through the guard and as plain cache-aside, on the same cache: what reaches the system of record
//! and what those who wait see of it.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use herdsman_host::{Clock, RealClock};
use serde::Serialize;

use super::member::{Orders, Outcome, SAYS, Way, Work};
use super::{ms, place};
use crate::error::GuardError;
use crate::histogram::Histogram;
use crate::url::CacheUrl;

/// A member that says nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// What to measure. Every part runs through the guard and as plain cache-aside.
#[derive(Debug, Clone)]
pub struct HerdConfig {
    /// The cache; `embedded` starts one.
    pub cache: String,
    /// Identical look-ups at once, all processes together.
    pub lookups: usize,
    /// What one load takes.
    pub load: Duration,
    /// Processes of the parts with several.
    pub processes: usize,
    /// Look-ups per second of the stream, all processes together.
    pub rate: f64,
    /// Keys of the stream.
    pub keys: u64,
    /// How long a value of the stream lives.
    pub ttl: Duration,
    /// How long the stream flows.
    pub seconds: u64,
}

impl Default for HerdConfig {
    fn default() -> Self {
        Self {
            cache: "embedded".into(),
            lookups: 10_000,
            load: Duration::from_millis(20),
            processes: 4,
            rate: 100_000.0,
            keys: 100,
            ttl: Duration::from_secs(1),
            seconds: 5,
        }
    }
}

/// One part, served one way.
#[derive(Debug, Clone, Serialize)]
pub struct HerdRow {
    /// `cold misses`, `holder killed` or `stream`.
    pub part: &'static str,
    /// How it was served.
    pub way: Way,
    /// Processes.
    pub processes: usize,
    /// Look-ups answered.
    pub lookups: u64,
    /// Keys asked of the system of record; of the stream without each key's first.
    pub loads: u64,
    /// Loads for each time a value's life ended; only of the stream.
    pub loads_per_expiry: Option<f64>,
    /// Look-up requests sent to the cache.
    pub cache_requests: u64,
    /// Median from a look-up's intended arrival to its answer, milliseconds.
    pub p50_ms: f64,
    /// 99th percentile of the same, milliseconds.
    pub p99_ms: f64,
    /// The last answer, milliseconds.
    pub max_ms: f64,
    /// From `kill -9` of the process that was loading to the next load, milliseconds.
    pub taken_over_ms: Option<f64>,
}

/// Starts a process that runs [`super::member`] on its standard streams.
pub type Launch<'a> = &'a dyn Fn() -> Command;

/// Measures all parts; `each` gets every row as it is ready.
///
/// # Errors
/// When the cache or a process cannot be started, or a look-up fails.
pub fn herd(
    config: &HerdConfig,
    launch: Launch<'_>,
    mut each: impl FnMut(HerdRow),
) -> Result<(), GuardError> {
    let clock = RealClock::shared();
    let (server, url) = place(&CacheUrl::parse(&config.cache)?, &clock)?;
    let cache = if server.is_some() { url.to_string() } else { config.cache.clone() };
    let folder = tempfile::tempdir().map_err(failed)?;
    let bench = Bench { config, launch, clock, cache, folder: folder.path() };
    for way in [Way::Guard, Way::Plain] {
        each(bench.cold_misses(way, 1)?);
    }
    for way in [Way::Guard, Way::Plain] {
        each(bench.cold_misses(way, config.processes)?);
    }
    for way in [Way::Guard, Way::Plain] {
        each(bench.holder_killed(way)?);
    }
    for processes in [1, config.processes] {
        for way in [Way::Guard, Way::Plain] {
            each(bench.stream(way, processes)?);
        }
    }
    Ok(())
}

fn failed(error: std::io::Error) -> GuardError {
    GuardError::Start(error.to_string())
}

struct Bench<'a> {
    config: &'a HerdConfig,
    launch: Launch<'a>,
    clock: Arc<dyn Clock>,
    cache: String,
    folder: &'a Path,
}

impl Bench<'_> {
    fn orders(&self, way: Way, work: Work) -> Orders {
        let nonce = format!("{:x}", self.clock.monotonic_ns() ^ self.clock.now_ms().unsigned_abs());
        Orders {
            way,
            cache: self.cache.clone(),
            prefix: format!("herd:{nonce}"),
            loads: self.folder.join(nonce),
            load_ms: u64::try_from(self.config.load.as_millis()).unwrap_or(u64::MAX),
            ttl_ms: 60_000,
            work,
        }
    }

    fn start(&self, orders: &Orders, processes: usize) -> Result<Vec<Member>, GuardError> {
        let members: Vec<_> =
            (0..processes).map(|_| Member::start(self.launch, orders)).collect::<Result<_, _>>()?;
        for member in &members {
            member.hear()?;
        }
        Ok(members)
    }

    fn cold_misses(&self, way: Way, processes: usize) -> Result<HerdRow, GuardError> {
        let orders = self.orders(way, Work::Burst { lookups: self.config.lookups / processes });
        let mut members = self.start(&orders, processes)?;
        go(&mut members)?;
        row("cold misses", &orders, &members)
    }

    /// The process whose load began first dies in the middle of it. The loads take ten times as long as elsewhere, for a middle to be hit.
    fn holder_killed(&self, way: Way) -> Result<HerdRow, GuardError> {
        let processes = self.config.processes;
        let work = Work::Burst { lookups: self.config.lookups / processes };
        let mut orders = self.orders(way, work);
        orders.load_ms *= 10;
        let mut members = self.start(&orders, processes)?;
        go(&mut members)?;
        self.wait("the first load", || !loads(&orders).is_empty())?;
        std::thread::sleep(Duration::from_millis(orders.load_ms / 2));
        let before = loads(&orders);
        let holder = members.iter().position(|member| Some(member.child.id()) == before.first().copied());
        drop(members.remove(holder.unwrap_or(0)));
        let killed_ns = self.clock.monotonic_ns();
        let mut taken_over_ms = None;
        // Plain clients do not wait for each other: there is nothing to take over.
        if way == Way::Guard {
            self.wait("another process's load", || loads(&orders).len() > before.len())?;
            taken_over_ms = Some(ms(self.clock.monotonic_ns() - killed_ns));
        }
        Ok(HerdRow { taken_over_ms, ..row("holder killed", &orders, &members)? })
    }

    fn stream(&self, way: Way, processes: usize) -> Result<HerdRow, GuardError> {
        let HerdConfig { rate, keys, seconds, ttl, .. } = *self.config;
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let share = rate / processes as f64;
        let mut orders = self.orders(way, Work::Stream { rate: share, keys, seconds });
        orders.ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let mut members = self.start(&orders, processes)?;
        let first = loads(&orders).len() as u64;
        go(&mut members)?;
        let mut row = row("stream", &orders, &members)?;
        row.loads = row.loads.saturating_sub(first);
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let lives = keys as f64 * seconds as f64 / ttl.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let loads_per_expiry = Some(row.loads as f64 / lives);
        Ok(HerdRow { loads_per_expiry, ..row })
    }

    fn wait(&self, what: &str, done: impl Fn() -> bool) -> Result<(), GuardError> {
        let begin = self.clock.monotonic_ns();
        while !done() {
            if self.clock.monotonic_ns() - begin > 30_000_000_000 {
                return Err(GuardError::Start(format!("{what} did not come within 30 s")));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// The processes that loaded, in order.
fn loads(orders: &Orders) -> Vec<u32> {
    let text = std::fs::read_to_string(&orders.loads).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn go(members: &mut [Member]) -> Result<(), GuardError> {
    members.iter_mut().try_for_each(|member| member.say("go"))
}

fn row(part: &'static str, orders: &Orders, members: &[Member]) -> Result<HerdRow, GuardError> {
    let (mut latency, mut cache_requests) = (Histogram::default(), 0);
    for member in members {
        let said = member.hear()?;
        let outcome: Outcome =
            serde_json::from_str(&said).map_err(|_| GuardError::Start(format!("a process said {said:?}")))?;
        outcome.latencies.iter().for_each(|(ns, count)| latency.record(*ns, *count));
        cache_requests += outcome.cache_requests;
    }
    Ok(HerdRow {
        part,
        way: orders.way,
        processes: members.len(),
        lookups: latency.len(),
        loads: loads(orders).len() as u64,
        loads_per_expiry: None,
        cache_requests,
        p50_ms: ms(latency.quantile_ns(0.5)),
        p99_ms: ms(latency.quantile_ns(0.99)),
        max_ms: ms(latency.max_ns()),
        taken_over_ms: None,
    })
}

/// A process that was started; killed when dropped.
struct Member {
    child: Child,
    stdin: ChildStdin,
    said: Receiver<String>,
}

impl Drop for Member {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Member {
    fn start(launch: Launch<'_>, orders: &Orders) -> Result<Self, GuardError> {
        let mut child = launch().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(GuardError::Start("a process has no standard streams".into()));
        };
        let (sender, said) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(words) = line.strip_prefix(SAYS) {
                    // Nobody listens once the member is dropped.
                    drop(sender.send(words.to_owned()));
                }
            }
        });
        let mut member = Self { child, stdin, said };
        let text = serde_json::to_string(orders).map_err(|error| GuardError::Start(error.to_string()))?;
        member.say(&text)?;
        Ok(member)
    }

    fn say(&mut self, line: &str) -> Result<(), GuardError> {
        writeln!(self.stdin, "{line}").map_err(failed)
    }

    fn hear(&self) -> Result<String, GuardError> {
        self.said.recv_timeout(PATIENCE).map_err(|error| match error {
            RecvTimeoutError::Timeout => {
                GuardError::Start(format!("a process said nothing for {PATIENCE:?}"))
            }
            RecvTimeoutError::Disconnected => GuardError::Start("a process of the herd has failed".into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This test program again, as a member.
    fn launch() -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "bench::herd::tests::member_process", "--ignored", "--nocapture"]);
        command
    }

    #[test]
    #[ignore = "the benchmark starts it"]
    fn member_process() {
        super::super::member(std::io::stdin().lock(), std::io::stdout()).unwrap();
    }

    #[test]
    fn the_guard_loads_once_where_plain_clients_load_many_times() {
        let config = HerdConfig { lookups: 400, rate: 2_000.0, keys: 5, seconds: 3, ..HerdConfig::default() };
        let mut rows = Vec::new();
        herd(&config, &launch, |row| rows.push(row)).unwrap();
        let loads: Vec<_> = rows.iter().map(|row| (row.part, row.way, row.loads)).collect();
        assert_eq!(loads[0], ("cold misses", Way::Guard, 1));
        assert_eq!(loads[2], ("cold misses", Way::Guard, 1));
        assert_eq!(loads[4], ("holder killed", Way::Guard, 2));
        assert!(loads[1].2 > 10 && loads[3].2 > 10 && loads[5].2 > 10, "{loads:?}");
        assert_eq!((rows[2].lookups, rows[4].lookups), (400, 300));
        assert!(rows[4].taken_over_ms.is_some_and(|ms| ms < 2_200.0), "{:?}", rows[4]);
        for at in [6, 8] {
            let (guard, plain) = (rows[at].loads_per_expiry, rows[at + 1].loads_per_expiry);
            assert!(guard < plain && guard < Some(1.5), "{guard:?} {plain:?}");
        }
    }

    /// Run with `--ignored --nocapture` in release; `CACHE` may name a cache.
    #[test]
    #[ignore = "a measurement"]
    fn measure_the_stream() {
        let cache = std::env::var("CACHE").unwrap_or_else(|_| "embedded".into());
        let config = HerdConfig { lookups: 1_000, cache, ..HerdConfig::default() };
        herd(&config, &launch, |row| println!("{}", serde_json::to_string(&row).unwrap())).unwrap();
    }
}
