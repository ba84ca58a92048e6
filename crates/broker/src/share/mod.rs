//! Share groups (KIP-932): many consumers take single records of the same partitions, like workers at a queue.
//!
//! ```text
//!            start                                     end
//! offsets  … │ acknowledged │ acquired │ available │ … │ not delivered yet …
//!              accept, reject ▲   │ ▲       │
//!              or too often   └───┘ └───────┘ release, time-out of the acquisition lock
//! ```
//! [`SharePartition`] is the state of one partition in one group, [`ShareGroup`] who is in a group and reads which
//! partitions, [`Session`] what one member fetches, [`store`] how the state stands in `__share_group_state`. All are
//! pure machines: (state, event, now) → answer. The requests are in `share_api`, `share_fetch` and `share_offsets`.

pub mod config;
pub mod group;
pub mod partition;
pub mod session;
pub mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

pub use config::{ShareConfig, ShareSettings};
pub use group::ShareGroup;
pub use partition::{Acknowledgement, Acquired, SharePartition};
pub use session::{Session, SessionStep};

use crate::group::consumer::TopicId;

/// The topic that holds the state of share partitions and the configs of groups.
pub const SHARE_TOPIC: &str = "__share_group_state";

/// One partition in one group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareKey {
    /// The group.
    pub group: String,
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub index: i32,
}

/// Why a share request is refused; each has its Kafka error code (`error.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// Acknowledged by a member that does not hold the records.
    #[error("the records are not acquired by this member: its lock ran out, or it acknowledged them before")]
    InvalidRecordState,
    /// Acknowledgements that contradict themselves.
    #[error("{0}")]
    InvalidAcknowledgement(&'static str),
    /// The session is gone: begin one with epoch 0.
    #[error("no such share session: begin one with epoch 0")]
    SessionNotFound,
    /// A request of the session was lost or repeated.
    #[error("the share session is at another epoch: begin a new one with epoch 0")]
    SessionEpoch,
    /// As many sessions as the broker keeps.
    #[error("too many share sessions: raise group.share.max.share.sessions or stop consumers")]
    SessionLimit,
}

/// Everything the broker knows of share groups.
#[derive(Debug, Default)]
pub struct Shares {
    /// Limits.
    pub config: ShareConfig,
    /// Groups with members, or that had some.
    pub groups: BTreeMap<String, ShareGroup>,
    /// What members fetch, by group and member id.
    pub sessions: HashMap<(String, String), Session>,
    /// State of partitions. An entry's lock is held over its change and the append that records it.
    pub partitions: BTreeMap<ShareKey, Arc<Mutex<SharePartition>>>,
    /// Configs that groups have set.
    pub configs: BTreeMap<String, BTreeMap<String, String>>,
}

impl Shares {
    /// Whether the group is a share group.
    #[must_use]
    pub fn has_group(&self, group: &str) -> bool {
        self.groups.contains_key(group) || self.of_group(group).next().is_some()
    }

    /// Whether the group has members now.
    #[must_use]
    pub fn has_members(&self, group: &str) -> bool {
        self.groups.get(group).is_some_and(|group| !group.members.is_empty())
    }

    /// The partitions a group has read, sorted.
    pub fn of_group(&self, group: &str) -> impl Iterator<Item = (&ShareKey, &Arc<Mutex<SharePartition>>)> {
        let first = ShareKey { group: group.to_owned(), topic: [0; 16], index: i32::MIN };
        let name = first.group.clone();
        self.partitions.range(first..).take_while(move |(key, _)| key.group == name)
    }

    /// Every share group, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.groups.keys().cloned().collect();
        names.extend(self.partitions.keys().map(|key| key.group.clone()));
        names.sort_unstable();
        names.dedup();
        names
    }

    /// How a group is read: its own configs before the broker's.
    #[must_use]
    pub fn settings(&self, group: &str) -> ShareSettings {
        self.config.settings(self.configs.get(group))
    }
}
