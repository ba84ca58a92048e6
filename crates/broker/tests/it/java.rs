//! Apache Kafka's own Java tools: the transactional copier, verifiable consumers, the scripts of its administrators, and
//! `kafka-dump-log` on our segments.

use std::path::Path;
use std::process::Command;

use crate::clients::kcat;
use crate::server::{Server, free_port, run};

fn tool(class: &str, arguments: &[&str]) -> String {
    run(herdsman_testkit::kafka_tool(&format!("org.apache.kafka.tools.{class}")).args(arguments))
}

/// Whether a line holds all these words, in this order.
fn has_line(text: &str, words: &[&str]) -> bool {
    text.lines().any(|line| {
        let mut found = line.split_whitespace();
        words.iter().all(|word| found.any(|one| one == *word))
    })
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

#[test]
fn java_share_consumers_take_each_record_once_between_them() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), free_port());
    let lines: String = (0..500).map(|number| format!("{number}\n")).collect();
    kcat(&server, &["-P", "-t", "finds"], &lines);
    let address = server.address();
    let consumer = |messages: &str| {
        let mut consumer: Command =
            herdsman_testkit::kafka_tool("org.apache.kafka.tools.VerifiableShareConsumer");
        consumer.args(["--bootstrap-server", &address, "--topic", "finds", "--group-id", "workers"]);
        consumer.args(["--offset-reset-strategy", "earliest", "--acknowledgement-mode", "sync"]);
        consumer.args(["--max-messages", messages]);
        consumer
    };
    let said = run(&mut consumer("500"));
    let count = |name: &str| -> u64 {
        let lines = said.lines().filter(|line| line.contains(name));
        let numbers =
            lines.filter_map(|line| line.rsplit_once("\"count\":")?.1.split([',', '}']).next()?.parse().ok());
        numbers.max().unwrap_or(0)
    };
    assert!(said.contains("offsets_acknowledged"), "{said}");
    assert!(count("records_consumed") > 0, "{said}");
    let group = |arguments: &[&str]| {
        tool(
            "consumer.group.ShareGroupCommand",
            &[&["--bootstrap-server", address.as_str()], arguments].concat(),
        )
    };
    assert!(group(&["--list"]).lines().any(|line| line.trim() == "workers"));
    let described = group(&["--describe", "--group", "workers"]);
    let place = described.lines().find(|line| line.contains("finds")).unwrap_or_default();
    assert!(place.split_whitespace().any(|word| word == "500"), "all are done with: {described}");
    let state = dir.path().join("topics/__share_group_state-0/00000000000000000000.log");
    let dumped =
        tool("DumpLogSegments", &["--files", state.to_str().unwrap(), "--share-group-state-decoder"]);
    assert!(dumped.contains("\"startOffset\":500"), "{dumped}");
}

#[test]
fn the_administrators_scripts_do_their_work() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), free_port());
    let address = server.address();
    let at = ["--bootstrap-server", address.as_str()];
    let topics = |arguments: &[&str]| tool("TopicCommand", &[&at, arguments].concat());
    let groups = |arguments: &[&str]| tool("consumer.group.ConsumerGroupCommand", &[&at, arguments].concat());
    let configs = |arguments: &[&str]| {
        run(herdsman_testkit::kafka_tool("kafka.admin.ConfigCommand").args([&at, arguments].concat()))
    };
    topics(&["--create", "--topic", "orders", "--partitions", "3", "--config", "retention.ms=90000000"]);
    topics(&["--alter", "--topic", "orders", "--partitions", "4"]);
    let described = topics(&["--describe", "--topic", "orders"]);
    assert!(has_line(&described, &["PartitionCount:", "4", "retention.ms=90000000"]), "{described}");

    let orders = ["--entity-type", "topics", "--entity-name", "orders"];
    configs(&[&["--alter", "--add-config", "cleanup.policy=[compact,delete]"][..], &orders].concat());
    configs(&[&["--alter", "--delete-config", "retention.ms"][..], &orders].concat());
    let described = configs(&[&["--describe"][..], &orders].concat());
    assert!(described.contains("cleanup.policy=compact,delete"), "{described}");
    assert!(!described.contains("retention.ms"), "{described}");
    let workers = ["--entity-type", "groups", "--entity-name", "workers"];
    configs(&[&["--alter", "--add-config", "share.isolation.level=read_committed"][..], &workers].concat());
    let described = configs(&[&["--describe"][..], &workers].concat());
    assert!(described.contains("share.isolation.level=read_committed"), "{described}");

    let lines: String = (0..100).map(|number| format!("key:value-{number}\n")).collect();
    kcat(&server, &["-P", "-t", "orders", "-p", "0", "-K", ":", "-z", "lz4"], &lines);
    placement_is_told_and_no_other_is_taken(&server, dir.path());
    kcat(&server, &["-G", "readers", "-e", "-X", "auto.offset.reset=earliest", "orders"], "");
    assert!(has_line(&groups(&["--list"]), &["readers"]));
    groups(&[
        "--reset-offsets",
        "--group",
        "readers",
        "--topic",
        "orders:0",
        "--to-offset",
        "40",
        "--execute",
    ]);
    let described = groups(&["--describe", "--group", "readers"]);
    assert!(has_line(&described, &["readers", "orders", "0", "40", "100", "60"]), "{described}");
    groups(&["--delete", "--group", "readers"]);
    assert!(!has_line(&groups(&["--list"]), &["readers"]));

    let segment = |topic: &str| {
        let path = dir.path().join("topics").join(topic).join("00000000000000000000.log");
        path.to_str().unwrap().to_owned()
    };
    let dumped =
        tool("DumpLogSegments", &["--files", &segment("orders-0"), "--print-data-log", "--deep-iteration"]);
    assert!(dumped.contains("compresscodec: lz4") && dumped.contains("payload: value-99"), "{dumped}");
    let dumped = tool("DumpLogSegments", &["--files", &segment("__consumer_offsets-0"), "--offsets-decoder"]);
    assert!(dumped.contains("\"group\":\"readers\"") && dumped.contains("\"offset\":40"), "{dumped}");
}

/// kafka-log-dirs, kafka-leader-election and kafka-reassign-partitions on the topic `orders` of four partitions.
fn placement_is_told_and_no_other_is_taken(server: &Server, dir: &Path) {
    let address = server.address();
    let at = ["--bootstrap-server", address.as_str()];
    let told = tool("LogDirsCommand", &[&at[..], &["--describe", "--topic-list", "orders"]].concat());
    let size = std::fs::metadata(dir.join("topics/orders-0/00000000000000000000.log")).unwrap().len();
    assert!(size > 0);
    assert!(told.contains(&format!("\"partition\":\"orders-0\",\"size\":{size},")), "{size}: {told}");
    assert!(told.contains("\"partition\":\"orders-3\",\"size\":0,"), "{told}");
    assert!(!told.contains("__consumer_offsets"), "only what was asked for: {told}");
    let elect = ["--election-type", "preferred", "--topic", "orders", "--partition", "0"];
    let told = tool("LeaderElectionCommand", &[&at[..], &elect].concat());
    assert!(told.contains("already elected"), "{told}");

    let reassign = |arguments: &[&str]| {
        let mut command =
            herdsman_testkit::kafka_tool("org.apache.kafka.tools.reassign.ReassignPartitionsCommand");
        let output = command.args(at).args(arguments).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let told = reassign(&["--list"]);
    assert!(told.contains("No partition reassignments found"), "{told}");
}
