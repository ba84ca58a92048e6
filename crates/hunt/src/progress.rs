//! How far a hunt has come, kept in its data folder so that a later run goes on from there.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const FILE: &str = "hunt.progress.json";

/// What was sent so far. Written about five times a second and at a clean stop; events sent after the last write
/// and before a crash are sent again, and the topic's event ids drop them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Loops of the input that are finished.
    pub finished_loops: u64,
    /// Rows of the present loop that are done.
    pub row: u64,
    /// Events offered to the bus.
    pub offered: u64,
    /// Events that the bus dropped because their id was known.
    pub duplicates: u64,
    /// Rows that could not be read.
    pub rejected: u64,
    /// The first of them, in words.
    pub rejected_first: Vec<String>,
    /// Latest actual time sent, ms since the Unix epoch.
    pub latest_ms: i64,
    /// Late events of earlier runs.
    pub late_events: u64,
    /// Whether the closing bell was rung.
    pub bell: bool,
}

impl Progress {
    fn path(data: &Path) -> PathBuf {
        data.join(FILE)
    }

    /// Reads the progress of an earlier run in `data`; none if there is no such run.
    pub fn load(data: &Path) -> io::Result<Self> {
        match std::fs::read(Self::path(data)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Replaces the file as a whole.
    pub fn save(&self, data: &Path) -> io::Result<()> {
        let path = Self::path(data);
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, serde_json::to_vec(self).map_err(io::Error::other)?)?;
        std::fs::rename(fresh, path)
    }
}
