//! `herdsman bench pool`: connections opened and drained under load, and a server that comes back to a thousand clients.

use std::time::Duration;

use clap::Args;
use herdsman_guard::bench::{PoolConfig, PoolRow, RestartReport};

use crate::failure::Failure;

/// The pool while it changes: +8, -8 and +500 connections under load, then a restart with 1,000 clients
#[derive(Args)]
pub struct PoolBench {
    /// A redis:// URL instead of the embedded cache (which restarts in any case)
    #[arg(long, default_value = "embedded")]
    cache: String,
    /// Look-ups per second
    #[arg(long, default_value_t = 20_000.0)]
    rate: f64,
    /// How often the pool grows and shrinks by eight
    #[arg(long, default_value_t = 15)]
    repeats: usize,
    /// Connections added at once
    #[arg(long, default_value_t = 500)]
    many: u32,
    /// Clients of the server that restarts, each with its own connections
    #[arg(long, default_value_t = 1_000)]
    clients: usize,
    /// How long it is away, milliseconds
    #[arg(long, default_value_t = 3_000)]
    away_ms: u64,
    /// JSON lines
    #[arg(long)]
    json: bool,
}

impl PoolBench {
    /// Runs it.
    pub fn run(self) -> Result<(), Failure> {
        let PoolBench { cache, rate, repeats, many, clients, .. } = self;
        let config = PoolConfig { cache, rate, repeats, many, clients };
        if !self.json {
            println!(
                "{:<9}{:>10}{:>9}{:>9}{:>9}{:>13}",
                "change", "window ms", "p50 ms", "p99 ms", "max ms", "connections"
            );
        }
        herdsman_guard::bench::pool(&config, |row| print(row, self.json))?;
        let report = herdsman_guard::bench::restart(clients, Duration::from_millis(self.away_ms))?;
        if self.json {
            println!("{}", serde_json::to_string(&report)?);
            return Ok(());
        }
        let RestartReport { clients, away_ms, first_ms, p50_ms, last_ms, most_in_10_ms } = report;
        println!(
            "restart with {clients} clients, away for {away_ms:.0} ms: the first is served {first_ms:.0} ms after it is back, \
             half of them after {p50_ms:.0} ms, the last after {last_ms:.0} ms; {most_in_10_ms} at most within 10 ms"
        );
        Ok(())
    }
}

fn print(row: &PoolRow, json: bool) {
    if json {
        println!("{}", serde_json::to_string(row).unwrap_or_default());
        return;
    }
    let PoolRow { change, window_ms, p50_ms, p99_ms, max_ms, connections } = row;
    println!("{change:<9}{window_ms:>10.0}{p50_ms:>9.3}{p99_ms:>9.3}{max_ms:>9.3}{connections:>13}");
}
