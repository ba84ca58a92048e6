//! One append over several partitions, whole or not at all: intent first, then the partitions.
//!
//! Locks: the journal, then the partitions in the order of their names, so that two atomic appends never wait for each
//! other in a ring; a plain append takes its one partition only.

use std::sync::{Arc, MutexGuard};

use herdsman_record::{Batch, TopicPartition};

use crate::config::TopicConfig;
use crate::journal::{self, Part};
use crate::partition::{Partition, Writer};
use crate::{Log, LogError};

/// Base offsets, and partitions that must be flushed up to an offset before the append is durable.
type Appended = (Vec<i64>, Vec<(Arc<Partition>, i64)>);

impl Log {
    /// Appends all batches or none, whatever kills the process; returns their base offsets in order. The same
    /// partition may appear several times. One that spans topics with and without `flush.messages=1` is synced.
    ///
    /// # Errors
    /// As [`Log::append`], and [`LogError::JournalClosed`]. After an error nothing is readable.
    pub fn append_all(&self, batches: Vec<(TopicPartition, Batch)>) -> Result<Vec<i64>, LogError> {
        if batches.len() <= 1 {
            return batches.into_iter().map(|(tp, batch)| self.append(&tp, batch)).collect();
        }
        let mut parts = Vec::with_capacity(batches.len());
        for (tp, batch) in batches {
            parts.push((self.partition(&tp)?, batch));
        }
        let mut targets: Vec<Arc<Partition>> =
            parts.iter().map(|(partition, _)| Arc::clone(partition)).collect();
        targets.sort_by(|a, b| a.name.cmp(&b.name));
        targets.dedup_by(|a, b| a.name == b.name);
        let mut turn = self.journal.begin()?;
        turn.make_room(journal::entry_len(parts.iter().map(|(_, batch)| batch)))?;
        let (bases, flush) = self.append_locked(&mut turn, &targets, parts)?;
        drop(turn);
        for (partition, end) in flush {
            partition.flush_until(end)?;
        }
        self.notify.raise();
        Ok(bases)
    }

    fn append_locked(
        &self,
        turn: &mut journal::Turn<'_>,
        targets: &[Arc<Partition>],
        parts: Vec<(Arc<Partition>, Batch)>,
    ) -> Result<Appended, LogError> {
        let topics = self.snapshot();
        let mut held = Vec::with_capacity(targets.len());
        for partition in targets {
            let writer = partition.lock()?;
            let config = partition.config();
            let begin = writer.end;
            held.push(Held { partition, writer, config, begin, next: begin, ahead: 0 });
        }
        let mut entry = Vec::with_capacity(parts.len());
        let mut places = Vec::with_capacity(parts.len());
        for (partition, batch) in parts {
            let at = held.partition_point(|held| held.partition.name < partition.name);
            let Some(held) = held.get_mut(at) else { unreachable!("every target is held") };
            let topic = topics.get(&partition.name.topic);
            let id = topic.map(|topic| topic.meta.id).ok_or_else(|| LogError::UnknownTopic {
                topic: partition.name.topic.to_string(),
                hint: None,
            })?;
            if held.next == held.begin {
                held.partition.prepare(&mut held.writer, batch.bytes().len(), &held.config)?;
            }
            let batch = batch.with_base_offset(held.next, 0);
            held.next = batch.next_offset();
            entry.push(Part { topic: id, partition: partition.name.partition, batch });
            places.push(at);
        }
        let strict = held.iter().any(|held| held.config.is_strict());
        let written = match turn.write(&entry, strict) {
            Ok(written) => written,
            Err((error, may_stand)) => return Err(refuse(&mut held, error, may_stand)),
        };
        for (part, at) in entry.iter().zip(&places) {
            let Some(one) = held.get_mut(*at) else { unreachable!("every target is held") };
            if let Err(error) = one.partition.write(&mut one.writer, one.ahead, &part.batch) {
                return Err(take_back(turn, written, &mut held, error));
            }
            one.ahead += part.batch.bytes().len() as u64;
        }
        Ok(publish(turn, held, entry, &places, strict))
    }
}

/// A partition locked for an atomic append.
struct Held<'a> {
    partition: &'a Arc<Partition>,
    writer: MutexGuard<'a, Writer>,
    config: Arc<TopicConfig>,
    begin: i64,
    next: i64,
    ahead: u64,
}

/// The intent could not be written. If it may stand after a restart, its partitions take no more writes until then.
fn refuse(held: &mut [Held<'_>], error: LogError, may_stand: bool) -> LogError {
    if may_stand {
        for one in held.iter_mut() {
            one.partition.close(&mut one.writer, format!("an atomic append is in doubt: {error}"));
        }
    }
    match (&error, held.first()) {
        (LogError::Io { source, .. }, Some(one)) if source.kind() == std::io::ErrorKind::StorageFull => {
            LogError::NoSpace {
                dir: one.partition.place.root.clone(),
                topic: one.partition.name.topic.to_string(),
            }
        }
        _ => error,
    }
}

/// A partition could not be written: cuts the others back and withdraws the intent. If that fails too, the intent
/// stands, is completed at the next start, and until then its partitions take no more writes.
fn take_back(
    turn: &mut journal::Turn<'_>,
    written: journal::Written,
    held: &mut [Held<'_>],
    error: LogError,
) -> LogError {
    let mut clean = true;
    for one in held.iter_mut() {
        clean &= one.partition.undo(&mut one.writer).is_ok();
    }
    if !clean || turn.undo(written).is_err() {
        turn.close("an atomic append is in doubt");
        for one in held.iter_mut() {
            one.partition.close(&mut one.writer, format!("an atomic append is in doubt: {error}"));
        }
    }
    error
}

/// Shows an atomic append to readers. Returns base offsets, and partitions that must be flushed before it is durable.
fn publish(
    turn: &mut journal::Turn<'_>,
    mut held: Vec<Held<'_>>,
    entry: Vec<Part>,
    places: &[usize],
    strict: bool,
) -> Appended {
    let mut bases = Vec::with_capacity(entry.len());
    let mut wants_sync = vec![false; held.len()];
    for (part, at) in entry.into_iter().zip(places) {
        let Some(one) = held.get_mut(*at) else { unreachable!("every target is held") };
        let header = part.batch.header();
        bases.push(header.base_offset);
        let due = one.partition.publish(&mut one.writer, &header, part.batch, &one.config);
        if let Some(wants) = wants_sync.get_mut(*at) {
            *wants |= due;
        }
    }
    let mut flush = Vec::new();
    for (one, due) in held.into_iter().zip(wants_sync) {
        let durable = strict && one.partition.durable_in_journal(one.begin, one.next);
        if strict {
            turn.rests(one.partition, one.next);
        }
        if due && !durable {
            flush.push((Arc::clone(one.partition), one.next));
        }
    }
    (bases, flush)
}
