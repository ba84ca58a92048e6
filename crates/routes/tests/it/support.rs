//! What the tests share: topics filled with records, routes run to the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use herdsman_bus::memory::MemoryBus;
use herdsman_bus::{Bus, TopicSpec};
use herdsman_host::RealClock;
use herdsman_record::{BatchBuilder, Compression, TopicPartition, partition_for_key};
use herdsman_routes::{RouteSet, RoutesHandle};

/// A bus with `topics` of two partitions each.
pub fn bus(topics: &[&str]) -> Arc<MemoryBus> {
    let bus = MemoryBus::new();
    for topic in topics {
        bus.create_topic(&TopicSpec { name: (*topic).into(), partitions: 2, ..Default::default() }).unwrap();
    }
    Arc::new(bus)
}

/// Produces keyed records with event ids; the timestamp is 1.7e12 plus the index, in milliseconds.
pub fn produce(bus: &MemoryBus, topic: &str, records: &[(String, String, String)]) {
    let mut builders: BTreeMap<i32, BatchBuilder> = BTreeMap::new();
    for (index, (id, key, value)) in records.iter().enumerate() {
        let partition = partition_for_key(key.as_bytes(), 2);
        let headers = [("event-id", Some(id.as_bytes()))];
        let headers = if id.is_empty() { &headers[..0] } else { &headers[..] };
        let at_ms = 1_700_000_000_000 + i64::try_from(index).unwrap();
        let builder = builders.entry(partition).or_default();
        builder.append(at_ms, Some(key.as_bytes()), Some(value.as_bytes()), headers);
        if builder.len() == 500 {
            let at = TopicPartition::new(topic, partition);
            bus.produce(&at, builder.finish(Compression::None).unwrap()).unwrap();
        }
    }
    for (partition, mut builder) in builders {
        if !builder.is_empty() {
            let at = TopicPartition::new(topic, partition);
            bus.produce(&at, builder.finish(Compression::None).unwrap()).unwrap();
        }
    }
}

/// A record read back.
#[derive(Debug, Clone)]
pub struct Found {
    pub key: Option<String>,
    pub value: String,
    pub headers: BTreeMap<String, String>,
}

/// Every record of a topic; empty if the topic is not there.
pub fn consume(bus: &MemoryBus, topic: &str) -> Vec<Found> {
    let mut found = Vec::new();
    let Some(described) = bus.topic(topic).unwrap() else { return found };
    for partition in 0..described.partitions {
        let mut reader = bus.reader(&[(TopicPartition::new(topic, partition), 0)]).unwrap();
        for fetched in reader.poll(usize::MAX, Duration::ZERO).unwrap() {
            for batch in fetched.batches {
                for record in batch.records().unwrap().iter() {
                    let record = record.unwrap();
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    let headers = record.headers.iter();
                    found.push(Found {
                        key: record.key.map(text),
                        value: record.value.map(text).unwrap_or_default(),
                        headers: headers
                            .map(|(name, value)| (text(name), value.map(text).unwrap_or_default()))
                            .collect(),
                    });
                }
            }
        }
    }
    found
}

/// Starts the routes of `text`.
pub fn start(bus: &Arc<MemoryBus>, text: &str, root: &std::path::Path) -> RoutesHandle {
    let set = RouteSet::parse("test.yaml", text, &BTreeMap::new()).unwrap_or_else(|error| panic!("{error}"));
    herdsman_routes::run(set.with_root(root), Arc::clone(bus) as Arc<dyn Bus>, RealClock::shared()).unwrap()
}

/// Sum of the committed offsets of `group` on `topic`.
pub fn committed(bus: &MemoryBus, group: &str, topic: &str) -> i64 {
    let partitions: Vec<TopicPartition> = (0..2).map(|index| TopicPartition::new(topic, index)).collect();
    bus.committed(group, &partitions).unwrap().into_iter().map(|offset| offset.unwrap_or(0)).sum()
}

/// Waits until `done` holds, at most `seconds`.
pub fn wait_for(what: &str, seconds: u64, mut done: impl FnMut() -> bool) {
    for _ in 0..seconds * 50 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{what} did not happen within {seconds} s");
}

/// A free loopback port.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
