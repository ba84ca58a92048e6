//! `herdsman group`: committed offsets and lag of a consumer group.

use clap::{Args, Subcommand};
use herdsman_record::TopicPartition;

use super::Cluster;
use crate::failure::Failure;

/// Consumer groups.
#[derive(Args)]
pub struct Group {
    #[command(flatten)]
    cluster: Cluster,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Committed offset, end and lag of every partition the group reads
    Describe {
        /// Group id
        group: String,
    },
    /// Set the committed offsets of a topic to its start
    Reset {
        /// Group id
        group: String,
        /// Topic
        topic: String,
    },
}

impl Group {
    /// Does it.
    pub fn run(self) -> Result<(), Failure> {
        let bus = self.cluster.connect()?;
        match self.action {
            Action::Describe { group } => {
                let mut known = false;
                for topic in bus.topics()? {
                    let partitions: Vec<_> = (0..topic.partitions)
                        .map(|index| TopicPartition::new(topic.name.as_str(), index))
                        .collect();
                    for (at, committed) in partitions.iter().zip(bus.committed(&group, &partitions)?) {
                        let Some(committed) = committed else { continue };
                        let end = bus.offsets(at)?.end;
                        println!("{at}\tcommitted {committed}\tend {end}\tlag {}", end - committed);
                        known = true;
                    }
                }
                if known {
                    Ok(())
                } else {
                    Err(Failure::new(format!("group {group} has committed nothing here")))
                }
            }
            Action::Reset { group, topic } => {
                let description =
                    bus.topic(&topic)?.ok_or_else(|| super::topic::missing(bus.as_ref(), &topic))?;
                let mut offsets = Vec::new();
                for index in 0..description.partitions {
                    let at = TopicPartition::new(topic.as_str(), index);
                    let start = bus.offsets(&at)?.start;
                    offsets.push((at, start));
                }
                Ok(bus.commit_offsets(&group, &offsets)?)
            }
        }
    }
}
