//! The codecs of record batches: none, gzip, snappy, lz4, zstd, as Kafka frames them.
//!
//! Decompression is capped: output grows with the bytes that arrive and stops at the caller's cap, so that a
//! bomb costs its cap and an error.

use std::io::{Read, Write};

use crate::RecordError;

/// Codec of a record batch (attributes bits 0 to 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Compression {
    /// Not compressed.
    #[default]
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy, raw or in xerial blocks as the Java client writes it.
    Snappy,
    /// LZ4 frame.
    Lz4,
    /// Zstandard (KIP-110).
    Zstd,
}

/// Header of snappy-java's block stream.
const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_HEADER_LEN: usize = 16;
const XERIAL_BLOCK_LEN: usize = 32 * 1024;
/// Largest zstd window accepted: 2²³ = 8 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

impl Compression {
    /// The codec of attribute bits `bits`.
    pub fn from_attributes(bits: u8) -> Result<Self, RecordError> {
        Ok(match bits & 0x07 {
            0 => Self::None,
            1 => Self::Gzip,
            2 => Self::Snappy,
            3 => Self::Lz4,
            4 => Self::Zstd,
            other => return Err(RecordError::Codec(other)),
        })
    }

    /// Attribute bits 0 to 2.
    #[must_use]
    pub fn attributes(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// Name as in `compression.type`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Compresses `input`.
    pub fn compress(self, input: &[u8]) -> Result<Vec<u8>, RecordError> {
        let failed = |reason: String| RecordError::Decompress { codec: self.name(), reason };
        match self {
            Self::None => Ok(input.to_vec()),
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(input).map_err(|error| failed(error.to_string()))?;
                encoder.finish().map_err(|error| failed(error.to_string()))
            }
            Self::Snappy => compress_xerial(input).map_err(failed),
            Self::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
                encoder.write_all(input).map_err(|error| failed(error.to_string()))?;
                encoder.finish().map_err(|error| failed(error.to_string()))
            }
            Self::Zstd => zstd::bulk::compress(input, 3).map_err(|error| failed(error.to_string())),
        }
    }

    /// Decompresses `input` into at most `cap` bytes. Errors: [`RecordError::Decompress`].
    pub fn decompress(self, input: &[u8], cap: usize) -> Result<Vec<u8>, RecordError> {
        let failed = |reason: String| RecordError::Decompress { codec: self.name(), reason };
        match self {
            Self::None => Ok(input.to_vec()),
            Self::Gzip => read_capped(flate2::read::MultiGzDecoder::new(input), cap).map_err(failed),
            Self::Snappy => decompress_snappy(input, cap).map_err(failed),
            Self::Lz4 => read_capped(lz4_flex::frame::FrameDecoder::new(input), cap).map_err(failed),
            Self::Zstd => {
                let mut decoder =
                    zstd::stream::read::Decoder::new(input).map_err(|error| failed(error.to_string()))?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|error| failed(error.to_string()))?;
                read_capped(decoder, cap).map_err(failed)
            }
        }
    }
}

fn read_capped(reader: impl Read, cap: usize) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let limit = u64::try_from(cap).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(limit).read_to_end(&mut out).map_err(|error| error.to_string())?;
    if out.len() > cap {
        return Err(format!("more than {cap} bytes after decompression"));
    }
    Ok(out)
}

fn compress_xerial(input: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(XERIAL_HEADER_LEN + input.len() / 2);
    out.extend_from_slice(&XERIAL_MAGIC);
    out.extend_from_slice(&1_u32.to_be_bytes());
    out.extend_from_slice(&1_u32.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for block in input.chunks(XERIAL_BLOCK_LEN) {
        let packed = encoder.compress_vec(block).map_err(|error| error.to_string())?;
        let len = u32::try_from(packed.len()).map_err(|error| error.to_string())?;
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&packed);
    }
    Ok(out)
}

fn decompress_snappy(input: &[u8], cap: usize) -> Result<Vec<u8>, String> {
    let Some(mut rest) = input.strip_prefix(&XERIAL_MAGIC).and_then(|rest| rest.get(8..)) else {
        return decompress_snappy_block(input, cap);
    };
    let mut out = Vec::new();
    while !rest.is_empty() {
        let (len, tail) = rest.split_first_chunk::<4>().ok_or("block length cut short")?;
        let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|error| error.to_string())?;
        let block = tail.get(..len).ok_or("block cut short")?;
        out.extend(decompress_snappy_block(block, cap.saturating_sub(out.len()))?);
        rest = tail.get(len..).unwrap_or_default();
    }
    Ok(out)
}

fn decompress_snappy_block(block: &[u8], cap: usize) -> Result<Vec<u8>, String> {
    let len = snap::raw::decompress_len(block).map_err(|error| error.to_string())?;
    if len > cap {
        return Err(format!("more than {cap} bytes after decompression"));
    }
    // a snappy element of 3 bytes yields at most 64: an announced length beyond that ratio is a lie, not a size
    if len / 64 > block.len() {
        return Err(format!("{len} bytes announced by a block of {}", block.len()));
    }
    snap::raw::Decoder::new().decompress_vec(block).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    #[test]
    fn every_codec_gives_back_what_it_took() {
        let input: Vec<u8> = (0..100_000_u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
        for codec in ALL {
            let packed = codec.compress(&input).unwrap();
            assert_eq!(codec.decompress(&packed, input.len()).unwrap(), input, "{codec:?}");
        }
    }

    #[test]
    fn a_bomb_stops_at_the_cap() {
        let zeros = vec![0_u8; 4 << 20];
        for codec in ALL.into_iter().skip(1) {
            let packed = codec.compress(&zeros).unwrap();
            let error = codec.decompress(&packed, 1 << 20).unwrap_err();
            assert!(error.to_string().contains("more than"), "{codec:?}: {error}");
        }
    }
}
