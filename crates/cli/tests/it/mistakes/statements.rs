//! Mistakes in SQL: the same line in the terminal, with `--json` and over REST.

use serde_json::{Value, json};

use super::one_line;
use crate::program::{Server, run};

/// Posts `statement` to `path`; gives status and body.
fn post(server: &Server, path: &str, statement: &str) -> (u16, Value) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut answer = agent
        .post(format!("http://{}{path}", server.http))
        .header("content-type", "application/vnd.ksql.v1+json")
        .send(json!({ "ksql": statement }).to_string())
        .unwrap();
    let body = answer.body_mut().read_to_string().unwrap();
    (answer.status().as_u16(), serde_json::from_str(&body).unwrap())
}

/// `statement` is refused with `words` (ksqlDB's) and then `line`, wherever it is sent from.
fn refused(server: &Server, statement: &str, words: &str, line: &str) {
    let expected = format!("{words} {line}");
    let terminal = run(&["sql", &server.http, "-e", statement]);
    assert_eq!((terminal.code, one_line(&terminal.err)), (1, format!("herdsman: {expected}").as_str()));
    assert_eq!(terminal.out, "");
    let program = run(&["sql", &server.http, "--json", "-e", statement]);
    assert_eq!((program.code, one_line(&program.err)), (1, format!("herdsman: {expected}").as_str()));
    let path = if statement.starts_with("SELECT") { "/query" } else { "/ksql" };
    let (status, body) = post(server, path, statement);
    assert_eq!((status, body["message"].as_str()), (400, Some(expected.as_str())));
    assert_eq!((&body["@type"], &body["error_code"]), (&json!("statement_error"), &json!(40001)));
    assert_eq!(serde_json::from_str::<Value>(&program.out).unwrap(), body);
}

const FINDS: &str = "CREATE STREAM finds (hunter VARCHAR KEY, hunt VARCHAR, at BIGINT) WITH (KAFKA_TOPIC='finds', VALUE_FORMAT='JSON', PARTITIONS=6);";
const PLAYERS: &str = "CREATE TABLE players (id VARCHAR PRIMARY KEY, name VARCHAR) WITH (KAFKA_TOPIC='players', VALUE_FORMAT='JSON', PARTITIONS=1);";

#[test]
fn a_misspelt_column_is_told_with_its_place_and_the_nearest_name() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    server.sql(FINDS);
    refused(
        &server,
        "SELECT huntr FROM finds EMIT CHANGES;",
        "Line: 1, Col: 8: SELECT column 'HUNTR' cannot be resolved.",
        "line 1:8: FINDS has no column HUNTR: did you mean HUNTER? It has HUNTER, HUNT, AT",
    );
}

#[test]
fn values_of_two_types_are_not_compared_but_told_how_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    server.sql(FINDS);
    refused(
        &server,
        "SELECT hunt FROM finds WHERE hunter > 5 EMIT CHANGES;",
        "Error in WHERE expression: Cannot compare HUNTER (STRING) to 5 (INTEGER) with GREATER_THAN.",
        "line 1:30: HUNTER > 5 compares VARCHAR with INTEGER: write HUNTER > '5' or CAST(HUNTER AS INT) > 5",
    );
}

#[test]
fn sides_with_other_partitions_are_told_how_to_be_joined() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    server.sql(&format!("{FINDS}{PLAYERS}"));
    refused(
        &server,
        "CREATE STREAM named AS SELECT f.hunter, name FROM finds f JOIN players p ON f.hunter = p.id;",
        "Can't join `FINDS` with `PLAYERS` since the number of partitions don't match. `FINDS` partitions = 6; `PLAYERS` partitions = 1. Please repartition either one so that the number of partitions match.",
        "line 1:59: FINDS has 6 partitions, PLAYERS 1: run CREATE TABLE PLAYERS_6 WITH (PARTITIONS=6) AS SELECT * FROM PLAYERS, join that",
    );
    server.sql("CREATE TABLE players_6 WITH (PARTITIONS=6) AS SELECT * FROM players;");
    server.sql(
        "CREATE STREAM named AS SELECT f.hunter, name FROM finds f JOIN players_6 p ON f.hunter = p.id;",
    );
}

#[test]
fn a_missing_stream_is_told_with_the_nearest_name() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    server.sql(FINDS);
    refused(
        &server,
        "SELECT * FROM find EMIT CHANGES;",
        "Failed to prepare statement: FIND does not exist.",
        "line 1:15: no stream or table FIND: did you mean FINDS?",
    );
}

#[test]
fn a_misspelt_topic_in_a_declaration_is_doubted_aloud() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    server.sql(FINDS);
    let doubted = "CREATE STREAM again (a INT) WITH (KAFKA_TOPIC='fidns', VALUE_FORMAT='JSON');";
    let made = run(&["sql", &server.http, "-e", doubted]);
    let warning = "no topic fidns: did you mean finds? It was made with 4 partitions; to undo that: DROP STREAM AGAIN DELETE TOPIC";
    assert_eq!((made.code, made.out.as_str()), (0, "Stream created\n"));
    assert_eq!(one_line(&made.err), format!("herdsman: {warning}"));
    server.sql("DROP STREAM again DELETE TOPIC;");
    let (status, body) = post(&server, "/ksql", doubted);
    assert_eq!((status, &body[0]["warnings"]), (200, &json!([{ "message": warning }])));
    let meant = "CREATE STREAM two (a INT) WITH (KAFKA_TOPIC='find', VALUE_FORMAT='JSON', PARTITIONS=1);";
    assert_eq!(run(&["sql", &server.http, "-e", meant]).err, "");
}
