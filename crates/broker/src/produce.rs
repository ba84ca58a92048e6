//! Produce: check once, drop what the event-id window has seen, append.
//!
//! Order of locks: the transactional id (first batch of a transaction in a partition only), producers of the partition, then
//! the topic's event ids, then the log. Ids are read before any lock.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use herdsman_log::LogError;
use herdsman_record::{Batch, EventId, Header, TopicPartition};
use herdsman_wire::Reply;
use herdsman_wire::kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, TopicProduceResponse,
};
use herdsman_wire::kafka_protocol::messages::{ProduceRequest, ProduceResponse};
use herdsman_wire::kafka_protocol::protocol::StrBytes;

use crate::dedupe::Extractor;
use crate::error::span;
use crate::producers::Verdict;
use crate::rebuild::keep_fresh;
use crate::repeats::Sample;
use crate::topic::{Topic, TopicDedupe, lock};
use crate::transactions::Within;
use crate::{Broker, BrokerError};

/// First version whose batches make their partition part of the transaction (KIP-890).
const ADDS_PARTITIONS: i16 = 12;
/// What a topic refuses is told at most this often, ms.
const REFUSALS_PERIOD_MS: i64 = 60_000;

/// Answer to one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProduceOutcome {
    /// Offset of the first record written; the end of the log if none was.
    pub base_offset: i64,
    /// Records written.
    pub accepted: u32,
    /// Records dropped because their event id is in the topic's window.
    pub duplicates: u32,
    /// Append time if the topic stamps it, else −1, ms since the Unix epoch.
    pub append_time_ms: i64,
}

/// Runs what may wait for a disk without holding up other connections.
fn off_the_reactor<T>(wait: bool, work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    let threaded =
        Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    if wait && threaded { tokio::task::block_in_place(work) } else { work() }
}

impl Broker {
    /// Checks and appends one batch as if a client had sent it.
    ///
    /// # Errors
    /// The batch is damaged, too large, out of sequence or too far from the clock; the topic is unknown; the log refuses.
    pub fn produce(&self, at: &TopicPartition, batch: Batch) -> Result<ProduceOutcome, BrokerError> {
        self.produce_within(at, batch, None)
    }

    /// As [`Broker::produce`], in the name of a transactional id.
    pub(crate) fn produce_within(
        &self,
        at: &TopicPartition,
        batch: Batch,
        within: Option<Within<'_>>,
    ) -> Result<ProduceOutcome, BrokerError> {
        let topic = self.known_topic(at)?;
        let bytes = batch.bytes().len() as u64;
        let outcome = off_the_reactor(topic.waits_for_disk, || self.append(&topic, at, batch, within))?;
        let counters = &topic.counters;
        counters.produced_records.fetch_add(u64::from(outcome.accepted), Ordering::Relaxed);
        counters.duplicates.fetch_add(u64::from(outcome.duplicates), Ordering::Relaxed);
        counters.produced_bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(outcome)
    }

    fn append(
        &self,
        topic: &Topic,
        at: &TopicPartition,
        batch: Batch,
        within: Option<Within<'_>>,
    ) -> Result<ProduceOutcome, BrokerError> {
        let header = batch.header();
        let now_ms = self.clock.now_ms();
        check_header(topic, at, &header, now_ms)?;
        batch.check_crc().map_err(|source| BrokerError::Corrupt { topic_partition: at.clone(), source })?;
        let ids = check_records(topic, at, &batch, &header)?;
        let stamped = topic.log_append_time.then_some(now_ms);
        if header.producer_id < 0 {
            return self.write(topic, at, batch, &header, ids.as_deref(), now_ms, stamped, |_| ());
        }
        let state = topic.state(at.partition)?;
        let mut partition = state.lock(&self.log, at)?;
        let opens = header.is_transactional()
            && partition.producers().open_of(header.producer_id, header.producer_epoch).is_none();
        let slot;
        let mut claimed; // until the batch is written, so that the end of the transaction cannot come between
        if opens {
            // the id is locked before the partition, as the end of a transaction does it
            drop(partition);
            let within = within.ok_or_else(|| {
                BrokerError::InvalidRequest(format!("{at}: a transactional batch without transactional.id"))
            })?;
            slot = self.transaction(within.transactional_id)?;
            claimed = lock(&slot);
            self.admit(within, &mut claimed, &header, at)?;
            partition = state.lock(&self.log, at)?;
        }
        if let Verdict::Duplicate(base_offset) = partition.producers().check(&header, at)? {
            let append_time_ms = stamped.unwrap_or(-1);
            return Ok(ProduceOutcome { base_offset, accepted: 0, duplicates: 0, append_time_ms });
        }
        let written = self.write(topic, at, batch, &header, ids.as_deref(), now_ms, stamped, |offset| {
            if opens {
                partition.about_to_open(offset);
            }
        });
        if let Ok(outcome) = &written {
            partition.producers().record(&header, outcome.base_offset);
        }
        if opens {
            partition.settle();
        }
        written
    }

    #[expect(clippy::too_many_arguments, reason = "one step of `append`, split off for reading")]
    fn write(
        &self,
        topic: &Topic,
        at: &TopicPartition,
        batch: Batch,
        header: &Header,
        ids: Option<&[EventId]>,
        now_ms: i64,
        stamped: Option<i64>,
        before: impl Fn(i64),
    ) -> Result<ProduceOutcome, BrokerError> {
        let tried = Cell::new(false);
        let put = |batch| {
            let put = self.log.append_with(at, |tail| {
                tried.set(true);
                before(tail.end);
                Ok::<_, LogError>((Some(batch), ()))
            });
            put.map(|(base_offset, ())| base_offset).map_err(BrokerError::from)
        };
        let stamp = |batch: Batch| match stamped {
            Some(now_ms) => batch.with_append_time(now_ms),
            None => batch,
        };
        let append_time_ms = stamped.unwrap_or(-1);
        let records = u32::try_from(header.record_count).unwrap_or(0);
        let (Some(dedupe), Some(ids)) = (topic.dedupe.as_deref(), ids) else {
            let base_offset = put(stamp(batch))?;
            return Ok(ProduceOutcome { base_offset, accepted: records, duplicates: 0, append_time_ms });
        };
        // held until the log has the batch: an id is remembered if and only if its record is written
        let mut seen = lock(&dedupe.seen);
        if seen.is_doubtful(ids) {
            let reason = "an event id of the batch was in a write that failed and may stand after a restart"
                .to_owned();
            return Err(LogError::Closed { topic_partition: at.clone(), reason }.into());
        }
        let fresh = seen.filter(ids, now_ms);
        let duplicates = u32::try_from(fresh.duplicates()).unwrap_or(u32::MAX);
        let repeats = &topic.counters.repeats;
        let mut sample = None;
        let kept = if duplicates == 0 {
            Ok(Some(batch))
        } else {
            if repeats.wants_sample() {
                sample = Sample::of(&batch, &fresh, at, dedupe.extractor());
            }
            batch.records().and_then(|records| keep_fresh(&batch, &records, &fresh))
        };
        let written = match kept {
            Ok(Some(kept)) => put(stamp(kept)),
            Ok(None) => self.log.offsets(at).map(|(_, end)| end).map_err(BrokerError::from),
            Err(source) => Err(BrokerError::Corrupt { topic_partition: at.clone(), source }),
        };
        match &written {
            Ok(_) => {}
            Err(error) if tried.get() && !matches!(error, BrokerError::Log(LogError::NoSpace { .. })) => {
                seen.doubt(ids, &fresh);
            }
            Err(_) => seen.forget(ids, &fresh),
        }
        let base_offset = written?;
        let accepted = records - duplicates;
        if let Some(sample) = sample {
            repeats.keep(sample, base_offset + i64::from(accepted));
        }
        Ok(ProduceOutcome { base_offset, accepted, duplicates, append_time_ms })
    }

    pub(crate) fn on_produce(&self, request: ProduceRequest, version: i16, client: &str) -> Reply {
        let acks = request.acks;
        let refusal =
            if !(-1..=1).contains(&acks) { Some(BrokerError::InvalidRequiredAcks(acks)) } else { None };
        let within = request
            .transactional_id
            .as_ref()
            .map(|id| Within { transactional_id: id.as_str(), adds: version >= ADDS_PARTITIONS });
        let mut failed = refusal.is_some();
        let mut responses = Vec::with_capacity(request.topic_data.len());
        for topic in request.topic_data {
            let name: Arc<str> = Arc::from(topic.name.as_str());
            let mut partitions = Vec::with_capacity(topic.partition_data.len());
            for partition in topic.partition_data {
                let at = TopicPartition::new(Arc::clone(&name), partition.index);
                let result = match &refusal {
                    Some(error) => Err(ProduceFailure::of(error, version)),
                    None => {
                        let done = self.produce_bytes(&at, partition.records, within);
                        done.map_err(|error| ProduceFailure::of(&error.sent_by(client), version))
                    }
                };
                failed |= result.is_err();
                partitions.push(self.partition_response(&at, result));
            }
            responses.push(
                TopicProduceResponse::default().with_name(topic.name).with_partition_responses(partitions),
            );
        }
        match (acks, failed) {
            // a client that asked for no answer learns of a failure by losing its connection, as in Kafka
            (0, true) => Reply::Close,
            (0, false) => Reply::Nothing,
            _ => Reply::message(ProduceResponse::default().with_responses(responses)),
        }
    }

    fn produce_bytes(
        &self,
        at: &TopicPartition,
        records: Option<bytes::Bytes>,
        within: Option<Within<'_>>,
    ) -> Result<ProduceOutcome, BrokerError> {
        if at.topic.starts_with("__") {
            return Err(BrokerError::InternalTopic(at.topic.to_string()));
        }
        let records = records.unwrap_or_default();
        let batch = Batch::from_bytes(records)
            .map_err(|source| BrokerError::Corrupt { topic_partition: at.clone(), source })?;
        self.produce_within(at, batch, within)
    }

    fn partition_response(
        &self,
        at: &TopicPartition,
        result: Result<ProduceOutcome, ProduceFailure>,
    ) -> PartitionProduceResponse {
        let response = PartitionProduceResponse::default().with_index(at.partition);
        match result {
            Ok(outcome) => response
                .with_base_offset(outcome.base_offset)
                .with_log_append_time_ms(outcome.append_time_ms)
                .with_log_start_offset(self.log.offsets(at).map_or(-1, |(start, _)| start)),
            Err(failure) => {
                self.tell_refused(at, &failure);
                let message = StrBytes::from_string(failure.message);
                let record_error = BatchIndexAndErrorMessage::default()
                    .with_batch_index(0)
                    .with_batch_index_error_message(Some(message.clone()));
                response
                    .with_error_code(failure.code)
                    .with_base_offset(-1)
                    .with_log_append_time_ms(-1)
                    .with_log_start_offset(-1)
                    .with_record_errors(if failure.names_record { vec![record_error] } else { Vec::new() })
                    .with_error_message(Some(message))
            }
        }
    }

    /// Many clients hide the words of a refusal or try again for minutes: the operator reads them here.
    fn tell_refused(&self, at: &TopicPartition, failure: &ProduceFailure) {
        let now_ms = self.clock.now_ms();
        let due = |last| (now_ms - last >= REFUSALS_PERIOD_MS).then_some(now_ms);
        let topic = self.topic(&at.topic).filter(|_| failure.for_operator);
        let told = topic.is_some_and(|topic| {
            let told_ms = &topic.counters.refusal_told_ms;
            told_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok()
        });
        if told {
            tracing::warn!("{}", failure.message);
        } else {
            tracing::info!(topic_partition = %at, error = %failure.message, "produce refused");
        }
    }
}

struct ProduceFailure {
    code: i16,
    message: String,
    names_record: bool,
    for_operator: bool,
}

impl ProduceFailure {
    fn of(error: &BrokerError, version: i16) -> Self {
        let names_record =
            matches!(error, BrokerError::InvalidRecord { .. } | BrokerError::InvalidTimestamp { .. });
        let for_operator = matches!(
            error,
            BrokerError::MessageTooLarge { .. }
                | BrokerError::InvalidTimestamp { .. }
                | BrokerError::Log(LogError::NoSpace { .. })
        );
        Self { code: error.produce_code(version), message: error.to_string(), names_record, for_operator }
    }
}

fn check_header(topic: &Topic, at: &TopicPartition, header: &Header, now_ms: i64) -> Result<(), BrokerError> {
    let invalid = |reason: &str| {
        Err(BrokerError::InvalidRecord { topic_partition: at.clone(), reason: reason.to_owned() })
    };
    if header.total_len > topic.max_message_bytes {
        return Err(BrokerError::MessageTooLarge {
            topic: at.topic.to_string(),
            bytes: header.total_len,
            limit: topic.max_message_bytes,
            records: usize::try_from(header.record_count).unwrap_or(0),
        });
    }
    if header.is_control() {
        return invalid("clients may not write control batches");
    }
    if header.record_count < 1 || header.record_count - 1 != header.last_offset_delta {
        return invalid("the batch's record count and last offset delta do not agree");
    }
    if header.producer_id >= 0 && (header.producer_epoch < 0 || header.base_sequence < 0) {
        return invalid("a producer id needs an epoch and a sequence");
    }
    if header.is_transactional() && header.producer_id < 0 {
        return invalid("a transactional batch needs a producer id");
    }
    if topic.log_append_time {
        return Ok(());
    }
    let ahead_ms = header.max_timestamp_ms.saturating_sub(now_ms);
    let skewed = |distance, allowed_ms, key| BrokerError::InvalidTimestamp {
        client: String::new(),
        distance,
        allowed: span(allowed_ms),
        key,
        topic: at.topic.to_string(),
    };
    if ahead_ms > topic.timestamp_after_max_ms {
        let distance = format!("{} ahead of", span(ahead_ms));
        return Err(skewed(distance, topic.timestamp_after_max_ms, "message.timestamp.after.max.ms"));
    }
    let behind_ms = now_ms.saturating_sub(header.base_timestamp_ms);
    if header.base_timestamp_ms >= 0 && behind_ms > topic.timestamp_before_max_ms {
        let distance = format!("{} behind", span(behind_ms));
        return Err(skewed(distance, topic.timestamp_before_max_ms, "message.timestamp.before.max.ms"));
    }
    Ok(())
}

/// Walks every record once: structure, offset deltas, keys of a compacted topic, event ids.
fn check_records(
    topic: &Topic,
    at: &TopicPartition,
    batch: &Batch,
    header: &Header,
) -> Result<Option<Vec<EventId>>, BrokerError> {
    let corrupt = |source| BrokerError::Corrupt { topic_partition: at.clone(), source };
    let invalid = |reason: String| BrokerError::InvalidRecord { topic_partition: at.clone(), reason };
    let records = batch.records().map_err(corrupt)?;
    if let Some(dedupe) = topic.dedupe.as_deref() {
        let mut ids = Vec::new();
        let mut extractor: Extractor = TopicDedupe::extractor(dedupe);
        extractor
            .ids_of(&records, Some(header.base_offset), &mut ids)
            .map_err(|error| BrokerError::from_ids(error, at))?;
        dedupe.learned(&extractor);
        if ids.len() != records.len() {
            return Err(invalid("fewer records than the batch announces".to_owned()));
        }
        return Ok(Some(ids));
    }
    let mut expected = header.base_offset;
    for record in records.iter() {
        let record = record.map_err(corrupt)?;
        if record.offset != expected {
            return Err(invalid("record offsets do not count up by one".to_owned()));
        }
        expected = expected.wrapping_add(1);
        if topic.compacted && record.key.is_none() {
            return Err(invalid("a compacted topic needs a key on every record".to_owned()));
        }
    }
    Ok(None)
}
