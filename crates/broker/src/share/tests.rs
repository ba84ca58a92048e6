//! Share partitions: who gets which record how often, against a model that keeps every record for itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use herdsman_host::Seed;
use herdsman_record::{BatchBuilder, Compression};

use super::group::ShareHeartbeat;
use super::partition::Taking;
use super::*;
use crate::group::consumer::{TopicId, TopicLookup};

fn settings() -> ShareSettings {
    ShareConfig::default().settings(None)
}

fn taking(holder: &str, records_max: i64, now_ms: u64) -> Taking {
    Taking { holder: Arc::from(holder), records_max, is_hard: true, range_max: 500, now_ms }
}

fn acknowledge(first: i64, last: i64, kinds: &[i8]) -> [Acknowledgement; 1] {
    [Acknowledgement { first, last, kinds: kinds.to_vec() }]
}

fn take(partition: &mut SharePartition, batch: (i64, i64), taking: &Taking) -> Vec<(i64, i64, i16)> {
    let mut told = Vec::new();
    partition.acquire(batch, taking, &settings(), &mut told);
    told.iter().map(|one| (one.first, one.last, one.deliveries)).collect()
}

#[test]
fn records_are_taken_once_until_they_are_released_or_their_lock_runs_out() {
    let mut partition = SharePartition::new(0);
    assert_eq!(take(&mut partition, (0, 9), &taking("a", 4, 0)), [(0, 3, 1)]);
    assert_eq!(take(&mut partition, (0, 9), &taking("b", 9, 0)), [(4, 9, 1)]);
    assert_eq!(take(&mut partition, (0, 9), &taking("c", 9, 0)), []);
    let refused = partition.acknowledge("b", &acknowledge(3, 5, &[1]), &settings(), 1);
    assert_eq!(refused, Err(ShareError::InvalidRecordState));
    // accept, release, reject, accept: the released one goes to the next, told that it is its second time
    partition.acknowledge("a", &acknowledge(0, 3, &[1, 2, 3, 1]), &settings(), 1).unwrap();
    assert_eq!((partition.start(), partition.end()), (1, 10));
    assert_eq!(take(&mut partition, (0, 9), &taking("c", 9, 1)), [(1, 1, 2)]);
    // b's lock runs out, c renews in time
    partition.acknowledge("c", &acknowledge(1, 1, &[4]), &settings(), 29_000).unwrap();
    assert!(partition.expire(&settings(), 30_001));
    assert_eq!(partition.next_fetch(&settings()), Some(4));
    let late = partition.acknowledge("b", &acknowledge(4, 9, &[1]), &settings(), 30_002);
    assert_eq!(late, Err(ShareError::InvalidRecordState));
    partition.acknowledge("c", &acknowledge(1, 1, &[1]), &settings(), 30_002).unwrap();
    assert_eq!(partition.start(), 4);
}

#[test]
fn a_record_is_given_up_after_five_deliveries_and_one_given_back_unseen_counts_none() {
    let mut partition = SharePartition::new(7);
    for delivery in 1..=5 {
        for _ in 0..3 {
            assert_eq!(take(&mut partition, (7, 7), &taking("a", 1, 0)), [(7, 7, delivery)]);
            assert!(partition.release("a"));
        }
        assert_eq!(take(&mut partition, (7, 7), &taking("a", 1, 0)), [(7, 7, delivery)]);
        partition.acknowledge("a", &acknowledge(7, 7, &[2]), &settings(), 0).unwrap();
    }
    assert_eq!((partition.start(), take(&mut partition, (7, 7), &taking("a", 1, 0))), (8, vec![]));
}

#[test]
fn acknowledgements_that_contradict_themselves_change_nothing() {
    let mut partition = SharePartition::new(0);
    take(&mut partition, (0, 9), &taking("a", 10, 0));
    let before = partition.clone();
    let ranges = |ranges: &[(i64, i64)]| -> Vec<Acknowledgement> {
        ranges.iter().map(|(first, last)| acknowledge(*first, *last, &[1])[0].clone()).collect()
    };
    for wrong in [
        ranges(&[(0, 3), (3, 4)]),
        ranges(&[(4, 3)]),
        ranges(&[(0, 3), (9, 10)]),
        acknowledge(0, 3, &[1, 1]).to_vec(),
        acknowledge(0, 1, &[1, 5]).to_vec(),
    ] {
        assert!(partition.acknowledge("a", &wrong, &settings(), 0).is_err(), "{wrong:?}");
        assert_eq!(partition, before);
    }
}

#[test]
fn at_most_so_many_records_are_out_at_a_time() {
    let mut partition = SharePartition::new(0);
    let limits = ShareSettings { record_locks_max: 100, ..settings() };
    let mut told = Vec::new();
    partition.acquire((0, 149), &taking("a", 500, 0), &limits, &mut told);
    assert_eq!(partition.next_fetch(&limits), None, "a batch is taken whole, then no more");
    told.clear();
    partition.acquire((150, 199), &taking("a", 500, 0), &limits, &mut told);
    assert!(told.is_empty());
    partition.acknowledge("a", &acknowledge(0, 119, &[1]), &limits, 0).unwrap();
    assert_eq!(partition.next_fetch(&limits), Some(150));
}

/// A record as the model keeps it.
#[derive(Debug, Clone, PartialEq)]
enum Model {
    Free(i16),
    Held(&'static str, i16),
    Done,
}

#[test]
fn spans_agree_with_a_model_of_single_records_also_after_a_restart() {
    for number in 0..300 {
        let mut seed = Seed::new(number);
        let mut partition = SharePartition::new(0);
        let mut model: BTreeMap<i64, Model> = BTreeMap::new();
        for _ in 0..60 {
            let holder = ["a", "b", "c"][seed.index(3)];
            let first = i64::try_from(seed.below(30)).unwrap();
            let last = first + i64::try_from(seed.below(8)).unwrap();
            match seed.below(5) {
                0 | 1 => {
                    let first = first.min(partition.end());
                    for (from, to, deliveries) in take(&mut partition, (first, last), &taking(holder, 5, 0)) {
                        for offset in from..=to {
                            let before = model.insert(offset, Model::Held(holder, deliveries));
                            let free = matches!(before, None | Some(Model::Free(_)));
                            assert!(free, "seed {number}: {offset} was {before:?}");
                            let counted = match before {
                                Some(Model::Free(count)) => count,
                                _ => 0,
                            };
                            assert_eq!(deliveries, counted + 1, "seed {number}: {offset}");
                        }
                    }
                }
                2 => {
                    let kind = [1, 2, 3][seed.index(3)];
                    let holds = (first..=last).filter(|offset| *offset >= partition.start());
                    let holds = holds.clone().all(
                        |offset| matches!(model.get(&offset), Some(Model::Held(by, _)) if *by == holder),
                    );
                    let one = acknowledge(first, last, &[kind]);
                    let start = partition.start();
                    let done = partition.acknowledge(holder, &one, &settings(), 0);
                    assert_eq!(done.is_ok(), holds, "seed {number}: {holder} {first}..={last} {model:?}");
                    for offset in (first.max(start)..=last).filter(|_| holds) {
                        let next = match (kind, &model[&offset]) {
                            (2, Model::Held(_, count)) if *count < 5 => Model::Free(*count),
                            _ => Model::Done,
                        };
                        model.insert(offset, next);
                    }
                }
                3 => {
                    partition.release(holder);
                    for one in model.values_mut() {
                        if let Model::Held(by, count) = one
                            && *by == holder
                        {
                            *one = Model::Free(*count - 1);
                        }
                    }
                }
                _ => {
                    partition = written_and_read(&partition);
                    for one in model.values_mut() {
                        if let Model::Held(_, count) = one {
                            *one = Model::Free(*count);
                        }
                    }
                }
            }
            let undone = model.iter().find(|(_, one)| **one != Model::Done).map(|(offset, _)| *offset);
            let end = model.keys().next_back().map_or(0, |last| last + 1);
            assert_eq!(partition.end(), end, "seed {number}");
            assert_eq!(partition.start(), undone.unwrap_or(end), "seed {number}");
        }
    }
}

fn written_and_read(partition: &SharePartition) -> SharePartition {
    let key = ShareKey { group: "g".to_owned(), topic: [1; 16], index: 3 };
    let mut builder = BatchBuilder::new();
    store::put_partition(&mut builder, &key, Some(partition), 0);
    let mut shares = Shares::default();
    store::load(&mut shares, &builder.finish(Compression::None).unwrap()).unwrap();
    let found = shares.partitions[&key].lock().unwrap().clone();
    assert_eq!((found.start(), found.end()), (partition.start(), partition.end()));
    found
}

struct Named(BTreeMap<String, (TopicId, i32)>);

impl TopicLookup for Named {
    fn version(&self) -> u64 {
        0
    }

    fn find(&self, name: &str) -> Option<(TopicId, i32)> {
        self.0.get(name).copied()
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }
}

#[test]
fn every_partition_has_a_reader_and_every_reader_a_partition_whoever_comes_and_goes() {
    let topics = Named(BTreeMap::from([("t".to_owned(), ([1; 16], 3))]));
    let mut group = ShareGroup::default();
    let beat = |id: usize, epoch: i32, now_ms: u64| ShareHeartbeat {
        member_id: format!("m{id}"),
        member_epoch: epoch,
        topics: (epoch == 0).then(|| BTreeSet::from(["t".to_owned()])),
        deadline_ms: now_ms + 1_000,
        members_max: 7,
        ..ShareHeartbeat::default()
    };
    for members in 1..=7_usize {
        let (_, told) = group.on_heartbeat(beat(members, 0, 0), &topics).unwrap();
        assert!(!told.unwrap().is_empty());
        let read: BTreeSet<i32> = group.target.values().flatten().flat_map(|(_, all)| all).copied().collect();
        assert_eq!(read, BTreeSet::from([0, 1, 2]), "{members} members");
        assert!(group.target.values().all(|one| !one.is_empty()));
    }
    assert_eq!(group.on_heartbeat(beat(8, 0, 0), &topics), Err(crate::group::GroupError::GroupFull));
    let (epoch, told) = group.on_heartbeat(beat(1, 1, 500), &topics).unwrap();
    assert_eq!((epoch, told.is_some()), (7, true));
    assert_eq!(group.on_heartbeat(beat(1, 7, 500), &topics), Ok((7, None)));
    assert_eq!(group.on_heartbeat(beat(1, 3, 500), &topics), Err(crate::group::GroupError::FencedEpoch));
    assert_eq!(group.on_tick(1_200).len(), 6, "only one was heard of");
    let (_, told) = group.on_heartbeat(beat(1, 7, 1_200), &topics).unwrap();
    assert_eq!(told.unwrap()[&[1; 16]].len(), 3);
}

#[test]
fn a_session_goes_on_only_at_its_next_epoch() {
    let mut shares =
        Shares { config: ShareConfig { sessions_max: 1, ..ShareConfig::default() }, ..Shares::default() };
    assert_eq!(shares.step_session("g", "m", 1, true), Err(ShareError::SessionNotFound));
    assert_eq!(shares.step_session("g", "m", 0, false), Err(ShareError::SessionEpoch));
    assert_eq!(shares.step_session("g", "m", 0, true), Ok(SessionStep::Begins));
    assert_eq!(shares.step_session("g", "n", 0, true), Err(ShareError::SessionLimit));
    assert_eq!(shares.step_session("g", "m", 1, true), Ok(SessionStep::GoesOn));
    assert_eq!(shares.step_session("g", "m", 1, true), Err(ShareError::SessionEpoch));
    assert_eq!(shares.step_session("g", "m", 2, true), Ok(SessionStep::GoesOn));
    assert_eq!(shares.step_session("g", "m", -1, true), Ok(SessionStep::Ends));
    assert_eq!(shares.step_session("g", "m", 3, true), Err(ShareError::SessionNotFound));
}
