//! SQL over REST, and what outlives a restart.

use std::time::Duration;

use crate::program::{Server, herdsman, now_s, run, said};

fn sql(server: &Server, statement: &str) -> String {
    let answer = run(&["sql", &server.http, "-e", statement]);
    assert_eq!(answer.code, 0, "{statement}: {}", answer.err);
    answer.out
}

fn produce(server: &Server, topic: &str, lines: &str) {
    use std::io::Write as _;
    use std::process::Stdio;
    let mut child = herdsman()
        .args(["produce", "--kafka", &server.kafka, "--key-separator", "|", topic])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output).err);
}

/// Repeats `look` until it says something that contains `wanted`, for at most ten seconds.
fn eventually(wanted: &str, mut look: impl FnMut() -> String) {
    let start = now_s();
    let mut last = String::new();
    while now_s() - start < 10.0 {
        last = look();
        if last.contains(wanted) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{wanted} never came; last: {last}");
}

#[test]
fn statements_queries_and_state_go_on_after_kill_minus_nine() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    sql(
        &server,
        "CREATE STREAM finds (player VARCHAR KEY, hunt VARCHAR, points INT) WITH (KAFKA_TOPIC='finds', VALUE_FORMAT='JSON', PARTITIONS=2);",
    );
    sql(
        &server,
        "CREATE TABLE totals AS SELECT hunt, SUM(points) AS total, COUNT(*) AS n FROM finds GROUP BY hunt EMIT CHANGES;",
    );
    sql(&server, "INSERT INTO finds (player, hunt, points) VALUES ('ana', 'oak', 5);");
    produce(&server, "finds", "bob|{\"HUNT\":\"oak\",\"POINTS\":7}\ncy|{\"HUNT\":\"elm\",\"POINTS\":1}\n");
    eventually("oak | 12 | 2", || sql(&server, "SELECT * FROM totals WHERE hunt = 'oak';"));
    assert!(sql(&server, "SHOW STREAMS;").contains("FINDS"));
    assert!(sql(&server, "DESCRIBE totals;").contains("TOTAL"));
    let broken = run(&["sql", &server.http, "-e", "SELECT * FROM nowhere EMIT CHANGES;"]);
    assert_eq!(broken.code, 1);
    assert!(broken.err.contains("NOWHERE"), "{}", broken.err);
    assert!(
        std::process::Command::new("kill")
            .args(["-9", &server.pid().to_string()])
            .status()
            .unwrap()
            .success()
    );
    drop(server);
    let server = Server::start(folder.path());
    eventually("oak | 12 | 2", || {
        run(&["sql", &server.http, "-e", "SELECT * FROM totals WHERE hunt = 'oak';"]).out
    });
    produce(&server, "finds", "dee|{\"HUNT\":\"oak\",\"POINTS\":3}\n");
    eventually("oak | 15 | 3", || sql(&server, "SELECT * FROM totals WHERE hunt = 'oak';"));
    let push = run(&["sql", &server.http, "-e", "SELECT hunt, points FROM finds EMIT CHANGES LIMIT 0;"]);
    assert_eq!(push.code, 0, "{}", push.err);
}
