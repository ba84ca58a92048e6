//! How many events per second one core takes from a topic in memory through JSON decoding, a 10 s tumbling window with
//! COUNT and SUM per key, changelog and commit: `cargo bench -p herdsman-stream --bench window [events]`.

use std::sync::Arc;

use herdsman_bus::memory::MemoryBus;
use herdsman_bus::{Bus, TopicSpec};
use herdsman_formats::{Column, Decoder, Format, FormatSpec, Schema, SqlType};
use herdsman_host::{Clock, RealClock};
use herdsman_record::{Batch, BatchBuilder, Compression, TopicPartition};
use herdsman_stream::aggregate::{self, AggregateCall};
use herdsman_stream::expr::Expr;
use herdsman_stream::plan::*;
use herdsman_stream::runtime::{Runtime, RuntimeConfig, StartAt};

const KEYS: usize = 1_000;

fn schema() -> Schema {
    let value = [
        ("HUNT", SqlType::String),
        ("AT", SqlType::BigInt),
        ("POINTS", SqlType::BigInt),
        ("LAT", SqlType::Double),
        ("LON", SqlType::Double),
        ("PLACE", SqlType::String),
        ("NOTE", SqlType::String),
    ];
    Schema {
        key: vec![Column::new("ID", SqlType::String)],
        value: value.into_iter().map(|(name, ty)| Column::new(name, ty)).collect(),
    }
}

/// Events of about 160 bytes of JSON, 1 ms apart, keyed by hunter; `HUNT` has 1,000 values.
fn batches(events: usize) -> Vec<Batch> {
    let mut all = Vec::new();
    let mut builder = BatchBuilder::new();
    for event in 0..events {
        let hunt = event.wrapping_mul(2_654_435_761) % KEYS;
        let value = format!(
            "{{\"hunt\":\"hunt-{hunt:04}\",\"at\":{},\"points\":{},\"lat\":52.520008,\"lon\":13.404954,\"place\":\"place-{:05}\",\"note\":\"{:>45}\"}}",
            1_700_000_000_000 + event,
            event % 97,
            event % 50_000,
            event,
        );
        builder.append(0, Some(format!("hunt-{hunt:04}").as_bytes()), Some(value.as_bytes()), &[]);
        if builder.byte_len() > 250_000 || event + 1 == events {
            all.push(builder.finish(Compression::None).expect("fits"));
        }
    }
    all
}

fn plan() -> QueryPlan {
    let schema = schema();
    let source = Source {
        name: "FINDS".into(),
        topic: "finds".into(),
        needed: vec![0, 2, 3],
        timestamp: Some(TimestampColumn { index: 2, format: None }),
        schema,
        key_format: FormatSpec::new(Format::Kafka),
        value_format: FormatSpec::new(Format::Json),
        windowed: None,
        pseudo: Vec::new(),
    };
    let call = |name: &str, args: Vec<Expr>| {
        let types: Vec<SqlType> = args.iter().map(Expr::ty).collect();
        let function = aggregate::resolve(name, &types, &[]).expect("a known aggregate").function;
        AggregateCall { function, args }
    };
    let points = Expr::Column { index: 3, ty: SqlType::BigInt };
    let root = Node::Aggregate {
        input: Box::new(Node::StreamSource(source)),
        from_table: false,
        aggregates: vec![call("COUNT", vec![]), call("SUM", vec![points])],
        names: vec!["N".into(), "POINTS".into()],
        window: Some(WindowSpec {
            window: Window::Tumbling { size_ms: 10_000 },
            grace_ms: 5_000,
            retention_ms: 20_000,
        }),
        emit: Emit::Changes,
        window_bounds: false,
    };
    QueryPlan {
        id: "BENCH".into(),
        sink: Sink::Topic {
            topic: "out".into(),
            schema: herdsman_stream::topology::schema_of(&root),
            key_format: FormatSpec::new(Format::Kafka),
            value_format: FormatSpec::new(Format::Json),
            timestamp: None,
        },
        root,
        is_table: true,
    }
}

fn main() {
    let events = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(4_000_000_usize);
    let clock = RealClock::shared();
    let batches = batches(events);
    let bytes: usize = batches.iter().map(|batch| batch.bytes().len()).sum();

    let mut needed = vec![false; schema().len()];
    for index in [0, 2, 3] {
        needed[index] = true;
    }
    let (key, value) = (FormatSpec::new(Format::Kafka), FormatSpec::new(Format::Json));
    let mut decoder = Decoder::new(&schema(), &key, &value, &needed).expect("a valid schema");
    let began = clock.monotonic_ns();
    let mut rows = 0;
    for chunk in batches.chunks(4) {
        rows += decoder.decode(chunk, 0).expect("valid batches").len();
    }
    let decode_ns = clock.monotonic_ns() - began;
    assert_eq!(rows, events);

    let bus = Arc::new(MemoryBus::new());
    for topic in ["finds", "out"] {
        bus.create_topic(&TopicSpec { name: topic.into(), partitions: 1, ..Default::default() })
            .expect("a new topic");
    }
    for batch in batches {
        bus.produce(&TopicPartition::new("finds", 0), batch).expect("the topic exists");
    }
    let shared: Arc<dyn Clock> = Arc::clone(&clock);
    let runtime = Runtime::new(bus, shared, RuntimeConfig::default()).expect("a runtime");
    let began = clock.monotonic_ns();
    runtime.start(plan(), StartAt::Earliest).expect("the query starts");
    loop {
        std::thread::sleep(std::time::Duration::from_millis(2));
        let status = &runtime.queries()[0];
        if status.lag == 0 && status.rows_in == events as u64 {
            break;
        }
        assert_eq!(status.errors, 0, "{:?}", status.last_message);
    }
    let run_ns = clock.monotonic_ns() - began;
    let status = &runtime.queries()[0];
    let per_second = |ns: u64| events as f64 / (ns as f64 / 1e9) / 1e6;
    println!(
        "{{\"events\":{events},\"bytes_per_event\":{},\"decode_m_per_s\":{:.2},\"query_m_per_s\":{:.2},\"query_ns_per_event\":{:.0},\"beyond_decode_ns_per_event\":{:.0},\"rows_out\":{},\"late\":{}}}",
        bytes / events,
        per_second(decode_ns),
        per_second(run_ns),
        run_ns as f64 / events as f64,
        (run_ns as f64 - decode_ns as f64) / events as f64,
        status.rows_out,
        status.late_events,
    );
}
