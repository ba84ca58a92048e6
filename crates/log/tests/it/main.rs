//! The log against a real disk, against a model, and against a disk that forgets, tears and refuses.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod compaction;
mod kill;
mod model;
mod page_cache;
mod planted;
mod real;
mod simulation;

use herdsman_record::{Batch, BatchBuilder, Compression};

/// A batch of records whose values are `ids` in eight bytes, followed by `padding` bytes.
fn batch_of(ids: &[u64], timestamp_ms: i64, padding: usize) -> Batch {
    let mut builder = BatchBuilder::new();
    for (id, timestamp_ms) in ids.iter().zip(timestamp_ms..) {
        let mut value = id.to_be_bytes().to_vec();
        value.resize(8 + padding, 0x2e);
        builder.append(timestamp_ms, Some(b"key"), Some(&value), &[]);
    }
    builder.finish(Compression::None).unwrap()
}

/// Offset, id and timestamp of every record of `batches`.
fn ids_of(batches: &[Batch]) -> Vec<(i64, u64, i64)> {
    let mut out = Vec::new();
    for batch in batches {
        batch.check_crc().unwrap();
        for record in batch.records().unwrap().iter() {
            let record = record.unwrap();
            let id = u64::from_be_bytes(*record.value.unwrap().first_chunk().unwrap());
            out.push((record.offset, id, record.timestamp_ms));
        }
    }
    out
}
