//! RESP as a pipelining client: MGET, SET … PX … NX, DEL, the scripts of leases; RESP3 only adds nulls and news of changes.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use super::scripts::{lease_name, put_claim, put_extend, put_leased_fill};
use super::{VALUE_MAX, Violation, number, reply, take_line};
use crate::core::{Answer, Claimed, Command};

const LINE_MAX: usize = 64 * 1024;

#[derive(Debug)]
enum Owed {
    /// An array of this many bulk strings.
    Array(usize),
    /// An array with the outcome of so many claims, made under this token.
    Claims(usize, u64),
    /// An array with the outcome of so many leased fills.
    Fills(usize),
    /// This many single replies.
    Singles(usize),
}

/// Answers owed, and the one that is half here.
#[derive(Debug, Default)]
pub(crate) struct Resp {
    /// The server tells of changes to what this connection reads.
    pub(super) tracking: bool,
    owed: VecDeque<Owed>,
    /// Inside an array: its elements so far.
    values: Option<Vec<Option<Bytes>>>,
    claimed: Option<Vec<Claimed>>,
    taken: Option<Vec<bool>>,
    seen: usize,
    error: Option<String>,
}

/// `*n\r\n`
pub(crate) fn put_array(out: &mut BytesMut, len: usize) {
    put_header(out, b'*', len);
}

/// `$n\r\n…\r\n`
pub(crate) fn put_bulk(out: &mut BytesMut, value: &[u8]) {
    put_header(out, b'$', value.len());
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn put_header(out: &mut BytesMut, kind: u8, n: usize) {
    let mut digits = [0_u8; 24];
    let mut at = digits.len() - 2;
    digits[at..].copy_from_slice(b"\r\n");
    let mut left = n;
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(left % 10).unwrap_or(0);
        left /= 10;
        if left == 0 {
            break;
        }
    }
    at -= 1;
    digits[at] = kind;
    out.extend_from_slice(&digits[at..]);
}

#[derive(Debug)]
pub(crate) enum Element {
    Bulk(Option<Bytes>),
    Integer(i64),
    Other,
    Failed(String),
    Array(usize),
}

impl Resp {
    /// For a connection that is (or is not) told of changes.
    pub(crate) fn new(tracking: bool) -> Self {
        Self { tracking, ..Self::default() }
    }

    pub(super) fn encode(&mut self, command: &Command, out: &mut BytesMut) {
        match command {
            Command::Get(keys) => {
                put_array(out, keys.len() + 1);
                put_bulk(out, b"MGET");
                keys.iter().for_each(|key| put_bulk(out, key));
                self.owed.push_back(Owed::Array(keys.len()));
            }
            Command::Claim(claim) => {
                put_claim(out, claim, lease_name);
                self.owed.push_back(Owed::Claims(claim.wants.len(), claim.token));
            }
            Command::FillLeased(fills) => {
                put_leased_fill(out, fills, lease_name);
                self.owed.push_back(Owed::Fills(fills.len()));
            }
            Command::Extend { leases, lease_ms } => {
                put_extend(out, leases, *lease_ms, lease_name);
                self.owed.push_back(Owed::Singles(1));
            }
            Command::Fill(fills) => {
                for fill in fills {
                    put_array(out, 6);
                    put_bulk(out, b"SET");
                    put_bulk(out, &fill.key);
                    put_bulk(out, &fill.value);
                    put_bulk(out, b"PX");
                    put_bulk(out, fill.ttl_ms.to_string().as_bytes());
                    put_bulk(out, b"NX");
                }
                self.owed.push_back(Owed::Singles(fills.len()));
            }
            Command::Delete(keys) => {
                put_array(out, keys.len() * 2 + 1);
                put_bulk(out, b"DEL");
                for key in keys {
                    put_bulk(out, key);
                    put_bulk(out, &lease_name(key));
                }
                self.owed.push_back(Owed::Singles(1));
            }
            // Only nodes of a cluster are asked so.
            Command::Asking(command) => self.encode(command, out),
        }
    }

    pub(super) fn decode(
        &mut self,
        bytes: &mut BytesMut,
        answers: &mut Vec<Answer>,
    ) -> Result<(), Violation> {
        while !bytes.is_empty() {
            if self.tracking && bytes.first() == Some(&b'>') {
                let Some(end) = reply::length(bytes).map_err(Violation)? else { return Ok(()) };
                answers.extend(changed(&bytes.split_to(end)));
                continue;
            }
            let Some(owed) = self.owed.front() else {
                return Err(Violation("an answer to nothing that was asked"));
            };
            let done = match *owed {
                Owed::Array(len) => array(&mut self.values, len, bytes, value, Answer::Values)?,
                Owed::Claims(len, token) => {
                    array(&mut self.claimed, len, bytes, |element| claimed(element, token), Answer::Claimed)?
                }
                Owed::Fills(len) => array(&mut self.taken, len, bytes, taken, Answer::Filled)?,
                Owed::Singles(len) => self.singles(len, bytes)?,
            };
            let Some(answer) = done else { return Ok(()) };
            self.owed.pop_front();
            answers.push(answer);
        }
        Ok(())
    }

    fn singles(&mut self, len: usize, bytes: &mut BytesMut) -> Result<Option<Answer>, Violation> {
        while self.seen < len {
            match element(bytes)? {
                None => return Ok(None),
                Some(Element::Failed(error)) => self.error = self.error.take().or(Some(error)),
                Some(Element::Array(_)) => return Err(Violation("an array in answer to a write")),
                Some(Element::Bulk(_) | Element::Integer(_) | Element::Other) => {}
            }
            self.seen += 1;
        }
        self.seen = 0;
        Ok(Some(self.error.take().map_or(Answer::Done, Answer::Failed)))
    }
}

/// An array of `len` elements, each understood by `read`; what is here so far is kept in `seen`.
fn array<T>(
    seen: &mut Option<Vec<T>>,
    len: usize,
    bytes: &mut BytesMut,
    read: impl Fn(Element) -> Result<T, Violation>,
    answer: fn(Vec<T>) -> Answer,
) -> Result<Option<Answer>, Violation> {
    if seen.is_none() {
        match element(bytes)? {
            None => return Ok(None),
            Some(Element::Array(n)) if n == len => *seen = Some(Vec::with_capacity(len.min(4_096))),
            Some(Element::Array(_)) => return Err(Violation("an array of another length than asked for")),
            Some(Element::Failed(error)) => return Ok(Some(Answer::Failed(error))),
            Some(_) => return Err(Violation("no array in answer to MGET or EVAL")),
        }
    }
    let Some(elements) = seen else { return Ok(None) };
    while elements.len() < len {
        match element(bytes)? {
            None => return Ok(None),
            Some(found) => elements.push(read(found)?),
        }
    }
    Ok(seen.take().map(answer))
}

/// A whole push: `>2`, `invalidate`, and an array of keys or a null. Others are nothing to us.
pub(super) fn changed(push: &[u8]) -> Option<Answer> {
    let rest = push.strip_prefix(b">2\r\n$10\r\ninvalidate\r\n")?;
    let mut rest = BytesMut::from(rest);
    let Ok(Some(Element::Array(len))) = element(&mut rest) else { return Some(Answer::Changed(None)) };
    let key = |_| match element(&mut rest) {
        Ok(Some(Element::Bulk(key))) => key,
        _ => None,
    };
    Some(Answer::Changed(Some((0..len).map_while(key).collect())))
}

pub(super) fn value(element: Element) -> Result<Option<Bytes>, Violation> {
    match element {
        Element::Bulk(value) => Ok(value),
        Element::Failed(_) => Ok(None),
        _ => Err(Violation("no bulk string in the answer to MGET")),
    }
}

pub(super) fn claimed(element: Element, token: u64) -> Result<Claimed, Violation> {
    match element {
        Element::Bulk(Some(value)) => Ok(Claimed::Value(value)),
        Element::Integer(0) => Ok(Claimed::Held),
        Element::Integer(1) => Ok(Claimed::Won(token)),
        Element::Integer(2) => Ok(Claimed::Absent),
        Element::Integer(3) => Ok(Claimed::Refused),
        _ => Err(Violation("no outcome in the answer to a claim")),
    }
}

pub(super) fn taken(element: Element) -> Result<bool, Violation> {
    match element {
        Element::Integer(n) => Ok(n == 1),
        _ => Err(Violation("no outcome in the answer to a leased fill")),
    }
}

pub(crate) fn element(bytes: &mut BytesMut) -> Result<Option<Element>, Violation> {
    match bytes.first() {
        None => Ok(None),
        Some(b'$') => bulk(bytes).map(|found| found.map(Element::Bulk)),
        Some(b'*') => {
            let Some(line) = take_line(bytes, LINE_MAX)? else { return Ok(None) };
            let len = number(&line[1..]).and_then(|n| usize::try_from(n).ok());
            len.map(|n| Some(Element::Array(n))).ok_or(Violation("an array of no length"))
        }
        Some(b'-') => {
            let Some(line) = take_line(bytes, LINE_MAX)? else { return Ok(None) };
            Ok(Some(Element::Failed(String::from_utf8_lossy(&line[1..]).into_owned())))
        }
        Some(b'_') => Ok(take_line(bytes, LINE_MAX)?.map(|_| Element::Bulk(None))),
        Some(b'+') => Ok(take_line(bytes, LINE_MAX)?.map(|_| Element::Other)),
        Some(b':') => {
            let Some(line) = take_line(bytes, LINE_MAX)? else { return Ok(None) };
            number(&line[1..]).map(|n| Some(Element::Integer(n))).ok_or(Violation("an integer that is none"))
        }
        Some(_) => Err(Violation("a reply of unknown type")),
    }
}

/// Consumes nothing until the whole string is here.
fn bulk(bytes: &mut BytesMut) -> Result<Option<Option<Bytes>>, Violation> {
    let Some(end) = bytes.iter().take(24).position(|byte| *byte == b'\n') else {
        return if bytes.len() >= 24 { Err(Violation("a length without end")) } else { Ok(None) };
    };
    let digits = bytes.get(1..end.saturating_sub(1)).unwrap_or_default();
    let Some(len) = number(digits) else { return Err(Violation("a length that is no number")) };
    if len == -1 {
        bytes.advance(end + 1);
        return Ok(Some(None));
    }
    let len = usize::try_from(len).map_err(|_| Violation("a negative length"))?;
    if len > VALUE_MAX {
        return Err(Violation("a value above 64 MiB"));
    }
    let start = end + 1;
    if bytes.len() < start + len + 2 {
        return Ok(None);
    }
    if &bytes[start + len..start + len + 2] != b"\r\n" {
        return Err(Violation("a value longer than announced"));
    }
    // Copied: a slice of the read buffer would keep the whole buffer alive in the near cache.
    let value = Bytes::copy_from_slice(&bytes[start..start + len]);
    bytes.advance(start + len + 2);
    Ok(Some(Some(value)))
}
