//! The checkpoint: up to where each partition is known to be durable, and where it starts.
//!
//! ```text
//! herdsman-checkpoint 1 <crc32c>
//! <topic id> <partition> <recovery point> <log start> <topic>      one line per partition
//! ```
//! Everything below the recovery point was synced, so that opening after a kill scans only what is above it.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;

use herdsman_host::Disk;

use crate::sealed;
use crate::{LogError, TopicId};

const MAGIC: &str = "herdsman-checkpoint 1";

/// One partition's line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Point {
    /// Records below this offset were synced.
    pub(crate) recovery_point: i64,
    /// Log start offset.
    pub(crate) log_start: i64,
}

/// The points of all partitions, by topic id and partition index.
pub(crate) type Points = HashMap<(String, i32), Point>;

/// Writes the checkpoint, durably.
pub(crate) fn store(
    disk: &dyn Disk,
    path: &Path,
    points: impl Iterator<Item = (TopicId, i32, Point, String)>,
) -> Result<(), LogError> {
    let mut body = String::new();
    for (id, partition, point, topic) in points {
        let _ = writeln!(body, "{id} {partition} {} {} {topic}", point.recovery_point, point.log_start);
    }
    disk.replace(path, &sealed::seal(MAGIC, &body)).map_err(LogError::io("write", path))
}

/// Reads the checkpoint. A missing or damaged one costs a full scan, and for a damaged one a note.
pub(crate) fn load(disk: &dyn Disk, path: &Path, notes: &mut Vec<String>) -> Result<Points, LogError> {
    if !disk.exists(path) {
        return Ok(Points::new());
    }
    let bytes = disk.read_all(path).map_err(LogError::io("read", path))?;
    let body = match sealed::open(MAGIC, &bytes) {
        Ok(body) => body,
        Err(reason) => {
            notes.push(format!(
                "{}: {reason}; every partition was scanned whole, and records deleted by offset may be back",
                path.display()
            ));
            return Ok(Points::new());
        }
    };
    let parse = |line: &str| {
        let mut fields = line.split(' ');
        let id = fields.next()?.to_owned();
        let partition = fields.next()?.parse().ok()?;
        let point =
            Point { recovery_point: fields.next()?.parse().ok()?, log_start: fields.next()?.parse().ok()? };
        Some(((id, partition), point))
    };
    Ok(body.lines().filter_map(parse).collect())
}
