//! Settings of the log, and the topic configs it knows, in Kafka's words.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use herdsman_host::Seed;

use crate::LogError;

/// Settings of a whole log; the per-topic ones are defaults that a topic's configs override.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// Memory for the tails of all partitions together while somebody in this process reads, bytes.
    pub tail_bytes_max: usize,
    /// Size of one of the two journal files of atomic appends, bytes; one larger entry still fits.
    pub journal_bytes_max: u64,
    /// Default topic configs (Kafka's keys), for example `segment.bytes`.
    pub topic_defaults: BTreeMap<String, String>,
    /// Program name written into the lock file.
    pub program: String,
    /// Source of topic ids.
    pub seed: Seed,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            tail_bytes_max: 64 << 20,
            journal_bytes_max: 32 << 20,
            topic_defaults: BTreeMap::new(),
            program: "herdsman".to_owned(),
            seed: Seed::from_entropy(),
        }
    }
}

/// What values a topic config takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigKind {
    /// A whole number between two bounds, both allowed.
    Number(i64, i64),
    /// A number between 0 and 1.
    Ratio,
    /// `true` or `false`.
    Bool,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A comma-separated list of these words.
    ListOf(&'static [&'static str]),
    /// Any text.
    Text,
}

/// A topic config: its name, values, default and meaning.
#[derive(Debug, Clone, Copy)]
pub struct ConfigKey {
    /// Kafka's name, or `herdsman.…`.
    pub name: &'static str,
    /// Values it takes.
    pub kind: ConfigKind,
    /// Value when not set.
    pub default: &'static str,
    /// One sentence for `DescribeConfigs`.
    pub doc: &'static str,
}

const I64: ConfigKind = ConfigKind::Number(0, i64::MAX);
const I32: ConfigKind = ConfigKind::Number(0, i32::MAX as i64);
const UNBOUNDED: ConfigKind = ConfigKind::Number(-1, i64::MAX);
const MAX: &str = "9223372036854775807";

const fn key(name: &'static str, kind: ConfigKind, default: &'static str, doc: &'static str) -> ConfigKey {
    ConfigKey { name, kind, default, doc }
}

/// Every topic config, sorted by name.
pub const TOPIC_CONFIGS: &[ConfigKey] = &[
    key(
        "cleanup.policy",
        ConfigKind::ListOf(&["delete", "compact"]),
        "delete",
        "What happens to old segments.",
    ),
    key(
        "compression.type",
        ConfigKind::OneOf(&["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]),
        "producer",
        "Codec of stored batches; only what the producer sent is stored.",
    ),
    key("delete.retention.ms", I64, "86400000", "How long tombstones of a compacted topic stay."),
    key("file.delete.delay.ms", I64, "60000", "Accepted for Kafka's tools; files are deleted at once."),
    key(
        "flush.messages",
        ConfigKind::Number(1, i64::MAX),
        MAX,
        "Records after which an append waits for a sync.",
    ),
    key("flush.ms", I64, "1000", "Longest time records stay unsynced: what a power cut can lose."),
    key(
        "herdsman.dedupe.memory.bytes",
        I64,
        "285212672",
        "Memory for remembered event ids; the oldest go first.",
    ),
    key("herdsman.dedupe.window.ms", I64, "0", "How long an event id is remembered; 0: not at all."),
    key(
        "herdsman.event.id",
        ConfigKind::Text,
        "",
        "Field of the value that holds the event id; empty: header event-id.",
    ),
    key(
        "herdsman.page.cache.bytes",
        UNBOUNDED,
        "-1",
        "Newest bytes of a partition that the system's page cache holds once they are synced; -1: no limit.",
    ),
    key("herdsman.priority", ConfigKind::Number(0, 9), "5", "Shed last at 9, first at 0."),
    key("index.interval.bytes", I32, "4096", "Bytes between two index entries."),
    key("max.compaction.lag.ms", I64, MAX, "Longest time a record stays uncompacted."),
    key("max.message.bytes", I32, "1048588", "Largest record batch accepted."),
    key("message.timestamp.after.max.ms", I64, "3600000", "How far ahead of the clock a timestamp may be."),
    key("message.timestamp.before.max.ms", I64, MAX, "How far behind the clock a timestamp may be."),
    key(
        "message.timestamp.type",
        ConfigKind::OneOf(&["CreateTime", "LogAppendTime"]),
        "CreateTime",
        "Whose time a record carries.",
    ),
    key("min.cleanable.dirty.ratio", ConfigKind::Ratio, "0.5", "Uncompacted share that starts compaction."),
    key("min.compaction.lag.ms", I64, "0", "Shortest time a record stays uncompacted."),
    key("min.insync.replicas", ConfigKind::Number(1, 1), "1", "There is one replica."),
    key("preallocate", ConfigKind::Bool, "false", "Accepted for Kafka's tools."),
    key("retention.bytes", UNBOUNDED, "-1", "Size of a partition above which old segments go; -1: no limit."),
    key("retention.ms", UNBOUNDED, "604800000", "Age at which old segments go; -1: never."),
    key(
        "segment.bytes",
        ConfigKind::Number(1024, i32::MAX as i64),
        "1073741824",
        "Size at which a segment is full.",
    ),
    key("segment.index.bytes", I32, "10485760", "Accepted for Kafka's tools; indexes grow as needed."),
    key("segment.jitter.ms", I64, "0", "Accepted for Kafka's tools."),
    key(
        "segment.ms",
        ConfigKind::Number(1, i64::MAX),
        "604800000",
        "Age at which a segment is closed though not full.",
    ),
    key("unclean.leader.election.enable", ConfigKind::Bool, "false", "There is one replica."),
];

/// The configs of one topic that the log itself obeys.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TopicConfig {
    pub(crate) segment_bytes: u64,
    pub(crate) segment_ms: i64,
    pub(crate) index_interval_bytes: u64,
    pub(crate) retention_ms: Option<i64>,
    pub(crate) retention_bytes: Option<u64>,
    pub(crate) delete: bool,
    pub(crate) compact: bool,
    pub(crate) delete_retention_ms: i64,
    pub(crate) min_cleanable_dirty_ratio: f64,
    pub(crate) min_compaction_lag_ms: i64,
    pub(crate) max_compaction_lag_ms: i64,
    pub(crate) flush_messages: i64,
    pub(crate) flush_ms: i64,
    pub(crate) page_cache_bytes: Option<u64>,
}

static KNOWN: LazyLock<BTreeMap<&'static str, &'static ConfigKey>> =
    LazyLock::new(|| TOPIC_CONFIGS.iter().map(|key| (key.name, key)).collect());

/// The effective value of `key`: the topic's, else the log's default, else Kafka's.
pub(crate) fn effective(
    set: &BTreeMap<String, String>,
    defaults: &BTreeMap<String, String>,
    key: &str,
) -> Option<String> {
    let known = KNOWN.get(key)?;
    Some(set.get(key).or_else(|| defaults.get(key)).map_or_else(|| known.default.to_owned(), Clone::clone))
}

/// Checks every key and value. Errors: [`LogError::UnknownConfig`], [`LogError::InvalidConfig`].
pub fn check_configs(configs: &BTreeMap<String, String>) -> Result<(), LogError> {
    for (name, value) in configs {
        let Some(key) = KNOWN.get(name.as_str()) else {
            return Err(LogError::UnknownConfig {
                key: name.clone(),
                nearest: nearest(name, KNOWN.keys().copied()),
            });
        };
        check_value(key, value)?;
    }
    Ok(())
}

fn check_value(key: &ConfigKey, value: &str) -> Result<(), LogError> {
    let refuse =
        |expected: String| Err(LogError::InvalidConfig { key: key.name, value: value.to_owned(), expected });
    match key.kind {
        ConfigKind::Number(low, high) => match value.parse::<i64>() {
            Ok(number) if (low..=high).contains(&number) => Ok(()),
            _ => refuse(format!("a whole number from {low} to {high}")),
        },
        ConfigKind::Ratio => match value.parse::<f64>() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(()),
            _ => refuse("a number from 0 to 1".to_owned()),
        },
        ConfigKind::Bool if matches!(value, "true" | "false") => Ok(()),
        ConfigKind::Bool => refuse("true or false".to_owned()),
        ConfigKind::OneOf(words) if words.contains(&value) => Ok(()),
        ConfigKind::OneOf(words) => refuse(format!("one of {}", words.join(", "))),
        ConfigKind::ListOf(words) if value.split(',').all(|word| words.contains(&word.trim())) => Ok(()),
        ConfigKind::ListOf(words) => refuse(format!("a list of {}", words.join(", "))),
        ConfigKind::Text => Ok(()),
    }
}

impl TopicConfig {
    /// The values in force for a topic whose own configs are `set`.
    pub(crate) fn new(set: &BTreeMap<String, String>, defaults: &BTreeMap<String, String>) -> Self {
        let number = |key: &str| {
            effective(set, defaults, key).and_then(|value| value.parse::<i64>().ok()).unwrap_or(-1)
        };
        let bytes = |key: &str| u64::try_from(number(key)).ok();
        Self {
            segment_bytes: bytes("segment.bytes").unwrap_or(1 << 30),
            segment_ms: number("segment.ms"),
            index_interval_bytes: bytes("index.interval.bytes").unwrap_or(4096),
            retention_ms: Some(number("retention.ms")).filter(|ms| *ms >= 0),
            retention_bytes: bytes("retention.bytes"),
            delete: effective(set, defaults, "cleanup.policy")
                .is_some_and(|policy| policy.contains("delete")),
            compact: effective(set, defaults, "cleanup.policy")
                .is_some_and(|policy| policy.contains("compact")),
            delete_retention_ms: number("delete.retention.ms"),
            min_cleanable_dirty_ratio: effective(set, defaults, "min.cleanable.dirty.ratio")
                .and_then(|value| value.parse().ok())
                .unwrap_or(0.5),
            min_compaction_lag_ms: number("min.compaction.lag.ms"),
            max_compaction_lag_ms: number("max.compaction.lag.ms"),
            flush_messages: number("flush.messages"),
            flush_ms: number("flush.ms"),
            page_cache_bytes: bytes("herdsman.page.cache.bytes"),
        }
    }

    /// Whether every append waits for its sync, so that readers see only what is durable.
    pub(crate) fn is_strict(&self) -> bool {
        self.flush_messages <= 1
    }
}

/// The nearest of `known` to `name`, if it is near enough to be a slip of the finger.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let limit = name.len() / 3 + 1;
    known
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(d, _)| *d <= limit)
        .min()
        .map(|(_, c)| c)
}

/// Edits (insert, delete, replace) between two names.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (slot, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let up = *slot;
            let best = (diagonal + usize::from(x != y)).min(up + 1).min(left + 1);
            diagonal = up;
            left = best;
            *slot = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_keys_and_wrong_values_are_refused_with_what_was_meant() {
        let refused = |key: &str, value: &str| {
            check_configs(&BTreeMap::from([(key.to_owned(), value.to_owned())])).unwrap_err().to_string()
        };
        assert_eq!(
            refused("retention.sm", "1"),
            "unknown topic config retention.sm: did you mean retention.ms?"
        );
        assert_eq!(refused("colour", "red"), "unknown topic config colour");
        assert_eq!(
            refused("flush.messages", "0"),
            "topic config flush.messages=0 is refused: a whole number from 1 to 9223372036854775807"
        );
        assert_eq!(
            refused("cleanup.policy", "compact,burn"),
            "topic config cleanup.policy=compact,burn is refused: a list of delete, compact"
        );
        for key in TOPIC_CONFIGS {
            check_value(key, key.default).unwrap();
        }
        assert!(TOPIC_CONFIGS.is_sorted_by_key(|key| key.name));
    }
}
