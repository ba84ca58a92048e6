//! The state of share partitions and the configs of groups as records of `__share_group_state`.
//!
//! ```text
//! key    kind i16 = 0 | group string | topic id 16 bytes | partition i32
//! value  version i16 = 0 | snapshot epoch, state epoch, leader epoch i32 | start i64 | created, written i64 (ms)
//!        | count + 1 varint | { first i64 | last i64 | state i8 | deliveries i16 | tags 0 } … | tags 0      (null: deleted)
//! key    kind i16 = 1000 | group string
//! value  version i16 = 0 | count i32 | { name string | value string } …
//! ```
//! The first is `ShareSnapshotKey.json` and `ShareSnapshotValue.json` of Apache Kafka, so `kafka-dump-log` reads it; the second
//! is our own, as Kafka keeps configs elsewhere. Each record is the whole state, so the last of a key counts. States: 0
//! available, 2 acknowledged, 4 archived; records that are acquired when it is written count as available.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use herdsman_record::{Batch, BatchBuilder, Compression, RecordError};

use super::partition::{Span, Standing};
use super::{ShareKey, SharePartition, Shares};
use crate::cursor::Cursor;

const PARTITION: i16 = 0;
const CONFIGS: i16 = 1_000;
const VERSION: i16 = 0;

/// The record of one partition; `None` deletes it.
pub fn put_partition(
    builder: &mut BatchBuilder,
    key: &ShareKey,
    partition: Option<&SharePartition>,
    now_ms: i64,
) {
    let mut name = PARTITION.to_be_bytes().to_vec();
    put_text(&mut name, &key.group);
    name.extend_from_slice(&key.topic);
    name.extend_from_slice(&key.index.to_be_bytes());
    let value = partition.map(|partition| {
        let mut spans: Vec<(i64, u8, i16)> = Vec::new();
        for (_, span) in partition.spans() {
            let state = match span.standing {
                Standing::Available | Standing::Acquired { .. } => 0,
                Standing::Acknowledged => 2,
                Standing::Archived => 4,
            };
            match spans.last_mut() {
                Some(before) if (before.1, before.2) == (state, span.deliveries) => before.0 = span.last,
                _ => spans.push((span.last, state, span.deliveries)),
            }
        }
        let mut value = VERSION.to_be_bytes().to_vec();
        value.extend_from_slice(&[0; 3 * 4]);
        value.extend_from_slice(&partition.start().to_be_bytes());
        value.extend_from_slice(&now_ms.to_be_bytes());
        value.extend_from_slice(&now_ms.to_be_bytes());
        put_unsigned(&mut value, spans.len() + 1);
        let mut first = partition.start();
        for (last, state, deliveries) in spans {
            value.extend_from_slice(&first.to_be_bytes());
            value.extend_from_slice(&last.to_be_bytes());
            value.push(state);
            value.extend_from_slice(&deliveries.to_be_bytes());
            value.push(0);
            first = last + 1;
        }
        value.push(0);
        value
    });
    builder.append(now_ms, Some(&name), value.as_deref(), &[]);
}

/// The record of a group's configs; none deletes it.
pub fn put_configs(builder: &mut BatchBuilder, group: &str, configs: &BTreeMap<String, String>, now_ms: i64) {
    let mut name = CONFIGS.to_be_bytes().to_vec();
    put_text(&mut name, group);
    let mut value = VERSION.to_be_bytes().to_vec();
    value.extend_from_slice(&u32::try_from(configs.len()).unwrap_or(0).to_be_bytes());
    for (key, text) in configs {
        put_text(&mut value, key);
        put_text(&mut value, text);
    }
    builder.append(now_ms, Some(&name), (!configs.is_empty()).then_some(&value), &[]);
}

/// Everything there is, in batches of at most `per_batch` partitions.
pub fn encode_all<'a>(
    partitions: impl Iterator<Item = (&'a ShareKey, &'a SharePartition)>,
    configs: &BTreeMap<String, BTreeMap<String, String>>,
    per_batch: usize,
    now_ms: i64,
) -> Result<Vec<Batch>, RecordError> {
    let mut batches = Vec::new();
    let mut builder = BatchBuilder::new();
    for (key, partition) in partitions {
        put_partition(&mut builder, key, Some(partition), now_ms);
        if builder.len() >= per_batch {
            batches.push(builder.finish(Compression::None)?);
        }
    }
    for (group, configs) in configs {
        put_configs(&mut builder, group, configs, now_ms);
    }
    if !builder.is_empty() {
        batches.push(builder.finish(Compression::None)?);
    }
    Ok(batches)
}

/// Takes in one batch of `__share_group_state`. Records of other kinds and versions are left alone.
pub fn load(shares: &mut Shares, batch: &Batch) -> Result<(), RecordError> {
    for record in batch.records()?.iter() {
        let record = record?;
        if let Some(key) = record.key {
            let _ = take_in(shares, key, record.value);
        }
    }
    Ok(())
}

fn take_in(shares: &mut Shares, key: &[u8], value: Option<&[u8]>) -> Option<()> {
    let mut key = Cursor(key);
    let kind = i16::from_be_bytes(key.array()?);
    let group = key.text()?.to_owned();
    match kind {
        PARTITION => {
            let topic = key.array()?;
            let key = ShareKey { group, topic, index: i32::from_be_bytes(key.array()?) };
            match value {
                None => shares.partitions.remove(&key).map(|_| ()),
                Some(value) => {
                    let partition = Arc::new(Mutex::new(decode_partition(value)?));
                    shares.partitions.insert(key, partition).map(|_| ())
                }
            }
        }
        CONFIGS => match value {
            None => shares.configs.remove(&group).map(|_| ()),
            Some(value) => shares.configs.insert(group, decode_configs(value)?).map(|_| ()),
        },
        _ => None,
    }
}

fn decode_partition(value: &[u8]) -> Option<SharePartition> {
    let mut value = Cursor(value);
    if i16::from_be_bytes(value.array()?) != VERSION {
        return None;
    }
    value.take(3 * 4)?;
    let start = i64::from_be_bytes(value.array()?);
    value.take(2 * 8)?;
    let count = value.unsigned()?.checked_sub(1)?;
    let mut spans = Vec::new();
    for _ in 0..count {
        let first = i64::from_be_bytes(value.array()?);
        let last = i64::from_be_bytes(value.array()?);
        let standing = match value.array()? {
            [0] => Standing::Available,
            [2] => Standing::Acknowledged,
            [4] => Standing::Archived,
            _ => return None,
        };
        spans.push((first, Span { last, standing, deliveries: i16::from_be_bytes(value.array()?) }));
        if value.array()? != [0] {
            return None;
        }
    }
    SharePartition::restored(start, spans)
}

fn decode_configs(value: &[u8]) -> Option<BTreeMap<String, String>> {
    let mut value = Cursor(value);
    if i16::from_be_bytes(value.array()?) != VERSION {
        return None;
    }
    let count = u32::from_be_bytes(value.array()?);
    (0..count).map(|_| Some((value.text()?.to_owned(), value.text()?.to_owned()))).collect()
}

fn put_unsigned(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let len = i16::try_from(text.len()).unwrap_or(i16::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(text.as_bytes().get(..usize::try_from(len).unwrap_or(0)).unwrap_or_default());
}
