//! Opens partitions after a clean stop, a kill or a power cut, and says what was found.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use herdsman_host::Disk;
use herdsman_record::TopicPartition;

use crate::checkpoint::Point;
use crate::compaction;
use crate::config::TopicConfig;
use crate::journal::Part;
use crate::partition::{Found, Partition, Place};
use crate::segment::{Segment, base_offset_of};
use crate::{LogError, TopicId};

/// Name of the file that holds the topic's id.
const METADATA: &str = "partition.metadata";
/// An id that differs in so many digits at most is the same one, damaged.
const ID_DIGITS_DAMAGED: usize = 4;

/// What opening a data folder found and mended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Partitions opened.
    pub partitions: usize,
    /// Segment files opened.
    pub segments: usize,
    /// Segment bytes whose checksums were checked: what lay above the recovery points.
    pub scanned_bytes: u64,
    /// Torn tails cut off.
    pub torn_tails: usize,
    /// Bytes of them; no acknowledged record was in them unless a power cut took its sync.
    pub torn_bytes: u64,
    /// Damaged stretches with readable batches behind them. Reads of them fail by name.
    pub damaged: usize,
    /// Offsets that are gone: unsynced before a power cut, or in a damaged stretch.
    pub lost_offsets: i64,
    /// Atomic appends found in the journal.
    pub journal_entries: usize,
    /// Batches of them that a partition lacked and got back.
    pub journal_batches_restored: usize,
    /// One sentence for each thing cut, restored, lost or damaged.
    pub notes: Vec<String>,
}

impl Recovery {
    fn lose(&mut self, name: &TopicPartition, from: i64, to: i64, why: &str) {
        self.lost_offsets += to - from;
        self.notes.push(format!("{name}: offsets {from} to {} are lost: {why}", to - 1));
    }
}

/// Makes the folder and the first, empty segment of a new partition, with durable names.
pub(crate) fn create(disk: &dyn Disk, dir: &Path, id: TopicId, base_offset: i64) -> Result<Found, LogError> {
    disk.create_dir(dir).map_err(LogError::io("create", dir))?;
    write_metadata(disk, &dir.join(METADATA), id)?;
    let segment = Arc::new(Segment::create(disk, dir, base_offset).map_err(LogError::io("create", dir))?);
    disk.sync_dir(dir).map_err(LogError::io("sync", dir))?;
    Ok(Found {
        segments: vec![segment],
        end: 0,
        start: 0,
        recovery_point: 0,
        unsynced: Vec::new(),
        damaged: false,
    })
}

fn write_metadata(disk: &dyn Disk, path: &Path, id: TopicId) -> Result<(), LogError> {
    let text = format!("version: 0\ntopic_id: {id}\n");
    let file = disk.open(path, true).map_err(LogError::io("create", path))?;
    file.truncate(0).and_then(|()| file.write_at(0, text.as_bytes())).map_err(LogError::io("write", path))
}

/// Whether a topic id found in a partition's folder is that of an older topic, and not the right one damaged (random ids
/// differ nearly everywhere) or that of a topic that is still there (its file stands in the wrong folder).
fn is_anothers(found: &str, id: TopicId, ids: &HashSet<String>) -> bool {
    let id = id.to_string();
    let whole = found.len() == id.len() && found.bytes().all(|digit| digit.is_ascii_hexdigit());
    let differing = found.bytes().zip(id.bytes()).filter(|(one, other)| one != other).count();
    whole && differing > ID_DIGITS_DAMAGED && !ids.contains(found)
}

/// The topic id written in a partition's folder, if there is one.
pub(crate) fn topic_id_of(disk: &dyn Disk, dir: &Path) -> Option<String> {
    let path = dir.join(METADATA);
    let text = disk.exists(&path).then(|| disk.read_all(&path).ok()).flatten()?;
    let text = String::from_utf8(text).ok()?;
    text.lines().find_map(|line| line.strip_prefix("topic_id: ")).map(str::to_owned)
}

/// Removes a partition's folder and its files.
pub(crate) fn remove(disk: &dyn Disk, dir: &Path) -> Result<(), LogError> {
    for name in disk.list(dir).map_err(LogError::io("list", dir))? {
        let path = dir.join(name);
        disk.remove(&path).map_err(LogError::io("delete", &path))?;
    }
    disk.remove_dir(dir).map_err(LogError::io("delete", dir))
}

/// Opens a partition's segments and scans what lies above its recovery point.
pub(crate) fn open(
    disk: &dyn Disk,
    dir: &Path,
    (name, id, ids): (&TopicPartition, TopicId, &HashSet<String>),
    point: Point,
    config: &TopicConfig,
    report: &mut Recovery,
) -> Result<Found, LogError> {
    report.partitions += 1;
    match topic_id_of(disk, dir).filter(|found| *found != id.to_string()) {
        None => {}
        Some(found) if is_anothers(&found, id, ids) => {
            report.notes.push(format!("{name}: files of a deleted topic of the same name were removed"));
            remove(disk, dir)?;
        }
        Some(found) => {
            let path = dir.join(METADATA);
            report.notes.push(format!(
                "{name}: {} was damaged (topic id {found}) and was written anew",
                path.display()
            ));
            write_metadata(disk, &path, id)?;
        }
    }
    let mut bases = Vec::new();
    if disk.exists(dir) {
        compaction::recover(disk, dir)?;
        let names = disk.list(dir).map_err(LogError::io("list", dir))?;
        bases = names.iter().filter_map(|name| base_offset_of(name)).collect();
    }
    let mut found = if bases.is_empty() {
        create(disk, dir, id, point.recovery_point.max(point.log_start))?
    } else {
        load(disk, dir, &bases, report)?
    };
    found.recovery_point = point.recovery_point;
    scan(disk, name, config, &mut found, report).map_err(LogError::io("recover", dir))?;
    if found.end < point.recovery_point {
        report.lose(
            name,
            found.end,
            point.recovery_point,
            "they were synced, but the files end before them; restore them from a copy",
        );
    }
    found.end = found.end.max(point.recovery_point).max(point.log_start);
    let first = found.segments.first().map_or(0, |segment| segment.base_offset);
    found.start = point.log_start.max(first).min(found.end);
    Ok(found)
}

fn load(disk: &dyn Disk, dir: &Path, bases: &[i64], report: &mut Recovery) -> Result<Found, LogError> {
    let mut segments = Vec::with_capacity(bases.len());
    for base in bases {
        let segment = Segment::open(disk, dir, *base).map_err(LogError::io("open", dir))?;
        segments.push(Arc::new(segment));
    }
    report.segments += segments.len();
    Ok(Found { segments, end: 0, start: 0, recovery_point: 0, unsynced: Vec::new(), damaged: false })
}

fn scan(
    disk: &dyn Disk,
    name: &TopicPartition,
    config: &TopicConfig,
    found: &mut Found,
    report: &mut Recovery,
) -> std::io::Result<()> {
    for (at, segment) in found.segments.iter().enumerate() {
        let next_base = found.segments.get(at + 1).map(|next| next.base_offset);
        if let Some(next) = next_base
            && let Some(what) = segment.misfit(disk, next)?
        {
            report.damaged += 1;
            report.notes.push(format!(
                "{name}: {} {what}: of offsets {} to {} some cannot be read; restore the file from a copy, or delete \
                 records before {next} to go on without them",
                segment.path.display(),
                segment.base_offset,
                next - 1
            ));
        }
        if next_base.is_some_and(|next| next <= found.recovery_point) {
            continue;
        }
        let len = segment.len();
        let (walked, end) = segment.recover(disk, found.recovery_point, config.index_interval_bytes)?;
        report.scanned_bytes += len;
        found.damaged |= !walked.damaged.is_empty();
        for damage in &walked.damaged {
            report.damaged += 1;
            let why = format!(
                "{} is damaged at byte {} for {} bytes; restore the file from a copy, or delete records before {} to \
                 go on without them",
                segment.path.display(),
                damage.position,
                damage.len,
                damage.next_offset
            );
            report.lose(name, damage.offset, damage.next_offset, &why);
        }
        if walked.good_until < len {
            report.torn_tails += 1;
            report.torn_bytes += len - walked.good_until;
            report.notes.push(format!(
                "{name}: the last {} bytes of {} were no whole batch and were cut off",
                len - walked.good_until,
                segment.path.display()
            ));
        }
        match next_base {
            Some(next) => {
                if end < next {
                    report.lose(name, end, next, "they were not synced when the power went");
                }
                found.unsynced.push(Arc::clone(segment));
            }
            None => found.end = end,
        }
    }
    Ok(())
}

/// Writes the batches of atomic appends that their partitions lack.
pub(crate) fn restore(
    entries: Vec<Vec<Part>>,
    partitions: &BTreeMap<(TopicId, i32), Arc<Partition>>,
    report: &mut Recovery,
) -> Result<(), LogError> {
    report.journal_entries = entries.len();
    let mut touched = BTreeMap::new();
    for part in entries.into_iter().flatten() {
        let Some(partition) = partitions.get(&(part.topic, part.partition)) else { continue };
        let end = partition.data_end();
        touched.insert((part.topic, part.partition), Arc::clone(partition));
        let base = part.batch.base_offset();
        if end > base {
            report.journal_batches_restored += usize::from(partition.fill_gap(part.batch)?);
            continue;
        }
        if end < base {
            report.lose(&partition.name, end, base, "they were not synced when the power went");
        }
        partition.restore(part.batch)?;
        report.journal_batches_restored += 1;
    }
    if report.journal_batches_restored > 0 {
        report.notes.push(format!(
            "{} batches of atomic appends that the stop had interrupted were completed from the journal",
            report.journal_batches_restored
        ));
    }
    for partition in touched.into_values() {
        let end = partition.lock()?.end;
        partition.sync_file(end)?;
    }
    Ok(())
}

/// Name and holder text of the folder's lock file.
pub(crate) fn holder(program: &str, now_ms: i64) -> String {
    let minute = now_ms.div_euclid(60_000).rem_euclid(24 * 60);
    format!("{program} pid {} since {:02}:{:02} UTC", std::process::id(), minute / 60, minute % 60)
}

/// Folder name of a partition.
pub(crate) fn dir_name(name: &TopicPartition) -> String {
    format!("{}-{}", name.topic, name.partition)
}

/// Removes what an unfinished creation or deletion left behind; names what it does not know.
pub(crate) fn sweep(
    place: &Place,
    topics_dir: &Path,
    known: &HashSet<String>,
    report: &mut Recovery,
) -> Result<(), LogError> {
    let disk = place.disk.as_ref();
    for name in disk.list(topics_dir).map_err(LogError::io("list", topics_dir))? {
        if known.contains(&name) {
            continue;
        }
        let dir = topics_dir.join(&name);
        if topic_id_of(disk, &dir).is_some() {
            remove(disk, &dir)?;
            report.notes.push(format!("{name}: what an unfinished create or delete had left was removed"));
        } else {
            report.notes.push(format!("{} belongs to no topic and was left alone", dir.display()));
        }
    }
    Ok(())
}
