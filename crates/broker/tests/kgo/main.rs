//! The conformance suite of franz-go's client, against the broker as a process: what passes against Apache Kafka passes here.
//!
//! Apache Kafka 4.3.1: 148 pass, 1 fails for want of the client's sources, 3 are skipped. Here the two of SCRAM run as well, on a
//! listener of their own that asks for a login; one is skipped that wants a broker that does not tell version 0 of Produce.
//! A binary of its own, so that nothing else loads the machine meanwhile. It needs Go 1.26 or later, or one that fetches
//! it; the suite is built once.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "the server's helpers serve other tests as well")]

#[path = "../it/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use server::{Server, free_port};

const VERSION: &str = "1.22.2";
const PASSED_MIN: usize = 150;
/// It reads the sources of the client, which a built suite does not have beside it.
const WANTS_SOURCES: &str = "TestOptValuesCoversEveryOption";
const SKIPPED: [&str; 1] = ["TestIssueProduceBrokerTooOldFailsRecords"];

/// The suite as one program, built once from the Go proxy.
fn suite() -> PathBuf {
    let folder = herdsman_testkit::test_cache().join(format!("kgo-{VERSION}"));
    let program = folder.join("kgo.test");
    if program.exists() {
        return program;
    }
    std::fs::create_dir_all(&folder).unwrap();
    let package = "github.com/twmb/franz-go/pkg/kgo";
    let wanted = format!("{package}@v{VERSION}");
    let fresh = folder.join("kgo.test.new");
    let steps: [&[&str]; 3] = [
        &["mod", "init", "suite"],
        &["get", "-t", &wanted],
        &["test", "-c", "-o", fresh.to_str().unwrap(), package],
    ];
    let _ = std::fs::remove_file(folder.join("go.mod"));
    for step in steps {
        server::run(Command::new("go").args(step).current_dir(&folder));
    }
    std::fs::rename(&fresh, &program).unwrap();
    program
}

/// Names of the tests by outcome: `--- PASS: TestX (0.01s)` at the left margin.
fn outcomes(output: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in output.lines().filter_map(|line| line.strip_prefix("--- ")) {
        if let Some((outcome, rest)) = line.split_once(": ") {
            found.entry(outcome).or_default().push(rest.split(' ').next().unwrap_or(rest));
        }
    }
    found.values_mut().for_each(|names| names.sort_unstable());
    found
}

#[test]
fn what_passes_against_apache_kafka_passes_here() {
    if Command::new("go").arg("version").output().is_err() {
        return println!("SKIPPED: go is not installed");
    }
    let dir = tempfile::tempdir().unwrap();
    let asks_login = free_port();
    let listener = format!("listener=SASL_PLAINTEXT:{asks_login}");
    let server = Server::start_with(dir.path(), free_port(), &[&listener, "user=ana:oak"]);
    let output = Command::new(suite())
        .args(["-test.v", "-test.timeout", "600s"])
        .current_dir(dir.path())
        .env("KGO_SEEDS", server.address())
        .env("KGO_TEST_SCRAM", "ana:oak:512")
        .env("KGO_TEST_SCRAM_SEEDS", format!("127.0.0.1:{asks_login}"))
        .env("KGO_TEST_RF", "1")
        .env("KGO_TEST_RECORDS", "20000")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&output.stdout);
    let found = outcomes(&output);
    let of = |outcome: &str| found.get(outcome).cloned().unwrap_or_default();
    let report: String = output
        .lines()
        .filter(|line| line.contains("--- FAIL") || line.contains("_test.go:") || line.contains("panic:"))
        .take(60)
        .map(|line| format!("{line}\n"))
        .collect();
    println!("{} passed, failed {:?}, skipped {:?}", of("PASS").len(), of("FAIL"), of("SKIP"));
    assert_eq!(of("FAIL"), [WANTS_SOURCES], "{report}");
    assert_eq!(of("SKIP"), SKIPPED);
    assert!(of("PASS").len() >= PASSED_MIN, "{report}");
}
