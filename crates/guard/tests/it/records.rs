//! Systems of record other than SQLite: PostgreSQL and a web service, one query per batch of misses.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use herdsman_guard::http::HttpLoader;
use herdsman_guard::postgres::PostgresLoader;
use herdsman_guard::{Guard, GuardConfig, GuardError, Lane, Loader};
use herdsman_host::RealClock;

use crate::servers::{self, Server, free_port, keys};

/// A program of PostgreSQL, as its own user when this is root (it refuses to run as root).
fn postgres_program(name: &str) -> Option<Command> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let program =
        versions.flatten().map(|entry| entry.path().join("bin").join(name)).find(|path| path.exists())?;
    if !rustix::process::geteuid().is_root() {
        return Some(Command::new(program));
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
    Some(command)
}

fn initdb() -> Option<(tempfile::TempDir, PathBuf)> {
    let Some(mut initdb) = postgres_program("initdb") else {
        println!("SKIPPED: postgresql is not installed");
        return None;
    };
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    if rustix::process::geteuid().is_root() {
        assert!(
            Command::new("chown").arg("-R").arg("postgres").arg(folder.path()).status().unwrap().success()
        );
    }
    initdb.args(["-A", "trust", "-N", "-U", "postgres", "-D"]).arg(&data).current_dir("/");
    assert!(initdb.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    Some((folder, data))
}

fn postgres(data: &std::path::Path, port: u16) -> Server {
    let mut command = postgres_program("postgres").unwrap();
    let port_text = port.to_string();
    command.args(["-p", &port_text, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]);
    servers::start_command(command.args(["-c", "fsync=off", "-D"]).arg(data), port).unwrap()
}

fn psql(port: u16, sql: &str) {
    for _ in 0..100 {
        let mut command = postgres_program("psql").unwrap();
        command.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &port.to_string(), "-q", "-c", sql]);
        if command.current_dir("/").stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("psql cannot run {sql}");
}

#[test]
fn postgresql_answers_a_batch_of_misses_with_one_query() {
    let Some((_folder, data)) = initdb() else { return };
    let port = free_port();
    let server = postgres(&data, port);
    psql(
        port,
        "CREATE TABLE treasures (id text PRIMARY KEY, worth int, map bytea);
         INSERT INTO treasures SELECT 'k:' || n, n, '\\x00ff' FROM generate_series(0, 4999) n;
         INSERT INTO treasures VALUES ('empty', NULL, NULL), ('it''s', 7, NULL);
         CREATE SCHEMA deep; CREATE TABLE deep.numbers (n bigint PRIMARY KEY, name text);
         INSERT INTO deep.numbers SELECT n, 'n' || n FROM generate_series(1, 100) n; ANALYZE",
    );
    let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    let open = |table: &str, key: &str, value: &str| PostgresLoader::open(&url, table, key, value);
    let loader = open("treasures", "id", "json_build_object('worth', worth)").unwrap();
    let config = GuardConfig::default();
    let guard = Guard::open(config, Arc::new(loader), RealClock::shared()).unwrap();
    let mut asked = keys("k", 5_000);
    let odd = ["it's", "empty", "nowhere", "a\0b"].map(Bytes::from);
    asked.extend(odd);
    asked.push(Bytes::from_static(b"\xff\xfe"));
    let found = guard.get_many(&asked, Lane::Normal).unwrap();
    for (n, value) in found[..5_000].iter().enumerate() {
        assert_eq!(value.as_ref().unwrap(), &Bytes::from(format!("{{\"worth\" : {n}}}")));
    }
    assert_eq!(found[5_000].as_ref().unwrap().as_ref(), b"{\"worth\" : 7}");
    assert_eq!(found[5_001].as_ref().unwrap().as_ref(), b"{\"worth\" : null}");
    assert_eq!(found[5_002..], [None, None, None]);
    let stats = guard.stats();
    assert_eq!(stats.loads, 5_005);
    assert!(stats.load_queries <= 4, "{} queries for 5,005 keys", stats.load_queries);

    let maps = open("treasures", "id", "map").unwrap();
    assert_eq!(
        maps.load(&["k:1", "empty"].map(Bytes::from)).unwrap(),
        [Some(Bytes::from_static(b"\0\xff")), None]
    );
    // Keys that are no numbers do not exist; the others of their batch do.
    let numbers = open("deep.numbers", "n", "name").unwrap();
    let mixed = ["7", "seven", "99999999999999999999", "8", ""].map(Bytes::from);
    let expected = [Some(Bytes::from("n7")), None, None, Some(Bytes::from("n8")), None];
    assert_eq!(numbers.load(&mixed).unwrap(), expected);
    for (table, key, value) in [
        ("treasures", "id", "nothing"),
        ("nowhere", "id", "worth"),
        ("treasures\"; DROP TABLE treasures; --", "id", "worth"),
        ("treasures", "id", "worth); DELETE FROM treasures; --"),
    ] {
        let error = open(table, key, value).unwrap_err().to_string();
        println!("{error}");
    }
    let secret = PostgresLoader::open("postgres://ana:s3cret@127.0.0.1:1/x", "t", "k", "v").unwrap_err();
    assert!(!secret.to_string().contains("s3cret") && secret.to_string().contains("127.0.0.1:1"), "{secret}");

    // It dies: an explicit error. It comes back: its answers again.
    drop(server);
    assert!(numbers.load(&mixed).is_err());
    let config = GuardConfig { near_capacity: 0, ..GuardConfig::default() };
    let guard = Guard::open(config, Arc::new(numbers), RealClock::shared()).unwrap();
    assert!(matches!(guard.get_many(&["9"], Lane::Normal), Err(GuardError::Load(_))));
    let _server = postgres(&data, port);
    psql(port, "SELECT 1");
    assert_eq!(guard.get_many(&["9"], Lane::Normal).unwrap(), [Some(Bytes::from("n9"))]);
}

/// Answers POSTs with what `answer` makes of their bodies: status and body.
fn web_service(answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (requests, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(answer));
    let counted = Arc::clone(&requests);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (counted, answer) = (Arc::clone(&counted), Arc::clone(&answer));
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                loop {
                    let (mut len, mut line) = (0, String::new());
                    while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                        if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                            len = n.trim().parse().unwrap();
                        }
                        line.clear();
                    }
                    if line.is_empty() {
                        return;
                    }
                    let mut body = vec![0; len];
                    reader.read_exact(&mut body).unwrap();
                    counted.fetch_add(1, Ordering::SeqCst);
                    let (status, text) = answer(std::str::from_utf8(&body).unwrap());
                    let head = format!("HTTP/1.1 {status} Told\r\nContent-Length: {}\r\n\r\n", text.len());
                    reader.get_mut().write_all((head + &text).as_bytes()).unwrap();
                }
            });
        }
    });
    (port, requests)
}

#[test]
fn a_web_service_answers_a_batch_of_misses_in_one_request() {
    let (port, requests) = web_service(|body| {
        let asked: serde_json::Value = serde_json::from_str(body).unwrap();
        let mut found = serde_json::Map::new();
        for key in asked["keys"].as_array().unwrap().iter().map(|key| key.as_str().unwrap()) {
            match key {
                "down" => return (503, "later".into()),
                "odd" => return (200, "[]".into()),
                "null" => drop(found.insert(key.into(), serde_json::Value::Null)),
                "object" => drop(found.insert(key.into(), serde_json::json!({"worth": 7}))),
                "nowhere" => {}
                key => drop(found.insert(key.into(), format!("line\n\"{key}\"").into())),
            }
        }
        (200, serde_json::Value::from(found).to_string())
    });
    let loader =
        HttpLoader::open(&format!("http://127.0.0.1:{port}/treasures"), Duration::from_secs(5)).unwrap();
    let guard = Guard::open(GuardConfig::default(), Arc::new(loader), RealClock::shared()).unwrap();
    let mut asked = keys("k", 1_000);
    asked.extend(["object", "null", "nowhere"].map(Bytes::from));
    asked.push(Bytes::from_static(b"\xff"));
    let found = guard.get_many(&asked, Lane::Normal).unwrap();
    let expected = |n: usize| Some(Bytes::from(format!("line\n\"k:{n}\"")));
    assert!(found[..1_000].iter().enumerate().all(|(n, value)| *value == expected(n)));
    assert_eq!(found[1_000..], [Some(Bytes::from("{\"worth\":7}")), None, None, None]);
    assert!(requests.load(Ordering::SeqCst) <= 3, "{requests:?} requests for 1,004 keys");
    for (key, told) in [("down", "503"), ("odd", "no JSON object")] {
        let error = guard.get_many(&[key], Lane::Normal).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
    for bad in ["ftp://x", "http://", "https://x", "x"] {
        assert!(HttpLoader::open(bad, Duration::from_secs(1)).is_err(), "{bad}");
    }
}
