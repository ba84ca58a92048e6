//! Compaction: of each key only the newest record stays, tombstones and markers for `delete.retention.ms`.
//!
//! ```text
//! segments   0 … cleaned … 700 │ 700 … dirty … 1200 │ 1200 active
//! 1. newest offset of every key in the dirty part (a 128-bit fingerprint each)
//! 2. groups of segments that fit into one: records with a newer one are left out → 0-700.cleaned, synced
//! 3. renamed to 0-700.swap (from here on it counts), the old files removed, renamed to 0.log
//! ```
//! A start finishes a swap and drops what was not swapped yet. Only segments that are sealed and durable are touched, and only
//! offsets below the last stable one: the caller says which transactions were aborted. A batch keeps offsets and sequences of
//! records it lost; the newest batch of a producer stays even when empty. Committed batches leave their transaction, so that
//! markers can go. Source: Kafka's log cleaner; KIP-58, KIP-354 for the lags.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use herdsman_host::{Disk, DiskFile};
use herdsman_record::{Batch, EventId, Header, TopicPartition};

use crate::cleaned::Cleaned;
use crate::config::TopicConfig;
use crate::partition::Partition;
use crate::scan::Window;
use crate::segment::{Segment, file_name};
use crate::{Log, LogError, hold};

/// Keys remembered in one round, about 200 MB; the dirty part ends where they are full.
const KEYS_MAX: usize = 4 << 20;
/// Bytes written at once.
const WRITE_BYTES: usize = 1 << 20;

/// What [`Log::compact`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Bytes of the segments looked at.
    pub bytes_before: u64,
    /// Bytes that are left of them.
    pub bytes_after: u64,
}

/// What the broker knows of transactions in a partition.
pub struct Transactions<'a> {
    /// Offset below which all are decided.
    pub stable: i64,
    /// Whether the batch with this header was aborted.
    pub is_aborted: &'a dyn Fn(&Header) -> bool,
}

/// What one round goes by.
struct Round<'a> {
    newest: HashMap<u128, i64>,
    /// Offset of the newest batch of each producer.
    producers: HashMap<i64, i64>,
    /// Tombstones and markers below have stayed long enough.
    horizon: i64,
    transactions: &'a Transactions<'a>,
    tombstones: usize,
}

impl Log {
    /// Compacts a partition whose `cleanup.policy` asks for it, if enough of it is dirty.
    ///
    /// # Errors
    /// A file operation, or [`LogError::Corrupt`]: a damaged partition is left as it is.
    pub fn compact(
        &self,
        tp: &TopicPartition,
        transactions: &Transactions<'_>,
        now_ms: i64,
    ) -> Result<Compacted, LogError> {
        // only what a start takes as durable: it looks for lost records above
        let durable = self.checkpointed(tp);
        self.partition(tp)?.compact(transactions, durable, now_ms)
    }

    /// Offset below which compaction has been: no record of an aborted transaction is left there, and its marker goes after
    /// `delete.retention.ms`.
    pub fn cleaned_until(&self, tp: &TopicPartition) -> Result<i64, LogError> {
        let partition = self.partition(tp)?;
        let mut state = hold(&partition.cleaned);
        let disk = partition.place.disk.as_ref();
        Ok(state.get_or_insert_with(|| Cleaned::load(disk, &partition.dir)).until)
    }
}

impl Partition {
    fn compact(
        &self,
        transactions: &Transactions<'_>,
        durable: i64,
        now_ms: i64,
    ) -> Result<Compacted, LogError> {
        let config = self.config();
        let mut done = Compacted::default();
        if !config.compact {
            return Ok(done);
        }
        // held to the end: one round at a time, and none while the partition is deleted
        let mut state = hold(&self.cleaned);
        let disk = self.place.disk.as_ref();
        let cleaned = state.get_or_insert_with(|| Cleaned::load(disk, &self.dir));
        let mut segments = self.compactable(transactions.stable.min(durable), &config, now_ms)?;
        let from = cleaned.until.max(self.start());
        if !is_due(&segments, from, cleaned, &config, disk, now_ms)? {
            return Ok(done);
        }
        let mut round = Round {
            newest: HashMap::new(),
            producers: HashMap::new(),
            horizon: cleaned.horizon(now_ms, config.delete_retention_ms),
            transactions,
            tombstones: 0,
        };
        let until = self.look(&segments, from, &mut round)?;
        segments.retain(|(_, end)| *end <= until);
        for group in groups(&segments, config.segment_bytes) {
            let (before, after) = self.rewrite(group, &mut round)?;
            done.bytes_before += before;
            done.bytes_after += after;
        }
        cleaned.add(until, now_ms, round.tombstones, round.horizon);
        cleaned.store(disk, &self.dir)?;
        tracing::debug!(topic = %self.name.topic, partition = self.name.partition, ?done, "compacted");
        Ok(done)
    }

    /// Sealed, durable, decided segments that are old enough, each with the offset where it ends.
    fn compactable(
        &self,
        limit: i64,
        config: &TopicConfig,
        now_ms: i64,
    ) -> Result<Vec<(Arc<Segment>, i64)>, LogError> {
        let segments = self.segments();
        let mut found = Vec::new();
        for pair in segments.windows(2) {
            let [segment, next] = pair else { break };
            let newest_ms = segment
                .max_timestamp_ms(self.place.disk.as_ref())
                .map_err(LogError::io("index", &segment.path))?;
            let is_young = config.min_compaction_lag_ms > 0
                && newest_ms > now_ms.saturating_sub(config.min_compaction_lag_ms);
            if next.base_offset > limit || is_young {
                break;
            }
            found.push((Arc::clone(segment), next.base_offset));
        }
        Ok(found)
    }

    /// Finds the newest offset of every key from offset `from` on; returns where it had to stop.
    fn look(
        &self,
        segments: &[(Arc<Segment>, i64)],
        from: i64,
        round: &mut Round<'_>,
    ) -> Result<i64, LogError> {
        let mut until = from;
        for (segment, end) in segments {
            if round.newest.len() >= KEYS_MAX {
                break;
            }
            self.each_batch(segment, |header, batch| {
                if header.producer_id >= 0 {
                    round.producers.insert(header.producer_id, header.base_offset);
                }
                if header.next_offset() <= from || header.is_control() || round.is_aborted(header) {
                    return Ok(());
                }
                for record in batch.records()?.iter() {
                    let record = record?;
                    if let Some(key) = record.key {
                        round.newest.insert(EventId::of(key).0, record.offset);
                    }
                }
                Ok(())
            })?;
            until = until.max(*end);
        }
        Ok(until)
    }

    /// Every batch of a segment, in order. Errors: damage.
    fn each_batch(
        &self,
        segment: &Segment,
        mut each: impl FnMut(&Header, &Batch) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let (mut position, mut least, end) = (0, segment.base_offset, segment.len());
        let mut window = Window::new(segment.file.as_ref(), end, true);
        while position < end {
            let found = window.batch(position, least).map_err(LogError::io("read", &segment.path))?;
            let Some((header, batch)) = found else {
                return Err(LogError::Corrupt {
                    topic_partition: self.name.clone(),
                    path: segment.path.clone(),
                    position,
                    offset: least,
                    next_offset: least + 1,
                });
            };
            each(&header, &batch)?;
            position += header.total_len as u64;
            least = header.next_offset();
        }
        Ok(())
    }

    /// Writes one group anew and puts it in the place of the old files. Returns bytes before and after.
    fn rewrite(&self, group: &[(Arc<Segment>, i64)], round: &mut Round<'_>) -> Result<(u64, u64), LogError> {
        let (Some((first, _)), Some((_, end))) = (group.first(), group.last()) else { return Ok((0, 0)) };
        let disk = self.place.disk.as_ref();
        let base = first.base_offset;
        let path = self.dir.join(format!("{base:020}-{end:020}.cleaned"));
        let file = disk.open(&path, true).map_err(LogError::io("create", &path))?;
        let mut out = Out { file: file.as_ref(), path: &path, position: 0, buffer: Vec::new() };
        out.file.truncate(0).map_err(LogError::io("truncate", &path))?;
        let before = group.iter().map(|(segment, _)| segment.len()).sum();
        for (segment, _) in group {
            self.each_batch(segment, |header, batch| match round.filter(header, batch)? {
                Some(kept) => out.put(kept.bytes()),
                None => Ok(()),
            })?;
        }
        out.flush()?;
        let after = out.position;
        if after == before && group.len() == 1 {
            disk.remove(&path).map_err(LogError::io("delete", &path))?;
            return Ok((before, after));
        }
        file.sync_data().map_err(LogError::io("sync", &path))?;
        drop(file);
        self.swap(group, &path, base)?;
        Ok((before, after))
    }

    fn swap(&self, group: &[(Arc<Segment>, i64)], path: &Path, base: i64) -> Result<(), LogError> {
        let disk = self.place.disk.as_ref();
        let _writer = self.lock()?; // appends may roll, deletions may take segments away: not now
        let mut segments = self.segments().as_ref().clone();
        let at =
            segments.iter().position(|one| group.first().is_some_and(|(first, _)| Arc::ptr_eq(one, first)));
        let Some(at) = at else {
            return disk.remove(path).map_err(LogError::io("delete", path)); // retention was faster
        };
        let swap = path.with_extension("swap");
        disk.rename(path, &swap).map_err(LogError::io("rename", path))?;
        disk.sync_dir(&self.dir).map_err(LogError::io("sync", &self.dir))?;
        finish_swap(disk, &self.dir, &swap)?;
        let fresh = Segment::open(disk, &self.dir, base).map_err(LogError::io("open", &self.dir))?;
        segments.splice(at..at + group.len(), [Arc::new(fresh)]);
        self.set_segments(segments);
        if let Some((_, end)) = group.last() {
            self.forget_tail_below(*end); // memory says what the files say: also of aborted records that are gone
        }
        Ok(())
    }
}

impl Round<'_> {
    fn is_aborted(&self, header: &Header) -> bool {
        header.is_transactional() && (self.transactions.is_aborted)(header)
    }

    /// What stays of a batch.
    fn filter(&mut self, header: &Header, batch: &Batch) -> Result<Option<Batch>, LogError> {
        let expired = header.next_offset() <= self.horizon;
        let is_newest = self.producers.get(&header.producer_id) == Some(&header.base_offset);
        if header.is_control() {
            self.tombstones += usize::from(!expired);
            return Ok((!expired || is_newest).then(|| batch.clone()));
        }
        let records = batch.records()?;
        let mut keep = vec![false; records.len()];
        if !self.is_aborted(header) {
            for (keep, record) in keep.iter_mut().zip(records.iter()) {
                let record = record?;
                let newest = record.key.and_then(|key| self.newest.get(&EventId::of(key).0));
                let is_tombstone = record.value.is_none();
                *keep = record.key.is_some()
                    && newest.is_none_or(|newest| record.offset >= *newest)
                    && !(is_tombstone && expired);
                self.tombstones += usize::from(*keep && is_tombstone);
            }
        }
        let count = keep.iter().filter(|keep| **keep).count();
        if count == 0 && !is_newest {
            return Ok(None);
        }
        let kept = if count == keep.len() {
            batch.clone()
        } else {
            batch.retain(&records, |index| keep.get(index) == Some(&true))?
        };
        Ok(Some(if header.is_transactional() { kept.without_transaction() } else { kept }))
    }
}

/// Whether a round is worth its while: by share, by age, or for tombstones whose time is over.
fn is_due(
    segments: &[(Arc<Segment>, i64)],
    from: i64,
    cleaned: &Cleaned,
    config: &TopicConfig,
    disk: &dyn Disk,
    now_ms: i64,
) -> Result<bool, LogError> {
    let bytes = |of: &[(Arc<Segment>, i64)]| of.iter().map(|(segment, _)| segment.len()).sum::<u64>();
    let clean = segments.partition_point(|(_, end)| *end <= from);
    let dirty = segments.get(clean..).unwrap_or_default();
    if cleaned.has_expired(now_ms, config.delete_retention_ms) && !segments.is_empty() {
        return Ok(true);
    }
    let Some((oldest, _)) = dirty.first() else { return Ok(false) };
    let oldest_ms = oldest.max_timestamp_ms(disk).map_err(LogError::io("index", &oldest.path))?;
    let is_late = now_ms.saturating_sub(oldest_ms) > config.max_compaction_lag_ms;
    let share = bytes(dirty) as f64 / bytes(segments).max(1) as f64;
    Ok(is_late || share >= config.min_cleanable_dirty_ratio)
}

/// Neighbours that fit into one segment together.
fn groups(segments: &[(Arc<Segment>, i64)], bytes_max: u64) -> Vec<&[(Arc<Segment>, i64)]> {
    let mut found = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (at, (segment, _)) in segments.iter().enumerate() {
        if at > begin && bytes + segment.len() > bytes_max {
            found.extend(segments.get(begin..at));
            (begin, bytes) = (at, 0);
        }
        bytes += segment.len();
    }
    found.extend(segments.get(begin..).filter(|rest| !rest.is_empty()));
    found
}

struct Out<'a> {
    file: &'a dyn DiskFile,
    path: &'a Path,
    position: u64,
    buffer: Vec<u8>,
}

impl Out<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), LogError> {
        self.file.write_at(self.position, &self.buffer).map_err(LogError::io("write", self.path))?;
        self.position += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// First and end offset in the name of a `.swap` file.
fn swap_range(path: &Path) -> Option<(i64, i64)> {
    let (base, end) = path.file_stem()?.to_str()?.split_once('-')?;
    Some((base.parse().ok()?, end.parse().ok()?))
}

/// Removes the files that a swap file stands for, and gives it their name.
fn finish_swap(disk: &dyn Disk, dir: &Path, swap: &Path) -> Result<(), LogError> {
    let Some((base, end)) = swap_range(swap) else { return Ok(()) };
    let target = file_name(base, "log");
    for name in disk.list(dir).map_err(LogError::io("list", dir))? {
        let offset = name.split_once('.').and_then(|(stem, kind)| {
            let offset: i64 = stem.parse().ok()?;
            matches!(kind, "log" | "index").then_some(offset)
        });
        if offset.is_some_and(|offset| (base..end).contains(&offset)) && name != target {
            let path = dir.join(name);
            disk.remove(&path).map_err(LogError::io("delete", &path))?;
        }
    }
    disk.rename(swap, &dir.join(target)).map_err(LogError::io("rename", swap))?;
    disk.sync_dir(dir).map_err(LogError::io("sync", dir))
}

/// Finishes swaps that a stop interrupted, and removes what was not swapped.
pub(crate) fn recover(disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
    for name in disk.list(dir).map_err(LogError::io("list", dir))? {
        let path: PathBuf = dir.join(&name);
        if name.ends_with(".cleaned") {
            disk.remove(&path).map_err(LogError::io("delete", &path))?;
        } else if name.ends_with(".swap") {
            finish_swap(disk, dir, &path)?;
        }
    }
    Ok(())
}
