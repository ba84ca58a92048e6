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

/// A write of `bytes` to `at` failed with `code`.
pub(crate) fn write_failed(url: &str, at: &TopicPartition, code: RDKafkaErrorCode) -> BusError {
    match code {
        RDKafkaErrorCode::UnknownTopic
        | RDKafkaErrorCode::UnknownTopicOrPartition
        | RDKafkaErrorCode::UnknownPartition => BusError::UnknownTopic(at.clone()),
        RDKafkaErrorCode::MessageSizeTooLarge => BusError::InvalidTopic {
            topic: at.topic.to_string(),
            reason: "a record is larger than its max.message.bytes: raise it, or send a link to the bytes"
                .to_owned(),
        },
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
