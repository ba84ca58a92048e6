//! The bus contract on a real Apache Kafka broker.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::time::Duration;

use herdsman_bus::{Bus, BusError, Reader, TopicSpec};
use herdsman_host::{Clock, RealClock};
use herdsman_kafka::{KafkaBus, KafkaOptions};
use herdsman_record::{Batch, BatchBuilder, Compression, EVENT_ID_HEADER, TopicPartition};
use herdsman_testkit::{KafkaServer, free_port};

fn connect(url: &str) -> KafkaBus {
    KafkaBus::connect(url, KafkaOptions::default()).unwrap()
}

fn topic(bus: &KafkaBus, name: &str, partitions: i32, configs: &[(&str, &str)]) {
    let configs: BTreeMap<_, _> = configs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    bus.create_topic(&TopicSpec { name: name.to_owned(), partitions, configs }).unwrap();
}

fn batch(ids: &[&str]) -> Batch {
    let mut builder = BatchBuilder::new();
    for (index, id) in ids.iter().enumerate() {
        let headers = [(EVENT_ID_HEADER, Some(id.as_bytes())), ("empty", None)];
        let value = format!("{{\"id\":\"{id}\"}}");
        let value = (*id != "tombstone").then_some(value.as_bytes());
        builder.append(
            1_700_000_000_000 + i64::try_from(index).unwrap(),
            Some(id.as_bytes()),
            value,
            &headers,
        );
    }
    builder.finish(Compression::None).unwrap()
}

/// Offsets and keys of all records up to `end`, and the position reached.
fn read(reader: &mut dyn Reader, end: i64) -> (Vec<(i64, String)>, i64) {
    let mut found = Vec::new();
    let mut reached = -1;
    for _ in 0..100 {
        for fetched in reader.poll(1 << 20, Duration::from_millis(200)).unwrap() {
            assert!(fetched.high_watermark >= fetched.next_offset);
            for batch in &fetched.batches {
                batch.check_crc().unwrap();
                for record in batch.records().unwrap().iter() {
                    let record = record.unwrap();
                    assert!(record.offset >= fetched.position && record.offset < fetched.next_offset);
                    found.push((record.offset, String::from_utf8(record.key.unwrap().to_vec()).unwrap()));
                }
            }
            reached = fetched.next_offset;
        }
        if reached >= end {
            break;
        }
    }
    (found, reached)
}

fn text(found: &[(i64, String)]) -> String {
    found.iter().map(|(offset, key)| format!("{offset}:{key}")).collect::<Vec<_>>().join(" ")
}

/// One test, so that one broker is started and stopped, and each part leaves its topics to itself.
#[test]
fn a_real_cluster_keeps_the_bus_contract() {
    let mut kafka = KafkaServer::start();
    let bus = connect(&kafka.url());
    topics_come_and_go_with_their_configs(&bus);
    records_come_back_at_their_offsets_with_headers(&bus);
    transactions_write_outputs_and_offsets_together(&bus);
    event_ids_are_accepted_once_also_after_a_restart(&bus);
    speed(&bus);
    a_broker_that_dies_and_comes_back_costs_only_time(&mut kafka);
}

fn topics_come_and_go_with_their_configs(bus: &KafkaBus) {
    topic(bus, "finds", 3, &[("retention.ms", "3600000"), ("herdsman.dedupe.window.ms", "60000")]);
    let again = TopicSpec { name: "finds".into(), partitions: 3, ..Default::default() };
    assert!(matches!(bus.create_topic(&again), Err(BusError::TopicExists(name)) if name == "finds"));
    let bad = TopicSpec { name: "no spaces".into(), partitions: 1, ..Default::default() };
    assert!(matches!(bus.create_topic(&bad), Err(BusError::InvalidTopic { .. })));
    // another process sees the house's configs too
    for bus in [bus.clone(), connect(&bus.url())] {
        let found = bus.topic("finds").unwrap().unwrap();
        assert_eq!(found.partitions, 3);
        assert_eq!(found.configs.get("retention.ms").map(String::as_str), Some("3600000"));
        assert_eq!(found.configs.get("herdsman.dedupe.window.ms").map(String::as_str), Some("60000"));
    }
    assert!(bus.topics().unwrap().iter().any(|topic| topic.name == "finds" && !topic.internal));
    bus.delete_topic("finds").unwrap();
    assert_eq!(bus.topic("finds").unwrap(), None);
    let missing = TopicPartition::new("finds", 0);
    assert!(matches!(bus.offsets(&missing), Err(BusError::UnknownTopic(_))));
}

fn records_come_back_at_their_offsets_with_headers(bus: &KafkaBus) {
    topic(bus, "plain", 2, &[]);
    let (zero, one) = (TopicPartition::new("plain", 0), TopicPartition::new("plain", 1));
    let first = bus.produce(&one, batch(&["a", "b"])).unwrap();
    let second = bus.produce(&one, batch(&["c", "tombstone"])).unwrap();
    assert_eq!((first.base_offset, first.accepted, second.base_offset), (0, 2, 2));
    bus.produce(&zero, batch(&["z"])).unwrap();
    let mut reader = bus.reader(&[(one.clone(), 1)]).unwrap();
    let (found, reached) = read(&mut *reader, 4);
    assert_eq!((text(&found).as_str(), reached), ("1:b 2:c 3:tombstone", 4));
    reader.seek(&one, 0).unwrap();
    let fetched = reader.poll(1 << 20, Duration::from_secs(5)).unwrap();
    let records = fetched[0].batches[0].records().unwrap();
    let record = records.iter().next().unwrap().unwrap();
    assert_eq!((record.offset, record.timestamp_ms), (0, 1_700_000_000_000));
    assert_eq!(record.headers.get(EVENT_ID_HEADER), Some(&b"a"[..]));
    assert_eq!(record.headers.len(), 2);
    let mut beyond = bus.reader(&[(one, 99)]).unwrap();
    let error = (0..50).find_map(|_| beyond.poll(1 << 20, Duration::from_millis(100)).err()).unwrap();
    assert_eq!(error.to_string(), "plain-1 holds offsets 0 to 4, asked for 99");
}

fn transactions_write_outputs_and_offsets_together(bus: &KafkaBus) {
    topic(bus, "claims", 1, &[]);
    let (input, output) = (TopicPartition::new("plain", 1), TopicPartition::new("claims", 0));
    let group = "query_1";
    assert_eq!(bus.committed(group, std::slice::from_ref(&input)).unwrap(), [None]);
    let mut first = bus.committer("query_1-0").unwrap();
    first.commit(vec![(output.clone(), batch(&["a", "b"]))], group, &[(input.clone(), 2)]).unwrap();
    assert_eq!(bus.committed(group, std::slice::from_ref(&input)).unwrap(), [Some(2)]);
    first.commit(vec![(output.clone(), batch(&["c"]))], group, &[(input.clone(), 3)]).unwrap();
    let mut second = bus.committer("query_1-0").unwrap();
    let fenced = first.commit(vec![(output.clone(), batch(&["lost"]))], group, &[(input.clone(), 4)]);
    assert!(matches!(fenced, Err(BusError::Fenced(_))), "{fenced:?}");
    second.commit(vec![(output.clone(), batch(&["d"]))], group, &[(input.clone(), 4)]).unwrap();
    assert_eq!(bus.committed(group, std::slice::from_ref(&input)).unwrap(), [Some(4)]);
    // markers stand between the records: offsets have gaps, and the position passes the last marker
    let end = bus.offsets(&output).unwrap().end;
    let mut reader = bus.reader(&[(output, 0)]).unwrap();
    let (found, reached) = read(&mut *reader, end);
    let keys: Vec<_> = found.iter().map(|(_, key)| key.as_str()).collect();
    assert_eq!(keys, ["a", "b", "c", "d"]);
    assert_eq!((found[1].0, found[2].0, reached), (1, 3, end));
    bus.commit_offsets("other", &[(input.clone(), 1)]).unwrap();
    assert_eq!(bus.committed("other", &[input]).unwrap(), [Some(1)]);
}

fn event_ids_are_accepted_once_also_after_a_restart(bus: &KafkaBus) {
    topic(bus, "checkins", 1, &[("herdsman.dedupe.window.ms", "600000")]);
    let at = TopicPartition::new("checkins", 0);
    let first = bus.produce(&at, batch(&["e1", "e2", "e1"])).unwrap();
    assert_eq!((first.accepted, first.duplicates), (2, 1));
    let later = connect(&bus.url());
    let again = later.produce(&at, batch(&["e2", "e3"])).unwrap();
    assert_eq!((again.base_offset, again.accepted, again.duplicates), (2, 1, 1));
    let none = later.produce(&at, batch(&["e1", "e2"])).unwrap();
    assert_eq!((none.accepted, none.duplicates), (0, 2));
    let mut committer = later.committer("dedupe").unwrap();
    committer.commit(vec![(at.clone(), batch(&["e3", "e4"]))], "g", &[]).unwrap();
    let mut reader = later.reader(&[(at.clone(), 0)]).unwrap();
    let (found, _) = read(&mut *reader, later.offsets(&at).unwrap().end);
    assert_eq!(text(&found), "0:e1 1:e2 2:e3 3:e4");
}

fn a_broker_that_dies_and_comes_back_costs_only_time(kafka: &mut KafkaServer) {
    let options = KafkaOptions { delivery_timeout: Duration::from_secs(2), ..KafkaOptions::default() };
    let bus = KafkaBus::connect(&kafka.url(), options).unwrap();
    topic(&bus, "outage", 1, &[("herdsman.dedupe.window.ms", "600000")]);
    let at = TopicPartition::new("outage", 0);
    bus.produce(&at, batch(&["before"])).unwrap();
    let mut reader = bus.reader(&[(at.clone(), 0)]).unwrap();
    assert_eq!(text(&read(&mut *reader, 1).0), "0:before");
    let mut committer = bus.committer("outage-0").unwrap();
    kafka.kill();
    let failed = bus.produce(&at, batch(&["during"]));
    assert!(matches!(failed, Err(BusError::Unavailable { .. })), "{failed:?}");
    kafka.restart();
    // the id of the failed record was taken back, so that it is no duplicate of itself
    let again = bus.produce(&at, batch(&["during"])).unwrap();
    assert_eq!((again.accepted, again.duplicates), (1, 0));
    committer.commit(vec![(at.clone(), batch(&["after"]))], "outage", &[(at.clone(), 2)]).unwrap();
    let (found, _) = read(&mut *reader, bus.offsets(&at).unwrap().end);
    assert_eq!(text(&found), "1:during 2:after");
}

/// Not a benchmark (dev build, shared cores): keeps an eye on the path a record takes.
fn speed(bus: &KafkaBus) {
    topic(bus, "many", 1, &[]);
    let at = TopicPartition::new("many", 0);
    let ids: Vec<String> = (0..10_000).map(|n| format!("event-{n:06}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let clock = RealClock;
    let start = clock.monotonic_ns();
    for _ in 0..5 {
        bus.produce(&at, batch(&ids)).unwrap();
    }
    let written = clock.monotonic_ns();
    let mut reader = bus.reader(&[(at, 0)]).unwrap();
    let (found, reached) = read(&mut *reader, 50_000);
    let done = clock.monotonic_ns();
    assert_eq!((found.len(), reached), (50_000, 50_000));
    println!(
        "50,000 records: written in {} ms, read in {} ms",
        (written - start) / 1_000_000,
        (done - written) / 1_000_000
    );
}

#[test]
fn a_wrong_address_is_known_at_once_in_one_line() {
    let clock = RealClock;
    let start = clock.monotonic_ns();
    let port = free_port();
    let error =
        KafkaBus::connect(&format!("kafka://127.0.0.1:{port}"), KafkaOptions::default()).err().unwrap();
    let sentence = error.to_string();
    let begin =
        format!("kafka://127.0.0.1:{port}: no Kafka listener at 127.0.0.1:{port} (connection refused)");
    assert!(sentence.starts_with(&begin), "{sentence}");
    assert!(!sentence.contains('\n'));
    // a listener that is no Kafka
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("kafka://{}", other.local_addr().unwrap());
    let error = KafkaBus::connect(&url, KafkaOptions::default()).err().unwrap();
    let answer =
        "accepts connections but does not answer as Kafka does: pass the address of a Kafka listener";
    assert!(error.to_string().ends_with(answer), "{error}");
    assert!(clock.monotonic_ns() - start < 4_000_000_000);
    assert!(KafkaBus::connect("kafka://nowhere", KafkaOptions::default()).is_err());
    let mut options = KafkaOptions::default();
    options.properties.insert("sasl.pasword".to_owned(), "canary".to_owned());
    let sentence = KafkaBus::connect(&url, options).err().unwrap().to_string();
    assert!(sentence.contains("sasl.pasword") && !sentence.contains("canary"), "{sentence}");
}
