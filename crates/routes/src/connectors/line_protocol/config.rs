//! Options of `questdb:` and `influxdb:`.

use std::time::Duration;

use crate::connectors::Secret;
use crate::connectors::http::encode;
use crate::error::{RouteError, one_line};
use crate::model::uri::Uri;

/// `questdb:` and `influxdb:` options.
#[derive(Debug)]
pub(crate) struct Config {
    pub questdb: bool,
    pub base: String,
    pub write_url: String,
    pub table: String,
    pub timestamp: Option<String>,
    pub symbols: Vec<String>,
    pub key: Vec<String>,
    pub auto_create: bool,
    pub login: Option<(&'static str, Secret)>,
    pub connect_timeout: Duration,
    pub response_timeout: Duration,
}

const KNOWN: [&str; 13] = [
    "table",
    "measurement",
    "timestamp",
    "symbols",
    "tags",
    "key",
    "autoCreate",
    "user",
    "password",
    "token",
    "connectTimeout",
    "responseTimeout",
    "database",
];

impl Config {
    pub fn parse(uri: &Uri) -> Result<Self, RouteError> {
        uri.only(&KNOWN)?;
        let questdb = uri.scheme == "questdb";
        let (host, port, rest) = uri.host_and_rest(if questdb { 9000 } else { 8086 })?;
        let named = uri.get("table").or(uri.get("measurement"));
        let table = if questdb { named.unwrap_or(rest) } else { named.unwrap_or_default() };
        let letters = |found: char| found.is_alphanumeric() || "_-. ".contains(found);
        if table.is_empty() || table.len() > 127 || !table.chars().all(letters) {
            let what = if questdb { "a table: questdb:HOST:PORT/TABLE" } else { "measurement=NAME" };
            return Err(uri.refuse(format!("{} needs {what}, here is {}", uri.scheme, one_line(table))));
        }
        let database = if rest.is_empty() { uri.get("database").unwrap_or("herdsman") } else { rest };
        let base = format!("http://{host}:{port}");
        let write_url = if questdb {
            format!("{base}/write?precision=ms")
        } else {
            format!("{base}/write?db={}&precision=ms", encode(database))
        };
        let mut symbols = uri.words("symbols");
        symbols.extend(uri.words("tags"));
        let login = match (uri.get("token"), uri.get("user")) {
            (Some(token), _) => Some(("Bearer", Secret(token.to_owned()))),
            (None, Some(user)) => {
                let pair = format!("{user}:{}", uri.get("password").unwrap_or_default());
                Some(("Basic", Secret(base64(pair.as_bytes()))))
            }
            (None, None) => None,
        };
        Ok(Self {
            questdb,
            base,
            write_url,
            table: table.to_owned(),
            timestamp: uri.get("timestamp").map(str::to_owned),
            symbols,
            key: if uri.get("key").is_some() { uri.words("key") } else { vec!["event_id".to_owned()] },
            auto_create: uri.flag("autoCreate", true)?,
            login,
            connect_timeout: Duration::from_millis(uri.millis("connectTimeout", 5000)?),
            response_timeout: Duration::from_millis(uri.millis("responseTimeout", 30_000)?),
        })
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0_u32, |word, byte| (word << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for index in 0..4 {
            let six = (word >> (18 - 6 * index)) & 63;
            let letter = LETTERS.get(usize::try_from(six).unwrap_or(0)).copied().unwrap_or(b'=');
            out.push(if index <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    out
}
