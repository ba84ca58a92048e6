//! The event bus on a real Apache Kafka cluster, through librdkafka.
//!
//! [`KafkaBus`] keeps the [`Bus`](herdsman_bus::Bus) contract: readers assign partitions themselves and read committed
//! records only; a committer is a transactional producer that sends outputs and input offsets together. What Kafka
//! does not have stays on our side (unless the cluster is a herdsman one, which takes it): topic configs that begin with `herdsman.` live in a compacted topic of their own,
//! and topics with `herdsman.dedupe.window.ms` are de-duplicated by event id before records leave this process (one
//! writing process per such topic: ids sent by others are learned only at the first write after connecting).

mod admin;
mod bus;
mod committer;
mod dedupe;
mod delivery;
mod error;
mod ffi;
mod login;
mod options;
mod reader;

pub use bus::KafkaBus;
pub use options::KafkaOptions;
