//! Decoded records to rows: event times, window bounds, system columns.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, BooleanArray, Int32Array, Int64Array, ListBuilder,
    StringBuilder, StructBuilder,
};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, Int64Type, TimestampMillisecondType};
use herdsman_formats::Decoded;

use crate::expr::{Expr, Value};
use crate::functions::{ArgType, resolve};
use crate::operator::{Context, OperatorError};
use crate::plan::{PseudoColumn, Source, TimestampColumn};
use crate::rows::{Rows, Windows};
use crate::{Column, SqlType};

/// Name and type of a system column.
#[must_use]
pub fn pseudo_column(pseudo: &PseudoColumn) -> Column {
    match pseudo {
        PseudoColumn::RowTime => Column::new("ROWTIME", SqlType::BigInt),
        PseudoColumn::RowPartition => Column::new("ROWPARTITION", SqlType::Integer),
        PseudoColumn::RowOffset => Column::new("ROWOFFSET", SqlType::BigInt),
        PseudoColumn::WindowStart => Column::new("WINDOWSTART", SqlType::BigInt),
        PseudoColumn::WindowEnd => Column::new("WINDOWEND", SqlType::BigInt),
        PseudoColumn::Headers => Column::new("HEADERS", headers_type()),
        PseudoColumn::Header(name) => Column::new(name, SqlType::Bytes),
    }
}

fn headers_type() -> SqlType {
    let entry =
        SqlType::Struct(vec![Column::new("KEY", SqlType::String), Column::new("VALUE", SqlType::Bytes)]);
    SqlType::Array(Box::new(entry))
}

/// Reads event times from a column.
#[derive(Debug, Clone)]
pub enum TimeReader {
    /// BIGINT or TIMESTAMP column.
    Column(usize),
    /// Anything computed: a STRING column with a format.
    Computed(Box<Expr>),
}

impl TimeReader {
    /// A reader for `column` of type `ty`.
    ///
    /// # Errors   a sentence when the format cannot be used.
    pub fn new(column: &TimestampColumn, ty: &SqlType) -> Result<Self, String> {
        let Some(format) = &column.format else { return Ok(Self::Column(column.index)) };
        let args = [ArgType::Value(SqlType::String), ArgType::Value(SqlType::String)];
        let call = resolve("STRINGTOTIMESTAMP", &args).map_err(|error| error.to_string())?;
        Ok(Self::Computed(Box::new(Expr::Call {
            function: call.function,
            args: vec![
                Expr::Column { index: column.index, ty: ty.clone() },
                Expr::Literal { value: Value::String(format.clone()), ty: SqlType::String },
            ],
            ty: call.return_type,
        })))
    }

    /// Event times as they lie in the column, if every row has one.
    #[must_use]
    pub fn read_whole(&self, rows: &Rows) -> Option<ScalarBuffer<i64>> {
        let Self::Column(index) = self else { return None };
        let array = rows.columns.get(*index).filter(|array| array.null_count() == 0)?;
        match array.data_type() {
            DataType::Int64 => Some(array.as_primitive::<Int64Type>().values().clone()),
            DataType::Timestamp(..) => {
                Some(array.as_primitive::<TimestampMillisecondType>().values().clone())
            }
            _ => None,
        }
    }

    /// Event time per row, `None` where there is none.
    ///
    /// # Errors   a column of another type than the plan says.
    pub fn read(&self, rows: &Rows, ctx: &mut Context<'_>) -> Result<Vec<Option<i64>>, OperatorError> {
        let array = match self {
            Self::Column(index) => Arc::clone(&rows.columns[*index]),
            Self::Computed(expr) => ctx.evaluate(expr, rows, &rows.columns)?,
        };
        match array.data_type() {
            DataType::Int64 => Ok(array.as_primitive::<Int64Type>().iter().collect()),
            DataType::Timestamp(..) => Ok(array.as_primitive::<TimestampMillisecondType>().iter().collect()),
            other => Err(OperatorError::Other(format!(
                "the timestamp column has type {other}: only BIGINT, TIMESTAMP and STRING with TIMESTAMP_FORMAT can be one"
            ))),
        }
    }
}

/// Rows of `source` from decoded records of `partition`; rows without a usable event time are reported and left out.
///
/// # Errors   plan and columns disagree.
pub fn rows_of(
    decoded: &Decoded,
    source: &Source,
    time: Option<&TimeReader>,
    partition: i32,
    ctx: &mut Context<'_>,
) -> Result<Rows, OperatorError> {
    let mut rows = Rows::new(decoded.columns.clone(), decoded.timestamps.clone());
    rows.tombstones = decoded.tombstones.clone();
    rows.null_keys = decoded.null_keys.clone().filter(|_| !source.schema.key.is_empty());
    rows.offsets = Some(decoded.offsets.clone().into());
    if let Some((start, end)) = &decoded.windows {
        rows.windows = Some(Windows { start: start.clone().into(), end: end.clone().into() });
    }
    if let Some(reader) = time {
        rows.times = match reader.read_whole(&rows) {
            Some(times) => times,
            None => {
                let times = reader.read(&rows, ctx)?;
                let stamp = |(row, time): (usize, Option<i64>)| match time {
                    Some(time) => time,
                    None if rows.is_tombstone(row) => decoded.timestamps[row],
                    None => -1,
                };
                times.into_iter().enumerate().map(stamp).collect()
            }
        };
    }
    let drop = rows.times.iter().fold(false, |negative, time| negative | (*time < 0));
    for (row, time) in rows.times.iter().enumerate().filter(|_| drop) {
        if *time < 0 {
            ctx.failures.push(crate::operator::Failure {
                offset: Some(decoded.offsets[row]),
                reason: "has no event time: its timestamp column is null, unreadable or negative".to_owned(),
            });
        }
    }
    for pseudo in &source.pseudo {
        let column = pseudo_values(pseudo, &rows, decoded, partition);
        rows.columns.push(column);
    }
    if drop {
        let keep: BooleanArray = rows.times.iter().map(|time| Some(*time >= 0)).collect();
        rows = rows.filter(&keep)?;
    }
    Ok(rows)
}

/// Seconds from 2001 to 2100; as milliseconds the same numbers lie in January and February 1970.
const LOOKS_LIKE_SECONDS: std::ops::Range<i64> = 1_000_000_000..4_102_444_800;

/// What to tell when the first event time of a source reads like seconds where milliseconds are meant.
#[must_use]
pub fn wrong_time_unit(source: &Source, rows: &Rows) -> Option<String> {
    let column = source.timestamp.as_ref().filter(|column| column.format.is_none())?;
    let name = &source.schema.columns().nth(column.index)?.name;
    let time = *rows.times.first().filter(|time| LOOKS_LIKE_SECONDS.contains(time))?;
    let day = |at: jiff::Timestamp| at.strftime("%-d %b %Y").to_string();
    let as_ms = day(jiff::Timestamp::from_millisecond(time).ok()?);
    let as_s = day(jiff::Timestamp::from_second(time).ok()?);
    Some(format!(
        "{name} = {time} read as milliseconds is {as_ms}; as seconds it is {as_s}: use {name} * 1000 as the timestamp"
    ))
}

fn pseudo_values(pseudo: &PseudoColumn, rows: &Rows, decoded: &Decoded, partition: i32) -> ArrayRef {
    match pseudo {
        PseudoColumn::RowTime => Arc::new(Int64Array::new(rows.times.clone(), None)),
        PseudoColumn::RowPartition => Arc::new(Int32Array::from(vec![partition; rows.len()])),
        PseudoColumn::RowOffset => Arc::new(Int64Array::from(decoded.offsets.clone())),
        PseudoColumn::WindowStart | PseudoColumn::WindowEnd => match &rows.windows {
            Some(windows) if *pseudo == PseudoColumn::WindowStart => {
                Arc::new(Int64Array::new(windows.start.clone(), None))
            }
            Some(windows) => Arc::new(Int64Array::new(windows.end.clone(), None)),
            None => arrow::array::new_null_array(&DataType::Int64, rows.len()),
        },
        PseudoColumn::Header(name) => {
            let mut builder = BinaryBuilder::new();
            for record in decoded.records() {
                builder.append_option(record.headers.get(name));
            }
            Arc::new(builder.finish())
        }
        PseudoColumn::Headers => headers(decoded),
    }
}

fn headers(decoded: &Decoded) -> ArrayRef {
    let DataType::List(field) = headers_type().arrow() else { unreachable!("HEADERS is an array") };
    let DataType::Struct(fields) = field.data_type().clone() else { unreachable!("of structs") };
    let entry =
        StructBuilder::new(fields, vec![Box::new(StringBuilder::new()), Box::new(BinaryBuilder::new())]);
    let mut builder = ListBuilder::new(entry).with_field(field);
    for record in decoded.records() {
        for (name, value) in record.headers.iter() {
            let entry = builder.values();
            if let Some(key) = entry.field_builder::<StringBuilder>(0) {
                key.append_value(String::from_utf8_lossy(name));
            }
            if let Some(bytes) = entry.field_builder::<BinaryBuilder>(1) {
                bytes.append_option(value);
            }
            entry.append(true);
        }
        builder.append(true);
    }
    Arc::new(builder.finish())
}
