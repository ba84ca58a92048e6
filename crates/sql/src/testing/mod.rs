//! `herdsman test`: runs ksqlDB's case files on this engine and says honestly what passes.
//!
//! Statements, inputs and schemas go in; topics and catalog come out; a comparator that the engine cannot see judges.
//! Topics are in memory, the clock stands at the epoch, queries take one record at a time. Cases whose functions
//! exist only in ksqlDB's own test jar, and entries that name Kafka Streams' internal topics, are waived and counted.

mod bytes;
mod case;
mod compare;
mod post;
mod rest;
mod runner;

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::diagnostic::SqlError;
pub(crate) use case::Case;

/// Functions of ksqlDB's test jar.
const TEST_ONLY: [&str; 14] = [
    "TEST_UDF",
    "BAD_UDF",
    "WHENCONDITION",
    "WHENRESULT",
    "TEST_UDAF",
    "VAR_ARG",
    "MID_VAR_ARG",
    "GENERIC_VAR_ARG",
    "MULTI_ARG",
    "FOUR_ARG",
    "FIVE_ARG",
    "OBJ_COL_ARG",
    "TEST_UDTF",
    "THROWING_UDTF",
];

/// How many cases passed, failed, were waived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Cases that should work and do.
    pub positive_passed: usize,
    /// Cases that should work and do not.
    pub positive_failed: usize,
    /// Cases that should be refused, and are, with the right words.
    pub negative_passed: usize,
    /// Cases that should be refused and are not, or with other words.
    pub negative_failed: usize,
    /// Cases that need ksqlDB's test-only functions.
    pub waived: usize,
    /// Post-condition entries about Kafka Streams' internal topics that were passed over.
    pub waived_entries: usize,
}

impl Summary {
    /// All passed.
    #[must_use]
    pub fn passed(&self) -> usize {
        self.positive_passed + self.negative_passed
    }

    /// All failed.
    #[must_use]
    pub fn failed(&self) -> usize {
        self.positive_failed + self.negative_failed
    }
}

/// Runs the case files (folders are searched for `*.json`, sorted) and writes a line per case, then the counts; the
/// last line is `N passed, N failed`.
///
/// # Errors   a file that cannot be read or is no case file; a failure of `out`.
pub fn run_paths(paths: &[PathBuf], out: &mut dyn Write) -> std::io::Result<Summary> {
    let mut files = Vec::new();
    for path in paths {
        collect(path, &mut files)?;
    }
    let mut summary = Summary::default();
    for file in &files {
        let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let text = std::fs::read_to_string(file)?;
        let cases = case::parse(&stem, &text)
            .map_err(|reason| std::io::Error::other(format!("{}: {reason}", file.display())))?;
        for case in &cases {
            run_case(case, &mut summary, out)?;
        }
    }
    writeln!(out, "positive: {} passed, {} failed", summary.positive_passed, summary.positive_failed)?;
    writeln!(out, "negative: {} passed, {} failed", summary.negative_passed, summary.negative_failed)?;
    writeln!(
        out,
        "waived: {} cases (functions of ksqlDB's test jar), {} entries (Kafka Streams' internal topics)",
        summary.waived, summary.waived_entries
    )?;
    writeln!(out, "{} passed, {} failed", summary.passed(), summary.failed())?;
    Ok(summary)
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if path.is_dir() {
        let mut inside: Vec<PathBuf> = std::fs::read_dir(path)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        inside.sort();
        for path in
            inside.iter().filter(|path| path.is_dir() || path.extension().is_some_and(|ext| ext == "json"))
        {
            if path.file_name().is_some_and(|name| name == "manifest.json") {
                continue;
            }
            collect(path, files)?;
        }
        return Ok(());
    }
    files.push(path.to_owned());
    Ok(())
}

fn run_case(case: &Case, summary: &mut Summary, out: &mut dyn Write) -> std::io::Result<()> {
    if uses_test_function(&case.statements.join("\n")) {
        summary.waived += 1;
        return writeln!(out, "WAIVE {}: needs a function of ksqlDB's test jar", case.name);
    }
    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        if case.is_rest() { rest::run(case).map(|()| 0) } else { runner::run(case) }
    }));
    let result = ran.unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panicked: {}", words.unwrap_or_default()))
    });
    let negative = case.is_negative();
    match result {
        Ok(waived) => {
            summary.waived_entries += waived;
            if negative {
                summary.negative_passed += 1
            } else {
                summary.positive_passed += 1
            }
            writeln!(out, "PASS {}", case.name)
        }
        Err(reason) => {
            if negative {
                summary.negative_failed += 1
            } else {
                summary.positive_failed += 1
            }
            writeln!(out, "FAIL {}: {}", case.name, reason.replace('\n', "\\n"))
        }
    }
}

fn uses_test_function(sql: &str) -> bool {
    let upper = sql.to_uppercase();
    TEST_ONLY.iter().any(|name| {
        upper.match_indices(name).any(|(at, _)| {
            let before = upper.get(..at).and_then(|before| before.chars().last());
            let after = upper.get(at + name.len()..).map(str::trim_start);
            after.is_some_and(|after| after.starts_with('('))
                && !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
        })
    })
}

/// Runs one script as `ksql-test-runner` does: `inputs` is `{"inputs":[…]}`, `outputs` is `{"outputs":[…]}`.
///
/// # Errors   why the test failed.
pub fn run_script(statements: &str, inputs: Option<&str>, outputs: &str) -> Result<(), SqlError> {
    let read = |text: &str, key: &str| -> Result<Vec<Json>, SqlError> {
        let json: Json = serde_json::from_str(&case::strip_comments(text))
            .map_err(|error| SqlError::bad_request(format!("the {key} file is not JSON: {error}")))?;
        match json.get(key).and_then(Json::as_array) {
            Some(records) => Ok(records.clone()),
            None => Err(SqlError::bad_request(format!("the {key} file has no list {key:?}"))),
        }
    };
    let inputs = inputs.map(|text| read(text, "inputs")).transpose()?.unwrap_or_default();
    let outputs = read(outputs, "outputs")?;
    let case = Case::script(statements, inputs, outputs).map_err(SqlError::bad_request)?;
    runner::run(&case).map(|_| ()).map_err(SqlError::processing)
}
