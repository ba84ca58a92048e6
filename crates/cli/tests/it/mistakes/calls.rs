//! Mistakes in how the program is called: flags, addresses, files, folders.

use std::net::TcpListener;

use super::one_line;
use crate::program::{Server, free_port, herdsman, now_s, run, said};

#[test]
fn an_unknown_flag_or_command_names_the_nearest_one() {
    let flag = run(&["serve", "--kakfa", "127.0.0.1:1"]);
    assert_eq!(
        (flag.code, one_line(&flag.err)),
        (2, "herdsman: unknown flag --kakfa: did you mean --kafka ADDR?")
    );
    let command = run(&["hnut"]);
    assert_eq!(
        (command.code, one_line(&command.err)),
        (2, "herdsman: unknown command hnut: did you mean hunt?")
    );
    let switch = run(&["sql", "--jsn"]);
    assert_eq!(
        (switch.code, one_line(&switch.err)),
        (2, "herdsman: unknown flag --jsn: did you mean --json?")
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
    let proxy = run(&["guard", "proxy", "--listen", &address, "--cache", "redis://127.0.0.1:1"]);
    assert_eq!(proxy.code, 1);
    let line = one_line(&proxy.err);
    let expected = format!("(pid {}) holds it; stop that, or pass --listen 127.0.0.1:", std::process::id());
    assert!(line.contains(&expected), "{line}");
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
fn a_wrong_address_is_answered_in_two_seconds_with_the_right_one() {
    let port = free_port();
    let started = now_s();
    let wrong = run(&["topic", "--kafka", &format!("127.0.0.1:{port}"), "list"]);
    assert!(now_s() - started < 2.5);
    assert_eq!(wrong.code, 1);
    let line = one_line(&wrong.err);
    let expected = format!("herdsman: no Kafka listener at 127.0.0.1:{port} (connection refused)");
    assert!(line.starts_with(&expected), "{line}");
    // another address of loopback, on which nobody else has the usual ports
    let host = format!("127.83.{}.{}", std::process::id() / 250 % 250 + 1, std::process::id() % 250 + 1);
    let kafka = TcpListener::bind((host.as_str(), 9092)).unwrap();
    let wrong = run(&["topic", "--kafka", &format!("{host}:9093"), "list"]);
    assert_eq!(
        (wrong.code, one_line(&wrong.err)),
        (
            1,
            format!(
                "herdsman: no Kafka listener at {host}:9093 (connection refused); one answers at {host}:9092: pass that address"
            )
            .as_str()
        )
    );
    drop(kafka);
    for arguments in [&["sql", "-e", "SHOW STREAMS;"][..], &["guard", "explain"]] {
        let wrong = run(&[arguments, &[&format!("http://{host}:8089")]].concat());
        let expected = format!(
            "herdsman: no server at http://{host}:8089 (connection refused); start one with herdsman serve"
        );
        assert_eq!((wrong.code, one_line(&wrong.err)), (1, expected.as_str()));
    }
    let _http = TcpListener::bind((host.as_str(), 8088)).unwrap();
    let wrong = run(&["sql", &format!("{host}:8089"), "-e", "SHOW STREAMS;"]);
    let expected = format!(
        "herdsman: no server at http://{host}:8089 (connection refused); one answers at http://{host}:8088: pass that address"
    );
    assert_eq!((wrong.code, one_line(&wrong.err)), (1, expected.as_str()));
}

#[test]
fn something_else_at_the_address_is_told_apart_from_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let wrong = run(&["topic", "--kafka", &server.http, "list"]);
    let expected = format!(
        "herdsman: {} accepts connections but does not answer as Kafka does: pass the address of a Kafka listener",
        server.http
    );
    assert_eq!((wrong.code, one_line(&wrong.err)), (1, expected.as_str()));
    let wrong = run(&["sql", &server.kafka, "-e", "SHOW STREAMS;"]);
    assert_eq!(wrong.code, 1);
    let line = one_line(&wrong.err);
    let expected =
        format!("herdsman: no server at http://{} (something else than SQL listens there); ", server.kafka);
    assert!(line.starts_with(&expected), "{line}");
}

#[test]
fn a_missing_file_is_told_with_the_nearest_name_by_every_command_that_reads_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("finds.sql"), "").unwrap();
    std::fs::write(path("finds.toml"), "").unwrap();
    let (sql, toml) = (path("fnids.sql"), path("fnids.toml"));
    for (arguments, wanted, near) in [
        (&["sql", "-f", &sql][..], "fnids.sql", "finds.sql"),
        (&["sql", "check", &sql], "fnids.sql", "finds.sql"),
        (&["sql", "export", &sql], "fnids.sql", "finds.sql"),
        (&["test", &sql], "fnids.sql", "finds.sql"),
        (&["test", "-s", &sql, "-o", &sql], "fnids.sql", "finds.sql"),
        (&["serve", "--config", &toml], "fnids.toml", "finds.toml"),
        (&["mirror", "--config", &toml], "fnids.toml", "finds.toml"),
    ] {
        let missing = run(arguments);
        let expected =
            format!("herdsman: no file {wanted} in {}: did you mean {near}?", folder.path().display());
        assert_eq!((missing.code, one_line(&missing.err)), (2, expected.as_str()), "{arguments:?}");
    }
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
    let place = folder.path().display();
    let expected = format!("herdsman: {place} is in use by herdsman pid {} since ", server.pid());
    assert!(line.starts_with(&expected), "{line}");
    assert!(line.ends_with(", nothing was touched: stop it or pass another --data"), "{line}");
    assert_eq!(run(&["topic", "--kafka", &server.kafka, "list"]).code, 0);
}

#[test]
fn a_missing_topic_is_told_with_the_nearest_name_and_how_to_make_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    assert_eq!(run(&["topic", "--kafka", &server.kafka, "create", "events"]).code, 0);
    for command in [&["consume"][..], &["produce"], &["topic", "describe"], &["topic", "delete"]] {
        let missing = run(&[command, &["--kafka", &server.kafka, "evnts"]].concat());
        assert_eq!(
            (missing.code, one_line(&missing.err)),
            (1, "herdsman: no topic evnts: did you mean events? To make it: herdsman topic create evnts"),
            "{command:?}"
        );
    }
    let far = run(&["consume", "--kafka", &server.kafka, "weather"]);
    assert_eq!(
        (far.code, one_line(&far.err)),
        (1, "herdsman: no topic weather: to make it: herdsman topic create weather")
    );
}

#[test]
fn a_wrong_login_is_refused_in_one_line_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("password"), "oak-canary\n").unwrap();
    let listener = format!("127.0.0.1:{}", free_port());
    let config = format!(
        "[[listeners]]\naddress = '{listener}'\nprotocol = 'SASL_PLAINTEXT'\n[security.users.ana]\npassword_file = '{}'\n",
        path("password")
    );
    std::fs::write(path("herdsman.toml"), config).unwrap();
    let server = Server::start_with(&folder.path().join("data"), &["--config", &path("herdsman.toml")]);
    let list = |user: &[&str], password: &str| {
        let mut command = herdsman();
        command.args(["topic", "--kafka", &listener, "list"]).args(user).env("HERDSMAN_PASSWORD", password);
        said(&command.output().unwrap())
    };
    let right = list(&["--user", "ana"], "oak-canary");
    assert_eq!((right.code, right.err.as_str()), (0, ""));
    let told = "login refused for user ana with PLAIN: check name and password (this listener also offers SCRAM-SHA-512 and SCRAM-SHA-256)";
    let wrong = list(&["--user", "ana"], "elm");
    assert_eq!((wrong.code, one_line(&wrong.err)), (1, format!("herdsman: {told}").as_str()));
    assert!(server.says("login refused").starts_with(told), "{}", server.says("login refused"));
    let none = list(&[], "");
    let asks = format!(
        "herdsman: {listener} asks for a login by SCRAM-SHA-512, SCRAM-SHA-256, PLAIN: pass --user NAME and set HERDSMAN_PASSWORD"
    );
    assert_eq!((none.code, one_line(&none.err)), (1, asks.as_str()));
    let far = run(&["topic", "--kafka", "192.0.2.1:9092", "--user", "ana", "list"]);
    assert_eq!(far.code, 2);
    assert!(
        one_line(&far.err).contains("would show the password to everyone on the way to 192.0.2.1:9092"),
        "{}",
        far.err
    );
    assert!(!server.log().contains("canary"), "no password in the log");
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
            "herdsman: refusing to listen on 0.0.0.0:0 without authentication: listen on 127.0.0.1, ask for a login in [[listeners]] of the configuration, or say --allow-anonymous"
        )
    );
    let proxy = run(&["guard", "proxy", "--listen", "0.0.0.0:0", "--cache", "redis://127.0.0.1:1"]);
    assert_eq!(
        (proxy.code, one_line(&proxy.err)),
        (
            2,
            "herdsman: refusing to listen on 0.0.0.0:0 without authentication: listen on 127.0.0.1, or say --allow-anonymous"
        )
    );
}

#[test]
fn checks_tell_a_misspelt_column_or_step_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let script = "CREATE STREAM finds (hunter VARCHAR KEY, hunt VARCHAR, at BIGINT) WITH (KAFKA_TOPIC='finds', VALUE_FORMAT='JSON', PARTITIONS=1);\nCREATE STREAM f2 AS SELECT huntr FROM finds;\n";
    std::fs::write(path("finds.sql"), script).unwrap();
    let wrong = run(&["sql", "check", &path("finds.sql")]);
    let expected = [
        "Line: 2, Col: 28: SELECT column 'HUNTR' cannot be resolved.",
        "  |",
        "2 | CREATE STREAM f2 AS SELECT huntr FROM finds;",
        "  |                            ^^^^^",
        "line 2:28: FINDS has no column HUNTR: did you mean HUNTER? It has HUNTER, HUNT, AT\n",
    ];
    assert_eq!((wrong.code, wrong.err), (1, format!("{}: {}", path("finds.sql"), expected.join("\n"))));
    let route = "- route:\n    from:\n      uri: kafka:finds\n      steps:\n        - fliter:\n            simple: \"${body} != ''\"\n";
    std::fs::write(path("finds.yaml"), route).unwrap();
    std::fs::write(path("herdsman.toml"), format!("routes = [{:?}]\n", path("finds.yaml"))).unwrap();
    let step = format!("{}:5:11: unknown step fliter: did you mean filter?", path("finds.yaml"));
    let checked = run(&["route", "check", &path("finds.yaml")]);
    assert_eq!((checked.code, one_line(&checked.err)), (1, step.as_str()));
    let data = path("data");
    for command in [
        &["route", "run", &path("finds.yaml")][..],
        &["hunt", "--routes", &path("finds.yaml")],
        &[
            "serve",
            "--kafka",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
            "--data",
            &data,
            "--config",
            &path("herdsman.toml"),
        ],
    ] {
        let wrong = run(command);
        assert_eq!((wrong.code, one_line(&wrong.err)), (1, format!("herdsman: {step}").as_str()));
    }
}
