//! `herdsman produce`: each line of standard input becomes a record.

use std::io::BufRead;

use clap::Args;
use herdsman_record::{BatchBuilder, Compression, TopicPartition, partition_for_key};

use super::{Cluster, topic};
use crate::failure::Failure;

/// Lines to records.
#[derive(Args)]
pub struct Produce {
    #[command(flatten)]
    cluster: Cluster,
    /// Topic
    topic: String,
    /// What separates key and value in a line (no key without it)
    #[arg(long, value_name = "TEXT")]
    key_separator: Option<String>,
}

/// Records of one batch at most.
const BATCH_RECORDS: usize = 10_000;

impl Produce {
    /// Sends until the input ends; prints how many records were acknowledged.
    pub fn run(self) -> Result<(), Failure> {
        let bus = self.cluster.connect_impatiently()?;
        let description = bus.topic(&self.topic)?.ok_or_else(|| topic::missing(bus.as_ref(), &self.topic))?;
        let mut lanes: Vec<BatchBuilder> = (0..description.partitions).map(|_| BatchBuilder::new()).collect();
        let (mut accepted, mut duplicates, mut turn) = (0_u64, 0_u64, 0_usize);
        let mut flush = |lanes: &mut [BatchBuilder]| -> Result<(), Failure> {
            for (partition, lane) in (0..).zip(lanes).filter(|(_, lane)| !lane.is_empty()) {
                let at = TopicPartition::new(self.topic.as_str(), partition);
                let produced = bus.produce(&at, lane.finish(Compression::None)?)?;
                accepted += u64::from(produced.accepted);
                duplicates += u64::from(produced.duplicates);
            }
            Ok(())
        };
        let now_ms = herdsman_host::Clock::now_ms(&herdsman_host::RealClock);
        let mut waiting = 0;
        for line in std::io::stdin().lock().lines() {
            let line = line?;
            let split = self.key_separator.as_deref().and_then(|separator| line.split_once(separator));
            let (key, value) =
                split.map_or((None, line.as_str()), |(key, value)| (Some(key.as_bytes()), value));
            let index = match key {
                Some(key) => usize::try_from(partition_for_key(key, description.partitions)).unwrap_or(0),
                None => turn % lanes.len().max(1),
            };
            if let Some(lane) = lanes.get_mut(index) {
                lane.append(now_ms, key, Some(value.as_bytes()), &[]);
            }
            waiting += 1;
            if waiting == BATCH_RECORDS {
                flush(&mut lanes)?;
                (waiting, turn) = (0, turn + 1);
            }
        }
        flush(&mut lanes)?;
        let dropped =
            if duplicates > 0 { format!(", {duplicates} duplicates dropped") } else { String::new() };
        eprintln!("{accepted} records acknowledged{dropped}");
        Ok(())
    }
}
