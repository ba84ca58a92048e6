//! The decision engine in trouble, by seed: links refuse, die and go silent, the cache answers errors, loads fail, values
//! change behind it. Every look-up must end, with a value no older than the last invalidation before it began, or an explicit error.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Duration;

use bytes::Bytes;

use super::{Answer, Command, Core, Effect, Event, LinkId, LoadId, Reply, Values};
use crate::config::{GuardConfig, Lane};
use crate::error::LoadError;
use crate::near::{NearCache, Pass};
use crate::stats::Counters;

const KEYS: u64 = 20;
const MS: u64 = 1_000_000;

struct Asked {
    keys: Vec<u64>,
    /// The version each key had at its last invalidation before this look-up began.
    at_least: Vec<u64>,
    answer: Receiver<Values>,
    since_ns: u64,
}

struct World {
    core: Core,
    near: Arc<NearCache>,
    random: u64,
    now_ns: u64,
    /// The system of record: a version per key.
    record: Vec<u64>,
    invalidated: Vec<u64>,
    cache: HashMap<Bytes, Bytes>,
    links: HashMap<LinkId, VecDeque<Command>>,
    opening: Vec<LinkId>,
    /// Loads under way, with what they have read: at their start, so that a change may overtake them.
    loads: Vec<(LoadId, Vec<Option<Bytes>>)>,
    asked: Vec<Asked>,
    answered: usize,
    errors: usize,
}

fn key(n: u64) -> Bytes {
    Bytes::from(format!("key:{n}"))
}

fn number_of(bytes: &[u8]) -> u64 {
    let text = std::str::from_utf8(bytes).unwrap();
    text.rsplit(':').next().unwrap().parse().unwrap()
}

/// `key:3` at version 7 is `key:3@:7`: a value tells whose it is.
fn value(key: &[u8], version: u64) -> Bytes {
    Bytes::from(format!("{}@:{version}", std::str::from_utf8(key).unwrap()))
}

impl World {
    fn new(seed: u64) -> Self {
        let near = Arc::new(NearCache::new(if seed.is_multiple_of(3) { 0 } else { 8 }));
        let config = GuardConfig {
            near_ttl: Duration::from_millis(200),
            bulk_age: Duration::from_millis(300),
            deadline: Duration::from_secs(4),
            ..GuardConfig::default()
        };
        let core = Core::new(config, Arc::clone(&near), Arc::new(Counters::default()), seed);
        Self {
            core,
            near,
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            now_ns: MS,
            record: vec![0; usize::try_from(KEYS).unwrap()],
            invalidated: vec![0; usize::try_from(KEYS).unwrap()],
            cache: HashMap::new(),
            links: HashMap::new(),
            opening: Vec::new(),
            loads: Vec::new(),
            asked: Vec::new(),
            answered: 0,
            errors: 0,
        }
    }

    fn dice(&mut self, sides: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 20) % sides
    }

    fn ask(&mut self) {
        let keys: Vec<u64> = (0..1 + self.dice(5)).map(|_| self.dice(KEYS)).collect();
        let names: Vec<Bytes> = keys.iter().map(|n| key(*n)).collect();
        let lane = Lane::ALL[usize::try_from(self.dice(3)).unwrap()];
        let at_least = keys.iter().map(|n| self.invalidated[usize::try_from(*n).unwrap()]).collect();
        let (mut out, mut pass) = (Vec::new(), Pass::default());
        self.near.get_many(&names, self.now_ns, &mut out, &mut pass);
        let (sender, answer) = sync_channel(1);
        let asked = Asked { keys, at_least, answer, since_ns: self.now_ns };
        if pass.missing.is_empty() {
            asked.check(&out);
            self.answered += 1;
            return;
        }
        // The near cache's answers are checked with the rest by asking for everything.
        self.core.counters.pending(lane).fetch_add(names.len(), Relaxed);
        let reply = Reply::Thread(sender);
        let lookup = Event::Lookup { keys: names, counts: Vec::new(), lane, at_ns: self.now_ns, reply };
        self.core.on_event(lookup, self.now_ns);
        self.asked.push(asked);
    }

    fn change(&mut self) {
        let n = self.dice(KEYS);
        let at = usize::try_from(n).unwrap();
        self.record[at] += 1;
        self.near.block(&[key(n)]);
        self.invalidated[at] = self.record[at];
        self.core.on_event(Event::Invalidate { keys: vec![key(n)] }, self.now_ns);
    }

    fn execute(&mut self, command: &Command) -> Answer {
        match command {
            Command::Get(keys) => {
                Answer::Values(keys.iter().map(|key| self.cache.get(key).cloned()).collect())
            }
            Command::Fill(fills) => {
                for fill in fills {
                    self.cache.entry(fill.key.clone()).or_insert_with(|| fill.value.clone());
                }
                Answer::Done
            }
            Command::Delete(keys) => {
                keys.iter().for_each(|key| drop(self.cache.remove(key)));
                Answer::Done
            }
        }
    }

    fn some_link(&mut self) -> Option<LinkId> {
        let mut ids: Vec<LinkId> = self.links.keys().copied().collect();
        ids.sort_unstable();
        let at = self.dice(ids.len().max(1) as u64);
        ids.get(usize::try_from(at).unwrap()).copied()
    }

    /// One command answered, or the link lost before or after the cache executed it.
    fn serve(&mut self, trouble: bool) {
        let Some(link) = self.some_link() else { return };
        let dice = if trouble { self.dice(30) } else { 29 };
        let Some(command) = self.links.get_mut(&link).and_then(VecDeque::pop_front) else { return };
        let answer = match dice {
            0 => Answer::Failed("BUSY a script is running".into()),
            _ => self.execute(&command),
        };
        if dice == 1 {
            self.links.remove(&link);
            return self.core.on_event(Event::Down { link, error: "cut".into() }, self.now_ns);
        }
        self.core.on_event(Event::Answers { link, answers: vec![answer] }, self.now_ns);
    }

    fn open(&mut self, trouble: bool) {
        let Some(link) = self.opening.pop() else { return };
        if trouble && self.dice(4) == 0 {
            return self.core.on_event(Event::Refused { link, error: "refused".into() }, self.now_ns);
        }
        self.links.insert(link, VecDeque::new());
        self.core.on_event(Event::Up { link }, self.now_ns);
    }

    fn load(&mut self, trouble: bool) {
        let Some((load, values)) = self.loads.pop() else { return };
        let result = if trouble && self.dice(20) == 0 { Err(LoadError("locked".into())) } else { Ok(values) };
        self.core.on_event(Event::Loaded { load, result }, self.now_ns);
    }

    fn settle(&mut self) {
        let mut effects = Vec::new();
        self.core.settle(self.now_ns, &mut effects);
        for effect in effects {
            match effect {
                Effect::Open { link } => self.opening.push(link),
                Effect::Close { link } => drop(self.links.remove(&link)),
                Effect::Send { link, command } => {
                    if let Some(queue) = self.links.get_mut(&link) {
                        queue.push_back(command);
                    }
                }
                Effect::Load { load, keys } => {
                    let version = |key: &Bytes| self.record[usize::try_from(number_of(key)).unwrap()];
                    self.loads.push((load, keys.iter().map(|key| Some(value(key, version(key)))).collect()));
                }
            }
        }
        let (now_ns, mut answered, mut errors) = (self.now_ns, 0, 0);
        self.asked.retain(|asked| {
            match asked.answer.try_recv() {
                Ok(Ok(values)) => asked.check(&values),
                Ok(Err(_)) => errors += 1,
                Err(TryRecvError::Empty) => {
                    assert!(now_ns - asked.since_ns < 4_500 * MS, "a look-up hangs");
                    return true;
                }
                Err(TryRecvError::Disconnected) => panic!("a look-up was forgotten"),
            }
            answered += 1;
            false
        });
        self.answered += answered;
        self.errors += errors;
    }

    fn step(&mut self, trouble: bool) {
        self.now_ns += 1 + self.dice(2 * MS);
        match self.dice(12) {
            0..=2 if trouble => self.ask(),
            3 if trouble => self.change(),
            4 => self.open(trouble),
            5 | 6 => self.load(trouble),
            7 if trouble && self.dice(60) == 0 => self.now_ns += 1_200 * MS, // nobody answers for a while
            _ => self.serve(trouble),
        }
        self.settle();
    }
}

impl Asked {
    fn check(&self, values: &[Option<Bytes>]) {
        assert_eq!(values.len(), self.keys.len());
        for ((n, at_least), found) in self.keys.iter().zip(&self.at_least).zip(values) {
            let found = found.as_ref().expect("every key exists in the system of record");
            assert!(found.starts_with(format!("key:{n}@").as_bytes()), "key {n} got {found:?}");
            assert!(number_of(found) >= *at_least, "key {n}: {found:?} is older than version {at_least}");
        }
    }
}

#[test]
fn in_trouble_every_look_up_ends_with_its_own_fresh_value_or_an_error() {
    let (mut answered, mut errors) = (0, 0);
    for seed in 1..=120 {
        let mut world = World::new(seed);
        for _ in 0..1_500 {
            world.step(true);
        }
        for _ in 0..3_000 {
            world.step(false);
        }
        assert!(world.asked.is_empty(), "seed {seed}: {} look-ups never ended", world.asked.len());
        answered += world.answered;
        errors += world.errors;
    }
    println!("{answered} look-ups in trouble, {errors} of them ended with an error");
    assert!(answered > 20_000 && errors * 4 < answered, "{answered} answered, {errors} errors");
}
