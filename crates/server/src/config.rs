//! Configuration: one TOML file, every key also as an environment variable, unknown keys refused.
//!
//! ```toml
//! data = "./data"              # HERDSMAN_DATA
//! kafka = "127.0.0.1:9092"     # HERDSMAN_KAFKA
//! http = "127.0.0.1:8088"      # HERDSMAN_HTTP
//! bus = "embedded"             # HERDSMAN_BUS, or kafka://host:port,…
//! threads = 2                  # HERDSMAN_THREADS
//!
//! [[listeners]]                # more listeners for Kafka clients; with one, `kafka` is off unless it is set
//! address = "0.0.0.0:9093"
//! protocol = "SASL_SSL"        # PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL
//! certificate = "server.pem"
//! key = "server.key"
//!
//! [security]
//! authorizer = true            # ACLs decide
//! super_users = ["User:admin"]
//! [security.users.admin]
//! password_file = "admin.password"
//!
//! [caches.legacy]
//! url = "redis://127.0.0.1:6379"
//! p99_ms = 5
//! [caches.legacy.loaders.treasure]       # keys that begin with `treasure:`
//! sqlite = "hunt.sqlite"
//! table = "treasures"
//! key = "id"
//! value = "json_object('DROPPED', dropped, 'POINTS', points)"
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use herdsman_guard::Secret;
use serde::Deserialize;

use crate::error::ServerError;
use crate::nearest::{nearest, unreadable};
use crate::security::{ListenerConfig, SecuritySettings};

/// Everything `herdsman serve` can be told.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Data folder; made if missing.
    pub data: PathBuf,
    /// Address of the Kafka listener; none: no listener (an external bus needs none).
    pub kafka: Option<SocketAddr>,
    /// Address of the HTTP listener (ksql REST, metrics); none: no listener.
    pub http: Option<SocketAddr>,
    /// `embedded` or `kafka://host:port,…`.
    pub bus: String,
    /// Stream threads; 0 means one per core.
    pub threads: usize,
    /// Partitions of topics that are made without a number.
    pub partitions: i32,
    /// Configs of the embedded bus for topics that do not set them, in Kafka's words: `"retention.ms" = "3600000"`.
    pub topic_defaults: BTreeMap<String, String>,
    /// Serve without authentication on an address that is not loopback.
    pub allow_anonymous: bool,
    /// More listeners for Kafka clients.
    pub listeners: Vec<ListenerConfig>,
    /// Users, and who may do what.
    pub security: SecuritySettings,
    /// Legacy caches by the name that `CACHE='…'` gives in SQL.
    pub caches: BTreeMap<String, CacheConfig>,
    /// Camel YAML route files to run.
    pub routes: Vec<PathBuf>,
    /// Values of `{{name}}` in route files.
    pub properties: BTreeMap<String, String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("./data"),
            kafka: Some(SocketAddr::from(([127, 0, 0, 1], 9092))),
            http: Some(SocketAddr::from(([127, 0, 0, 1], 8088))),
            bus: "embedded".to_owned(),
            threads: 0,
            partitions: 4,
            topic_defaults: BTreeMap::new(),
            allow_anonymous: false,
            listeners: Vec::new(),
            security: SecuritySettings::default(),
            caches: BTreeMap::new(),
            routes: Vec::new(),
            properties: BTreeMap::new(),
        }
    }
}

/// A cache behind the guard. Batch size, linger and connections are not here: the guard chooses them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// `redis://…`, `memcached://…` or `embedded`.
    pub url: String,
    /// Objective: hold this p99 in milliseconds; none means as low as possible.
    pub p99_ms: Option<f64>,
    /// How long a value lives in the cache, seconds.
    pub ttl_s: u64,
    /// How long the near cache answers by itself, milliseconds.
    pub near_ttl_ms: u64,
    /// Entries of the near cache.
    pub near_entries: usize,
    /// The system of record: by key prefix (the text before the first `:`), where a miss is loaded from.
    pub loaders: BTreeMap<String, LoaderConfig>,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            url: "embedded".to_owned(),
            p99_ms: None,
            ttl_s: 300,
            near_ttl_ms: 5_000,
            near_entries: 65_536,
            loaders: BTreeMap::new(),
        }
    }
}

/// Where misses of one key prefix are loaded from: one of `sqlite`, `postgres` (both with table, key and value) and `http`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoaderConfig {
    /// SQLite file, relative to the data folder.
    pub sqlite: Option<PathBuf>,
    /// PostgreSQL's address, `postgres://user:password@host:port/database`.
    pub postgres: Option<Secret>,
    /// A web service, `http://host:port/path`: it gets `{"keys": […]}` by POST and answers an object from keys to values.
    pub http: Option<String>,
    /// Table.
    pub table: String,
    /// Key column.
    pub key: String,
    /// SQL expression that gives the value.
    pub value: String,
}

impl Config {
    /// Reads `path`, or the defaults if none, then the environment's `HERDSMAN_…`.
    pub fn load(path: Option<&Path>) -> Result<Self, ServerError> {
        let mut config = match path {
            None => Self::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| ServerError::NoConfig(unreadable(path, &error)))?;
                Self::parse(&text, &path.display().to_string())?
            }
        };
        config.environment(|name| std::env::var(name).ok())?;
        Ok(config)
    }

    /// Reads TOML text; `place` names it in errors.
    pub fn parse(text: &str, place: &str) -> Result<Self, ServerError> {
        let refused = |error: toml::de::Error| ServerError::Config {
            place: place.to_owned(),
            reason: with_hint(error.message()),
        };
        let mut config: Self = toml::from_str(text).map_err(refused)?;
        // who names listeners wants those, and no open one beside them
        let table: toml::Table = toml::from_str(text).map_err(refused)?;
        if !config.listeners.is_empty() && !table.contains_key("kafka") {
            config.kafka = None;
        }
        Ok(config)
    }

    fn environment(&mut self, get: impl Fn(&str) -> Option<String>) -> Result<(), ServerError> {
        let refused = |name: &str, value: &str| ServerError::Config {
            place: format!("environment variable {name}"),
            reason: format!("{value} cannot be read"),
        };
        if let Some(value) = get("HERDSMAN_DATA") {
            self.data = value.into();
        }
        if let Some(value) = get("HERDSMAN_BUS") {
            self.bus = value;
        }
        for (name, place) in [("HERDSMAN_KAFKA", &mut self.kafka), ("HERDSMAN_HTTP", &mut self.http)] {
            if let Some(value) = get(name) {
                *place = Some(value.parse().map_err(|_| refused(name, &value))?);
            }
        }
        if let Some(value) = get("HERDSMAN_THREADS") {
            self.threads = value.parse().map_err(|_| refused("HERDSMAN_THREADS", &value))?;
        }
        if let Some(value) = get("HERDSMAN_ALLOW_ANONYMOUS") {
            self.allow_anonymous = value.parse().map_err(|_| refused("HERDSMAN_ALLOW_ANONYMOUS", &value))?;
        }
        Ok(())
    }

    /// Stream threads to start.
    #[must_use]
    pub fn thread_count(&self) -> usize {
        if self.threads > 0 {
            return self.threads;
        }
        std::thread::available_parallelism().map_or(1, usize::from)
    }
}

/// Adds the nearest known key to serde's "unknown field" sentence.
fn with_hint(message: &str) -> String {
    let mut ticked = message.split('`').skip(1).step_by(2);
    let Some(unknown) = ticked.next().filter(|_| message.starts_with("unknown field")) else {
        return message.to_owned();
    };
    let known: Vec<String> = ticked.map(str::to_owned).collect();
    nearest(unknown, known).map_or_else(
        || format!("unknown key {unknown}"),
        |known| format!("unknown key {unknown}: did you mean {known}?"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_one() {
        let error = Config::parse("kakfa = \"127.0.0.1:1\"", "herdsman.toml").unwrap_err();
        assert_eq!(error.to_string(), "herdsman.toml: unknown key kakfa: did you mean kafka?");
    }

    #[test]
    fn the_environment_wins_over_the_file_and_open_addresses_are_refused() {
        let mut config = Config::parse("kafka = \"127.0.0.1:1\"", "herdsman.toml").unwrap();
        config.environment(|name| (name == "HERDSMAN_KAFKA").then(|| "0.0.0.0:9092".to_owned())).unwrap();
        assert!(matches!(config.check_addresses(), Err(ServerError::OpenAddress(_))));
        config.allow_anonymous = true;
        config.check_addresses().unwrap();
    }
}
