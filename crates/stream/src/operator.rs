//! What an operator is: synchronous work on rows, with state that can be written to and rebuilt from a changelog.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::error::ArrowError;

use crate::Rows;
use crate::eval::{EvalContext, EvalError};
use crate::expr::Expr;
use crate::frame::FrameError;
use crate::runtime::CacheLookup;

/// Stream time before the first row.
pub const NO_TIME: i64 = i64::MIN;

/// A broken invariant, or state that cannot be read; the query stops with this sentence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// The plan does not fit the data.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// Arrow refused.
    #[error("an operator's columns do not fit together: {0}")]
    Arrow(#[from] ArrowError),
    /// Stored state is damaged.
    #[error(transparent)]
    State(#[from] crate::aggregate::DecodeStateError),
    /// A repartition record is damaged.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A record batch.
    #[error(transparent)]
    Record(#[from] herdsman_record::RecordError),
    /// Encoding or decoding a topic.
    #[error(transparent)]
    Format(#[from] herdsman_formats::FormatError),
    /// Anything else, as a sentence.
    #[error("{0}")]
    Other(String),
}

/// A row whose evaluation failed.
#[derive(Debug)]
pub struct Failure {
    /// Offset of the source record, if the row still stands for one.
    pub offset: Option<i64>,
    /// Why.
    pub reason: String,
}

/// Rows dropped because their window had closed.
#[derive(Debug, Default, Clone, Copy)]
pub struct Late {
    /// How many.
    pub count: u64,
    /// How far the latest was past the grace period, ms.
    pub worst_ms: i64,
    /// The grace period, ms.
    pub grace_ms: i64,
}

impl Late {
    /// Counts one row that came `past_ms` after its window's grace of `grace_ms`.
    pub fn add(&mut self, past_ms: i64, grace_ms: i64) {
        self.count += 1;
        self.worst_ms = self.worst_ms.max(past_ms);
        self.grace_ms = grace_ms;
    }
}

/// What operators may use while they work, and where they leave what is not rows.
pub struct Context<'a> {
    /// Wall clock of the cycle, ms.
    pub now_ms: i64,
    /// Caches by name.
    pub guards: &'a HashMap<String, Arc<dyn CacheLookup>>,
    /// Whether rows come from several upstream partitions: windows then close by watermark only.
    pub merged: bool,
    /// Partition of the task.
    pub partition: i32,
    /// Late rows of this batch.
    pub late: Late,
    /// Failed rows of this batch.
    pub failures: Vec<Failure>,
}

impl Context<'_> {
    /// Evaluates `expr` over `columns`; failing rows are null and reported (not those without a value).
    ///
    /// # Errors   plan and columns disagree.
    pub fn evaluate(
        &mut self,
        expr: &Expr,
        rows: &Rows,
        columns: &[ArrayRef],
    ) -> Result<ArrayRef, OperatorError> {
        let failures = &mut self.failures;
        let mut on_error = |row: usize, reason: &str| report(failures, rows, row, reason);
        let mut eval = EvalContext { now_ms: self.now_ms, on_error: &mut on_error };
        Ok(expr.evaluate(columns, rows.len(), &mut eval)?)
    }

    /// Rows for which `predicate` is true.
    ///
    /// # Errors   plan and columns disagree.
    pub fn evaluate_filter(
        &mut self,
        predicate: &Expr,
        rows: &Rows,
        columns: &[ArrayRef],
    ) -> Result<BooleanArray, OperatorError> {
        let failures = &mut self.failures;
        let mut on_error = |row: usize, reason: &str| report(failures, rows, row, reason);
        let mut eval = EvalContext { now_ms: self.now_ms, on_error: &mut on_error };
        Ok(predicate.evaluate_filter(columns, rows.len(), &mut eval)?)
    }
}

fn report(failures: &mut Vec<Failure>, rows: &Rows, row: usize, reason: &str) {
    if !rows.is_tombstone(row) {
        let offset = rows.offsets.as_ref().map(|offsets| offsets[row]);
        failures.push(Failure { offset, reason: reason.to_owned() });
    }
}

/// Key columns of a row followed by the values it replaces.
#[must_use]
pub fn old_columns(rows: &Rows, key_len: usize) -> Option<Vec<ArrayRef>> {
    let old = rows.old.as_ref()?;
    Some(rows.columns[..key_len].iter().chain(&old.values).cloned().collect())
}

/// What a pull query asks of one operator, keys already encoded by the operator that answers.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// Key columns to find, one row per key; `None`: all.
    pub keys: Option<Vec<ArrayRef>>,
    /// Bounds of the window start, inclusive.
    pub start: Option<(i64, i64)>,
    /// Bounds of the window end, inclusive.
    pub end: Option<(i64, i64)>,
}

impl Scan {
    /// Whether a window is asked for.
    #[must_use]
    pub fn wants(&self, start: i64, end: i64) -> bool {
        let within =
            |bounds: Option<(i64, i64)>, at: i64| bounds.is_none_or(|(low, high)| (low..=high).contains(&at));
        within(self.start, start) && within(self.end, end)
    }
}

/// Receives changes of state: key, and the value or `None` for a deletion.
pub type ChangeSink<'a> = dyn FnMut(&[u8], Option<&[u8]>) + 'a;

/// A step of a task.
pub trait Operator: Send {
    /// Works on rows that came in on `side` (0: left or only input, 1: right).
    ///
    /// # Errors   [`OperatorError`] stops the query.
    fn on_rows(
        &mut self,
        side: usize,
        rows: Rows,
        ctx: &mut Context<'_>,
        out: &mut Vec<Rows>,
    ) -> Result<(), OperatorError>;

    /// No row observed before `watermark` can come any more (tasks behind several upstream partitions only).
    ///
    /// # Errors   [`OperatorError`] stops the query.
    fn on_watermark(
        &mut self,
        watermark: i64,
        ctx: &mut Context<'_>,
        out: &mut Vec<Rows>,
    ) -> Result<(), OperatorError> {
        let _ = (watermark, ctx, out);
        Ok(())
    }

    /// Stream time at this operator, where it writes it down for a task behind several upstream partitions.
    fn stream_time(&self) -> Option<i64> {
        None
    }

    /// Stream time has reached `time`; only for operators that have a [`Operator::stream_time`].
    fn observe_time(&mut self, _time: i64) {}

    /// Whether it has state, so that it gets a changelog.
    fn is_stateful(&self) -> bool {
        false
    }

    /// Hands over what changed since the last call.
    fn drain_changes(&mut self, sink: &mut ChangeSink<'_>) {
        let _ = sink;
    }

    /// Takes back one change, in order, before any rows.
    ///
    /// # Errors   damaged state.
    fn restore(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), OperatorError> {
        let _ = (key, value);
        Ok(())
    }

    /// Reads materialised state; `None` if it keeps none that a pull query could read.
    ///
    /// # Errors   [`OperatorError`] as for rows.
    fn scan(&self, scan: &Scan) -> Result<Option<Rows>, OperatorError> {
        let _ = scan;
        Ok(None)
    }
}
