//! `file:DIR?fileName=NAME`: JSON Lines appended, or Parquet files that roll.
//!
//! Guarantee. `format=jsonl` (default): at least once; a batch is on the disk (fdatasync) before its offsets are
//! committed, a line cut short by a crash is removed on the next start. `format=parquet`: each closed file appears
//! under its name at once, complete and synced; offsets are committed only up to closed files, and a file that a
//! crash left open is written anew, so rows repeat only if the crash falls between the rename and the commit.
//!
//! Paths: `DIR` and `fileName` (a simple expression) resolve beneath the routes' root (`openat2`: no `..`, no
//! links, no absolute names), even when a record chose them.
//!
//! Options: `fileName` (default `data.jsonl` or `data.parquet`), `format`, `fileExist` (`Append`, `Override`:
//! begin anew at start), `rollRecords` (1,000,000), `rollInterval` (60 s), `autoCreate` (true).

mod columns;
mod folder;
mod lines;
mod parquet;

use std::sync::Arc;

use super::{Doors, SendError, Sink};
use crate::error::RouteError;
use crate::exchange::Exchange;
use crate::language::Scope;
use crate::language::simple::Simple;
use crate::model::uri::Uri;

/// `file:` options.
#[derive(Debug)]
pub(crate) struct Config {
    pub folder: String,
    pub file_name: Simple,
    pub parquet: bool,
    pub start_over: bool,
    pub roll_records: usize,
    pub roll_ms: u64,
}

impl Config {
    pub fn parse(uri: &Uri) -> Result<Self, RouteError> {
        let known =
            ["fileName", "format", "fileExist", "rollRecords", "rollInterval", "autoCreate", "appendChars"];
        uri.only(&known)?;
        let folder = super::inner::name(uri)?.to_owned();
        if folder.split('/').any(|part| part == "..") {
            return Err(uri.refuse("file: `..` is refused: folders resolve beneath the routes' root"));
        }
        let parquet = uri.one_of("format", &["jsonl", "parquet"])? == "parquet";
        let name = uri.get("fileName").unwrap_or(if parquet { "data.parquet" } else { "data.jsonl" });
        let file_name =
            Simple::parse(name).map_err(|reason| RouteError::at(uri.place_of("fileName"), reason))?;
        if file_name.constant().is_some_and(|name| !folder::is_safe(name)) {
            return Err(RouteError::at(uri.place_of("fileName"), "fileName must stay beneath its folder"));
        }
        if !matches!(uri.get("appendChars"), None | Some("\n" | "\\n")) {
            return Err(RouteError::at(uri.place_of("appendChars"), "appendChars is always \\n here"));
        }
        Ok(Self {
            folder,
            file_name,
            parquet,
            start_over: uri.one_of("fileExist", &["Append", "Override"])? == "Override",
            roll_records: uri.number("rollRecords", 1_000_000_usize)?.max(1),
            roll_ms: uri.millis("rollInterval", 60_000)?,
        })
    }

    /// Parts the batch by file name: runs in order, so that what was delivered is a prefix.
    fn runs(&self, batch: &[Exchange], scope: &Scope<'_>) -> Result<Vec<(String, usize)>, SendError> {
        if let Some(name) = self.file_name.constant() {
            return Ok(vec![(name.to_owned(), batch.len())]);
        }
        let mut runs: Vec<(String, usize)> = Vec::new();
        for (index, exchange) in batch.iter().enumerate() {
            let name = self
                .file_name
                .value(exchange, scope)
                .map(|value| crate::exchange::text_of(&value))
                .and_then(|name| {
                    if folder::is_safe(&name) {
                        Ok(name)
                    } else {
                        Err(format!("file name {name} leaves its folder"))
                    }
                })
                .map_err(|reason| SendError::poison(Some(index), reason))?;
            match runs.last_mut() {
                Some((last, count)) if *last == name => *count += 1,
                _ => runs.push((name, 1)),
            }
        }
        Ok(runs)
    }
}

/// Opens the sink for the configured format.
pub(crate) fn open(config: &Arc<Config>, doors: &Doors) -> Result<Box<dyn Sink>, SendError> {
    let folder = folder::Folder::open(&doors.root, &config.folder)?;
    Ok(if config.parquet {
        Box::new(parquet::ParquetSink::new(Arc::clone(config), folder, doors))
    } else {
        Box::new(lines::LinesSink::new(Arc::clone(config), folder, doors))
    })
}
