//! librdkafka's errors as the bus's.

use herdsman_bus::BusError;
use herdsman_record::TopicPartition;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// The cluster could not do it now.
pub(crate) fn unavailable(url: &str, what: &str, error: &KafkaError) -> BusError {
    if let KafkaError::ClientConfig(_, _, key, _) = error {
        // its text would repeat the value, which may be a secret
        let reason = format!("{what}: librdkafka refuses property {key}: check its name and value");
        return BusError::Unavailable { bus: url.to_owned(), reason };
    }
    let reason = match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::BrokerTransportFailure) => {
            format!("{what}: no broker answers")
        }
        Some(RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::MessageTimedOut) => {
            format!("{what}: no answer in time")
        }
        Some(code) => format!("{what}: {}", plain(code)),
        None => format!("{what}: {error}"),
    };
    BusError::Unavailable { bus: url.to_owned(), reason }
}

/// What a code says, without its name.
pub(crate) fn plain(code: RDKafkaErrorCode) -> String {
    let text = code.to_string();
    match text.split_once(": ") {
        Some((_, reason)) => reason.trim_end_matches(')').to_owned(),
        None => text,
    }
}

/// A write to `at` failed with `code`. The broker's own words do not come through librdkafka: where its answer has some
/// (KIP-467), the pointer that `rd_kafka_message_produce_errstr` gives (2.12.1) is to memory already freed.
pub(crate) fn write_failed(url: &str, at: &TopicPartition, code: RDKafkaErrorCode) -> BusError {
    match code {
        RDKafkaErrorCode::UnknownTopic
        | RDKafkaErrorCode::UnknownTopicOrPartition
        | RDKafkaErrorCode::UnknownPartition => BusError::UnknownTopic(at.clone()),
        RDKafkaErrorCode::MessageSizeTooLarge => BusError::Refused(format!(
            "a record is larger than max.message.bytes of {0}: raise it for {0}, or send a link to the bytes",
            at.topic
        )),
        RDKafkaErrorCode::InvalidTimestamp => BusError::Refused(format!(
            "the time of a record is too far from the clock of {url}: set the clock here, or raise message.timestamp.after.max.ms of {}",
            at.topic
        )),
        RDKafkaErrorCode::KafkaStorageError => BusError::Storage(format!(
            "{url} cannot write {at} to its disk, reads go on: free space there, its log says how much it needs"
        )),
        code => unavailable(url, &format!("writing to {at}"), &KafkaError::MessageProduction(code)),
    }
}

/// Whether an error means that a newer instance owns the transactional id.
pub(crate) fn is_fenced(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::Fenced
            | RDKafkaErrorCode::ProducerFenced
            | RDKafkaErrorCode::InvalidProducerEpoch
            | RDKafkaErrorCode::FencedInstanceId
    )
}
