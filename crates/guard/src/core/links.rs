//! The pool and the breaker: connections are opened one by one in the background, drained before they close; three
//! failures in a row and the system of record is read until the cache answers again.

use std::collections::VecDeque;

use bytes::Bytes;

use super::nodes::node_of;
use super::{Abilities, Command, Core, Effect, Fill, LinkId, TICK_NS, ns};
use crate::placement::NodeIndex;
use crate::slab::Id;
use crate::stats::Counters;

/// Between two connections opened, nanoseconds: five hundred at once made p99 jump forty-fold, one per 2 ms did not.
const PACE_NS: u64 = 2_000_000;
const BACKOFF_MIN_NS: u64 = 10_000_000;
/// With its jitter never more than nine tenths of a second: a server that is back is found within one.
const BACKOFF_MAX_NS: u64 = 600_000_000;
/// Failures in a row that open the breaker.
const FAILURES_MAX: u32 = 3;
/// A command unanswered for this long means that the connection is lost.
const TRIP_MAX_NS: u64 = 1_000_000_000;

#[derive(Debug)]
pub(super) enum What {
    Get(Vec<Id>),
    /// The same once more, where the first answer is late.
    Hedge(Vec<Id>),
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
    /// A batch was already asked for a second time since this link's last answer.
    pub(super) hedged: bool,
    /// Tells of changes to what it has read.
    tracking: bool,
    /// Draining: not before then.
    closes_ns: u64,
}

/// All connections to one node, oldest first, and its breaker's state.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: Vec<Link>,
    next_id: LinkId,
    next_open_ns: u64,
    refusals: u32,
    failures: u32,
    open: bool,
}

impl Links {
    /// Links are numbered from `first` on.
    pub(super) fn new(first: LinkId) -> Self {
        Self { next_id: first, ..Self::default() }
    }

    pub(super) fn ids(&self) -> Vec<LinkId> {
        self.links.iter().map(|link| link.id).collect()
    }

    /// What failed before counts no longer: it is another server now.
    pub(super) fn forgive(&mut self, now_ns: u64) {
        (self.refusals, self.failures, self.next_open_ns) = (0, 0, now_ns);
    }

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

    /// Of each connection whose first answer is of a batch of look-ups: when that was sent. Once per answer.
    pub(super) fn waiting_longest(&self) -> impl Iterator<Item = (u64, LinkId)> + '_ {
        self.links.iter().filter(|link| !link.hedged).filter_map(|link| {
            let front = link.outstanding.front().filter(|front| matches!(front.what, What::Get(_)))?;
            Some((front.sent_ns, link.id))
        })
    }

    /// The flights of the batch that this connection owes first; notes that they are asked for again.
    pub(super) fn hedge(&mut self, id: LinkId) -> Vec<Id> {
        let Some(link) = self.get_mut(id) else { return Vec::new() };
        link.hedged = true;
        match link.outstanding.front() {
            Some(Outstanding { what: What::Get(flights), .. }) => flights.clone(),
            _ => Vec::new(),
        }
    }

    pub(super) fn least_busy_but(&mut self, id: LinkId) -> Option<&mut Link> {
        let ready = self.links.iter_mut().filter(|link| link.state == State::Ready && link.id != id);
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

    /// Keys of look-ups under way.
    pub(super) fn keys_under_way(&self) -> usize {
        let outstanding = self.links.iter().flat_map(|link| &link.outstanding);
        outstanding
            .map(|o| match &o.what {
                What::Get(flights) | What::Hedge(flights) => flights.len(),
                _ => 0,
            })
            .sum()
    }

    pub(super) fn is_quiet(&self) -> bool {
        !self.open && self.links.iter().all(|link| link.state == State::Ready && link.outstanding.is_empty())
    }

    /// A batch came back with values: the cache is well.
    pub(super) fn answered(&mut self) {
        self.failures = 0;
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

    fn next_open_ns(&self, wanted: usize) -> Option<u64> {
        self.may_open(wanted).then_some(self.next_open_ns)
    }
}

impl Core {
    /// Connections to each node.
    fn wanted(&self) -> usize {
        // A hedge needs another connection.
        self.tuner.settings().connections.max(1 + u32::from(self.config.hedge)) as usize
    }

    /// When the next connection may be opened.
    pub(super) fn next_open_ns(&self) -> Option<u64> {
        let wanted = self.wanted();
        let placed = self.nodes.iter().filter(|node| node.used && node.place.is_some());
        placed.filter_map(|node| node.links.next_open_ns(wanted)).min()
    }

    /// Opens and drains towards what the tuner wants; a connection at a time.
    pub(super) fn manage_links(&mut self, now_ns: u64) {
        for index in self.nodes.indices() {
            self.manage_node(index, now_ns);
        }
    }

    fn manage_node(&mut self, index: NodeIndex, now_ns: u64) {
        let near_ns = ns(self.config.near_ttl + self.config.stale_while_revalidate).saturating_mul(11) / 10;
        let wanted = self.wanted();
        let pace_ns = self.spread(PACE_NS);
        let Some(node) = self.nodes.get_mut(index) else { return };
        let wanted = if node.used { wanted } else { 0 };
        let links = &mut node.links;
        if let Some(place) = &node.place
            && links.may_open(wanted)
            && now_ns >= links.next_open_ns
        {
            let id = links.next_id;
            links.next_id += 1;
            links.next_open_ns = now_ns + pace_ns;
            let (outstanding, gets) = (VecDeque::new(), 0);
            links.links.push(Link {
                id,
                state: State::Opening,
                outstanding,
                gets,
                hedged: false,
                tracking: false,
                closes_ns: 0,
            });
            self.effects.push(Effect::Open { link: id, place: place.clone() });
        }
        if links.takes_work().count() > wanted
            && let Some(youngest) = links.links.iter_mut().rev().find(|link| link.state == State::Ready)
        {
            youngest.state = State::Draining;
            // It still tells of changes to what was read on it, until the near cache has forgotten all of that.
            youngest.closes_ns = if youngest.tracking { now_ns.saturating_add(near_ns) } else { 0 };
        }
        let drained = |link: &Link| {
            link.state == State::Draining && link.outstanding.is_empty() && now_ns >= link.closes_ns
        };
        for link in links.links.iter().filter(|link| drained(link)) {
            self.effects.push(Effect::Close { link: link.id });
        }
        links.links.retain(|link| !drained(link));
    }

    pub(super) fn on_up(&mut self, id: LinkId, abilities: Abilities) {
        let index = node_of(id);
        let Some(node) = self.nodes.get_mut(index) else { return };
        let Some(link) = node.links.get_mut(id) else {
            self.effects.push(Effect::Close { link: id });
            return;
        };
        link.state = State::Ready;
        link.tracking = abilities.tracking;
        self.leases.support(abilities.leases);
        Counters::add(&self.counters.connects, 1);
        node.links.refusals = 0;
        if node.links.open {
            node.links.open = false;
            tracing::info!("cache {} answers again", self.place_of(index));
        }
        self.retry_deletes();
    }

    /// Names a node, for messages.
    fn place_of(&self, node: NodeIndex) -> String {
        match self.nodes.get(node).and_then(|node| node.place.as_ref()) {
            Some(place) if place.port > 0 => place.to_string(),
            _ => self.config.cache.place(),
        }
    }

    pub(super) fn on_refused(&mut self, id: LinkId, error: &str, now_ns: u64) {
        let index = node_of(id);
        Counters::add(&self.counters.errors, 1);
        self.nodes.doubt();
        let Some(links) = self.nodes.links_mut(index) else { return };
        links.links.retain(|link| link.id != id);
        links.refusals = links.refusals.saturating_add(1);
        let (refusals, dead) = (links.refusals, links.refusals >= FAILURES_MAX && links.ready() == 0);
        self.back_off(index, now_ns);
        if dead {
            self.open_breaker(index, &format!("refused {refusals} tries"), error);
        }
    }

    fn back_off(&mut self, index: NodeIndex, now_ns: u64) {
        let draw = self.draw();
        let Some(links) = self.nodes.links_mut(index) else { return };
        let doubled = BACKOFF_MIN_NS << links.refusals.saturating_sub(1).min(10);
        // Half to one and a half times, so that a thousand clients do not come back together.
        let wait = doubled.min(BACKOFF_MAX_NS);
        links.next_open_ns = now_ns + wait / 2 + draw % wait.max(1);
    }

    fn open_breaker(&mut self, index: NodeIndex, what: &str, error: &str) {
        let Some(links) = self.nodes.links_mut(index).filter(|links| !links.open) else { return };
        links.open = true;
        let place = self.place_of(index);
        if !self.has_record {
            tracing::warn!(
                "cache {place} {what}: every request is answered with an error until it answers ({error})"
            );
            return;
        }
        let sentence = degraded(&place, what, self.config.degraded_loads_per_s);
        tracing::warn!(cause = error, "{sentence}");
    }

    /// A connection is gone: what it carried is asked again elsewhere.
    pub(super) fn on_down(&mut self, id: LinkId, error: &str, now_ns: u64) {
        let Some(links) = self.nodes.links_mut(node_of(id)) else { return };
        let Some(at) = links.links.iter().position(|link| link.id == id) else { return };
        let link = links.links.remove(at);
        self.nodes.doubt();
        self.effects.push(Effect::Close { link: id });
        if link.outstanding.is_empty() && link.state == State::Ready {
            tracing::debug!("cache {} closed an idle connection: {error}", self.place_of(node_of(id)));
        }
        let asked = link.gets > 0 || link.outstanding.iter().any(|o| matches!(o.what, What::Claim(_)));
        for outstanding in link.outstanding.into_iter().rev() {
            match outstanding.what {
                What::Get(flights) => self.retry(flights, now_ns),
                What::Hedge(_) | What::Note => {}
                What::Claim(flights) => self.retry_claims(flights, now_ns),
                What::Fill(flights) => self.filled(&flights, None),
                What::Delete(keys) => self.deletes.again(keys),
            }
        }
        self.window_answered(node_of(id), None, now_ns);
        if link.tracking {
            self.taint_loads_of(node_of(id));
        }
        if asked {
            Counters::add(&self.counters.errors, 1);
            self.on_cache_error(node_of(id), error, now_ns);
        }
    }

    /// A batch failed. Three in a row without one answer in between open the breaker.
    pub(super) fn on_cache_error(&mut self, index: NodeIndex, error: &str, now_ns: u64) {
        self.nodes.doubt();
        let Some(links) = self.nodes.links_mut(index) else { return };
        links.failures = links.failures.saturating_add(1);
        if links.failures < FAILURES_MAX || links.open {
            return;
        }
        let failures = links.failures;
        links.refusals = links.refusals.max(FAILURES_MAX);
        self.open_breaker(index, &format!("failed {failures} requests"), error);
        self.back_off(index, now_ns);
        // Every connection goes; the first new one that passes its handshake closes the breaker.
        while let Some(id) = self.nodes.links_mut(index).and_then(|links| links.ids().first().copied()) {
            self.on_down(id, error, now_ns);
        }
    }

    pub(super) fn expire_trips(&mut self, now_ns: u64) {
        let late = |link: &&Link| {
            link.outstanding.front().is_some_and(|front| now_ns.saturating_sub(front.sent_ns) > TRIP_MAX_NS)
        };
        let links = self.nodes.iter().flat_map(|node| &node.links.links);
        let ids: Vec<LinkId> = links.filter(late).map(|link| link.id).collect();
        for id in ids {
            self.on_down(id, "no answer within a second", now_ns);
        }
    }

    /// Writes without leases, each value to its node.
    pub(super) fn fill(&mut self, fills: Vec<(Fill, Id)>, now_ns: u64) {
        Counters::add(&self.counters.fills, fills.len() as u64);
        for (node, group) in self.nodes.split(fills, |(fill, _)| &fill.key) {
            let (fills, flights): (Vec<Fill>, Vec<Id>) = group.into_iter().unzip();
            if !self.write(node, What::Fill(flights.clone()), Command::Fill(fills), now_ns) {
                self.filled(&flights, None);
            }
        }
    }

    /// Sends a command on the connection that keeps the order of a node's writes; says whether there is one.
    pub(super) fn write(&mut self, node: NodeIndex, what: What, command: Command, now_ns: u64) -> bool {
        let Some(links) = self.nodes.links_mut(node) else { return false };
        let Some(writer) = links.writer().and_then(|id| links.get_mut(id)) else { return false };
        writer.outstanding.push_back(Outstanding { what, sent_ns: now_ns });
        self.effects.push(Effect::Send { link: writer.id, command });
        true
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
