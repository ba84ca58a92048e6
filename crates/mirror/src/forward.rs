//! Which records of a batch go on, and what they look like at the target.

use std::borrow::Cow;

use herdsman_bus::Fetched;
use herdsman_record::{Batch, BatchBuilder, Compression, RecordError};

/// Header that names the cluster a record was first written to.
pub const ORIGIN_HEADER: &str = "herdsman-origin";

/// A batch is sealed at this many bytes.
const BATCH_BYTES: usize = 1 << 20;

/// What is to be written of some fetched batches.
#[derive(Debug, Default)]
pub(crate) struct Forward {
    pub(crate) batches: Vec<Batch>,
    /// Records passed over because they originate elsewhere.
    pub(crate) foreign: u64,
}

/// Takes the records that originate at `source` and marks them so.
pub(crate) fn select(fetched: &Fetched, source: &str) -> Result<Forward, RecordError> {
    let mut out = Forward::default();
    let mut builder = BatchBuilder::new();
    for batch in fetched.batches.iter().filter(|batch| !batch.header().is_control()) {
        for record in batch.records()?.iter() {
            let record = record?;
            if record.offset < fetched.position {
                continue;
            }
            let origin = record.headers.get(ORIGIN_HEADER);
            if origin.is_some_and(|origin| origin != source.as_bytes()) {
                out.foreign += 1;
                continue;
            }
            if origin.is_some() {
                builder.append_encoded(record.timestamp_ms, record.key, record.value, record.headers);
            } else {
                let names: Vec<(Cow<'_, str>, Option<&[u8]>)> = record
                    .headers
                    .iter()
                    .map(|(name, value)| (String::from_utf8_lossy(name), value))
                    .collect();
                let mut headers: Vec<(&str, Option<&[u8]>)> =
                    names.iter().map(|(name, value)| (name.as_ref(), *value)).collect();
                headers.push((ORIGIN_HEADER, Some(source.as_bytes())));
                builder.append(record.timestamp_ms, record.key, record.value, &headers);
            }
            if builder.byte_len() >= BATCH_BYTES {
                out.batches.push(builder.finish(Compression::None)?);
            }
        }
    }
    if !builder.is_empty() {
        out.batches.push(builder.finish(Compression::None)?);
    }
    Ok(out)
}
