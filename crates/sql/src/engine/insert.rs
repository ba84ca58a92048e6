//! INSERT INTO … VALUES: one record, written at once.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::buffer::BooleanBuffer;
use herdsman_formats::{Encoder, Rows, Selection};
use herdsman_record::{BatchBuilder, Compression, TopicPartition};
use herdsman_stream::eval::array_of;
use herdsman_stream::expr::Value;
use herdsman_stream::functions;
use herdsman_stream::{Column, SqlType};

use super::{Context, Engine, State};
use crate::analyse::{Checker, cast_to};
use crate::ast::{Expr, ExprKind, Name};
use crate::catalog::Source;
use crate::diagnostic::{SqlError, nearest};
use crate::printer::{self, Names};

impl Engine {
    pub(super) fn insert_values(
        &self,
        state: &State,
        context: &Context<'_>,
        target: &Name,
        columns: &[Name],
        values: &[Expr],
    ) -> Result<(), SqlError> {
        let Some(source) = state.catalog.sources.get(&target.text) else {
            let message = format!("Cannot insert values into an unknown stream/table: `{}`", target.text);
            return Err(state.catalog.missing(target, &message));
        };
        let source = Arc::clone(source);
        let word = if source.table { "table" } else { "stream" };
        if source.read_only {
            return Err(SqlError::statement(format!(
                "Cannot insert values into read-only {word}: {}",
                source.name
            ))
            .at(target.span));
        }
        if source.cache.is_some() {
            return Err(SqlError::statement(format!(
                "Cannot insert values into {}: it is kept in a cache",
                source.name
            ))
            .at(target.span));
        }
        if source.window.is_some() {
            return Err(
                SqlError::statement("Cannot insert values into windowed stream/table").at(target.span)
            );
        }
        let columns = self.target_columns(&source, columns, values)?;
        let row = self.row(state, context, &source, &columns, values)?;
        self.write_row(&source, row)
    }

    fn target_columns(
        &self,
        source: &Source,
        columns: &[Name],
        values: &[Expr],
    ) -> Result<Vec<Column>, SqlError> {
        let named: Vec<Column> = if columns.is_empty() {
            source.columns().cloned().collect()
        } else {
            columns.iter().map(|name| named_column(source, name)).collect::<Result<_, _>>()?
        };
        if let Some((header, _)) = source.headers.iter().find(|(header, _)| named.contains(header)) {
            return Err(SqlError::statement(format!("Cannot insert into HEADER columns: {}", header.name)));
        }
        if named.len() != values.len() {
            let names: Vec<_> = named.iter().map(|column| column.name.as_str()).collect();
            return Err(SqlError::statement(format!(
                "Failed to prepare statement: Expected number columns and values to match: {}, {}",
                named.len(),
                values.len()
            ))
            .help(format!("the columns are {}", names.join(", "))));
        }
        Ok(named)
    }

    fn row(
        &self,
        state: &State,
        context: &Context<'_>,
        source: &Source,
        columns: &[Column],
        values: &[Expr],
    ) -> Result<Row, SqlError> {
        let now_ms = self.inner.clock.now_ms();
        let mut row =
            Row { time_ms: now_ms, values: vec![Value::Null; source.schema.len()], has_value: true };
        for (column, expr) in columns.iter().zip(values) {
            let value = constant(state, source, column, expr, now_ms)?;
            if column.name == "ROWTIME" {
                if let Value::BigInt(ms) = value {
                    row.time_ms = ms;
                }
            } else if let Some(at) = source.schema.index_of(&column.name) {
                row.values[at] = value;
            }
        }
        let _ = context;
        let keys = source.schema.key.len();
        let null_key = row.values.iter().take(keys).any(|value| *value == Value::Null);
        if source.table && null_key {
            let names: Vec<_> = source.schema.key.iter().map(|column| column.name.as_str()).collect();
            return Err(SqlError::statement(format!(
                "Failed to insert values into '{}'. Value for primary key column(s) {} is required for tables",
                source.name,
                names.join(", ")
            )));
        }
        Ok(row)
    }

    fn write_row(&self, source: &Source, row: Row) -> Result<(), SqlError> {
        let columns = row
            .values
            .iter()
            .zip(source.schema.columns())
            .map(|(value, column)| {
                array_of(std::slice::from_ref(value), &column.ty).map_err(SqlError::environment)
            })
            .collect::<Result<Vec<ArrayRef>, _>>()?;
        let mut encoder = Encoder::new(&source.schema, &source.key_format, &source.value_format)
            .map_err(|error| SqlError::statement(error.to_string()))?;
        let partitions = self.topic_partitions(&source.topic)?.unwrap_or(1).max(1);
        let mut builders = vec![BatchBuilder::new(); usize::try_from(partitions).unwrap_or(1)];
        let tombstones = (!row.has_value).then(|| BooleanBuffer::new_set(1));
        let rows = Rows {
            columns: &columns,
            selection: Selection::Range(0..1),
            timestamps: &[row.time_ms],
            windows: None,
            tombstones: tombstones.as_ref(),
        };
        encoder.encode_partitioned(&rows, &mut builders).map_err(SqlError::environment)?;
        for (partition, mut builder) in builders.into_iter().enumerate() {
            if builder.is_empty() {
                continue;
            }
            let batch = builder.finish(Compression::None).map_err(SqlError::environment)?;
            let at = TopicPartition::new(source.topic.as_str(), i32::try_from(partition).unwrap_or(0));
            self.inner.bus.produce(&at, batch).map_err(SqlError::environment)?;
        }
        Ok(())
    }
}

struct Row {
    time_ms: i64,
    values: Vec<Value>,
    has_value: bool,
}

fn named_column(source: &Source, name: &Name) -> Result<Column, SqlError> {
    if name.text == "ROWTIME" {
        return Ok(Column::new("ROWTIME", SqlType::BigInt));
    }
    if source.system_column(&name.text).is_some() {
        return Err(SqlError::statement(format!("Inserting into column `{}` is not allowed.", name.text))
            .at(name.span));
    }
    source.columns().find(|column| column.name == name.text).cloned().ok_or_else(|| {
        let error = SqlError::statement(format!("Column name {} does not exist.", name.text)).at(name.span);
        match nearest(&name.text, source.columns().map(|column| column.name.as_str())) {
            Some(near) => error.help(format!("did you mean {near}?")),
            None => error,
        }
    })
}

/// The value of a constant expression, as the column's type.
fn constant(
    state: &State,
    source: &Source,
    column: &Column,
    expr: &Expr,
    now_ms: i64,
) -> Result<Value, SqlError> {
    let failed = |reason: String| {
        SqlError::statement(format!("Failed to insert values into '{}'. {reason}", source.name)).at(expr.span)
    };
    let mut named = None;
    expr.walk(&mut |inner| {
        if let ExprKind::Column { qualifier, name } = &inner.kind {
            named = Some((qualifier.clone(), name.clone(), inner.span));
        }
        !matches!(inner.kind, ExprKind::Lambda { .. })
    });
    if let Some((Some(alias), _, span)) = named {
        return Err(SqlError::statement(format!(
            "Failed to prepare statement: '{alias}' is not a valid stream/table name or alias."
        ))
        .at(span));
    }
    let checked = Checker::new(&state.catalog, &[], Names::Bare).check(expr)?;
    let Some(typed) = checked else { return Ok(Value::Null) };
    let from = typed.ty();
    let allowed = functions::can_implicitly_cast(&from, &column.ty)
        || (from.is_numeric() && column.ty.is_numeric())
        || (from == SqlType::String && matches!(column.ty, SqlType::Bytes))
        || nested_fits(&from, &column.ty);
    if !allowed {
        return Err(failed(format!(
            "Expected type {} for field `{}` but got {from}({})",
            column.ty,
            column.name,
            printer::expression(expr, Names::Bare)
        )));
    }
    if let (SqlType::Bytes, herdsman_stream::expr::Expr::Literal { value: Value::String(text), .. }) =
        (&column.ty, &typed)
    {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::STANDARD.decode(text);
        return bytes.map(Value::Bytes).map_err(|_| failed(format!("`{}` needs base64 text", column.name)));
    }
    cast_to(typed, &column.ty).evaluate_constant(now_ms).map_err(failed)
}

fn nested_fits(from: &SqlType, to: &SqlType) -> bool {
    match (from, to) {
        (a, b) if a == b || functions::can_implicitly_cast(a, b) => true,
        (a, b) if a.is_numeric() && b.is_numeric() => true,
        (SqlType::Array(a), SqlType::Array(b)) => nested_fits(a, b),
        (SqlType::Map(ak, av), SqlType::Map(bk, bv)) => nested_fits(ak, bk) && nested_fits(av, bv),
        (SqlType::Struct(a), SqlType::Struct(b)) => a.iter().all(|field| {
            b.iter()
                .find(|other| other.name == field.name)
                .is_some_and(|other| nested_fits(&field.ty, &other.ty))
        }),
        _ => false,
    }
}
