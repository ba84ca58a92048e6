//! Cluster to cluster: loop-free replication, each event once by its id.
//!
//! ```text
//! a ──► b   one flow per ordered pair of clusters: reads the source, forwards only what originates there
//! ▲ ╲ ╱ ▲   (header herdsman-origin), writes under the same topic and partition, commits its progress at the
//! ╰─ c ─╯   target as the consumer group herdsman-mirror.SOURCE.TARGET
//! ```
//! A flow forwards at least once; topics with `herdsman.dedupe.window.ms` (created at the target with the source's
//! configs) make it once. A cluster that is away costs nothing but a retry with growing pauses, and lag.

mod config;
mod flow;
mod forward;
mod mirror;
mod stats;

pub use config::{ClusterConfig, ConfigError, MirrorConfig};
pub use forward::ORIGIN_HEADER;
pub use mirror::Mirror;
pub use stats::{FlowStats, MirrorStats};
