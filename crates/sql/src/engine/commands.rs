//! The command topic: every statement that changes the catalog, in order, so that a restart finds it again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use herdsman_bus::TopicSpec;
use herdsman_record::{BatchBuilder, Compression, TopicPartition};
use serde_json::{Value, json};

use super::{Context, Engine, Session, State};
use crate::diagnostic::SqlError;
use crate::parser;

impl Engine {
    fn command_topic(&self) -> String {
        format!("_confluent-ksql-{}_command_topic", self.inner.config.service_id)
    }

    /// Writes the statement to the command topic and returns its sequence number.
    pub(super) fn log_command(
        &self,
        state: &mut State,
        context: &Context<'_>,
        verb: &str,
    ) -> Result<i64, SqlError> {
        let sequence = state.next_command;
        state.next_command += 1;
        if state.replaying || !self.inner.config.command_topic {
            return Ok(sequence);
        }
        let key = json!({"type": verb, "sequence": sequence}).to_string();
        let value = json!({
            "statement": context.statement.text,
            "streamsProperties": context.session.properties(),
            "version": 1,
        })
        .to_string();
        let mut builder = BatchBuilder::new();
        builder.append(self.inner.clock.now_ms(), Some(key.as_bytes()), Some(value.as_bytes()), &[]);
        let batch = builder.finish(Compression::None).map_err(SqlError::environment)?;
        let at = TopicPartition::new(self.command_topic(), 0);
        self.inner.bus.produce(&at, batch).map_err(SqlError::environment)?;
        self.inner.bus.sync().map_err(SqlError::environment)?;
        Ok(sequence)
    }

    /// Reads the command topic from its beginning, rebuilds the catalog, then starts the queries that are left.
    pub(super) fn replay(&self) -> Result<(), SqlError> {
        let topic = self.command_topic();
        if self.inner.bus.topic(&topic).map_err(SqlError::environment)?.is_none() {
            let configs = BTreeMap::from([
                ("cleanup.policy".to_owned(), "delete".to_owned()),
                ("retention.ms".to_owned(), "-1".to_owned()),
            ]);
            let spec = TopicSpec { name: topic, partitions: 1, configs };
            return self.inner.bus.create_topic(&spec).map_err(SqlError::environment);
        }
        let at = TopicPartition::new(topic, 0);
        let range = self.inner.bus.offsets(&at).map_err(SqlError::environment)?;
        let mut reader =
            self.inner.bus.reader(&[(at.clone(), range.start)]).map_err(SqlError::environment)?;
        let mut position = range.start;
        self.lock().replaying = true;
        while position < range.end {
            let fetched = reader.poll(1 << 20, Duration::from_millis(200)).map_err(SqlError::environment)?;
            for part in fetched {
                for batch in &part.batches {
                    let records = batch.records().map_err(SqlError::environment)?;
                    for record in records.iter().flatten().filter(|record| record.offset >= part.position) {
                        if let Some(value) = record.value {
                            self.replay_command(record.offset, value)?;
                        }
                    }
                }
                position = part.next_offset;
            }
        }
        let mut state = self.lock();
        state.replaying = false;
        state.next_command = state.next_command.max(range.end);
        for id in state.order.clone() {
            let Some(query) = state.queries.get(&id) else { continue };
            self.inner.runtime.start(query.plan.clone(), query.start).map_err(SqlError::environment)?;
            if query.paused {
                self.inner.runtime.pause(&id).map_err(SqlError::environment)?;
            }
        }
        Ok(())
    }

    fn replay_command(&self, offset: i64, value: &[u8]) -> Result<(), SqlError> {
        let damaged = |reason: &str| {
            SqlError::environment(format!(
                "command {offset} of {} is damaged ({reason}): restore the topic from a backup",
                self.command_topic()
            ))
        };
        let command: Value = serde_json::from_slice(value).map_err(|_| damaged("not JSON"))?;
        let text = command.get("statement").and_then(Value::as_str).ok_or_else(|| damaged("no statement"))?;
        let properties = command.get("streamsProperties").and_then(Value::as_object);
        let properties = properties
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), value.as_str().map_or(value.to_string(), str::to_owned)))
            .collect();
        let session = Session::new(properties, BTreeMap::new());
        self.lock().next_command = offset;
        let script: Arc<str> = Arc::from(text);
        for statement in &parser::parse_script(text)? {
            self.execute_statement(statement, Arc::clone(&script), &session)?;
        }
        Ok(())
    }
}
