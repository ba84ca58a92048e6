//! Compaction against a map: whatever stops it, the newest value of every key is there and nothing older comes back.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use herdsman_host::{Crash, Seed, SimClock, SimDisk};
use herdsman_log::{Log, LogConfig, Transactions};
use herdsman_record::{Batch, BatchBuilder, Compression, Header, TopicPartition};

const HOUR_MS: i64 = 3_600_000;

type Model = BTreeMap<u8, Option<u64>>;

fn at() -> TopicPartition {
    TopicPartition::new("players", 0)
}

fn open(disk: &SimDisk) -> Log {
    let clock = Arc::new(SimClock::new(HOUR_MS));
    // no tail in memory: what is read is what stands on disk
    let config = LogConfig { seed: Seed::new(5), tail_bytes_max: 0, ..LogConfig::default() };
    Log::open(Arc::new(disk.clone()), Path::new("/data"), clock, config).unwrap().0
}

fn create(log: &Log, more: &[(&str, &str)]) {
    let set = [("cleanup.policy", "compact"), ("segment.bytes", "2000"), ("delete.retention.ms", "1000")];
    let configs =
        set.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    log.create_topic("players", 1, &configs).unwrap();
}

fn batch(entries: &[(u8, Option<u64>)], producer: Option<(i64, i32)>, attributes: i16) -> Batch {
    let mut builder = BatchBuilder::new();
    if let Some((id, sequence)) = producer {
        builder.producer(id, 0, sequence);
    }
    builder.attributes(attributes);
    for (key, value) in entries {
        let value = value.map(u64::to_be_bytes);
        builder.append(HOUR_MS, Some(&[*key]), value.as_ref().map(<[u8; 8]>::as_slice), &[]);
    }
    builder.finish(Compression::None).unwrap()
}

fn append(log: &Log, seed: &mut Seed, count: usize, model: &mut Model) {
    for _ in 0..count {
        let entries: Vec<_> = (0..1 + seed.index(5))
            .map(|_| {
                let key = u8::try_from(seed.index(40)).unwrap();
                (key, (seed.index(4) > 0).then(|| seed.next_u64()))
            })
            .collect();
        log.append(&at(), batch(&entries, None, 0)).unwrap();
        model.extend(entries);
    }
}

fn compact(log: &Log, now_ms: i64) -> Result<(u64, u64), herdsman_log::LogError> {
    let stable = log.offsets(&at())?.1;
    let done = log.compact(&at(), &Transactions { stable, is_aborted: &|_| false }, now_ms)?;
    Ok((done.bytes_before, done.bytes_after))
}

/// Every record from offset `from` on: offset, key, value.
fn read(log: &Log, from: i64) -> Vec<(i64, u8, Option<u64>)> {
    let (mut next, end) = (from, log.offsets(&at()).unwrap().1);
    let mut found = Vec::new();
    while next < end {
        let out = log.read(&at(), next, 500).unwrap();
        let Some(last) = out.batches.last() else { break };
        for batch in out.batches.iter().filter(|batch| !batch.header().is_control()) {
            batch.check_crc().unwrap();
            for record in batch.records().unwrap().iter() {
                let record = record.unwrap();
                let value = record.value.map(|value| u64::from_be_bytes(*value.first_chunk().unwrap()));
                found.extend((record.offset >= next).then(|| (record.offset, record.key.unwrap()[0], value)));
            }
        }
        next = last.next_offset();
    }
    found
}

/// What a reader that began at the start believes: tombstones and what was never there are the same.
fn view(records: &[(i64, u8, Option<u64>)]) -> Model {
    let all: Model = records.iter().map(|(_, key, value)| (*key, *value)).collect();
    all.into_iter().filter(|(_, value)| value.is_some()).collect()
}

fn alive(model: &Model) -> Model {
    model.iter().filter(|(_, value)| value.is_some()).map(|(key, value)| (*key, *value)).collect()
}

#[test]
fn of_each_key_the_newest_record_stays_at_its_offset_and_tombstones_go_in_the_end() {
    let disk = SimDisk::new(&Seed::new(1));
    let (log, mut seed, mut model) = (open(&disk), Seed::new(2), Model::new());
    create(&log, &[]);
    append(&log, &mut seed, 300, &mut model);
    log.sync().unwrap();
    let before = read(&log, 0);
    let (bytes_before, bytes_after) = compact(&log, 2 * HOUR_MS).unwrap();
    assert!(bytes_after * 5 < bytes_before, "{bytes_before} bytes, then {bytes_after}");
    let after = read(&log, 0);
    assert!(after.iter().all(|record| before.contains(record)), "records keep their offsets");
    assert_eq!(view(&after), alive(&model));
    for from in [0, 1, 17, 400, before.last().unwrap().0] {
        let expected: Vec<_> = after.iter().filter(|(offset, ..)| *offset >= from).copied().collect();
        assert_eq!(read(&log, from), expected, "from offset {from}");
    }
    let tombstones =
        |records: &[(i64, u8, Option<u64>)]| records.iter().filter(|(.., value)| value.is_none()).count();
    assert!(tombstones(&after) > 3);
    assert_eq!(
        compact(&log, 2 * HOUR_MS + 1_000).unwrap(),
        (0, 0),
        "nothing to do before their time is over"
    );
    drop(log);
    let log = open(&disk);
    assert_eq!(compact(&log, 2 * HOUR_MS + 1_000).unwrap(), (0, 0), "also after a restart");
    compact(&log, 2 * HOUR_MS + 1_001).unwrap();
    let last = read(&log, 0);
    assert!(tombstones(&last) < tombstones(&after), "only those of the open segment are left");
    assert_eq!(view(&last), alive(&model));
    append(&log, &mut seed, 300, &mut model);
    log.sync().unwrap();
    let (bytes_before, bytes_after) = compact(&log, 3 * HOUR_MS).unwrap();
    assert!(bytes_after < bytes_before);
    assert_eq!(view(&read(&log, 0)), alive(&model));
}

#[test]
fn a_stop_at_any_operation_leaves_every_newest_value_and_brings_nothing_back() {
    let prepared = |die_in: Option<u64>| {
        let disk = SimDisk::new(&Seed::new(1));
        let (log, mut seed, mut model) = (open(&disk), Seed::new(3), Model::new());
        create(&log, &[]);
        append(&log, &mut seed, 120, &mut model);
        log.sync().unwrap();
        compact(&log, 2 * HOUR_MS).unwrap();
        append(&log, &mut seed, 120, &mut model);
        log.sync().unwrap();
        let first = disk.operations();
        if let Some(die_in) = die_in {
            disk.die_in(die_in);
        }
        let done = compact(&log, 3 * HOUR_MS);
        assert_eq!(done.is_ok(), die_in.is_none());
        (disk.operations() - first, disk, model)
    };
    let (operations, ..) = prepared(None);
    assert!(operations > 10, "{operations}");
    for die_in in 1..=operations {
        for how in [None, Some(Crash::LoseAll), Some(Crash::KeepPrefix), Some(Crash::Torn)] {
            let (_, disk, model) = prepared(Some(die_in));
            let log = open(&how.map_or_else(|| disk.kill(), |how| disk.crash(how)));
            assert_eq!(view(&read(&log, 0)), alive(&model), "operation {die_in} of {operations}, {how:?}");
            compact(&log, 4 * HOUR_MS).unwrap();
            assert_eq!(
                view(&read(&log, 0)),
                alive(&model),
                "compacted again, {die_in} of {operations}, {how:?}"
            );
        }
    }
}

#[test]
fn aborted_records_go_committed_ones_stay_and_a_producers_newest_batch_remains() {
    let disk = SimDisk::new(&Seed::new(1));
    let log = open(&disk);
    create(&log, &[("min.cleanable.dirty.ratio", "0")]);
    log.append(&at(), batch(&[(1, Some(10)), (2, Some(20))], Some((7, 0)), 0x10)).unwrap();
    log.append(&at(), batch(&[(1, Some(11))], Some((8, 0)), 0x10)).unwrap();
    log.append(&at(), batch(&[(2, Some(21))], Some((9, 0)), 0)).unwrap();
    log.append(&at(), batch(&[(2, Some(22))], None, 0)).unwrap();
    let mut model = Model::new();
    append(&log, &mut Seed::new(4), 40, &mut model);
    log.append(&at(), batch(&[(1, Some(12)), (2, Some(23))], None, 0)).unwrap();
    log.sync().unwrap();
    let is_aborted = |header: &Header| header.producer_id == 8;
    log.compact(&at(), &Transactions { stable: 3, is_aborted: &is_aborted }, 2 * HOUR_MS).unwrap();
    assert!(read(&log, 0).contains(&(2, 1, Some(11))), "what is not decided is left alone");
    let stable = log.offsets(&at()).unwrap().1;
    log.compact(&at(), &Transactions { stable, is_aborted: &is_aborted }, 2 * HOUR_MS).unwrap();
    let found = read(&log, 0);
    assert!(!found.contains(&(2, 1, Some(11))), "aborted");
    let batches = log.read(&at(), 0, 1).unwrap().batches;
    let header = batches[0].header();
    assert_eq!((header.producer_id, header.record_count, header.base_sequence), (7, 0, 0));
    assert!(!header.is_transactional(), "its transaction is over");
}
