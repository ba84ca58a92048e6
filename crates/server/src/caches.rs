//! Legacy caches behind the guard: from configuration to what SQL's cache-backed tables ask.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use herdsman_guard::http::HttpLoader;
use herdsman_guard::postgres::PostgresLoader;
use herdsman_guard::sqlite::SqliteLoader;
use herdsman_guard::{CacheUrl, Guard, GuardConfig, LoadError, Loader, Objective};
use herdsman_host::Clock;

use crate::config::{CacheConfig, LoaderConfig};
use crate::error::ServerError;

/// A web service that takes longer is given up.
const HTTP_MAX: Duration = Duration::from_secs(10);

/// The systems of record of one cache, by key prefix: `treasure:15706:JFK` is loaded as `15706:JFK` from the loader
/// called `treasure`.
struct Prefixed {
    loaders: Vec<(String, Box<dyn Loader>)>,
}

impl Loader for Prefixed {
    fn load(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, LoadError> {
        let mut found = vec![None; keys.len()];
        for (prefix, loader) in &self.loaders {
            let mut places = Vec::new();
            let mut asked = Vec::new();
            for (place, key) in keys.iter().enumerate() {
                if let Some(rest) = key.strip_prefix(prefix.as_bytes()) {
                    places.push(place);
                    asked.push(key.slice(key.len() - rest.len()..));
                }
            }
            if asked.is_empty() {
                continue;
            }
            for (place, value) in places.into_iter().zip(loader.load(&asked)?) {
                if let Some(slot) = found.get_mut(place) {
                    *slot = value;
                }
            }
        }
        Ok(found)
    }
}

fn loader(config: &LoaderConfig, data: &Path) -> Result<Box<dyn Loader>, String> {
    let LoaderConfig { sqlite, postgres, http, table, key, value } = config;
    match (sqlite, postgres, http) {
        (Some(file), None, None) => SqliteLoader::open(data.join(file), table, key, value)
            .map(|loader| Box::new(loader) as Box<dyn Loader>)
            .map_err(|error| error.to_string()),
        (None, Some(url), None) => PostgresLoader::open(url.expose(), table, key, value)
            .map(|loader| Box::new(loader) as Box<dyn Loader>)
            .map_err(|error| error.to_string()),
        (None, None, Some(url)) => HttpLoader::open(url, HTTP_MAX)
            .map(|loader| Box::new(loader) as Box<dyn Loader>)
            .map_err(|error| error.to_string()),
        _ => Err("write one of sqlite, postgres and http".into()),
    }
}

/// Opens the guard of cache `name`.
pub(crate) fn open(
    name: &str,
    config: &CacheConfig,
    data: &Path,
    clock: &Arc<dyn Clock>,
) -> Result<Guard, ServerError> {
    let refused = |reason: String| ServerError::Cache { name: name.to_owned(), reason };
    let cache: CacheUrl = CacheUrl::parse(&config.url).map_err(|error| refused(error.to_string()))?;
    let mut loaders = Vec::new();
    for (prefix, config) in &config.loaders {
        let loader = loader(config, data).map_err(|error| refused(format!("loader {prefix}: {error}")))?;
        loaders.push((format!("{prefix}:"), loader));
    }
    let guard = GuardConfig {
        cache,
        objective: config.p99_ms.map_or(Objective::AsLowAsPossible, |ms| {
            Objective::P99(Duration::from_secs_f64(ms.clamp(0.01, 60_000.0) / 1e3))
        }),
        ttl: Duration::from_secs(config.ttl_s),
        near_ttl: Duration::from_millis(config.near_ttl_ms),
        near_capacity: config.near_entries,
        ..GuardConfig::default()
    };
    Guard::open(guard, Arc::new(Prefixed { loaders }), Arc::clone(clock))
        .map_err(|error| refused(error.to_string()))
}
