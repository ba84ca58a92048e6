//! The mistakes that users make, each answered in one line with what to do next.

use std::net::TcpListener;

use crate::program::{Server, free_port, herdsman, now_s, run, said};

fn one_line(text: &str) -> &str {
    assert_eq!(text.trim_end().lines().count(), 1, "one line expected:\n{text}");
    text.trim_end()
}

#[test]
fn an_unknown_flag_or_command_names_the_nearest_one() {
    let flag = run(&["serve", "--kakfa", "127.0.0.1:1"]);
    assert_eq!(
        (flag.code, one_line(&flag.err)),
        (2, "herdsman: unknown flag --kakfa: did you mean --kafka?")
    );
    let command = run(&["hnut"]);
    assert_eq!(
        (command.code, one_line(&command.err)),
        (2, "herdsman: unknown command hnut: did you mean hunt?")
    );
}

#[test]
fn a_port_in_use_names_its_holder_and_another_port() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let output = herdsman()
        .args(["serve", "--kafka", &address, "--http", "127.0.0.1:0", "--data"])
        .arg(folder.path())
        .output()
        .unwrap();
    let said = said(&output);
    assert_eq!(said.code, 1);
    let line = one_line(&said.err);
    assert!(line.starts_with(&format!("herdsman: cannot listen on {address}: ")), "{line}");
    assert!(
        line.contains(&format!(
            "(pid {}) holds it; stop that, or pass --kafka 127.0.0.1:",
            std::process::id()
        )),
        "{line}"
    );
}

#[test]
fn a_missing_input_file_is_told_with_the_nearest_name() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("finds.csv"), "").unwrap();
    std::fs::write(folder.path().join("map.toml"), "[columns]\nplayer='p'\nhunt='h'\nplace='l'\ntime='t'\n")
        .unwrap();
    let map = folder.path().join("map.toml").display().to_string();
    let wrong = folder.path().join("finds.cvs").display().to_string();
    let missing = run(&["hunt", "--input", &wrong, "--map", &map]);
    let expected =
        format!("herdsman: no file finds.cvs in {}: did you mean finds.csv?", folder.path().display());
    assert_eq!((missing.code, one_line(&missing.err)), (2, expected.as_str()));
    let empty =
        run(&["hunt", "--input", &folder.path().join("finds.csv").display().to_string(), "--map", &map]);
    assert_eq!(empty.code, 2);
    assert!(one_line(&empty.err).ends_with("finds.csv holds no rows: nothing to hunt"), "{}", empty.err);
}

#[test]
fn a_wrong_address_is_answered_in_two_seconds() {
    let port = free_port();
    let started = now_s();
    let wrong = run(&["topic", "--kafka", &format!("127.0.0.1:{port}"), "list"]);
    assert!(now_s() - started < 2.5);
    assert_eq!(wrong.code, 1);
    let line = one_line(&wrong.err);
    assert!(line.starts_with(&format!("herdsman: no Kafka listener at 127.0.0.1:{port}")), "{line}");
}

#[test]
fn a_data_folder_in_use_is_refused_and_the_first_server_lives_on() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let output = herdsman()
        .args(["serve", "--kafka", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data"])
        .arg(folder.path())
        .output()
        .unwrap();
    let said = said(&output);
    assert_eq!(said.code, 1);
    let line = one_line(&said.err);
    assert!(line.contains(&format!("is in use by herdsman pid {} since ", server.pid())), "{line}");
    assert!(line.ends_with("nothing was touched: stop it or pass another --data"), "{line}");
    assert_eq!(run(&["topic", "--kafka", &server.kafka, "list"]).code, 0);
}

#[test]
fn a_missing_topic_is_told_with_the_nearest_name_and_how_to_make_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    assert_eq!(run(&["topic", "--kafka", &server.kafka, "create", "events"]).code, 0);
    let missing = run(&["consume", "--kafka", &server.kafka, "evnts"]);
    assert_eq!(
        (missing.code, one_line(&missing.err)),
        (1, "herdsman: no topic evnts: did you mean events? To make it: herdsman topic create evnts")
    );
}

#[test]
fn other_addresses_than_loopback_are_refused_without_authentication() {
    let folder = tempfile::tempdir().unwrap();
    let output = herdsman()
        .args(["serve", "--kafka", "0.0.0.0:0", "--http", "127.0.0.1:0", "--data"])
        .arg(folder.path())
        .output()
        .unwrap();
    let said = said(&output);
    assert_eq!(
        (said.code, one_line(&said.err)),
        (
            1,
            "herdsman: refusing to listen on 0.0.0.0:0 without authentication: listen on 127.0.0.1, or say --allow-anonymous"
        )
    );
}

#[test]
fn a_misspelt_column_or_step_is_told_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let sql = folder.path().join("finds.sql");
    std::fs::write(&sql, "CREATE STREAM finds (hunter VARCHAR KEY, hunt VARCHAR, at BIGINT) WITH (KAFKA_TOPIC='finds', VALUE_FORMAT='JSON', PARTITIONS=1);\nCREATE STREAM f2 AS SELECT huntr FROM finds;\n").unwrap();
    let wrong = run(&["sql", "check", &sql.display().to_string()]);
    assert_eq!(wrong.code, 1);
    assert!(wrong.err.contains("HUNTR") && wrong.err.contains("did you mean HUNTER?"), "{}", wrong.err);
    let route = folder.path().join("finds.yaml");
    std::fs::write(&route, "- route:\n    from:\n      uri: kafka:finds\n      steps:\n        - fliter:\n            simple: \"${body} != ''\"\n").unwrap();
    let wrong = run(&["route", "check", &route.display().to_string()]);
    assert_eq!(wrong.code, 1);
    assert!(
        wrong.err.contains("finds.yaml:5:")
            && wrong.err.contains("unknown step fliter: did you mean filter?"),
        "{}",
        wrong.err
    );
}
