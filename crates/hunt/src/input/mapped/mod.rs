//! Anyone's file as check-ins: CSV, JSON Lines or Parquet, through a map.
//!
//! ```toml
//! # finds.toml: each entry of [columns] is a column of the file or a SQL expression over its columns
//! format = "csv"              # csv, jsonl or parquet; by the file's ending if left out
//! time_unit = "s"             # ms (default), s, us or text (2013-01-01T10:00:00Z)
//! [columns]
//! event_id = "id"             # may be left out: the id is then made of the row's content
//! player = "UCASE(who)"
//! hunt = "team"
//! place = "spot"
//! kind = "'land'"             # may be left out: every row is a `land`
//! time = "planned"            # event time
//! actual = "happened"         # may be left out: the event time; rows arrive in the file's order
//! lat = "latitude"            # position: both or none
//! lon = "longitude"
//! ```
//! In CSV and JSON Lines every column is text for the expressions; Parquet columns keep their types.

mod rows;
mod table;

use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, StringArray};
use arrow::compute::filter;
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit};
use herdsman_record::EventId;
use herdsman_stream::Schema;
use herdsman_stream::eval::EvalContext;
use herdsman_stream::expr::Expr;
use serde::Deserialize;

use self::rows::{Rows, Source};
use super::{Events, Input, InputError, Rejected, hint};

/// Formats of an input file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// Comma-separated values with a header line.
    Csv,
    /// One JSON object a line.
    Jsonl,
    /// Parquet.
    Parquet,
}

/// Units of numeric times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeUnitName {
    /// Milliseconds since the Unix epoch.
    #[default]
    Ms,
    /// Seconds.
    S,
    /// Microseconds.
    Us,
    /// Text as ISO 8601 writes it; UTC unless it names a zone.
    Text,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Map {
    format: Option<FileFormat>,
    #[serde(default)]
    time_unit: TimeUnitName,
    #[serde(default = "comma")]
    delimiter: char,
    columns: Columns,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Columns {
    event_id: Option<String>,
    player: String,
    hunt: String,
    place: String,
    kind: Option<String>,
    time: String,
    actual: Option<String>,
    lat: Option<String>,
    lon: Option<String>,
}

fn comma() -> char {
    ','
}

/// One entry of the map, ready to be read from rows.
enum Entry {
    Column(usize),
    Expr(Box<Expr>),
}

/// A file through its map.
pub struct Mapped {
    file: PathBuf,
    format: FileFormat,
    delimiter: char,
    source: Source,
    time_unit: TimeUnitName,
    entries: Entries,
    position: u64,
}

struct Entries {
    event_id: Option<Entry>,
    player: Entry,
    hunt: Entry,
    place: Entry,
    kind: Option<Entry>,
    time: Entry,
    actual: Option<Entry>,
    lat: Option<Entry>,
    lon: Option<Entry>,
}

impl Mapped {
    /// Opens `file` through the map in `map`. Errors: [`InputError`], each one line, exit code 2.
    pub fn open(file: &Path, map: &Path) -> Result<Self, InputError> {
        must_exist(map)?;
        must_exist(file)?;
        let refused = |reason: String| InputError::Map { map: map.display().to_string(), reason };
        let text = std::fs::read_to_string(map).map_err(|error| refused(error.to_string()))?;
        let parsed: Map = toml::from_str(&text).map_err(|error| refused(explain(&error, &text)))?;
        let format = parsed.format.or_else(|| by_ending(file)).ok_or_else(|| {
            refused(format!(
                "{} has no ending that tells its format: add format = \"csv\", \"jsonl\" or \"parquet\"",
                file.display()
            ))
        })?;
        let source = Source::open(file, format, parsed.delimiter)?;
        let resolver = Resolver { map, file, columns: source.columns(), schema: source.schema() };
        let columns = &parsed.columns;
        if columns.lat.is_some() != columns.lon.is_some() {
            return Err(refused("lat and lon go together: name both or none".to_owned()));
        }
        let optional = |name: &str, text: &Option<String>| -> Result<Option<Entry>, InputError> {
            text.as_ref().map(|text| resolver.entry(name, text)).transpose()
        };
        let entries = Entries {
            event_id: optional("event_id", &columns.event_id)?,
            player: resolver.entry("player", &columns.player)?,
            hunt: resolver.entry("hunt", &columns.hunt)?,
            place: resolver.entry("place", &columns.place)?,
            kind: optional("kind", &columns.kind)?,
            time: resolver.entry("time", &columns.time)?,
            actual: optional("actual", &columns.actual)?,
            lat: optional("lat", &columns.lat)?,
            lon: optional("lon", &columns.lon)?,
        };
        Ok(Self {
            file: file.to_owned(),
            format,
            delimiter: parsed.delimiter,
            source,
            time_unit: parsed.time_unit,
            entries,
            position: 0,
        })
    }

    /// Turns raw rows into check-ins; rows without what a check-in needs are rejected.
    fn check_ins(&self, mut rows: Rows) -> Events {
        let mut rejected = std::mem::take(&mut rows.rejected);
        let read = |entry: &Entry| evaluate(entry, &rows.columns, rows.len());
        let text = |entry: &Entry| cast(&read(entry), &DataType::Utf8).as_string::<i32>().clone();
        let player = text(&self.entries.player);
        let hunt = text(&self.entries.hunt);
        let place = text(&self.entries.place);
        let kind = self.entries.kind.as_ref().map(text);
        let scheduled = times(&read(&self.entries.time), self.time_unit);
        let actual = self
            .entries
            .actual
            .as_ref()
            .map_or_else(|| scheduled.clone(), |entry| times(&read(entry), self.time_unit));
        let degrees = |entry: &Option<Entry>| {
            entry.as_ref().map_or_else(
                || Float64Array::new_null(rows.len()),
                |entry| cast(&read(entry), &DataType::Float64).as_primitive::<Float64Type>().clone(),
            )
        };
        let (lat, lon) = (degrees(&self.entries.lat), degrees(&self.entries.lon));
        let kind = kind.unwrap_or_else(|| StringArray::from(vec!["land"; rows.len()]));
        let needed: [(&str, &dyn Array); 6] = [
            ("player", &player),
            ("hunt", &hunt),
            ("place", &place),
            ("kind", &kind),
            ("time", &scheduled),
            ("actual", &actual),
        ];
        let mut keep = Vec::with_capacity(player.len());
        for (row, line) in rows.lines.iter().enumerate() {
            let missing: Vec<&str> =
                needed.iter().filter(|(_, column)| column.is_null(row)).map(|(name, _)| *name).collect();
            keep.push(missing.is_empty());
            if !missing.is_empty() {
                let reason = format!("{} cannot be read", missing.join(", "));
                let raw = rows.columns.iter().map(|column| show(column, row)).collect::<Vec<_>>().join(",");
                rejected.push(Rejected { line: *line, reason, raw });
            }
        }
        rejected.sort_by_key(|row| row.line);
        let given = self.entries.event_id.as_ref().map(text);
        let event_id = event_ids(given.as_ref(), [&player, &hunt, &place, &kind], [&scheduled, &actual]);
        let keep = BooleanArray::from(keep);
        Events {
            event_id: kept(&event_id, &keep).as_string::<i32>().clone(),
            player: kept(&player, &keep).as_string::<i32>().clone(),
            hunt: kept(&hunt, &keep).as_string::<i32>().clone(),
            place: kept(&place, &keep).as_string::<i32>().clone(),
            kind: kept(&kind, &keep).as_string::<i32>().clone(),
            scheduled: kept(&scheduled, &keep).as_primitive::<Int64Type>().clone(),
            actual: kept(&actual, &keep).as_primitive::<Int64Type>().clone(),
            lat: kept(&lat, &keep).as_primitive::<Float64Type>().clone(),
            lon: kept(&lon, &keep).as_primitive::<Float64Type>().clone(),
            rejected,
        }
    }
}

impl Input for Mapped {
    fn next(&mut self, rows: usize) -> Result<Events, InputError> {
        let rows = self.source.next(rows)?;
        let taken = (rows.len() + rows.rejected.len()) as u64;
        if taken == 0 && self.position == 0 {
            return Err(InputError::Empty(self.file.display().to_string()));
        }
        self.position += taken;
        Ok(self.check_ins(rows))
    }

    fn seek(&mut self, row: u64) -> Result<(), InputError> {
        if row == self.position {
            return Ok(());
        }
        self.source = Source::open(&self.file, self.format, self.delimiter)?;
        self.position = 0;
        while self.position < row {
            let step = usize::try_from(row - self.position).unwrap_or(usize::MAX).min(8_192);
            let rows = self.source.next(step)?;
            let taken = (rows.len() + rows.rejected.len()) as u64;
            if taken == 0 {
                break;
            }
            self.position += taken;
        }
        Ok(())
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn rows_total(&self) -> Option<u64> {
        None
    }

    fn describe(&self) -> String {
        self.file.display().to_string()
    }
}

struct Resolver<'a> {
    map: &'a Path,
    file: &'a Path,
    columns: &'a [String],
    schema: Schema,
}

impl Resolver<'_> {
    /// A column by its name (case does not count), else a SQL expression over the columns.
    fn entry(&self, name: &str, text: &str) -> Result<Entry, InputError> {
        if let Some(index) = self.columns.iter().position(|column| column.eq_ignore_ascii_case(text)) {
            return Ok(Entry::Column(index));
        }
        let refused = |reason| InputError::Map { map: self.map.display().to_string(), reason };
        if text.chars().all(|character| character.is_alphanumeric() || character == '_') {
            let near = hint(text, self.columns.iter().cloned());
            let near = if near.is_empty() { ";".to_owned() } else { near };
            return Err(refused(format!(
                "{name} = \"{text}\": {} has no column {text}{near} it has {}",
                self.file.display(),
                self.columns.join(", ")
            )));
        }
        herdsman_sql::compile_expression(text, &self.schema)
            .map(|expr| Entry::Expr(Box::new(expr)))
            .map_err(|error| refused(format!("{name} = \"{text}\": {error}")))
    }
}

fn must_exist(path: &Path) -> Result<(), InputError> {
    let no_file = |error| InputError::NoFile(herdsman_server::unreadable(path, &error));
    path.metadata().map(|_| ()).map_err(no_file)
}

fn by_ending(file: &Path) -> Option<FileFormat> {
    match file.extension()?.to_str()?.to_lowercase().as_str() {
        "csv" => Some(FileFormat::Csv),
        "jsonl" | "ndjson" | "json" => Some(FileFormat::Jsonl),
        "parquet" => Some(FileFormat::Parquet),
        _ => None,
    }
}

/// TOML's error as one line with its place; an unknown key with the nearest known one.
fn explain(error: &toml::de::Error, text: &str) -> String {
    let line = error.span().map(|span| text.get(..span.start).unwrap_or_default().matches('\n').count() + 1);
    let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
    let message = error.message();
    let mut ticked = message.split('`').skip(1).step_by(2).map(str::to_owned);
    match ticked.next().filter(|_| message.starts_with("unknown field")) {
        Some(unknown) => format!("{place}unknown key {unknown}{}", hint(&unknown, ticked)),
        None => format!("{place}{}", message.lines().next().unwrap_or_default()),
    }
}

fn evaluate(entry: &Entry, columns: &[ArrayRef], rows: usize) -> ArrayRef {
    match entry {
        Entry::Column(index) => columns
            .get(*index)
            .cloned()
            .unwrap_or_else(|| arrow::array::new_null_array(&DataType::Utf8, rows)),
        Entry::Expr(expr) => {
            // a row that fails becomes null here and is rejected with its line by the caller
            let mut quiet = |_row: usize, _reason: &str| {};
            expr.evaluate(columns, rows, &mut EvalContext { now_ms: 0, on_error: &mut quiet })
                .unwrap_or_else(|_| arrow::array::new_null_array(&expr.ty().arrow(), rows))
        }
    }
}

/// Arrow's cast; what does not cast is null.
fn cast(column: &ArrayRef, to: &DataType) -> ArrayRef {
    arrow::compute::cast(column, to).unwrap_or_else(|_| arrow::array::new_null_array(to, column.len()))
}

fn kept(column: &dyn Array, keep: &BooleanArray) -> ArrayRef {
    filter(column, keep).unwrap_or_else(|_| arrow::array::new_null_array(column.data_type(), 0))
}

fn times(column: &ArrayRef, unit: TimeUnitName) -> Int64Array {
    let stamp = DataType::Timestamp(TimeUnit::Millisecond, None);
    let is_text = matches!(column.data_type(), DataType::Utf8);
    if unit == TimeUnitName::Text || column.data_type().is_temporal() {
        let zoned = DataType::Timestamp(TimeUnit::Millisecond, Some("+00:00".into()));
        let parsed = if is_text { cast(column, &zoned) } else { column.clone() };
        return cast(&cast(&parsed, &stamp), &DataType::Int64).as_primitive::<Int64Type>().clone();
    }
    let whole = cast(column, &DataType::Int64).as_primitive::<Int64Type>().clone();
    let exact = |row: usize| whole.is_valid(row).then(|| whole.value(row));
    let floats = cast(column, &DataType::Float64).as_primitive::<Float64Type>().clone();
    (0..column.len())
        .map(|row| match (exact(row), unit) {
            (Some(value), TimeUnitName::S) if floats.is_null(row) || floats.value(row).fract() == 0.0 => {
                value.checked_mul(1_000)
            }
            (Some(value), TimeUnitName::Us) => Some(value.div_euclid(1_000)),
            (Some(value), TimeUnitName::Ms) => Some(value),
            _ => floats.is_valid(row).then(|| milliseconds(floats.value(row), unit)).flatten(),
        })
        .collect()
}

fn milliseconds(value: f64, unit: TimeUnitName) -> Option<i64> {
    let scaled = match unit {
        TimeUnitName::S => value * 1e3,
        TimeUnitName::Us => value / 1e3,
        TimeUnitName::Ms | TimeUnitName::Text => value,
    };
    #[expect(clippy::cast_possible_truncation, reason = "checked against the range of exact integers")]
    (scaled.abs() < 9e15).then(|| scaled.floor() as i64)
}

/// The given ids where there are any, else 32 hexadecimal digits made of the row's content.
fn event_ids(given: Option<&StringArray>, texts: [&StringArray; 4], times: [&Int64Array; 2]) -> StringArray {
    let rows = texts.first().map_or(0, |column| column.len());
    let mut content = Vec::new();
    (0..rows)
        .map(|row| {
            if let Some(given) = given.filter(|given| given.is_valid(row) && !given.value(row).is_empty()) {
                return Some(given.value(row).to_owned());
            }
            content.clear();
            for column in texts.iter().filter(|column| column.is_valid(row)) {
                content.extend_from_slice(column.value(row).as_bytes());
                content.push(0);
            }
            for column in times.iter().filter(|column| column.is_valid(row)) {
                content.extend_from_slice(&column.value(row).to_le_bytes());
            }
            Some(format!("{:032x}", EventId::of(&content).0))
        })
        .collect()
}

fn show(column: &ArrayRef, row: usize) -> String {
    arrow::util::display::array_value_to_string(column, row).unwrap_or_default()
}

#[cfg(test)]
mod tests;
