//! What can go wrong at the guard's edge, each with what to do next.

use thiserror::Error;

use crate::config::Lane;

/// Why a look-up or a start failed. Cloned to every waiter of a shared flight.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GuardError {
    /// The cache address is not one the guard can use.
    #[error(
        "{0} is not a cache address: write redis[s]://host:port[/db], redis+cluster://host:port,…, redis+sentinel://host:port,…/mastername, memcached://host:port,… or embedded"
    )]
    Address(String),
    /// The guard's own thread or socket could not be made.
    #[error("the guard cannot start: {0}")]
    Start(String),
    /// The key waited longer than its lane allows.
    #[error(
        "shed: a {lane} look-up waited {waited_ms} ms in the queue (limit {limit_ms} ms); send less, or later"
    )]
    Shed {
        /// The lane it waited in.
        lane: Lane,
        /// Its age when it was shed, milliseconds.
        waited_ms: u64,
        /// What the lane allows, milliseconds.
        limit_ms: u64,
    },
    /// The lane's queue is at its bound.
    #[error("the {lane} lane is full ({limit} keys wait): retry later")]
    Full {
        /// The lane that is full.
        lane: Lane,
        /// Its bound, keys.
        limit: usize,
    },
    /// No answer within the request's deadline.
    #[error("no answer within {limit_ms} ms from the cache nor from the system of record")]
    Deadline {
        /// The deadline, milliseconds.
        limit_ms: u64,
    },
    /// The cache does not answer and there is no system of record behind this guard.
    #[error("cache {cache} does not answer")]
    CacheDown {
        /// `host:port` of the cache.
        cache: String,
    },
    /// The system of record refused.
    #[error("the system of record: {0}")]
    Load(LoadError),
    /// The guard is being dropped.
    #[error("the guard has been closed")]
    Closed,
}

/// Why the system of record did not answer a batch of misses.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct LoadError(pub String);

impl LoadError {
    /// Wraps any error's sentence.
    pub fn new(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}
