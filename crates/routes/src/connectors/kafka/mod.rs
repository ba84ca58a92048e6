//! `kafka:TOPIC`: the bus of this process, whichever it is (embedded, memory or a real cluster).
//!
//! As a source: at least once. The route reads every partition of the topic as group `groupId` (default: the
//! route id) and commits a partition's offset only after every record below it was delivered, filtered out or put
//! on the dead-letter topic. As a sink: at least once, in order per key; the record keeps headers (so its
//! `event-id`, by which the bus drops repeats where the topic asks for it), timestamp and key.
//!
//! Options: `groupId`, `autoOffsetReset` (`earliest`, unlike Kafka, or `latest`), `maxPollRecords` (5000) for a
//! source; `key`, `partitions` (of a topic made on first use, 1) for a sink; `brokers` is taken and not used: the
//! bus is chosen by `--bus`.

mod sink;

pub(crate) use sink::KafkaSink;

use std::sync::Arc;

use crate::error::{RouteError, one_line};
use crate::model::uri::Uri;

/// `kafka:` options.
#[derive(Debug)]
pub(crate) struct Config {
    pub topic: Arc<str>,
    pub group: Option<String>,
    pub from_latest: bool,
    pub records_max: usize,
    pub key: Option<String>,
    pub partitions: i32,
}

impl Config {
    pub fn parse(uri: &Uri) -> Result<Self, RouteError> {
        uri.only(&["brokers", "groupId", "autoOffsetReset", "maxPollRecords", "key", "partitions", "topic"])?;
        let topic =
            if uri.path.is_empty() { uri.get("topic").unwrap_or_default() } else { uri.path.as_str() };
        let valid = |found: char| found.is_ascii_alphanumeric() || "._-".contains(found);
        if topic.is_empty() || topic.len() > 249 || matches!(topic, "." | "..") || !topic.chars().all(valid) {
            let reason = format!("topic name {} is refused: 1 to 249 of a-z A-Z 0-9 . _ -", one_line(topic));
            return Err(uri.refuse(reason));
        }
        Ok(Self {
            topic: Arc::from(topic),
            group: uri.get("groupId").map(str::to_owned),
            from_latest: uri.one_of("autoOffsetReset", &["earliest", "latest"])? == "latest",
            records_max: uri.number("maxPollRecords", 5000_usize)?.clamp(1, 100_000),
            key: uri.get("key").map(str::to_owned),
            partitions: uri.number("partitions", 1_i32)?.clamp(1, 1000),
        })
    }
}

impl Config {
    /// A sink into `topic` with the defaults.
    pub fn to_topic(topic: &str) -> Self {
        Self {
            topic: Arc::from(topic),
            group: None,
            from_latest: false,
            records_max: 5000,
            key: None,
            partitions: 1,
        }
    }
}
