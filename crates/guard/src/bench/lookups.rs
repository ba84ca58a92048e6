//! How fast one thread's batches of look-ups go, mostly near hits.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use herdsman_host::{Clock, RealClock, Seed};
use serde::Serialize;

use super::ms;
use crate::config::{GuardConfig, Lane};
use crate::error::{GuardError, LoadError};
use crate::guard::Guard;
use crate::histogram::Histogram;
use crate::tuner::Settings;
use crate::url::CacheUrl;

/// How fast batches of look-ups go.
#[derive(Debug, Clone, Serialize)]
pub struct LookupReport {
    /// Look-ups per second of one calling thread, Zipf 0.99 over `keys` keys, in batches of `batch`.
    pub lookups_per_s: f64,
    /// Distinct keys.
    pub keys: usize,
    /// Keys per call.
    pub batch: usize,
    /// Share answered by the near cache.
    pub near_hit_ratio: f64,
    /// Nanoseconds per key when every key is in the near cache.
    pub near_ns_per_key: f64,
    /// Median of one call, milliseconds.
    pub call_p50_ms: f64,
    /// 99th percentile of one call, milliseconds.
    pub call_p99_ms: f64,
    /// Requests to the cache.
    pub round_trips: u64,
    /// Keys asked of the system of record.
    pub loads: u64,
    /// What the tuner had chosen at the end.
    pub settings: Settings,
}

/// [`lookups_of`] 100,000 keys in batches of 1,000.
///
/// # Errors
/// When the cache or a thread cannot be started, or a look-up fails.
pub fn lookups(cache: CacheUrl, time: Duration) -> Result<LookupReport, GuardError> {
    lookups_of(100_000, 1_000, time, &cache, &RealClock::shared())
}

/// Batches of `batch` different keys, Zipf 0.99 over `keys`, for `time`, from one thread; then the near cache alone.
///
/// # Errors
/// When the cache or a thread cannot be started, or a look-up fails.
pub fn lookups_of(
    keys: usize,
    batch: usize,
    time: Duration,
    cache: &CacheUrl,
    clock: &Arc<dyn Clock>,
) -> Result<LookupReport, GuardError> {
    let record = |keys: &[Bytes]| Ok::<_, LoadError>(vec![Some(Bytes::from_static(b"treasure")); keys.len()]);
    let config = GuardConfig { cache: cache.clone(), near_capacity: keys / 2, ..GuardConfig::default() };
    let guard = Guard::open(config, Arc::new(record), Arc::clone(clock))?;
    let batches = zipf_batches(keys.max(1), batch.clamp(1, keys.max(1)), 200);
    let (mut out, mut calls) = (Vec::with_capacity(batch), Histogram::default());
    let begin = clock.monotonic_ns();
    let limit = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let mut last = begin;
    for keys in batches.iter().cycle() {
        out.clear();
        guard.get_many_into(keys, &[], Lane::Normal, &mut out)?;
        let now = clock.monotonic_ns();
        calls.record(now - last, 1);
        last = now;
        if now - begin > limit {
            break;
        }
    }
    let stats = guard.stats();
    let near_ns_per_key = near_hits(&guard, batches.first().map_or(&[][..], |keys| keys), clock)?;
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let (lookups, near) = (stats.lookups as f64, stats.near_hits as f64);
    Ok(LookupReport {
        lookups_per_s: lookups / (ms(last - begin) / 1e3),
        keys,
        batch,
        near_hit_ratio: near / lookups,
        near_ns_per_key,
        call_p50_ms: ms(calls.quantile_ns(0.5)),
        call_p99_ms: ms(calls.quantile_ns(0.99)),
        round_trips: stats.round_trips,
        loads: stats.loads,
        settings: stats.settings,
    })
}

/// The same batch again and again, read once before: nothing leaves the near cache.
fn near_hits(guard: &Guard, keys: &[Bytes], clock: &Arc<dyn Clock>) -> Result<f64, GuardError> {
    let mut out = Vec::with_capacity(keys.len());
    let rounds = 1 + 2_000_000 / keys.len().max(1);
    guard.get_many_into(keys, &[], Lane::Normal, &mut out)?;
    let begin = clock.monotonic_ns();
    for _ in 0..rounds {
        out.clear();
        guard.get_many_into(keys, &[], Lane::Normal, &mut out)?;
    }
    let elapsed_ms = ms(clock.monotonic_ns() - begin);
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let asked = (rounds * keys.len()) as f64;
    Ok(elapsed_ms * 1e6 / asked)
}

/// `draws` ranks below `keys`, the same every time.
#[expect(clippy::cast_precision_loss, reason = "a distribution")]
pub(super) fn zipf_ranks(keys: usize, draws: usize) -> Vec<u32> {
    let mut sum = 0.0;
    let weight = |rank: usize| 1.0 / (rank as f64).powf(0.99);
    let cumulative: Vec<f64> = (1..=keys)
        .map(|rank| {
            sum += weight(rank);
            sum
        })
        .collect();
    let mut random = Seed::new(1);
    let mut draw = || {
        let at = (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64 * sum;
        cumulative.partition_point(|edge| *edge < at).min(keys.saturating_sub(1))
    };
    (0..draws).map(|_| u32::try_from(draw()).unwrap_or(u32::MAX)).collect()
}

fn zipf_batches(keys: usize, batch: usize, batches: usize) -> Vec<Vec<Bytes>> {
    let ranks = zipf_ranks(keys, batch * 2 * batches);
    ranks
        .chunks_exact(batch * 2)
        .map(|ranks| {
            // A stream asks once per batch for each key; a draw that repeats stands for the events that share it.
            let mut ranks = ranks.to_vec();
            ranks.sort_unstable();
            ranks.dedup();
            ranks.truncate(batch);
            ranks.into_iter().map(|rank| Bytes::from(format!("bench:{rank:08}"))).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_ups_are_measured_on_the_embedded_cache() {
        let time = Duration::from_millis(200);
        let report = lookups_of(10_000, 500, time, &CacheUrl::Embedded, &RealClock::shared()).unwrap();
        assert!(
            report.lookups_per_s > 1_000.0 && report.near_hit_ratio > 0.0 && report.loads > 0,
            "{report:?}"
        );
    }
}
