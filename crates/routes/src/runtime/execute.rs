//! The steps, each on a whole batch.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::Context;
use super::deliver::{fail, merge};
use super::slot::{Group, lock};
use crate::connectors::Endpoint;
use crate::error::one_line;
use crate::exchange::{Body, Exchange, Failure, FailureKind};
use crate::language::Expression;
use crate::language::operator::{number, whole_match};
use crate::model::uri::Uri;
use crate::model::{Aggregate, Catch, CircuitBreaker, Conversion, Level, Step, Strategy};

/// Exchanges that one `aggregate` holds at most; then it completes all groups.
const HELD_MAX: usize = 200_000;

impl<'a> Context<'a> {
    /// Runs `steps` on `batch`; gives back the exchanges that come out.
    pub(super) fn run(&self, steps: &'a [Step], batch: Vec<Exchange>) -> Vec<Exchange> {
        let mut batch = batch;
        for (index, step) in steps.iter().enumerate() {
            if batch.is_empty() || self.is_abandoned() {
                return Vec::new();
            }
            let rest = steps.get(index + 1..).unwrap_or_default();
            match step {
                Step::Throttle { permits, period_ms, slot } => {
                    return self.throttle(permits, *period_ms, *slot, rest, batch);
                }
                Step::Delay(millis) => return self.delay(millis, rest, batch),
                step => batch = self.step(step, batch),
            }
        }
        if self.is_abandoned() { Vec::new() } else { batch }
    }

    fn step(&self, step: &'a Step, batch: Vec<Exchange>) -> Vec<Exchange> {
        let scope = self.scope();
        match step {
            Step::To(target) => self.send(target, batch),
            Step::WireTap(target) => {
                self.send(target, batch.clone());
                batch
            }
            Step::ToDynamic { uri, slot, place } => self.send_dynamic(uri, *slot, place, batch),
            Step::Log { message, level, name } => self.each(batch, |exchange| {
                let text = message.text(exchange, &scope)?;
                write_log(*level, name.as_deref().unwrap_or(scope.route), &one_line(&text));
                Ok(())
            }),
            Step::SetBody(expression) => self.each(batch, |exchange| {
                let body = body_of(expression.value(exchange, &scope)?);
                exchange.set_body(body);
                Ok(())
            }),
            Step::SetHeader(name, expression) => self.each(batch, |exchange| {
                let value = expression.value(exchange, &scope)?;
                exchange.set_header(name, value);
                Ok(())
            }),
            Step::SetProperty(name, expression) => self.each(batch, |exchange| {
                let value = expression.value(exchange, &scope)?;
                exchange.set_property(name, value);
                Ok(())
            }),
            Step::RemoveHeaders { pattern, exclude } => self.each(batch, |exchange| {
                exchange.headers.retain(|(name, _)| {
                    !matches_pattern(name, pattern)
                        || exclude.as_ref().is_some_and(|kept| matches_pattern(name, kept))
                });
                Ok(())
            }),
            Step::RemoveProperty(name) => self.each(batch, |exchange| {
                exchange.properties.retain(|(found, _)| found.as_ref() != name);
                Ok(())
            }),
            Step::Choice { whens, otherwise } => self.choice(whens, otherwise, batch),
            Step::Filter(predicate, steps) => self.filter(predicate, steps, batch),
            Step::Split { list, steps } => self.split(list, steps, batch),
            Step::Aggregate(aggregate) => self.aggregate(aggregate, batch),
            Step::Marshal => self.each(batch, |exchange| {
                let Some(bytes) = marshalled(exchange) else { return Ok(()) };
                exchange.set_body(Body::Bytes(bytes.into()));
                Ok(())
            }),
            Step::Unmarshal => self.each(batch, unmarshal),
            Step::ConvertBody(conversion) => self.each(batch, |exchange| convert(exchange, *conversion)),
            Step::Multicast { parallel, branches } => self.multicast(*parallel, branches, batch),
            Step::Idempotent { key, skip, steps, slot } => self.idempotent(key, *skip, steps, *slot, batch),
            Step::CircuitBreaker(breaker) => self.breaker(breaker, batch),
            Step::Try { steps, catches, finally } => self.do_try(steps, catches, finally, batch),
            Step::Stop | Step::Throttle { .. } | Step::Delay(_) => Vec::new(),
        }
    }

    /// Does `work` on each exchange; those it fails on leave the batch.
    fn each(
        &self,
        batch: Vec<Exchange>,
        mut work: impl FnMut(&mut Exchange) -> Result<(), Failure>,
    ) -> Vec<Exchange> {
        let mut done = Vec::with_capacity(batch.len());
        let mut failed = Vec::new();
        for mut exchange in batch {
            match work(&mut exchange) {
                Ok(()) => done.push(exchange),
                Err(failure) => failed.push(fail(exchange, failure.kind, &failure.message)),
            }
        }
        if failed.is_empty() { done } else { merge(done, self.fail_all(failed)) }
    }

    fn filter(&self, predicate: &Expression, steps: &'a [Step], batch: Vec<Exchange>) -> Vec<Exchange> {
        let scope = self.scope();
        let mut inside = Vec::new();
        let mut passed = Vec::new();
        let mut failed = Vec::new();
        for exchange in batch {
            match predicate.test(&exchange, &scope) {
                Ok(true) => inside.push(exchange),
                Ok(false) => passed.push(exchange),
                Err(failure) => failed.push(fail(exchange, failure.kind, &failure.message)),
            }
        }
        let filtered = u64::try_from(passed.len()).unwrap_or(0);
        self.running.counters.filtered.fetch_add(filtered, Ordering::Relaxed);
        let passed = merge(passed, self.fail_all(failed));
        merge(passed, self.run(steps, inside))
    }

    fn choice(
        &self,
        whens: &'a [(Expression, Vec<Step>)],
        otherwise: &'a [Step],
        batch: Vec<Exchange>,
    ) -> Vec<Exchange> {
        let scope = self.scope();
        let mut parts: Vec<Vec<Exchange>> = whens.iter().map(|_| Vec::new()).collect();
        let mut rest = Vec::new();
        let mut failed = Vec::new();
        'exchanges: for exchange in batch {
            for ((predicate, _), part) in whens.iter().zip(&mut parts) {
                match predicate.test(&exchange, &scope) {
                    Ok(true) => {
                        part.push(exchange);
                        continue 'exchanges;
                    }
                    Ok(false) => {}
                    Err(failure) => {
                        failed.push(fail(exchange, failure.kind, &failure.message));
                        continue 'exchanges;
                    }
                }
            }
            rest.push(exchange);
        }
        let mut out = self.fail_all(failed);
        for ((_, steps), part) in whens.iter().zip(parts) {
            if !part.is_empty() {
                out.extend(self.run(steps, part));
            }
        }
        merge(out, self.run(otherwise, rest))
    }

    fn split(&self, list: &Expression, steps: &'a [Step], batch: Vec<Exchange>) -> Vec<Exchange> {
        let scope = self.scope();
        let mut parts = Vec::new();
        let through = self.each(batch, |exchange| {
            let items = match list.value(exchange, &scope)? {
                Value::Array(items) => items,
                Value::Null => Vec::new(),
                Value::String(text) => match serde_json::from_str(&text) {
                    Ok(Value::Array(items)) => items,
                    _ => text.split(',').map(Value::from).collect(),
                },
                other => vec![other],
            };
            let size = items.len();
            for (index, item) in items.into_iter().enumerate() {
                let mut part = exchange.clone();
                part.seq = u64::try_from(parts.len()).unwrap_or(u64::MAX);
                part.set_body(body_of(item));
                part.set_property(&Arc::from("CamelSplitIndex"), Value::from(index));
                part.set_property(&Arc::from("CamelSplitSize"), Value::from(size));
                part.set_property(&Arc::from("CamelSplitComplete"), Value::from(index + 1 == size));
                parts.push(part);
            }
            Ok(())
        });
        self.run(steps, parts);
        through
    }

    fn aggregate(&self, aggregate: &'a Aggregate, batch: Vec<Exchange>) -> Vec<Exchange> {
        let scope = self.scope();
        let now_ns = self.running.doors.clock.monotonic_ns();
        let mut ready: Vec<Vec<Exchange>> = Vec::new();
        let through = self.each(batch, |exchange| {
            let key = aggregate.correlation.text(exchange, &scope)?;
            let complete = match &aggregate.predicate {
                Some(predicate) => predicate.test(exchange, &scope)?,
                None => false,
            };
            let mut groups = lock(&self.slot(aggregate.slot).groups);
            groups.count += 1;
            let group = groups
                .open
                .entry(key.clone())
                .or_insert_with(|| Group { exchanges: Vec::new(), last_ns: now_ns });
            group.exchanges.push(exchange.clone());
            group.last_ns = now_ns;
            if (complete || aggregate.size.is_some_and(|size| group.exchanges.len() >= size))
                && let Some(group) = groups.open.remove(&key)
            {
                groups.count -= group.exchanges.len();
                ready.push(group.exchanges);
            }
            Ok(())
        });
        let full = lock(&self.slot(aggregate.slot).groups).count >= HELD_MAX;
        self.complete(aggregate, ready);
        if full {
            self.complete_due(aggregate, true);
        }
        through
    }

    /// Completes groups whose timeout has passed, or all.
    pub(super) fn complete_due(&self, aggregate: &'a Aggregate, all: bool) {
        let now_ns = self.running.doors.clock.monotonic_ns();
        let mut ready = Vec::new();
        {
            let mut groups = lock(&self.slot(aggregate.slot).groups);
            let due: Vec<String> = groups
                .open
                .iter()
                .filter(|(_, group)| {
                    let age_ms = now_ns.saturating_sub(group.last_ns) / 1_000_000;
                    all || aggregate.timeout_ms.is_some_and(|timeout_ms| age_ms >= timeout_ms)
                })
                .map(|(key, _)| key.clone())
                .collect();
            for key in due {
                if let Some(group) = groups.open.remove(&key) {
                    groups.count -= group.exchanges.len();
                    ready.push(group.exchanges);
                }
            }
        }
        self.complete(aggregate, ready);
    }

    fn complete(&self, aggregate: &'a Aggregate, ready: Vec<Vec<Exchange>>) {
        let combined: Vec<Exchange> = ready
            .into_iter()
            .enumerate()
            .filter_map(|(seq, group)| combine(aggregate.strategy, seq, group))
            .collect();
        if !combined.is_empty() {
            self.run(&aggregate.steps, combined);
        }
    }

    fn multicast(&self, parallel: bool, branches: &'a [Vec<Step>], batch: Vec<Exchange>) -> Vec<Exchange> {
        if !parallel {
            for steps in branches {
                self.run(steps, batch.clone());
            }
            return batch;
        }
        std::thread::scope(|scope| {
            for steps in branches {
                let copy = batch.clone();
                let context = *self;
                scope.spawn(move || context.run(steps, copy));
            }
        });
        batch
    }

    fn send_dynamic(
        &self,
        uri: &Expression,
        slot: usize,
        place: &crate::error::Place,
        batch: Vec<Exchange>,
    ) -> Vec<Exchange> {
        let scope = self.scope();
        let mut runs: Vec<(String, Endpoint, Vec<Exchange>)> = Vec::new();
        let mut failed = Vec::new();
        for exchange in batch {
            let address = match uri.text(&exchange, &scope) {
                Ok(address) => address,
                Err(failure) => {
                    failed.push(fail(exchange, failure.kind, &failure.message));
                    continue;
                }
            };
            if let Some((_, _, run)) = runs.iter_mut().find(|(known, _, _)| *known == address) {
                run.push(exchange);
                continue;
            }
            match Uri::parse(&address, None, place).and_then(|uri| Endpoint::parse(&uri)) {
                Ok(endpoint) => runs.push((address, endpoint, vec![exchange])),
                Err(error) => failed.push(fail(exchange, FailureKind::Expression, &error.to_string())),
            }
        }
        let mut out = self.fail_all(failed);
        for (address, endpoint, run) in runs {
            out = merge(out, self.send_to(&endpoint, self.slot(slot), &address, run));
        }
        out
    }

    fn throttle(
        &self,
        permits: &Expression,
        period_ms: u64,
        slot: usize,
        rest: &'a [Step],
        batch: Vec<Exchange>,
    ) -> Vec<Exchange> {
        let allowed = batch.first().and_then(|first| permits.value(first, &self.scope()).ok());
        let allowed = allowed.as_ref().and_then(number).filter(|allowed| *allowed >= 1.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked: 1 or more, saturates"
        )]
        let allowed = allowed.map_or(u64::MAX, |allowed| allowed as u64);
        let mut out = Vec::with_capacity(batch.len());
        let mut left = batch;
        while !left.is_empty() && !self.is_abandoned() {
            let (free, wait_ms) = {
                let now_ns = self.running.doors.clock.monotonic_ns();
                let mut bucket = lock(&self.slot(slot).bucket);
                let age_ms = now_ns.saturating_sub(bucket.period_start_ns) / 1_000_000;
                if bucket.period_start_ns == 0 || age_ms >= period_ms {
                    bucket.period_start_ns = now_ns.max(1);
                    bucket.used = 0;
                }
                let free =
                    allowed.saturating_sub(bucket.used).min(u64::try_from(left.len()).unwrap_or(u64::MAX));
                bucket.used += free;
                (free, period_ms.saturating_sub(age_ms).max(1))
            };
            if free == 0 {
                if !self.sleep(wait_ms) {
                    self.abandon();
                }
                continue;
            }
            let tail = left.split_off(usize::try_from(free).unwrap_or(usize::MAX).min(left.len()));
            out.extend(self.run(rest, std::mem::replace(&mut left, tail)));
        }
        out
    }

    fn delay(&self, millis: &Expression, rest: &'a [Step], batch: Vec<Exchange>) -> Vec<Exchange> {
        let mut out = Vec::with_capacity(batch.len());
        for exchange in batch {
            let wait_ms =
                millis.value(&exchange, &self.scope()).ok().as_ref().and_then(number).unwrap_or(0.0);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
            if !self.sleep(wait_ms.max(0.0) as u64) {
                self.abandon();
                return Vec::new();
            }
            out.extend(self.run(rest, vec![exchange]));
        }
        out
    }

    fn idempotent(
        &self,
        key: &Expression,
        skip: bool,
        steps: &'a [Step],
        slot: usize,
        batch: Vec<Exchange>,
    ) -> Vec<Exchange> {
        let scope = self.scope();
        let mut keys: Vec<(u64, String)> = Vec::new();
        let checked = self.each(batch, |exchange| {
            let key = key.text(exchange, &scope)?;
            let new = lock(&self.slot(slot).seen).insert(key.clone());
            if new {
                keys.push((exchange.seq, key));
            }
            exchange.set_property(&Arc::from("CamelDuplicateMessage"), Value::Bool(!new));
            Ok(())
        });
        let (first, again): (Vec<_>, Vec<_>) = checked.into_iter().partition(|exchange| {
            !skip || exchange.property("CamelDuplicateMessage") == Some(&Value::Bool(false))
        });
        let count = u64::try_from(again.len()).unwrap_or(0);
        self.running.counters.filtered.fetch_add(count, Ordering::Relaxed);
        let through = self.run(steps, first);
        let through_seqs: HashSet<u64> = through.iter().map(|exchange| exchange.seq).collect();
        // what failed may come again
        let lost =
            keys.into_iter().filter(|(seq, _)| !through_seqs.contains(seq)).map(|(_, key)| key).collect();
        lock(&self.slot(slot).seen).forget(&lost);
        merge(through, again)
    }

    fn breaker(&self, breaker: &'a CircuitBreaker, batch: Vec<Exchange>) -> Vec<Exchange> {
        let now_ns = self.running.doors.clock.monotonic_ns();
        let state = &self.slot(breaker.slot).breaker;
        let open = lock(state).open_until_ns > now_ns;
        let caught = Mutex::new(Vec::new());
        let mut through = Vec::new();
        if open {
            let message = "the circuit breaker is open";
            *lock(&caught) =
                batch.into_iter().map(|exchange| fail(exchange, FailureKind::Unavailable, message)).collect();
        } else {
            let inner = Context { catching: Some(&caught), ..*self };
            through = inner.run(&breaker.steps, batch);
            let failures = lock(&caught).len();
            let mut state = lock(state);
            state.open_until_ns = 0;
            let (good, bad) =
                (std::iter::repeat_n(true, through.len()), std::iter::repeat_n(false, failures));
            state.outcomes.extend(good.chain(bad));
            while state.outcomes.len() > breaker.window {
                state.outcomes.pop_front();
            }
            let calls = state.outcomes.len();
            let bad = state.outcomes.iter().filter(|good| !**good).count();
            #[expect(clippy::cast_precision_loss, reason = "at most 10,000")]
            let percent = bad as f64 * 100.0 / calls.max(1) as f64;
            if calls >= breaker.calls_min.min(breaker.window)
                && percent >= breaker.failure_percent
                && failures > 0
            {
                state.open_until_ns = now_ns.saturating_add(breaker.open_ms.saturating_mul(1_000_000));
                state.outcomes.clear();
            }
        }
        let caught = caught.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        if caught.is_empty() {
            return through;
        }
        let rest = if breaker.fallback.is_empty() {
            self.fail_all(caught)
        } else {
            self.run(&breaker.fallback, caught)
        };
        merge(through, rest)
    }

    fn do_try(
        &self,
        steps: &'a [Step],
        catches: &'a [Catch],
        finally: &'a [Step],
        batch: Vec<Exchange>,
    ) -> Vec<Exchange> {
        let caught = Mutex::new(Vec::new());
        let inner = Context { catching: Some(&caught), ..*self };
        let mut through = inner.run(steps, batch);
        let caught = caught.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut parts: Vec<Vec<Exchange>> = catches.iter().map(|_| Vec::new()).collect();
        let mut uncaught = Vec::new();
        let scope = self.scope();
        for exchange in caught {
            let kind = exchange.failure.as_ref().map_or(FailureKind::Data, |failure| failure.kind);
            let clause = catches.iter().position(|clause| {
                let covers = clause.classes.iter().any(|class| kind.covered_by(class) == Some(true));
                covers
                    && clause.when.as_ref().is_none_or(|when| when.test(&exchange, &scope).unwrap_or(false))
            });
            match clause.and_then(|index| parts.get_mut(index)) {
                Some(part) => part.push(exchange),
                None => uncaught.push(exchange),
            }
        }
        for (clause, part) in catches.iter().zip(parts) {
            if !part.is_empty() {
                through = merge(through, self.run(&clause.steps, part));
            }
        }
        if !finally.is_empty() {
            through = self.run(finally, through);
            self.run(finally, uncaught.clone());
        }
        merge(through, self.fail_all(uncaught))
    }
}

fn combine(strategy: Strategy, seq: usize, group: Vec<Exchange>) -> Option<Exchange> {
    let size = group.len();
    // the oldest record's place goes with the group, so that nothing after it is committed too early
    let oldest = group.iter().filter_map(|found| found.origin.clone()).min_by_key(|origin| origin.offset);
    let mut combined = match strategy {
        Strategy::Original => group.first()?.clone(),
        _ => group.last()?.clone(),
    };
    match strategy {
        Strategy::GroupedBody => {
            let items = group.iter().map(|found| match found.json() {
                Some(value) => value.as_ref().clone(),
                None => Value::from(found.body_text()),
            });
            combined.set_body(Body::Json(Arc::new(Value::Array(items.collect()))));
        }
        Strategy::Text => {
            let text: String = group.iter().map(Exchange::body_text).collect();
            combined.set_body(Body::Text(text.into()));
        }
        Strategy::Latest | Strategy::Original => {}
    }
    combined.origin = oldest;
    combined.seq = u64::try_from(seq).unwrap_or(u64::MAX);
    combined.set_property(&Arc::from("CamelAggregatedSize"), Value::from(size));
    Some(combined)
}

/// A value as a body.
fn body_of(value: Value) -> Body {
    match value {
        Value::Null => Body::Null,
        Value::String(text) => Body::Text(text.into()),
        other => Body::Json(Arc::new(other)),
    }
}

fn marshalled(exchange: &Exchange) -> Option<Vec<u8>> {
    match &exchange.body {
        Body::Null => None,
        Body::Json(value) => Some(value.to_string().into_bytes()),
        // text that is JSON already stays as it is; other text becomes a JSON string
        Body::Bytes(_) | Body::Text(_) if exchange.json().is_some() => exchange.body_bytes().map(Vec::from),
        Body::Bytes(_) | Body::Text(_) => Some(Value::from(exchange.body_text()).to_string().into_bytes()),
    }
}

fn unmarshal(exchange: &mut Exchange) -> Result<(), Failure> {
    if let Some(value) = exchange.json() {
        let value = Arc::clone(value);
        exchange.set_body(Body::Json(value));
        return Ok(());
    }
    let Some(bytes) = exchange.body_bytes() else { return Ok(()) };
    let said =
        serde_json::from_slice::<Value>(&bytes).err().map(|error| error.to_string()).unwrap_or_default();
    let message = format!("the body is not JSON: {said}");
    Err(Failure { kind: FailureKind::Expression, message: message.into() })
}

fn convert(exchange: &mut Exchange, conversion: Conversion) -> Result<(), Failure> {
    match conversion {
        Conversion::Json => return unmarshal(exchange),
        Conversion::Bytes => {
            let body = exchange.body_bytes().map_or(Body::Null, Body::Bytes);
            exchange.set_body(body);
        }
        Conversion::Text => {
            let Some(bytes) = exchange.body_bytes() else { return Ok(()) };
            let text = std::str::from_utf8(&bytes).map_err(|error| Failure {
                kind: FailureKind::Expression,
                message: format!("the body is not UTF-8: {error}").into(),
            })?;
            exchange.set_body(Body::Text(text.into()));
        }
    }
    Ok(())
}

/// Camel's patterns: `*`, `prefix*`, the name, or a regular expression.
fn matches_pattern(name: &str, pattern: &str) -> bool {
    if let Some(prefix) = pattern.strip_suffix('*')
        && name.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix))
    {
        return true;
    }
    name.eq_ignore_ascii_case(pattern) || whole_match(pattern).is_ok_and(|regex| regex.is_match(name))
}

fn write_log(level: Level, name: &str, line: &str) {
    match level {
        Level::Trace => tracing::trace!(target: "herdsman::routes::log", name, "{line}"),
        Level::Debug => tracing::debug!(target: "herdsman::routes::log", name, "{line}"),
        Level::Info => tracing::info!(target: "herdsman::routes::log", name, "{line}"),
        Level::Warn => tracing::warn!(target: "herdsman::routes::log", name, "{line}"),
        Level::Error => tracing::error!(target: "herdsman::routes::log", name, "{line}"),
    }
}
