//! Keys that a node of a cluster says lie elsewhere.
//!
//! A key that has **moved** is asked for at its new node, and the slot's others with it. While its slot is moving (ASK) a look-up or a
//! deletion goes to the receiving node once; a lease cannot be had there (a script on a key and its lease is answered TRYAGAIN until all is
//! moved), so a claim waits for the move, up to 200 ms, and is then given up: the value is loaded and not written.

use bytes::Bytes;

use super::leases::released;
use super::links::{Outstanding, What};
use super::{Command, Core, Effect, Elsewhere, Fill, Found, Stage, ns};
use crate::lanes::Waiting;
use crate::placement::NodeIndex;
use crate::slab::Id;
use crate::stats::Counters;

/// A look-up that is still sent from node to node after this long goes to the system of record.
const PATIENCE_NS: u64 = 200_000_000;
const CLAIM_AGAIN_NS: u64 = 5_000_000;

/// One key of a command.
#[derive(Debug)]
pub(super) enum Gone {
    Get(Id),
    Claim(Id),
    Fill(Id),
    Delete(Bytes),
}

impl What {
    /// Takes the keys at these positions (in order) out.
    pub(super) fn split(self, away: Vec<(usize, Elsewhere)>) -> (Self, Vec<(Gone, Elsewhere)>) {
        fn part<T>(
            all: Vec<T>,
            away: Vec<(usize, Elsewhere)>,
            gone: fn(T) -> Gone,
        ) -> (Vec<T>, Vec<(Gone, Elsewhere)>) {
            let (mut stay, mut left) = (Vec::new(), Vec::new());
            let mut away = away.into_iter().peekable();
            for (position, item) in all.into_iter().enumerate() {
                match away.next_if(|(at, _)| *at == position) {
                    Some((_, elsewhere)) => left.push((gone(item), elsewhere)),
                    None => stay.push(item),
                }
            }
            (stay, left)
        }
        match self {
            Self::Get(flights) => {
                let (stay, gone) = part(flights, away, Gone::Get);
                (Self::Get(stay), gone)
            }
            // What the first answer is late for, the first answer is redirected for.
            Self::Hedge(flights) => (Self::Hedge(part(flights, away, Gone::Get).0), Vec::new()),
            Self::Claim(flights) => {
                let (stay, gone) = part(flights, away, Gone::Claim);
                (Self::Claim(stay), gone)
            }
            Self::Fill(flights) => {
                let (stay, gone) = part(flights, away, Gone::Fill);
                (Self::Fill(stay), gone)
            }
            Self::Delete(keys) => {
                let (stay, gone) = part(keys, away, Gone::Delete);
                (Self::Delete(stay), gone)
            }
            // A lease that is not given back or extended ends by itself.
            Self::Note => (Self::Note, Vec::new()),
        }
    }
}

/// Keys to ask for at a node that is receiving their slot.
#[derive(Debug, Default)]
struct Asking {
    gets: Vec<Id>,
    deletes: Vec<Bytes>,
}

impl Core {
    pub(super) fn redirect(&mut self, gone: Vec<(Gone, Elsewhere)>, now_ns: u64) {
        Counters::add(&self.counters.redirects, gone.len() as u64);
        let mut asking: Vec<(NodeIndex, Asking)> = Vec::new();
        for (gone, elsewhere) in gone {
            match elsewhere {
                Elsewhere::Moved { slot, place } => {
                    self.nodes.moved(slot, &place);
                    self.follow(gone, now_ns);
                }
                Elsewhere::Ask { place } => {
                    let node = self.nodes.at(&place);
                    let at = asking.iter().position(|(known, _)| *known == node).unwrap_or_else(|| {
                        asking.push((node, Asking::default()));
                        asking.len() - 1
                    });
                    match gone {
                        Gone::Get(id) => asking[at].1.gets.push(id),
                        Gone::Delete(key) => asking[at].1.deletes.push(key),
                        gone => self.wait_for_move(gone, now_ns),
                    }
                }
                Elsewhere::Later(_) => {
                    self.nodes.doubt();
                    self.wait_for_move(gone, now_ns);
                }
            }
        }
        for (node, Asking { gets, deletes }) in asking {
            self.ask_once(node, gets, now_ns);
            if !deletes.is_empty() {
                let command = Command::Asking(Box::new(Command::Delete(deletes.clone())));
                if !self.write(node, What::Delete(deletes.clone()), command, now_ns) {
                    self.deletes.again(deletes);
                }
            }
        }
        self.retry_deletes();
    }

    /// To the key's new node.
    fn follow(&mut self, gone: Gone, now_ns: u64) {
        match gone {
            Gone::Get(id) => self.ask_again(id, now_ns),
            Gone::Claim(id) => self.leases.again(id),
            Gone::Fill(id) => self.fill_again(id, now_ns),
            Gone::Delete(key) => self.deletes.again(vec![key]),
        }
    }

    fn wait_for_move(&mut self, gone: Gone, now_ns: u64) {
        match gone {
            Gone::Get(id) => self.send_to_record(id, now_ns),
            Gone::Fill(id) => self.filled(&[id], None),
            Gone::Delete(key) => self.deletes.again(vec![key]),
            Gone::Claim(id) => {
                let Some(flight) = self.flights.get(id) else { return };
                if now_ns.saturating_sub(flight.since_ns) > PATIENCE_NS {
                    self.give_up_claim(id, now_ns);
                } else {
                    let at = now_ns + self.spread(CLAIM_AGAIN_NS);
                    self.hold_claim(id, at);
                }
            }
        }
    }

    /// Asks for these once at a node that is receiving their slot.
    fn ask_once(&mut self, node: NodeIndex, flights: Vec<Id>, now_ns: u64) {
        let known = |id: &Id| self.flights.get(*id).map(|flight| flight.key.clone());
        let (keys, flights): (Vec<Bytes>, Vec<Id>) =
            flights.into_iter().filter_map(|id| Some((known(&id)?, id))).unzip();
        if keys.is_empty() {
            return;
        }
        let link = self.nodes.get_mut(node).and_then(|node| {
            node.used = true;
            node.links.least_busy(u32::MAX)
        });
        let Some(link) = link else {
            // Its first connection is being opened: the old node will say the same again.
            return flights.into_iter().for_each(|id| self.ask_again(id, now_ns));
        };
        link.outstanding.push_back(Outstanding { what: What::Get(flights), sent_ns: now_ns });
        link.gets += 1;
        Counters::add(&self.counters.round_trips, 1);
        let command = Command::Asking(Box::new(Command::Get(keys)));
        self.effects.push(Effect::Send { link: link.id, command });
    }

    fn ask_again(&mut self, id: Id, now_ns: u64) {
        let Some(flight) = self.flights.get_mut(id) else { return };
        if now_ns.saturating_sub(flight.since_ns) > PATIENCE_NS {
            return self.send_to_record(id, now_ns);
        }
        flight.stage = Stage::Queued;
        flight.attempts = flight.attempts.max(1);
        let node = self.nodes.of(&flight.key);
        if let Some(node) = self.nodes.get_mut(node) {
            node.lanes.push_front(flight.lane, Waiting { flight: id, since_ns: flight.since_ns });
        }
    }

    /// The value goes to the key's new node; its lease has moved with it.
    fn fill_again(&mut self, id: Id, now_ns: u64) {
        let ttl_ms = (self.spread(ns(self.config.ttl)) / 1_000_000).max(1);
        let Some(flight) = self.flights.get(id) else { return };
        let Stage::Filling(value) = &flight.stage else { return };
        let value = value.clone();
        if let Some(token) = flight.lease {
            let fill = super::LeasedFill { found: Found::Value { value, ttl_ms }, ..released(flight, token) };
            self.fill_leased(vec![(fill, Some(id))], now_ns);
        } else {
            let fill = Fill { key: flight.key.clone(), value, ttl_ms };
            self.fill(vec![(fill, id)], now_ns);
        }
    }
}
