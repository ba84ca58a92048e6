//! Starting routes, watching them, draining and stopping them.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use herdsman_bus::Bus;
use herdsman_host::Clock;

use super::slot::lock;
use super::worker::Worker;
use super::{Registry, Running, handoff_of, handoffs};
use crate::RouteSet;
use crate::connectors::{Doors, Endpoint};
use crate::error::RouteError;
use crate::model::Route;
use crate::model::handler::ErrorHandler;

/// What a route has done so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteStats {
    /// Route id.
    pub id: String,
    /// Records taken from the source.
    pub records_in: u64,
    /// Deliveries that a sink confirmed: a record that goes to two sinks counts twice. `log:` does not count.
    pub deliveries: u64,
    /// Records that a `filter` did not let in, and duplicates that `idempotentConsumer` skipped.
    pub filtered: u64,
    /// Records times the tries after the first.
    pub retried: u64,
    /// Records put on the dead letters.
    pub dead_letters: u64,
    /// Records of the source's topic not delivered yet; 0 for routes that do not begin at a topic.
    pub lag: u64,
    /// Why the route halted, if it did; its offsets stay uncommitted.
    pub halted: Option<String>,
}

/// Routes that run. Dropping it stops them.
pub struct RoutesHandle {
    registry: Arc<Registry>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Starts every route of `set`: a thread for each that begins at `kafka`, `timer` or `seda`.
///
/// # Errors
/// [`RouteError::Start`] if a thread cannot be started.
pub fn run(set: RouteSet, bus: Arc<dyn Bus>, clock: Arc<dyn Clock>) -> Result<RoutesHandle, RouteError> {
    let mut running: Vec<Running> = Vec::new();
    for route in set.routes {
        let doors = Doors {
            bus: Arc::clone(&bus),
            clock: Arc::clone(&clock),
            root: set.root.clone(),
            route: Arc::clone(&route.id),
        };
        running.push(Running::new(route, doors));
    }
    let names = names(running.iter().map(|running| &running.route));
    let edges: Vec<Vec<usize>> = running.iter().map(|running| next(&running.route, &names)).collect();
    for (index, running) in running.iter_mut().enumerate() {
        running.reach = reach(index, &edges);
    }
    let mut direct = HashMap::new();
    let mut seda = HashMap::new();
    let mut queues = HashMap::new();
    for (index, running) in running.iter().enumerate() {
        match &running.route.from {
            Endpoint::Direct(name) => {
                direct.insert(Arc::clone(name), index);
            }
            Endpoint::Seda(config) => {
                let (sender, receiver) = mpsc::sync_channel(config.size);
                seda.insert(Arc::clone(&config.name), sender);
                queues.insert(index, receiver);
            }
            _ => {}
        }
    }
    let registry = Arc::new(Registry {
        running,
        direct,
        seda: Mutex::new(seda),
        stop: false.into(),
        drain_round: 0.into(),
    });
    let handle = RoutesHandle { registry: Arc::clone(&registry), threads: Mutex::new(Vec::new()) };
    for (index, running) in registry.running.iter().enumerate() {
        if matches!(running.route.from, Endpoint::Direct(_)) {
            continue;
        }
        let worker = Worker::new(Arc::clone(&registry), index, queues.remove(&index));
        let thread = std::thread::Builder::new()
            .name(format!("route-{}", running.route.id))
            .spawn(move || worker.run())
            .map_err(|error| RouteError::Start {
                route: running.route.id.to_string(),
                reason: format!("no thread: {error}"),
            })?;
        lock(&handle.threads).push(thread);
    }
    Ok(handle)
}

type Names = HashMap<(&'static str, Arc<str>), usize>;

/// `direct` and `seda` names, with the index of the route that begins there.
pub(crate) fn names<'a>(routes: impl Iterator<Item = &'a Route>) -> Names {
    let mut names = Names::new();
    for (index, route) in routes.enumerate() {
        if let Some((kind, name)) = handoff_of(&route.from) {
            names.insert((kind, Arc::clone(name)), index);
        }
    }
    names
}

/// Routes that `route` hands to.
pub(crate) fn next(route: &Route, names: &Names) -> Vec<usize> {
    let mut found = Vec::new();
    route.visit(&mut |step| {
        if let Some((kind, name)) = handoffs(step) {
            found.extend(names.get(&(kind, Arc::clone(name))));
        }
    });
    if let ErrorHandler::DeadLetter { target, .. } = &route.handler
        && let Some((kind, name)) = handoff_of(&target.endpoint)
    {
        found.extend(names.get(&(kind, Arc::clone(name))));
    }
    found
}

/// `start` and every index that its edges lead to.
pub(crate) fn reach(start: usize, edges: &[Vec<usize>]) -> Vec<usize> {
    let mut found = vec![start];
    let mut at = 0;
    while let Some(index) = found.get(at).copied() {
        at += 1;
        for next in edges.get(index).into_iter().flatten() {
            if !found.contains(next) {
                found.push(*next);
            }
        }
    }
    found
}

impl RoutesHandle {
    /// What each route has done, in the order of the files.
    #[must_use]
    pub fn stats(&self) -> Vec<RouteStats> {
        self.registry.running.iter().map(stats_of).collect()
    }

    /// Delivers what is in the topics now, closes files that roll, commits. `false` if `timeout` passed first or a
    /// route halted. Routes go on running.
    pub fn drain(&self, timeout: Duration) -> bool {
        let Some(clock) = self.registry.running.first().map(|running| Arc::clone(&running.doors.clock))
        else {
            return true;
        };
        let start_ns = clock.monotonic_ns();
        let mut slept = Duration::ZERO;
        loop {
            let before = self.taken();
            let round = self.registry.drain_round.fetch_add(1, Ordering::SeqCst) + 1;
            loop {
                let waiting = self.registry.running.iter().any(|running| {
                    let threaded = !matches!(running.route.from, Endpoint::Direct(_));
                    threaded && !running.is_halted() && running.drained.load(Ordering::SeqCst) < round
                });
                if !waiting {
                    break;
                }
                let passed = Duration::from_nanos(clock.monotonic_ns().saturating_sub(start_ns)).max(slept);
                if passed >= timeout || self.registry.stopping() {
                    return false;
                }
                std::thread::sleep(Duration::from_millis(5));
                slept += Duration::from_millis(5);
            }
            // a route may have written what another reads: again, until nothing new came
            if self.taken() == before {
                return !self.registry.running.iter().any(Running::is_halted);
            }
        }
    }

    /// Finishes the batch in hand, commits what was delivered, ends the threads. What was not delivered is read
    /// again at the next start.
    pub fn stop(&self) -> Vec<RouteStats> {
        self.registry.stop.store(true, Ordering::SeqCst);
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!(
                    "a route's thread panicked: its offsets since the last commit are uncommitted"
                );
            }
        }
        self.stats()
    }

    fn taken(&self) -> u64 {
        self.registry.running.iter().map(|running| running.counters.taken.load(Ordering::SeqCst)).sum()
    }
}

impl Drop for RoutesHandle {
    fn drop(&mut self) {
        self.stop();
    }
}

fn stats_of(running: &Running) -> RouteStats {
    let counters = &running.counters;
    let positions = lock(&running.positions).clone();
    let lag = positions
        .iter()
        .map(|(at, position)| match running.doors.bus.offsets(at) {
            Ok(range) => u64::try_from(range.end.saturating_sub(*position)).unwrap_or(0),
            Err(_) => 0,
        })
        .sum();
    RouteStats {
        id: running.route.id.to_string(),
        records_in: counters.taken.load(Ordering::SeqCst),
        deliveries: counters.sent.load(Ordering::SeqCst),
        filtered: counters.filtered.load(Ordering::SeqCst),
        retried: counters.retried.load(Ordering::SeqCst),
        dead_letters: counters.dead_letters.load(Ordering::SeqCst),
        lag,
        halted: lock(&running.halted).clone(),
    }
}
