//! CREATE STREAM | TABLE, CREATE … AS SELECT, INSERT INTO … SELECT, ALTER, CREATE TYPE.

use std::collections::BTreeMap;
use std::sync::Arc;

use herdsman_bus::TopicSpec;
use herdsman_formats::{Format, FormatSpec};
use herdsman_stream::plan::{QueryPlan, Sink, TimestampColumn};
use herdsman_stream::{Column, SqlType};

use super::declare::{Declared, cache_table, check_schema_ids, default_wrap, timestamp};
use super::{Context, Engine, Entity, RunningQuery, State, status, warning};
use crate::analyse::{self, Planned, Purpose};
use crate::ast::{Element, Name, Query, StatementKind, TypeName};
use crate::catalog::{KeyWindow, Source, WindowKindName, check_key_types, schema_text};
use crate::diagnostic::{SqlError, nearest};
use crate::with::{With, check_format, format_named, value_spec};

fn kind_word(table: bool) -> &'static str {
    if table { "table" } else { "stream" }
}

impl Engine {
    pub(super) fn create_source(
        &self,
        state: &mut State,
        context: &Context<'_>,
    ) -> Result<Vec<Entity>, SqlError> {
        let StatementKind::CreateSource { table, or_replace, read_only, if_not_exists, name, elements, with } =
            &context.statement.kind
        else {
            return Ok(Vec::new());
        };
        let with = With::new(with)?;
        let word = kind_word(*table);
        if *read_only && *or_replace {
            return Err(SqlError::statement(format!(
                "Cannot add {word} '{}': CREATE OR REPLACE is not supported on source {word}s.",
                name.text
            ))
            .at(name.span));
        }
        let source = self.declared(state, context, *table, *read_only, name, elements, &with)?;
        if let Some(done) = exists(state, context, name, *table, *or_replace, *if_not_exists)? {
            return Ok(vec![done]);
        }
        let undeclared = with.partitions()?.is_none();
        let doubt = if undeclared { self.misspelt_topic(&source)? } else { None };
        if source.cache.is_none() {
            self.ensure_topic(&source.topic, source.partitions, BTreeMap::new())?;
        }
        let sequence = self.log_command(state, context, word)?;
        let partitions = self.topic_partitions(&source.topic)?.unwrap_or(source.partitions);
        let source = Source { partitions, ..source };
        state.catalog.sources.insert(name.text.clone(), Arc::new(source));
        let message = if *table { "Table created" } else { "Stream created" };
        let created = status(context, &format!("{word}/`{}`/create", name.text), message, None, sequence);
        Ok(vec![created.warn(doubt)])
    }

    /// What to tell when `source` is declared over a topic that is not there while another has nearly its name.
    fn misspelt_topic(&self, source: &Source) -> Result<Option<String>, SqlError> {
        if source.cache.is_some() || self.topic_partitions(&source.topic)?.is_some() {
            return Ok(None);
        }
        let topics = self.inner.bus.topics().map_err(SqlError::environment)?;
        let names = topics.iter().filter(|topic| !topic.internal).map(|topic| topic.name.as_str());
        let (topic, partitions) = (&source.topic, source.partitions);
        Ok(nearest(topic, names).map(|near| {
            format!(
                "no topic {topic}: did you mean {near}? It was made with {partitions} partitions; to undo that: DROP {} {} DELETE TOPIC",
                if source.table { "TABLE" } else { "STREAM" },
                source.name
            )
        }))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one statement")]
    fn declared(
        &self,
        state: &State,
        context: &Context<'_>,
        table: bool,
        read_only: bool,
        name: &Name,
        elements: &[Element],
        with: &With<'_>,
    ) -> Result<Source, SqlError> {
        let cache = with.text("CACHE");
        let (key_format, value_format) = with.formats()?;
        let default_key = context.session.get("ksql.persistence.default.format.key");
        let default_key = default_key.unwrap_or_else(|| self.inner.config.default_key_format.clone());
        let key_format = key_format.map_or_else(|| format_named(&default_key), Ok)?;
        let default_value = context.session.get("ksql.persistence.default.format.value");
        let value_format = match (
            value_format,
            default_value.or(self.inner.config.default_value_format.clone()),
        ) {
            (Some(format), _) => format,
            (None, Some(name)) => format_named(&name)?,
            (None, None) => {
                return Err(SqlError::statement("Statement is missing the 'VALUE_FORMAT' property from the WITH clause. Either provide one or set a default via the 'ksql.persistence.default.format.value' config.").at(name.span));
            }
        };
        let key_delimiter = with.delimiter("KEY_DELIMITER")?;
        let value_delimiter = with.delimiter("VALUE_DELIMITER")?;
        let topic = match (with.text("KAFKA_TOPIC"), &cache) {
            (Some(topic), _) => topic,
            (None, Some(_)) => String::new(),
            (None, None) => {
                return Err(SqlError::statement(
                    "Failed to prepare statement: Missing required property \"KAFKA_TOPIC\" which has no default value.",
                )
                .at(name.span));
            }
        };
        let window = with.window()?;
        check_schema_ids(with, elements, key_format, value_format)?;
        if with.get("VALUE_AVRO_SCHEMA_FULL_NAME").is_some() && value_format != Format::Avro {
            return Err(SqlError::statement(format!(
                "{} does not support the following configs: [fullSchemaName]",
                value_format.name()
            )));
        }
        let columns = Declared::of(state, context, table, elements)?;
        if columns.schema.is_empty() && columns.headers.is_empty() {
            return Err(SqlError::statement(format!(
                "The statement does not define any columns. {} needs its columns: a schema registry, which could supply them, is not connected.",
                name.text
            ))
            .at(name.span));
        }
        if table && columns.schema.key.is_empty() {
            return Err(SqlError::statement("Tables require a PRIMARY KEY. Please define the PRIMARY KEY.")
                .at(name.span));
        }
        check_key_types(&columns.schema.key)?;
        let wrap = match with.boolean("WRAP_SINGLE_VALUE")? {
            Some(wrap) => Some(wrap),
            None => default_wrap(context, value_format, columns.schema.value.len()),
        };
        let value_format = value_spec(value_format, value_delimiter, wrap, columns.schema.value.len())?;
        let key_format =
            FormatSpec { delimiter: key_delimiter.unwrap_or(','), ..FormatSpec::new(key_format) };
        check_format(key_format.format, &columns.schema.key, true)?;
        check_format(value_format.format, &columns.schema.value, false)?;
        let timestamp = timestamp(with, &columns.schema)?;
        let declared = with.partitions()?;
        let partitions = declared.unwrap_or(self.inner.config.default_partitions);
        let cache =
            cache.map(|cache| cache_table(name, cache, with, &columns.schema, &value_format)).transpose()?;
        Ok(Source {
            name: name.text.clone(),
            table,
            topic,
            partitions,
            schema: columns.schema,
            headers: columns.headers,
            order: columns.order,
            key_format,
            value_format,
            wrap_single_value: with.boolean("WRAP_SINGLE_VALUE")?,
            window,
            timestamp,
            read_only,
            cache,
            statement: context.statement.text.clone(),
            created_by: None,
        })
    }

    /// Creates the topic if it is missing.
    pub(super) fn ensure_topic(
        &self,
        topic: &str,
        partitions: i32,
        configs: BTreeMap<String, String>,
    ) -> Result<(), SqlError> {
        if self.topic_partitions(topic)?.is_some() {
            return Ok(());
        }
        let spec = TopicSpec { name: topic.to_owned(), partitions, configs };
        match self.inner.bus.create_topic(&spec) {
            Ok(()) | Err(herdsman_bus::BusError::TopicExists(_)) => Ok(()),
            Err(error) => Err(SqlError::environment(error)),
        }
    }

    pub(super) fn topic_partitions(&self, topic: &str) -> Result<Option<i32>, SqlError> {
        if topic.is_empty() {
            return Ok(None);
        }
        Ok(self.inner.bus.topic(topic).map_err(SqlError::environment)?.map(|topic| topic.partitions))
    }

    pub(super) fn create_as(
        &self,
        state: &mut State,
        context: &Context<'_>,
    ) -> Result<Vec<Entity>, SqlError> {
        let StatementKind::CreateAs { table, or_replace, if_not_exists, name, with, query } =
            &context.statement.kind
        else {
            return Ok(Vec::new());
        };
        let with = With::new(with)?;
        let word = kind_word(*table);
        let prefix = if *table { "CTAS" } else { "CSAS" };
        if let Some(done) = exists(state, context, name, *table, *or_replace, *if_not_exists)? {
            return Ok(vec![done]);
        }
        let (planned, source) = self.plan_sink(state, context, *table, name, &with, query)?;
        let replaced = state.catalog.sources.get(&name.text).and_then(|old| old.created_by.clone());
        let id = match with.text("QUERY_ID") {
            Some(id) => id.to_uppercase(),
            None => {
                replaced.clone().unwrap_or_else(|| format!("{prefix}_{}_{}", name.text, state.next_command))
            }
        };
        if let Some(existing) = self.topic_partitions(&source.topic)?
            && existing != source.partitions
            && with.get("PARTITIONS").is_some()
        {
            return Err(SqlError::statement(format!(
                    "A Kafka topic with the name '{}' already exists, with different partition/replica configuration than required. KSQL expects {} partitions (topic has {existing})",
                    source.topic, source.partitions
                ))
                .at(name.span));
        }
        self.ensure_topic(&source.topic, source.partitions, topic_configs(&planned, &with)?)?;
        let sequence = self.log_command(state, context, word)?;
        let source = Source { created_by: Some(id.clone()), ..source };
        let plan = query_plan(&id, planned, &source);
        if let Some(old) = replaced {
            self.stop_query(state, &old)?;
        }
        let source = Arc::new(source);
        let query = running(&id, context, &source, plan, self.start_at(context.session));
        self.start_query(state, query)?;
        state.catalog.sources.insert(name.text.clone(), source);
        let message = format!("Created query with ID {id}");
        Ok(vec![status(context, &format!("{word}/`{}`/create", name.text), &message, Some(id), sequence)])
    }

    fn plan_sink(
        &self,
        state: &State,
        context: &Context<'_>,
        table: bool,
        name: &Name,
        with: &With<'_>,
        query: &Query,
    ) -> Result<(Planned, Source), SqlError> {
        let (key_named, value_named) = with.formats()?;
        if query.limit.is_some() {
            let kind = if table { "TABLE" } else { "STREAM" };
            return Err(SqlError::statement(format!(
                "CREATE {kind} AS SELECT statements don't support LIMIT clause."
            ))
            .at(query.span));
        }
        let planned = analyse::plan(
            &state.catalog,
            query,
            Purpose::Persistent { target: &name.text, key_format: key_named, value_format: value_named },
            Arc::clone(&context.script),
        )?;
        check_result(planned.table, table, query)?;
        let key_format = sink_key_format(&planned, key_named, with)?;
        let value_format = match value_named {
            Some(format) => format,
            None => planned.value_format.format,
        };
        let inherited = planned.value_format.delimiter;
        let delimiter = with
            .delimiter("VALUE_DELIMITER")?
            .or(Some(inherited).filter(|_| value_format == Format::Delimited));
        let wrap = match with.boolean("WRAP_SINGLE_VALUE")? {
            Some(wrap) => Some(wrap),
            None => default_wrap(context, value_format, planned.schema.value.len()),
        };
        let value_format = value_spec(value_format, delimiter, wrap, planned.schema.value.len())?;
        check_format(key_format.format, &planned.schema.key, true)?;
        check_format(value_format.format, &planned.schema.value, false)?;
        let timestamp = timestamp(with, &planned.schema)?;
        let source = Source {
            name: name.text.clone(),
            table,
            topic: with.text("KAFKA_TOPIC").unwrap_or_else(|| self.topic_name(context, &name.text)),
            partitions: with.partitions()?.unwrap_or(planned.partitions),
            order: planned.schema.value.iter().map(|column| column.name.clone()).collect(),
            schema: planned.schema.clone(),
            headers: Vec::new(),
            key_format,
            value_format,
            wrap_single_value: with.boolean("WRAP_SINGLE_VALUE")?,
            window: planned.window,
            timestamp,
            read_only: false,
            cache: None,
            statement: context.statement.text.clone(),
            created_by: None,
        };
        Ok((planned, source))
    }

    fn topic_name(&self, context: &Context<'_>, name: &str) -> String {
        let prefix = context.session.get("ksql.output.topic.name.prefix").unwrap_or_default();
        format!("{prefix}{name}")
    }

    pub(super) fn insert_into(
        &self,
        state: &mut State,
        context: &Context<'_>,
    ) -> Result<Vec<Entity>, SqlError> {
        let StatementKind::InsertInto { target, with, query } = &context.statement.kind else {
            return Ok(Vec::new());
        };
        let with = With::new(with)?;
        let sink = Arc::clone(state.catalog.source(target)?);
        let refused = |message: String| Err(SqlError::statement(message).at(target.span));
        if sink.table {
            return refused(format!(
                "INSERT INTO can only be used to insert into a stream. {} is a table.",
                sink.name
            ));
        }
        if !sink.headers.is_empty() {
            return refused(format!("Cannot insert into {} because it has header columns", sink.name));
        }
        if sink.read_only {
            return refused(format!("Cannot insert into read-only stream: {}", sink.name));
        }
        let mut planned = analyse::plan(
            &state.catalog,
            query,
            Purpose::Persistent {
                target: &sink.name,
                key_format: Some(sink.key_format.format),
                value_format: Some(sink.value_format.format),
            },
            Arc::clone(&context.script),
        )?;
        check_result(planned.table, false, query)?;
        if !fit(&mut planned, &sink) {
            return refused(format!(
                "Incompatible schema between results and sink.\nResult schema is {}\nSink schema is {}",
                schema_text(&planned.schema.key, &planned.schema.value),
                schema_text(&sink.schema.key, &sink.schema.value)
            ));
        }
        let id = with
            .text("QUERY_ID")
            .map_or_else(|| format!("INSERTQUERY_{}", state.next_command), |id| id.to_uppercase());
        let sequence = self.log_command(state, context, "insert")?;
        let plan = query_plan(&id, planned, &sink);
        let query = running(&id, context, &sink, plan, self.start_at(context.session));
        self.start_query(state, query)?;
        let message = format!("Created query with ID {id}");
        Ok(vec![status(context, &format!("stream/`{}`/create", sink.name), &message, Some(id), sequence)])
    }

    pub(super) fn alter(
        &self,
        state: &mut State,
        context: &Context<'_>,
        table: bool,
        name: &Name,
        columns: &[(Name, TypeName)],
    ) -> Result<Vec<Entity>, SqlError> {
        let word = kind_word(table);
        let mut source = (**state.catalog.source(name)?).clone();
        if source.read_only {
            return Err(SqlError::statement(format!(
                "Cannot alter {word} '{}': ALTER operations are not supported on source {word}s.",
                source.name
            ))
            .at(name.span));
        }
        if source.table != table {
            return Err(SqlError::statement(format!(
                "Incompatible data source type is {}, but statement was ALTER {}",
                source.kind(),
                word.to_uppercase()
            ))
            .at(name.span));
        }
        if source.created_by.is_some() {
            return Err(SqlError::statement(format!(
                "ALTER command is not supported for CREATE ... AS statements: {} is written by a query",
                source.name
            ))
            .at(name.span));
        }
        for (column, ty) in columns {
            if source.columns().any(|known| known.name == column.text) {
                return Err(SqlError::statement(format!(
                    "Cannot add column `{}` to schema. A column with the same name already exists.",
                    column.text
                ))
                .at(column.span));
            }
            let ty = state.catalog.resolve_type(ty)?;
            source.schema.value.push(Column::new(column.text.clone(), ty));
            source.order.push(column.text.clone());
        }
        check_format(source.value_format.format, &source.schema.value, false)?;
        let sequence = self.log_command(state, context, "alter")?;
        state.catalog.sources.insert(source.name.clone(), Arc::new(source));
        let message = format!("{} altered successfully.", if table { "Table" } else { "Stream" });
        Ok(vec![status(context, &format!("{word}/`{}`/alter", name.text), &message, None, sequence)])
    }

    pub(super) fn create_type(
        &self,
        state: &mut State,
        context: &Context<'_>,
        name: &Name,
        ty: &TypeName,
        if_not_exists: bool,
    ) -> Result<Vec<Entity>, SqlError> {
        if state.catalog.types.contains_key(&name.text) {
            let message =
                format!("Cannot register custom type '{}' since it is already registered.", name.text);
            return if if_not_exists {
                Ok(vec![warning(context, message)])
            } else {
                Err(SqlError::statement(message).at(name.span))
            };
        }
        let ty = state.catalog.resolve_type(ty)?;
        let sequence = self.log_command(state, context, "type")?;
        let message = format!("Registered custom type with name '{}' and SQL type {ty}", name.text);
        state.catalog.types.insert(name.text.clone(), ty);
        Ok(vec![status(context, &format!("type/{}/create", name.text), &message, None, sequence)])
    }
}

/// The table a stream `t` may be read as, and a name that is taken.
fn exists(
    state: &State,
    context: &Context<'_>,
    name: &Name,
    table: bool,
    or_replace: bool,
    if_not_exists: bool,
) -> Result<Option<Entity>, SqlError> {
    let Some(old) = state.catalog.sources.get(&name.text) else { return Ok(None) };
    let message = format!(
        "Cannot add {} '{}': A {} with the same name already exists",
        kind_word(table),
        name.text,
        kind_word(old.table)
    );
    if if_not_exists {
        return Ok(Some(warning(context, message)));
    }
    if or_replace && old.table == table {
        return Ok(None);
    }
    Err(SqlError::statement(message).at(name.span).help("CREATE OR REPLACE replaces it, DROP removes it"))
}

/// Whether the result fits the sink; value columns are cast where ksqlDB casts silently.
fn fit(planned: &mut Planned, sink: &Source) -> bool {
    let keys = planned.schema.key.iter().map(|c| &c.ty).eq(sink.schema.key.iter().map(|c| &c.ty));
    let (from, to) = (&planned.schema.value, &sink.schema.value);
    let castable = |from: &SqlType, to: &SqlType| herdsman_stream::functions::can_implicitly_cast(from, to);
    let values = from.len() == to.len()
        && from.iter().zip(to).all(|(f, t)| f.name == t.name && castable(&f.ty, &t.ty));
    if !keys || !values {
        return false;
    }
    if let herdsman_stream::plan::Node::Project { columns, .. } = &mut planned.root {
        for (column, target) in columns.iter_mut().zip(to) {
            column.expr = analyse::cast_to(column.expr.clone(), &target.ty);
        }
    }
    planned.schema.value.clone_from(to);
    true
}

pub(super) fn check_result(is_table: bool, wanted_table: bool, query: &Query) -> Result<(), SqlError> {
    if is_table == wanted_table {
        return Ok(());
    }
    let (got, other) = if is_table { ("TABLE", "TABLE") } else { ("STREAM", "STREAM") };
    Err(SqlError::statement(format!(
        "Invalid result type. Your SELECT query produces a {got}. Please use CREATE {other} AS SELECT statement instead."
    ))
    .at(query.span))
}

fn sink_key_format(
    planned: &Planned,
    named: Option<Format>,
    with: &With<'_>,
) -> Result<FormatSpec, SqlError> {
    let inherited = &planned.key_format;
    let format = match named {
        Some(format) => format,
        None if inherited.format == Format::None && !planned.schema.key.is_empty() => Format::Kafka,
        None => inherited.format,
    };
    let mut spec = if named.is_none() && format == inherited.format {
        inherited.clone()
    } else {
        FormatSpec::new(format)
    };
    if let Some(delimiter) = with.delimiter("KEY_DELIMITER")? {
        spec.delimiter = delimiter;
    }
    Ok(spec)
}

fn topic_configs(planned: &Planned, with: &With<'_>) -> Result<BTreeMap<String, String>, SqlError> {
    let mut configs = BTreeMap::new();
    if planned.table {
        let policy = if planned.window.is_some() { "compact,delete" } else { "compact" };
        configs.insert("cleanup.policy".to_owned(), policy.to_owned());
    }
    if let Some(policy) = with.text("CLEANUP_POLICY") {
        configs.insert("cleanup.policy".to_owned(), policy);
    }
    if let Some(retention) = with.integer("RETENTION_MS")? {
        configs.insert("retention.ms".to_owned(), retention.to_string());
    }
    Ok(configs)
}

pub(super) fn query_plan(id: &str, planned: Planned, sink: &Source) -> QueryPlan {
    let timestamp = sink.timestamp.as_ref().and_then(|(name, format)| {
        sink.schema.index_of(name).map(|index| TimestampColumn { index, format: format.clone() })
    });
    QueryPlan {
        id: id.to_owned(),
        root: planned.root,
        is_table: planned.table,
        sink: Sink::Topic {
            topic: sink.topic.clone(),
            schema: sink.schema.clone(),
            key_format: sink.key_format.clone(),
            value_format: sink.value_format.clone(),
            timestamp,
        },
    }
}

fn running(
    id: &str,
    context: &Context<'_>,
    sink: &Source,
    plan: QueryPlan,
    start: herdsman_stream::StartAt,
) -> RunningQuery {
    RunningQuery {
        id: id.to_owned(),
        statement: context.statement.text.clone(),
        sink: sink.name.clone(),
        sources: plan_sources(&plan.root),
        plan,
        start,
        paused: false,
    }
}

/// Names of the sources a plan reads.
pub(crate) fn plan_sources(node: &herdsman_stream::plan::Node) -> Vec<String> {
    use herdsman_stream::plan::Node;
    match node {
        Node::StreamSource(source) | Node::TableSource(source) => vec![source.name.clone()],
        Node::Filter { input, .. }
        | Node::Project { input, .. }
        | Node::Rekey { input, .. }
        | Node::FlatMap { input, .. }
        | Node::Aggregate { input, .. } => plan_sources(input),
        Node::StreamTableJoin { left, right, .. }
        | Node::StreamStreamJoin { left, right, .. }
        | Node::TableTableJoin { left, right, .. }
        | Node::ForeignKeyJoin { left, right, .. } => {
            let mut all = plan_sources(left);
            all.extend(plan_sources(right));
            all
        }
        Node::CacheJoin { left, table, .. } => {
            let mut all = plan_sources(left);
            all.push(table.name.clone());
            all
        }
    }
}

/// The window as ksqlDB names it in descriptions.
pub(crate) fn window_name(window: Option<KeyWindow>) -> &'static str {
    match window {
        None => "",
        Some(KeyWindow { kind: WindowKindName::Session, .. }) => "SESSION",
        Some(KeyWindow { kind: WindowKindName::Hopping, .. }) => "HOPPING",
        Some(KeyWindow { kind: WindowKindName::Tumbling, .. }) => "TUMBLING",
    }
}
