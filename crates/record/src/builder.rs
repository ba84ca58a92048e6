//! Builds one record batch, record by record, without allocating per record.

use bytes::Bytes;

use crate::batch::{
    ATTRIBUTES, BASE_SEQUENCE, BASE_TIMESTAMP, Batch, CRC, CRC_START, HEADER_LEN, LAST_OFFSET_DELTA,
    LEADER_EPOCH, LENGTH, LENGTH_PREFIX_LEN, MAGIC, MAX_TIMESTAMP, PRODUCER_EPOCH, PRODUCER_ID, RECORD_COUNT,
    crc32c, patch,
};
use crate::varint::{put_varlong, varlong_len};
use crate::{Compression, Headers, RecordError};

/// Collects records into one [`Batch`].
///
/// ```
/// use herdsman_record::{BatchBuilder, Compression};
/// let mut builder = BatchBuilder::new();
/// builder.append(1_700_000_000_000, Some(b"N14228"), Some(b"{}"), &[]);
/// let batch = builder.finish(Compression::None).expect("fits");
/// assert_eq!(batch.record_count(), 1);
/// ```
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    /// Room for the header, then the records, so that a batch is sealed where it grew; empty before the first record.
    bytes: Vec<u8>,
    /// Bytes of the last batches, the longest most: the next one is likely to need as many.
    last_len: usize,
    count: i32,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
    producer: (i64, i16, i32),
    attributes: i16,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchBuilder {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self {
            bytes: Vec::new(),
            last_len: 0,
            count: 0,
            base_timestamp_ms: -1,
            max_timestamp_ms: -1,
            producer: (-1, -1, -1),
            attributes: 0,
        }
    }

    /// Sets producer id, epoch and base sequence (idempotent producer, KIP-98).
    pub fn producer(&mut self, id: i64, epoch: i16, base_sequence: i32) {
        self.producer = (id, epoch, base_sequence);
    }

    /// Sets attribute bits beside the codec (transactional 0x10, control 0x20).
    pub fn attributes(&mut self, attributes: i16) {
        self.attributes = attributes;
    }

    /// Number of records so far.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.count).unwrap_or(0)
    }

    /// Whether there is no record yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the batch so far, uncompressed, header included.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.bytes.len().max(HEADER_LEN)
    }

    /// Appends a record. `timestamp_ms` is milliseconds since the Unix epoch; a `None` value is a tombstone.
    pub fn append(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) {
        let headers_len = varlong_len(len_i64(headers.len()))
            + headers
                .iter()
                .map(|(name, value)| sized_len(Some(name.as_bytes())) + sized_len(*value))
                .sum::<usize>();
        self.begin(timestamp_ms, key, value, headers_len);
        put_varlong(&mut self.bytes, len_i64(headers.len()));
        for (name, value) in headers {
            put_sized(&mut self.bytes, Some(name.as_bytes()));
            put_sized(&mut self.bytes, *value);
        }
    }

    /// Appends a record whose headers are copied, still encoded, from another record.
    pub fn append_encoded(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: Headers<'_>,
    ) {
        let count = len_i64(headers.len());
        self.begin(timestamp_ms, key, value, varlong_len(count) + headers.encoded().len());
        put_varlong(&mut self.bytes, count);
        self.bytes.extend_from_slice(headers.encoded());
    }

    fn begin(&mut self, timestamp_ms: i64, key: Option<&[u8]>, value: Option<&[u8]>, headers_len: usize) {
        if self.count == 0 {
            self.bytes.clear();
            self.bytes.reserve(self.last_len + self.last_len / 8);
            self.bytes.resize(HEADER_LEN, 0);
            self.base_timestamp_ms = timestamp_ms;
            self.max_timestamp_ms = timestamp_ms;
        }
        self.max_timestamp_ms = self.max_timestamp_ms.max(timestamp_ms);
        let timestamp_delta = timestamp_ms.wrapping_sub(self.base_timestamp_ms);
        let offset_delta = i64::from(self.count);
        let len = 1
            + varlong_len(timestamp_delta)
            + varlong_len(offset_delta)
            + sized_len(key)
            + sized_len(value)
            + headers_len;
        put_varlong(&mut self.bytes, len_i64(len));
        self.bytes.push(0);
        put_varlong(&mut self.bytes, timestamp_delta);
        put_varlong(&mut self.bytes, offset_delta);
        put_sized(&mut self.bytes, key);
        put_sized(&mut self.bytes, value);
        self.count += 1;
    }

    /// Seals the batch at base offset 0 and leaves the builder empty, ready for the next one (settings kept).
    /// Errors: an empty batch, one larger than 2 GiB, a codec failure.
    pub fn finish(&mut self, compression: Compression) -> Result<Batch, RecordError> {
        if self.count == 0 {
            return Err(RecordError::Malformed("a batch needs at least one record"));
        }
        let compressed = match compression {
            Compression::None => None,
            codec => {
                let body = codec.compress(self.bytes.get(HEADER_LEN..).unwrap_or_default())?;
                let mut sealed = Vec::with_capacity(HEADER_LEN + body.len());
                sealed.resize(HEADER_LEN, 0);
                sealed.extend_from_slice(&body);
                Some(sealed)
            }
        };
        let total = compressed.as_ref().map_or(self.bytes.len(), Vec::len);
        let length = i32::try_from(total - LENGTH_PREFIX_LEN)
            .map_err(|_| RecordError::Malformed("batch larger than 2 GiB"))?;
        // one short batch among long ones (the end of an input's run) is no reason to grow step by step next time
        self.last_len = self.bytes.len().max(self.last_len - self.last_len / 4);
        let mut out = compressed.unwrap_or_else(|| std::mem::take(&mut self.bytes));
        let (producer_id, producer_epoch, base_sequence) = self.producer;
        let attributes = self.attributes | i16::from(compression.attributes());
        patch(&mut out, LENGTH, &length.to_be_bytes());
        patch(&mut out, LEADER_EPOCH, &(-1_i32).to_be_bytes());
        patch(&mut out, MAGIC..MAGIC + 1, &[2]);
        patch(&mut out, ATTRIBUTES, &attributes.to_be_bytes());
        patch(&mut out, LAST_OFFSET_DELTA, &(self.count - 1).to_be_bytes());
        patch(&mut out, BASE_TIMESTAMP, &self.base_timestamp_ms.to_be_bytes());
        patch(&mut out, MAX_TIMESTAMP, &self.max_timestamp_ms.to_be_bytes());
        patch(&mut out, PRODUCER_ID, &producer_id.to_be_bytes());
        patch(&mut out, PRODUCER_EPOCH, &producer_epoch.to_be_bytes());
        patch(&mut out, BASE_SEQUENCE, &base_sequence.to_be_bytes());
        patch(&mut out, RECORD_COUNT, &self.count.to_be_bytes());
        let crc = crc32c(out.get(CRC_START..).unwrap_or_default());
        patch(&mut out, CRC, &crc.to_be_bytes());
        if out.capacity() > out.len() * 2 {
            out.shrink_to_fit(); // the batch before was larger: nobody counts what this one would hold in vain
        }
        self.bytes.clear();
        self.count = 0;
        Batch::from_bytes(Bytes::from(out))
    }
}

fn len_i64(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

fn sized_len(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| varlong_len(len_i64(bytes.len())) + bytes.len())
}

fn put_sized(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => put_varlong(out, -1),
        Some(bytes) => {
            put_varlong(out, len_i64(bytes.len()));
            out.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_with_keys_values_headers_and_offsets() {
        for codec in
            [Compression::None, Compression::Lz4, Compression::Zstd, Compression::Snappy, Compression::Gzip]
        {
            let mut builder = BatchBuilder::new();
            builder.append(1_000, Some(b"k"), Some(b"v"), &[("event-id", Some(b"7f3a")), ("empty", None)]);
            builder.append(900, None, None, &[]);
            let batch = builder.finish(codec).unwrap().with_base_offset(41, 3);
            batch.check_crc().unwrap();
            assert_eq!((batch.base_offset(), batch.next_offset(), batch.header().leader_epoch), (41, 43, 3));
            let records = batch.records().unwrap();
            let all: Vec<_> = records.iter().map(Result::unwrap).collect();
            assert_eq!(
                (all[0].offset, all[0].timestamp_ms, all[0].key, all[0].value),
                (41, 1_000, Some(&b"k"[..]), Some(&b"v"[..]))
            );
            assert_eq!(all[0].headers.get("event-id"), Some(&b"7f3a"[..]));
            assert_eq!(all[0].headers.len(), 2);
            assert_eq!((all[1].offset, all[1].timestamp_ms, all[1].key, all[1].value), (42, 900, None, None));
        }
    }

    #[test]
    fn a_flipped_bit_after_the_length_is_found() {
        let mut builder = BatchBuilder::new();
        builder.append(0, Some(b"key"), Some(b"value"), &[]);
        let good = builder.finish(Compression::None).unwrap();
        for at in 21..good.bytes().len() {
            let mut bytes = good.bytes().to_vec();
            bytes[at] ^= 0x10;
            match Batch::from_bytes(Bytes::from(bytes)) {
                Ok(batch) => assert!(batch.check_crc().is_err(), "byte {at}"),
                Err(error) => assert!(matches!(error, RecordError::Malformed(_)), "byte {at}: {error}"),
            }
        }
    }

    #[test]
    fn lies_in_counts_and_lengths_are_refused_without_panic() {
        let mut builder = BatchBuilder::new();
        builder.append(0, Some(b"key"), Some(b"value"), &[]);
        let good = builder.finish(Compression::None).unwrap();
        for at in 0..good.bytes().len() {
            for flip in [0x01, 0x40, 0x80, 0xff] {
                let mut bytes = good.bytes().to_vec();
                bytes[at] ^= flip;
                if let Ok(records) = Batch::from_bytes(Bytes::from(bytes)).and_then(|batch| batch.records()) {
                    let _ = records.iter().count();
                }
            }
        }
    }
}
