//! What each Kafka request means, sans socket: produce, fetch, topics, groups, event ids.
//!
//! [`Broker`] owns the log and decides; `herdsman_wire` brings requests and takes answers. [`EmbeddedBus`] is the same
//! broker as the house's own event bus, without a socket. Reading order: `broker` (state and dispatch), `produce`,
//! `fetch`, `partition_state`, `group`, `share`, `transaction`, `dedupe`, then the admin files and `security`. Errors become Kafka
//! error codes in `error` only.

pub mod admin;
pub mod broker;
pub mod committed;
pub mod configs;
pub mod consumer_api;
pub mod dedupe;
pub mod embedded;
pub mod error;
pub mod fetch;
pub mod group;
pub mod groups_api;
pub mod metadata;
pub mod metrics;
pub mod offsets;

pub mod placement;
pub mod produce;
pub mod rebuild;
pub mod security;
pub mod share;
pub mod share_api;
pub mod share_fetch;
pub mod share_offsets;
#[cfg(test)]
mod share_tests;
pub mod transaction;
pub mod transactions_api;

mod cursor;
mod fetch_session;
mod markers;
mod partition_state;
mod pattern;
mod producers;
mod repeats;
mod replay;
mod snapshot;
#[cfg(test)]
mod tests;
mod topic;
#[cfg(test)]
mod transaction_tests;
mod transactions;

pub use broker::{Broker, BrokerConfig};
pub use embedded::EmbeddedBus;
pub use error::BrokerError;
pub use metrics::{BrokerMetrics, TopicMetrics};
pub use produce::ProduceOutcome;
pub use security::{Secret, SecurityConfig};
