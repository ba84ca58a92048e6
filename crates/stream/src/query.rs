//! One query as it runs on one thread: its tasks, what waits to be committed, what users see of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use herdsman_bus::{Bus, BusError, Committer};
use herdsman_formats::{Decoded, RowError};
use herdsman_record::{Batch, TopicPartition};

use crate::dead_letter::{failure_sentence, letter};
use crate::frame;
use crate::keys::arrow_types;
use crate::operator::{Context, Failure, Late, OperatorError, Scan};
use crate::plan::{QueryPlan, Sink, Source};
pub use crate::query_shared::{QueryError, QueryShared};
use crate::reports::Reports;
use crate::rows::Rows;
use crate::runtime::{CacheLookup, StartAt};
use crate::sink::{Outbox, Repartitioner, SinkWriter, WATERMARK_HEADER, read_mark};
use crate::source::{TimeReader, rows_of, wrong_time_unit};
use crate::task::Task;
use crate::topology::{Input, Output, StageEnv};

/// A commit that the bus cannot take now is tried again so often, after 50 ms, 100 ms … 3.2 s.
const COMMIT_TRIES: u32 = 7;

/// What a query needs from the thread for one piece of work.
pub struct Surroundings<'a> {
    /// The bus.
    pub bus: &'a Arc<dyn Bus>,
    /// Wall clock of the cycle, ms.
    pub now_ms: i64,
    /// Caches.
    pub guards: &'a HashMap<String, Arc<dyn CacheLookup>>,
    /// Most rows at once.
    pub rows_max: usize,
    /// No threads, no watermarks: stream time is what a processor observes.
    pub synchronous: bool,
}

/// Outputs and positions of one commit that found no room.
struct Unwritten {
    batches: Vec<(TopicPartition, Batch)>,
    offsets: Vec<(TopicPartition, i64)>,
    told: bool,
}

/// An input of a task: task index, source index.
type Feed = (usize, usize);

/// A query's part on one thread.
pub struct QueryRun {
    /// What everybody knows.
    pub shared: Arc<QueryShared>,
    tasks: Vec<Task>,
    feeds: HashMap<TopicPartition, Vec<Feed>>,
    times: HashMap<(usize, usize), TimeReader>,
    /// Sources with a timestamp column of which no row was seen yet.
    times_unchecked: HashSet<(usize, usize)>,
    committer: Option<Box<dyn Committer>>,
    sink: Option<SinkWriter>,
    repartitioners: HashMap<usize, Repartitioner>,
    outbox: Outbox,
    /// Next offset per input partition.
    pub positions: BTreeMap<TopicPartition, i64>,
    moved: bool,
    unwritten: Option<Unwritten>,
    reports: Reports,
    dead_letters: Option<TopicPartition>,
}

impl QueryRun {
    /// Makes the tasks of thread `thread` of `threads`, restores their state and finds their positions.
    ///
    /// # Errors   a sentence for the user.
    pub fn open(
        shared: &Arc<QueryShared>,
        thread: usize,
        threads: usize,
        around: &Surroundings<'_>,
    ) -> Result<Self, QueryError> {
        let mine = |partition: &i32| usize::try_from(*partition).unwrap_or(0) % threads.max(1) == thread;
        let mut run = Self {
            shared: Arc::clone(shared),
            tasks: Vec::new(),
            feeds: HashMap::new(),
            times: HashMap::new(),
            times_unchecked: HashSet::new(),
            committer: match shared.push {
                Some(_) => None,
                None => Some(around.bus.committer(&format!("{}-{thread}", shared.group))?),
            },
            sink: SinkWriter::new(&shared.plan.sink, shared.sink_window, shared.sink_partitions)?,
            repartitioners: HashMap::new(),
            outbox: Outbox::default(),
            positions: BTreeMap::new(),
            moved: true,
            unwritten: None,
            reports: Reports::default(),
            dead_letters: None,
        };
        for (number, stage) in shared.topology.stages.iter().enumerate() {
            if let Output::Repartition { schema, key_format } = &stage.output {
                let topic = shared.repartition_topic(number);
                let partitions = around.bus.topic(&topic)?.map_or(1, |topic| topic.partitions);
                run.repartitioners
                    .insert(number, Repartitioner::new(&topic, partitions, schema, key_format)?);
            }
            let observe = !around.synchronous && stage.partitions > 1;
            for partition in (0..stage.partitions).filter(mine) {
                run.add_task(number, partition, StageEnv { observe }, around)?;
            }
        }
        Ok(run)
    }

    fn add_task(
        &mut self,
        number: usize,
        partition: i32,
        env: StageEnv,
        around: &Surroundings<'_>,
    ) -> Result<(), QueryError> {
        let shared = Arc::clone(&self.shared);
        let stage = &shared.topology.stages[number];
        let mut task = Task::new(number, stage, partition, env)?;
        for (index, source) in stage.sources.iter().enumerate() {
            let topic = shared.input_topic(&source.input);
            let at = TopicPartition::new(topic.as_str(), partition);
            match &source.input {
                Input::Topic { source, .. } => {
                    if let Some(column) = &source.timestamp {
                        let ty = source.schema.columns().nth(column.index).map(|column| column.ty.clone());
                        let ty =
                            ty.ok_or_else(|| OperatorError::Other("TIMESTAMP names no column".into()))?;
                        let reader = TimeReader::new(column, &ty).map_err(OperatorError::Other)?;
                        self.times.insert((number, index), reader);
                        self.times_unchecked.insert((number, index));
                    }
                }
                Input::Repartition { .. } => {
                    task.upstreams[index] = shared.upstreams(&source.input, around.synchronous);
                }
            }
            let internal = matches!(source.input, Input::Repartition { .. });
            let mut inputs = vec![at];
            if shared.gather && !internal {
                let count = around.bus.topic(&topic)?.map_or(1, |topic| topic.partitions);
                inputs = (0..count).map(|partition| TopicPartition::new(topic.as_str(), partition)).collect();
            }
            for at in inputs {
                self.feeds.entry(at.clone()).or_default().push((self.tasks.len(), index));
                let position = self.start_of(&at, internal, around.bus)?;
                shared.positions().insert(at.clone(), position);
                self.positions.insert(at, position);
            }
        }
        if shared.push.is_none() {
            for store in task.stores() {
                let at = TopicPartition::new(shared.changelog_topic(number, store).as_str(), partition);
                restore(around.bus, &at, |key, value| task.restore(store, key, value))?;
            }
        }
        task.active_ms = around.now_ms;
        self.tasks.push(task);
        Ok(())
    }

    fn start_of(&self, at: &TopicPartition, internal: bool, bus: &Arc<dyn Bus>) -> Result<i64, QueryError> {
        let range = bus.offsets(at)?;
        let committed = match self.shared.push {
            Some(_) => None,
            None => bus.committed(&self.shared.group, std::slice::from_ref(at))?.into_iter().next().flatten(),
        };
        Ok(match committed {
            Some(offset) => offset.clamp(range.start, range.end),
            None if internal || self.shared.start == StartAt::Earliest => range.start,
            None => range.end,
        })
    }

    /// All sources that read `at`.
    pub fn sources(&self, at: &TopicPartition) -> impl Iterator<Item = &Source> {
        self.feeds.get(at).into_iter().flatten().filter_map(|(task, source)| {
            match &self.shared.topology.stages[self.tasks[*task].stage].sources[*source].input {
                Input::Topic { source, .. } => Some(&**source),
                Input::Repartition { .. } => None,
            }
        })
    }

    /// Table inputs with the offset to which they are read before stream inputs begin, so that a join finds what was
    /// there when its query started.
    ///
    /// # Errors   the bus.
    pub fn tables_first(&self, bus: &Arc<dyn Bus>) -> Result<Vec<(TopicPartition, i64)>, QueryError> {
        let behind = |(at, position): (&TopicPartition, &i64)| match bus.offsets(at) {
            Ok(range) if self.is_table_input(at) && *position < range.end => {
                Some(Ok((at.clone(), range.end)))
            }
            Ok(_) => None,
            Err(error) => Some(Err(error.into())),
        };
        self.positions.iter().filter_map(behind).collect()
    }

    /// Whether `at` is read as a table (tables go first when both have rows).
    #[must_use]
    pub fn is_table_input(&self, at: &TopicPartition) -> bool {
        self.feeds.get(at).into_iter().flatten().any(|(task, source)| {
            let input = &self.shared.topology.stages[self.tasks[*task].stage].sources[*source].input;
            matches!(input, Input::Topic { is_table: true, .. })
        })
    }

    /// Runs decoded records of user topic partition `at`; `batches` are where they came from. Sources that are
    /// declared differently over the same topic have their own entry in `decoded`.
    ///
    /// # Errors   what stops the query.
    pub fn feed(
        &mut self,
        at: &TopicPartition,
        decoded: &[(Source, Decoded)],
        batches: &[Batch],
        next_offset: i64,
        around: &Surroundings<'_>,
    ) -> Result<(), QueryError> {
        let shared = Arc::clone(&self.shared);
        let feeds = self.feeds.get(at).cloned().unwrap_or_default();
        let mut failures = Vec::new();
        let mut used: Vec<usize> = Vec::new();
        for (task, index) in feeds {
            let stage = self.tasks[task].stage;
            let Input::Topic { source, .. } = &shared.topology.stages[stage].sources[index].input else {
                continue;
            };
            let found = decoded.iter().position(|(other, _)| decodes_alike(other, source));
            let Some((found, decoded)) = found.and_then(|found| Some((found, &decoded.get(found)?.1))) else {
                continue;
            };
            if used.is_empty() {
                let rows = decoded.len() + decoded.errors.len();
                shared.rows_in.fetch_add(rows as u64, Ordering::Relaxed);
                self.reports.read(&at.topic, rows);
            }
            if !used.contains(&found) {
                used.push(found);
            }
            let mut ctx = context(around, &self.tasks[task]);
            let rows = rows_of(decoded, source, self.times.get(&(stage, index)), at.partition, &mut ctx)?;
            failures.append(&mut ctx.failures);
            if !rows.is_empty() && self.times_unchecked.remove(&(stage, index)) {
                wrong_time_unit(source, &rows).into_iter().for_each(|sentence| shared.say(sentence));
            }
            if let (true, Some(first)) = (shared.key_checks.open(), decoded.offsets.first()) {
                shared.key_checks.look(source, batches, *first, around.now_ms)?;
            }
            self.run(task, index, &rows, around, &mut failures)?;
        }
        let errors: Vec<&RowError> = used.iter().flat_map(|found| &decoded[*found].1.errors).collect();
        self.dead_letters(at, &errors, &failures, batches, around)?;
        self.positions.insert(at.clone(), next_offset);
        self.moved = true;
        Ok(())
    }

    /// Runs the records of repartition topic partition `at` from `position` on.
    ///
    /// # Errors   what stops the query.
    pub fn feed_frames(
        &mut self,
        at: &TopicPartition,
        batches: &[Batch],
        position: i64,
        next_offset: i64,
        around: &Surroundings<'_>,
    ) -> Result<(), QueryError> {
        let shared = Arc::clone(&self.shared);
        let feeds = self.feeds.get(at).cloned().unwrap_or_default();
        let mut failures = Vec::new();
        for batch in batches.iter().filter(|batch| !batch.header().is_control()) {
            for record in batch.records()?.iter() {
                let record = record?;
                if record.offset < position {
                    continue;
                }
                for (task, index) in feeds.iter().copied() {
                    let source = &shared.topology.stages[self.tasks[task].stage].sources[index];
                    match record.value {
                        Some(bytes) => {
                            let types: Vec<_> =
                                source.schema.key.iter().chain(&source.schema.value).cloned().collect();
                            let rows = frame::decode(bytes, &arrow_types(&types), source.schema.key.len())
                                .map_err(OperatorError::from)?;
                            self.run(task, index, &rows, around, &mut failures)?;
                        }
                        None => self.mark(task, index, record.headers.get(WATERMARK_HEADER)),
                    }
                }
            }
        }
        for (task, _) in feeds {
            self.advance(task, around, &mut failures)?;
        }
        self.dead_letters(at, &[], &failures, &[], around)?;
        self.positions.insert(at.clone(), next_offset);
        self.moved = true;
        Ok(())
    }

    fn mark(&mut self, task: usize, index: usize, value: Option<&[u8]>) {
        let mark = value.and_then(read_mark);
        if let (Some((partition, time, idle)), Some(upstreams)) =
            (mark, &mut self.tasks[task].upstreams[index])
        {
            upstreams.advance(partition, time, idle);
        }
    }

    fn run(
        &mut self,
        task: usize,
        source: usize,
        rows: &Rows,
        around: &Surroundings<'_>,
        failures: &mut Vec<Failure>,
    ) -> Result<(), QueryError> {
        let step = around.rows_max.max(1);
        let mut start = 0;
        while start < rows.len() {
            let len = step.min(rows.len() - start);
            let part = if len == rows.len() { rows.clone() } else { rows.slice(start, len) };
            let mut ctx = context(around, &self.tasks[task]);
            let mut out = Vec::new();
            self.tasks[task].push(source, part, &mut ctx, &mut out)?;
            self.tasks[task].active_ms = around.now_ms;
            if self.repartitioners.contains_key(&self.tasks[task].stage) {
                self.shared.activity.note(around.now_ms);
            }
            self.emit(task, out, ctx, failures)?;
            start += len;
        }
        Ok(())
    }

    fn advance(
        &mut self,
        task: usize,
        around: &Surroundings<'_>,
        failures: &mut Vec<Failure>,
    ) -> Result<(), QueryError> {
        let mut ctx = context(around, &self.tasks[task]);
        let mut out = Vec::new();
        self.tasks[task].advance(&mut ctx, &mut out)?;
        self.emit(task, out, ctx, failures)
    }

    fn emit(
        &mut self,
        task: usize,
        out: Vec<Rows>,
        mut ctx: Context<'_>,
        failures: &mut Vec<Failure>,
    ) -> Result<(), QueryError> {
        let (stage, partition) = (self.tasks[task].stage, self.tasks[task].partition);
        for rows in out {
            match self.repartitioners.get_mut(&stage) {
                Some(repartitioner) => repartitioner.write(&rows, partition, &mut self.outbox)?,
                None => {
                    self.shared.rows_out.fetch_add(rows.len() as u64, Ordering::Relaxed);
                    match (&mut self.sink, &self.shared.push) {
                        (Some(sink), _) => sink.write(&rows, partition, &mut ctx, &mut self.outbox)?,
                        (None, Some(push)) => send(push, rows)?,
                        (None, None) => {}
                    }
                }
            }
        }
        failures.append(&mut ctx.failures);
        if ctx.late.count > 0 {
            self.shared.late.fetch_add(ctx.late.count, Ordering::Relaxed);
            self.reports.late(&ctx.late);
        }
        Ok(())
    }

    fn dead_letters(
        &mut self,
        at: &TopicPartition,
        errors: &[&RowError],
        failures: &[Failure],
        batches: &[Batch],
        around: &Surroundings<'_>,
    ) -> Result<(), QueryError> {
        if errors.is_empty() && failures.is_empty() {
            return Ok(());
        }
        let count = errors.len() + failures.len();
        self.shared.errors.fetch_add(count as u64, Ordering::Relaxed);
        self.reports.failed(&at.topic, count, || match (errors.first(), failures.first()) {
            (Some(error), _) => error.sentence(at),
            (None, failure) => failure.map(|failure| failure_sentence(at, failure)).unwrap_or_default(),
        });
        if self.shared.push.is_some() {
            return Ok(());
        }
        let letters = self.dead_letter_partition(around.bus)?;
        for error in errors {
            let reason = error.sentence(at);
            let (key, value) = (error.key.as_deref(), error.value.as_deref());
            letter(&mut self.outbox, &letters, at, Some(error.offset), (around.now_ms, &reason), key, value)?;
        }
        let mut raw: HashMap<i64, Vec<&Failure>> = HashMap::new();
        for failure in failures {
            match failure.offset {
                Some(offset) => raw.entry(offset).or_default().push(failure),
                None => {
                    let reason = failure_sentence(at, failure);
                    letter(&mut self.outbox, &letters, at, None, (around.now_ms, &reason), None, None)?;
                }
            }
        }
        let batches = if raw.is_empty() { &[] } else { batches };
        for batch in batches {
            for record in batch.records()?.iter() {
                let record = record?;
                for failure in raw.remove(&record.offset).unwrap_or_default() {
                    let reason = failure_sentence(at, failure);
                    let offset = Some(record.offset);
                    letter(
                        &mut self.outbox,
                        &letters,
                        at,
                        offset,
                        (around.now_ms, &reason),
                        record.key,
                        record.value,
                    )?;
                }
            }
        }
        Ok(())
    }

    fn dead_letter_partition(&mut self, bus: &Arc<dyn Bus>) -> Result<TopicPartition, QueryError> {
        if let Some(at) = &self.dead_letters {
            return Ok(at.clone());
        }
        let topic = self.shared.dead_letter_topic();
        let spec = herdsman_bus::TopicSpec { name: topic.clone(), partitions: 1, ..Default::default() };
        match bus.create_topic(&spec) {
            Ok(()) | Err(BusError::TopicExists(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let at = TopicPartition::new(topic.as_str(), 0);
        self.dead_letters = Some(at.clone());
        Ok(at)
    }

    /// Writes stream times, changelogs, outputs and positions together. On a full disk they wait for room:
    /// [`QueryRun::waits_for_room`] says so until a later call has written them.
    ///
    /// # Errors   what stops the query; nothing was written then.
    pub fn commit(&mut self, around: &Surroundings<'_>) -> Result<(), QueryError> {
        if let Some(unwritten) = self.unwritten.take() {
            return self.write(unwritten);
        }
        self.mark_stream_times(around)?;
        self.report(around.now_ms);
        if !self.moved && self.outbox.is_empty() {
            return Ok(());
        }
        if self.committer.is_some() {
            for task in &mut self.tasks {
                for store in task.stores() {
                    let at = TopicPartition::new(
                        self.shared.changelog_topic(task.stage, store).as_str(),
                        task.partition,
                    );
                    let (outbox, now_ms) = (&mut self.outbox, around.now_ms);
                    let mut failed = None;
                    let index = outbox.index_of(&at);
                    task.drain_changes(store, &mut |key, value| match outbox.builder_at(index) {
                        Ok(builder) => builder.append(now_ms, Some(key), value, &[]),
                        Err(error) => failed = Some(error),
                    });
                    if let Some(error) = failed {
                        return Err(error.into());
                    }
                }
            }
            let offsets = self.positions.iter().map(|(at, offset)| (at.clone(), *offset)).collect();
            let batches = self.outbox.take()?;
            return self.write(Unwritten { batches, offsets, told: false });
        }
        for (at, batch) in self.outbox.take()? {
            around.bus.produce(&at, batch)?;
        }
        self.written();
        Ok(())
    }

    /// Whether what was computed waits for room on the disk; nothing more may be fed meanwhile.
    #[must_use]
    pub fn waits_for_room(&self) -> bool {
        self.unwritten.is_some()
    }

    fn write(&mut self, mut unwritten: Unwritten) -> Result<(), QueryError> {
        let Some(committer) = &mut self.committer else { return Ok(()) };
        let mut tries = 0;
        while let Err(error) =
            committer.commit(unwritten.batches.clone(), &self.shared.group, &unwritten.offsets)
        {
            if let BusError::NoSpace(sentence) = error {
                if !std::mem::replace(&mut unwritten.told, true) {
                    self.shared.say(sentence);
                }
                self.unwritten = Some(unwritten);
                return Ok(());
            }
            if !matches!(error, BusError::Unavailable { .. }) || tries == COMMIT_TRIES {
                return Err(error.into());
            }
            tracing::warn!(query = %self.shared.plan.id, "cannot commit: {error}; trying again");
            std::thread::sleep(Duration::from_millis(50 << tries));
            tries += 1;
        }
        self.written();
        Ok(())
    }

    fn written(&mut self) {
        self.moved = false;
        let mut seen = self.shared.positions();
        for (at, offset) in &self.positions {
            seen.insert(at.clone(), *offset);
        }
    }

    fn report(&mut self, now_ms: i64) {
        let shared = Arc::clone(&self.shared);
        let kept_in = shared.push.is_none().then(|| shared.dead_letter_topic());
        let told = [
            self.reports.take_late(&shared.plan.id, now_ms),
            self.reports.take_failed(kept_in.as_deref(), now_ms),
            shared.key_checks.open().then(|| shared.key_checks.judge(now_ms)).flatten(),
        ];
        told.into_iter().flatten().for_each(|sentence| shared.say(sentence));
    }

    fn mark_stream_times(&mut self, around: &Surroundings<'_>) -> Result<(), QueryError> {
        for (number, task) in self.tasks.iter_mut().enumerate() {
            let Some(repartitioner) = self.repartitioners.get(&task.stage) else { continue };
            let Some(mut time) = task.stream_time() else { continue };
            if task.upstreams.iter().any(Option::is_some) {
                time = task.watermark;
            }
            let idle = self.shared.activity.outran(task.active_ms, around.now_ms)
                && (task.idle_sent || has_read_all(&self.feeds, &self.positions, number, around.bus));
            if time > task.sent_watermark {
                task.sent_watermark = time;
                task.idle_sent = false;
                repartitioner.mark(task.partition, time, false, &mut self.outbox)?;
            } else if idle && !task.idle_sent {
                task.idle_sent = true;
                repartitioner.mark(task.partition, time, true, &mut self.outbox)?;
            } else if !idle && task.idle_sent {
                task.idle_sent = false;
                repartitioner.mark(task.partition, time, false, &mut self.outbox)?;
            }
        }
        Ok(())
    }

    /// Reads materialised state of this thread's tasks.
    ///
    /// # Errors   damaged state.
    pub fn pull(&mut self, scan: &Scan, around: &Surroundings<'_>) -> Result<Vec<Rows>, QueryError> {
        let Some(at) = self.shared.topology.materialised else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for task in self.tasks.iter_mut().filter(|task| task.stage == 0) {
            let mut ctx = context(around, task);
            all.extend(task.pull(at, scan, &mut ctx)?);
        }
        Ok(all)
    }
}

/// Whether task `number` has read every record of its inputs.
fn has_read_all(
    feeds: &HashMap<TopicPartition, Vec<Feed>>,
    positions: &BTreeMap<TopicPartition, i64>,
    number: usize,
    bus: &Arc<dyn Bus>,
) -> bool {
    let behind = |at: &TopicPartition| {
        positions.get(at).is_some_and(|position| bus.offsets(at).is_ok_and(|range| *position < range.end))
    };
    !feeds.iter().any(|(at, feeds)| feeds.iter().any(|(task, _)| *task == number) && behind(at))
}

fn context<'a>(around: &Surroundings<'a>, task: &Task) -> Context<'a> {
    Context {
        now_ms: around.now_ms,
        guards: around.guards,
        merged: task.upstreams.iter().any(Option::is_some),
        partition: task.partition,
        late: Late::default(),
        failures: Vec::new(),
    }
}

fn send(push: &SyncSender<Result<Rows, String>>, rows: Rows) -> Result<(), QueryError> {
    match push.try_send(Ok(rows)) {
        Ok(()) => Ok(()),
        Err(TrySendError::Disconnected(_)) => Err(QueryError::Gone),
        Err(TrySendError::Full(_)) => Err(QueryError::Slow),
    }
}

/// Reads a changelog partition from its start to its end.
fn restore(
    bus: &Arc<dyn Bus>,
    at: &TopicPartition,
    mut apply: impl FnMut(&[u8], Option<&[u8]>) -> Result<(), OperatorError>,
) -> Result<(), QueryError> {
    let range = bus.offsets(at)?;
    let mut position = range.start;
    let mut reader = bus.reader(&[(at.clone(), position)])?;
    let mut empty = 0;
    while position < range.end && empty < 20 {
        let fetched = reader.poll(8 << 20, Duration::from_millis(250))?;
        empty = if fetched.is_empty() { empty + 1 } else { 0 };
        for part in fetched {
            for batch in part.batches.iter().filter(|batch| !batch.header().is_control()) {
                for record in batch.records()?.iter() {
                    let record = record?;
                    if let (true, Some(key)) = (record.offset >= part.position, record.key) {
                        apply(key, record.value)?;
                    }
                }
            }
            position = part.next_offset;
        }
    }
    Ok(())
}

/// Whether two sources can share one decoder.
#[must_use]
pub fn decodes_alike(a: &Source, b: &Source) -> bool {
    a.schema == b.schema
        && a.key_format == b.key_format
        && a.value_format == b.value_format
        && a.windowed == b.windowed
}

/// Topic of the sink, if there is one.
#[must_use]
pub fn sink_topic(plan: &QueryPlan) -> Option<&str> {
    match &plan.sink {
        Sink::Topic { topic, .. } => Some(topic),
        Sink::Push { .. } => None,
    }
}
