//! The journal of atomic appends: the intent is written whole before any partition is touched.
//!
//! ```text
//! entry: "HJE1" | sequence u64 | body_len u32 | crc32c u32 (sequence, body_len, body) | body
//! body:  count u32 | count × (topic id [16] | partition i32 | batch_len u32 | batch with its base offset)
//!
//! journal.0  ▐ 1 ▐ 2 ▐ 3 ▐ 4 ▐          full: go on in the other file, over its old entries
//! journal.1  ▐ 5 ▐ 6 ▐ old bytes…       sequences of one file follow each other; anything else ends it
//! ```
//! A kill between intent and the last partition is mended at the next start: parts that a partition lacks are written
//! again at their offsets. If any of the topics is strict (`flush.messages=1`), the entry is synced before a partition
//! is touched, so that a power cut leaves the append whole or absent, and the partitions' own files need no sync until
//! the journal file is used again. For other topics a power cut may lose what was not synced, part of an atomic append
//! included: that is what `flush.ms` allows.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Bytes, BytesMut};
use herdsman_host::{Disk, DiskFile};
use herdsman_record::batch::crc32c;
use herdsman_record::{Batch, TopicPartition};

use crate::partition::Partition;
use crate::{LogError, TopicId, hold};

const MAGIC: &[u8; 4] = b"HJE1";
const HEADER_LEN: usize = 20;
/// How many times its size a journal file may grow while the other cannot be used again.
const GROWTH_MAX: u64 = 16;

/// A batch with its offset, and where it belongs.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) topic: TopicId,
    pub(crate) partition: i32,
    pub(crate) batch: Batch,
}

/// Partitions whose durability rests on a journal file, each with the offset up to which it does.
type Resting = BTreeMap<TopicPartition, (Arc<Partition>, i64)>;

struct Slot {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    resting: Resting,
}

pub(crate) struct Inner {
    slots: [Slot; 2],
    active: usize,
    position: u64,
    sequence: u64,
    closed: Option<String>,
    buffer: Vec<u8>,
}

/// Both journal files of one data folder.
pub(crate) struct Journal {
    inner: Mutex<Inner>,
    bytes_max: u64,
}

fn paths(dir: &Path) -> [PathBuf; 2] {
    [dir.join("journal.0"), dir.join("journal.1")]
}

/// The entries of both files in the order they were written.
pub(crate) fn load(disk: &dyn Disk, dir: &Path) -> Result<Vec<Vec<Part>>, LogError> {
    let mut found = BTreeMap::new();
    for path in paths(dir) {
        if disk.exists(&path) {
            let bytes = Bytes::from(disk.read_all(&path).map_err(LogError::io("read", &path))?);
            found.extend(entries(bytes));
        }
    }
    Ok(found.into_values().collect())
}

fn entries(mut bytes: Bytes) -> Vec<(u64, Vec<Part>)> {
    let mut found: Vec<(u64, Vec<Part>)> = Vec::new();
    while let Some((sequence, parts, rest)) = entry(&bytes) {
        if found.last().is_some_and(|(last, _)| sequence != last + 1) {
            break;
        }
        found.push((sequence, parts));
        bytes = rest;
    }
    found
}

fn entry(bytes: &Bytes) -> Option<(u64, Vec<Part>, Bytes)> {
    let header = bytes.get(..HEADER_LEN)?;
    let sequence = u64::from_be_bytes(*header.get(4..)?.first_chunk()?);
    let body_len = usize::try_from(u32::from_be_bytes(*header.get(12..)?.first_chunk()?)).ok()?;
    let crc = u32::from_be_bytes(*header.get(16..)?.first_chunk()?);
    let end = HEADER_LEN.checked_add(body_len)?;
    let body = bytes.get(HEADER_LEN..end)?;
    if !header.starts_with(MAGIC) || crc != checksum(header.get(4..16)?, body) {
        return None;
    }
    Some((sequence, parts(bytes.slice(HEADER_LEN..end))?, bytes.slice(end..)))
}

/// One number over both: a CRC of two CRCs, so that the body is not copied behind the header to be summed.
fn checksum(header: &[u8], body: &[u8]) -> u32 {
    let mut both = [0; 16];
    both[..12].copy_from_slice(header.get(..12).unwrap_or(&[0; 12]));
    both[12..].copy_from_slice(&crc32c(body).to_be_bytes());
    crc32c(&both)
}

fn parts(mut body: Bytes) -> Option<Vec<Part>> {
    let count = u32::from_be_bytes(*body.first_chunk()?);
    body = body.slice(4..);
    let mut out = Vec::new();
    for _ in 0..count {
        let topic = TopicId(*body.first_chunk()?);
        let partition = i32::from_be_bytes(*body.get(16..)?.first_chunk()?);
        let len = usize::try_from(u32::from_be_bytes(*body.get(20..)?.first_chunk()?)).ok()?;
        let end = 24_usize.checked_add(len)?;
        body.get(24..end)?;
        out.push(Part { topic, partition, batch: Batch::from_bytes(body.slice(24..end)).ok()? });
        body = body.slice(end..);
    }
    body.is_empty().then_some(out)
}

/// Where an entry was written; for taking it back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    position: u64,
}

impl Journal {
    /// Opens both files and empties them; call when every entry stands, durably, in its partitions.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path, bytes_max: u64) -> Result<Self, LogError> {
        let open = |path: PathBuf| {
            let opened = disk.open(&path, true).and_then(|file| {
                // synced though it looks empty: an earlier start may have died, or a sync failed, after the same cut
                file.truncate(0)?;
                file.sync_data()?;
                Ok(file)
            });
            let file = opened.map_err(LogError::io("open", &path))?;
            Ok::<_, LogError>(Slot { path, file, resting: Resting::new() })
        };
        let [first, second] = paths(dir);
        let slots = [open(first)?, open(second)?];
        disk.sync_dir(dir).map_err(LogError::io("sync", dir))?;
        let inner = Inner { slots, active: 0, position: 0, sequence: 0, closed: None, buffer: Vec::new() };
        Ok(Self { inner: Mutex::new(inner), bytes_max })
    }

    /// Takes the journal for one entry and its partitions' writes. Errors: [`LogError::JournalClosed`].
    pub(crate) fn begin(&self) -> Result<Turn<'_>, LogError> {
        let inner = hold(&self.inner);
        match &inner.closed {
            Some(reason) => Err(LogError::JournalClosed { reason: reason.clone() }),
            None => Ok(Turn { inner, bytes_max: self.bytes_max }),
        }
    }

    /// Syncs the partitions that rest on the file not in use, so that changing over costs nothing.
    pub(crate) fn settle(&self) -> Result<(), LogError> {
        let resting = {
            let inner = hold(&self.inner);
            inner.slots.get(1 - inner.active).map(|slot| slot.resting.clone()).unwrap_or_default()
        };
        for (name, (partition, end)) in resting {
            partition.sync_file(end)?;
            for slot in &mut hold(&self.inner).slots {
                if slot.resting.get(&name).is_some_and(|(_, still)| *still <= end) {
                    slot.resting.remove(&name);
                }
            }
        }
        Ok(())
    }

    /// Partitions of deleted topics rest on nothing.
    pub(crate) fn forget(&self, topic: &str) {
        for slot in &mut hold(&self.inner).slots {
            slot.resting.retain(|name, _| &*name.topic != topic);
        }
    }
}

/// The journal, held for one atomic append.
pub(crate) struct Turn<'a> {
    inner: MutexGuard<'a, Inner>,
    bytes_max: u64,
}

impl Turn<'_> {
    /// Makes room: changes to the other file when this one is full. Must run before partitions are locked.
    pub(crate) fn make_room(&mut self, entry_len: usize) -> Result<(), LogError> {
        let inner = &mut *self.inner;
        if inner.position == 0 || inner.position + entry_len as u64 <= self.bytes_max {
            return Ok(());
        }
        let other = 1 - inner.active;
        if let Some(slot) = inner.slots.get_mut(other) {
            let settled = slot.resting.values().try_for_each(|(partition, end)| partition.sync_file(*end));
            if let Err(error) = settled {
                // its entries are the only durable copy of something: go on in this file, up to a limit
                let grown = inner.position > self.bytes_max.saturating_mul(GROWTH_MAX);
                return if grown { Err(error) } else { Ok(()) };
            }
            slot.resting.clear();
        }
        inner.active = other;
        inner.position = 0;
        Ok(())
    }

    /// Writes the intent; with `strict`, syncs it. On error nothing of it is left, or the journal is closed.
    pub(crate) fn write(&mut self, parts: &[Part], strict: bool) -> Result<Written, (LogError, bool)> {
        let inner = &mut *self.inner;
        let buffer = &mut inner.buffer;
        buffer.clear();
        buffer.resize(HEADER_LEN, 0);
        buffer.extend_from_slice(&u32::try_from(parts.len()).unwrap_or(0).to_be_bytes());
        for part in parts {
            let bytes = part.batch.bytes();
            buffer.extend_from_slice(&part.topic.0);
            buffer.extend_from_slice(&part.partition.to_be_bytes());
            buffer.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes());
            buffer.extend_from_slice(bytes);
        }
        let sequence = inner.sequence + 1;
        seal(buffer, sequence);
        let written = Written { position: inner.position };
        let Some(slot) = inner.slots.get(inner.active) else { unreachable!("there are two slots") };
        let path = slot.path.clone();
        if let Err(error) = slot.file.write_at(written.position, buffer) {
            let full = error.kind() == io::ErrorKind::StorageFull;
            // the write may have gone through in part, or whole
            let undone = erase(slot, written);
            let reason = format!("write to {} failed: {error}", path.display());
            if !full || undone.is_err() {
                inner.closed = Some(reason);
            }
            return Err((LogError::Io { action: "write", path, source: error }, undone.is_err()));
        }
        if strict && let Err(error) = slot.file.sync_data() {
            inner.closed = Some(format!("sync of {} failed: {error}", path.display()));
            return Err((LogError::Io { action: "sync", path, source: error }, true));
        }
        inner.sequence = sequence;
        inner.position += inner.buffer.len() as u64;
        Ok(written)
    }

    /// Takes the last entry back. If that fails, the journal is closed and the entry stands.
    pub(crate) fn undo(&mut self, written: Written) -> Result<(), LogError> {
        let inner = &mut *self.inner;
        let Some(slot) = inner.slots.get(inner.active) else { unreachable!("there are two slots") };
        if let Err(source) = erase(slot, written) {
            inner.closed =
                Some(format!("an entry of {} could not be taken back: {source}", slot.path.display()));
            return Err(LogError::Io { action: "write", path: slot.path.clone(), source });
        }
        inner.position = written.position;
        inner.sequence -= 1;
        Ok(())
    }

    /// Closes the journal for writes.
    pub(crate) fn close(&mut self, reason: &str) {
        self.inner.closed = Some(reason.to_owned());
    }

    /// Notes that `partition` is durable up to `end` only through the entry just written.
    pub(crate) fn rests(&mut self, partition: &Arc<Partition>, end: i64) {
        let active = self.inner.active;
        if let Some(slot) = self.inner.slots.get_mut(active) {
            slot.resting.insert(partition.name.clone(), (Arc::clone(partition), end));
        }
    }
}

/// Bytes of an entry with parts of these batch lengths.
pub(crate) fn entry_len<'a>(batches: impl Iterator<Item = &'a Batch>) -> usize {
    HEADER_LEN + 4 + batches.map(|batch| 24 + batch.bytes().len()).sum::<usize>()
}

fn seal(buffer: &mut [u8], sequence: u64) {
    let Some((header, body)) = buffer.split_at_mut_checked(HEADER_LEN) else { return };
    let mut sealed = BytesMut::with_capacity(HEADER_LEN);
    sealed.extend_from_slice(MAGIC);
    sealed.extend_from_slice(&sequence.to_be_bytes());
    sealed.extend_from_slice(&u32::try_from(body.len()).unwrap_or(0).to_be_bytes());
    let crc = checksum(sealed.get(4..).unwrap_or_default(), body);
    sealed.extend_from_slice(&crc.to_be_bytes());
    header.copy_from_slice(&sealed);
}

/// Makes the entry unreadable, durably: back after a power cut it would claim offsets that others have by then.
fn erase(slot: &Slot, written: Written) -> io::Result<()> {
    slot.file.truncate(written.position)?;
    slot.file.sync_data()
}
