//! The log is a `BTreeMap` from offset to record, whatever the sizes, rolls, tails and reopenings.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use herdsman_host::{Seed, SimClock, SimDisk};
use herdsman_log::{Log, LogConfig};
use herdsman_record::TopicPartition;
use proptest::prelude::*;

use crate::{batch_of, ids_of};

#[derive(Debug, Clone)]
enum Step {
    Append { records: usize, padding: usize, step_ms: i64 },
    AppendBoth { records: usize },
    Read { from: usize, max_bytes: usize },
    Time { ms: i64 },
    Delete { from: usize },
    Reopen { clean: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..6_usize, 0..500_usize, -3..20_i64)
            .prop_map(|(records, padding, step_ms)| Step::Append { records, padding, step_ms }),
        2 => (1..4_usize).prop_map(|records| Step::AppendBoth { records }),
        5 => (0..100_usize, 0..3_000_usize).prop_map(|(from, max_bytes)| Step::Read { from, max_bytes }),
        2 => (0..500_i64).prop_map(|ms| Step::Time { ms }),
        1 => (0..100_usize).prop_map(|from| Step::Delete { from }),
        1 => any::<bool>().prop_map(|clean| Step::Reopen { clean }),
    ]
}

type Model = BTreeMap<i64, (u64, i64)>;

fn pick(model: &Model, start: i64, end: i64, percent: usize) -> i64 {
    let span = usize::try_from(end - start).unwrap_or(0);
    debug_assert!(model.len() <= span);
    start + i64::try_from(span * percent / 100).unwrap_or(0)
}

fn open(disk: &SimDisk, tail: usize) -> Log {
    let config = LogConfig { tail_bytes_max: tail, journal_bytes_max: 3_000, ..LogConfig::default() };
    Log::open(Arc::new(disk.clone()), Path::new("/d"), Arc::new(SimClock::new(0)), config).unwrap().0
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_a_map_from_offset_to_record(
        steps in proptest::collection::vec(step(), 1..60),
        segment_bytes in 1_024..6_000_u32,
        interval in 0..3_000_u32,
        tail in prop_oneof![Just(0_usize), Just(3_000), Just(1 << 20)],
    ) {
        let mut disk = SimDisk::new(&Seed::new(1));
        let mut log = open(&disk, tail);
        let set = [("segment.bytes", segment_bytes), ("index.interval.bytes", interval)];
        let configs = set.into_iter().map(|(key, value)| (key.to_owned(), value.to_string())).collect();
        log.create_topic("t", 2, &configs).unwrap();
        let tp = |index: usize| TopicPartition::new("t", i32::try_from(index).unwrap());
        let mut models: [Model; 2] = [Model::new(), Model::new()];
        let mut bounds = [(0_i64, 0_i64); 2];
        let (mut next_id, mut now) = (0_u64, 100_i64);
        let mut ids = |count: usize| -> Vec<u64> {
            next_id += count as u64;
            (next_id - count as u64..next_id).collect()
        };
        for step in steps {
            match step {
                Step::Append { records, padding, step_ms } => {
                    now = (now + step_ms).max(0);
                    let ids = ids(records);
                    let base = log.append(&tp(0), batch_of(&ids, now, padding)).unwrap();
                    prop_assert_eq!(base, bounds[0].1);
                    models[0].extend((base..).zip(ids.into_iter().zip(now..)));
                    bounds[0].1 += i64::try_from(records).unwrap();
                }
                Step::AppendBoth { records } => {
                    let all: Vec<_> = [0, 1, 0].map(|index| (index, ids(records))).into();
                    let batches = all.iter().map(|(index, ids)| (tp(*index), batch_of(ids, now, 9))).collect();
                    let bases = log.append_all(batches).unwrap();
                    for ((index, ids), base) in all.into_iter().zip(bases) {
                        prop_assert_eq!(base, bounds[index].1);
                        models[index].extend((base..).zip(ids.into_iter().zip(now..)));
                        bounds[index].1 += i64::try_from(records).unwrap();
                    }
                }
                Step::Read { from, max_bytes } => {
                    for index in 0..2 {
                        let offset = pick(&models[index], bounds[index].0, bounds[index].1, from);
                        let read = log.read(&tp(index), offset, max_bytes).unwrap();
                        let found: Vec<_> = ids_of(&read.batches).into_iter().filter(|(o, ..)| *o >= offset).collect();
                        let expected: Vec<_> = models[index].range(offset..).map(|(o, (id, ts))| (*o, *id, *ts)).collect();
                        prop_assert!(expected.starts_with(&found) && (expected.is_empty() || !found.is_empty()));
                        prop_assert_eq!((read.log_start, read.high_watermark), bounds[index]);
                        let sizes: Vec<usize> = read.batches.iter().map(|batch| batch.bytes().len()).collect();
                        prop_assert!(sizes.len() <= 1 || sizes.iter().sum::<usize>() <= max_bytes);
                    }
                }
                Step::Time { ms } => {
                    let expected = models[0].iter().find(|(_, (_, ts))| *ts >= ms).map(|(o, (_, ts))| (*o, *ts));
                    prop_assert_eq!(log.offset_for_time(&tp(0), ms).unwrap(), expected);
                }
                Step::Delete { from } => {
                    let offset = pick(&models[0], bounds[0].0, bounds[0].1, from);
                    prop_assert_eq!(log.delete_records_before(&tp(0), offset).unwrap(), offset);
                    models[0] = models[0].split_off(&offset);
                    bounds[0].0 = offset;
                }
                Step::Reopen { clean } => {
                    if clean {
                        log.close().unwrap();
                    } else {
                        drop(log);
                        disk = disk.kill();
                    }
                    log = open(&disk, tail);
                }
            }
        }
    }
}
