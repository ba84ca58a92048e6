//! Guards, a cache and a system of record under a simulated clock: connections keep their order, the cache tells of changes, what is on its way when
//! something breaks arrives or does not as it would.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use bytes::Bytes;
use herdsman_host::Seed;

use super::Fault;
use crate::config::{GuardConfig, Lane};
use crate::core::model::ModelCache;
use crate::core::{Abilities, Answer, Command, Core, Effect, Event, LinkId, LoadId, Reply, Values};
use crate::error::LoadError;
use crate::near::{NearCache, Pass};
use crate::stats::Counters;

pub(super) const MS: u64 = 1_000_000;

/// Names a guard from its start to its end.
type Life = u64;

#[derive(Debug)]
enum Coming {
    Up { life: Life, link: LinkId },
    Refused { life: Life, link: LinkId },
    Down { life: Life, link: LinkId },
    AtCache { life: Life, link: LinkId, command: Command },
    Reply { life: Life, link: LinkId, answer: Answer },
    Loaded { life: Life, load: LoadId, values: Vec<Option<Bytes>> },
    Wake { life: Life },
}

/// A look-up that has no answer yet.
struct Asked {
    keys: Vec<u64>,
    /// The version of each key at this guard's last invalidation before.
    at_least: Vec<u64>,
    answer: Receiver<Values>,
    since_ns: u64,
}

pub(super) struct Process {
    life: Life,
    pub(super) core: Core,
    near: Arc<NearCache>,
    invalidated: Vec<u64>,
    asked: Vec<Asked>,
    loads: usize,
    /// When it is to be settled next though nothing happens.
    wake_ns: u64,
}

/// A connection: when the last thing sent on it arrives, either way.
#[derive(Default)]
struct Line {
    there_ns: u64,
    back_ns: u64,
}

/// How the cache and the way to it are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    pub(super) rtt_ns: u64,
    /// Refuses connections, and answers nothing.
    pub(super) dead: bool,
    /// Carries out nothing before then.
    pub(super) paused_until_ns: u64,
    pub(super) loading: bool,
    /// One reply in so many ends its connection instead; 0: none.
    pub(super) cuts_one_in: u64,
}

/// What was seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) right: u64,
    pub(super) errors: u64,
    pub(super) loads: u64,
    pub(super) loads_at_once: usize,
    pub(super) slowest_ns: u64,
    pub(super) stalest_ns: u64,
    /// When each key was asked of the system of record, and for which guard.
    pub(super) load_times: Vec<(u64, Life)>,
}

pub(super) struct World {
    pub(super) config: GuardConfig,
    pub(super) load_ns: u64,
    /// An answer may be older than the record by so much.
    pub(super) stale_max_ns: u64,
    pub(super) weather: Weather,
    pub(super) processes: Vec<Process>,
    pub(super) seen: Seen,
    pub(super) random: Seed,
    pub(super) now_ns: u64,
    fault: Option<Fault>,
    cache: ModelCache,
    /// When each version of each key began; a key without any does not exist.
    record: Vec<Vec<u64>>,
    lines: HashMap<(Life, LinkId), Line>,
    /// Connections told of changes to a key.
    readers: HashMap<Bytes, HashSet<(Life, LinkId)>>,
    coming: BinaryHeap<Reverse<(u64, usize)>>,
    slots: Vec<Option<Coming>>,
    lives: Life,
}

fn key(n: u64) -> Bytes {
    Bytes::from(format!("key:{n}"))
}

fn number_of(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.rsplit(':').next()?.parse().ok()
}

fn at(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

impl World {
    /// `processes` guards, and `keys` keys of which the last `unborn` do not exist yet.
    pub(super) fn new(
        seed: u64,
        processes: usize,
        (keys, unborn): (u64, u64),
        config: GuardConfig,
        fault: Option<Fault>,
    ) -> Self {
        let record = (0..keys).map(|n| if n + unborn < keys { vec![0] } else { Vec::new() }).collect();
        let weather =
            Weather { rtt_ns: MS / 2, dead: false, paused_until_ns: 0, loading: false, cuts_one_in: 0 };
        let mut world = Self {
            config,
            load_ns: 5 * MS,
            stale_max_ns: u64::MAX,
            weather,
            processes: Vec::new(),
            seen: Seen::default(),
            random: Seed::new(seed),
            now_ns: MS,
            fault,
            cache: ModelCache::default(),
            record,
            lines: HashMap::new(),
            readers: HashMap::new(),
            coming: BinaryHeap::new(),
            slots: Vec::new(),
            lives: 0,
        };
        (0..processes).for_each(|_| {
            let process = world.born();
            world.processes.push(process);
        });
        (0..processes).for_each(|p| world.settle(p));
        world
    }

    fn born(&mut self) -> Process {
        self.lives += 1;
        let near = Arc::new(NearCache::new(self.config.near_capacity));
        let counters = Arc::new(Counters::default());
        let core = Core::new(self.config.clone(), Arc::clone(&near), counters, self.random.next_u64());
        let core = core.with_planted(self.fault);
        let invalidated = vec![0; self.record.len()];
        Process { life: self.lives, core, near, invalidated, asked: Vec::new(), loads: 0, wake_ns: u64::MAX }
    }

    fn at(&mut self, when_ns: u64, coming: Coming) {
        self.slots.push(Some(coming));
        self.coming.push(Reverse((when_ns, self.slots.len() - 1)));
    }

    /// Half a round trip, give or take a tenth.
    fn half_trip(&mut self) -> u64 {
        let half = self.weather.rtt_ns / 2;
        half - half / 10 + self.random.below(half / 5 + 1)
    }

    fn version(&self, n: u64) -> Option<u64> {
        self.record.get(at(n))?.len().checked_sub(1).map(|version| version as u64)
    }

    /// `key:3` at version 7 is `key:3@:7`.
    fn value(&self, n: u64) -> Option<Bytes> {
        self.version(n).map(|version| Bytes::from(format!("key:{n}@:{version}")))
    }

    /// Looks up these keys in one guard.
    pub(super) fn ask(&mut self, p: usize, keys: Vec<u64>, lane: Lane) -> Result<(), String> {
        let (now_ns, process) = (self.now_ns, &mut self.processes[p]);
        let names: Vec<Bytes> = keys.iter().map(|n| key(*n)).collect();
        let at_least = keys.iter().map(|n| process.invalidated[at(*n)]).collect();
        let (mut out, mut pass) = (Vec::new(), Pass::default());
        process.near.get_many(&names, now_ns, &mut out, &mut pass);
        let (sender, answer) = sync_channel(1);
        let asked = Asked { keys, at_least, answer, since_ns: now_ns };
        if !pass.renew.is_empty() {
            let entry = |at: &u32| Some((names[*at as usize].clone(), out[*at as usize].clone()?));
            let entries = pass.renew.iter().filter_map(entry).collect();
            process.core.on_event(Event::Renew { entries }, now_ns);
        }
        if pass.missing.is_empty() {
            self.check(&asked, &Ok(out))?;
            self.settle(p);
            return Ok(());
        }
        process.core.pending(lane, names.len());
        let reply = Reply::Thread(sender);
        let lookup = Event::Lookup { keys: names, counts: Vec::new(), lane, at_ns: now_ns, reply };
        process.core.on_event(lookup, now_ns);
        process.asked.push(asked);
        self.settle(p);
        Ok(())
    }

    fn check(&mut self, asked: &Asked, answer: &Values) -> Result<(), String> {
        let waited_ns = self.now_ns - asked.since_ns;
        self.seen.slowest_ns = self.seen.slowest_ns.max(waited_ns);
        let Ok(values) = answer else {
            self.seen.errors += 1;
            return Ok(());
        };
        for ((n, at_least), found) in asked.keys.iter().zip(&asked.at_least).zip(values) {
            if let Some(found) = found
                && !found.starts_with(format!("key:{n}@").as_bytes())
            {
                return Err(format!("key:{n} got {found:?}"));
            }
            let version = found.as_ref().and_then(|found| number_of(found));
            if version.unwrap_or(0) < *at_least {
                return Err(format!(
                    "key:{n} got version {version:?} after its guard had invalidated it at {at_least}"
                ));
            }
            // Out of date since the next version began.
            let next = self.record[at(*n)].get(version.map_or(0, |version| at(version) + 1));
            let stale_ns = next.map_or(0, |next_ns| asked.since_ns.saturating_sub(*next_ns));
            self.seen.stalest_ns = self.seen.stalest_ns.max(stale_ns);
            if stale_ns > self.stale_max_ns {
                return Err(format!(
                    "key:{n} got version {version:?}, out of date for {} ms, {} ms at most",
                    stale_ns / MS,
                    self.stale_max_ns / MS
                ));
            }
        }
        self.seen.right += 1;
        Ok(())
    }

    /// The record changes, and a guard says so.
    pub(super) fn invalidate(&mut self, p: usize, n: u64) {
        self.record[at(n)].push(self.now_ns);
        let version = self.version(n).unwrap_or(0);
        let process = &mut self.processes[p];
        process.near.block(&[key(n)]);
        process.invalidated[at(n)] = version;
        process.core.on_event(Event::Invalidate { keys: vec![key(n)] }, self.now_ns);
        self.settle(p);
    }

    /// The record changes behind the guards; another client sets the new value in the cache, deletes it there, or does nothing.
    pub(super) fn change_behind(&mut self, n: u64, says: u64) {
        self.record[at(n)].push(self.now_ns);
        if self.weather.dead || self.now_ns < self.weather.paused_until_ns {
            return;
        }
        let before = self.cache.values.get(&key(n)).map(|(value, _)| value.clone());
        match says {
            0 => {
                let expires_ns = self.now_ns + self.config.ttl.as_nanos() as u64;
                let value = self.value(n).unwrap_or_default();
                self.cache.values.insert(key(n), (value, expires_ns));
            }
            1 => drop(self.cache.execute(&Command::Delete(vec![key(n)]), self.now_ns)),
            _ => {}
        }
        if before != self.cache.values.get(&key(n)).map(|(value, _)| value.clone()) {
            self.tell_readers(&key(n), None);
        }
    }

    fn tell_readers(&mut self, key: &Bytes, but: Option<(Life, LinkId)>) {
        let mut readers: Vec<_> = self.readers.remove(key).unwrap_or_default().into_iter().collect();
        readers.sort_unstable();
        for (life, link) in readers.into_iter().filter(|reader| Some(*reader) != but) {
            self.reply(life, link, Answer::Changed(Some(vec![key.clone()])));
        }
    }

    fn reply(&mut self, life: Life, link: LinkId, answer: Answer) {
        let trip = self.half_trip();
        let Some(line) = self.lines.get_mut(&(life, link)) else { return };
        line.back_ns = line.back_ns.max(self.now_ns + trip) + 1;
        let when_ns = line.back_ns;
        self.at(when_ns, Coming::Reply { life, link, answer });
    }

    fn cut(&mut self, life: Life, link: LinkId) {
        if self.lines.remove(&(life, link)).is_some() {
            let trip = self.half_trip();
            self.at(self.now_ns + trip, Coming::Down { life, link });
        }
    }

    /// The server dies with all that it holds, or comes back empty.
    pub(super) fn set_dead(&mut self, dead: bool) {
        self.weather.dead = dead;
        self.cache = ModelCache::default();
        self.readers.clear();
        let mut lines: Vec<_> = self.lines.keys().copied().collect();
        lines.sort_unstable();
        lines.into_iter().for_each(|(life, link)| self.cut(life, link));
    }

    /// `kill -9`, and another in its place, which is returned to be started.
    pub(super) fn kill(&mut self, p: usize) {
        let (life, born) = (self.processes[p].life, self.born());
        self.processes[p] = born;
        self.lines.retain(|(other, _), _| *other != life);
        self.settle(p);
    }

    fn at_cache(&mut self, life: Life, link: LinkId, command: Command) {
        if self.weather.dead {
            return self.cut(life, link);
        }
        if self.now_ns < self.weather.paused_until_ns {
            let when_ns = self.weather.paused_until_ns;
            return self.at(when_ns, Coming::AtCache { life, link, command });
        }
        if self.weather.loading {
            return self.reply(
                life,
                link,
                Answer::Failed("LOADING Redis is loading the dataset in memory".into()),
            );
        }
        let (reads, writes): (Vec<Bytes>, Vec<Bytes>) = match &command {
            Command::Get(keys) => (keys.clone(), Vec::new()),
            Command::Claim(claim) => (claim.wants.iter().map(|want| want.key.clone()).collect(), Vec::new()),
            Command::FillLeased(fills) => {
                let keys: Vec<Bytes> = fills.iter().map(|fill| fill.key.clone()).collect();
                (keys.clone(), keys)
            }
            Command::Fill(fills) => (Vec::new(), fills.iter().map(|fill| fill.key.clone()).collect()),
            Command::Delete(keys) => (Vec::new(), keys.clone()),
            _ => (Vec::new(), Vec::new()),
        };
        let held = |cache: &ModelCache, key: &Bytes| cache.values.get(key).map(|(value, _)| value.clone());
        let before: Vec<_> = writes.iter().map(|key| held(&self.cache, key)).collect();
        let answer = self.cache.execute(&command, self.now_ns);
        for (key, before) in writes.iter().zip(before) {
            if held(&self.cache, key) != before {
                self.tell_readers(key, Some((life, link)));
            }
        }
        if self.lines.contains_key(&(life, link)) {
            for key in reads {
                self.readers.entry(key).or_default().insert((life, link));
            }
        }
        if self.weather.cuts_one_in > 0 && self.random.one_in(self.weather.cuts_one_in) {
            return self.cut(life, link);
        }
        self.reply(life, link, answer);
    }

    fn happen(&mut self, coming: Coming) -> Result<(), String> {
        let (life, event) = match coming {
            Coming::AtCache { life, link, command } => {
                self.at_cache(life, link, command);
                return Ok(());
            }
            Coming::Wake { life } => (life, None),
            Coming::Up { life, link } => {
                if self.weather.dead {
                    return self.happen(Coming::Refused { life, link });
                }
                self.lines.insert((life, link), Line::default());
                (life, Some(Event::Up { link, abilities: Abilities { leases: true, tracking: true } }))
            }
            Coming::Refused { life, link } => (life, Some(Event::Refused { link, error: "refused".into() })),
            Coming::Down { life, link } => (life, Some(Event::Down { link, error: "cut".into() })),
            Coming::Reply { life, link, answer } => {
                let open = self.lines.contains_key(&(life, link));
                (life, open.then(|| Event::Answers { link, answers: vec![answer] }))
            }
            Coming::Loaded { life, load, values } => {
                let fails = self.weather.cuts_one_in > 0 && self.random.one_in(20);
                let result = if fails { Err(LoadError("the table is locked".into())) } else { Ok(values) };
                if let Some(process) = self.processes.iter_mut().find(|process| process.life == life) {
                    process.loads -= 1;
                }
                (life, Some(Event::Loaded { load, result }))
            }
        };
        let Some(p) = self.life_of(life) else { return Ok(()) };
        if self.processes[p].wake_ns <= self.now_ns {
            self.processes[p].wake_ns = u64::MAX;
        }
        if let Some(event) = event {
            self.processes[p].core.on_event(event, self.now_ns);
        }
        self.settle(p);
        self.take_answers(p)
    }

    fn settle(&mut self, p: usize) {
        let (now_ns, life) = (self.now_ns, self.processes[p].life);
        let mut effects = Vec::new();
        self.processes[p].core.settle(now_ns, &mut effects);
        let wake = self.processes[p].core.deadline_ns();
        for effect in effects {
            let trip = self.half_trip();
            match effect {
                Effect::Open { link, .. } => self.at(now_ns + 2 * trip, Coming::Up { life, link }),
                Effect::Close { link } => drop(self.lines.remove(&(life, link))),
                Effect::Send { link, command } => {
                    let Some(line) = self.lines.get_mut(&(life, link)) else { continue };
                    line.there_ns = line.there_ns.max(now_ns + trip) + 1;
                    let when_ns = line.there_ns;
                    self.at(when_ns, Coming::AtCache { life, link, command });
                }
                Effect::Load { load, keys } => {
                    let process = &mut self.processes[p];
                    process.loads += 1;
                    self.seen.loads_at_once = self.seen.loads_at_once.max(process.loads);
                    self.seen.loads += keys.len() as u64;
                    self.seen.load_times.extend(keys.iter().map(|_| (now_ns, life)));
                    // Read at the start: a change may overtake it.
                    let values = keys.iter().map(|key| self.value(number_of(key)?)).collect();
                    let done_ns = now_ns + self.load_ns / 2 + self.random.below(self.load_ns);
                    self.at(done_ns, Coming::Loaded { life, load, values });
                }
                Effect::Discover { .. } => {}
            }
        }
        let process = &mut self.processes[p];
        if let Some(wake_ns) = wake.map(|wake| wake.max(now_ns + 1))
            && wake_ns < process.wake_ns
        {
            process.wake_ns = wake_ns;
            self.at(wake_ns, Coming::Wake { life });
        }
    }

    fn take_answers(&mut self, p: usize) -> Result<(), String> {
        let mut asked = std::mem::take(&mut self.processes[p].asked);
        let mut waiting = Vec::with_capacity(asked.len());
        let limit_ns = self.config.deadline.as_nanos() as u64 + 200 * MS;
        for asked in asked.drain(..) {
            match asked.answer.try_recv() {
                Ok(answer) => self.check(&asked, &answer)?,
                Err(TryRecvError::Empty) if self.now_ns - asked.since_ns > limit_ns => {
                    return Err(format!("a look-up of {:?} hangs", asked.keys));
                }
                Err(TryRecvError::Empty) => waiting.push(asked),
                Err(TryRecvError::Disconnected) => return Err("a look-up was forgotten".into()),
            }
        }
        self.processes[p].asked = waiting;
        Ok(())
    }

    /// The guard of this life, if it is alive.
    pub(super) fn life_of(&self, life: Life) -> Option<usize> {
        self.processes.iter().position(|process| process.life == life)
    }

    /// Look-ups without an answer.
    pub(super) fn waiting(&self) -> usize {
        self.processes.iter().map(|process| process.asked.len()).sum()
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, for_ns: u64) -> Result<(), String> {
        let end_ns = self.now_ns + for_ns;
        while let Some(Reverse((at, _))) = self.coming.peek()
            && *at <= end_ns
        {
            let Some(Reverse((at, slot))) = self.coming.pop() else { break };
            self.now_ns = at;
            if let Some(coming) = self.slots[slot].take() {
                self.happen(coming)?;
            }
        }
        self.now_ns = end_ns;
        (0..self.processes.len()).try_for_each(|p| self.take_answers(p))
    }
}
