//! Mistakes that show only while events flow: told where the operator looks, in the server's log, and in DESCRIBE and EXPLAIN.

use std::collections::BTreeMap;
use std::process::Stdio;

use herdsman_bus::Bus as _;
use herdsman_host::{Clock as _, RealClock};
use herdsman_kafka::{KafkaBus, KafkaOptions};
use herdsman_record::{BatchBuilder, Compression, TopicPartition};

use super::one_line;
use crate::program::{Server, eventually, free_port, herdsman, run};

fn started() -> (tempfile::TempDir, Server) {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    (folder, server)
}

#[test]
fn records_of_another_format_are_told_with_what_they_look_like_and_are_kept() {
    let (_folder, server) = started();
    server.sql("CREATE STREAM finds (hunt VARCHAR) WITH (KAFKA_TOPIC='finds', VALUE_FORMAT='JSON', PARTITIONS=1); CREATE STREAM oaks AS SELECT hunt FROM finds;");
    server.produce("finds", b"\0\0\0\0\x01\x04oak\n");
    let told = "finds-0 offset 0 is not JSON: it begins 00 00 00 00 01, like Avro with schema 1; use VALUE_FORMAT='AVRO' (1 of 1 records, kept in topic CSAS_OAKS_1-dead-letter)";
    assert_eq!(server.says("is not JSON"), format!("{told} query=CSAS_OAKS_1"));
    let described = server.sql("DESCRIBE oaks EXTENDED;");
    assert!(described.ends_with(&format!("errorStats: {told}\n")), "{described}");
    let explained = run(&["sql", &server.http, "--json", "-e", "EXPLAIN CSAS_OAKS_1;"]).out;
    let explained: serde_json::Value = serde_json::from_str(&explained).unwrap();
    assert_eq!(explained[0]["queryDescription"]["queryErrors"][0]["errorMessage"], told);
    let kept =
        ["consume", "--kafka", &server.kafka, "--from-beginning", "--max", "1", "CSAS_OAKS_1-dead-letter"];
    assert_eq!(run(&kept).out, "\0\0\0\0\x01\x04oak\n");
}

#[test]
fn a_dead_cache_is_given_up_aloud_and_the_hunt_goes_on_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let rows = "who,hunt,place,at\nana,oak,JFK,1357034400000\nbob,oak,LGA,1357038000000\n";
    let map = "[columns]\nplayer='who'\nhunt='hunt'\nplace='place'\ntime='at'\n";
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("finds.csv"), rows).unwrap();
    std::fs::write(path("map.toml"), map).unwrap();
    let port = free_port();
    let hunt = run(&[
        "hunt",
        "--cache",
        &format!("redis://127.0.0.1:{port}"),
        "--input",
        &path("finds.csv"),
        "--map",
        &path("map.toml"),
    ]);
    assert_eq!(hunt.code, 0, "{}", hunt.err);
    let (_, told) = one_line_of(&hunt.err, "refused").split_once(" WARN ").unwrap();
    let expected = format!(
        "cache 127.0.0.1:{port} refused 3 tries: reading the system of record, at most 10,000 loads/s, until it answers"
    );
    assert!(told.starts_with(&expected), "{told}");
    assert!(hunt.out.contains("2 in, 2 unique"), "{}", hunt.out);
}

#[test]
fn a_dead_cache_behind_the_proxy_is_told_to_operator_and_client() {
    use std::io::{Read as _, Write as _};
    let (listen, dead) = (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut proxy = herdsman()
        .args(["guard", "proxy", "--listen", &listen, "--cache", &format!("redis://{dead}")])
        .stdout(Stdio::null())
        .stderr(log.reopen().unwrap())
        .spawn()
        .unwrap();
    let told =
        format!("cache {dead} refused 3 tries: every request is answered with an error until it answers");
    let said = eventually(&told, || std::fs::read_to_string(log.path()).unwrap());
    assert_eq!(said.lines().count(), 1, "{said}");
    let mut client = std::net::TcpStream::connect(&listen).unwrap();
    client.write_all(b"*2\r\n$3\r\nGET\r\n$1\r\nx\r\n").unwrap();
    let mut answer = [0; 128];
    let len = client.read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..len]).into_owned();
    assert_eq!(answer, format!("-ERR herdsman guard: cache {dead} does not answer\r\n"));
    proxy.kill().unwrap();
    proxy.wait().unwrap();
}

fn one_line_of<'a>(text: &'a str, wanted: &str) -> &'a str {
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(wanted)).collect();
    assert_eq!(lines.len(), 1, "one line with {wanted} expected:\n{text}");
    lines[0]
}

#[test]
fn late_events_are_counted_and_told_with_the_grace_that_keeps_them() {
    let (_folder, server) = started();
    server.sql("CREATE STREAM finds (hunt VARCHAR KEY, at BIGINT) WITH (KAFKA_TOPIC='finds', VALUE_FORMAT='JSON', PARTITIONS=1, TIMESTAMP='at'); CREATE TABLE finds_per_hunt AS SELECT hunt, COUNT(*) AS n FROM finds WINDOW TUMBLING (SIZE 10 SECONDS, GRACE PERIOD 10 SECONDS) GROUP BY hunt;");
    let at = |s: i64| format!("oak|{{\"AT\":{}}}\n", 1_700_000_000_000 + s * 1_000);
    let late: String = (0..1_204).map(|_| at(42)).collect();
    server.produce("finds", format!("{}{}{late}", at(0), at(107)));
    assert_eq!(
        server.says("late events"),
        "CTAS_FINDS_PER_HUNT_1 dropped 1,204 late events this minute, the latest 48 s past its 10 s grace: GRACE PERIOD 58 SECONDS keeps them query=CTAS_FINDS_PER_HUNT_1"
    );
}

#[test]
fn a_table_whose_messages_have_other_keys_is_told_before_anyone_wonders_why_nothing_joins() {
    let (_folder, server) = started();
    server.sql("CREATE STREAM finds (player VARCHAR KEY, hunt VARCHAR) WITH (KAFKA_TOPIC='finds', VALUE_FORMAT='JSON', PARTITIONS=2); CREATE TABLE players (id VARCHAR PRIMARY KEY, name VARCHAR) WITH (KAFKA_TOPIC='players', VALUE_FORMAT='JSON', PARTITIONS=2);");
    let players: String =
        (0..150).map(|id| format!("row{id}|{{\"id\":\"p{id}\",\"name\":\"ana\"}}\n")).collect();
    server.produce("players", players);
    server.produce("finds", "p1|{\"hunt\":\"oak\"}\n");
    server.sql("SET 'auto.offset.reset'='earliest'; CREATE STREAM named AS SELECT player, hunt, name FROM finds JOIN players ON player = id;");
    let told = "PLAYERS declares ID as key, but the first 100 message keys differ from ID: nothing will join; rekey with PARTITION BY ID";
    assert_eq!(server.says("as key"), format!("{told} query=CSAS_NAMED_2"));
    assert!(server.sql("DESCRIBE named EXTENDED;").contains(told));
}

#[test]
fn seconds_for_milliseconds_are_told_with_both_dates() {
    let (_folder, server) = started();
    server.sql("CREATE STREAM finds (hunt VARCHAR KEY, at BIGINT) WITH (KAFKA_TOPIC='finds', VALUE_FORMAT='JSON', PARTITIONS=1, TIMESTAMP='at'); CREATE STREAM oaks AS SELECT hunt, at FROM finds;");
    server.produce("finds", "oak|{\"at\":1700000000}\n");
    assert_eq!(
        server.says("read as milliseconds"),
        "AT = 1700000000 read as milliseconds is 20 Jan 1970; as seconds it is 14 Nov 2023: use AT * 1000 as the timestamp query=CSAS_OAKS_1"
    );
}

#[test]
fn repeated_event_ids_are_counted_and_the_first_is_named_with_where_it_lies() {
    let (_folder, server) = started();
    let windowed = ["--config", "herdsman.dedupe.window.ms=3600000", "--config", "herdsman.event.id=id"];
    let made = ["topic", "--kafka", &server.kafka, "create", "finds", "--partitions", "3"];
    assert_eq!(run(&[&made[..], &windowed].concat()).code, 0);
    let event = |id: u32| format!("oak|{{\"id\":\"{id:04x}\"}}\n");
    assert_eq!(server.produce("finds", (0x7000..0x7000 + 2_000).map(event).collect::<String>()).code, 0);
    assert_eq!(server.produce("finds", (0x7371..0x7371 + 412).map(event).collect::<String>()).code, 0);
    let at = herdsman_record::partition_for_key(b"oak", 3);
    assert_eq!(
        server.says("repeat an event-id"),
        format!(
            "412 of 2,412 events of finds repeat an event-id (field id) within 1 h and were dropped; first: 7371, already at finds-{at} offset 881"
        )
    );
}

#[test]
fn a_giant_message_is_told_its_size_and_the_limit_on_both_sides() {
    let (_folder, server) = started();
    assert_eq!(run(&["topic", "--kafka", &server.kafka, "create", "t1", "--partitions", "1"]).code, 0);
    let sent = server.produce("t1", vec![b'x'; 3_000_012]);
    assert_eq!(
        (sent.code, one_line(&sent.err)),
        (
            1,
            "herdsman: record of 3,000,012 bytes, max.message.bytes of t1 is 1,048,588: raise it for t1, or send a link to the bytes"
        )
    );
    let told = server.says("max.message.bytes");
    assert!(told.starts_with("record of 3,000,0"), "{told}");
    assert!(
        told.ends_with(
            " bytes, max.message.bytes of t1 is 1,048,588: raise it for t1, or send a link to the bytes"
        ),
        "{told}"
    );
}

#[test]
fn a_producer_ahead_of_the_clock_is_named_with_how_far() {
    let (_folder, server) = started();
    assert_eq!(run(&["topic", "--kafka", &server.kafka, "create", "finds", "--partitions", "1"]).code, 0);
    let properties = BTreeMap::from([("client.id".to_owned(), "gate-7".to_owned())]);
    let bus =
        KafkaBus::connect(&server.kafka, KafkaOptions { properties, ..KafkaOptions::default() }).unwrap();
    let mut builder = BatchBuilder::new();
    builder.append(RealClock.now_ms() + 10_920_000 + 30_000, None, Some(b"{}"), &[]);
    let early = builder.finish(Compression::None).unwrap();
    let refused = bus.produce(&TopicPartition::new("finds", 0), early).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!(
            "the time of a record is too far from the clock of kafka://{}: set the clock here, or raise message.timestamp.after.max.ms of finds",
            server.kafka
        )
    );
    assert_eq!(
        server.says("ahead of this clock"),
        "producer gate-7 is 3 h 2 min ahead of this clock, 1 h is allowed: set its clock, or raise message.timestamp.after.max.ms of finds"
    );
    let insert = "CREATE STREAM finds (a INT) WITH (KAFKA_TOPIC='finds', VALUE_FORMAT='JSON'); INSERT INTO finds (rowtime, a) VALUES (4102444800000, 1);";
    let insert = run(&["sql", &server.http, "-e", insert]);
    assert_eq!(insert.code, 1);
    let line = one_line(&insert.err);
    assert!(
        line.starts_with("herdsman: the producer is ") && line.contains(" ahead of this clock"),
        "{line}"
    );
}
