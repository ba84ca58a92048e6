//! Consumer groups: who is in a group, who reads what, and how far they got.
//!
//! [`Coordinator`] is the classic group protocol as a pure machine: (state, event, now) → effects. It owns no socket,
//! no clock and no thread; the broker around it holds the waiting requests and performs the effects.
//! [`ConsumerGroups`] is the protocol of KIP-848 as another, where the broker assigns.
//! [`OffsetStore`] holds committed offsets and encodes them as Kafka's `__consumer_offsets` does.

pub mod consumer;
pub mod coordinator;
pub mod group_state;
pub mod offset_store;
mod rebalance;
#[cfg(test)]
mod tests;

pub use consumer::{ConsumerAnswer, ConsumerGroupConfig, ConsumerGroups};
pub use coordinator::{
    Coordinator, Effect, GroupConfig, GroupDescription, JoinAnswer, JoinRequest, LeaveIdentity,
    MemberDescription, SyncAnswer, SyncRequest,
};
pub use offset_store::{Committed, OFFSETS_TOPIC, OffsetStore};

/// Why a group request is refused; each has its Kafka error code (`error.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// An empty group id.
    #[error("the group id is empty")]
    InvalidGroupId,
    /// A session time-out outside the allowed range.
    #[error("the session time-out is outside the range allowed")]
    InvalidSessionTimeout,
    /// No such member: join again.
    #[error("the member is not known: join again")]
    UnknownMember,
    /// Join again with the member id given (KIP-394).
    #[error("join again with the member id given")]
    MemberIdRequired,
    /// Another client took over this `group.instance.id`.
    #[error("another member took over this group.instance.id")]
    FencedInstance,
    /// The generation is not the current one.
    #[error("the generation is not the current one")]
    IllegalGeneration,
    /// No protocol that all members share.
    #[error("no assignment protocol is shared by all members")]
    InconsistentProtocol,
    /// The group is rebalancing: join again.
    #[error("the group is rebalancing: join again")]
    RebalanceInProgress,
    /// More members than allowed.
    #[error("the group has reached its largest size")]
    GroupFull,
    /// The group has members.
    #[error("the group has members")]
    NotEmpty,
    /// No such group.
    #[error("no such group")]
    NotFound,
    /// A heartbeat of the consumer protocol that lacks what it must say.
    #[error(
        "the heartbeat lacks a member id, a subscription or a rebalance time-out, or owns partitions while joining"
    )]
    InvalidHeartbeat,
    /// An assignor that the broker does not have.
    #[error("the assignors here are uniform and range")]
    UnknownAssignor,
    /// A pattern that does not compile.
    #[error("the regular expression is malformed or too large")]
    InvalidPattern,
    /// The member is at another epoch: join again.
    #[error("the member is at another epoch: give partitions up and join again")]
    FencedEpoch,
    /// The commit names an epoch that is not the member's.
    #[error("the member has moved on to another epoch: commit with that")]
    StaleEpoch,
    /// The static name is in use by a member that has not left.
    #[error("another member has this group.instance.id and has not left")]
    UnreleasedInstance,
    /// The members of the group use the other group protocol.
    #[error("the members of this group use the other group protocol: stop them first")]
    OtherProtocol,
}
