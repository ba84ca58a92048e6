//! Record batch v2: a view over shared bytes.
//!
//! ```text
//!  0 base_offset i64 | 8 batch_length i32 | 12 partition_leader_epoch i32 | 16 magic i8 = 2 | 17 crc u32
//! 21 attributes i16 | 23 last_offset_delta i32 | 27 base_timestamp i64 | 35 max_timestamp i64
//! 43 producer_id i64 | 51 producer_epoch i16 | 53 base_sequence i32 | 57 record_count i32 | 61 records
//! ```
//! Source: <https://kafka.apache.org/documentation/#recordbatch>. The CRC-32C covers everything from byte 21 on.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::varint::get_varlong;
use crate::{Compression, RecordError};

/// Bytes before the records.
pub const HEADER_LEN: usize = 61;
/// Bytes before the part that `batch_length` counts.
pub const LENGTH_PREFIX_LEN: usize = 12;
/// Cap on the decompressed records of one batch, bytes.
pub const DECOMPRESSED_BYTES_MAX: usize = 64 << 20;

const BASE_OFFSET: Range<usize> = 0..8;
pub(crate) const LENGTH: Range<usize> = 8..12;
pub(crate) const LEADER_EPOCH: Range<usize> = 12..16;
pub(crate) const MAGIC: usize = 16;
pub(crate) const CRC: Range<usize> = 17..21;
pub(crate) const CRC_START: usize = 21;
pub(crate) const ATTRIBUTES: Range<usize> = 21..23;
pub(crate) const LAST_OFFSET_DELTA: Range<usize> = 23..27;
pub(crate) const BASE_TIMESTAMP: Range<usize> = 27..35;
pub(crate) const MAX_TIMESTAMP: Range<usize> = 35..43;
pub(crate) const PRODUCER_ID: Range<usize> = 43..51;
pub(crate) const PRODUCER_EPOCH: Range<usize> = 51..53;
pub(crate) const BASE_SEQUENCE: Range<usize> = 53..57;
pub(crate) const RECORD_COUNT: Range<usize> = 57..61;
const _: () = assert!(RECORD_COUNT.end == HEADER_LEN);

const TIMESTAMP_TYPE_BIT: i16 = 0x08;
pub(crate) const TRANSACTIONAL_BIT: i16 = 0x10;
const CONTROL_BIT: i16 = 0x20;

/// One record batch: exactly its bytes, header checked for consistency, shared and cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    bytes: Bytes,
}

/// The header fields of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Whole length in bytes, prefix included.
    pub total_len: usize,
    /// Leader epoch the broker stamped.
    pub leader_epoch: i32,
    /// CRC-32C over the bytes from `attributes` on.
    pub crc: u32,
    /// Attribute bits.
    pub attributes: i16,
    /// Offset of the last record minus `base_offset`.
    pub last_offset_delta: i32,
    /// Timestamp of the first record, ms since the Unix epoch.
    pub base_timestamp_ms: i64,
    /// Largest timestamp in the batch, ms since the Unix epoch.
    pub max_timestamp_ms: i64,
    /// Idempotent producer's id, or −1.
    pub producer_id: i64,
    /// Its epoch, or −1.
    pub producer_epoch: i16,
    /// Sequence of the first record, or −1.
    pub base_sequence: i32,
    /// Number of records.
    pub record_count: i32,
}

fn field<const N: usize>(bytes: &[u8], range: Range<usize>) -> [u8; N] {
    let mut out = [0; N];
    if let Some(found) = bytes.get(range) {
        out.copy_from_slice(found);
    }
    out
}

impl Header {
    /// Reads the header at the front of `bytes`. Errors: truncated, wrong magic, a length below the header's own.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() < HEADER_LEN {
            return Err(RecordError::Truncated { needed: HEADER_LEN, present: bytes.len() });
        }
        let magic = bytes.get(MAGIC).copied().unwrap_or(0).cast_signed();
        if magic != 2 {
            return Err(RecordError::Magic(magic));
        }
        let length = i32::from_be_bytes(field(bytes, LENGTH));
        let total_len = usize::try_from(length).map_err(|_| RecordError::Malformed("negative length"))?
            + LENGTH_PREFIX_LEN;
        if total_len < HEADER_LEN {
            return Err(RecordError::Malformed("length below the header's"));
        }
        let header = Self {
            base_offset: i64::from_be_bytes(field(bytes, BASE_OFFSET)),
            total_len,
            leader_epoch: i32::from_be_bytes(field(bytes, LEADER_EPOCH)),
            crc: u32::from_be_bytes(field(bytes, CRC)),
            attributes: i16::from_be_bytes(field(bytes, ATTRIBUTES)),
            last_offset_delta: i32::from_be_bytes(field(bytes, LAST_OFFSET_DELTA)),
            base_timestamp_ms: i64::from_be_bytes(field(bytes, BASE_TIMESTAMP)),
            max_timestamp_ms: i64::from_be_bytes(field(bytes, MAX_TIMESTAMP)),
            producer_id: i64::from_be_bytes(field(bytes, PRODUCER_ID)),
            producer_epoch: i16::from_be_bytes(field(bytes, PRODUCER_EPOCH)),
            base_sequence: i32::from_be_bytes(field(bytes, BASE_SEQUENCE)),
            record_count: i32::from_be_bytes(field(bytes, RECORD_COUNT)),
        };
        if header.record_count < 0 || header.last_offset_delta < 0 {
            return Err(RecordError::Malformed("negative record count or offset delta"));
        }
        Ok(header)
    }

    /// Offset after the last record.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta)).saturating_add(1)
    }

    /// Codec of the records.
    pub fn compression(&self) -> Result<Compression, RecordError> {
        Compression::from_attributes(self.attributes.to_be_bytes()[1])
    }

    /// Whether timestamps are the broker's append time.
    #[must_use]
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & TIMESTAMP_TYPE_BIT != 0
    }

    /// Whether the batch belongs to a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Whether the batch holds control records (transaction markers).
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }
}

impl Batch {
    /// Takes the first batch off `bytes`, which may hold more after it. The CRC is not checked here.
    pub fn split_first(bytes: &mut Bytes) -> Result<Self, RecordError> {
        let header = Header::parse(bytes)?;
        if bytes.len() < header.total_len {
            return Err(RecordError::Truncated { needed: header.total_len, present: bytes.len() });
        }
        Ok(Self { bytes: bytes.split_to(header.total_len) })
    }

    /// Takes `bytes` as exactly one batch. The CRC is not checked here.
    pub fn from_bytes(mut bytes: Bytes) -> Result<Self, RecordError> {
        let batch = Self::split_first(&mut bytes)?;
        if bytes.is_empty() { Ok(batch) } else { Err(RecordError::Malformed("bytes after the batch")) }
    }

    /// The bytes, as on the wire and on disk.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The bytes, without copying.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// The header fields.
    #[must_use]
    pub fn header(&self) -> Header {
        Header::parse(&self.bytes).expect("checked when the batch was made")
    }

    /// Offset of the first record.
    #[must_use]
    pub fn base_offset(&self) -> i64 {
        i64::from_be_bytes(field(&self.bytes, BASE_OFFSET))
    }

    /// Offset after the last record.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        let delta = i32::from_be_bytes(field(&self.bytes, LAST_OFFSET_DELTA));
        self.base_offset().saturating_add(i64::from(delta)).saturating_add(1)
    }

    /// Number of records, as the header says.
    #[must_use]
    pub fn record_count(&self) -> usize {
        usize::try_from(i32::from_be_bytes(field(&self.bytes, RECORD_COUNT))).unwrap_or(0)
    }

    /// Compares the stored CRC-32C with the bytes'. Errors: [`RecordError::Crc`].
    pub fn check_crc(&self) -> Result<(), RecordError> {
        let stored = u32::from_be_bytes(field(&self.bytes, CRC));
        let computed = crc32c(self.bytes.get(CRC_START..).unwrap_or_default());
        if stored == computed {
            return Ok(());
        }
        Err(RecordError::Crc { base_offset: self.base_offset(), stored, computed })
    }

    /// The same batch at another base offset and leader epoch; in place when nobody else holds the bytes.
    #[must_use]
    pub fn with_base_offset(self, base_offset: i64, leader_epoch: i32) -> Self {
        let mut bytes = match self.bytes.try_into_mut() {
            Ok(owned) => owned,
            Err(shared) => BytesMut::from(shared.as_ref()),
        };
        patch(&mut bytes, BASE_OFFSET, &base_offset.to_be_bytes());
        patch(&mut bytes, LEADER_EPOCH, &leader_epoch.to_be_bytes());
        Self { bytes: bytes.freeze() }
    }

    /// The same batch stamped with append time `now_ms` (`message.timestamp.type=LogAppendTime`); CRC recomputed.
    #[must_use]
    pub fn with_append_time(self, now_ms: i64) -> Self {
        let attributes = self.header().attributes | TIMESTAMP_TYPE_BIT;
        let mut bytes = BytesMut::from(self.bytes.as_ref());
        patch(&mut bytes, ATTRIBUTES, &attributes.to_be_bytes());
        patch(&mut bytes, MAX_TIMESTAMP, &now_ms.to_be_bytes());
        let crc = crc32c(bytes.get(CRC_START..).unwrap_or_default());
        patch(&mut bytes, CRC, &crc.to_be_bytes());
        Self { bytes: bytes.freeze() }
    }

    /// The records, decompressed if need be (at most [`DECOMPRESSED_BYTES_MAX`]).
    pub fn records(&self) -> Result<Records, RecordError> {
        let header = self.header();
        let body = self.bytes.slice(HEADER_LEN..);
        let body = match header.compression()? {
            Compression::None => body,
            codec => Bytes::from(codec.decompress(&body, DECOMPRESSED_BYTES_MAX)?),
        };
        // the smallest record takes 7 bytes: length, attributes, two deltas, two lengths, header count
        if self.record_count() > body.len() / 7 {
            return Err(RecordError::Malformed("more records announced than bytes can hold"));
        }
        Ok(Records { body, header })
    }
}

/// Writes a header field in place.
pub(crate) fn patch(bytes: &mut [u8], range: Range<usize>, value: &[u8]) {
    if let Some(place) = bytes.get_mut(range) {
        place.copy_from_slice(value);
    }
}

/// CRC-32C (Castagnoli) of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes)).unwrap_or(0)
}

/// The decompressed records of a batch.
#[derive(Debug, Clone)]
pub struct Records {
    body: Bytes,
    header: Header,
}

/// One record, borrowed from [`Records`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Absolute offset.
    pub offset: i64,
    /// Milliseconds since the Unix epoch (append time if the batch says so).
    pub timestamp_ms: i64,
    /// Key bytes; `None` is a null key.
    pub key: Option<&'a [u8]>,
    /// Value bytes; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers, decoded on demand.
    pub headers: Headers<'a>,
}

/// The headers of one record, still encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers<'a> {
    count: usize,
    bytes: &'a [u8],
}

impl<'a> Headers<'a> {
    /// No headers.
    pub const EMPTY: Headers<'static> = Headers { count: 0, bytes: &[] };

    /// Number of headers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The encoded headers, without their count; for copying them into another record.
    #[must_use]
    pub fn encoded(&self) -> &'a [u8] {
        self.bytes
    }

    /// Name and value of each header, in order; stops at the first malformed one.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let bytes = self.bytes;
        let mut at = 0;
        let mut left = self.count;
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let name = take_bytes(bytes, &mut at)??;
            let value = take_bytes(bytes, &mut at)?;
            Some((name, value))
        })
    }

    /// Value of the last header called `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.iter().filter(|(found, _)| *found == name.as_bytes()).last().and_then(|(_, value)| value)
    }
}

/// A varint length (−1 is null) and that many bytes. Outer `None`: malformed.
#[inline]
#[expect(clippy::option_option, reason = "malformed and null are two answers")]
fn take_bytes<'a>(bytes: &'a [u8], at: &mut usize) -> Option<Option<&'a [u8]>> {
    let len = get_varlong(bytes, at)?;
    if len < 0 {
        return Some(None);
    }
    let end = at.checked_add(usize::try_from(len).ok()?)?;
    let found = bytes.get(*at..end)?;
    *at = end;
    Some(Some(found))
}

impl Records {
    /// Number of records, as the header says (bounded by the bytes present).
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.header.record_count).unwrap_or(0)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The decompressed bytes that keys and values borrow from.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The records in order. A malformed record ends the iteration with an error.
    pub fn iter(&self) -> impl Iterator<Item = Result<Record<'_>, RecordError>> {
        let mut at = 0;
        let mut left = self.len();
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let record = self.parse_one(&mut at);
            if record.is_none() {
                left = 0;
            }
            Some(record.ok_or(RecordError::Malformed("record fields overrun the batch")))
        })
    }

    #[inline]
    fn parse_one(&self, at: &mut usize) -> Option<Record<'_>> {
        let body = self.body.as_ref();
        let len = usize::try_from(get_varlong(body, at)?).ok()?;
        let start = *at;
        let bytes = body.get(start..start.checked_add(len)?)?;
        *at = start + len;
        let mut at = 1; // record attributes: unused
        let timestamp_delta = get_varlong(bytes, &mut at)?;
        let offset_delta = get_varlong(bytes, &mut at)?;
        let key = take_bytes(bytes, &mut at)?;
        let value = take_bytes(bytes, &mut at)?;
        let count = usize::try_from(get_varlong(bytes, &mut at)?).ok()?;
        let headers = bytes.get(at..)?;
        if count > headers.len() / 2 + 1 {
            return None;
        }
        let timestamp_ms = if self.header.is_log_append_time() {
            self.header.max_timestamp_ms
        } else {
            self.header.base_timestamp_ms.checked_add(timestamp_delta)?
        };
        Some(Record {
            offset: self.header.base_offset.checked_add(offset_delta)?,
            timestamp_ms,
            key,
            value,
            headers: Headers { count, bytes: headers },
        })
    }
}
