//! An answer on its way out: small parts copied together, record bytes kept by reference.

use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Slices handed to one vectored write.
const SLICES_MAX: usize = 64;
/// Byte strings shorter than this are copied: a copy is cheaper than another slice.
const BY_REFERENCE_MIN: usize = 4096;

/// A sequence of byte strings that is written as one frame.
#[derive(Debug, Default)]
pub struct Chunks {
    done: std::collections::VecDeque<Bytes>,
    tail: BytesMut,
    len: usize,
}

impl Chunks {
    /// An empty frame; its length prefix is added by [`Chunks::seal`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was put yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends `bytes`, by reference if they are long.
    pub fn put_bytes(&mut self, bytes: Bytes) {
        if bytes.len() < BY_REFERENCE_MIN {
            self.put_slice(&bytes);
            return;
        }
        self.len += bytes.len();
        if !self.tail.is_empty() {
            self.done.push_back(self.tail.split().freeze());
        }
        self.done.push_back(bytes);
    }

    /// Appends a copy of `bytes`.
    pub fn put_slice(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        self.tail.extend_from_slice(bytes);
    }

    /// Appends a big-endian 16-bit integer.
    pub fn put_i16(&mut self, value: i16) {
        self.len += 2;
        self.tail.put_i16(value);
    }

    /// Appends a big-endian 32-bit integer.
    pub fn put_i32(&mut self, value: i32) {
        self.len += 4;
        self.tail.put_i32(value);
    }

    /// Appends a big-endian 64-bit integer.
    pub fn put_i64(&mut self, value: i64) {
        self.len += 8;
        self.tail.put_i64(value);
    }

    /// Appends an unsigned variable-length integer.
    pub fn put_unsigned(&mut self, mut value: usize) {
        while value >= 0x80 {
            self.put_slice(&[u8::try_from(value & 0x7f).unwrap_or(0) | 0x80]);
            value >>= 7;
        }
        self.put_slice(&[u8::try_from(value).unwrap_or(0)]);
    }

    /// Puts the 4-byte length in front. `false` if the frame is longer than a length can say.
    pub fn seal(&mut self) -> bool {
        let Ok(len) = i32::try_from(self.len) else { return false };
        self.done.push_back(self.tail.split().freeze());
        self.done.push_front(Bytes::copy_from_slice(&len.to_be_bytes()));
        true
    }

    /// Writes everything.
    pub async fn write_to(mut self, out: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
        self.done.push_back(self.tail.freeze());
        if self.done.iter().map(Bytes::len).sum::<usize>() < BY_REFERENCE_MIN {
            let whole: Vec<u8> = self.done.iter().flat_map(|part| part.iter().copied()).collect();
            return out.write_all(&whole).await;
        }
        while let Some(front) = self.done.front() {
            if front.is_empty() {
                self.done.pop_front();
                continue;
            }
            let slices: Vec<IoSlice<'_>> =
                self.done.iter().take(SLICES_MAX).map(|part| IoSlice::new(part)).collect();
            let mut written = out.write_vectored(&slices).await?;
            if written == 0 {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
            while let Some(front) = self.done.front_mut() {
                let step = written.min(front.len());
                front.advance(step);
                written -= step;
                if !front.is_empty() {
                    break;
                }
                self.done.pop_front();
            }
        }
        Ok(())
    }
}
