//! Routes: Apache Camel's YAML DSL, run by Rust on batches of records.
//!
//! ```text
//! YAML → model (positions kept) → source → steps on batches → sinks
//!                                    │          └ failed: onException, dead letters
//!                                    └ offsets committed after delivery: at least once
//! ```
//!
//! ```
//! use std::collections::BTreeMap;
//! let text = "- from:\n    uri: kafka:finds\n    steps:\n      - fliter:\n          simple: '${body.points} > 5'\n";
//! let error = herdsman_routes::RouteSet::parse("finds.yaml", text, &BTreeMap::new()).err().expect("refused");
//! assert_eq!(error.to_string(), "finds.yaml:4:9: unknown step fliter: did you mean filter?");
//! ```
//!
//! Rooms: `yaml` (text to tree), `properties` (`{{…}}`), `model` (routes, steps, addresses), `language` (simple,
//! jsonpath), `connectors` (a folder each, its guarantee in its doc), `runtime` (threads, delivery, commits).
//! What Camel has and this does not is refused by name when the file is read.

mod connectors;
mod error;
mod exchange;
mod language;
mod model;
mod properties;
mod runtime;
mod yaml;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use connectors::Endpoint;
use model::Route;

pub use error::{Place, RouteError};
pub use runtime::{RouteStats, RoutesHandle, run};

/// Headers of a record on a dead-letter topic.
pub mod dead_letter {
    pub use crate::runtime::{
        DEAD_LETTER_OFFSET, DEAD_LETTER_PARTITION, DEAD_LETTER_REASON, DEAD_LETTER_ROUTE, DEAD_LETTER_TOPIC,
    };
}

/// Bytes of a route file at most.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Routes that were read and found sound.
pub struct RouteSet {
    routes: Vec<Route>,
    root: PathBuf,
}

impl RouteSet {
    /// Reads one file. `properties` resolve `{{name}}`.
    ///
    /// # Errors
    /// [`RouteError::File`] if it cannot be read, [`RouteError::At`] with the place of the first thing refused.
    pub fn load(file: &Path, properties: &BTreeMap<String, String>) -> Result<Self, RouteError> {
        Self::load_all(&[file.to_owned()], properties)
    }

    /// Reads several files as one set: `direct` and `seda` names are shared, route ids are unique.
    pub fn load_all(files: &[PathBuf], properties: &BTreeMap<String, String>) -> Result<Self, RouteError> {
        let mut routes = Vec::new();
        for file in files {
            let shown: Arc<str> = file.to_string_lossy().into();
            let refused = |reason: String| RouteError::File { file: shown.to_string(), reason };
            let data = std::fs::metadata(file).map_err(|error| refused(missing(file, &error)))?;
            if !data.is_file() || data.len() > FILE_BYTES_MAX {
                return Err(refused(format!("not a plain file of at most {FILE_BYTES_MAX} bytes")));
            }
            let text = std::fs::read_to_string(file).map_err(|error| refused(error.to_string()))?;
            routes.extend(model::parse::parse_file(&shown, &text, properties)?);
        }
        Self::sound(routes)
    }

    /// Reads `text`; `name` stands for the file in messages.
    pub fn parse(name: &str, text: &str, properties: &BTreeMap<String, String>) -> Result<Self, RouteError> {
        Self::sound(model::parse::parse_file(&Arc::from(name), text, properties)?)
    }

    /// Sets the folder beneath which `file:` endpoints write (default: the current folder).
    #[must_use]
    pub fn with_root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = root.into();
        self
    }

    /// Ids of the routes, in the order of the files.
    #[must_use]
    pub fn ids(&self) -> Vec<String> {
        self.routes.iter().map(|route| route.id.to_string()).collect()
    }

    /// Topics that routes read.
    #[must_use]
    pub fn source_topics(&self) -> Vec<String> {
        let topics = self.routes.iter().filter_map(|route| match &route.from {
            Endpoint::Kafka(config) => Some(config.topic.to_string()),
            _ => None,
        });
        let mut topics: Vec<String> = topics.collect();
        topics.sort();
        topics.dedup();
        topics
    }

    /// Checks what only the whole set shows: unique ids, `direct` and `seda` names that exist, no circles.
    fn sound(routes: Vec<Route>) -> Result<Self, RouteError> {
        let names = runtime::names(routes.iter());
        let mut seen: BTreeMap<String, &Route> = BTreeMap::new();
        for route in &routes {
            if seen.insert(format!("id {}", route.id), route).is_some() {
                return Err(RouteError::at(&route.place, format!("route id {} is used twice", route.id)));
            }
            if let Some((kind, name)) = runtime::handoff_of(&route.from)
                && seen.insert(format!("{kind} {name}"), route).is_some()
            {
                return Err(RouteError::at(&route.from_place, format!("{kind}:{name} begins two routes")));
            }
        }
        for route in &routes {
            let mut problem = None;
            let mut check = |endpoint: &Endpoint, place: &Place| {
                if let Some((kind, name)) = runtime::handoff_of(endpoint)
                    && !names.contains_key(&(kind, Arc::clone(name)))
                {
                    let known: Vec<&str> = names
                        .keys()
                        .filter(|(found, _)| *found == kind)
                        .map(|(_, name)| name.as_ref())
                        .collect();
                    let hint = if known.is_empty() { String::new() } else { error::hint(name, &known) };
                    problem.get_or_insert(RouteError::at(
                        place,
                        format!("no route begins at {kind}:{name}{hint}"),
                    ));
                }
            };
            route.visit(&mut |step| match step {
                model::Step::To(target) | model::Step::WireTap(target) => {
                    check(&target.endpoint, &target.place)
                }
                _ => {}
            });
            if let model::handler::ErrorHandler::DeadLetter { target, .. } = &route.handler {
                check(&target.endpoint, &target.place);
            }
            if let Some(problem) = problem {
                return Err(problem);
            }
        }
        let edges: Vec<Vec<usize>> = routes.iter().map(|route| runtime::next(route, &names)).collect();
        for (index, route) in routes.iter().enumerate() {
            let circle = edges
                .get(index)
                .into_iter()
                .flatten()
                .any(|next| runtime::reach(*next, &edges).contains(&index));
            if circle {
                let reason = format!("route {} comes back to itself over direct or seda", route.id);
                return Err(RouteError::at(&route.place, reason));
            }
        }
        Ok(Self { routes, root: PathBuf::from(".") })
    }
}

impl std::fmt::Debug for RouteSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RouteSet").field("routes", &self.ids()).field("root", &self.root).finish()
    }
}

/// Reads every file without running anything: the ids of its routes, or the first thing refused, per file. Then
/// the set as a whole, if each file is sound.
pub fn check(
    files: &[PathBuf],
    properties: &BTreeMap<String, String>,
) -> Vec<Result<Vec<String>, RouteError>> {
    let mut results: Vec<Result<Vec<String>, RouteError>> = files
        .iter()
        .map(|file| match RouteSet::load(file, properties) {
            Ok(set) => Ok(set.ids()),
            // a name that another file of the set defines is no fault of this one
            Err(error) if error.to_string().contains("no route begins at") && files.len() > 1 => {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        })
        .collect();
    if results.iter().all(Result::is_ok)
        && files.len() > 1
        && let Err(error) = RouteSet::load_all(files, properties)
    {
        results.push(Err(error));
    }
    results
}

/// `no such file`, with the nearest name in its folder.
fn missing(file: &Path, error: &std::io::Error) -> String {
    if error.kind() != std::io::ErrorKind::NotFound {
        return error.to_string();
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let names: Vec<String> = std::fs::read_dir(folder)
        .map(|entries| {
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        })
        .unwrap_or_default();
    let wanted = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match error::nearest(&wanted, names.iter().map(String::as_str)) {
        Some(name) => format!("no such file: did you mean {name}?"),
        None => "no such file".to_owned(),
    }
}
