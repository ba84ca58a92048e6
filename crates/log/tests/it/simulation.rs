//! Seeded simulation: random appends, atomic appends, reads, deletions, kills at any operation, power cuts with lost
//! and torn writes, full disks, failed writes and failed syncs, against a model of what was promised.
//!
//! Replay one seed with `HERDSMAN_SIM_SEED=N`; run more with `HERDSMAN_SIM_SEEDS=N`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use herdsman_host::{Clock, Crash, PlantedDisk, Seed, SimClock, SimDisk};
use herdsman_log::{Log, LogConfig, LogError};
use herdsman_record::TopicPartition;

use crate::planted::Planted;
use crate::{batch_of, ids_of};

#[derive(Debug, Clone, Copy, PartialEq)]
struct Rec {
    id: u64,
    timestamp_ms: i64,
    /// Promised to survive a power cut.
    durable: bool,
}

/// An append whose caller got an error: it may stand after a restart or not.
#[derive(Debug, Clone)]
struct Doubt {
    parts: Vec<(usize, Vec<u64>)>,
    strict: bool,
}

struct Part {
    name: TopicPartition,
    strict: bool,
    retention_ms: Option<i64>,
    /// Acknowledged records by offset.
    records: BTreeMap<i64, Rec>,
    start: i64,
    /// Highest start that a call acknowledged.
    start_promised: i64,
    /// Highest start that a call in doubt may have set.
    start_max: i64,
    end: i64,
}

struct World {
    seed: Seed,
    disk: SimDisk,
    planted: Option<Planted>,
    clock: Arc<SimClock>,
    config: LogConfig,
    log: Option<Log>,
    parts: Vec<Part>,
    doubts: Vec<Doubt>,
    /// Records below a log start that was not acknowledged: they may be back after a restart.
    hidden: HashSet<u64>,
    next_id: u64,
    scratch: Option<bool>,
    hash: u64,
    trace: Vec<String>,
}

const TOPICS: [(&str, &[(&str, &str)]); 3] = [
    ("strict", &[("flush.messages", "1"), ("segment.bytes", "2048")]),
    ("relaxed", &[("segment.bytes", "3000"), ("flush.ms", "2000")]),
    ("expiring", &[("segment.bytes", "1024"), ("retention.ms", "4000")]),
];

fn configs(set: &[(&str, &str)]) -> BTreeMap<String, String> {
    set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

impl World {
    fn new(number: u64, planted: Option<Planted>) -> Result<Self, String> {
        let mut seed = Seed::new(number).stream("world");
        let disk = SimDisk::new(&Seed::new(number));
        let tail = [0, 2_000, 64 << 10][seed.index(3)];
        let config = LogConfig {
            tail_bytes_max: tail,
            journal_bytes_max: 1_000 + seed.below(8_000),
            seed: Seed::new(number).stream("log"),
            ..LogConfig::default()
        };
        let mut world = Self {
            seed,
            disk,
            planted,
            clock: Arc::new(SimClock::new(1_700_000_000_000)),
            config,
            log: None,
            parts: Vec::new(),
            doubts: Vec::new(),
            hidden: HashSet::new(),
            next_id: 0,
            scratch: Some(false),
            hash: 0xcbf2_9ce4_8422_2325,
            trace: Vec::new(),
        };
        world.start()?;
        for (topic, set) in TOPICS {
            world.log().create_topic(topic, 2, &configs(set)).map_err(|error| error.to_string())?;
            for index in 0..2 {
                world.parts.push(Part {
                    name: TopicPartition::new(topic, index),
                    strict: topic == "strict",
                    retention_ms: (topic == "expiring").then_some(4_000),
                    records: BTreeMap::new(),
                    start: 0,
                    start_promised: 0,
                    start_max: 0,
                    end: 0,
                });
            }
        }
        Ok(world)
    }

    fn start(&mut self) -> Result<(), String> {
        let fault = self.planted.map(|planted| move |path: &Path, call| planted.fate(path, call));
        let disk = Arc::new(PlantedDisk::new(self.disk.clone(), fault));
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        self.config.seed = Seed::new(self.seed.next_u64());
        match Log::open(disk, Path::new("/data"), clock, self.config.clone()) {
            Ok((log, report)) => {
                self.note(format!("open: {report:?}"));
                self.log = Some(log);
                Ok(())
            }
            Err(error) => Err(format!("the log does not open: {error}")),
        }
    }

    fn log(&self) -> &Log {
        self.log.as_ref().expect("open")
    }

    fn note(&mut self, what: String) {
        for byte in what.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.trace.push(what);
    }

    fn fresh_ids(&mut self) -> Vec<u64> {
        let count = 1 + self.seed.below(4);
        self.next_id += count;
        (self.next_id - count..self.next_id).collect()
    }

    fn padding(&mut self) -> usize {
        [0, 10, 100, 400, 900][self.seed.index(5)]
    }

    /// Something failed. A dead process is started again; a full disk is given room now and then.
    fn failed(&mut self, error: &LogError) -> Result<(), String> {
        self.note(format!("  error: {error}"));
        if self.disk.is_dead() {
            let cut = self.seed.one_in(2);
            return self.restart(cut);
        }
        if matches!(error, LogError::NoSpace { .. }) || self.seed.one_in(3) {
            self.disk.set_capacity(None);
        }
        if !matches!(error, LogError::NoSpace { .. }) && self.seed.one_in(4) {
            let cut = self.seed.one_in(2);
            return self.restart(cut);
        }
        Ok(())
    }

    fn append(&mut self) -> Result<(), String> {
        let at = self.seed.index(self.parts.len());
        let (ids, padding, now) = (self.fresh_ids(), self.padding(), self.clock.now_ms());
        let name = self.parts[at].name.clone();
        self.note(format!("append {name} {ids:?} +{padding}"));
        match self.log().append(&name, batch_of(&ids, now, padding)) {
            Ok(base) => self.acknowledge(at, base, &ids, now, self.parts[at].strict),
            Err(error) => {
                self.doubts.push(Doubt { parts: vec![(at, ids)], strict: true });
                self.failed(&error)
            }
        }
    }

    fn acknowledge(
        &mut self,
        at: usize,
        base: i64,
        ids: &[u64],
        now: i64,
        durable: bool,
    ) -> Result<(), String> {
        let part = &mut self.parts[at];
        if base < part.end {
            return Err(format!("{}: offset {base} given, but the end was {}", part.name, part.end));
        }
        for ((offset, id), timestamp_ms) in (base..).zip(ids).zip(now..) {
            part.records.insert(offset, Rec { id: *id, timestamp_ms, durable });
            part.end = offset + 1;
        }
        Ok(())
    }

    fn append_all(&mut self) -> Result<(), String> {
        let now = self.clock.now_ms();
        let mut parts = Vec::new();
        let mut batches = Vec::new();
        for _ in 0..2 + self.seed.below(3) {
            let at = self.seed.index(self.parts.len());
            let (ids, padding) = (self.fresh_ids(), self.padding());
            batches.push((self.parts[at].name.clone(), batch_of(&ids, now, padding)));
            parts.push((at, ids));
        }
        let strict = parts.iter().any(|(at, _)| self.parts[*at].strict);
        self.note(format!("append_all {parts:?}"));
        match self.log().append_all(batches) {
            Ok(bases) => {
                for ((at, ids), base) in parts.iter().zip(bases) {
                    self.acknowledge(*at, base, ids, now, strict)?;
                }
                Ok(())
            }
            Err(error) => {
                self.doubts.push(Doubt { parts, strict });
                self.failed(&error)
            }
        }
    }

    fn read(&mut self) -> Result<(), String> {
        let at = self.seed.index(self.parts.len());
        let part = &self.parts[at];
        let span = u64::try_from(part.end - part.start).unwrap_or(0) + 1;
        let offset = part.start + i64::try_from(self.seed.below(span)).unwrap_or(0);
        let max = self.seed.index(4_000);
        let part = &self.parts[at];
        let read = match self.log().read(&part.name, offset, max) {
            Ok(read) => read,
            Err(error) => return self.failed(&error).map_err(|why| format!("read: {error}: {why}")),
        };
        let found: Vec<_> = ids_of(&read.batches).into_iter().filter(|(o, ..)| *o >= offset).collect();
        let expected: Vec<_> =
            part.records.range(offset..).map(|(o, r)| (*o, r.id, r.timestamp_ms)).collect();
        if !expected.starts_with(&found) || (found.is_empty() && !expected.is_empty()) {
            return Err(format!("{} read at {offset}: found {found:?}, expected {expected:?}", part.name));
        }
        if read.high_watermark != part.end || read.log_start != part.start {
            let (start, end) = (part.start, part.end);
            return Err(format!(
                "{}: {start}..{end} expected, {}..{}",
                part.name, read.log_start, read.high_watermark
            ));
        }
        let time = 1_700_000_000_000 + i64::try_from(self.seed.below(60_000)).unwrap_or(0);
        let part = &self.parts[at];
        let expected =
            part.records.iter().find(|(_, r)| r.timestamp_ms >= time).map(|(o, r)| (*o, r.timestamp_ms));
        match self.log().offset_for_time(&part.name, time) {
            Ok(found) if found == expected => Ok(()),
            Ok(found) => Err(format!("{} at time {time}: found {found:?}, expected {expected:?}", part.name)),
            Err(error) => self.failed(&error),
        }
    }

    fn flush(&mut self) -> Result<(), String> {
        let at = self.seed.index(self.parts.len());
        let name = self.parts[at].name.clone();
        self.note(format!("flush {name}"));
        match self.log().flush(&name) {
            Ok(()) => {
                self.parts[at].records.values_mut().for_each(|record| record.durable = true);
                Ok(())
            }
            Err(error) => self.failed(&error),
        }
    }

    fn sync(&mut self) -> Result<(), String> {
        self.note("sync".to_owned());
        match self.log().sync() {
            Ok(()) => {
                let all = self.parts.iter_mut().flat_map(|part| part.records.values_mut());
                all.for_each(|record| record.durable = true);
                Ok(())
            }
            Err(error) => self.failed(&error),
        }
    }

    fn delete_records(&mut self) -> Result<(), String> {
        let at = self.seed.index(self.parts.len());
        let part = &self.parts[at];
        let span = u64::try_from(part.end - part.start).unwrap_or(0) + 1;
        let offset = part.start + i64::try_from(self.seed.below(span)).unwrap_or(0);
        let name = part.name.clone();
        self.note(format!("delete {name} before {offset}"));
        self.parts[at].start_max = self.parts[at].start_max.max(offset);
        match self.log().delete_records_before(&name, offset) {
            Ok(start) if start == offset => {
                let part = &mut self.parts[at];
                (part.start, part.start_promised) = (offset, offset);
                part.records = part.records.split_off(&offset);
                Ok(())
            }
            Ok(start) => Err(format!("{name}: start {start} after deleting before {offset}")),
            Err(error) => {
                if !self.disk.is_dead() {
                    self.adopt_start(at)?; // memory has moved although the checkpoint could not be written
                }
                self.failed(&error)
            }
        }
    }

    fn adopt_start(&mut self, at: usize) -> Result<(), String> {
        let (start, _) = self.log().offsets(&self.parts[at].name).map_err(|error| error.to_string())?;
        let part = &mut self.parts[at];
        if start < part.start || start > part.start_max {
            return Err(format!(
                "{}: start is {start}, expected {}..={}",
                part.name, part.start, part.start_max
            ));
        }
        let kept = part.records.split_off(&start);
        self.hidden.extend(std::mem::replace(&mut part.records, kept).into_values().map(|record| record.id));
        part.start = start;
        Ok(())
    }

    fn maintain(&mut self) -> Result<(), String> {
        self.clock.advance_ns(self.seed.below(3_000) * 1_000_000);
        let now = self.clock.now_ms();
        self.note(format!("maintain {now}"));
        for part in &mut self.parts {
            // up to the first record that is still young; offsets lost before it may go, too
            let oldest = part.retention_ms.map_or(0, |ms| now - ms);
            let young = part.records.iter().find(|(_, record)| record.timestamp_ms >= oldest);
            part.start_max = part.start_max.max(young.map_or(part.end, |(offset, _)| *offset));
        }
        let outcome = self.log().maintain(now);
        if !self.disk.is_dead() {
            for at in 0..self.parts.len() {
                self.adopt_start(at)?;
            }
        }
        match outcome {
            Ok(_) => self.parts.iter_mut().for_each(|part| part.start_promised = part.start),
            Err(error) => self.failed(&error)?,
        }
        Ok(())
    }

    fn scratch(&mut self) -> Result<(), String> {
        self.note(format!("scratch {:?}", self.scratch));
        let exists = self.log().topic("scratch").is_some();
        let outcome = if exists {
            self.scratch = None;
            self.log().delete_topic("scratch").map(|()| false)
        } else {
            self.scratch = None;
            self.log().create_topic("scratch", 1, &BTreeMap::new()).map(|_| true)
        };
        match outcome {
            Ok(exists) => {
                self.scratch = Some(exists);
                if exists {
                    let empty = self.log().offsets(&TopicPartition::new("scratch", 0));
                    if !matches!(empty, Ok((0, 0))) {
                        return Err(format!("a new topic is not empty: {empty:?}"));
                    }
                    let (ids, now) = (self.fresh_ids(), self.clock.now_ms());
                    if let Err(error) =
                        self.log().append(&TopicPartition::new("scratch", 0), batch_of(&ids, now, 0))
                    {
                        return self.failed(&error);
                    }
                }
                Ok(())
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Kills the process (or cuts the power), starts again and compares everything with what was promised.
    fn restart(&mut self, power_cut: bool) -> Result<(), String> {
        let how = [Crash::LoseAll, Crash::KeepPrefix, Crash::Torn][self.seed.index(3)];
        self.note(if power_cut { format!("power cut: {how:?}") } else { "kill".to_owned() });
        self.disk = if power_cut { self.disk.crash(how) } else { self.disk.kill() };
        self.log = None;
        self.disk.set_capacity(None);
        // recovery itself may be killed, too, and then runs again
        if self.seed.one_in(4) {
            self.disk.die_in(1 + self.seed.below(60));
            let _ = self.start();
            self.log = None;
            self.disk = self.disk.kill();
        }
        self.start()?;
        let doubts = std::mem::take(&mut self.doubts);
        let mut seen = BTreeSet::new();
        let possible: HashSet<u64> = doubts
            .iter()
            .flat_map(|doubt| doubt.parts.iter().flat_map(|(_, ids)| ids.iter().copied()))
            .collect();
        for at in 0..self.parts.len() {
            self.compare(at, power_cut, &possible, &mut seen)?;
        }
        for doubt in &doubts {
            let ids: Vec<u64> = doubt.parts.iter().flat_map(|(_, ids)| ids.iter().copied()).collect();
            let standing = ids.iter().filter(|id| seen.contains(*id)).count();
            if standing != 0 && standing != ids.len() && (doubt.strict || !power_cut) {
                return Err(format!("an append stands in part: {standing} records of {ids:?}"));
            }
        }
        let exists = self.log().topic("scratch").is_some();
        if self.scratch.is_some_and(|expected| expected != exists) {
            return Err(format!("topic scratch: exists is {exists}, acknowledged was {:?}", self.scratch));
        }
        self.scratch = Some(exists);
        Ok(())
    }

    fn compare(
        &mut self,
        at: usize,
        power_cut: bool,
        possible: &HashSet<u64>,
        seen: &mut BTreeSet<u64>,
    ) -> Result<(), String> {
        let name = self.parts[at].name.clone();
        let (start, end) = self.log().offsets(&name).map_err(|error| format!("{name}: {error}"))?;
        let mut found = BTreeMap::new();
        let mut offset = start;
        while offset < end {
            let read = self.log().read(&name, offset, 5_000).map_err(|error| format!("{name}: {error}"))?;
            let Some(last) = read.batches.last() else { break };
            for (at, id, timestamp_ms) in ids_of(&read.batches) {
                if at >= offset {
                    found.insert(at, (id, timestamp_ms));
                    if !seen.insert(id) {
                        return Err(format!("{name}: record {id} stands twice"));
                    }
                }
            }
            offset = last.next_offset();
        }
        let part = &mut self.parts[at];
        if start < part.start_promised || start > part.start_max.max(part.start) {
            return Err(format!(
                "{name}: starts at {start}, expected {}..={}",
                part.start_promised, part.start_max
            ));
        }
        for (offset, record) in part.records.range(start..) {
            match found.get(offset) {
                Some((id, _)) if *id == record.id => {}
                None if power_cut && !record.durable => {}
                other => {
                    let promised = if record.durable { "synced" } else { "acknowledged" };
                    return Err(format!(
                        "{name}: {promised} record {} at {offset} is now {other:?}",
                        record.id
                    ));
                }
            }
        }
        for (offset, (id, _)) in &found {
            let known = part.records.get(offset).is_some_and(|record| record.id == *id);
            let back = *offset < part.start && self.hidden.contains(id);
            if !(known || back || possible.contains(id)) {
                return Err(format!("{name}: nobody wrote record {id} at {offset}"));
            }
        }
        if end < part.end && !power_cut {
            return Err(format!("{name}: ends at {end} after a kill, before it was {}", part.end));
        }
        let strict = part.strict;
        let was = std::mem::take(&mut part.records);
        for (offset, (id, timestamp_ms)) in found {
            part.records.insert(offset, Rec { id, timestamp_ms, durable: strict });
        }
        for (offset, record) in was {
            if record.durable
                && let Some(kept) = part.records.get_mut(&offset)
            {
                kept.durable = true;
            }
        }
        (part.start, part.start_promised, part.start_max, part.end) = (start, start, start, end);
        self.note(format!("  {name}: {start}..{end}"));
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        match self.seed.below(100) {
            0..35 => self.append(),
            35..52 => self.append_all(),
            52..74 => self.read(),
            74..78 => self.flush(),
            78..80 => self.sync(),
            80..86 => self.maintain(),
            86..88 => self.delete_records(),
            88..90 => self.scratch(),
            90..92 => self.restart(false),
            92..94 => self.restart(true),
            94..97 => {
                let operations = 1 + self.seed.below(30);
                self.note(format!("die in {operations}"));
                self.disk.die_in(operations);
                Ok(())
            }
            97 => {
                let writes = 1 + self.seed.below(4);
                self.note(format!("fail write in {writes}"));
                self.disk.fail_write_in(writes);
                Ok(())
            }
            98 => {
                let syncs = 1 + self.seed.below(4);
                self.note(format!("fail sync in {syncs}"));
                self.disk.fail_sync_in(syncs);
                Ok(())
            }
            _ => {
                let room = self.disk.used() + self.seed.below(2_000);
                self.note(format!("full at {room}"));
                self.disk.set_capacity(Some(room));
                Ok(())
            }
        }
    }
}

/// Runs one seed. Returns a fingerprint of all that happened, or what was broken and the last steps before.
fn run(number: u64, planted: Option<Planted>) -> Result<u64, String> {
    let mut world = World::new(number, planted)?;
    let mut outcome = Ok(());
    for _ in 0..120 {
        outcome = world.step();
        if outcome.is_err() {
            break;
        }
    }
    if outcome.is_ok() {
        outcome = world.restart(true);
    }
    let from =
        world.trace.len().saturating_sub(if std::env::var("HERDSMAN_SIM_SEED").is_ok() { 1_000 } else { 12 });
    outcome.map(|()| world.hash).map_err(|why| {
        format!(
            "seed {number}: {why}\nlast steps:\n  {}\nreplay: HERDSMAN_SIM_SEED={number} cargo test -p herdsman-log --test it simulation",
            world.trace[from..].join("\n  ")
        )
    })
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn promises_hold_over_thousands_of_seeds_and_a_seed_repeats_itself() {
    if let Some(seed) = number("HERDSMAN_SIM_SEED") {
        println!("fingerprint {:016x}", run(seed, None).unwrap_or_else(|why| panic!("{why}")));
        return;
    }
    let seeds = number("HERDSMAN_SIM_SEEDS").unwrap_or(2_000);
    let threads = 2;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for seed in (thread..seeds).step_by(2) {
                    let first = run(seed, None).unwrap_or_else(|why| panic!("{why}"));
                    if seed < 20 {
                        assert_eq!(Ok(first), run(seed, None), "seed {seed} does not repeat itself");
                    }
                }
            });
        }
    });
}

#[test]
fn an_entry_that_one_start_cut_away_is_not_back_for_a_later_one_after_a_power_cut() {
    let open = |disk: &SimDisk| {
        let clock = Arc::new(SimClock::new(1_700_000_000_000));
        Log::open(Arc::new(disk.clone()), Path::new("/data"), clock, LogConfig::default())
    };
    for operations in 1..200 {
        let disk = SimDisk::new(&Seed::new(operations));
        let (log, _) = open(&disk).unwrap();
        for topic in ["one", "two"] {
            log.create_topic(topic, 1, &configs(&[("flush.messages", "1")])).unwrap();
        }
        let part = |topic| (TopicPartition::new(topic, 0), batch_of(&[1], 0, 0));
        log.append_all(vec![part("one"), part("two")]).unwrap();
        drop(log);
        let disk = disk.kill();
        disk.die_in(operations);
        drop(open(&disk));
        let disk = disk.kill();
        drop(open(&disk).unwrap());
        let (_, report) = open(&disk.crash(Crash::LoseAll)).unwrap();
        assert_eq!(report.journal_entries, 0, "the start before died at its operation {operations}");
    }
}

#[test]
fn planted_faults_are_found() {
    for planted in [Planted::SyncSkipped, Planted::JournalSkipped, Planted::TailKept] {
        let found = (0..300).find_map(|seed| run(seed, Some(planted)).err());
        let found = found.unwrap_or_else(|| panic!("{planted:?} was not found in 300 seeds"));
        println!("{planted:?}: {}", found.lines().next().unwrap_or_default());
    }
}
