//! How fast one core produces: `produce_speed [BATCHES]`, in process, 1 MB batches of 160-byte JSON events, four partitions.
//!
//! Prints a line each for: plain, de-duplicated by header, by JSON field, with one in ten events repeated; and the cost of
//! the event-id window alone as it fills to 8 M ids. Times are of the CPU, so that a busy machine does not matter much. Build
//! with `--release`.

use std::collections::BTreeMap;
use std::sync::Arc;

use herdsman_broker::dedupe::{Dedupe, MEMORY_BYTES_DEFAULT};
use herdsman_broker::{Broker, BrokerConfig};
use herdsman_host::{RealClock, RealDisk};
use herdsman_log::LogConfig;
use herdsman_record::{Batch, BatchBuilder, Compression, EventId, TopicPartition};

const RECORDS_PER_BATCH: u64 = 6_000;

/// CPU time of this thread, ns.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

fn event(number: u64) -> String {
    let mut text = format!(
        "{{\"id\":\"2013-{number:012}\",\"player\":\"N{:05}\",\"hunt\":\"UA\",\"at\":\"EWR\",\"kind\":\"landing\",\"time\":{},\"note\":\"",
        number % 4_000,
        1_357_000_000_000 + number
    );
    while text.len() < 158 {
        text.push('x');
    }
    text.push_str("\"}");
    text
}

fn batches(count: u64, repeat_tenth: bool) -> Result<Vec<Batch>, Box<dyn std::error::Error>> {
    let mut out = Vec::new();
    for batch in 0..count {
        let mut builder = BatchBuilder::new();
        for index in 0..RECORDS_PER_BATCH {
            let number = batch * RECORDS_PER_BATCH + index;
            let number = if repeat_tenth && index % 10 == 9 { number - 1 } else { number };
            let id = format!("2013-{number:012}");
            let headers: [(&str, Option<&[u8]>); 1] = [("event-id", Some(id.as_bytes()))];
            builder.append(1_357_000_000_000, None, Some(event(number).as_bytes()), &headers);
        }
        out.push(builder.finish(Compression::None)?);
    }
    Ok(out)
}

fn run(name: &str, configs: &[(&str, &str)], batches: &[Batch]) -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let (broker, _) = Broker::open(
        Arc::new(RealDisk),
        dir.path(),
        RealClock::shared(),
        LogConfig::default(),
        BrokerConfig::default(),
    )?;
    let mut all = BTreeMap::from([
        ("retention.ms".to_owned(), "-1".to_owned()),
        ("max.message.bytes".to_owned(), "2000000".to_owned()),
    ]);
    all.extend(configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    broker.create_topic("finds", 4, &all)?;
    let (mut records, mut duplicates, mut bytes) = (0_u64, 0_u64, 0_u64);
    let start = cpu_ns();
    for (index, batch) in batches.iter().enumerate() {
        let at = TopicPartition::new("finds", i32::try_from(index % 4)?);
        let outcome = broker.produce(&at, batch.clone())?;
        records += batch.record_count() as u64;
        bytes += batch.bytes().len() as u64;
        duplicates += u64::from(outcome.duplicates);
    }
    let ns = (cpu_ns() - start).max(1);
    println!(
        "{name}: {:.2} M records per CPU second, {:.0} MB/s, {records} records, {duplicates} duplicates dropped",
        records as f64 * 1e3 / ns as f64,
        bytes as f64 * 1e3 / ns as f64
    );
    Ok(())
}

fn window() {
    let mut dedupe = Dedupe::new(3_600_000, MEMORY_BYTES_DEFAULT);
    for million in 0..8_u64 {
        let ids: Vec<EventId> =
            (0..1_000_000).map(|number| EventId::of(&(million * 1_000_000 + number).to_le_bytes())).collect();
        let start = cpu_ns();
        for chunk in ids.chunks(6_000) {
            dedupe.filter(chunk, 1);
        }
        let fresh_ns = cpu_ns() - start;
        let start = cpu_ns();
        for chunk in ids.chunks(6_000) {
            dedupe.filter(chunk, 1);
        }
        let again_ns = cpu_ns() - start;
        println!(
            "window of {} M ids: {:.1} ns per new id, {:.1} ns per repeated id, {} MiB",
            million + 1,
            fresh_ns as f64 / 1e6,
            again_ns as f64 / 1e6,
            dedupe.stats().memory_bytes >> 20
        );
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count = std::env::args().nth(1).map_or(Ok(300), |count| count.parse())?;
    let unique = batches(count, false)?;
    run("plain", &[], &unique)?;
    let window_ms = ("herdsman.dedupe.window.ms", "3600000");
    run("by header", &[window_ms], &unique)?;
    run("by JSON field", &[window_ms, ("herdsman.event.id", "id")], &unique)?;
    drop(unique);
    run(
        "by JSON field, one in ten repeated",
        &[window_ms, ("herdsman.event.id", "id")],
        &batches(count, true)?,
    )?;
    window();
    Ok(())
}
