//! The table as it is, or as it is made from the first records.

use serde_json::Value;

use super::config::{Config, EVENT_ID, quote};
use crate::exchange::Exchange;

/// A column and its type in the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub name: String,
    /// The server's type name.
    pub kind: String,
    /// What is sent.
    pub staged: Staged,
}

/// The types that are sent in binary; the server casts them to the column's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Staged {
    Bool,
    Int8,
    Float8,
    Timestamp,
    Text,
}

impl Staged {
    pub fn sql(self) -> &'static str {
        match self {
            Self::Bool => "boolean",
            Self::Int8 => "bigint",
            Self::Float8 => "double precision",
            Self::Timestamp => "timestamptz",
            Self::Text => "text",
        }
    }
}

impl Column {
    /// The column `name` of the server's type `kind`.
    pub fn new(name: &str, kind: &str) -> Self {
        let staged = match kind {
            "bool" | "boolean" => Staged::Bool,
            "int2" | "int4" | "int8" | "smallint" | "integer" | "int" | "bigint" => Staged::Int8,
            "float4" | "float8" | "real" | "double precision" => Staged::Float8,
            "timestamptz" | "timestamp" => Staged::Timestamp,
            _ => Staged::Text,
        };
        Self { name: name.to_owned(), kind: kind.to_owned(), staged }
    }
}

/// The fields of `batch` that `known` lacks, each with a type that holds all its values here.
pub(crate) fn missing(config: &Config, known: &[Column], batch: &[Exchange]) -> Vec<Column> {
    let mut found: Vec<(String, &'static str)> = Vec::new();
    let is_known = |name: &str| known.iter().any(|column| column.name == name);
    if !config.columns.is_empty() {
        let declared = config.columns.iter().filter(|(name, _)| !is_known(name));
        let mut columns: Vec<Column> = declared
            .map(|(name, kind)| {
                let inferred = || infer(name, batch).unwrap_or("text").to_owned();
                Column::new(name, &kind.clone().unwrap_or_else(inferred))
            })
            .collect();
        for name in &config.key {
            if !is_known(name) && !columns.iter().any(|column| column.name == *name) {
                columns.push(Column::new(name, infer(name, batch).unwrap_or("text")));
            }
        }
        return columns;
    }
    for name in &config.key {
        if !is_known(name) {
            let kind = if name == EVENT_ID { "text" } else { infer(name, batch).unwrap_or("text") };
            found.push((name.clone(), kind));
        }
    }
    for exchange in batch {
        let Some(Value::Object(fields)) = exchange.json().map(AsRef::as_ref) else { continue };
        for (name, value) in fields {
            if !value.is_null() && !is_known(name) && !found.iter().any(|(other, _)| other == name) {
                found.push((name.clone(), infer(name, batch).unwrap_or("text")));
            }
        }
    }
    found.into_iter().map(|(name, kind)| Column::new(&name, kind)).collect()
}

fn infer(name: &str, batch: &[Exchange]) -> Option<&'static str> {
    let mut found: Option<&'static str> = None;
    for exchange in batch {
        let kind = match exchange.json().and_then(|body| body.get(name)) {
            None | Some(Value::Null) => continue,
            Some(Value::Bool(_)) => "boolean",
            Some(Value::Number(number)) if number.is_i64() => "bigint",
            Some(Value::Number(_)) => "double precision",
            Some(Value::String(_)) => "text",
            Some(Value::Array(_) | Value::Object(_)) => "jsonb",
        };
        found = Some(match found {
            None => kind,
            Some(before) if before == kind => kind,
            Some("bigint" | "double precision") if matches!(kind, "bigint" | "double precision") => {
                "double precision"
            }
            Some(_) => "text",
        });
    }
    found
}

/// `CREATE TABLE` for `columns`.
pub(crate) fn create_sql(config: &Config, columns: &[Column]) -> String {
    let mut parts: Vec<String> =
        columns.iter().map(|column| format!("{} {}", quote(&column.name), column.kind)).collect();
    if !config.key.is_empty() {
        parts.push(format!("PRIMARY KEY ({})", quoted(&config.key)));
    }
    format!("CREATE TABLE IF NOT EXISTS {} ({})", config.quoted_table(), parts.join(", "))
}

/// The temporary table and the statement that merges it.
pub(crate) fn stage_sql(config: &Config, columns: &[Column]) -> (String, String) {
    let staged: Vec<String> =
        columns.iter().map(|column| format!("{} {}", quote(&column.name), column.staged.sql())).collect();
    let stage = format!(
        "DROP TABLE IF EXISTS pg_temp.herdsman_stage; CREATE TEMP TABLE herdsman_stage (herdsman_ord bigint, {}) \
         ON COMMIT DELETE ROWS",
        staged.join(", ")
    );
    let names: Vec<String> = columns.iter().map(|column| column.name.clone()).collect();
    let casts: Vec<String> =
        columns.iter().map(|column| format!("s.{}::{}", quote(&column.name), column.kind)).collect();
    let mut merge = format!(
        "INSERT INTO {} ({}) SELECT {} FROM ",
        config.quoted_table(),
        quoted(&names),
        casts.join(", ")
    );
    if config.key.is_empty() {
        merge.push_str("pg_temp.herdsman_stage s ORDER BY s.herdsman_ord");
        return (stage, merge);
    }
    let keys = quoted(&config.key);
    let order = if config.update { "DESC" } else { "ASC" };
    merge.push_str(&format!(
        "(SELECT DISTINCT ON ({keys}) * FROM pg_temp.herdsman_stage ORDER BY {keys}, herdsman_ord {order}) s \
         ON CONFLICT ({keys}) DO "
    ));
    let sets: Vec<String> = names
        .iter()
        .filter(|name| !config.key.contains(name))
        .map(|name| format!("{0} = EXCLUDED.{0}", quote(name)))
        .collect();
    if config.update && !sets.is_empty() {
        merge.push_str(&format!("UPDATE SET {}", sets.join(", ")));
    } else {
        merge.push_str("NOTHING");
    }
    (stage, merge)
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ")
}
