//! The game master: which treasures drop, and the SQLite file that knows them (the system of record).
//!
//! The rule, stated: a place has one treasure on a UTC day if the 64-bit hash of (seed, place, day) is divisible
//! by four. The next bits of the hash give the minute of the day at which it drops and its points, 10 to 100.
//! The same seed and input give the same treasures, whatever the order in which places and days are first seen.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use crate::input::flights::Plane;

/// Milliseconds of a day.
pub const DAY_MS: i64 = 86_400_000;
/// One place and day in this many has a treasure.
const ONE_IN: u64 = 4;

/// A treasure as it lies in the system of record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Treasure {
    /// `DAY:PLACE`, day counted from the Unix epoch. The day comes first, so that what drops together lies together: one
    /// page of the file takes a day's treasures instead of one page each.
    pub id: String,
    /// When it drops, ms since the Unix epoch.
    pub dropped_ms: i64,
    /// What it is worth.
    pub points: i64,
}

/// The treasure of `place` on `day` under `seed`, if one drops.
#[must_use]
pub fn treasure(seed: u64, place: &str, day: i64) -> Option<Treasure> {
    let secrets = rapidhash::v3::RapidSecrets::seed(seed);
    let mut key = Vec::with_capacity(place.len() + 8);
    key.extend_from_slice(place.as_bytes());
    key.extend_from_slice(&day.to_le_bytes());
    let hash = rapidhash::v3::rapidhash_v3_seeded(&key, &secrets);
    if !hash.is_multiple_of(ONE_IN) {
        return None;
    }
    let minute = i64::try_from((hash >> 8) % 1_440).unwrap_or(0);
    let points = i64::try_from((hash >> 24) % 91).unwrap_or(0) + 10;
    Some(Treasure { id: format!("{day}:{place}"), dropped_ms: day * DAY_MS + minute * 60_000, points })
}

/// Why the system of record cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("system of record {}: {source}", path.display())]
pub struct TreasuryError {
    /// The SQLite file.
    pub path: PathBuf,
    /// What SQLite says.
    #[source]
    pub source: rusqlite::Error,
}

/// Writes treasures and players into the system of record as the game goes on.
pub struct Treasury {
    seed: u64,
    path: PathBuf,
    connection: Connection,
    seen: hashset::PlaceDays,
    fresh: Vec<Treasure>,
    count: u64,
}

mod hashset {
    use super::HashSet;
    use std::collections::HashMap;

    /// Days seen per place; the last day of each place is checked first, because events come in time order.
    #[derive(Default)]
    pub(super) struct PlaceDays {
        places: HashMap<Box<str>, (i64, HashSet<i64>), rapidhash::fast::RandomState>,
    }

    impl PlaceDays {
        /// Whether this place and day come for the first time.
        #[inline]
        pub(super) fn is_new(&mut self, place: &str, day: i64) -> bool {
            match self.places.get_mut(place) {
                Some((last, _)) if *last == day => false,
                Some((last, days)) => {
                    *last = day;
                    days.insert(day)
                }
                None => {
                    self.places.insert(place.into(), (day, HashSet::from([day])));
                    true
                }
            }
        }
    }
}

impl Treasury {
    /// Opens or makes the SQLite file at `path`.
    pub fn open(path: &Path, seed: u64) -> Result<Self, TreasuryError> {
        let failed = |source| TreasuryError { path: path.to_owned(), source };
        let connection = Connection::open(path).map_err(failed)?;
        // a checkpoint waits for the disk twice while the feed waits for it: one per 128 MiB instead of one per 4
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 32768;
                 CREATE TABLE IF NOT EXISTS treasures (id TEXT PRIMARY KEY, dropped INTEGER NOT NULL, points INTEGER NOT NULL) WITHOUT ROWID;
                 CREATE TABLE IF NOT EXISTS players (id TEXT PRIMARY KEY, model TEXT, seats INTEGER, built INTEGER) WITHOUT ROWID;",
            )
            .map_err(failed)?;
        let count: i64 =
            connection.query_row("SELECT COUNT(*) FROM treasures", [], |row| row.get(0)).map_err(failed)?;
        Ok(Self {
            seed,
            path: path.to_owned(),
            connection,
            seen: hashset::PlaceDays::default(),
            fresh: Vec::new(),
            count: count.unsigned_abs(),
        })
    }

    /// Registers the players.
    pub fn enrol(&mut self, planes: &[Plane]) -> Result<(), TreasuryError> {
        let path = self.path.clone();
        let failed = |source| TreasuryError { path: path.clone(), source };
        let transaction = self.connection.transaction().map_err(failed)?;
        {
            let mut insert = transaction
                .prepare("INSERT OR REPLACE INTO players (id, model, seats, built) VALUES (?, ?, ?, ?)")
                .map_err(failed)?;
            for plane in planes {
                insert.execute(params![plane.tail, plane.model, plane.seats, plane.built]).map_err(failed)?;
            }
        }
        transaction.commit().map_err(failed)
    }

    /// Notes that something happens at `place` at `time_ms`; decides on that day's treasure the first time.
    #[inline]
    pub fn visit(&mut self, place: &str, time_ms: i64) {
        let day = time_ms.div_euclid(DAY_MS);
        if self.seen.is_new(place, day) {
            self.fresh.extend(treasure(self.seed, place, day));
        }
    }

    /// Drops what [`Treasury::visit`] decided on; to be called before the events that may find it are sent.
    pub fn drop_fresh(&mut self) -> Result<(), TreasuryError> {
        if self.fresh.is_empty() {
            return Ok(());
        }
        let path = self.path.clone();
        let failed = |source| TreasuryError { path: path.clone(), source };
        let transaction = self.connection.transaction().map_err(failed)?;
        let mut added = 0;
        {
            let mut insert = transaction
                .prepare_cached("INSERT OR IGNORE INTO treasures (id, dropped, points) VALUES (?, ?, ?)")
                .map_err(failed)?;
            for treasure in self.fresh.drain(..) {
                added += insert
                    .execute(params![treasure.id, treasure.dropped_ms, treasure.points])
                    .map_err(failed)?;
            }
        }
        transaction.commit().map_err(failed)?;
        self.count += added as u64;
        Ok(())
    }

    /// Treasures dropped so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_places_and_days_has_a_treasure_and_the_seed_decides_which() {
        let found: Vec<_> = (0..4_000).filter_map(|day| treasure(2013, "MIA", day)).collect();
        assert!((900..1_100).contains(&found.len()), "{}", found.len());
        assert!(found.iter().all(|treasure| (10..=100).contains(&treasure.points)));
        assert_eq!(treasure(2013, "MIA", 7), treasure(2013, "MIA", 7));
        assert_ne!(found, (0..4_000).filter_map(|day| treasure(2014, "MIA", day)).collect::<Vec<_>>());
    }

    #[test]
    fn a_treasure_is_written_once_whatever_is_visited_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hunt.sqlite");
        let first = {
            let mut treasury = Treasury::open(&path, 1).unwrap();
            for day in 0..100 {
                treasury.visit("MIA", day * DAY_MS + 5);
            }
            treasury.drop_fresh().unwrap();
            treasury.count()
        };
        let mut again = Treasury::open(&path, 1).unwrap();
        again.visit("MIA", 3 * DAY_MS);
        for day in 0..100 {
            again.visit("MIA", day * DAY_MS);
        }
        again.drop_fresh().unwrap();
        assert!(first > 10);
        assert_eq!(again.count(), first);
    }
}
