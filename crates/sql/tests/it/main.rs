//! The engine as others use it: statements in, entities and rows out, and everything back after a restart.

#![allow(clippy::unwrap_used, reason = "a test may stop at once")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use herdsman_bus::Bus;
use herdsman_bus::memory::MemoryBus;
use herdsman_host::clock::SimClock;
use herdsman_sql::{Engine, EngineConfig, Session};
use herdsman_stream::{Runtime, RuntimeConfig};
use serde_json::json;

fn engine(bus: &MemoryBus) -> Engine {
    let bus: Arc<dyn Bus> = Arc::new(bus.clone());
    let clock = Arc::new(SimClock::new(1_000));
    let config = RuntimeConfig { synchronous: true, ..RuntimeConfig::default() };
    let runtime = Runtime::new(Arc::clone(&bus), clock.clone(), config).unwrap();
    Engine::new(bus, runtime, clock, EngineConfig { from_earliest: true, ..EngineConfig::default() }).unwrap()
}

fn settle(engine: &Engine) {
    while engine.runtime().step().unwrap() {}
}

fn rows(engine: &Engine, sql: &str) -> Vec<serde_json::Value> {
    let mut handle = engine.query(sql, &Session::default()).unwrap();
    let mut all = Vec::new();
    while let Some(rows) = handle.next(Duration::ZERO).unwrap() {
        all.extend(rows.into_iter().map(|row| json!(row.columns)));
    }
    all
}

const SCRIPT: &str = "
CREATE STREAM finds (hunt STRING KEY, hunter STRING, points INT) WITH (kafka_topic='finds', value_format='JSON', partitions=1);
CREATE TABLE per_hunt AS SELECT hunt, COUNT(*) AS n, SUM(points) AS points FROM finds GROUP BY hunt;
INSERT INTO finds VALUES ('UA', 'ana', 3);
INSERT INTO finds (hunt, points) VALUES ('AA', 2);
INSERT INTO finds VALUES ('UA', 'bo', 4);";

#[test]
fn statements_answer_entities_and_a_restart_brings_everything_back() {
    let bus = MemoryBus::new();
    let first = engine(&bus);
    let session = Session::new(BTreeMap::new(), BTreeMap::new());
    let entities = first.execute(SCRIPT, &session).unwrap();
    let json = serde_json::to_value(&entities).unwrap();
    assert_eq!(json[0]["@type"], "currentStatus");
    assert_eq!(json[0]["commandStatus"]["message"], "Stream created");
    assert_eq!(json[1]["commandId"], "table/`PER_HUNT`/create");
    assert_eq!(json[1]["commandStatus"]["queryId"], "CTAS_PER_HUNT_1");
    settle(&first);
    let wanted = [json!(["AA", 1, 2]), json!(["UA", 2, 7])];
    assert_eq!(rows(&first, "SELECT * FROM per_hunt ORDER BY hunt;"), wanted);
    assert_eq!(rows(&first, "SELECT n FROM per_hunt WHERE hunt = 'UA';"), [json!([2])]);
    assert_eq!(rows(&first, "SELECT hunt FROM per_hunt ORDER BY points DESC LIMIT 1;"), [json!(["UA"])]);
    drop(first);

    let second = engine(&bus);
    let streams = serde_json::to_value(second.execute("SHOW STREAMS;", &session).unwrap()).unwrap();
    assert_eq!(streams[0]["streams"][0]["name"], "FINDS");
    second.execute("INSERT INTO finds VALUES ('UA', 'cy', 5);", &session).unwrap();
    settle(&second);
    assert_eq!(rows(&second, "SELECT * FROM per_hunt WHERE hunt = 'UA';"), [json!(["UA", 3, 12])]);
    let error = second.execute("DROP STREAM finds;", &session).unwrap_err();
    assert!(
        error.message.contains("The following queries read from this source: [CTAS_PER_HUNT_1]"),
        "{error}"
    );
    second.execute("DROP TABLE per_hunt DELETE TOPIC; DROP STREAM finds;", &session).unwrap();
    assert!(bus.topic("PER_HUNT").unwrap().is_none());
}

#[test]
fn a_push_query_ends_at_its_limit_and_a_terminated_query_is_gone() {
    let bus = MemoryBus::new();
    let engine = engine(&bus);
    let session = Session::default();
    engine.execute(SCRIPT, &session).unwrap();
    let mut handle = engine
        .query("SELECT UCASE(hunter) AS who, points FROM finds EMIT CHANGES LIMIT 2;", &session)
        .unwrap();
    assert_eq!(handle.header()["header"]["schema"], "`WHO` STRING, `POINTS` INTEGER");
    settle(&engine);
    let mut found = Vec::new();
    while let Some(rows) = handle.next(Duration::ZERO).unwrap() {
        found.extend(rows.into_iter().map(|row| json!(row.columns)));
    }
    assert_eq!(found, [json!(["ANA", 3]), json!([null, 2])]);
    assert_eq!(handle.final_message(), "Limit Reached");
    engine.execute("TERMINATE CTAS_PER_HUNT_1;", &session).unwrap();
    let queries = serde_json::to_value(engine.execute("SHOW QUERIES;", &session).unwrap()).unwrap();
    assert_eq!(queries[0]["queries"], json!([]));
}

#[test]
fn mistakes_are_one_line_with_the_place_and_the_nearest_name() {
    let bus = MemoryBus::new();
    let engine = engine(&bus);
    let session = Session::default();
    engine
        .execute(
            "CREATE STREAM finds (hunter STRING, hunt STRING, at BIGINT) WITH (kafka_topic='finds', value_format='JSON', partitions=6);
             CREATE TABLE players (id STRING PRIMARY KEY, name STRING) WITH (kafka_topic='players', value_format='JSON', partitions=1);
             CREATE STREAM keyed (hunter STRING KEY, v INT) WITH (kafka_topic='keyed', value_format='JSON', partitions=6);",
            &session,
        )
        .unwrap();
    for (sql, help) in [
        (
            "CREATE STREAM o AS SELECT huntr FROM finds;",
            "FINDS has no column HUNTR: did you mean HUNTER? It has HUNTER, HUNT, AT",
        ),
        (
            "CREATE STREAM o AS SELECT hunt FROM finds WHERE hunter > 5;",
            "HUNTER > 5 compares VARCHAR with INTEGER: write HUNTER > '5' or CAST(HUNTER AS INT) > 5",
        ),
        (
            "CREATE STREAM o AS SELECT k.hunter, p.name FROM keyed k JOIN players p ON k.hunter = p.id;",
            "KEYED has 6 partitions, PLAYERS 1: run CREATE TABLE PLAYERS_6 WITH (PARTITIONS=6) AS SELECT * FROM PLAYERS, join that",
        ),
        ("CREATE STREAM o AS SELECT * FROM find;", "no stream or table FIND: did you mean FINDS?"),
    ] {
        let error = engine.execute(sql, &session).unwrap_err();
        assert_eq!(error.help.as_deref(), Some(help), "{error}");
        assert!(error.place.is_some() && error.caret().contains('^'), "{error}");
        assert_eq!(error.to_json()["@type"], "statement_error");
    }
}

#[test]
fn our_own_cases_pass() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut out = Vec::new();
    let summary = herdsman_sql::testing::run_paths(&[folder], &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!((summary.passed(), summary.failed()), (3, 0), "{text}");
    assert!(text.ends_with("3 passed, 0 failed\n"), "{text}");
}
