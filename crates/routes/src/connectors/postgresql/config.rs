//! Options of `postgresql:`.

use std::time::Duration;

use crate::connectors::Secret;
use crate::error::{RouteError, one_line};
use crate::model::uri::Uri;

/// The column of the event id.
pub(crate) const EVENT_ID: &str = "event_id";

/// `postgresql:` options.
#[derive(Debug)]
pub(crate) struct Config {
    pub host: String,
    pub port: u16,
    pub database: String,
    pub user: String,
    pub password: Option<Secret>,
    pub table: String,
    /// Columns of the key; empty: rows are only appended.
    pub key: Vec<String>,
    pub update: bool,
    /// Declared columns with their types, if any.
    pub columns: Vec<(String, Option<String>)>,
    pub auto_create: bool,
    pub connect_timeout: Duration,
    pub statement_timeout: Duration,
}

const KNOWN: [&str; 10] = [
    "table",
    "user",
    "password",
    "key",
    "onConflict",
    "columns",
    "autoCreate",
    "connectTimeout",
    "statementTimeout",
    "database",
];

impl Config {
    pub fn parse(uri: &Uri) -> Result<Self, RouteError> {
        uri.only(&KNOWN)?;
        let (host, port, database) = uri.host_and_rest(5432)?;
        let database = if database.is_empty() { uri.get("database").unwrap_or("postgres") } else { database };
        let Some(table) = uri.get("table").filter(|table| !table.is_empty()) else {
            return Err(uri.refuse("postgresql needs table: postgresql:HOST:PORT/DATABASE?table=NAME"));
        };
        let key = match uri.get("key") {
            None => vec![EVENT_ID.to_owned()],
            Some("none") => Vec::new(),
            Some(_) => uri.words("key"),
        };
        let columns = uri
            .words("columns")
            .into_iter()
            .map(|word| match word.split_once(':') {
                Some((name, kind)) => (name.trim().to_owned(), Some(kind.trim().to_owned())),
                None => (word, None),
            })
            .collect::<Vec<_>>();
        for (_, kind) in &columns {
            let Some(kind) = kind else { continue };
            let plain = |found: char| found.is_ascii_alphanumeric() || "_ (),".contains(found);
            if kind.is_empty() || !kind.chars().all(plain) {
                let reason = format!("columns: {} is not a PostgreSQL type", one_line(kind));
                return Err(RouteError::at(uri.place_of("columns"), reason));
            }
        }
        Ok(Self {
            host,
            port,
            database: database.to_owned(),
            user: uri.get("user").unwrap_or("postgres").to_owned(),
            password: uri.get("password").map(|text| Secret(text.to_owned())),
            table: table.to_owned(),
            key,
            update: uri.one_of("onConflict", &["update", "nothing"])? == "update",
            columns,
            auto_create: uri.flag("autoCreate", true)?,
            connect_timeout: Duration::from_millis(uri.millis("connectTimeout", 5000)?),
            statement_timeout: Duration::from_millis(uri.millis("statementTimeout", 60_000)?),
        })
    }

    /// The table's name, quoted.
    pub fn quoted_table(&self) -> String {
        self.table.split('.').map(quote).collect::<Vec<_>>().join(".")
    }

    /// How messages name the place.
    pub fn shown(&self) -> String {
        one_line(&format!("postgresql {}:{}/{} table {}", self.host, self.port, self.database, self.table))
    }
}

/// `name` as a quoted identifier.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('\0', "").replace('"', "\"\""))
}
