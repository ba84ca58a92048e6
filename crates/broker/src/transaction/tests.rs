//! The rules of one transactional id.

use herdsman_record::{BatchBuilder, Compression, TopicPartition};

use super::records::{append, decode_key, decode_value};
use super::{Claim, End, State, Transaction, TransactionError};
use crate::markers::Outcome;

const NOW: i64 = 1_700_000_000_000;

fn fresh() -> i64 {
    900
}

fn claim(producer_id: i64, producer_epoch: i16) -> Claim {
    Claim { producer_id, producer_epoch }
}

fn open() -> Transaction {
    let one = Transaction::new(7, 60_000, NOW);
    one.add(claim(7, 0), [TopicPartition::new("t", 1)], NOW).unwrap().unwrap()
}

#[test]
fn a_new_producer_aborts_the_open_transaction_and_fences_the_old_one() {
    let one = open();
    let (marker, next) = one.init(None, 1_000, fresh, NOW).unwrap();
    assert_eq!((marker, next.claim(), next.state), (Some(claim(7, 1)), claim(7, 1), State::CompleteAbort));
    assert!(next.partitions.is_empty());
    for refused in [
        next.end(claim(7, 0), Outcome::Commit, true, fresh, NOW).unwrap_err(),
        next.end(claim(7, 0), Outcome::Commit, false, fresh, NOW).unwrap_err(),
        next.add(claim(7, 0), [TopicPartition::new("t", 0)], NOW).unwrap_err(),
        next.init(Some(claim(7, 0)), 1_000, fresh, NOW).unwrap_err(),
    ] {
        assert_eq!(refused, TransactionError::Fenced);
    }
    assert_eq!(next.check(claim(8, 1)), Err(TransactionError::IdMapping));
}

#[test]
fn a_client_that_asks_again_for_its_new_epoch_gets_the_same_one() {
    let one = Transaction::new(7, 60_000, NOW);
    let (_, next) = one.init(Some(claim(7, 0)), 60_000, fresh, NOW).unwrap();
    assert_eq!(next.claim(), claim(7, 1));
    let (_, again) = next.init(Some(claim(7, 0)), 60_000, fresh, NOW).unwrap();
    assert_eq!(again.claim(), claim(7, 1));
    assert_eq!(next.init(Some(claim(9, 0)), 60_000, fresh, NOW), Err(TransactionError::Fenced));
}

#[test]
fn each_end_of_version_5_has_a_new_epoch_and_may_be_asked_for_again() {
    let End::Write { marker, next } = open().end(claim(7, 0), Outcome::Commit, true, fresh, NOW).unwrap()
    else {
        panic!("not written")
    };
    assert_eq!((marker, next.claim(), next.state), (claim(7, 1), claim(7, 1), State::CompleteCommit));
    assert_eq!(next.end(claim(7, 0), Outcome::Commit, true, fresh, NOW), Ok(End::Repeated));
    let turned = next.end(claim(7, 0), Outcome::Abort, true, fresh, NOW);
    assert_eq!(turned, Err(TransactionError::InvalidState(State::CompleteCommit)));
    let nothing = next.end(claim(7, 1), Outcome::Commit, true, fresh, NOW);
    assert_eq!(nothing, Err(TransactionError::InvalidState(State::CompleteCommit)));
    let End::Write { next, .. } = next.end(claim(7, 1), Outcome::Abort, true, fresh, NOW).unwrap() else {
        panic!("an abort of nothing still moves the epoch")
    };
    assert_eq!(next.claim(), claim(7, 2));
}

#[test]
fn an_end_before_version_5_keeps_the_epoch() {
    let End::Write { marker, next } = open().end(claim(7, 0), Outcome::Abort, false, fresh, NOW).unwrap()
    else {
        panic!("not written")
    };
    assert_eq!((marker, next.claim()), (claim(7, 0), claim(7, 0)));
    assert_eq!(next.end(claim(7, 0), Outcome::Abort, false, fresh, NOW), Ok(End::Repeated));
    let other = next.end(claim(7, 0), Outcome::Commit, false, fresh, NOW);
    assert_eq!(other, Err(TransactionError::InvalidState(State::CompleteAbort)));
}

#[test]
fn when_the_epochs_run_out_a_new_producer_id_begins() {
    let mut one = open();
    one.producer_epoch = i16::MAX - 1;
    let last = one.claim();
    let End::Write { marker, next } = one.end(last, Outcome::Commit, true, fresh, NOW).unwrap() else {
        panic!("not written")
    };
    assert_eq!((marker, next.claim()), (claim(7, i16::MAX), claim(900, 0)));
    assert_eq!(next.end(last, Outcome::Commit, true, fresh, NOW), Ok(End::Repeated));
}

#[test]
fn partitions_are_verified_and_time_runs_out() {
    let one = open();
    assert_eq!(one.verify(claim(7, 0), &TopicPartition::new("t", 1)), Ok(()));
    assert_eq!(one.verify(claim(7, 0), &TopicPartition::new("t", 0)), Err(TransactionError::NotAdded));
    assert_eq!(one.add(claim(7, 0), [TopicPartition::new("t", 1)], NOW + 1), Ok(None));
    assert!(!one.is_overdue(NOW + 60_000) && one.is_overdue(NOW + 60_001));
    let (marker, next) = one.expire(fresh, NOW);
    assert_eq!((marker, next.state), (claim(7, 1), State::CompleteAbort));
    assert_eq!(next.init(Some(claim(7, 0)), 1, fresh, NOW), Err(TransactionError::Fenced));
}

#[test]
fn records_read_back_as_they_were_written() {
    let mut all = vec![Transaction::new(7, 60_000, NOW), open()];
    let mut many = open();
    many.partitions.extend((0..200).map(|index| TopicPartition::new("another", index)));
    (many.previous_producer_id, many.last_epoch) = (6, 12);
    all.push(many);
    for one in all {
        let mut builder = BatchBuilder::new();
        append(&mut builder, "copy", Some(&one), NOW);
        append(&mut builder, "copy", None, NOW);
        let batch = builder.finish(Compression::None).unwrap();
        let records = batch.records().unwrap();
        let records: Vec<_> = records.iter().map(Result::unwrap).collect();
        assert_eq!(records[0].key.and_then(decode_key).as_deref(), Some("copy"));
        assert_eq!(decode_value(records[0].value.unwrap()), Some(one.clone()));
        assert_eq!(records[1].value, None);
        let value = records[0].value.unwrap();
        for len in 0..value.len() {
            assert_eq!(decode_value(&value[..len]), None, "{len} of {} bytes", value.len());
        }
    }
}
