//! Routes that run: a thread per source, steps on batches, offsets committed after delivery.

mod deliver;
mod execute;
mod handle;
mod slot;
mod worker;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};

use herdsman_record::TopicPartition;

pub use deliver::{
    DEAD_LETTER_OFFSET, DEAD_LETTER_PARTITION, DEAD_LETTER_REASON, DEAD_LETTER_ROUTE, DEAD_LETTER_TOPIC,
};
pub use handle::{RouteStats, RoutesHandle, run};
pub(crate) use handle::{names, next, reach};

use crate::connectors::{Doors, Endpoint, Held};
use crate::exchange::Exchange;
use crate::language::Scope;
use crate::model::{Route, Step};
use slot::{Slot, lock};

/// One route that runs.
pub(crate) struct Running {
    pub route: Route,
    pub doors: Doors,
    slots: Vec<Slot>,
    /// The sink of the unnamed dead-letter topic.
    dead: Slot,
    pub counters: Counters,
    /// Why the route halted, if it did.
    pub halted: Mutex<Option<String>>,
    /// Next offset to deliver per partition.
    positions: Mutex<HashMap<TopicPartition, i64>>,
    /// The last drain round that this route has finished.
    drained: AtomicU64,
    /// Indexes of routes that this one can reach by `direct` and `seda`, itself first.
    reach: Vec<usize>,
}

/// What a route has done.
#[derive(Default)]
pub(crate) struct Counters {
    pub taken: AtomicU64,
    pub sent: AtomicU64,
    pub filtered: AtomicU64,
    pub retried: AtomicU64,
    pub dead_letters: AtomicU64,
}

/// All routes of one run.
pub(crate) struct Registry {
    pub running: Vec<Running>,
    direct: HashMap<Arc<str>, usize>,
    seda: Mutex<HashMap<Arc<str>, SyncSender<Handoff>>>,
    stop: AtomicBool,
    drain_round: AtomicU64,
}

/// A batch on its way to a `seda` route, and where to say that it is done (or was abandoned: `false`).
pub(crate) struct Handoff {
    batch: Vec<Exchange>,
    done: SyncSender<bool>,
}

/// What the steps of one batch share.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    registry: &'a Registry,
    running: &'a Running,
    now_ms: i64,
    /// Set when the batch must not be committed: stop during a retry, or a halted route.
    abandoned: &'a AtomicBool,
    /// Where failures go inside `doTry` and `circuitBreaker`.
    catching: Option<&'a Mutex<Vec<Exchange>>>,
    /// Inside `onException` steps: what fails there goes to the dead letters.
    handling: bool,
    /// Delivering dead letters: what fails there halts the route.
    burying: bool,
}

impl<'a> Context<'a> {
    fn scope(&self) -> Scope<'a> {
        Scope { route: &self.running.route.id, now_ms: self.now_ms }
    }

    fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    fn slot(&self, index: usize) -> &'a Slot {
        self.running.slots.get(index).unwrap_or(&self.running.dead)
    }

    /// Sleeps; `false` if a stop came meanwhile.
    fn sleep(&self, millis: u64) -> bool {
        let mut left = millis;
        while left > 0 && !self.registry.stopping() {
            let step = left.min(20);
            std::thread::sleep(std::time::Duration::from_millis(step));
            left -= step;
        }
        !self.registry.stopping()
    }
}

impl Registry {
    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn reach<'a>(&'a self, running: &'a Running) -> impl Iterator<Item = &'a Running> {
        running.reach.iter().filter_map(|index| self.running.get(*index))
    }

    /// Lowest offsets that anything reachable from `running` still holds.
    fn held(&self, running: &Running) -> Held {
        let mut held = Held::new();
        for reached in self.reach(running) {
            reached.slots.iter().chain([&reached.dead]).for_each(|slot| slot.held(&mut held));
        }
        held
    }
}

impl Running {
    fn new(route: Route, doors: Doors) -> Self {
        Self {
            slots: (0..route.slots).map(|_| Slot::default()).collect(),
            route,
            doors,
            dead: Slot::default(),
            counters: Counters::default(),
            halted: Mutex::new(None),
            positions: Mutex::new(HashMap::new()),
            drained: AtomicU64::new(0),
            reach: Vec::new(),
        }
    }

    fn is_halted(&self) -> bool {
        lock(&self.halted).is_some()
    }
}

/// Names of the `direct` and `seda` routes that a step hands to.
pub(crate) fn handoffs(step: &Step) -> Option<(&'static str, &Arc<str>)> {
    let target = match step {
        Step::To(target) | Step::WireTap(target) => target,
        _ => return None,
    };
    handoff_of(&target.endpoint)
}

/// The `direct` or `seda` name of an endpoint.
pub(crate) fn handoff_of(endpoint: &Endpoint) -> Option<(&'static str, &Arc<str>)> {
    match endpoint {
        Endpoint::Direct(name) => Some(("direct", name)),
        Endpoint::Seda(config) => Some(("seda", &config.name)),
        _ => None,
    }
}
