//! One hunt from opening the data folder to the summary.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use herdsman_bus::{Bus, BusError, TopicSpec};
use herdsman_host::{Clock, RealClock};
use herdsman_record::{BatchBuilder, Compression, TopicPartition, partition_for_key};
use herdsman_routes::RouteSet;
use herdsman_server::{CacheConfig, Config, House, LoaderConfig, ServerError};
use herdsman_sql::Session;

use crate::feed::{CHECKINS, DEAD_LETTERS, Feed, FeedConfig, FeedError, Flow, Pace, Replay};
use crate::input::{Flights, Input, InputError, Mapped, flights};
use crate::outcome;
use crate::progress::Progress;
use crate::summary::Summary;
use crate::treasury::{Treasury, TreasuryError};
use crate::watch::{Arrivals, Reading, Watch};

/// Name of the cache in the hunt's SQL.
const CACHE: &str = "legacy";
/// The system of record, in the data folder.
const SYSTEM_OF_RECORD: &str = "hunt.sqlite";
/// Event ids are remembered for a day of wall clock, within [`DEDUPE_BYTES`].
const DEDUPE_WINDOW_MS: i64 = 86_400_000;
/// Memory for remembered event ids.
const DEDUPE_BYTES: i64 = 200 << 20;
/// What the page cache holds of each partition: the queries read from the tails in memory, right behind the writers.
const PAGE_CACHE_BYTES: u64 = 4 << 20;
/// How long the queries may take to settle after the last event.
const SETTLE: Duration = Duration::from_secs(120);

/// Called with how it goes.
pub type Observer = Box<dyn FnMut(&Snapshot) + Send>;

/// What a hunt can be told.
pub struct HuntOptions {
    /// Data folder; a fresh temporary one if none.
    pub data: Option<PathBuf>,
    /// A file and its map instead of the shipped flights.
    pub input: Option<(PathBuf, PathBuf)>,
    /// How fast.
    pub pace: Pace,
    /// How often the input is sent.
    pub loops: u64,
    /// What repetitions are.
    pub replay: Replay,
    /// Stop after this many seconds (benchmarks).
    pub seconds_max: Option<u64>,
    /// Latencies of this first time are not counted (benchmarks).
    pub warm_up: Duration,
    /// `embedded`, `redis://…` or `memcached://…`.
    pub cache: String,
    /// `embedded` or `kafka://…`.
    pub bus: String,
    /// Route files instead of the default ones.
    pub routes: Vec<PathBuf>,
    /// Values for `{{name}}` in route files.
    pub properties: BTreeMap<String, String>,
    /// Kafka listener.
    pub kafka: Option<SocketAddr>,
    /// HTTP listener.
    pub http: Option<SocketAddr>,
    /// Stream threads; 0 is one per core.
    pub threads: usize,
    /// Seed of the treasures.
    pub seed: u64,
    /// No result files (benchmarks keep the queries and their topics, and write no files).
    pub quiet: bool,
    /// Set to stop cleanly.
    pub stop: Arc<AtomicBool>,
    /// Called about ten times a second.
    pub observer: Option<Observer>,
}

impl Default for HuntOptions {
    fn default() -> Self {
        Self {
            data: None,
            input: None,
            pace: Pace::Max,
            loops: 1,
            replay: Replay::Same,
            seconds_max: None,
            warm_up: Duration::ZERO,
            cache: "embedded".to_owned(),
            bus: "embedded".to_owned(),
            routes: Vec::new(),
            properties: BTreeMap::new(),
            kafka: None,
            http: None,
            threads: 0,
            seed: 2013,
            quiet: false,
            stop: Arc::default(),
            observer: None,
        }
    }
}

/// How it goes right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Events offered, this run.
    pub offered: u64,
    /// Events accepted, this run.
    pub accepted: u64,
    /// Events whose results are visible, this run.
    pub visible: u64,
    /// Events the whole run will offer, if known.
    pub total: Option<u64>,
}

/// Why a hunt cannot begin or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HuntError {
    /// The input cannot be used: exit code 2.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The house cannot open.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The bus refuses.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The system of record fails.
    #[error(transparent)]
    Treasury(#[from] TreasuryError),
    /// The feed stopped.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The hunt's SQL was refused or a query of it stopped.
    #[error("{0}")]
    Sql(String),
    /// The data folder cannot be used.
    #[error("data folder {}: {reason}", path.display())]
    Data {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The queries did not come to rest.
    #[error("the queries have not settled after {seconds} s: {lag} records are left; see SHOW QUERIES")]
    Unsettled {
        /// How long was waited.
        seconds: u64,
        /// Records left.
        lag: u64,
    },
}

/// An open hunt.
pub struct Hunt {
    options: HuntOptions,
    input: Box<dyn Input>,
    data: PathBuf,
    _temporary: Option<tempfile::TempDir>,
    house: House,
    clock: Arc<dyn Clock>,
    progress: Progress,
}

/// Runs a hunt from beginning to end.
///
/// # Errors   [`HuntError`], one line each.
pub fn run(options: HuntOptions) -> Result<Summary, HuntError> {
    let mut hunt = Hunt::open(options)?;
    let summary = hunt.play()?;
    hunt.close()?;
    Ok(summary)
}

impl Hunt {
    /// Opens input, data folder, system of record, bus, queries and routes.
    ///
    /// # Errors   [`HuntError`]; nothing is left running then.
    pub fn open(options: HuntOptions) -> Result<Self, HuntError> {
        let input: Box<dyn Input> = match &options.input {
            None => Box::new(Flights::open()?),
            Some((file, map)) => Box::new(Mapped::open(file, map)?),
        };
        let (data, temporary) = data_folder(options.data.as_deref())?;
        let clock = RealClock::shared();
        let progress = Progress::load(&data)
            .map_err(|error| HuntError::Data { path: data.clone(), reason: error.to_string() })?;
        if options.input.is_none() {
            Treasury::open(&data.join(SYSTEM_OF_RECORD), options.seed)?.enrol(&flights::planes()?)?;
        } else {
            Treasury::open(&data.join(SYSTEM_OF_RECORD), options.seed)?;
        }
        let house = House::open(&config(&options, &data), Arc::clone(&clock))?;
        let mut hunt = Self { options, input, data, _temporary: temporary, house, clock, progress };
        hunt.prepare()?;
        Ok(hunt)
    }

    fn prepare(&mut self) -> Result<(), HuntError> {
        let bus = Arc::clone(self.house.bus());
        let fresh = create_topics(bus.as_ref(), self.options.seconds_max.is_some())?;
        if fresh {
            let earliest = BTreeMap::from([("auto.offset.reset".to_owned(), "earliest".to_owned())]);
            let session = Session::new(earliest, BTreeMap::new());
            self.house
                .engine()
                .execute(crate::SQL, &session)
                .map_err(|error| HuntError::Sql(format!("hunt.sql: {}", error.caret())))?;
            if self.options.input.is_none() {
                send_places(bus.as_ref(), self.clock.now_ms())?;
            }
        }
        self.start_routes()?;
        Ok(())
    }

    fn start_routes(&mut self) -> Result<(), HuntError> {
        let refused =
            |error: herdsman_routes::RouteError| HuntError::Server(ServerError::Routes(error.to_string()));
        let set = if !self.options.routes.is_empty() {
            RouteSet::load_all(&self.options.routes, &self.options.properties).map_err(refused)?
        } else if self.options.quiet {
            return Ok(());
        } else {
            RouteSet::parse("files.yaml", crate::FILES_ROUTE, &self.options.properties).map_err(refused)?
        };
        let out = self.results();
        std::fs::create_dir_all(&out)
            .map_err(|error| HuntError::Data { path: out.clone(), reason: error.to_string() })?;
        self.house.run_routes(set.with_root(out))?;
        Ok(())
    }

    /// Folder of the result files of the default routes.
    #[must_use]
    pub fn results(&self) -> PathBuf {
        self.data.join("results")
    }

    /// The open house: bus, queries, listeners.
    #[must_use]
    pub fn house(&self) -> &House {
        &self.house
    }

    /// Sends the input, follows its results, settles and sums up.
    ///
    /// # Errors   [`HuntError`]; what was sent stays, and the same data folder goes on later.
    pub fn play(&mut self) -> Result<Summary, HuntError> {
        let flow = Arc::new(Flow::default());
        let arrivals = Arrivals::default();
        let bus = Arc::clone(self.house.bus());
        let partitions = bus.topic(CHECKINS)?.map_or(0, |topic| topic.partitions);
        let feed_config = FeedConfig {
            pace: self.options.pace,
            loops: self.options.loops,
            replay: self.options.replay,
            seconds_max: self.options.seconds_max,
        };
        let treasury = Treasury::open(&self.data.join(SYSTEM_OF_RECORD), self.options.seed)?;
        let before = self.progress.clone();
        let mut feed = Feed::new(
            Arc::clone(&bus),
            Arc::clone(&self.clock),
            Arc::clone(&flow),
            arrivals.clone(),
            treasury,
            feed_config,
            before.clone(),
        )?;
        let mut watch = Watch::new(
            Arc::clone(&bus),
            Arc::clone(&self.clock),
            Arc::clone(&flow),
            arrivals,
            self.readings()?,
            partitions,
        )
        .counting_from(
            self.clock.monotonic_ns()
                + u64::try_from(self.options.warm_up.as_nanos()).unwrap_or(u64::MAX / 2),
        );
        let total = self.input.rows_total().map(|rows| {
            rows.saturating_mul(self.options.loops.saturating_sub(before.finished_loops)) - before.row
        });
        let data = self.data.clone();
        let start_ns = self.clock.monotonic_ns();
        let sent = AtomicBool::new(false);
        let (input, stop) = (&mut self.input, Arc::clone(&self.options.stop));
        let mut observer = self.options.observer.take();
        let runtime = self.house.runtime().clone();
        let (fed, watched) = std::thread::scope(|scope| {
            let feeding = scope.spawn(|| {
                let fed = feed.run(input.as_mut(), |progress| save(progress, &data));
                sent.store(true, Ordering::Release);
                fed
            });
            let watching = scope
                .spawn(|| watch.run(|| sent.load(Ordering::Acquire), || failed_query(&runtime).is_some()));
            while !watching.is_finished() {
                if stop.load(Ordering::Relaxed) {
                    flow.stop.store(true, Ordering::Relaxed);
                }
                if watching_failed(&runtime) {
                    flow.stop.store(true, Ordering::Relaxed);
                }
                if let Some(observer) = &mut observer {
                    observer(&snapshot(&flow, total));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            (feeding.join(), watching.join())
        });
        let elapsed_ns = self.clock.monotonic_ns() - start_ns;
        fed.map_err(|_| HuntError::Sql("the feed's thread panicked".to_owned()))??;
        watched.map_err(|_| HuntError::Sql("the watch's thread panicked".to_owned()))??;
        if let Some(reason) = failed_query(&runtime) {
            return Err(HuntError::Sql(reason));
        }
        let complete =
            feed.progress.finished_loops >= self.options.loops || self.options.seconds_max.is_some();
        if complete && !feed.progress.bell {
            feed.ring_bell()?;
            feed.progress.bell = true;
        }
        self.settle()?;
        let late_events =
            before.late_events + runtime.queries().iter().map(|query| query.late_events).sum::<u64>();
        let mut progress = feed.progress.clone();
        progress.late_events = late_events;
        save(&progress, &self.data);
        let summary = outcome::collect(&outcome::Facts {
            house: &self.house,
            cache: CACHE,
            input: self.input.describe(),
            progress: &progress,
            before: &before,
            treasures: feed.treasures(),
            elapsed: Duration::from_nanos(elapsed_ns),
            latency: watch.latency(),
            complete,
        })?;
        self.progress = progress;
        for routes in self.house.routes() {
            routes.drain(Duration::from_secs(30));
        }
        Ok(summary)
    }

    /// Queries that read the check-ins, with the second stages behind them.
    fn readings(&self) -> Result<Vec<Reading>, HuntError> {
        let topics = self.house.bus().topics()?;
        let service = self.house.engine().service_id();
        Ok(self
            .house
            .runtime()
            .queries()
            .into_iter()
            .filter(|query| query.sources.iter().any(|source| source == CHECKINS))
            .map(|query| {
                let group = format!("_confluent-ksql-{service}query_{}", query.id);
                let repartitions = topics
                    .iter()
                    .filter(|topic| {
                        topic
                            .name
                            .strip_prefix(&group)
                            .is_some_and(|rest| rest.starts_with('-') && rest.ends_with("-repartition"))
                    })
                    .map(|topic| (topic.name.clone(), topic.partitions))
                    .collect();
                Reading { group, repartitions }
            })
            .collect())
    }

    /// Waits until every query has read everything there is, twice in a row.
    fn settle(&self) -> Result<(), HuntError> {
        let start_ns = self.clock.monotonic_ns();
        // a cluster shows the end of a transaction a moment after its commit has returned
        let calm_looks = if self.options.bus == "embedded" { 10 } else { 300 };
        let mut calm = 0;
        loop {
            if let Some(reason) = failed_query(self.house.runtime()) {
                return Err(HuntError::Sql(reason));
            }
            let lag: u64 = self.house.runtime().queries().iter().map(|query| query.lag).sum();
            calm = if lag == 0 { calm + 1 } else { 0 };
            if calm >= calm_looks {
                return Ok(());
            }
            if Duration::from_nanos(self.clock.monotonic_ns() - start_ns) > SETTLE {
                return Err(HuntError::Unsettled { seconds: SETTLE.as_secs(), lag });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stops everything cleanly.
    ///
    /// # Errors   [`ServerError`] if the last sync fails.
    pub fn close(self) -> Result<(), HuntError> {
        Ok(self.house.close()?)
    }
}

fn save(progress: &Progress, data: &Path) {
    if let Err(error) = progress.save(data) {
        tracing::error!(%error, data = %data.display(), "the hunt's progress cannot be saved; a restart sends more again");
    }
}

fn snapshot(flow: &Flow, total: Option<u64>) -> Snapshot {
    Snapshot {
        offered: flow.offered.load(Ordering::Relaxed),
        accepted: flow.accepted.load(Ordering::Relaxed),
        visible: flow.visible.load(Ordering::Relaxed),
        total,
    }
}

fn watching_failed(runtime: &herdsman_stream::runtime::Runtime) -> bool {
    failed_query(runtime).is_some()
}

/// The first query that stopped with an error, in a sentence.
fn failed_query(runtime: &herdsman_stream::runtime::Runtime) -> Option<String> {
    runtime.queries().into_iter().find_map(|query| match query.state {
        herdsman_stream::runtime::QueryState::Error(reason) => {
            Some(format!("query {} stopped: {reason}", query.id))
        }
        _ => None,
    })
}

fn data_folder(given: Option<&Path>) -> Result<(PathBuf, Option<tempfile::TempDir>), HuntError> {
    match given {
        Some(path) => {
            std::fs::create_dir_all(path)
                .map_err(|error| HuntError::Data { path: path.to_owned(), reason: error.to_string() })?;
            Ok((path.to_owned(), None))
        }
        None => {
            let folder = tempfile::Builder::new()
                .prefix("herdsman-hunt-")
                .tempdir()
                .map_err(|error| HuntError::Data { path: std::env::temp_dir(), reason: error.to_string() })?;
            Ok((folder.path().to_owned(), Some(folder)))
        }
    }
}

/// The hunt's house as a user would configure it.
fn config(options: &HuntOptions, data: &Path) -> Config {
    let loader = |table: &str, value: &str| LoaderConfig {
        sqlite: Some(SYSTEM_OF_RECORD.into()),
        table: table.to_owned(),
        key: "id".to_owned(),
        value: value.to_owned(),
        ..LoaderConfig::default()
    };
    let cache = CacheConfig {
        url: options.cache.clone(),
        ttl_s: 3_600,
        near_ttl_ms: 600_000,
        near_entries: 262_144,
        loaders: BTreeMap::from([
            ("treasure".to_owned(), loader("treasures", "json_object('DROPPED', dropped, 'POINTS', points)")),
            (
                "player".to_owned(),
                loader("players", "json_object('MODEL', model, 'SEATS', seats, 'BUILT', built)"),
            ),
        ]),
        ..CacheConfig::default()
    };
    Config {
        data: data.to_owned(),
        kafka: options.kafka,
        http: options.http,
        bus: options.bus.clone(),
        threads: options.threads,
        caches: BTreeMap::from([(CACHE.to_owned(), cache)]),
        topic_defaults: BTreeMap::from([(
            "herdsman.page.cache.bytes".to_owned(),
            PAGE_CACHE_BYTES.to_string(),
        )]),
        ..Config::default()
    }
}

/// Creates the hunt's own topics; whether they are new. A benchmark keeps only the newest part of the check-ins.
fn create_topics(bus: &dyn Bus, bench: bool) -> Result<bool, HuntError> {
    let mut configs = BTreeMap::from([
        ("herdsman.event.id".to_owned(), "event_id".to_owned()),
        ("herdsman.dedupe.window.ms".to_owned(), DEDUPE_WINDOW_MS.to_string()),
        ("herdsman.dedupe.memory.bytes".to_owned(), DEDUPE_BYTES.to_string()),
        ("retention.ms".to_owned(), "-1".to_owned()),
        // event times may lie anywhere, the closing bell's days ahead of the last event
        ("message.timestamp.after.max.ms".to_owned(), i64::MAX.to_string()),
    ]);
    if bench {
        configs.insert("retention.bytes".to_owned(), (512 << 20).to_string());
        configs.insert("segment.bytes".to_owned(), (64 << 20).to_string());
    }
    let spec = TopicSpec { name: CHECKINS.to_owned(), partitions: 4, configs };
    match bus.create_topic(&spec) {
        Ok(()) => {}
        Err(BusError::TopicExists(_)) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    for (name, partitions) in [(DEAD_LETTERS, 1), ("places", 4)] {
        bus.create_topic(&TopicSpec { name: name.to_owned(), partitions, configs: BTreeMap::new() })?;
    }
    Ok(true)
}

fn send_places(bus: &dyn Bus, now_ms: i64) -> Result<(), HuntError> {
    let mut lanes: Vec<BatchBuilder> = (0..4).map(|_| BatchBuilder::new()).collect();
    for airport in flights::airports()? {
        let value =
            serde_json::json!({ "NAME": airport.name, "LAT": airport.lat, "LON": airport.lon }).to_string();
        let lane = usize::try_from(partition_for_key(airport.code.as_bytes(), 4)).unwrap_or(0);
        if let Some(lane) = lanes.get_mut(lane) {
            lane.append(now_ms, Some(airport.code.as_bytes()), Some(value.as_bytes()), &[]);
        }
    }
    for (partition, mut lane) in (0..).zip(lanes) {
        if !lane.is_empty() {
            let batch = lane.finish(Compression::None).map_err(BusError::from)?;
            bus.produce(&TopicPartition::new("places", partition), batch)?;
        }
    }
    Ok(())
}
