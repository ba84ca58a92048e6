//! Steps between topics of one bus.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{bus, committed, consume, produce, start, wait_for};

fn records(values: &[Value]) -> Vec<(String, String, String)> {
    let numbered = values.iter().enumerate();
    numbered
        .map(|(index, value)| (format!("e{index}"), format!("k{}", index % 3), value.to_string()))
        .collect()
}

const STEPS: &str = r#"
- route:
    id: main
    from:
      uri: kafka:finds
      steps:
        - unmarshal: {json: {}}
        - setHeader: {name: lane, simple: "${body.lane}"}
        - setProperty: {name: limit, constant: "5"}
        - choice:
            when:
              - simple: "${body.points} > ${exchangeProperty.limit} && ${header.lane} == 'a'"
                steps:
                  - setBody: {simple: '{"big":${body.points},"day":"${date:header.none:yyyy}"}'}
                  - to: "kafka:big"
              - jsonpath: "$.list[?(@.n > 1)]"
                steps:
                  - split:
                      jsonpath: "$.list[*]"
                      steps:
                        - filter:
                            simple: "${body.n} != 2"
                            steps:
                              - marshal: {json: {}}
                              - to: "kafka:parts"
            otherwise:
              steps:
                - to: "direct:rest"
        - wireTap: {uri: "seda:tap"}
- route:
    id: rest
    from:
      uri: direct:rest
      steps:
        - idempotentConsumer:
            simple: "${body.id}"
            steps:
              - aggregate:
                  correlationExpression: {simple: "${body.lane}"}
                  completionSize: 2
                  steps:
                    - setHeader: {name: kafka.KEY, simple: "${body[0].lane}"}
                    - to: {uri: kafka, parameters: {topic: groups}}
- route:
    id: tap
    from:
      uri: seda:tap
      steps:
        - doTry:
            steps:
              - setBody: {simple: "${jsonpath($.id)}"}
              - filter: {simple: "${body} == 'bad'", steps: [{unmarshal: {json: {}}}]}
            doCatch:
              - exception: ["java.lang.Exception"]
                steps:
                  - setBody: {simple: "caught ${exception.message}"}
                  - to: "kafka:caught"
"#;

#[test]
fn steps_part_split_group_and_catch_as_the_file_says() {
    let bus = bus(&["finds"]);
    produce(
        &bus,
        "finds",
        &records(&[
            json!({"id": "1", "lane": "a", "points": 7}),
            json!({"id": "2", "lane": "a", "points": 3}),
            json!({"id": "3", "lane": "b", "points": 9, "list": [{"n": 1}, {"n": 2}, {"n": 3}]}),
            json!({"id": "2", "lane": "a", "points": 3}),
            json!({"id": "4", "lane": "a", "points": 1}),
            json!({"id": "bad", "lane": "c", "points": 1}),
        ]),
    );
    let folder = tempfile::tempdir().unwrap();
    let handle = start(&bus, STEPS, folder.path());
    // the record in lane c waits in its group for a second one: so does its offset
    assert!(!handle.drain(Duration::from_secs(2)));
    let stats = handle.stop();
    let values =
        |topic: &str| -> Vec<String> { consume(&bus, topic).into_iter().map(|found| found.value).collect() };
    assert_eq!(values("big"), [r#"{"big":7,"day":""}"#]);
    assert_eq!(values("parts"), [r#"{"n":1}"#, r#"{"n":3}"#]);
    let groups = consume(&bus, "groups");
    assert_eq!(groups.len(), 1, "{groups:?}");
    assert_eq!(groups[0].key.as_deref(), Some("a"));
    let group: Vec<Value> = serde_json::from_str(&groups[0].value).unwrap();
    let mut ids: Vec<&str> = group.iter().map(|item| item["id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["2", "4"]);
    let caught = values("caught");
    assert!(caught.len() == 1 && caught[0].starts_with("caught the body is not JSON"), "{caught:?}");
    assert_eq!((stats[0].records_in, stats[1].filtered, stats[0].dead_letters), (6, 1, 0), "{stats:?}");
    assert!(committed(&bus, "main", "finds") < 6);
}

#[test]
fn poison_goes_to_the_dead_letters_with_its_reason_and_the_rest_goes_on() {
    let bus = bus(&["finds"]);
    let mut all = records(&[json!({"n": 1}), json!({"n": 2}), json!({"n": 3})]);
    all[1].2 = "not json".to_owned();
    produce(&bus, "finds", &all);
    let text = "- route:\n    id: out\n    from:\n      uri: kafka:finds\n      steps:\n        \
                - filter: {simple: '${body.n} != 3', steps: [{to: 'kafka:good'}]}\n";
    let folder = tempfile::tempdir().unwrap();
    let handle = start(&bus, text, folder.path());
    assert!(handle.drain(Duration::from_secs(10)));
    let stats = handle.stop();
    assert_eq!((stats[0].deliveries, stats[0].filtered, stats[0].dead_letters, stats[0].lag), (1, 1, 1, 0));
    let dead = consume(&bus, "out.dead-letter");
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].value, "not json");
    assert_eq!(dead[0].headers["herdsman-dead-letter-reason"], "the body is not JSON, it has no fields");
    assert_eq!(dead[0].headers["herdsman-dead-letter-topic"], "finds");
    assert_eq!(dead[0].headers["event-id"], "e1");
    assert!(dead[0].headers.contains_key("herdsman-dead-letter-offset"));
    assert_eq!(committed(&bus, "out", "finds"), 3);
}

#[test]
fn a_route_that_starts_again_goes_on_where_it_committed() {
    let bus = bus(&["finds"]);
    let text =
        "- route:\n    id: out\n    from: {uri: 'kafka:finds?groupId=g', steps: [{to: 'kafka:copy'}]}\n";
    let folder = tempfile::tempdir().unwrap();
    for round in 0..3 {
        produce(&bus, "finds", &records(&[json!({"round": round}), json!({"round": round})]));
        let handle = start(&bus, text, folder.path());
        assert!(handle.drain(Duration::from_secs(10)));
        handle.stop();
    }
    assert_eq!(consume(&bus, "copy").len(), 6);
    assert_eq!(committed(&bus, "g", "finds"), 6);
}

#[test]
fn a_timer_ticks_as_often_as_asked_and_a_breaker_falls_back() {
    let bus = bus(&[]);
    let text = r#"
- from:
    uri: "timer:t?period=5&repeatCount=6"
    steps:
      - circuitBreaker:
          resilience4jConfiguration: {minimumNumberOfCalls: 3, slidingWindowSize: 3, waitDurationInOpenState: 60}
          steps:
            - to: "http:127.0.0.1:1/none"
          onFallback:
            steps:
              - setBody: {simple: "${exchangeProperty.CamelTimerCounter} ${exception.message}"}
              - to: "kafka:fallback"
"#;
    let folder = tempfile::tempdir().unwrap();
    let handle = start(&bus, text, folder.path());
    wait_for("six ticks", 10, || consume(&bus, "fallback").len() == 6);
    handle.stop();
    let said: Vec<String> = consume(&bus, "fallback").into_iter().map(|found| found.value).collect();
    assert!(said[0].starts_with("1 http://127.0.0.1:1/none"), "{said:?}");
    assert_eq!(said[5], "6 the circuit breaker is open");
}
