//! Share groups through the broker: records once to one member, and what was decided is there after a restart.

use std::collections::BTreeMap;
use std::sync::Arc;

use herdsman_host::SimClock;
use herdsman_record::TopicPartition;
use herdsman_wire::kafka_protocol::messages::*;
use herdsman_wire::kafka_protocol::protocol::StrBytes;
use herdsman_wire::{Reply, ShareExtras};
use uuid::Uuid;

use crate::Broker;
use crate::markers::{Outcome, marker};
use crate::tests::{batch, open, open_at};
use crate::transaction::Claim;

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

/// A fetch of partition 0 that acknowledges ranges: first, last, type.
pub(crate) fn share_fetch(
    group: &str,
    member: &str,
    epoch: i32,
    topic: [u8; 16],
    acknowledged: &[(i64, i64, i8)],
) -> ShareFetchRequest {
    let batches = acknowledged.iter().map(|(first, last, kind)| {
        share_fetch_request::AcknowledgementBatch::default()
            .with_first_offset(*first)
            .with_last_offset(*last)
            .with_acknowledge_types(vec![*kind])
    });
    let partition =
        share_fetch_request::FetchPartition::default().with_acknowledgement_batches(batches.collect());
    let topic = share_fetch_request::FetchTopic::default()
        .with_topic_id(Uuid::from_bytes(topic))
        .with_partitions(vec![partition]);
    ShareFetchRequest::default()
        .with_group_id(Some(GroupId(text(group))))
        .with_member_id(Some(text(member)))
        .with_share_session_epoch(epoch)
        .with_max_bytes(1 << 20)
        .with_max_records(500)
        .with_batch_size(500)
        .with_topics(vec![topic])
}

pub(crate) fn share_acknowledge(
    group: &str,
    member: &str,
    epoch: i32,
    topic: [u8; 16],
    (first, last, kind): (i64, i64, i8),
) -> ShareAcknowledgeRequest {
    let range = share_acknowledge_request::AcknowledgementBatch::default()
        .with_first_offset(first)
        .with_last_offset(last)
        .with_acknowledge_types(vec![kind]);
    let partition =
        share_acknowledge_request::AcknowledgePartition::default().with_acknowledgement_batches(vec![range]);
    let topic = share_acknowledge_request::AcknowledgeTopic::default()
        .with_topic_id(Uuid::from_bytes(topic))
        .with_partitions(vec![partition]);
    ShareAcknowledgeRequest::default()
        .with_group_id(Some(GroupId(text(group))))
        .with_member_id(Some(text(member)))
        .with_share_session_epoch(epoch)
        .with_topics(vec![topic])
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// What a member is told: error code of the whole, of the acknowledgements, and records by first, last, delivery.
type Told = (i16, i16, Vec<(i64, i64, i16)>);

fn fetch(broker: &Broker, request: ShareFetchRequest, extras: ShareExtras) -> Told {
    let reply = run(broker.on_share_fetch(request, extras));
    let Reply::Message(kind) = reply else { panic!("no message") };
    let ResponseKind::ShareFetch(response) = *kind else { panic!("no share fetch") };
    let partitions: Vec<_> = response.responses.into_iter().flat_map(|topic| topic.partitions).collect();
    let acknowledge = partitions.iter().map(|one| one.acknowledge_error_code).max().unwrap_or(0);
    let error = partitions.iter().map(|one| one.error_code).max().unwrap_or(0).max(response.error_code);
    let told = partitions.iter().flat_map(|one| {
        one.acquired_records.iter().map(|one| (one.first_offset, one.last_offset, one.delivery_count))
    });
    (error, acknowledge, told.collect())
}

fn earliest(broker: &Broker, group: &str, more: &[(&str, &str)]) {
    let mut configs = BTreeMap::from([("share.auto.offset.reset".to_owned(), "earliest".to_owned())]);
    configs.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    broker.set_group_configs(group, &configs, false).unwrap();
}

#[test]
fn what_was_acknowledged_is_not_delivered_again_after_a_restart_and_what_was_only_delivered_is() {
    let dir = tempfile::tempdir().unwrap();
    let id = {
        let broker = open(dir.path());
        let id = broker.create_topic("finds", 1, &BTreeMap::new()).unwrap().id.0;
        broker.produce(&TopicPartition::new("finds", 0), batch(&["a", "b", "c", "d"], None)).unwrap();
        earliest(&broker, "workers", &[]);
        let none = ShareExtras::default();
        assert_eq!(fetch(&broker, share_fetch("workers", "m", 0, id, &[]), none), (0, 0, vec![(0, 3, 1)]));
        let done = [(0, 0, 1), (1, 1, 2), (2, 2, 3)];
        // the released one comes back at once
        assert_eq!(fetch(&broker, share_fetch("workers", "m", 1, id, &done), none), (0, 0, vec![(1, 1, 2)]));
        assert_eq!(fetch(&broker, share_fetch("workers", "m", 1, id, &[]), none).0, 123, "the epoch is used");
        let taken = fetch(&broker, share_fetch("workers", "other", 0, id, &[]), none);
        assert_eq!(taken, (0, 0, vec![]), "all are taken");
        let wrong = fetch(&broker, share_fetch("workers", "other", 1, id, &[(1, 1, 1)]), none);
        assert_eq!(wrong.1, 121, "not that member's");
        id
    };
    let broker = open(dir.path());
    let none = ShareExtras::default();
    assert_eq!(fetch(&broker, share_fetch("workers", "m", 2, id, &[]), none).0, 122, "the session is gone");
    let told = fetch(&broker, share_fetch("workers", "m", 0, id, &[]), none);
    assert_eq!(told.2.iter().map(|one| (one.0, one.1)).collect::<Vec<_>>(), [(1, 1), (3, 3)]);
    // a session that ends gives back what it held
    assert_eq!(fetch(&broker, share_fetch("workers", "m", -1, id, &[(1, 1, 1)]), none), (0, 0, vec![]));
    assert_eq!(fetch(&broker, share_fetch("workers", "n", 0, id, &[]), none).2.len(), 1);
    assert!(broker.delete_group("workers").is_ok());
    assert!(broker.delete_group("workers").is_err());
}

#[test]
fn a_lock_that_runs_out_frees_its_records_unless_it_is_renewed() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(SimClock::new(1_700_000_000_000));
    let broker = open_at(dir.path(), Arc::clone(&clock) as _);
    let id = broker.create_topic("finds", 1, &BTreeMap::new()).unwrap().id.0;
    broker.produce(&TopicPartition::new("finds", 0), batch(&["a", "b"], None)).unwrap();
    earliest(&broker, "workers", &[("share.record.lock.duration.ms", "15000")]);
    let (none, renew) = (ShareExtras::default(), ShareExtras { is_renew: true, ..ShareExtras::default() });
    assert_eq!(fetch(&broker, share_fetch("workers", "m", 0, id, &[]), none).2, [(0, 1, 1)]);
    clock.advance_ns(10_000_000_000);
    assert_eq!(fetch(&broker, share_fetch("workers", "m", 1, id, &[(1, 1, 4)]), none).1, 42, "unannounced");
    assert_eq!(fetch(&broker, share_fetch("workers", "m", 2, id, &[(1, 1, 4)]), renew), (0, 0, vec![]));
    clock.advance_ns(6_000_000_000);
    broker.tick_shares();
    assert_eq!(fetch(&broker, share_fetch("workers", "n", 0, id, &[]), none).2, [(0, 0, 2)]);
}

#[test]
fn a_group_that_reads_committed_gets_no_aborted_record_and_no_marker() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path());
    let id = broker.create_topic("finds", 1, &BTreeMap::new()).unwrap().id.0;
    let at = TopicPartition::new("finds", 0);
    let claim = |producer_id| Claim { producer_id, producer_epoch: 0 };
    for (producer, outcome) in [(7, Outcome::Abort), (8, Outcome::Commit)] {
        let mut builder = herdsman_record::BatchBuilder::new();
        builder.producer(producer, 0, 0);
        builder.attributes(0x10);
        builder.append(1_700_000_000_000, None, Some(b"v"), &[]);
        let data = builder.finish(herdsman_record::Compression::None).unwrap();
        let claim = claim(producer);
        let end = marker((claim.producer_id, claim.producer_epoch), outcome, 0, 1_700_000_000_000).unwrap();
        broker.log().append(&at, data).unwrap();
        broker.log().append(&at, end).unwrap();
    }
    earliest(&broker, "all", &[]);
    earliest(&broker, "committed", &[("share.isolation.level", "read_committed")]);
    let none = ShareExtras::default();
    assert_eq!(fetch(&broker, share_fetch("all", "m", 0, id, &[]), none).2, [(0, 0, 1), (2, 2, 1)]);
    assert_eq!(fetch(&broker, share_fetch("committed", "m", 0, id, &[]), none).2, [(2, 2, 1)]);
}
