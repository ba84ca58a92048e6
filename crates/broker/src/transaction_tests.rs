//! Transactions in the broker as a whole, in process: what readers see, what a restart brings back, what is refused.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use herdsman_bus::Bus;
use herdsman_host::{Clock, RealDisk, SimClock};
use herdsman_log::LogConfig;
use herdsman_record::{Batch, BatchBuilder, Compression, TopicPartition};

use crate::group::{Committed, OFFSETS_TOPIC};
use crate::markers::Outcome;
use crate::topic::lock;
use crate::transaction::{Claim, State, TransactionConfig, TransactionError};
use crate::transactions::Within;
use crate::{Broker, BrokerConfig, BrokerError, EmbeddedBus};

const NOW: i64 = 1_700_000_000_000;
const TIMEOUT_MS: i32 = 10_000;

struct Place {
    dir: tempfile::TempDir,
    clock: Arc<SimClock>,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), clock: Arc::new(SimClock::new(NOW)) }
    }

    fn pass(&self, time: Duration) {
        self.clock.advance_ns(u64::try_from(time.as_nanos()).unwrap());
    }

    fn open(&self) -> Arc<Broker> {
        open(self.dir.path(), Arc::clone(&self.clock) as Arc<dyn Clock>)
    }
}

fn open(dir: &Path, clock: Arc<dyn Clock>) -> Arc<Broker> {
    let transactions = TransactionConfig { log_bytes_max: 20_000, ..TransactionConfig::default() };
    let config = BrokerConfig { transactions, offsets_bytes_max: 20_000, ..BrokerConfig::default() };
    Arc::new(Broker::open(Arc::new(RealDisk), dir, clock, LogConfig::default(), config).unwrap().0)
}

fn finds(partition: i32) -> TopicPartition {
    TopicPartition::new("finds", partition)
}

fn batch(values: &[&str], claim: Option<Claim>, sequence: i32) -> Batch {
    let mut builder = BatchBuilder::new();
    if let Some(claim) = claim {
        builder.producer(claim.producer_id, claim.producer_epoch, sequence);
        builder.attributes(0x10);
    }
    values.iter().for_each(|value| builder.append(NOW, None, Some(value.as_bytes()), &[]));
    builder.finish(Compression::None).unwrap()
}

fn send(
    broker: &Broker,
    at: &TopicPartition,
    claim: Claim,
    sequence: i32,
    value: &str,
) -> Result<i64, BrokerError> {
    let within = Within { transactional_id: "copy", adds: true };
    broker
        .produce_within(at, batch(&[value], Some(claim), sequence), Some(within))
        .map(|done| done.base_offset)
}

fn begin(broker: &Broker) -> Claim {
    broker.init_producer("copy", None, TIMEOUT_MS).unwrap()
}

fn end(broker: &Broker, claim: Claim, outcome: Outcome) -> Claim {
    broker.end_transaction("copy", claim, outcome, true).unwrap()
}

/// What the bus's readers get of one partition from `offset` on.
fn committed(broker: &Arc<Broker>, at: &TopicPartition, offset: i64) -> Vec<String> {
    let bus = EmbeddedBus::new(Arc::clone(broker), "test");
    let mut reader = bus.reader(&[(at.clone(), offset)]).unwrap();
    let mut found = Vec::new();
    loop {
        let round = reader.poll(1 << 20, Duration::ZERO).unwrap();
        if round.is_empty() {
            return found;
        }
        for batch in round.iter().flat_map(|part| &part.batches) {
            for record in batch.records().unwrap().iter() {
                found.push(String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap());
            }
        }
    }
}

#[test]
fn readers_see_a_transaction_when_it_is_committed_and_never_when_aborted() {
    let place = Place::new();
    let broker = place.open();
    broker.create_topic("finds", 2, &BTreeMap::new()).unwrap();
    let claim = begin(&broker);
    broker.produce(&finds(0), batch(&["plain 0"], None, -1)).unwrap();
    assert_eq!(send(&broker, &finds(0), claim, 0, "first").unwrap(), 1);
    broker.produce(&finds(0), batch(&["plain 1"], None, -1)).unwrap();
    send(&broker, &finds(1), claim, 0, "second").unwrap();
    assert_eq!(committed(&broker, &finds(0), 0), ["plain 0"], "what stands behind an open transaction waits");
    assert_eq!(committed(&broker, &finds(1), 0), [""; 0]);
    let bus = EmbeddedBus::new(Arc::clone(&broker), "test");
    assert_eq!(bus.offsets(&finds(0)).unwrap().end, 1, "the end that a reader can reach");
    let claim = end(&broker, claim, Outcome::Commit);
    assert_eq!(committed(&broker, &finds(0), 0), ["plain 0", "first", "plain 1"]);
    assert_eq!(committed(&broker, &finds(1), 0), ["second"]);

    send(&broker, &finds(0), claim, 0, "not to be").unwrap();
    broker.produce(&finds(0), batch(&["plain 2"], None, -1)).unwrap();
    let claim = end(&broker, claim, Outcome::Abort);
    assert_eq!(committed(&broker, &finds(0), 2), ["plain 1", "plain 2"]);
    send(&broker, &finds(0), claim, 0, "third").unwrap();
    end(&broker, claim, Outcome::Commit);
    assert_eq!(committed(&broker, &finds(0), 2), ["plain 1", "plain 2", "third"]);

    let state = broker.state(&finds(0)).unwrap();
    let aborted: Vec<_> = state.aborted_in(0, 100).iter().map(|one| (one.first, one.last)).collect();
    assert_eq!(aborted, [(4, 6)]);
    assert_eq!((state.aborted_in(0, 4).len(), state.aborted_in(7, 100).len()), (0, 0));
}

#[test]
fn an_open_transaction_goes_on_after_a_restart_and_its_end_counts() {
    let place = Place::new();
    let input = TopicPartition::new("finds", 1);
    let (claim, aborted_by) = {
        let broker = place.open();
        broker.create_topic("finds", 2, &BTreeMap::new()).unwrap();
        let claim = begin(&broker);
        send(&broker, &finds(0), claim, 0, "aborted").unwrap();
        let claim = end(&broker, claim, Outcome::Abort);
        send(&broker, &finds(0), claim, 0, "a").unwrap();
        let within = Within { transactional_id: "copy", adds: true };
        let offset = broker.committed_now(5);
        broker.commit_within(within, claim, "g", vec![(input.clone(), offset)]).unwrap();
        let state = broker.state(&finds(0)).unwrap();
        state.keep(broker.log(), &finds(0), 0).unwrap();
        send(&broker, &finds(0), claim, 1, "b").unwrap();
        (claim, state.aborted_in(0, 100))
    };
    for round in 0..3 {
        let broker = place.open();
        let (store, at) = (lock(&broker.offsets), finds(1));
        assert!(store.is_pending("g", &at) && store.get("g", &at).is_none(), "round {round}");
        drop(store);
        assert_eq!(committed(&broker, &finds(0), 0), [""; 0]);
        assert_eq!(broker.state(&finds(0)).unwrap().aborted_in(0, 100), aborted_by);
    }
    let broker = place.open();
    assert_eq!(send(&broker, &finds(0), claim, 1, "b").unwrap(), 3, "a resent batch is known");
    send(&broker, &finds(0), claim, 2, "c").unwrap();
    let next = end(&broker, claim, Outcome::Commit);
    assert_eq!(next, Claim { producer_epoch: claim.producer_epoch + 1, ..claim });
    assert_eq!(end(&broker, claim, Outcome::Commit), next, "asked again, as after a lost answer");
    drop(broker);
    let broker = place.open();
    assert_eq!(end(&broker, claim, Outcome::Commit), next, "also after a restart");
    assert_eq!(committed(&broker, &finds(0), 0), ["a", "b", "c"]);
    assert_eq!(lock(&broker.offsets).get("g", &input).map(|one| one.offset), Some(5));
    assert!(!lock(&broker.offsets).is_pending("g", &input));
}

#[test]
fn late_messages_of_a_producer_that_was_replaced_are_refused() {
    let place = Place::new();
    let broker = place.open();
    broker.create_topic("finds", 2, &BTreeMap::new()).unwrap();
    let old = begin(&broker);
    send(&broker, &finds(0), old, 0, "old").unwrap();
    let new = begin(&broker);
    let late = send(&broker, &finds(0), old, 1, "late").unwrap_err();
    assert_eq!(late.produce_code(12), 47, "INVALID_PRODUCER_EPOCH: {late}");
    let late = send(&broker, &finds(1), old, 0, "late, elsewhere").unwrap_err();
    assert_eq!(late.produce_code(12), 47, "{late}");
    let late = broker.end_transaction("copy", old, Outcome::Commit, true).unwrap_err();
    assert!(matches!(late, BrokerError::Transaction(TransactionError::Fenced)), "{late}");
    assert_eq!(committed(&broker, &finds(0), 0), [""; 0]);
    send(&broker, &finds(0), new, 0, "new").unwrap();
    // sent in the transaction before, arrives in the next one: an epoch apart
    let next = end(&broker, new, Outcome::Commit);
    send(&broker, &finds(1), next, 0, "next").unwrap();
    let late = send(&broker, &finds(1), new, 0, "late").unwrap_err();
    assert_eq!(late.produce_code(12), 47, "{late}");
    end(&broker, next, Outcome::Commit);
    assert_eq!(committed(&broker, &finds(0), 0), ["new"]);
    assert_eq!(committed(&broker, &finds(1), 0), ["next"]);
}

#[test]
fn a_client_before_version_12_adds_its_partitions_first_and_is_refused_otherwise() {
    let place = Place::new();
    let broker = place.open();
    broker.create_topic("finds", 2, &BTreeMap::new()).unwrap();
    let claim = begin(&broker);
    let within = Some(Within { transactional_id: "copy", adds: false });
    let not_added = broker.produce_within(&finds(0), batch(&["x"], Some(claim), 0), within).unwrap_err();
    assert_eq!((not_added.produce_code(9), not_added.produce_code(11)), (48, 120), "{not_added}");
    let nobody = broker.produce(&finds(0), batch(&["x"], Some(claim), 0)).unwrap_err();
    assert!(matches!(nobody, BrokerError::InvalidRequest(_)), "{nobody}");
    broker.add_to_transaction("copy", claim, [finds(0)]).unwrap();
    broker.produce_within(&finds(0), batch(&["x"], Some(claim), 0), within).unwrap();
    assert_eq!(
        broker.end_transaction("copy", claim, Outcome::Commit, false).unwrap(),
        claim,
        "the epoch stays"
    );
    let after = broker.produce_within(&finds(0), batch(&["y"], Some(claim), 1), within).unwrap_err();
    assert_eq!(after.produce_code(9), 48, "{after}");
    broker.add_to_transaction("copy", claim, [finds(0)]).unwrap();
    broker.produce_within(&finds(0), batch(&["y"], Some(claim), 1), within).unwrap();
    broker.end_transaction("copy", claim, Outcome::Abort, false).unwrap();
    assert_eq!(committed(&broker, &finds(0), 0), ["x"]);
}

#[test]
fn a_transaction_open_for_too_long_is_aborted_and_its_producer_fenced() {
    let place = Place::new();
    let broker = place.open();
    broker.create_topic("finds", 1, &BTreeMap::new()).unwrap();
    let claim = begin(&broker);
    send(&broker, &finds(0), claim, 0, "slow").unwrap();
    broker.produce(&finds(0), batch(&["behind"], None, -1)).unwrap();
    place.pass(Duration::from_millis(TIMEOUT_MS.unsigned_abs().into()));
    broker.maintain().unwrap();
    assert_eq!(committed(&broker, &finds(0), 0), [""; 0]);
    place.pass(Duration::from_millis(1));
    broker.maintain().unwrap();
    assert_eq!(committed(&broker, &finds(0), 0), ["behind"]);
    let slot = broker.transaction("copy").unwrap();
    assert_eq!(lock(&slot).as_ref().map(|one| one.state), Some(State::CompleteAbort));
    assert!(send(&broker, &finds(0), claim, 1, "too late").is_err());
    drop(slot);
    place.pass(Duration::from_secs(8 * 86_400));
    broker.maintain().unwrap();
    broker.maintain().unwrap();
    assert!(broker.all_transactions().is_empty(), "an id unused for a week is forgotten");
    drop(broker);
    assert!(place.open().all_transactions().is_empty());
}

#[test]
fn the_brokers_own_topics_stay_small_with_a_transaction_open_meanwhile() {
    let place = Place::new();
    let broker = place.open();
    broker.create_topic("finds", 1, &BTreeMap::new()).unwrap();
    let slow = broker.init_producer("slow", None, TIMEOUT_MS).unwrap();
    let within = Within { transactional_id: "slow", adds: true };
    let offset = |offset| vec![(finds(0), broker.committed_now(offset))];
    broker.commit_within(within, slow, "slow", offset(3)).unwrap();
    let mut claim = begin(&broker);
    let within = Within { transactional_id: "copy", adds: true };
    for number in 0..400 {
        broker.commit_within(within, claim, "g", offset(number)).unwrap();
        claim = end(&broker, claim, if number % 3 == 0 { Outcome::Abort } else { Outcome::Commit });
        broker.maintain().unwrap();
    }
    for topic in [OFFSETS_TOPIC, "__transaction_state"] {
        let at = TopicPartition::new(topic, 0);
        assert!(broker.log().size(&at).unwrap() < 40_000, "{topic}");
    }
    drop(broker);
    let broker = place.open();
    broker.end_transaction("slow", slow, Outcome::Commit, true).unwrap();
    let found = |group: &str| lock(&broker.offsets).get(group, &finds(0)).map(|one: &Committed| one.offset);
    assert_eq!((found("slow"), found("g")), (Some(3), Some(398)));
    assert_eq!(broker.state(&TopicPartition::new(OFFSETS_TOPIC, 0)).unwrap().last_stable(i64::MAX), i64::MAX);
}

#[test]
fn a_transaction_whose_first_records_were_deleted_is_aborted_whole_also_after_a_restart() {
    let place = Place::new();
    let claim = {
        let broker = place.open();
        broker.create_topic("finds", 2, &BTreeMap::new()).unwrap();
        let claim = begin(&broker);
        let within = Within { transactional_id: "copy", adds: true };
        let both = batch(&["deleted", "not to be"], Some(claim), 0);
        broker.produce_within(&finds(0), both, Some(within)).unwrap();
        broker.log().delete_records_before(&finds(0), 1).unwrap();
        claim
    };
    let broker = place.open();
    assert_eq!(committed(&broker, &finds(0), 1), [""; 0], "the transaction is still open");
    end(&broker, claim, Outcome::Abort);
    assert_eq!(committed(&broker, &finds(0), 1), [""; 0]);
    drop(broker);
    assert_eq!(committed(&place.open(), &finds(0), 1), [""; 0]);
}

#[test]
fn every_aborted_transaction_that_readers_are_told_of_has_its_marker_also_after_compaction() {
    let place = Place::new();
    let configs = [
        ("cleanup.policy", "compact"),
        ("segment.bytes", "1024"),
        ("min.cleanable.dirty.ratio", "0.1"),
        ("delete.retention.ms", "1000"),
    ];
    let configs = configs.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let mut broker = place.open();
    broker.create_topic("finds", 1, &BTreeMap::from(configs)).unwrap();
    let mut claim = begin(&broker);
    let within = Within { transactional_id: "copy", adds: true };
    for number in 0..60 {
        let mut builder = BatchBuilder::new();
        builder.producer(claim.producer_id, claim.producer_epoch, 0);
        builder.attributes(0x10);
        builder.append(NOW, Some(b"key"), Some(&[b'x'; 100]), &[]);
        broker.produce_within(&finds(0), builder.finish(Compression::None).unwrap(), Some(within)).unwrap();
        claim = end(&broker, claim, if number % 2 == 0 { Outcome::Abort } else { Outcome::Commit });
        place.pass(Duration::from_secs(1));
        broker.maintain().unwrap();
        if number % 20 == 19 {
            broker.keep_producers(0).unwrap();
            drop(broker);
            broker = place.open();
        }
        let told = broker.state(&finds(0)).unwrap().aborted_in(0, i64::MAX);
        assert!(told.len() < 25, "{} are told of", told.len());
        for one in told {
            let batches = broker.log().read(&finds(0), one.last, 1).unwrap().batches;
            let marker = batches.first().map(Batch::header);
            assert!(
                marker.is_some_and(|found| found.is_control() && found.base_offset == one.last),
                "{one:?}"
            );
        }
    }
}

#[test]
fn no_producer_id_is_given_out_twice_though_the_clock_is_set_back() {
    let place = Place::new();
    let first = place.open().fresh_producer_id();
    place.clock.jump_ms(-60_000);
    let earlier = place.open().fresh_producer_id();
    place.clock.jump_ms(60_000);
    let same = place.open().fresh_producer_id();
    assert!(first != earlier && first != same && earlier != same && first >= 0, "{first} {earlier} {same}");
}

#[test]
fn an_event_id_of_an_aborted_transaction_is_accepted_again() {
    let place = Place::new();
    let configs = [("herdsman.event.id", "id"), ("herdsman.dedupe.window.ms", "3600000")];
    let configs = configs.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let (one, two) = (r#"{"id":"1"}"#, r#"{"id":"2"}"#);
    let claim = {
        let broker = place.open();
        broker.create_topic("finds", 2, &BTreeMap::from(configs)).unwrap();
        let claim = begin(&broker);
        send(&broker, &finds(0), claim, 0, one).unwrap();
        send(&broker, &finds(1), claim, 0, two).unwrap();
        assert_eq!(broker.produce(&finds(1), batch(&[one], None, -1)).unwrap().duplicates, 1);
        let claim = end(&broker, claim, Outcome::Abort);
        assert_eq!(broker.produce(&finds(1), batch(&[one], None, -1)).unwrap().accepted, 1);
        claim
    };
    let broker = place.open();
    assert_eq!(broker.produce(&finds(0), batch(&[two], None, -1)).unwrap().accepted, 1);
    send(&broker, &finds(0), claim, 0, one).unwrap();
    end(&broker, claim, Outcome::Commit);
    assert_eq!(committed(&broker, &finds(0), 0), [two]);
    assert_eq!(committed(&broker, &finds(1), 0), [one]);
}

#[test]
fn a_reader_that_never_stops_reading_sees_no_record_of_aborted_transactions() {
    const TURNS: i64 = 10_000;
    let place = Place::new();
    let broker = place.open();
    broker.create_topic("finds", 1, &BTreeMap::new()).unwrap();
    let writing = Arc::clone(&broker);
    let writer = std::thread::spawn(move || {
        let mut claim = begin(&writing);
        for _ in 0..TURNS {
            send(&writing, &finds(0), claim, 0, "aborted").unwrap();
            claim = end(&writing, claim, Outcome::Abort);
        }
    });
    let state = broker.state(&finds(0)).unwrap();
    let mut next = 0;
    loop {
        let over = writer.is_finished();
        let mut batches = broker.log().read(&finds(0), next, 1 << 20).unwrap().batches;
        next = state.keep_committed(&mut batches).unwrap_or(next);
        assert_eq!(batches.len(), 0, "below offset {next}");
        if over && next == 2 * TURNS {
            break;
        }
    }
    writer.join().unwrap();
    assert_eq!(state.aborted_in(0, i64::MAX).len(), usize::try_from(TURNS).unwrap());
}

#[test]
fn a_compacted_topic_keeps_what_was_committed_last_and_its_producers_go_on() {
    let place = Place::new();
    let configs =
        [("cleanup.policy", "compact"), ("segment.bytes", "3000"), ("min.cleanable.dirty.ratio", "0.1")];
    let configs = configs.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let broker = place.open();
    broker.create_topic("finds", 1, &BTreeMap::from(configs)).unwrap();
    let within = |claim: Claim, number: u32| {
        let mut builder = BatchBuilder::new();
        builder.producer(claim.producer_id, claim.producer_epoch, 0);
        builder.attributes(0x10);
        let key = (number % 5).to_string();
        builder.append(NOW, Some(key.as_bytes()), Some(number.to_string().as_bytes()), &[]);
        let within = Within { transactional_id: "copy", adds: true };
        broker.produce_within(&finds(0), builder.finish(Compression::None).unwrap(), Some(within)).unwrap();
    };
    let mut claim = begin(&broker);
    for number in 0..100 {
        within(claim, number);
        // the last rounds of keys 3 and 4 are aborted
        let outcome = if number >= 90 && number % 5 >= 3 { Outcome::Abort } else { Outcome::Commit };
        claim = end(&broker, claim, outcome);
    }
    let size = || broker.log().size(&finds(0)).unwrap();
    let before = size();
    broker.maintain().unwrap(); // makes it durable
    place.pass(Duration::from_secs(2));
    broker.maintain().unwrap();
    broker.maintain().unwrap();
    let with_markers = size();
    place.pass(Duration::from_secs(2 * 86_400));
    broker.maintain().unwrap();
    let after = size();
    assert!(
        before > with_markers && with_markers > 2 * after,
        "{before} bytes, {with_markers}, then {after}"
    );
    drop(broker);
    let broker = place.open();
    let seen = committed(&broker, &finds(0), 0);
    let newest =
        |key: u32| seen.iter().map(|value| value.parse::<u32>().unwrap()).rfind(|value| value % 5 == key);
    assert_eq!([0, 1, 2, 3, 4].map(newest), [95, 96, 97, 88, 89].map(Some));
    assert_eq!(broker.state(&finds(0)).unwrap().last_stable(i64::MAX), i64::MAX, "no transaction seems open");
    send(&broker, &finds(0), claim, 0, "100").unwrap_err(); // a key is needed
    assert_eq!(begin(&broker).producer_epoch, claim.producer_epoch + 1);
}

#[test]
fn an_aborted_batch_that_the_log_start_cuts_stays_hidden_after_a_restart() {
    let place = Place::new();
    {
        let broker = place.open();
        broker.create_topic("finds", 1, &BTreeMap::new()).unwrap();
        let claim = begin(&broker);
        let within = Within { transactional_id: "copy", adds: true };
        let sent = batch(&["0", "1", "2"], Some(claim), 0);
        broker.produce_within(&finds(0), sent, Some(within)).unwrap();
        broker.produce(&finds(0), batch(&["plain"], None, -1)).unwrap();
        end(&broker, claim, Outcome::Abort);
        broker.log().delete_records_before(&finds(0), 1).unwrap();
        assert_eq!(committed(&broker, &finds(0), 1), ["plain"]);
    }
    assert_eq!(committed(&place.open(), &finds(0), 1), ["plain"]);
}

/// Flips a bit of the batch that begins with these bytes' offset in the only segment of `finds-0`.
fn damage(place: &Place, offset: usize) {
    let path = place.dir.path().join("topics/finds-0/00000000000000000000.log");
    let mut bytes = std::fs::read(&path).unwrap();
    let mut at = 0;
    for _ in 0..offset {
        at += 12 + u32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
    }
    bytes[at + 70] ^= 1;
    std::fs::write(&path, bytes).unwrap();
}

#[test]
fn a_damaged_marker_never_shows_aborted_records_and_costs_itself_only() {
    let place = Place::new();
    let claim = {
        let broker = place.open();
        broker.create_topic("finds", 1, &BTreeMap::new()).unwrap();
        let claim = begin(&broker);
        let within = Within { transactional_id: "copy", adds: true };
        let once = |sequence, value| {
            broker.produce_within(&finds(0), batch(&[value], Some(claim), sequence), Some(within)).unwrap();
        };
        once(0, "aborted");
        broker.end_transaction("copy", claim, Outcome::Abort, false).unwrap();
        once(1, "committed");
        broker.end_transaction("copy", claim, Outcome::Commit, false).unwrap();
        claim
    };
    damage(&place, 1); // the abort marker
    let broker = place.open();
    let state = broker.state(&finds(0)).unwrap();
    let mut first = broker.log().read(&finds(0), 0, 1).unwrap().batches;
    state.keep_committed(&mut first);
    assert_eq!(first.len(), 0, "the aborted record");
    assert_eq!(committed(&broker, &finds(0), 2), ["committed"]);
    send(&broker, &finds(0), claim, 2, "goes on").unwrap();
}
