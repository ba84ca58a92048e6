//! SQLite as the system of record: a batch of misses is one query.
//!
//! The keys are bound as one array (`rarray`) and joined with the table from that side, so SQLite walks its index once per key and hands
//! back each key's position: no statement text grows with the batch, no map from key to position is built. It is measured
//! against the other ways in `measure_the_ways_to_ask`: ahead of placeholders, seven times one by one; `json_each` was up to 1.4 times
//! as fast on a busy machine, but takes only keys that are text.

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, OpenFlags};
use thiserror::Error;

use crate::error::LoadError;
use crate::loading::Loader;

/// Why a table cannot serve as the system of record.
#[derive(Debug, Error)]
pub enum SqliteError {
    /// The file cannot be opened.
    #[error("cannot open {path} as an SQLite database: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        #[source]
        source: rusqlite::Error,
    },
    /// A table or column name that is no plain identifier.
    #[error("{0:?} is not a plain name: letters, digits and _ only, and no digit first")]
    Name(String),
    /// The query made of table, key column and value expression does not compile.
    #[error("SQLite refuses {query}: {source}")]
    Query {
        /// The whole query.
        query: String,
        /// SQLite's words.
        #[source]
        source: rusqlite::Error,
    },
    /// The value expression does more than compute a value.
    #[error("{0:?} is not one value expression: no semicolons, no comments, balanced brackets")]
    Expression(String),
}

/// Reads `value` by `key` from one table. The database is opened read-only.
#[derive(Debug)]
pub struct SqliteLoader {
    path: PathBuf,
    query: String,
    idle: Mutex<Vec<Connection>>,
}

/// Connections kept open; as many as loader threads use at most.
const IDLE_MAX: usize = 4;

impl SqliteLoader {
    /// Opens `path` and checks that `table` has `key_column` and that `value_expression` compiles: a column name, or SQL over the
    /// table's columns such as `json_object('worth', worth)`.
    ///
    /// # Errors
    /// When the file, a name or the expression will not do; the message says which.
    pub fn open(
        path: impl Into<PathBuf>,
        table: &str,
        key_column: &str,
        value_expression: &str,
    ) -> Result<Self, SqliteError> {
        let path = path.into();
        for name in [table, key_column] {
            check_name(name)?;
        }
        check_expression(value_expression)?;
        // The inner query renames: a table may well have a column called `value` or `rowid` of its own.
        let query = format!(
            "SELECT asked.guard_position, ({value_expression}) \
             FROM (SELECT rowid AS guard_position, value AS guard_key FROM rarray(?1)) AS asked \
             CROSS JOIN \"{table}\" ON \"{table}\".\"{key_column}\" = asked.guard_key"
        );
        let connection = connect(&path).map_err(|source| SqliteError::Open { path: path.clone(), source })?;
        let compiled = connection.prepare_cached(&query).map(|_| ());
        compiled.map_err(|source| SqliteError::Query { query: query.clone(), source })?;
        Ok(Self { path, query, idle: Mutex::new(vec![connection]) })
    }

    fn read(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, rusqlite::Error> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => connect(&self.path)?,
        };
        let found = query(&connection, &self.query, keys);
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX && found.is_ok() {
            idle.push(connection);
        }
        found
    }
}

impl Loader for SqliteLoader {
    fn load(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LoadError> {
        self.read(keys).map_err(|error| LoadError(format!("{}: {error}", self.path.display())))
    }
}

fn connect(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    rusqlite::vtab::array::load_module(&connection)?;
    connection
        .execute_batch("PRAGMA query_only = 1; PRAGMA mmap_size = 268435456; PRAGMA cache_size = -16384;")?;
    Ok(connection)
}

fn query(connection: &Connection, sql: &str, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, rusqlite::Error> {
    let mut values = vec![None; keys.len()];
    // A key that is no UTF-8 cannot be a text key: it is asked as a blob, and found only if it was stored as one.
    let asked = keys.iter().map(|key| match std::str::from_utf8(key) {
        Ok(text) => Value::Text(text.to_owned()),
        Err(_) => Value::Blob(key.to_vec()),
    });
    let asked = Rc::new(asked.collect::<Vec<_>>());
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([asked])?;
    while let Some(row) = rows.next()? {
        let position: i64 = row.get(0)?;
        // rarray numbers its rows from one.
        let slot = usize::try_from(position - 1).ok().and_then(|at| values.get_mut(at));
        if let Some(slot) = slot {
            *slot = bytes_of(row.get_ref(1)?);
        }
    }
    Ok(values)
}

fn bytes_of(value: ValueRef<'_>) -> Option<Bytes> {
    match value {
        ValueRef::Null => None,
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(Bytes::copy_from_slice(bytes)),
        ValueRef::Integer(n) => Some(Bytes::from(n.to_string())),
        ValueRef::Real(x) => Some(Bytes::from(x.to_string())),
    }
}

pub(crate) fn check_name(name: &str) -> Result<(), SqliteError> {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain && !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(());
    }
    Err(SqliteError::Name(name.to_owned()))
}

/// Outside of quotes: no semicolon, no comment, brackets that never close more than they opened.
pub(crate) fn check_expression(text: &str) -> Result<(), SqliteError> {
    let bad = || SqliteError::Expression(text.to_owned());
    let (mut depth, mut quote, mut last) = (0_i32, None, ' ');
    for c in text.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None => match c {
                '\'' | '"' | '`' => quote = Some(c),
                '(' => depth += 1,
                ')' if depth == 0 => return Err(bad()),
                ')' => depth -= 1,
                ';' | '\0' | '[' | ']' => return Err(bad()),
                '-' if last == '-' => return Err(bad()),
                '*' if last == '/' => return Err(bad()),
                _ => {}
            },
        }
        last = c;
    }
    if depth != 0 || quote.is_some() || text.trim().is_empty() { Err(bad()) } else { Ok(()) }
}
