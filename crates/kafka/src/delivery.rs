//! Sends the records of a batch and waits until the cluster has them all.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use herdsman_broker::dedupe::Fresh;
use herdsman_bus::BusError;
use herdsman_record::{Batch, Headers as RecordHeaders, Record, TopicPartition};
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};

use crate::error::write_failed;

/// Receives delivery reports.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reports;

/// A producer with its own polling thread.
pub(crate) type Producer = ThreadedProducer<Reports>;

#[derive(Debug, Default)]
struct State {
    pending: usize,
    first_offset: Option<i64>,
    failed: Option<RDKafkaErrorCode>,
}

/// Counts the records of one batch until all are delivered.
#[derive(Debug, Default)]
pub(crate) struct Ticket {
    state: Mutex<State>,
    done: Condvar,
}

impl ClientContext for Reports {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Arc<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Arc<Ticket>) {
        let mut state = ticket.state.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(message) => {
                let offset = message.offset();
                state.first_offset = Some(state.first_offset.map_or(offset, |first| first.min(offset)));
            }
            Err((error, _)) => {
                state.failed =
                    state.failed.or(Some(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)));
            }
        }
        state.pending -= 1;
        if state.pending == 0 {
            ticket.done.notify_all();
        }
    }
}

impl Ticket {
    /// Waits until every record sent so far is reported. Gives the lowest offset (−1 if nothing was sent).
    pub(crate) fn wait(&self) -> Result<i64, RDKafkaErrorCode> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.pending > 0 {
            state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match state.failed {
            Some(code) => Err(code),
            None => Ok(state.first_offset.unwrap_or(-1)),
        }
    }

    fn expect(&self, change: isize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.pending = state.pending.saturating_add_signed(change);
    }
}

/// Hands the records of `batch` that are `fresh` (all, if none is said) to the producer; the ticket counts them.
pub(crate) fn send(
    url: &str,
    producer: &Producer,
    at: &TopicPartition,
    batch: &Batch,
    fresh: Option<&Fresh>,
    ticket: &Arc<Ticket>,
) -> Result<(), BusError> {
    let records = batch.records()?;
    for (index, record) in records.iter().enumerate() {
        let record = record?;
        if fresh.is_some_and(|fresh| !fresh.is_fresh(index)) {
            continue;
        }
        send_one(producer, at, &record, ticket).map_err(|code| write_failed(url, at, code))?;
    }
    Ok(())
}

fn send_one(
    producer: &Producer,
    at: &TopicPartition,
    record: &Record<'_>,
    ticket: &Arc<Ticket>,
) -> Result<(), RDKafkaErrorCode> {
    let mut out = BaseRecord::with_opaque_to(&at.topic, Arc::clone(ticket)).partition(at.partition);
    // librdkafka reads 0 as "now"
    out = out.timestamp(record.timestamp_ms.max(1));
    out.key = record.key;
    out.payload = record.value;
    if !record.headers.is_empty() {
        out = out.headers(owned_headers(record.headers));
    }
    ticket.expect(1);
    loop {
        match producer.send(out) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                out = back;
                // the polling thread drains the queue meanwhile
                std::thread::sleep(Duration::from_millis(1));
            }
            Err((error, _)) => {
                ticket.expect(-1);
                return Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail));
            }
        }
    }
}

fn owned_headers(headers: RecordHeaders<'_>) -> OwnedHeaders {
    let mut out = OwnedHeaders::new_with_capacity(headers.len());
    for (name, value) in headers.iter() {
        out = out.insert(Header { key: &String::from_utf8_lossy(name), value });
    }
    out
}
