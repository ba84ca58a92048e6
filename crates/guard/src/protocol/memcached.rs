//! memcached's classic text protocol: multi-get, `add`, `delete`.
//!
//! A key that the protocol cannot carry (longer than 250 bytes, or with blanks or control characters) travels as a 128-bit
//! hash; its value then begins with the key itself, so that a collision is a miss and never another key's value.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{VALUE_MAX, Violation, number, take_line};
use crate::core::{Answer, Command};

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
}

/// Answers owed, and the one that is half here.
#[derive(Debug, Default)]
pub(crate) struct Memcached {
    owed: VecDeque<Owed>,
    values: Vec<Option<Bytes>>,
    /// A `VALUE` line is read, its data is not: position and length.
    data: Option<(usize, usize)>,
    seen: usize,
    error: Option<String>,
}

fn wire_key(key: &Bytes) -> (Bytes, bool) {
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

impl Memcached {
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
                    let frame = if hashed { 4 + fill.key.len() } else { 0 };
                    let seconds = fill.ttl_ms.div_ceil(1_000).min(TTL_MAX_S);
                    out.extend_from_slice(b"add ");
                    out.extend_from_slice(&wire);
                    out.extend_from_slice(
                        format!(" 0 {seconds} {}\r\n", frame + fill.value.len()).as_bytes(),
                    );
                    if hashed {
                        out.put_u32(u32::try_from(fill.key.len()).unwrap_or(u32::MAX));
                        out.extend_from_slice(&fill.key);
                    }
                    out.extend_from_slice(&fill.value);
                    out.extend_from_slice(b"\r\n");
                }
                self.owed.push_back(Owed::Singles(fills.len()));
            }
            Command::Delete(keys) => {
                for key in keys {
                    out.extend_from_slice(b"delete ");
                    out.extend_from_slice(&wire_key(key).0);
                    out.extend_from_slice(b"\r\n");
                }
                self.owed.push_back(Owed::Singles(keys.len()));
            }
        }
    }

    pub(super) fn decode(
        &mut self,
        bytes: &mut BytesMut,
        answers: &mut Vec<Answer>,
    ) -> Result<(), Violation> {
        while !bytes.is_empty() {
            let Some(owed) = self.owed.pop_front() else {
                return Err(Violation("an answer to nothing that was asked"));
            };
            let answer = match &owed {
                Owed::Values(keys) => self.take_values(keys, bytes),
                Owed::Singles(len) => self.take_singles(*len, bytes),
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
            if let Some((position, len)) = self.data {
                if bytes.len() < len + 2 {
                    return Ok(None);
                }
                if &bytes[len..len + 2] != b"\r\n" {
                    return Err(Violation("a value longer than announced"));
                }
                let value = unframe(&bytes[..len], keys.get(position).and_then(|(_, key)| key.as_ref()));
                self.values.push(value);
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
            let (Some(b"VALUE"), Some(key), Some(_flags), Some(len)) =
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
            self.data = Some((from + ahead, len));
        }
    }

    fn take_singles(&mut self, len: usize, bytes: &mut BytesMut) -> Result<Option<Answer>, Violation> {
        while self.seen < len {
            let Some(line) = take_line(bytes, LINE_MAX)? else { return Ok(None) };
            match line.as_ref() {
                b"STORED" | b"NOT_STORED" | b"EXISTS" | b"DELETED" | b"NOT_FOUND" => {}
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
