//! What is said to the cache and heard from it: one answer per command, or the connection is given up.

mod cluster;
mod memcached;
pub(crate) mod reply;
mod resp;
pub(crate) mod scripts;
#[cfg(test)]
mod servers;
#[cfg(test)]
mod tests;

use bytes::BytesMut;

use crate::core::{Abilities, Answer, Command};

pub(crate) use cluster::Cluster;
pub(crate) use memcached::{Memcached, wire_key};
pub(crate) use resp::{Element, Resp, element, put_array, put_bulk};

/// The largest value taken from a cache, bytes.
pub(crate) const VALUE_MAX: usize = 64 << 20;

/// The bytes make no sense as answers to what was asked: nothing after them can be trusted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Violation(pub(crate) &'static str);

/// One connection's dialect and the answers it still owes.
#[derive(Debug)]
pub(crate) enum Codec {
    Resp(Resp),
    Cluster(Cluster),
    Memcached(Memcached),
}

impl Codec {
    /// What the server can do.
    pub(crate) fn abilities(&self) -> Abilities {
        match self {
            Self::Resp(resp) => Abilities { leases: true, tracking: resp.tracking },
            Self::Cluster(cluster) => Abilities { leases: true, tracking: cluster.tracking },
            Self::Memcached(memcached) => Abilities { leases: memcached.has_meta(), tracking: false },
        }
    }

    /// Writes a command and remembers that its answer is owed.
    pub(crate) fn encode(&mut self, command: &Command, out: &mut BytesMut) {
        match self {
            Self::Resp(resp) => resp.encode(command, out),
            Self::Cluster(cluster) => cluster.encode(command, out),
            Self::Memcached(memcached) => memcached.encode(command, out),
        }
    }

    /// Takes every complete answer out of `bytes`; what is incomplete stays.
    pub(crate) fn decode(
        &mut self,
        bytes: &mut BytesMut,
        answers: &mut Vec<Answer>,
    ) -> Result<(), Violation> {
        match self {
            Self::Resp(resp) => resp.decode(bytes, answers),
            Self::Cluster(cluster) => cluster.decode(bytes, answers),
            Self::Memcached(memcached) => memcached.decode(bytes, answers),
        }
    }
}

/// Takes one line without its `\r\n`; `None` while it is incomplete.
pub(crate) fn take_line(bytes: &mut BytesMut, limit: usize) -> Result<Option<BytesMut>, Violation> {
    let Some(end) = bytes.iter().take(limit).position(|byte| *byte == b'\n') else {
        return if bytes.len() >= limit { Err(Violation("a line without end")) } else { Ok(None) };
    };
    let mut line = bytes.split_to(end + 1);
    if !line.ends_with(b"\r\n") {
        return Err(Violation("a line without carriage return"));
    }
    line.truncate(end - 1);
    Ok(Some(line))
}

/// Reads a decimal number of at most 18 digits, with an optional minus.
pub(crate) fn number(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        _ => (false, text),
    };
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0_i64, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    Some(if negative { -value } else { value })
}
