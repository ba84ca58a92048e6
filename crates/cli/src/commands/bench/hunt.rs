//! `herdsman bench hunt`: the hunt at full speed and at half of it.
//!
//! The shipped input is replayed in loops with shifted ids and times, so no event is a duplicate. First as fast as
//! the engine takes it, then at half the rate that this gave; each is one JSON line. Each load runs in a process of
//! its own, so that peak memory is that load's. Latency is counted after two seconds (of a short load after a quarter): before, memory is touched for the
//! first time and every cache is empty; throughput counts from the first event.

use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args;
use herdsman_hunt::{HuntOptions, Pace, Replay, Summary};

use crate::failure::Failure;

/// The first part of a load whose latencies are not counted: two seconds, of a short load a quarter.
fn warm_up(seconds: u64) -> Duration {
    Duration::from_secs(2).min(Duration::from_secs(seconds) / 4)
}

/// Options of the benchmark.
#[derive(Args)]
pub struct HuntBench {
    /// Seconds for each load
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Only this offered load, events per second (0: as fast as it goes)
    #[arg(long)]
    rate: Option<f64>,
    /// Stream threads
    #[arg(long)]
    threads: Option<usize>,
    /// JSON lines (always; kept for symmetry with the other benchmarks)
    #[arg(long)]
    json: bool,
}

/// An offered load.
#[derive(Debug, Clone, Copy)]
pub(super) enum Load {
    /// As fast as the engine takes it.
    Max,
    /// Events per second.
    PerSecond(f64),
}

impl HuntBench {
    /// Runs the loads.
    pub fn run(self) -> Result<(), Failure> {
        if let Some(rate) = self.rate {
            let load = if rate > 0.0 { Load::PerSecond(rate) } else { Load::Max };
            let summary = measure(load, self.seconds, self.threads)?;
            println!("{}", line(load, self.seconds, &summary)?);
            return Ok(());
        }
        let full = self.child(0.0)?;
        let rate = full["events_per_s"].as_f64().unwrap_or(0.0);
        println!("{full}");
        println!("{}", self.child((rate / 2.0).max(1.0))?);
        Ok(())
    }

    fn child(&self, rate: f64) -> Result<serde_json::Value, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench", "hunt", "--rate", &rate.to_string(), "--seconds", &self.seconds.to_string()]);
        if let Some(threads) = self.threads {
            command.args(["--threads", &threads.to_string()]);
        }
        let output = command.stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err(Failure::new(format!("the run at {rate} events/s failed")));
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// One load for about `seconds`, in this process.
pub(super) fn measure(load: Load, seconds: u64, threads: Option<usize>) -> Result<Summary, Failure> {
    let pace = match load {
        Load::Max => Pace::Max,
        Load::PerSecond(rate) => Pace::PerSecond(rate),
    };
    let options = HuntOptions {
        pace,
        loops: u64::MAX,
        replay: Replay::Shifted,
        seconds_max: Some(seconds),
        warm_up: warm_up(seconds),
        threads: threads.unwrap_or(0),
        quiet: true,
        ..HuntOptions::default()
    };
    herdsman_hunt::run(options).map_err(|error| Failure::new(error.to_string()))
}

fn line(load: Load, seconds: u64, summary: &Summary) -> Result<String, Failure> {
    let mut value = serde_json::to_value(summary)?;
    if let Some(object) = value.as_object_mut() {
        object.remove("leaderboard");
        let offered = match load {
            Load::Max => serde_json::Value::from("max"),
            Load::PerSecond(rate) => serde_json::Value::from(rate),
        };
        object.insert("bench".to_owned(), "hunt".into());
        object.insert("offered_per_s".to_owned(), offered);
        object.insert("warm_up_s".to_owned(), warm_up(seconds).as_secs_f64().into());
    }
    Ok(value.to_string())
}
