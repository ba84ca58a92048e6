//! Joins whose message keys are not the keys that were declared.

use std::time::Duration;

use herdsman_bus::Bus;
use herdsman_record::{BatchBuilder, Compression, TopicPartition};
use herdsman_stream::SqlType::{BigInt, String as Text};
use herdsman_stream::plan::*;
use herdsman_stream::runtime::StartAt;

use crate::plans::*;

type Record<'a> = (Option<&'a str>, &'a str);

/// What a query that joins stream `l` with table `r` by K says when they hold these records.
fn said(left: &[Record<'_>], right: &[Record<'_>]) -> Option<String> {
    let bus = bus(&[("l", 2), ("r", 2), ("out", 2)]);
    let mut to = [BatchBuilder::new(), BatchBuilder::new()];
    for (row, (key, value)) in right.iter().enumerate() {
        to[row % 2].append(0, key.map(str::as_bytes), Some(value.as_bytes()), &[]);
    }
    for (partition, builder) in (0..).zip(&mut to).filter(|(_, builder)| !builder.is_empty()) {
        let batch = builder.finish(Compression::None).unwrap();
        bus.produce(&TopicPartition::new("r", partition), batch).unwrap();
    }
    let mut builder = BatchBuilder::new();
    for (key, value) in left {
        builder.append(0, key.map(str::as_bytes), Some(value.as_bytes()), &[]);
    }
    if !builder.is_empty() {
        let batch = builder.finish(Compression::None).unwrap();
        bus.produce(&TopicPartition::new("l", 1), batch).unwrap();
    }
    let columns = |value| schema(&[("K", Text)], &[(value, BigInt)]);
    let node = Node::StreamTableJoin {
        left: Box::new(Node::StreamSource(source("l", columns("A"), None))),
        right: Box::new(Node::TableSource(source("r", columns("B"), None))),
        kind: JoinKind::Inner,
        key_name: "K".into(),
    };
    let runtime = threaded(&bus, 2, 4_096);
    runtime.start(plan("Q", node, false, "out"), StartAt::Earliest).unwrap();
    settle(&runtime);
    for _ in 0..130 {
        let said = runtime.queries()[0].last_message.clone();
        if said.is_some() {
            return said;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

#[test]
fn keys_that_differ_from_the_declared_column_are_told_with_how_to_rekey() {
    let values: Vec<String> = (0..150).map(|id| format!("{{\"k\":\"p{id}\",\"B\":{id}}}")).collect();
    let wrong: Vec<Record<'_>> = values.iter().map(|value| (Some("x"), value.as_str())).collect();
    let keyless: Vec<Record<'_>> = values.iter().map(|value| (None, value.as_str())).collect();
    for (left, right, expected) in [
        (
            &[][..],
            &wrong[..],
            "R declares K as key, but the first 100 message keys differ from K: nothing will join; rekey with PARTITION BY K",
        ),
        (
            &[],
            &wrong[..1],
            "R declares K as key, but the first message key differs from K: nothing will join; rekey with PARTITION BY K",
        ),
        (
            &[],
            &keyless[..3],
            "R declares K as key, but the first 3 messages have no key: nothing will join; rekey with PARTITION BY K",
        ),
        (
            &[(None, "{\"A\":1}")],
            &[(Some("p1"), "{\"B\":1}")],
            "L declares K as key, but the first message has no key: nothing will join; send K as the message key",
        ),
        (
            &wrong[..2],
            &[],
            "L declares K as key, but the first 2 message keys differ from K: nothing will join; rekey with PARTITION BY K",
        ),
    ] {
        assert_eq!(said(left, right).as_deref(), Some(expected));
    }
}

#[test]
fn keys_that_may_be_right_are_not_doubted() {
    for right in [
        &[(Some("p1"), "{\"K\":\"p1\",\"B\":1}")][..],
        &[(Some("p1"), "{\"B\":1}")],
        &[
            (Some("x"), "{\"K\":\"p1\",\"B\":1}"),
            (Some("x"), "{\"K\":\"p2\",\"B\":1}"),
            (Some("p3"), "{\"K\":\"p3\"}"),
        ],
    ] {
        assert_eq!(said(&[(Some("p1"), "{\"A\":1}")], right), None);
    }
}
