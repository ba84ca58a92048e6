//! One flow: reads a source, writes a target, remembers how far it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use herdsman_bus::{Bus, BusError, Fetched, Reader, TopicSpec};
use herdsman_host::Clock;
use herdsman_record::TopicPartition;

use crate::MirrorConfig;
use crate::forward::select;
use crate::stats::Counters;

/// Bytes read per round; with the client's queue this bounds a flow's memory.
const ROUND_BYTES: usize = 4 << 20;
const POLL: Duration = Duration::from_millis(200);
/// Progress is committed this often, or as soon as the source is quiet.
const COMMIT_NS: u64 = 500_000_000;
/// New topics are looked for this often.
const TOPICS_NS: u64 = 2_000_000_000;
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Opens a cluster by its name.
pub(crate) type Connect = dyn Fn(&str) -> Result<Arc<dyn Bus>, BusError> + Send + Sync;

/// One direction between two clusters.
pub(crate) struct Flow {
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) config: Arc<MirrorConfig>,
    pub(crate) connect: Arc<Connect>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Both ends, open.
struct Session {
    source: Arc<dyn Bus>,
    target: Arc<dyn Bus>,
    reader: Option<Box<dyn Reader>>,
    /// Partitions of each mirrored topic: at the source, at the target.
    topics: BTreeMap<String, (i32, i32)>,
    /// Written but not yet committed positions.
    dirty: BTreeMap<TopicPartition, i64>,
    lags: BTreeMap<TopicPartition, u64>,
    committed_ns: u64,
    looked_ns: u64,
}

impl Flow {
    /// Runs until stopped; whatever fails is tried again.
    pub(crate) fn run(&self) {
        let mut pause = PAUSE_MIN;
        while !self.stopped() {
            let before = self.counters.forwarded.load(Ordering::Relaxed);
            let result = self.session();
            self.counters.running.store(false, Ordering::Relaxed);
            let Err(error) = result else { return };
            tracing::warn!(source = self.source, target = self.target, %error, "mirror flow interrupted");
            self.counters.failed(error.to_string());
            if self.counters.forwarded.load(Ordering::Relaxed) > before {
                pause = PAUSE_MIN;
            }
            self.sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn sleep(&self, pause: Duration) {
        let mut left = pause;
        while !left.is_zero() && !self.stopped() {
            let slice = left.min(Duration::from_millis(50));
            std::thread::sleep(slice);
            left -= slice;
        }
    }

    /// Name of the consumer group that keeps this flow's progress at the target.
    fn group(&self) -> String {
        format!("herdsman-mirror.{}.{}", self.source, self.target)
    }

    /// Mirrors until stopped (`Ok`) or until a cluster fails.
    fn session(&self) -> Result<(), BusError> {
        let mut session = Session {
            source: (self.connect)(&self.source)?,
            target: (self.connect)(&self.target)?,
            reader: None,
            topics: BTreeMap::new(),
            dirty: BTreeMap::new(),
            lags: BTreeMap::new(),
            committed_ns: self.clock.monotonic_ns(),
            looked_ns: 0,
        };
        self.look_for_topics(&mut session)?;
        self.counters.running.store(true, Ordering::Relaxed);
        while !self.stopped() {
            let now_ns = self.clock.monotonic_ns();
            if now_ns.saturating_sub(session.looked_ns) > TOPICS_NS {
                self.look_for_topics(&mut session)?;
            }
            let found = match &mut session.reader {
                Some(reader) => reader.poll(ROUND_BYTES, POLL),
                None => {
                    self.sleep(POLL);
                    Ok(Vec::new())
                }
            };
            let quiet = match found {
                Ok(found) => {
                    for fetched in &found {
                        self.forward(&mut session, fetched)?;
                    }
                    found.is_empty()
                }
                Err(BusError::OffsetOutOfRange { topic_partition, start, end, asked }) => {
                    self.jump(&mut session, &topic_partition, (start, end), asked)?;
                    false
                }
                Err(error) => return Err(error),
            };
            let due = now_ns.saturating_sub(session.committed_ns) > COMMIT_NS;
            if !session.dirty.is_empty() && (quiet || due) {
                self.commit(&mut session, now_ns)?;
            }
        }
        self.commit(&mut session, 0)
    }

    /// Creates missing topics at the target and begins to read new partitions where this flow left off.
    fn look_for_topics(&self, session: &mut Session) -> Result<(), BusError> {
        let at_source = session.source.topics()?;
        session.looked_ns = self.clock.monotonic_ns();
        let mut fresh = Vec::new();
        for topic in at_source.into_iter().filter(|topic| !topic.internal && self.config.wants(&topic.name)) {
            let (known, _) = session.topics.get(&topic.name).copied().unwrap_or_default();
            if topic.partitions <= known {
                continue;
            }
            let spec = TopicSpec {
                name: topic.name.clone(),
                partitions: topic.partitions,
                configs: topic.configs.clone(),
            };
            match session.target.create_topic(&spec) {
                Ok(()) | Err(BusError::TopicExists(_)) => {}
                Err(error) => return Err(error),
            }
            let there = session.target.topic(&topic.name)?.map_or(topic.partitions, |found| found.partitions);
            session.topics.insert(topic.name.clone(), (topic.partitions, there.max(1)));
            fresh.extend(
                (known..topic.partitions).map(|index| TopicPartition::new(topic.name.as_str(), index)),
            );
        }
        if fresh.is_empty() {
            return Ok(());
        }
        let committed = session.target.committed(&self.group(), &fresh)?;
        let mut starts = Vec::with_capacity(fresh.len());
        for (at, committed) in fresh.into_iter().zip(committed) {
            let range = session.source.offsets(&at)?;
            let start = committed.unwrap_or(range.start);
            if start > range.end {
                // the source came back shorter than it was: what it has is read again, and known ids are dropped
                self.counters.failed(format!(
                    "{at} of {} ends at offset {}, this flow had read up to {start}: reading it again from {}",
                    self.source, range.end, range.start
                ));
            }
            let start = if (range.start..=range.end).contains(&start) { start } else { range.start };
            self.count_skipped(committed.unwrap_or(start), start);
            starts.push((at, start));
        }
        match &mut session.reader {
            Some(reader) => starts.iter().try_for_each(|(at, start)| reader.seek(at, *start)),
            None => {
                session.reader = Some(session.source.reader(&starts)?);
                Ok(())
            }
        }
    }

    fn count_skipped(&self, wanted: i64, start: i64) {
        let skipped = u64::try_from(start.saturating_sub(wanted)).unwrap_or(0);
        self.counters.skipped.fetch_add(skipped, Ordering::Relaxed);
    }

    /// The position is no longer in the source's log: goes on at its beginning and says how much is gone.
    fn jump(
        &self,
        session: &mut Session,
        at: &TopicPartition,
        (start, end): (i64, i64),
        asked: i64,
    ) -> Result<(), BusError> {
        self.count_skipped(asked, start);
        self.counters.failed(format!(
            "{at} of {} holds offsets {start} to {end}, offset {asked} is gone: going on at {start}",
            self.source
        ));
        match &mut session.reader {
            Some(reader) => reader.seek(at, start.max(0)),
            None => Ok(()),
        }
    }

    fn forward(&self, session: &mut Session, fetched: &Fetched) -> Result<(), BusError> {
        let at = &fetched.topic_partition;
        let selected = select(fetched, &self.source)?;
        let (_, there) = session.topics.get(at.topic.as_ref()).copied().unwrap_or((1, 1));
        let target = TopicPartition::new(Arc::clone(&at.topic), at.partition % there);
        for batch in selected.batches {
            let produced = session.target.produce(&target, batch)?;
            self.counters.forwarded.fetch_add(u64::from(produced.accepted), Ordering::Relaxed);
            self.counters.duplicates.fetch_add(u64::from(produced.duplicates), Ordering::Relaxed);
        }
        self.counters.foreign.fetch_add(selected.foreign, Ordering::Relaxed);
        let lag = u64::try_from(fetched.high_watermark.saturating_sub(fetched.next_offset)).unwrap_or(0);
        session.lags.insert(at.clone(), lag);
        self.counters.lag.store(session.lags.values().sum(), Ordering::Relaxed);
        session.dirty.insert(at.clone(), fetched.next_offset);
        Ok(())
    }

    fn commit(&self, session: &mut Session, now_ns: u64) -> Result<(), BusError> {
        let offsets: Vec<_> = session.dirty.iter().map(|(at, offset)| (at.clone(), *offset)).collect();
        session.target.commit_offsets(&self.group(), &offsets)?;
        session.dirty.clear();
        session.committed_ns = now_ns;
        Ok(())
    }
}
