//! One segment file: record batches back to back, exactly as Kafka's `.log` files, and its index.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use herdsman_host::{Disk, DiskFile};
use herdsman_record::batch::HEADER_LEN;
use herdsman_record::{Batch, Header, TopicPartition};

use crate::index::{self, Index};
use crate::scan::{Damage, Walked, Window, contradicts, walk};
use crate::{LogError, read_lock, write_lock};

/// Bytes read at least, so that the skip from an index entry to the asked batch needs no second read.
const READ_MIN: u64 = 64 << 10;
/// The system drops whole pages only.
const PAGE_BYTES: u64 = 4096;

/// A segment. Only the writer of its partition appends to the last one; everyone may read.
pub(crate) struct Segment {
    pub(crate) base_offset: i64,
    pub(crate) path: PathBuf,
    pub(crate) file: Box<dyn DiskFile>,
    len: AtomicU64,
    /// Bytes below this were given out of the page cache.
    forgotten: AtomicU64,
    index: RwLock<Option<Index>>,
}

/// File name of the segment that begins at `base_offset`.
pub(crate) fn file_name(base_offset: i64, extension: &str) -> String {
    format!("{base_offset:020}.{extension}")
}

/// Base offset in a segment's file name.
pub(crate) fn base_offset_of(name: &str) -> Option<i64> {
    let digits = name.strip_suffix(".log")?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

/// Whether a batch that should stand at `least` or later is not of this place: beyond the segment's end, or behind a gap that
/// hides records which readers may see.
fn is_misplaced(header: &Header, least: i64, (limit, end_offset): (i64, i64)) -> bool {
    let beyond = header.next_offset() > end_offset && end_offset != limit;
    beyond || (header.base_offset > least && header.base_offset >= limit && least < limit)
}

impl Segment {
    /// Makes the empty segment that begins at `base_offset`.
    pub(crate) fn create(disk: &dyn Disk, dir: &Path, base_offset: i64) -> io::Result<Self> {
        let path = dir.join(file_name(base_offset, "log"));
        let file = disk.open(&path, true)?;
        file.truncate(0)?;
        Ok(Self {
            base_offset,
            path,
            file,
            len: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
            index: RwLock::new(Some(Index::new(base_offset))),
        })
    }

    /// Opens a segment that stands on disk; its index is read when first needed.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path, base_offset: i64) -> io::Result<Self> {
        let path = dir.join(file_name(base_offset, "log"));
        let file = disk.open(&path, false)?;
        let len = AtomicU64::new(file.len()?);
        let forgotten = AtomicU64::new(0);
        Ok(Self { base_offset, path, file, len, forgotten, index: RwLock::new(None) })
    }

    /// Readable bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Lets the page cache drop the synced bytes before `end`, each once: what a slow reader brings back stays.
    /// Returns whether nothing is left to drop.
    pub(crate) fn forget_before(&self, end: u64) -> bool {
        let from = self.forgotten.fetch_max(end, Ordering::AcqRel);
        if from < end {
            self.file.forget(from / PAGE_BYTES * PAGE_BYTES..end);
        }
        from > 0 && from >= self.len()
    }

    /// Takes in a batch just written at `position`.
    pub(crate) fn extend(&self, header: &Header, position: u64, index_interval: u64) {
        if let Some(index) = write_lock(&self.index).as_mut() {
            index.push(header, position, index_interval);
        }
        self.len.store(position + header.total_len as u64, Ordering::Release);
    }

    /// Offset after the last record, if the index is at hand (it is for what recovery scanned).
    pub(crate) fn end_offset(&self) -> Option<i64> {
        read_lock(&self.index).as_ref().map(|index| index.end_offset)
    }

    pub(crate) fn index_path(&self) -> PathBuf {
        self.path.with_extension("index")
    }

    /// Checks everything above `recovery_point`, cuts a torn tail and leaves a fresh index behind.
    pub(crate) fn recover(
        &self,
        disk: &dyn Disk,
        recovery_point: i64,
        interval: u64,
    ) -> io::Result<(Walked, i64)> {
        let end = self.len();
        let mut index = self.stored_index(disk).filter(|index| index.covered <= end);
        if let Some(index) = index.as_mut().filter(|index| index.end_offset > recovery_point) {
            index.rewind(recovery_point);
        }
        let mut index = index.unwrap_or_else(|| Index::new(self.base_offset));
        let from = (index.covered, index.end_offset);
        let walked =
            walk(self.file.as_ref(), from, end, |header, position| index.push(header, position, interval))?;
        if walked.good_until < end {
            self.file.truncate(walked.good_until)?;
            self.len.store(walked.good_until, Ordering::Release);
        }
        self.rewrite(from.0, walked.good_until)?;
        index.has_producers |= !walked.damaged.is_empty();
        let end_offset = index.end_offset;
        *write_lock(&self.index) = Some(index);
        Ok((walked, end_offset))
    }

    /// What shows without reading it that a sealed file is not the one that was written: another's, or cut short.
    pub(crate) fn misfit(&self, disk: &dyn Disk, next_base: i64) -> io::Result<Option<String>> {
        let end = self.len();
        // the whole index is read, and its checksum checked, only when its first bytes say that something is missing
        if self.stored_index_covers(disk).is_some_and(|covered| covered > end)
            && let Some(index) = self.stored_index(disk).filter(|index| index.covered > end)
        {
            return Ok(Some(format!("ends at byte {end}, and had {} bytes", index.covered)));
        }
        if end == 0 {
            return Ok(None);
        }
        let header = Header::parse(&self.fetch(0, HEADER_LEN as u64)?);
        Ok(match header.map(|header| header.base_offset) {
            Ok(first) if (self.base_offset..next_base).contains(&first) => None,
            Ok(first) => Some(format!("begins with offset {first}")),
            Err(_) => Some("does not begin with a batch".to_owned()),
        })
    }

    /// Writes `batch` at the beginning of the damaged stretch that holds its offsets; what else the stretch held stays lost.
    /// Returns false if none does.
    pub(crate) fn mend(&self, batch: &Batch) -> io::Result<bool> {
        let (base, next, len) = (batch.base_offset(), batch.next_offset(), batch.bytes().len() as u64);
        let walked = walk(self.file.as_ref(), (0, self.base_offset), self.len(), |_, _| {})?;
        let fits = |one: &&Damage| one.offset <= base && next <= one.next_offset && len <= one.len;
        let Some(damage) = walked.damaged.iter().find(fits) else { return Ok(false) };
        self.file.write_at(damage.position, batch.bytes())?;
        if let Some(index) = write_lock(&self.index).as_mut() {
            index.has_producers |= batch.header().producer_id >= 0;
        }
        Ok(true)
    }

    /// Writes bytes `from .. until` over themselves. A sync that failed before the restart may have left them in the
    /// page cache marked clean but not on disk; written again they are synced again (Linux, "fsyncgate").
    fn rewrite(&self, mut from: u64, until: u64) -> io::Result<()> {
        while from < until {
            let chunk = self.fetch(from, (until - from).min(1 << 20))?;
            self.file.write_at(from, &chunk)?;
            from += chunk.len().max(1) as u64;
        }
        Ok(())
    }

    fn stored_index_covers(&self, disk: &dyn Disk) -> Option<u64> {
        let path = self.index_path();
        if !disk.exists(&path) {
            return None;
        }
        let mut header = [0; index::HEADER_LEN];
        let read = disk.open(&path, false).ok()?.read_at(0, &mut header).ok()?;
        (read == header.len()).then(|| Index::covered_of(&header)).flatten()
    }

    fn stored_index(&self, disk: &dyn Disk) -> Option<Index> {
        let path = self.index_path();
        if !disk.exists(&path) {
            return None;
        }
        Index::decode(&disk.read_all(&path).ok()?, self.base_offset)
    }

    /// Writes the index beside the segment. Call after the segment was synced; a lost or torn index is rebuilt.
    pub(crate) fn store_index(&self, disk: &dyn Disk) -> io::Result<()> {
        let Some(bytes) = read_lock(&self.index).as_ref().map(Index::encode) else { return Ok(()) };
        let file = disk.open(&self.index_path(), true)?;
        file.truncate(0)?;
        file.write_at(0, &bytes)
    }

    /// Asks the index, reading or rebuilding it first if need be.
    fn with_index<T>(&self, disk: &dyn Disk, ask: impl Fn(&Index) -> T) -> io::Result<T> {
        if let Some(index) = read_lock(&self.index).as_ref() {
            return Ok(ask(index));
        }
        let end = self.len();
        let index = match self.stored_index(disk).filter(|index| index.covered == end) {
            Some(index) => index,
            None => {
                let mut index = Index::new(self.base_offset);
                let walked = walk(self.file.as_ref(), (0, self.base_offset), end, |header, position| {
                    index.push(header, position, READ_MIN);
                })?;
                index.has_producers |= !walked.damaged.is_empty() || walked.good_until < end;
                index
            }
        };
        let answer = ask(&index);
        *write_lock(&self.index) = Some(index);
        Ok(answer)
    }

    /// Largest timestamp in the segment; `i64::MIN` if it is empty.
    pub(crate) fn max_timestamp_ms(&self, disk: &dyn Disk) -> io::Result<i64> {
        self.with_index(disk, |index| index.max_timestamp_ms)
    }

    /// Whether any batch of the segment, which ends before `until`, names a producer id, or may have named one: the end is gone.
    pub(crate) fn has_producers(&self, disk: &dyn Disk, until: i64) -> io::Result<bool> {
        self.with_index(disk, |index| index.has_producers || index.end_offset < until)
    }

    /// Batches from the one that holds `offset` on: at least one if there is one below `limit`, about `max_bytes`.
    /// `end_offset` is where the next segment begins. Every checksum is checked.
    pub(crate) fn read(
        &self,
        disk: &dyn Disk,
        topic_partition: &TopicPartition,
        offset: i64,
        max_bytes: usize,
        (limit, end_offset): (i64, i64),
    ) -> Result<Vec<Batch>, LogError> {
        let from =
            self.with_index(disk, |index| index.seek(offset)).map_err(LogError::io("index", &self.path))?;
        let read = self
            .read_straight(from, offset, max_bytes, (limit, end_offset))
            .map_err(LogError::io("read", &self.path))?;
        match read {
            Some(batches) => Ok(batches),
            None => self.read_around(from, topic_partition, offset, (limit, end_offset)),
        }
    }

    /// The usual way: one read, headers stepped over up to `offset`. `None` if something is not as it should be.
    fn read_straight(
        &self,
        (mut position, mut least): (u64, i64),
        offset: i64,
        max_bytes: usize,
        (limit, end_offset): (i64, i64),
    ) -> io::Result<Option<Vec<Batch>>> {
        let end = self.len();
        let want = (max_bytes as u64).max(READ_MIN);
        let (mut chunk, mut chunk_start, mut last_fetch) = (Bytes::new(), position, None);
        let (mut batches, mut taken): (Vec<Batch>, usize) = (Vec::new(), 0);
        while position < end {
            let at = usize::try_from(position - chunk_start).map_err(io::Error::other)?;
            let rest = chunk.get(at..).unwrap_or_default();
            let header = Header::parse(rest);
            let needed = header.as_ref().map_or(HEADER_LEN, |header| header.total_len);
            if rest.len() < needed {
                let fetch = (needed as u64).max(want).min(end - position);
                if !batches.is_empty() {
                    break;
                }
                if last_fetch == Some((position, fetch)) || needed as u64 > end - position {
                    return Ok(None);
                }
                last_fetch = Some((position, fetch));
                chunk = self.fetch(position, fetch)?;
                chunk_start = position;
                continue;
            }
            let Ok(header) = header else { return Ok(Some(batches).filter(|batches| !batches.is_empty())) };
            if header.base_offset < least {
                return Ok(Some(batches).filter(|batches| !batches.is_empty()));
            }
            // no checksum covers the base offset: behind a gap, the batch that follows has to agree
            if header.base_offset > least {
                let next = rest.get(header.total_len..).and_then(|rest| Header::parse(rest).ok());
                let is_last = position + header.total_len as u64 >= end;
                if (next.is_none() && !is_last) || contradicts(&header, least, next.as_ref()) {
                    return Ok(Some(batches).filter(|batches| !batches.is_empty()));
                }
            }
            if is_misplaced(&header, least, (limit, end_offset)) {
                return Ok(Some(batches).filter(|batches| !batches.is_empty()));
            }
            if header.base_offset >= limit {
                break;
            }
            least = header.next_offset();
            position += header.total_len as u64;
            if least <= offset {
                continue;
            }
            if !batches.is_empty() && taken + header.total_len > max_bytes {
                break;
            }
            let whole = chunk.get(at..at + header.total_len).map(|bytes| chunk.slice_ref(bytes));
            let batch = whole
                .and_then(|bytes| Batch::from_bytes(bytes).ok())
                .filter(|batch| batch.check_crc().is_ok());
            let Some(batch) = batch else { return Ok(Some(batches).filter(|batches| !batches.is_empty())) };
            taken += header.total_len;
            batches.push(batch);
        }
        Ok(Some(batches))
    }

    fn fetch(&self, position: u64, len: u64) -> io::Result<Bytes> {
        let mut buffer = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        let read = self.file.read_at(position, &mut buffer)?;
        buffer.truncate(read);
        Ok(Bytes::from(buffer))
    }

    /// The careful way, when the usual one stumbled: says what is damaged, or finds the batch behind the damage.
    fn read_around(
        &self,
        (mut position, mut least): (u64, i64),
        topic_partition: &TopicPartition,
        offset: i64,
        (limit, end_offset): (i64, i64),
    ) -> Result<Vec<Batch>, LogError> {
        let end = self.len();
        let fail = || LogError::io("read", &self.path);
        let corrupt = |position, next_offset| LogError::Corrupt {
            topic_partition: topic_partition.clone(),
            path: self.path.clone(),
            position,
            offset,
            next_offset,
        };
        let mut window = Window::new(self.file.as_ref(), end, true);
        while position < end {
            let found = window.checked_header(position, least).map_err(fail())?;
            let header = match found.filter(|found| !is_misplaced(found, least, (limit, end_offset))) {
                Some(header) => header,
                None => {
                    let next = window.resync(position + 1, least).map_err(fail())?;
                    let next = next.filter(|(_, next)| !is_misplaced(next, least, (limit, end_offset)));
                    let Some((next, header)) = next else {
                        return Err(corrupt(position, end_offset));
                    };
                    if offset < header.base_offset {
                        return Err(corrupt(position, header.base_offset));
                    }
                    position = next;
                    header
                }
            };
            if header.base_offset >= limit {
                break;
            }
            if header.next_offset() > offset {
                let found = window.batch(position, least).map_err(fail())?;
                return Ok(found.map(|(_, batch)| batch).into_iter().collect());
            }
            position += header.total_len as u64;
            least = header.next_offset();
        }
        Ok(Vec::new())
    }

    /// Offset and timestamp of the first record at or after `timestamp_ms` in offsets `start .. limit`.
    pub(crate) fn find_time(
        &self,
        disk: &dyn Disk,
        timestamp_ms: i64,
        (start, limit): (i64, i64),
    ) -> Result<Option<(i64, i64)>, LogError> {
        let fail = || LogError::io("read", &self.path);
        let (mut position, mut least) =
            self.with_index(disk, |index| index.seek_time(timestamp_ms)).map_err(fail())?;
        let end = self.len();
        let mut window = Window::new(self.file.as_ref(), end, false);
        while position < end {
            let header = match window.header(position, least).map_err(fail())? {
                Some(header) => header,
                None => match window.resync(position + 1, least).map_err(fail())? {
                    Some((next, header)) => {
                        position = next;
                        header
                    }
                    None => return Ok(None),
                },
            };
            if header.base_offset >= limit {
                return Ok(None);
            }
            if header.max_timestamp_ms >= timestamp_ms
                && let Some((_, batch)) = window.batch(position, least).map_err(fail())?
            {
                let records = batch.records()?;
                let hit = records.iter().filter_map(Result::ok).find(|record| {
                    record.timestamp_ms >= timestamp_ms && record.offset >= start && record.offset < limit
                });
                if let Some(record) = hit {
                    return Ok(Some((record.offset, record.timestamp_ms)));
                }
            }
            position += header.total_len as u64;
            least = header.next_offset();
        }
        Ok(None)
    }
}
