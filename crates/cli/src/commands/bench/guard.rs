//! `herdsman bench guard` and `herdsman bench herd`: the guard in two quick measurements.

use std::process::Command;
use std::time::Duration;

use clap::Args;
use herdsman_guard::bench::{HerdConfig, HerdRow, Way};

use crate::failure::Failure;

/// Look-ups through the guard, mostly near hits with repeated keys.
#[derive(Args)]
pub struct GuardBench {
    /// Seconds
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// A cache URL instead of the embedded cache
    #[arg(long, default_value = "embedded")]
    cache: String,
    /// JSON lines (always)
    #[arg(long)]
    json: bool,
}

impl GuardBench {
    /// Runs it.
    pub fn run(self) -> Result<(), Failure> {
        let cache = herdsman_guard::CacheUrl::parse(&self.cache).map_err(Failure::usage)?;
        let report = herdsman_guard::bench::lookups(cache, Duration::from_secs(self.seconds))?;
        println!("{}", serde_json::to_string(&report)?);
        Ok(())
    }
}

/// The herd: what reaches the system of record through the guard, and with plain cache-aside.
#[derive(Args)]
pub struct HerdBench {
    /// Concurrent look-ups of one key, all processes together
    #[arg(long, default_value_t = 10_000)]
    lookups: usize,
    /// Time of one load, milliseconds
    #[arg(long, default_value_t = 20)]
    load_ms: u64,
    /// Processes of the parts with several
    #[arg(long, default_value_t = 4)]
    processes: usize,
    /// Look-ups per second of the stream over expiring keys
    #[arg(long, default_value_t = 100_000.0)]
    rate: f64,
    /// Seconds of the stream
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// A cache URL instead of the embedded cache
    #[arg(long, default_value = "embedded")]
    cache: String,
    /// JSON lines instead of a table
    #[arg(long)]
    json: bool,
    /// Be one of the processes
    #[arg(long, hide = true)]
    member: bool,
}

impl HerdBench {
    /// Runs it.
    pub fn run(self) -> Result<(), Failure> {
        if self.member {
            return Ok(herdsman_guard::bench::member(std::io::stdin().lock(), std::io::stdout())?);
        }
        let program = std::env::current_exe()?;
        let launch = || {
            let mut command = Command::new(&program);
            command.args(["bench", "herd", "--member"]);
            command
        };
        let config = HerdConfig {
            cache: self.cache,
            lookups: self.lookups,
            load: Duration::from_millis(self.load_ms),
            processes: self.processes.max(2),
            rate: self.rate,
            seconds: self.seconds.max(2),
            ..HerdConfig::default()
        };
        if !self.json {
            println!(
                "{:<14}{:<7}{:>9}{:>10}{:>9}{:>12}{:>10}{:>10}{:>10}{:>12}",
                "part",
                "way",
                "processes",
                "look-ups",
                "loads",
                "per expiry",
                "p50 ms",
                "p99 ms",
                "max ms",
                "take-over ms"
            );
        }
        let mut refused = None;
        herdsman_guard::bench::herd(&config, &launch, |row| {
            if let Err(error) = print(&row, self.json) {
                refused = Some(error);
            }
        })?;
        refused.map_or(Ok(()), Err)
    }
}

fn print(row: &HerdRow, json: bool) -> Result<(), Failure> {
    if json {
        println!("{}", serde_json::to_string(row)?);
        return Ok(());
    }
    let optional = |figure: Option<f64>| figure.map_or("-".to_owned(), |figure| format!("{figure:.2}"));
    let way = if row.way == Way::Guard { "guard" } else { "plain" };
    println!(
        "{:<14}{way:<7}{:>9}{:>10}{:>9}{:>12}{:>10.2}{:>10.2}{:>10.2}{:>12}",
        row.part,
        row.processes,
        row.lookups,
        row.loads,
        optional(row.loads_per_expiry),
        row.p50_ms,
        row.p99_ms,
        row.max_ms,
        optional(row.taken_over_ms)
    );
    Ok(())
}
