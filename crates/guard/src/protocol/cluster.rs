//! RESP to a node of a Redis Cluster: one command per key, since the keys of a batch lie in different slots; and each key may be told to
//! lie elsewhere (MOVED, ASK) or nowhere for now (TRYAGAIN, CLUSTERDOWN).
//!
//! A key's lease lies in the key's own slot, by a hash tag. While a slot moves, a command on both is answered TRYAGAIN; a deletion is
//! therefore two commands, the lease first: what was read before it can no longer be written when the value goes.
//! Source: the Redis Cluster specification, "Redirection and resharding".

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::resp::{self, Element, element};
use super::scripts::{put_claim, put_extend, put_leased_fill};
use super::{Violation, put_array, put_bulk, reply};
use crate::core::{Answer, Claim, Claimed, Command, Elsewhere};
use crate::placement::{SLOTS, slot, tag_of};
use crate::url::host_and_port;

/// What is owed for one command.
#[derive(Debug)]
struct Owed {
    kind: Kind,
    keys: usize,
    /// Each of a key's commands is preceded by ASKING.
    asking: bool,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Values,
    /// Made under this token.
    Claims(u64),
    Fills,
    Writes,
    Deletions,
}

impl Kind {
    fn replies_per_key(self) -> usize {
        if matches!(self, Self::Deletions) { 2 } else { 1 }
    }
}

/// One key's outcome.
#[derive(Debug)]
enum Part {
    Value(Option<Bytes>),
    Claimed(Claimed),
    Taken(bool),
    Done,
    Elsewhere(Elsewhere),
    Failed(String),
}

/// Answers owed, and the one that is half here.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    pub(super) tracking: bool,
    owed: VecDeque<Owed>,
    /// Replies taken of the first command owed.
    seen: usize,
    parts: Vec<Part>,
}

/// Where the lease of `key` lies: in the key's slot.
fn lease_name(key: &[u8]) -> Bytes {
    Bytes::from([b"{", tag_of(slot(key)).as_bytes(), b"}herdsman:lease:", key].concat())
}

fn put(out: &mut BytesMut, asking: bool, words: &[&[u8]]) {
    put_asking(out, asking);
    put_array(out, words.len());
    words.iter().for_each(|word| put_bulk(out, word));
}

fn put_asking(out: &mut BytesMut, asking: bool) {
    if asking {
        put(out, false, &[b"ASKING"]);
    }
}

impl Cluster {
    pub(crate) fn new(tracking: bool) -> Self {
        Self { tracking, ..Self::default() }
    }

    pub(super) fn encode(&mut self, command: &Command, out: &mut BytesMut) {
        match command {
            Command::Asking(command) => self.put(command, true, out),
            command => self.put(command, false, out),
        }
    }

    fn put(&mut self, command: &Command, asking: bool, out: &mut BytesMut) {
        let (kind, keys) = match command {
            Command::Get(keys) => {
                keys.iter().for_each(|key| put(out, asking, &[b"GET", key]));
                (Kind::Values, keys.len())
            }
            Command::Claim(Claim { wants, token, lease_ms }) => {
                for want in wants {
                    put_asking(out, asking);
                    let claim = Claim { wants: vec![want.clone()], token: *token, lease_ms: *lease_ms };
                    put_claim(out, &claim, lease_name);
                }
                (Kind::Claims(*token), wants.len())
            }
            Command::FillLeased(fills) => {
                for fill in fills {
                    put_asking(out, asking);
                    put_leased_fill(out, std::slice::from_ref(fill), lease_name);
                }
                (Kind::Fills, fills.len())
            }
            Command::Extend { leases, lease_ms } => {
                for lease in leases {
                    put_asking(out, asking);
                    put_extend(out, std::slice::from_ref(lease), *lease_ms, lease_name);
                }
                (Kind::Writes, leases.len())
            }
            Command::Fill(fills) => {
                for fill in fills {
                    let ttl = fill.ttl_ms.to_string();
                    put(out, asking, &[b"SET", &fill.key, &fill.value, b"PX", ttl.as_bytes(), b"NX"]);
                }
                (Kind::Writes, fills.len())
            }
            Command::Delete(keys) => {
                for key in keys {
                    put(out, asking, &[b"DEL", &lease_name(key)]);
                    put(out, asking, &[b"DEL", key]);
                }
                (Kind::Deletions, keys.len())
            }
            // Nothing asks twice.
            Command::Asking(_) => return,
        };
        self.owed.push_back(Owed { kind, keys, asking });
    }

    pub(super) fn decode(
        &mut self,
        bytes: &mut BytesMut,
        answers: &mut Vec<Answer>,
    ) -> Result<(), Violation> {
        loop {
            while let Some(Owed { kind, keys, asking }) = self.owed.front()
                && self.seen == keys * kind.replies_per_key() * (1 + usize::from(*asking))
            {
                answers.push(answer(*kind, std::mem::take(&mut self.parts)));
                self.owed.pop_front();
                self.seen = 0;
            }
            if bytes.is_empty() {
                return Ok(());
            }
            let Some(end) = reply::length(bytes).map_err(Violation)? else { return Ok(()) };
            let mut reply = bytes.split_to(end);
            if self.tracking && reply.first() == Some(&b'>') {
                answers.extend(resp::changed(&reply));
                continue;
            }
            let Some(owed) = self.owed.front() else {
                return Err(Violation("an answer to nothing that was asked"));
            };
            let (kind, asking) = (owed.kind, owed.asking);
            self.seen += 1;
            if asking && self.seen % 2 == 1 {
                continue; // the answer to ASKING
            }
            let part = part(kind, &mut reply)?;
            let number = (self.seen - 1) / (1 + usize::from(asking));
            if number.is_multiple_of(kind.replies_per_key()) {
                self.parts.push(part);
            } else if let Some(first @ Part::Done) = self.parts.last_mut() {
                *first = part;
            }
        }
    }
}

fn part(kind: Kind, reply: &mut BytesMut) -> Result<Part, Violation> {
    let Some(found) = element(reply)? else { return Err(Violation("half a reply")) };
    if let Element::Failed(error) = found {
        let absent = matches!(kind, Kind::Values) && error.starts_with("WRONGTYPE");
        let elsewhere = || elsewhere(&error).map(Part::Elsewhere);
        return Ok(if absent { Part::Value(None) } else { elsewhere().unwrap_or(Part::Failed(error)) });
    }
    match kind {
        Kind::Values => resp::value(found).map(Part::Value),
        Kind::Writes | Kind::Deletions => match found {
            Element::Array(_) => Err(Violation("an array in answer to a write")),
            _ => Ok(Part::Done),
        },
        Kind::Claims(token) => single(&found, reply)?
            .map_or(Err(Violation("an empty answer to a claim")), |found| {
                resp::claimed(found, token).map(Part::Claimed)
            }),
        Kind::Fills => single(&found, reply)?
            .map_or(Err(Violation("an empty answer to a leased fill")), |found| {
                resp::taken(found).map(Part::Taken)
            }),
    }
}

/// A script's answer is an array of one.
fn single(found: &Element, rest: &mut BytesMut) -> Result<Option<Element>, Violation> {
    match found {
        Element::Array(1) => element(rest),
        _ => Err(Violation("no array of one in answer to EVAL")),
    }
}

/// `MOVED 3999 127.0.0.1:6381` and its kin.
fn elsewhere(error: &str) -> Option<Elsewhere> {
    let mut words = error.split(' ');
    match words.next()? {
        "MOVED" => {
            let slot = words.next()?.parse().ok().filter(|slot| *slot < SLOTS)?;
            Some(Elsewhere::Moved { slot, place: place(words.next()?)? })
        }
        "ASK" => {
            words.next()?;
            Some(Elsewhere::Ask { place: place(words.next()?)? })
        }
        "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN" => Some(Elsewhere::Later(error.to_owned())),
        _ => None,
    }
}

/// Redis writes IPv6 addresses without brackets.
fn place(text: &str) -> Option<crate::url::Place> {
    match text.rsplit_once(':') {
        Some((host, port)) if host.contains(':') => host_and_port(&format!("[{host}]:{port}"), 0),
        _ => host_and_port(text, 0),
    }
}

fn answer(kind: Kind, parts: Vec<Part>) -> Answer {
    let (mut values, mut claims, mut fills) = (Vec::new(), Vec::new(), Vec::new());
    let mut away = Vec::new();
    for (position, part) in parts.into_iter().enumerate() {
        match part {
            Part::Value(value) => values.push(value),
            Part::Claimed(claimed) => claims.push(claimed),
            Part::Taken(taken) => fills.push(taken),
            Part::Done => {}
            Part::Elsewhere(elsewhere) => away.push((position, elsewhere)),
            Part::Failed(error) => return Answer::Failed(error),
        }
    }
    let rest = match kind {
        Kind::Values => Answer::Values(values),
        Kind::Claims(_) => Answer::Claimed(claims),
        Kind::Fills => Answer::Filled(fills),
        Kind::Writes | Kind::Deletions => Answer::Done,
    };
    if away.is_empty() { rest } else { Answer::Elsewhere { rest: Box::new(rest), away } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::url::Place;

    fn ask(command: &Command, replies: &str) -> Vec<Answer> {
        let (mut codec, mut out, mut answers) = (Cluster::new(true), BytesMut::new(), Vec::new());
        codec.encode(command, &mut out);
        // One byte at a time: nothing is taken before it is whole.
        let mut bytes = BytesMut::new();
        for byte in replies.bytes() {
            bytes.extend_from_slice(&[byte]);
            codec.decode(&mut bytes, &mut answers).unwrap();
        }
        assert!(bytes.is_empty());
        answers
    }

    #[test]
    fn each_key_is_told_where_it_lies() {
        let keys = |n: usize| (0..n).map(|n| Bytes::from(format!("k{n}"))).collect::<Vec<_>>();
        let place = |port| Place { host: "10.0.0.1".into(), port };
        let text = "$1\r\na\r\n-MOVED 7 10.0.0.1:1\r\n>2\r\n$10\r\ninvalidate\r\n_\r\n-ASK 7 10.0.0.1:2\r\n_\r\n-WRONGTYPE x\r\n-TRYAGAIN x\r\n";
        let moved = Elsewhere::Moved { slot: 7, place: place(1) };
        let away = vec![
            (1, moved.clone()),
            (2, Elsewhere::Ask { place: place(2) }),
            (5, Elsewhere::Later("TRYAGAIN x".into())),
        ];
        let rest = Box::new(Answer::Values(vec![Some(Bytes::from("a")), None, None]));
        assert_eq!(
            ask(&Command::Get(keys(6)), text),
            [Answer::Changed(None), Answer::Elsewhere { rest, away }]
        );
        let failed = ask(&Command::Get(keys(2)), "$1\r\na\r\n-LOADING x\r\n");
        assert_eq!(failed, [Answer::Failed("LOADING x".into())]);
        let asking = Command::Asking(Box::new(Command::Get(keys(2))));
        let values = Answer::Values(vec![None, Some(Bytes::from("b"))]);
        assert_eq!(ask(&asking, "+OK\r\n$-1\r\n+OK\r\n$1\r\nb\r\n"), [values]);
        // A key's deletion is complete when its lease's is as well.
        let deleted =
            ask(&Command::Delete(keys(2)), "-MOVED 7 10.0.0.1:1\r\n:1\r\n:0\r\n-MOVED 7 10.0.0.1:1\r\n");
        let away = vec![(0, moved.clone()), (1, moved)];
        assert_eq!(deleted, [Answer::Elsewhere { rest: Box::new(Answer::Done), away }]);
    }

    #[test]
    fn a_lease_lies_in_its_keys_slot() {
        for key in ["a", "a{b}c", "a}b{", "{}x", "}{y}", ""] {
            assert_eq!(slot(&lease_name(key.as_bytes())), slot(key.as_bytes()), "{key}");
        }
    }
}
