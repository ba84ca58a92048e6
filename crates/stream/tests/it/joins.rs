//! Joins, sessions and table aggregates row by row, as Kafka Streams computes them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use herdsman_bus::Bus;
use herdsman_record::TopicPartition;
use herdsman_stream::Schema;
use herdsman_stream::SqlType::{BigInt, String as Text};
use herdsman_stream::plan::*;
use herdsman_stream::runtime::{CacheLookup, PullRequest, Runtime, RuntimeConfig, StartAt};

use crate::plans::*;

fn left() -> Schema {
    schema(&[("K", Text)], &[("A", BigInt)])
}

fn right() -> Schema {
    schema(&[("K", Text)], &[("B", BigInt)])
}

/// Feeds `records` (side, time, key, value) in order to one query over topics `l` and `r`; the result topic's lines.
fn run(root: Node, is_table: bool, windowed: bool, records: &[(&str, i64, &str, &str)]) -> Vec<String> {
    let bus = bus(&[("l", 1), ("r", 1), ("out", 1)]);
    let mut runtime = stepping(&bus);
    let plan = plan("Q", root, is_table, "out");
    runtime.start(plan.clone(), StartAt::Earliest).unwrap();
    for (at, (side, time, key, value)) in records.iter().enumerate() {
        produce(&bus, side, &[(*time, key, value)]);
        assert_eq!(runtime.step_query("Q", &TopicPartition::new(*side, 0), 5).unwrap(), 1);
        if at == records.len() / 2 {
            // A restart half-way loses and repeats nothing.
            drop(runtime);
            runtime = stepping(&bus);
            runtime.start(plan.clone(), StartAt::Earliest).unwrap();
        }
    }
    let status = &runtime.queries()[0];
    assert_eq!((status.errors, status.lag), (0, 0), "{:?}", status.last_message);
    contents(&bus, "out", windowed)
}

fn stream(topic: &str, schema: Schema) -> Box<Node> {
    Box::new(Node::StreamSource(source(topic, schema, None)))
}

fn table(topic: &str, schema: Schema) -> Box<Node> {
    Box::new(Node::TableSource(source(topic, schema, None)))
}

#[test]
fn a_stream_looks_up_the_table_as_it_stands() {
    let node = Node::StreamTableJoin {
        left: stream("l", left()),
        right: table("r", right()),
        kind: JoinKind::Left,
        key_name: "K".into(),
    };
    let lines = run(
        node,
        false,
        false,
        &[
            ("l", 1, "a", "{\"A\":1}"),
            ("r", 9, "a", "{\"B\":10}"),
            ("l", 2, "a", "{\"A\":2}"),
            ("r", 3, "a", "{\"B\":20}"),
            ("l", 4, "a", "{\"A\":3}"),
            ("r", 5, "a", ""),
            ("l", 6, "a", "{\"A\":4}"),
        ],
    );
    assert_eq!(
        lines,
        [
            "1 a {\"A\":1,\"K\":null,\"B\":null}",
            "2 a {\"A\":2,\"K\":\"a\",\"B\":10}",
            "4 a {\"A\":3,\"K\":\"a\",\"B\":20}",
            "6 a {\"A\":4,\"K\":null,\"B\":null}",
        ]
    );
}

#[test]
fn streams_join_within_their_window_and_outer_rows_go_out_when_it_has_passed() {
    let node = Node::StreamStreamJoin {
        left: stream("l", left()),
        right: stream("r", right()),
        kind: JoinKind::Outer,
        before_ms: 10,
        after_ms: 10,
        grace_ms: Some(0),
        key_name: "K".into(),
    };
    let lines = run(
        node,
        false,
        false,
        &[
            ("l", 5, "a", "{\"A\":1}"),
            ("r", 8, "a", "{\"B\":1}"),
            ("r", 9, "b", "{\"B\":2}"),
            ("l", 15, "a", "{\"A\":2}"),
            ("l", 30, "c", "{\"A\":3}"),
        ],
    );
    assert_eq!(
        lines,
        [
            "8 a {\"L_K\":\"a\",\"A\":1,\"R_K\":\"a\",\"B\":1}".replace("L_K", "K").replace("R_K", "K"),
            "15 a {\"K\":\"a\",\"A\":2,\"K\":\"a\",\"B\":1}".into(),
            "9 b {\"K\":null,\"A\":null,\"K\":\"b\",\"B\":2}".into(),
        ]
    );
}

#[test]
fn tables_join_on_their_keys_and_deletions_follow() {
    let node = Node::TableTableJoin {
        left: table("l", left()),
        right: table("r", right()),
        kind: JoinKind::Left,
        key_name: "K".into(),
    };
    let lines = run(
        node,
        true,
        false,
        &[
            ("r", 1, "a", "{\"B\":1}"),
            ("l", 2, "a", "{\"A\":1}"),
            ("r", 1, "a", ""),
            ("l", 4, "a", ""),
            ("l", 5, "x", ""),
        ],
    );
    assert_eq!(
        lines,
        [
            "2 a {\"K\":\"a\",\"A\":1,\"K\":\"a\",\"B\":1}",
            "2 a {\"K\":\"a\",\"A\":1,\"K\":null,\"B\":null}",
            "4 a -",
        ]
    );
}

#[test]
fn a_foreign_key_join_follows_both_tables() {
    let left = schema(&[("K", Text)], &[("F", Text)]);
    let node = Node::ForeignKeyJoin {
        foreign_key: column(&left, "F"),
        left: table("l", left),
        right: table("r", right()),
        kind: JoinKind::Inner,
    };
    let lines = run(
        node,
        true,
        false,
        &[
            ("l", 1, "k1", "{\"F\":\"x\"}"),
            ("l", 2, "k2", "{\"F\":\"x\"}"),
            ("r", 3, "x", "{\"B\":1}"),
            ("l", 4, "k1", "{\"F\":\"y\"}"),
            ("r", 5, "x", ""),
            ("r", 6, "y", "{\"B\":2}"),
        ],
    );
    assert_eq!(
        lines,
        [
            "3 k1 {\"F\":\"x\",\"K\":\"x\",\"B\":1}",
            "3 k2 {\"F\":\"x\",\"K\":\"x\",\"B\":1}",
            "4 k1 -",
            "5 k2 -",
            "6 k1 {\"F\":\"y\",\"K\":\"y\",\"B\":2}",
        ]
    );
}

#[test]
fn a_foreign_key_join_meets_across_partitions() {
    let bus = bus(&[("l", 3), ("r", 2), ("out", 2)]);
    let left = schema(&[("K", Text)], &[("F", Text)]);
    let node = Node::ForeignKeyJoin {
        foreign_key: column(&left, "F"),
        left: table("l", left),
        right: table("r", right()),
        kind: JoinKind::Inner,
    };
    let runtime = threaded(&bus, 2, 4_096);
    runtime.start(plan("Q", node, true, "out"), StartAt::Earliest).unwrap();
    for k in 0..20 {
        produce(&bus, "l", &[(1, &format!("k{k}"), &format!("{{\"F\":\"f{}\"}}", k % 5))]);
        produce(&bus, "r", &[(1, &format!("f{k}"), &format!("{{\"B\":{k}}}"))]);
    }
    settle(&runtime);
    let pulled = runtime.pull("Q", &PullRequest::default()).unwrap();
    assert_eq!(pulled.iter().map(herdsman_stream::Rows::len).sum::<usize>(), 20);
}

#[test]
fn sessions_grow_merge_and_delete_what_they_swallow() {
    let session = Window::Session { gap_ms: 10 };
    let window = WindowSpec { window: session, grace_ms: 20, retention_ms: 100 };
    let node = count_and_sum(*stream("l", left()), &left(), "A", Some(window), Emit::Changes);
    let lines = run(
        node,
        true,
        true,
        &[
            ("l", 0, "a", "{\"A\":1}"),
            ("l", 15, "a", "{\"A\":2}"),
            ("l", 8, "a", "{\"A\":4}"),
            ("l", 90, "a", "{\"A\":8}"),
        ],
    );
    // The key ends in end and start; the printed start is the last 8 bytes, the end stays in the key.
    let ends: Vec<String> = lines.iter().map(|line| line.replace('\0', "")).collect();
    assert_eq!(ends.len(), 6, "{ends:?}");
    assert!(ends[0].starts_with("0 a@0 {\"N\":1"), "{ends:?}");
    assert!(ends[2].ends_with("@0 -") && ends[3].ends_with("@15 -"), "{ends:?}");
    assert!(ends[4].starts_with("15 a") && ends[4].ends_with("@0 {\"N\":3,\"TOTAL\":7}"), "{ends:?}");
}

#[test]
fn a_table_grouped_by_another_column_undoes_what_a_row_was() {
    let source = schema(&[("K", Text)], &[("G", Text), ("A", BigInt)]);
    let node = Node::Rekey {
        key: vec![named(&source, "G")],
        columns: vec![named(&source, "A")],
        input: table("l", source),
        repartition: true,
        key_format: kafka(),
        value_format: json(),
    };
    let grouped = schema(&[("G", Text)], &[("A", BigInt)]);
    let Node::Aggregate { input, aggregates, names, window, emit, window_bounds, .. } =
        count_and_sum(node, &grouped, "A", None, Emit::Changes)
    else {
        unreachable!()
    };
    let node = Node::Aggregate { input, from_table: true, aggregates, names, window, emit, window_bounds };
    let lines = run(
        node,
        true,
        false,
        &[
            ("l", 1, "k1", "{\"G\":\"x\",\"A\":1}"),
            ("l", 2, "k2", "{\"G\":\"x\",\"A\":2}"),
            ("l", 3, "k1", "{\"G\":\"x\",\"A\":5}"),
            ("l", 4, "k1", "{\"G\":\"y\",\"A\":5}"),
            ("l", 5, "k2", ""),
        ],
    );
    assert_eq!(
        lines,
        [
            "1 x {\"N\":1,\"TOTAL\":1}",
            "2 x {\"N\":2,\"TOTAL\":3}",
            "3 x {\"N\":2,\"TOTAL\":7}",
            "4 x {\"N\":1,\"TOTAL\":2}",
            "4 y {\"N\":1,\"TOTAL\":5}",
            "5 x {\"N\":0,\"TOTAL\":0}",
        ]
    );
}

#[derive(Default)]
struct Cache {
    values: HashMap<&'static str, &'static str>,
    calls: AtomicUsize,
    keys: Mutex<Vec<String>>,
}

impl CacheLookup for Cache {
    fn get_many(&self, keys: &[Bytes], _counts: &[u32]) -> Result<Vec<Option<Bytes>>, String> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let names: Vec<String> = keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
        let found =
            names.iter().map(|key| self.values.get(key.as_str()).map(|v| Bytes::from_static(v.as_bytes())));
        let found = found.collect();
        self.keys.lock().unwrap().extend(names);
        Ok(found)
    }
}

#[test]
fn a_cache_join_asks_once_per_batch_for_distinct_keys_and_a_push_query_sees_its_rows() {
    let bus = bus(&[("l", 1)]);
    let cache =
        Arc::new(Cache { values: [("t:a", "{\"B\":1}"), ("t:b", "nonsense")].into(), ..Default::default() });
    let guards = [("legacy".to_owned(), Arc::clone(&cache) as Arc<dyn CacheLookup>)].into();
    let config = RuntimeConfig { guards, ..Default::default() };
    let clock = herdsman_host::RealClock::shared();
    let runtime = Runtime::new(Arc::clone(&bus) as Arc<dyn Bus>, clock, config).unwrap();
    let table = CacheTable {
        name: "T".into(),
        cache: "legacy".into(),
        key_pattern: "t:{ID}".into(),
        schema: schema(&[("ID", Text)], &[("B", BigInt)]),
        value_format: json(),
    };
    let root = Node::CacheJoin {
        left: stream("l", left()),
        table: Arc::new(table),
        key: column(&left(), "K"),
        kind: JoinKind::Inner,
    };
    let schema = herdsman_stream::topology::schema_of(&root);
    let plan = QueryPlan { id: "P".into(), root, is_table: false, sink: Sink::Push { schema } };
    let receiver = runtime.push(plan, StartAt::Latest).unwrap();
    let value = Some(b"{\"A\":1}".as_slice());
    let records = batch(&[(1, "a", value), (2, "b", value), (3, "a", value), (4, "c", value)]);
    bus.produce(&TopicPartition::new("l", 0), records).unwrap();
    let rows = receiver.recv(Duration::from_secs(10)).unwrap().unwrap();
    assert_eq!((rows.len(), rows.columns.len(), &rows.times[..]), (2, 4, &[1, 3][..]));
    assert_eq!(*cache.keys.lock().unwrap(), ["t:a", "t:b", "t:c"]);
    assert_eq!(cache.calls.load(Ordering::SeqCst), 1);
    for _ in 0..500 {
        if runtime.queries()[0].errors > 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(runtime.queries()[0].errors, 1, "the cached nonsense is reported");
    drop(receiver);
    bus.produce(&TopicPartition::new("l", 0), batch(&[(5, "a", value)])).unwrap();
    for _ in 0..500 {
        if matches!(runtime.queries()[0].state, herdsman_stream::runtime::QueryState::Error(_)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    runtime.terminate("P").unwrap();
    assert!(runtime.queries().is_empty());
}

#[test]
fn a_table_can_be_pulled_by_key_and_paused_queries_go_on_where_they_stopped() {
    let bus = bus(&[("l", 1), ("out", 1)]);
    let runtime = threaded(&bus, 1, 4_096);
    let node = Node::Filter { input: table("l", left()), predicate: greater(&left(), "A", 1) };
    runtime.start(plan("Q", node, true, "out"), StartAt::Earliest).unwrap();
    produce(&bus, "l", &[(1, "a", "{\"A\":1}"), (2, "b", "{\"A\":2}")]);
    settle(&runtime);
    let rows = |runtime: &Runtime| {
        let pulled = runtime.pull("Q", &PullRequest::default()).unwrap();
        pulled.iter().map(herdsman_stream::Rows::len).sum::<usize>()
    };
    assert_eq!(rows(&runtime), 1);
    runtime.pause("Q").unwrap();
    produce(&bus, "l", &[(3, "c", "{\"A\":3}")]);
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!((rows(&runtime), runtime.queries()[0].lag), (1, 1));
    runtime.resume("Q").unwrap();
    settle(&runtime);
    assert_eq!(rows(&runtime), 2);
    runtime.shutdown();
    assert!(runtime.pull("Q", &PullRequest::default()).is_err());
}
