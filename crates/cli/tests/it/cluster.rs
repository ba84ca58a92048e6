//! The hunt on a real Apache Kafka, and its SQL on a real Apache Flink over it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use testkit::KafkaServer;

use crate::program::{herdsman, hunt, run, said};

const POM: &str = include_str!("../../../../tests/flink/pom.xml");
const RUNNER: &str = include_str!("../../../../tests/flink/RunScript.java");
/// Packages that Flink's serializers open by reflection.
const OPENS: [&str; 6] =
    ["java.lang", "java.util", "java.util.concurrent", "java.time", "java.net", "java.io"];

/// Flink's jars and the compiled runner, made once.
fn flink() -> PathBuf {
    let folder = testkit::test_cache().join("flink-2.2.0");
    if folder.exists() {
        return folder;
    }
    let work = tempfile::TempDir::new_in(testkit::test_cache()).unwrap();
    std::fs::write(work.path().join("pom.xml"), POM).unwrap();
    let libs = work.path().join("libs");
    let fetched = Command::new("mvn")
        .args(["-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"])
        .arg(format!("-DoutputDirectory={}", libs.display()))
        .current_dir(work.path())
        .status()
        .unwrap();
    assert!(fetched.success(), "mvn could not fetch Flink's jars");
    let source = work.path().join("RunScript.java");
    std::fs::write(&source, RUNNER).unwrap();
    let compiled = Command::new("javac")
        .arg("-cp")
        .arg(format!("{}/*", libs.display()))
        .arg("-d")
        .arg(&libs)
        .arg(&source)
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let _ = std::fs::rename(&libs, &folder);
    assert!(folder.exists());
    folder
}

fn run_on_flink(script: &Path) {
    let libs = flink();
    let mut java = Command::new("java");
    for package in OPENS {
        java.arg(format!("--add-opens=java.base/{package}=ALL-UNNAMED"));
    }
    let output = java
        .args(["-Xmx2g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp"])
        .arg(format!("{0}:{0}/*", libs.display()))
        .arg("RunScript")
        .arg(script)
        .arg("240")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Values of a topic's records, counted.
fn rows(kafka: &str, topic: &str, columns: &[&str]) -> BTreeMap<String, u32> {
    let output = herdsman()
        .args(["consume", "--kafka", kafka, "--from-beginning", "--exit-at-end", topic])
        .output()
        .unwrap();
    let said = said(&output);
    assert_eq!(said.code, 0, "{}", said.err);
    let mut rows = BTreeMap::new();
    for line in said.out.lines().filter(|line| !line.is_empty()) {
        let value: Value = serde_json::from_str(line).unwrap();
        let row: Vec<String> = columns.iter().map(|column| value[*column].to_string()).collect();
        *rows.entry(row.join(" ")).or_default() += 1;
    }
    rows
}

#[test]
fn the_hunt_on_apache_kafka_ends_as_on_the_embedded_bus_and_flink_finds_the_same_windows() {
    let kafka = KafkaServer::start();
    let on_kafka = hunt(&["--bus", &kafka.url()]);
    let embedded = hunt(&[]);
    for key in ["events_in", "events_unique", "treasures", "claims", "clues", "fouls", "leaderboard"] {
        assert_eq!(on_kafka[key], embedded[key], "{key}");
    }

    // The hunt's rounds, exported; Flink writes them beside ours and both are compared row by row.
    let folder = tempfile::tempdir().unwrap();
    let sql = folder.path().join("rounds.sql");
    let shared = herdsman_hunt::SQL.replace("KAFKA_TOPIC = 'rounds'", "KAFKA_TOPIC = 'flink_rounds'");
    std::fs::write(&sql, shared).unwrap();
    let output = herdsman()
        .args([
            "sql",
            "export",
            "--engine",
            "flink",
            "--bounded",
            "--skip-unsupported",
            "--kafka",
            &kafka.address(),
        ])
        .arg(&sql)
        .output()
        .unwrap();
    let exported = said(&output);
    assert_eq!(exported.code, 0, "{}", exported.err);
    assert!(
        exported.err.contains("a cache-backed table"),
        "what Flink cannot express is named: {}",
        exported.err
    );
    let script = folder.path().join("rounds.flink.sql");
    std::fs::write(&script, only(&exported.out, "ROUNDS", "CHECKINS")).unwrap();
    assert_eq!(run(&["topic", "--kafka", &kafka.address(), "create", "flink_rounds"]).code, 0);
    run_on_flink(&script);
    let columns = ["FLEET", "RUNNER", "STEPS", "ON_TIME", "MOMENTS", "SIGHTINGS"];
    let ours = rows(&kafka.address(), "rounds", &columns);
    let theirs = rows(&kafka.address(), "flink_rounds", &columns);
    assert!(ours.len() > 10_000, "{}", ours.len());
    let ours: BTreeMap<_, _> = ours.into_iter().collect();
    let theirs: BTreeMap<_, _> = theirs.into_iter().filter(|(row, _)| !row.contains("\"bell\"")).collect();
    let missing: Vec<_> =
        ours.iter().filter(|(row, count)| theirs.get(*row) != Some(count)).take(3).collect();
    let extra: Vec<_> = theirs.iter().filter(|(row, count)| ours.get(*row) != Some(count)).take(3).collect();
    assert!(missing.is_empty() && extra.is_empty(), "only ours: {missing:?}; only Flink's: {extra:?}");
}

/// The parts of an exported script that make and fill table `sink` from `source`.
fn only(script: &str, sink: &str, source: &str) -> String {
    let (tables, inserts) = script.split_once("EXECUTE STATEMENT SET").unwrap();
    let mut out = String::new();
    for table in tables.split_inclusive(";\n") {
        let wanted = !table.contains("CREATE TABLE")
            || [sink, source].iter().any(|name| {
                table.contains(&format!("CREATE TABLE `{name}` "))
                    || table.contains(&format!("CREATE TABLE {name} "))
            });
        if wanted {
            out.push_str(table);
        }
    }
    let body = inserts.trim_start().trim_start_matches("BEGIN").trim_end().trim_end_matches("END;");
    let insert = body
        .split_inclusive(";\n")
        .find(|insert| {
            insert.contains(&format!("INSERT INTO `{sink}`"))
                || insert.contains(&format!("INSERT INTO {sink}"))
        })
        .unwrap_or_else(|| panic!("no INSERT INTO {sink} in:\n{script}"));
    out.push_str("EXECUTE STATEMENT SET\nBEGIN\n");
    out.push_str(insert.trim_start());
    out.push_str("END;\n");
    out
}
