//! Endpoints that stay in the process: `log`, `direct`, `seda`, `timer`.
//!
//! `direct:name` runs the other route's steps in the caller's thread. `seda:name` hands the batch to the other
//! route's thread over a bounded queue and waits until it is done, so that the caller commits only what was
//! delivered. `timer:name?period=1s&repeatCount=3` makes empty exchanges. `log:name?level=INFO` writes a line
//! per exchange, control characters escaped.

use std::sync::Arc;

use super::{SendError, Sink};
use crate::error::{RouteError, one_line};
use crate::exchange::Exchange;
use crate::model::uri::Uri;

/// The path as a name, which must be there.
pub(crate) fn name(uri: &Uri) -> Result<&str, RouteError> {
    if uri.path.is_empty() {
        return Err(uri.refuse(format!("{0} needs a name: {0}:NAME", uri.scheme)));
    }
    Ok(&uri.path)
}

/// `log:` options.
#[derive(Debug)]
pub(crate) struct LogConfig {
    name: String,
    level: &'static str,
    show_headers: bool,
    show_body: bool,
}

const LEVELS: [&str; 5] = ["INFO", "TRACE", "DEBUG", "WARN", "ERROR"];

impl LogConfig {
    pub fn parse(uri: &Uri) -> Result<Self, RouteError> {
        uri.only(&["level", "showHeaders", "showBody", "showAll"])?;
        let all = uri.flag("showAll", false)?;
        let level = uri.one_of("level", &LEVELS)?;
        let level = LEVELS.iter().find(|known| **known == level).copied().unwrap_or("INFO");
        Ok(Self {
            name: name(uri)?.to_owned(),
            level,
            show_headers: all || uri.flag("showHeaders", false)?,
            show_body: all || uri.flag("showBody", true)?,
        })
    }
}

/// Writes a log line per exchange.
pub(crate) struct LogSink {
    config: Arc<LogConfig>,
}

impl LogSink {
    pub fn new(config: Arc<LogConfig>) -> Self {
        Self { config }
    }
}

impl Sink for LogSink {
    fn send(&mut self, batch: &mut [Exchange]) -> Result<(), SendError> {
        for exchange in batch.iter() {
            let mut line = String::new();
            if self.config.show_headers {
                line = format!("Headers: {:?} ", exchange.headers);
            }
            if self.config.show_body {
                line.push_str(&exchange.body_text());
            }
            let (name, line) = (self.config.name.as_str(), one_line(&line));
            match self.config.level {
                "TRACE" => tracing::trace!(target: "herdsman::routes::log", name, "{line}"),
                "DEBUG" => tracing::debug!(target: "herdsman::routes::log", name, "{line}"),
                "WARN" => tracing::warn!(target: "herdsman::routes::log", name, "{line}"),
                "ERROR" => tracing::error!(target: "herdsman::routes::log", name, "{line}"),
                _ => tracing::info!(target: "herdsman::routes::log", name, "{line}"),
            }
        }
        Ok(())
    }
}

/// `seda:` options.
#[derive(Debug)]
pub(crate) struct SedaConfig {
    pub name: Arc<str>,
    /// Batches that may wait.
    pub size: usize,
}

impl SedaConfig {
    pub fn parse(uri: &Uri) -> Result<Self, RouteError> {
        uri.only(&["size"])?;
        Ok(Self { name: Arc::from(name(uri)?), size: uri.number("size", 16_usize)?.clamp(1, 1000) })
    }
}

/// `timer:` options.
#[derive(Debug)]
pub(crate) struct TimerConfig {
    pub name: Arc<str>,
    pub period_ms: u64,
    pub delay_ms: u64,
    /// Ticks in all; 0 is for ever.
    pub repeat: u64,
}

impl TimerConfig {
    pub fn parse(uri: &Uri) -> Result<Self, RouteError> {
        uri.only(&["period", "delay", "repeatCount", "fixedRate"])?;
        Ok(Self {
            name: Arc::from(name(uri)?),
            period_ms: uri.millis("period", 1000)?.max(1),
            delay_ms: uri.millis("delay", 0)?,
            repeat: uri.number("repeatCount", 0)?,
        })
    }
}
