//! From lanes to batches to answers.

use bytes::Bytes;

use super::links::{Outstanding, What};
use super::nodes::node_of;
use super::{Answer, Command, Core, Effect, Fault, LinkId, Stage};
use crate::config::Lane;
use crate::error::GuardError;
use crate::lanes::Waiting;
use crate::placement::NodeIndex;
use crate::slab::Id;
use crate::stats::Counters;

/// A batch never asks for more keys than this.
const BATCH_MAX: usize = 512;
/// What already waits goes together: up to this many keys share a request though the tuner would send fewer.
const BATCH_READY: usize = 64;
/// Tries of one key at the cache before the system of record is asked.
pub(super) const ATTEMPTS_MAX: u8 = 2;

impl Core {
    /// When the oldest waiting key has waited long enough, if a slot is free for it.
    pub(super) fn linger_ends_ns(&self) -> Option<u64> {
        let settings = self.tuner.settings();
        if settings.batch_size <= 1 {
            return None;
        }
        let free = self.nodes.iter().filter(|node| {
            node.links.free_slots(settings.depth) > 0
                && node.window.admit(1, node.lanes.len(), &node.links).is_some()
        });
        Some(free.filter_map(|node| node.lanes.oldest_ns()).min()? + u64::from(settings.linger_us) * 1_000)
    }

    /// Sends what is due: a full batch, or one whose oldest key has waited its linger; while slots are free.
    pub(super) fn pump(&mut self, now_ns: u64) {
        for node in self.nodes.indices() {
            self.pump_node(node, now_ns);
        }
    }

    fn pump_node(&mut self, index: NodeIndex, now_ns: u64) {
        if self.nodes.is_down(index) {
            self.divert(index);
            return;
        }
        let settings = self.tuner.settings();
        let (batch, linger_ns) = (settings.batch_size as usize, u64::from(settings.linger_us) * 1_000);
        let rtt_ns = self.tuner.rtt_ns();
        loop {
            let Some(node) = self.nodes.get_mut(index) else { return };
            node.window.look(&node.lanes, &node.links, (linger_ns, rtt_ns), now_ns);
            let waiting = node.lanes.len();
            let Some(oldest) = node.lanes.oldest_ns() else { return };
            let due = batch <= 1 || waiting >= batch || now_ns >= oldest + linger_ns;
            let free = node.links.free_slots(settings.depth);
            if !due || free == 0 {
                return;
            }
            let room = waiting.div_ceil(free).max(batch).clamp(BATCH_READY, BATCH_MAX);
            let Some(room) = node.window.admit(room, waiting, &node.links) else { return };
            self.send_batch(index, room, settings.depth, now_ns);
        }
    }

    fn send_batch(&mut self, index: NodeIndex, room: usize, depth: u32, now_ns: u64) {
        let mut taken = std::mem::take(&mut self.scratch);
        if let Some(node) = self.nodes.get_mut(index) {
            if self.planted.is(Fault::LaneStarvation) {
                node.lanes.keep_no_shares();
            }
            node.lanes.take(room, &mut taken);
        }
        let (mut keys, mut flights): (Vec<Bytes>, Vec<Id>) = (Vec::new(), Vec::new());
        for Waiting { flight: id, .. } in taken.drain(..) {
            // Skips those that moved to another lane or queue since.
            let Some(flight) = self.flights.get_mut(id) else { continue };
            if !matches!(flight.stage, Stage::Queued) || flight.to_record {
                continue;
            }
            flight.stage = Stage::Asked;
            keys.push(flight.key.clone());
            flights.push(id);
        }
        self.scratch = taken;
        if keys.is_empty() {
            return;
        }
        let Some(node) = self.nodes.get_mut(index) else { return };
        let Some(link) = node.links.least_busy(depth) else { return };
        node.window.sent();
        link.outstanding.push_back(Outstanding { what: What::Get(flights), sent_ns: now_ns });
        link.gets += 1;
        Counters::add(&self.counters.round_trips, 1);
        self.effects.push(Effect::Send { link: link.id, command: Command::Get(keys) });
    }

    fn is_asked(&self, id: Id) -> bool {
        self.flights.get(id).is_some_and(super::Flight::is_asked)
    }

    /// The cache is down: everything that waits for it goes to the system of record.
    fn divert(&mut self, index: NodeIndex) {
        let mut taken = std::mem::take(&mut self.scratch);
        if let Some(node) = self.nodes.get_mut(index) {
            node.lanes.take(usize::MAX, &mut taken);
        }
        for Waiting { flight, since_ns } in taken.drain(..) {
            // An old place in the queue of a flight that is under way says nothing.
            if self.flights.get(flight).is_some_and(|flight| matches!(flight.stage, Stage::Queued)) {
                self.send_to_record(flight, since_ns);
            }
        }
        self.scratch = taken;
    }

    /// Puts a flight into the queue of the system of record, once.
    pub(super) fn send_to_record(&mut self, id: Id, since_ns: u64) {
        if !self.has_record {
            let error = GuardError::CacheDown { cache: self.config.cache.place() };
            return self.land(id, &Err(error), self.now_ns);
        }
        let Some(flight) = self.flights.get_mut(id) else { return };
        if flight.to_record {
            return;
        }
        flight.to_record = true;
        flight.stage = Stage::Queued;
        let lane = flight.lane;
        self.loads.push(lane, Waiting { flight: id, since_ns });
    }

    pub(super) fn on_answer(&mut self, link_id: LinkId, answer: Answer, now_ns: u64) {
        if let Answer::Changed(keys) = answer {
            return self.on_changed(keys);
        }
        let node = node_of(link_id);
        let Some(links) = self.nodes.links_mut(node) else { return };
        let Some(link) = links.get_mut(link_id) else { return };
        let Some(Outstanding { what, sent_ns }) = link.outstanding.pop_front() else {
            self.on_down(link_id, "an answer to nothing that was asked", now_ns);
            return;
        };
        link.hedged = false;
        let (what, answer, gone) = match answer {
            Answer::Elsewhere { rest, away } => {
                let (stays, gone) = what.split(away);
                (stays, *rest, gone)
            }
            answer => (what, answer, Vec::new()),
        };
        match (what, answer) {
            (What::Get(flights), Answer::Values(values)) if flights.len() == values.len() => {
                link.gets -= 1;
                links.answered();
                self.window_answered(node, Some(now_ns.saturating_sub(sent_ns)), now_ns);
                self.on_values(&flights, values, sent_ns, now_ns);
            }
            (What::Hedge(flights), Answer::Values(values)) if flights.len() == values.len() => {
                link.gets -= 1;
                // A key that was queued once more may be waited for by somebody who asked after this was read.
                let first = |id: &Id| self.flights.get(*id).is_some_and(|flight| flight.attempts == 0);
                let (flights, values): (Vec<Id>, Vec<_>) =
                    flights.into_iter().zip(values).filter(|(id, _)| first(id)).unzip();
                self.on_values(&flights, values, sent_ns, now_ns);
            }
            (What::Hedge(_), Answer::Failed(_)) => link.gets -= 1,
            (What::Get(flights), Answer::Failed(error)) => {
                link.gets -= 1;
                self.window_answered(node, None, now_ns);
                Counters::add(&self.counters.errors, 1);
                for flight in flights.into_iter().filter(|id| self.is_asked(*id)).collect::<Vec<_>>() {
                    self.send_to_record(flight, now_ns);
                }
                self.on_cache_error(node, &error, now_ns);
            }
            (What::Claim(flights), Answer::Claimed(claimed)) if flights.len() == claimed.len() => {
                links.answered();
                self.on_claimed(&flights, claimed, now_ns);
            }
            (What::Claim(flights), Answer::Failed(error)) => {
                self.on_claim_error(node, flights, &error, now_ns)
            }
            (What::Fill(flights), Answer::Filled(taken)) if flights.len() == taken.len() => {
                self.filled(&flights, Some(&taken));
            }
            (What::Fill(flights), Answer::Done) => self.filled(&flights, None),
            (What::Fill(flights), Answer::Failed(_)) => {
                Counters::add(&self.counters.errors, 1);
                self.filled(&flights, None);
            }
            (What::Note, Answer::Filled(_) | Answer::Done) => {}
            (What::Note, Answer::Failed(_)) => Counters::add(&self.counters.errors, 1),
            (What::Delete(keys), Answer::Done) => self.deletes.done(&keys),
            (What::Delete(keys), Answer::Failed(_)) => {
                Counters::add(&self.counters.errors, 1);
                self.deletes.again(keys);
            }
            (what, _) => {
                // Put back so that losing the link treats it as unanswered.
                link.outstanding.push_front(Outstanding { what, sent_ns });
                self.on_down(link_id, "an answer of another kind than asked", now_ns);
            }
        }
        if !gone.is_empty() {
            self.redirect(gone, now_ns);
        }
    }

    /// Another client changed what was read.
    fn on_changed(&mut self, keys: Option<Vec<Bytes>>) {
        Counters::add(&self.counters.changes, keys.as_ref().map_or(1, |keys| keys.len() as u64));
        match keys {
            Some(keys) => {
                keys.iter().for_each(|key| self.on_key_changed(key));
                self.changed.extend(keys);
            }
            None => {
                self.near.insert_many(self.keeps.drain(..), self.now_ns);
                self.near.forget_all();
            }
        }
    }

    fn on_values(&mut self, flights: &[Id], mut values: Vec<Option<Bytes>>, sent_ns: u64, now_ns: u64) {
        if self.planted.is(Fault::ReplyToTheWrongRequest) {
            values.rotate_right(1);
        }
        let trip = now_ns.saturating_sub(sent_ns).max(1);
        let m = &mut self.interval.m;
        m.batches += 1;
        m.keys += flights.len() as u64;
        m.trip_sum_ns += trip;
        m.trip_min_ns = if m.trip_min_ns == 0 { trip } else { m.trip_min_ns.min(trip) };
        let (mut hits, mut misses) = (0, 0);
        for (id, value) in flights.iter().zip(values) {
            // Answered already, and perhaps on its way to the system of record, if it was asked for twice.
            let Some(flight) = self.flights.get(*id).filter(|flight| flight.is_asked()) else { continue };
            self.interval.latency.record(now_ns.saturating_sub(flight.since_ns), 1);
            if value.is_some() && flight.tainted && self.has_record {
                // The cache may have answered before the deletion: ask the system of record instead.
                self.send_to_record(*id, now_ns);
            } else if value.is_some() || !self.has_record {
                hits += u64::from(value.is_some());
                misses += u64::from(value.is_none());
                self.land(*id, &Ok(value), now_ns);
            } else {
                misses += 1;
                self.on_miss(*id, now_ns);
            }
        }
        Counters::add(&self.counters.cache_hits, hits);
        Counters::add(&self.counters.misses, misses);
    }

    /// The cache has taken the values, or nobody knows (a lost connection, no room): these flights are over. A value that it refused
    /// because its lease was gone is forgotten here as well: it may be older than a deletion.
    pub(super) fn filled(&mut self, flights: &[Id], taken: Option<&[bool]>) {
        for (at, id) in flights.iter().enumerate() {
            let Some(flight) = self.flights.remove(*id) else { continue };
            if self.by_key.get(&flight.key) == Some(id) {
                self.by_key.remove(&flight.key);
            }
            if taken.is_some_and(|taken| !taken.get(at).copied().unwrap_or(false)) {
                Counters::add(&self.counters.fills_refused, 1);
                self.changed.push(flight.key);
            }
        }
    }

    /// Tells a node's window of an answer.
    pub(super) fn window_answered(&mut self, node: NodeIndex, trip_ns: Option<u64>, now_ns: u64) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.window.answered(trip_ns, &node.links, now_ns);
        }
    }

    /// A batch whose connection was lost: once more to the cache, then to the system of record.
    pub(super) fn retry(&mut self, flights: Vec<Id>, now_ns: u64) {
        for id in flights.into_iter().rev() {
            let Some(flight) = self.flights.get_mut(id).filter(|flight| flight.is_asked()) else { continue };
            flight.attempts += 1;
            if flight.attempts < ATTEMPTS_MAX {
                flight.stage = Stage::Queued;
                let (lane, since_ns): (Lane, u64) = (flight.lane, flight.since_ns);
                let node = self.nodes.of(&flight.key);
                if let Some(node) = self.nodes.get_mut(node) {
                    node.lanes.push_front(lane, Waiting { flight: id, since_ns });
                }
            } else {
                self.send_to_record(id, now_ns);
            }
        }
    }
}
