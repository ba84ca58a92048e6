//! `herdsman-sim ROW`: runs one row of the ledger and keeps the line; `list` and `sum` tell what there is and what was reached.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use herdsman_host::{Clock as _, RealClock};
use herdsman_sim::ledger::{self, Line};
use herdsman_sim::rows::{ROWS, find};
use herdsman_sim::{Order, Row};

#[derive(Parser)]
#[command(about = "Runs the rows of the ledger: what must hold under faults")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Lists the rows with the figures to reach.
    List,
    /// Sums up the ledger by row.
    Sum,
    /// Runs one row.
    Run {
        /// Its name, as `list` shows it.
        row: String,
        /// How many to run; without it, the figure that every change must pass.
        #[arg(long)]
        count: Option<u64>,
        /// The long figure.
        #[arg(long, conflicts_with = "count")]
        long: bool,
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// Do not add a line to the ledger.
        #[arg(long)]
        dry: bool,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().task {
        Task::List => list(),
        Task::Sum => return sum(),
        Task::Run { row, count, long, from, dry } => {
            let Some(row) = find(&row) else {
                let names: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
                eprintln!("no row {row}: there are {}", names.join(", "));
                return ExitCode::from(2);
            };
            let count = count.unwrap_or(if long { row.long } else { row.change });
            return run(row, Order { from, count }, dry);
        }
    }
    ExitCode::SUCCESS
}

fn list() {
    for row in ROWS {
        println!("{:20} {:>9} {:>9} {:12} {}", row.name, row.change, row.long, row.unit, row.what);
    }
}

fn sum() -> ExitCode {
    let lines = match ledger::read() {
        Ok(lines) => lines,
        Err(error) => {
            eprintln!("{}: {error}", ledger::path().display());
            return ExitCode::FAILURE;
        }
    };
    let mut sums: BTreeMap<&str, (u64, f64, u64, u64)> = BTreeMap::new();
    for line in &lines {
        let (done, hours, passed, failed) = sums.entry(&line.row).or_default();
        *done += line.done;
        *hours += line.simulated_hours;
        *(if line.result == "passed" { passed } else { failed }) += 1;
    }
    for (row, (done, hours, passed, failed)) in sums {
        println!(
            "{row:20} {done:>9} done {hours:>9.1} simulated hours {passed:>4} runs passed {failed:>3} failed"
        );
    }
    ExitCode::SUCCESS
}

fn run(row: &Row, order: Order, dry: bool) -> ExitCode {
    let started = RealClock.monotonic_ns();
    let outcome = (row.run)(&order);
    let spent = Duration::from_nanos(RealClock.monotonic_ns() - started);
    let line = Line::new(row, &order, &outcome, spent);
    println!("{}", serde_json::to_string(&line).unwrap_or_default());
    if !dry && let Err(error) = ledger::append(&line) {
        eprintln!("{}: {error}", ledger::path().display());
        return ExitCode::FAILURE;
    }
    let Err(failure) = outcome else { return ExitCode::SUCCESS };
    eprintln!("{}: {}", row.name, failure.what);
    eprintln!(
        "again: cargo run --release -p herdsman-sim -- run {} --from {} --count 1 --dry",
        row.name, failure.seed
    );
    ExitCode::FAILURE
}
