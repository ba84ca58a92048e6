//! A stream or table as a Flink table: columns, connector, formats.

use std::collections::BTreeMap;

use herdsman_formats::{Format, FormatSpec};
use herdsman_stream::{Column, SqlType};

use super::{FlinkOptions, interval, quote, refuse, text};
use crate::catalog::Source;
use crate::diagnostic::SqlError;

/// What a source's columns are called in Flink: as the script writes them, because Flink's JSON is case sensitive.
pub(super) type Spelling = BTreeMap<String, String>;

pub(super) fn spelled<'a>(spelling: &'a Spelling, name: &'a str) -> &'a str {
    spelling.get(name).map_or(name, String::as_str)
}

/// `CREATE TABLE` of a source. `written`: a query of the script writes it.
pub(super) fn create(
    source: &Source,
    spelling: &Spelling,
    grace_ms: i64,
    written: bool,
    options: &FlinkOptions,
) -> Result<String, SqlError> {
    let key = key_columns(source);
    let mut lines = Vec::new();
    for column in &key {
        lines.push(format!("  {} {}", quote(spelled(spelling, &column.name)), ty(&column.ty)?));
    }
    for column in source.columns().skip(source.schema.key.len()) {
        if source.headers.iter().any(|(header, _)| header == column) {
            return Err(refuse(format!(
                "column {} of {}: HEADER columns have no Flink form",
                column.name, source.name
            )));
        }
        lines.push(format!("  {} {}", quote(spelled(spelling, &column.name)), ty(&column.ty)?));
    }
    let flat = source.window.is_some();
    if !flat {
        lines.push(format!("  `ROWTIME` {}", row_time(source, spelling)?));
        let late = if grace_ms > 0 { format!(" - {}", interval(grace_ms)) } else { String::new() };
        lines.push(format!("  WATERMARK FOR `ROWTIME` AS `ROWTIME`{late}"));
    }
    if source.table {
        let names: Vec<String> = key.iter().map(|column| quote(spelled(spelling, &column.name))).collect();
        lines.push(format!("  PRIMARY KEY ({}) NOT ENFORCED", names.join(", ")));
    }
    let with = properties(source, &key, spelling, written, options)?;
    Ok(format!(
        "CREATE TABLE {} (\n{}\n) WITH (\n{}\n);\n",
        quote(&source.name),
        lines.join(",\n"),
        with.join(",\n")
    ))
}

/// Key columns; a windowed table's window is part of its key.
pub(super) fn key_columns(source: &Source) -> Vec<Column> {
    let mut key = source.schema.key.clone();
    if source.window.is_some() {
        key.push(Column::new("WINDOWSTART", SqlType::BigInt));
        key.push(Column::new("WINDOWEND", SqlType::BigInt));
    }
    key
}

fn row_time(source: &Source, spelling: &Spelling) -> Result<String, SqlError> {
    match &source.timestamp {
        None if source.table => Ok("TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL".to_owned()),
        None => Ok("TIMESTAMP_LTZ(3) METADATA FROM 'timestamp'".to_owned()),
        Some((column, None)) => {
            let bigint =
                source.schema.columns().any(|known| known.name == *column && known.ty == SqlType::BigInt);
            if !bigint {
                return Err(refuse(format!(
                    "{}: only a BIGINT TIMESTAMP column (ms) can be its event time",
                    source.name
                )));
            }
            Ok(format!("AS TO_TIMESTAMP_LTZ({}, 3)", quote(spelled(spelling, column))))
        }
        Some(_) => Err(refuse(format!(
            "TIMESTAMP_FORMAT of {}: make its event time a BIGINT column (ms)",
            source.name
        ))),
    }
}

fn properties(
    source: &Source,
    key: &[Column],
    spelling: &Spelling,
    written: bool,
    options: &FlinkOptions,
) -> Result<Vec<String>, SqlError> {
    let mut out = Vec::new();
    let mut add = |name: &str, value: &str| out.push(format!("  {} = {}", text(name), text(value)));
    add("connector", if source.table { "upsert-kafka" } else { "kafka" });
    add("topic", &source.topic);
    add("properties.bootstrap.servers", &options.bootstrap_servers);
    if source.table {
        add("properties.group.id", &options.group_id);
    } else {
        add("properties.group.id", &options.group_id);
        add("scan.startup.mode", "earliest-offset");
    }
    if options.bounded && !written {
        add("scan.bounded.mode", "latest-offset");
    }
    if !key.is_empty() {
        let format = key_format(source, key)?;
        add("key.format", format);
        if !source.table {
            let names: Vec<&str> = key.iter().map(|column| spelled(spelling, &column.name)).collect();
            add("key.fields", &names.join(";"));
        }
        if let ("csv", delimiter) = (format, source.key_format.delimiter) {
            add("key.csv.field-delimiter", &delimiter.to_string());
        }
    }
    let format = value_format(source)?;
    add(if key.is_empty() { "format" } else { "value.format" }, format);
    let prefix = if key.is_empty() { "" } else { "value." };
    if format == "csv" {
        add(&format!("{prefix}csv.field-delimiter"), &source.value_format.delimiter.to_string());
    }
    if format == "json" {
        add(&format!("{prefix}json.ignore-parse-errors"), "true");
    }
    if !key.is_empty() {
        add("value.fields-include", "EXCEPT_KEY");
    }
    Ok(out)
}

fn key_format(source: &Source, key: &[Column]) -> Result<&'static str, SqlError> {
    let windowed = source.window.is_some();
    let FormatSpec { format, .. } = &source.key_format;
    match format {
        _ if windowed => Ok("json"),
        Format::Kafka if matches!(key, [one] if matches!(one.ty, SqlType::String | SqlType::Integer | SqlType::BigInt | SqlType::Double | SqlType::Bytes)) => {
            Ok("raw")
        }
        Format::Json if key.len() > 1 => Ok("json"),
        Format::Json => Err(refuse(format!(
            "the key of {}: a single JSON key stands bare, Flink expects an object; use KEY_FORMAT='KAFKA'",
            source.name
        ))),
        Format::Delimited => Ok("csv"),
        other => Err(refuse(format!("KEY_FORMAT {} of {}", other.name(), source.name))),
    }
}

fn value_format(source: &Source) -> Result<&'static str, SqlError> {
    match source.value_format.format {
        Format::Json if !source.value_format.unwrap_single => Ok("json"),
        Format::Delimited => Ok("csv"),
        Format::Kafka if source.schema.value.len() == 1 => Ok("raw"),
        other => Err(refuse(format!("VALUE_FORMAT {} of {}", other.name(), source.name))),
    }
}

/// A type in Flink; ksqlDB writes dates and times as numbers, which Flink's JSON cannot read.
pub(super) fn ty(ty: &SqlType) -> Result<String, SqlError> {
    Ok(match ty {
        SqlType::Boolean => "BOOLEAN".to_owned(),
        SqlType::Integer => "INT".to_owned(),
        SqlType::BigInt => "BIGINT".to_owned(),
        SqlType::Double => "DOUBLE".to_owned(),
        SqlType::Decimal { precision, scale } => format!("DECIMAL({precision}, {scale})"),
        SqlType::String => "STRING".to_owned(),
        SqlType::Bytes => "BYTES".to_owned(),
        SqlType::Array(element) => format!("ARRAY<{}>", self::ty(element)?),
        SqlType::Map(key, value) => format!("MAP<{}, {}>", self::ty(key)?, self::ty(value)?),
        SqlType::Struct(fields) => {
            let fields: Result<Vec<_>, SqlError> = fields
                .iter()
                .map(|field| Ok(format!("{} {}", quote(&field.name), self::ty(&field.ty)?)))
                .collect();
            format!("ROW<{}>", fields?.join(", "))
        }
        SqlType::Date | SqlType::Time | SqlType::Timestamp => {
            return Err(refuse(format!("a column of type {ty}: ksqlDB writes it as a number, use BIGINT")));
        }
    })
}
