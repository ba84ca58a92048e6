//! SQL over REST, and what outlives a restart.

use crate::program::{Server, eventually, run};

fn sends(server: &Server, lines: &str) {
    let sent = server.produce("finds", lines);
    assert_eq!(sent.code, 0, "{}", sent.err);
}

#[test]
fn statements_queries_and_state_go_on_after_kill_minus_nine() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    server.sql(
        "CREATE STREAM finds (player VARCHAR KEY, hunt VARCHAR, points INT) WITH (KAFKA_TOPIC='finds', VALUE_FORMAT='JSON', PARTITIONS=2);",
    );
    server.sql(
        "CREATE TABLE totals AS SELECT hunt, SUM(points) AS total, COUNT(*) AS n FROM finds GROUP BY hunt EMIT CHANGES;",
    );
    server.sql("INSERT INTO finds (player, hunt, points) VALUES ('ana', 'oak', 5);");
    sends(&server, "bob|{\"HUNT\":\"oak\",\"POINTS\":7}\ncy|{\"HUNT\":\"elm\",\"POINTS\":1}\n");
    eventually("oak | 12 | 2", || server.sql("SELECT * FROM totals WHERE hunt = 'oak';"));
    assert!(server.sql("SHOW STREAMS;").contains("FINDS"));
    assert!(server.sql("DESCRIBE totals;").contains("TOTAL"));
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
    sends(&server, "dee|{\"HUNT\":\"oak\",\"POINTS\":3}\n");
    eventually("oak | 15 | 3", || server.sql("SELECT * FROM totals WHERE hunt = 'oak';"));
    let push = run(&["sql", &server.http, "-e", "SELECT hunt, points FROM finds EMIT CHANGES LIMIT 0;"]);
    assert_eq!(push.code, 0, "{}", push.err);
}
