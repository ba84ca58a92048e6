//! Collects the summary from public places: topics, a pull query, the guard's counters, the operating system.

use std::collections::HashSet;
use std::time::Duration;

use herdsman_bus::{Bus, BusError};
use herdsman_record::TopicPartition;
use herdsman_server::House;
use herdsman_sql::Session;

use crate::hunt::HuntError;
use crate::progress::Progress;
use crate::summary::{CacheSummary, GuardSummary, Standing, Summary};
use crate::watch::Latency;

/// What the hunt itself knows.
pub(crate) struct Facts<'a> {
    pub(crate) house: &'a House,
    pub(crate) cache: &'a str,
    pub(crate) input: String,
    pub(crate) progress: &'a Progress,
    pub(crate) before: &'a Progress,
    pub(crate) treasures: u64,
    pub(crate) elapsed: Duration,
    pub(crate) latency: Latency,
    pub(crate) complete: bool,
}

pub(crate) fn collect(facts: &Facts<'_>) -> Result<Summary, HuntError> {
    let bus = facts.house.bus().as_ref();
    let claims = keys(bus, "claims")?;
    let held = pull(facts.house, "SELECT TREASURE FROM CLAIMS;")?;
    let provisional =
        held.iter().filter_map(|row| row.first()?.as_str()).filter(|id| !claims.contains(id.as_bytes()));
    let offered = facts.progress.offered - facts.before.offered;
    let elapsed_s = facts.elapsed.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "event counts far below 2^53")]
    let events_per_s = offered as f64 / elapsed_s.max(1e-9);
    let (cache, guard) = facts.house.guards().get(facts.cache).map(guard).unwrap_or_default();
    Ok(Summary {
        input: facts.input.clone(),
        events_in: facts.progress.offered,
        events_unique: facts.progress.offered - facts.progress.duplicates,
        duplicates_dropped: facts.progress.duplicates,
        late_events: facts.progress.late_events,
        rejected_rows: facts.progress.rejected,
        rejected_first: facts.progress.rejected_first.clone(),
        treasures: facts.treasures,
        claims: claims.len() as u64,
        claims_provisional: provisional.count() as u64,
        clues: count(bus, "clues")?,
        fouls: count(bus, "fouls")?,
        leaderboard: leaderboard(facts.house)?,
        elapsed_s,
        events_per_s,
        latency_ms: facts.latency,
        cache,
        guard,
        peak_rss_mb: peak_rss_mb(),
        cpu_s: cpu_s(),
        complete: facts.complete,
    })
}

fn guard(guard: &herdsman_guard::Guard) -> (CacheSummary, GuardSummary) {
    let (stats, explain) = (guard.stats(), guard.explain());
    let cache = CacheSummary {
        lookups: stats.lookups,
        round_trips: stats.round_trips,
        hits: stats.lookups.saturating_sub(stats.misses),
        misses: stats.misses,
        loads: stats.loads,
        loads_without_guard: stats.loads_without_guard,
        requests_without_guard: stats.requests_without_guard,
    };
    let chosen = GuardSummary {
        batch_size: u64::from(explain.batch_size),
        connections: u64::from(explain.connections),
        p99_ms: stats.p99_ms,
    };
    (cache, chosen)
}

/// The leaderboard by a pull query, ordered by hunt, most points first, then player.
fn leaderboard(house: &House) -> Result<Vec<Standing>, HuntError> {
    let mut standings: Vec<Standing> = pull(house, "SELECT HUNT, PLAYER, POINTS FROM LEADERBOARD;")?
        .into_iter()
        .filter_map(|row| {
            let text = |index: usize| Some(row.get(index)?.as_str()?.to_owned());
            Some(Standing { hunt: text(0)?, player: text(1)?, points: row.get(2)?.as_i64()? })
        })
        .collect();
    standings.sort_by(|a, b| {
        a.hunt.cmp(&b.hunt).then(b.points.cmp(&a.points)).then_with(|| a.player.cmp(&b.player))
    });
    Ok(standings)
}

/// Rows of a pull query.
fn pull(house: &House, statement: &str) -> Result<Vec<Vec<serde_json::Value>>, HuntError> {
    let failed = |error: herdsman_sql::SqlError| HuntError::Sql(error.to_string());
    let mut result = house.engine().query(statement, &Session::default()).map_err(failed)?;
    let mut found = Vec::new();
    while let Some(rows) = result.next(Duration::from_secs(1)).map_err(failed)? {
        found.extend(rows.into_iter().map(|row| row.columns));
    }
    Ok(found)
}

fn each_record(
    bus: &dyn Bus,
    topic: &str,
    mut take: impl FnMut(&herdsman_record::Record<'_>),
) -> Result<(), BusError> {
    let Some(description) = bus.topic(topic)? else { return Ok(()) };
    for partition in 0..description.partitions {
        let at = TopicPartition::new(topic, partition);
        let range = bus.offsets(&at)?;
        let mut position = range.start;
        let mut reader = bus.reader(&[(at, position)])?;
        let mut empty = 0;
        while position < range.end && empty < 20 {
            let found = reader.poll(1 << 20, Duration::from_millis(100))?;
            empty = if found.is_empty() { empty + 1 } else { 0 };
            for fetched in found {
                for batch in &fetched.batches {
                    for record in batch.records()?.iter() {
                        let record = record?;
                        if record.offset >= fetched.position && record.value.is_some() {
                            take(&record);
                        }
                    }
                }
                position = fetched.next_offset;
            }
        }
    }
    Ok(())
}

/// Record keys of a windowed table's topic, windows cut off (a treasure's day is in its id).
fn keys(bus: &dyn Bus, topic: &str) -> Result<HashSet<Vec<u8>>, BusError> {
    const WINDOW_START_BYTES: usize = 8;
    let mut keys = HashSet::new();
    each_record(bus, topic, |record| {
        let key = record.key.unwrap_or_default();
        keys.insert(key.get(..key.len().saturating_sub(WINDOW_START_BYTES)).unwrap_or_default().to_vec());
    })?;
    Ok(keys)
}

fn count(bus: &dyn Bus, topic: &str) -> Result<u64, BusError> {
    let mut count = 0;
    each_record(bus, topic, |_| count += 1)?;
    Ok(count)
}

/// `VmHWM` of this process, MiB; 0 where the system does not tell.
fn peak_rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1_024.0
}

/// User and system CPU seconds of this process.
fn cpu_s() -> f64 {
    const TICKS_PER_S: f64 = 100.0; // USER_HZ on Linux, fixed for all architectures in /proc
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / TICKS_PER_S
}
