//! Records of `__transaction_state`: one per transactional id, the newest counts.
//!
//! ```text
//! key    version i16 = 0 | transactional_id string
//! value  version i16 = 1 | producer_id i64 | producer_epoch i16 | timeout_ms i32 | status i8
//!        | partitions: count+1, (topic, partition ids, tags)… | update_ms i64 | start_ms i64 | tags      (null: forgotten)
//! ```
//! Version 1 has compact lengths. Tagged fields: 0 previous producer id; 10,000 last epoch (ours, skipped by Kafka's tools).
//! Source: `TransactionLogKey.json`, `TransactionLogValue.json` of Apache Kafka.

use std::collections::{BTreeMap, BTreeSet};

use herdsman_record::{BatchBuilder, TopicPartition};

use super::{State, Transaction};
use crate::cursor::Cursor;

/// The topic that holds the state of transactional ids.
pub const TRANSACTIONS_TOPIC: &str = "__transaction_state";

const PREVIOUS_PRODUCER_ID: u64 = 0;
const LAST_EPOCH: u64 = 10_000;

fn status(state: State) -> u8 {
    match state {
        State::Empty => 0,
        State::Ongoing => 1,
        State::CompleteCommit => 4,
        State::CompleteAbort => 5,
    }
}

/// Adds the record of one transactional id to `builder`; `None` forgets it.
pub fn append(builder: &mut BatchBuilder, id: &str, transaction: Option<&Transaction>, now_ms: i64) {
    let mut key = vec![0, 0];
    key.extend_from_slice(&i16::try_from(id.len()).unwrap_or(i16::MAX).to_be_bytes());
    key.extend_from_slice(id.as_bytes());
    let value = transaction.map(encode);
    builder.append(now_ms, Some(&key), value.as_deref(), &[]);
}

fn encode(one: &Transaction) -> Vec<u8> {
    let mut out = vec![0, 1];
    out.extend_from_slice(&one.producer_id.to_be_bytes());
    out.extend_from_slice(&one.producer_epoch.to_be_bytes());
    out.extend_from_slice(&one.timeout_ms.to_be_bytes());
    out.push(status(one.state));
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for at in &one.partitions {
        topics.entry(&at.topic).or_default().push(at.partition);
    }
    put_unsigned(&mut out, topics.len() as u64 + 1);
    for (topic, partitions) in topics {
        put_unsigned(&mut out, topic.len() as u64 + 1);
        out.extend_from_slice(topic.as_bytes());
        put_unsigned(&mut out, partitions.len() as u64 + 1);
        partitions.iter().for_each(|index| out.extend_from_slice(&index.to_be_bytes()));
        put_unsigned(&mut out, 0);
    }
    out.extend_from_slice(&one.update_ms.to_be_bytes());
    out.extend_from_slice(&one.start_ms.to_be_bytes());
    put_unsigned(&mut out, 2);
    put_tag(&mut out, PREVIOUS_PRODUCER_ID, &one.previous_producer_id.to_be_bytes());
    put_tag(&mut out, LAST_EPOCH, &one.last_epoch.to_be_bytes());
    out
}

fn put_tag(out: &mut Vec<u8>, tag: u64, bytes: &[u8]) {
    put_unsigned(out, tag);
    put_unsigned(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}

/// The transactional id a key names; `None` for a key of another kind.
#[must_use]
pub fn decode_key(bytes: &[u8]) -> Option<String> {
    let mut cursor = Cursor(bytes);
    if i16::from_be_bytes(cursor.array()?) != 0 {
        return None;
    }
    cursor.text().map(str::to_owned)
}

/// The state a value holds; `None` for a value of another version or one cut short.
#[must_use]
pub fn decode_value(bytes: &[u8]) -> Option<Transaction> {
    let mut cursor = Cursor(bytes);
    if i16::from_be_bytes(cursor.array()?) != 1 {
        return None;
    }
    let mut found = Transaction::new(i64::from_be_bytes(cursor.array()?), 0, 0);
    found.producer_epoch = i16::from_be_bytes(cursor.array()?);
    found.timeout_ms = i32::from_be_bytes(cursor.array()?);
    found.state = match cursor.array::<1>()? {
        [0] => State::Empty,
        [1] => State::Ongoing,
        [4] => State::CompleteCommit,
        [5] => State::CompleteAbort,
        _ => return None,
    };
    found.partitions = partitions(&mut cursor)?;
    found.update_ms = i64::from_be_bytes(cursor.array()?);
    found.start_ms = i64::from_be_bytes(cursor.array()?);
    for _ in 0..cursor.unsigned()? {
        let tag = cursor.unsigned()?;
        let len = usize::try_from(cursor.unsigned()?).ok()?;
        let mut field = Cursor(cursor.take(len)?);
        match tag {
            PREVIOUS_PRODUCER_ID => found.previous_producer_id = i64::from_be_bytes(field.array()?),
            LAST_EPOCH => found.last_epoch = i16::from_be_bytes(field.array()?),
            _ => {}
        }
    }
    Some(found)
}

fn partitions(cursor: &mut Cursor<'_>) -> Option<BTreeSet<TopicPartition>> {
    let mut found = BTreeSet::new();
    for _ in 1..cursor.unsigned()?.max(1) {
        let len = usize::try_from(cursor.unsigned()?.checked_sub(1)?).ok()?;
        let topic: std::sync::Arc<str> = std::str::from_utf8(cursor.take(len)?).ok()?.into();
        for _ in 1..cursor.unsigned()?.max(1) {
            let index = i32::from_be_bytes(cursor.array()?);
            found.insert(TopicPartition::new(std::sync::Arc::clone(&topic), index));
        }
        (cursor.unsigned()? == 0).then_some(())?;
    }
    Some(found)
}
