//! Which clusters, which topics.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

/// What is mirrored between which clusters.
///
/// ```
/// let config = herdsman_mirror::MirrorConfig::from_toml(r#"
///     topics = ["hunt-*"]
///     [clusters.helsinki]
///     bootstrap = "127.0.0.1:9092"
///     [clusters.paris]
///     bootstrap = "127.0.0.1:9192"
/// "#)?;
/// assert!(config.wants("hunt-finds") && !config.wants("__consumer_offsets"));
/// # Ok::<(), herdsman_mirror::ConfigError>(())
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorConfig {
    /// Clusters by name; each is mirrored to all others.
    pub clusters: BTreeMap<String, ClusterConfig>,
    /// Topics to mirror; `*` stands for any characters. All but internal ones, if absent.
    #[serde(default = "all_topics")]
    pub topics: Vec<String>,
    /// Topics left out, even if `topics` names them.
    #[serde(default)]
    pub exclude: Vec<String>,
}

/// How to reach a cluster. `Debug` names the properties but never their values, which may be secrets.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// `host:port`, several separated by commas.
    pub bootstrap: String,
    /// More client settings (`security.protocol`, `sasl.username` …).
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
}

impl fmt::Debug for ClusterConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterConfig")
            .field("bootstrap", &self.bootstrap)
            .field("properties", &self.properties.keys().collect::<Vec<_>>())
            .finish()
    }
}

/// A mirror configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not TOML, or unknown or missing keys.
    #[error("mirror configuration: {0}")]
    Toml(String),
    /// A mirror needs two ends.
    #[error("mirror configuration: {0} cluster named under [clusters], at least 2 are needed")]
    TooFew(usize),
    /// Names become parts of group names and headers.
    #[error("mirror configuration: cluster name {0:?} may hold letters, digits, - and _ only, at most 64")]
    Name(String),
    /// Two names for one cluster would make a loop.
    #[error("mirror configuration: clusters {0} and {1} have the same address {2}")]
    SameAddress(String, String, String),
}

fn all_topics() -> Vec<String> {
    vec!["*".to_owned()]
}

impl MirrorConfig {
    /// Reads a configuration. Errors: see [`ConfigError`].
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::Toml(one_line(&error, text)))?;
        if config.clusters.len() < 2 {
            return Err(ConfigError::TooFew(config.clusters.len()));
        }
        let mut addresses: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, cluster) in &config.clusters {
            let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            if name.is_empty() || name.len() > 64 || !name.bytes().all(fine) {
                return Err(ConfigError::Name(name.clone()));
            }
            if let Some(other) = addresses.insert(&cluster.bootstrap, name) {
                return Err(ConfigError::SameAddress(
                    other.to_owned(),
                    name.clone(),
                    cluster.bootstrap.clone(),
                ));
            }
        }
        Ok(config)
    }

    /// Whether a topic is mirrored. Topics that begin with `_` (internal ones) only if they are named without `*`.
    #[must_use]
    pub fn wants(&self, topic: &str) -> bool {
        let named = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, topic));
        if topic.starts_with('_') {
            return self.topics.iter().any(|pattern| pattern == topic);
        }
        named(&self.topics) && !named(&self.exclude)
    }
}

/// The parser's message and its line, without its drawing.
fn one_line(error: &toml::de::Error, text: &str) -> String {
    let line = error.span().map(|span| text.get(..span.start).unwrap_or_default().matches('\n').count() + 1);
    let message = error.message().replace('\n', " ");
    match line {
        Some(line) => format!("line {line}: {message}"),
        None => message,
    }
}

/// Whether `text` matches `pattern`, in which `*` stands for any characters.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let tail = parts.pop().unwrap_or_default();
    for part in parts {
        match text.find(part) {
            Some(at) => text = text.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    text.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_people_expect() {
        for (pattern, text, expected) in [
            ("hunt-*", "hunt-finds", true),
            ("hunt-*", "other", false),
            ("*", "x", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b", "ab-", false),
            ("ab*ba", "aba", false),
            ("finds", "finds", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn mistakes_are_named_in_one_line() {
        let refused = |text: &str| MirrorConfig::from_toml(text).unwrap_err().to_string();
        assert_eq!(
            refused("[clusters.a]\nbootstrap = \"h:1\"\n"),
            "mirror configuration: 1 cluster named under [clusters], at least 2 are needed"
        );
        let same = "[clusters.a]\nbootstrap = \"h:1\"\n[clusters.b]\nbootstrap = \"h:1\"\n";
        assert_eq!(refused(same), "mirror configuration: clusters a and b have the same address h:1");
        let unknown = refused("topic = [\"x\"]\n[clusters.a]\nbootstrap = \"h:1\"\n");
        assert!(unknown.starts_with("mirror configuration: line 1: unknown field `topic`"), "{unknown}");
    }
}
