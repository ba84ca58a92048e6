//! What strangers send: real requests of every API, their mutations, and bombs in each codec.

use std::sync::OnceLock;

use bytes::{BufMut, Bytes, BytesMut};
use herdsman_record::batch::crc32c;
use herdsman_wire::Request;

/// Numbers from a seed (splitmix64).
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`, which is not 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap_or(0)
    }
}

/// A frame without its length: header and body.
fn request(api: i16, version: i16, header_version: i16, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.put_i16(api);
    out.put_i16(version);
    out.put_i32(7);
    out.put_slice(&[0, 1, b'x']);
    if header_version >= 2 {
        out.put_u8(0);
    }
    out.put_slice(body);
    out.to_vec()
}

/// A request of every API and version that is served: the shortest row of zeros that is read as one (empty lists, empty names).
pub(super) fn requests() -> &'static [Vec<u8>] {
    const LEN_MAX: usize = 256;
    static ALL: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all = Vec::new();
        for (api, min, max) in herdsman_wire::supported() {
            for version in *min..=*max {
                let header = api.request_header_version(version);
                let of = |len| request(*api as i16, version, header, &vec![0; len]);
                let is_read = |bytes: &Vec<u8>| Request::decode(Bytes::from(bytes.clone())).is_ok();
                all.extend((0..LEN_MAX).map(of).find(is_read));
            }
        }
        all
    })
}

/// One to six changes: a byte, a count that no bytes hold, a cut, a copy.
pub(super) fn mutated(original: &[u8], keep: usize, numbers: &mut Numbers) -> Vec<u8> {
    const COUNTS: [&[u8]; 5] = [
        &[0x7f, 0xff, 0xff, 0xff],
        &[0xff; 4],
        &[0xff, 0xff, 0xff, 0xff, 0x07],
        &[0x80, 0, 0, 0],
        &[0, 0, 0x40, 0],
    ];
    let mut bytes = original.to_vec();
    for _ in 0..=numbers.below(5) {
        let at = keep.min(bytes.len()) + numbers.below(bytes.len().saturating_sub(keep).max(1));
        let at = at.min(bytes.len());
        match numbers.below(5) {
            0 if at < bytes.len() => bytes[at] = numbers.next().to_le_bytes()[0],
            1 => drop(bytes.splice(at..at, COUNTS[numbers.below(COUNTS.len())].iter().copied())),
            2 => bytes.truncate(at),
            3 => {
                let copy = bytes[at..].to_vec();
                bytes.extend(copy);
            }
            _ => bytes.extend((0..numbers.below(64)).map(|_| numbers.next().to_le_bytes()[0])),
        }
    }
    bytes
}

/// With its length before it.
pub(super) fn framed(bytes: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    out.extend_from_slice(bytes);
    out
}

/// A fetch, version 4, of all that the topic `wide` holds.
pub(super) fn fetch_wide() -> Vec<u8> {
    let mut body = BytesMut::new();
    for number in [-1, 100, 1, 8 << 20] {
        body.put_i32(number); // replica, longest wait, least bytes, most bytes
    }
    body.put_i8(0);
    topic(&mut body, "wide");
    body.put_i64(0);
    body.put_i32(8 << 20);
    framed(&request(1, 4, 1, &body))
}

/// A list of one topic, by its name, with a list of one partition, 0.
fn topic(body: &mut BytesMut, name: &str) {
    body.put_i32(1);
    body.put_u16(u16::try_from(name.len()).unwrap_or(0));
    body.put_slice(name.as_bytes());
    body.put_i32(1);
    body.put_i32(0);
}

/// Produce requests to a topic whose records are read when they come, each a small batch that swells: gzip, snappy, lz4, zstd.
pub(super) fn bombs() -> std::io::Result<Vec<Vec<u8>>> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    swell(&mut gzip, 256)?;
    let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
    swell(&mut lz4, 200)?;
    let mut zstd = zstd::stream::Encoder::new(Vec::new(), 1)?;
    swell(&mut zstd, 2_000)?;
    // snappy hardly swells, but announces what it will come to: 4 GiB less one
    let snappy = vec![0xff, 0xff, 0xff, 0xff, 0x0f, 0x00, 0x00, 0xfe, 0x01, 0x00];
    let lz4 = lz4.finish().map_err(std::io::Error::other)?;
    let all = [(1, gzip.finish()?), (2, snappy), (3, lz4), (4, zstd.finish()?)];
    Ok(all.into_iter().map(|(codec, records)| produce(&batch(codec, &records))).collect())
}

/// One record with a value of `mib` MiB of zeros.
fn swell(out: &mut impl std::io::Write, mib: u64) -> std::io::Result<()> {
    let value = mib << 20;
    let mut head = vec![0, 0, 0, 1];
    varint(&mut head, value);
    let mut length = Vec::new();
    varint(&mut length, head.len() as u64 + value + 1);
    out.write_all(&length)?;
    out.write_all(&head)?;
    let zeros = vec![0; 1 << 20];
    for _ in 0..mib {
        out.write_all(&zeros)?;
    }
    out.write_all(&[0])
}

/// A zigzag varint.
fn varint(out: &mut Vec<u8>, number: u64) {
    let mut left = number << 1;
    while left >= 0x80 {
        out.push(left.to_le_bytes()[0] | 0x80);
        left >>= 7;
    }
    out.push(left.to_le_bytes()[0]);
}

/// Record batch v2 of one record.
fn batch(codec: i16, records: &[u8]) -> Bytes {
    let mut covered = BytesMut::new();
    covered.put_i16(codec);
    covered.put_i32(0);
    covered.put_i64(1_700_000_000_000);
    covered.put_i64(1_700_000_000_000);
    covered.put_i64(-1);
    covered.put_i16(-1);
    covered.put_i32(-1);
    covered.put_i32(1);
    covered.put_slice(records);
    let mut out = BytesMut::new();
    out.put_i64(0);
    out.put_u32(u32::try_from(covered.len()).unwrap_or(0) + 9);
    out.put_i32(-1);
    out.put_u8(2);
    out.put_u32(crc32c(&covered));
    out.put_slice(&covered);
    out.freeze()
}

/// Version 7: no transaction, all must have it, five seconds.
fn produce(batch: &[u8]) -> Vec<u8> {
    let mut body = BytesMut::new();
    body.put_i16(-1);
    body.put_i16(-1);
    body.put_i32(5_000);
    topic(&mut body, "bomb");
    body.put_i32(i32::try_from(batch.len()).unwrap_or(0));
    body.put_slice(batch);
    framed(&request(0, 7, 1, &body))
}
