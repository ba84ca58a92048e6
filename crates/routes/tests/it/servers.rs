//! One route into PostgreSQL 15 and QuestDB 9.1 at once, while PostgreSQL is killed and comes back.
//!
//! PostgreSQL comes from the system (`/usr/lib/postgresql/*/bin`), QuestDB from Maven Central into
//! `HERDSMAN_TEST_CACHE` (default: `test-cache` in the target folder).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{bus, committed, consume, free_port, produce, start, wait_for};

/// A server process that dies with the test.
struct Server {
    child: Child,
}

impl Server {
    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// `program` as user postgres when we are root (PostgreSQL refuses to run as root).
fn as_postgres(program: &Path) -> Command {
    if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
        return command;
    }
    Command::new(program)
}

fn postgres_bin() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("install postgresql");
    let found =
        versions.flatten().map(|entry| entry.path().join("bin")).find(|path| path.join("postgres").exists());
    found.expect("install postgresql")
}

fn init_postgres(folder: &Path) {
    if is_root() {
        let owned = Command::new("chown").arg("-R").arg("postgres").arg(folder).status().unwrap();
        assert!(owned.success());
    }
    let made = as_postgres(&postgres_bin().join("initdb"))
        .args(["-A", "trust", "-N", "-U", "postgres", "-D"])
        .arg(folder)
        .current_dir("/")
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
}

fn start_postgres(folder: &Path, port: u16) -> Server {
    let child = as_postgres(&postgres_bin().join("postgres"))
        .args([
            "-p",
            &port.to_string(),
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "unix_socket_directories=",
            "-D",
        ])
        .arg(folder)
        .current_dir("/")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Server { child }
}

fn psql(port: u16, sql: &str) -> Option<String> {
    let output = Command::new(postgres_bin().join("psql"))
        .args(["-h", "127.0.0.1", "-U", "postgres", "-p", &port.to_string(), "-At", "-F", "|", "-c", sql])
        .stderr(Stdio::null())
        .output()
        .unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

fn questdb_jar() -> PathBuf {
    let cache = std::env::var_os("HERDSMAN_TEST_CACHE").map_or_else(
        || std::env::current_exe().unwrap().ancestors().nth(3).unwrap().join("test-cache"),
        PathBuf::from,
    );
    let folder = cache.join("questdb-9.1.0");
    let jar = folder.join("questdb-9.1.0.jar");
    if !jar.exists() {
        let pom = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/questdb/pom.xml");
        let fetched = Command::new("mvn")
            .args(["-q", "-B", "-f"])
            .arg(pom)
            .arg("dependency:copy-dependencies")
            .arg(format!("-DoutputDirectory={}", folder.display()))
            .status()
            .expect("install maven and a JDK");
        assert!(fetched.success(), "mvn could not fetch org.questdb:questdb:9.1.0");
    }
    jar
}

fn start_questdb(folder: &Path, port: u16) -> Server {
    let child = Command::new("java")
        .arg("-Xmx512m")
        .arg("-p")
        .arg(questdb_jar())
        .args(["-m", "io.questdb/io.questdb.ServerMain", "-d"])
        .arg(folder)
        .env("QDB_HTTP_BIND_TO", format!("127.0.0.1:{port}"))
        .env("QDB_HTTP_MIN_ENABLED", "false")
        .env("QDB_PG_ENABLED", "false")
        .env("QDB_LINE_TCP_ENABLED", "false")
        .env("QDB_METRICS_ENABLED", "false")
        .env("QDB_TELEMETRY_ENABLED", "false")
        .env("QDB_SHARED_WORKER_COUNT", "2")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("install a JDK");
    Server { child }
}

fn questdb(port: u16, sql: &str) -> Option<Value> {
    let query: String = sql.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut response = agent.get(format!("http://127.0.0.1:{port}/exec?query={query}")).call().ok()?;
    let text = response.body_mut().read_to_string().ok()?;
    serde_json::from_str(&text).ok()
}

fn routes(postgres: u16, questdb: u16) -> String {
    format!(
        r#"
- errorHandler:
    deadLetterChannel:
      deadLetterUri: "kafka:claims.dead"
      redeliveryPolicy: {{maximumRedeliveries: -1, redeliveryDelay: 50, backOffMultiplier: 2, maximumRedeliveryDelay: 1s}}
- route:
    id: claims-to-platforms
    from:
      uri: "kafka:claims?maxPollRecords=500"
      steps:
        - filter:
            simple: "${{body.points}} > 9"
            steps:
              - multicast:
                  parallelProcessing: true
                  steps:
                    - to: "postgresql:127.0.0.1:{postgres}/postgres?table=claims&columns=event_id,player,points:bigint,at:timestamptz"
                    - to: "questdb:127.0.0.1:{questdb}/claims?timestamp=at&symbols=player"
- route:
    id: leaderboard-to-platforms
    from:
      uri: kafka:leaderboard
      steps:
        - multicast:
            steps:
              - to: "postgresql:127.0.0.1:{postgres}/postgres?table=leaderboard&key=hunt,player"
              - to: "questdb:127.0.0.1:{questdb}/leaderboard?symbols=hunt,player&key=hunt,player"
"#
    )
}

const FIRST_MS: i64 = 1_700_000_000_000;

/// Claims with event ids; of each 100, index 17 has points that are no number, and it is poison to both.
fn claims(from: usize, to: usize) -> Vec<(String, String, String)> {
    (from..to)
        .map(|index| {
            let points = if index % 100 == 17 { json!("99x") } else { json!(index % 50) };
            let player = format!("N{}", index % 13);
            let at = FIRST_MS + i64::try_from(index).unwrap();
            let claim = json!({"player": player, "points": points, "at": at, "note": "a, \"b\" = c"});
            (format!("c{index}"), player, claim.to_string())
        })
        .collect()
}

#[test]
fn one_route_feeds_postgresql_and_questdb_through_an_outage_and_each_row_is_there_once() {
    let folder = tempfile::Builder::new().prefix("routes-").tempdir_in("/tmp").unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).unwrap();
    let (data, quest) = (folder.path().join("pg"), folder.path().join("quest"));
    std::fs::create_dir(&data).unwrap();
    std::fs::create_dir(&quest).unwrap();
    let (pg_port, quest_port) = (free_port(), free_port());
    let _quest = start_questdb(&quest, quest_port);
    init_postgres(&data);
    let mut postgres = start_postgres(&data, pg_port);
    wait_for("PostgreSQL", 30, || psql(pg_port, "SELECT 1").is_some());
    wait_for("QuestDB", 120, || questdb(quest_port, "SELECT 1").is_some());

    let bus = bus(&["claims", "leaderboard"]);
    produce(&bus, "claims", &claims(0, 2000));
    let boards: Vec<_> = (0..300)
        .map(|index| {
            let board = json!({"hunt": format!("H{}", index % 3), "player": format!("N{}", index % 10), "points": index});
            (format!("b{index}"), format!("{}", index % 30), board.to_string())
        })
        .collect();
    produce(&bus, "leaderboard", &boards);
    let handle = start(&bus, &routes(pg_port, quest_port), folder.path());
    assert!(handle.drain(Duration::from_secs(60)), "{:?}", handle.stats());

    // the outage: records go on coming, the route retries with backoff, nothing is committed meanwhile
    postgres.kill();
    produce(&bus, "claims", &claims(2000, 5000));
    wait_for("retries", 30, || handle.stats()[0].retried > 0);
    assert!(!handle.drain(Duration::from_millis(500)));
    assert_eq!(committed(&bus, "claims-to-platforms", "claims"), 2000);
    assert_eq!(handle.stats()[0].lag, 3000);
    std::thread::sleep(Duration::from_millis(300));
    let _postgres = start_postgres(&data, pg_port);
    assert!(handle.drain(Duration::from_secs(60)), "{:?}", handle.stats());
    // the same claims once more, as a producer that retries would send them
    produce(&bus, "claims", &claims(4000, 5000));
    assert!(handle.drain(Duration::from_secs(60)));
    let stats = handle.stop();
    assert_eq!(stats[0].lag, 0);

    let expected: BTreeMap<String, (String, i64, i64)> = (0..5000_i64)
        .filter(|index| index % 100 != 17 && index % 50 > 9)
        .map(|index| (format!("c{index}"), (format!("N{}", index % 13), index % 50, FIRST_MS + index)))
        .collect();
    let sql = "SELECT event_id, player, points, (extract(epoch FROM at) * 1000)::bigint FROM claims";
    let rows: Vec<String> = psql(pg_port, sql).unwrap().lines().map(str::to_owned).collect();
    let found: BTreeMap<String, (String, i64, i64)> = rows
        .iter()
        .map(|row| {
            let cells: Vec<&str> = row.split('|').collect();
            (cells[0].to_owned(), (cells[1].to_owned(), cells[2].parse().unwrap(), cells[3].parse().unwrap()))
        })
        .collect();
    assert_eq!(rows.len(), expected.len());
    assert_eq!(found, expected);

    let count = |sql: &str| questdb(quest_port, sql).and_then(|reply| reply["dataset"][0][0].as_i64());
    let wanted = i64::try_from(expected.len()).unwrap();
    wait_for("QuestDB's rows", 60, || count("SELECT count() FROM claims") == Some(wanted));
    let sql = "SELECT event_id, player, points, cast(timestamp AS long) / 1000, note FROM claims";
    let reply = questdb(quest_port, sql).unwrap();
    let found: BTreeMap<String, (String, i64, i64)> = reply["dataset"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            assert_eq!(row[4], "a, \"b\" = c");
            let text = |cell: &Value| cell.as_str().unwrap().to_owned();
            (text(&row[0]), (text(&row[1]), row[2].as_i64().unwrap(), row[3].as_i64().unwrap()))
        })
        .collect();
    assert_eq!(found, expected);

    // poison: compared as text "99x" > 9 holds, then both platforms refuse it
    let dead = consume(&bus, "claims.dead");
    assert_eq!(dead.len(), (50 + 10) * 2, "{stats:?}");
    assert!(dead.iter().all(|found| found.value.contains("99x")));
    let reasons =
        |word: &str| dead.iter().filter(|f| f.headers["herdsman-dead-letter-reason"].contains(word)).count();
    assert_eq!((reasons("postgresql: column points is"), reasons("/write answered 400")), (60, 60));

    // the leaderboard: last update per player wins
    let board = psql(pg_port, "SELECT count(*), min(points), max(points) FROM leaderboard").unwrap();
    assert_eq!(board, "30|270|299");
}
