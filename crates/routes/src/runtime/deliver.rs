//! Delivery of a batch: redelivery with backoff, halving to find a poison record, handlers, dead letters.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};

use serde_json::Value;

use super::slot::{Slot, lock};
use super::{Context, Handoff};
use crate::connectors::{Endpoint, SendError, Verdict, kafka};
use crate::error::one_line;
use crate::exchange::{Body, Exchange, Failure, FailureKind};
use crate::model::Target;
use crate::model::handler::{ErrorHandler, Redelivery};

/// Header that says why a record is a dead letter.
pub const DEAD_LETTER_REASON: &str = "herdsman-dead-letter-reason";
/// Header with the topic that a dead letter was read from.
pub const DEAD_LETTER_TOPIC: &str = "herdsman-dead-letter-topic";
/// Header with the partition that a dead letter was read from.
pub const DEAD_LETTER_PARTITION: &str = "herdsman-dead-letter-partition";
/// Header with the offset that a dead letter was read from.
pub const DEAD_LETTER_OFFSET: &str = "herdsman-dead-letter-offset";
/// Header with the id of the route that could not deliver.
pub const DEAD_LETTER_ROUTE: &str = "herdsman-dead-letter-route";

impl<'a> Context<'a> {
    /// Sends `batch` to a target of this route; gives back what goes on.
    pub(super) fn send(&self, target: &Target, batch: Vec<Exchange>) -> Vec<Exchange> {
        self.send_to(&target.endpoint, self.slot(target.slot), "", batch)
    }

    /// Sends to `endpoint`, whose sinks are kept in `slot` under `key`.
    pub(super) fn send_to(
        &self,
        endpoint: &Endpoint,
        slot: &Slot,
        key: &str,
        batch: Vec<Exchange>,
    ) -> Vec<Exchange> {
        match endpoint {
            Endpoint::Direct(name) => self.direct(name, batch),
            Endpoint::Seda(config) => self.seda(&config.name, batch),
            _ => self.deliver(endpoint, slot, key, batch),
        }
    }

    /// Runs another route's steps on the batch, under that route's error handler.
    fn direct(&self, name: &Arc<str>, batch: Vec<Exchange>) -> Vec<Exchange> {
        let registry = self.registry;
        let found = registry.direct.get(name).and_then(|index| registry.running.get(*index));
        let Some(running) = found else { return batch };
        running.counters.taken.fetch_add(u64::try_from(batch.len()).unwrap_or(0), Ordering::Relaxed);
        let inner = Context { running, handling: false, burying: false, ..*self };
        inner.run(&running.route.steps, batch)
    }

    /// Hands the batch to the other route's thread and waits until it is done there.
    fn seda(&self, name: &Arc<str>, batch: Vec<Exchange>) -> Vec<Exchange> {
        let Some(queue) = lock(&self.registry.seda).get(name).cloned() else { return batch };
        let (done, answer) = mpsc::sync_channel(1);
        if queue.send(Handoff { batch: batch.clone(), done }).is_err() || !answer.recv().unwrap_or(false) {
            self.abandon();
            return Vec::new();
        }
        batch
    }

    fn redelivery(&self) -> Option<&'a Redelivery> {
        if self.catching.is_some() {
            return None;
        }
        let route = &self.running.route;
        let named = route.on_exceptions.iter().filter(|clause| clause.covers(FailureKind::Unavailable));
        match named.filter_map(|clause| clause.redelivery.as_ref()).next() {
            Some(redelivery) if !self.burying => Some(redelivery),
            _ => route.handler.redelivery(),
        }
    }

    fn deliver(&self, endpoint: &Endpoint, slot: &Slot, key: &str, batch: Vec<Exchange>) -> Vec<Exchange> {
        let mut done = Vec::with_capacity(batch.len());
        let mut failed = Vec::new();
        let mut todo = VecDeque::from([batch]);
        let mut tries = 0;
        while let Some(mut part) = todo.pop_front() {
            if part.is_empty() {
                continue;
            }
            let sent =
                slot.with_sink(key, || endpoint.open(&self.running.doors), |sink| sink.send(&mut part));
            let Err(error) = sent else {
                tries = 0;
                done.append(&mut part);
                continue;
            };
            let mut rest = part.split_off(error.delivered.min(part.len()));
            if !part.is_empty() {
                tries = 0;
                done.append(&mut part);
            }
            match &error.verdict {
                Verdict::Retry if self.may_retry(tries, &error, rest.len()) => {
                    tries += 1;
                    todo.push_front(rest);
                }
                Verdict::Retry => failed.extend(
                    rest.into_iter().map(|found| fail(found, FailureKind::Unavailable, &error.message)),
                ),
                Verdict::Poison(Some(index)) if *index < rest.len() => {
                    failed.push(fail(rest.remove(*index), FailureKind::Data, &error.message));
                    todo.push_front(rest);
                }
                Verdict::Poison(_) if rest.len() == 1 => {
                    failed
                        .extend(rest.into_iter().map(|found| fail(found, FailureKind::Data, &error.message)));
                }
                Verdict::Poison(_) => {
                    let tail = rest.split_off(rest.len() / 2);
                    todo.push_front(tail);
                    todo.push_front(rest);
                }
            }
            if self.is_abandoned() {
                return Vec::new();
            }
        }
        if !matches!(endpoint, Endpoint::Log(_)) && !self.burying {
            let count = u64::try_from(done.len()).unwrap_or(0);
            self.running.counters.sent.fetch_add(count, Ordering::Relaxed);
        }
        if failed.is_empty() { done } else { merge(done, self.fail_all(failed)) }
    }

    /// Waits for the next try. `false`: no more tries, or a stop came (then the batch is abandoned).
    fn may_retry(&self, tries: u32, error: &SendError, count: usize) -> bool {
        let Some(redelivery) = self.redelivery() else { return false };
        // dead letters have nowhere else to go: they are tried until it works
        if !self.burying && !redelivery.allows(tries) {
            return false;
        }
        let wait_ms = if self.burying { redelivery.delay(tries).max(100) } else { redelivery.delay(tries) };
        if tries.is_power_of_two() || tries == 0 {
            let (route, message) = (self.running.route.id.as_ref(), error.message.as_str());
            tracing::warn!(
                route,
                tries,
                wait_ms,
                records = count,
                "delivery failed, trying again: {message}"
            );
        }
        let counters = &self.running.counters;
        counters.retried.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
        if !self.sleep(wait_ms) {
            self.abandon();
            return false;
        }
        true
    }

    /// Failures, to whom they concern. Gives back exchanges that `continued` lets go on.
    pub(super) fn fail_all(&self, failed: Vec<Exchange>) -> Vec<Exchange> {
        if failed.is_empty() || self.is_abandoned() {
            return Vec::new();
        }
        if self.burying {
            let reason = failed.first().and_then(|found| found.failure.as_ref());
            let reason = reason.map_or("", |failure| failure.message.as_ref());
            self.halt(&format!("a dead letter cannot be delivered: {reason}"));
            return Vec::new();
        }
        if let Some(caught) = self.catching {
            lock(caught).extend(failed);
            return Vec::new();
        }
        let mut dead = Vec::new();
        let mut continued = Vec::new();
        let clauses = &self.running.route.on_exceptions;
        let mut parts: Vec<Vec<Exchange>> = clauses.iter().map(|_| Vec::new()).collect();
        for exchange in failed {
            let kind = exchange.failure.as_ref().map_or(FailureKind::Data, |failure| failure.kind);
            let clause = clauses.iter().position(|clause| {
                let when = clause.when.as_ref();
                clause.covers(kind)
                    && when.is_none_or(|when| when.test(&exchange, &self.scope()).unwrap_or(false))
            });
            match clause.filter(|_| !self.handling).and_then(|index| parts.get_mut(index)) {
                Some(part) => part.push(exchange),
                None => dead.push(exchange),
            }
        }
        for (clause, part) in clauses.iter().zip(parts) {
            if part.is_empty() {
                continue;
            }
            if !clause.handled && !clause.continued {
                dead.extend(part.iter().cloned());
            }
            let inner = Context { handling: true, ..*self };
            let through = inner.run(&clause.steps, part);
            if clause.continued {
                continued.extend(through);
            }
        }
        self.bury(dead);
        continued
    }

    /// Delivers dead letters: to the named channel, or to the topic `<route id>.dead-letter`.
    fn bury(&self, dead: Vec<Exchange>) {
        if dead.is_empty() || self.is_abandoned() {
            return;
        }
        let count = u64::try_from(dead.len()).unwrap_or(0);
        let route = &self.running.route;
        if let Some(failure) = dead.first().and_then(|found| found.failure.as_ref()) {
            tracing::warn!(
                route = route.id.as_ref(),
                records = count,
                "to the dead letters: {}",
                failure.message
            );
        }
        let inner = Context { burying: true, catching: None, ..*self };
        match &route.handler {
            ErrorHandler::Halt => {
                let reason = dead.first().and_then(|found| found.failure.as_ref());
                self.halt(reason.map_or("a delivery failed", |failure| failure.message.as_ref()));
                return;
            }
            ErrorHandler::Default(_) => {
                let topic = format!("{}.dead-letter", route.id);
                let endpoint = Endpoint::Kafka(Arc::new(kafka::Config::to_topic(&topic)));
                let letters = dead.into_iter().map(|found| self.letter(found, true)).collect();
                inner.send_to(&endpoint, &self.running.dead, "", letters);
            }
            ErrorHandler::DeadLetter { target, original, .. } => {
                let letters = dead.into_iter().map(|found| self.letter(found, *original)).collect();
                inner.send(target, letters);
            }
        }
        if !self.is_abandoned() {
            self.running.counters.dead_letters.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// The exchange with the headers that tell why and where from.
    fn letter(&self, mut exchange: Exchange, original: bool) -> Exchange {
        let reason =
            exchange.failure.as_ref().map_or_else(String::new, |failure| failure.message.to_string());
        let set =
            |exchange: &mut Exchange, name: &str, value: Value| exchange.set_header(&Arc::from(name), value);
        set(&mut exchange, DEAD_LETTER_REASON, Value::from(reason));
        set(&mut exchange, DEAD_LETTER_ROUTE, Value::from(self.running.route.id.as_ref()));
        if let Some(origin) = exchange.origin.clone() {
            set(&mut exchange, DEAD_LETTER_TOPIC, Value::from(origin.at.topic.as_ref()));
            set(&mut exchange, DEAD_LETTER_PARTITION, Value::from(origin.at.partition));
            set(&mut exchange, DEAD_LETTER_OFFSET, Value::from(origin.offset));
            if original {
                exchange.set_body(origin.value.clone().map_or(Body::Null, Body::Bytes));
            }
        }
        exchange
    }

    fn halt(&self, reason: &str) {
        let route = self.running.route.id.as_ref();
        tracing::error!(route, "route halted, its offsets stay uncommitted: {reason}");
        lock(&self.running.halted).get_or_insert_with(|| one_line(reason));
        self.abandon();
    }
}

/// `exchange` with what went wrong.
pub(super) fn fail(mut exchange: Exchange, kind: FailureKind, message: &str) -> Exchange {
    exchange.failure = Some(Failure { kind, message: Arc::from(message) });
    exchange
}

/// Two parts of a batch as one, in the batch's order.
pub(super) fn merge(mut left: Vec<Exchange>, right: Vec<Exchange>) -> Vec<Exchange> {
    if right.is_empty() {
        return left;
    }
    left.extend(right);
    left.sort_by_key(|exchange| exchange.seq);
    left
}
