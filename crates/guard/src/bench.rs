//! The measurements behind `herdsman bench herd`, `guard`, `pool` and `chaos`. They return numbers; the command line prints them.

mod chaos;
mod delay;
mod herd;
mod lanes;
mod lookups;
mod member;
mod plain;
mod pool;
mod sweep;
mod trouble;

use std::sync::Arc;

use herdsman_host::Clock;

pub use self::chaos::{ChaosConfig, ChaosReport, chaos};
pub use self::herd::{HerdConfig, HerdRow, Launch, herd};
pub use self::lanes::{LanesConfig, LanesRow, lanes};
pub use self::lookups::{LookupReport, lookups, lookups_of};
pub use self::member::{Way, member};
pub use self::pool::{PoolConfig, PoolRow, RestartReport, pool, restart};
pub use self::sweep::{SweepConfig, SweepRow, sweep};
use crate::embedded::{CacheConfig, CacheServer};
use crate::error::GuardError;
use crate::url::CacheUrl;

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// The cache of a measurement, started if it is the embedded one.
fn place(cache: &CacheUrl, clock: &Arc<dyn Clock>) -> Result<(Option<CacheServer>, CacheUrl), GuardError> {
    if *cache != CacheUrl::Embedded {
        return Ok((None, cache.clone()));
    }
    let config = CacheConfig { clock: Arc::clone(clock), ..CacheConfig::default() };
    let server = CacheServer::start(([127, 0, 0, 1], 0).into(), config);
    let server = server.map_err(|error| GuardError::Start(error.to_string()))?;
    let url = server.url();
    Ok((Some(server), url))
}
