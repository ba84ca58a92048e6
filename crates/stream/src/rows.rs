//! The batch that operators hand to each other: Arrow columns plus what lies outside a schema.

use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array};
use arrow::buffer::{BooleanBuffer, ScalarBuffer};
use arrow::compute;
use arrow::error::ArrowError;

/// Rows of one operator's output.
///
/// # Shapes   every column and vector has [`Rows::len`] entries; columns lie in schema order, key first.
/// # Units    times are milliseconds since the Unix epoch.
#[derive(Debug, Clone)]
pub struct Rows {
    /// Columns, key first. Value columns of a row without a value are null.
    pub columns: Vec<ArrayRef>,
    /// Event time (ROWTIME).
    pub times: ScalarBuffer<i64>,
    /// Window start and end, for windowed keys.
    pub windows: Option<Windows>,
    /// True where the row has no value: a deletion in a table, a null value in a stream. `None`: no such row.
    pub tombstones: Option<BooleanBuffer>,
    /// True where the whole key is null. `None`: no such row.
    pub null_keys: Option<BooleanBuffer>,
    /// What the value was before (tables whose consumer must undo it).
    pub old: Option<OldRows>,
    /// Upstream stream time when the row passed a repartition of several upstream partitions.
    pub observed: Option<ScalarBuffer<i64>>,
    /// Offset of the source record, as long as rows still stand for records of the task's source.
    pub offsets: Option<ScalarBuffer<i64>>,
}

/// Window bounds of rows.
#[derive(Debug, Clone)]
pub struct Windows {
    /// Start, inclusive.
    pub start: ScalarBuffer<i64>,
    /// End, exclusive (sessions: time of the last event).
    pub end: ScalarBuffer<i64>,
}

/// The values that rows replace.
#[derive(Debug, Clone)]
pub struct OldRows {
    /// Value columns only, in schema order.
    pub values: Vec<ArrayRef>,
    /// Whether there was a value.
    pub present: BooleanBuffer,
}

impl Rows {
    /// Plain rows: no windows, no deletions.
    #[must_use]
    pub fn new(columns: Vec<ArrayRef>, times: Vec<i64>) -> Self {
        Self {
            columns,
            times: times.into(),
            windows: None,
            tombstones: None,
            null_keys: None,
            old: None,
            observed: None,
            offsets: None,
        }
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Whether row `row` has no value.
    #[must_use]
    pub fn is_tombstone(&self, row: usize) -> bool {
        self.tombstones.as_ref().is_some_and(|mask| mask.value(row))
    }

    /// Whether row `row` has a null key.
    #[must_use]
    pub fn is_null_key(&self, row: usize) -> bool {
        self.null_keys.as_ref().is_some_and(|mask| mask.value(row))
    }

    /// Rows `start .. start + len`, without copying.
    #[must_use]
    pub fn slice(&self, start: usize, len: usize) -> Self {
        let cut = |buffer: &ScalarBuffer<i64>| buffer.slice(start, len);
        let bits = |buffer: &BooleanBuffer| buffer.slice(start, len);
        Self {
            columns: self.columns.iter().map(|column| column.slice(start, len)).collect(),
            times: cut(&self.times),
            windows: self.windows.as_ref().map(|w| Windows { start: cut(&w.start), end: cut(&w.end) }),
            tombstones: self.tombstones.as_ref().map(bits),
            null_keys: self.null_keys.as_ref().map(bits),
            old: self.old.as_ref().map(|old| OldRows {
                values: old.values.iter().map(|column| column.slice(start, len)).collect(),
                present: bits(&old.present),
            }),
            observed: self.observed.as_ref().map(cut),
            offsets: self.offsets.as_ref().map(cut),
        }
    }

    /// The rows at `indices`, in that order.
    ///
    /// # Errors   Arrow's, when an index lies outside.
    pub fn take(&self, indices: &UInt32Array) -> Result<Self, ArrowError> {
        let columns = take_columns(&self.columns, indices)?;
        Ok(self.gather_with(columns, indices.values(), |old| take_columns(old, indices))?.normal())
    }

    /// The rows whose bit in `keep` is set.
    ///
    /// # Errors   Arrow's, when lengths differ.
    pub fn filter(&self, keep: &BooleanArray) -> Result<Self, ArrowError> {
        let indices: Vec<u32> =
            keep.values().set_indices().map(|row| u32::try_from(row).unwrap_or(u32::MAX)).collect();
        if indices.len() == self.len() {
            return Ok(self.clone());
        }
        let predicate = compute::FilterBuilder::new(keep).optimize().build();
        let kept = indices.len();
        // a column that no query reads is all null: any part of it is as good as another
        let pick = |column: &ArrayRef| match column.null_count() == column.len() {
            true => Ok(column.slice(0, kept)),
            false => predicate.filter(column),
        };
        let columns = self.columns.iter().map(pick).collect::<Result<_, _>>()?;
        let gathered =
            self.gather_with(columns, &indices, |old| old.iter().map(|c| predicate.filter(c)).collect())?;
        Ok(gathered.normal())
    }

    fn gather_with(
        &self,
        columns: Vec<ArrayRef>,
        indices: &[u32],
        gather: impl Fn(&[ArrayRef]) -> Result<Vec<ArrayRef>, ArrowError>,
    ) -> Result<Self, ArrowError> {
        let pick = |buffer: &ScalarBuffer<i64>| indices.iter().map(|row| buffer[*row as usize]).collect();
        let bits = |mask: &BooleanBuffer| indices.iter().map(|row| mask.value(*row as usize)).collect();
        let old = match &self.old {
            Some(old) => Some(OldRows { values: gather(&old.values)?, present: bits(&old.present) }),
            None => None,
        };
        Ok(Self {
            columns,
            times: pick(&self.times),
            windows: self.windows.as_ref().map(|w| Windows { start: pick(&w.start), end: pick(&w.end) }),
            tombstones: self.tombstones.as_ref().map(bits),
            null_keys: self.null_keys.as_ref().map(bits),
            old,
            observed: self.observed.as_ref().map(pick),
            offsets: self.offsets.as_ref().map(pick),
        })
    }

    /// Drops masks that mark nothing.
    #[must_use]
    pub fn normal(mut self) -> Self {
        self.tombstones = self.tombstones.filter(|mask| mask.count_set_bits() > 0);
        self.null_keys = self.null_keys.filter(|mask| mask.count_set_bits() > 0);
        self
    }
}

/// `arrow::compute::take` over several columns.
///
/// # Errors   Arrow's, when an index lies outside.
pub fn take_columns(columns: &[ArrayRef], indices: &UInt32Array) -> Result<Vec<ArrayRef>, ArrowError> {
    columns.iter().map(|column| compute::take(column.as_ref(), indices, None)).collect()
}

/// Puts several groups of columns under each other; all groups have the same types.
///
/// # Errors   Arrow's, when types differ.
pub fn concat_columns(parts: &[Vec<ArrayRef>]) -> Result<Vec<ArrayRef>, ArrowError> {
    let Some(first) = parts.first() else { return Ok(Vec::new()) };
    (0..first.len())
        .map(|index| {
            let arrays: Vec<&dyn Array> = parts.iter().map(|part| part[index].as_ref()).collect();
            compute::concat(&arrays)
        })
        .collect()
}
