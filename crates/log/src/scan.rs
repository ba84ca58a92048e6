//! Walks the batches of a segment file, and finds its feet again behind damage.

use std::io;

use bytes::Bytes;
use herdsman_host::DiskFile;
use herdsman_record::batch::HEADER_LEN;
use herdsman_record::{Batch, Header};

/// Bytes fetched at once while walking headers.
const STEP: usize = 64 << 10;
/// Bytes fetched at once while checking checksums.
const CHECKED_STEP: usize = 1 << 20;

/// Largest gap between two batches: no power cut and no compaction leaves one like it.
const GAP_MAX: i64 = 1 << 40;

/// A read-ahead view of bytes `.. end` of a file.
pub(crate) struct Window<'a> {
    file: &'a dyn DiskFile,
    end: u64,
    start: u64,
    buffer: Vec<u8>,
    step: usize,
}

impl<'a> Window<'a> {
    pub(crate) fn new(file: &'a dyn DiskFile, end: u64, checked: bool) -> Self {
        Self { file, end, start: 0, buffer: Vec::new(), step: if checked { CHECKED_STEP } else { STEP } }
    }

    /// Up to `len` bytes at `position`; fewer only at the end.
    fn get(&mut self, position: u64, len: usize) -> io::Result<&[u8]> {
        let left = usize::try_from(self.end.saturating_sub(position)).unwrap_or(usize::MAX);
        let len = len.min(left);
        let cached = position
            .checked_sub(self.start)
            .and_then(|at| usize::try_from(at).ok())
            .filter(|at| at.checked_add(len).is_some_and(|end| end <= self.buffer.len()));
        let at = if let Some(at) = cached {
            at
        } else {
            self.buffer.resize(len.max(self.step).min(left), 0);
            self.start = position;
            let read = self.file.read_at(position, &mut self.buffer)?;
            self.buffer.truncate(read);
            0
        };
        Ok(self.buffer.get(at..).map(|rest| rest.get(..len).unwrap_or(rest)).unwrap_or_default())
    }

    /// What is at hand at `position`: at least a header's worth, unless the end comes first.
    fn peek(&mut self, position: u64) -> io::Result<&[u8]> {
        let cached_end = self.start + self.buffer.len() as u64;
        let cached = cached_end.checked_sub(position).filter(|_| position >= self.start).unwrap_or(0);
        let len = usize::try_from(cached).unwrap_or(0);
        self.get(position, if len > HEADER_LEN { len } else { self.step })
    }

    /// The header at `position`, if one that fits before the end is there and its offset is `least` or more.
    pub(crate) fn header(&mut self, position: u64, least: i64) -> io::Result<Option<Header>> {
        let end = self.end;
        let fits = |header: &Header| {
            header.base_offset >= least
                && header.next_offset() < i64::MAX
                && position.checked_add(header.total_len as u64).is_some_and(|after| after <= end)
        };
        let Some(header) = Header::parse(self.get(position, HEADER_LEN)?).ok().filter(fits) else {
            return Ok(None);
        };
        // no checksum covers the base offset: behind a gap, the batch that follows has to agree
        if header.base_offset > least {
            let next = Header::parse(self.get(position + header.total_len as u64, HEADER_LEN)?).ok();
            if contradicts(&header, least, next.as_ref()) {
                return Ok(None);
            }
        }
        Ok(Some(header))
    }

    /// The batch at `position`, if its header is right and its checksum too.
    pub(crate) fn batch(&mut self, position: u64, least: i64) -> io::Result<Option<(Header, Batch)>> {
        let Some(header) = self.header(position, least)? else { return Ok(None) };
        let bytes = self.get(position, header.total_len)?;
        let batch = Batch::from_bytes(Bytes::copy_from_slice(bytes)).ok();
        Ok(batch.filter(|batch| batch.check_crc().is_ok()).map(|batch| (header, batch)))
    }

    /// Checks the batch at `position` without copying it.
    pub(crate) fn checked_header(&mut self, position: u64, least: i64) -> io::Result<Option<Header>> {
        let Some(header) = self.header(position, least)? else { return Ok(None) };
        let bytes = self.get(position, header.total_len)?;
        let right = bytes.get(21..).is_some_and(|body| herdsman_record::batch::crc32c(body) == header.crc);
        Ok(right.then_some(header))
    }

    /// The first whole batch with a right checksum at or behind `position` whose offset is `least` or more.
    pub(crate) fn resync(&mut self, mut position: u64, least: i64) -> io::Result<Option<(u64, Header)>> {
        while position + (HEADER_LEN as u64) <= self.end {
            let bytes = self.peek(position)?;
            let Some(usable) = bytes.len().checked_sub(16).filter(|usable| *usable > 0) else {
                return Ok(None);
            };
            let candidate = (0..usable).find(|at| {
                // magic 2, and the high half of the length and the offset as small as real ones are
                bytes.get(at + 16) == Some(&2)
                    && bytes.get(*at) == Some(&0)
                    && bytes.get(at + 8).is_some_and(|b| *b < 0x80)
            });
            let Some(at) = candidate else {
                position += usable as u64;
                continue;
            };
            position += at as u64;
            if let Some(header) = self.checked_header(position, least)? {
                return Ok(Some((position, header)));
            }
            position += 1;
        }
        Ok(None)
    }
}

/// Whether the base offset of a batch that should stand at `least` or later is damaged: the next one goes on from `least`.
pub(crate) fn contradicts(header: &Header, least: i64, next: Option<&Header>) -> bool {
    let should = least + i64::from(header.last_offset_delta) + 1;
    header.base_offset - least > GAP_MAX
        || next.is_some_and(|next| (should..header.next_offset()).contains(&next.base_offset))
}

/// A stretch of a segment that is not readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Byte where it begins.
    pub(crate) position: u64,
    /// Its bytes.
    pub(crate) len: u64,
    /// First offset lost.
    pub(crate) offset: i64,
    /// First offset readable again.
    pub(crate) next_offset: i64,
}

/// What a walk over a segment found.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    /// Where the last good batch ends; bytes behind it are a torn tail.
    pub(crate) good_until: u64,
    /// Stretches with good batches behind them.
    pub(crate) damaged: Vec<Damage>,
    /// Batches passed.
    pub(crate) batches: u64,
}

/// Walks from byte `from`, where offsets are `least` or more, to byte `end`, checking every checksum;
/// `found` is told header and position of each batch.
pub(crate) fn walk(
    file: &dyn DiskFile,
    (from, mut least): (u64, i64),
    end: u64,
    mut found: impl FnMut(&Header, u64),
) -> io::Result<Walked> {
    let mut window = Window::new(file, end, true);
    let mut walked = Walked { good_until: from, ..Walked::default() };
    let mut position = from;
    while position < end {
        let header = match window.checked_header(position, least)? {
            Some(header) => header,
            None => {
                let Some((next, header)) = window.resync(position + 1, least)? else { break };
                let len = next - position;
                walked.damaged.push(Damage { position, len, offset: least, next_offset: header.base_offset });
                position = next;
                header
            }
        };
        found(&header, position);
        walked.batches += 1;
        position += header.total_len as u64;
        walked.good_until = position;
        least = header.next_offset();
    }
    Ok(walked)
}
