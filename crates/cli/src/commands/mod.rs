//! One file per command.

pub mod bench;
pub mod consume;
pub mod doctor;
pub mod group;
pub mod guard;
pub mod hunt;
pub mod mirror;
pub mod produce;
pub mod route;
pub mod serve;
pub mod sql;
pub mod test;
pub mod topic;

use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use herdsman_bus::{Bus, BusError};
use herdsman_kafka::KafkaBus;

use crate::failure::Failure;

/// Where a running cluster is.
#[derive(Args, Clone)]
pub struct Cluster {
    /// Address of a Kafka listener (Herdsman's or Apache Kafka's)
    #[arg(long, env = "HERDSMAN_KAFKA", default_value = "127.0.0.1:9092", value_name = "ADDR")]
    pub kafka: String,
}

impl Cluster {
    /// Connects; a wrong address is answered within two seconds, with a right one if there is one at the usual place.
    pub fn connect(&self) -> Result<Arc<dyn Bus>, Failure> {
        match KafkaBus::connect(&self.kafka, herdsman_kafka::KafkaOptions::default()) {
            Ok(bus) => Ok(Arc::new(bus)),
            Err(BusError::Unavailable { reason, .. }) if self.kafka != USUAL && answers(USUAL) => {
                Err(Failure::new(format!("{reason}; one answers at {USUAL}: pass that address")))
            }
            Err(BusError::Unavailable { reason, .. }) => Err(Failure::new(reason)),
            Err(error) => Err(error.into()),
        }
    }
}

/// Where a Kafka listener usually is.
const USUAL: &str = "127.0.0.1:9092";

fn answers(address: &str) -> bool {
    let address = address.parse().ok();
    address.is_some_and(|address| TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok())
}
