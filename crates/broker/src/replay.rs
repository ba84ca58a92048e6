//! Reading a partition back while the broker opens. Damage costs what it damaged and no more: it is told in the log's words
//! (file, offset, remedy), and the rest is read.

use herdsman_log::{Log, LogError};
use herdsman_record::{Batch, RecordError, TopicPartition};

use crate::BrokerError;

/// Bytes read at a time.
const BYTES: usize = 4 << 20;

/// Batches from `next` on, which moves behind them; none where something is damaged. `None`: nothing is left.
pub(crate) fn read_on(
    log: &Log,
    at: &TopicPartition,
    next: &mut i64,
    bytes: usize,
) -> Result<Option<Vec<Batch>>, LogError> {
    match log.read(at, *next, bytes) {
        Ok(out) => {
            let Some(last) = out.batches.last() else { return Ok(None) };
            *next = last.next_offset();
            Ok(Some(out.batches))
        }
        Err(error) => {
            let LogError::Corrupt { next_offset, .. } = error else { return Err(error) };
            tracing::error!("{error}");
            *next = next_offset.max(*next + 1);
            Ok(Some(Vec::new()))
        }
    }
}

/// Gives `take` every batch of the partition, in order.
///
/// # Errors   [`BrokerError::Corrupt`] with what `take` refuses; what the log cannot read.
pub(crate) fn replay(
    log: &Log,
    at: &TopicPartition,
    mut take: impl FnMut(&Batch) -> Result<(), RecordError>,
) -> Result<(), BrokerError> {
    let (mut next, end) = log.offsets(at)?;
    while next < end {
        let Some(batches) = read_on(log, at, &mut next, BYTES)? else { break };
        for batch in &batches {
            take(batch).map_err(|source| BrokerError::Corrupt { topic_partition: at.clone(), source })?;
        }
    }
    Ok(())
}
