//! Runs one case: topics, statements, inputs query by query, outputs, post-conditions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use herdsman_bus::memory::MemoryBus;
use herdsman_bus::{Bus, TopicSpec};
use herdsman_host::clock::SimClock;
use herdsman_record::{BatchBuilder, Compression, TopicPartition};
use herdsman_stream::runtime::QueryState;
use herdsman_stream::{Runtime, RuntimeConfig};
use serde_json::Value as Json;

use super::bytes::{Actual, TopicFormat};
use super::case::{Case, Expected, TestRecord, TestWindow};
use super::compare::{Rules, meets};
use super::post;
use crate::catalog::Source;
use crate::diagnostic::{SqlError, Stage};
use crate::engine::{Engine, EngineConfig, Session};
use crate::parser;

/// A fresh engine for one case.
pub(super) struct Bench {
    pub bus: Arc<MemoryBus>,
    pub engine: Engine,
    pub session: Session,
}

/// A record read back.
pub(super) struct Found {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    timestamp: i64,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Bench {
    pub(super) fn new(case: &Case) -> Result<Self, String> {
        let bus = Arc::new(MemoryBus::new());
        let clock = Arc::new(SimClock::new(0));
        let config = RuntimeConfig {
            synchronous: true,
            batch_rows_max: 1,
            service_id: "some.ksql.service.id".to_owned(),
            ..RuntimeConfig::default()
        };
        let shared: Arc<dyn Bus> = bus.clone();
        let runtime =
            Runtime::new(Arc::clone(&shared), clock.clone(), config).map_err(|error| error.to_string())?;
        let config = EngineConfig {
            service_id: "some.ksql.service.id".to_owned(),
            command_topic: false,
            from_earliest: true,
            ..EngineConfig::default()
        };
        let engine = Engine::new(shared, runtime, clock, config).map_err(|error| error.message)?;
        let session = Session::new(case.properties.clone(), BTreeMap::new());
        let bench = Self { bus, engine, session };
        for topic in &case.topics {
            let name = topic.get("name").and_then(Json::as_str).ok_or("a topic has no name")?;
            let partitions = topic.get("partitions").and_then(Json::as_i64).unwrap_or(1);
            bench.ensure_topic(name, i32::try_from(partitions).unwrap_or(1))?;
        }
        Ok(bench)
    }

    fn ensure_topic(&self, name: &str, partitions: i32) -> Result<(), String> {
        if self.bus.topic(name).map_err(|error| error.to_string())?.is_some() {
            return Ok(());
        }
        let spec = TopicSpec { name: name.to_owned(), partitions, ..TopicSpec::default() };
        self.bus.create_topic(&spec).map_err(|error| error.to_string())
    }

    /// The source whose formats a topic's bytes have: the sink of a query before a mere declaration.
    pub(super) fn source_of(&self, topic: &str) -> Option<Arc<Source>> {
        let state = self.engine.lock();
        let mut sources = state.catalog.sources.values().filter(|source| source.topic == topic);
        let made = sources.clone().find(|source| source.created_by.is_some()).cloned();
        made.or_else(|| sources.next().cloned())
    }

    pub(super) fn produce(&self, record: &TestRecord) -> Result<(), String> {
        self.ensure_topic(&record.topic, 1)?;
        let source = self.source_of(&record.topic);
        let format = TopicFormat { source: source.as_deref() };
        let (key, value) = (format.encode_key(record)?, format.encode_value(record)?);
        let headers: Vec<(&str, Option<&[u8]>)> =
            record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
        let mut builder = BatchBuilder::new();
        builder.append(record.timestamp.unwrap_or(0), key.as_deref(), value.as_deref(), &headers);
        let batch = builder.finish(Compression::None).map_err(|error| error.to_string())?;
        let at = TopicPartition::new(record.topic.as_str(), 0);
        self.bus.produce(&at, batch).map(|_| ()).map_err(|error| error.to_string())
    }

    /// Feeds every query, in the order in which they were made: inputs in file order, then topics without inputs.
    pub(super) fn drive(&self, inputs: &[TestRecord]) -> Result<(), SqlError> {
        let ids: Vec<String> = self.engine.lock().order.clone();
        let step = |id: &str, at: &TopicPartition, rows: usize| {
            self.engine.runtime().step_query(id, at, rows).map(|_| ()).map_err(SqlError::processing)
        };
        for id in ids {
            let topics = self.source_topics(&id);
            for input in inputs.iter().filter(|input| topics.contains(&input.topic)) {
                step(&id, &TopicPartition::new(input.topic.as_str(), 0), 1)?;
                self.check_alive(&id)?;
            }
            for topic in topics.iter().filter(|topic| !inputs.iter().any(|input| input.topic == **topic)) {
                let partitions =
                    self.bus.topic(topic).map_err(SqlError::environment)?.map_or(0, |topic| topic.partitions);
                for partition in 0..partitions {
                    step(&id, &TopicPartition::new(topic.as_str(), partition), usize::MAX)?;
                    self.check_alive(&id)?;
                }
            }
        }
        Ok(())
    }

    fn source_topics(&self, id: &str) -> Vec<String> {
        let state = self.engine.lock();
        let sources = state.queries.get(id).map(|query| query.sources.clone()).unwrap_or_default();
        let mut topics: Vec<String> = sources
            .iter()
            .filter_map(|name| state.catalog.sources.get(name))
            .map(|source| source.topic.clone())
            .collect();
        topics.dedup();
        topics
    }

    fn check_alive(&self, id: &str) -> Result<(), SqlError> {
        let status = self.engine.runtime().queries().into_iter().find(|status| status.id == id);
        match status.map(|status| status.state) {
            Some(QueryState::Error(reason)) => {
                Err(SqlError::processing(format!("Exception caught in process: {reason}")))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn records(&self, topic: &str) -> Result<Vec<Found>, String> {
        let words = |error: herdsman_bus::BusError| error.to_string();
        let Some(description) = self.bus.topic(topic).map_err(words)? else {
            return Err(format!("topic {topic} does not exist"));
        };
        let mut found = Vec::new();
        for partition in 0..description.partitions {
            let mut reader = self.bus.reader(&[(TopicPartition::new(topic, partition), 0)]).map_err(words)?;
            loop {
                let parts = reader.poll(usize::MAX, Duration::ZERO).map_err(words)?;
                if parts.is_empty() {
                    break;
                }
                for batch in parts.iter().flat_map(|part| &part.batches) {
                    let records = batch.records().map_err(|error| error.to_string())?;
                    for record in records.iter().flatten() {
                        found.push(Found {
                            key: record.key.map(<[u8]>::to_vec),
                            value: record.value.map(<[u8]>::to_vec),
                            timestamp: record.timestamp_ms,
                            headers: record
                                .headers
                                .iter()
                                .map(|header| {
                                    (
                                        String::from_utf8_lossy(header.0).into_owned(),
                                        header.1.map(<[u8]>::to_vec),
                                    )
                                })
                                .collect(),
                        });
                    }
                }
            }
        }
        Ok(found)
    }
}

/// Runs a case; returns how many post-condition entries were waived.
pub(super) fn run(case: &Case) -> Result<usize, String> {
    let bench = Bench::new(case)?;
    let outcome = statements(case, &bench).and_then(|()| {
        for input in &case.inputs {
            bench.produce(input).map_err(SqlError::processing)?;
        }
        bench.drive(&case.inputs)
    });
    match (&case.expected, outcome) {
        (Some(expected), Err(error)) => refused(expected, &error).map(|()| 0),
        (Some(expected), Ok(())) => {
            Err(format!("nothing was refused; expected: {}", expected.message.clone().unwrap_or_default()))
        }
        (None, Err(error)) => Err(error.message),
        (None, Ok(())) => {
            outputs(case, &bench)?;
            post::check(case, &bench)
        }
    }
}

fn statements(case: &Case, bench: &Bench) -> Result<(), SqlError> {
    let script = case.statements.join("\n");
    let parsed = parser::parse_script(&script)?;
    let shared: Arc<str> = Arc::from(script.as_str());
    let last = parsed.len().saturating_sub(1);
    for (index, statement) in parsed.iter().enumerate() {
        let done = bench.engine.execute_statement(statement, Arc::clone(&shared), &bench.session);
        if let Err(error) = done {
            if index < last && case.expected.is_some() {
                return Err(SqlError { stage: Stage::Environment, ..error }.prefixed(&format!(
                    "statement {} of {} was refused already: ",
                    index + 1,
                    last + 1
                )));
            }
            return Err(error);
        }
    }
    Ok(())
}

fn refused(expected: &Expected, error: &SqlError) -> Result<(), String> {
    let stage_fits = match expected.ty.rsplit('.').next().unwrap_or_default() {
        "ParseFailedException" => error.stage == Stage::Parse,
        "StreamsException" => error.stage == Stage::Processing,
        _ => matches!(error.stage, Stage::Statement | Stage::Parse),
    };
    let full = match &error.statement {
        Some(statement) => format!("{}\nStatement: {statement}", error.message),
        None => error.message.clone(),
    };
    let said = expected
        .message
        .as_ref()
        .is_none_or(|message| error.message.contains(message) || full.contains(message));
    match (stage_fits, said) {
        (true, true) => Ok(()),
        (false, true) => Err(format!("refused at {:?}, expected {}", error.stage, expected.ty)),
        _ => Err(format!(
            "said: {} -- expected: {}",
            error.message,
            expected.message.clone().unwrap_or_default()
        )),
    }
}

pub(super) fn outputs(case: &Case, bench: &Bench) -> Result<(), String> {
    let exact = case.properties.get("use.exact.numeric.comparison").is_none_or(|value| value != "false");
    let mut topics: Vec<&str> = case.outputs.iter().map(|record| record.topic.as_str()).collect();
    topics.sort_unstable();
    topics.dedup();
    for topic in topics {
        let expected: Vec<&TestRecord> = case.outputs.iter().filter(|record| record.topic == topic).collect();
        let source = bench.source_of(topic);
        let format = TopicFormat { source: source.as_deref() };
        let found = bench.records(topic)?;
        for (index, (expected, found)) in expected.iter().zip(&found).enumerate() {
            compare(expected, found, &format, Rules { exact }, case.inputs.is_empty())
                .map_err(|reason| format!("{topic} record {index}: {reason}"))?;
        }
        if expected.len() != found.len() {
            let next = found.get(expected.len()).map(|found| show(found, &format)).unwrap_or_default();
            return Err(format!("{topic} has {} records, expected {} {next}", found.len(), expected.len()));
        }
    }
    Ok(())
}

fn show(found: &Found, format: &TopicFormat<'_>) -> String {
    let key = format.decode_key(found.key.as_deref());
    let value = format.decode_value(found.value.as_deref());
    format!("(next: key {key:?}, value {value:?}, at {})", found.timestamp)
}

fn compare(
    expected: &TestRecord,
    found: &Found,
    format: &TopicFormat<'_>,
    rules: Rules,
    no_inputs: bool,
) -> Result<(), String> {
    let (key, window) = format.decode_key(found.key.as_deref())?;
    let value = format.decode_value(found.value.as_deref())?;
    check_window(expected.window, window)?;
    let part = |name: &str, expected: &Json, actual: &Actual| {
        if meets(expected, actual, rules) {
            Ok(())
        } else {
            Err(format!("{name} is {actual:?}, expected {expected}"))
        }
    };
    part("key", &expected.key, &key)?;
    part("value", &expected.value, &value)?;
    if let Some(timestamp) = expected.timestamp
        && timestamp != found.timestamp
        && !(no_inputs && timestamp == 0)
    {
        return Err(format!("timestamp is {}, expected {timestamp}", found.timestamp));
    }
    if expected.headers != found.headers {
        return Err(format!("headers are {:?}, expected {:?}", found.headers, expected.headers));
    }
    Ok(())
}

fn check_window(expected: Option<TestWindow>, found: Option<TestWindow>) -> Result<(), String> {
    match (expected, found) {
        (None, _) => Ok(()),
        (Some(expected), Some(found)) if expected == found => Ok(()),
        (Some(expected), found) => Err(format!("window is {found:?}, expected {expected:?}")),
    }
}
