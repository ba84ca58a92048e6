//! The guard: the connection between an event stream and a slow legacy cache (Redis, memcached), and the system of record
//! behind it.
//!
//! Nobody tunes it. Batch size, linger, connections and depth are outputs of [`tuner`], chosen against one objective; identical
//! look-ups share one flight, and one lease across processes; a batch of misses is one query at the system of record; a dead
//! cache degrades to that system within its own limit.
//!
//! The rooms, in reading order: [`Guard`] (what callers hold) → `near` (the table in this process) → `core` (every decision,
//! without sockets) with `lanes`, `expiry`, [`tuner`] → `driver` (the thread that performs decisions) → `dialer`,
//! `discovery` and `placement` (which node has a key), `connection`, `protocol` (Redis, Redis Cluster, memcached) and `loading` (the system of record's threads, [`sqlite`], [`postgres`], [`http`]). [`embedded`] is a RESP cache server in the
//! binary, [`proxy`] the sidecar, [`bench`] the measurements of the command line.

pub mod bench;
mod config;
mod connection;
mod core;
mod dialer;
mod discovery;
mod driver;
pub mod embedded;
mod error;
mod expiry;
mod guard;
mod histogram;
pub mod http;
mod lanes;
mod loading;
mod near;
mod placement;
pub mod postgres;
mod protocol;
pub mod proxy;
mod slab;
pub mod sqlite;
mod stats;
mod timer;
#[cfg(any(test, feature = "trial"))]
pub mod trial;
pub mod tuner;
mod url;

pub use config::{GuardConfig, Lane, Objective};
pub use error::{GuardError, LoadError};
pub use guard::Guard;
pub use histogram::Histogram;
pub use loading::Loader;
pub use stats::{Explain, GuardStats, LaneDepths};
pub use url::{CacheUrl, Login, Place, Secret, Tls};
