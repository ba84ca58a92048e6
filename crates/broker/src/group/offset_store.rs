//! Committed offsets of every group, and their records in `__consumer_offsets`.
//!
//! ```text
//! key    version i16 = 1 | group string | topic string | partition i32
//! value  version i16 = 3 | offset i64 | leader_epoch i32 | metadata string | commit_timestamp i64     (null: deleted)
//! ```
//! Strings carry a 16-bit length. Source: `OffsetCommitKey.json`, `OffsetCommitValue.json` of Apache Kafka. Values of
//! versions 0 to 3 are read. Offsets committed in a transaction stand in transactional batches and count once a marker commits
//! them; records of other kinds (group metadata) are left alone.

use std::collections::{BTreeMap, HashMap};

use herdsman_record::{Batch, BatchBuilder, Compression, RecordError, TopicPartition};

use crate::cursor::Cursor;
use crate::markers::{Outcome, outcome_of};
use crate::transaction::Claim;

/// Attribute bit of a batch that belongs to a transaction.
const TRANSACTIONAL: i16 = 0x10;

/// The topic that holds committed offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Next offset the group will read.
    pub offset: i64,
    /// Leader epoch of the last record read, −1 if not given.
    pub leader_epoch: i32,
    /// What the client noted beside it.
    pub metadata: String,
    /// When, ms since the Unix epoch.
    pub commit_ms: i64,
}

/// Offsets committed inside a transaction that is not decided yet: group, partition, offset, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pending {
    /// Epoch of the producer.
    pub producer_epoch: i16,
    /// What counts once the transaction commits.
    pub changes: Vec<(String, TopicPartition, Committed)>,
}

/// Every group's committed offsets.
#[derive(Debug, Default)]
pub struct OffsetStore {
    groups: BTreeMap<String, HashMap<TopicPartition, Committed>>,
    /// By producer id.
    pending: BTreeMap<i64, Pending>,
}

impl OffsetStore {
    /// Nothing committed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One group's offset of one partition.
    #[must_use]
    pub fn get(&self, group: &str, at: &TopicPartition) -> Option<&Committed> {
        self.groups.get(group)?.get(at)
    }

    /// Everything one group committed, sorted by partition.
    #[must_use]
    pub fn all(&self, group: &str) -> Vec<(TopicPartition, Committed)> {
        let mut all: Vec<_> = self
            .groups
            .get(group)
            .map(|offsets| offsets.iter().map(|(at, committed)| (at.clone(), committed.clone())).collect())
            .unwrap_or_default();
        all.sort_by(|left: &(TopicPartition, Committed), right| left.0.cmp(&right.0));
        all
    }

    /// Groups with at least one committed offset, sorted.
    #[must_use]
    pub fn groups(&self) -> Vec<String> {
        self.groups.keys().cloned().collect()
    }

    /// Whether the group has committed anything.
    #[must_use]
    pub fn has_group(&self, group: &str) -> bool {
        self.groups.contains_key(group)
    }

    /// Sets or (with `None`) deletes one offset.
    pub fn set(&mut self, group: &str, at: TopicPartition, committed: Option<Committed>) {
        match committed {
            Some(committed) => {
                self.groups.entry(group.to_owned()).or_default().insert(at, committed);
            }
            None => {
                if let Some(offsets) = self.groups.get_mut(group) {
                    offsets.remove(&at);
                    if offsets.is_empty() {
                        self.groups.remove(group);
                    }
                }
            }
        }
    }

    /// The partitions of `topic` that any group has committed: group and partition.
    #[must_use]
    pub fn of_topic(&self, topic: &str) -> Vec<(String, TopicPartition)> {
        let mut found = Vec::new();
        for (group, offsets) in &self.groups {
            for at in offsets.keys().filter(|at| at.topic.as_ref() == topic) {
                found.push((group.clone(), at.clone()));
            }
        }
        found
    }

    /// Offsets that a producer commits in its open transaction.
    pub fn set_pending(&mut self, claim: Claim, group: &str, changes: Vec<(TopicPartition, Committed)>) {
        let pending = self.pending.entry(claim.producer_id).or_default();
        pending.producer_epoch = claim.producer_epoch;
        pending.changes.extend(changes.into_iter().map(|(at, committed)| (group.to_owned(), at, committed)));
    }

    /// A transaction of this producer has ended.
    pub(crate) fn end(&mut self, producer_id: i64, outcome: Outcome) {
        let Some(pending) = self.pending.remove(&producer_id) else { return };
        if outcome == Outcome::Commit {
            for (group, at, committed) in pending.changes {
                self.set(&group, at, Some(committed));
            }
        }
    }

    /// Offsets of transactions that are not decided yet, by producer id.
    #[must_use]
    pub fn pending(&self) -> &BTreeMap<i64, Pending> {
        &self.pending
    }

    /// Whether an open transaction commits an offset of this group and partition.
    #[must_use]
    pub fn is_pending(&self, group: &str, at: &TopicPartition) -> bool {
        let changes = self.pending.values().flat_map(|pending| &pending.changes);
        changes.into_iter().any(|(of, partition, _)| of == group && partition == at)
    }

    /// Takes in one batch of `__consumer_offsets`.
    pub fn load(&mut self, batch: &Batch) -> Result<(), RecordError> {
        let header = batch.header();
        if header.is_control() {
            if let Some(outcome) = outcome_of(batch)? {
                self.end(header.producer_id, outcome);
            }
            return Ok(());
        }
        let claim = header
            .is_transactional()
            .then_some(Claim { producer_id: header.producer_id, producer_epoch: header.producer_epoch });
        for record in batch.records()?.iter() {
            let record = record?;
            let Some((group, at)) = record.key.and_then(decode_key) else { continue };
            match record.value {
                None => self.set(&group, at, None),
                Some(value) => {
                    let Some(committed) = decode_value(value) else { continue };
                    match claim {
                        Some(claim) => self.set_pending(claim, &group, vec![(at, committed)]),
                        None => self.set(&group, at, Some(committed)),
                    }
                }
            }
        }
        Ok(())
    }
}

/// The batch that records these commits (`None` deletes), in a producer's transaction if `claim` names it.
/// Errors: an empty list.
pub fn encode_batch<'a>(
    group: &str,
    changes: impl IntoIterator<Item = (&'a TopicPartition, Option<&'a Committed>)>,
    claim: Option<Claim>,
    now_ms: i64,
) -> Result<Batch, RecordError> {
    let mut builder = BatchBuilder::new();
    if let Some(claim) = claim {
        builder.producer(claim.producer_id, claim.producer_epoch, -1);
        builder.attributes(TRANSACTIONAL);
    }
    let (mut key, mut value) = (Vec::new(), Vec::new());
    for (at, committed) in changes {
        key.clear();
        key.extend_from_slice(&1_i16.to_be_bytes());
        put_text(&mut key, group);
        put_text(&mut key, &at.topic);
        key.extend_from_slice(&at.partition.to_be_bytes());
        let Some(committed) = committed else {
            builder.append(now_ms, Some(&key), None, &[]);
            continue;
        };
        value.clear();
        value.extend_from_slice(&3_i16.to_be_bytes());
        value.extend_from_slice(&committed.offset.to_be_bytes());
        value.extend_from_slice(&committed.leader_epoch.to_be_bytes());
        put_text(&mut value, &committed.metadata);
        value.extend_from_slice(&committed.commit_ms.to_be_bytes());
        builder.append(now_ms, Some(&key), Some(&value), &[]);
    }
    builder.finish(Compression::None)
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let len = i16::try_from(text.len()).unwrap_or(i16::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(text.as_bytes().get(..usize::try_from(len).unwrap_or(0)).unwrap_or_default());
}

fn decode_key(bytes: &[u8]) -> Option<(String, TopicPartition)> {
    let mut cursor = Cursor(bytes);
    if !(0..=1).contains(&i16::from_be_bytes(cursor.array()?)) {
        return None;
    }
    let group = cursor.text()?.to_owned();
    let topic = cursor.text()?;
    Some((group, TopicPartition::new(topic, i32::from_be_bytes(cursor.array()?))))
}

fn decode_value(bytes: &[u8]) -> Option<Committed> {
    let mut cursor = Cursor(bytes);
    let version = i16::from_be_bytes(cursor.array()?);
    if !(0..=3).contains(&version) {
        return None;
    }
    let offset = i64::from_be_bytes(cursor.array()?);
    let leader_epoch = if version >= 3 { i32::from_be_bytes(cursor.array()?) } else { -1 };
    let metadata = cursor.text()?.to_owned();
    Some(Committed { offset, leader_epoch, metadata, commit_ms: i64::from_be_bytes(cursor.array()?) })
}
