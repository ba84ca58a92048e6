//! A plan cut into stages at its repartition topics, ready to be instantiated once per partition.

use std::sync::Arc;

use arrow::error::ArrowError;

use crate::keys::KeyCodec;
use crate::operator::{NO_TIME, Operator, OperatorError};
use crate::operators::aggregate::{Aggregate, AggregateSpec};
use crate::operators::cache_join::CacheJoin;
use crate::operators::filter::Filter;
use crate::operators::flat_map::FlatMap;
use crate::operators::foreign_key_join::ForeignKeyJoin;
use crate::operators::project::Project;
use crate::operators::rekey::Rekey;
use crate::operators::session::SessionAggregate;
use crate::operators::stream_stream_join::{JoinSpec, StreamStreamJoin};
use crate::operators::stream_table_join::StreamTableJoin;
use crate::operators::table_state::TableState;
use crate::operators::table_table_join::TableTableJoin;
use crate::plan::{FormatSpec, Node, QueryPlan, Source, Window, WindowSpec, WindowedKey};
use crate::{Column, Schema, SqlType};

/// What a stage's operators must know when they are made.
#[derive(Debug, Clone, Copy)]
pub struct StageEnv {
    /// Rows go to a stage that merges several upstream partitions, so their stream time is written down.
    pub observe: bool,
}

type Factory = Arc<dyn Fn(StageEnv) -> Result<Box<dyn Operator>, OperatorError> + Send + Sync>;

/// Where rows go: an operator and its side, or the stage's output.
pub type Target = Option<(usize, usize)>;

/// An operator to be made.
pub struct OperatorSpec {
    /// Makes it.
    pub make: Factory,
    /// Where its output goes.
    pub target: Target,
}

/// What a stage reads.
#[derive(Debug, Clone)]
pub enum Input {
    /// A topic of the user.
    Topic {
        /// How to read it.
        source: Box<Source>,
        /// As a table.
        is_table: bool,
    },
    /// The repartition topic that another stage writes.
    Repartition {
        /// That stage.
        stage: usize,
    },
}

/// One input of a stage.
pub struct StageSource {
    /// What is read.
    pub input: Input,
    /// Columns of its rows, system columns included.
    pub schema: Schema,
    /// Where rows go.
    pub target: Target,
}

/// What a stage writes.
#[derive(Debug, Clone)]
pub enum Output {
    /// The query's sink.
    Sink,
    /// A repartition topic with rows of this schema; the key format decides the partition.
    Repartition {
        /// Columns.
        schema: Schema,
        /// How keys are written for partitioning.
        key_format: FormatSpec,
    },
}

/// Operators between inputs and one output, without a repartition topic between them.
pub struct Stage {
    /// Inputs.
    pub sources: Vec<StageSource>,
    /// Operators; consumers come before producers.
    pub operators: Vec<OperatorSpec>,
    /// Output.
    pub output: Output,
    /// Number of tasks.
    pub partitions: i32,
}

/// A whole query. Stage 0 writes the sink.
pub struct Topology {
    /// Stages.
    pub stages: Vec<Stage>,
    /// Operator of stage 0 that pull queries read.
    pub materialised: Option<usize>,
    /// Columns that it keeps.
    pub materialised_schema: Option<Schema>,
}

/// Output columns of a node.
#[must_use]
pub fn schema_of(node: &Node) -> Schema {
    match node {
        Node::StreamSource(source) | Node::TableSource(source) => source_schema(source),
        Node::Filter { input, .. } => schema_of(input),
        Node::Project { input, key_names, columns } => {
            let key = schema_of(input).key;
            let named = |(index, column): (usize, Column)| match key_names.get(index) {
                Some(name) => Column::new(name, column.ty),
                None => column,
            };
            Schema {
                key: key.into_iter().enumerate().map(named).collect(),
                value: columns.iter().map(|column| Column::new(&column.name, column.expr.ty())).collect(),
            }
        }
        Node::Rekey { key, columns, .. } => Schema {
            key: key.iter().map(|column| Column::new(&column.name, column.expr.ty())).collect(),
            value: columns.iter().map(|column| Column::new(&column.name, column.expr.ty())).collect(),
        },
        Node::FlatMap { input, functions } => {
            let mut schema = schema_of(input);
            schema.value.extend(functions.iter().map(|(_, _, column)| column.clone()));
            schema
        }
        Node::Aggregate { input, aggregates, names, window_bounds, .. } => {
            let mut value: Vec<Column> = aggregates
                .iter()
                .zip(names)
                .map(|(call, name)| Column::new(name, call.function.return_type.clone()))
                .collect();
            if *window_bounds {
                value.push(Column::new("WINDOWSTART", SqlType::BigInt));
                value.push(Column::new("WINDOWEND", SqlType::BigInt));
            }
            Schema { key: schema_of(input).key, value }
        }
        Node::StreamTableJoin { left, right, key_name, .. } => {
            let (left, right) = (schema_of(left), schema_of(right));
            let value = left.value.into_iter().chain(right.key).chain(right.value).collect();
            Schema { key: renamed(left.key, key_name), value }
        }
        Node::StreamStreamJoin { left, right, key_name, .. }
        | Node::TableTableJoin { left, right, key_name, .. } => {
            let (left, right) = (schema_of(left), schema_of(right));
            let key = renamed(left.key.clone(), key_name);
            let value = left.key.into_iter().chain(left.value).chain(right.key).chain(right.value).collect();
            Schema { key, value }
        }
        Node::ForeignKeyJoin { left, right, .. } => {
            let (left, right) = (schema_of(left), schema_of(right));
            Schema {
                key: left.key,
                value: left.value.into_iter().chain(right.key).chain(right.value).collect(),
            }
        }
        Node::CacheJoin { left, table, .. } => {
            let left = schema_of(left);
            let table = table.schema.clone();
            Schema {
                key: left.key,
                value: left.value.into_iter().chain(table.key).chain(table.value).collect(),
            }
        }
    }
}

fn renamed(mut key: Vec<Column>, name: &str) -> Vec<Column> {
    if let [only] = key.as_mut_slice() {
        name.clone_into(&mut only.name);
    }
    key
}

/// Declared columns and system columns of a source.
#[must_use]
pub fn source_schema(source: &Source) -> Schema {
    let mut schema = source.schema.clone();
    schema.value.extend(source.pseudo.iter().map(crate::source::pseudo_column));
    schema
}

/// Whether a node's output is a table.
#[must_use]
pub fn is_table(node: &Node) -> bool {
    match node {
        Node::StreamSource(_)
        | Node::FlatMap { .. }
        | Node::StreamTableJoin { .. }
        | Node::StreamStreamJoin { .. }
        | Node::CacheJoin { .. } => false,
        Node::TableSource(_)
        | Node::Aggregate { .. }
        | Node::TableTableJoin { .. }
        | Node::ForeignKeyJoin { .. } => true,
        Node::Filter { input, .. } | Node::Project { input, .. } | Node::Rekey { input, .. } => {
            is_table(input)
        }
    }
}

/// All topics of the user that a node reads.
pub fn topics(node: &Node, out: &mut Vec<String>) {
    match node {
        Node::StreamSource(source) | Node::TableSource(source) => {
            if !out.contains(&source.topic) {
                out.push(source.topic.clone());
            }
        }
        Node::Filter { input, .. }
        | Node::Project { input, .. }
        | Node::Rekey { input, .. }
        | Node::FlatMap { input, .. }
        | Node::Aggregate { input, .. } => topics(input, out),
        Node::CacheJoin { left, .. } => topics(left, out),
        Node::StreamTableJoin { left, right, .. }
        | Node::StreamStreamJoin { left, right, .. }
        | Node::TableTableJoin { left, right, .. }
        | Node::ForeignKeyJoin { left, right, .. } => {
            topics(left, out);
            topics(right, out);
        }
    }
}

fn regrouped(node: &Node) -> bool {
    match node {
        Node::Rekey { .. } => true,
        Node::Filter { input, .. } | Node::Project { input, .. } => regrouped(input),
        _ => false,
    }
}

/// Whether a plan has a foreign-key join: it then runs in one task, as rows of one partition meet rows of all others.
#[must_use]
pub fn joins_foreign_keys(node: &Node) -> bool {
    match node {
        Node::ForeignKeyJoin { .. } => true,
        Node::StreamSource(_) | Node::TableSource(_) => false,
        Node::Filter { input, .. }
        | Node::Project { input, .. }
        | Node::Rekey { input, .. }
        | Node::FlatMap { input, .. }
        | Node::Aggregate { input, .. } => joins_foreign_keys(input),
        Node::CacheJoin { left, .. } => joins_foreign_keys(left),
        Node::StreamTableJoin { left, right, .. }
        | Node::StreamStreamJoin { left, right, .. }
        | Node::TableTableJoin { left, right, .. } => joins_foreign_keys(left) || joins_foreign_keys(right),
    }
}

/// How the keys of a node's rows carry their window.
#[must_use]
pub fn window_of(node: &Node) -> Option<WindowedKey> {
    match node {
        Node::StreamSource(source) | Node::TableSource(source) => source.windowed,
        Node::Aggregate { window, .. } => window.map(|spec| match spec.window {
            Window::Tumbling { size_ms } | Window::Hopping { size_ms, .. } => WindowedKey::Time { size_ms },
            Window::Session { .. } => WindowedKey::Session,
        }),
        Node::Filter { input, .. } | Node::Project { input, .. } | Node::FlatMap { input, .. } => {
            window_of(input)
        }
        Node::CacheJoin { left, .. }
        | Node::StreamTableJoin { left, .. }
        | Node::StreamStreamJoin { left, .. }
        | Node::TableTableJoin { left, .. }
        | Node::ForeignKeyJoin { left, .. } => window_of(left),
        Node::Rekey { .. } => None,
    }
}

/// Cuts `plan` into stages. `partitions` tells how many partitions a topic has.
///
/// # Errors   a sentence: topics that cannot be joined as they are, nodes that this runtime cannot run.
pub fn compile(plan: &QueryPlan, partitions: &dyn Fn(&str) -> i32) -> Result<Topology, String> {
    let mut all = Vec::new();
    topics(&plan.root, &mut all);
    let single = all.iter().all(|topic| partitions(topic) == 1);
    let mut compiler = Compiler { stages: vec![Stage::writing(Output::Sink)], single, materialised: None };
    compiler.root(&plan.root, plan.is_table)?;
    let mut topology = Topology {
        stages: compiler.stages,
        materialised: compiler.materialised.as_ref().map(|(at, _)| *at),
        materialised_schema: compiler.materialised.map(|(_, schema)| schema),
    };
    topology.count_partitions(partitions)?;
    Ok(topology)
}

impl Stage {
    fn writing(output: Output) -> Self {
        Self { sources: Vec::new(), operators: Vec::new(), output, partitions: 0 }
    }
}

impl Topology {
    /// Stages behind user topics have those topics' partitions, others as many as the largest stage before them.
    fn count_partitions(&mut self, partitions: &dyn Fn(&str) -> i32) -> Result<(), String> {
        for stage in (0..self.stages.len()).rev() {
            let mut of_topics: Vec<(String, i32)> = Vec::new();
            let mut upstream = 1;
            for source in &self.stages[stage].sources {
                match &source.input {
                    Input::Topic { source, .. } => {
                        of_topics.push((source.name.clone(), partitions(&source.topic)))
                    }
                    Input::Repartition { stage } => upstream = upstream.max(self.stages[*stage].partitions),
                }
            }
            if let Some([left, right]) = of_topics.array_windows().find(|[left, right]| left.1 != right.1) {
                return Err(format!(
                    "{} has {} partitions, {} has {}: repartition one of them, for example CREATE TABLE {}_{} WITH (PARTITIONS={}) AS SELECT * FROM {}",
                    left.0, left.1, right.0, right.1, right.0, left.1, left.1, right.0
                ));
            }
            self.stages[stage].partitions = of_topics.first().map_or(upstream, |(_, count)| *count);
        }
        Ok(())
    }

    /// Whether rows of `stage` come from several upstream partitions.
    #[must_use]
    pub fn merges(&self, stage: usize) -> bool {
        self.stages[stage].sources.iter().any(|source| match source.input {
            Input::Repartition { stage } => self.stages[stage].partitions > 1,
            Input::Topic { .. } => false,
        })
    }
}

/// Whether a filter stands above the state of a table.
fn root_filter(node: &Node) -> Option<()> {
    match node {
        Node::Filter { .. } => Some(()),
        Node::Project { input, .. } => root_filter(input),
        _ => None,
    }
}

/// An aggregate that can tell what its results were; a HAVING above it then deletes only what had passed.
fn plain_aggregate(node: &Node) -> bool {
    let session = |window: &WindowSpec| matches!(window.window, Window::Session { .. });
    matches!(node, Node::Aggregate { window, .. } if !window.as_ref().is_some_and(session))
}

struct Compiler {
    stages: Vec<Stage>,
    single: bool,
    materialised: Option<(usize, Schema)>,
}

fn codec(columns: &[Column]) -> Result<KeyCodec, ArrowError> {
    KeyCodec::new(columns)
}

impl Compiler {
    fn add(&mut self, stage: usize, target: Target, make: Factory) -> Target {
        let operators = &mut self.stages[stage].operators;
        operators.push(OperatorSpec { make, target });
        Some((operators.len() - 1, 0))
    }

    /// Root of the plan: finds or makes the state that pull queries read.
    fn root(&mut self, root: &Node, table: bool) -> Result<(), String> {
        let mut target = None;
        let mut node = root;
        while let Node::Filter { input, .. } | Node::Project { input, .. } = node {
            target = self.step(node, 0, target);
            node = input;
        }
        if table {
            let schema = schema_of(node);
            let at = self.stages[0].operators.len();
            if !matches!(node, Node::Aggregate { .. }) && is_table(node) {
                target = self.table_state(node, 0, target, false);
            }
            self.materialised = Some((at, schema));
        }
        let having = !std::ptr::eq(node, root) && matches!(root_filter(root), Some(()));
        self.node(node, 0, target, having && plain_aggregate(node))
    }

    fn table_state(&mut self, node: &Node, stage: usize, target: Target, send_old: bool) -> Target {
        let (schema, windowed) = (schema_of(node), window_of(node).is_some());
        self.add(
            stage,
            target,
            Arc::new(move |_| Ok(Box::new(TableState::new(&schema, windowed, send_old)?))),
        )
    }

    /// A filter or projection; gives where its input goes.
    fn step(&mut self, node: &Node, stage: usize, target: Target) -> Target {
        match node {
            Node::Filter { input, predicate } => {
                let (predicate, is_table, key_len) =
                    (predicate.clone(), is_table(input), schema_of(input).key.len());
                let make: Factory = Arc::new(move |_| {
                    Ok(Box::new(Filter { predicate: predicate.clone(), is_table, key_len }))
                });
                self.add(stage, target, make)
            }
            Node::Project { input, columns, .. } => {
                let (columns, key_len) = (columns.clone(), schema_of(input).key.len());
                let make: Factory =
                    Arc::new(move |_| Ok(Box::new(Project { columns: columns.clone(), key_len })));
                self.add(stage, target, make)
            }
            _ => target,
        }
    }

    fn node(&mut self, node: &Node, stage: usize, target: Target, send_old: bool) -> Result<(), String> {
        match node {
            Node::StreamSource(source) => self.source(source, false, stage, target),
            Node::TableSource(source) => {
                let target = if send_old { self.table_state(node, stage, target, true) } else { target };
                self.source(source, true, stage, target);
            }
            Node::Filter { input, .. } | Node::Project { input, .. } => {
                let target = self.step(node, stage, target);
                let having = matches!(node, Node::Filter { .. }) && plain_aggregate(input);
                return self.node(input, stage, target, send_old || having);
            }
            Node::Rekey { .. } => return self.rekey(node, stage, target, send_old),
            Node::Aggregate { .. } => return self.aggregate(node, stage, target, send_old),
            Node::StreamTableJoin { left, right, kind, .. } => {
                let (schemas, kind) = ((schema_of(left), schema_of(right)), *kind);
                let make: Factory =
                    Arc::new(move |_| Ok(Box::new(StreamTableJoin::new(&schemas.0, &schemas.1, kind)?)));
                let target = self.add(stage, target, make);
                return self.both(left, right, stage, target, false);
            }
            Node::CacheJoin { left, table, key, kind } => {
                let (table, key, kind) = (Arc::clone(table), key.clone(), *kind);
                let make: Factory =
                    Arc::new(move |_| Ok(Box::new(CacheJoin::new(Arc::clone(&table), key.clone(), kind)?)));
                let target = self.add(stage, target, make);
                return self.node(left, stage, target, false);
            }
            Node::StreamStreamJoin { left, right, kind, before_ms, after_ms, grace_ms, .. } => {
                let schemas = (schema_of(left), schema_of(right));
                let (kind, before_ms, after_ms, grace_ms) = (*kind, *before_ms, *after_ms, *grace_ms);
                let windowed = window_of(left).is_some();
                let make: Factory = Arc::new(move |_| {
                    let (left, right) = schemas.clone();
                    Ok(Box::new(StreamStreamJoin::new(JoinSpec {
                        left,
                        right,
                        kind,
                        before_ms,
                        after_ms,
                        grace_ms,
                        windowed,
                    })?))
                });
                let target = self.add(stage, target, make);
                return self.both(left, right, stage, target, false);
            }
            Node::TableTableJoin { left, right, kind, .. } => {
                let (schemas, kind, windowed) =
                    ((schema_of(left), schema_of(right)), *kind, window_of(left).is_some());
                let make: Factory = Arc::new(move |_| {
                    Ok(Box::new(TableTableJoin::new(&schemas.0, &schemas.1, kind, windowed, send_old)?))
                });
                let target = self.add(stage, target, make);
                return self.both(left, right, stage, target, false);
            }
            Node::ForeignKeyJoin { left, right, kind, foreign_key } => {
                let (schemas, kind, key) = ((schema_of(left), schema_of(right)), *kind, foreign_key.clone());
                let make: Factory = Arc::new(move |_| {
                    Ok(Box::new(ForeignKeyJoin::new(&schemas.0, &schemas.1, kind, key.clone())?))
                });
                let target = if send_old { self.table_state(node, stage, target, true) } else { target };
                let target = self.add(stage, target, make);
                return self.both(left, right, stage, target, false);
            }
            Node::FlatMap { input, functions } => {
                let functions = functions.clone();
                let make: Factory = Arc::new(move |_| Ok(Box::new(FlatMap { functions: functions.clone() })));
                let target = self.add(stage, target, make);
                return self.node(input, stage, target, false);
            }
        }
        Ok(())
    }

    fn both(
        &mut self,
        left: &Node,
        right: &Node,
        stage: usize,
        target: Target,
        send_old: bool,
    ) -> Result<(), String> {
        let at = target.map_or(0, |(at, _)| at);
        self.node(left, stage, Some((at, 0)), send_old)?;
        self.node(right, stage, Some((at, 1)), send_old)
    }

    fn source(&mut self, source: &Source, is_table: bool, stage: usize, target: Target) {
        let schema = source_schema(source);
        let input = Input::Topic { source: Box::new(source.clone()), is_table };
        self.stages[stage].sources.push(StageSource { input, schema, target });
    }

    fn rekey(&mut self, node: &Node, stage: usize, target: Target, send_old: bool) -> Result<(), String> {
        let Node::Rekey { input, key, columns, repartition, key_format, .. } = node else { return Ok(()) };
        let schema = schema_of(node);
        let cut = *repartition && !self.single;
        let (mut into, mut out) = (stage, target);
        if cut {
            into = self.stages.len();
            let output = Output::Repartition { schema: schema.clone(), key_format: key_format.clone() };
            self.stages.push(Stage::writing(output));
            let input = Input::Repartition { stage: into };
            self.stages[stage].sources.push(StageSource { input, schema: schema.clone(), target });
            out = None;
        }
        let (key, columns, key_len) = (key.clone(), columns.clone(), schema_of(input).key.len());
        let make: Factory = Arc::new(move |env: StageEnv| {
            Ok(Box::new(Rekey {
                key: key.clone(),
                columns: columns.clone(),
                key_len,
                observe: cut && env.observe,
                stream_time: NO_TIME,
                saved: NO_TIME,
                codec: codec(&schema.key)?,
            }))
        });
        let target = self.add(into, out, make);
        self.node(input, into, target, send_old)
    }

    fn aggregate(&mut self, node: &Node, stage: usize, target: Target, send_old: bool) -> Result<(), String> {
        let Node::Aggregate { input, from_table, aggregates, window, emit, window_bounds, .. } = node else {
            return Ok(());
        };
        let session = matches!(window.map(|spec| spec.window), Some(Window::Session { .. }));
        let (schema, calls, regrouped) = (schema_of(input), aggregates.clone(), regrouped(input));
        let (window, emit, bounds, from_table) = (*window, *emit, *window_bounds, *from_table);
        let make: Factory = Arc::new(move |_| {
            let (input, calls) = (schema.clone(), calls.clone());
            let spec = AggregateSpec { input, calls, window, emit, bounds, from_table, send_old, regrouped };
            Ok(if session { Box::new(SessionAggregate::new(spec)?) } else { Box::new(Aggregate::new(spec)?) })
        });
        let target = self.add(stage, target, make);
        self.node(input, stage, target, from_table)
    }
}
