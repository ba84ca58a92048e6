//! The feed: takes check-ins from an input at a pace, drops treasures, and sends batches to the bus.
//!
//! One thread. Per run of events: one clock read, one batch per partition. It never outruns the engine by more than
//! [`IN_FLIGHT_MAX`] events (the watch tells what became visible), so latency stays bounded at any offered load and
//! memory with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::Array;
use herdsman_bus::{Bus, BusError};
use herdsman_host::Clock;
use herdsman_record::{BatchBuilder, Compression, RecordError, TopicPartition, partition_for_key};

use crate::event::{Event, encode_position};
use crate::input::{Events, Input, InputError, Rejected};
use crate::progress::Progress;
use crate::treasury::{DAY_MS, Treasury, TreasuryError};
use crate::watch::{Arrival, Arrivals};

/// Topic of the check-ins.
pub const CHECKINS: &str = "checkins";
/// Topic of the rows that could not be read.
pub const DEAD_LETTERS: &str = "checkins-dead-letter";
/// Events sent but not yet visible in every query, at most.
pub const IN_FLIGHT_MAX: u64 = 262_144;
/// At a fixed rate, events are sent in runs of at least this much time, seconds.
const GATHER_S: f64 = 0.002;
/// Events of one run at most.
const RUN_ROWS_MAX: usize = 16_384;
/// A batch is sealed at this size, bytes.
const BATCH_BYTES: usize = 512 * 1024;
/// After the last event the closing bell rings this much later in event time, so that every window settles.
const BELL_AFTER_MS: i64 = 10 * DAY_MS;

/// How fast events are offered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// As fast as the engine takes them.
    Max,
    /// This many times faster than they really happened.
    Times(f64),
    /// This many events per second, evenly.
    PerSecond(f64),
}

/// What a repetition of the input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// The same events again, ids and times included: duplicates.
    Same,
    /// New events: ids carry the loop's number, times move on by whole weeks.
    Shifted,
}

/// Why the feed stopped early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// The input failed.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The bus refused.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The system of record failed.
    #[error(transparent)]
    Treasury(#[from] TreasuryError),
    /// A batch could not be built.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Settings of a feed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FeedConfig {
    /// Pace.
    pub pace: Pace,
    /// How often the input is sent, at least 1.
    pub loops: u64,
    /// What repetitions are.
    pub replay: Replay,
    /// Stop after this many seconds, if set (for benchmarks).
    pub seconds_max: Option<u64>,
}

/// Events sent and seen so far; shared with the progress bar and the watch.
#[derive(Debug, Default)]
pub struct Flow {
    /// Events offered.
    pub offered: AtomicU64,
    /// Events accepted (new ids).
    pub accepted: AtomicU64,
    /// Events whose results are visible (kept by the watch).
    pub visible: AtomicU64,
    /// Whether the user asked to stop.
    pub stop: AtomicBool,
}

/// Sends an input to the bus.
pub struct Feed {
    bus: Arc<dyn Bus>,
    clock: Arc<dyn Clock>,
    flow: Arc<Flow>,
    arrivals: Arrivals,
    treasury: Treasury,
    config: FeedConfig,
    lanes: Vec<Lane>,
    positions: HashMap<Box<str>, Box<str>, rapidhash::fast::RandomState>,
    value: Vec<u8>,
    id: String,
    latest_ms: i64,
    /// What was done so far, this run and earlier ones on the same data folder.
    pub progress: Progress,
}

struct Lane {
    topic_partition: TopicPartition,
    builder: BatchBuilder,
}

impl Feed {
    /// A feed of `partitions` partitions that goes on from `progress`.
    pub fn new(
        bus: Arc<dyn Bus>,
        clock: Arc<dyn Clock>,
        flow: Arc<Flow>,
        arrivals: Arrivals,
        treasury: Treasury,
        config: FeedConfig,
        progress: Progress,
    ) -> Result<Self, FeedError> {
        let partitions = bus
            .topic(CHECKINS)?
            .ok_or_else(|| BusError::UnknownTopic(TopicPartition::new(CHECKINS, 0)))?
            .partitions;
        let lanes = (0..partitions)
            .map(|partition| Lane {
                topic_partition: TopicPartition::new(CHECKINS, partition),
                builder: BatchBuilder::new(),
            })
            .collect();
        Ok(Self {
            bus,
            clock,
            flow,
            arrivals,
            treasury,
            config,
            lanes,
            positions: HashMap::default(),
            value: Vec::with_capacity(256),
            id: String::with_capacity(64),
            latest_ms: progress.latest_ms,
            progress,
        })
    }

    /// Sends all loops of `input`, until the end or until asked to stop. `saved` is called now and then with what
    /// was done, so that a later run can go on from there.
    pub fn run(&mut self, input: &mut dyn Input, mut saved: impl FnMut(&Progress)) -> Result<(), FeedError> {
        input.seek(self.progress.row)?;
        let start_ns = self.clock.monotonic_ns();
        let mut pacer = Pacer::new(self.config.pace, start_ns);
        let mut next_save_ns = start_ns;
        let mut season = Season::default();
        while self.progress.finished_loops < self.config.loops {
            let now_ns = self.clock.monotonic_ns();
            if self.stopping(now_ns - start_ns) {
                break;
            }
            let rows = pacer.rows(now_ns, RUN_ROWS_MAX);
            if rows == 0 {
                std::thread::sleep(Duration::from_micros(500));
                continue;
            }
            let events = input.next(rows)?;
            if events.is_empty() {
                self.progress.finished_loops += 1;
                self.progress.row = 0;
                season.close();
                input.seek(0)?;
                continue;
            }
            season.note(&events);
            let arrived_ns = pacer.arrived(&events, self.clock.monotonic_ns());
            self.wait_for_room(events.len() as u64);
            let shift_ms = match self.config.replay {
                Replay::Same => 0,
                Replay::Shifted => season.shift_ms(self.progress.finished_loops),
            };
            self.send(&events, shift_ms, arrived_ns)?;
            self.bury(&events.rejected)?;
            self.progress.row = input.position();
            if self.clock.monotonic_ns() >= next_save_ns {
                next_save_ns = self.clock.monotonic_ns() + 200_000_000;
                saved(&self.progress);
            }
        }
        saved(&self.progress);
        Ok(())
    }

    /// Rings the closing bell: one event per partition far enough in the future that every window of the input
    /// settles. To be called once, after the last loop.
    pub fn ring_bell(&mut self) -> Result<(), FeedError> {
        let at_ms = self.latest_ms + BELL_AFTER_MS;
        for lane in &mut self.lanes {
            let bell = Event {
                event_id: &format!("bell-{}-{at_ms}", lane.topic_partition.partition),
                player: "bell",
                place: "bell",
                kind: "bell",
                scheduled_ms: at_ms,
                actual_ms: at_ms,
                position: "",
            };
            bell.encode(&mut self.value);
            lane.builder.append(at_ms, Some(b"bell"), Some(&self.value), &[]);
            let batch = lane.builder.finish(Compression::None)?;
            self.bus.produce(&lane.topic_partition, batch)?;
        }
        Ok(())
    }

    /// Treasures dropped so far.
    #[must_use]
    pub fn treasures(&self) -> u64 {
        self.treasury.count()
    }

    fn stopping(&self, elapsed_ns: u64) -> bool {
        self.flow.stop.load(Ordering::Relaxed)
            || self.config.seconds_max.is_some_and(|max| elapsed_ns / 1_000_000_000 >= max)
    }

    fn wait_for_room(&self, rows: u64) {
        let room = || {
            let in_flight = self
                .flow
                .accepted
                .load(Ordering::Relaxed)
                .saturating_sub(self.flow.visible.load(Ordering::Relaxed));
            in_flight + rows <= IN_FLIGHT_MAX
        };
        while !room() && !self.flow.stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn send(&mut self, events: &Events, shift_ms: i64, arrived_ns: u64) -> Result<(), FeedError> {
        for row in 0..events.len() {
            self.treasury.visit(events.place.value(row), events.actual.value(row) + shift_ms);
        }
        self.treasury.drop_fresh()?;
        let partitions = i32::try_from(self.lanes.len()).unwrap_or(1);
        let suffix = if shift_ms == 0 { String::new() } else { format!("+{}", self.progress.finished_loops) };
        let plain = events.is_plain();
        for row in 0..events.len() {
            let hunt = events.hunt.value(row).as_bytes();
            let index = usize::try_from(partition_for_key(hunt, partitions)).unwrap_or(0);
            let actual_ms = self.encode(events, plain, row, shift_ms, &suffix);
            let Some(lane) = self.lanes.get_mut(index) else { continue };
            lane.builder.append(actual_ms, Some(hunt), Some(&self.value), &[]);
            if lane.builder.byte_len() >= BATCH_BYTES {
                self.produce(index, arrived_ns)?;
            }
        }
        for index in 0..self.lanes.len() {
            self.produce(index, arrived_ns)?;
        }
        Ok(())
    }

    /// Writes row `row` into `self.value`, its id with `suffix`, its texts unescaped if `plain`; returns its
    /// actual time.
    #[inline]
    fn encode(&mut self, events: &Events, plain: bool, row: usize, shift_ms: i64, suffix: &str) -> i64 {
        let place = events.place.value(row);
        let actual_ms = events.actual.value(row) + shift_ms;
        self.latest_ms = self.latest_ms.max(actual_ms);
        self.id.clear();
        self.id.push_str(events.event_id.value(row));
        self.id.push_str(suffix);
        let event = Event {
            event_id: &self.id,
            player: events.player.value(row),
            place,
            kind: events.kind.value(row),
            scheduled_ms: events.scheduled.value(row) + shift_ms,
            actual_ms,
            position: match self.positions.get(place) {
                Some(position) => position,
                None => self.positions.entry(place.into()).or_insert(position_of(events, row)),
            },
        };
        if plain {
            event.encode_plain(&mut self.value)
        } else {
            event.encode(&mut self.value)
        }
        actual_ms
    }

    fn produce(&mut self, index: usize, arrived_ns: u64) -> Result<(), FeedError> {
        let Some(lane) = self.lanes.get_mut(index).filter(|lane| !lane.builder.is_empty()) else {
            return Ok(());
        };
        let offered = lane.builder.len() as u64;
        let batch = lane.builder.finish(Compression::None)?;
        let produced = self.bus.produce(&lane.topic_partition, batch)?;
        let accepted = u64::from(produced.accepted);
        self.progress.offered += offered;
        self.progress.duplicates += u64::from(produced.duplicates);
        self.progress.latest_ms = self.latest_ms;
        self.flow.offered.fetch_add(offered, Ordering::Relaxed);
        self.flow.accepted.fetch_add(accepted, Ordering::Relaxed);
        if accepted > 0 {
            self.arrivals.push(Arrival {
                partition: index,
                next_offset: produced.base_offset + i64::from(produced.accepted),
                events: accepted,
                arrived_ns,
            });
        }
        Ok(())
    }

    fn bury(&mut self, rejected: &[Rejected]) -> Result<(), FeedError> {
        if rejected.is_empty() {
            return Ok(());
        }
        let mut builder = BatchBuilder::new();
        for row in rejected {
            tracing::warn!(line = row.line, reason = row.reason, "row left out");
            let line = row.line.to_string();
            builder.append(
                self.clock.now_ms(),
                None,
                Some(row.raw.as_bytes()),
                &[
                    ("herdsman-dead-letter-reason", Some(row.reason.as_bytes())),
                    ("herdsman-dead-letter-line", Some(line.as_bytes())),
                ],
            );
        }
        self.progress.rejected += rejected.len() as u64;
        for row in rejected.iter().take(10usize.saturating_sub(self.progress.rejected_first.len())) {
            self.progress.rejected_first.push(format!("line {}: {}", row.line, row.reason));
        }
        self.bus.produce(&TopicPartition::new(DEAD_LETTERS, 0), builder.finish(Compression::None)?)?;
        Ok(())
    }
}

/// The JSON members of a row's position; empty if it has none.
#[cold]
fn position_of(events: &Events, row: usize) -> Box<str> {
    let known = events.lat.is_valid(row) && events.lon.is_valid(row);
    if known { encode_position(events.lat.value(row), events.lon.value(row)).into() } else { "".into() }
}

/// The span of the input in event time, from which a loop's shift follows.
#[derive(Debug, Default)]
struct Season {
    first_ms: Option<i64>,
    last_ms: i64,
    closed: Option<i64>,
}

impl Season {
    fn note(&mut self, events: &Events) {
        if self.closed.is_some() {
            return;
        }
        for times in [&events.scheduled, &events.actual] {
            for &time in times.values() {
                self.first_ms = Some(self.first_ms.map_or(time, |first| first.min(time)));
                self.last_ms = self.last_ms.max(time);
            }
        }
    }

    fn close(&mut self) {
        const WEEK_MS: i64 = 7 * DAY_MS;
        let span = self.last_ms - self.first_ms.unwrap_or(self.last_ms);
        self.closed.get_or_insert((span / WEEK_MS + 1) * WEEK_MS);
    }

    fn shift_ms(&self, loops: u64) -> i64 {
        self.closed.unwrap_or(0).saturating_mul(i64::try_from(loops).unwrap_or(0))
    }
}

/// Decides how many events are due.
struct Pacer {
    pace: Pace,
    start_ns: u64,
    released: u64,
    first_event_ms: Option<i64>,
}

impl Pacer {
    fn new(pace: Pace, start_ns: u64) -> Self {
        Self { pace, start_ns, released: 0, first_event_ms: None }
    }

    /// Rows that may be sent now.
    fn rows(&mut self, now_ns: u64, max: usize) -> usize {
        match self.pace {
            Pace::Max => max,
            Pace::Times(_) => max.min(64),
            Pace::PerSecond(rate) => {
                let elapsed_s = Duration::from_nanos(now_ns - self.start_ns).as_secs_f64();
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "positive, far below 2^53"
                )]
                let (due, least) = ((elapsed_s * rate) as u64, (rate * GATHER_S) as u64);
                let waiting = due.saturating_sub(self.released);
                if waiting < least.max(1) { 0 } else { usize::try_from(waiting).unwrap_or(max).min(max) }
            }
        }
    }

    /// When the first of `events` was due: from there its latency counts. Waits for it at [`Pace::Times`].
    fn arrived(&mut self, events: &Events, now_ns: u64) -> u64 {
        let first = self.released;
        self.released += events.len() as u64;
        match self.pace {
            Pace::Max => now_ns,
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "well below 2^53"
            )]
            Pace::PerSecond(rate) => self.start_ns + (first as f64 / rate * 1e9) as u64,
            Pace::Times(speed) => {
                let last = events.actual.values().last().copied().unwrap_or(0);
                let start =
                    *self.first_event_ms.get_or_insert(events.actual.values().first().copied().unwrap_or(0));
                #[expect(
                    clippy::cast_precision_loss,
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "milliseconds of centuries fit"
                )]
                let due_ns = self.start_ns + ((last - start).max(0) as f64 * 1e6 / speed.max(1e-9)) as u64;
                if due_ns > now_ns {
                    std::thread::sleep(Duration::from_nanos(due_ns - now_ns));
                }
                due_ns.max(now_ns)
            }
        }
    }
}
