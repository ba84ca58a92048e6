//! The sparse index of one segment: offset and time to byte position, rebuilt from the segment when in doubt.
//!
//! ```text
//! "HIDX" | version u16 = 2 | base_offset i64 | covered u64 | end_offset i64 | max_timestamp i64 | producers u8 | count u32 |
//! count × (offset i64, position u64, max_timestamp_before i64) | crc32c u32        all big endian
//! ```
//! `producers` is 1 if any batch names a producer id: a segment without one says nothing about producers and
//! transactions, and need not be read to restore them. An index of version 1 is rebuilt.

use herdsman_record::Header;
use herdsman_record::batch::crc32c;

const MAGIC: &[u8; 4] = b"HIDX";
const VERSION: u16 = 2;
pub(crate) const HEADER_LEN: usize = 43;
/// Where `covered` stands.
const COVERED: usize = 14;
const ENTRY_LEN: usize = 24;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    offset: i64,
    position: u64,
    /// Largest timestamp of all batches before `position`.
    max_timestamp_before_ms: i64,
}

/// Index over the bytes `0 .. covered` of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Index {
    base_offset: i64,
    entries: Vec<Entry>,
    /// Bytes of the segment the index speaks of.
    pub(crate) covered: u64,
    /// Offset after the last record covered.
    pub(crate) end_offset: i64,
    /// Largest timestamp covered; `i64::MIN` for none.
    pub(crate) max_timestamp_ms: i64,
    /// Whether any batch covered names a producer id.
    pub(crate) has_producers: bool,
}

impl Index {
    pub(crate) fn new(base_offset: i64) -> Self {
        Self {
            base_offset,
            entries: Vec::new(),
            covered: 0,
            end_offset: base_offset,
            max_timestamp_ms: i64::MIN,
            has_producers: false,
        }
    }

    /// Takes in the batch `header` at `position`; makes an entry if the last is `interval` bytes back.
    pub(crate) fn push(&mut self, header: &Header, position: u64, interval: u64) {
        if self.entries.last().is_none_or(|last| position >= last.position + interval) {
            let entry = Entry {
                offset: header.base_offset,
                position,
                max_timestamp_before_ms: self.max_timestamp_ms,
            };
            self.entries.push(entry);
        }
        self.covered = position + header.total_len as u64;
        self.end_offset = header.next_offset();
        self.max_timestamp_ms = self.max_timestamp_ms.max(header.max_timestamp_ms);
        self.has_producers |= header.producer_id >= 0;
    }

    /// Where to begin looking for `offset`, and the least offset there.
    pub(crate) fn seek(&self, offset: i64) -> (u64, i64) {
        let after = self.entries.partition_point(|entry| entry.offset <= offset);
        self.at(after.checked_sub(1))
    }

    /// Where to begin looking for the first record at or after `timestamp_ms`.
    pub(crate) fn seek_time(&self, timestamp_ms: i64) -> (u64, i64) {
        let after = self.entries.partition_point(|entry| entry.max_timestamp_before_ms < timestamp_ms);
        self.at(after.checked_sub(1))
    }

    fn at(&self, entry: Option<usize>) -> (u64, i64) {
        entry
            .and_then(|at| self.entries.get(at))
            .map_or((0, self.base_offset), |entry| (entry.position, entry.offset))
    }

    /// Forgets everything from the entry at or before `offset` on.
    pub(crate) fn rewind(&mut self, offset: i64) {
        while let Some(entry) = self.entries.pop() {
            (self.covered, self.end_offset) = (entry.position, entry.offset);
            self.max_timestamp_ms = entry.max_timestamp_before_ms;
            if entry.offset <= offset {
                return;
            }
        }
        *self = Self::new(self.base_offset);
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_LEN + self.entries.len() * ENTRY_LEN + 4);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&self.base_offset.to_be_bytes());
        out.extend_from_slice(&self.covered.to_be_bytes());
        out.extend_from_slice(&self.end_offset.to_be_bytes());
        out.extend_from_slice(&self.max_timestamp_ms.to_be_bytes());
        out.push(u8::from(self.has_producers));
        out.extend_from_slice(&u32::try_from(self.entries.len()).unwrap_or(0).to_be_bytes());
        for entry in &self.entries {
            out.extend_from_slice(&entry.offset.to_be_bytes());
            out.extend_from_slice(&entry.position.to_be_bytes());
            out.extend_from_slice(&entry.max_timestamp_before_ms.to_be_bytes());
        }
        let crc = crc32c(&out);
        out.extend_from_slice(&crc.to_be_bytes());
        out
    }

    /// Bytes of the segment that the index whose file begins with `header` covers; not checked by its checksum.
    pub(crate) fn covered_of(header: &[u8; HEADER_LEN]) -> Option<u64> {
        Some(i64_at(header, COVERED)?.cast_unsigned())
    }

    /// The index in `bytes`, if it is whole and of the segment that begins at `base_offset`.
    pub(crate) fn decode(bytes: &[u8], base_offset: i64) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        let (header, entries) = body.split_at_checked(HEADER_LEN)?;
        let whole = header.starts_with(MAGIC)
            && header.get(4..6) == Some(VERSION.to_be_bytes().as_slice())
            && u32::from_be_bytes(*crc) == crc32c(body);
        if !whole || i64_at(header, 6)? != base_offset || entries.len() % ENTRY_LEN != 0 {
            return None;
        }
        let entry = |chunk: &[u8]| {
            Some(Entry {
                offset: i64_at(chunk, 0)?,
                position: i64_at(chunk, 8)?.cast_unsigned(),
                max_timestamp_before_ms: i64_at(chunk, 16)?,
            })
        };
        Some(Self {
            base_offset,
            entries: entries.chunks_exact(ENTRY_LEN).map(entry).collect::<Option<_>>()?,
            covered: i64_at(header, COVERED)?.cast_unsigned(),
            end_offset: i64_at(header, 22)?,
            max_timestamp_ms: i64_at(header, 30)?,
            has_producers: header.get(38) != Some(&0),
        })
    }
}

fn i64_at(bytes: &[u8], at: usize) -> Option<i64> {
    Some(i64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(base_offset: i64, max_timestamp_ms: i64) -> Header {
        Header {
            base_offset,
            total_len: 100,
            leader_epoch: 0,
            crc: 0,
            attributes: 0,
            last_offset_delta: 9,
            base_timestamp_ms: 0,
            max_timestamp_ms,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            record_count: 10,
        }
    }

    #[test]
    fn seeks_by_offset_and_time_survive_encoding_and_rewinding() {
        let mut index = Index::new(1_000);
        for i in 0..50_i64 {
            index.push(&header(1_000 + i * 10, i), i.cast_unsigned() * 100, 250);
        }
        assert_eq!(index.seek(1_000), (0, 1_000));
        assert_eq!(index.seek(1_065), (600, 1_060));
        assert_eq!(index.seek_time(0), (0, 1_000));
        assert_eq!(index.seek_time(10), (900, 1_090));
        let bytes = index.encode();
        assert_eq!(Index::decode(&bytes, 1_000).as_ref(), Some(&index));
        assert_eq!(Index::decode(&bytes, 0), None);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert_eq!(Index::decode(&bad, 1_000), None, "byte {at}");
        }
        let mut named = index.clone();
        named.push(&Header { producer_id: 7, ..header(1_500, 50) }, 5_000, 250);
        assert_eq!(
            [&index, &named].map(|index| Index::decode(&index.encode(), 1_000).unwrap().has_producers),
            [false, true]
        );
        let mut back = index.clone();
        back.rewind(1_065);
        assert_eq!((back.covered, back.end_offset, back.max_timestamp_ms), (600, 1_060, 5));
        for i in 6..50_i64 {
            back.push(&header(1_000 + i * 10, i), i.cast_unsigned() * 100, 250);
        }
        assert_eq!(back, index);
    }
}
