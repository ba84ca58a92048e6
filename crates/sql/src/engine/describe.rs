//! DESCRIBE and EXPLAIN.

use std::sync::Arc;

use herdsman_stream::functions::{self, FunctionKind};
use herdsman_stream::plan::Node;
use herdsman_stream::{Column, SqlType};
use serde_json::{Value as Json, json};

use super::create::window_name;
use super::{Context, Engine, Entity, RunningQuery, State};
use crate::analyse::{self, Purpose};
use crate::ast::{Name, Statement, StatementKind};
use crate::catalog::Source;
use crate::diagnostic::{SqlError, nearest};

impl Engine {
    pub(super) fn describe(
        &self,
        state: &State,
        context: &Context<'_>,
        name: &Name,
        extended: bool,
    ) -> Result<Vec<Entity>, SqlError> {
        let Some(source) = state.catalog.sources.get(&name.text) else {
            let message = format!("Could not find STREAM/TABLE '{}' in the Metastore", name.text);
            return Err(state.catalog.missing(name, &message));
        };
        Ok(vec![Entity::SourceDescription {
            statement_text: context.statement.text.clone(),
            source_description: self.source_json(state, source, extended),
            warnings: Vec::new(),
        }])
    }

    pub(super) fn describe_all(
        &self,
        state: &State,
        context: &Context<'_>,
        tables: bool,
        extended: bool,
    ) -> Result<Vec<Entity>, SqlError> {
        let sources = state.catalog.sources.values().filter(|source| source.table == tables);
        Ok(vec![Entity::SourceDescriptions {
            statement_text: context.statement.text.clone(),
            source_descriptions: sources.map(|source| self.source_json(state, source, extended)).collect(),
            warnings: Vec::new(),
        }])
    }

    fn source_json(&self, state: &State, source: &Arc<Source>, extended: bool) -> Json {
        let queries = |wanted: &dyn Fn(&RunningQuery) -> bool| -> Vec<Json> {
            let matching = state.queries.values().filter(|query| wanted(query));
            matching.map(|query| self.query_json(state, query)).collect()
        };
        let status = source.created_by.as_ref().filter(|_| extended).and_then(|id| self.query_status(id));
        let statistics = status.as_ref().map_or(String::new(), |status| {
            format!(
                "rows-in: {}, rows-out: {}, late: {}, errors: {}, lag: {}",
                status.rows_in, status.rows_out, status.late_events, status.errors, status.lag
            )
        });
        json!({
            "name": source.name,
            "windowType": source.window.map(|window| window.kind.name()),
            "readQueries": queries(&|query| query.sources.contains(&source.name)),
            "writeQueries": queries(&|query| query.sink == source.name),
            "fields": fields(source),
            "type": source.kind(),
            "timestamp": source.timestamp.as_ref().map_or("", |(name, _)| name.as_str()),
            "statistics": statistics,
            "errorStats": status.and_then(|status| status.last_message).unwrap_or_default(),
            "extended": extended,
            "keyFormat": source.key_format.format.name(),
            "valueFormat": source.value_format.format.name(),
            "topic": source.topic,
            "partitions": if extended { source.partitions } else { 0 },
            "replication": i32::from(extended),
            "statement": source.statement,
            "queryOffsetSummaries": [],
            "sourceConstraints": [],
            "clusterStatistics": [],
            "clusterErrorStats": [],
        })
    }

    pub(super) fn describe_function(
        &self,
        context: &Context<'_>,
        name: &str,
    ) -> Result<Vec<Entity>, SqlError> {
        let all = functions::list();
        let found: Vec<_> = all.iter().filter(|info| info.name.eq_ignore_ascii_case(name)).collect();
        let Some(first) = found.first() else {
            let error = SqlError::statement(format!("Can't find any functions with the name '{name}'"));
            return Err(match nearest(name, all.iter().map(|info| info.name)) {
                Some(near) => error.help(format!("did you mean {near}?")),
                None => error.help("SHOW FUNCTIONS lists what there is"),
            });
        };
        let kind = match first.kind {
            FunctionKind::Scalar => "SCALAR",
            FunctionKind::Aggregate => "AGGREGATE",
            FunctionKind::Table => "TABLE",
        };
        let signatures = found.iter().flat_map(|info| &info.signatures).map(|(args, ty)| {
            let arguments: Vec<Json> = args
                .split(", ")
                .filter(|arg| !arg.is_empty())
                .map(|arg| json!({"name": "", "type": arg, "description": "", "isVariadic": arg.ends_with("...")}))
                .collect();
            json!({"arguments": arguments, "returnType": ty, "description": first.description})
        });
        Ok(vec![Entity::DescribeFunction {
            statement_text: context.statement.text.clone(),
            name: first.name.to_owned(),
            description: first.description.to_owned(),
            author: "Herdsman".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            path: "internal".to_owned(),
            functions: signatures.collect(),
            kind: kind.to_owned(),
            warnings: Vec::new(),
        }])
    }

    pub(super) fn explain(
        &self,
        state: &State,
        context: &Context<'_>,
        name: &Name,
    ) -> Result<Vec<Entity>, SqlError> {
        let id = self.query_ids(state, &crate::ast::Target::One(name.clone()))?;
        let Some(query) = id.first().and_then(|id| state.queries.get(id)) else { return Ok(Vec::new()) };
        let sink = state.catalog.sources.get(&query.sink);
        let last_message = self.query_status(&query.id).and_then(|status| status.last_message);
        let errors = last_message.map(|message| json!({"errorMessage": message, "type": "USER"}));
        let description = json!({
            "id": query.id,
            "statementText": query.statement,
            "windowType": sink.map(|sink| window_name(sink.window)).filter(|name| !name.is_empty()),
            "fields": sink.map(|sink| fields(sink)).unwrap_or_default(),
            "sources": query.sources,
            "sinks": [query.sink],
            "topology": tree(&query.plan.root),
            "executionPlan": tree(&query.plan.root),
            "overriddenProperties": {},
            "ksqlHostQueryStatus": {},
            "queryType": "PERSISTENT",
            "queryErrors": errors.into_iter().collect::<Vec<_>>(),
            "tasksMetadata": [],
            "state": self.query_state(&query.id),
        });
        Ok(vec![description_entity(context, description)])
    }

    pub(super) fn explain_statement(
        &self,
        state: &State,
        context: &Context<'_>,
        statement: &Statement,
    ) -> Result<Vec<Entity>, SqlError> {
        let (query, purpose) = match &statement.kind {
            StatementKind::Query(query) => (query, Purpose::Push),
            StatementKind::CreateAs { name, query, .. } => (query, persistent(&name.text)),
            StatementKind::InsertInto { target, query, .. } => (query, persistent(&target.text)),
            _ => {
                return Err(SqlError::statement("The provided statement does not run a ksql query")
                    .at(statement.span));
            }
        };
        let planned = analyse::plan(&state.catalog, query, purpose, Arc::clone(&context.script))?;
        let keys = planned
            .schema
            .key
            .iter()
            .filter(|_| purpose != Purpose::Push)
            .map(|column| field(column, Some("KEY")));
        let fields: Vec<Json> =
            keys.chain(planned.schema.value.iter().map(|column| field(column, None))).collect();
        let description = json!({
            "id": "",
            "statementText": statement.text,
            "windowType": planned.window.map(|window| window.kind.name()),
            "fields": fields,
            "sources": planned.sources,
            "sinks": [],
            "topology": tree(&planned.root),
            "executionPlan": tree(&planned.root),
            "overriddenProperties": {},
            "ksqlHostQueryStatus": {},
            "queryType": "PERSISTENT",
            "queryErrors": [],
            "tasksMetadata": [],
        });
        Ok(vec![description_entity(context, description)])
    }
}

fn persistent(target: &str) -> Purpose<'_> {
    Purpose::Persistent { target, key_format: None, value_format: None }
}

fn description_entity(context: &Context<'_>, query_description: Json) -> Entity {
    Entity::QueryDescription {
        statement_text: context.statement.text.clone(),
        query_description,
        warnings: Vec::new(),
    }
}

fn fields(source: &Source) -> Vec<Json> {
    let keys = source.schema.key.iter().map(|column| field(column, Some("KEY")));
    let values = source.order.iter().filter_map(|name| source.value_column(name)).map(|column| {
        let header = source.headers.iter().any(|(known, _)| known == column);
        field(column, header.then_some("HEADER"))
    });
    keys.chain(values).collect()
}

fn field(column: &Column, role: Option<&str>) -> Json {
    let mut field = json!({"name": column.name, "schema": schema_json(&column.ty)});
    if let (Some(role), Some(object)) = (role, field.as_object_mut()) {
        object.insert("type".to_owned(), Json::String(role.to_owned()));
    }
    field
}

/// A type as ksqlDB's REST describes it.
pub(super) fn schema_json(ty: &SqlType) -> Json {
    let (fields, member) = match ty {
        SqlType::Struct(fields) => (Json::Array(fields.iter().map(|f| field(f, None)).collect()), Json::Null),
        SqlType::Array(element) => (Json::Null, schema_json(element)),
        SqlType::Map(_, value) => (Json::Null, schema_json(value)),
        _ => (Json::Null, Json::Null),
    };
    let mut schema = json!({"type": crate::with::base_name(ty), "fields": fields, "memberSchema": member});
    if let (SqlType::Decimal { precision, scale }, Some(object)) = (ty, schema.as_object_mut()) {
        object.insert("parameters".to_owned(), json!({"precision": precision, "scale": scale}));
    }
    schema
}

/// The plan as an indented tree, sources last.
fn tree(node: &Node) -> String {
    let mut out = String::new();
    write_tree(node, 0, &mut out);
    out
}

fn write_tree(node: &Node, depth: usize, out: &mut String) {
    let (line, inputs): (String, Vec<&Node>) = match node {
        Node::StreamSource(source) => (format!("stream {} ({})", source.name, source.topic), vec![]),
        Node::TableSource(source) => (format!("table {} ({})", source.name, source.topic), vec![]),
        Node::Filter { input, .. } => ("filter".to_owned(), vec![input]),
        Node::Project { input, columns, .. } => {
            let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
            (format!("project {}", names.join(", ")), vec![input])
        }
        Node::Rekey { input, key, repartition, .. } => {
            let names: Vec<_> = key.iter().map(|key| key.name.as_str()).collect();
            let how = if *repartition { "through a repartition topic" } else { "in place" };
            (format!("key by {} {how}", names.join(", ")), vec![input])
        }
        Node::FlatMap { input, functions } => {
            (format!("flat map, {} functions", functions.len()), vec![input])
        }
        Node::Aggregate { input, aggregates, window, .. } => {
            let names: Vec<_> = aggregates.iter().map(|call| call.function.name).collect();
            let window = window.map(|window| format!(" per {:?}", window.window)).unwrap_or_default();
            (format!("aggregate {}{window}", names.join(", ")), vec![input])
        }
        Node::StreamTableJoin { left, right, kind, .. } => {
            (format!("stream-table join {kind:?}"), vec![left, right])
        }
        Node::StreamStreamJoin { left, right, kind, .. } => {
            (format!("stream-stream join {kind:?}"), vec![left, right])
        }
        Node::TableTableJoin { left, right, kind, .. } => {
            (format!("table-table join {kind:?}"), vec![left, right])
        }
        Node::ForeignKeyJoin { left, right, kind, .. } => {
            (format!("foreign-key join {kind:?}"), vec![left, right])
        }
        Node::CacheJoin { left, table, kind, .. } => {
            (format!("cache join {kind:?} with {} through cache {}", table.name, table.cache), vec![left])
        }
    };
    out.push_str(&"  ".repeat(depth));
    out.push_str(&line);
    out.push('\n');
    for input in inputs {
        write_tree(input, depth + 1, out);
    }
}
