//! The thread of a route: polls its source, runs the steps, commits what was delivered.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use bytes::Bytes;
use herdsman_bus::{BusError, Fetched, Reader};
use herdsman_record::TopicPartition;
use serde_json::Value;

use super::slot::lock;
use super::{Context, Handoff, Registry, Running};
use crate::connectors::inner::TimerConfig;
use crate::connectors::{Endpoint, SendError, kafka};
use crate::error::{hint, one_line};
use crate::exchange::{Body, Exchange, Origin};
use crate::model::Step;

const POLL_BYTES_MAX: usize = 4 << 20;
const POLL_WAIT: Duration = Duration::from_millis(20);

/// Drives one route.
pub(crate) struct Worker {
    registry: Arc<Registry>,
    index: usize,
    queue: Option<Receiver<Handoff>>,
}

/// How a stretch of work ended.
enum End {
    /// Stop was asked for, or the route halted.
    Stop,
    /// Read again from the committed offsets.
    Rewind,
}

impl Worker {
    pub fn new(registry: Arc<Registry>, index: usize, queue: Option<Receiver<Handoff>>) -> Self {
        Self { registry, index, queue }
    }

    pub fn run(self) {
        let Some(running) = self.registry.running.get(self.index) else { return };
        match &running.route.from {
            Endpoint::Kafka(config) => self.kafka(running, config),
            Endpoint::Timer(config) => self.timer(running, config),
            Endpoint::Seda(_) => self.seda(running),
            _ => {}
        }
    }

    fn context<'a>(&'a self, running: &'a Running, abandoned: &'a AtomicBool) -> Context<'a> {
        Context {
            registry: &self.registry,
            running,
            now_ms: running.doors.clock.now_ms(),
            abandoned,
            catching: None,
            handling: false,
            burying: false,
        }
    }

    fn is_ended(&self, running: &Running) -> bool {
        self.registry.stopping() || running.is_halted()
    }

    /// Completes due groups and flushes sinks of this route and the `direct` routes it calls.
    fn tick(&self, running: &Running, force: bool) -> Result<(), SendError> {
        for reached in self.registry.reach(running) {
            let own = std::ptr::eq(reached, running) || matches!(reached.route.from, Endpoint::Direct(_));
            if !own {
                continue;
            }
            let abandoned = AtomicBool::new(false);
            let context = self.context(reached, &abandoned);
            reached.route.visit(&mut |step| {
                if let Step::Aggregate(aggregate) = step {
                    context.complete_due(aggregate, force && aggregate.complete_on_stop);
                }
            });
            if context.is_abandoned() {
                return Err(SendError::retry("a completed group was not delivered"));
            }
            for slot in reached.slots.iter().chain([&reached.dead]) {
                slot.flush(force)?;
            }
        }
        Ok(())
    }

    fn kafka(&self, running: &Running, config: &kafka::Config) {
        let mut last_complaint = String::new();
        while !self.is_ended(running) {
            let opened = self.open(running, config);
            let end = match opened {
                Ok((mut reader, done)) => {
                    last_complaint.clear();
                    self.consume(running, config, reader.as_mut(), done)
                }
                Err(reason) => {
                    if reason != last_complaint {
                        tracing::warn!(route = running.route.id.as_ref(), "waiting: {reason}");
                        last_complaint = reason;
                    }
                    let abandoned = AtomicBool::new(false);
                    self.context(running, &abandoned).sleep(100);
                    // a topic that is not there holds nothing to drain
                    running.drained.store(self.registry.drain_round.load(Ordering::SeqCst), Ordering::SeqCst);
                    continue;
                }
            };
            match end {
                End::Stop => return,
                End::Rewind => {
                    for reached in self.registry.reach(running) {
                        reached.slots.iter().chain([&reached.dead]).for_each(super::slot::Slot::reset);
                    }
                    let abandoned = AtomicBool::new(false);
                    self.context(running, &abandoned).sleep(200);
                }
            }
        }
    }

    /// A reader from the committed offsets, and those offsets.
    #[expect(clippy::type_complexity, reason = "used once")]
    fn open(
        &self,
        running: &Running,
        config: &kafka::Config,
    ) -> Result<(Box<dyn Reader>, HashMap<TopicPartition, i64>), String> {
        let bus = &running.doors.bus;
        let said = |error: BusError| one_line(&error.to_string());
        let Some(topic) = bus.topic(&config.topic).map_err(said)? else {
            let topics = bus.topics().map_err(said)?;
            let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
            let hint =
                crate::error::nearest(&config.topic, names.iter().copied()).map(|name| hint(name, &[name]));
            return Err(format!("no topic {}{}", config.topic, hint.unwrap_or_else(|| " yet".to_owned())));
        };
        let partitions: Vec<TopicPartition> = (0..topic.partitions)
            .map(|index| TopicPartition::new(Arc::clone(&config.topic), index))
            .collect();
        let group = group_of(running, config);
        let committed = bus.committed(group, &partitions).map_err(said)?;
        let mut start = Vec::new();
        for (at, committed) in partitions.into_iter().zip(committed) {
            let range = bus.offsets(&at).map_err(said)?;
            let offset = match committed {
                Some(offset) if (range.start..=range.end).contains(&offset) => offset,
                // what was deleted meanwhile cannot be delivered; what is beyond the end was never there
                Some(offset) if offset < range.start => range.start,
                Some(_) => range.end,
                None if config.from_latest => range.end,
                None => range.start,
            };
            start.push((at, offset));
        }
        let reader = bus.reader(&start).map_err(said)?;
        let done: HashMap<TopicPartition, i64> = start.into_iter().collect();
        lock(&running.positions).clone_from(&done);
        Ok((reader, done))
    }

    fn consume(
        &self,
        running: &Running,
        config: &kafka::Config,
        reader: &mut dyn Reader,
        mut done: HashMap<TopicPartition, i64>,
    ) -> End {
        let mut committed = done.clone();
        loop {
            let stopping = self.is_ended(running);
            let round = self.registry.drain_round.load(Ordering::SeqCst);
            if !stopping {
                match reader.poll(POLL_BYTES_MAX, POLL_WAIT) {
                    Ok(fetched) => {
                        if !self.deliver(running, config, fetched, &mut done, &mut committed) {
                            return if self.is_ended(running) { End::Stop } else { End::Rewind };
                        }
                    }
                    Err(error) => {
                        tracing::warn!(route = running.route.id.as_ref(), "reading again: {error}");
                        return End::Rewind;
                    }
                }
            }
            let draining = running.drained.load(Ordering::SeqCst) < round && at_end(running, &done);
            if let Err(error) = self.tick(running, stopping || draining) {
                tracing::warn!(route = running.route.id.as_ref(), "reading again: {}", error.message);
                return if stopping { End::Stop } else { End::Rewind };
            }
            self.commit(running, config, &done, &mut committed);
            if draining && committed == done {
                running.drained.store(round, Ordering::SeqCst);
            }
            if stopping {
                return End::Stop;
            }
        }
    }

    /// Runs the steps on what was fetched. `false`: abandoned, nothing more may be committed.
    fn deliver(
        &self,
        running: &Running,
        config: &kafka::Config,
        fetched: Vec<Fetched>,
        done: &mut HashMap<TopicPartition, i64>,
        committed: &mut HashMap<TopicPartition, i64>,
    ) -> bool {
        for part in fetched {
            let exchanges = match exchanges(&part) {
                Ok(exchanges) => exchanges,
                Err(error) => {
                    let reason =
                        format!("{} cannot be read at {}: {error}", part.topic_partition, part.position);
                    lock(&running.halted).get_or_insert(one_line(&reason));
                    tracing::error!(route = running.route.id.as_ref(), "route halted: {reason}");
                    return false;
                }
            };
            let mut left = exchanges;
            while !left.is_empty() {
                let tail = left.split_off(left.len().min(config.records_max));
                let batch = std::mem::replace(&mut left, tail);
                let last =
                    batch.last().and_then(|found| found.origin.as_ref()).map(|origin| origin.offset + 1);
                let count = u64::try_from(batch.len()).unwrap_or(0);
                running.counters.taken.fetch_add(count, Ordering::SeqCst);
                let abandoned = AtomicBool::new(false);
                let context = self.context(running, &abandoned);
                context.run(&running.route.steps, batch);
                if context.is_abandoned() {
                    return false;
                }
                if let Some(next) = last {
                    done.insert(part.topic_partition.clone(), next);
                }
                // each batch is committed before the next: a stop or a crash repeats at most one
                if !left.is_empty() {
                    self.commit(running, config, done, committed);
                    if self.is_ended(running) {
                        // what is left is read again at the next start
                        return true;
                    }
                }
            }
            done.insert(part.topic_partition.clone(), part.next_offset);
        }
        true
    }

    /// Commits what was delivered and is not held; each offset only forward.
    fn commit(
        &self,
        running: &Running,
        config: &kafka::Config,
        done: &HashMap<TopicPartition, i64>,
        committed: &mut HashMap<TopicPartition, i64>,
    ) {
        if done == committed {
            return;
        }
        let held = self.registry.held(running);
        let mut offsets = Vec::new();
        for (at, next) in done {
            let safe = held.get(at).map_or(*next, |low| (*low).min(*next));
            if committed.get(at).is_none_or(|before| safe > *before) {
                offsets.push((at.clone(), safe));
            }
        }
        if offsets.is_empty() {
            return;
        }
        match running.doors.bus.commit_offsets(group_of(running, config), &offsets) {
            Ok(()) => {
                committed.extend(offsets);
                lock(&running.positions).clone_from(committed);
            }
            Err(error) => {
                tracing::warn!(
                    route = running.route.id.as_ref(),
                    "offsets not committed, trying again: {error}"
                );
            }
        }
    }

    fn timer(&self, running: &Running, config: &TimerConfig) {
        let abandoned = AtomicBool::new(false);
        let mut count = 0_u64;
        let mut wait_ms = config.delay_ms;
        loop {
            running.drained.store(self.registry.drain_round.load(Ordering::SeqCst), Ordering::SeqCst);
            let context = self.context(running, &abandoned);
            let over = config.repeat > 0 && count >= config.repeat;
            if !context.sleep(if over { 50 } else { wait_ms }) || running.is_halted() {
                break;
            }
            if !over {
                count += 1;
                wait_ms = config.period_ms;
                let mut exchange = Exchange::new(0, Body::Null, None);
                exchange.set_property(&Arc::from("CamelTimerName"), Value::from(config.name.as_ref()));
                exchange.set_property(&Arc::from("CamelTimerCounter"), Value::from(count));
                running.counters.taken.fetch_add(1, Ordering::SeqCst);
                context.run(&running.route.steps, vec![exchange]);
            }
            if let Err(error) = self.tick(running, false) {
                tracing::warn!(route = running.route.id.as_ref(), "not flushed: {}", error.message);
            }
        }
        let _ = self.tick(running, true);
    }

    fn seda(&self, running: &Running) {
        let Some(queue) = &self.queue else { return };
        loop {
            let round = self.registry.drain_round.load(Ordering::SeqCst);
            match queue.recv_timeout(POLL_WAIT) {
                Ok(Handoff { batch, done }) => {
                    running
                        .counters
                        .taken
                        .fetch_add(u64::try_from(batch.len()).unwrap_or(0), Ordering::SeqCst);
                    let abandoned = AtomicBool::new(false);
                    let context = self.context(running, &abandoned);
                    context.run(&running.route.steps, batch);
                    let _ = done.send(!context.is_abandoned());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let draining = running.drained.load(Ordering::SeqCst) < round;
            match self.tick(running, draining) {
                Ok(()) => running.drained.store(round, Ordering::SeqCst),
                Err(error) => {
                    tracing::warn!(route = running.route.id.as_ref(), "not flushed: {}", error.message);
                }
            }
            if self.is_ended(running) {
                break;
            }
        }
        let _ = self.tick(running, true);
    }
}

fn group_of<'a>(running: &'a Running, config: &'a kafka::Config) -> &'a str {
    config.group.as_deref().unwrap_or(&running.route.id)
}

/// Whether every partition was delivered up to its end.
fn at_end(running: &Running, done: &HashMap<TopicPartition, i64>) -> bool {
    done.iter().all(|(at, next)| running.doors.bus.offsets(at).is_ok_and(|range| range.end <= *next))
}

/// The records at and after the asked position. Values and keys share the batch's bytes.
fn exchanges(fetched: &Fetched) -> Result<Vec<Exchange>, herdsman_record::RecordError> {
    let mut out = Vec::new();
    for batch in &fetched.batches {
        if batch.header().is_control() {
            continue;
        }
        let records = batch.records()?;
        for record in records.iter() {
            let record = record?;
            if record.offset < fetched.position {
                continue;
            }
            let slice = |bytes: &[u8]| records.body().slice_ref(bytes);
            let value: Option<Bytes> = record.value.map(slice);
            let origin = Origin {
                at: fetched.topic_partition.clone(),
                offset: record.offset,
                timestamp_ms: record.timestamp_ms,
                key: record.key.map(slice),
                value: value.clone(),
            };
            let seq = u64::try_from(out.len()).unwrap_or(u64::MAX);
            let mut exchange =
                Exchange::new(seq, value.map_or(Body::Null, Body::Bytes), Some(Arc::new(origin)));
            for (name, value) in record.headers.iter() {
                let name: Arc<str> = String::from_utf8_lossy(name).into();
                let value = value
                    .map_or(Value::Null, |value| Value::from(String::from_utf8_lossy(value).into_owned()));
                exchange.set_header(&name, value);
            }
            out.push(exchange);
        }
    }
    Ok(out)
}
