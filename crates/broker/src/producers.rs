//! Producers of one partition: which sequence each may send next, where its last batches went, which transaction is open.
//!
//! Source: KIP-98 (five batches in flight are remembered; transactions), KIP-360, KIP-890 (a marker of a higher epoch
//! begins a new count of sequences). The state is a function of the log: after a restart it is read back from a
//! snapshot and the batch headers behind it.

use std::collections::{BTreeMap, HashMap, VecDeque};

use herdsman_record::{Header, TopicPartition};

use crate::BrokerError;

/// Batches remembered per producer: as many as a client may have in flight.
const BATCHES_KEPT: usize = 5;
/// Producers remembered per partition; the one silent for longest and without a transaction goes first.
const PRODUCERS_MAX: usize = 10_000;

/// A batch that stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) first_sequence: i32,
    pub(crate) last_sequence: i32,
    pub(crate) base_offset: i64,
}

/// One producer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Producer {
    pub(crate) epoch: i16,
    pub(crate) sent: VecDeque<Sent>,
    /// Whether its epoch began with a marker, so that its next sequence is 0.
    pub(crate) begins: bool,
    /// First offset of its open transaction.
    pub(crate) open: Option<i64>,
    /// Largest timestamp of its last batch, ms since the Unix epoch.
    pub(crate) last_ms: i64,
    pub(crate) used: u64,
}

/// All producers of one partition.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Producers {
    by_id: HashMap<i64, Producer>,
    /// Producer of each open transaction, by the transaction's first offset.
    open: BTreeMap<i64, i64>,
    uses: u64,
}

/// What to do with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Write it.
    Append,
    /// It was written before, at this offset: say so again.
    Duplicate(i64),
}

/// Sequence after `last`; sequences run from 0 to `i32::MAX` and round again.
fn next(last: i32) -> i32 {
    last.checked_add(1).unwrap_or(0)
}

/// Sequence of the last record of a batch.
fn last_sequence(header: &Header) -> i32 {
    let sum = i64::from(header.base_sequence) + i64::from(header.last_offset_delta);
    i32::try_from(sum % (i64::from(i32::MAX) + 1)).unwrap_or(0)
}

impl Producers {
    /// Whether the batch with this header is next, a repeat, or wrong.
    pub(crate) fn check(&self, header: &Header, at: &TopicPartition) -> Result<Verdict, BrokerError> {
        let Some(producer) = self.by_id.get(&header.producer_id) else { return Ok(Verdict::Append) };
        let refuse = |expected: i32| {
            Err(BrokerError::OutOfOrderSequence {
                topic_partition: at.clone(),
                producer_id: header.producer_id,
                expected,
                got: header.base_sequence,
            })
        };
        if header.producer_epoch < producer.epoch {
            return Err(BrokerError::InvalidProducerEpoch {
                producer_id: header.producer_id,
                current: producer.epoch,
                got: header.producer_epoch,
            });
        }
        if producer.open.is_some() && !header.is_transactional() {
            return Err(BrokerError::InvalidTransactionState(format!(
                "{at}: producer {} has an open transaction and sent a batch outside it",
                header.producer_id
            )));
        }
        if header.producer_epoch > producer.epoch {
            return if header.base_sequence == 0 { Ok(Verdict::Append) } else { refuse(0) };
        }
        let last = last_sequence(header);
        let same = |sent: &&Sent| sent.first_sequence == header.base_sequence && sent.last_sequence == last;
        if let Some(sent) = producer.sent.iter().find(same) {
            return Ok(Verdict::Duplicate(sent.base_offset));
        }
        let expected = match producer.sent.back() {
            Some(sent) => next(sent.last_sequence),
            None if producer.begins => 0,
            None => return Ok(Verdict::Append),
        };
        if expected == header.base_sequence { Ok(Verdict::Append) } else { refuse(expected) }
    }

    /// Remembers that the batch with this header stands at `base_offset`.
    pub(crate) fn record(&mut self, header: &Header, base_offset: i64) {
        let producer = self.touch(header);
        if producer.epoch != header.producer_epoch {
            producer.epoch = header.producer_epoch;
            producer.sent.clear();
            producer.begins = false;
        }
        producer.last_ms = header.max_timestamp_ms;
        let opens = header.is_transactional() && producer.open.is_none();
        if opens {
            producer.open = Some(base_offset);
        }
        if header.base_sequence >= 0 {
            if producer.sent.len() == BATCHES_KEPT {
                producer.sent.pop_front();
            }
            producer.sent.push_back(Sent {
                first_sequence: header.base_sequence,
                last_sequence: last_sequence(header),
                base_offset,
            });
        }
        if opens {
            self.open.insert(base_offset, header.producer_id);
        }
    }

    /// Remembers a transaction marker; returns the first offset of the transaction it ends, if one was open.
    pub(crate) fn end(&mut self, marker: &Header) -> Option<i64> {
        let producer = self.touch(marker);
        if marker.producer_epoch > producer.epoch {
            producer.epoch = marker.producer_epoch;
            producer.sent.clear();
            producer.begins = true;
        }
        producer.last_ms = marker.max_timestamp_ms;
        let first = producer.open.take()?;
        self.open.remove(&first);
        Some(first)
    }

    /// No transaction is open any more. Returns (first offset, producer id) of those that were.
    pub(crate) fn give_up_open(&mut self) -> BTreeMap<i64, i64> {
        for id in self.open.values() {
            if let Some(producer) = self.by_id.get_mut(id) {
                producer.open = None;
            }
        }
        std::mem::take(&mut self.open)
    }

    /// The producer of a batch, made if it is new.
    fn touch(&mut self, header: &Header) -> &mut Producer {
        self.uses += 1;
        if self.by_id.len() >= PRODUCERS_MAX && !self.by_id.contains_key(&header.producer_id) {
            let idle = self.by_id.iter().filter(|(_, producer)| producer.open.is_none());
            let oldest = idle.min_by_key(|(_, producer)| producer.used).map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                self.by_id.remove(&oldest);
            }
        }
        let producer = self
            .by_id
            .entry(header.producer_id)
            .or_insert_with(|| Producer { epoch: header.producer_epoch, ..Producer::default() });
        producer.used = self.uses;
        producer
    }

    /// Puts a producer back as a snapshot has it.
    pub(crate) fn restore(&mut self, id: i64, producer: Producer) {
        if let Some(first) = producer.open {
            self.open.insert(first, id);
        }
        self.uses = self.uses.max(producer.used);
        self.by_id.insert(id, producer);
    }

    /// First offset of the open transaction of producer `id` at `epoch`.
    pub(crate) fn open_of(&self, id: i64, epoch: i16) -> Option<i64> {
        self.by_id.get(&id).filter(|producer| producer.epoch == epoch).and_then(|producer| producer.open)
    }

    /// First offset of the open transaction of producer `id`.
    pub(crate) fn first_of(&self, id: i64) -> Option<i64> {
        self.by_id.get(&id).and_then(|producer| producer.open)
    }

    /// First offset of the oldest open transaction.
    pub(crate) fn first_open(&self) -> Option<i64> {
        self.open.keys().next().copied()
    }

    /// All producers, sorted by id.
    pub(crate) fn all(&self) -> Vec<(i64, &Producer)> {
        let mut all: Vec<_> = self.by_id.iter().map(|(id, producer)| (*id, producer)).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }
}

#[cfg(test)]
mod tests {
    use herdsman_record::{BatchBuilder, Compression};

    use super::*;

    const TRANSACTIONAL: i16 = 0x10;

    fn header(id: i64, epoch: i16, sequence: i32, records: usize) -> Header {
        let mut builder = BatchBuilder::new();
        builder.producer(id, epoch, sequence);
        (0..records).for_each(|_| builder.append(0, None, None, &[]));
        builder.finish(Compression::None).unwrap().header()
    }

    fn transactional(id: i64, epoch: i16, sequence: i32) -> Header {
        Header { attributes: TRANSACTIONAL, ..header(id, epoch, sequence, 1) }
    }

    #[test]
    fn a_resent_batch_gets_its_first_offset_and_a_gap_is_refused() {
        let at = TopicPartition::new("t", 0);
        let mut producers = Producers::default();
        let first = header(7, 0, i32::MAX - 1, 3);
        producers.record(&first, 100);
        assert_eq!(producers.check(&first, &at).unwrap(), Verdict::Duplicate(100));
        let second = header(7, 0, 1, 2);
        assert_eq!(producers.check(&second, &at).unwrap(), Verdict::Append, "sequences wrap after i32::MAX");
        producers.record(&second, 103);
        assert!(matches!(
            producers.check(&header(7, 0, 5, 1), &at),
            Err(BrokerError::OutOfOrderSequence { expected: 3, got: 5, .. })
        ));
        assert_eq!(producers.check(&header(7, 1, 0, 1), &at).unwrap(), Verdict::Append);
        producers.record(&header(7, 1, 0, 1), 105);
        assert!(matches!(
            producers.check(&second, &at),
            Err(BrokerError::InvalidProducerEpoch { current: 1, .. })
        ));
    }

    #[test]
    fn a_marker_ends_the_transaction_and_a_higher_epoch_begins_at_sequence_0() {
        let at = TopicPartition::new("t", 0);
        let mut producers = Producers::default();
        producers.record(&transactional(7, 0, 0), 10);
        producers.record(&transactional(7, 0, 1), 11);
        producers.record(&transactional(8, 0, 0), 12);
        assert_eq!(
            (producers.first_open(), producers.open_of(7, 0), producers.open_of(7, 1)),
            (Some(10), Some(10), None)
        );
        let outside = producers.check(&header(7, 0, 2, 1), &at);
        assert!(matches!(outside, Err(BrokerError::InvalidTransactionState(_))), "{outside:?}");
        assert_eq!(producers.end(&transactional(7, 1, -1)), Some(10));
        assert_eq!(producers.first_open(), Some(12));
        assert!(matches!(
            producers.check(&transactional(7, 0, 2), &at),
            Err(BrokerError::InvalidProducerEpoch { current: 1, got: 0, .. })
        ));
        assert!(matches!(
            producers.check(&transactional(7, 1, 2), &at),
            Err(BrokerError::OutOfOrderSequence { expected: 0, .. })
        ));
        assert_eq!(producers.check(&transactional(7, 1, 0), &at).unwrap(), Verdict::Append);
        assert_eq!(producers.end(&transactional(8, 0, -1)), Some(12));
        assert_eq!(
            producers.check(&transactional(8, 0, 1), &at).unwrap(),
            Verdict::Append,
            "the same epoch goes on"
        );
        assert_eq!((producers.end(&transactional(9, 0, -1)), producers.first_open()), (None, None));
    }
}
