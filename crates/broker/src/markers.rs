//! Control batches: how a transaction's end is written into a partition.
//!
//! ```text
//! key    version i16 = 0 | type i16: 0 abort, 1 commit
//! value  version i16 = 0 | coordinator_epoch i32
//! ```
//! Source: KIP-98; `EndTxnMarker.json` of Apache Kafka.

use herdsman_record::{Batch, BatchBuilder, Compression, RecordError};

const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;

/// How a transaction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its records are to be skipped.
    Abort,
    /// Its records count.
    Commit,
}

impl Outcome {
    /// What a request's flag says.
    pub(crate) fn committed(committed: bool) -> Self {
        if committed { Self::Commit } else { Self::Abort }
    }
}

/// The control batch that ends a transaction of this producer.
pub(crate) fn marker(
    (producer_id, producer_epoch): (i64, i16),
    outcome: Outcome,
    coordinator_epoch: i32,
    now_ms: i64,
) -> Result<Batch, RecordError> {
    let kind: u8 = if outcome == Outcome::Commit { 1 } else { 0 };
    let mut value = vec![0, 0];
    value.extend_from_slice(&coordinator_epoch.to_be_bytes());
    let mut builder = BatchBuilder::new();
    builder.producer(producer_id, producer_epoch, -1);
    builder.attributes(TRANSACTIONAL | CONTROL);
    builder.append(now_ms, Some(&[0, 0, 0, kind]), Some(&value), &[]);
    builder.finish(Compression::None)
}

/// What a control batch says; `None` if it is not the end of a transaction.
pub(crate) fn outcome_of(batch: &Batch) -> Result<Option<Outcome>, RecordError> {
    let records = batch.records()?;
    let Some(record) = records.iter().next().transpose()? else { return Ok(None) };
    Ok(match record.key {
        Some([_, _, 0, 0, ..]) => Some(Outcome::Abort),
        Some([_, _, 0, 1, ..]) => Some(Outcome::Commit),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_says_what_was_decided_at_which_epoch() {
        for outcome in [Outcome::Abort, Outcome::Commit] {
            let batch = marker((7, 3), outcome, 0, 1_000).unwrap();
            let header = batch.header();
            assert!(header.is_control() && header.is_transactional());
            assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (7, 3, -1));
            assert_eq!(outcome_of(&batch).unwrap(), Some(outcome));
        }
    }
}
