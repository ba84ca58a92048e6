//! Produces exchanges as record batches, one per partition.

use std::collections::BTreeMap;
use std::sync::Arc;

use herdsman_bus::{Bus, BusError, TopicSpec};
use herdsman_host::Clock;
use herdsman_record::{BatchBuilder, Compression, TopicPartition, partition_for_key};

use super::Config;
use crate::connectors::{Doors, SendError, Sink};
use crate::exchange::{Exchange, text_of};

const BATCH_BYTES_MAX: usize = 900 << 10;

/// Writes to a topic of the bus.
pub(crate) struct KafkaSink {
    config: Arc<Config>,
    bus: Arc<dyn Bus>,
    clock: Arc<dyn Clock>,
    partitions: Option<i32>,
    next_partition: i32,
}

impl KafkaSink {
    pub fn open(config: Arc<Config>, doors: &Doors) -> Self {
        let (bus, clock) = (Arc::clone(&doors.bus), Arc::clone(&doors.clock));
        Self { config, bus, clock, partitions: None, next_partition: 0 }
    }

    fn partitions(&mut self) -> Result<i32, SendError> {
        if let Some(partitions) = self.partitions {
            return Ok(partitions);
        }
        let refused = |error: BusError| SendError::retry(error.to_string());
        let found = match self.bus.topic(&self.config.topic).map_err(refused)? {
            Some(topic) => topic.partitions,
            None => {
                let spec = TopicSpec {
                    name: self.config.topic.to_string(),
                    partitions: self.config.partitions,
                    configs: BTreeMap::new(),
                };
                match self.bus.create_topic(&spec) {
                    Ok(()) | Err(BusError::TopicExists(_)) => self.config.partitions,
                    Err(error) => return Err(refused(error)),
                }
            }
        };
        self.partitions = Some(found);
        Ok(found)
    }
}

/// Headers that are of the route, not of the record.
fn is_internal(name: &str) -> bool {
    name.starts_with("kafka.") || name.starts_with("Camel")
}

impl Sink for KafkaSink {
    fn send(&mut self, batch: &mut [Exchange]) -> Result<(), SendError> {
        let partitions = self.partitions()?;
        let now_ms = self.clock.now_ms();
        let unkeyed = self.next_partition % partitions;
        self.next_partition = self.next_partition.wrapping_add(1).max(0);
        let config = Arc::clone(&self.config);
        let fixed_key = config.key.as_ref().map(String::as_bytes);
        // runs of records for one partition, so that "delivered" is a prefix of the batch
        let mut delivered = 0;
        let mut at = 0;
        let mut builders: BTreeMap<i32, BatchBuilder> = BTreeMap::new();
        let mut bytes = 0;
        for exchange in batch.iter() {
            let own_key = exchange.record_key();
            let key = own_key.as_deref().or(fixed_key);
            let partition = key.map_or(unkeyed, |key| partition_for_key(key, partitions));
            let value = exchange.body_bytes();
            let texts: Vec<(&str, Option<String>)> = exchange
                .headers
                .iter()
                .filter(|(name, _)| !is_internal(name))
                .map(|(name, value)| (name.as_ref(), (!value.is_null()).then(|| text_of(value))))
                .collect();
            let headers: Vec<(&str, Option<&[u8]>)> =
                texts.iter().map(|(name, value)| (*name, value.as_ref().map(String::as_bytes))).collect();
            let builder = builders.entry(partition).or_default();
            builder.append(exchange.timestamp_ms(now_ms), key, value.as_deref(), &headers);
            bytes += value.as_ref().map_or(0, bytes::Bytes::len) + 100;
            at += 1;
            if bytes >= BATCH_BYTES_MAX {
                self.produce(&mut builders).map_err(|error| error.after(delivered))?;
                delivered = at;
                bytes = 0;
            }
        }
        self.produce(&mut builders).map_err(|error| error.after(delivered))
    }
}

impl KafkaSink {
    fn produce(&mut self, builders: &mut BTreeMap<i32, BatchBuilder>) -> Result<(), SendError> {
        for (partition, mut builder) in std::mem::take(builders) {
            let at = TopicPartition::new(Arc::clone(&self.config.topic), partition);
            let batch = builder
                .finish(Compression::None)
                .map_err(|error| SendError::poison(None, format!("topic {}: {error}", self.config.topic)))?;
            self.bus.produce(&at, batch).map_err(|error| match error {
                // the size or the content of a record: halve until it is alone
                BusError::Record(error) => SendError::poison(None, format!("topic {}: {error}", at.topic)),
                error => {
                    self.partitions = None;
                    SendError::retry(error.to_string())
                }
            })?;
        }
        Ok(())
    }
}
