//! What the broker refuses and why; the one place where a reason becomes a Kafka error code.

use herdsman_log::LogError;
use herdsman_record::{RecordError, TopicPartition};
use kafka_protocol::ResponseError;

use crate::dedupe::IdError;
use crate::group::GroupError;
use crate::share::ShareError;
use crate::transaction::TransactionError;

/// A refusal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// No such topic or partition.
    #[error("no topic partition {0}: create the topic first")]
    UnknownTopicPartition(TopicPartition),
    /// No topic has this id.
    #[error("no topic has the id asked for: refresh the metadata")]
    UnknownTopicId,
    /// A batch above `max.message.bytes`.
    #[error(
        "{} of {} bytes, max.message.bytes of {topic} is {}: raise it for {topic}, or send a link to the bytes",
        if *records == 1 { "record" } else { "record batch" }, thousands(*bytes as u64), thousands(*limit as u64)
    )]
    MessageTooLarge {
        /// The topic.
        topic: String,
        /// Size of the batch, bytes.
        bytes: usize,
        /// The limit, bytes.
        limit: usize,
        /// Records in the batch.
        records: usize,
    },
    /// A checksum, a codec or a length is wrong.
    #[error("{topic_partition}: {source}")]
    Corrupt {
        /// Where it was sent.
        topic_partition: TopicPartition,
        /// What is wrong.
        source: RecordError,
    },
    /// The batch is whole but breaks a rule.
    #[error("{topic_partition}: {reason}")]
    InvalidRecord {
        /// Where it was sent.
        topic_partition: TopicPartition,
        /// Which rule.
        reason: String,
    },
    /// A timestamp too far from this clock.
    #[error(
        "{} is {distance} this clock, {allowed} is allowed: set its clock, or raise {key} of {topic}",
        if client.is_empty() { "the producer".to_owned() } else { format!("producer {client}") }
    )]
    InvalidTimestamp {
        /// Client id; empty if unknown.
        client: String,
        /// `3 h 2 min ahead of` or `2 d behind`.
        distance: String,
        /// What the topic allows, `1 h`.
        allowed: String,
        /// The topic config that allows it.
        key: &'static str,
        /// The topic.
        topic: String,
    },
    /// An idempotent producer skipped a sequence number.
    #[error(
        "{topic_partition}: producer {producer_id} sent sequence {got}, expected {expected}: resend from {expected}"
    )]
    OutOfOrderSequence {
        /// Where.
        topic_partition: TopicPartition,
        /// Producer id.
        producer_id: i64,
        /// Sequence expected.
        expected: i32,
        /// Sequence sent.
        got: i32,
    },
    /// An older producer of this id.
    #[error("producer {producer_id} has epoch {current}, sent {got}: a newer one took over")]
    InvalidProducerEpoch {
        /// Producer id.
        producer_id: i64,
        /// Epoch known.
        current: i16,
        /// Epoch sent.
        got: i16,
    },
    /// The transaction coordinator refused.
    #[error(transparent)]
    Transaction(#[from] TransactionError),
    /// A batch that does not fit the transaction its producer has open.
    #[error("{0}")]
    InvalidTransactionState(String),
    /// A request that contradicts itself.
    #[error("{0}")]
    InvalidRequest(String),
    /// `acks` other than −1, 0, 1.
    #[error("acks={0}: use 0, 1 or all")]
    InvalidRequiredAcks(i16),
    /// The replication factor asked for.
    #[error("replication factor {0}: this cluster has 1 broker")]
    InvalidReplicationFactor(i16),
    /// A configuration refused.
    #[error("{0}")]
    InvalidConfig(String),
    /// An internal topic may not be changed.
    #[error("{0} is internal: clients may read it only")]
    InternalTopic(String),
    /// A login with a wrong name or password, or with none.
    #[error("{0}")]
    LoginRefused(String),
    /// ACLs without anybody who reads them.
    #[error("no authorizer is configured: set authorizer = true in [security] of the configuration")]
    NoAuthorizer,
    /// The file of credentials, ACLs and quotas.
    #[error("{0}")]
    Security(String),
    /// The log refused.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The group coordinator refused.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// A share group refused.
    #[error(transparent)]
    Share(#[from] ShareError),
}

impl BrokerError {
    /// Wraps what the id reader found.
    pub(crate) fn from_ids(error: IdError, topic_partition: &TopicPartition) -> Self {
        let topic_partition = topic_partition.clone();
        match error {
            IdError::Record(source) => Self::Corrupt { topic_partition, source },
            other => Self::InvalidRecord { topic_partition, reason: other.to_string() },
        }
    }

    /// Names who sent it, where the sentence has room for that.
    pub(crate) fn sent_by(mut self, id: &str) -> Self {
        if let Self::InvalidTimestamp { client, .. } = &mut self {
            id.clone_into(client);
        }
        self
    }

    /// The Kafka error that says this.
    #[must_use]
    pub fn response_error(&self) -> ResponseError {
        match self {
            Self::UnknownTopicPartition(_) => ResponseError::UnknownTopicOrPartition,
            Self::UnknownTopicId => ResponseError::UnknownTopicId,
            Self::MessageTooLarge { .. } => ResponseError::MessageTooLarge,
            Self::Corrupt { source, .. } => of_record(source),
            Self::InvalidRecord { .. } => ResponseError::InvalidRecord,
            Self::InvalidTimestamp { .. } => ResponseError::InvalidTimestamp,
            Self::OutOfOrderSequence { .. } => ResponseError::OutOfOrderSequenceNumber,
            Self::InvalidProducerEpoch { .. } => ResponseError::InvalidProducerEpoch,
            Self::Transaction(error) => of_transaction(*error),
            Self::InvalidTransactionState(_) => ResponseError::InvalidTxnState,
            Self::InvalidRequest(_) => ResponseError::InvalidRequest,
            Self::InvalidRequiredAcks(_) => ResponseError::InvalidRequiredAcks,
            Self::InvalidReplicationFactor(_) => ResponseError::InvalidReplicationFactor,
            Self::InvalidConfig(_) => ResponseError::InvalidConfig,
            Self::InternalTopic(_) => ResponseError::InvalidTopicException,
            Self::LoginRefused(_) => ResponseError::SaslAuthenticationFailed,
            Self::NoAuthorizer => ResponseError::SecurityDisabled,
            Self::Security(_) => ResponseError::KafkaStorageError,
            Self::Log(error) => of_log(error),
            Self::Group(error) => of_group(*error),
            Self::Share(error) => of_share(*error),
        }
    }

    /// The number that says this to a producer: it knows a newer producer by its epoch only, and, from version 11 on, a
    /// transaction that it must abort by a code of its own (KIP-890).
    #[must_use]
    pub(crate) fn produce_code(&self, version: i16) -> i16 {
        let said = match self {
            Self::Transaction(TransactionError::Fenced) => ResponseError::InvalidProducerEpoch,
            Self::Transaction(TransactionError::NotAdded) if version >= 11 => {
                ResponseError::TransactionAbortable
            }
            other => other.response_error(),
        };
        said.code()
    }

    /// The number that says this to a transactional request: before version 2 (of most) a newer producer is known by its
    /// epoch only (KIP-588).
    #[must_use]
    pub(crate) fn transaction_code(&self, fences: bool) -> i16 {
        match self {
            Self::Transaction(TransactionError::Fenced) if !fences => {
                ResponseError::InvalidProducerEpoch.code()
            }
            other => other.code(),
        }
    }

    /// Its number on the wire.
    #[must_use]
    pub fn code(&self) -> i16 {
        self.response_error().code()
    }
}

fn of_record(error: &RecordError) -> ResponseError {
    match error {
        RecordError::Crc { .. } | RecordError::Truncated { .. } | RecordError::Decompress { .. } => {
            ResponseError::CorruptMessage
        }
        RecordError::Magic(_) => ResponseError::UnsupportedForMessageFormat,
        RecordError::Codec(_) => ResponseError::UnsupportedCompressionType,
        _ => ResponseError::InvalidRecord,
    }
}

fn of_log(error: &LogError) -> ResponseError {
    match error {
        LogError::UnknownTopic { .. } | LogError::UnknownPartition { .. } => {
            ResponseError::UnknownTopicOrPartition
        }
        LogError::TopicExists(_) => ResponseError::TopicAlreadyExists,
        LogError::InvalidName { .. } => ResponseError::InvalidTopicException,
        LogError::InvalidPartitions { .. } => ResponseError::InvalidPartitions,
        LogError::UnknownConfig { .. } | LogError::InvalidConfig { .. } => ResponseError::InvalidConfig,
        LogError::OffsetOutOfRange { .. } => ResponseError::OffsetOutOfRange,
        LogError::Record(error) => of_record(error),
        _ => ResponseError::KafkaStorageError,
    }
}

fn of_group(error: GroupError) -> ResponseError {
    match error {
        GroupError::InvalidGroupId => ResponseError::InvalidGroupId,
        GroupError::InvalidSessionTimeout => ResponseError::InvalidSessionTimeout,
        GroupError::UnknownMember => ResponseError::UnknownMemberId,
        GroupError::MemberIdRequired => ResponseError::MemberIdRequired,
        GroupError::FencedInstance => ResponseError::FencedInstanceId,
        GroupError::IllegalGeneration => ResponseError::IllegalGeneration,
        GroupError::InconsistentProtocol => ResponseError::InconsistentGroupProtocol,
        GroupError::RebalanceInProgress => ResponseError::RebalanceInProgress,
        GroupError::GroupFull => ResponseError::GroupMaxSizeReached,
        GroupError::NotEmpty => ResponseError::NonEmptyGroup,
        GroupError::NotFound | GroupError::OtherProtocol => ResponseError::GroupIdNotFound,
        GroupError::InvalidHeartbeat => ResponseError::InvalidRequest,
        GroupError::UnknownAssignor => ResponseError::UnsupportedAssignor,
        GroupError::InvalidPattern => ResponseError::InvalidRegularExpression,
        GroupError::FencedEpoch => ResponseError::FencedMemberEpoch,
        GroupError::StaleEpoch => ResponseError::StaleMemberEpoch,
        GroupError::UnreleasedInstance => ResponseError::UnreleasedInstanceId,
    }
}

fn of_share(error: ShareError) -> ResponseError {
    match error {
        ShareError::InvalidRecordState => ResponseError::InvalidRecordState,
        ShareError::InvalidAcknowledgement(_) => ResponseError::InvalidRequest,
        ShareError::SessionNotFound => ResponseError::ShareSessionNotFound,
        ShareError::SessionEpoch => ResponseError::InvalidShareSessionEpoch,
        ShareError::SessionLimit => ResponseError::ShareSessionLimitReached,
    }
}

fn of_transaction(error: TransactionError) -> ResponseError {
    match error {
        TransactionError::IdMapping => ResponseError::InvalidProducerIdMapping,
        TransactionError::Fenced => ResponseError::ProducerFenced,
        TransactionError::InvalidState(_) | TransactionError::NotAdded => ResponseError::InvalidTxnState,
        TransactionError::Timeout { .. } => ResponseError::InvalidTransactionTimeout,
    }
}

/// `10_980_000` ms as `3 h 3 min`.
pub(crate) fn span(ms: i64) -> String {
    let seconds = ms / 1_000;
    let (large, unit, small, part) = match (seconds / 86_400, seconds / 3_600, seconds / 60) {
        (0, 0, 0) if ms % 1_000 == 0 => return format!("{seconds} s"),
        (0, 0, 0) => return format!("{ms} ms"),
        (0, 0, minutes) => (minutes, "min", seconds % 60, "s"),
        (0, hours, minutes) => (hours, "h", minutes % 60, "min"),
        (days, hours, _) => (days, "d", hours % 24, "h"),
    };
    if small == 0 { format!("{large} {unit}") } else { format!("{large} {unit} {small} {part}") }
}

/// `1048588` as `1,048,588`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_name_their_two_largest_units_and_no_zero() {
        for (ms, text) in [
            (250, "250 ms"),
            (2_000, "2 s"),
            (60_000, "1 min"),
            (10_920_000, "3 h 2 min"),
            (3_600_000, "1 h"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(span(ms), text);
        }
    }

    #[test]
    fn a_giant_message_is_told_its_size_and_the_limit() {
        let error = BrokerError::MessageTooLarge {
            topic: "t1".into(),
            bytes: 3_000_012,
            limit: 1_048_588,
            records: 1,
        };
        assert_eq!(
            error.to_string(),
            "record of 3,000,012 bytes, max.message.bytes of t1 is 1,048,588: raise it for t1, or send a link to the bytes"
        );
        assert_eq!(error.code(), 10);
    }
}
