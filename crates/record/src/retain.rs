//! A batch with fewer records: every survivor keeps its bytes and its offset.
//!
//! The header still tells the offsets and sequences that were used, as after Kafka's compaction: a producer's next batch is
//! in order, also if nothing of this one was kept.

use bytes::{Bytes, BytesMut};

use crate::batch::{
    ATTRIBUTES, Batch, CRC, CRC_START, HEADER_LEN, LENGTH, LENGTH_PREFIX_LEN, MAX_TIMESTAMP, RECORD_COUNT,
    Records, TRANSACTIONAL_BIT, crc32c, patch,
};
use crate::varint::get_varlong;
use crate::{Compression, RecordError};

impl Batch {
    /// The batch with only those of its `records` whose index `keep` accepts; CRC and largest timestamp computed anew.
    ///
    /// # Errors
    /// A record that overruns the batch, a codec failure.
    pub fn retain(&self, records: &Records, keep: impl Fn(usize) -> bool) -> Result<Self, RecordError> {
        let overrun = || RecordError::Malformed("record fields overrun the batch");
        let (header, body) = (self.header(), records.body().as_ref());
        let codec = header.compression()?;
        let mut kept = Vec::with_capacity(body.len());
        let (mut at, mut count, mut newest_ms) = (0, 0_i32, None);
        for (index, record) in records.iter().enumerate() {
            let record = record?;
            let start = at;
            let len =
                get_varlong(body, &mut at).and_then(|len| usize::try_from(len).ok()).ok_or_else(overrun)?;
            at = at.checked_add(len).ok_or_else(overrun)?;
            if keep(index) {
                kept.extend_from_slice(body.get(start..at).ok_or_else(overrun)?);
                count += 1;
                newest_ms = newest_ms.max(Some(record.timestamp_ms));
            }
        }
        let packed = if codec == Compression::None || count == 0 { kept } else { codec.compress(&kept)? };
        let mut out = BytesMut::with_capacity(HEADER_LEN + packed.len());
        out.extend_from_slice(self.bytes().get(..HEADER_LEN).ok_or_else(overrun)?);
        out.extend_from_slice(&packed);
        let length = i32::try_from(out.len() - LENGTH_PREFIX_LEN).map_err(|_| overrun())?;
        patch(&mut out, LENGTH, &length.to_be_bytes());
        patch(&mut out, RECORD_COUNT, &count.to_be_bytes());
        if count == 0 {
            // an empty body is not a compressed one
            patch(&mut out, ATTRIBUTES, &(header.attributes & !CODEC_BITS).to_be_bytes());
        }
        if let Some(newest_ms) = newest_ms.filter(|_| !header.is_log_append_time()) {
            patch(&mut out, MAX_TIMESTAMP, &newest_ms.to_be_bytes());
        }
        Self::from_bytes(sealed(out))
    }

    /// The batch outside its transaction, which was committed; CRC computed anew.
    #[must_use]
    pub fn without_transaction(&self) -> Self {
        let attributes = self.header().attributes & !TRANSACTIONAL_BIT;
        let mut out = BytesMut::from(self.bytes().as_ref());
        patch(&mut out, ATTRIBUTES, &attributes.to_be_bytes());
        Self::from_bytes(sealed(out)).expect("only an attribute changed")
    }
}

const CODEC_BITS: i16 = 0x07;

fn sealed(mut out: BytesMut) -> Bytes {
    let crc = crc32c(out.get(CRC_START..).unwrap_or_default());
    patch(&mut out, CRC, &crc.to_be_bytes());
    out.freeze()
}

#[cfg(test)]
mod tests {
    use crate::{BatchBuilder, Compression};

    #[test]
    fn survivors_keep_offset_bytes_and_header_and_the_largest_timestamp_is_theirs() {
        for codec in [Compression::None, Compression::Lz4, Compression::Zstd] {
            let mut builder = BatchBuilder::new();
            builder.producer(7, 0, 40);
            builder.attributes(0x10);
            for number in 0..5_u8 {
                builder.append(100 + i64::from(number), Some(&[number]), Some(&[number; 9]), &[("h", None)]);
            }
            let batch = builder.finish(codec).unwrap().with_base_offset(1_000, 0);
            let records = batch.records().unwrap();
            let kept = batch.retain(&records, |index| index == 1 || index == 3).unwrap();
            kept.check_crc().unwrap();
            let found = kept.records().unwrap();
            let found: Vec<_> =
                found.iter().map(Result::unwrap).map(|one| (one.offset, one.key.unwrap()[0])).collect();
            assert_eq!(found, [(1_001, 1), (1_003, 3)]);
            let header = kept.header();
            assert_eq!(
                (header.base_sequence, header.last_offset_delta, header.max_timestamp_ms),
                (40, 4, 103)
            );
            let none = batch.retain(&records, |_| false).unwrap();
            assert_eq!(
                (none.record_count(), none.next_offset(), none.records().unwrap().iter().count()),
                (0, 1_005, 0)
            );
            let plain = kept.without_transaction();
            plain.check_crc().unwrap();
            assert!(header.is_transactional() && !plain.header().is_transactional());
        }
    }
}
