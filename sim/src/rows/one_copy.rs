//! One copy: histories of concurrent clients against one broker behave as if there were one copy of each thing.
//!
//! Per seed 200 operations of four clients: a group's offset of each of three partitions is a register (commit, fetch), each
//! event id is accepted once (an id is a register that is set once). Threads run for real, so a seed gives the operations and not
//! their order; what is checked is the history that came about. In the middle the process is killed: what was under way may have
//! happened or not, now or never. Checked by the method of Wing and Gong, per object (Herlihy and Wing: an object at a time is
//! enough).
//!
//! Leases and single flight are not asked here: the guard's own core is checked on simulated doors in its crate.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use herdsman_host::{Seed, SimClock, SimDisk};
use herdsman_record::TopicPartition;

use crate::connection::configs;
use crate::house::{House, batch};
use crate::row::each_seed;
use crate::script::EPOCH_MS;
use crate::{Row, Tally};

/// The row.
pub const ROW: Row = Row {
    name: "one-copy",
    what: "200 operations of concurrent clients on group offsets and event ids, a kill in the middle: linearizable",
    unit: "histories",
    change: 50,
    long: 1_000,
    run: |order| each_seed(order, one),
};

const CLIENTS: usize = 4;
const OPERATIONS: usize = 200;
const PARTITIONS: i32 = 3;
const IDS: u64 = 24;
const GROUP: &str = "hunters";

/// One operation on one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    /// Sets a register.
    Write(i64),
    /// Reads it.
    Read(i64),
    /// Sets an id; whether it was new.
    Claim(bool),
}

/// When an operation began and ended; `u64::MAX`: its answer never came.
#[derive(Debug, Clone, Copy)]
struct Event {
    begun: u64,
    ended: u64,
    operation: Operation,
}

type Histories = BTreeMap<String, Vec<Event>>;

fn finds(partition: i32) -> TopicPartition {
    TopicPartition::new("finds", partition)
}

fn ids() -> TopicPartition {
    TopicPartition::new("ids", 0)
}

fn open(disk: &SimDisk, seed: u64) -> Result<House, String> {
    let clock = Arc::new(SimClock::new(EPOCH_MS));
    House::open(Arc::new(disk.clone()), clock, &Seed::new(seed))
}

fn one(number: u64) -> Result<Tally, String> {
    let mut seed = Seed::new(number).stream("one copy");
    let mut disk = SimDisk::new(&seed);
    let mut house = open(&disk, seed.next_u64())?;
    let made = house.broker.create_topic("finds", PARTITIONS, &configs(&[]));
    made.map_err(|error| error.to_string())?;
    let window = configs(&[("herdsman.event.id", "id"), ("herdsman.dedupe.window.ms", "86400000")]);
    house.broker.create_topic("ids", 1, &window).map_err(|error| error.to_string())?;
    let time = AtomicU64::new(0);
    let histories = Mutex::new(Histories::new());
    for half in 0..2 {
        if half == 0 {
            disk.die_in(40 + seed.below(400));
        }
        let seeds: Vec<Seed> = (0..CLIENTS).map(|_| Seed::new(seed.next_u64())).collect();
        let broker = &house.broker;
        std::thread::scope(|scope| {
            for mut seed in seeds {
                let (time, histories, disk) = (&time, &histories, &disk);
                scope.spawn(move || {
                    // each client has its own connection
                    let client = House::beside(broker);
                    for _ in 0..OPERATIONS / CLIENTS / 2 {
                        if disk.is_dead() {
                            return;
                        }
                        step(&client, &mut seed, time, histories);
                    }
                });
            }
        });
        disk = disk.kill();
        house = open(&disk, seed.next_u64())?;
    }
    let histories = histories.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut tally = Tally::of(1);
    for (object, history) in &histories {
        tally.count("operations", history.len() as u64);
        tally.count("without an answer", history.iter().filter(|one| one.ended == u64::MAX).count() as u64);
        if !is_linearizable(history) {
            return Err(format!("{object}: no order explains {history:?}"));
        }
    }
    Ok(tally)
}

/// One operation; an error leaves it without an answer.
fn step(client: &House, seed: &mut Seed, time: &AtomicU64, histories: &Mutex<Histories>) {
    let partition = i32::try_from(seed.below(3)).unwrap_or(0);
    let kind = seed.index(3);
    let begun = time.fetch_add(1, Ordering::SeqCst);
    let (object, operation, answered) = match kind {
        0 => {
            let offset = i64::try_from(begun).unwrap_or(0);
            let done = client.commit_offset(GROUP, &finds(partition), offset);
            (format!("offset {partition}"), Operation::Write(offset), done.is_ok())
        }
        1 => {
            // a fetch without an answer says nothing
            let Ok(offset) = client.committed(GROUP, &finds(partition)) else { return };
            (format!("offset {partition}"), Operation::Read(offset), true)
        }
        _ => {
            let id = seed.below(IDS);
            let made = batch(&[format!("{{\"id\":\"{id}\"}}")], None, false, EPOCH_MS);
            let done = client.broker.produce(&ids(), made);
            let accepted = done.as_ref().is_ok_and(|done| done.accepted == 1);
            (format!("id {id}"), Operation::Claim(done.is_err() || accepted), done.is_ok())
        }
    };
    let ended = if answered { time.fetch_add(1, Ordering::SeqCst) } else { u64::MAX };
    let mut histories = histories.lock().unwrap_or_else(PoisonError::into_inner);
    histories.entry(object).or_default().push(Event { begun, ended, operation });
}

/// Whether the register, −1 at first, can go through the operation; its next value.
fn apply(value: i64, operation: Operation) -> Option<i64> {
    match operation {
        Operation::Write(next) => Some(next),
        Operation::Read(read) => (read == value).then_some(value),
        Operation::Claim(fresh) => (fresh == (value < 0)).then_some(1),
    }
}

/// Whether some order of the operations, each somewhere between its begin and its end, explains every answer. Those without an
/// answer may be left out.
fn is_linearizable(history: &[Event]) -> bool {
    let mut seen = HashSet::new();
    // (done, value): which operations have taken place, a bit each
    let mut open = vec![(vec![false; history.len()], -1_i64)];
    while let Some((done, value)) = open.pop() {
        let left = || history.iter().zip(&done).enumerate().filter(|(_, (_, done))| !**done);
        if left().all(|(_, (event, _))| event.ended == u64::MAX) {
            return true;
        }
        let first_end = left().map(|(_, (event, _))| event.ended).min().unwrap_or(u64::MAX);
        for (index, (event, _)) in left().filter(|(_, (event, _))| event.begun < first_end) {
            let Some(next) = apply(value, event.operation) else { continue };
            let mut after = done.clone();
            if let Some(bit) = after.get_mut(index) {
                *bit = true;
            }
            if seen.insert((after.clone(), next)) {
                open.push((after, next));
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(begun: u64, ended: u64, operation: Operation) -> Event {
        Event { begun, ended, operation }
    }

    #[test]
    fn a_stale_read_and_an_id_accepted_twice_are_found() {
        let concurrent = [
            event(0, 5, Operation::Write(7)),
            event(1, 2, Operation::Read(-1)),
            event(3, 4, Operation::Read(7)),
        ];
        assert!(is_linearizable(&concurrent));
        let stale = [event(0, 1, Operation::Write(7)), event(2, 3, Operation::Read(-1))];
        assert!(!is_linearizable(&stale));
        let back = [
            event(0, 9, Operation::Write(7)),
            event(1, 2, Operation::Read(7)),
            event(3, 4, Operation::Read(-1)),
        ];
        assert!(!is_linearizable(&back));
        let unanswered = [event(0, u64::MAX, Operation::Write(7)), event(1, 2, Operation::Read(-1))];
        assert!(is_linearizable(&unanswered));
        let twice = [event(0, 1, Operation::Claim(true)), event(2, 3, Operation::Claim(true))];
        assert!(!is_linearizable(&twice));
        let doubtful = [event(0, u64::MAX, Operation::Claim(true)), event(2, 3, Operation::Claim(true))];
        assert!(is_linearizable(&doubtful));
    }
}
