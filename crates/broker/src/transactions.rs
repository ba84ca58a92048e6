//! Transactions between log and machine: the state of every transactional id, its records, and the one append that ends
//! a transaction.
//!
//! Order of locks: the transactional id, then the partitions it spans in the order of their names, then event ids, then
//! committed offsets, then the log. A batch of an open transaction takes its partition only; the id is asked once per
//! partition and transaction.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use herdsman_log::{Log, LogError};
use herdsman_record::{Batch, BatchBuilder, Compression, EventId, Header, TopicPartition};

use crate::group::offset_store::encode_batch;
use crate::group::{Committed, OFFSETS_TOPIC};
use crate::markers::{Outcome, marker};
use crate::partition_state::Locked;
use crate::replay::replay;
use crate::topic::{Topic, TopicDedupe, lock};
use crate::transaction::records::{append, decode_key, decode_value};
use crate::transaction::{Claim, End, TRANSACTIONS_TOPIC, Transaction, TransactionError};
use crate::{Broker, BrokerError};

/// Segments of `__transaction_state` below its largest size.
const SEGMENTS: u64 = 4;
/// States in one batch when the topic is written anew.
const STATES_PER_BATCH: usize = 1_000;
/// This broker coordinates alone and for ever.
const COORDINATOR_EPOCH: i32 = 0;

/// One transactional id; `None` before its first producer, and after it was forgotten.
pub(crate) type Slot = Arc<Mutex<Option<Transaction>>>;
/// Event ids, and the window that remembers them.
type IdsByTopic = Vec<(Arc<TopicDedupe>, Vec<EventId>)>;
/// The state of every transactional id.
pub(crate) type Transactions = HashMap<String, Slot>;

/// In whose transaction a batch is sent, and whether that makes its partition part of it (Produce version 12 on).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Within<'a> {
    pub(crate) transactional_id: &'a str,
    pub(crate) adds: bool,
}

/// Reads the state of every transactional id back.
pub(crate) fn load(log: &Log) -> Result<Transactions, BrokerError> {
    let mut found = Transactions::new();
    if log.topic(TRANSACTIONS_TOPIC).is_none() {
        return Ok(found);
    }
    replay(log, &TopicPartition::new(TRANSACTIONS_TOPIC, 0), |batch| {
        for record in batch.records()?.iter() {
            let record = record?;
            let Some(id) = record.key.and_then(decode_key) else { continue };
            match record.value.and_then(decode_value) {
                Some(state) => found.insert(id, Arc::new(Mutex::new(Some(state)))),
                None => found.remove(&id),
            };
        }
        Ok(())
    })?;
    Ok(found)
}

impl Broker {
    /// The slot of a transactional id that has a producer.
    pub(crate) fn transaction(&self, id: &str) -> Result<Slot, BrokerError> {
        lock(&self.transactions).get(id).cloned().ok_or(BrokerError::Transaction(TransactionError::IdMapping))
    }

    fn transactions_partition(&self) -> Result<TopicPartition, BrokerError> {
        self.internal_topic(TRANSACTIONS_TOPIC, self.config.transactions.log_bytes_max / SEGMENTS)
    }

    fn state_batch(
        &self,
        id: &str,
        state: Option<&Transaction>,
    ) -> Result<(TopicPartition, Batch), BrokerError> {
        let at = self.transactions_partition()?;
        let mut builder = BatchBuilder::new();
        append(&mut builder, id, state, self.clock.now_ms());
        let batch = builder
            .finish(Compression::None)
            .map_err(|source| BrokerError::Corrupt { topic_partition: at.clone(), source })?;
        Ok((at, batch))
    }

    /// Writes the next state of an id, then takes it.
    fn enter(
        &self,
        id: &str,
        slot: &mut MutexGuard<'_, Option<Transaction>>,
        next: Option<Transaction>,
    ) -> Result<(), BrokerError> {
        let (at, batch) = self.state_batch(id, next.as_ref())?;
        self.log.append(&at, batch)?;
        **slot = next;
        Ok(())
    }

    /// A producer begins under a transactional id, or asks for a new epoch.
    pub(crate) fn init_producer(
        &self,
        id: &str,
        expected: Option<Claim>,
        timeout_ms: i32,
    ) -> Result<Claim, BrokerError> {
        let max_ms = self.config.transactions.max_timeout_ms;
        if id.is_empty() {
            return Err(BrokerError::InvalidRequest("transactional.id is empty: give it a name".to_owned()));
        }
        if !(1..=max_ms).contains(&timeout_ms) {
            return Err(TransactionError::Timeout { max_ms }.into());
        }
        let slot = Arc::clone(lock(&self.transactions).entry(id.to_owned()).or_default());
        let mut slot = lock(&slot);
        let now_ms = self.clock.now_ms();
        let Some(state) = slot.as_ref() else {
            let next = Transaction::new(self.fresh_producer_id(), timeout_ms, now_ms);
            let claim = next.claim();
            return self.enter(id, &mut slot, Some(next)).map(|()| claim);
        };
        let (marker, next) = state.init(expected, timeout_ms, || self.fresh_producer_id(), now_ms)?;
        let claim = next.claim();
        match marker {
            Some(marker) => self.finish(id, &mut slot, (marker, Outcome::Abort), next)?,
            None if *state == next => {}
            None => self.enter(id, &mut slot, Some(next))?,
        }
        Ok(claim)
    }

    /// Partitions join the transaction.
    pub(crate) fn add_to_transaction(
        &self,
        id: &str,
        claim: Claim,
        partitions: impl IntoIterator<Item = TopicPartition>,
    ) -> Result<(), BrokerError> {
        let slot = self.transaction(id)?;
        let mut slot = lock(&slot);
        self.add(id, &mut slot, claim, partitions)
    }

    fn add(
        &self,
        id: &str,
        slot: &mut MutexGuard<'_, Option<Transaction>>,
        claim: Claim,
        partitions: impl IntoIterator<Item = TopicPartition>,
    ) -> Result<(), BrokerError> {
        let state = slot.as_ref().ok_or(TransactionError::IdMapping)?;
        match state.add(claim, partitions, self.clock.now_ms())? {
            Some(next) => self.enter(id, slot, Some(next)),
            None => Ok(()),
        }
    }

    /// The first batch of a transaction in a partition asks here; the slot stays locked until the batch is written, so
    /// that the end of the transaction cannot come between.
    pub(crate) fn admit(
        &self,
        within: Within<'_>,
        slot: &mut MutexGuard<'_, Option<Transaction>>,
        header: &Header,
        at: &TopicPartition,
    ) -> Result<(), BrokerError> {
        let claim = Claim { producer_id: header.producer_id, producer_epoch: header.producer_epoch };
        if within.adds {
            return self.add(within.transactional_id, slot, claim, [at.clone()]);
        }
        let state = slot.as_ref().ok_or(TransactionError::IdMapping)?;
        Ok(state.verify(claim, at)?)
    }

    /// Writes offsets that count once the transaction commits.
    pub(crate) fn commit_within(
        &self,
        within: Within<'_>,
        claim: Claim,
        group: &str,
        changes: Vec<(TopicPartition, Committed)>,
    ) -> Result<(), BrokerError> {
        if changes.is_empty() {
            return Ok(());
        }
        let at = self.offsets_partition()?;
        let slot = self.transaction(within.transactional_id)?;
        let mut slot = lock(&slot);
        let listed = changes.iter().map(|(at, committed)| (at, Some(committed)));
        let batch = encode_batch(group, listed, Some(claim), self.clock.now_ms())
            .map_err(|source| BrokerError::Corrupt { topic_partition: at.clone(), source })?;
        let header = batch.header();
        self.admit(within, &mut slot, &header, &at)?;
        let topic = self.known_topic(&at)?;
        let mut partition = topic.state(at.partition)?.lock(&self.log, &at)?;
        let mut store = lock(&self.offsets);
        let written = self.log.append_with(&at, |tail| {
            partition.about_to_open(tail.end);
            Ok::<_, LogError>((Some(batch), ()))
        });
        if let Ok((base_offset, ())) = &written {
            partition.producers().record(&header, *base_offset);
            store.set_pending(claim, group, changes);
        }
        partition.settle();
        written.map(|_| ()).map_err(BrokerError::from)
    }

    /// The producer ends its transaction; returns the producer to go on with.
    pub(crate) fn end_transaction(
        &self,
        id: &str,
        claim: Claim,
        outcome: Outcome,
        bumps: bool,
    ) -> Result<Claim, BrokerError> {
        let slot = self.transaction(id)?;
        let mut slot = lock(&slot);
        let state = slot.as_ref().ok_or(TransactionError::IdMapping)?;
        match state.end(claim, outcome, bumps, || self.fresh_producer_id(), self.clock.now_ms())? {
            End::Repeated => Ok(state.claim()),
            End::Write { marker, next } => {
                let claim = next.claim();
                self.finish(id, &mut slot, (marker, outcome), next)?;
                Ok(claim)
            }
        }
    }

    /// Ends the transaction in one atomic append: a marker in every partition, and the next state.
    fn finish(
        &self,
        id: &str,
        slot: &mut MutexGuard<'_, Option<Transaction>>,
        (claim, outcome): (Claim, Outcome),
        next: Transaction,
    ) -> Result<(), BrokerError> {
        let state = slot.as_ref().ok_or(TransactionError::IdMapping)?;
        // a topic deleted meanwhile took its part of the transaction with it
        let spanned: Vec<(TopicPartition, Arc<Topic>)> = state
            .partitions
            .iter()
            .filter_map(|at| self.known_topic(at).ok().map(|topic| (at.clone(), topic)))
            .collect();
        let mut held = Vec::with_capacity(spanned.len());
        for (at, topic) in &spanned {
            held.push(topic.state(at.partition)?.lock(&self.log, at)?);
        }
        let aborts = outcome == Outcome::Abort;
        let withdrawn =
            if aborts { self.open_ids(&spanned, &mut held, claim.producer_id)? } else { Vec::new() };
        let mut forgetting: Vec<_> =
            withdrawn.iter().map(|(dedupe, ids)| (lock(&dedupe.seen), ids)).collect();
        let mut offsets =
            spanned.iter().any(|(at, _)| at.topic.as_ref() == OFFSETS_TOPIC).then(|| lock(&self.offsets));
        let ending = marker(
            (claim.producer_id, claim.producer_epoch),
            outcome,
            COORDINATOR_EPOCH,
            self.clock.now_ms(),
        )
        .map_err(|source| BrokerError::InvalidRequest(source.to_string()))?;
        let mut batches: Vec<_> = spanned.iter().map(|(at, _)| (at.clone(), ending.clone())).collect();
        batches.push(self.state_batch(id, Some(&next))?);
        if aborts {
            held.iter_mut().for_each(|partition| partition.about_to_abort(claim.producer_id));
        }
        let bases = match self.log.append_all(batches) {
            Ok(bases) => bases,
            Err(error) => {
                held.iter_mut().for_each(|partition| partition.undo_abort());
                return Err(error.into());
            }
        };
        for (partition, base_offset) in held.iter_mut().zip(bases) {
            partition.ended(&Header { base_offset, ..ending.header() });
        }
        for (seen, ids) in &mut forgetting {
            seen.withdraw(ids);
        }
        if let Some(offsets) = &mut offsets {
            offsets.end(claim.producer_id, outcome);
        }
        **slot = Some(next);
        drop((held, forgetting, offsets));
        self.log.wake(); // readers of committed records may go on, though nothing of theirs was appended
        Ok(())
    }

    /// Aborts what has been open for too long; forgets ids that were not used for longer still.
    pub(crate) fn tick_transactions(&self) {
        let now_ms = self.clock.now_ms();
        for (id, slot) in self.all_transactions() {
            // one that is locked is in use
            let Ok(mut slot) = slot.try_lock() else { continue };
            let Some(state) = slot.as_ref() else {
                drop(slot);
                self.drop_forgotten(&id);
                continue;
            };
            let done = if state.is_overdue(now_ms) {
                let (marker, next) = state.expire(|| self.fresh_producer_id(), now_ms);
                tracing::info!(transactional_id = %id, "transaction aborted: its transaction.timeout.ms is over");
                self.finish(&id, &mut slot, (marker, Outcome::Abort), next)
            } else if state.is_unused(now_ms, self.config.transactions.id_expiration_ms) {
                self.enter(&id, &mut slot, None)
            } else {
                Ok(())
            };
            if let Err(error) = done {
                tracing::warn!(transactional_id = %id, %error, "transaction left as it is, to be tried again");
            }
        }
    }

    /// Every transactional id and its slot, sorted.
    pub(crate) fn all_transactions(&self) -> BTreeMap<String, Slot> {
        lock(&self.transactions).iter().map(|(id, slot)| (id.clone(), Arc::clone(slot))).collect()
    }

    /// Takes a forgotten id's slot away, unless somebody is about to use it.
    fn drop_forgotten(&self, id: &str) {
        let mut transactions = lock(&self.transactions);
        let is_idle =
            |slot: &Slot| slot.try_lock().is_ok_and(|slot| slot.is_none()) && Arc::strong_count(slot) <= 2;
        if transactions.get(id).is_some_and(is_idle) {
            transactions.remove(id);
        }
    }

    /// Event ids of the open transaction of a producer, by topic: an abort gives them back.
    fn open_ids(
        &self,
        spanned: &[(TopicPartition, Arc<Topic>)],
        held: &mut [Locked<'_>],
        producer_id: i64,
    ) -> Result<IdsByTopic, BrokerError> {
        let mut found = IdsByTopic::new();
        for ((at, topic), partition) in spanned.iter().zip(held) {
            let (Some(dedupe), Some(first)) = (&topic.dedupe, partition.producers().first_of(producer_id))
            else {
                continue;
            };
            let ids = dedupe.ids_of_producer(&self.log, at, first, producer_id)?;
            match found.last_mut() {
                Some((last, all)) if Arc::ptr_eq(last, dedupe) => all.extend(ids),
                _ => found.push((Arc::clone(dedupe), ids)),
            }
        }
        Ok(found)
    }

    /// Writes every state once more and gives up what stood before, once the topic has grown large.
    pub(crate) fn compact_transactions(&self) -> Result<(), BrokerError> {
        if self.topic(TRANSACTIONS_TOPIC).is_none() {
            return Ok(());
        }
        let at = TopicPartition::new(TRANSACTIONS_TOPIC, 0);
        let written = self.compacted_transaction_bytes.load(Ordering::Relaxed);
        if self.log.size(&at)? < self.config.transactions.log_bytes_max.max(written.saturating_mul(3)) {
            return Ok(());
        }
        // no state is written, and none begins, while all are held
        let transactions = lock(&self.transactions);
        let all: BTreeMap<&String, &Slot> = transactions.iter().collect();
        let held: Vec<_> = all.iter().map(|(id, slot)| (id, lock(slot))).collect();
        let known: Vec<_> =
            held.iter().filter_map(|(id, slot)| slot.as_ref().map(|state| (id, state))).collect();
        let mut batches = Vec::new();
        let mut builder = BatchBuilder::new();
        for chunk in known.chunks(STATES_PER_BATCH) {
            chunk.iter().for_each(|(id, state)| append(&mut builder, id, Some(state), self.clock.now_ms()));
            let batch = builder
                .finish(Compression::None)
                .map_err(|source| BrokerError::Corrupt { topic_partition: at.clone(), source })?;
            batches.push((at.clone(), batch));
        }
        let bytes: usize = batches.iter().map(|(_, batch)| batch.bytes().len()).sum();
        let first = match self.log.append_all(batches)?.first() {
            Some(first) => *first,
            None => self.log.offsets(&at)?.1,
        };
        self.compacted_transaction_bytes.store(bytes as u64, Ordering::Relaxed);
        self.log.delete_records_before(&at, first)?;
        Ok(())
    }
}
