//! Leases: of all processes that miss a key one loads it, the others wait for its value.
//!
//! # The protocol
//! A missing key is **claimed** in the cache. The winner loads it and writes the value under its lease; the write is refused if
//! the lease is gone, and a deletion takes the lease with it, so that what was read before a deletion never comes
//! after it. The losers claim again, a quarter of the time they have waited later (1 to 50 ms), until there is a value. A lease ends by
//! itself, so the next claim after its holder's death wins; a living holder extends it every quarter while its load is under way,
//! for as long as a look-up may wait. Source: Nishtala et al., "Scaling Memcache at Facebook" (NSDI 2013), section 3.2.1.
//!
//! # Other clients
//! What a guard deletes takes the lease along. Another client ends a lease by deleting both names, `DEL key herdsman:lease:key` (in a cluster see
//! `protocol::cluster`). If it only says `SET key` or `DEL key`, the claim has read the key on a connection that is told of changes (RESP3
//! tracking, where the cache has it): told of one, the holder gives its lease back and writes nothing, at most a trip later. What leaves no trace in
//! Redis is a plain `DEL` of a key that is not there, between a load's read and its write: the older value is then written and lives
//! for its time to live, 1.1 × `GuardConfig::ttl` at most. A client that cannot name the lease deletes again when the load must be over.
//!
//! Without a lease nothing is written while leases are in use: a flight whose claim failed answers those who wait and leaves the cache
//! alone. Only a cache that cannot do leases is filled as before them, by "set if there is none".

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use bytes::Bytes;

use super::links::What;
use super::{Claim, Claimed, Command, Core, Fault, Flight, Found, LeasedFill, Stage, Want, ns};
use crate::config::Lane;
use crate::lanes::Waiting;
use crate::placement::NodeIndex;
use crate::slab::Id;
use crate::stats::Counters;

/// Keys per claim or leased fill: at about 2 µs each a script holds up a single-threaded cache for less than 0.2 ms.
pub(super) const CLAIM_MAX: usize = 64;
const POLL_MIN_NS: u64 = 1_000_000;
const POLL_MAX_NS: u64 = 50_000_000;
/// A cache that refused the command is asked again after this long.
const REFUSED_NS: u64 = 60_000_000_000;

#[derive(Debug, Clone, Copy)]
struct Holding {
    flight: Id,
    token: u64,
    won_ns: u64,
}

/// Claims to make, claims to repeat, leases held.
#[derive(Debug)]
pub(super) struct Leases {
    lease_ns: u64,
    supported: bool,
    refused_until_ns: u64,
    queue: Vec<Id>,
    polls: BinaryHeap<Reverse<(u64, Id)>>,
    holding: Vec<Holding>,
    next_extend_ns: u64,
}

impl Leases {
    pub(super) fn new(lease: Duration) -> Self {
        Self {
            lease_ns: ns(lease),
            supported: true,
            refused_until_ns: 0,
            queue: Vec::new(),
            polls: BinaryHeap::new(),
            holding: Vec::new(),
            next_extend_ns: 0,
        }
    }

    /// Whether misses are claimed before they are loaded.
    pub(super) fn in_use(&self, now_ns: u64) -> bool {
        self.lease_ns > 0 && self.supported && now_ns >= self.refused_until_ns
    }

    pub(super) fn explain(&self, now_ns: u64) -> &'static str {
        match (self.lease_ns, self.in_use(now_ns)) {
            (0, _) => "off",
            (_, true) => "one process loads a missing key",
            (_, false) => "refused by the cache: each process loads a missing key",
        }
    }

    /// What a new connection found out about its server.
    pub(super) fn support(&mut self, supported: bool) {
        self.supported = supported;
    }

    /// Is claimed with the next.
    pub(super) fn again(&mut self, id: Id) {
        self.queue.push(id);
    }

    pub(super) fn next_poll_ns(&self) -> Option<u64> {
        self.polls.peek().map(|Reverse((at, _))| *at)
    }
}

impl Core {
    /// The cache does not have it: to the claims, or (no leases, or invalidated meanwhile) to the system of record.
    pub(super) fn on_miss(&mut self, id: Id, now_ns: u64) {
        let in_use = self.leases.in_use(now_ns);
        let Some(flight) = self.flights.get_mut(id) else { return };
        if !in_use || flight.tainted {
            return self.send_to_record(id, now_ns);
        }
        flight.stage = Stage::Claiming;
        self.leases.queue.push(id);
    }

    /// Loads values ahead of their expiry, if nobody is at it.
    pub(super) fn on_renew(&mut self, entries: Vec<(Bytes, Bytes)>, now_ns: u64) {
        if !self.has_record || !self.leases.in_use(now_ns) {
            return;
        }
        for (key, value) in entries {
            let down = self.nodes.is_down(self.nodes.of(&key));
            if down || self.by_key.contains_key(&key) || self.deletes.is_deleting(&key) {
                continue;
            }
            let flight = Flight {
                key: key.clone(),
                lane: Lane::Normal,
                stage: Stage::Claiming,
                first: None,
                more: Vec::new(),
                since_ns: now_ns,
                attempts: 0,
                to_record: false,
                lease: None,
                renews: Some(value),
                tainted: false,
            };
            let id = self.flights.insert(flight);
            self.by_key.insert(key, id);
            self.leases.queue.push(id);
        }
    }

    /// Sends the claims that are due.
    pub(super) fn pump_claims(&mut self, now_ns: u64) {
        while let Some(Reverse((at, id))) = self.leases.polls.peek().copied()
            && (at <= now_ns || self.nodes.any_down())
        {
            self.leases.polls.pop();
            if let Some(flight) =
                self.flights.get_mut(id).filter(|f| matches!(f.stage, Stage::Held(t) if t == at))
            {
                flight.stage = Stage::Claiming;
                self.leases.queue.push(id);
            }
        }
        if self.leases.queue.is_empty() {
            return;
        }
        let in_use = self.leases.in_use(now_ns);
        let claims = std::mem::take(&mut self.leases.queue).into_iter().filter_map(|id| {
            let flight = self.flights.get(id).filter(|flight| matches!(flight.stage, Stage::Claiming))?;
            Some((id, Want { key: flight.key.clone(), renews: flight.renews.clone() }))
        });
        let claims: Vec<(Id, Want)> = claims.collect();
        for (node, claims) in self.nodes.split(claims, |(_, want)| &want.key) {
            if !in_use || self.nodes.is_down(node) {
                claims.into_iter().for_each(|(id, _)| self.give_up_claim(id, now_ns));
            } else if self.nodes.get(node).is_none_or(|node| node.links.writer().is_none()) {
                claims.into_iter().for_each(|(id, _)| self.leases.again(id));
            } else {
                claims.chunks(CLAIM_MAX).for_each(|claims| self.claim(node, claims, now_ns));
            }
        }
    }

    fn lease_ms(&self) -> u64 {
        if self.planted.is(Fault::LeaseHeldByTheDead) {
            return 1_000_000_000;
        }
        (self.leases.lease_ns / 1_000_000).max(1)
    }

    fn claim(&mut self, node: NodeIndex, claims: &[(Id, Want)], now_ns: u64) {
        let (flights, wants): (Vec<Id>, Vec<Want>) = claims.iter().cloned().unzip();
        let token = self.draw();
        let claim = Claim { wants, token, lease_ms: self.lease_ms() };
        Counters::add(&self.counters.claims, flights.len() as u64);
        self.write(node, What::Claim(flights), Command::Claim(claim), now_ns);
    }

    pub(super) fn on_claimed(&mut self, flights: &[Id], claimed: Vec<Claimed>, now_ns: u64) {
        let mut back = Vec::new();
        for (id, claimed) in flights.iter().zip(claimed) {
            let Some(flight) = self.flights.get_mut(*id) else { continue };
            match claimed {
                Claimed::Won(token) => {
                    if flight.tainted {
                        back.push((released(flight, token), None));
                    } else {
                        flight.lease = Some(token);
                        Counters::add(&self.counters.renewals, flight.renews.is_some().into());
                        self.leases.holding.push(Holding { flight: *id, token, won_ns: now_ns });
                    }
                    self.send_to_record(*id, now_ns);
                }
                _ if flight.renews.is_some() => self.end_renewal(*id),
                // What was read or noted before an invalidation does not count.
                _ if flight.tainted => self.send_to_record(*id, now_ns),
                Claimed::Value(value) => {
                    Counters::add(&self.counters.shared, 1);
                    self.land(*id, &Ok(Some(value)), now_ns);
                }
                Claimed::Absent => {
                    Counters::add(&self.counters.shared, 1);
                    self.land(*id, &Ok(None), now_ns);
                }
                Claimed::Held => self.on_held(*id, now_ns),
                Claimed::Refused => self.give_up_claim(*id, now_ns),
            }
        }
        self.fill_leased(back, now_ns);
    }

    /// Another process is at it.
    fn on_held(&mut self, id: Id, now_ns: u64) {
        let Some(flight) = self.flights.get_mut(id) else { return };
        let waited = now_ns.saturating_sub(flight.since_ns);
        if waited > ns(self.config.deadline) {
            // Nobody extends a lease for so long: whatever holds it is no guard.
            self.give_up_claim(id, now_ns);
        } else {
            let wait = self.spread((waited / 4).clamp(POLL_MIN_NS, POLL_MAX_NS));
            self.hold_claim(id, now_ns + wait);
        }
    }

    /// Is claimed again at this time.
    pub(super) fn hold_claim(&mut self, id: Id, at_ns: u64) {
        let Some(flight) = self.flights.get_mut(id) else { return };
        flight.stage = Stage::Held(at_ns);
        self.leases.polls.push(Reverse((at_ns, id)));
    }

    /// The cache says that somebody else has changed this key. Who waits for another process's load asks at once; who loads it has read
    /// the system of record before that change, perhaps, and may no longer write.
    pub(super) fn on_key_changed(&mut self, key: &Bytes) {
        let Some(id) = self.by_key.get(key).copied() else { return };
        let Some(flight) = self.flights.get_mut(id) else { return };
        match flight.stage {
            Stage::Held(_) => {
                flight.stage = Stage::Claiming;
                self.leases.queue.push(id);
            }
            // A value that is renewed and has just expired was changed by nobody.
            Stage::Queued | Stage::Asked
                if flight.lease.is_some()
                    && (flight.renews.is_none() || self.now_ns < self.near.expires_ns(key)) =>
            {
                self.taint(id);
            }
            _ => {}
        }
    }

    /// Answers those who wait for it, and keeps and writes nothing; who comes later starts anew.
    pub(super) fn taint(&mut self, id: Id) {
        let Some(flight) = self.flights.get_mut(id) else { return };
        flight.tainted = true;
        if self.by_key.get(&flight.key) == Some(&id) {
            self.by_key.remove(&flight.key);
        }
    }

    /// A connection that told of changes is lost, and with it what it would have told.
    pub(super) fn taint_loads_of(&mut self, node: NodeIndex) {
        let loading = |held: &&Holding| {
            self.flights.get(held.flight).is_some_and(|flight| {
                let loads = matches!(flight.stage, Stage::Queued | Stage::Asked);
                loads && flight.lease == Some(held.token) && self.nodes.of(&flight.key) == node
            })
        };
        let ids: Vec<Id> = self.leases.holding.iter().filter(loading).map(|held| held.flight).collect();
        ids.into_iter().for_each(|id| self.taint(id));
    }

    /// No lease is to be had: it is loaded for those who wait, and not written.
    pub(super) fn give_up_claim(&mut self, id: Id, now_ns: u64) {
        let Some(flight) = self.flights.get_mut(id) else { return };
        if flight.renews.is_some() { self.end_renewal(id) } else { self.send_to_record(id, now_ns) }
    }

    /// A value that need not be loaded again; whoever has joined meanwhile asks the cache as always.
    fn end_renewal(&mut self, id: Id) {
        let Some(flight) = self.flights.get_mut(id) else { return };
        flight.renews = None;
        if flight.first.is_some() {
            flight.stage = Stage::Queued;
            let (lane, since_ns) = (flight.lane, flight.since_ns);
            self.nodes.push(&flight.key, lane, Waiting { flight: id, since_ns });
            return;
        }
        let Some(flight) = self.flights.remove(id) else { return };
        if self.by_key.get(&flight.key) == Some(&id) {
            self.by_key.remove(&flight.key);
        }
    }

    /// The connection of these claims was lost: a lease won without our knowing ends by itself.
    pub(super) fn retry_claims(&mut self, flights: Vec<Id>, now_ns: u64) {
        for id in flights {
            let Some(flight) = self.flights.get_mut(id) else { continue };
            flight.attempts += 1;
            if flight.attempts < super::batches::ATTEMPTS_MAX {
                self.leases.queue.push(id);
            } else {
                self.give_up_claim(id, now_ns);
            }
        }
    }

    /// The cache said no to a claim. A cache that does not know the command is left alone with it for a while.
    pub(super) fn on_claim_error(&mut self, node: NodeIndex, flights: Vec<Id>, error: &str, now_ns: u64) {
        Counters::add(&self.counters.errors, 1);
        let unknown = ["NOPERM", "ERR unknown command", "ERROR"].iter().any(|word| error.starts_with(word));
        if unknown {
            tracing::warn!(
                "cache {} refuses leases ({error}): several processes may load the same key at once",
                self.config.cache.place()
            );
            self.leases.refused_until_ns = now_ns.saturating_add(REFUSED_NS);
        }
        for id in flights {
            self.give_up_claim(id, now_ns);
        }
        if !unknown {
            self.on_cache_error(node, error, now_ns);
        }
    }

    /// Leases of loads that take long live on, as long as somebody may wait for them.
    pub(super) fn extend_leases(&mut self, now_ns: u64) {
        if now_ns < self.leases.next_extend_ns {
            return;
        }
        let (quarter, patience) = (self.leases.lease_ns / 4, ns(self.config.deadline));
        self.leases.next_extend_ns = now_ns + quarter;
        let flights = &self.flights;
        self.leases.holding.retain(|held| {
            flights.get(held.flight).is_some_and(|flight| {
                flight.lease == Some(held.token)
                    && !matches!(flight.stage, Stage::Filling(_))
                    && !flight.tainted
            })
        });
        let age = |held: &&Holding| (quarter..patience).contains(&now_ns.saturating_sub(held.won_ns));
        let long = self.leases.holding.iter().filter(age);
        let leases: Vec<(Bytes, u64)> =
            long.filter_map(|held| Some((flights.get(held.flight)?.key.clone(), held.token))).collect();
        let lease_ms = self.lease_ms();
        for (node, leases) in self.nodes.split(leases, |(key, _)| key) {
            for leases in leases.chunks(CLAIM_MAX) {
                let command = Command::Extend { leases: leases.to_vec(), lease_ms };
                self.write(node, What::Note, command, now_ns);
            }
        }
    }

    /// Ends leases, each at its node, with the flight (if any) that waits until its value is in the cache.
    pub(super) fn fill_leased(&mut self, fills: Vec<(LeasedFill, Option<Id>)>, now_ns: u64) {
        if fills.is_empty() {
            return;
        }
        for (node, group) in self.nodes.split(fills, |(fill, _)| &fill.key) {
            let mut group = group.into_iter().peekable();
            while group.peek().is_some() {
                let (fills, flights): (Vec<LeasedFill>, Vec<Option<Id>>) =
                    group.by_ref().take(CLAIM_MAX).unzip();
                let values = fills.iter().filter(|fill| matches!(fill.found, Found::Value { .. })).count();
                Counters::add(&self.counters.fills, values as u64);
                let flights: Vec<Id> = flights.into_iter().flatten().collect();
                let what = if flights.is_empty() { What::Note } else { What::Fill(flights.clone()) };
                if !self.write(node, what, Command::FillLeased(fills), now_ns) {
                    self.filled(&flights, None);
                }
            }
        }
    }
}

/// Gives a lease back with nothing loaded.
pub(super) fn released(flight: &Flight, token: u64) -> LeasedFill {
    LeasedFill { key: flight.key.clone(), token, renews: flight.renews.clone(), found: Found::Nothing }
}
