//! `herdsman topic`: create, list, describe and delete topics of a running cluster.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use herdsman_bus::{Bus, BusError, TopicSpec};
use herdsman_record::TopicPartition;
use herdsman_server::nearest;

use super::Cluster;
use crate::failure::Failure;

/// Topics.
#[derive(Args)]
pub struct Topic {
    #[command(flatten)]
    cluster: Cluster,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// All topics, one a line
    List {
        /// Internal topics too
        #[arg(long)]
        internal: bool,
    },
    /// Make a topic
    Create {
        /// Name
        name: String,
        /// Number of partitions
        #[arg(long, default_value_t = 4)]
        partitions: i32,
        /// Configuration, for example herdsman.dedupe.window.ms=3600000
        #[arg(long = "config", value_name = "KEY=VALUE")]
        configs: Vec<String>,
    },
    /// Partitions, offsets and configuration of a topic
    Describe {
        /// Name
        name: String,
    },
    /// Delete a topic and its records
    Delete {
        /// Name
        name: String,
    },
}

impl Topic {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let bus = self.cluster.connect()?;
        match self.action {
            Action::List { internal } => {
                for topic in bus.topics()?.into_iter().filter(|topic| internal || !topic.internal) {
                    println!("{}\t{} partitions", topic.name, topic.partitions);
                }
                Ok(())
            }
            Action::Create { name, partitions, configs } => {
                let configs =
                    configs.iter().map(|pair| key_value(pair)).collect::<Result<BTreeMap<_, _>, _>>()?;
                bus.create_topic(&TopicSpec { name, partitions, configs })?;
                Ok(())
            }
            Action::Describe { name } => describe(bus.as_ref(), &name),
            Action::Delete { name } => match bus.delete_topic(&name) {
                Err(BusError::UnknownTopic(_)) => Err(missing(bus.as_ref(), &name)),
                other => Ok(other?),
            },
        }
    }
}

fn key_value(pair: &str) -> Result<(String, String), Failure> {
    pair.split_once('=')
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| Failure::usage(format!("--config {pair} has no =: write KEY=VALUE")))
}

fn describe(bus: &dyn Bus, name: &str) -> Result<(), Failure> {
    let topic = bus.topic(name)?.ok_or_else(|| missing(bus, name))?;
    println!("{}\t{} partitions", topic.name, topic.partitions);
    for (key, value) in &topic.configs {
        println!("  {key}={value}");
    }
    for partition in 0..topic.partitions {
        let range = bus.offsets(&TopicPartition::new(name, partition))?;
        println!("  partition {partition}: offsets {} to {}", range.start, range.end);
    }
    Ok(())
}

/// `no topic evnts: did you mean events? To make it: herdsman topic create evnts`
pub fn missing(bus: &dyn Bus, name: &str) -> Failure {
    let names = bus.topics().unwrap_or_default().into_iter().map(|topic| topic.name);
    let near =
        nearest(name, names).map_or_else(|| "to".to_owned(), |near| format!("did you mean {near}? To"));
    Failure::new(format!("no topic {name}: {near} make it: herdsman topic create {name}"))
}
