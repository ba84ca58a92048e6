//! `herdsman bench chaos`: the guard while its cache fails in every way it knows.

use std::time::Duration;

use clap::Args;
use herdsman_guard::bench::{ChaosConfig, ChaosReport};

use crate::failure::Failure;

/// Kills, delays, cuts and error replies between guard and cache: every request must get the right value or an explicit error
#[derive(Args)]
pub struct ChaosBench {
    /// Seconds
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// A redis:// URL instead of the embedded cache
    #[arg(long, default_value = "embedded")]
    cache: String,
    /// Decides the dice
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads that look up
    #[arg(long, default_value_t = 16)]
    threads: usize,
    /// With hedged reads
    #[arg(long)]
    hedge: bool,
    /// One line of JSON
    #[arg(long)]
    json: bool,
}

impl ChaosBench {
    /// Runs it; fails if anything was wrong.
    pub fn run(self) -> Result<(), Failure> {
        let config = ChaosConfig {
            cache: self.cache,
            time: Duration::from_secs(self.seconds),
            seed: self.seed,
            threads: self.threads,
            hedge: self.hedge,
            ..ChaosConfig::default()
        };
        let report = herdsman_guard::bench::chaos(&config)?;
        if self.json {
            println!("{}", serde_json::to_string(&report)?);
        } else {
            print(&report);
        }
        if report.is_good() {
            return Ok(());
        }
        let what = report.first_wrong.unwrap_or_else(|| "a request hung, or the limits did not hold".into());
        Err(Failure::new(format!("not every request got its right value or an error in time: {what}")))
    }
}

fn print(report: &ChaosReport) {
    let ChaosReport { outages, cuts, delays, silences, error_replies, changes, .. } = report;
    println!(
        "trouble    {outages} outages, {cuts} replies cut, {delays} delayed, {silences} silent for 3 s, {error_replies} error replies; \
         {changes} values changed"
    );
    println!(
        "requests   {} in {:.0} s: {} right, {} explicit errors, {} wrong values, {} hung",
        report.requests, report.seconds, report.right, report.errors, report.wrong, report.hung
    );
    println!(
        "latency    p50 {:.2} ms, p99 {:.1} ms, slowest {:.0} ms (deadline 2,000 ms; the machine stalled for {:.0} ms)",
        report.p50_ms, report.p99_ms, report.slowest_ms, report.stalled_ms
    );
    println!(
        "record     {} queries, at most {} at once of {} allowed; {} connections opened; {}",
        report.load_queries,
        report.loaders_seen,
        report.loaders_allowed,
        report.connects,
        if report.recovered { "recovered" } else { "NOT recovered" }
    );
}
