//! On real files: layout, modes, locks, damage, full disks, group commit, waiting, and what a tail read costs.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use herdsman_host::{RealClock, RealDisk, Seed, SimClock, SimDisk};
use herdsman_log::{Log, LogConfig, LogError, Recovery};
use herdsman_record::TopicPartition;

use crate::{batch_of, ids_of};

fn open(dir: &Path) -> Result<(Log, Recovery), LogError> {
    Log::open(RealDisk::shared(), dir, RealClock::shared(), LogConfig::default())
}

fn configs(set: &[(&str, &str)]) -> BTreeMap<String, String> {
    set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn finds() -> TopicPartition {
    TopicPartition::new("finds", 0)
}

#[test]
fn segments_lie_as_kafka_lays_them_and_only_the_owner_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("data");
    let (log, _) = open(&dir).unwrap();
    log.create_topic("finds", 1, &configs(&[("segment.bytes", "2000")])).unwrap();
    let mut expected = Vec::new();
    for id in 0..40 {
        let batch = batch_of(&[id], 5, 100);
        let base = log.append(&finds(), batch.clone()).unwrap();
        expected.extend_from_slice(batch.with_base_offset(base, 0).bytes());
    }
    log.close().unwrap();
    let partition = dir.join("topics/finds-0");
    let mut names: Vec<_> = std::fs::read_dir(&partition)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let logs: Vec<_> = names.iter().filter(|name| name.ends_with(".log")).collect();
    assert!(logs.len() > 2 && logs[0] == "00000000000000000000.log", "{names:?}");
    let bytes: Vec<u8> = logs.iter().flat_map(|name| std::fs::read(partition.join(name)).unwrap()).collect();
    assert_eq!(bytes, expected, "batches back to back, nothing between");
    for name in &names {
        assert_eq!(
            std::fs::metadata(partition.join(name)).unwrap().permissions().mode() & 0o777,
            0o600,
            "{name}"
        );
    }
    for path in [dir.as_path(), &dir.join("topics"), &partition] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
    }
    let (log, report) = open(&dir).unwrap();
    assert_eq!((report.scanned_bytes, &report.notes[..]), (report.scanned_bytes, &[][..]));
    assert_eq!(log.offsets(&finds()).unwrap(), (0, 40));
    for id in 0..40_u64 {
        let read = log.read(&finds(), i64::try_from(id).unwrap(), 1).unwrap();
        assert_eq!(ids_of(&read.batches)[0].1, id);
    }
}

#[test]
fn a_second_process_is_refused_by_name_and_nothing_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = open(folder.path()).unwrap();
    let error = open(folder.path()).err().unwrap().to_string();
    let expected =
        format!("{} is in use by herdsman pid {} since ", folder.path().display(), std::process::id());
    assert!(error.starts_with(&expected), "{error}");
    assert!(error.ends_with(" UTC, nothing was touched: stop it or pass another --data"), "{error}");
    drop(log);
    open(folder.path()).unwrap();
}

#[test]
fn a_torn_tail_is_cut_and_a_corrupt_middle_is_named_while_the_rest_stays_readable() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let (log, _) = open(dir).unwrap();
    log.create_topic("finds", 1, &BTreeMap::new()).unwrap();
    let len = batch_of(&[0], 5, 100).bytes().len() as u64;
    for id in 0..10 {
        log.append(&finds(), batch_of(&[id], 5, 100)).unwrap();
    }
    drop(log); // as a kill leaves it: no checkpoint, no index
    let path = dir.join("topics/finds-0/00000000000000000000.log");
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0xff; 8], len * 4 + 80).unwrap(); // inside the records of offset 4
    file.write_all_at(&[0xff; 30], len * 6).unwrap(); // the header of offset 6
    file.set_len(len * 10 - 7).unwrap(); // offset 9 is torn
    let (log, report) = open(dir).unwrap();
    assert_eq!(
        (report.torn_tails, report.torn_bytes, report.damaged, report.lost_offsets),
        (1, len - 7, 2, 2)
    );
    let notes = report.notes.join("\n");
    assert!(
        notes.contains("finds-0: offsets 4 to 4 are lost") && notes.contains("damaged at byte"),
        "{notes}"
    );
    assert_eq!(log.offsets(&finds()).unwrap(), (0, 9));
    for offset in 0..9_i64 {
        let read = log.read(&finds(), offset, 1);
        if offset == 4 || offset == 6 {
            let error = read.unwrap_err();
            assert!(
                matches!(error, LogError::Corrupt { next_offset, .. } if next_offset == offset + 1),
                "{error}"
            );
            assert!(error.to_string().contains(&format!("delete records before {}", offset + 1)), "{error}");
        } else {
            assert_eq!(ids_of(&read.unwrap().batches)[0].0, offset);
        }
    }
    let read = log.read(&finds(), 0, 1 << 20).unwrap();
    assert_eq!(read.batches.len(), 4, "a long read stops before the damage, the next one names it");
    assert_eq!(log.append(&finds(), batch_of(&[99], 5, 0)).unwrap(), 9);
    log.delete_records_before(&finds(), 5).unwrap();
    assert!(matches!(log.read(&finds(), 4, 1), Err(LogError::OffsetOutOfRange { start: 5, end: 10, .. })));
}

#[test]
fn a_full_disk_refuses_writes_keeps_reads_and_heals_by_itself_but_a_failed_sync_does_not() {
    let disk = SimDisk::new(&Seed::new(5));
    let open = |disk: &SimDisk| {
        let clock = Arc::new(SimClock::new(0));
        Log::open(Arc::new(disk.clone()), Path::new("/data"), clock, LogConfig::default()).unwrap().0
    };
    let log = open(&disk);
    log.create_topic("finds", 2, &BTreeMap::new()).unwrap();
    log.append(&finds(), batch_of(&[1], 5, 10)).unwrap();
    disk.set_capacity(Some(disk.used() + 50));
    let error = log.append(&finds(), batch_of(&[2], 5, 10)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no space in /data: writes refused, reads go on; free space or lower retention.bytes of finds, then writes resume by themselves"
    );
    assert!(error.is_retriable());
    let other = TopicPartition::new("finds", 1);
    let both = || vec![(finds(), batch_of(&[3], 5, 10)), (other.clone(), batch_of(&[4], 5, 10))];
    assert!(matches!(log.append_all(both()), Err(LogError::NoSpace { .. })));
    assert_eq!(log.read(&finds(), 0, 1).unwrap().batches.len(), 1);
    disk.set_capacity(None);
    assert_eq!(log.append_all(both()).unwrap(), [1, 0]);
    disk.fail_sync_in(1);
    assert!(log.flush(&finds()).is_err());
    disk.set_capacity(None);
    let error = log.append(&finds(), batch_of(&[5], 5, 10)).unwrap_err();
    assert!(error.to_string().starts_with("finds-0 is closed for writes (sync of "), "{error}");
    assert!(!error.is_retriable());
    assert_eq!(log.read(&finds(), 0, 1).unwrap().batches.len(), 1, "reads go on");
    log.append(&other, batch_of(&[6], 5, 10)).unwrap();
    drop(log);
    let log = open(&disk.kill());
    assert_eq!(log.append(&finds(), batch_of(&[5], 5, 10)).unwrap(), 2, "a restart opens it again");
}

#[test]
fn a_reader_that_keeps_up_makes_no_system_call_and_one_sync_serves_many() {
    let disk = SimDisk::new(&Seed::new(5));
    let clock = Arc::new(SimClock::new(0));
    let (log, _) = Log::open(Arc::new(disk.clone()), Path::new("/d"), clock, LogConfig::default()).unwrap();
    log.create_topic("finds", 1, &BTreeMap::new()).unwrap();
    let before = disk.operations();
    for id in 0..100 {
        log.append(&finds(), batch_of(&[id], 5, 10)).unwrap();
    }
    assert_eq!(disk.operations() - before, 100, "one write per append");
    let before = disk.operations();
    for offset in 0..100 {
        assert!(!log.read(&finds(), offset, 1 << 20).unwrap().batches.is_empty());
    }
    assert_eq!(disk.operations(), before);
    log.flush(&finds()).unwrap();
    let before = disk.operations();
    log.flush(&finds()).unwrap();
    assert_eq!(disk.operations(), before, "nothing new to sync");
}

#[test]
fn strict_topics_show_only_what_is_durable_and_many_threads_share_syncs() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = open(folder.path()).unwrap();
    log.create_topic("finds", 1, &configs(&[("flush.messages", "1")])).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let log = &log;
            scope.spawn(move || {
                for id in 0..20 {
                    log.append(&finds(), batch_of(&[thread * 100 + id], 5, 10)).unwrap();
                }
            });
        }
    });
    assert_eq!(log.offsets(&finds()).unwrap(), (0, 160));
    let read = log.read(&finds(), 0, 1 << 20).unwrap();
    let mut ids: Vec<_> = ids_of(&read.batches).into_iter().map(|(_, id, _)| id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 160);
}

#[test]
fn waiting_threads_and_tasks_wake_with_the_append() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = open(folder.path()).unwrap();
    log.create_topic("finds", 1, &BTreeMap::new()).unwrap();
    let seen = log.version();
    assert_eq!(log.wait_for_append(seen, Duration::from_millis(5)), seen, "nothing came");
    let mut watch = log.subscribe();
    assert!(!watch.has_changed().unwrap());
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| log.wait_for_append(seen, Duration::from_secs(20)));
        log.append(&finds(), batch_of(&[1], 5, 10)).unwrap();
        assert!(waiter.join().unwrap() > seen);
    });
    assert!(watch.has_changed().unwrap());
    assert_eq!(*watch.borrow_and_update(), log.version());
}

#[test]
fn topics_are_named_configured_grown_and_deleted_by_kafkas_rules() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = open(folder.path()).unwrap();
    let meta = log.create_topic("finds", 2, &configs(&[("retention.ms", "60000")])).unwrap();
    assert!(matches!(log.create_topic("finds", 1, &BTreeMap::new()), Err(LogError::TopicExists(_))));
    assert!(matches!(log.create_topic("a/b", 1, &BTreeMap::new()), Err(LogError::InvalidName { .. })));
    assert!(matches!(log.create_topic("b", 0, &BTreeMap::new()), Err(LogError::InvalidPartitions { .. })));
    let error = log.create_topic("b", 1, &configs(&[("retention.mss", "1")])).unwrap_err();
    assert_eq!(error.to_string(), "unknown topic config retention.mss: did you mean retention.ms?");
    assert_eq!(
        log.offsets(&TopicPartition::new("fnds", 0)).unwrap_err().to_string(),
        "no topic fnds: did you mean finds?"
    );
    assert_eq!(
        log.offsets(&TopicPartition::new("finds", 2)).unwrap_err().to_string(),
        "topic finds has partitions 0 to 1, not 2"
    );
    log.append(&finds(), batch_of(&[1], 5, 10)).unwrap();
    log.add_partitions("finds", 3).unwrap();
    assert!(log.add_partitions("finds", 3).is_err());
    log.alter_configs("finds", &configs(&[("retention.ms", "7")])).unwrap();
    assert_eq!(log.topic_config("finds", "retention.ms").as_deref(), Some("7"));
    assert_eq!(log.topic_config("finds", "segment.bytes").as_deref(), Some("1073741824"));
    log.create_topic("__consumer_offsets", 1, &BTreeMap::new()).unwrap();
    log.close().unwrap();
    let (log, _) = open(folder.path()).unwrap();
    let topics = log.topics();
    assert_eq!(
        topics.iter().map(|topic| (&*topic.name, topic.internal)).collect::<Vec<_>>(),
        [("__consumer_offsets", true), ("finds", false)]
    );
    assert_eq!((topics[1].partitions, topics[1].id), (3, meta.id));
    assert_eq!(log.offsets(&finds()).unwrap(), (0, 1));
    log.delete_topic("finds").unwrap();
    let again = log.create_topic("finds", 1, &BTreeMap::new()).unwrap();
    assert_ne!(again.id, meta.id);
    assert_eq!(log.offsets(&finds()).unwrap(), (0, 0), "the old records are gone");
}

/// Run with `cargo test --release -p herdsman-log --test it -- --ignored --nocapture speed`.
#[test]
#[ignore = "prints speeds, checks nothing"]
fn speed_of_appends_reads_and_atomic_appends() {
    let folder = tempfile::tempdir().unwrap();
    let (log, _) = open(folder.path()).unwrap();
    log.create_topic("finds", 2, &configs(&[("retention.bytes", "1"), ("segment.bytes", "268435456")]))
        .unwrap();
    let clock = RealClock::shared();
    let report = |what: &str, bytes: usize, started: u64| {
        let seconds = (clock.monotonic_ns() - started) as f64 / 1e9;
        println!("{what}: {:.2} GB/s, {seconds:.3} s", bytes as f64 / seconds / 1e9);
    };
    let batch = batch_of(&(0..6_000).collect::<Vec<_>>(), 5, 150);
    let (len, rounds) = (batch.bytes().len(), 2_000);
    for round in 0..2 {
        // fresh buffers each time, as from a socket; made before the clock starts
        let started = clock.monotonic_ns();
        for _ in 0..rounds {
            log.append(&finds(), batch.clone()).unwrap();
        }
        report(
            &format!("append {len}-byte batches, copied for the patch (round {round})"),
            len * rounds,
            started,
        );
        log.maintain(clock.now_ms()).unwrap();
    }
    let owned: Vec<_> = (0..500).map(|_| batch_of(&(0..6_000).collect::<Vec<_>>(), 5, 150)).collect();
    let started = clock.monotonic_ns();
    for batch in owned {
        log.append(&finds(), batch).unwrap();
    }
    report("append owned batches, patched in place", len * 500, started);
    let (start, end) = log.offsets(&finds()).unwrap();
    let started = clock.monotonic_ns();
    let (mut offset, mut bytes) = (start, 0);
    while offset < end {
        let read = log.read(&finds(), offset, 4 << 20).unwrap();
        bytes += read.batches.iter().map(|batch| batch.bytes().len()).sum::<usize>();
        offset = read.batches.last().unwrap().next_offset();
    }
    report("read from the page cache, checksums checked", bytes, started);
    let started = clock.monotonic_ns();
    for _ in 0..100_000 {
        log.read(&finds(), end - 6_000, 1 << 20).unwrap();
    }
    println!("tail read: {} ns each", (clock.monotonic_ns() - started) / 100_000);
    let other = TopicPartition::new("finds", 1);
    let small = batch_of(&(0..100).collect::<Vec<_>>(), 5, 150);
    let started = clock.monotonic_ns();
    for _ in 0..5_000 {
        log.append_all(vec![(finds(), small.clone()), (other.clone(), small.clone())]).unwrap();
    }
    let each = (clock.monotonic_ns() - started) / 5_000;
    println!("append_all of 2 × {} bytes: {} µs each", small.bytes().len(), each / 1_000);
}
