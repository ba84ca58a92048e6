//! Where check-ins come from: the shipped flights, or anyone's file through a map.
//!
//! An input yields [`Events`]: columns of a few thousand check-ins in the order they arrive. Rows that cannot be
//! read come along as [`Rejected`], each with its place and reason; they never end the run.

pub mod flights;
pub mod mapped;

use arrow::array::{Array, Float64Array, Int64Array, StringArray};

pub use flights::Flights;
pub use mapped::Mapped;

/// A row that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Line (text files) or row (Parquet), from 1.
    pub line: u64,
    /// Why, in a sentence.
    pub reason: String,
    /// The row as it stood, as far as it could be read.
    pub raw: String,
}

/// A run of check-ins in arrival order, column by column; all columns have the same length.
#[derive(Debug, Clone)]
pub struct Events {
    /// The user's event ids, never null.
    pub event_id: StringArray,
    /// Players.
    pub player: StringArray,
    /// Hunts.
    pub hunt: StringArray,
    /// Places.
    pub place: StringArray,
    /// Kinds of check-in.
    pub kind: StringArray,
    /// Event times, ms since the Unix epoch.
    pub scheduled: Int64Array,
    /// Actual times, ms since the Unix epoch.
    pub actual: Int64Array,
    /// Latitudes, degrees; null if unknown.
    pub lat: Float64Array,
    /// Longitudes, degrees; null if unknown.
    pub lon: Float64Array,
    /// Rows left out of the columns.
    pub rejected: Vec<Rejected>,
}

impl Events {
    /// Number of check-ins.
    #[must_use]
    pub fn len(&self) -> usize {
        self.event_id.len()
    }

    /// Whether there is neither a check-in nor a rejected row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.event_id.is_empty() && self.rejected.is_empty()
    }

    /// Whether all texts of the records' values stand in JSON as they are.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        [&self.event_id, &self.player, &self.place, &self.kind].into_iter().all(|texts| {
            let (Some(first), Some(last)) = (texts.value_offsets().first(), texts.value_offsets().last())
            else {
                return true;
            };
            let used = usize::try_from(*first).unwrap_or(0)..usize::try_from(*last).unwrap_or(usize::MAX);
            texts.value_data().get(used).is_some_and(crate::event::is_plain)
        })
    }

    /// Rows `offset .. offset + len` of the columns, without copying; rejected rows stay behind.
    #[must_use]
    pub fn slice(&self, offset: usize, len: usize) -> Self {
        Self {
            event_id: self.event_id.slice(offset, len),
            player: self.player.slice(offset, len),
            hunt: self.hunt.slice(offset, len),
            place: self.place.slice(offset, len),
            kind: self.kind.slice(offset, len),
            scheduled: self.scheduled.slice(offset, len),
            actual: self.actual.slice(offset, len),
            lat: self.lat.slice(offset, len),
            lon: self.lon.slice(offset, len),
            rejected: Vec::new(),
        }
    }
}

/// Why an input cannot be used at all. The program ends with exit code 2.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// No such file.
    #[error("{0}")]
    NoFile(String),
    /// The file cannot be read.
    #[error("cannot read {file}: {reason}")]
    Read {
        /// The file.
        file: String,
        /// What the system or the format says.
        reason: String,
    },
    /// The file holds no row.
    #[error("{0} holds no rows: nothing to hunt")]
    Empty(String),
    /// The map cannot be read or names what is not there.
    #[error("map {map}: {reason}")]
    Map {
        /// The map's file.
        map: String,
        /// What is wrong and what would be right.
        reason: String,
    },
}

/// A source of check-ins.
pub trait Input: Send {
    /// The next run of at most `rows` check-ins; an empty one at the end.
    fn next(&mut self, rows: usize) -> Result<Events, InputError>;
    /// Goes to row `row` (counted in rows of the source that were yielded or rejected), from the start of the input.
    fn seek(&mut self, row: u64) -> Result<(), InputError>;
    /// Rows yielded or rejected so far since the start of the input.
    fn position(&self) -> u64;
    /// Number of rows, if known; for the progress bar.
    fn rows_total(&self) -> Option<u64>;
    /// What it is, for the summary.
    fn describe(&self) -> String;
}

/// `: did you mean NAME?` for the closest of `candidates`, or an empty string.
#[must_use]
pub fn hint(wanted: &str, candidates: impl IntoIterator<Item = String>) -> String {
    herdsman_server::nearest(wanted, candidates)
        .map(|near| format!(": did you mean {near}?"))
        .unwrap_or_default()
}
