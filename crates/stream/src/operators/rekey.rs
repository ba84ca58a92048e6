//! PARTITION BY, GROUP BY and joins on other columns: a new key.

use arrow::array::{Array, ArrayRef, UInt32Array};
use arrow::buffer::{BooleanBuffer, ScalarBuffer};

use crate::expr::Expr;
use crate::keys::{KeyCodec, hash_key};
use crate::operator::{ChangeSink, Context, Operator, OperatorError, old_columns};
use crate::operators::aggregate::take_i64;
use crate::plan::NamedExpr;
use crate::rows::{OldRows, Rows};

/// Replaces key and value columns. Table updates whose key changes become a deletion under the old key and an
/// insertion under the new one (Kafka Streams' `KTableRepartitionMap`).
pub struct Rekey {
    /// New key columns over the input; empty: null key.
    pub key: Vec<NamedExpr>,
    /// New value columns over the input.
    pub columns: Vec<NamedExpr>,
    /// Number of key columns of the input.
    pub key_len: usize,
    /// Whether the stream time of the rows must be written down for a task behind several upstream partitions.
    pub observe: bool,
    /// Stream time at this point ([`crate::operator::NO_TIME`] at first).
    pub stream_time: i64,
    /// Stream time as last written to the changelog.
    pub saved: i64,
    /// Compares old and new keys (tables).
    pub codec: KeyCodec,
}

impl Rekey {
    fn columns(
        &self,
        rows: &Rows,
        from: &[ArrayRef],
        ctx: &mut Context<'_>,
    ) -> Result<Vec<ArrayRef>, OperatorError> {
        self.key.iter().chain(&self.columns).map(|column| ctx.evaluate(&column.expr, rows, from)).collect()
    }

    fn observe(&mut self, rows: &mut Rows) {
        if rows.observed.is_none() {
            let mut observed = Vec::with_capacity(rows.len());
            for time in rows.times.iter() {
                self.stream_time = self.stream_time.max(*time);
                observed.push(self.stream_time);
            }
            rows.observed = Some(observed.into());
        }
    }
}

/// Whether an expression needs a value column.
fn reads_value(expr: &Expr, key_len: usize) -> bool {
    let reads = |expr: &Expr| reads_value(expr, key_len);
    match expr {
        Expr::Column { index, .. } => *index >= key_len,
        Expr::Literal { .. } => false,
        Expr::Cast { input, .. } | Expr::Field { input, .. } | Expr::IsNull { input, .. } => reads(input),
        Expr::Negate(input) | Expr::Not(input) | Expr::Lambda { body: input, .. } => reads(input),
        Expr::Arithmetic { left, right, .. } | Expr::Compare { left, right, .. } => {
            reads(left) || reads(right)
        }
        Expr::And(left, right) | Expr::Or(left, right) => reads(left) || reads(right),
        Expr::Between { input, low, high, .. } => reads(input) || reads(low) || reads(high),
        Expr::In { input, list, .. } => reads(input) || list.iter().any(reads),
        Expr::Like { input, pattern, .. } => reads(input) || reads(pattern),
        Expr::Case { branches, otherwise, .. } => {
            branches.iter().any(|(when, then)| reads(when) || reads(then))
                || otherwise.as_deref().is_some_and(reads)
        }
        Expr::Call { args, .. } => args.iter().any(reads),
        Expr::Subscript { input, index, .. } => reads(input) || reads(index),
        Expr::MakeArray { elements, .. } => elements.iter().any(reads),
        Expr::MakeMap { entries, .. } => entries.iter().any(|(key, value)| reads(key) || reads(value)),
        Expr::MakeStruct { fields, .. } => fields.iter().any(reads),
    }
}

/// Rows whose whole key is null.
fn null_keys(key: &[ArrayRef], rows: usize) -> Option<BooleanBuffer> {
    if key.is_empty() {
        return Some(BooleanBuffer::new_set(rows));
    }
    // Several columns make a key even if all of them are null.
    if key.len() > 1 || key.iter().any(|column| column.null_count() == 0) {
        return None;
    }
    Some((0..rows).map(|row| key.iter().all(|column| column.is_null(row))).collect())
}

impl Operator for Rekey {
    fn on_rows(
        &mut self,
        _side: usize,
        mut rows: Rows,
        ctx: &mut Context<'_>,
        out: &mut Vec<Rows>,
    ) -> Result<(), OperatorError> {
        if self.observe {
            self.observe(&mut rows);
        }
        let columns = self.columns(&rows, &rows.columns, ctx)?;
        let before = match old_columns(&rows, self.key_len) {
            Some(before) => Some(self.columns(&rows, &before, ctx)?),
            None => None,
        };
        rows.windows = None;
        let new_len = self.key.len();
        let (Some(before), Some(old)) = (before, rows.old.take()) else {
            rows.columns = columns;
            if let Some(gone) = &rows.tombstones {
                // Of a row without a value, only what is computed from the old key is known.
                let kept: UInt32Array =
                    (0_u32..).zip(gone.iter()).map(|(row, gone)| (!gone).then_some(row)).collect();
                for (index, column) in self.key.iter().enumerate() {
                    if reads_value(&column.expr, self.key_len) {
                        rows.columns[index] = arrow::compute::take(&rows.columns[index], &kept, None)?;
                    }
                }
            }
            rows.null_keys = null_keys(&rows.columns[..new_len], rows.len());
            out.push(rows.normal());
            return Ok(());
        };
        let parts = split(&self.codec, new_len, &columns, &before, &rows, &old)?;
        out.extend(gather(new_len, &columns, &before, &rows, &old, &parts)?);
        Ok(())
    }

    fn stream_time(&self) -> Option<i64> {
        self.observe.then_some(self.stream_time)
    }

    fn observe_time(&mut self, time: i64) {
        self.stream_time = self.stream_time.max(time);
    }

    fn is_stateful(&self) -> bool {
        self.observe
    }

    fn drain_changes(&mut self, sink: &mut ChangeSink<'_>) {
        if self.stream_time > self.saved {
            self.saved = self.stream_time;
            sink(b"m", Some(&self.stream_time.to_be_bytes()));
        }
    }

    fn restore(&mut self, _key: &[u8], value: Option<&[u8]>) -> Result<(), OperatorError> {
        if let Some(mut value) = value {
            self.stream_time = take_i64(&mut value)?;
            self.saved = self.stream_time;
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moved {
    /// Same key before and after (or only one of them exists).
    Stays,
    /// The old value leaves its key.
    Leaves,
    /// The new value arrives at another key.
    Arrives,
}

fn split(
    codec: &KeyCodec,
    key_len: usize,
    columns: &[ArrayRef],
    before: &[ArrayRef],
    rows: &Rows,
    old: &OldRows,
) -> Result<Vec<(u32, Moved)>, OperatorError> {
    let new_keys = codec.encode(&columns[..key_len], rows.len())?;
    let old_keys = codec.encode(&before[..key_len], rows.len())?;
    let mut order = Vec::with_capacity(rows.len());
    for row in 0..rows.len() {
        let index = u32::try_from(row).unwrap_or(u32::MAX);
        let (is, was) = (!rows.is_tombstone(row), old.present.value(row));
        let same = hash_key(new_keys.get(row)) == hash_key(old_keys.get(row))
            && new_keys.get(row) == old_keys.get(row);
        match (was, is) {
            (true, true) if same => order.push((index, Moved::Stays)),
            (true, true) => {
                order.push((index, Moved::Leaves));
                order.push((index, Moved::Arrives));
            }
            (true, false) => order.push((index, Moved::Leaves)),
            (false, true) => order.push((index, Moved::Arrives)),
            (false, false) => {}
        }
    }
    Ok(order)
}

fn gather(
    key_len: usize,
    columns: &[ArrayRef],
    before: &[ArrayRef],
    rows: &Rows,
    old: &OldRows,
    parts: &[(u32, Moved)],
) -> Result<Option<Rows>, OperatorError> {
    if parts.is_empty() {
        return Ok(None);
    }
    let indices = UInt32Array::from_iter_values(parts.iter().map(|(row, _)| *row));
    let from: Vec<(usize, usize)> =
        parts.iter().map(|(row, moved)| (usize::from(*moved == Moved::Leaves), *row as usize)).collect();
    let mixed =
        |index: usize| arrow::compute::interleave(&[columns[index].as_ref(), before[index].as_ref()], &from);
    let taken = |index: usize| arrow::compute::take(before[index].as_ref(), &indices, None);
    let all = (0..columns.len()).map(mixed).collect::<Result<Vec<_>, _>>()?;
    let values = (key_len..columns.len()).map(taken).collect::<Result<Vec<_>, _>>()?;
    let at = |buffer: &ScalarBuffer<i64>| parts.iter().map(|(row, _)| buffer[*row as usize]).collect();
    let tombstones: BooleanBuffer = parts.iter().map(|(_, moved)| *moved == Moved::Leaves).collect();
    let present = parts
        .iter()
        .map(|(row, moved)| *moved != Moved::Arrives && old.present.value(*row as usize))
        .collect();
    Ok(Some(
        Rows {
            null_keys: null_keys(&all[..key_len], parts.len()),
            columns: all,
            times: at(&rows.times),
            windows: None,
            tombstones: Some(tombstones),
            old: Some(OldRows { values, present }),
            observed: rows.observed.as_ref().map(at),
            offsets: None,
        }
        .normal(),
    ))
}
