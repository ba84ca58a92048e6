//! A script of operations against a broker, what each of them promised, and whether a broker opened later keeps it.
//!
//! Five topics: `strict` (two partitions, durable with the acknowledgement), `relaxed` (not), `latest` (compacted), `short`
//! (records deleted by offset), `ids` (event ids); plain, idempotent and transactional producers of both protocols, a group's
//! offsets, ACLs, topics made and deleted. Every value is written once.

mod check;
mod lost;

use std::collections::BTreeMap;
use std::sync::Arc;

use herdsman_host::{Clock as _, Seed, SimClock};
use herdsman_record::TopicPartition;

use crate::connection::configs;
use crate::house::{Claim, House, Protocol, batch};
use crate::tape::Tape;

pub use check::Promises;
pub use lost::Lost;

/// The wall clock at the beginning.
pub const EPOCH_MS: i64 = 1_700_000_000_000;
/// The transactional ids and what they speak.
pub const IDS: [(&str, Protocol); 2] = [("old", Protocol::Old), ("new", Protocol::V2)];
/// The group whose offsets are committed.
pub const GROUP: &str = "hunters";
/// Keys of the compacted topic.
const KEYS: u64 = 5;

/// Something done.
#[derive(Debug, Clone)]
pub struct Act {
    /// Steps of the disk before it.
    pub begun: usize,
    /// Steps of the disk when it was acknowledged; `None`: it was refused.
    pub done: Option<usize>,
    /// What.
    pub what: What,
}

/// What was done.
#[derive(Debug, Clone)]
pub enum What {
    /// Records were written.
    Produce {
        /// Where.
        at: TopicPartition,
        /// Their values.
        values: Vec<String>,
        /// Offset of the first.
        base: i64,
        /// Number of the transaction they are part of.
        transaction: Option<usize>,
        /// Producer and sequence of the first.
        sequence: Option<(Claim, i32)>,
    },
    /// The group committed an offset.
    Offset {
        /// Of which partition.
        at: TopicPartition,
        /// The offset.
        offset: i64,
        /// Number of the transaction it is part of.
        transaction: Option<usize>,
    },
    /// A transaction ended.
    End {
        /// Its number.
        transaction: usize,
        /// Whether it was committed.
        commit: bool,
    },
    /// Records were deleted.
    Delete {
        /// Where.
        at: TopicPartition,
        /// The first that stays.
        before: i64,
    },
    /// A user was allowed to read.
    Allow {
        /// Its name.
        user: String,
    },
    /// A topic was made.
    Make {
        /// Its name.
        topic: String,
    },
    /// A topic was deleted.
    Drop {
        /// Its name.
        topic: String,
    },
}

struct Open {
    number: usize,
    offsets: bool,
    partitions: Vec<TopicPartition>,
}

struct Producer {
    claim: Claim,
    sequences: BTreeMap<TopicPartition, i32>,
    open: Option<Open>,
}

/// A run of the script.
pub struct Script<'a> {
    seed: Seed,
    house: &'a House,
    steps: &'a dyn Fn() -> usize,
    clock: Arc<SimClock>,
    plain: Producer,
    transactional: Vec<Producer>,
    acts: Vec<Act>,
    ends: BTreeMap<TopicPartition, i64>,
    numbers: u64,
    transactions: usize,
    made: Vec<String>,
}

/// Partitions that transactions and plain producers write.
fn shared(seed: &mut Seed) -> TopicPartition {
    match seed.index(4) {
        0 => TopicPartition::new("strict", 0),
        1 => TopicPartition::new("strict", 1),
        2 => TopicPartition::new("short", 0),
        _ => TopicPartition::new("relaxed", 0),
    }
}

impl<'a> Script<'a> {
    /// Makes topics and producers; `steps` counts what the disk did.
    ///
    /// # Errors
    /// What was refused.
    pub fn begin(
        house: &'a House,
        clock: &Arc<SimClock>,
        steps: &'a dyn Fn() -> usize,
        seed: &Seed,
    ) -> Result<Self, String> {
        let never = "9223372036854775807";
        let ids = [("herdsman.event.id", "id"), ("herdsman.dedupe.window.ms", "86400000")];
        let compacted =
            [("cleanup.policy", "compact"), ("segment.bytes", "2048"), ("min.cleanable.dirty.ratio", "0.1")];
        type Configs<'a> = &'a [(&'a str, &'a str)];
        let topics: [(&str, i32, Configs<'_>); 5] = [
            ("strict", 2, &[("segment.bytes", "4096")]),
            ("relaxed", 1, &[("flush.messages", never), ("segment.bytes", "4096")]),
            ("latest", 1, &compacted),
            ("short", 1, &[("segment.bytes", "2048")]),
            ("ids", 1, &ids),
        ];
        for (name, partitions, set) in topics {
            house.broker.create_topic(name, partitions, &configs(set)).map_err(|error| error.to_string())?;
        }
        let begin = |id| {
            let claim = house.init_producer(id, None).map_err(|code| format!("InitProducerId: {code}"))?;
            Ok::<_, String>(Producer { claim, sequences: BTreeMap::new(), open: None })
        };
        let plain = begin(None)?;
        let transactional = IDS.iter().map(|(id, _)| begin(Some(id))).collect::<Result<_, _>>()?;
        Ok(Self {
            seed: seed.stream("script"),
            house,
            steps,
            clock: Arc::clone(clock),
            plain,
            transactional,
            acts: Vec::new(),
            ends: BTreeMap::new(),
            numbers: 0,
            transactions: 0,
            made: Vec::new(),
        })
    }

    /// Does `operations` and tells what was promised.
    ///
    /// # Errors
    /// What was refused that should not be.
    pub fn run(mut self, operations: usize) -> Result<Promises, String> {
        for _ in 0..operations {
            self.operation()?;
        }
        let open = self.transactional.iter().filter_map(|one| one.open.as_ref().map(|open| open.number));
        Ok(Promises { acts: self.acts, open: open.collect() })
    }

    fn operation(&mut self) -> Result<(), String> {
        match self.seed.index(40) {
            0..12 => self.produce(),
            12..15 => self.latest(),
            15..18 => self.event(),
            18..21 => self.offset(),
            21..30 => self.within(),
            30..34 => self.end(),
            34 => self.delete(),
            35 => self.allow(),
            36 => self.topic(),
            37 => self.idempotent(),
            _ => self.maintain(),
        }
    }

    fn values(&mut self, prefix: &str) -> Vec<String> {
        let count = 1 + self.seed.index(3);
        (0..count)
            .map(|_| {
                self.numbers += 1;
                let padding = "x".repeat([0, 20, 150, 700][self.seed.index(4)]);
                format!("{prefix}:{}:{padding}", self.numbers)
            })
            .collect()
    }

    /// Does something and notes when.
    fn act(
        &mut self,
        what: What,
        act: impl FnOnce(&House) -> Result<Option<i64>, String>,
    ) -> Result<i64, String> {
        let begun = (self.steps)();
        let done = act(self.house).map_err(|error| format!("{what:?}: {error}"))?;
        let mut what = what;
        if let What::Produce { at, base, values, .. } = &mut what {
            *base = done.unwrap_or(-1);
            let end = *base + i64::try_from(values.len()).unwrap_or(0);
            self.ends.insert(at.clone(), end);
        }
        self.acts.push(Act { begun, done: Some((self.steps)()), what });
        Ok(done.unwrap_or(-1))
    }

    fn write(
        &mut self,
        at: &TopicPartition,
        values: Vec<String>,
        sequence: Option<(Claim, i32)>,
    ) -> Result<(), String> {
        let made = batch(&values, sequence, false, self.clock.now_ms());
        let what = What::Produce { at: at.clone(), values, base: -1, transaction: None, sequence };
        let send =
            |house: &House| house.produce(None, at, made).map(Some).map_err(|code| format!("code {code}"));
        self.act(what, send).map(drop)
    }

    fn produce(&mut self) -> Result<(), String> {
        let (at, values) = (shared(&mut self.seed), self.values("plain"));
        self.write(&at, values, None)
    }

    fn idempotent(&mut self) -> Result<(), String> {
        let (at, values) = (shared(&mut self.seed), self.values("once"));
        let next = self.plain.sequences.entry(at.clone()).or_default();
        let sequence = *next;
        *next += i32::try_from(values.len()).unwrap_or(0);
        let claim = self.plain.claim;
        self.write(&at, values, Some((claim, sequence)))
    }

    fn latest(&mut self) -> Result<(), String> {
        let key = format!("key{}", self.seed.below(KEYS));
        let values = self.values(&key);
        self.write(&TopicPartition::new("latest", 0), values, None)
    }

    fn event(&mut self) -> Result<(), String> {
        self.numbers += 1;
        let value = format!("{{\"id\":\"{}\"}}", self.numbers);
        self.write(&TopicPartition::new("ids", 0), vec![value], None)
    }

    fn offset(&mut self) -> Result<(), String> {
        let at = shared(&mut self.seed);
        self.numbers += 1;
        let offset = i64::try_from(self.numbers).unwrap_or(0);
        let what = What::Offset { at: at.clone(), offset, transaction: None };
        let commit = |house: &House| {
            house.commit_offset(GROUP, &at, offset).map(|()| None).map_err(|code| format!("code {code}"))
        };
        self.act(what, commit).map(drop)
    }

    /// A record or an offset in the transaction of one of the producers, which begins with it if none is open.
    fn within(&mut self) -> Result<(), String> {
        let which = self.seed.index(IDS.len());
        let (id, protocol) = IDS[which];
        let at = shared(&mut self.seed);
        let is_offset = self.seed.one_in(4);
        let values = self.values("within");
        let now_ms = self.clock.now_ms();
        self.numbers += 1;
        let offset = i64::try_from(self.numbers).unwrap_or(0);
        let producer = &mut self.transactional[which];
        let claim = producer.claim;
        let open = producer.open.get_or_insert_with(|| {
            self.transactions += 1;
            Open { number: self.transactions, offsets: false, partitions: Vec::new() }
        });
        let transaction = Some(open.number);
        let first = !open.partitions.contains(&at);
        let first_offsets = !open.offsets;
        if is_offset {
            open.offsets = true;
            let what = What::Offset { at: at.clone(), offset, transaction };
            let commit = |house: &House| {
                if protocol == Protocol::Old && first_offsets {
                    house.add_offsets(id, claim, GROUP).map_err(|code| format!("AddOffsetsToTxn {code}"))?;
                }
                let done = house.commit_within((id, protocol), claim, GROUP, (&at, offset));
                done.map(|()| None).map_err(|code| format!("TxnOffsetCommit {code}"))
            };
            return self.act(what, commit).map(drop);
        }
        if first {
            open.partitions.push(at.clone());
        }
        let next = producer.sequences.entry(at.clone()).or_default();
        let sequence = *next;
        *next += i32::try_from(values.len()).unwrap_or(0);
        let made = batch(&values, Some((claim, sequence)), true, now_ms);
        let what = What::Produce {
            at: at.clone(),
            values,
            base: -1,
            transaction,
            sequence: Some((claim, sequence)),
        };
        let send = |house: &House| {
            if protocol == Protocol::Old && first {
                house.add_partition(id, claim, &at).map_err(|code| format!("AddPartitionsToTxn {code}"))?;
            }
            house.produce(Some((id, protocol)), &at, made).map(Some).map_err(|code| format!("code {code}"))
        };
        self.act(what, send).map(drop)
    }

    fn end(&mut self) -> Result<(), String> {
        let which = self.seed.index(IDS.len());
        let commit = !self.seed.one_in(3);
        let Some(open) = self.transactional[which].open.take() else { return Ok(()) };
        let claim = self.transactional[which].claim;
        let mut next = claim;
        let what = What::End { transaction: open.number, commit };
        self.act(what, |house| {
            next = house.end(IDS[which], claim, commit).map_err(|code| format!("EndTxn {code}"))?;
            Ok(None)
        })?;
        let producer = &mut self.transactional[which];
        if next != claim {
            producer.claim = next;
            producer.sequences.clear();
        }
        Ok(())
    }

    fn delete(&mut self) -> Result<(), String> {
        let at = TopicPartition::new("short", 0);
        let end = self.ends.get(&at).copied().unwrap_or(0);
        let before = end - i64::try_from(self.seed.index(20)).unwrap_or(0);
        if before < 0 {
            return Ok(());
        }
        self.act(What::Delete { at: at.clone(), before }, |house| {
            let done = house.broker.log().delete_records_before(&at, before);
            done.map(|_| None).map_err(|error| error.to_string())
        })
        .map(drop)
    }

    fn allow(&mut self) -> Result<(), String> {
        self.numbers += 1;
        let user = format!("u{}", self.numbers);
        self.act(What::Allow { user: user.clone() }, |house| {
            house.allow(&user, "strict").map(|()| None).map_err(|code| format!("code {code}"))
        })
        .map(drop)
    }

    fn topic(&mut self) -> Result<(), String> {
        if self.made.len() > 2 {
            let topic = self.made.remove(0);
            let what = What::Drop { topic: topic.clone() };
            let remove =
                |house: &House| house.broker.delete_topic(&topic).map(|()| None).map_err(|e| e.to_string());
            return self.act(what, remove).map(drop);
        }
        self.numbers += 1;
        let topic = format!("topic{}", self.numbers);
        self.act(What::Make { topic: topic.clone() }, |house| {
            let made = house.broker.create_topic(&topic, 1, &BTreeMap::new());
            made.map(|_| None).map_err(|error| error.to_string())
        })?;
        let values = self.values("made");
        self.write(&TopicPartition::new(topic.as_str(), 0), values, None)?;
        self.made.push(topic);
        Ok(())
    }

    fn maintain(&mut self) -> Result<(), String> {
        self.clock.advance_ns(400_000_000);
        self.house.broker.maintain().map_err(|error| format!("maintenance: {error}"))
    }
}

/// Runs script `number` of those called `label` on a recorded disk; the broker is still open.
///
/// # Errors
/// What was refused that should not be.
pub fn record(label: &str, number: u64, operations: usize) -> Result<(Tape, Promises, House), String> {
    let seed = Seed::new(number).stream(label);
    let tape = Tape::new(&seed);
    let clock = Arc::new(SimClock::new(EPOCH_MS));
    let shared_clock = Arc::clone(&clock) as Arc<dyn herdsman_host::Clock>;
    let house = House::open(Arc::new(tape.clone()), shared_clock, &seed)?;
    let steps = || tape.steps();
    let promises = Script::begin(&house, &clock, &steps, &seed)?.run(operations)?;
    Ok((tape, promises, house))
}
