//! Aggregates row by row, as Kafka Streams computes them.

use herdsman_stream::SqlType::{BigInt, String as Text};
use herdsman_stream::plan::*;
use herdsman_stream::runtime::{PullKeys, PullRequest, StartAt};

use crate::plans::*;

fn events() -> herdsman_stream::Schema {
    schema(&[("K", Text)], &[("V", BigInt)])
}

#[test]
fn a_filter_and_a_projection_keep_key_and_time_and_bad_records_go_to_the_dead_letters() {
    let bus = bus(&[("in", 1), ("out", 1)]);
    let runtime = stepping(&bus);
    let node = Node::Filter {
        input: Box::new(Node::StreamSource(source("in", events(), None))),
        predicate: greater(&events(), "V", 1),
    };
    let node = Node::Project {
        input: Box::new(node),
        key_names: vec!["K".into()],
        columns: vec![named(&events(), "V")],
    };
    runtime.start(plan("Q", node, false, "out"), StartAt::Earliest).unwrap();
    produce(
        &bus,
        "in",
        &[(5, "a", "{\"V\":1}"), (6, "b", "{\"V\":2}"), (7, "c", "what?"), (8, "", "{\"V\":3}")],
    );
    drain(&runtime);
    assert_eq!(contents(&bus, "out", false), ["6 b {\"V\":2}", "8  {\"V\":3}"]);
    let letters = contents(&bus, "Q-dead-letter", false);
    assert_eq!(letters.len(), 1);
    assert!(letters[0].ends_with("c what?"), "{letters:?}");
    let status = &runtime.queries()[0];
    assert_eq!((status.rows_in, status.rows_out, status.errors, status.lag), (4, 2, 1, 0));
}

#[test]
fn tumbling_windows_emit_every_change_and_drop_what_is_later_than_their_grace() {
    let bus = bus(&[("in", 1), ("out", 1)]);
    let runtime = stepping(&bus);
    let node = Node::StreamSource(source("in", events(), None));
    let node = count_and_sum(node, &events(), "V", Some(tumbling(10, 5)), Emit::Changes);
    runtime.start(plan("Q", node, true, "out"), StartAt::Earliest).unwrap();
    produce(
        &bus,
        "in",
        &[
            (3, "a", "{\"V\":1}"),
            (12, "a", "{\"V\":2}"),
            (8, "a", "{\"V\":4}"),  // out of order, within grace
            (15, "b", "{\"V\":8}"), // stream time 15: window 0 closes (10 + 5)
            (9, "a", "{\"V\":16}"), // late
        ],
    );
    drain(&runtime);
    assert_eq!(
        contents(&bus, "out", true),
        [
            "3 a@0 {\"N\":1,\"TOTAL\":1}",
            "12 a@10 {\"N\":1,\"TOTAL\":2}",
            "8 a@0 {\"N\":2,\"TOTAL\":5}",
            "15 b@10 {\"N\":1,\"TOTAL\":8}",
        ]
    );
    let status = &runtime.queries()[0];
    assert_eq!(status.late_events, 1);
    assert_eq!(
        status.last_message.as_deref(),
        Some(
            "Q dropped 1 late event this minute, the latest 1 s past its 0 s grace: GRACE PERIOD 1 SECONDS keeps it"
        )
    );
    let request = PullRequest {
        keys: PullKeys::Keys(vec![vec![herdsman_stream::expr::Value::String("a".into())]]),
        window_start: Some((10, 10)),
        window_end: None,
    };
    let pulled = runtime.pull("Q", &request).unwrap();
    assert_eq!(pulled.iter().map(herdsman_stream::Rows::len).sum::<usize>(), 1);
}

#[test]
fn final_results_come_once_per_window_in_order_when_grace_has_passed() {
    let bus = bus(&[("in", 1), ("out", 1)]);
    let runtime = stepping(&bus);
    let node = Node::StreamSource(source("in", events(), None));
    let hopping = Window::Hopping { size_ms: 10, advance_ms: 5 };
    let window = WindowSpec { window: hopping, grace_ms: 1, retention_ms: 11 };
    let node = count_and_sum(node, &events(), "V", Some(window), Emit::Final);
    runtime.start(plan("Q", node, true, "out"), StartAt::Earliest).unwrap();
    produce(
        &bus,
        "in",
        &[(6, "b", "{\"V\":1}"), (7, "a", "{\"V\":2}"), (10, "a", "{\"V\":4}"), (16, "a", "{\"V\":8}")],
    );
    drain(&runtime);
    assert_eq!(
        contents(&bus, "out", true),
        [
            "7 a@0 {\"N\":1,\"TOTAL\":2}",
            "6 b@0 {\"N\":1,\"TOTAL\":1}",
            "10 a@5 {\"N\":2,\"TOTAL\":6}",
            "6 b@5 {\"N\":1,\"TOTAL\":1}",
        ]
    );
}
