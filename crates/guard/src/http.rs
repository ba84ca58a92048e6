//! A web service as the system of record: a batch of misses is one request.
//!
//! ```text
//! POST /the/path                                200 OK
//! Content-Type: application/json                {"treasure:1": "a text", "treasure:2": {"worth": 7}}
//!
//! {"keys": ["treasure:1", "treasure:2", "treasure:3"]}
//! ```
//! A text is the value itself, anything else its JSON as it came; a key that is missing or null does not exist, and neither does one that is no
//! UTF-8. Any other status than 200 is an error for all who wait.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::error::LoadError;
use crate::loading::Loader;

/// The largest answer taken, bytes.
const ANSWER_MAX: u64 = 256 << 20;

/// Why an address cannot serve as the system of record.
#[derive(Debug, Error)]
pub enum HttpError {
    /// It is not one.
    #[error("{0} is not the address of a web service that the guard can ask: write http://host:port/path")]
    Address(String),
}

/// Asks one address for batches of keys.
#[derive(Debug)]
pub struct HttpLoader {
    url: String,
    agent: ureq::Agent,
}

impl HttpLoader {
    /// Asks `url`; a request that takes longer than `limit` is an error.
    ///
    /// # Errors
    /// When `url` does not begin with `http://`.
    pub fn open(url: &str, limit: Duration) -> Result<Self, HttpError> {
        if !url.strip_prefix("http://").is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/')) {
            return Err(HttpError::Address(url.to_owned()));
        }
        let agent = ureq::Agent::config_builder().timeout_global(Some(limit)).build().new_agent();
        Ok(Self { url: url.to_owned(), agent })
    }

    fn read(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, String> {
        let texts: Vec<&str> = keys.iter().filter_map(|key| std::str::from_utf8(key).ok()).collect();
        let asked = serde_json::json!({ "keys": texts }).to_string();
        let post = self.agent.post(&self.url).header("Content-Type", "application/json");
        let mut answer = post.send(asked.as_bytes()).map_err(|error| error.to_string())?;
        let text = answer.body_mut().with_config().limit(ANSWER_MAX).read_to_vec();
        let text = text.map_err(|error| error.to_string())?;
        let found: HashMap<String, &RawValue> = serde_json::from_slice(&text)
            .map_err(|error| format!("its answer is no JSON object from keys to values: {error}"))?;
        let value = |key: &Bytes| found.get(std::str::from_utf8(key).ok()?).copied();
        keys.iter().map(|key| value(key).map_or(Ok(None), value_of)).collect()
    }
}

/// A JSON text's characters, or any other JSON as it stands.
fn value_of(raw: &RawValue) -> Result<Option<Bytes>, String> {
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b'"') => {
            let read = serde_json::from_str::<String>(text);
            read.map(|text| Some(Bytes::from(text))).map_err(|error| error.to_string())
        }
        _ => Ok(Some(Bytes::from(text.to_owned()))),
    }
}

impl Loader for HttpLoader {
    fn load(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LoadError> {
        self.read(keys).map_err(|reason| LoadError(format!("{}: {reason}", self.url)))
    }
}
