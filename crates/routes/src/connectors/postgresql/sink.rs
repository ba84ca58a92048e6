//! One transaction per batch.

use std::sync::Arc;

use bytes::Bytes;
use futures::SinkExt;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

use super::config::{Config, quote};
use super::encode::encode;
use super::service::verdict;
use super::table::{Column, create_sql, missing, stage_sql};
use crate::connectors::{SendError, Sink};
use crate::exchange::Exchange;

/// Writes to one table.
pub(crate) struct PostgreSqlSink {
    config: Arc<Config>,
    runtime: Runtime,
    session: Option<Session>,
}

struct Session {
    client: Client,
    columns: Vec<Column>,
    /// The merge statement for `columns`, once their temporary table is there.
    merge: Option<String>,
    exists: bool,
}

impl PostgreSqlSink {
    pub fn open(config: Arc<Config>) -> Result<Self, SendError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| SendError::retry(format!("{}: {error}", config.shown())))?;
        Ok(Self { config, runtime, session: None })
    }
}

impl Sink for PostgreSqlSink {
    fn send(&mut self, batch: &mut [Exchange]) -> Result<(), SendError> {
        let Self { config, runtime, session } = self;
        if session.as_ref().is_some_and(|session| session.client.is_closed()) {
            *session = None;
        }
        let work = async {
            let current = match session {
                Some(current) => current,
                None => session.insert(connect(config).await?),
            };
            current.columns_for(config, batch).await?;
            let rows = encode(&current.columns, batch).map_err(|error| (error, true))?;
            current.write(config, rows).await
        };
        let limited = async { tokio::time::timeout(config.statement_timeout, work).await };
        let (error, keep) = match runtime.block_on(limited) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(failed)) => failed,
            Err(_) => {
                let limit = config.statement_timeout.as_millis();
                (SendError::retry(format!("{}: no answer within {limit} ms", config.shown())), false)
            }
        };
        if !keep {
            self.session = None;
        }
        Err(error)
    }
}

type Failed = (SendError, bool);

async fn connect(config: &Config) -> Result<Session, Failed> {
    let mut address = tokio_postgres::Config::new();
    address
        .host(&config.host)
        .port(config.port)
        .user(&config.user)
        .dbname(&config.database)
        .application_name("herdsman")
        .connect_timeout(config.connect_timeout);
    if let Some(password) = &config.password {
        address.password(&password.0);
    }
    let connected = tokio::time::timeout(config.connect_timeout, address.connect(NoTls)).await;
    let (client, connection) = match connected {
        Ok(Ok(connected)) => connected,
        Ok(Err(error)) => return Err((verdict(&config.shown(), &error).0, false)),
        Err(_) => {
            return Err((SendError::retry(format!("{}: no connection in time", config.shown())), false));
        }
    };
    tokio::spawn(async move {
        // its end shows as `is_closed`, its error in the next statement
        let _ = connection.await;
    });
    let mut session = Session { client, columns: Vec::new(), merge: None, exists: false };
    session.read_columns(config).await?;
    Ok(session)
}

impl Session {
    async fn run(&self, config: &Config, sql: &str) -> Result<(), Failed> {
        self.client.batch_execute(sql).await.map_err(|error| verdict(&config.shown(), &error))
    }

    async fn read_columns(&mut self, config: &Config) -> Result<(), Failed> {
        let sql = "SELECT a.attname::text, t.typname::text FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
                   WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";
        let table = config.quoted_table();
        let rows =
            self.client.query(sql, &[&table]).await.map_err(|error| verdict(&config.shown(), &error))?;
        self.exists = !rows.is_empty();
        let wanted = |name: &str| {
            config.columns.is_empty()
                || config.columns.iter().any(|(known, _)| known == name)
                || config.key.iter().any(|known| known == name)
        };
        self.columns = rows
            .iter()
            .map(|row| Column::new(row.get::<_, &str>(0), row.get::<_, &str>(1)))
            .filter(|column| wanted(&column.name))
            .collect();
        self.merge = None;
        Ok(())
    }

    /// Makes the table, or its missing columns, if that is asked for.
    async fn columns_for(&mut self, config: &Config, batch: &[Exchange]) -> Result<(), Failed> {
        let new = missing(config, &self.columns, batch);
        if !new.is_empty() && config.auto_create {
            if self.exists {
                let adds: Vec<String> = new
                    .iter()
                    .map(|column| format!("ADD COLUMN IF NOT EXISTS {} {}", quote(&column.name), column.kind))
                    .collect();
                self.run(config, &format!("ALTER TABLE {} {}", config.quoted_table(), adds.join(", ")))
                    .await?;
            } else {
                self.run(config, &create_sql(config, &new)).await?;
            }
            self.read_columns(config).await?;
        }
        if !self.exists {
            let reason = format!("{}: no such table: create it, or set autoCreate=true", config.shown());
            return Err((SendError::retry(reason), true));
        }
        if self.merge.is_none() {
            let (stage, merge) = stage_sql(config, &self.columns);
            self.run(config, &stage).await?;
            self.merge = Some(merge);
        }
        Ok(())
    }

    async fn write(&mut self, config: &Config, rows: Bytes) -> Result<(), Failed> {
        let merge = self.merge.clone().unwrap_or_default();
        self.run(config, "BEGIN").await?;
        let result = async {
            let sink = self.client.copy_in("COPY pg_temp.herdsman_stage FROM STDIN (FORMAT binary)").await?;
            let mut sink = std::pin::pin!(sink);
            sink.send(rows).await?;
            sink.as_mut().finish().await?;
            self.client.batch_execute(&merge).await?;
            self.client.batch_execute("COMMIT").await
        }
        .await;
        let Err(error) = result else { return Ok(()) };
        let (failed, keep) = verdict(&config.shown(), &error);
        // the table may have changed under us (42: undefined column …): look again next time
        let changed = error.as_db_error().is_some_and(|db| db.code().code().starts_with("42"));
        let keep = keep && !changed && self.client.batch_execute("ROLLBACK").await.is_ok();
        Err((failed, keep))
    }
}
