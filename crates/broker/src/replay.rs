//! Reading an internal topic back while the broker opens.

use herdsman_log::Log;
use herdsman_record::{Batch, RecordError, TopicPartition};

use crate::BrokerError;

/// Bytes read at a time.
const BYTES: usize = 4 << 20;

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
        let out = log.read(at, next, BYTES)?;
        let Some(last) = out.batches.last() else { break };
        next = last.next_offset();
        for batch in &out.batches {
            take(batch).map_err(|source| BrokerError::Corrupt { topic_partition: at.clone(), source })?;
        }
    }
    Ok(())
}
