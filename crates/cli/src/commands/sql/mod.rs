//! `herdsman sql`: a shell, one statement or a file against a server's ksql REST; `check` and `export` need no server.

mod client;
mod print;
mod shell;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use std::sync::Arc;

use clap::{Args, Subcommand};
use herdsman_bus::Bus;
use herdsman_bus::memory::MemoryBus;
use herdsman_host::RealClock;
use herdsman_sql::export::{FlinkOptions, flink_with};
use herdsman_sql::{Engine, EngineConfig, Session, SqlError};
use herdsman_stream::runtime::{Runtime, RuntimeConfig};

use super::read;
use crate::failure::Failure;
use client::Client;

/// SQL.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Sql {
    #[command(subcommand)]
    action: Option<Action>,
    /// Server
    #[arg(default_value = "http://127.0.0.1:8088")]
    url: String,
    /// Run this statement and leave
    #[arg(short = 'e', value_name = "STATEMENT")]
    execute: Option<String>,
    /// Run this file and leave
    #[arg(short = 'f', value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print the server's JSON as it comes
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Action {
    /// Read scripts and report every mistake with its place, without a server
    Check {
        /// SQL files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Print a script in another engine's SQL
    Export {
        /// The engine: flink
        #[arg(long, default_value = "flink")]
        engine: String,
        /// Kafka address that the exported tables name
        #[arg(long, default_value = "127.0.0.1:9092")]
        kafka: String,
        /// End at the offsets that are there when the job starts
        #[arg(long)]
        bounded: bool,
        /// Leave out what the engine cannot express (named on standard error) instead of refusing the script
        #[arg(long)]
        skip_unsupported: bool,
        /// SQL file
        file: PathBuf,
    },
}

impl Sql {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        match self.action {
            Some(Action::Check { files }) => return check(&files),
            Some(Action::Export { engine, kafka, bounded, skip_unsupported, file }) => {
                return export(&engine, kafka, bounded, skip_unsupported, &file);
            }
            None => {}
        }
        let client = Client::new(&self.url, self.json);
        if let Some(statement) = &self.execute {
            return client.run_script(statement);
        }
        if let Some(file) = &self.file {
            return client.run_script(&read(file)?);
        }
        shell::run(&client)
    }
}

/// Runs each script on a scratch engine in memory, which has the real catalog and planner.
fn check(files: &[PathBuf]) -> Result<(), Failure> {
    let mut broken = 0;
    for file in files {
        let text = read(file)?;
        match check_script(&text) {
            Ok(statements) => println!("{}: {statements} statements", file.display()),
            Err(error) => {
                broken += 1;
                eprintln!("{}: {}", file.display(), error.caret());
            }
        }
    }
    if broken == 0 { Ok(()) } else { Err(Failure::told()) }
}

fn check_script(text: &str) -> Result<usize, SqlError> {
    let bus: Arc<dyn Bus> = Arc::new(MemoryBus::new());
    let clock = RealClock::shared();
    let settings = RuntimeConfig { synchronous: true, ..RuntimeConfig::default() };
    let runtime =
        Runtime::new(Arc::clone(&bus), Arc::clone(&clock), settings).map_err(SqlError::environment)?;
    let engine = Engine::new(bus, runtime, clock, EngineConfig::default())?;
    engine.execute(text, &Session::default())?;
    Ok(Engine::split(text)?.len())
}

fn export(engine: &str, kafka: String, bounded: bool, skip: bool, file: &Path) -> Result<(), Failure> {
    if engine != "flink" {
        return Err(Failure::usage(format!("unknown engine {engine}: flink is what there is")));
    }
    let text = read(file)?;
    let options = FlinkOptions { bootstrap_servers: kafka, bounded, ..FlinkOptions::default() };
    let said = |error: &SqlError| format!("{}: {}", file.display(), error.caret());
    let exported = flink_with(&text, &options).map_err(|error| Failure::new(said(&error)))?;
    for error in &exported.refused {
        eprintln!("{}", said(error));
    }
    if !skip && !exported.refused.is_empty() {
        let count = exported.refused.len();
        return Err(Failure::new(format!(
            "{count} statements cannot be expressed in Flink SQL: take them out, or pass --skip-unsupported"
        )));
    }
    std::io::stdout().write_all(exported.sql.as_bytes())?;
    Ok(())
}
