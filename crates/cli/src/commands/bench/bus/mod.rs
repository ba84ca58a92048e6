//! `herdsman bench bus`: the bus under Kafka's own performance tools, beside Apache Kafka on the same machine, and under
//! pre-encoded batches.
//!
//! Both servers get the same client (Kafka's `ProducerPerformance` and `ConsumerPerformance`, 100-byte records, four
//! partitions, idempotent), the same topic settings and the same disk, in turns; only the one that is measured runs. A
//! figure is the median of the turns. CPU is the server's own, user and system, from `/proc`; memory its peak.

mod load;
mod peer;
mod tools;

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use self::peer::{Peer, Usage};
use self::tools::Jars;
use crate::failure::Failure;

/// Producers of the synced load; a batch of theirs has the bytes of Kafka's default `batch.size`.
const DURABLE_PRODUCERS: usize = 8;
/// Offered load of the latency measurements, records per second.
const LATENCY_RATE: u64 = 40_000;

/// Options of the benchmark.
#[derive(Args)]
pub struct BusBench {
    /// Measure Apache Kafka as well, in turns
    #[arg(long, value_enum)]
    vs: Option<Other>,
    /// Records of one turn of a Kafka tool
    #[arg(long, default_value_t = 4_000_000)]
    records: u64,
    /// Turns of each server
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Seconds of each native load
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
}

/// What to measure beside Herdsman.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Other {
    Kafka,
}

/// One measurement of one server.
#[derive(Debug, Clone, Serialize)]
struct Measured {
    bench: &'static str,
    server: &'static str,
    load: String,
    records: u64,
    records_per_s: f64,
    /// The server's CPU for each record, microseconds.
    server_us_per_record: f64,
    /// Peak resident memory of the server since it started, MiB.
    server_peak_mb: f64,
    /// As the client saw it; none for loads that run as fast as they can.
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
}

impl Measured {
    fn new(peer: &Peer, load: &str, seen: &tools::Seen, used: &Usage) -> Self {
        Self {
            bench: "bus",
            server: peer.name(),
            load: load.to_owned(),
            records: seen.records,
            records_per_s: seen.records_per_s,
            server_us_per_record: used.cpu_s * 1e6 / seen.records as f64,
            server_peak_mb: used.peak_mb,
            p50_ms: seen.p50_ms,
            p99_ms: seen.p99_ms,
        }
    }
}

impl BusBench {
    /// Runs all loads and prints the table.
    pub fn run(self) -> Result<(), Failure> {
        let jars = Jars::fetch()?;
        let mut all = Vec::new();
        for turn in 0..self.repeats {
            if self.vs == Some(Other::Kafka) {
                self.turn(&Peer::kafka(&jars)?, &jars, turn, &mut all)?;
            }
            self.turn(&Peer::herdsman()?, &jars, turn, &mut all)?;
        }
        if !self.json {
            table(&all);
        }
        Ok(())
    }

    /// All loads on one fresh server.
    fn turn(&self, peer: &Peer, jars: &Jars, turn: usize, all: &mut Vec<Measured>) -> Result<(), Failure> {
        let mut tell = |measured: Measured| {
            if let Ok(line) = serde_json::to_string(&measured) {
                if self.json { println!("{line}") } else { eprintln!("{line}") }
            }
            all.push(measured);
        };
        // a virtual machine compiles what it runs often: what it does before that is not counted
        peer.make_topic("warm-up", &[])?;
        jars.produce(peer.address(), "warm-up", self.records / 2, "none", None)?;
        jars.consume(peer.address(), "warm-up", self.records / 2)?;
        for codec in ["none", "lz4"] {
            let topic = format!("{codec}-{turn}");
            peer.make_topic(&topic, &[])?;
            let (seen, used) =
                peer.watch(|| jars.produce(peer.address(), &topic, self.records, codec, None))?;
            tell(Measured::new(peer, &format!("produce {codec}"), &seen, &used));
            let (seen, used) = peer.watch(|| jars.consume(peer.address(), &topic, self.records))?;
            tell(Measured::new(peer, &format!("consume {codec}"), &seen, &used));
        }
        for (load, topic, configs) in
            [("40 k/s", "latency", &[][..]), ("40 k/s, synced", "latency-synced", &["flush.messages=1"][..])]
        {
            let topic = format!("{topic}-{turn}");
            peer.make_topic(&topic, configs)?;
            let records = LATENCY_RATE * self.seconds;
            let produce = || jars.produce(peer.address(), &topic, records, "none", Some(LATENCY_RATE));
            let (seen, used) = peer.watch(produce)?;
            tell(Measured::new(peer, load, &seen, &used));
        }
        let time = Duration::from_secs(self.seconds);
        let topic = format!("synced-{turn}");
        peer.make_topic(&topic, &["flush.messages=1"])?;
        let synced = load::Produce { connections: DURABLE_PRODUCERS, batch_records: 140, in_flight: 5 };
        let (seen, used) = peer.watch(|| synced.run(peer.address(), &topic, time))?;
        tell(Measured::new(peer, "8 producers, synced", &seen, &used));
        let topic = format!("batches-{turn}");
        peer.make_topic(&topic, &[])?;
        let native = load::Produce { connections: 4, batch_records: 2_000, in_flight: 4 };
        let (seen, used) = peer.watch(|| native.run(peer.address(), &topic, time))?;
        tell(Measured::new(peer, "produce, native", &seen, &used));
        let (seen, used) = peer.watch(|| load::fetch(peer.address(), &topic, time))?;
        tell(Measured::new(peer, "fetch, native", &seen, &used));
        Ok(())
    }
}

/// Medians, a line for each load and server.
fn table(all: &[Measured]) {
    println!("load                 server      records/s   us/record   peak MiB    p50 ms    p99 ms");
    let mut done: Vec<(&str, &str)> = Vec::new();
    for first in all {
        for server in ["kafka", "herdsman"] {
            let place = (first.load.as_str(), server);
            let turns: Vec<&Measured> =
                all.iter().filter(|one| (one.load.as_str(), one.server) == place).collect();
            if done.contains(&place) || turns.is_empty() {
                continue;
            }
            done.push(place);
            let of = |value: fn(&Measured) -> f64| median(turns.iter().map(|one| value(one)).collect());
            let latency = |value: fn(&Measured) -> Option<f64>| {
                let all: Vec<f64> = turns.iter().filter_map(|one| value(one)).collect();
                if all.is_empty() { "-".to_owned() } else { format!("{:.1}", median(all)) }
            };
            println!(
                "{:<20} {:<9} {:>11.0} {:>11.3} {:>10.1} {:>9} {:>9}",
                first.load,
                server,
                of(|one| one.records_per_s),
                of(|one| one.server_us_per_record),
                of(|one| one.server_peak_mb),
                latency(|one| one.p50_ms),
                latency(|one| one.p99_ms),
            );
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
