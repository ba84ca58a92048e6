//! What an encode call takes: columns and which of their rows.

use std::ops::Range;

use arrow::array::ArrayRef;
use arrow::buffer::BooleanBuffer;

/// Which rows of the columns to encode, in which order.
#[derive(Debug, Clone)]
pub enum Selection<'a> {
    /// Rows from start up to end.
    Range(Range<usize>),
    /// These rows.
    Indices(&'a [u32]),
}

impl Selection<'_> {
    /// Number of rows selected.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Range(range) => range.len(),
            Self::Indices(indices) => indices.len(),
        }
    }

    /// Whether no row is selected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let (range, indices) = match self {
            Self::Range(range) => (range.clone(), [].as_slice()),
            Self::Indices(indices) => (0..0, *indices),
        };
        range.chain(indices.iter().map(|index| usize::try_from(*index).unwrap_or(usize::MAX)))
    }

    pub(crate) fn end(&self) -> usize {
        self.iter().max().map_or(0, |last| last + 1)
    }
}

impl From<Range<usize>> for Selection<'_> {
    fn from(range: Range<usize>) -> Self {
        Self::Range(range)
    }
}

impl<'a> From<&'a [u32]> for Selection<'a> {
    fn from(indices: &'a [u32]) -> Self {
        Self::Indices(indices)
    }
}

/// Rows to encode. Timestamps, windows and tombstones are indexed like the columns, before the selection.
#[derive(Debug, Clone)]
pub struct Rows<'a> {
    /// One column per schema column, key first.
    pub columns: &'a [ArrayRef],
    /// Which rows.
    pub selection: Selection<'a>,
    /// Record timestamps, ms since the Unix epoch.
    pub timestamps: &'a [i64],
    /// Window starts and ends, ms; needed by encoders made with a window.
    pub windows: Option<(&'a [i64], &'a [i64])>,
    /// Rows whose value is null (true: tombstone).
    pub tombstones: Option<&'a BooleanBuffer>,
}
