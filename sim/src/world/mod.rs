//! A whole broker on a simulated disk and clock, its clients, and what goes wrong: one seed decides all of it.
//!
//! ```text
//! clients ─ Ask ─► network (lost, doubled, late, answer lost) ─► Door ─► Broker ─► Log ─► SimDisk (full, failing, killed, cut)
//!                                                       Answer ─┘ └─► Truth: what is promised now
//! ```
//! No thread, no socket, no real time: the same seed does the same, and [`Outcome::hash`] says so.

pub mod check;
pub mod client;
pub mod door;
pub mod group;
pub mod plant;
pub mod session;
pub mod truth;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use herdsman_broker::transaction::TransactionConfig;
use herdsman_broker::{Broker, BrokerConfig};
use herdsman_host::{Clock, Crash, PlantedDisk, Seed, SimClock, SimDisk};
use herdsman_log::LogConfig;
use herdsman_record::TopicPartition;

use crate::Tally;
use crate::connection::configs;
use client::{Producer, Style};
use door::{Answer, Ask, Door};
use group::Member;
use plant::Fault;
use session::SessionReader;
use truth::{Kind, Part, Truth};

/// Wall clock at the beginning, ms since the Unix epoch.
const BEGIN_MS: i64 = 1_700_000_000_000;
/// Time between two rounds of maintenance, ms.
const MAINTENANCE_MS: u64 = 1_000;

/// How long a seed runs, and how fast its time goes.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Steps, or 0 to run until the time is over.
    pub steps: u64,
    /// Simulated time after which it ends, ms.
    pub ms: u64,
    /// Longest time between two steps, ms.
    pub step_ms: u64,
    /// `herdsman.dedupe.window.ms`.
    pub window_ms: i64,
}

/// A short life: many faults in little time.
pub const SHORT: Pace = Pace { steps: 200, ms: u64::MAX, step_ms: 40, window_ms: 3_600_000 };
/// Ten simulated minutes: what waits for time (time-outs, retention, `flush.ms`, windows) happens.
pub const LONG: Pace = Pace { steps: u64::MAX, ms: 600_000, step_ms: 400, window_ms: 60_000 };

/// Name, meaning, partitions and configs of a topic.
type TopicSpec<'a> = (&'a str, Kind, i32, &'a [(&'a str, &'a str)]);

/// What the disk may do to what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    /// Only processes die.
    Stays,
    /// The power goes, and everything is synced before it is acknowledged.
    GoesAllSynced,
    /// The power goes, and some topics are synced later.
    Goes,
}

/// What a seed came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Fingerprint of every event.
    pub hash: u64,
    /// What was done.
    pub tally: Tally,
}

/// The world of one seed.
pub struct World {
    seed: Seed,
    disk: SimDisk,
    clock: Arc<SimClock>,
    log_config: LogConfig,
    power: Power,
    planted: Option<Fault>,
    door: Option<Door>,
    truth: Truth,
    producers: Vec<Producer>,
    /// Position of each reader in each partition; those with an odd number read committed records.
    readers: Vec<Vec<i64>>,
    session_reader: SessionReader,
    members: Vec<Member>,
    /// Requests that come once more, later.
    late: Vec<Ask>,
    maintained_ms: u64,
    /// `retention.ms` of the topic whose records go.
    expiring_ms: i64,
    restarts: u64,
    power_cuts: u64,
    requests: u64,
    refused: u64,
    doubtful: u64,
    hash: u64,
    trace: Vec<String>,
    keeps_trace: bool,
}

impl World {
    /// A world at its beginning.
    ///
    /// # Errors
    /// The broker does not open, or a topic is refused.
    pub fn new(number: u64, pace: &Pace, planted: Option<Fault>) -> Result<Self, String> {
        let mut seed = Seed::new(number).stream("world");
        let power = [Power::Stays, Power::GoesAllSynced, Power::Goes][seed.index(3)];
        let defaults = if power == Power::Stays { &[][..] } else { &[("flush.messages", "1")] };
        let log_config = LogConfig {
            tail_bytes_max: [0, 2_000, 64 << 10][seed.index(3)],
            journal_bytes_max: 1_000 + seed.below(8_000),
            topic_defaults: configs(defaults),
            ..LogConfig::default()
        };
        let styles = [
            (Style::Plain, "plain"),
            (Style::Idempotent, "idempotent"),
            (Style::Idempotent, "idempotent too"),
            (Style::Transactional, "copy"),
            (Style::Transactional, "copy too"),
        ];
        let mut world = Self {
            disk: SimDisk::new(&Seed::new(number)),
            clock: Arc::new(SimClock::new(BEGIN_MS)),
            log_config,
            power,
            planted,
            door: None,
            truth: Truth { window_ms: pace.window_ms, tombstones_ms: 5_000, ..Truth::default() },
            producers: styles.map(|(style, tid)| Producer::new(style, tid)).into(),
            readers: Vec::new(),
            session_reader: SessionReader::default(),
            members: [(); 3].map(|()| Member::default()).into(),
            late: Vec::new(),
            maintained_ms: 0,
            expiring_ms: if pace.ms == u64::MAX { 2_000 } else { 60_000 },
            restarts: 0,
            power_cuts: 0,
            requests: 0,
            refused: 0,
            doubtful: 0,
            hash: 0xcbf2_9ce4_8422_2325,
            trace: Vec::new(),
            keeps_trace: false,
            seed,
        };
        world.door = Some(world.open()?);
        world.make_topics(pace)?;
        world.readers = vec![vec![0; world.truth.parts.len()]; 4];
        Ok(world)
    }

    fn make_topics(&mut self, pace: &Pace) -> Result<(), String> {
        let window = pace.window_ms.to_string();
        let expiring_ms = self.expiring_ms.to_string();
        let lazy = if self.power == Power::Goes { "9223372036854775807" } else { "" };
        let topics: [TopicSpec<'_>; 5] = [
            ("plain", Kind::Plain, 2, &[("segment.bytes", "2048"), ("flush.messages", lazy)]),
            ("exact", Kind::Exact, 2, &[("segment.bytes", "3000")]),
            ("events", Kind::Events, 2, &[("segment.bytes", "3000"), ("herdsman.dedupe.window.ms", &window)]),
            (
                "table",
                Kind::Table,
                1,
                &[
                    ("segment.bytes", "1500"),
                    ("cleanup.policy", "compact"),
                    ("min.cleanable.dirty.ratio", "0.1"),
                    ("delete.retention.ms", "5000"),
                ],
            ),
            (
                "expiring",
                Kind::Expiring,
                1,
                &[("segment.bytes", "1024"), ("retention.ms", &expiring_ms), ("flush.messages", lazy)],
            ),
        ];
        for (name, kind, partitions, set) in topics {
            let mut set = configs(set);
            set.retain(|_, value| !value.is_empty());
            for (key, value) in &mut set {
                if let Some(instead) = self.planted.and_then(|fault| fault.on_config(key)) {
                    *value = instead.to_owned();
                }
            }
            if kind != Kind::Expiring {
                set.insert("retention.ms".to_owned(), "-1".to_owned());
            }
            let strict = self.power != Power::Stays && !set.contains_key("flush.messages");
            let Some(door) = &self.door else { return Err("the broker is not open".to_owned()) };
            door.broker.create_topic(name, partitions, &set).map_err(|error| error.to_string())?;
            for index in 0..partitions {
                self.truth.parts.push(Part {
                    name: TopicPartition::new(name, index),
                    kind,
                    strict,
                    records: BTreeMap::new(),
                    hidden: BTreeMap::new(),
                    start: 0,
                    start_promised: 0,
                    start_max: 0,
                    end: 0,
                });
            }
        }
        Ok(())
    }

    fn open(&mut self) -> Result<Door, String> {
        self.log_config.seed = Seed::new(self.seed.next_u64());
        let config = BrokerConfig {
            offsets_bytes_max: 8_000,
            transactions: TransactionConfig { log_bytes_max: 8_000, ..TransactionConfig::default() },
            producers_kept_every_bytes: 3_000,
            ..BrokerConfig::default()
        };
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let fault = self.planted.map(|planted| move |path: &Path, call| planted.fate(path, call));
        let disk = Arc::new(PlantedDisk::new(self.disk.clone(), fault));
        let opened = Broker::open(disk, Path::new("/data"), clock, self.log_config.clone(), config);
        let (broker, report) = opened.map_err(|error| format!("the broker does not open: {error}"))?;
        self.note(|| format!("open: {report:?}"));
        Ok(Door::new(broker, self.planted))
    }

    /// Takes an event into the fingerprint.
    fn note(&mut self, what: impl FnOnce() -> String) {
        let what = what();
        for byte in what.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.keeps_trace || self.trace.len() < 40 {
            self.trace.push(what);
        } else {
            self.trace.remove(0);
            self.trace.push(what);
        }
    }

    /// Hands a request in; `None`: the process died over it.
    fn deliver(&mut self, ask: &Ask) -> Result<Option<Answer>, String> {
        let now_ms = self.clock.now_ms();
        let Some(door) = &mut self.door else { return Ok(None) };
        self.requests += 1;
        self.truth.before(ask, now_ms)?;
        let answer = match self.planted {
            None => door.ask(ask),
            Some(fault) => ask_with(fault, door, ask, &self.truth, self.restarts > 0),
        };
        let alive = !self.disk.is_dead();
        let answer = match answer {
            Ok(answer) => answer,
            Err(why) if alive => return Err(why),
            Err(_) => Answer { code: -1, ..Answer::default() },
        };
        self.truth.judge(ask, &answer, alive, door, now_ms)?;
        self.doubtful += u64::from(!alive || truth::is_doubt(answer.code));
        self.note(|| match ask {
            Ask::Produce { sent, at, bytes, .. } => {
                format!("batch {sent} of {} bytes to {at}: {} {}", bytes.len(), answer.code, answer.offset)
            }
            ask => format!("{ask:?}: {answer:?}"),
        });
        if alive && !self.disk.is_dead() {
            return Ok(Some(answer));
        }
        let cut = self.power != Power::Stays && self.seed.one_in(2);
        self.restart(cut)?;
        Ok(None)
    }

    /// Sends a request over a network that loses, doubles and delays; `None`: no answer came.
    fn send(&mut self, ask: &Ask) -> Result<Option<Answer>, String> {
        match self.seed.below(40) {
            0 => {
                self.note(|| "request lost".to_owned());
                Ok(None)
            }
            1 => {
                self.deliver(ask)?;
                self.note(|| "answer lost".to_owned());
                Ok(None)
            }
            2 => {
                let first = self.deliver(ask)?;
                self.deliver(ask)?;
                Ok(first)
            }
            3..6 => {
                self.late.push(ask.clone());
                self.deliver(ask)
            }
            _ => self.deliver(ask),
        }
    }

    /// Something failed: the disk gets room now and then, and the process is started again now and then.
    fn trouble(&mut self) -> Result<(), String> {
        if self.seed.one_in(3) {
            self.disk.set_capacity(None);
        }
        if self.seed.one_in(6) {
            let cut = self.power != Power::Stays && self.seed.one_in(2);
            return self.restart(cut);
        }
        Ok(())
    }

    /// Kills the process or cuts the power, starts again, and holds everything against what was promised.
    fn restart(&mut self, power_cut: bool) -> Result<(), String> {
        let how = [Crash::LoseAll, Crash::KeepPrefix, Crash::Torn][self.seed.index(3)];
        self.note(|| if power_cut { format!("power cut: {how:?}") } else { "kill".to_owned() });
        self.restarts += 1;
        self.power_cuts += u64::from(power_cut);
        self.disk = if power_cut { self.disk.crash(how) } else { self.disk.kill() };
        self.door = None;
        self.disk.set_capacity(None);
        if self.seed.one_in(4) {
            // the start itself dies, and is made again
            self.disk.die_in(1 + self.seed.below(120));
            drop(self.open());
            self.disk = self.disk.kill();
        }
        let mut door = self.open()?;
        let compared = self.truth.compare(&mut door, power_cut, self.clock.now_ms());
        self.door = Some(door);
        compared
    }

    /// Lets time pass; does what the broker does by itself.
    fn pass(&mut self, ms: u64) -> Result<(), String> {
        self.clock.advance_ns(ms * 1_000_000);
        let steady_ms = self.clock.monotonic_ns() / 1_000_000;
        if steady_ms >= self.maintained_ms + MAINTENANCE_MS {
            self.maintained_ms = steady_ms;
            self.maintain()?;
        }
        Ok(())
    }

    fn maintain(&mut self) -> Result<(), String> {
        let now_ms = self.clock.now_ms();
        for part in self.truth.parts.iter_mut().filter(|part| part.kind == Kind::Expiring) {
            // up to the first record that is still young; offsets lost before it may go, too
            let sents = (&self.truth.sent_of, &self.truth.sents);
            let time_of = |id: u64| sents.1[sents.0[usize::try_from(id).unwrap_or(0)]].timestamp_ms;
            let young =
                part.records.iter().find(|(_, record)| time_of(record.id) >= now_ms - self.expiring_ms);
            part.start_max = part.start_max.max(young.map_or(part.end, |(offset, _)| *offset));
        }
        let Some(door) = &mut self.door else { return Ok(()) };
        door.broker.tick();
        let outcome = door.broker.maintain().map_err(|error| error.to_string());
        if self.planted == Some(Fault::ActiveSegmentDeleted) {
            let _ = door.broker.log().delete_records_before(&TopicPartition::new("expiring", 0), -1);
        }
        if self.disk.is_dead() {
            return self.restart(false);
        }
        for number in 0..self.truth.parts.len() {
            self.truth.adopt_start(number, door)?;
        }
        self.truth.settle(door, false, now_ms)?;
        self.note(|| format!("maintain: {outcome:?}"));
        if outcome.is_err() {
            return self.trouble();
        }
        self.truth.parts.iter_mut().for_each(|part| part.start_promised = part.start);
        Ok(())
    }

    fn fault(&mut self) -> Result<(), String> {
        match self.seed.below(16) {
            0..2 => return self.restart(false),
            2..4 => return self.restart(self.power != Power::Stays),
            4..9 => self.disk.die_in(1 + self.seed.below(60)),
            9..11 => self.disk.fail_write_in(1 + self.seed.below(6)),
            11..13 => self.disk.fail_sync_in(1 + self.seed.below(6)),
            13..15 => self.disk.set_capacity(Some(self.disk.used() + self.seed.below(3_000))),
            _ => {
                let ms = i64::try_from(self.seed.below(4_000)).unwrap_or(0) - 2_000;
                self.clock.jump_ms(ms);
                self.note(|| format!("the wall clock jumps by {ms} ms"));
            }
        }
        Ok(())
    }

    fn step(&mut self, pace: &Pace) -> Result<(), String> {
        let ms = self.seed.below(pace.step_ms);
        self.pass(ms)?;
        match self.seed.below(100) {
            0..8 => {
                let number = self.seed.index(self.members.len());
                self.member(number)
            }
            8..13 => self.read_in_session(),
            13..63 => {
                let number = self.seed.index(self.producers.len());
                self.produce(number)
            }
            63..80 => {
                let number = self.seed.index(self.readers.len());
                self.read(number)
            }
            80..86 => self.commit(),
            86..88 => self.delete(),
            88..93 if !self.late.is_empty() => {
                let at = self.seed.index(self.late.len());
                let ask = self.late.swap_remove(at);
                self.note(|| "late:".to_owned());
                self.deliver(&ask).map(|_| ())
            }
            93..100 => self.fault(),
            _ => Ok(()),
        }
    }

    fn run(&mut self, pace: &Pace) -> Result<(), String> {
        let mut steps = 0;
        while steps < pace.steps && self.clock.monotonic_ns() / 1_000_000 < pace.ms {
            self.step(pace)?;
            steps += 1;
        }
        self.restart(false)
    }
}

/// Asks over a door with a fault.
fn ask_with(
    fault: Fault,
    door: &mut Door,
    ask: &Ask,
    truth: &Truth,
    after_start: bool,
) -> Result<Answer, String> {
    let (present, is_known, end) = match ask {
        Ask::End { tid, .. } => (truth.claims.get(tid).copied(), false, 0),
        Ask::Produce { tid, sent, at, .. } => {
            let present = tid.as_ref().and_then(|tid| truth.claims.get(tid).copied());
            let end = door.broker.log().offsets(at).map_or(0, |(_, end)| end);
            (present, after_start && truth.sents[*sent].base.is_some(), end)
        }
        _ => (None, false, 0),
    };
    let Some(asked) = fault.on_request(ask, present, is_known) else { return Ok(Answer::default()) };
    let mut answer = door.ask(&asked)?;
    fault.on_answer(ask, &mut answer, end, after_start);
    Ok(answer)
}

/// Lives one seed.
///
/// # Errors
/// What was promised and what was seen, with the last events before.
pub fn live(number: u64, pace: &Pace) -> Result<Outcome, String> {
    live_with(number, pace, None)
}

/// Lives one seed with a fault planted.
///
/// # Errors
/// As [`live`].
pub fn live_with(number: u64, pace: &Pace, planted: Option<Fault>) -> Result<Outcome, String> {
    let mut world = World::new(number, pace, planted)?;
    world.keeps_trace = std::env::var_os("HERDSMAN_SIM_TRACE").is_some();
    if let Err(why) = world.run(pace) {
        return Err(format!("{why}\nlast events:\n  {}", world.trace.join("\n  ")));
    }
    let mut tally =
        Tally { done: 1, simulated_ms: world.clock.monotonic_ns() / 1_000_000, ..Tally::default() };
    tally.count("requests", world.requests);
    tally.count("acknowledged", world.truth.acknowledged);
    tally.count("transactions", world.truth.txns.len() as u64);
    tally.count("restarts", world.restarts);
    tally.count("power_cuts", world.power_cuts);
    tally.count("refused", world.refused);
    tally.count("doubtful", world.doubtful);
    Ok(Outcome { hash: world.hash, tally })
}
