//! Carries statements out: catalog changes through the command topic, persistent queries, push and pull queries.

mod commands;
mod create;
mod declare;
mod describe;
mod drop;
mod entity;
mod insert;
mod json;
mod pull;
mod push;
mod scan_rules;
mod session;
mod show;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use herdsman_bus::Bus;
use herdsman_host::Clock;
use herdsman_stream::plan::QueryPlan;
use herdsman_stream::{Runtime, StartAt};

use crate::ast::{Statement, StatementKind, Target};
use crate::catalog::Catalog;
use crate::diagnostic::SqlError;
use crate::parser;
pub use entity::{CommandStatus, Entity, SourceInfo};
pub use json::value_to_json;
pub use push::{QueryHandle, QueryRow};
pub use session::Session;

/// How an engine works.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// ksqlDB's service id, for example `default_`.
    pub service_id: String,
    /// Partitions of a topic that CREATE names but that does not exist, when PARTITIONS is not given.
    pub default_partitions: i32,
    /// `ksql.persistence.default.format.key`
    pub default_key_format: String,
    /// `ksql.persistence.default.format.value`, if any.
    pub default_value_format: Option<String>,
    /// Whether statements are written to the command topic, and replayed from it at the start.
    pub command_topic: bool,
    /// `auto.offset.reset` of queries whose session does not set it: true is earliest (ksqlDB's default is latest).
    pub from_earliest: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            service_id: "default_".to_owned(),
            default_partitions: 1,
            default_key_format: "KAFKA".to_owned(),
            default_value_format: None,
            command_topic: true,
            from_earliest: false,
        }
    }
}

/// The SQL engine; clones share it. Calls block, and catalog changes happen one at a time.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    bus: Arc<dyn Bus>,
    runtime: Runtime,
    clock: Arc<dyn Clock>,
    config: EngineConfig,
    state: Mutex<State>,
}

/// A running persistent query.
#[derive(Debug, Clone)]
pub(crate) struct RunningQuery {
    pub id: String,
    pub statement: String,
    pub sink: String,
    pub sources: Vec<String>,
    pub plan: QueryPlan,
    pub start: StartAt,
    pub paused: bool,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub catalog: Catalog,
    /// By id.
    pub queries: BTreeMap<String, RunningQuery>,
    /// Ids in the order in which the queries were made.
    pub order: Vec<String>,
    /// Sequence number of the next command.
    pub next_command: i64,
    pub next_transient: u64,
    /// While the command topic is replayed, queries are only collected.
    pub replaying: bool,
}

/// One statement on its way.
pub(crate) struct Context<'a> {
    pub statement: &'a Statement,
    pub script: Arc<str>,
    pub session: &'a Session,
}

impl Engine {
    /// An engine on `bus`; replays the command topic and starts its queries.
    ///
    /// # Errors   when the bus or a query refuses.
    pub fn new(
        bus: Arc<dyn Bus>,
        runtime: Runtime,
        clock: Arc<dyn Clock>,
        config: EngineConfig,
    ) -> Result<Self, SqlError> {
        let engine = Self {
            inner: Arc::new(Inner { bus, runtime, clock, config, state: Mutex::new(State::default()) }),
        };
        if engine.inner.config.command_topic {
            engine.replay()?;
        }
        Ok(engine)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bus this engine works on.
    #[must_use]
    pub fn bus(&self) -> &Arc<dyn Bus> {
        &self.inner.bus
    }

    /// The runtime that carries its queries.
    #[must_use]
    pub fn runtime(&self) -> &Runtime {
        &self.inner.runtime
    }

    /// ksqlDB's service id.
    #[must_use]
    pub fn service_id(&self) -> &str {
        &self.inner.config.service_id
    }

    /// Carries out every statement of `sql` but SELECT (see [`Engine::query`]) and PRINT, in order. What ran before
    /// an error stays done.
    ///
    /// # Errors   the first refused statement, with its place.
    pub fn execute(&self, sql: &str, session: &Session) -> Result<Vec<Entity>, SqlError> {
        let sql = session.substitute(sql)?;
        let statements = parser::parse_script(&sql)?;
        let script: Arc<str> = Arc::from(sql.as_str());
        let mut entities = Vec::new();
        for statement in &statements {
            // DEFINE changes what later ${…} mean, so a statement with one is parsed again.
            let again = session.substitute(&statement.text)?;
            if again == statement.text {
                entities.extend(self.execute_statement(statement, Arc::clone(&script), session)?);
            } else {
                let script: Arc<str> = Arc::from(again.as_str());
                for statement in &parser::parse_script(&again)? {
                    entities.extend(self.execute_statement(statement, Arc::clone(&script), session)?);
                }
            }
        }
        Ok(entities)
    }

    /// The texts of the statements in `sql`, so that a caller can send SELECT elsewhere.
    ///
    /// # Errors   the place where `sql` does not parse.
    pub fn split(sql: &str) -> Result<Vec<(StatementClass, String)>, SqlError> {
        let statements = parser::parse_script(sql)?;
        Ok(statements.into_iter().map(|statement| (StatementClass::of(&statement), statement.text)).collect())
    }

    pub(crate) fn execute_statement(
        &self,
        statement: &Statement,
        script: Arc<str>,
        session: &Session,
    ) -> Result<Vec<Entity>, SqlError> {
        let context = Context { statement, script: Arc::clone(&script), session };
        let mut state = self.lock();
        let state = &mut *state;
        parser::with_deep_stack(|| self.dispatch(state, &context))
            .map_err(|error| error.locate(&script, &statement.text))
    }

    fn dispatch(&self, state: &mut State, context: &Context<'_>) -> Result<Vec<Entity>, SqlError> {
        use StatementKind as Kind;
        match &context.statement.kind {
            Kind::CreateSource { .. } => self.create_source(state, context),
            Kind::CreateAs { .. } => self.create_as(state, context),
            Kind::InsertInto { .. } => self.insert_into(state, context),
            Kind::InsertValues { target, columns, values } => {
                self.insert_values(state, context, target, columns, values).map(|()| Vec::new())
            }
            Kind::AlterSource { table, name, columns } => self.alter(state, context, *table, name, columns),
            Kind::DropSource { table, name, if_exists, delete_topic } => {
                self.drop_source(state, context, *table, name, *if_exists, *delete_topic)
            }
            Kind::CreateType { name, ty, if_not_exists } => {
                self.create_type(state, context, name, ty, *if_not_exists)
            }
            Kind::DropType { name, if_exists } => self.drop_type(state, context, name, *if_exists),
            Kind::Terminate(target) => self.terminate(state, context, target),
            Kind::Pause(target) => self.pause(state, context, target, true),
            Kind::Resume(target) => self.pause(state, context, target, false),
            Kind::Set { name, value } => {
                context.session.set(name, value);
                Ok(Vec::new())
            }
            Kind::Unset(name) => {
                context.session.unset(name);
                Ok(Vec::new())
            }
            Kind::Define { name, value } => {
                context.session.define(name, value);
                Ok(Vec::new())
            }
            Kind::Undefine(name) => {
                context.session.undefine(name);
                Ok(Vec::new())
            }
            Kind::Show(show) => self.show(state, context, show),
            Kind::Describe { name, extended } => self.describe(state, context, name, *extended),
            Kind::DescribeAll { tables, extended } => self.describe_all(state, context, *tables, *extended),
            Kind::DescribeFunction(name) => self.describe_function(context, name),
            Kind::ExplainQuery(name) => self.explain(state, context, name),
            Kind::ExplainStatement(inner) => self.explain_statement(state, context, inner),
            Kind::AssertTopic { name, not_exists } => self.assert_topic(context, name, *not_exists),
            Kind::Query(_) => Err(SqlError {
                code: 40002,
                ..SqlError::statement(
                    "The following statement types should be issued to the websocket endpoint '/query':\n\t* PRINT\n\t* SELECT",
                )
            }),
            Kind::Print { .. } => Err(not_yet("PRINT")),
            Kind::CreateConnector { .. } => Err(not_yet("CREATE CONNECTOR")),
            Kind::DropConnector { .. } => Err(not_yet("DROP CONNECTOR")),
            Kind::DescribeConnector(_) => Err(not_yet("DESCRIBE CONNECTOR")),
            Kind::AlterSystem { .. } => Err(not_yet("ALTER SYSTEM")),
            Kind::AssertSchema { .. } => Err(not_yet("ASSERT SCHEMA")),
        }
    }

    fn query_ids(&self, state: &State, target: &Target) -> Result<Vec<String>, SqlError> {
        match target {
            Target::All => Ok(state.order.clone()),
            Target::One(name) => match state.order.iter().find(|id| id.eq_ignore_ascii_case(&name.text)) {
                Some(id) => Ok(vec![id.clone()]),
                None => {
                    let error = SqlError::statement(format!("Unknown queryId: {}", name.text)).at(name.span);
                    Err(
                        match crate::diagnostic::nearest(&name.text, state.order.iter().map(String::as_str)) {
                            Some(near) => error.help(format!("did you mean {near}?")),
                            None => error.help("SHOW QUERIES lists what runs"),
                        },
                    )
                }
            },
        }
    }

    fn terminate(
        &self,
        state: &mut State,
        context: &Context<'_>,
        target: &Target,
    ) -> Result<Vec<Entity>, SqlError> {
        let ids = self.query_ids(state, target)?;
        let sequence = self.log_command(state, context, "terminate")?;
        let mut entities = Vec::new();
        for id in ids {
            self.stop_query(state, &id)?;
            entities.push(status(
                context,
                &format!("terminate/{id}/execute"),
                "Query terminated.",
                Some(id),
                sequence,
            ));
        }
        Ok(entities)
    }

    pub(crate) fn stop_query(&self, state: &mut State, id: &str) -> Result<(), SqlError> {
        state.order.retain(|known| known != id);
        if state.queries.remove(id).is_some() && !state.replaying {
            self.inner.runtime.terminate(id).map_err(SqlError::environment)?;
        }
        Ok(())
    }

    fn pause(
        &self,
        state: &mut State,
        context: &Context<'_>,
        target: &Target,
        paused: bool,
    ) -> Result<Vec<Entity>, SqlError> {
        let ids = self.query_ids(state, target)?;
        let sequence = self.log_command(state, context, if paused { "pause" } else { "resume" })?;
        let mut entities = Vec::new();
        for id in ids {
            if !state.replaying {
                let done =
                    if paused { self.inner.runtime.pause(&id) } else { self.inner.runtime.resume(&id) };
                done.map_err(SqlError::environment)?;
            }
            if let Some(query) = state.queries.get_mut(&id) {
                query.paused = paused;
            }
            let (verb, message) =
                if paused { ("pause", "Query paused.") } else { ("resume", "Query resumed.") };
            entities.push(status(context, &format!("{verb}/{id}/execute"), message, Some(id), sequence));
        }
        Ok(entities)
    }

    /// Registers a planned query and starts it.
    pub(crate) fn start_query(&self, state: &mut State, query: RunningQuery) -> Result<(), SqlError> {
        if !state.replaying {
            self.inner.runtime.start(query.plan.clone(), query.start).map_err(SqlError::environment)?;
        }
        state.order.retain(|id| *id != query.id);
        state.order.push(query.id.clone());
        state.queries.insert(query.id.clone(), query);
        Ok(())
    }

    pub(crate) fn start_at(&self, session: &Session) -> StartAt {
        match session.get("auto.offset.reset").as_deref() {
            Some("earliest") => StartAt::Earliest,
            Some("latest") => StartAt::Latest,
            _ if self.inner.config.from_earliest => StartAt::Earliest,
            _ => StartAt::Latest,
        }
    }
}

/// What kind of statement a text is, as far as callers must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatementClass {
    /// SELECT: for [`Engine::query`].
    Query,
    /// PRINT topic.
    Print,
    /// SET, UNSET, DEFINE, UNDEFINE: for [`Session::apply`], where a client keeps its own session.
    Session,
    /// Everything else: for [`Engine::execute`].
    Other,
}

impl StatementClass {
    fn of(statement: &Statement) -> Self {
        match statement.kind {
            StatementKind::Query(_) => Self::Query,
            StatementKind::Print { .. } => Self::Print,
            StatementKind::Set { .. }
            | StatementKind::Unset(_)
            | StatementKind::Define { .. }
            | StatementKind::Undefine(_) => Self::Session,
            _ => Self::Other,
        }
    }
}

fn not_yet(what: &str) -> SqlError {
    SqlError::statement(format!("{what} is not supported yet"))
}

pub(crate) fn status(
    context: &Context<'_>,
    command_id: &str,
    message: &str,
    query_id: Option<String>,
    sequence: i64,
) -> Entity {
    Entity::CurrentStatus {
        statement_text: context.statement.text.clone(),
        command_id: command_id.to_owned(),
        command_status: CommandStatus { status: "SUCCESS".to_owned(), message: message.to_owned(), query_id },
        command_sequence_number: sequence,
        warnings: Vec::new(),
    }
}

pub(crate) fn warning(context: &Context<'_>, message: String) -> Entity {
    Entity::Warning { statement_text: context.statement.text.clone(), message, warnings: Vec::new() }
}
