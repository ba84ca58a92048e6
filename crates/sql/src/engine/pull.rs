//! Pull queries: look-ups and scans of materialised tables, scans of streams and source tables.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array};
use herdsman_formats::Decoder;
use herdsman_record::TopicPartition;
use herdsman_stream::eval::{EvalContext, compare_values, value_at};
use herdsman_stream::expr::{Expr, Value};
use herdsman_stream::runtime::{PullKeys, PullRequest};
use herdsman_stream::{Column, Rows};

use super::{Engine, QueryHandle, QueryRow, Session, value_to_json};
use crate::analyse::pull::{self, PullPlan};
use crate::ast::Query;
use crate::catalog::Source;
use crate::diagnostic::SqlError;

impl Engine {
    pub(super) fn pull(
        &self,
        query: &Query,
        script: &Arc<str>,
        session: &Session,
    ) -> Result<QueryHandle, SqlError> {
        let (plan, id) = {
            let mut state = self.lock();
            let plan = pull::plan(&state.catalog, query, Arc::clone(script))?;
            state.next_transient += 1;
            (plan, format!("query_{}_{}", self.inner.clock.now_ms(), state.next_transient))
        };
        if session.get("ksql.query.pull.limit.clause.enabled").as_deref() == Some("false")
            && query.limit.is_some()
        {
            return Err(SqlError::statement(
                "LIMIT clause in pull queries is currently disabled. You can enable them by setting ksql.query.pull.limit.clause.enabled=true. See https://cnfl.io/queries for more info.\nAdd EMIT CHANGES if you intended to issue a push query.",
            ));
        }
        if plan.source.table && session.get("ksql.query.pull.table.scan.enabled").as_deref() == Some("false")
        {
            let ranges = session.get("ksql.query.pull.range.scan.enabled").as_deref() != Some("false");
            super::scan_rules::check(&plan, query, ranges)?;
        }
        let batches = self.pull_rows(&plan)?;
        let mut found: Vec<(Place, QueryRow)> = Vec::new();
        for rows in &batches {
            self.select(&plan, rows, &mut found)?;
        }
        if !plan.order.is_empty() {
            found.sort_by(|(left, _), (right, _)| order(&left.sort, &right.sort, &plan.order));
        } else if plan.source.table {
            // ksqlDB reads its stores in the order of the key bytes.
            found.sort_by(|(left, _), (right, _)| left.key.cmp(&right.key));
        }
        let offset = usize::try_from(query.offset.unwrap_or(0)).unwrap_or(0);
        let limit = query.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(0));
        let rows: Vec<QueryRow> = found.into_iter().map(|(_, row)| row).skip(offset).take(limit).collect();
        let limited = query.limit.is_some() && rows.len() == limit;
        let columns = plan.items.iter().map(|item| Column::new(item.name.clone(), item.expr.ty())).collect();
        Ok(QueryHandle::finished(id, columns, plan.keys, rows, limited && !plan.source.table))
    }

    fn pull_rows(&self, plan: &PullPlan) -> Result<Vec<Rows>, SqlError> {
        let source = &plan.source;
        if source.cache.is_some() {
            return Err(SqlError::statement(format!(
                "{} is kept in a cache: join a stream with it",
                source.name
            )));
        }
        match &source.created_by {
            Some(id) if source.table => {
                let keys = plan.wanted.clone().map_or(PullKeys::All, PullKeys::Keys);
                let request = PullRequest { keys, window_start: None, window_end: None };
                self.inner.runtime.pull(id, &request).map_err(SqlError::environment)
            }
            None if source.table && !source.read_only => Err(SqlError::statement(format!(
                "The `{0}` table isn't queryable. To derive a queryable table, you can do 'CREATE TABLE QUERYABLE_{0} AS SELECT * FROM {0}'. See https://cnfl.io/queries for more info.",
                source.name
            ))),
            _ => self.scan(source),
        }
    }

    /// Reads the whole topic: all rows of a stream, the last row per key of a source table.
    fn scan(&self, source: &Source) -> Result<Vec<Rows>, SqlError> {
        let topic = self.inner.bus.topic(&source.topic).map_err(SqlError::environment)?;
        let partitions = topic.map_or(0, |topic| topic.partitions);
        let mut batches = Vec::new();
        for partition in 0..partitions {
            let at = TopicPartition::new(source.topic.as_str(), partition);
            self.scan_partition(source, &at, &mut batches)?;
        }
        if source.table { latest(source, batches) } else { Ok(batches) }
    }

    fn scan_partition(
        &self,
        source: &Source,
        at: &TopicPartition,
        out: &mut Vec<Rows>,
    ) -> Result<(), SqlError> {
        let needed = vec![true; source.schema.len()];
        let mut decoder = Decoder::new(&source.schema, &source.key_format, &source.value_format, &needed)
            .map_err(|error| SqlError::statement(error.to_string()))?
            .with_window(source.window.map(crate::catalog::KeyWindow::key));
        let range = self.inner.bus.offsets(at).map_err(SqlError::environment)?;
        let mut reader =
            self.inner.bus.reader(&[(at.clone(), range.start)]).map_err(SqlError::environment)?;
        let mut position = range.start;
        while position < range.end {
            for part in reader.poll(4 << 20, Duration::from_millis(200)).map_err(SqlError::environment)? {
                let decoded = decoder.decode(&part.batches, part.position).map_err(SqlError::environment)?;
                position = part.next_offset;
                let mut rows = Rows::new(decoded.columns, decoded.timestamps);
                rows.tombstones = decoded.tombstones;
                rows.null_keys = decoded.null_keys;
                rows.windows = decoded.windows.map(|(start, end)| herdsman_stream::rows::Windows {
                    start: start.into(),
                    end: end.into(),
                });
                out.push(rows);
            }
        }
        Ok(())
    }

    fn select(&self, plan: &PullPlan, rows: &Rows, out: &mut Vec<(Place, QueryRow)>) -> Result<(), SqlError> {
        let mut columns: Vec<ArrayRef> = rows.columns.clone();
        columns.truncate(plan.source.schema.len());
        columns.push(Arc::new(Int64Array::new(rows.times.clone(), None)));
        if plan.source.window.is_some() {
            let (start, end) = rows.windows.as_ref().map_or_else(
                || (rows.times.clone(), rows.times.clone()),
                |windows| (windows.start.clone(), windows.end.clone()),
            );
            columns.push(Arc::new(Int64Array::new(start, None)));
            columns.push(Arc::new(Int64Array::new(end, None)));
        }
        let mut ignore = |_: usize, _: &str| {};
        let mut context = EvalContext { now_ms: self.inner.clock.now_ms(), on_error: &mut ignore };
        let keep = match &plan.filter {
            Some(filter) => Some(
                filter.evaluate_filter(&columns, rows.len(), &mut context).map_err(SqlError::environment)?,
            ),
            None => None,
        };
        let mut evaluate =
            |expr: &Expr| expr.evaluate(&columns, rows.len(), &mut context).map_err(SqlError::environment);
        let results = plan.items.iter().map(|item| evaluate(&item.expr)).collect::<Result<Vec<_>, _>>()?;
        let sorts = plan.order.iter().map(|(expr, _)| evaluate(expr)).collect::<Result<Vec<_>, _>>()?;
        let keys = if plan.source.table { key_bytes(&plan.source, rows) } else { Vec::new() };
        for row in 0..rows.len() {
            if rows.is_tombstone(row) && plan.source.table
                || keep.as_ref().is_some_and(|keep| !keep.value(row))
            {
                continue;
            }
            let cells = results.iter().zip(&plan.items).map(|(array, item)| {
                let ty = item.expr.ty();
                value_to_json(&value_at(array.as_ref(), row, &ty), &ty)
            });
            let sort = sorts
                .iter()
                .zip(&plan.order)
                .map(|(array, (expr, _))| value_at(array.as_ref(), row, &expr.ty()));
            let place = Place { key: keys.get(row).cloned().unwrap_or_default(), sort: sort.collect() };
            out.push((place, QueryRow { columns: cells.collect(), tombstone: false }));
        }
        Ok(())
    }
}

/// Where a row stands in the result.
struct Place {
    key: Vec<u8>,
    sort: Vec<Value>,
}

/// Key bytes with the window start behind them, as a store orders them; empty when the key cannot be encoded.
fn key_bytes(source: &Source, rows: &Rows) -> Vec<Vec<u8>> {
    let schema = herdsman_stream::Schema { key: source.schema.key.clone(), value: Vec::new() };
    let none = herdsman_formats::FormatSpec::new(herdsman_formats::Format::None);
    let Ok(mut encoder) = herdsman_formats::Encoder::new(&schema, &source.key_format, &none) else {
        return Vec::new();
    };
    let input = herdsman_formats::Rows {
        columns: rows.columns.get(..source.schema.key.len()).unwrap_or_default(),
        selection: herdsman_formats::Selection::Range(0..rows.len()),
        timestamps: &rows.times,
        windows: None,
        tombstones: None,
    };
    let Ok(encoded) = encoder.encode_keys(&input) else { return Vec::new() };
    let key = |row: usize| {
        let mut bytes = encoded.get(row).unwrap_or_default().to_vec();
        if let Some(windows) = &rows.windows {
            bytes.extend_from_slice(&windows.start[row].to_be_bytes());
        }
        bytes
    };
    (0..rows.len()).map(key).collect()
}

/// The last row of every key that is not deleted.
fn latest(source: &Source, batches: Vec<Rows>) -> Result<Vec<Rows>, SqlError> {
    let mut last: HashMap<String, (usize, usize)> = HashMap::new();
    for (batch, rows) in batches.iter().enumerate() {
        for row in 0..rows.len() {
            let key: Vec<String> = source
                .schema
                .key
                .iter()
                .zip(&rows.columns)
                .map(|(column, array)| {
                    value_to_json(&value_at(array.as_ref(), row, &column.ty), &column.ty).to_string()
                })
                .collect();
            let window = rows.windows.as_ref().map(|windows| (windows.start[row], windows.end[row]));
            last.insert(format!("{key:?}{window:?}"), (batch, row));
        }
    }
    let mut alive: Vec<(usize, usize)> = last.into_values().collect();
    alive.sort_unstable();
    let live = alive.into_iter().filter(|(batch, row)| !batches[*batch].is_tombstone(*row));
    Ok(live.map(|(batch, row)| batches[batch].slice(row, 1)).collect())
}

fn order(left: &[Value], right: &[Value], keys: &[(Expr, bool)]) -> Ordering {
    for ((left, right), (_, descending)) in left.iter().zip(right).zip(keys) {
        let order = match (left == &Value::Null, right == &Value::Null) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => compare_values(left, right).unwrap_or(Ordering::Equal),
        };
        let order = if *descending && left != &Value::Null && right != &Value::Null {
            order.reverse()
        } else {
            order
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}
