//! The same script in Apache Flink's SQL (2.2): what Flink can express, and by name what it cannot.
//!
//! | ksqlDB | Flink |
//! |---|---|
//! | stream | `kafka` table, ROWTIME from TIMESTAMP or the record, watermark = ROWTIME − the longest grace that reads it |
//! | table | `upsert-kafka` table with its PRIMARY KEY |
//! | TUMBLING, HOPPING | TUMBLE and HOP table functions; one final row per window and key |
//! | stream-table join | join `FOR SYSTEM_TIME AS OF` the stream's ROWTIME |
//! | stream-stream join WITHIN | interval join |
//! | CREATE … AS SELECT, INSERT INTO … SELECT | INSERT INTO, all in one STATEMENT SET |
//!
//! A windowed table's key carries its window in Kafka; here WINDOWSTART and WINDOWEND (ms) are columns of a JSON key.

mod expression;
mod statement;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;

use herdsman_bus::Bus;
use herdsman_bus::memory::MemoryBus;
use herdsman_host::clock::SimClock;
use herdsman_stream::{Runtime, RuntimeConfig};

use crate::ast::{Query, StatementKind};
use crate::diagnostic::SqlError;
use crate::engine::{Engine, EngineConfig, Session};
use crate::parser;
use statement::Exporter;

/// Where the exported script finds Kafka.
#[derive(Debug, Clone)]
pub struct FlinkOptions {
    /// `properties.bootstrap.servers` of every table.
    pub bootstrap_servers: String,
    /// `properties.group.id` of every source.
    pub group_id: String,
    /// End at the offsets that are there when the job starts (`scan.bounded.mode`), for comparisons.
    pub bounded: bool,
}

impl Default for FlinkOptions {
    fn default() -> Self {
        Self {
            bootstrap_servers: "localhost:9092".to_owned(),
            group_id: "herdsman-export".to_owned(),
            bounded: false,
        }
    }
}

/// An exported script and what was left out of it.
#[derive(Debug, Clone)]
pub struct Exported {
    /// Flink SQL.
    pub sql: String,
    /// One error per statement that Flink cannot express, or that reads what it cannot express.
    pub refused: Vec<SqlError>,
}

/// The Flink SQL of a ksqlDB script, all of it.
///
/// # Errors   a statement ksqlDB itself would refuse, or the first one that Flink cannot express, with its place.
pub fn flink(script: &str) -> Result<String, SqlError> {
    let exported = flink_with(script, &FlinkOptions::default())?;
    match exported.refused.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(exported.sql),
    }
}

/// The Flink SQL of as much of a script as Flink can express.
///
/// # Errors   a statement ksqlDB itself would refuse, with its place.
pub fn flink_with(script: &str, options: &FlinkOptions) -> Result<Exported, SqlError> {
    let session = Session::default();
    let script = session.substitute(script)?;
    let statements = parser::parse_script(&script)?;
    let shared: Arc<str> = Arc::from(script.as_str());
    let engine = scratch_engine()?;
    let mut exporter = Exporter::new(options.clone(), graces(&statements), Arc::clone(&shared));
    let mut refused = Vec::new();
    for statement in &statements {
        // The engine knows the rules; what it accepts is exported with the catalog as it then stands.
        let catalog = engine.lock().catalog.clone();
        if !matches!(statement.kind, StatementKind::Query(_) | StatementKind::Print { .. }) {
            engine.execute_statement(statement, Arc::clone(&shared), &session)?;
        }
        let after = engine.lock().catalog.clone();
        let done = parser::with_deep_stack(|| exporter.statement(statement, &catalog, &after));
        if let Err(error) = done {
            refused.push(error.locate(&shared, &statement.text));
        }
    }
    Ok(Exported { sql: exporter.finish(), refused })
}

fn scratch_engine() -> Result<Engine, SqlError> {
    let bus: Arc<dyn Bus> = Arc::new(MemoryBus::new());
    let clock = Arc::new(SimClock::new(0));
    let config = RuntimeConfig { synchronous: true, ..RuntimeConfig::default() };
    let runtime = Runtime::new(Arc::clone(&bus), clock.clone(), config).map_err(SqlError::environment)?;
    let config = EngineConfig { command_topic: false, ..EngineConfig::default() };
    Engine::new(bus, runtime, clock, config)
}

/// The longest grace of a window that reads each source, ms: its watermark must wait so long.
fn graces(statements: &[crate::ast::Statement]) -> BTreeMap<String, i64> {
    let mut graces = BTreeMap::new();
    let mut note = |query: &Query| {
        let Some(window) = query.window else { return };
        let grace = window.grace_ms.unwrap_or(0);
        for name in std::iter::once(&query.from.name).chain(query.joins.iter().map(|join| &join.source.name))
        {
            let longest = graces.entry(name.text.clone()).or_insert(0);
            *longest = grace.max(*longest);
        }
    };
    for statement in statements {
        match &statement.kind {
            StatementKind::CreateAs { query, .. } | StatementKind::InsertInto { query, .. } => note(query),
            _ => {}
        }
    }
    graces
}

/// A refusal that names what Flink has no word for.
fn refuse(what: impl Into<String>) -> SqlError {
    SqlError::statement(format!("cannot be exported to Flink: {}", what.into()))
}

/// A Flink identifier.
fn quote(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// A Flink string literal.
fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// `INTERVAL '90' SECOND` from milliseconds, in the largest unit that fits; more than two digits need a precision.
fn interval(ms: i64) -> String {
    if ms % 1000 != 0 {
        return format!("INTERVAL '{}.{:03}' SECOND(6, 3)", ms / 1000, ms % 1000);
    }
    let units = [(86_400_000, "DAY"), (3_600_000, "HOUR"), (60_000, "MINUTE"), (1_000, "SECOND")];
    let (size, unit) =
        units.into_iter().find(|(size, _)| ms >= *size && ms % size == 0).unwrap_or((1_000, "SECOND"));
    let count = (ms / size).to_string();
    match count.len() {
        0..=2 => format!("INTERVAL '{count}' {unit}"),
        digits => format!("INTERVAL '{count}' {unit}({digits})"),
    }
}

#[cfg(test)]
mod tests;
