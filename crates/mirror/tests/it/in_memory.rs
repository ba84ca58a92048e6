//! Loops, origins, new topics, restarts: on buses in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use herdsman_bus::memory::MemoryBus;
use herdsman_bus::{Bus, BusError, TopicSpec};
use herdsman_host::RealClock;
use herdsman_mirror::{Mirror, MirrorConfig, ORIGIN_HEADER};
use herdsman_record::{BatchBuilder, Compression, TopicPartition};

const CONFIG: &str = "topics = [\"finds\", \"late-*\"]\n[clusters.a]\nbootstrap = \"a:1\"\n[clusters.b]\n\
                      bootstrap = \"b:1\"\n[clusters.c]\nbootstrap = \"c:1\"\n";

type Buses = Arc<BTreeMap<String, MemoryBus>>;

fn start(buses: &Buses, away: &Arc<AtomicBool>) -> Mirror {
    let (buses, away) = (Arc::clone(buses), Arc::clone(away));
    let connect = move |name: &str| -> Result<Arc<dyn Bus>, BusError> {
        if name == "c" && away.load(Ordering::Relaxed) {
            return Err(BusError::Unavailable { bus: "c".to_owned(), reason: "away".to_owned() });
        }
        Ok(Arc::new(buses.get(name).expect("a cluster of the configuration").clone()))
    };
    Mirror::start_with(MirrorConfig::from_toml(CONFIG).unwrap(), connect, RealClock::shared()).unwrap()
}

fn produce(bus: &MemoryBus, topic: &str, partition: i32, value: &str) {
    let mut builder = BatchBuilder::new();
    builder.append(7, Some(b"k"), Some(value.as_bytes()), &[("event-id", Some(value.as_bytes()))]);
    bus.produce(&TopicPartition::new(topic, partition), builder.finish(Compression::None).unwrap()).unwrap();
}

/// Values with their origin, of one partition.
fn contents(bus: &MemoryBus, topic: &str, partition: i32) -> Vec<String> {
    let at = TopicPartition::new(topic, partition);
    if bus.offsets(&at).map_or(0, |range| range.end) == 0 {
        return Vec::new();
    }
    let mut reader = bus.reader(&[(at, 0)]).unwrap();
    let mut found = Vec::new();
    for fetched in reader.poll(usize::MAX, Duration::ZERO).unwrap() {
        for batch in &fetched.batches {
            for record in batch.records().unwrap().iter().map(Result::unwrap) {
                let text =
                    |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap();
                assert_eq!((record.timestamp_ms, record.key), (7, Some(&b"k"[..])));
                assert!(record.headers.get("event-id").is_some());
                found.push(format!("{}<{}", text(record.value), text(record.headers.get(ORIGIN_HEADER))));
            }
        }
    }
    found.sort();
    found
}

fn wait_for(what: &str, mut reached: impl FnMut() -> bool) {
    for _ in 0..500 {
        if reached() {
            return;
        }
        sleep(Duration::from_millis(20));
    }
    panic!("never reached: {what}");
}

#[test]
fn every_record_reaches_every_cluster_once_and_none_goes_round() {
    let names = ["a", "b", "c"];
    let buses: Buses = Arc::new(names.iter().map(|name| ((*name).to_owned(), MemoryBus::new())).collect());
    let bus = |name: &str| buses.get(name).unwrap();
    let away = Arc::new(AtomicBool::new(true));
    for topic in ["finds", "private"] {
        bus("a")
            .create_topic(&TopicSpec { name: topic.into(), partitions: 2, ..Default::default() })
            .unwrap();
    }
    produce(bus("a"), "private", 0, "secret");
    produce(bus("a"), "finds", 1, "from-a");
    let mirror = start(&buses, &away);
    wait_for("a to b while c is away", || contents(bus("b"), "finds", 1) == ["from-a<a"]);
    produce(bus("b"), "finds", 0, "from-b");
    wait_for("b to a", || contents(bus("a"), "finds", 0) == ["from-b<b"]);
    away.store(false, Ordering::Relaxed);
    wait_for("both to c", || {
        contents(bus("c"), "finds", 1) == ["from-a<a"] && contents(bus("c"), "finds", 0) == ["from-b<b"]
    });
    produce(bus("c"), "finds", 1, "from-c");
    bus("c")
        .create_topic(&TopicSpec { name: "late-topic".into(), partitions: 1, ..Default::default() })
        .unwrap();
    produce(bus("c"), "late-topic", 0, "late");
    wait_for("a topic made later", || contents(bus("a"), "late-topic", 0) == ["late<c"]);
    wait_for("c to a", || contents(bus("a"), "finds", 1).len() == 2);
    wait_for("the later topic at b", || {
        bus("b").topic("late-topic").unwrap().is_some() && contents(bus("b"), "late-topic", 0) == ["late<c"]
    });
    wait_for("c to b", || contents(bus("b"), "finds", 1) == ["from-a<a", "from-c<c"]);
    let stats = mirror.stop();
    assert!(stats.flows.iter().any(|flow| flow.target == "c" && flow.errors > 0));
    // started again it repeats nothing
    let mirror = start(&buses, &away);
    produce(bus("a"), "finds", 0, "again");
    wait_for("after a restart", || names.iter().all(|name| contents(bus(name), "finds", 0).len() == 2));
    sleep(Duration::from_millis(500));
    let stats = mirror.stop();
    for name in names {
        assert_eq!(contents(bus(name), "finds", 0).len(), 2, "{name}");
        assert_eq!(contents(bus(name), "finds", 1).len(), 2, "{name}");
    }
    assert_eq!(bus("b").topic("private").unwrap(), None);
    assert_eq!(stats.forwarded(), 2);
}
