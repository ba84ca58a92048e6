//! A stream joined with a cache-backed table: one look-up of the batch's distinct keys through the guard.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, UInt32Array, new_null_array};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use hashbrown::HashTable;
use herdsman_formats::{Decoder, Format, FormatSpec};
use herdsman_record::{BatchBuilder, Compression};

use crate::Schema;
use crate::expr::Expr;
use crate::keys::{KeyCodec, arrow_types, hash_key};
use crate::operator::{Context, Failure, Operator, OperatorError};
use crate::plan::{CacheTable, JoinKind};
use crate::rows::{Rows, take_columns};

/// Joins batch by batch; keeps no state.
pub struct CacheJoin {
    table: Arc<CacheTable>,
    key: Expr,
    left_outer: bool,
    codec: KeyCodec,
    decoder: Decoder,
    prefix: String,
    suffix: String,
}

impl CacheJoin {
    /// A join with `table` on `key` over the left's columns.
    ///
    /// # Errors   a key pattern without its one placeholder, formats that cannot hold the columns.
    pub fn new(table: Arc<CacheTable>, key: Expr, kind: JoinKind) -> Result<Self, OperatorError> {
        let pattern = &table.key_pattern;
        let parts = pattern.split_once('{').and_then(|(prefix, rest)| {
            let (_, suffix) = rest.split_once('}')?;
            Some((prefix.to_owned(), suffix.to_owned()))
        });
        let Some((prefix, suffix)) = parts else {
            return Err(OperatorError::Other(format!(
                "KEY_PATTERN '{pattern}' of {} names no column: write for example '{}:{{id}}'",
                table.name,
                table.name.to_lowercase()
            )));
        };
        let values = Schema { key: Vec::new(), value: table.schema.value.clone() };
        let needed = vec![true; values.len()];
        Ok(Self {
            codec: KeyCodec::new(&table.schema.key)?,
            decoder: Decoder::new(&values, &FormatSpec::new(Format::None), &table.value_format, &needed)?,
            left_outer: kind == JoinKind::Left,
            table,
            key,
            prefix,
            suffix,
        })
    }

    /// Distinct non-null keys (index of their first row) and, per row, which of them it has.
    fn distinct(&self, key: &ArrayRef) -> Result<(Vec<usize>, Vec<Option<u32>>), OperatorError> {
        let keys = self.codec.encode(std::slice::from_ref(key), key.len())?;
        let mut table: HashTable<u32> = HashTable::new();
        let mut first: Vec<usize> = Vec::new();
        let mut hashes: Vec<u64> = Vec::new();
        let mut of_row = Vec::with_capacity(key.len());
        for row in 0..key.len() {
            if key.is_null(row) {
                of_row.push(None);
                continue;
            }
            let bytes = keys.get(row);
            let hash = hash_key(bytes);
            let found = table.find(hash, |at| keys.get(first[*at as usize]) == bytes).copied();
            let index = found.unwrap_or_else(|| {
                let index = u32::try_from(first.len()).unwrap_or(u32::MAX);
                first.push(row);
                hashes.push(hash);
                table.insert_unique(hash, index, |at| hashes[*at as usize]);
                index
            });
            of_row.push(Some(index));
        }
        Ok((first, of_row))
    }

    fn cache_keys(&self, key: &ArrayRef, first: &[usize]) -> Result<Vec<Bytes>, OperatorError> {
        let options = FormatOptions::default();
        let text = ArrayFormatter::try_new(key.as_ref(), &options)?;
        let mut buffer = String::new();
        let mut ends = Vec::with_capacity(first.len());
        for row in first {
            use std::fmt::Write as _;
            let _ = write!(buffer, "{}{}{}", self.prefix, text.value(*row), self.suffix);
            ends.push(buffer.len());
        }
        let all = Bytes::from(buffer);
        let mut start = 0;
        Ok(ends.into_iter().map(|end| all.slice(std::mem::replace(&mut start, end)..end)).collect())
    }

    /// Looks up and decodes the distinct keys: value columns, and per distinct key its row in them.
    fn look_up(
        &mut self,
        keys: &[Bytes],
        counts: &[u32],
        first: &[usize],
        rows: &Rows,
        ctx: &mut Context<'_>,
    ) -> Result<(Vec<ArrayRef>, Vec<Option<u32>>), OperatorError> {
        let types = arrow_types(&self.table.schema.value);
        let nothing = |types: &[_]| types.iter().map(|ty| new_null_array(ty, 0)).collect();
        let mut at = vec![None; keys.len()];
        if keys.is_empty() {
            return Ok((nothing(&types), at));
        }
        let offset = |index: usize| rows.offsets.as_ref().map(|offsets| offsets[first[index]]);
        let answer = match ctx.guards.get(&self.table.cache) {
            Some(guard) => guard.get_many(keys, counts),
            None => Err(format!(
                "cache {} is not configured: add it to the caches of this server",
                self.table.cache
            )),
        };
        let values = match answer {
            Ok(values) => values,
            Err(reason) => {
                ctx.failures.extend(
                    (0..keys.len()).map(|index| Failure { offset: offset(index), reason: reason.clone() }),
                );
                return Ok((nothing(&types), at));
            }
        };
        let mut builder = BatchBuilder::new();
        for value in &values {
            builder.append(0, None, value.as_deref(), &[]);
        }
        let batch =
            builder.finish(Compression::None).map_err(|error| OperatorError::Other(error.to_string()))?;
        let decoded = self.decoder.decode(&[batch], 0)?;
        for error in &decoded.errors {
            let index = usize::try_from(error.offset).unwrap_or(0);
            let key = String::from_utf8_lossy(&keys[index]).into_owned();
            ctx.failures.push(Failure {
                offset: offset(index),
                reason: format!("the cached value of {key} {}", error.fault),
            });
        }
        for (row, index) in (0_u32..).zip(&decoded.offsets) {
            let index = usize::try_from(*index).unwrap_or(0);
            at[index] = values[index].is_some().then_some(row);
        }
        Ok((decoded.columns, at))
    }
}

impl Operator for CacheJoin {
    fn on_rows(
        &mut self,
        _side: usize,
        rows: Rows,
        ctx: &mut Context<'_>,
        out: &mut Vec<Rows>,
    ) -> Result<(), OperatorError> {
        let key = ctx.evaluate(&self.key, &rows, &rows.columns)?;
        let (first, of_row) = self.distinct(&key)?;
        let keys = self.cache_keys(&key, &first)?;
        let mut counts = vec![0_u32; keys.len()];
        for index in of_row.iter().flatten() {
            counts[*index as usize] += 1;
        }
        let (values, at) = self.look_up(&keys, &counts, &first, &rows, ctx)?;
        let mut found: Vec<Option<u32>> = of_row.iter().map(|index| at[(*index)? as usize]).collect();
        let (mut rows, mut key) = (rows, key);
        if !self.left_outer && found.contains(&None) {
            let keep = found.iter().map(|row| Some(row.is_some())).collect();
            key = arrow::compute::filter(&key, &keep)?;
            rows = rows.filter(&keep)?;
            found.retain(Option::is_some);
        }
        if rows.is_empty() {
            return Ok(());
        }
        let own: UInt32Array = (0_u32..).zip(&found).map(|(row, hit)| hit.is_some().then_some(row)).collect();
        rows.columns.extend(take_columns(&[key], &own)?);
        rows.columns.extend(take_columns(&values, &UInt32Array::from_iter(found))?);
        out.push(rows);
        Ok(())
    }
}
