//! Parts of URLs (RFC 3986's split, as `java.net.URI` makes it), and form encoding.

use std::fmt::Write;

use super::RowCall;
use super::args::{Outcome, string, text};
use super::catalog::{Def, strict};
use crate::expr::Value;

#[rustfmt::skip]
pub(crate) const DEFS: &[Def] = &[
    Def { name: "URL_DECODE_PARAM", about: "Form-decoded text.", overloads: &[strict("value STRING -> STRING", |_, a| decode(text(&a[0])?).map(Value::String))] },
    Def { name: "URL_ENCODE_PARAM", about: "Form-encoded text.", overloads: &[strict("value STRING -> STRING", |_, a| string(encode(text(&a[0])?)))] },
    Def { name: "URL_EXTRACT_FRAGMENT", about: "What follows #.", overloads: &[strict("input STRING -> STRING", |_, a| part(a, |url| url.fragment))] },
    Def { name: "URL_EXTRACT_HOST", about: "The host.", overloads: &[strict("input STRING -> STRING", |_, a| part(a, |url| url.host))] },
    Def { name: "URL_EXTRACT_PARAMETER", about: "One parameter of the query.", overloads: &[strict("input STRING, parameter STRING -> STRING", parameter)] },
    Def { name: "URL_EXTRACT_PATH", about: "The path.", overloads: &[strict("input STRING -> STRING", |_, a| part(a, |url| Some(url.path)))] },
    Def { name: "URL_EXTRACT_PORT", about: "The port, null if there is none.", overloads: &[strict("input STRING -> INTEGER", port)] },
    Def { name: "URL_EXTRACT_PROTOCOL", about: "The scheme.", overloads: &[strict("input STRING -> STRING", |_, a| part(a, |url| url.scheme))] },
    Def { name: "URL_EXTRACT_QUERY", about: "What follows ?.", overloads: &[strict("input STRING -> STRING", |_, a| part(a, |url| url.query))] },
];

/// A URL cut into its parts; none of them is decoded yet.
struct Url<'t> {
    scheme: Option<&'t str>,
    host: Option<&'t str>,
    port: Option<&'t str>,
    path: &'t str,
    query: Option<&'t str>,
    fragment: Option<&'t str>,
}

/// Cuts `input`; characters that a URI may not hold are an error.
fn cut(input: &str) -> Result<Url<'_>, String> {
    let illegal = |c: char| {
        c.is_ascii_whitespace()
            || c.is_control()
            || matches!(c, '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}')
    };
    if let Some(at) = input.find(illegal) {
        return Err(format!("Illegal character in URL at index {at}: {input}"));
    }
    let (rest, fragment) =
        input.split_once('#').map_or((input, None), |(rest, fragment)| (rest, Some(fragment)));
    let (scheme, rest) = match rest.split_once(':') {
        Some((scheme, after)) if is_scheme(scheme) => (Some(scheme), after),
        _ => (None, rest),
    };
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let (authority, path) = match rest.strip_prefix("//") {
        Some(after) => {
            let end = after.find('/').unwrap_or(after.len());
            (Some(&after[..end]), &after[end..])
        }
        None => (None, rest),
    };
    let host_port = authority.map(|authority| authority.rsplit_once('@').map_or(authority, |(_, host)| host));
    let (host, port) = match host_port {
        Some(text) => match text.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (Some(host), Some(port)),
            _ => (Some(text), None),
        },
        None => (None, None),
    };
    Ok(Url { scheme, host: host.filter(|host| !host.is_empty()), port, path, query, fragment })
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

fn part(args: &[Value], pick: impl for<'u> Fn(Url<'u>) -> Option<&'u str>) -> Outcome {
    let url = cut(text(&args[0])?)?;
    match pick(url) {
        Some(raw) => Ok(Value::String(percent_decode(raw, false)?)),
        None => Ok(Value::Null),
    }
}

fn port(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let url = cut(text(&args[0])?)?;
    Ok(url.port.and_then(|port| port.parse().ok()).map_or(Value::Null, Value::Integer))
}

fn parameter(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let url = cut(text(&args[0])?)?;
    let wanted = text(&args[1])?;
    for pair in url.query.unwrap_or("").split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if percent_decode(name, false)? == wanted {
            return Ok(Value::String(percent_decode(value, false)?));
        }
    }
    Ok(Value::Null)
}

fn percent_decode(input: &str, plus: bool) -> Result<String, String> {
    let bytes = input.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let digits = input.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
                out.push(digits.ok_or_else(|| {
                    format!("URLDecoder: Illegal hex characters in escape (%) pattern: {input}")
                })?);
                at += 2;
            }
            b'+' if plus => out.push(b' '),
            other => out.push(other),
        }
        at += 1;
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn decode(input: &str) -> Result<String, String> {
    percent_decode(input, true)
}

fn encode(input: &str) -> String {
    let mut out = String::with_capacity(input.len());
    for byte in input.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'*' | b'_' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            other => write!(out, "%{other:02X}").expect("writing to a String cannot fail"),
        }
    }
    out
}
