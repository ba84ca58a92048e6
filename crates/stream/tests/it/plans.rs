//! Plans and records as short as tests want them.

use std::sync::Arc;
use std::time::Duration;

use herdsman_bus::memory::MemoryBus;
use herdsman_bus::{Bus, TopicSpec};
use herdsman_host::{Clock, RealClock, SimClock};
use herdsman_record::{Batch, BatchBuilder, Compression, TopicPartition, partition_for_key};
use herdsman_stream::aggregate::{self, AggregateCall};
use herdsman_stream::expr::{CompareOp, Expr, Value};
use herdsman_stream::plan::*;
use herdsman_stream::runtime::{Runtime, RuntimeConfig};
use herdsman_stream::{Column, Schema, SqlType};

pub fn json() -> FormatSpec {
    FormatSpec::new(Format::Json)
}

pub fn kafka() -> FormatSpec {
    FormatSpec::new(Format::Kafka)
}

pub fn schema(key: &[(&str, SqlType)], value: &[(&str, SqlType)]) -> Schema {
    let columns =
        |list: &[(&str, SqlType)]| list.iter().map(|(name, ty)| Column::new(*name, ty.clone())).collect();
    Schema { key: columns(key), value: columns(value) }
}

/// Source over a topic of the same name, KAFKA key, JSON value, event time in `time` if given.
pub fn source(topic: &str, schema: Schema, time: Option<&str>) -> Source {
    Source {
        name: topic.to_uppercase(),
        topic: topic.into(),
        needed: (0..schema.len()).collect(),
        timestamp: time.map(|name| TimestampColumn { index: schema.index_of(name).unwrap(), format: None }),
        schema,
        key_format: kafka(),
        value_format: json(),
        windowed: None,
        pseudo: Vec::new(),
    }
}

pub fn column(schema: &Schema, name: &str) -> Expr {
    let index = schema.index_of(name).unwrap();
    Expr::Column { index, ty: schema.columns().nth(index).unwrap().ty.clone() }
}

pub fn named(schema: &Schema, name: &str) -> NamedExpr {
    NamedExpr { name: name.into(), expr: column(schema, name) }
}

pub fn greater(schema: &Schema, name: &str, than: i64) -> Expr {
    Expr::Compare {
        op: CompareOp::Greater,
        left: Box::new(column(schema, name)),
        right: Box::new(Expr::Literal { value: Value::BigInt(than), ty: SqlType::BigInt }),
    }
}

pub fn call(name: &str, schema: &Schema, args: &[&str]) -> AggregateCall {
    let args: Vec<Expr> = args.iter().map(|arg| column(schema, arg)).collect();
    let types: Vec<SqlType> = args.iter().map(Expr::ty).collect();
    AggregateCall { function: aggregate::resolve(name, &types, &[]).unwrap().function, args }
}

/// COUNT and SUM(`sum`) of the input's groups.
pub fn count_and_sum(
    input: Node,
    schema: &Schema,
    sum: &str,
    window: Option<WindowSpec>,
    emit: Emit,
) -> Node {
    Node::Aggregate {
        input: Box::new(input),
        from_table: false,
        aggregates: vec![call("COUNT", schema, &[]), call("SUM", schema, &[sum])],
        names: vec!["N".into(), "TOTAL".into()],
        window,
        emit,
        window_bounds: false,
    }
}

pub fn tumbling(size_ms: i64, grace_ms: i64) -> WindowSpec {
    WindowSpec { window: Window::Tumbling { size_ms }, grace_ms, retention_ms: size_ms + grace_ms }
}

pub fn plan(id: &str, root: Node, is_table: bool, topic: &str) -> QueryPlan {
    let schema = herdsman_stream::topology::schema_of(&root);
    let key_format = if schema.key.is_empty() { FormatSpec::new(Format::None) } else { kafka() };
    QueryPlan {
        id: id.into(),
        root,
        is_table,
        sink: Sink::Topic { topic: topic.into(), schema, key_format, value_format: json(), timestamp: None },
    }
}

pub fn bus(topics: &[(&str, i32)]) -> Arc<MemoryBus> {
    let bus = MemoryBus::new();
    for (name, partitions) in topics {
        bus.create_topic(&TopicSpec { name: (*name).into(), partitions: *partitions, ..Default::default() })
            .unwrap();
    }
    Arc::new(bus)
}

/// (time, key, value) records, one batch each; key chooses the partition.
pub fn produce(bus: &MemoryBus, topic: &str, records: &[(i64, &str, &str)]) {
    let partitions = bus.topic(topic).unwrap().unwrap().partitions;
    for (time, key, value) in records {
        let partition = partition_for_key(key.as_bytes(), partitions);
        let value = (!value.is_empty()).then_some(value.as_bytes());
        bus.produce(&TopicPartition::new(topic, partition), batch(&[(*time, key, value)])).unwrap();
    }
}

pub fn batch(records: &[(i64, &str, Option<&[u8]>)]) -> Batch {
    let mut builder = BatchBuilder::new();
    for (time, key, value) in records {
        builder.append(*time, Some(key.as_bytes()), *value, &[]);
    }
    builder.finish(Compression::None).unwrap()
}

/// Everything in a topic, partition by partition: `time key[@start] value` (a tombstone prints as `-`).
pub fn contents(bus: &MemoryBus, topic: &str, windowed: bool) -> Vec<String> {
    let partitions = bus.topic(topic).unwrap().unwrap().partitions;
    let mut all = Vec::new();
    for partition in 0..partitions {
        let mut reader = bus.reader(&[(TopicPartition::new(topic, partition), 0)]).unwrap();
        loop {
            let fetched = reader.poll(1 << 30, Duration::ZERO).unwrap();
            if fetched.is_empty() {
                break;
            }
            for batch in fetched.iter().flat_map(|part| &part.batches) {
                for record in batch.records().unwrap().iter().map(Result::unwrap) {
                    all.push(line(record.timestamp_ms, record.key, record.value, windowed));
                }
            }
        }
    }
    all
}

fn line(time: i64, key: Option<&[u8]>, value: Option<&[u8]>, windowed: bool) -> String {
    let key = key.unwrap_or(b"null");
    let value = value.map_or("-".into(), |value| String::from_utf8_lossy(value).into_owned());
    match key.split_at_checked(key.len().wrapping_sub(8)).filter(|_| windowed) {
        Some((key, start)) => {
            let start = i64::from_be_bytes(start.try_into().unwrap());
            format!("{time} {}@{start} {value}", String::from_utf8_lossy(key))
        }
        None => format!("{time} {} {value}", String::from_utf8_lossy(key)),
    }
}

pub fn stepping(bus: &Arc<MemoryBus>) -> Runtime {
    let clock: Arc<dyn Clock> = Arc::new(SimClock::default());
    let config = RuntimeConfig { synchronous: true, ..Default::default() };
    Runtime::new(Arc::clone(bus) as Arc<dyn Bus>, clock, config).unwrap()
}

pub fn threaded(bus: &Arc<MemoryBus>, threads: usize, batch_rows_max: usize) -> Runtime {
    let config = RuntimeConfig { threads, batch_rows_max, ..Default::default() };
    Runtime::new(Arc::clone(bus) as Arc<dyn Bus>, RealClock::shared(), config).unwrap()
}

/// Steps until nothing is left.
pub fn drain(runtime: &Runtime) {
    while runtime.step().unwrap() {}
}

/// Waits until no query lags and nothing moves for a few looks; panics after 20 s.
pub fn settle(runtime: &Runtime) {
    let mut before = Vec::new();
    let mut calm = 0;
    for _ in 0..2_000 {
        std::thread::sleep(Duration::from_millis(10));
        let now: Vec<_> =
            runtime.queries().into_iter().map(|q| (q.rows_in, q.rows_out, q.lag, q.state)).collect();
        let quiet = now.iter().all(|(_, _, lag, _)| *lag == 0) && now == before;
        calm = if quiet { calm + 1 } else { 0 };
        if calm >= 8 {
            return;
        }
        before = now;
    }
    panic!("the queries do not settle: {before:?}");
}
