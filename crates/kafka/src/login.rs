//! Why a listener that accepts connections gives no metadata: does it ask for a login, or refuse the one it got?
//!
//! librdkafka tells such reasons to its log only. So the first two messages of a login are exchanged here once more, by
//! hand, and the broker's own words are kept.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::KafkaOptions;

const SASL_HANDSHAKE: i16 = 17;
const SASL_AUTHENTICATE: i16 = 36;
const CORRELATION_ID: i32 = 7;
/// `ILLEGAL_SASL_STATE`: this listener asks for no login.
const NO_LOGIN: i16 = 34;
/// Longest answer read, bytes: a stranger may announce anything.
const ANSWER_BYTES_MAX: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(2);

/// What `address` has against us; `None` if it is not the login.
pub(crate) fn objection(address: &str, options: &KafkaOptions) -> Option<String> {
    let property = |name: &str| options.properties.get(name).map(String::as_str);
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let handshake = ask(&mut stream, SASL_HANDSHAKE, 1, &text("PLAIN"))?;
    let (code, mechanisms) = (number(&handshake, 0)?, mechanisms(&handshake)?);
    if code == NO_LOGIN || mechanisms.is_empty() {
        return None;
    }
    let offers = mechanisms.join(", ");
    let (Some(user), Some(password)) = (property("sasl.username"), property("sasl.password")) else {
        return Some(format!(
            "{address} asks for a login by {offers}: pass --user NAME and set HERDSMAN_PASSWORD"
        ));
    };
    if code != 0 {
        return Some(format!(
            "{address} offers no login by PLAIN but by {offers}: use a client that has those"
        ));
    }
    let message = format!("\0{user}\0{password}");
    let len = i32::try_from(message.len()).ok()?;
    let answer =
        ask(&mut stream, SASL_AUTHENTICATE, 0, &[&len.to_be_bytes()[..], message.as_bytes()].concat())?;
    if number(&answer, 0)? == 0 {
        return None;
    }
    let said = usize::try_from(number(&answer, 2)?).ok().and_then(|len| answer.get(4..4 + len));
    let said = said.and_then(|said| std::str::from_utf8(said).ok()).filter(|said| !said.is_empty());
    Some(said.map_or_else(|| format!("{address} refuses the login of user {user}"), str::to_owned))
}

fn text(value: &str) -> Vec<u8> {
    [&i16::try_from(value.len()).unwrap_or(0).to_be_bytes()[..], value.as_bytes()].concat()
}

/// Sends one request; the body of its answer.
fn ask(stream: &mut TcpStream, api: i16, version: i16, body: &[u8]) -> Option<Vec<u8>> {
    let head = [&api.to_be_bytes()[..], &version.to_be_bytes(), &CORRELATION_ID.to_be_bytes()].concat();
    let frame = [&head[..], &text("herdsman"), body].concat();
    let len = i32::try_from(frame.len()).ok()?;
    stream.write_all(&[&len.to_be_bytes()[..], &frame].concat()).ok()?;
    let mut len = [0; 4];
    stream.read_exact(&mut len).ok()?;
    let len = usize::try_from(i32::from_be_bytes(len)).ok().filter(|len| *len <= ANSWER_BYTES_MAX)?;
    let mut answer = vec![0; len];
    stream.read_exact(&mut answer).ok()?;
    let correlation_id = answer.first_chunk::<4>()?;
    (i32::from_be_bytes(*correlation_id) == CORRELATION_ID).then(|| answer.split_off(4))
}

fn number(bytes: &[u8], at: usize) -> Option<i16> {
    bytes.get(at..)?.first_chunk::<2>().map(|digits| i16::from_be_bytes(*digits))
}

/// The names in an answer to SaslHandshake.
fn mechanisms(answer: &[u8]) -> Option<Vec<String>> {
    let count = i32::from_be_bytes(*answer.get(2..)?.first_chunk::<4>()?);
    let mut at = 6;
    let mut names = Vec::new();
    for _ in 0..count.min(16) {
        let len = usize::try_from(number(answer, at)?).ok()?;
        names.push(String::from_utf8(answer.get(at + 2..at + 2 + len)?.to_vec()).ok()?);
        at += 2 + len;
    }
    Some(names)
}
