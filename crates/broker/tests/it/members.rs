//! A member of a group is killed without notice: the other one reads on exactly where the last commit says.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use herdsman_testkit::{Process, kafka_tool};

use crate::clients::kcat;
use crate::server::{Server, free_port};

const SESSION_MS: &str = "6000";
const PARTITIONS: i32 = 2;
const BATCH: i64 = 100;

/// Partition and offset of a record that a member says it has read.
type Place = (i32, i64);

/// The places in what a member has written, by the meaning of one line.
fn places(log: &Path, place: fn(&str) -> Option<Place>) -> Vec<Place> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().filter_map(place).collect()
}

fn produce(server: &Server) {
    let lines: String = (0..BATCH).map(|number| format!("{number}\n")).collect();
    for partition in 0..PARTITIONS {
        kcat(server, &["-P", "-t", "finds", "-p", &partition.to_string()], &lines);
    }
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..600 {
        if done() {
            return;
        }
        sleep(Duration::from_millis(100));
    }
    panic!("after a minute still not: {what}");
}

/// Runs two members that `member` makes, kills one, and holds what the other reads to what was committed.
fn the_rest_takes_over(member: impl Fn(&Server) -> Command, place: fn(&str) -> Option<Place>) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), free_port(), &[]);
    let mut topic = kafka_tool("org.apache.kafka.tools.TopicCommand");
    topic.args([
        "--bootstrap-server",
        &server.address(),
        "--create",
        "--topic",
        "finds",
        "--partitions",
        "2",
    ]);
    crate::server::run(&mut topic);
    let logs = [dir.path().join("first.txt"), dir.path().join("second.txt")];
    let mut first = Process::start(member(&server), &logs[0]);
    let _second = Process::start(member(&server), &logs[1]);

    // until each has a partition: what comes before may be read by either
    let mut before = 0;
    let count = |log: &Path| places(log, place).len();
    wait_until("both members read", || {
        let counts = [count(&logs[0]), count(&logs[1])];
        produce(&server);
        before += BATCH;
        sleep(Duration::from_millis(400));
        count(&logs[0]) > counts[0] && count(&logs[1]) > counts[1]
    });
    let read_by_both = |from: i64, to: i64| {
        let read = logs.iter().flat_map(|log| places(log, place)).collect::<std::collections::HashSet<_>>();
        (0..PARTITIONS).all(|partition| (from..to).all(|offset| read.contains(&(partition, offset))))
    };
    wait_until("all is read", || read_by_both(0, before));
    sleep(Duration::from_millis(1_500)); // many commit intervals
    let seen = count(&logs[1]);

    first.kill();
    produce(&server);
    produce(&server);
    let after = before + 2 * BATCH;
    wait_until("the other has taken over", || read_by_both(before, after));
    let mut rest = places(&logs[1], place).split_off(seen);
    rest.sort_unstable();
    let wanted: Vec<Place> = (0..PARTITIONS)
        .flat_map(|partition| (before..after).map(move |offset| (partition, offset)))
        .collect();
    assert_eq!(rest, wanted, "each record after the commits, once, and none before them");
}

#[test]
fn the_java_consumer_takes_over_the_partitions_of_a_killed_member() {
    fn number<T: std::str::FromStr>(line: &str, name: &str) -> Option<T> {
        let rest = line.split_once(&format!("\"{name}\":"))?.1;
        rest.split([',', '}']).next()?.parse().ok()
    }
    let member = |server: &Server| {
        let mut java = kafka_tool("org.apache.kafka.tools.VerifiableConsumer");
        java.args(["--bootstrap-server", &server.address(), "--topic", "finds", "--group-id", "readers"]);
        java.args(["--session-timeout", SESSION_MS, "--reset-policy", "earliest", "--verbose"]);
        java
    };
    the_rest_takes_over(member, |line| {
        let record = line.contains("\"name\":\"record_data\"");
        record.then(|| Some((number(line, "partition")?, number(line, "offset")?))).flatten()
    });
}
