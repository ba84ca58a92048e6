//! `http:HOST:PORT/path`: one request per exchange, the reply becomes the body, as in Camel.
//!
//! Guarantee: at least once; the receiver sees the header `event-id` again when a request is repeated. The host is
//! fixed in the route file, redirects are not followed, a reply is at most 16 MiB, a request takes at most
//! `responseTimeout` (30 s). 5xx, 408, 425, 429 and a broken connection are tried again, and so
//! are 401, 403, 404, 407 (the address is wrong, not the record); another 4xx is the record's fault.
//!
//! Options: `httpMethod` (POST), `connectTimeout` (5 s), `responseTimeout` (30 s), `throwExceptionOnFailure`
//! (true); other options go to the server as the query string.

pub(crate) mod service;
mod sink;

pub(crate) use sink::HttpSink;

use std::time::Duration;

use crate::error::RouteError;
use crate::model::uri::Uri;

/// Bytes of a reply that are read at most.
pub(crate) const REPLY_BYTES_MAX: u64 = 16 << 20;

/// `http:` options.
#[derive(Debug)]
pub(crate) struct Config {
    pub url: String,
    pub method: &'static str,
    pub connect_timeout: Duration,
    pub response_timeout: Duration,
    pub fail_on_error: bool,
}

const METHODS: [&str; 5] = ["POST", "PUT", "PATCH", "GET", "DELETE"];

impl Config {
    pub fn parse(uri: &Uri) -> Result<Self, RouteError> {
        let own =
            ["httpMethod", "connectTimeout", "responseTimeout", "throwExceptionOnFailure", "bridgeEndpoint"];
        let (host, port, path) = uri.host_and_rest(80)?;
        let query: Vec<String> = uri
            .options
            .iter()
            .filter(|option| !own.contains(&option.name.as_str()))
            .map(|option| format!("{}={}", encode(&option.name), encode(&option.value)))
            .collect();
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        let method = uri.one_of("httpMethod", &METHODS)?;
        Ok(Self {
            url: format!("http://{host}:{port}/{path}{query}"),
            method: METHODS.iter().find(|known| **known == method).copied().unwrap_or("POST"),
            connect_timeout: Duration::from_millis(uri.millis("connectTimeout", 5000)?),
            response_timeout: Duration::from_millis(uri.millis("responseTimeout", 30_000)?),
            fail_on_error: uri.flag("throwExceptionOnFailure", true)?,
        })
    }
}

/// Percent-encodes what may not stand in a query; what is encoded already stays.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~%,:/+".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
