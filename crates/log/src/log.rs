//! All topics of one data folder.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use herdsman_host::{Clock, Disk, LockError, LockGuard, Seed};
use herdsman_record::{Batch, TopicPartition};

use crate::checkpoint::{self, Point};
use crate::config::{TopicConfig, check_configs, effective, nearest};
use crate::journal::{self, Journal};
use crate::notify::Notify;
use crate::partition::{Partition, Place};
use crate::tail::{TailBudget, TailReader};
use crate::topic::{check_name, check_partitions, load_catalog, store_catalog};
use crate::{
    LogConfig, LogError, Maintained, PartitionTail, ReadOut, Recovery, TopicId, TopicMeta, hold, read_lock,
    recovery, write_lock,
};

pub(crate) struct Topic {
    pub(crate) meta: TopicMeta,
    partitions: Vec<Arc<Partition>>,
}

pub(crate) type Topics = HashMap<Arc<str>, Arc<Topic>>;

/// All topics of one data folder. Shared between threads; one append lock per partition.
///
/// ```
/// use std::collections::BTreeMap;
/// use std::path::Path;
/// use std::sync::Arc;
/// use herdsman_host::{Seed, SimClock, SimDisk};
/// use herdsman_log::{Log, LogConfig};
/// use herdsman_record::{BatchBuilder, Compression, TopicPartition};
///
/// let disk = Arc::new(SimDisk::new(&Seed::new(1)));
/// let (log, _) = Log::open(disk, Path::new("/data"), Arc::new(SimClock::new(0)), LogConfig::default())?;
/// log.create_topic("finds", 1, &BTreeMap::new())?;
/// let finds = TopicPartition::new("finds", 0);
/// let mut builder = BatchBuilder::new();
/// builder.append(1_700_000_000_000, None, Some(b"N14228 at JFK"), &[]);
/// assert_eq!(log.append(&finds, builder.finish(Compression::None)?)?, 0);
/// assert_eq!(log.read(&finds, 0, 1 << 20)?.batches.len(), 1);
/// assert!(log.read(&finds, 7, 1).is_err(), "offset 7 does not exist yet");
/// # Ok::<(), herdsman_log::LogError>(())
/// ```
pub struct Log {
    place: Arc<Place>,
    topics_dir: PathBuf,
    config: LogConfig,
    clock: Arc<dyn Clock>,
    topics: RwLock<Arc<Topics>>,
    pub(crate) journal: Journal,
    pub(crate) notify: Notify,
    /// Held while the catalog or the checkpoint changes.
    admin: Mutex<Admin>,
    _lock: LockGuard,
}

struct Admin {
    seed: Seed,
    checkpointed: HashMap<TopicPartition, Point>,
}

impl Log {
    /// Locks the folder `dir` (before reading one byte of it), recovers what a kill or a power cut left, and opens it.
    ///
    /// # Errors
    /// [`LogError::InUse`], [`LogError::Format`], [`LogError::Io`], an unknown key among the defaults.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        clock: Arc<dyn Clock>,
        config: LogConfig,
    ) -> Result<(Self, Recovery), LogError> {
        check_configs(&config.topic_defaults)?;
        disk.create_dir(dir).map_err(LogError::io("create", dir))?;
        let lock_path = dir.join("lock");
        let lock =
            disk.lock(&lock_path, &recovery::holder(&config.program, clock.now_ms())).map_err(|error| {
                match error {
                    LockError::Held { holder } => LogError::InUse { dir: dir.to_owned(), holder },
                    LockError::Io(source) => LogError::Io { action: "lock", path: lock_path, source },
                }
            })?;
        let mut report = Recovery::default();
        let topics_dir = dir.join("topics");
        disk.create_dir(&topics_dir).map_err(LogError::io("create", &topics_dir))?;
        let metas = load_catalog(disk.as_ref(), &dir.join("topics.json"))?;
        let points = checkpoint::load(disk.as_ref(), &dir.join("checkpoint"), &mut report.notes)?;
        let budget = TailBudget::new(config.tail_bytes_max);
        let place = Arc::new(Place { disk, root: dir.to_owned(), budget });

        let mut topics = Topics::new();
        let mut by_id = BTreeMap::new();
        let mut known = HashSet::new();
        let ids: HashSet<String> = metas.iter().map(|meta| meta.id.to_string()).collect();
        for meta in metas {
            let topic_config = Arc::new(TopicConfig::new(&meta.configs, &config.topic_defaults));
            let mut partitions = Vec::new();
            for index in 0..meta.partitions {
                let name = TopicPartition::new(Arc::clone(&meta.name), index);
                let folder = topics_dir.join(recovery::dir_name(&name));
                known.insert(recovery::dir_name(&name));
                let point = points.get(&(meta.id.to_string(), index)).copied().unwrap_or_default();
                let disk = place.disk.as_ref();
                let found =
                    recovery::open(disk, &folder, (&name, meta.id, &ids), point, &topic_config, &mut report)?;
                let opened =
                    Partition::new(name, Arc::clone(&place), folder, Arc::clone(&topic_config), found);
                let partition = Arc::new(opened);
                by_id.insert((meta.id, index), Arc::clone(&partition));
                partitions.push(partition);
            }
            topics.insert(Arc::clone(&meta.name), Arc::new(Topic { meta, partitions }));
        }
        recovery::sweep(&place, &topics_dir, &known, &mut report)?;
        recovery::restore(journal::load(place.disk.as_ref(), dir)?, &by_id, &mut report)?;
        for partition in by_id.values().filter(|partition| partition.config().is_strict()) {
            partition.sync_file(partition.high_watermark())?; // its readers see only what is durable
        }
        let journal = Journal::open(place.disk.as_ref(), dir, config.journal_bytes_max)?;
        let admin = Mutex::new(Admin { seed: config.seed.stream("topic ids"), checkpointed: HashMap::new() });
        let log = Self {
            place,
            topics_dir,
            config,
            clock,
            topics: RwLock::new(Arc::new(topics)),
            journal,
            notify: Notify::new(),
            admin,
            _lock: lock,
        };
        log.checkpoint(&mut hold(&log.admin))?;
        for note in &report.notes {
            tracing::warn!("{note}");
        }
        Ok((log, report))
    }

    /// Makes everything durable, writes indexes and checkpoint, and releases the folder.
    pub fn close(self) -> Result<(), LogError> {
        self.sync()?;
        for partition in self.partitions() {
            partition.store_index();
        }
        Ok(())
    }

    /// The data folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.place.root
    }

    /// 64 bits from the seed of [`LogConfig`], others at each call.
    #[must_use]
    pub fn random(&self) -> u64 {
        hold(&self.admin).seed.next_u64()
    }

    /// The clock given at open.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(crate) fn snapshot(&self) -> Arc<Topics> {
        Arc::clone(&read_lock(&self.topics))
    }

    fn partitions(&self) -> Vec<Arc<Partition>> {
        let topics = self.snapshot();
        let mut all: Vec<_> = topics.values().flat_map(|topic| topic.partitions.iter().cloned()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn find(&self, topic: &str) -> Result<Arc<Topic>, LogError> {
        let topics = self.snapshot();
        topics.get(topic).cloned().ok_or_else(|| {
            let hint = nearest(topic, topics.keys().map(AsRef::as_ref)).map(str::to_owned);
            LogError::UnknownTopic { topic: topic.to_owned(), hint }
        })
    }

    pub(crate) fn partition(&self, tp: &TopicPartition) -> Result<Arc<Partition>, LogError> {
        let topics = read_lock(&self.topics);
        if let Some(topic) = topics.get(&tp.topic) {
            let found = usize::try_from(tp.partition).ok().and_then(|index| topic.partitions.get(index));
            return found.cloned().ok_or_else(|| LogError::UnknownPartition {
                topic_partition: tp.clone(),
                partitions: topic.meta.partitions,
            });
        }
        drop(topics);
        Err(self
            .find(&tp.topic)
            .err()
            .unwrap_or(LogError::UnknownTopic { topic: tp.topic.to_string(), hint: None }))
    }

    /// Creates a topic: name, partition count and configs by Kafka's rules.
    ///
    /// # Errors
    /// [`LogError::TopicExists`], [`LogError::InvalidName`], [`LogError::InvalidPartitions`],
    /// [`LogError::UnknownConfig`] with the nearest known key, [`LogError::InvalidConfig`].
    pub fn create_topic(
        &self,
        name: &str,
        partitions: i32,
        configs: &BTreeMap<String, String>,
    ) -> Result<TopicMeta, LogError> {
        check_name(name)?;
        check_partitions(name, partitions, 1)?;
        check_configs(configs)?;
        let mut admin = hold(&self.admin);
        let topics = self.snapshot();
        if topics.contains_key(name) {
            return Err(LogError::TopicExists(name.to_owned()));
        }
        let id = TopicId::random(&mut admin.seed);
        let name: Arc<str> = name.into();
        let internal = name.starts_with("__");
        let meta = TopicMeta { name: Arc::clone(&name), id, partitions, configs: configs.clone(), internal };
        let made = self.make_partitions(&meta, 0)?;
        let mut next = topics.as_ref().clone();
        next.insert(name, Arc::new(Topic { meta: meta.clone(), partitions: made }));
        self.commit_catalog(next)?;
        Ok(meta)
    }

    fn make_partitions(&self, meta: &TopicMeta, from: i32) -> Result<Vec<Arc<Partition>>, LogError> {
        let config = Arc::new(TopicConfig::new(&meta.configs, &self.config.topic_defaults));
        let disk = self.place.disk.as_ref();
        let mut made = Vec::new();
        for index in from..meta.partitions {
            let name = TopicPartition::new(Arc::clone(&meta.name), index);
            let folder = self.topics_dir.join(recovery::dir_name(&name));
            if disk.exists(&folder) {
                recovery::remove(disk, &folder)?; // left by a creation that failed half way
            }
            let found = recovery::create(disk, &folder, meta.id, 0)?;
            made.push(Arc::new(Partition::new(
                name,
                Arc::clone(&self.place),
                folder,
                Arc::clone(&config),
                found,
            )));
        }
        disk.sync_dir(&self.topics_dir).map_err(LogError::io("sync", &self.topics_dir))?;
        Ok(made)
    }

    /// Writes the catalog, then shows the topics to everyone.
    fn commit_catalog(&self, topics: Topics) -> Result<(), LogError> {
        let mut metas: Vec<TopicMeta> = topics.values().map(|topic| topic.meta.clone()).collect();
        metas.sort_by(|a, b| a.name.cmp(&b.name));
        store_catalog(self.place.disk.as_ref(), &self.place.root.join("topics.json"), &metas)?;
        *write_lock(&self.topics) = Arc::new(topics);
        Ok(())
    }

    /// Deletes a topic and its records.
    pub fn delete_topic(&self, name: &str) -> Result<(), LogError> {
        let _admin = hold(&self.admin);
        let topic = self.find(name)?;
        let mut next = self.snapshot().as_ref().clone();
        next.remove(name);
        self.commit_catalog(next)?;
        self.journal.forget(name);
        for partition in &topic.partitions {
            partition.mark_deleted();
            recovery::remove(self.place.disk.as_ref(), &partition.dir)?;
        }
        self.notify.raise();
        self.place.disk.sync_dir(&self.topics_dir).map_err(LogError::io("sync", &self.topics_dir))
    }

    /// Gives a topic more partitions: `total` in all.
    pub fn add_partitions(&self, name: &str, total: i32) -> Result<(), LogError> {
        let _admin = hold(&self.admin);
        let topic = self.find(name)?;
        check_partitions(name, total, topic.meta.partitions + 1)?;
        let meta = TopicMeta { partitions: total, ..topic.meta.clone() };
        let mut partitions = topic.partitions.clone();
        partitions.extend(self.make_partitions(&meta, topic.meta.partitions)?);
        let mut next = self.snapshot().as_ref().clone();
        next.insert(Arc::clone(&meta.name), Arc::new(Topic { meta, partitions }));
        self.commit_catalog(next)
    }

    /// Replaces the set configs of a topic; in force for the next append.
    pub fn alter_configs(&self, name: &str, configs: &BTreeMap<String, String>) -> Result<(), LogError> {
        check_configs(configs)?;
        let _admin = hold(&self.admin);
        let topic = self.find(name)?;
        let meta = TopicMeta { configs: configs.clone(), ..topic.meta.clone() };
        let config = Arc::new(TopicConfig::new(configs, &self.config.topic_defaults));
        let mut next = self.snapshot().as_ref().clone();
        next.insert(Arc::clone(&meta.name), Arc::new(Topic { meta, partitions: topic.partitions.clone() }));
        self.commit_catalog(next)?;
        for partition in &topic.partitions {
            partition.set_config(Arc::clone(&config));
            if !config.is_strict() {
                continue;
            }
            partition.flush()?;
        }
        Ok(())
    }

    /// One topic.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<TopicMeta> {
        read_lock(&self.topics).get(name).map(|topic| topic.meta.clone())
    }

    /// All topics, sorted by name.
    #[must_use]
    pub fn topics(&self) -> Vec<TopicMeta> {
        let mut metas: Vec<_> = self.snapshot().values().map(|topic| topic.meta.clone()).collect();
        metas.sort_by(|a, b| a.name.cmp(&b.name));
        metas
    }

    /// The effective value of one config: the topic's, else the log's default, else Kafka's. `None`: no such topic or key.
    #[must_use]
    pub fn topic_config(&self, name: &str, key: &str) -> Option<String> {
        let topic = read_lock(&self.topics).get(name).cloned()?;
        effective(&topic.meta.configs, &self.config.topic_defaults, key)
    }

    /// Appends `batch` and returns the offset of its first record, which is patched into its header.
    /// The CRC is not checked: the caller checks what comes from strangers.
    ///
    /// # Errors
    /// [`LogError::NoSpace`] (try again later), [`LogError::Closed`], unknown topic or partition. After a failed
    /// write nothing of the batch is readable; it may yet appear after a restart, as it may after a failed sync.
    pub fn append(&self, tp: &TopicPartition, batch: Batch) -> Result<i64, LogError> {
        self.append_with(tp, |_| Ok((Some(batch), ()))).map(|(base, ())| base)
    }

    /// Decides under the partition's append lock what to write: check sequences or drop duplicates here.
    /// Returns the base offset (the end offset if nothing was written) and what `decide` returned beside the batch.
    pub fn append_with<T, E: From<LogError>>(
        &self,
        tp: &TopicPartition,
        decide: impl FnOnce(PartitionTail<'_>) -> Result<(Option<Batch>, T), E>,
    ) -> Result<(i64, T), E> {
        let partition = self.partition(tp)?;
        let mut writer = partition.lock()?;
        let tail =
            PartitionTail { topic_partition: &partition.name, start: partition.start(), end: writer.end };
        let (batch, decided) = decide(tail)?;
        let Some(batch) = batch else { return Ok((writer.end, decided)) };
        let (base, sync) = partition.append(&mut writer, batch)?;
        let end = writer.end;
        drop(writer);
        if sync {
            partition.flush_until(end)?;
        }
        self.notify.raise();
        Ok((base, decided))
    }

    /// Batches from the one that holds `offset` on: at least one if there is one, about `max_bytes` in all. The first
    /// may begin before `offset`. Recent batches come from memory, without a system call.
    ///
    /// # Errors
    /// [`LogError::OffsetOutOfRange`], [`LogError::Corrupt`] with the next readable offset.
    pub fn read(&self, tp: &TopicPartition, offset: i64, max_bytes: usize) -> Result<ReadOut, LogError> {
        self.partition(tp)?.read(offset, max_bytes)
    }

    /// Log start offset and high watermark (the offset after the last record readers may see).
    pub fn offsets(&self, tp: &TopicPartition) -> Result<(i64, i64), LogError> {
        let partition = self.partition(tp)?;
        Ok((partition.start(), partition.high_watermark()))
    }

    /// Offset and timestamp of the first record at or after `timestamp_ms`; `None` if there is none.
    pub fn offset_for_time(
        &self,
        tp: &TopicPartition,
        timestamp_ms: i64,
    ) -> Result<Option<(i64, i64)>, LogError> {
        self.partition(tp)?.offset_for_time(timestamp_ms)
    }

    /// Deletes records below `offset` (−1: all visible ones), durably; returns the new log start.
    pub fn delete_records_before(&self, tp: &TopicPartition, offset: i64) -> Result<i64, LogError> {
        let partition = self.partition(tp)?;
        let offset = if offset == -1 { partition.high_watermark() } else { offset };
        partition.delete_before(offset)?;
        self.checkpoint(&mut hold(&self.admin))?;
        Ok(partition.start())
    }

    /// Bytes on disk of one partition.
    pub fn size(&self, tp: &TopicPartition) -> Result<u64, LogError> {
        Ok(self.partition(tp)?.size())
    }

    /// Begins to keep the newest batches in memory for a reader of this process, as long as the answer lives; without any,
    /// only the last MiB is kept.
    #[must_use]
    pub fn tail_reader(&self) -> TailReader {
        TailReader::new(&self.place.budget)
    }

    /// Bytes all tails hold in memory now.
    #[must_use]
    pub fn tail_bytes(&self) -> usize {
        self.place.budget.used()
    }

    /// Group commit: returns when everything appended to the partition before the call is durable. One sync serves
    /// all who wait.
    pub fn flush(&self, tp: &TopicPartition) -> Result<(), LogError> {
        self.partition(tp)?.flush()
    }

    /// Makes everything durable and writes the recovery checkpoint. A partition that fails is closed for writes; the
    /// others are synced all the same, and the first error is returned.
    pub fn sync(&self) -> Result<(), LogError> {
        let mut outcome = Ok(());
        for partition in self.partitions() {
            let end = partition.high_watermark();
            let synced = partition.flush().and_then(|()| partition.sync_file(end));
            outcome = outcome.and(synced);
        }
        outcome.and(self.checkpoint(&mut hold(&self.admin)))
    }

    /// Retention, `segment.ms`, `flush.ms`, the journal's and the recovery checkpoint's upkeep; call about once a
    /// second. `now_ms` is the wall clock. One failing partition does not stop the others; the first error is returned.
    pub fn maintain(&self, now_ms: i64) -> Result<Maintained, LogError> {
        self.maintain_with(now_ms, |_, _| Ok(()))
    }

    /// As [`Log::maintain`]; `before` hears of each partition whose records below an offset are about to be deleted. If it fails
    /// they stay.
    ///
    /// # Errors
    /// The first error, of the log or of `before`.
    pub fn maintain_with<E: From<LogError>>(
        &self,
        now_ms: i64,
        before: impl Fn(&TopicPartition, i64) -> Result<(), E>,
    ) -> Result<Maintained, E> {
        let mut outcome = self.journal.settle().map_err(E::from);
        let mut done = Maintained::default();
        for partition in self.partitions() {
            match partition.maintain(now_ms, |start| before(&partition.name, start)) {
                Ok((segments, bytes)) => {
                    done.segments_deleted += segments;
                    done.bytes_deleted += bytes;
                }
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome.and(self.checkpoint(&mut hold(&self.admin)).map_err(E::from)).map(|()| done)
    }

    /// Writes the checkpoint if a recovery point or log start moved.
    fn checkpoint(&self, admin: &mut MutexGuard<'_, Admin>) -> Result<(), LogError> {
        let topics = self.snapshot();
        let mut points = HashMap::new();
        let mut lines = Vec::new();
        for topic in topics.values() {
            for partition in &topic.partitions {
                let point =
                    Point { recovery_point: partition.recovery_point(), log_start: partition.start() };
                points.insert(partition.name.clone(), point);
                lines.push((topic.meta.id, partition.name.partition, point, topic.meta.name.to_string()));
            }
        }
        if points == admin.checkpointed {
            return Ok(());
        }
        lines.sort_by(|a, b| (&a.3, a.1).cmp(&(&b.3, b.1)));
        checkpoint::store(self.place.disk.as_ref(), &self.place.root.join("checkpoint"), lines.into_iter())?;
        admin.checkpointed = points;
        Ok(())
    }

    /// The recovery point that a start would find.
    pub(crate) fn checkpointed(&self, tp: &TopicPartition) -> i64 {
        hold(&self.admin).checkpointed.get(tp).map_or(0, |point| point.recovery_point)
    }

    /// A number that goes up with every append, in any partition.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.notify.version()
    }

    /// Blocks until [`Log::version`] is above `seen` or `timeout` is over; returns the version.
    pub fn wait_for_append(&self, seen: u64, timeout: Duration) -> u64 {
        self.notify.wait(seen, timeout)
    }

    /// Wakes a task with every append: a watch of [`Log::version`]. Look into the log after subscribing, then wait.
    #[must_use]
    pub fn subscribe(&self) -> tokio::sync::watch::Receiver<u64> {
        self.notify.subscribe()
    }
}
