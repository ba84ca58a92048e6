//! `herdsman bench guard` and `herdsman bench herd`: the guard beside fixed settings and beside plain clients.

use std::process::Command;
use std::time::Duration;

use clap::Args;
use herdsman_guard::bench::{HerdConfig, HerdRow, LanesConfig, LanesRow, SweepConfig, SweepRow, Way};

use crate::failure::Failure;

/// Look-ups through the guard, mostly near hits with repeated keys; with `--sweep` the tuner against fixed settings,
/// with `--lanes` urgent, normal and bulk look-ups when more is asked than the cache can do.
#[derive(Args)]
pub struct GuardBench {
    /// Seconds (without --sweep); of each load with --lanes
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// A cache URL instead of the embedded cache
    #[arg(long, default_value = "embedded")]
    cache: String,
    /// The tuner in turns with fixed batch sizes, lingers and connections, behind simulated round trips
    #[arg(long)]
    sweep: bool,
    /// Three loads, two of them 1.5 × what the line to the cache carries, behind the first of the simulated round trips
    #[arg(long, conflicts_with = "sweep")]
    lanes: bool,
    /// Keys per second that this line carries
    #[arg(long, default_value_t = 30_000.0)]
    capacity: f64,
    /// Simulated round trips, microseconds
    #[arg(long, value_delimiter = ',', default_values_t = [500, 2_000])]
    rtts: Vec<u64>,
    /// Look-ups per second
    #[arg(long, value_delimiter = ',', default_values_t = [20e3, 100e3, 300e3, 600e3])]
    rates: Vec<f64>,
    /// How often each configuration runs
    #[arg(long, default_value_t = 7)]
    repeats: usize,
    /// JSON lines (always, without --sweep)
    #[arg(long)]
    json: bool,
}

impl GuardBench {
    /// Runs it.
    pub fn run(self) -> Result<(), Failure> {
        if self.sweep {
            return self.compare();
        }
        if self.lanes {
            return self.flood();
        }
        let cache = herdsman_guard::CacheUrl::parse(&self.cache).map_err(Failure::usage)?;
        let report = herdsman_guard::bench::lookups(cache, Duration::from_secs(self.seconds))?;
        println!("{}", serde_json::to_string(&report)?);
        Ok(())
    }

    fn compare(self) -> Result<(), Failure> {
        let config = SweepConfig {
            cache: self.cache,
            rtts: self.rtts.into_iter().map(Duration::from_micros).collect(),
            rates: self.rates,
            repeats: self.repeats,
            ..SweepConfig::default()
        };
        let mut refused = None;
        herdsman_guard::bench::sweep(&config, |rows| {
            if !self.json {
                print_point(rows);
            } else if let Err(error) = print_lines(rows) {
                refused = Some(error);
            }
        })?;
        refused.map_or(Ok(()), Err)
    }
}

impl GuardBench {
    fn flood(self) -> Result<(), Failure> {
        let config = LanesConfig {
            cache: self.cache,
            rtt: Duration::from_micros(self.rtts.first().copied().unwrap_or(500)),
            capacity: self.capacity,
            time: Duration::from_secs(self.seconds.max(1)),
        };
        if !self.json {
            println!(
                "{:<14}{:<8}{:>10}{:>13}{:>12}{:>9}{:>9}{:>13}{:>8}",
                "load",
                "lane",
                "asked/s",
                "answered/s",
                "refused/s",
                "p50 us",
                "p99 us",
                "most queued",
                "window"
            );
        }
        herdsman_guard::bench::lanes(&config, |row| print_lane(row, self.json))?;
        Ok(())
    }
}

fn print_lane(row: &LanesRow, json: bool) {
    if json {
        println!("{}", serde_json::to_string(row).unwrap_or_default());
        return;
    }
    println!(
        "{:<14}{:<8}{:>10.0}{:>13.0}{:>12.0}{:>9}{:>9}{:>13}{:>8}",
        row.load,
        row.lane.to_string(),
        row.asked_per_s,
        row.answered_per_s,
        row.refused_per_s,
        row.p50_us,
        row.p99_us,
        row.queued_most,
        row.window_keys.map_or("-".into(), |keys| keys.to_string())
    );
}

fn print_lines(rows: &[SweepRow]) -> Result<(), Failure> {
    for row in rows {
        println!("{}", serde_json::to_string(row)?);
    }
    Ok(())
}

/// One point: the tuner's row, then the fixed ones by p99, then how they compare.
fn print_point(rows: &[SweepRow]) {
    let Some((tuner, fixed)) = rows.split_first() else { return };
    println!(
        "\nround trip {} us (a lone request: {} us more), {:.0} look-ups/s",
        tuner.rtt_us, tuner.rtt_error_us, tuner.rate
    );
    println!(
        "{:<8}{:>6}{:>10}{:>7}{:>7}{:>9}{:>9}{:>12}  kept up",
        "", "batch", "linger us", "conns", "depth", "p50 us", "p99 us", "requests/s"
    );
    let mut fixed: Vec<&SweepRow> = fixed.iter().collect();
    fixed.sort_by_key(|row| row.p99_us);
    for row in std::iter::once(tuner).chain(fixed.iter().copied()) {
        println!(
            "{:<8}{:>6}{:>10}{:>7}{:>7}{:>9}{:>9}{:>12}  {}",
            if row.tuned { "tuner" } else { "fixed" },
            row.settings.batch_size,
            row.settings.linger_us,
            row.settings.connections,
            row.settings.depth,
            row.p50_us,
            row.p99_us,
            row.requests_per_s,
            if row.sustained { "yes" } else { "no" }
        );
    }
    let best =
        |rows: &mut dyn Iterator<Item = &&SweepRow>| rows.map(|row| row.p99_us).min().unwrap_or(0).max(1);
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let ratio = |of: u64| tuner.p99_us as f64 / of as f64;
    let greedy = best(&mut fixed.iter().filter(|row| row.settings.batch_size == 1));
    println!(
        "p99 of the tuner: {:.2} x the best fixed, {:.2} x the best greedy",
        ratio(best(&mut fixed.iter())),
        ratio(greedy)
    );
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
