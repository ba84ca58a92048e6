//! Reads partitions and packs their records into batches again, at their true offsets.

use std::sync::Arc;
use std::time::Duration;

use herdsman_bus::{BusError, Fetched, Reader};
use herdsman_host::{Clock, RealClock};
use herdsman_record::{Batch, BatchBuilder, Compression, RecordError, TopicPartition};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use crate::error::unavailable;
use crate::ffi::{MessageQueue, RawMessage};

/// A batch is sealed at this many bytes.
const BATCH_BYTES: usize = 1 << 20;
/// Messages taken per look into the queue.
const MESSAGES_PER_LOOK: usize = 4096;

/// Sends librdkafka's log to ours.
#[derive(Debug, Clone, Default)]
pub(crate) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for Quiet {}

/// One assigned partition.
struct Slot {
    at: TopicPartition,
    /// Next offset to hand out.
    position: i64,
    /// Where this poll began.
    began: i64,
    builder: BatchBuilder,
    /// Offset of the builder's first record, and the one its next record must have.
    base: i64,
    expected: i64,
    batches: Vec<Batch>,
    bytes: usize,
}

impl Slot {
    fn new(at: TopicPartition, position: i64) -> Self {
        Self {
            at,
            position,
            began: position,
            builder: BatchBuilder::new(),
            base: position,
            expected: position,
            batches: Vec::new(),
            bytes: 0,
        }
    }

    /// Appends one record; a gap in the offsets (a transaction marker, a compacted record) begins a new batch, so that
    /// offset deltas stay dense.
    fn append(&mut self, message: &RawMessage<'_>) -> Result<(), RecordError> {
        if message.offset < self.position {
            return Ok(());
        }
        if !self.builder.is_empty()
            && (message.offset != self.expected || self.builder.byte_len() > BATCH_BYTES)
        {
            self.seal()?;
        }
        if self.builder.is_empty() {
            self.base = message.offset;
        }
        self.builder.append(message.timestamp_ms, message.key, message.value, &message.headers);
        self.expected = message.offset + 1;
        self.position = message.offset + 1;
        Ok(())
    }

    fn seal(&mut self) -> Result<(), RecordError> {
        if !self.builder.is_empty() {
            let batch = self.builder.finish(Compression::None)?.with_base_offset(self.base, 0);
            self.bytes += batch.bytes().len();
            self.batches.push(batch);
        }
        Ok(())
    }
}

/// A reader of a cluster's partitions.
pub(crate) struct KafkaReader {
    url: String,
    queue: MessageQueue<Quiet>,
    slots: Vec<Slot>,
    /// Topic handle, partition and slot of the last message.
    hint: (usize, i32, usize),
    /// Told at the next poll, after the records that came before it.
    failed: Option<BusError>,
    clock: RealClock,
    timeout: Duration,
}

impl KafkaReader {
    pub(crate) fn new(url: &str, consumer: BaseConsumer<Quiet>, timeout: Duration) -> Result<Self, BusError> {
        let queue = MessageQueue::new(Arc::new(consumer)).ok_or_else(|| BusError::Unavailable {
            bus: url.to_owned(),
            reason: "librdkafka made no consumer queue".to_owned(),
        })?;
        Ok(Self {
            url: url.to_owned(),
            queue,
            slots: Vec::new(),
            hint: (0, -1, 0),
            failed: None,
            clock: RealClock,
            timeout,
        })
    }

    /// Assigns many partitions at once.
    pub(crate) fn assign(&mut self, start: &[(TopicPartition, i64)]) -> Result<(), BusError> {
        let mut list = TopicPartitionList::with_capacity(start.len());
        for (at, offset) in start {
            list.add_partition_offset(&at.topic, at.partition, Offset::Offset(*offset))
                .map_err(|error| unavailable(&self.url, &format!("seeking in {at}"), &error))?;
        }
        self.queue
            .consumer()
            .incremental_assign(&list)
            .map_err(|error| unavailable(&self.url, "assigning partitions", &error))?;
        self.slots.extend(start.iter().map(|(at, offset)| Slot::new(at.clone(), *offset)));
        Ok(())
    }

    /// Takes what is there, or waits for a first message.
    fn look(&mut self, limit: usize, timeout: Duration) -> usize {
        let Self { queue, slots, hint, failed, url, .. } = self;
        let mut out_of_range = None;
        let count = queue.poll(limit, timeout, |message| {
            let slot = find(slots, hint, message);
            match (message.error, slot) {
                (None, Some(slot)) => {
                    if let Err(error) = slot.append(message) {
                        *failed = Some(error.into());
                    }
                }
                // the end lies behind transaction markers too
                (Some(RDKafkaErrorCode::PartitionEOF), Some(slot)) => {
                    slot.position = slot.position.max(message.offset)
                }
                (
                    Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange),
                    Some(slot),
                ) => {
                    out_of_range = Some((slot.at.clone(), slot.position));
                }
                (
                    Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic),
                    Some(slot),
                ) => {
                    *failed = Some(BusError::UnknownTopic(slot.at.clone()));
                }
                (Some(code), _) => {
                    *failed = Some(unavailable(url, "reading", &KafkaError::MessageConsumption(code)));
                }
                (None, None) => {}
            }
        });
        if let Some((at, asked)) = out_of_range {
            let range = self.queue.consumer().fetch_watermarks(&at.topic, at.partition, self.timeout);
            let (start, end) = range.unwrap_or((-1, -1));
            self.failed = Some(BusError::OffsetOutOfRange { topic_partition: at, start, end, asked });
        }
        count
    }

    fn collect(&mut self) -> Result<Vec<Fetched>, BusError> {
        let mut found = Vec::new();
        for slot in &mut self.slots {
            slot.seal()?;
            if slot.position == slot.began {
                continue;
            }
            let high = self.queue.high_watermark(&slot.at.topic, slot.at.partition);
            found.push(Fetched {
                topic_partition: slot.at.clone(),
                batches: std::mem::take(&mut slot.batches),
                position: slot.began,
                next_offset: slot.position,
                high_watermark: high.unwrap_or(slot.position).max(slot.position),
            });
            slot.began = slot.position;
            slot.bytes = 0;
        }
        Ok(found)
    }

    fn pending_bytes(&self) -> usize {
        self.slots.iter().map(|slot| slot.bytes + slot.builder.byte_len()).sum()
    }

    fn progressed(&self) -> bool {
        self.slots.iter().any(|slot| slot.position != slot.began)
    }
}

fn find<'a>(
    slots: &'a mut [Slot],
    hint: &mut (usize, i32, usize),
    message: &RawMessage<'_>,
) -> Option<&'a mut Slot> {
    let index = if hint.0 == message.topic_handle && hint.1 == message.partition {
        hint.2
    } else {
        let same = |slot: &Slot| slot.at.partition == message.partition && *slot.at.topic == *message.topic;
        slots.iter().position(same)?
    };
    *hint = (message.topic_handle, message.partition, index);
    slots.get_mut(index)
}

impl Reader for KafkaReader {
    fn poll(&mut self, max_bytes: usize, timeout: Duration) -> Result<Vec<Fetched>, BusError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.hint = (0, -1, 0);
        let began = self.clock.monotonic_ns();
        let mut left = timeout;
        loop {
            self.look(1, left);
            while self.pending_bytes() < max_bytes && self.look(MESSAGES_PER_LOOK, Duration::ZERO) > 0 {}
            let spent = Duration::from_nanos(self.clock.monotonic_ns().saturating_sub(began));
            left = timeout.saturating_sub(spent);
            if self.progressed() || self.failed.is_some() || left.is_zero() {
                break;
            }
        }
        let found = self.collect()?;
        match self.failed.take() {
            Some(error) if found.is_empty() => Err(error),
            later => {
                self.failed = later;
                Ok(found)
            }
        }
    }

    fn seek(&mut self, topic_partition: &TopicPartition, offset: i64) -> Result<(), BusError> {
        if let Some(index) = self.slots.iter().position(|slot| slot.at == *topic_partition) {
            let mut list = TopicPartitionList::new();
            list.add_partition(&topic_partition.topic, topic_partition.partition);
            self.queue
                .consumer()
                .incremental_unassign(&list)
                .map_err(|error| unavailable(&self.url, &format!("seeking in {topic_partition}"), &error))?;
            self.slots.remove(index);
        }
        self.assign(&[(topic_partition.clone(), offset)])
    }

    fn pause(&mut self, topic_partition: &TopicPartition, paused: bool) {
        let mut list = TopicPartitionList::new();
        list.add_partition(&topic_partition.topic, topic_partition.partition);
        let consumer = self.queue.consumer();
        let done = if paused { consumer.pause(&list) } else { consumer.resume(&list) };
        if let Err(error) = done {
            tracing::warn!(%topic_partition, paused, %error, "cannot pause or resume");
        }
    }
}
