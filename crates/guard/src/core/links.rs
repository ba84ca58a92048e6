//! The pool and the breaker: connections are opened one by one in the background, drained before they close; three
//! failures in a row and the system of record is read until the cache answers again.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use rapidhash::fast::RandomState;

use super::{Abilities, Command, Core, Effect, Fill, LinkId, TICK_NS, ns};
use crate::slab::Id;
use crate::stats::Counters;
use crate::tuner::Tuner;

/// Between two connections opened, nanoseconds: five hundred at once made p99 jump forty-fold, one per 2 ms did not.
const PACE_NS: u64 = 2_000_000;
const BACKOFF_MIN_NS: u64 = 10_000_000;
const BACKOFF_MAX_NS: u64 = 1_000_000_000;
/// Failures in a row that open the breaker.
const FAILURES_MAX: u32 = 3;
/// A command unanswered for this long means that the connection is lost.
const TRIP_MAX_NS: u64 = 1_000_000_000;
/// Deletions remembered while the cache is down; beyond that the TTL ends what is out of date.
const DELETES_MAX: usize = 1_000_000;

#[derive(Debug)]
pub(super) enum What {
    Get(Vec<Id>),
    Claim(Vec<Id>),
    Fill(Vec<Id>),
    /// Something about leases whose outcome changes nothing here.
    Note,
    Delete(Vec<Bytes>),
}

#[derive(Debug)]
pub(super) struct Outstanding {
    pub(super) what: What,
    pub(super) sent_ns: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Opening,
    Ready,
    Draining,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(super) id: LinkId,
    state: State,
    pub(super) outstanding: VecDeque<Outstanding>,
    pub(super) gets: u32,
    /// Tells of changes to what it has read.
    tracking: bool,
    /// Draining: not before then.
    closes_ns: u64,
}

/// All connections, oldest first, and the breaker's state.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: Vec<Link>,
    next_id: LinkId,
    next_open_ns: u64,
    refusals: u32,
    failures: u32,
    open: bool,
    deleting: HashMap<Bytes, u32, RandomState>,
    unsent_deletes: Vec<Bytes>,
}

impl Links {
    pub(super) fn breaker_is_open(&self) -> bool {
        self.open
    }

    pub(super) fn get_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.id == id)
    }

    fn takes_work(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(|link| link.state == State::Ready)
    }

    pub(super) fn free_slots(&self, depth: u32) -> usize {
        self.takes_work().map(|link| depth.saturating_sub(link.gets) as usize).sum()
    }

    pub(super) fn least_busy(&mut self, depth: u32) -> Option<&mut Link> {
        let ready = self.links.iter_mut().filter(|link| link.state == State::Ready && link.gets < depth);
        ready.min_by_key(|link| link.gets)
    }

    /// The oldest connection carries all writes, so that they keep their order.
    pub(super) fn writer(&self) -> Option<LinkId> {
        self.takes_work().map(|link| link.id).next()
    }

    /// Whether every connection that reads tells of changes.
    pub(super) fn is_tracking(&self) -> bool {
        self.ready() > 0 && self.takes_work().all(|link| link.tracking)
    }

    pub(super) fn ready(&self) -> u32 {
        u32::try_from(self.takes_work().count()).unwrap_or(u32::MAX)
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.links.iter().map(|link| link.gets).sum()
    }

    pub(super) fn is_quiet(&self) -> bool {
        !self.open
            && self.unsent_deletes.is_empty()
            && self.links.iter().all(|link| link.state == State::Ready && link.outstanding.is_empty())
    }

    /// A batch came back with values: the cache is well.
    pub(super) fn answered(&mut self) {
        self.failures = 0;
    }

    pub(super) fn is_deleting(&self, key: &Bytes) -> bool {
        !self.deleting.is_empty() && self.deleting.contains_key(key)
    }

    pub(super) fn deleted(&mut self, keys: &[Bytes]) {
        for key in keys {
            if let Some(count) = self.deleting.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    self.deleting.remove(key);
                }
            }
        }
    }

    pub(super) fn delete_again(&mut self, keys: Vec<Bytes>) {
        self.unsent_deletes.extend(keys);
        if self.unsent_deletes.len() > DELETES_MAX {
            let dropped: Vec<Bytes> =
                self.unsent_deletes.drain(..self.unsent_deletes.len() - DELETES_MAX).collect();
            tracing::warn!(
                dropped = dropped.len(),
                "too many deletions wait for the cache: their time to live ends them"
            );
            self.deleted(&dropped);
        }
    }

    fn alive(&self) -> usize {
        self.links.iter().filter(|link| link.state != State::Draining).count()
    }

    fn opening(&self) -> usize {
        self.links.iter().filter(|link| link.state == State::Opening).count()
    }

    fn may_open(&self, wanted: usize) -> bool {
        // While the cache refuses, one try at a time.
        self.alive() < wanted && (self.opening() == 0 || (self.refusals == 0 && self.ready() > 0))
    }

    pub(super) fn next_open_ns(&self, tuner: &Tuner) -> Option<u64> {
        self.may_open(wanted(tuner)).then_some(self.next_open_ns)
    }
}

fn wanted(tuner: &Tuner) -> usize {
    tuner.settings().connections.max(1) as usize
}

impl Core {
    /// Opens and drains towards what the tuner wants; a connection at a time.
    pub(super) fn manage_links(&mut self, now_ns: u64) {
        let wanted = wanted(&self.tuner);
        while self.links.may_open(wanted) && now_ns >= self.links.next_open_ns {
            let id = self.links.next_id;
            self.links.next_id += 1;
            self.links.next_open_ns = now_ns + self.spread(PACE_NS);
            let (outstanding, gets) = (VecDeque::new(), 0);
            let link = Link { id, state: State::Opening, outstanding, gets, tracking: false, closes_ns: 0 };
            self.links.links.push(link);
            self.effects.push(Effect::Open { link: id });
        }
        let near_ns = ns(self.config.near_ttl + self.config.stale_while_revalidate).saturating_mul(11) / 10;
        if self.links.takes_work().count() > wanted
            && let Some(youngest) = self.links.links.iter_mut().rev().find(|link| link.state == State::Ready)
        {
            youngest.state = State::Draining;
            // It still tells of changes to what was read on it, until the near cache has forgotten all of that.
            youngest.closes_ns = if youngest.tracking { now_ns.saturating_add(near_ns) } else { 0 };
        }
        let drained = |link: &Link| {
            link.state == State::Draining && link.outstanding.is_empty() && now_ns >= link.closes_ns
        };
        for link in self.links.links.iter().filter(|link| drained(link)) {
            self.effects.push(Effect::Close { link: link.id });
        }
        self.links.links.retain(|link| !drained(link));
    }

    pub(super) fn on_up(&mut self, id: LinkId, abilities: Abilities) {
        let Some(link) = self.links.get_mut(id) else {
            self.effects.push(Effect::Close { link: id });
            return;
        };
        link.state = State::Ready;
        link.tracking = abilities.tracking;
        self.leases.support(abilities.leases);
        Counters::add(&self.counters.connects, 1);
        self.links.refusals = 0;
        if self.links.open {
            self.links.open = false;
            tracing::info!("cache {} answers again", self.config.cache.place());
        }
        self.retry_deletes();
    }

    pub(super) fn on_refused(&mut self, id: LinkId, error: &str, now_ns: u64) {
        self.links.links.retain(|link| link.id != id);
        Counters::add(&self.counters.errors, 1);
        self.links.refusals = self.links.refusals.saturating_add(1);
        self.back_off(now_ns);
        if self.links.refusals >= FAILURES_MAX && self.links.ready() == 0 {
            self.open_breaker(&format!("refused {} tries", self.links.refusals), error);
        }
    }

    fn back_off(&mut self, now_ns: u64) {
        let doubled = BACKOFF_MIN_NS << self.links.refusals.saturating_sub(1).min(10);
        // Half to one and a half times, so that a thousand clients do not come back together.
        let wait = doubled.min(BACKOFF_MAX_NS) / 2;
        let jitter = self.spread(wait) % wait.max(1);
        self.links.next_open_ns = now_ns + wait + jitter.wrapping_mul(7) % wait.max(1);
    }

    fn open_breaker(&mut self, what: &str, error: &str) {
        if self.links.open {
            return;
        }
        self.links.open = true;
        if !self.has_record {
            tracing::warn!(
                "cache {} {what}: every request is answered with an error until it answers ({error})",
                self.config.cache.place()
            );
            return;
        }
        let sentence = degraded(&self.config.cache.place(), what, self.config.degraded_loads_per_s);
        tracing::warn!(cause = error, "{sentence}");
    }

    /// A connection is gone: what it carried is asked again elsewhere.
    pub(super) fn on_down(&mut self, id: LinkId, error: &str, now_ns: u64) {
        let Some(at) = self.links.links.iter().position(|link| link.id == id) else { return };
        let link = self.links.links.remove(at);
        self.effects.push(Effect::Close { link: id });
        if link.outstanding.is_empty() && link.state == State::Ready {
            tracing::debug!("cache {} closed an idle connection: {error}", self.config.cache.place());
        }
        let asked = link.gets > 0 || link.outstanding.iter().any(|o| matches!(o.what, What::Claim(_)));
        for outstanding in link.outstanding.into_iter().rev() {
            match outstanding.what {
                What::Get(flights) => self.retry(flights, now_ns),
                What::Claim(flights) => self.retry_claims(flights, now_ns),
                What::Fill(flights) => self.filled(&flights, None),
                What::Note => {}
                What::Delete(keys) => self.links.delete_again(keys),
            }
        }
        if asked {
            Counters::add(&self.counters.errors, 1);
            self.on_cache_error(error, now_ns);
        }
    }

    /// A batch failed. Three in a row without one answer in between open the breaker.
    pub(super) fn on_cache_error(&mut self, error: &str, now_ns: u64) {
        self.links.failures = self.links.failures.saturating_add(1);
        if self.links.failures < FAILURES_MAX || self.links.open {
            return;
        }
        self.open_breaker(&format!("failed {} requests", self.links.failures), error);
        self.links.refusals = self.links.refusals.max(FAILURES_MAX);
        self.back_off(now_ns);
        // Every connection goes; the first new one that passes its handshake closes the breaker.
        while let Some(id) = self.links.links.first().map(|link| link.id) {
            self.on_down(id, error, now_ns);
        }
    }

    pub(super) fn expire_trips(&mut self, now_ns: u64) {
        let late = |link: &&Link| {
            link.outstanding.front().is_some_and(|front| now_ns.saturating_sub(front.sent_ns) > TRIP_MAX_NS)
        };
        let ids: Vec<LinkId> = self.links.links.iter().filter(late).map(|link| link.id).collect();
        for id in ids {
            self.on_down(id, "no answer within a second", now_ns);
        }
    }

    pub(super) fn fill(&mut self, fills: Vec<Fill>, flights: Vec<Id>, now_ns: u64) {
        Counters::add(&self.counters.fills, fills.len() as u64);
        if !self.write(What::Fill(flights.clone()), Command::Fill(fills), now_ns) {
            self.filled(&flights, None);
        }
    }

    pub(super) fn delete(&mut self, keys: Vec<Bytes>) {
        for key in &keys {
            *self.links.deleting.entry(key.clone()).or_insert(0) += 1;
        }
        self.links.delete_again(keys);
        self.retry_deletes();
    }

    /// Sends the deletions that wait, if there is a connection to carry them.
    pub(super) fn retry_deletes(&mut self) {
        let now_ns = self.now_ns;
        if self.links.unsent_deletes.is_empty() {
            return;
        }
        if self.links.writer().is_some() {
            let keys = std::mem::take(&mut self.links.unsent_deletes);
            self.write(What::Delete(keys.clone()), Command::Delete(keys), now_ns);
        }
    }
}

/// What a person reads, once, when the cache is given up.
fn degraded(place: &str, what: &str, loads_per_s: u32) -> String {
    let loads = match (loads_per_s / 1_000, loads_per_s % 1_000) {
        (0, ones) => ones.to_string(),
        (thousands, ones) => format!("{thousands},{ones:03}"),
    };
    format!("cache {place} {what}: reading the system of record, at most {loads} loads/s, until it answers")
}

const _: () = assert!(TRIP_MAX_NS > TICK_NS, "late trips are looked for every tick");

#[cfg(test)]
mod tests {
    #[test]
    fn a_dead_cache_is_reported_in_one_line() {
        for (loads_per_s, shown) in [(200, "200"), (10_050, "10,050")] {
            assert_eq!(
                super::degraded("10.0.0.5:6379", "refused 3 tries", loads_per_s),
                format!(
                    "cache 10.0.0.5:6379 refused 3 tries: reading the system of record, at most {shown} loads/s, until it answers"
                )
            );
        }
    }
}
