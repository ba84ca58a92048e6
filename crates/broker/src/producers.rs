//! Idempotent producers of one partition: which sequence each may send next, and where its last batches went.
//!
//! Source: KIP-98 (five batches in flight are remembered), KIP-360. The state is a function of the log: after a restart it is
//! read back from the batch headers.

use std::collections::{HashMap, VecDeque};

use herdsman_record::{Header, TopicPartition};

use crate::BrokerError;

/// Batches remembered per producer: as many as a client may have in flight.
const BATCHES_KEPT: usize = 5;
/// Producers remembered per partition; the one silent for longest goes first.
const PRODUCERS_MAX: usize = 10_000;

#[derive(Debug, Clone, Copy)]
struct Sent {
    first_sequence: i32,
    last_sequence: i32,
    base_offset: i64,
}

#[derive(Debug, Clone)]
struct Producer {
    epoch: i16,
    sent: VecDeque<Sent>,
    used: u64,
}

/// All idempotent producers of one partition.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    by_id: HashMap<i64, Producer>,
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
                topic_partition: at.clone(),
                producer_id: header.producer_id,
                current: producer.epoch,
                got: header.producer_epoch,
            });
        }
        if header.producer_epoch > producer.epoch {
            return if header.base_sequence == 0 { Ok(Verdict::Append) } else { refuse(0) };
        }
        let last = last_sequence(header);
        let same = |sent: &&Sent| sent.first_sequence == header.base_sequence && sent.last_sequence == last;
        if let Some(sent) = producer.sent.iter().find(same) {
            return Ok(Verdict::Duplicate(sent.base_offset));
        }
        match producer.sent.back() {
            Some(sent) if next(sent.last_sequence) != header.base_sequence => {
                refuse(next(sent.last_sequence))
            }
            _ => Ok(Verdict::Append),
        }
    }

    /// Remembers that the batch with this header stands at `base_offset`.
    pub(crate) fn record(&mut self, header: &Header, base_offset: i64) {
        self.uses += 1;
        if self.by_id.len() >= PRODUCERS_MAX && !self.by_id.contains_key(&header.producer_id) {
            let oldest = self.by_id.iter().min_by_key(|(_, producer)| producer.used).map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                self.by_id.remove(&oldest);
            }
        }
        let producer = self.by_id.entry(header.producer_id).or_insert_with(|| Producer {
            epoch: header.producer_epoch,
            sent: VecDeque::new(),
            used: 0,
        });
        if producer.epoch != header.producer_epoch {
            producer.epoch = header.producer_epoch;
            producer.sent.clear();
        }
        if producer.sent.len() == BATCHES_KEPT {
            producer.sent.pop_front();
        }
        producer.used = self.uses;
        producer.sent.push_back(Sent {
            first_sequence: header.base_sequence,
            last_sequence: last_sequence(header),
            base_offset,
        });
    }
}

#[cfg(test)]
mod tests {
    use herdsman_record::{BatchBuilder, Compression};

    use super::*;

    fn header(id: i64, epoch: i16, sequence: i32, records: usize) -> Header {
        let mut builder = BatchBuilder::new();
        builder.producer(id, epoch, sequence);
        (0..records).for_each(|_| builder.append(0, None, None, &[]));
        builder.finish(Compression::None).unwrap().header()
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
}
