//! The columns and properties of CREATE STREAM | TABLE, and ksqlDB's rules about them.

use std::sync::Arc;

use herdsman_formats::{Format, FormatSpec};
use herdsman_stream::plan::{CacheTable, PseudoColumn};
use herdsman_stream::{Column, Schema, SqlType};

use super::{Context, State};
use crate::ast::{Element, ElementRole, Name};
use crate::diagnostic::{SqlError, line_column};
use crate::with::With;

const RESERVED: [&str; 5] = ["ROWTIME", "ROWPARTITION", "ROWOFFSET", "WINDOWSTART", "WINDOWEND"];

pub(super) fn check_schema_ids(
    with: &With<'_>,
    elements: &[Element],
    key: Format,
    value: Format,
) -> Result<(), SqlError> {
    let is_key = |element: &Element| matches!(element.role, ElementRole::Key | ElementRole::PrimaryKey);
    let inferred = |format: Format| matches!(format, Format::Avro | Format::Protobuf | Format::JsonSr);
    for (property, part, format, keys) in
        [("KEY_SCHEMA_ID", "KEY_FORMAT", key, true), ("VALUE_SCHEMA_ID", "VALUE_FORMAT", value, false)]
    {
        if with.get(property).is_none() {
            continue;
        }
        if !inferred(format) {
            return Err(SqlError::statement(format!(
                "{part} should support schema inference when {property} is provided. Current format is {}.",
                format.name()
            ))
            .at(with.span(property)));
        }
        if elements.iter().any(|element| is_key(element) == keys) {
            return Err(SqlError::statement(format!(
                "Table elements and {property} cannot both exist for create statement."
            ))
            .at(with.span(property)));
        }
    }
    Ok(())
}

/// The columns of a CREATE, sorted out.
pub(super) struct Declared {
    pub schema: Schema,
    pub headers: Vec<(Column, PseudoColumn)>,
    pub order: Vec<String>,
}

impl Declared {
    pub(super) fn of(
        state: &State,
        context: &Context<'_>,
        table: bool,
        elements: &[Element],
    ) -> Result<Self, SqlError> {
        let mut declared = Self { schema: Schema::default(), headers: Vec::new(), order: Vec::new() };
        for (index, element) in elements.iter().enumerate() {
            let name = &element.name;
            let refused = |message: String| Err(SqlError::statement(message).at(name.span));
            if RESERVED.contains(&name.text.as_str()) {
                return refused(format!(
                    "'{}' is a reserved column name. You cannot use it as a name for a column.",
                    name.text
                ));
            }
            if elements.iter().take(index).any(|other| other.name == *name) {
                return refused(format!("Duplicate column names: {}", name.text));
            }
            let ty = state.catalog.resolve_type(&element.ty)?;
            let column = Column::new(name.text.clone(), ty);
            check_role(context, table, element)?;
            match &element.role {
                ElementRole::Key | ElementRole::PrimaryKey => declared.schema.key.push(column),
                ElementRole::Value => {
                    declared.order.push(name.text.clone());
                    declared.schema.value.push(column);
                }
                ElementRole::Headers => {
                    let wanted = SqlType::Array(Box::new(SqlType::Struct(vec![
                        Column::new("KEY", SqlType::String),
                        Column::new("VALUE", SqlType::Bytes),
                    ])));
                    if column.ty != wanted {
                        return refused(format!(
                            "Invalid type for HEADERS column: expected {wanted}, got {}",
                            column.ty
                        ));
                    }
                    declared.order.push(name.text.clone());
                    declared.headers.push((column, PseudoColumn::Headers));
                }
                ElementRole::Header(key) => {
                    if column.ty != SqlType::Bytes {
                        return refused(format!(
                            "Invalid type for HEADER('{key}') column: expected BYTES, got {}",
                            column.ty
                        ));
                    }
                    declared.order.push(name.text.clone());
                    declared.headers.push((column, PseudoColumn::Header(key.clone())));
                }
            }
        }
        Ok(declared)
    }
}

fn check_role(context: &Context<'_>, table: bool, element: &Element) -> Result<(), SqlError> {
    let (line, column) = line_column(&context.script, element.name.span.start);
    let name = &element.name.text;
    let message = match (&element.role, table) {
        (ElementRole::PrimaryKey, false) => {
            format!(
                "Line: {line}, Col: {column}: Column `{name}` is a 'PRIMARY KEY' column: please use 'KEY' for streams.\nTables have PRIMARY KEYs, which are unique and NON NULL. Streams have KEYs, which have no uniqueness or NON NULL constraints."
            )
        }
        (ElementRole::Key, true) => {
            format!(
                "Line: {line}, Col: {column}: Column `{name}` is a 'KEY' column: please use 'PRIMARY KEY' for tables.\nTables have PRIMARY KEYs, which are unique and NON NULL. Streams have KEYs, which have no uniqueness or NON NULL constraints."
            )
        }
        _ => return Ok(()),
    };
    Err(SqlError::parse(message).at(element.name.span))
}

pub(super) fn default_wrap(context: &Context<'_>, format: Format, columns: usize) -> Option<bool> {
    let wrapped = context.session.get("ksql.persistence.wrap.single.values")?.parse().ok()?;
    (columns == 1 && matches!(format, Format::Json | Format::Avro | Format::JsonSr)).then_some(wrapped)
}

pub(super) fn timestamp(
    with: &With<'_>,
    schema: &Schema,
) -> Result<Option<(String, Option<String>)>, SqlError> {
    let Some(name) = with.text("TIMESTAMP") else { return Ok(None) };
    let name = match name.strip_prefix('`').and_then(|name| name.strip_suffix('`')) {
        Some(quoted) => quoted.to_owned(),
        None => name.to_uppercase(),
    };
    let Some(column) = schema.columns().find(|column| column.name == name) else {
        return Err(SqlError::statement(format!(
            "The TIMESTAMP column set in the WITH clause does not exist in the schema: '{name}'"
        ))
        .at(with.span("TIMESTAMP")));
    };
    let format = with.text("TIMESTAMP_FORMAT");
    match (&column.ty, &format) {
        (SqlType::String, Some(_)) | (SqlType::BigInt | SqlType::Timestamp, None) => Ok(Some((name, format))),
        (SqlType::BigInt | SqlType::Timestamp, Some(_)) => Err(SqlError::statement(format!(
            "Timestamp column, `{name}`, should be of type VARCHAR to use TIMESTAMP_FORMAT, it is {}",
            column.ty
        ))
        .at(with.span("TIMESTAMP_FORMAT"))),
        _ => Err(SqlError::statement(format!(
            "Timestamp column, `{name}`, should be LONG(INT64), TIMESTAMP, or a String with a timestamp_format specified."
        ))
        .at(with.span("TIMESTAMP"))),
    }
}

pub(super) fn cache_table(
    name: &Name,
    cache: String,
    with: &With<'_>,
    schema: &Schema,
    value_format: &FormatSpec,
) -> Result<Arc<CacheTable>, SqlError> {
    let refused = |message: String| Err(SqlError::statement(message).at(name.span));
    let [key] = schema.key.as_slice() else {
        return refused(format!("the cache-backed table {} needs exactly one PRIMARY KEY column", name.text));
    };
    let Some(pattern) = with.text("KEY_PATTERN") else {
        return refused(format!(
            "{} has CACHE but no KEY_PATTERN: add for example KEY_PATTERN='{}:{{{}}}'",
            name.text,
            name.text.to_lowercase(),
            key.name.to_lowercase()
        ));
    };
    let wanted = format!("{{{}}}", key.name.to_lowercase());
    if pattern.to_lowercase().matches(&wanted).count() != 1 || pattern.matches('{').count() != 1 {
        return refused(format!("KEY_PATTERN '{pattern}' must hold the primary key once, as {wanted}"));
    }
    if value_format.format != Format::Json {
        return refused(format!("cached values of {} are read as JSON: use VALUE_FORMAT='JSON'", name.text));
    }
    Ok(Arc::new(CacheTable {
        name: name.text.clone(),
        cache,
        key_pattern: pattern,
        schema: schema.clone(),
        value_format: value_format.clone(),
    }))
}
