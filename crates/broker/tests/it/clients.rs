//! kcat, confluent-kafka, kafka-python, aiokafka and KafkaJS, as they are.

use std::io::Write;
use std::process::{Command, Stdio};

use herdsman_testkit::kafka_python as python;

use crate::server::{Server, free_port, node_modules, run, scripts};

pub(crate) fn kcat(server: &Server, arguments: &[&str], input: &str) -> String {
    let mut child = herdsman_testkit::system_program("kcat")
        .args(["-b", &server.address(), "-q"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kcat is installed (apt-get install kcat)");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kcat {arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn kcat_produces_and_consumes_with_every_codec_by_time_and_as_a_group() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), free_port());
    let lines: String = (0..2_000).map(|number| format!("k{number}:{{\"n\":{number}}}\n")).collect();
    let values: String = (0..2_000).map(|number| format!("{{\"n\":{number}}}\n")).collect();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = format!("finds-{codec}");
        kcat(&server, &["-P", "-t", &topic, "-K", ":", "-z", codec, "-X", "enable.idempotence=true"], &lines);
        assert_eq!(kcat(&server, &["-C", "-t", &topic, "-e"], ""), values, "{codec}");
        let tail = kcat(&server, &["-C", "-t", &topic, "-e", "-o", "-3", "-f", "%k@%o\n"], "");
        assert_eq!(tail, "k1997@1997\nk1998@1998\nk1999@1999\n");
    }
    let group = ["-G", "g", "-e", "-X", "auto.offset.reset=earliest", "finds-none"];
    assert_eq!(kcat(&server, &group, ""), values);
    assert_eq!(kcat(&server, &group, ""), "", "the group goes on where it stopped");
    let offset = kcat(&server, &["-Q", "-t", "finds-none:0:1"], "");
    assert_eq!(offset.trim(), "finds-none [0] offset 0");
    let listing = kcat(&server, &["-L"], "");
    assert!(listing.contains("topic \"finds-zstd\" with 1 partitions"), "{listing}");
}

#[test]
fn python_clients_administer_produce_and_consume_as_a_group_that_loses_a_member() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), free_port());
    for part in ["confluent", "kafka_python"] {
        let said =
            run(Command::new(python()).arg(scripts().join("clients.py")).arg(part).arg(server.address()));
        assert!(said.ends_with("all good\n"), "{part}: {said}");
    }
}

#[test]
fn aiokafka_reads_as_a_group_that_loses_a_member_and_copies_in_transactions() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), free_port());
    let said = run(Command::new(python()).arg(scripts().join("aio.py")).arg(server.address()));
    assert!(said.ends_with("all good\n"), "{said}");
}

#[test]
fn kafkajs_reads_as_a_group_that_loses_a_member_and_writes_in_transactions() {
    let Some(modules) = node_modules() else {
        return println!("SKIPPED: node and npm are not installed");
    };
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), free_port());
    let mut node = Command::new("node");
    node.arg(scripts().join("kafkajs.cjs")).arg(server.address()).env("NODE_PATH", modules);
    let said = run(&mut node);
    assert!(said.ends_with("all good\n"), "{said}");
}
