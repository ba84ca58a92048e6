//! A batch without its duplicates.
//!
//! A plain producer's batch is packed anew: offsets stay without gaps. An idempotent producer's batch keeps the offset delta of
//! every surviving record and the delta of the last, as compaction does: the header still tells which sequences were
//! used, so its next batch is in order, also after a restart, even if nothing of this one was kept.

use herdsman_record::{Batch, BatchBuilder, RecordError, Records};

use crate::dedupe::Fresh;

/// Attribute bit: timestamps are append times.
const TIMESTAMP_TYPE_BIT: i16 = 0x08;

/// `batch` with only the records that `fresh` marks; `None` if nothing is left to write.
pub fn keep_fresh(batch: &Batch, records: &Records, fresh: &Fresh) -> Result<Option<Batch>, RecordError> {
    let header = batch.header();
    let codec = header.compression()?;
    if header.producer_id >= 0 {
        return batch.retain(records, |index| fresh.is_fresh(index)).map(Some);
    }
    if fresh.duplicates() == fresh.len() {
        return Ok(None);
    }
    let mut builder = BatchBuilder::new();
    builder.attributes(header.attributes & TIMESTAMP_TYPE_BIT);
    for (index, record) in records.iter().enumerate() {
        let record = record?;
        if fresh.is_fresh(index) {
            builder.append_encoded(record.timestamp_ms, record.key, record.value, record.headers);
        }
    }
    builder.finish(codec).map(Some)
}

#[cfg(test)]
mod tests {
    use herdsman_record::{Compression, EventId};

    use super::*;
    use crate::dedupe::Dedupe;

    #[test]
    fn survivors_keep_their_bytes_and_an_idempotent_batch_its_sequences() {
        for codec in [Compression::None, Compression::Lz4] {
            for producer in [-1, 7] {
                let mut builder = BatchBuilder::new();
                builder.producer(producer, 0, 40);
                for number in 0..5_u8 {
                    builder.append(i64::from(number), None, Some(&[number; 9]), &[("h", Some(b"x"))]);
                }
                let batch = builder.finish(codec).unwrap();
                let mut seen = Dedupe::new(1_000, 1 << 20);
                let ids = [1_u8, 2, 1, 3, 3].map(|id| EventId::of(&[id]));
                let fresh = seen.filter(&ids, 0);
                let kept = keep_fresh(&batch, &batch.records().unwrap(), &fresh).unwrap().unwrap();
                kept.check_crc().unwrap();
                let records = kept.records().unwrap();
                let values: Vec<_> = records
                    .iter()
                    .map(|record| record.map(|r| (r.offset, r.timestamp_ms, r.value.unwrap()[0])))
                    .map(Result::unwrap)
                    .collect();
                let header = kept.header();
                if producer < 0 {
                    assert_eq!(values, [(0, 0, 0), (1, 1, 1), (2, 3, 3)]);
                    assert_eq!(header.last_offset_delta, 2);
                } else {
                    assert_eq!(values, [(0, 0, 0), (1, 1, 1), (3, 3, 3)]);
                    assert_eq!((header.last_offset_delta, header.base_sequence), (4, 40));
                }
                let none = seen.filter(&ids, 0);
                let emptied = keep_fresh(&batch, &batch.records().unwrap(), &none).unwrap();
                assert_eq!(
                    emptied.map(|batch| batch.next_offset()),
                    if producer < 0 { None } else { Some(5) }
                );
            }
        }
    }
}
