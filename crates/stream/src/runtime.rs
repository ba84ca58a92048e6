//! Runs query plans: threads, tasks, reads, commits; what the SQL room and the server call.
//!
//! Work is split by partition: the thread of partition `p` of every topic is `p % threads`, so joins are co-located.
//! One duty cycle of a thread: poll, decode, run each query's chain, commit. Nothing is configured about batches:
//! a cycle takes what is there.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use herdsman_bus::{Bus, BusError, TopicSpec};
use herdsman_host::Clock;
use herdsman_record::TopicPartition;

use crate::Rows;
use crate::idleness::Activity;
use crate::key_check::KeyChecks;
use crate::operator::Scan;
use crate::plan::QueryPlan;
use crate::pull::key_columns;
pub use crate::pull::{PullKeys, PullRequest};
use crate::query::{QueryError, QueryShared, sink_topic};
pub use crate::status::{QueryState, QueryStatus, StartAt};
use crate::topology::{self, Input, Output};
use crate::worker::{Guards, Worker, WorkerParts};

/// A cache that can be asked for many keys at once: the guard, or a stand-in in tests.
pub trait CacheLookup: Send + Sync {
    /// Values of `keys` (unique within the call), `None` where the cache and the system of record know nothing.
    /// `counts[i]` is how many rows of the batch need `keys[i]`; it only changes what is counted.
    ///
    /// # Errors   a sentence for the log; the rows of the batch then join with nothing and are counted as errors.
    fn get_many(&self, keys: &[Bytes], counts: &[u32]) -> Result<Vec<Option<Bytes>>, String>;
}

impl CacheLookup for herdsman_guard::Guard {
    fn get_many(&self, keys: &[Bytes], counts: &[u32]) -> Result<Vec<Option<Bytes>>, String> {
        let mut values = Vec::with_capacity(keys.len());
        self.get_many_into(keys, counts, herdsman_guard::Lane::Normal, &mut values)
            .map_err(|error| error.to_string())?;
        Ok(values)
    }
}

/// How a runtime works.
#[derive(Clone)]
pub struct RuntimeConfig {
    /// Worker threads.
    pub threads: usize,
    /// ksqlDB's service id, for example `default_`; consumer group of query `id` is `_confluent-ksql-<service_id>query_<id>`.
    pub service_id: String,
    /// Caches by the name that `CACHE='…'` gives.
    pub guards: HashMap<String, Arc<dyn CacheLookup>>,
    /// At most this many rows go through a chain at once (16,384; tests use less).
    pub batch_rows_max: usize,
    /// No threads: [`Runtime::step`] and [`Runtime::step_query`] do the work, one row at a time, in one task that
    /// reads all partitions and writes partition 0, without repartition topics.
    pub synchronous: bool,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            threads: 1,
            service_id: "default_".to_owned(),
            guards: HashMap::new(),
            batch_rows_max: 16_384,
            synchronous: false,
        }
    }
}

/// Why the runtime refuses.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// A query of that id runs already.
    #[error("query {0} is running already: terminate it first")]
    QueryExists(String),
    /// No such query.
    #[error("no query {0}: SHOW QUERIES lists what runs")]
    UnknownQuery(String),
    /// A source topic is missing.
    #[error("query {query} reads topic {topic}, which does not exist: create it first")]
    MissingTopic {
        /// The query.
        query: String,
        /// The topic.
        topic: String,
    },
    /// The plan cannot run as it is.
    #[error("query {query} cannot run: {reason}")]
    Plan {
        /// The query.
        query: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The query has no materialised state.
    #[error("query {0} keeps no state that a pull query could read: it does not write a table")]
    NotMaterialised(String),
    /// The query stopped.
    #[error("query {query} stopped: {reason}")]
    Failed {
        /// The query.
        query: String,
        /// Why.
        reason: String,
    },
    /// Only in synchronous mode.
    #[error("step works only on a synchronous runtime: this one has threads")]
    NotSynchronous,
    /// No thread to be had.
    #[error("cannot start a stream thread ({0}): raise the limit of processes")]
    Thread(String),
    /// The runtime was shut down.
    #[error("the stream runtime has been shut down")]
    ShutDown,
    /// Its internals cannot be made.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The bus.
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// Rows of a push query, in order; dropping it ends the query.
pub struct PushReceiver {
    pub(crate) rows: std::sync::mpsc::Receiver<Result<Rows, String>>,
}

impl PushReceiver {
    /// The next rows; `Ok(None)` after `timeout` without any.
    ///
    /// # Errors   the sentence with which the query ended.
    pub fn recv(&self, timeout: Duration) -> Result<Option<Rows>, String> {
        use std::sync::mpsc::RecvTimeoutError;
        match self.rows.recv_timeout(timeout) {
            Ok(rows) => rows.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err("the query was terminated".to_owned()),
        }
    }
}

/// Batches that may wait for a push query's client.
const PUSH_QUEUE: usize = 256;
/// How long a thread waits for records before it looks at its mailbox.
const WAIT: Duration = Duration::from_millis(10);

type Reply<T> = mpsc::Sender<Result<T, String>>;

enum Command {
    Open(Arc<QueryShared>, Reply<()>),
    Close(String, Reply<()>),
    Pause(String, Reply<()>),
    Resume(String, Reply<()>),
    Pull(String, Scan, Reply<Vec<Rows>>),
    Stop,
}

enum Engine {
    Threads(Vec<(mpsc::Sender<Command>, Option<JoinHandle<()>>)>),
    Here(Box<Worker>),
    Stopped,
}

/// A handle on the running queries; clones share them.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

struct Inner {
    bus: Arc<dyn Bus>,
    config: RuntimeConfig,
    guards: Guards,
    killed: Arc<AtomicBool>,
    engine: Mutex<Engine>,
    queries: Mutex<BTreeMap<String, Arc<QueryShared>>>,
}

/// The last handle is gone without [`Runtime::shutdown`]: the threads end at once and commit nothing more.
impl Drop for Inner {
    fn drop(&mut self) {
        self.killed.store(true, Ordering::SeqCst);
        if let Ok(Engine::Threads(threads)) = self.engine.get_mut() {
            for (mailbox, thread) in threads {
                let _ = mailbox.send(Command::Stop);
                if let Some(thread) = thread.take() {
                    let _ = thread.join();
                }
            }
        }
    }
}

impl Runtime {
    /// Starts the threads (none in synchronous mode).
    ///
    /// # Errors   the operating system refuses a thread.
    pub fn new(
        bus: Arc<dyn Bus>,
        clock: Arc<dyn Clock>,
        config: RuntimeConfig,
    ) -> Result<Self, RuntimeError> {
        let guards: Guards = Arc::new(RwLock::new(config.guards.clone()));
        let killed = Arc::new(AtomicBool::new(false));
        let threads = if config.synchronous { 1 } else { config.threads.max(1) };
        let worker = |thread| {
            Worker::new(WorkerParts {
                thread,
                threads,
                bus: Arc::clone(&bus),
                clock: Arc::clone(&clock),
                guards: Arc::clone(&guards),
                rows_max: if config.synchronous { 1 } else { config.batch_rows_max },
                synchronous: config.synchronous,
                killed: Arc::clone(&killed),
            })
        };
        let engine = if config.synchronous {
            Engine::Here(Box::new(worker(0)))
        } else {
            let mut all = Vec::new();
            for thread in 0..threads {
                let (mailbox, commands) = mpsc::channel();
                let worker = worker(thread);
                let killed = Arc::clone(&killed);
                let handle = std::thread::Builder::new()
                    .name(format!("stream-{thread}"))
                    .spawn(move || duty(worker, &commands, &killed))
                    .map_err(|error| RuntimeError::Thread(error.to_string()))?;
                all.push((mailbox, Some(handle)));
            }
            Engine::Threads(all)
        };
        let inner =
            Inner { bus, config, guards, killed, engine: Mutex::new(engine), queries: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn engine(&self) -> MutexGuard<'_, Engine> {
        self.inner.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn registry(&self) -> MutexGuard<'_, BTreeMap<String, Arc<QueryShared>>> {
        self.inner.queries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self, id: &str) -> Result<Arc<QueryShared>, RuntimeError> {
        self.registry().get(id).cloned().ok_or_else(|| RuntimeError::UnknownQuery(id.to_owned()))
    }

    /// Asks every thread, or the worker of the synchronous mode.
    fn ask<T>(
        &self,
        id: &str,
        command: impl Fn(Reply<T>) -> Command,
        here: impl FnOnce(&mut Worker) -> Result<T, QueryError>,
    ) -> Result<Vec<T>, RuntimeError> {
        let failed = |reason: String| RuntimeError::Failed { query: id.to_owned(), reason };
        let mut answers = Vec::new();
        {
            let mut engine = self.engine();
            match &mut *engine {
                Engine::Here(worker) => {
                    return here(worker).map(|value| vec![value]).map_err(|e| failed(e.to_string()));
                }
                Engine::Stopped => return Err(RuntimeError::ShutDown),
                Engine::Threads(threads) => {
                    for (mailbox, _) in threads {
                        let (reply, answer) = mpsc::channel();
                        mailbox.send(command(reply)).map_err(|_| RuntimeError::ShutDown)?;
                        answers.push(answer);
                    }
                }
            }
        }
        let mut all = Vec::new();
        let mut error = None;
        for answer in answers {
            match answer.recv().map_err(|_| RuntimeError::ShutDown)? {
                Ok(value) => all.push(value),
                Err(reason) => error = Some(failed(reason)),
            }
        }
        error.map_or(Ok(all), Err)
    }

    /// Starts a persistent query: creates its internal topics, restores its state, goes on at its committed offsets
    /// (or at `start` if there are none). The sink topic must exist.
    ///
    /// # Errors   a topic that is missing, a plan that cannot run, damaged state.
    pub fn start(&self, plan: QueryPlan, start: StartAt) -> Result<(), RuntimeError> {
        self.launch(plan, start, None)
    }

    /// Starts a push query; rows come through a bounded channel. A reader that lets it fill up ends its query.
    ///
    /// # Errors   as [`Runtime::start`].
    pub fn push(&self, plan: QueryPlan, start: StartAt) -> Result<PushReceiver, RuntimeError> {
        let (sender, rows) = mpsc::sync_channel(PUSH_QUEUE);
        self.launch(plan, start, Some(sender))?;
        Ok(PushReceiver { rows })
    }

    fn launch(
        &self,
        plan: QueryPlan,
        start: StartAt,
        push: Option<mpsc::SyncSender<Result<Rows, String>>>,
    ) -> Result<(), RuntimeError> {
        let id = plan.id.clone();
        self.sweep();
        if self.registry().contains_key(&id) {
            return Err(RuntimeError::QueryExists(id));
        }
        let shared = Arc::new(self.prepare(plan, start, push)?);
        self.create_internal_topics(&shared)?;
        self.registry().insert(id.clone(), Arc::clone(&shared));
        let opened =
            self.ask(&id, |reply| Command::Open(Arc::clone(&shared), reply), |worker| worker.open(&shared));
        if let Err(error) = opened {
            let _ = self.ask(
                &id,
                |reply| Command::Close(id.clone(), reply),
                |worker| {
                    worker.close(&id);
                    Ok(())
                },
            );
            self.registry().remove(&id);
            return Err(error);
        }
        Ok(())
    }

    /// Forgets push queries whose clients have gone.
    fn sweep(&self) {
        let over = |shared: &&Arc<QueryShared>| shared.push.is_some() && shared.failed.load(Ordering::SeqCst);
        let ids: Vec<String> =
            self.registry().values().filter(over).map(|shared| shared.plan.id.clone()).collect();
        for id in ids {
            if let Err(error) = self.terminate(&id) {
                tracing::warn!("cannot clean up after push query {id}: {error}");
            }
        }
    }

    fn prepare(
        &self,
        plan: QueryPlan,
        start: StartAt,
        push: Option<mpsc::SyncSender<Result<Rows, String>>>,
    ) -> Result<QueryShared, RuntimeError> {
        let mut names = Vec::new();
        topology::topics(&plan.root, &mut names);
        names.extend(sink_topic(&plan).map(str::to_owned));
        let mut counts = HashMap::new();
        for name in names {
            let found = self.inner.bus.topic(&name)?;
            let missing = || RuntimeError::MissingTopic { query: plan.id.clone(), topic: name.clone() };
            counts.insert(name.clone(), found.ok_or_else(missing)?.partitions);
        }
        // Without threads there is one task that reads all partitions, as in Kafka Streams' test driver.
        // So has a foreign-key join: its two sides meet across partitions.
        let gather = self.inner.config.synchronous || topology::joins_foreign_keys(&plan.root);
        let count = |topic: &str| counts.get(topic).copied().unwrap_or(1);
        let partitions = |topic: &str| if gather { 1 } else { count(topic) };
        let topology = topology::compile(&plan, &partitions)
            .map_err(|reason| RuntimeError::Plan { query: plan.id.clone(), reason })?;
        let key_checks = match self.inner.config.synchronous {
            true => KeyChecks::default(),
            false => KeyChecks::of(&plan)
                .map_err(|error| RuntimeError::Plan { query: plan.id.clone(), reason: error.to_string() })?,
        };
        Ok(QueryShared {
            group: format!("_confluent-ksql-{}query_{}", self.inner.config.service_id, plan.id),
            sink_partitions: sink_topic(&plan).map_or(
                1,
                if self.inner.config.synchronous { &partitions } else { &count as &dyn Fn(&str) -> i32 },
            ),
            gather,
            sink_window: topology::window_of(&plan.root),
            topology,
            key_checks,
            plan,
            start,
            push,
            rows_in: AtomicU64::new(0),
            rows_out: AtomicU64::new(0),
            late: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            activity: Activity::default(),
            state: Mutex::new((QueryState::Running, None)),
            positions: Mutex::default(),
        })
    }

    fn create_internal_topics(&self, shared: &QueryShared) -> Result<(), RuntimeError> {
        let create = |name: String, partitions: i32, policy: &str| {
            let configs = [("cleanup.policy".to_owned(), policy.to_owned())].into();
            match self.inner.bus.create_topic(&TopicSpec { name, partitions, configs }) {
                Ok(()) | Err(BusError::TopicExists(_)) => Ok(()),
                Err(error) => Err(RuntimeError::from(error)),
            }
        };
        for (number, stage) in shared.topology.stages.iter().enumerate() {
            for source in &stage.sources {
                if let Input::Repartition { stage: upstream } = source.input {
                    create(shared.repartition_topic(upstream), stage.partitions, "delete")?;
                }
            }
            if shared.push.is_none() {
                for store in shared.stores(number, self.inner.config.synchronous)? {
                    create(shared.changelog_topic(number, store), stage.partitions, "compact")?;
                }
            }
        }
        Ok(())
    }

    /// Stops reading; positions and state stay.
    ///
    /// # Errors   no such query.
    pub fn pause(&self, query_id: &str) -> Result<(), RuntimeError> {
        let shared = self.shared(query_id)?;
        let id = query_id.to_owned();
        self.ask(
            query_id,
            |reply| Command::Pause(id.clone(), reply),
            |worker| {
                worker.pause(&id);
                Ok(())
            },
        )?;
        let mut state = shared.state();
        if state.0 == QueryState::Running {
            state.0 = QueryState::Paused;
        }
        Ok(())
    }

    /// Goes on after [`Runtime::pause`] or an error.
    ///
    /// # Errors   no such query, or it cannot go on.
    pub fn resume(&self, query_id: &str) -> Result<(), RuntimeError> {
        let shared = self.shared(query_id)?;
        let id = query_id.to_owned();
        if shared.failed.swap(false, Ordering::SeqCst) {
            self.ask(
                query_id,
                |reply| Command::Open(Arc::clone(&shared), reply),
                |worker| worker.open(&shared),
            )?;
        } else {
            self.ask(query_id, |reply| Command::Resume(id.clone(), reply), |worker| worker.resume(&id))?;
        }
        shared.state().0 = QueryState::Running;
        Ok(())
    }

    /// Ends the query and deletes its internal topics (the sink topic and the committed offsets stay).
    ///
    /// # Errors   no such query, or the bus.
    pub fn terminate(&self, query_id: &str) -> Result<(), RuntimeError> {
        let shared = self.shared(query_id)?;
        let id = query_id.to_owned();
        self.ask(
            query_id,
            |reply| Command::Close(id.clone(), reply),
            |worker| {
                worker.close(&id);
                Ok(())
            },
        )?;
        self.registry().remove(query_id);
        for (number, stage) in shared.topology.stages.iter().enumerate() {
            let mut names: Vec<String> = Vec::new();
            if matches!(stage.output, Output::Repartition { .. }) {
                names.push(shared.repartition_topic(number));
            }
            if shared.push.is_none() {
                let stores = shared.stores(number, self.inner.config.synchronous)?;
                names.extend(stores.into_iter().map(|store| shared.changelog_topic(number, store)));
            }
            for name in names {
                match self.inner.bus.delete_topic(&name) {
                    Ok(()) | Err(BusError::UnknownTopic(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// All queries by id.
    #[must_use]
    pub fn queries(&self) -> Vec<QueryStatus> {
        let all: Vec<Arc<QueryShared>> = self.registry().values().cloned().collect();
        all.iter().map(|shared| self.status(shared)).collect()
    }

    fn status(&self, shared: &QueryShared) -> QueryStatus {
        let positions: Vec<(TopicPartition, i64)> =
            shared.positions().iter().map(|(at, offset)| (at.clone(), *offset)).collect();
        let behind = |(at, offset): &(TopicPartition, i64)| {
            let end = self.inner.bus.offsets(at).map_or(*offset, |range| range.end);
            u64::try_from(end - offset).unwrap_or(0)
        };
        let mut sources = Vec::new();
        topology::topics(&shared.plan.root, &mut sources);
        let (state, last_message) = shared.state().clone();
        QueryStatus {
            id: shared.plan.id.clone(),
            state,
            rows_in: shared.rows_in.load(Ordering::Relaxed),
            rows_out: shared.rows_out.load(Ordering::Relaxed),
            late_events: shared.late.load(Ordering::Relaxed),
            errors: shared.errors.load(Ordering::Relaxed),
            last_message,
            lag: positions.iter().map(behind).sum(),
            positions: positions
                .into_iter()
                .filter(|(at, _)| sources.iter().any(|s| **s == *at.topic))
                .collect(),
            sources,
            sink: sink_topic(&shared.plan).map(str::to_owned),
            is_table: shared.plan.is_table,
        }
    }

    /// Synchronous mode: feeds every query one record from every source partition that has one, to quiescence.
    /// Returns whether anything was done.
    ///
    /// # Errors   a query stopped, or the runtime has threads.
    pub fn step(&self) -> Result<bool, RuntimeError> {
        match &mut *self.engine() {
            Engine::Here(worker) => worker.step().map_err(|error| RuntimeError::Failed {
                query: "step".to_owned(),
                reason: error.to_string(),
            }),
            Engine::Threads(_) => Err(RuntimeError::NotSynchronous),
            Engine::Stopped => Err(RuntimeError::ShutDown),
        }
    }

    /// Synchronous mode: feeds `query_id` up to `rows_max` records of `at`, one at a time, each to quiescence.
    /// Returns how many records were read.
    ///
    /// # Errors   the query stopped, or the runtime has threads.
    pub fn step_query(
        &self,
        query_id: &str,
        at: &TopicPartition,
        rows_max: usize,
    ) -> Result<usize, RuntimeError> {
        match &mut *self.engine() {
            Engine::Here(worker) => worker.step_query(query_id, at, rows_max).map_err(|error| {
                RuntimeError::Failed { query: query_id.to_owned(), reason: error.to_string() }
            }),
            Engine::Threads(_) => Err(RuntimeError::NotSynchronous),
            Engine::Stopped => Err(RuntimeError::ShutDown),
        }
    }

    /// Reads the materialised state of the query that writes a table, after its last commit, thread by thread.
    ///
    /// # Errors   no such query, no state, keys that are not of the table's key type.
    pub fn pull(&self, query_id: &str, request: &PullRequest) -> Result<Vec<Rows>, RuntimeError> {
        let shared = self.shared(query_id)?;
        let schema = shared.topology.materialised_schema.as_ref();
        let schema = schema.ok_or_else(|| RuntimeError::NotMaterialised(query_id.to_owned()))?;
        let keys = match &request.keys {
            PullKeys::All => None,
            PullKeys::Keys(keys) => Some(
                key_columns(keys, &schema.key)
                    .map_err(|reason| RuntimeError::Failed { query: query_id.to_owned(), reason })?,
            ),
        };
        let scan = Scan { keys, start: request.window_start, end: request.window_end };
        let id = query_id.to_owned();
        let answers = self.ask(
            query_id,
            |reply| Command::Pull(id.clone(), scan.clone(), reply),
            |worker| worker.pull(&id, &scan),
        )?;
        Ok(answers.into_iter().flatten().filter(|rows| !rows.is_empty()).collect())
    }

    /// Names a cache for `CACHE='…'`.
    pub fn register_guard(&self, name: &str, guard: Arc<dyn CacheLookup>) {
        self.inner.guards.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), guard);
    }

    /// Finishes the cycle, commits, stops all threads.
    pub fn shutdown(&self) {
        let engine = std::mem::replace(&mut *self.engine(), Engine::Stopped);
        if let Engine::Threads(threads) = engine {
            for (mailbox, _) in &threads {
                let _ = mailbox.send(Command::Stop);
            }
            for thread in threads.into_iter().filter_map(|(_, thread)| thread) {
                let _ = thread.join();
            }
        }
    }
}

/// A thread's life.
fn duty(mut worker: Worker, commands: &mpsc::Receiver<Command>, killed: &AtomicBool) {
    loop {
        let mut idle = worker.is_idle();
        loop {
            let next = if idle { commands.recv_timeout(WAIT * 5).ok() } else { commands.try_recv().ok() };
            idle = false;
            match next {
                Some(Command::Stop) => return,
                Some(command) => obey(&mut worker, command),
                None => break,
            }
        }
        if killed.load(Ordering::SeqCst) {
            return;
        }
        worker.cycle(WAIT);
    }
}

fn obey(worker: &mut Worker, command: Command) {
    let text = |error: QueryError| error.to_string();
    match command {
        Command::Open(shared, reply) => drop(reply.send(worker.open(&shared).map_err(text))),
        Command::Close(id, reply) => {
            worker.close(&id);
            drop(reply.send(Ok(())));
        }
        Command::Pause(id, reply) => {
            worker.pause(&id);
            drop(reply.send(Ok(())));
        }
        Command::Resume(id, reply) => drop(reply.send(worker.resume(&id).map_err(text))),
        Command::Pull(id, scan, reply) => drop(reply.send(worker.pull(&id, &scan).map_err(text))),
        Command::Stop => {}
    }
}
