//! PostgreSQL as the system of record: a batch of misses is one query.
//!
//! The keys travel as one array, which PostgreSQL unnests beside each key's position and joins with the table by its index: one prepared
//! statement for batches of every size. Each loader thread has a connection of its own.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::runtime::Runtime;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, NoTls, Statement};

use crate::error::LoadError;
use crate::loading::Loader;
use crate::sqlite::{SqliteError, check_expression, check_name};

/// Connections kept open; as many as loader threads use at most.
const IDLE_MAX: usize = 8;
const QUERY_MAX: Duration = Duration::from_secs(30);

/// Why a table cannot serve as the system of record.
#[derive(Debug, Error)]
pub enum PostgresError {
    /// The address is none.
    #[error("not an address of PostgreSQL: write postgres://user:password@host:port/database ({0})")]
    Address(String),
    /// A name or the value expression will not do.
    #[error(transparent)]
    Name(#[from] SqliteError),
    /// The server refuses.
    #[error("PostgreSQL at {place}: {reason}")]
    Refused {
        /// Host and port.
        place: String,
        /// The server's words, or the network's.
        reason: String,
    },
}

/// Reads `value` by `key` from one table, in read-only transactions.
#[derive(Debug)]
pub struct PostgresLoader {
    config: Config,
    table: String,
    key: String,
    value: String,
    idle: Mutex<Vec<Session>>,
}

struct Session {
    runtime: Runtime,
    client: Client,
    statement: Statement,
    binary_keys: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("statement", &self.statement).finish_non_exhaustive()
    }
}

impl PostgresLoader {
    /// Connects to `url` and checks that `table` has `key_column` and that `value_expression` is one value: a column name, or SQL over the
    /// table's columns such as `json_build_object('worth', worth)`. Values are text as PostgreSQL writes it, `bytea` the bytes themselves.
    /// A key that is no text of the column's type (`abc` for an integer) does not exist.
    ///
    /// # Errors
    /// When the address, a name or the expression will not do, or the server cannot be reached; never with the password in it.
    pub fn open(
        url: &str,
        table: &str,
        key_column: &str,
        value_expression: &str,
    ) -> Result<Self, PostgresError> {
        let mut config: Config =
            url.parse().map_err(|error: tokio_postgres::Error| PostgresError::Address(error.to_string()))?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_secs(2));
        }
        config.options("-c default_transaction_read_only=on");
        table.split('.').chain([key_column]).try_for_each(check_name)?;
        check_expression(value_expression)?;
        let table = table.split('.').map(|part| format!("\"{part}\"")).collect::<Vec<_>>().join(".");
        let (key, value) = (format!("\"{key_column}\""), value_expression.to_owned());
        let loader = Self { config, table, key, value, idle: Mutex::default() };
        let session =
            loader.connect().map_err(|reason| PostgresError::Refused { place: loader.place(), reason })?;
        loader.keep(session);
        Ok(loader)
    }

    fn place(&self) -> String {
        let host = match self.config.get_hosts().first() {
            Some(tokio_postgres::config::Host::Tcp(host)) => host.clone(),
            _ => "localhost".into(),
        };
        format!("{host}:{}", self.config.get_ports().first().copied().unwrap_or(5432))
    }

    fn keep(&self, session: Session) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(session);
        }
    }

    fn connect(&self) -> Result<Session, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let (client, statement, binary_keys) = runtime.block_on(self.prepare())?;
        Ok(Session { runtime, client, statement, binary_keys })
    }

    async fn prepare(&self) -> Result<(Client, Statement, bool), String> {
        let (client, connection) = self.config.connect(NoTls).await.map_err(|error| told(&error))?;
        // Ends with the client; what goes wrong there, the client's next query says.
        tokio::spawn(connection);
        let Self { table, key, value, .. } = self;
        let probe = format!("SELECT {key}, ({value}) AS guard_value FROM {table} LIMIT 0");
        let probe = client.prepare(&probe).await.map_err(|error| told(&error))?;
        let types: Vec<Type> = probe.columns().iter().map(|column| column.type_().clone()).collect();
        let [key_type, value_type] = types.as_slice() else {
            return Err(format!("{value} is not one value"));
        };
        let binary_keys = *key_type == Type::BYTEA;
        let keys = if binary_keys { "$1::bytea[]" } else { "$1::text[]" };
        // Cast as a whole, so that the table's index is used.
        let cast = match *key_type {
            Type::BYTEA | Type::TEXT | Type::VARCHAR => String::new(),
            ref other => format!("::{}[]", other.name()),
        };
        let text = if *value_type == Type::BYTEA { "" } else { "::text" };
        let query = format!(
            "SELECT asked.guard_position, ({value}){text} \
             FROM unnest({keys}{cast}) WITH ORDINALITY AS asked(guard_key, guard_position) \
             JOIN {table} ON {table}.{key} = asked.guard_key"
        );
        let statement = client.prepare(&query).await.map_err(|error| told(&error))?;
        Ok((client, statement, binary_keys))
    }

    fn read(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, String> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let kept = idle.is_some();
        let mut session = match idle {
            Some(session) => session,
            None => self.connect()?,
        };
        let mut found = session.query(keys);
        if kept && session.client.is_closed() {
            // It was lost while it lay idle: once more on a new one.
            session = self.connect()?;
            found = session.query(keys);
        }
        if !session.client.is_closed() {
            self.keep(session);
        }
        found
    }
}

impl Loader for PostgresLoader {
    fn load(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LoadError> {
        self.read(keys).map_err(|reason| LoadError(format!("PostgreSQL at {}: {reason}", self.place())))
    }
}

/// The server's own sentence, if there is one.
fn told(error: &tokio_postgres::Error) -> String {
    let chain = std::iter::successors(std::error::Error::source(error), |error| error.source());
    let cause = chain.last().map(ToString::to_string);
    error
        .as_db_error()
        .map_or_else(|| cause.unwrap_or_else(|| error.to_string()), |db| db.message().to_owned())
}

impl Session {
    fn query(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, String> {
        let mut values = vec![None; keys.len()];
        let places: Vec<usize> = (0..keys.len())
            .filter(|at| self.binary_keys || keys.get(*at).is_some_and(|key| is_text(key)))
            .collect();
        let asking = self.ask(keys, &places, &mut values);
        match self.runtime.block_on(async { tokio::time::timeout(QUERY_MAX, asking).await }) {
            Ok(asked) => asked.map(|()| values),
            Err(_) => Err(format!("no answer within {QUERY_MAX:?}")),
        }
    }

    /// Asks for the keys at `places`. If one of them is no value of the column's type the batch is halved until it stands alone.
    async fn ask(
        &self,
        keys: &[Bytes],
        places: &[usize],
        values: &mut [Option<Bytes>],
    ) -> Result<(), String> {
        let mut left = vec![places];
        while let Some(places) = left.pop() {
            let bytes: Vec<&[u8]> = places.iter().filter_map(|at| keys.get(*at).map(Bytes::as_ref)).collect();
            let text: Vec<&str>;
            let array: &(dyn ToSql + Sync) = if self.binary_keys {
                &bytes
            } else {
                text = bytes.iter().map(|key| std::str::from_utf8(key).unwrap_or_default()).collect();
                &text
            };
            let rows = match self.client.query(&self.statement, &[array]).await {
                Ok(rows) => rows,
                Err(error) if is_bad_key(&error) => {
                    if places.len() > 1 {
                        let (first, second) = places.split_at(places.len() / 2);
                        left.extend([second, first]);
                    }
                    continue;
                }
                Err(error) => return Err(told(&error)),
            };
            for row in rows {
                let position: i64 = row.try_get(0).map_err(|error| told(&error))?;
                let place = usize::try_from(position - 1).ok().and_then(|at| places.get(at));
                let Some(slot) = place.and_then(|at| values.get_mut(*at)) else { continue };
                *slot = if *row.columns()[1].type_() == Type::BYTEA {
                    let value: Option<&[u8]> = row.try_get(1).map_err(|error| told(&error))?;
                    value.map(Bytes::copy_from_slice)
                } else {
                    let value: Option<String> = row.try_get(1).map_err(|error| told(&error))?;
                    value.map(Bytes::from)
                };
            }
        }
        Ok(())
    }
}

/// PostgreSQL's text holds no zero byte.
fn is_text(key: &[u8]) -> bool {
    !key.contains(&0) && std::str::from_utf8(key).is_ok()
}

/// Class 22, data exception: such as `invalid input syntax for type integer` or a number out of range.
fn is_bad_key(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| code.code().starts_with("22"))
}
