//! Leases on memcached, by its meta protocol (since 1.6): a lease is an empty item under the key itself, told from a value by its client
//! flags; the number of its last change (CAS) is the holder's token.
//!
//! ```text
//! claim     ms K 0 ME T2 F… c     HD c7 (won under 7) or NS        a deletion or an expiry takes the item away,
//!           mg K v f              VA 0 f… (a lease), VA n, EN       so a later ms … C7 is refused:
//! fill      ms K n T300 C7        HD, or EX or NF: the lease is lost
//! give back md K C7
//! ```
//! A client that is no guard sees an empty value while a key is loaded. What does not exist is not noted: there is no room beside
//! the value, and an empty item would make `add` fail for others.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use super::{LINE_MAX, Memcached, Owed, framed_len, is_error, put_value, seconds, unframe, wire_key};
use crate::core::{Answer, Claim, Claimed, Found, LeasedFill};
use crate::protocol::{VALUE_MAX, Violation, number, take_line};

/// The client flags of a lease: `LEAS` as a number.
pub(super) const FLAGS: &str = "1279607123";

/// What one claim still has to hear.
#[derive(Debug)]
pub(super) struct OwedClaim {
    /// The key itself when it travels hashed.
    hashed: Option<Bytes>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// A new lease: the answer to `ms` is to come.
    New,
    /// The answer to `mg` is to come; a token if `ms` has won one, a refusal if it failed.
    Look(Option<Claimed>),
    /// The present item with its CAS number is to come, to be replaced if it is still this.
    Renew(Bytes),
}

/// memcached's second is any part of one: a lease of one second could end at once.
fn lease_seconds(lease_ms: u64) -> u64 {
    seconds(lease_ms).max(2)
}

impl Memcached {
    pub(super) fn put_claim(&mut self, claim: &Claim, out: &mut BytesMut) {
        let ttl_s = lease_seconds(claim.lease_ms);
        let mut owed = VecDeque::with_capacity(claim.wants.len());
        for want in &claim.wants {
            let (wire, hashed) = wire_key(&want.key);
            let kind = match &want.renews {
                Some(old) => {
                    out.extend_from_slice(&[b"mg ", wire.as_ref(), b" v f c\r\n"].concat());
                    Kind::Renew(old.clone())
                }
                None => {
                    out.extend_from_slice(&[b"ms ", wire.as_ref()].concat());
                    out.extend_from_slice(format!(" 0 ME T{ttl_s} F{FLAGS} c\r\n\r\n").as_bytes());
                    out.extend_from_slice(&[b"mg ", wire.as_ref(), b" v f\r\n"].concat());
                    Kind::New
                }
            };
            owed.push_back(OwedClaim { hashed: hashed.then(|| want.key.clone()), kind });
        }
        self.owed.push_back(Owed::Claims(owed));
    }

    pub(super) fn put_leased_fill(&mut self, fills: &[LeasedFill], out: &mut BytesMut) {
        for fill in fills {
            let (wire, hashed) = wire_key(&fill.key);
            let hashed = hashed.then_some(&fill.key);
            let token = fill.token;
            match &fill.found {
                Found::Value { value, ttl_ms } => {
                    let (ttl_s, len) = (seconds(*ttl_ms), framed_len(hashed, value));
                    out.extend_from_slice(&[b"ms ", wire.as_ref()].concat());
                    out.extend_from_slice(format!(" {len} T{ttl_s} C{token}\r\n").as_bytes());
                    put_value(out, hashed, value);
                }
                // A renewal that found nothing leaves the value to its expiry.
                Found::Nothing if fill.renews.is_some() => out.extend_from_slice(b"mn\r\n"),
                Found::Absent { .. } | Found::Nothing => {
                    out.extend_from_slice(&[b"md ", wire.as_ref()].concat());
                    out.extend_from_slice(format!(" C{token}\r\n").as_bytes());
                }
            }
        }
        self.owed.push_back(Owed::Fills(fills.len()));
    }

    /// Touches by key: if the lease is lost meanwhile, what lies there lives shorter at most.
    pub(super) fn put_extend(&mut self, leases: &[(Bytes, u64)], lease_ms: u64, out: &mut BytesMut) {
        let ttl_s = lease_seconds(lease_ms);
        for (key, _) in leases {
            out.extend_from_slice(&[b"mg ", wire_key(key).0.as_ref()].concat());
            out.extend_from_slice(format!(" T{ttl_s}\r\n").as_bytes());
        }
        self.owed.push_back(Owed::Singles(leases.len()));
    }

    pub(super) fn take_claims(
        &mut self,
        owed: &mut VecDeque<OwedClaim>,
        bytes: &mut BytesMut,
    ) -> Result<Option<Answer>, Violation> {
        while let Some(front) = owed.front_mut() {
            if let Kind::New = front.kind {
                let Some(line) = take_line(bytes, LINE_MAX)? else { return Ok(None) };
                front.kind = Kind::Look(won(&line)?);
            }
            let Some(item) = take_item(bytes)? else { return Ok(None) };
            let claimed = match &front.kind {
                Kind::Look(Some(claimed)) => claimed.clone(),
                Kind::Renew(old) => renewal(&item, old, front.hashed.as_ref()),
                _ => look(&item, front.hashed.as_ref()),
            };
            self.claimed.push(claimed);
            owed.pop_front();
        }
        Ok(Some(Answer::Claimed(std::mem::take(&mut self.claimed))))
    }

    pub(super) fn take_fills(
        &mut self,
        len: usize,
        bytes: &mut BytesMut,
    ) -> Result<Option<Answer>, Violation> {
        while self.taken.len() < len {
            let Some(line) = take_line(bytes, LINE_MAX)? else { return Ok(None) };
            match line.as_ref() {
                b"HD" => self.taken.push(true),
                b"EX" | b"NF" | b"NS" | b"MN" => self.taken.push(false),
                other if is_error(other) => {
                    self.error = self.error.take().or(Some(String::from_utf8_lossy(other).into_owned()));
                    self.taken.push(false);
                }
                _ => return Err(Violation("an unknown answer to a leased fill")),
            }
        }
        let taken = std::mem::take(&mut self.taken);
        Ok(Some(self.error.take().map_or(Answer::Filled(taken), Answer::Failed)))
    }
}

/// The answer to `ms … ME`: a token, nothing (there is an item), or a refusal.
fn won(line: &[u8]) -> Result<Option<Claimed>, Violation> {
    if let Some(token) = line.strip_prefix(b"HD c") {
        return cas(token).map(|token| Some(Claimed::Won(token)));
    }
    match line {
        // Some versions send the flags asked for back with a refusal too.
        other if other.split(|byte| *byte == b' ').next() == Some(b"NS") => Ok(None),
        other if is_error(other) => Ok(Some(Claimed::Refused)),
        _ => Err(Violation("an unknown answer to a claim")),
    }
}

fn cas(text: &[u8]) -> Result<u64, Violation> {
    let token = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    token.ok_or(Violation("a CAS number that is none"))
}

enum Item {
    Missing,
    Failed,
    Lease,
    Value { data: Bytes, cas: Option<u64> },
}

/// The answer to `mg`; consumes nothing until all of it is here.
fn take_item(bytes: &mut BytesMut) -> Result<Option<Item>, Violation> {
    let Some(end) = bytes.iter().take(LINE_MAX).position(|byte| *byte == b'\n') else {
        return if bytes.len() >= LINE_MAX { Err(Violation("a line without end")) } else { Ok(None) };
    };
    let line = bytes.get(..end.saturating_sub(1)).unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    match words.next() {
        Some(b"VA") => {}
        Some(b"EN") => return Ok(take_line(bytes, LINE_MAX)?.map(|_| Item::Missing)),
        _ if is_error(line) => return Ok(take_line(bytes, LINE_MAX)?.map(|_| Item::Failed)),
        _ => return Err(Violation("neither VA nor EN in answer to mg")),
    }
    let len = words.next().and_then(number).and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= VALUE_MAX);
    let Some(len) = len else { return Err(Violation("a value of no length, or above 64 MiB")) };
    let (mut lease, mut token) = (false, None);
    for word in words {
        match word.split_first() {
            Some((b'f', flags)) => lease = len == 0 && flags == FLAGS.as_bytes(),
            Some((b'c', number)) => token = Some(cas(number)?),
            _ => {}
        }
    }
    let start = end + 1;
    let Some(data) = bytes.get(start..start + len + 2) else { return Ok(None) };
    if !data.ends_with(b"\r\n") {
        return Err(Violation("a value longer than announced"));
    }
    let data = Bytes::copy_from_slice(&data[..len]);
    bytes.advance(start + len + 2);
    Ok(Some(if lease { Item::Lease } else { Item::Value { data, cas: token } }))
}

/// What there is where a lease could not be had. A lease that has just ended is claimed again, like one that is held.
fn look(item: &Item, hashed: Option<&Bytes>) -> Claimed {
    match item {
        Item::Lease | Item::Missing => Claimed::Held,
        Item::Failed => Claimed::Refused,
        Item::Value { data, .. } => unframe(data, hashed).map_or(Claimed::Refused, Claimed::Value),
    }
}

/// A value may be renewed while it is the one that the claim knows.
fn renewal(item: &Item, old: &Bytes, hashed: Option<&Bytes>) -> Claimed {
    match item {
        Item::Value { data, cas: Some(token) } if unframe(data, hashed).as_ref() == Some(old) => {
            Claimed::Won(*token)
        }
        _ => Claimed::Held,
    }
}
