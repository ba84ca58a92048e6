//! `sim/LEDGER.jsonl`: a line for each run, with commit, seeds, what was done and the result.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Failure, Order, Row, Tally};

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Day of the run, `YYYY-MM-DD`, UTC.
    pub date: String,
    /// Short hash of the commit; `+` behind it when the tree held changes.
    pub commit: String,
    /// The row's name.
    pub row: String,
    /// First seed.
    pub from: u64,
    /// How many were done.
    pub done: u64,
    /// Of what.
    pub unit: String,
    /// Simulated hours; 0 where nothing is simulated.
    pub simulated_hours: f64,
    /// Further counts by name.
    pub counts: BTreeMap<String, u64>,
    /// Wall-clock seconds.
    pub seconds: u64,
    /// `passed`, or what did not hold, with its seed.
    pub result: String,
}

impl Line {
    /// The line of a run of `row` that took `spent`.
    #[must_use]
    pub fn new(row: &Row, order: &Order, outcome: &Result<Tally, Failure>, spent: Duration) -> Self {
        let (tally, result) = match outcome {
            Ok(tally) => (tally.clone(), "passed".to_owned()),
            Err(failure) => (Tally::default(), format!("seed {}: {}", failure.seed, failure.what)),
        };
        #[allow(clippy::cast_precision_loss, reason = "simulated milliseconds stay far below 2^52")]
        let simulated_hours = (tally.simulated_ms as f64 / 36_000.0).round() / 100.0;
        Self {
            date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
            commit: commit(),
            row: row.name.to_owned(),
            from: order.from,
            done: tally.done,
            unit: row.unit.to_owned(),
            simulated_hours,
            counts: tally.counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
            seconds: spent.as_secs(),
            result,
        }
    }
}

/// The ledger's file in this source tree.
#[must_use]
pub fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("LEDGER.jsonl")
}

/// Adds a line to the ledger.
///
/// # Errors
/// The file cannot be written.
pub fn append(line: &Line) -> std::io::Result<()> {
    let text = serde_json::to_string(line)?;
    let mut file = OpenOptions::new().create(true).append(true).open(path())?;
    writeln!(file, "{text}")
}

/// All lines.
///
/// # Errors
/// The file cannot be read, or a line of it is not one of ours.
pub fn read() -> std::io::Result<Vec<Line>> {
    let text = match std::fs::read_to_string(path()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        text => text?,
    };
    text.lines().map(|line| serde_json::from_str(line).map_err(std::io::Error::from)).collect()
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(hash) = git(&["rev-parse", "--short=10", "HEAD"]) else { return "unknown".to_owned() };
    let dirty = git(&["status", "--porcelain", "--untracked-files=no", "--", ":!LEDGER.jsonl"]);
    if dirty.is_none_or(|changes| changes.is_empty()) { hash } else { format!("{hash}+") }
}
