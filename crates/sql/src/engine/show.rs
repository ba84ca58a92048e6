//! SHOW | LIST: what there is.

use herdsman_stream::functions::{self, FunctionKind};
use herdsman_stream::runtime::{QueryState, QueryStatus};
use serde_json::{Map, Value as Json, json};

use super::describe::schema_json;
use super::{Context, Engine, Entity, RunningQuery, SourceInfo, State};
use crate::ast::Show;
use crate::catalog::Source;
use crate::diagnostic::SqlError;

impl Engine {
    pub(super) fn show(
        &self,
        state: &State,
        context: &Context<'_>,
        show: &Show,
    ) -> Result<Vec<Entity>, SqlError> {
        let statement_text = context.statement.text.clone();
        let warnings = Vec::new();
        let entity = match show {
            Show::Streams { extended: true } => return self.describe_all(state, context, false, true),
            Show::Tables { extended: true } => return self.describe_all(state, context, true, true),
            Show::Streams { .. } => {
                Entity::Streams { statement_text, streams: sources(state, false), warnings }
            }
            Show::Tables { .. } => Entity::Tables { statement_text, tables: sources(state, true), warnings },
            Show::Queries { .. } => {
                let queries = state.order.iter().filter_map(|id| state.queries.get(id));
                let queries = queries.map(|query| self.query_json(state, query)).collect();
                Entity::Queries { statement_text, queries, warnings }
            }
            Show::Topics { all, extended } => return self.topics(context, *all, *extended),
            Show::Properties => self.properties(context),
            Show::Functions => {
                Entity::FunctionNames { statement_text, functions: function_names(), warnings }
            }
            Show::Types => {
                let types = state.catalog.types.iter().map(|(name, ty)| (name.clone(), schema_json(ty)));
                Entity::TypeList {
                    statement_text,
                    types: Json::Object(types.collect::<Map<_, _>>()),
                    warnings,
                }
            }
            Show::Variables => {
                let variables = context.session.variables().into_iter();
                let variables =
                    variables.map(|(name, value)| json!({"name": name, "value": value})).collect();
                Entity::Variables { statement_text, variables, warnings }
            }
            Show::Connectors(_) | Show::ConnectorPlugins => {
                return Err(SqlError::statement(
                    "SHOW CONNECTORS is not supported yet: routes do their work, see `herdsman route`",
                ));
            }
        };
        Ok(vec![entity])
    }

    /// How the running query `id` stands.
    pub(super) fn query_status(&self, id: &str) -> Option<QueryStatus> {
        self.inner.runtime.queries().into_iter().find(|status| status.id == *id)
    }

    /// Its state in ksqlDB's words.
    pub(super) fn query_state(&self, id: &str) -> &'static str {
        match self.query_status(id).map(|status| status.state) {
            Some(QueryState::Error(_)) => "ERROR",
            Some(QueryState::Paused) => "PAUSED",
            _ => "RUNNING",
        }
    }

    pub(super) fn query_json(&self, state: &State, query: &RunningQuery) -> Json {
        let running = self.query_state(&query.id);
        let topic = state.catalog.sources.get(&query.sink).map(|source| source.topic.clone());
        json!({
            "queryString": query.statement,
            "sinks": [query.sink],
            "sinkKafkaTopics": topic.into_iter().collect::<Vec<_>>(),
            "id": query.id,
            "statusCount": {running: 1},
            "queryType": "PERSISTENT",
            "state": running,
        })
    }

    fn topics(&self, context: &Context<'_>, all: bool, extended: bool) -> Result<Vec<Entity>, SqlError> {
        let statement_text = context.statement.text.clone();
        let topics = self.inner.bus.topics().map_err(SqlError::environment)?;
        let shown =
            topics.into_iter().filter(|topic| all || !(topic.internal || topic.name.starts_with('_')));
        let entity = if extended {
            let topics = shown.map(|topic| {
                json!({"name": topic.name, "replicaInfo": vec![1; count(topic.partitions)], "consumerCount": 0, "consumerGroupCount": 0})
            });
            Entity::KafkaTopicsExtended { statement_text, topics: topics.collect(), warnings: Vec::new() }
        } else {
            let topics = shown
                .map(|topic| json!({"name": topic.name, "replicaInfo": vec![1; count(topic.partitions)]}));
            Entity::KafkaTopics { statement_text, topics: topics.collect(), warnings: Vec::new() }
        };
        Ok(vec![entity])
    }

    fn properties(&self, context: &Context<'_>) -> Entity {
        let own = context.session.properties();
        let config = &self.inner.config;
        let offset = if config.from_earliest { "earliest" } else { "latest" };
        let mut all: Vec<(String, String)> = vec![
            ("ksql.service.id".to_owned(), config.service_id.clone()),
            ("ksql.persistence.default.format.key".to_owned(), config.default_key_format.clone()),
            ("auto.offset.reset".to_owned(), offset.to_owned()),
        ];
        if let Some(format) = &config.default_value_format {
            all.push(("ksql.persistence.default.format.value".to_owned(), format.clone()));
        }
        for (name, value) in &own {
            match all.iter_mut().find(|(known, _)| known == name) {
                Some(property) => property.1.clone_from(value),
                None => all.push((name.clone(), value.clone())),
            }
        }
        let properties = all
            .into_iter()
            .map(|(name, value)| {
                let scope = if name.starts_with("ksql.") { "KSQL" } else { "KAFKA STREAMS" };
                let level = if own.contains_key(&name) { "QUERY" } else { "SERVER" };
                json!({"name": name, "scope": scope, "value": value, "editable": name != "ksql.service.id", "level": level})
            })
            .collect();
        Entity::Properties {
            statement_text: context.statement.text.clone(),
            properties,
            overwritten_properties: own.keys().cloned().collect(),
            default_properties: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

fn count(partitions: i32) -> usize {
    usize::try_from(partitions).unwrap_or(0)
}

fn sources(state: &State, table: bool) -> Vec<SourceInfo> {
    state.catalog.sources.values().filter(|source| source.table == table).map(|source| info(source)).collect()
}

fn info(source: &Source) -> SourceInfo {
    SourceInfo {
        kind: source.kind().to_owned(),
        name: source.name.clone(),
        topic: source.topic.clone(),
        key_format: source.key_format.format.name().to_owned(),
        value_format: source.value_format.format.name().to_owned(),
        is_windowed: source.window.is_some(),
    }
}

fn function_names() -> Vec<Json> {
    let mut names: Vec<(&str, FunctionKind)> =
        functions::list().iter().map(|info| (info.name, info.kind)).collect();
    names.dedup();
    let json = |(name, kind)| {
        let kind = match kind {
            FunctionKind::Scalar => "SCALAR",
            FunctionKind::Aggregate => "AGGREGATE",
            FunctionKind::Table => "TABLE",
        };
        json!({"name": name, "type": kind, "category": "OTHER"})
    };
    names.into_iter().map(json).collect()
}
