//! One partition: its segments, its tail, the offsets readers may see, and the rules of writing and syncing.
//!
//! Three locks, taken in this order and never held across a sync: `writer` (appends, rolls), `sync` (who syncs and how
//! far), and inside [`Tail`] the tail's own. Readers take only the tail's, or a pointer copy of the segment list.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock};

use herdsman_host::Disk;
use herdsman_record::{Batch, Header, TopicPartition};

use crate::cleaned::Cleaned;
use crate::config::TopicConfig;
use crate::segment::Segment;
use crate::tail::{Tail, TailBudget};
use crate::{LogError, ReadOut, hold, read_lock, write_lock};

/// What all partitions of a log share.
pub(crate) struct Place {
    pub(crate) disk: Arc<dyn Disk>,
    /// The data folder.
    pub(crate) root: PathBuf,
    pub(crate) budget: Arc<TailBudget>,
}

pub(crate) struct Partition {
    pub(crate) name: TopicPartition,
    pub(crate) place: Arc<Place>,
    pub(crate) dir: PathBuf,
    config: RwLock<Arc<TopicConfig>>,
    writer: Mutex<Writer>,
    segments: RwLock<Arc<Vec<Arc<Segment>>>>,
    tail: Tail,
    start: AtomicI64,
    high_watermark: AtomicI64,
    sync: Mutex<SyncState>,
    synced: Condvar,
    /// Held by who compacts; `None` until first asked for.
    pub(crate) cleaned: Mutex<Option<Cleaned>>,
    /// Whether the folder has a file whose name is not durable yet.
    names_unsynced: AtomicBool,
    /// Whether recovery found damage.
    damaged: bool,
}

/// What the append lock protects.
pub(crate) struct Writer {
    active: Arc<Segment>,
    /// Byte where the next batch goes.
    position: u64,
    /// Offset the next record gets.
    pub(crate) end: i64,
    /// Segments that were rolled since the last sync.
    unsynced: Vec<Arc<Segment>>,
    /// Whether bytes of a failed write lie behind `position`.
    garbage: bool,
    unsynced_records: i64,
    closed: Option<Closed>,
    /// When the active segment was made, ms; 0 until maintenance first saw it.
    segment_seen_ms: i64,
}

#[derive(Clone)]
enum Closed {
    Failed(String),
    Deleted,
}

/// How far the partition is durable, and who is making it so.
struct SyncState {
    /// Records below were synced in the segment files: the recovery point.
    file: i64,
    /// Records below are durable there or in the journal.
    durable: i64,
    running: bool,
    failed: Option<String>,
    /// (time first seen, end then) of records not yet synced; for `flush.ms`.
    waiting_since: Option<(i64, i64)>,
}

/// A partition as found on disk.
pub(crate) struct Found {
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) end: i64,
    pub(crate) start: i64,
    pub(crate) recovery_point: i64,
    /// Segments above the recovery point, the last one excluded.
    pub(crate) unsynced: Vec<Arc<Segment>>,
    /// Whether something above the recovery point is damaged.
    pub(crate) damaged: bool,
}

impl Partition {
    pub(crate) fn new(
        name: TopicPartition,
        place: Arc<Place>,
        dir: PathBuf,
        config: Arc<TopicConfig>,
        found: Found,
    ) -> Self {
        let active = Arc::clone(found.segments.last().expect("a partition has an active segment"));
        let writer = Writer {
            position: active.len(),
            active,
            end: found.end,
            unsynced: found.unsynced,
            garbage: false,
            unsynced_records: 0,
            closed: None,
            segment_seen_ms: 0,
        };
        let sync = SyncState {
            file: found.recovery_point.min(found.end),
            durable: found.recovery_point.min(found.end),
            running: false,
            failed: None,
            waiting_since: None,
        };
        let tail = Tail::new(&place.budget);
        Self {
            name,
            place,
            dir,
            config: RwLock::new(config),
            writer: Mutex::new(writer),
            segments: RwLock::new(Arc::new(found.segments)),
            tail,
            start: AtomicI64::new(found.start),
            high_watermark: AtomicI64::new(found.end),
            sync: Mutex::new(sync),
            synced: Condvar::new(),
            cleaned: Mutex::default(),
            names_unsynced: AtomicBool::new(true),
            damaged: found.damaged,
        }
    }

    pub(crate) fn config(&self) -> Arc<TopicConfig> {
        Arc::clone(&read_lock(&self.config))
    }

    pub(crate) fn set_config(&self, config: Arc<TopicConfig>) {
        *write_lock(&self.config) = config;
    }

    pub(crate) fn start(&self) -> i64 {
        self.start.load(Ordering::Acquire)
    }

    pub(crate) fn high_watermark(&self) -> i64 {
        self.high_watermark.load(Ordering::Acquire)
    }

    /// Records below this offset are synced in the segment files.
    pub(crate) fn recovery_point(&self) -> i64 {
        hold(&self.sync).file
    }

    pub(crate) fn segments(&self) -> Arc<Vec<Arc<Segment>>> {
        Arc::clone(&read_lock(&self.segments))
    }

    pub(crate) fn forget_tail_below(&self, offset: i64) {
        self.tail.forget_below(offset);
    }

    pub(crate) fn set_segments(&self, segments: Vec<Arc<Segment>>) {
        *write_lock(&self.segments) = Arc::new(segments);
    }

    pub(crate) fn size(&self) -> u64 {
        self.segments().iter().map(|segment| segment.len()).sum()
    }

    fn no_space(&self) -> LogError {
        LogError::NoSpace { dir: self.place.root.clone(), topic: self.name.topic.to_string() }
    }

    /// Takes the append lock. Errors: [`LogError::Closed`], or the topic is gone.
    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, Writer>, LogError> {
        let writer = hold(&self.writer);
        match &writer.closed {
            None => Ok(writer),
            Some(Closed::Deleted) => {
                Err(LogError::UnknownTopic { topic: self.name.topic.to_string(), hint: None })
            }
            Some(Closed::Failed(reason)) => {
                Err(LogError::Closed { topic_partition: self.name.clone(), reason: reason.clone() })
            }
        }
    }

    /// Closes the partition for writes.
    pub(crate) fn close(&self, writer: &mut Writer, reason: String) {
        tracing::error!(topic = %self.name.topic, partition = self.name.partition, %reason, "partition closed for writes");
        writer.closed.get_or_insert(Closed::Failed(reason));
    }

    /// Ends the partition: no more writes, nothing kept in memory.
    pub(crate) fn mark_deleted(&self) {
        let _cleaned = hold(&self.cleaned);
        hold(&self.writer).closed = Some(Closed::Deleted);
        self.tail.clear();
    }

    /// Makes room for a batch of `len` bytes: clears the remains of a failed write, rolls a full segment.
    pub(crate) fn prepare(
        &self,
        writer: &mut Writer,
        len: usize,
        config: &TopicConfig,
    ) -> Result<(), LogError> {
        if writer.garbage {
            self.undo(writer).map_err(|_| self.no_space())?;
        }
        if writer.position > 0 && writer.position + len as u64 > config.segment_bytes {
            self.roll(writer)?;
        }
        Ok(())
    }

    /// Begins a new segment at the end offset.
    fn roll(&self, writer: &mut Writer) -> Result<(), LogError> {
        let created = Segment::create(self.place.disk.as_ref(), &self.dir, writer.end);
        let segment = Arc::new(created.map_err(|source| self.storage_error("create", &self.dir, source))?);
        let mut segments = self.segments().as_ref().clone();
        segments.push(Arc::clone(&segment));
        *write_lock(&self.segments) = Arc::new(segments);
        writer.unsynced.push(std::mem::replace(&mut writer.active, segment));
        writer.position = 0;
        self.names_unsynced.store(true, Ordering::Release);
        writer.segment_seen_ms = 0;
        Ok(())
    }

    fn storage_error(&self, action: &'static str, path: &Path, source: io::Error) -> LogError {
        if source.kind() == io::ErrorKind::StorageFull {
            return self.no_space();
        }
        LogError::Io { action, path: path.to_owned(), source }
    }

    /// Writes `batch`, which has its offsets already, behind `ahead` bytes that this call's caller just wrote; nothing
    /// is visible before [`Partition::publish`]. A full disk leaves the partition open, any other failure closes it.
    pub(crate) fn write(&self, writer: &mut Writer, ahead: u64, batch: &Batch) -> Result<(), LogError> {
        let Err(source) = writer.active.file.write_at(writer.position + ahead, batch.bytes()) else {
            return Ok(());
        };
        writer.garbage = true;
        let _ = self.undo(writer); // what cannot be cut now is cut before the next append
        if source.kind() == io::ErrorKind::StorageFull {
            return Err(self.no_space());
        }
        let path = writer.active.path.clone();
        self.close(writer, format!("write to {} failed: {source}", path.display()));
        Err(LogError::Io { action: "write", path, source })
    }

    /// Cuts what was written but not published, durably: back after a power cut, it would stand where others do by
    /// then.
    pub(crate) fn undo(&self, writer: &mut Writer) -> io::Result<()> {
        writer.garbage = true;
        let file = writer.active.file.as_ref();
        if file.len()? > writer.position {
            file.truncate(writer.position)?;
            if let Err(error) = file.sync_data() {
                let reason = format!("sync of {} failed: {error}", writer.active.path.display());
                hold(&self.sync).failed = Some(reason.clone()); // it may have dropped earlier pages, too
                self.close(writer, reason);
                return Err(error);
            }
        }
        writer.garbage = false;
        Ok(())
    }

    /// Takes a written batch into index, tail and end offset. Returns whether `flush.messages` asks for a sync.
    pub(crate) fn publish(
        &self,
        writer: &mut Writer,
        header: &Header,
        batch: Batch,
        config: &TopicConfig,
    ) -> bool {
        writer.active.extend(header, writer.position, config.index_interval_bytes);
        writer.position += header.total_len as u64;
        writer.end = header.next_offset();
        self.tail.push(batch);
        writer.unsynced_records =
            writer.unsynced_records.saturating_add(i64::from(header.last_offset_delta) + 1);
        if !config.is_strict() {
            self.high_watermark.fetch_max(writer.end, Ordering::AcqRel);
        }
        writer.unsynced_records >= config.flush_messages
    }

    /// One append under the lock. Returns the base offset and whether to sync.
    pub(crate) fn append(&self, writer: &mut Writer, batch: Batch) -> Result<(i64, bool), LogError> {
        let config = self.config();
        self.prepare(writer, batch.bytes().len(), &config)?;
        let base = writer.end;
        let batch = batch.with_base_offset(base, 0);
        let header = batch.header();
        self.write(writer, 0, &batch)?;
        Ok((base, self.publish(writer, &header, batch, &config)))
    }

    /// Offset after the last record that stands in the files; below the end offset if records were lost.
    pub(crate) fn data_end(&self) -> i64 {
        hold(&self.writer).active.end_offset().unwrap_or(i64::MAX)
    }

    /// Appends a batch recovered from the journal at the offset it has; offsets between are lost.
    pub(crate) fn restore(&self, batch: Batch) -> Result<(), LogError> {
        let config = self.config();
        let mut writer = self.lock()?;
        self.prepare(&mut writer, batch.bytes().len(), &config)?;
        let header = batch.header();
        self.write(&mut writer, 0, &batch)?;
        let end = writer.end;
        self.publish(&mut writer, &header, batch, &config);
        writer.end = writer.end.max(end);
        self.high_watermark.fetch_max(writer.end, Ordering::AcqRel);
        Ok(())
    }

    /// Puts a batch recovered from the journal where a power cut took it from: the lost end of an earlier segment, or a
    /// damaged stretch. Returns false if the partition has it.
    pub(crate) fn fill_gap(&self, batch: Batch) -> Result<bool, LogError> {
        let mut writer = self.lock()?;
        let header = batch.header();
        let segments = self.segments();
        let after = segments.partition_point(|segment| segment.base_offset <= header.base_offset);
        let Some(segment) = after.checked_sub(1).and_then(|at| segments.get(at)) else { return Ok(false) };
        if self.damaged && segment.mend(&batch).map_err(LogError::io("mend", &segment.path))? {
            writer.unsynced.push(Arc::clone(segment));
            let mut sync = hold(&self.sync);
            sync.file = sync.file.min(header.base_offset);
            return Ok(true);
        }
        let ends_before = segment.end_offset().is_some_and(|end| end <= header.base_offset);
        if !ends_before || segments.get(after).is_none_or(|next| next.base_offset < header.next_offset()) {
            return Ok(false);
        }
        let position = segment.len();
        segment.file.write_at(position, batch.bytes()).map_err(LogError::io("write", &segment.path))?;
        segment.extend(&header, position, self.config().index_interval_bytes);
        writer.unsynced.push(Arc::clone(segment));
        let mut sync = hold(&self.sync);
        sync.file = sync.file.min(header.base_offset);
        Ok(true)
    }

    /// Records `base .. end` are durable in the journal. Returns false if records before `base` are not durable yet.
    pub(crate) fn durable_in_journal(&self, base: i64, end: i64) -> bool {
        let mut sync = hold(&self.sync);
        if sync.durable < base {
            return false;
        }
        sync.durable = sync.durable.max(end);
        self.high_watermark.fetch_max(sync.durable, Ordering::AcqRel);
        true
    }

    /// Returns when everything appended so far is durable. One sync serves all who wait.
    pub(crate) fn flush(&self) -> Result<(), LogError> {
        let end = hold(&self.writer).end;
        self.sync_until(|sync| sync.durable >= end)
    }

    /// Returns when records below `end` are durable.
    pub(crate) fn flush_until(&self, end: i64) -> Result<(), LogError> {
        self.sync_until(|sync| sync.durable >= end)
    }

    /// Returns when records below `end` are synced in the segment files, whatever the journal holds.
    pub(crate) fn sync_file(&self, end: i64) -> Result<(), LogError> {
        self.sync_until(|sync| sync.file >= end)
    }

    fn sync_until(&self, done: impl Fn(&SyncState) -> bool) -> Result<(), LogError> {
        let mut sync = hold(&self.sync);
        loop {
            if let Some(reason) = &sync.failed {
                return Err(LogError::Closed { topic_partition: self.name.clone(), reason: reason.clone() });
            }
            if done(&sync) && !self.names_unsynced.load(Ordering::Acquire) {
                return Ok(());
            }
            if sync.running {
                sync = self.synced.wait(sync).unwrap_or_else(std::sync::PoisonError::into_inner);
                continue;
            }
            sync.running = true;
            drop(sync);
            let outcome = self.sync_now();
            sync = hold(&self.sync);
            sync.running = false;
            match outcome {
                Ok(end) => {
                    sync.file = sync.file.max(end);
                    sync.durable = sync.durable.max(end);
                    self.high_watermark.fetch_max(sync.durable, Ordering::AcqRel);
                }
                Err(reason) => sync.failed = Some(reason),
            }
            self.synced.notify_all();
        }
    }

    /// Syncs every unsynced segment; returns the end offset that is durable by that, or why it is not.
    /// After a failed sync the kernel may have dropped the pages: nothing is tried again before a restart.
    fn sync_now(&self) -> Result<i64, String> {
        let (sealed, active, names, end) = {
            let mut writer = hold(&self.writer);
            if matches!(writer.closed, Some(Closed::Deleted)) {
                return Ok(writer.end);
            }
            writer.unsynced_records = 0;
            let sealed = std::mem::take(&mut writer.unsynced);
            let names = self.names_unsynced.swap(false, Ordering::AcqRel);
            (sealed, Arc::clone(&writer.active), names, writer.end)
        };
        let disk = self.place.disk.as_ref();
        let synced_len = active.len();
        let sync = || {
            for segment in &sealed {
                segment.file.sync_data()?;
                self.store_index_of(segment);
            }
            active.file.sync_data()?;
            if names { disk.sync_dir(&self.dir) } else { Ok(()) }
        };
        sync().map_err(|error: io::Error| {
            let reason = format!("sync of {} failed: {error}", self.dir.display());
            self.close(&mut hold(&self.writer), reason.clone());
            reason
        })?;
        self.forget_synced(&active, synced_len);
        Ok(end)
    }

    /// Lets the page cache drop what is synced, but for the newest `herdsman.page.cache.bytes`.
    fn forget_synced(&self, active: &Arc<Segment>, synced_len: u64) {
        let Some(mut keep) = self.config().page_cache_bytes else { return };
        for segment in self.segments().iter().rev().skip_while(|segment| !Arc::ptr_eq(segment, active)) {
            let len = if Arc::ptr_eq(segment, active) { synced_len } else { segment.len() };
            if segment.forget_before(len.saturating_sub(keep)) {
                return;
            }
            keep = keep.saturating_sub(len);
        }
    }

    /// Batches from `offset` on; see [`crate::Log::read`].
    pub(crate) fn read(&self, offset: i64, max_bytes: usize) -> Result<ReadOut, LogError> {
        let (log_start, high_watermark) = (self.start(), self.high_watermark());
        let mut out = ReadOut { batches: Vec::new(), high_watermark, log_start };
        if offset == high_watermark && offset >= log_start {
            return Ok(out);
        }
        if offset < log_start || offset > high_watermark {
            let topic_partition = self.name.clone();
            return Err(LogError::OffsetOutOfRange {
                topic_partition,
                start: log_start,
                end: high_watermark,
                asked: offset,
            });
        }
        if let Some(batches) = self.tail.read(offset, max_bytes, high_watermark) {
            out.batches = batches;
            return Ok(out);
        }
        let segments = self.segments();
        let first = segments.partition_point(|segment| segment.base_offset <= offset).saturating_sub(1);
        for (at, segment) in segments.iter().enumerate().skip(first) {
            let end = segments.get(at + 1).map_or(high_watermark, |next| next.base_offset);
            let disk = self.place.disk.as_ref();
            out.batches = segment.read(disk, &self.name, offset, max_bytes, (high_watermark, end))?;
            if !out.batches.is_empty() {
                break;
            }
        }
        Ok(out)
    }

    /// Offset and timestamp of the first visible record at or after `timestamp_ms`.
    pub(crate) fn offset_for_time(&self, timestamp_ms: i64) -> Result<Option<(i64, i64)>, LogError> {
        let disk = self.place.disk.as_ref();
        let range = (self.start(), self.high_watermark());
        for segment in self.segments().iter() {
            let newest = segment.max_timestamp_ms(disk).map_err(LogError::io("index", &segment.path))?;
            if newest >= timestamp_ms
                && let Some(found) = segment.find_time(disk, timestamp_ms, range)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Moves the log start up to `offset` and deletes segments wholly below it. Returns (segments, bytes) deleted.
    pub(crate) fn delete_before(&self, offset: i64) -> Result<(usize, u64), LogError> {
        if self.segments().get(1).is_some_and(|next| next.base_offset <= offset) {
            // the segment that stays must not be lost with its unsynced name: offsets would begin again
            self.sync_file(self.high_watermark())?;
        }
        let doomed = {
            let _writer = self.lock()?;
            let end = self.high_watermark();
            if offset > end {
                let topic_partition = self.name.clone();
                return Err(LogError::OffsetOutOfRange {
                    topic_partition,
                    start: self.start(),
                    end,
                    asked: offset,
                });
            }
            self.start.fetch_max(offset, Ordering::AcqRel);
            let segments = self.segments();
            let keep = segments.iter().skip(1).take_while(|next| next.base_offset <= offset).count();
            if keep == 0 {
                return Ok((0, 0));
            }
            let (doomed, kept) = segments.split_at(keep);
            let doomed = doomed.to_vec();
            *write_lock(&self.segments) = Arc::new(kept.to_vec());
            doomed
        };
        let disk = self.place.disk.as_ref();
        let mut bytes = 0;
        for segment in &doomed {
            bytes += segment.len();
            disk.remove(&segment.path).map_err(LogError::io("delete", &segment.path))?;
            let index = segment.index_path();
            if disk.exists(&index) {
                disk.remove(&index).map_err(LogError::io("delete", &index))?;
            }
        }
        Ok((doomed.len(), bytes))
    }

    /// Where retention wants the log to start. Never above the active segment's first offset.
    fn retained_from(&self, now_ms: i64, config: &TopicConfig) -> Result<i64, LogError> {
        let mut start = self.start();
        if !config.delete {
            return Ok(start);
        }
        let segments = self.segments();
        let mut total: u64 = segments.iter().map(|segment| segment.len()).sum();
        for pair in segments.windows(2) {
            let [segment, next] = pair else { break };
            let newest = segment
                .max_timestamp_ms(self.place.disk.as_ref())
                .map_err(LogError::io("index", &segment.path))?;
            let too_old = config.retention_ms.is_some_and(|ms| newest < now_ms.saturating_sub(ms));
            let too_much =
                config.retention_bytes.is_some_and(|max| total.saturating_sub(segment.len()) >= max);
            if !(too_old || too_much) {
                break;
            }
            total -= segment.len();
            start = start.max(next.base_offset);
        }
        Ok(start.min(self.high_watermark()))
    }

    /// `segment.ms`, `flush.ms` and retention, whose new log start `before` hears first. Returns (segments, bytes) deleted.
    pub(crate) fn maintain<E: From<LogError>>(
        &self,
        now_ms: i64,
        before: impl FnOnce(i64) -> Result<(), E>,
    ) -> Result<(usize, u64), E> {
        let config = self.config();
        let (end, sealed) = {
            let Ok(mut writer) = self.lock() else { return Ok((0, 0)) };
            if writer.segment_seen_ms == 0 {
                writer.segment_seen_ms = now_ms;
            } else if writer.position > 0
                && now_ms.saturating_sub(writer.segment_seen_ms) >= config.segment_ms
            {
                self.roll(&mut writer)?;
            }
            (writer.end, !writer.unsynced.is_empty())
        };
        if sealed || self.flush_is_due(now_ms, end, config.flush_ms) {
            self.sync_file(end)?;
        }
        let start = self.retained_from(now_ms, &config)?;
        if start <= self.start() {
            return Ok((0, 0));
        }
        before(start)?;
        Ok(self.delete_before(start)?)
    }

    fn flush_is_due(&self, now_ms: i64, end: i64, flush_ms: i64) -> bool {
        let mut sync = hold(&self.sync);
        if sync.file >= end {
            sync.waiting_since = None;
            return false;
        }
        let file = sync.file;
        let (since, _) = *sync.waiting_since.get_or_insert((now_ms, file));
        let due = now_ms.saturating_sub(since) >= flush_ms;
        if due {
            sync.waiting_since = None;
        }
        due
    }

    /// Writes the active segment's index, so that the next start need not rebuild it.
    pub(crate) fn store_index(&self) {
        let active = Arc::clone(&hold(&self.writer).active);
        self.store_index_of(&active);
    }

    fn store_index_of(&self, segment: &Segment) {
        if let Err(error) = segment.store_index(self.place.disk.as_ref()) {
            tracing::warn!(path = %segment.path.display(), %error, "index not written, it will be rebuilt");
        }
    }
}
