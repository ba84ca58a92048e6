//! What exists: streams, tables, custom types, and which query writes which source.

use std::collections::BTreeMap;

use herdsman_formats::{FormatSpec, WindowedKey};
use herdsman_stream::plan::{CacheTable, PseudoColumn};
use herdsman_stream::{Column, Schema, SqlType};
use std::sync::Arc;

use crate::ast::{Name, TypeName};
use crate::diagnostic::{SqlError, nearest};

/// A window of a source's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyWindow {
    pub kind: WindowKindName,
    pub size_ms: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WindowKindName {
    Tumbling,
    Hopping,
    Session,
}

impl WindowKindName {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tumbling => "TUMBLING",
            Self::Hopping => "HOPPING",
            Self::Session => "SESSION",
        }
    }
}

impl KeyWindow {
    pub(crate) fn key(self) -> WindowedKey {
        match (self.kind, self.size_ms) {
            (WindowKindName::Session, _) => WindowedKey::Session,
            (_, size_ms) => WindowedKey::Time { size_ms: size_ms.unwrap_or(i64::MAX) },
        }
    }
}

/// A stream or table.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub name: String,
    pub table: bool,
    pub topic: String,
    pub partitions: i32,
    /// Key and payload columns.
    pub schema: Schema,
    /// Columns that are read from the record headers.
    pub headers: Vec<(Column, PseudoColumn)>,
    /// All value-side columns as declared, payload and headers mixed, by name.
    pub order: Vec<String>,
    pub key_format: FormatSpec,
    pub value_format: FormatSpec,
    /// WRAP_SINGLE_VALUE as it was given.
    pub wrap_single_value: Option<bool>,
    pub window: Option<KeyWindow>,
    pub timestamp: Option<(String, Option<String>)>,
    /// CREATE SOURCE …: nobody may write it; tables are materialised for pull queries.
    pub read_only: bool,
    pub cache: Option<Arc<CacheTable>>,
    pub statement: String,
    /// The query that made it (CREATE … AS SELECT).
    pub created_by: Option<String>,
}

impl Source {
    /// Declared columns without the system ones, value side in declared order.
    pub(crate) fn columns(&self) -> impl Iterator<Item = &Column> {
        self.schema.key.iter().chain(self.order.iter().filter_map(|name| self.value_column(name)))
    }

    pub(crate) fn value_column(&self, name: &str) -> Option<&Column> {
        let headers = self.headers.iter().map(|(column, _)| column);
        self.schema.value.iter().chain(headers).find(|column| column.name == name)
    }

    pub(crate) fn is_key(&self, name: &str) -> bool {
        self.schema.key.iter().any(|column| column.name == name)
    }

    /// System columns with their types.
    pub(crate) fn system_column(&self, name: &str) -> Option<SqlType> {
        match name {
            "ROWTIME" | "ROWOFFSET" => Some(SqlType::BigInt),
            "ROWPARTITION" => Some(SqlType::Integer),
            "WINDOWSTART" | "WINDOWEND" if self.window.is_some() => Some(SqlType::BigInt),
            _ => None,
        }
    }

    pub(crate) fn kind(&self) -> &'static str {
        if self.table { "TABLE" } else { "STREAM" }
    }
}

/// What the names of a script mean.
#[derive(Debug, Clone, Default)]
pub(crate) struct Catalog {
    pub sources: BTreeMap<String, Arc<Source>>,
    pub types: BTreeMap<String, SqlType>,
}

impl Catalog {
    /// The source called `name`.
    pub(crate) fn source(&self, name: &Name) -> Result<&Arc<Source>, SqlError> {
        self.sources
            .get(&name.text)
            .ok_or_else(|| self.missing(name, &format!("{} does not exist.", name.text)))
    }

    /// An error about a missing source, with the nearest name.
    pub(crate) fn missing(&self, name: &Name, message: &str) -> SqlError {
        let folded = self.sources.keys().find(|known| known.eq_ignore_ascii_case(&name.text));
        let error = SqlError::statement(message.to_owned()).at(name.span);
        if let Some(known) = folded {
            return SqlError {
                message: format!(
                    "{message}\nDid you mean {known}? Hint: try removing double quotes from the source name."
                ),
                ..error
            };
        }
        match nearest(&name.text, self.sources.keys().map(String::as_str)) {
            Some(known) => error.help(format!("no stream or table {}: did you mean {known}?", name.text)),
            None if self.sources.is_empty() => {
                error.help("there is no stream and no table yet: CREATE STREAM makes one")
            }
            None => {
                let known: Vec<_> = self.sources.keys().take(8).map(String::as_str).collect();
                error.help(format!("there are {}", known.join(", ")))
            }
        }
    }

    /// A written type with custom types replaced.
    pub(crate) fn resolve_type(&self, ty: &TypeName) -> Result<SqlType, SqlError> {
        Ok(match ty {
            TypeName::Built(ty) => ty.clone(),
            TypeName::Array(element) => SqlType::Array(Box::new(self.resolve_type(element)?)),
            TypeName::Map(key, value) => {
                SqlType::Map(Box::new(self.resolve_type(key)?), Box::new(self.resolve_type(value)?))
            }
            TypeName::Struct(fields) => SqlType::Struct(
                fields
                    .iter()
                    .map(|(name, ty)| Ok(Column::new(name.clone(), self.resolve_type(ty)?)))
                    .collect::<Result<_, SqlError>>()?,
            ),
            TypeName::Custom(name) => self.types.get(&name.text).cloned().ok_or_else(|| {
                let error =
                    SqlError::statement(format!("Cannot resolve unknown type: {}", name.text)).at(name.span);
                let known = self.types.keys().map(String::as_str).chain(BUILT_IN);
                match nearest(&name.text, known) {
                    Some(known) => error.help(format!("did you mean {known}?")),
                    None => {
                        error.help(format!("the types are {}, and those of SHOW TYPES", BUILT_IN.join(", ")))
                    }
                }
            })?,
        })
    }
}

const BUILT_IN: [&str; 13] = [
    "BOOLEAN",
    "INTEGER",
    "BIGINT",
    "DOUBLE",
    "DECIMAL",
    "STRING",
    "BYTES",
    "DATE",
    "TIME",
    "TIMESTAMP",
    "ARRAY",
    "MAP",
    "STRUCT",
];

/// Whether a type is or contains a map (not allowed in keys).
pub(crate) fn contains_map(ty: &SqlType) -> bool {
    match ty {
        SqlType::Map(..) => true,
        SqlType::Array(element) => contains_map(element),
        SqlType::Struct(fields) => fields.iter().any(|field| contains_map(&field.ty)),
        _ => false,
    }
}

/// ksqlDB's refusal of maps in keys.
pub(crate) fn check_key_types(key: &[Column]) -> Result<(), SqlError> {
    match key.iter().find(|column| contains_map(&column.ty)) {
        None => Ok(()),
        Some(column) => Err(SqlError::statement(format!(
            "Map keys, including types that contain maps, are not supported as they may lead to unexpected behavior due to inconsistent serialization. Key column name: `{}`. Column type: {}. See https://github.com/confluentinc/ksql/issues/6621 for more.",
            column.name, column.ty
        ))),
    }
}

/// A schema as ksqlDB prints it: `` `K` STRING KEY, `V` INTEGER ``.
pub(crate) fn schema_text(key: &[Column], value: &[Column]) -> String {
    let keys = key.iter().map(|column| format!("`{}` {} KEY", column.name, column.ty));
    let values = value.iter().map(|column| format!("`{}` {}", column.name, column.ty));
    keys.chain(values).collect::<Vec<_>>().join(", ")
}
