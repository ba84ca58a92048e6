//! Three embedded clusters as processes; one is killed under load, its producer goes on at another, it comes back.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use herdsman_broker::{Broker, BrokerConfig};
use herdsman_bus::{Bus, TopicSpec};
use herdsman_host::{RealClock, RealDisk};
use herdsman_kafka::{KafkaBus, KafkaOptions};
use herdsman_log::LogConfig;
use herdsman_mirror::{Mirror, MirrorConfig};
use herdsman_record::{BatchBuilder, Compression, EVENT_ID_HEADER, TopicPartition};
use herdsman_testkit::{Process, TempDir, free_ports, wait_for_port};

const TOPIC: &str = "checkins";
const PARTITIONS: i32 = 2;
const EVENTS_PER_BATCH: usize = 50;
const ROUNDS: usize = 300;

/// Not a test by itself: the body of the broker processes, which are this test binary started again.
#[test]
fn broker_process() {
    let (Ok(dir), Ok(port)) = (std::env::var("MIRROR_BROKER_DIR"), std::env::var("MIRROR_BROKER_PORT"))
    else {
        return;
    };
    let port: u16 = port.parse().unwrap();
    let (broker, _) = Broker::open(
        Arc::new(RealDisk),
        Path::new(&dir),
        RealClock::shared(),
        LogConfig::default(),
        BrokerConfig::default(),
    )
    .unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let (_keep, shutdown) = tokio::sync::watch::channel(false);
        Arc::new(broker).serve(listener, herdsman_wire::Limits::default(), shutdown).await.unwrap();
    });
}

struct Cluster {
    process: Process,
    folder: PathBuf,
    port: u16,
    starts: u32,
}

impl Cluster {
    fn launch(folder: &Path, port: u16, start: u32) -> Process {
        let log = folder.join(format!("broker-{start}.log"));
        // with HERDSMAN_BIN the product's own binary serves, without it this test binary does
        let process = match std::env::var_os("HERDSMAN_BIN") {
            Some(binary) => {
                let mut command = Command::new(binary);
                command.arg("serve").arg("--data").arg(folder.join("data"));
                command.arg("--kafka").arg(format!("127.0.0.1:{port}")).args(["--http", "127.0.0.1:0"]);
                Process::start(command, &log)
            }
            None => {
                let mut command = Command::new(std::env::current_exe().unwrap());
                command.args(["--exact", "three_processes::broker_process", "--nocapture"]);
                command
                    .env("MIRROR_BROKER_DIR", folder.join("data"))
                    .env("MIRROR_BROKER_PORT", port.to_string());
                Process::start(command, &log)
            }
        };
        wait_for_port(port, 30);
        process
    }

    fn start(folder: PathBuf, port: u16) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        Self { process: Self::launch(&folder, port, 0), folder, port, starts: 0 }
    }

    fn restart(&mut self) {
        self.starts += 1;
        self.process = Self::launch(&self.folder, self.port, self.starts);
    }

    fn connect(&self) -> KafkaBus {
        connect(self.port)
    }
}

fn connect(port: u16) -> KafkaBus {
    let options = KafkaOptions { delivery_timeout: Duration::from_secs(2), ..KafkaOptions::default() };
    KafkaBus::connect(&format!("kafka://127.0.0.1:{port}"), options).unwrap()
}

/// Writes its events at the first of `ports`, and at the next one whenever that one fails, with the same ids.
/// Gives the ids of all acknowledged events.
fn producer(name: usize, ports: Vec<u16>, done: Arc<AtomicBool>, moved: Arc<AtomicUsize>) -> Vec<String> {
    let mut home = 0;
    let mut bus = connect(ports[home]);
    let mut acknowledged = Vec::new();
    let mut round = 0;
    while round < ROUNDS {
        let mut builder = BatchBuilder::new();
        let ids: Vec<String> =
            (0..EVENTS_PER_BATCH).map(|event| format!("p{name}-{round}-{event}")).collect();
        for id in &ids {
            builder.append(1, Some(id.as_bytes()), Some(b"{}"), &[(EVENT_ID_HEADER, Some(id.as_bytes()))]);
        }
        let batch = builder.finish(Compression::None).unwrap();
        let at = TopicPartition::new(TOPIC, i32::try_from(round).unwrap() % PARTITIONS);
        if let Err(error) = bus.produce(&at, batch) {
            println!("producer {name} leaves {}: {error}", bus.url());
            home = (home + 1) % ports.len();
            moved.fetch_add(1, Ordering::Relaxed);
            bus = connect(ports[home]);
            // it does not trust what it was told last: these events may now stand in two clusters
            round = round.saturating_sub(3);
            continue;
        }
        acknowledged.extend(ids);
        round += 1;
        sleep(Duration::from_millis(20));
    }
    done.store(true, Ordering::Relaxed);
    acknowledged
}

/// How often each event id stands in a cluster.
fn counts(bus: &KafkaBus) -> HashMap<String, u32> {
    let mut starts = Vec::new();
    let mut left = 0;
    for partition in 0..PARTITIONS {
        let at = TopicPartition::new(TOPIC, partition);
        let range = bus.offsets(&at).unwrap();
        left += range.end - range.start;
        starts.push((at, range.start));
    }
    let mut reader = bus.reader(&starts).unwrap();
    let mut found = HashMap::new();
    let mut idle = 0;
    while left > 0 && idle < 20 {
        let fetched = reader.poll(4 << 20, Duration::from_millis(250)).unwrap();
        idle = if fetched.is_empty() { idle + 1 } else { 0 };
        for batch in fetched.iter().flat_map(|fetched| &fetched.batches) {
            for record in batch.records().unwrap().iter().map(Result::unwrap) {
                let id = String::from_utf8(record.headers.get(EVENT_ID_HEADER).unwrap().to_vec()).unwrap();
                *found.entry(id).or_insert(0) += 1;
                left -= 1;
            }
        }
    }
    found
}

#[test]
fn a_killed_cluster_comes_back_and_every_acknowledged_event_is_once_in_all_three() {
    let folder = TempDir::new().unwrap();
    let ports = free_ports(3);
    let mut clusters: Vec<Cluster> = ports
        .iter()
        .enumerate()
        .map(|(index, port)| Cluster::start(folder.path().join(format!("cluster-{index}")), *port))
        .collect();
    let configs = BTreeMap::from([("herdsman.dedupe.window.ms".to_owned(), "3600000".to_owned())]);
    let spec = TopicSpec { name: TOPIC.to_owned(), partitions: PARTITIONS, configs };
    clusters[0].connect().create_topic(&spec).unwrap();
    let config = format!(
        "topics = [\"{TOPIC}\"]\n[clusters.a]\nbootstrap = \"127.0.0.1:{}\"\n[clusters.b]\nbootstrap = \
         \"127.0.0.1:{}\"\n[clusters.c]\nbootstrap = \"127.0.0.1:{}\"\n",
        ports[0], ports[1], ports[2]
    );
    let mirror = Mirror::start(MirrorConfig::from_toml(&config).unwrap()).unwrap();
    for cluster in &clusters[1..] {
        let bus = cluster.connect();
        let there = (0..200).any(|_| {
            sleep(Duration::from_millis(50));
            bus.topic(TOPIC).unwrap().is_some()
        });
        assert!(there, "the topic did not reach {}", bus.url());
        let made = bus.topic(TOPIC).unwrap().unwrap();
        assert_eq!(made.configs.get("herdsman.dedupe.window.ms").map(String::as_str), Some("3600000"));
    }
    let (done, moved) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let producers: Vec<_> = (0..3)
        .map(|name| {
            let mut homes = ports.clone();
            homes.rotate_left(name);
            let (done, moved) = (Arc::clone(&done), Arc::clone(&moved));
            std::thread::spawn(move || producer(name, homes, done, moved))
        })
        .collect();
    sleep(Duration::from_millis(1200));
    clusters[0].process.kill();
    assert!(!done.load(Ordering::Relaxed), "the kill came too late to be under load");
    for _ in 0..500 {
        if moved.load(Ordering::Relaxed) > 0 {
            break;
        }
        sleep(Duration::from_millis(20));
    }
    assert_eq!(moved.load(Ordering::Relaxed), 1, "the killed cluster's producer goes on at another");
    sleep(Duration::from_millis(1000));
    clusters[0].restart();
    let mut acknowledged: Vec<String> =
        producers.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    acknowledged.sort();
    acknowledged.dedup();
    assert_eq!(acknowledged.len(), 3 * ROUNDS * EVENTS_PER_BATCH);
    let mut wrong = Vec::new();
    for _ in 0..60 {
        wrong.clear();
        for cluster in &clusters {
            let found = counts(&cluster.connect());
            let missing = acknowledged.iter().filter(|id| !found.contains_key(*id)).count();
            let twice = found.values().filter(|count| **count > 1).count();
            if missing + twice > 0 || found.len() != acknowledged.len() {
                wrong.push(format!(
                    "port {}: {missing} missing, {twice} twice, {} ids",
                    cluster.port,
                    found.len()
                ));
            }
        }
        if wrong.is_empty() {
            break;
        }
        sleep(Duration::from_millis(500));
    }
    let stats = mirror.stop();
    for flow in &stats.flows {
        println!("{flow:?}");
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
