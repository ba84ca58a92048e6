//! The consumer group protocol of KIP-848: the broker assigns, members follow by heartbeats.
//!
//! ```text
//! heartbeat ─► group epoch (subscriptions, topics) ─► target assignment ─► each member towards it:
//!              Stable ─► Unrevoked (gives partitions up) ─► Unreleased (waits for others) ─► Stable at the target's epoch
//! ```
//! [`ConsumerGroups`] is a pure machine: (state, heartbeat, topics, now) → answer. A partition is never in the assignment
//! of two members: one that is being given up counts as its holder's until a heartbeat says it is gone.

pub mod assignor;
pub mod groups;
pub mod member;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use assignor::Assignor;
pub use groups::ConsumerGroups;

/// A topic's id.
pub type TopicId = [u8; 16];
/// Partitions by topic id.
pub type Partitions = BTreeMap<TopicId, BTreeSet<i32>>;

/// Joins the group.
pub const JOIN: i32 = 0;
/// Leaves the group.
pub const LEAVE: i32 = -1;
/// Leaves for a while, under a `group.instance.id`.
pub const LEAVE_STATIC: i32 = -2;

/// What a group asks about topics.
pub trait TopicLookup {
    /// A number that changes whenever a topic is made, grown or deleted.
    fn version(&self) -> u64;
    /// Id and partition count of a topic.
    fn find(&self, name: &str) -> Option<(TopicId, i32)>;
    /// Every topic's name.
    fn names(&self) -> Vec<String>;
}

/// Limits, named as Kafka names them.
#[derive(Debug, Clone)]
pub struct ConsumerGroupConfig {
    /// `group.consumer.session.timeout.ms`.
    pub session_timeout_ms: u64,
    /// `group.consumer.heartbeat.interval.ms`.
    pub heartbeat_interval_ms: i32,
    /// `group.consumer.max.size`.
    pub max_size: usize,
}

impl Default for ConsumerGroupConfig {
    fn default() -> Self {
        Self { session_timeout_ms: 45_000, heartbeat_interval_ms: 5_000, max_size: 10_000 }
    }
}

/// One heartbeat; `None` means unchanged since the last.
#[derive(Debug, Clone, Default)]
pub struct ConsumerHeartbeat {
    /// Group.
    pub group: String,
    /// Member id, chosen by the member.
    pub member_id: String,
    /// Epoch the member is at, or [`JOIN`], [`LEAVE`], [`LEAVE_STATIC`].
    pub member_epoch: i32,
    /// Static name.
    pub instance_id: Option<String>,
    /// Rack.
    pub rack_id: Option<String>,
    /// Time it may take to give partitions up.
    pub rebalance_timeout_ms: Option<u64>,
    /// Topic names.
    pub topics: Option<BTreeSet<String>>,
    /// A regular expression of topic names.
    pub regex: Option<String>,
    /// Assignor it would like.
    pub assignor: Option<String>,
    /// Partitions it has.
    pub owned: Option<Partitions>,
    /// Client's own name.
    pub client_id: String,
    /// Client's address.
    pub client_host: String,
}

/// What a heartbeat is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerAnswer {
    /// Epoch to go on with.
    pub member_epoch: i32,
    /// Partitions to have; `None`: as told before.
    pub assignment: Option<Partitions>,
}
