//! `herdsman bench guard` and `herdsman bench herd`: the guard in two quick measurements.

use std::time::Duration;

use clap::Args;

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

/// Identical cold misses: one load, or a stampede.
#[derive(Args)]
pub struct HerdBench {
    /// Concurrent look-ups of one key
    #[arg(long, default_value_t = 10_000)]
    lookups: usize,
    /// Time of one load, milliseconds
    #[arg(long, default_value_t = 20)]
    load_ms: u64,
    /// JSON lines (always)
    #[arg(long)]
    json: bool,
}

impl HerdBench {
    /// Runs it.
    pub fn run(self) -> Result<(), Failure> {
        let report = herdsman_guard::bench::herd(self.lookups, Duration::from_millis(self.load_ms))?;
        println!("{}", serde_json::to_string(&report)?);
        Ok(())
    }
}
