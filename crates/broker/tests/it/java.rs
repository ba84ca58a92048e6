//! Apache Kafka's own Java tools: the transactional copier, the transactions command, a verifiable consumer.

use std::process::Command;

use crate::clients::kcat;
use crate::server::{Server, free_port, run};

fn tool(class: &str, arguments: &[&str]) -> String {
    run(herdsman_testkit::kafka_tool(&format!("org.apache.kafka.tools.{class}")).args(arguments))
}

#[test]
fn the_java_copier_copies_each_record_once_though_it_aborts_at_random() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), free_port());
    let address = server.address();
    let lines: String = (0..5_000).map(|number| format!("{number}\n")).collect();
    kcat(&server, &["-P", "-t", "input", "-X", "enable.idempotence=true"], &lines);
    let copy = ["--broker-list", &address, "--input-topic", "input", "--input-partition", "0"];
    let copy =
        [&copy[..], &["--output-topic", "output", "--consumer-group", "copier", "--transaction-size", "50"]];
    let copy = copy.concat();
    let copy =
        [&copy[..], &["--transactional-id", "copier", "--enable-random-aborts", "--use-group-metadata"]];
    tool("TransactionalMessageCopier", &copy.concat());

    let numbers = |topic| {
        let values = kcat(&server, &["-C", "-t", topic, "-e"], "");
        values.lines().map(|line| line.parse().unwrap()).collect::<Vec<u32>>()
    };
    assert_eq!(numbers("input"), (0..5_000).collect::<Vec<_>>());
    assert_eq!(numbers("output"), numbers("input"));
    let uncommitted =
        kcat(&server, &["-C", "-t", "output", "-e", "-X", "isolation.level=read_uncommitted"], "");
    assert!(uncommitted.lines().count() > 5_000, "some transactions were aborted");

    let command = |arguments: &[&str]| {
        let all = [&["--bootstrap-server", address.as_str()], arguments].concat();
        tool("TransactionsCommand", &all)
    };
    let listed = command(&["list"]);
    assert!(listed.lines().any(|line| line.starts_with("copier") && line.contains("Complete")), "{listed}");
    let described = command(&["describe", "--transactional-id", "copier"]);
    assert!(described.contains("60000"), "{described}");
    let producers = command(&["describe-producers", "--topic", "output", "--partition", "0"]);
    assert!(producers.lines().any(|line| line.contains("None")), "no transaction is open: {producers}");
    let hanging = command(&["find-hanging", "--broker-id", "1"]);
    assert!(!hanging.contains("output") && !hanging.contains("ERROR"), "{hanging}");
}

#[test]
fn the_java_consumer_reads_by_the_consumer_protocol() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), free_port());
    let lines: String = (0..500).map(|number| format!("{number}\n")).collect();
    kcat(&server, &["-P", "-t", "finds"], &lines);
    let address = server.address();
    let mut consumer: Command = herdsman_testkit::kafka_tool("org.apache.kafka.tools.VerifiableConsumer");
    consumer.args(["--bootstrap-server", &address, "--topic", "finds", "--group-id", "readers"]);
    consumer.args(["--group-protocol", "consumer", "--group-remote-assignor", "range"]);
    let said = run(consumer.args(["--max-messages", "500", "--reset-policy", "earliest"]));
    assert!(said.contains("\"name\":\"partitions_assigned\""), "{said}");
    let committed = said.lines().rfind(|line| line.contains("offsets_committed")).unwrap_or_default();
    assert!(committed.contains("\"offset\":500") && committed.contains("\"success\":true"), "{said}");
}
