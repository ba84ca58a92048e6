//! What routes read from and write to. A folder each: the doc with its guarantee, config, request, service, sink.

pub(crate) mod file;
pub(crate) mod http;
pub(crate) mod inner;
pub(crate) mod kafka;
pub(crate) mod line_protocol;
pub(crate) mod postgresql;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use herdsman_bus::Bus;
use herdsman_host::Clock;
use herdsman_record::TopicPartition;

use crate::error::{RouteError, hint, one_line};
use crate::exchange::Exchange;
use crate::model::uri::Uri;

const SCHEMES: [&str; 10] =
    ["kafka", "log", "direct", "seda", "timer", "file", "http", "postgresql", "questdb", "influxdb"];

/// A configured endpoint.
#[derive(Debug, Clone)]
pub(crate) enum Endpoint {
    Kafka(Arc<kafka::Config>),
    Log(Arc<inner::LogConfig>),
    Direct(Arc<str>),
    Seda(Arc<inner::SedaConfig>),
    Timer(Arc<inner::TimerConfig>),
    File(Arc<file::Config>),
    Http(Arc<http::Config>),
    PostgreSql(Arc<postgresql::Config>),
    LineProtocol(Arc<line_protocol::Config>),
}

/// What sinks may use of the house.
#[derive(Clone)]
pub(crate) struct Doors {
    pub bus: Arc<dyn Bus>,
    pub clock: Arc<dyn Clock>,
    /// Files are written beneath this folder only.
    pub root: PathBuf,
    pub route: Arc<str>,
}

/// Whether a delivery that failed may be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The other side cannot now; the same batch again, later.
    Retry,
    /// A record is refused for what it is: the one at this index after the delivered ones, or find it by halving.
    Poison(Option<usize>),
}

/// Why a batch was not delivered, or only its front.
#[derive(Debug, Clone)]
pub(crate) struct SendError {
    /// Exchanges at the front that were delivered.
    pub delivered: usize,
    pub verdict: Verdict,
    /// One line: what, which server, what it said.
    pub message: String,
}

impl SendError {
    pub fn retry(message: impl Into<String>) -> Self {
        Self { delivered: 0, verdict: Verdict::Retry, message: one_line(&message.into()) }
    }

    pub fn poison(index: Option<usize>, message: impl Into<String>) -> Self {
        Self { delivered: 0, verdict: Verdict::Poison(index), message: one_line(&message.into()) }
    }

    pub fn after(mut self, delivered: usize) -> Self {
        self.delivered += delivered;
        self
    }
}

/// Lowest offset per partition that something still holds: commits stay below it.
pub(crate) type Held = HashMap<TopicPartition, i64>;

/// Lowers the mark of `exchange`'s partition to its offset.
pub(crate) fn hold(held: &mut Held, exchange: &Exchange) {
    if let Some(origin) = &exchange.origin {
        held.entry(origin.at.clone())
            .and_modify(|low| *low = (*low).min(origin.offset))
            .or_insert(origin.offset);
    }
}

/// An open sink. Owned by one route; calls block.
pub(crate) trait Sink: Send {
    /// Delivers the batch, in order. On success every exchange is delivered (or held, see [`Sink::held`]).
    fn send(&mut self, batch: &mut [Exchange]) -> Result<(), SendError>;
    /// Makes held exchanges durable if it is time, or now if `force`.
    fn flush(&mut self, _force: bool) -> Result<(), SendError> {
        Ok(())
    }
    /// Reports exchanges that were taken but are not durable yet.
    fn held(&self, _held: &mut Held) {}
}

impl Endpoint {
    /// Configures the endpoint at `uri`; refuses unknown schemes and options by name.
    pub fn parse(uri: &Uri) -> Result<Self, RouteError> {
        Ok(match uri.scheme.as_str() {
            "kafka" => Self::Kafka(Arc::new(kafka::Config::parse(uri)?)),
            "log" => Self::Log(Arc::new(inner::LogConfig::parse(uri)?)),
            "direct" => {
                uri.only(&[])?;
                Self::Direct(Arc::from(inner::name(uri)?))
            }
            "seda" => Self::Seda(Arc::new(inner::SedaConfig::parse(uri)?)),
            "timer" => Self::Timer(Arc::new(inner::TimerConfig::parse(uri)?)),
            "file" => Self::File(Arc::new(file::Config::parse(uri)?)),
            "http" => Self::Http(Arc::new(http::Config::parse(uri)?)),
            "https" => {
                return Err(
                    uri.refuse("https is not in this build (no TLS): use http on loopback to a TLS proxy")
                );
            }
            "postgresql" => Self::PostgreSql(Arc::new(postgresql::Config::parse(uri)?)),
            "questdb" | "influxdb" => Self::LineProtocol(Arc::new(line_protocol::Config::parse(uri)?)),
            "sql" | "jdbc" => {
                return Err(uri.refuse(format!(
                    "{} is not supported: use postgresql:HOST:PORT/DB?table=…",
                    uri.scheme
                )));
            }
            "bean" | "class" | "exec" | "language" | "groovy" => {
                return Err(uri.refuse(format!("{} is refused: it runs code", uri.scheme)));
            }
            other => {
                return Err(uri.refuse(format!(
                    "unknown endpoint {}{}",
                    one_line(other),
                    hint(other, &SCHEMES)
                )));
            }
        })
    }

    /// Whether a route may begin here.
    pub fn is_source(&self) -> bool {
        matches!(self, Self::Kafka(_) | Self::Direct(_) | Self::Seda(_) | Self::Timer(_))
    }

    /// Whether a route may send here.
    pub fn is_sink(&self) -> bool {
        !matches!(self, Self::Timer(_))
    }

    /// Opens a sink. `direct` and `seda` have none: the runtime hands batches over itself.
    pub fn open(&self, doors: &Doors) -> Result<Box<dyn Sink>, SendError> {
        Ok(match self {
            Self::Kafka(config) => Box::new(kafka::KafkaSink::open(Arc::clone(config), doors)),
            Self::Log(config) => Box::new(inner::LogSink::new(Arc::clone(config))),
            Self::File(config) => file::open(config, doors)?,
            Self::Http(config) => Box::new(http::HttpSink::open(Arc::clone(config))),
            Self::PostgreSql(config) => Box::new(postgresql::PostgreSqlSink::open(Arc::clone(config))?),
            Self::LineProtocol(config) => {
                Box::new(line_protocol::LineProtocolSink::open(Arc::clone(config), Arc::clone(&doors.clock)))
            }
            Self::Direct(_) | Self::Seda(_) | Self::Timer(_) => {
                return Err(SendError::poison(None, "not a sink"));
            }
        })
    }
}

/// A text from file or environment that no log may show.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}
