//! Settings of share groups: the broker's limits, and what each group may set for itself.

use std::collections::BTreeMap;

use crate::BrokerError;

/// Limits of the broker, named as Kafka names them.
#[derive(Debug, Clone)]
pub struct ShareConfig {
    /// `group.share.session.timeout.ms`.
    pub session_timeout_ms: u64,
    /// `group.share.heartbeat.interval.ms`.
    pub heartbeat_interval_ms: i32,
    /// `group.share.record.lock.duration.ms`.
    pub record_lock_ms: u64,
    /// `group.share.delivery.count.limit`.
    pub delivery_count_limit: i16,
    /// `group.share.partition.max.record.locks`: records between start and end of a share partition.
    pub record_locks_max: i64,
    /// `group.share.max.share.sessions`.
    pub sessions_max: usize,
    /// `group.share.max.size`.
    pub max_size: usize,
}

impl Default for ShareConfig {
    fn default() -> Self {
        Self {
            session_timeout_ms: 45_000,
            heartbeat_interval_ms: 5_000,
            record_lock_ms: 30_000,
            delivery_count_limit: 5,
            record_locks_max: 2_000,
            sessions_max: 2_000,
            max_size: 200,
        }
    }
}

/// Where a partition begins that the group has not read yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// At the next record written.
    Latest,
    /// At the first record there is.
    Earliest,
    /// At the first record that is at most so many ms old.
    ByDuration(i64),
}

/// How one group is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareSettings {
    /// `share.session.timeout.ms`.
    pub session_timeout_ms: u64,
    /// `share.heartbeat.interval.ms`.
    pub heartbeat_interval_ms: i32,
    /// `share.record.lock.duration.ms`.
    pub record_lock_ms: u64,
    /// `share.delivery.count.limit`.
    pub delivery_count_limit: i16,
    /// `share.partition.max.record.locks`.
    pub record_locks_max: i64,
    /// `share.renew.acknowledge.enable`.
    pub may_renew: bool,
    /// `share.isolation.level` is `read_committed`.
    pub is_committed: bool,
    /// `share.auto.offset.reset`.
    pub reset: Reset,
}

/// A config of a group.
pub(crate) struct GroupConfigKey {
    pub(crate) name: &'static str,
    /// Number that DescribeConfigs gives its type.
    pub(crate) kind: i8,
    /// Smallest and largest value, for numbers.
    range: (i64, i64),
}

const fn number(name: &'static str, low: i64, high: i64) -> GroupConfigKey {
    GroupConfigKey { name, kind: 3, range: (low, high) }
}

const fn word(name: &'static str, kind: i8) -> GroupConfigKey {
    GroupConfigKey { name, kind, range: (0, 0) }
}

/// Every config a group may set. Source: `GroupConfig` of Apache Kafka 4.3.
pub(crate) const GROUP_CONFIGS: [GroupConfigKey; 8] = [
    number("share.session.timeout.ms", 45_000, 60_000),
    number("share.heartbeat.interval.ms", 5_000, 15_000),
    number("share.record.lock.duration.ms", 15_000, 60_000),
    number("share.delivery.count.limit", 2, 10),
    number("share.partition.max.record.locks", 100, 10_000),
    word("share.renew.acknowledge.enable", 1),
    word("share.isolation.level", 2),
    word("share.auto.offset.reset", 2),
];

impl GroupConfigKey {
    /// Whether `value` may be set.
    fn check(&self, value: &str) -> Result<(), BrokerError> {
        let (low, high) = self.range;
        let fits = match self.name {
            "share.renew.acknowledge.enable" => matches!(value, "true" | "false"),
            "share.isolation.level" => matches!(value, "read_committed" | "read_uncommitted"),
            "share.auto.offset.reset" => parse_reset(value).is_some(),
            _ => value.parse().is_ok_and(|number: i64| (low..=high).contains(&number)),
        };
        let allowed = match self.name {
            "share.renew.acknowledge.enable" => "true or false".to_owned(),
            "share.isolation.level" => "read_committed or read_uncommitted".to_owned(),
            "share.auto.offset.reset" => "latest, earliest or by_duration:PT1H".to_owned(),
            _ => format!("{low} to {high}"),
        };
        if fits {
            Ok(())
        } else {
            Err(BrokerError::InvalidConfig(format!("{}={value}: use {allowed}", self.name)))
        }
    }
}

/// Checks what a group is to set. Errors: an unknown name, a value that is not allowed.
pub(crate) fn check_group_configs(configs: &BTreeMap<String, String>) -> Result<(), BrokerError> {
    for (name, value) in configs {
        let key = GROUP_CONFIGS.iter().find(|key| key.name == name).ok_or_else(|| {
            let known: Vec<&str> = GROUP_CONFIGS.iter().map(|key| key.name).collect();
            BrokerError::InvalidConfig(format!("groups have no config {name}: use {}", known.join(", ")))
        })?;
        key.check(value)?;
    }
    Ok(())
}

fn parse_reset(value: &str) -> Option<Reset> {
    match value {
        "latest" => Some(Reset::Latest),
        "earliest" => Some(Reset::Earliest),
        _ => value.strip_prefix("by_duration:").and_then(duration_ms).map(Reset::ByDuration),
    }
}

/// Milliseconds of an ISO-8601 duration of days, hours, minutes and seconds, such as `P1DT2H` or `PT0.5S`.
fn duration_ms(text: &str) -> Option<i64> {
    let text = text.strip_prefix('P')?;
    let (days, time) = text.split_once('T').unwrap_or((text, ""));
    let mut ms = 0.0;
    let mut any = false;
    for (mut rest, units) in [(days, &[('D', 86_400_000.0)][..]), (time, &UNITS[..])] {
        for (unit, factor) in units {
            if let Some((amount, behind)) = rest.split_once(*unit) {
                let amount: f64 = amount.parse().ok()?;
                ms += amount * factor;
                any = true;
                rest = behind;
            }
        }
        if !rest.is_empty() {
            return None;
        }
    }
    let is_fine = any && ms.is_finite() && ms >= 0.0;
    #[expect(clippy::cast_possible_truncation, reason = "a cast of floats saturates")]
    is_fine.then_some(ms as i64)
}

const UNITS: [(char, f64); 3] = [('H', 3_600_000.0), ('M', 60_000.0), ('S', 1_000.0)];

impl ShareConfig {
    /// How a group with these configs is read.
    #[must_use]
    pub fn settings(&self, set: Option<&BTreeMap<String, String>>) -> ShareSettings {
        let text = |name: &str| set.and_then(|set| set.get(name)).map(String::as_str);
        fn parsed<T: std::str::FromStr>(text: Option<&str>, otherwise: T) -> T {
            text.and_then(|text| text.parse().ok()).unwrap_or(otherwise)
        }
        ShareSettings {
            session_timeout_ms: parsed(text("share.session.timeout.ms"), self.session_timeout_ms),
            heartbeat_interval_ms: parsed(text("share.heartbeat.interval.ms"), self.heartbeat_interval_ms),
            record_lock_ms: parsed(text("share.record.lock.duration.ms"), self.record_lock_ms),
            delivery_count_limit: parsed(text("share.delivery.count.limit"), self.delivery_count_limit),
            record_locks_max: parsed(text("share.partition.max.record.locks"), self.record_locks_max),
            may_renew: parsed(text("share.renew.acknowledge.enable"), true),
            is_committed: text("share.isolation.level") == Some("read_committed"),
            reset: text("share.auto.offset.reset").and_then(parse_reset).unwrap_or(Reset::Latest),
        }
    }

    /// The value of a config as it stands.
    pub(crate) fn value(&self, name: &str, set: Option<&BTreeMap<String, String>>) -> String {
        if let Some(value) = set.and_then(|set| set.get(name)) {
            return value.clone();
        }
        match name {
            "share.session.timeout.ms" => self.session_timeout_ms.to_string(),
            "share.heartbeat.interval.ms" => self.heartbeat_interval_ms.to_string(),
            "share.record.lock.duration.ms" => self.record_lock_ms.to_string(),
            "share.delivery.count.limit" => self.delivery_count_limit.to_string(),
            "share.partition.max.record.locks" => self.record_locks_max.to_string(),
            "share.renew.acknowledge.enable" => "true".to_owned(),
            "share.isolation.level" => "read_uncommitted".to_owned(),
            _ => "latest".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configs_of_a_group_are_checked_and_go_before_the_brokers() {
        let set = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        for (value, reset) in [
            ("earliest", Reset::Earliest),
            ("by_duration:P1DT2H", Reset::ByDuration(93_600_000)),
            ("by_duration:PT0.5S", Reset::ByDuration(500)),
        ] {
            let set = set("share.auto.offset.reset", value);
            check_group_configs(&set).unwrap();
            assert_eq!(ShareConfig::default().settings(Some(&set)).reset, reset);
        }
        for (name, value, told) in [
            ("share.auto.offset.reset", "by_duration:1H", "use latest, earliest or"),
            ("share.auto.offset.reset", "by_duration:PT", "use latest, earliest or"),
            ("share.record.lock.duration.ms", "1", "use 15000 to 60000"),
            ("consumer.session.timeout.ms", "45000", "groups have no config consumer.session.timeout.ms"),
        ] {
            let error = check_group_configs(&set(name, value)).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
