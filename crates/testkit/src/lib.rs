//! Real servers on free loopback ports, for the tests of other crates.
//!
//! Each server lives in its own temporary folder and is stopped by its process id when its handle is dropped.
//! What has to be fetched (Kafka's jars) is kept in the folder named by `HERDSMAN_TEST_CACHE`, by default
//! `target/test-cache`.
//!
//! ```no_run
//! let kafka = herdsman_testkit::KafkaServer::start();
//! println!("{}", kafka.url()); // kafka://127.0.0.1:41234
//! ```

mod caches;
mod certificate;
mod kafka;
mod process;
mod python;

pub use caches::{MemcachedServer, RedisServer};
pub use certificate::self_signed;
pub use kafka::{KafkaServer, kafka_tool};
pub use process::{Process, free_port, free_ports, system_program, test_cache, wait_for_port};
pub use python::kafka_python;
pub use tempfile::TempDir;
