//! One request per exchange.

use std::sync::Arc;

use bytes::Bytes;

use super::Config;
use super::service::{agent, refused, request};
use crate::connectors::{SendError, Sink, Verdict};
use crate::exchange::{Body, Exchange, text_of};

/// Sends to one HTTP address.
pub(crate) struct HttpSink {
    config: Arc<Config>,
    agent: ureq::Agent,
}

impl HttpSink {
    pub fn open(config: Arc<Config>) -> Self {
        let agent = agent(config.connect_timeout, config.response_timeout);
        Self { config, agent }
    }
}

/// Headers that pass: names of letters, digits and dashes, not those that frame the message.
fn passes(name: &str) -> bool {
    let framing = ["host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer"];
    !name.starts_with("Camel")
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !framing.contains(&name.to_ascii_lowercase().as_str())
}

impl Sink for HttpSink {
    fn send(&mut self, batch: &mut [Exchange]) -> Result<(), SendError> {
        for (index, exchange) in batch.iter_mut().enumerate() {
            let body = exchange.body_bytes().unwrap_or_default();
            let mut headers: Vec<(String, String)> = exchange
                .headers
                .iter()
                .filter(|(name, _)| passes(name))
                .map(|(name, value)| (name.to_string(), text_of(value).replace(['\r', '\n', '\0'], " ")))
                .collect();
            if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
                let json = body.first().is_some_and(|byte| b"{[".contains(byte));
                let kind = if json { "application/json" } else { "text/plain; charset=utf-8" };
                headers.push(("Content-Type".to_owned(), kind.to_owned()));
            }
            let reply = request(&self.agent, self.config.method, &self.config.url, &headers, &body)
                .map_err(|error| error.after(index))?;
            if self.config.fail_on_error && !(200..300).contains(&reply.status) {
                let mut error = refused(&self.config.url, &reply).after(index);
                if error.verdict == Verdict::Poison(None) {
                    error.verdict = Verdict::Poison(Some(0));
                }
                return Err(error);
            }
            exchange.set_header(&Arc::from("CamelHttpResponseCode"), serde_json::Value::from(reply.status));
            if !reply.content_type.is_empty() {
                exchange.set_header(&Arc::from("Content-Type"), serde_json::Value::from(reply.content_type));
            }
            exchange.set_body(if reply.body.is_empty() {
                Body::Null
            } else {
                Body::Bytes(Bytes::from(reply.body))
            });
        }
        Ok(())
    }
}
