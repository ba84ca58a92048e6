//! Threads, batch sizes, repartition topics and kills do not change results.

use std::collections::BTreeMap;

use herdsman_bus::memory::MemoryBus;
use herdsman_stream::Schema;
use herdsman_stream::SqlType::{BigInt, String as Text};
use herdsman_stream::plan::*;
use herdsman_stream::runtime::StartAt;

use crate::plans::*;

fn events() -> Schema {
    schema(&[("K", Text)], &[("G", Text), ("V", BigInt), ("AT", BigInt)])
}

/// COUNT and SUM per (G, window) of a topic keyed by K: needs a repartition topic.
fn regrouped(emit: Emit, topic: &str) -> QueryPlan {
    let node = Node::Rekey {
        input: Box::new(Node::StreamSource(source("in", events(), Some("AT")))),
        key: vec![named(&events(), "G")],
        columns: vec![named(&events(), "V")],
        repartition: true,
        key_format: kafka(),
        value_format: json(),
    };
    let rekeyed = schema(&[("G", Text)], &[("V", BigInt)]);
    let node = count_and_sum(node, &rekeyed, "V", Some(tumbling(1_000, 300)), emit);
    plan(topic, node, true, topic)
}

/// A seeded stream with rows up to 2 s out of order.
fn feed(bus: &MemoryBus, rows: std::ops::Range<i64>) {
    let mut parts: Vec<Vec<(i64, String, String)>> = vec![Vec::new(); 3];
    for row in rows {
        let noise = (row * 7_919 + 13) % 2_003;
        let at = (row * 3 + 2_000 - noise).max(0);
        let key = format!("k{}", row % 17);
        let value = format!("{{\"G\":\"g{}\",\"V\":{row},\"AT\":{at}}}", noise % 11);
        parts[usize::try_from(row % 3).unwrap()].push((row, key, value));
    }
    for (partition, rows) in parts.iter().enumerate() {
        for chunk in rows.chunks(100) {
            let records: Vec<_> =
                chunk.iter().map(|(t, k, v)| (*t, k.as_str(), Some(v.as_bytes()))).collect();
            let at = herdsman_record::TopicPartition::new("in", i32::try_from(partition).unwrap());
            herdsman_bus::Bus::produce(bus, &at, batch(&records)).unwrap();
        }
    }
}

type Table = BTreeMap<String, String>;

/// Last value per key of EMIT CHANGES, all lines of EMIT FINAL (sorted), late rows.
fn run(threads: usize, rows_max: usize, kill: bool) -> (Table, Vec<String>, Vec<u64>) {
    let bus = bus(&[("in", 3), ("changes", 2), ("final", 2)]);
    let start = |threads| {
        let runtime = threaded(&bus, threads, rows_max);
        runtime.start(regrouped(Emit::Changes, "changes"), StartAt::Earliest).unwrap();
        runtime.start(regrouped(Emit::Final, "final"), StartAt::Earliest).unwrap();
        runtime
    };
    let mut runtime = start(threads);
    let rows = 6_000;
    let mut late = vec![0, 0];
    feed(&bus, 0..rows / 2);
    if kill {
        std::thread::sleep(std::time::Duration::from_millis(15));
        drop(runtime);
        runtime = start(3 - threads);
        settle(&runtime);
    }
    feed(&bus, rows / 2..rows);
    settle(&runtime);
    for (index, status) in runtime.queries().iter().enumerate() {
        assert_eq!(status.errors, 0, "{:?}", status.last_message);
        late[index] = status.late_events;
    }
    let split = |line: String| {
        let mut words = line.splitn(3, ' ');
        (words.next().unwrap().to_owned(), words.next().unwrap().to_owned(), words.next().unwrap().to_owned())
    };
    let changes = contents(&bus, "changes", true).into_iter().map(split).map(|(_, k, v)| (k, v)).collect();
    let mut finals = contents(&bus, "final", true);
    finals.sort();
    (changes, finals, late)
}

/// What differs, in a few lines.
fn difference(a: &(Table, Vec<String>, Vec<u64>), b: &(Table, Vec<String>, Vec<u64>)) -> String {
    let table: Vec<_> =
        a.0.iter().filter(|(k, v)| b.0.get(*k) != Some(v)).map(|(k, v)| (k, v, b.0.get(k))).collect();
    let missing: Vec<_> = a.1.iter().filter(|line| !b.1.contains(line)).take(3).collect();
    let extra: Vec<_> = b.1.iter().filter(|line| !a.1.contains(line)).take(3).collect();
    let sizes = ((a.0.len(), b.0.len()), (a.1.len(), b.1.len()), (&a.2, &b.2));
    format!("{sizes:?} table {} {:?} missing {missing:?} extra {extra:?}", table.len(), table.first())
}

#[test]
fn tables_and_final_results_are_the_same_with_any_batch_size_any_threads_and_a_kill_half_way() {
    let expected = run(1, 4_096, false);
    assert!(expected.0.len() > 150 && expected.1.len() > 100, "{} {}", expected.0.len(), expected.1.len());
    assert!(expected.2[0] > 0, "some rows are late");
    for (threads, rows_max) in [(1, 1), (1, 7), (2, 7), (2, 4_096)] {
        let found = run(threads, rows_max, false);
        assert!(
            found == expected,
            "{threads} threads, batches of {rows_max}: {}",
            difference(&expected, &found)
        );
    }
    for (threads, rows_max) in [(1, 7), (2, 4_096)] {
        let found = run(threads, rows_max, true);
        let same = found.0 == expected.0 && found.1 == expected.1;
        assert!(same, "killed, {threads} threads: {}", difference(&expected, &found));
    }
}

#[test]
fn event_times_in_seconds_are_told_with_what_to_write_instead() {
    for (at, said) in [
        (
            1_700_000_000_i64,
            Some(
                "AT = 1700000000 read as milliseconds is 20 Jan 1970; as seconds it is 14 Nov 2023: use AT * 1000 as the timestamp",
            ),
        ),
        (1_700_000_000_000, None),
        (5_000, None),
    ] {
        let bus = bus(&[("in", 1), ("changes", 1)]);
        let runtime = threaded(&bus, 1, 4_096);
        runtime.start(regrouped(Emit::Changes, "changes"), StartAt::Earliest).unwrap();
        let value = format!("{{\"G\":\"g\",\"V\":1,\"AT\":{at}}}");
        let at = herdsman_record::TopicPartition::new("in", 0);
        let one = batch(&[(0, "k", Some(value.as_bytes()))]);
        herdsman_bus::Bus::produce(bus.as_ref(), &at, one).unwrap();
        settle(&runtime);
        assert_eq!(runtime.queries()[0].last_message.as_deref(), said);
    }
}
