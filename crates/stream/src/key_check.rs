//! Looks at the first records of what a query joins by key: does the declared key column hold what the message key does?
//!
//! ksqlDB reads a key column from the message key alone. Where producers put the id into the value and nothing, or
//! something else, into the key, a join finds no partner and no error either (ksqlDB issue 749). The check decodes the
//! first records a second time, with the key column as a field of the value, and costs nothing afterwards.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use arrow::array::{Array, BooleanArray};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{and, is_not_null, is_null, or};
use herdsman_formats::{Decoder, Format, FormatSpec};
use herdsman_record::Batch;

use crate::Schema;
use crate::operator::OperatorError;
use crate::plan::{Node, QueryPlan, Source};

/// Records looked at.
const RECORDS: usize = 100;
/// Fewer are judged when no more came for so long, ms.
const PATIENCE_MS: i64 = 1_000;

/// The sources of one query that are joined by their message key, until each has been judged.
#[derive(Debug, Default)]
pub struct KeyChecks {
    done: AtomicBool,
    open: Mutex<Vec<KeyCheck>>,
}

#[derive(Debug)]
struct KeyCheck {
    source: String,
    column: String,
    decoder: Decoder,
    /// All of them had another key than the value's field, or none.
    records: usize,
    without_key: usize,
    with_field: usize,
    first_ms: i64,
}

impl KeyChecks {
    /// One check for each side of a join in `plan` that is read by its message key from JSON.
    ///
    /// # Errors   columns that the formats cannot read.
    pub fn of(plan: &QueryPlan) -> Result<Self, OperatorError> {
        let mut sources = Vec::new();
        joined_by_key(&plan.root, &mut sources);
        let open = sources.into_iter().map(KeyCheck::new).collect::<Result<Vec<_>, _>>()?;
        let open: Vec<KeyCheck> = open.into_iter().flatten().collect();
        Ok(Self { done: AtomicBool::new(open.is_empty()), open: Mutex::new(open) })
    }

    /// Whether a source is not judged yet.
    #[must_use]
    pub fn open(&self) -> bool {
        !self.done.load(Ordering::Relaxed)
    }

    /// Looks at records of `source` from offset `position` on.
    ///
    /// # Errors   damaged batches.
    pub fn look(
        &self,
        source: &Source,
        batches: &[Batch],
        position: i64,
        now_ms: i64,
    ) -> Result<(), OperatorError> {
        self.change(|open| {
            let Some(at) = open.iter().position(|check| check.source == source.name) else { return Ok(()) };
            if !open[at].look(batches.get(..1).unwrap_or_default(), position, now_ms)? {
                open.swap_remove(at);
            }
            Ok(())
        })
    }

    /// The sentence of a source whose keys are all wrong, when enough was seen or nothing more came.
    pub fn judge(&self, now_ms: i64) -> Option<String> {
        self.change(|open| {
            let ripe = |check: &KeyCheck| {
                let waited = now_ms.saturating_sub(check.first_ms) >= PATIENCE_MS;
                check.records >= RECORDS || (check.records > 0 && waited)
            };
            let at = open.iter().position(ripe)?;
            let told = open[at].sentence();
            open.clear();
            Some(told)
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Vec<KeyCheck>) -> T) -> T {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut open);
        self.done.store(open.is_empty(), Ordering::Relaxed);
        changed
    }
}

impl KeyCheck {
    fn new(source: &Source) -> Result<Option<Self>, OperatorError> {
        let [key] = source.schema.key.as_slice() else { return Ok(None) };
        if source.value_format.format != Format::Json || source.value_format.unwrap_single {
            return Ok(None);
        }
        let schema = Schema { key: vec![key.clone()], value: vec![key.clone()] };
        let value = FormatSpec::new(Format::Json);
        let decoder = Decoder::new(&schema, &source.key_format, &value, &[true, true])?;
        Ok(Some(Self {
            source: source.name.clone(),
            column: key.name.clone(),
            decoder: decoder.with_window(source.windowed),
            records: 0,
            without_key: 0,
            with_field: 0,
            first_ms: 0,
        }))
    }

    /// Counts records until one has its declared key. Gives whether the source is still to be judged.
    fn look(&mut self, batches: &[Batch], position: i64, now_ms: i64) -> Result<bool, OperatorError> {
        let decoded = self.decoder.decode(batches, position)?;
        let rows = decoded.len().min(RECORDS - self.records.min(RECORDS));
        let [key, field] = decoded.columns.as_slice() else { return Ok(false) };
        let (key, field) = (key.slice(0, rows), field.slice(0, rows));
        let (keyless, named) = (is_null(&key)?, is_not_null(&field)?);
        let Ok(differs) = distinct(&key, &field) else { return Ok(false) };
        let wrong: BooleanArray = or(&keyless, &and(&named, &differs)?)?;
        if self.records == 0 {
            self.first_ms = now_ms;
        }
        self.records += rows;
        self.without_key += keyless.true_count();
        self.with_field += named.true_count();
        Ok(wrong.true_count() == wrong.len())
    }

    fn sentence(&self) -> String {
        let Self { source, column, records, .. } = self;
        let what = match (self.without_key == *records, records) {
            (true, 1) => "the first message has no key".to_owned(),
            (true, _) => format!("the first {records} messages have no key"),
            (false, 1) => format!("the first message key differs from {column}"),
            (false, _) => format!("the first {records} message keys differ from {column}"),
        };
        let next = if self.with_field > 0 {
            format!("rekey with PARTITION BY {column}")
        } else {
            format!("send {column} as the message key")
        };
        format!("{source} declares {column} as key, but {what}: nothing will join; {next}")
    }
}

/// Sources whose message key decides which rows meet.
fn joined_by_key<'a>(node: &'a Node, out: &mut Vec<&'a Source>) {
    match node {
        Node::StreamSource(_) | Node::TableSource(_) => {}
        Node::Filter { input, .. }
        | Node::Project { input, .. }
        | Node::Rekey { input, .. }
        | Node::FlatMap { input, .. }
        | Node::Aggregate { input, .. }
        | Node::CacheJoin { left: input, .. } => joined_by_key(input, out),
        Node::StreamTableJoin { left, right, .. }
        | Node::StreamStreamJoin { left, right, .. }
        | Node::TableTableJoin { left, right, .. } => {
            out.extend([left, right].into_iter().filter_map(|side| keyed_source(side)));
            joined_by_key(left, out);
            joined_by_key(right, out);
        }
        Node::ForeignKeyJoin { left, right, .. } => {
            out.extend(keyed_source(right));
            joined_by_key(left, out);
            joined_by_key(right, out);
        }
    }
}

/// The source whose message key is the key of `node`'s rows.
fn keyed_source(node: &Node) -> Option<&Source> {
    match node {
        Node::StreamSource(source) | Node::TableSource(source) => Some(source),
        Node::Filter { input, .. } | Node::Project { input, .. } | Node::FlatMap { input, .. } => {
            keyed_source(input)
        }
        _ => None,
    }
}
