//! Rows of a file as columns, a few thousand at a time, with the line each came from.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringBuilder};
use herdsman_stream::{Column, Schema, SqlType};

use super::super::{InputError, Rejected};
use super::FileFormat;
use super::table::ParquetRows;

/// Some rows of a file.
pub(super) struct Rows {
    /// One array per column of the file.
    pub(super) columns: Vec<ArrayRef>,
    /// Line (or row, from 1) of each row.
    pub(super) lines: Vec<u64>,
    /// Lines that are not rows.
    pub(super) rejected: Vec<Rejected>,
}

impl Rows {
    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }
}

/// An open file.
pub(super) enum Source {
    Csv(CsvRows),
    Jsonl(JsonRows),
    Parquet(ParquetRows),
}

impl Source {
    pub(super) fn open(file: &Path, format: FileFormat, delimiter: char) -> Result<Self, InputError> {
        match format {
            FileFormat::Csv => CsvRows::open(file, delimiter).map(Self::Csv),
            FileFormat::Jsonl => JsonRows::open(file).map(Self::Jsonl),
            FileFormat::Parquet => ParquetRows::open(file).map(Self::Parquet),
        }
    }

    /// Names of the columns, as the file spells them.
    pub(super) fn columns(&self) -> &[String] {
        match self {
            Self::Csv(rows) => &rows.columns,
            Self::Jsonl(rows) => &rows.columns,
            Self::Parquet(rows) => rows.columns(),
        }
    }

    /// The columns as SQL sees them: upper case.
    pub(super) fn schema(&self) -> Schema {
        let types: Vec<SqlType> = match self {
            Self::Csv(_) | Self::Jsonl(_) => vec![SqlType::String; self.columns().len()],
            Self::Parquet(rows) => rows.types().to_vec(),
        };
        let value = self.columns().iter().zip(types).map(|(name, ty)| Column::new(name.to_uppercase(), ty));
        Schema { key: Vec::new(), value: value.collect() }
    }

    pub(super) fn next(&mut self, rows: usize) -> Result<Rows, InputError> {
        match self {
            Self::Csv(source) => Ok(source.next(rows)),
            Self::Jsonl(source) => source.next(rows),
            Self::Parquet(source) => source.next(rows),
        }
    }
}

pub(super) fn read_error(file: &Path, reason: impl ToString) -> InputError {
    InputError::Read { file: file.display().to_string(), reason: reason.to_string() }
}

fn finish(builders: Vec<StringBuilder>) -> Vec<ArrayRef> {
    builders.into_iter().map(|mut builder| Arc::new(builder.finish()) as ArrayRef).collect()
}

fn builders(columns: &[String]) -> Vec<StringBuilder> {
    columns.iter().map(|_| StringBuilder::new()).collect()
}

pub(super) struct CsvRows {
    reader: csv::Reader<File>,
    columns: Vec<String>,
    record: csv::StringRecord,
}

impl CsvRows {
    fn open(file: &Path, delimiter: char) -> Result<Self, InputError> {
        let delimiter = u8::try_from(delimiter)
            .map_err(|_| read_error(file, "the delimiter must be one ASCII character"))?;
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .from_path(file)
            .map_err(|error| read_error(file, error))?;
        let header = reader.headers().map_err(|error| read_error(file, error))?;
        let columns: Vec<String> =
            header.iter().map(|name| name.trim().trim_start_matches('\u{feff}').to_owned()).collect();
        if columns.is_empty() || columns.iter().all(String::is_empty) {
            return Err(InputError::Empty(file.display().to_string()));
        }
        Ok(Self { reader, columns, record: csv::StringRecord::new() })
    }

    fn next(&mut self, rows: usize) -> Rows {
        let mut builders = builders(&self.columns);
        let (mut lines, mut rejected) = (Vec::new(), Vec::new());
        while lines.len() + rejected.len() < rows {
            match self.reader.read_record(&mut self.record) {
                Ok(false) => break,
                Ok(true) => {
                    lines.push(self.record.position().map_or(0, csv::Position::line));
                    for (builder, field) in builders.iter_mut().zip(self.record.iter()) {
                        if field.is_empty() { builder.append_null() } else { builder.append_value(field) }
                    }
                }
                Err(error) => {
                    let line = error.position().map_or(0, csv::Position::line);
                    let reason = match error.kind() {
                        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                            format!("{len} fields, the header has {expected_len}")
                        }
                        csv::ErrorKind::Utf8 { .. } => "not UTF-8".to_owned(),
                        _ => error.to_string(),
                    };
                    let raw = self.record.iter().collect::<Vec<_>>().join(",");
                    let ended = matches!(error.kind(), csv::ErrorKind::Io(_));
                    rejected.push(Rejected { line, reason, raw });
                    if ended {
                        break;
                    }
                }
            }
        }
        Rows { columns: finish(builders), lines, rejected }
    }
}

pub(super) struct JsonRows {
    reader: BufReader<File>,
    file: std::path::PathBuf,
    columns: Vec<String>,
    line: u64,
}

/// Lines looked at to learn the columns.
const SAMPLE_LINES: usize = 1_000;
/// Longest line accepted, bytes.
const LINE_BYTES_MAX: usize = 16 << 20;

impl JsonRows {
    fn open(file: &Path) -> Result<Self, InputError> {
        let open = || File::open(file).map(BufReader::new).map_err(|error| read_error(file, error));
        let mut columns: Vec<String> = Vec::new();
        for line in open()?.lines().take(SAMPLE_LINES) {
            let Ok(line) = line else { continue };
            if let Ok(serde_json::Value::Object(object)) = serde_json::from_str(&line) {
                for key in object.keys().filter(|key| !key.is_empty()) {
                    if !columns.contains(key) {
                        columns.push(key.clone());
                    }
                }
            }
        }
        if columns.is_empty() {
            return Err(InputError::Empty(file.display().to_string()));
        }
        Ok(Self { reader: open()?, file: file.to_owned(), columns, line: 0 })
    }

    fn next(&mut self, rows: usize) -> Result<Rows, InputError> {
        let mut builders = builders(&self.columns);
        let (mut lines, mut rejected) = (Vec::new(), Vec::new());
        let mut text = Vec::new();
        while lines.len() + rejected.len() < rows {
            text.clear();
            let read =
                self.reader.read_until(b'\n', &mut text).map_err(|error| read_error(&self.file, error))?;
            if read == 0 {
                break;
            }
            self.line += 1;
            let trimmed = text.trim_ascii();
            if trimmed.is_empty() {
                rejected.push(Rejected {
                    line: self.line,
                    reason: "an empty line".to_owned(),
                    raw: String::new(),
                });
                continue;
            }
            match object(trimmed) {
                Ok(object) => {
                    lines.push(self.line);
                    for (builder, column) in builders.iter_mut().zip(&self.columns) {
                        builder.append_option(object.get(column).and_then(plain));
                    }
                }
                Err(reason) => {
                    let raw =
                        String::from_utf8_lossy(trimmed.get(..trimmed.len().min(4_096)).unwrap_or_default());
                    rejected.push(Rejected { line: self.line, reason, raw: raw.into_owned() });
                }
            }
        }
        Ok(Rows { columns: finish(builders), lines, rejected })
    }
}

fn object(line: &[u8]) -> Result<serde_json::Map<String, serde_json::Value>, String> {
    if line.len() > LINE_BYTES_MAX {
        return Err(format!("{} bytes, at most {LINE_BYTES_MAX} are read", line.len()));
    }
    match serde_json::from_slice(line) {
        Ok(serde_json::Value::Object(object)) => Ok(object),
        Ok(_) => Err("JSON, but not an object".to_owned()),
        Err(error) => Err(format!("not JSON: {error}")),
    }
}

fn plain(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}
