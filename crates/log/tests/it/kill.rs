//! kill -9 of a real process that appends: every acknowledged record is there, in order, atomic appends whole.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use herdsman_host::{RealClock, RealDisk, Seed};
use herdsman_log::{Log, LogConfig};
use herdsman_record::TopicPartition;

use crate::{batch_of, ids_of};

const CHILD: &str = "HERDSMAN_LOG_KILL_CHILD";

fn open(dir: &Path) -> Log {
    let config = LogConfig { journal_bytes_max: 100_000, ..LogConfig::default() };
    Log::open(RealDisk::shared(), dir, RealClock::shared(), config).unwrap().0
}

fn tp(index: i32) -> TopicPartition {
    TopicPartition::new("finds", index)
}

fn ids(log: &Log, partition: i32) -> Vec<u64> {
    let (mut offset, end) = log.offsets(&tp(partition)).unwrap();
    let mut ids = Vec::new();
    while offset < end {
        let read = log.read(&tp(partition), offset, 1 << 20).unwrap();
        let found = ids_of(&read.batches);
        ids.extend(found.into_iter().filter(|(at, ..)| *at >= offset).map(|(_, id, _)| id));
        offset = read.batches.last().unwrap().next_offset();
    }
    ids
}

/// The process that is killed: record n goes to partition 0, or with its twin to partitions 0 and 1 atomically.
#[test]
#[ignore = "started by the kill test"]
fn child_appends_until_killed() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let log = open(Path::new(&dir));
    let first = log.offsets(&tp(0)).unwrap().1.cast_unsigned();
    for id in first.. {
        let batch = || batch_of(&[id], 5, 3_000);
        if id % 3 == 0 {
            log.append_all(vec![(tp(0), batch()), (tp(1), batch())]).unwrap();
        } else {
            log.append(&tp(0), batch()).unwrap();
        }
        let mut out = std::io::stdout().lock();
        writeln!(out, "acked {id}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn twenty_kills_lose_no_acknowledged_record_and_tear_no_atomic_append() {
    let folder = tempfile::tempdir().unwrap();
    let set = BTreeMap::from([("segment.bytes".to_owned(), "200000".to_owned())]);
    let log = open(folder.path());
    log.create_topic("finds", 2, &set).unwrap();
    drop(log);
    let mut seed = Seed::from_entropy();
    println!("seed {}", seed.origin());
    let mut standing = 0;
    for _ in 0..20 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child_appends_until_killed", "--ignored", "--nocapture"])
            .env(CHILD, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acked = None;
        let wanted = 1 + seed.below(100);
        let mut seen = 0;
        while seen < wanted {
            let line = lines.next().expect("the child goes on until killed").unwrap();
            if let Some((_, id)) = line.split_once("acked ") {
                acked = id.trim().parse::<u64>().ok();
                seen += 1;
            }
        }
        std::thread::sleep(Duration::from_micros(seed.below(2_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        // what it had printed before it died was acknowledged, too
        for line in lines.map_while(Result::ok) {
            acked = line.split_once("acked ").and_then(|(_, id)| id.trim().parse().ok()).or(acked);
        }
        let log = open(folder.path());
        let (all, twins) = (ids(&log, 0), ids(&log, 1));
        assert!(all.iter().copied().eq(0..all.len() as u64), "in order, once each");
        assert!(all.len() as u64 > acked.unwrap(), "{} stand, {acked:?} was acknowledged", all.len());
        assert!(twins.iter().copied().eq((0..all.len() as u64).step_by(3)), "atomic appends are whole");
        standing = all.len();
    }
    assert!(standing >= 20);
}
