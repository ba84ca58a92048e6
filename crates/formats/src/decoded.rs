//! What a decode call gives back: columns, row positions, and the rows that did not decode.

use arrow::array::ArrayRef;
use arrow::buffer::BooleanBuffer;
use herdsman_record::{Record, Records};

use crate::RowError;

/// Rows of some batches as columns. All vectors and columns have [`Decoded::len`] rows.
#[derive(Debug, Clone, Default)]
pub struct Decoded {
    /// One column per schema column, key first; columns that were not asked for are all null.
    pub columns: Vec<ArrayRef>,
    /// Absolute offset of each row, ascending.
    pub offsets: Vec<i64>,
    /// Record timestamp of each row, ms since the Unix epoch.
    pub timestamps: Vec<i64>,
    /// True where the value is null (a tombstone); `None` when no row is one.
    pub tombstones: Option<BooleanBuffer>,
    /// True where the key is null; `None` when no row has a null key.
    pub null_keys: Option<BooleanBuffer>,
    /// Window start and end of each row, ms (only with [`Decoder::with_window`](crate::Decoder::with_window)).
    pub windows: Option<(Vec<i64>, Vec<i64>)>,
    /// Rows that did not decode, in offset order; they are in no column.
    pub errors: Vec<RowError>,
    pub(crate) raw: Vec<Records>,
}

impl Decoded {
    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// The raw records (key, value, headers) behind the rows, in row order, one per row.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let mut row = 0;
        self.raw.iter().flat_map(Records::iter).filter_map(Result::ok).filter(move |record| {
            let found = self.offsets.get(row) == Some(&record.offset);
            row += usize::from(found);
            found
        })
    }
}
