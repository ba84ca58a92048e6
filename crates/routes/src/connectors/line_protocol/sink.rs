//! One request per batch.

use std::sync::Arc;

use herdsman_host::Clock;

use super::Config;
use super::encode::{create_sql, encode};
use crate::connectors::http::service::{agent, refused, request};
use crate::connectors::{SendError, Sink, Verdict};
use crate::exchange::Exchange;

/// Writes to one table or measurement.
pub(crate) struct LineProtocolSink {
    config: Arc<Config>,
    clock: Arc<dyn Clock>,
    agent: ureq::Agent,
    ready: bool,
}

impl LineProtocolSink {
    pub fn open(config: Arc<Config>, clock: Arc<dyn Clock>) -> Self {
        let agent = agent(config.connect_timeout, config.response_timeout);
        let ready = !(config.questdb && config.auto_create);
        Self { config, clock, agent, ready }
    }

    fn headers(&self) -> Vec<(String, String)> {
        let mut headers = vec![("Content-Type".to_owned(), "text/plain; charset=utf-8".to_owned())];
        if let Some((kind, secret)) = &self.config.login {
            headers.push(("Authorization".to_owned(), format!("{kind} {}", secret.0)));
        }
        headers
    }

    fn create(&mut self) -> Result<(), SendError> {
        let url = format!("{}/exec?query={}", self.config.base, encode_query(&create_sql(&self.config)));
        let reply = request(&self.agent, "GET", &url, &self.headers(), &[])?;
        if reply.status != 200 {
            let mut error = refused(&url, &reply);
            error.verdict = Verdict::Retry;
            return Err(error);
        }
        self.ready = true;
        Ok(())
    }
}

fn encode_query(sql: &str) -> String {
    sql.bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            },
        )
        .collect()
}

impl Sink for LineProtocolSink {
    fn send(&mut self, batch: &mut [Exchange]) -> Result<(), SendError> {
        if !self.ready {
            self.create()?;
        }
        let lines = encode(&self.config, batch, self.clock.now_ms())?;
        let reply = request(&self.agent, "POST", &self.config.write_url, &self.headers(), &lines)?;
        if (200..300).contains(&reply.status) {
            return Ok(());
        }
        let mut error = refused(&self.config.write_url, &reply);
        if error.verdict == Verdict::Poison(None) {
            error.verdict = Verdict::Poison(bad_line(&reply.body, &lines, batch.len()));
        }
        Err(error)
    }
}

/// The index of the record that QuestDB's reply names by its line; only if each record is one line.
fn bad_line(reply: &[u8], lines: &[u8], records: usize) -> Option<usize> {
    if lines.split(|byte| *byte == b'\n').count() != records + 1 {
        return None;
    }
    let reply: serde_json::Value = serde_json::from_slice(reply).ok()?;
    let line = usize::try_from(reply.get("line")?.as_u64()?).ok()?;
    line.checked_sub(1).filter(|index| *index < records)
}
