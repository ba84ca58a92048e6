//! memcached's classic text protocol: multi-get, `add`, `delete`.
//!
//! A key that the protocol cannot carry (longer than 250 bytes, or with blanks or control characters) travels as a 128-bit
//! hash; its value then begins with the key itself, so that a collision is a miss and never another key's value. Leases are in `leases`.

mod leases;

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{VALUE_MAX, Violation, number, take_line};
use crate::core::{Answer, Claimed, Command};

const LINE_MAX: usize = 4_096;
const KEY_MAX: usize = 250;
const HASHED: &[u8] = b"~h:";
const TTL_MAX_S: u64 = 30 * 24 * 3_600; // beyond that memcached reads an absolute time

#[derive(Debug)]
enum Owed {
    /// Values of these keys (what travels, and the key it stands for when hashed), then `END`.
    Values(Vec<(Bytes, Option<Bytes>)>),
    /// This many single lines.
    Singles(usize),
    /// The outcome of claims: two replies per key.
    Claims(VecDeque<leases::OwedClaim>),
    /// The outcome of this many leased fills.
    Fills(usize),
}

/// Answers owed, and the one that is half here.
#[derive(Debug, Default)]
pub(crate) struct Memcached {
    owed: VecDeque<Owed>,
    values: Vec<Option<Bytes>>,
    /// A `VALUE` line is read, its data is not: position, length, whether it is a lease.
    data: Option<(usize, usize, bool)>,
    seen: usize,
    error: Option<String>,
    claimed: Vec<Claimed>,
    taken: Vec<bool>,
    /// The server speaks the meta protocol.
    meta: bool,
}

pub(crate) fn wire_key(key: &Bytes) -> (Bytes, bool) {
    let legal = !key.is_empty()
        && key.len() <= KEY_MAX
        && !key.starts_with(HASHED)
        && key.iter().all(|byte| *byte > b' ' && *byte != 0x7f);
    if legal {
        return (key.clone(), false);
    }
    let low = rapidhash::v3::rapidhash_v3(key);
    let mut salted = BytesMut::from(&b"herdsman"[..]);
    salted.extend_from_slice(key);
    let high = rapidhash::v3::rapidhash_v3(&salted);
    (Bytes::from(format!("~h:{high:016x}{low:016x}")), true)
}

/// A time to live as memcached counts it, seconds.
fn seconds(ttl_ms: u64) -> u64 {
    ttl_ms.div_ceil(1_000).min(TTL_MAX_S)
}

/// The value as it travels: alone, or behind the key that a hashed key stands for.
fn put_value(out: &mut BytesMut, hashed: Option<&Bytes>, value: &[u8]) {
    if let Some(key) = hashed {
        out.put_u32(u32::try_from(key.len()).unwrap_or(u32::MAX));
        out.extend_from_slice(key);
    }
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn framed_len(hashed: Option<&Bytes>, value: &[u8]) -> usize {
    value.len() + hashed.map_or(0, |key| 4 + key.len())
}

impl Memcached {
    /// For a server that calls itself `version`, such as `1.6.18`: the meta commands came with 1.6.
    pub(crate) fn of_version(version: &str) -> Self {
        let mut numbers = version.split('.').map_while(|part| part.parse::<u32>().ok());
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        Self { meta: version >= (1, 6), ..Self::default() }
    }

    pub(crate) fn has_meta(&self) -> bool {
        self.meta
    }

    pub(super) fn encode(&mut self, command: &Command, out: &mut BytesMut) {
        match command {
            Command::Get(keys) => {
                let mut owed = Vec::with_capacity(keys.len());
                out.extend_from_slice(b"get");
                for key in keys {
                    let (wire, hashed) = wire_key(key);
                    out.put_u8(b' ');
                    out.extend_from_slice(&wire);
                    owed.push((wire, hashed.then(|| key.clone())));
                }
                out.extend_from_slice(b"\r\n");
                self.owed.push_back(Owed::Values(owed));
            }
            Command::Fill(fills) => {
                for fill in fills {
                    let (wire, hashed) = wire_key(&fill.key);
                    let hashed = hashed.then_some(&fill.key);
                    out.extend_from_slice(b"add ");
                    out.extend_from_slice(&wire);
                    let (ttl_s, len) = (seconds(fill.ttl_ms), framed_len(hashed, &fill.value));
                    out.extend_from_slice(format!(" 0 {ttl_s} {len}\r\n").as_bytes());
                    put_value(out, hashed, &fill.value);
                }
                self.owed.push_back(Owed::Singles(fills.len()));
            }
            Command::Claim(claim) => self.put_claim(claim, out),
            Command::FillLeased(fills) => self.put_leased_fill(fills, out),
            Command::Extend { leases, lease_ms } => self.put_extend(leases, *lease_ms, out),
            Command::Delete(keys) => {
                for key in keys {
                    out.extend_from_slice(b"delete ");
                    out.extend_from_slice(&wire_key(key).0);
                    out.extend_from_slice(b"\r\n");
                }
                self.owed.push_back(Owed::Singles(keys.len()));
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
            let Some(mut owed) = self.owed.pop_front() else {
                return Err(Violation("an answer to nothing that was asked"));
            };
            let answer = match &mut owed {
                Owed::Values(keys) => self.take_values(keys, bytes),
                Owed::Singles(len) => self.take_singles(*len, bytes),
                Owed::Claims(claims) => self.take_claims(claims, bytes),
                Owed::Fills(len) => self.take_fills(*len, bytes),
            };
            match answer? {
                Some(answer) => answers.push(answer),
                None => {
                    self.owed.push_front(owed);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn take_values(
        &mut self,
        keys: &[(Bytes, Option<Bytes>)],
        bytes: &mut BytesMut,
    ) -> Result<Option<Answer>, Violation> {
        loop {
            if let Some((position, len, lease)) = self.data {
                if bytes.len() < len + 2 {
                    return Ok(None);
                }
                if &bytes[len..len + 2] != b"\r\n" {
                    return Err(Violation("a value longer than announced"));
                }
                let value = unframe(&bytes[..len], keys.get(position).and_then(|(_, key)| key.as_ref()));
                self.values.push(value.filter(|_| !lease));
                bytes.advance(len + 2);
                self.data = None;
            }
            let Some(line) = take_line(bytes, LINE_MAX)? else { return Ok(None) };
            if line.as_ref() == b"END" {
                self.values.resize(keys.len(), None);
                return Ok(Some(Answer::Values(std::mem::take(&mut self.values))));
            }
            if is_error(&line) {
                self.values.clear();
                return Ok(Some(Answer::Failed(String::from_utf8_lossy(&line).into_owned())));
            }
            let mut words = line.as_ref().split(|byte| *byte == b' ');
            let (Some(b"VALUE"), Some(key), Some(flags), Some(len)) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                return Err(Violation("neither VALUE nor END in answer to get"));
            };
            let len = number(len).and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= VALUE_MAX);
            let Some(len) = len else { return Err(Violation("a value of no length, or above 64 MiB")) };
            // Values come in the order of the keys: whatever lies between is absent.
            let from = self.values.len();
            let Some(ahead) = keys.iter().skip(from).position(|(wire, _)| wire.as_ref() == key) else {
                return Err(Violation("a value for a key that was not asked"));
            };
            self.values.resize(from + ahead, None);
            self.data = Some((from + ahead, len, len == 0 && flags == leases::FLAGS.as_bytes()));
        }
    }

    fn take_singles(&mut self, len: usize, bytes: &mut BytesMut) -> Result<Option<Answer>, Violation> {
        while self.seen < len {
            let Some(line) = take_line(bytes, LINE_MAX)? else { return Ok(None) };
            match line.as_ref() {
                b"STORED" | b"NOT_STORED" | b"EXISTS" | b"DELETED" | b"NOT_FOUND" | b"HD" | b"EN" => {}
                other if is_error(other) => {
                    self.error = self.error.take().or(Some(String::from_utf8_lossy(other).into_owned()));
                }
                _ => return Err(Violation("an unknown answer to a write")),
            }
            self.seen += 1;
        }
        self.seen = 0;
        Ok(Some(self.error.take().map_or(Answer::Done, Answer::Failed)))
    }
}

fn is_error(line: &[u8]) -> bool {
    line == b"ERROR" || line.starts_with(b"CLIENT_ERROR") || line.starts_with(b"SERVER_ERROR")
}

fn unframe(data: &[u8], hashed: Option<&Bytes>) -> Option<Bytes> {
    let Some(key) = hashed else { return Some(Bytes::copy_from_slice(data)) };
    let (len, rest) = data.split_first_chunk::<4>()?;
    let len = u32::from_be_bytes(*len) as usize;
    (rest.get(..len)? == key.as_ref()).then(|| Bytes::copy_from_slice(&rest[len..]))
}
