//! What may go wrong between bytes and columns: for a whole decoder, or for one row.

use std::fmt;

use bytes::Bytes;
use herdsman_record::TopicPartition;

use crate::{Format, SqlType};

/// A decoder or encoder cannot be made, or a whole call failed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum FormatError {
    /// The format is not built yet.
    #[error("the {} format is not supported yet: use JSON, DELIMITED, KAFKA or NONE", .0.name())]
    Unsupported(Format),
    /// The format cannot hold the columns.
    #[error("the {} format {reason}", .format.name())]
    Columns {
        /// The format.
        format: Format,
        /// What it cannot hold, and what to do.
        reason: String,
    },
    /// A delimiter outside ASCII, or one that CSV itself needs.
    #[error(
        "delimiter {0:?} cannot be used: choose one ASCII character other than quote, carriage return or newline"
    )]
    Delimiter(char),
    /// A batch is damaged.
    #[error(transparent)]
    Record(#[from] herdsman_record::RecordError),
    /// More bytes in one call than one Arrow column may hold.
    #[error("{0} bytes in one decode call, at most 1 GiB fit: hand over fewer batches")]
    TooLarge(usize),
    /// A column handed to the encoder is missing, has another type, or fewer rows than the selection.
    #[error("column {column} handed to the encoder: {reason}")]
    Input {
        /// Index of the column, key first.
        column: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// Which half of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The key.
    Key,
    /// The value.
    Value,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "key",
            Self::Value => "value",
        })
    }
}

/// Why one row could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RowFault {
    /// The bytes are not of the declared format at all.
    NotFormat {
        /// The declared format.
        format: Format,
        /// What the bytes look like, and what to do.
        hint: String,
    },
    /// A value cannot become its column's type.
    Mismatch {
        /// Column (or path into it).
        column: String,
        /// The column's type.
        wanted: SqlType,
        /// What stands there.
        found: String,
    },
    /// Nested deeper than 128 levels.
    TooDeep,
    /// Not as many fields as columns.
    FieldCount {
        /// Fields found.
        found: usize,
        /// Columns declared.
        declared: usize,
    },
}

impl fmt::Display for RowFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFormat { format, hint } => write!(f, "is not {}: {hint}", format.name()),
            Self::Mismatch { column, wanted, found } => {
                write!(f, "cannot be read: column {column} is {wanted}, found {found}")
            }
            Self::TooDeep => f.write_str("is nested deeper than 128 levels"),
            Self::FieldCount { found, declared } => {
                write!(f, "cannot be read: it has {found} fields, {declared} columns are declared")
            }
        }
    }
}

/// A record that was left out of the columns, with its bytes for a dead-letter topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowError {
    /// Absolute offset.
    pub offset: i64,
    /// Record timestamp, ms since the Unix epoch.
    pub timestamp_ms: i64,
    /// Key or value.
    pub part: Part,
    /// Why.
    pub fault: RowFault,
    /// Key bytes as they came.
    pub key: Option<Bytes>,
    /// Value bytes as they came.
    pub value: Option<Bytes>,
}

impl RowError {
    /// One line for people: `finds-2 offset 17 is not JSON: it begins 00 00 00 00 01, like Avro with schema 1; use
    /// VALUE_FORMAT='AVRO'`.
    #[must_use]
    pub fn sentence(&self, at: &TopicPartition) -> String {
        match self.part {
            Part::Key => format!("{at} offset {}: the key {}", self.offset, self.fault),
            Part::Value => format!("{at} offset {} {}", self.offset, self.fault),
        }
    }
}

/// What strange bytes look like, for the hint of [`RowFault::NotFormat`].
#[must_use]
pub fn looks_like(bytes: &[u8], declared: Format, part: Part) -> String {
    let property = match part {
        Part::Key => "KEY_FORMAT",
        Part::Value => "VALUE_FORMAT",
    };
    if let [0, a, b, c, d, ..] = *bytes {
        let schema = u32::from_be_bytes([a, b, c, d]);
        return format!(
            "it begins 00 {a:02x} {b:02x} {c:02x} {d:02x}, like Avro with schema {schema}; use {property}='AVRO'"
        );
    }
    if bytes.is_empty() {
        return "it is empty".to_owned();
    }
    let text = std::str::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control));
    match (text, declared) {
        (Some(text), Format::Json) if text.contains(',') && !text.starts_with(['{', '[', '"']) => {
            format!("it begins {}, like separated values; use {property}='DELIMITED'", quote(text))
        }
        (Some(text), Format::Json) if part == Part::Key && !text.starts_with(['{', '[', '"']) => {
            format!("it begins {}, like plain text; use {property}='KAFKA'", quote(text))
        }
        (Some(text), _) => format!("it begins {}", quote(text)),
        (None, _) => {
            let hex: Vec<String> = bytes.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
            format!("it begins {}", hex.join(" "))
        }
    }
}

/// The first 24 characters of `text`, quoted.
#[must_use]
pub(crate) fn quote(text: &str) -> String {
    let short: String = text.chars().take(24).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if short.len() < text.len() { format!("'{short}…'") } else { format!("'{short}'") }
}
