//! Late messages of transactions: held back past the next epoch, doubled, out of order; clients of both protocols.
//!
//! Each seed has two transactional producers over three partitions and a group, on a simulated disk and clock. Any message
//! may be lost on the way (its client then asks for a new epoch, as clients do), and any may arrive once more, or for the
//! first time, much later. What must hold: a transaction counts whole or not at all, only if its own client asked for it, and
//! no message of an older one ends it, joins it or tears it.
//!
//! Of clients before KIP-890 a late EndTxn, AddPartitionsToTxn or TxnOffsetCommit of the same epoch cannot be told from a new
//! one by any broker, so theirs are late only past a new epoch; of KIP-890 clients every one is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use herdsman_host::{Crash, Seed, SimClock, SimDisk};
use herdsman_record::{Batch, TopicPartition};

use crate::connection::configs;
use crate::house::{Claim, House, Protocol, batch};
use crate::row::each_seed;
use crate::script::EPOCH_MS;
use crate::{Row, Tally};

/// The row.
pub const ROW: Row = Row {
    name: "late-transactions",
    what: "EndTxn, AddPartitionsToTxn, Produce and TxnOffsetCommit held back past the next epoch, doubled, reordered",
    unit: "seeds",
    change: 500,
    long: 10_000,
    run: |order| each_seed(order, one),
};

/// Steps of a seed: a message sent, an end, or a late one arriving.
const STEPS: usize = 150;
const GROUP: &str = "copiers";
const PARTITIONS: i32 = 3;

#[derive(Debug, Clone)]
enum Message {
    Produce(TopicPartition, Batch),
    AddPartition(TopicPartition),
    AddOffsets,
    Offset(i64),
    End(bool),
}

/// A message that is still on its way.
#[derive(Debug, Clone)]
struct Late {
    client: usize,
    claim: Claim,
    transaction: usize,
    message: Message,
}

/// What a client asked for at the end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Open,
    Commit,
    /// Asked for, but never answered.
    CommitUnanswered,
    Abort,
}

#[derive(Default)]
struct Transaction {
    /// Values that were acknowledged within it.
    values: Vec<String>,
    /// Values sent and not acknowledged.
    doubtful: Vec<String>,
    offset: Option<i64>,
}

struct Client {
    id: String,
    protocol: Protocol,
    claim: Claim,
    sequences: BTreeMap<TopicPartition, i32>,
    added: BTreeSet<TopicPartition>,
    offsets_added: bool,
    open: Option<usize>,
    next_offset: i64,
}

struct World {
    seed: Seed,
    disk: SimDisk,
    clock: Arc<SimClock>,
    house: House,
    clients: Vec<Client>,
    transactions: Vec<(usize, Transaction, Wish)>,
    late: Vec<Late>,
    numbers: u64,
    tally: Tally,
    trace: Vec<String>,
}

fn finds(partition: i32) -> TopicPartition {
    TopicPartition::new("finds", partition)
}

/// The partition whose offsets a client commits.
fn source(client: usize) -> TopicPartition {
    finds(i32::try_from(client).unwrap_or(0))
}

fn one(number: u64) -> Result<Tally, String> {
    let mut world = World::new(number)?;
    let outcome = (0..STEPS).try_for_each(|_| world.step()).and_then(|()| world.finish());
    match outcome {
        Ok(()) => Ok(world.tally),
        Err(what) => {
            let from = world.trace.len().saturating_sub(12);
            let trace = world.trace.get(from..).unwrap_or_default().join("\n  ");
            Err(format!("{what}\n  {trace}"))
        }
    }
}

impl Late {
    /// For the trace.
    fn told(&self) -> String {
        let what = match &self.message {
            Message::Produce(at, batch) => {
                format!("Produce to {at}, sequence {}", batch.header().base_sequence)
            }
            Message::AddPartition(at) => format!("AddPartitionsToTxn {at}"),
            other => format!("{other:?}"),
        };
        format!("client {} epoch {} transaction {}: {what}", self.client, self.claim.epoch, self.transaction)
    }
}

/// For the trace.
fn told(answer: Option<&Result<Claim, i16>>) -> String {
    match answer {
        None => "lost".to_owned(),
        Some(Ok(claim)) => format!("epoch {}", claim.epoch),
        Some(Err(code)) => format!("code {code}"),
    }
}

impl World {
    fn new(number: u64) -> Result<Self, String> {
        let seed = Seed::new(number).stream("late");
        let disk = SimDisk::new(&seed);
        let clock = Arc::new(SimClock::new(EPOCH_MS));
        let shared = Arc::clone(&clock);
        let house = House::open(Arc::new(disk.clone()), shared, &seed)?;
        let made = house.broker.create_topic("finds", PARTITIONS, &configs(&[]));
        made.map_err(|error| error.to_string())?;
        let mut clients = Vec::new();
        for (id, protocol) in [("old", Protocol::Old), ("new", Protocol::V2)] {
            let claim = house.init_producer(Some(id), None).map_err(|code| format!("{id}: {code}"))?;
            clients.push(Client {
                id: id.to_owned(),
                protocol,
                claim,
                sequences: BTreeMap::new(),
                added: BTreeSet::new(),
                offsets_added: false,
                open: None,
                next_offset: 0,
            });
        }
        let (transactions, late, trace) = (Vec::new(), Vec::new(), Vec::new());
        let tally = Tally::of(1);
        Ok(Self { seed, disk, clock, house, clients, transactions, late, numbers: 0, tally, trace })
    }

    fn step(&mut self) -> Result<(), String> {
        self.clock.advance_ns(50_000_000);
        self.tally.simulated_ms += 50;
        let client = self.seed.index(self.clients.len());
        match self.seed.index(20) {
            0..8 => self.produce(client),
            8..11 => self.offset(client),
            11..15 => self.end(client),
            15..19 => self.arrive(),
            _ if self.seed.one_in(3) => self.restart(),
            _ => Ok(()),
        }
    }

    fn restart(&mut self) -> Result<(), String> {
        self.trace.push("restart".to_owned());
        self.disk = self.disk.crash(Crash::KeepPrefix);
        let clock = Arc::clone(&self.clock);
        // another process: ids of topics made from now on differ
        let seed = Seed::new(self.seed.next_u64());
        self.house = House::open(Arc::new(self.disk.clone()), clock, &seed)?;
        Ok(())
    }

    /// Gives a message to the broker in the name it was sent in.
    fn deliver(&self, late: &Late) -> Result<Claim, i16> {
        let client = &self.clients[late.client];
        let who = (client.id.as_str(), client.protocol);
        let done = match &late.message {
            Message::Produce(at, batch) => self.house.produce(Some(who), at, batch.clone()).map(drop),
            Message::AddPartition(at) => self.house.add_partition(&client.id, late.claim, at),
            Message::AddOffsets => self.house.add_offsets(&client.id, late.claim, GROUP),
            Message::Offset(offset) => {
                self.house.commit_within(who, late.claim, GROUP, (&source(late.client), *offset))
            }
            Message::End(commit) => return self.house.end(who, late.claim, *commit),
        };
        done.map(|()| late.claim)
    }

    /// Sends a message: it arrives, perhaps once more later; or it does not, perhaps later. `None`: no answer.
    fn send(&mut self, client: usize, transaction: usize, message: Message) -> Option<Result<Claim, i16>> {
        let late = Late { client, claim: self.clients[client].claim, transaction, message };
        let fate = self.seed.index(12);
        self.tally.count("messages", 1);
        let answer = (fate != 0).then(|| self.deliver(&late));
        self.trace.push(format!("{} → {}", late.told(), told(answer.as_ref())));
        if fate <= 4 {
            self.late.push(late);
        }
        // an answer may be lost as well
        if fate == 1 { None } else { answer }
    }

    fn open(&mut self, client: usize) -> usize {
        if let Some(open) = self.clients[client].open {
            return open;
        }
        self.transactions.push((client, Transaction::default(), Wish::Open));
        let number = self.transactions.len() - 1;
        self.clients[client].open = Some(number);
        number
    }

    /// A client that had no answer, or an error, takes a new epoch: what it had open is aborted.
    fn begin_anew(&mut self, client: usize) -> Result<(), String> {
        let id = self.clients[client].id.clone();
        let claim = self.house.init_producer(Some(&id), None).map_err(|code| format!("{id}: {code}"))?;
        self.trace.push(format!("{id} begins anew: epoch {}", claim.epoch));
        let state = &mut self.clients[client];
        state.claim = claim;
        state.sequences.clear();
        state.added.clear();
        state.offsets_added = false;
        if let Some(open) = state.open.take()
            && self.transactions[open].2 == Wish::Open
        {
            self.transactions[open].2 = Wish::Abort;
        }
        Ok(())
    }

    fn produce(&mut self, client: usize) -> Result<(), String> {
        let transaction = self.open(client);
        let at = finds(i32::try_from(self.seed.index(3)).unwrap_or(0));
        if self.clients[client].protocol == Protocol::Old && !self.clients[client].added.contains(&at) {
            match self.send(client, transaction, Message::AddPartition(at.clone())) {
                Some(Ok(_)) => drop(self.clients[client].added.insert(at.clone())),
                Some(Err(code)) => return Err(format!("AddPartitionsToTxn of the newest producer: {code}")),
                None => return self.begin_anew(client),
            }
        }
        self.numbers += 1;
        let value = format!("t{transaction}:{}", self.numbers);
        let state = &mut self.clients[client];
        let next = state.sequences.entry(at.clone()).or_default();
        let sequence = *next;
        *next += 1;
        let made = batch(std::slice::from_ref(&value), Some((state.claim, sequence)), true, EPOCH_MS);
        match self.send(client, transaction, Message::Produce(at, made)) {
            Some(Ok(_)) => self.transactions[transaction].1.values.push(value),
            Some(Err(code)) => return Err(format!("Produce of the newest producer: {code}")),
            None => {
                self.transactions[transaction].1.doubtful.push(value);
                return self.begin_anew(client);
            }
        }
        Ok(())
    }

    fn offset(&mut self, client: usize) -> Result<(), String> {
        let transaction = self.open(client);
        if self.clients[client].protocol == Protocol::Old && !self.clients[client].offsets_added {
            match self.send(client, transaction, Message::AddOffsets) {
                Some(Ok(_)) => self.clients[client].offsets_added = true,
                Some(Err(code)) => return Err(format!("AddOffsetsToTxn of the newest producer: {code}")),
                None => return self.begin_anew(client),
            }
        }
        self.clients[client].next_offset += 1;
        let offset = self.clients[client].next_offset;
        match self.send(client, transaction, Message::Offset(offset)) {
            Some(Ok(_)) => self.transactions[transaction].1.offset = Some(offset),
            Some(Err(code)) => return Err(format!("TxnOffsetCommit of the newest producer: {code}")),
            None => return self.begin_anew(client),
        }
        Ok(())
    }

    fn end(&mut self, client: usize) -> Result<(), String> {
        let Some(transaction) = self.clients[client].open else { return Ok(()) };
        let commit = !self.seed.one_in(3);
        let written = &self.transactions[transaction].1;
        // a transaction into which nothing was written is not ended over the wire
        if written.values.is_empty() && written.offset.is_none() {
            return Ok(());
        }
        self.transactions[transaction].2 = if commit { Wish::CommitUnanswered } else { Wish::Abort };
        match self.send(client, transaction, Message::End(commit)) {
            Some(Ok(claim)) => {
                let state = &mut self.clients[client];
                if claim != state.claim {
                    state.sequences.clear();
                }
                state.claim = claim;
                (state.open, state.offsets_added) = (None, false);
                state.added.clear();
                if commit {
                    self.transactions[transaction].2 = Wish::Commit;
                }
                Ok(())
            }
            Some(Err(code)) => Err(format!("EndTxn of the newest producer: {code}")),
            None => self.begin_anew(client),
        }
    }

    /// A late message arrives, after all.
    fn arrive(&mut self) -> Result<(), String> {
        if self.late.is_empty() {
            return Ok(());
        }
        let which = self.seed.index(self.late.len());
        let late = self.late[which].clone();
        let client = &self.clients[late.client];
        let same_epoch = late.claim == client.claim;
        let is_produce = matches!(late.message, Message::Produce(..));
        if same_epoch
            && (client.protocol == Protocol::Old || client.open == Some(late.transaction))
            && !is_produce
        {
            return Ok(()); // of the present epoch; see above
        }
        if !self.seed.one_in(3) {
            self.late.swap_remove(which);
        }
        let answer = self.deliver(&late);
        self.tally.count("late messages", 1);
        self.trace.push(format!("late: {} → {}", late.told(), told(Some(&answer))));
        if answer.is_err() {
            self.tally.count("late messages refused", 1);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), String> {
        for _ in 0..self.late.len() * 2 {
            self.arrive()?;
        }
        for client in 0..self.clients.len() {
            self.begin_anew(client)?;
        }
        while !self.late.is_empty() {
            let late = self.late.swap_remove(0);
            let answer = self.deliver(&late);
            self.trace.push(format!("last: {} → {}", late.told(), told(Some(&answer))));
        }
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for partition in 0..PARTITIONS {
            let at = finds(partition);
            let read = self.house.read(&at, 0, true).map_err(|code| format!("{at}: Fetch answers {code}"))?;
            let (_, end) = self.house.broker.log().offsets(&at).map_err(|error| error.to_string())?;
            let all = self.house.read(&at, 0, false).map_err(|code| format!("{at}: Fetch answers {code}"))?;
            if let Some(last) = all.last().filter(|last| last.offset >= end) {
                return Err(format!("{at}: offset {} at or behind the end {end}", last.offset));
            }
            for one in read {
                *seen.entry(one.value).or_default() += 1;
            }
        }
        self.nothing_hangs()?;
        self.whole(&seen)
    }

    /// Every transaction has ended: a record written now is the last that is visible.
    fn nothing_hangs(&self) -> Result<(), String> {
        for partition in 0..PARTITIONS {
            let (at, value) = (finds(partition), "end:0".to_owned());
            let made = batch(std::slice::from_ref(&value), None, false, EPOCH_MS);
            let base = self.house.produce(None, &at, made).map_err(|code| format!("{at}: {code}"))?;
            let read = self.house.read(&at, base, true).map_err(|code| format!("{at}: {code}"))?;
            if read.last().map(|last| &last.value) != Some(&value) {
                return Err(format!("{at}: a transaction hangs, offset {base} is not visible"));
            }
        }
        Ok(())
    }

    fn whole(&mut self, seen: &BTreeMap<String, usize>) -> Result<(), String> {
        let mut committed: BTreeMap<usize, Vec<i64>> = BTreeMap::new();
        for (number, (client, transaction, wish)) in self.transactions.iter().enumerate() {
            let there = transaction.values.iter().filter(|value| seen.contains_key(*value)).count();
            let extra = transaction.doubtful.iter().find(|value| seen.contains_key(*value));
            if let Some(twice) =
                transaction.values.iter().find(|value| seen.get(*value).is_some_and(|n| *n > 1))
            {
                return Err(format!("{twice} of transaction {number} is there twice"));
            }
            let all = transaction.values.len();
            let counts = match wish {
                Wish::Commit if there < all => {
                    return Err(format!(
                        "transaction {number} was committed, {there} of {all} records are visible"
                    ));
                }
                Wish::Open | Wish::Abort if there > 0 || extra.is_some() => {
                    return Err(format!(
                        "transaction {number} was not committed, {there} records are visible"
                    ));
                }
                Wish::CommitUnanswered if there > 0 && there < all => {
                    return Err(format!(
                        "transaction {number} is torn: {there} of {all} records are visible"
                    ));
                }
                Wish::Commit => Some(true),
                Wish::CommitUnanswered if all > 0 => Some(there > 0),
                Wish::CommitUnanswered => None,
                Wish::Open | Wish::Abort => Some(false),
            };
            self.tally.count("transactions", 1);
            let Some(offset) = transaction.offset else { continue };
            let allowed = committed.entry(*client).or_insert_with(|| vec![-1]);
            match counts {
                Some(true) => *allowed = vec![offset],
                Some(false) => {}
                None => allowed.push(offset),
            }
        }
        for (client, allowed) in committed {
            let at = source(client);
            let found =
                self.house.committed(GROUP, &at).map_err(|code| format!("{at}: OffsetFetch {code}"))?;
            if !allowed.contains(&found) {
                return Err(format!("{at}: committed offset {found}, promised {allowed:?}"));
            }
        }
        Ok(())
    }
}
