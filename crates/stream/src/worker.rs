//! One thread's duty cycle: poll, decode once for all queries, run, commit.
//!
//! Queries that stand at the same offset of a partition share one read and one decode. A query that stands elsewhere
//! has its own lane (a reader of its own) until the positions meet. Repartition topics have lanes of their own: what a
//! first stage has begun is finished before new input is read, and again right after a commit.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use herdsman_bus::{Bus, BusError, Fetched, Reader};
use herdsman_formats::{Decoded, Decoder};
use herdsman_host::Clock;
use herdsman_record::TopicPartition;

use crate::operator::Scan;
use crate::plan::Source;
use crate::query::{QueryError, QueryRun, QueryShared, Surroundings, decodes_alike};
use crate::rows::Rows;
use crate::runtime::{CacheLookup, QueryState};

/// Bytes read from one partition at once.
const PARTITION_BYTES: usize = 4 << 20;
/// Under load, outputs become visible at least this often, ns.
const COMMIT_NS: u64 = 50_000_000;

/// Two cycles of a thread begin at least this far apart, ns: a commit costs the same for one row and for ten thousand,
/// so a trickle is gathered. After a cycle that had much to do the next begins when twice its time has passed, within
/// these bounds, so that rows come in batches worth their fixed cost. At full load a cycle takes longer anyway.
const GATHER_NS: std::ops::RangeInclusive<u64> = 8_000_000..=30_000_000;
/// With a full disk a thread tries again to write so often; its other queries write to the same disk.
const ROOM_WAIT: Duration = Duration::from_millis(200);
/// A cycle reads again before it commits if at least so many records of a partition were left.
const BACKLOG_RECORDS: i64 = 4_096;

/// Caches by name, shared by all threads.
pub type Guards = Arc<RwLock<HashMap<String, Arc<dyn CacheLookup>>>>;

/// Queries of one thread.
pub struct Worker {
    thread: usize,
    threads: usize,
    bus: Arc<dyn Bus>,
    clock: Arc<dyn Clock>,
    guards: Guards,
    rows_max: usize,
    synchronous: bool,
    killed: Arc<AtomicBool>,
    queries: Vec<QueryRun>,
    paused: Vec<String>,
    lanes: Vec<Lane>,
    decoders: Vec<SharedDecoder>,
    began_ns: Option<u64>,
    gather_ns: u64,
    deferred: Vec<Deferred>,
}

/// Stream inputs of a query that wait until its tables have been read.
struct Deferred {
    id: String,
    tables: Vec<(TopicPartition, i64)>,
    waiting: Vec<(TopicPartition, i64)>,
}

struct Lane {
    /// Whether it reads repartition topics.
    internal: bool,
    reader: Box<dyn Reader>,
    parts: Vec<LanePart>,
}

struct LanePart {
    at: TopicPartition,
    position: i64,
    queries: Vec<String>,
}

struct SharedDecoder {
    source: Source,
    needed: Vec<bool>,
    decoder: Decoder,
}

/// What a worker is made of.
pub struct WorkerParts {
    /// Number of this thread.
    pub thread: usize,
    /// Number of threads.
    pub threads: usize,
    /// Bus.
    pub bus: Arc<dyn Bus>,
    /// Clock.
    pub clock: Arc<dyn Clock>,
    /// Caches.
    pub guards: Guards,
    /// Most rows at once.
    pub rows_max: usize,
    /// Driven by calls, not by a thread.
    pub synchronous: bool,
    /// Set when nothing may be committed any more.
    pub killed: Arc<AtomicBool>,
}

impl Worker {
    /// A worker without queries.
    #[must_use]
    pub fn new(parts: WorkerParts) -> Self {
        Self {
            thread: parts.thread,
            threads: parts.threads,
            bus: parts.bus,
            clock: parts.clock,
            guards: parts.guards,
            rows_max: parts.rows_max,
            synchronous: parts.synchronous,
            killed: parts.killed,
            queries: Vec::new(),
            paused: Vec::new(),
            lanes: Vec::new(),
            decoders: Vec::new(),
            began_ns: None,
            gather_ns: *GATHER_NS.start(),
            deferred: Vec::new(),
        }
    }

    fn with<T>(&mut self, work: impl FnOnce(&mut Self, &Surroundings<'_>) -> T) -> T {
        let (bus, guards) = (Arc::clone(&self.bus), Arc::clone(&self.guards));
        let guards = guards.read().unwrap_or_else(PoisonError::into_inner);
        let around = Surroundings {
            bus: &bus,
            now_ms: self.clock.now_ms(),
            guards: &guards,
            rows_max: self.rows_max,
            synchronous: self.synchronous,
        };
        work(self, &around)
    }

    /// Opens (or reopens) a query and begins to read.
    ///
    /// # Errors   why it cannot start.
    pub fn open(&mut self, shared: &Arc<QueryShared>) -> Result<(), QueryError> {
        self.close(&shared.plan.id);
        let (thread, threads) = (self.thread, self.threads);
        let run = self.with(|_, around| QueryRun::open(shared, thread, threads, around))?;
        for (at, _) in run.positions.clone() {
            for source in run.sources(&at).cloned().collect::<Vec<_>>() {
                self.add_decoder(&source)?;
            }
        }
        self.queries.push(run);
        self.subscribe_all(&shared.plan.id)
    }

    /// Begins to read: first the tables that are behind, then everything.
    fn subscribe_all(&mut self, id: &str) -> Result<(), QueryError> {
        let Some(run) = self.queries.iter().find(|run| run.shared.plan.id == id) else { return Ok(()) };
        if self.synchronous {
            return Ok(());
        }
        let tables = run.tables_first(&self.bus)?;
        let mut waiting = Vec::new();
        for (at, position) in run.positions.clone() {
            let streams = !run_has(&self.queries, id, |run| run.is_table_input(&at));
            if !tables.is_empty() && streams {
                waiting.push((at, position));
            } else {
                self.subscribe(id, &at, position)?;
            }
        }
        if !waiting.is_empty() {
            self.deferred.push(Deferred { id: id.to_owned(), tables, waiting });
        }
        Ok(())
    }

    /// Stream inputs begin when the tables have been read.
    fn release_deferred(&mut self) {
        let mut at = 0;
        while at < self.deferred.len() {
            let Deferred { id, tables, .. } = &self.deferred[at];
            let reached = |run: &QueryRun| {
                tables.iter().all(|(at, end)| run.positions.get(at).is_none_or(|now| now >= end))
            };
            if !run_has(&self.queries, id, reached) {
                at += 1;
                continue;
            }
            let Deferred { id, waiting, .. } = self.deferred.remove(at);
            for (topic_partition, position) in waiting {
                if let Err(error) = self.subscribe(&id, &topic_partition, position) {
                    self.fail(&id, &error.into());
                    break;
                }
            }
        }
    }

    fn add_decoder(&mut self, source: &Source) -> Result<(), QueryError> {
        let mut needed = vec![false; source.schema.len()];
        for index in source.needed.iter().chain(source.timestamp.iter().map(|column| &column.index)) {
            if let Some(flag) = needed.get_mut(*index) {
                *flag = true;
            }
        }
        let alike = |other: &&mut SharedDecoder| {
            other.source.topic == source.topic && decodes_alike(&other.source, source)
        };
        let make = |needed: &[bool]| {
            let (key, value) = (&source.key_format, &source.value_format);
            Decoder::new(&source.schema, key, value, needed)
                .map(|decoder| decoder.with_window(source.windowed))
        };
        if let Some(shared) = self.decoders.iter_mut().find(alike) {
            let union: Vec<bool> = shared.needed.iter().zip(&needed).map(|(a, b)| *a || *b).collect();
            if union != shared.needed {
                shared.decoder = make(&union)?;
                shared.needed = union;
            }
            return Ok(());
        }
        let decoder = make(&needed)?;
        self.decoders.push(SharedDecoder { source: source.clone(), needed, decoder });
        Ok(())
    }

    fn subscribe(&mut self, id: &str, at: &TopicPartition, position: i64) -> Result<(), BusError> {
        let alive =
            |part: &&mut LanePart| part.at == *at && part.position == position && !part.queries.is_empty();
        if let Some(part) = self.lanes.iter_mut().flat_map(|lane| &mut lane.parts).find(alive) {
            part.queries.push(id.to_owned());
            return Ok(());
        }
        let internal = run_has(&self.queries, id, |run| run.sources(at).next().is_none());
        let busy = |lane: &Lane| lane.parts.iter().any(|part| part.at == *at && !part.queries.is_empty());
        let part = LanePart { at: at.clone(), position, queries: vec![id.to_owned()] };
        match self.lanes.iter_mut().find(|lane| lane.internal == internal && !busy(lane)) {
            Some(lane) => {
                lane.reader.seek(at, position)?;
                lane.reader.pause(at, false);
                lane.parts.retain(|part| part.at != *at);
                lane.parts.push(part);
            }
            None => {
                let reader = self.bus.reader(&[(at.clone(), position)])?;
                self.lanes.push(Lane { internal, reader, parts: vec![part] });
            }
        }
        Ok(())
    }

    fn unsubscribe(&mut self, id: &str) {
        self.deferred.retain(|deferred| deferred.id != id);
        for lane in &mut self.lanes {
            for part in &mut lane.parts {
                part.queries.retain(|query| query != id);
                if part.queries.is_empty() {
                    lane.reader.pause(&part.at, true);
                }
            }
        }
        self.lanes.retain(|lane| lane.parts.iter().any(|part| !part.queries.is_empty()));
    }

    /// Ends this thread's part of a query without a commit.
    pub fn close(&mut self, id: &str) {
        self.unsubscribe(id);
        self.queries.retain(|run| run.shared.plan.id != id);
        self.paused.retain(|paused| paused != id);
    }

    /// Stops reading.
    pub fn pause(&mut self, id: &str) {
        self.unsubscribe(id);
        if !self.paused.iter().any(|paused| paused == id) {
            self.paused.push(id.to_owned());
        }
    }

    /// Reads on where [`Worker::pause`] stopped.
    ///
    /// # Errors   the bus.
    pub fn resume(&mut self, id: &str) -> Result<(), QueryError> {
        self.paused.retain(|paused| paused != id);
        self.unsubscribe(id);
        self.subscribe_all(id)
    }

    fn fail(&mut self, id: &str, error: &QueryError) {
        let Some(run) = self.queries.iter().find(|run| run.shared.plan.id == id) else { return };
        let shared = Arc::clone(&run.shared);
        self.close(id);
        shared.failed.store(true, Ordering::SeqCst);
        if let Some(push) = &shared.push {
            let _ = push.try_send(Err(error.to_string()));
        }
        if !matches!(error, QueryError::Gone) {
            shared.say(format!("{id} stopped: {error}"));
        }
        shared.state().0 = QueryState::Error(error.to_string());
    }

    /// Whether there is nothing to read for anyone.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.lanes.is_empty()
    }

    /// One duty cycle; waits up to `wait` when there is nothing to do. Returns whether anything came.
    pub fn cycle(&mut self, wait: Duration) -> bool {
        let failed: Vec<String> = self
            .queries
            .iter()
            .filter(|run| run.shared.failed.load(Ordering::Relaxed))
            .map(|run| run.shared.plan.id.clone())
            .collect();
        for id in failed {
            self.close(&id);
        }
        if self.waits_for_room() {
            std::thread::sleep(ROOM_WAIT);
            self.commit_all();
            return false;
        }
        let mut began = self.clock.monotonic_ns();
        let since = self.began_ns.map_or(self.gather_ns, |at| began.saturating_sub(at));
        if since < self.gather_ns && !self.synchronous {
            std::thread::sleep(Duration::from_nanos(self.gather_ns - since));
            began = self.clock.monotonic_ns();
        }
        let sources = self.lanes.iter().filter(|lane| !lane.internal).count();
        let mut did = self.follow_up(if sources == 0 { wait } else { Duration::ZERO });
        if sources > 0 && !self.waits_for_room() {
            self.read_on(sources, wait, began, &mut did);
        }
        self.commit_all();
        if did && !self.waits_for_room() {
            self.follow_up(Duration::ZERO);
        }
        if did {
            let spent = self.clock.monotonic_ns().saturating_sub(began);
            self.gather_ns = (2 * spent).clamp(*GATHER_NS.start(), *GATHER_NS.end());
            self.began_ns = Some(began);
        }
        if !self.deferred.is_empty() {
            self.release_deferred();
        }
        self.merge_lanes();
        did
    }

    /// Whether a commit found no room on the disk: nothing more is read before it is written.
    fn waits_for_room(&self) -> bool {
        self.queries.iter().any(QueryRun::waits_for_room)
    }

    /// Reads new input until little is left or it is time to commit.
    fn read_on(&mut self, sources: usize, wait: Duration, began_ns: u64, did: &mut bool) {
        loop {
            let waiting = if *did || sources > 1 { Duration::ZERO } else { wait };
            let mut more = self.poll_lanes(false, waiting, did);
            if !*did && sources > 1 && !wait.is_zero() {
                more = self.poll_lanes(false, wait.min(Duration::from_millis(2)), did);
            }
            let late = self.clock.monotonic_ns().saturating_sub(began_ns) >= COMMIT_NS;
            if !more || late || self.killed.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// Runs and commits the later stages of queries on what stands in their repartition topics.
    fn follow_up(&mut self, wait: Duration) -> bool {
        let mut did = false;
        self.poll_lanes(true, wait, &mut did);
        if did {
            self.commit_all();
        }
        did
    }

    /// Reads every lane of one kind once and runs what came; sets `did` if anything did. Returns whether much is left.
    fn poll_lanes(&mut self, internal: bool, wait: Duration, did: &mut bool) -> bool {
        let mut more = false;
        for at in 0..self.lanes.len() {
            let Some(lane) = self.lanes.get_mut(at) else { break };
            if lane.internal != internal {
                continue;
            }
            let active = lane.parts.iter().filter(|part| !part.queries.is_empty()).count().max(1);
            match lane.reader.poll(PARTITION_BYTES.saturating_mul(active), wait) {
                Ok(mut fetched) => {
                    fetched.sort_by_key(|part| !self.is_table(&part.topic_partition));
                    for part in fetched {
                        *did = true;
                        more |= part.high_watermark - part.next_offset >= BACKLOG_RECORDS;
                        self.deliver(at, &part);
                    }
                }
                Err(error) => self.poll_failed(at, &error),
            }
        }
        more
    }

    fn is_table(&self, at: &TopicPartition) -> bool {
        self.queries.iter().any(|run| run.is_table_input(at))
    }

    fn poll_failed(&mut self, lane: usize, error: &BusError) {
        match error {
            BusError::OffsetOutOfRange { topic_partition, start, .. } => {
                tracing::warn!("{error}: reading on at {start}");
                let Some(lane) = self.lanes.get_mut(lane) else { return };
                if lane.reader.seek(topic_partition, *start).is_ok()
                    && let Some(part) = lane.parts.iter_mut().find(|part| part.at == *topic_partition)
                {
                    part.position = *start;
                }
            }
            BusError::UnknownTopic(at) => {
                let parts = self.lanes.get(lane).into_iter().flat_map(|lane| &lane.parts);
                let ids: Vec<String> =
                    parts.filter(|part| part.at == *at).flat_map(|part| part.queries.clone()).collect();
                for id in ids {
                    self.fail(&id, &QueryError::Bus(BusError::UnknownTopic(at.clone())));
                }
            }
            other => {
                tracing::warn!("cannot read: {other}; trying again");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }

    fn deliver(&mut self, lane: usize, fetched: &Fetched) {
        let at = &fetched.topic_partition;
        let part =
            self.lanes.get_mut(lane).and_then(|lane| lane.parts.iter_mut().find(|part| part.at == *at));
        let Some(part) = part else { return };
        part.position = fetched.next_offset;
        let ids = part.queries.clone();
        match self.decode(at, &ids, fetched) {
            Ok(decoded) => {
                for id in ids {
                    let fed = self.feed(&id, fetched, &decoded);
                    if let Err(error) = fed {
                        self.fail(&id, &error);
                    }
                }
            }
            Err(error) => {
                for id in ids {
                    let sentence = format!("{at} from offset {}: {error}", fetched.position);
                    self.fail(&id, &QueryError::Operator(crate::operator::OperatorError::Other(sentence)));
                }
            }
        }
    }

    fn feed(&mut self, id: &str, fetched: &Fetched, decoded: &[(Source, Decoded)]) -> Result<(), QueryError> {
        self.with(|worker, around| {
            let Some(run) = worker.queries.iter_mut().find(|run| run.shared.plan.id == id) else {
                return Ok(());
            };
            let at = &fetched.topic_partition;
            if decoded.is_empty() {
                run.feed_frames(at, &fetched.batches, fetched.position, fetched.next_offset, around)
            } else {
                run.feed(at, decoded, &fetched.batches, fetched.next_offset, around)
            }
        })
    }

    /// Decodes once per way in which the subscribed queries declare the topic; nothing for repartition topics.
    fn decode(
        &mut self,
        at: &TopicPartition,
        ids: &[String],
        fetched: &Fetched,
    ) -> Result<Vec<(Source, Decoded)>, QueryError> {
        let mut ways: Vec<Source> = Vec::new();
        for run in self.queries.iter().filter(|run| ids.contains(&run.shared.plan.id)) {
            for source in run.sources(at) {
                if !ways.iter().any(|other| decodes_alike(other, source)) {
                    ways.push(source.clone());
                }
            }
        }
        let mut all = Vec::with_capacity(ways.len());
        for source in ways {
            let shared = self
                .decoders
                .iter_mut()
                .find(|shared| shared.source.topic == source.topic && decodes_alike(&shared.source, &source));
            if let Some(shared) = shared {
                all.push((source, shared.decoder.decode(&fetched.batches, fetched.position)?));
            }
        }
        Ok(all)
    }

    fn commit_all(&mut self) {
        if self.killed.load(Ordering::Relaxed) {
            return;
        }
        let failed = self.with(|worker, around| {
            let mut failed = Vec::new();
            for run in &mut worker.queries {
                if let Err(error) = run.commit(around) {
                    failed.push((run.shared.plan.id.clone(), error));
                }
            }
            failed
        });
        for (id, error) in failed {
            self.fail(&id, &error);
        }
    }

    /// Queries that have caught up with each other read together from now on.
    fn merge_lanes(&mut self) {
        let mut at = 1;
        while at < self.lanes.len() {
            let (before, rest) = self.lanes.split_at_mut(at);
            let lane = &mut rest[0];
            for part in lane.parts.iter_mut().filter(|part| !part.queries.is_empty()) {
                let same = |other: &&mut LanePart| {
                    other.at == part.at && other.position == part.position && !other.queries.is_empty()
                };
                if let Some(other) = before.iter_mut().flat_map(|lane| &mut lane.parts).find(same) {
                    other.queries.append(&mut part.queries);
                    lane.reader.pause(&part.at, true);
                }
            }
            if lane.parts.iter().all(|part| part.queries.is_empty()) {
                self.lanes.remove(at);
            } else {
                at += 1;
            }
        }
    }

    /// Reads materialised state of this thread.
    ///
    /// # Errors   damaged state.
    pub fn pull(&mut self, id: &str, scan: &Scan) -> Result<Vec<Rows>, QueryError> {
        self.with(|worker, around| match worker.queries.iter_mut().find(|run| run.shared.plan.id == id) {
            Some(run) => run.pull(scan, around),
            None => Ok(Vec::new()),
        })
    }

    /// Synchronous mode: feeds one query up to `rows_max` records of `at`, one by one, each to quiescence.
    ///
    /// # Errors   what stopped the query.
    pub fn step_query(
        &mut self,
        id: &str,
        at: &TopicPartition,
        rows_max: usize,
    ) -> Result<usize, QueryError> {
        if self.paused.iter().any(|paused| paused == id) {
            return Ok(0);
        }
        let mut read = 0;
        while read < rows_max {
            match self.step_once(id, at) {
                Ok(true) => read += 1,
                Ok(false) => break,
                Err(error) => {
                    self.fail(id, &error);
                    return Err(error);
                }
            }
        }
        Ok(read)
    }

    /// One record of `at`, and all that follows from it.
    fn step_once(&mut self, id: &str, at: &TopicPartition) -> Result<bool, QueryError> {
        let Some(run) = self.queries.iter().find(|run| run.shared.plan.id == id) else { return Ok(false) };
        let Some(position) = run.positions.get(at).copied() else { return Ok(false) };
        let Some(fetched) = self.fetch(at, position)? else { return Ok(false) };
        let one = first_record(fetched)?;
        let decoded = self.decode(at, &[id.to_owned()], &one)?;
        self.feed(id, &one, &decoded)?;
        self.commit(id)?;
        loop {
            let run = self.queries.iter().find(|run| run.shared.plan.id == id);
            let internal: Vec<(TopicPartition, i64)> = run
                .into_iter()
                .flat_map(|run| run.positions.iter().filter(|(at, _)| run.sources(at).next().is_none()))
                .map(|(at, position)| (at.clone(), *position))
                .collect();
            let mut moved = false;
            for (at, position) in internal {
                if let Some(fetched) = self.fetch(&at, position)? {
                    self.feed(id, &fetched, &[])?;
                    self.commit(id)?;
                    moved = true;
                }
            }
            if !moved {
                return Ok(true);
            }
        }
    }

    fn commit(&mut self, id: &str) -> Result<(), QueryError> {
        self.with(|worker, around| match worker.queries.iter_mut().find(|run| run.shared.plan.id == id) {
            Some(run) => run.commit(around),
            None => Ok(()),
        })
    }

    fn fetch(&self, at: &TopicPartition, position: i64) -> Result<Option<Fetched>, QueryError> {
        if position >= self.bus.offsets(at)?.end {
            return Ok(None);
        }
        let mut reader = self.bus.reader(&[(at.clone(), position)])?;
        Ok(reader.poll(1, Duration::from_millis(200))?.into_iter().next())
    }

    /// Synchronous mode: every query one record of every partition that has one.
    ///
    /// # Errors   what stopped a query.
    pub fn step(&mut self) -> Result<bool, QueryError> {
        let ids: Vec<String> = self.queries.iter().map(|run| run.shared.plan.id.clone()).collect();
        let mut did = false;
        for id in ids {
            let run = self.queries.iter().find(|run| run.shared.plan.id == id);
            let inputs: Vec<TopicPartition> = run
                .into_iter()
                .flat_map(|run| run.positions.keys().filter(|at| run.sources(at).next().is_some()))
                .cloned()
                .collect();
            for at in inputs {
                did |= self.step_query(&id, &at, 1)? > 0;
            }
        }
        Ok(did)
    }
}

fn run_has(queries: &[QueryRun], id: &str, test: impl Fn(&QueryRun) -> bool) -> bool {
    queries.iter().find(|run| run.shared.plan.id == id).is_some_and(test)
}

/// Cuts a fetch down to its first record.
fn first_record(fetched: Fetched) -> Result<Fetched, QueryError> {
    let Some(batch) = fetched.batches.first() else { return Ok(fetched) };
    for record in batch.records()?.iter() {
        let record = record?;
        if record.offset < fetched.position {
            continue;
        }
        let mut builder = herdsman_record::BatchBuilder::new();
        builder.append_encoded(record.timestamp_ms, record.key, record.value, record.headers);
        let one = builder.finish(herdsman_record::Compression::None)?.with_base_offset(record.offset, 0);
        let next_offset = record.offset + 1;
        return Ok(Fetched { batches: vec![one], position: record.offset, next_offset, ..fetched });
    }
    Ok(fetched)
}
