//! A topic: its name's rules, its id, and the catalog file that lists all of them.
//!
//! The catalog is one small file, replaced whole: a line `herdsman-topics 1 <crc32c>` and a JSON array. A topic
//! exists from the moment the catalog names it until the moment it does not.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use herdsman_host::{Disk, Seed};
use serde::{Deserialize, Serialize};

use crate::LogError;
use crate::sealed;

/// A topic's id, new for each creation, so that a topic made again is not mistaken for the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicId(pub [u8; 16]);

impl TopicId {
    /// A random (version 4) id.
    pub(crate) fn random(seed: &mut Seed) -> Self {
        let bits = (u128::from(seed.next_u64()) << 64) | u128::from(seed.next_u64());
        let versioned = (bits & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
        Self(versioned.to_be_bytes())
    }

    fn parse(hex: &str) -> Option<Self> {
        (hex.len() == 32)
            .then(|| u128::from_str_radix(hex, 16).ok())
            .flatten()
            .map(|bits| Self(bits.to_be_bytes()))
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// A topic as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicMeta {
    /// Name.
    pub name: Arc<str>,
    /// Id, new for each creation.
    pub id: TopicId,
    /// Number of partitions.
    pub partitions: i32,
    /// Configs that were set (not the defaults).
    pub configs: BTreeMap<String, String>,
    /// Whether the house made it for itself (its name begins with `__`).
    pub internal: bool,
}

/// Most partitions one topic may have.
pub const PARTITIONS_MAX: i32 = 10_000;

/// Kafka's rules for a topic name.
pub fn check_name(name: &str) -> Result<(), LogError> {
    let refuse = |reason| Err(LogError::InvalidName { name: name.to_owned(), reason });
    match name {
        "" => refuse("it is empty"),
        "." | ".." => refuse("it means a folder"),
        _ if name.len() > 249 => refuse("it is longer than 249 characters"),
        _ if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) => {
            refuse("only letters, digits, '.', '_' and '-' are allowed")
        }
        _ => Ok(()),
    }
}

/// Checks a partition count.
pub(crate) fn check_partitions(topic: &str, partitions: i32, least: i32) -> Result<(), LogError> {
    if (least..=PARTITIONS_MAX).contains(&partitions) {
        return Ok(());
    }
    let reason = format!("{least} to {PARTITIONS_MAX} are possible");
    Err(LogError::InvalidPartitions { topic: topic.to_owned(), partitions, reason })
}

#[derive(Serialize, Deserialize)]
struct Stored {
    name: String,
    id: String,
    partitions: i32,
    configs: BTreeMap<String, String>,
}

const MAGIC: &str = "herdsman-topics 1";

/// Writes the catalog, durably.
pub(crate) fn store_catalog(disk: &dyn Disk, path: &Path, topics: &[TopicMeta]) -> Result<(), LogError> {
    let stored: Vec<Stored> = topics
        .iter()
        .map(|topic| Stored {
            name: topic.name.to_string(),
            id: topic.id.to_string(),
            partitions: topic.partitions,
            configs: topic.configs.clone(),
        })
        .collect();
    let json = serde_json::to_string_pretty(&stored).expect("plain strings and numbers");
    disk.replace(path, &sealed::seal(MAGIC, &json)).map_err(LogError::io("write", path))
}

/// Reads the catalog; none is an empty one.
pub(crate) fn load_catalog(disk: &dyn Disk, path: &Path) -> Result<Vec<TopicMeta>, LogError> {
    if !disk.exists(path) {
        return Ok(Vec::new());
    }
    let bytes = disk.read_all(path).map_err(LogError::io("read", path))?;
    let refuse = |reason: String| LogError::Format { path: path.to_owned(), reason };
    let json = sealed::open(MAGIC, &bytes).map_err(refuse)?;
    let stored: Vec<Stored> = serde_json::from_str(json).map_err(|error| refuse(error.to_string()))?;
    stored
        .into_iter()
        .map(|topic| {
            check_name(&topic.name)?;
            check_partitions(&topic.name, topic.partitions, 1)?;
            let id = TopicId::parse(&topic.id).ok_or_else(|| refuse(format!("topic id {}", topic.id)))?;
            let internal = topic.name.starts_with("__");
            Ok(TopicMeta {
                name: topic.name.into(),
                id,
                partitions: topic.partitions,
                configs: topic.configs,
                internal,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kafkas_rules() {
        for good in ["a", "finds", "a.b_c-D9", &"x".repeat(249)] {
            check_name(good).unwrap();
        }
        for bad in ["", ".", "..", "a/b", "../x", "a b", "é", &"x".repeat(250)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_are_version_4_and_read_back() {
        let id = TopicId::random(&mut Seed::new(1));
        assert_eq!((id.0[6] >> 4, id.0[8] >> 6), (4, 2));
        assert_eq!(TopicId::parse(&id.to_string()), Some(id));
    }
}
