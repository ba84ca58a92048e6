//! How the simulated clients reach the broker: a request built, handed in without a socket, and what its answer says.

use std::sync::Arc;

use bytes::Bytes;
use herdsman_broker::Broker;
use herdsman_record::{Batch, TopicPartition};
use herdsman_wire::kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use herdsman_wire::kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use herdsman_wire::kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use herdsman_wire::kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use herdsman_wire::kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use herdsman_wire::kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use herdsman_wire::kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use herdsman_wire::kafka_protocol::messages::{
    ApiKey, ConsumerGroupHeartbeatRequest, DeleteRecordsRequest, DescribeTransactionsRequest, EndTxnRequest,
    FetchRequest, GroupId, InitProducerIdRequest, OffsetCommitRequest, OffsetFetchRequest, ProduceRequest,
    ProducerId, RequestKind, ResponseKind, TopicName, TransactionalId, TxnOffsetCommitRequest,
};
use herdsman_wire::{FetchReply, Reply};
use uuid::Uuid;

use super::plant::Fault;
use crate::connection::{Connection, batches, text, topic};

/// Transactions are given up by the broker after this time.
pub const TRANSACTION_TIMEOUT_MS: i32 = 4_000;
/// Versions spoken: the newest that name topics by name; transactions are those of KIP-890.
const PRODUCE: i16 = 12;
const FETCH: i16 = 12;
const END_TXN: i16 = 5;

/// Producer id and epoch.
pub type Claim = (i64, i16);

/// One request of a client.
#[derive(Debug, Clone)]
pub enum Ask {
    /// A batch; `tid` for one of a transaction. `sent` is its number in the model.
    Produce { sent: usize, at: TopicPartition, tid: Option<String>, bytes: Bytes },
    /// A producer begins.
    Init { tid: Option<String> },
    /// The end of a transaction, which the model knows by its number.
    End { tid: String, txn: usize, claim: Claim, commit: bool },
    /// Offsets of a group within a transaction.
    TxnOffset { tid: String, txn: usize, claim: Claim, group: String, at: TopicPartition, offset: i64 },
    /// Offsets of a group; a member names itself and its epoch.
    Commit { group: String, member: Option<(String, i32)>, at: TopicPartition, offset: i64 },
    /// A member of a consumer group of `topic` shows that it lives. `owned`: the topic's id, and the partitions it has of it.
    Beat { group: String, member: String, epoch: i32, topic: String, owned: Option<([u8; 16], Vec<i32>)> },
    /// What a group has committed.
    Committed { group: String, at: TopicPartition },
    /// Records below `offset` go.
    Delete { at: TopicPartition, offset: i64 },
    /// Where a transactional id stands.
    Describe { tid: String },
}

/// What an answer says; fields that the API does not have stay at their default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Kafka's error code.
    pub code: i16,
    /// Base offset, low watermark or committed offset.
    pub offset: i64,
    /// The producer to go on with.
    pub claim: Claim,
    /// State of a transaction.
    pub state: String,
    /// Epoch of a member.
    pub epoch: i32,
    /// A member's partitions, by topic id, if they changed.
    pub assigned: Option<Vec<([u8; 16], Vec<i32>)>>,
}

/// What a fetch of one partition gave.
#[derive(Debug, Clone)]
pub struct Page {
    /// Kafka's error code.
    pub code: i16,
    /// The high watermark.
    pub high_watermark: i64,
    /// The last stable offset.
    pub last_stable: i64,
    /// The log start offset.
    pub start: i64,
    /// Producer id and first offset of aborted transactions.
    pub aborted: Vec<(i64, i64)>,
    /// The batches.
    pub batches: Vec<Batch>,
}

fn group_id(group: &str) -> GroupId {
    GroupId(text(group))
}

fn transactional(tid: &str) -> TransactionalId {
    TransactionalId(text(tid))
}

impl Ask {
    fn request(&self) -> (ApiKey, i16, RequestKind) {
        match self {
            Self::Produce { at, tid, bytes, .. } => {
                let data = PartitionProduceData::default()
                    .with_index(at.partition)
                    .with_records(Some(bytes.clone()));
                let data = TopicProduceData::default().with_name(topic(at)).with_partition_data(vec![data]);
                let body = ProduceRequest::default()
                    .with_acks(-1)
                    .with_transactional_id(tid.as_deref().map(transactional))
                    .with_topic_data(vec![data]);
                (ApiKey::Produce, PRODUCE, body.into())
            }
            Self::Init { tid } => {
                let body = InitProducerIdRequest::default()
                    .with_transactional_id(tid.as_deref().map(transactional))
                    .with_transaction_timeout_ms(TRANSACTION_TIMEOUT_MS)
                    .with_producer_id(ProducerId(-1))
                    .with_producer_epoch(-1);
                (ApiKey::InitProducerId, 5, body.into())
            }
            Self::End { tid, claim, commit, .. } => {
                let body = EndTxnRequest::default()
                    .with_transactional_id(transactional(tid))
                    .with_producer_id(ProducerId(claim.0))
                    .with_producer_epoch(claim.1)
                    .with_committed(*commit);
                (ApiKey::EndTxn, END_TXN, body.into())
            }
            Self::TxnOffset { tid, claim, group, at, offset, .. } => {
                let partition = TxnOffsetCommitRequestPartition::default()
                    .with_partition_index(at.partition)
                    .with_committed_offset(*offset);
                let topics = TxnOffsetCommitRequestTopic::default()
                    .with_name(topic(at))
                    .with_partitions(vec![partition]);
                let body = TxnOffsetCommitRequest::default()
                    .with_transactional_id(transactional(tid))
                    .with_group_id(group_id(group))
                    .with_producer_id(ProducerId(claim.0))
                    .with_producer_epoch(claim.1)
                    .with_generation_id(-1)
                    .with_topics(vec![topics]);
                (ApiKey::TxnOffsetCommit, 5, body.into())
            }
            Self::Commit { group, member, at, offset } => {
                let (member, epoch) = member.as_ref().map_or(("", -1), |(id, epoch)| (id.as_str(), *epoch));
                let partition = OffsetCommitRequestPartition::default()
                    .with_partition_index(at.partition)
                    .with_committed_offset(*offset);
                let topics =
                    OffsetCommitRequestTopic::default().with_name(topic(at)).with_partitions(vec![partition]);
                let body = OffsetCommitRequest::default()
                    .with_group_id(group_id(group))
                    .with_member_id(text(member))
                    .with_generation_id_or_member_epoch(epoch)
                    .with_topics(vec![topics]);
                (ApiKey::OffsetCommit, 9, body.into())
            }
            Self::Committed { group, at } => {
                let topics = OffsetFetchRequestTopics::default()
                    .with_name(topic(at))
                    .with_partition_indexes(vec![at.partition]);
                let group = OffsetFetchRequestGroup::default()
                    .with_group_id(group_id(group))
                    .with_member_epoch(-1)
                    .with_topics(Some(vec![topics]));
                (ApiKey::OffsetFetch, 9, OffsetFetchRequest::default().with_groups(vec![group]).into())
            }
            Self::Delete { at, offset } => {
                let partition =
                    DeleteRecordsPartition::default().with_partition_index(at.partition).with_offset(*offset);
                let topics =
                    DeleteRecordsTopic::default().with_name(topic(at)).with_partitions(vec![partition]);
                (ApiKey::DeleteRecords, 2, DeleteRecordsRequest::default().with_topics(vec![topics]).into())
            }
            Self::Beat { group, member, epoch, topic, owned } => {
                let joins = *epoch == 0;
                let owned = owned.as_ref().map(|(id, partitions)| {
                    let id = Uuid::from_bytes(*id);
                    vec![TopicPartitions::default().with_topic_id(id).with_partitions(partitions.clone())]
                });
                let body = ConsumerGroupHeartbeatRequest::default()
                    .with_group_id(group_id(group))
                    .with_member_id(text(member))
                    .with_member_epoch(*epoch)
                    .with_rebalance_timeout_ms(if joins { 3_000 } else { -1 })
                    .with_subscribed_topic_names(joins.then(|| vec![TopicName(text(topic))]))
                    .with_topic_partitions(if joins { Some(Vec::new()) } else { owned });
                (ApiKey::ConsumerGroupHeartbeat, 1, body.into())
            }
            Self::Describe { tid } => {
                let body =
                    DescribeTransactionsRequest::default().with_transactional_ids(vec![transactional(tid)]);
                (ApiKey::DescribeTransactions, 0, body.into())
            }
        }
    }
}

/// A connection to a broker of this process.
pub struct Door {
    /// The broker.
    pub broker: Arc<Broker>,
    connection: Connection,
    planted: Option<Fault>,
}

impl Door {
    /// Connects.
    #[must_use]
    pub fn new(broker: Broker, planted: Option<Fault>) -> Self {
        let broker = Arc::new(broker);
        Self { connection: Connection::new(Arc::clone(&broker)), broker, planted }
    }

    /// Hands a request in and reads the answer.
    ///
    /// # Errors
    /// The request is not answered, or by something else than its API's answer.
    pub fn ask(&mut self, ask: &Ask) -> Result<Answer, String> {
        let (api, version, body) = ask.request();
        match self.connection.call(api, version, body)? {
            Reply::Message(reply) => {
                read(*reply).ok_or_else(|| format!("an answer without its part to {ask:?}"))
            }
            other => Err(format!("{other:?} answers {ask:?}")),
        }
    }

    /// Fetches from partitions, in a session if `session` names one (id and epoch).
    ///
    /// # Errors
    /// The request is not answered.
    pub fn fetch(
        &mut self,
        from: &[(TopicPartition, i64)],
        committed: bool,
        max_bytes: i32,
        session: (i32, i32),
    ) -> Result<FetchReply, String> {
        let topics = from.iter().map(|(at, offset)| {
            let partition = FetchPartition::default()
                .with_partition(at.partition)
                .with_fetch_offset(*offset)
                .with_partition_max_bytes(max_bytes);
            FetchTopic::default().with_topic(topic(at)).with_partitions(vec![partition])
        });
        let body = FetchRequest::default()
            .with_max_wait_ms(0)
            .with_max_bytes(1 << 20)
            .with_isolation_level(i8::from(committed))
            .with_session_id(session.0)
            .with_session_epoch(session.1)
            .with_topics(topics.collect());
        match self.connection.call(ApiKey::Fetch, FETCH, body)? {
            Reply::Fetch(reply) => Ok(reply),
            other => Err(format!("{other:?} answers a fetch")),
        }
    }

    /// One page of one partition, outside a session.
    ///
    /// # Errors
    /// The request is not answered; bytes that are no batches.
    pub fn page(
        &mut self,
        at: &TopicPartition,
        offset: i64,
        committed: bool,
        max_bytes: i32,
    ) -> Result<Page, String> {
        let reply = self.fetch(&[(at.clone(), offset)], committed, max_bytes, (0, -1))?;
        let mut partitions = reply.topics.into_iter().flat_map(|topic| topic.partitions);
        let partition = partitions.next().ok_or_else(|| format!("a fetch of {at} without an answer"))?;
        let mut page = page_of(partition)?;
        if let Some(fault) = self.planted {
            fault.on_page(&mut page, &at.topic, committed);
        }
        Ok(page)
    }
}

/// Takes the batches of a partition's answer apart.
///
/// # Errors
/// Bytes that are no batches, or whose CRC is wrong.
pub fn page_of(reply: herdsman_wire::PartitionReply) -> Result<Page, String> {
    Ok(Page {
        code: reply.error_code,
        high_watermark: reply.high_watermark,
        last_stable: reply.last_stable_offset,
        start: reply.log_start_offset,
        aborted: reply.aborted.unwrap_or_default(),
        batches: batches(reply.records).map_err(|error| error.to_string())?,
    })
}

fn read(reply: ResponseKind) -> Option<Answer> {
    let none = Answer::default();
    Some(match reply {
        ResponseKind::Produce(reply) => {
            let one = reply.responses.into_iter().next()?.partition_responses.into_iter().next()?;
            Answer { code: one.error_code, offset: one.base_offset, ..none }
        }
        ResponseKind::InitProducerId(reply) => {
            Answer { code: reply.error_code, claim: (reply.producer_id.0, reply.producer_epoch), ..none }
        }
        ResponseKind::EndTxn(reply) => {
            Answer { code: reply.error_code, claim: (reply.producer_id.0, reply.producer_epoch), ..none }
        }
        ResponseKind::TxnOffsetCommit(reply) => {
            let one = reply.topics.into_iter().next()?.partitions.into_iter().next()?;
            Answer { code: one.error_code, ..none }
        }
        ResponseKind::OffsetCommit(reply) => {
            let one = reply.topics.into_iter().next()?.partitions.into_iter().next()?;
            Answer { code: one.error_code, ..none }
        }
        ResponseKind::OffsetFetch(reply) => {
            let group = reply.groups.into_iter().next()?;
            let one = group.topics.into_iter().next()?.partitions.into_iter().next()?;
            Answer { code: group.error_code.max(one.error_code), offset: one.committed_offset, ..none }
        }
        ResponseKind::DeleteRecords(reply) => {
            let one = reply.topics.into_iter().next()?.partitions.into_iter().next()?;
            Answer { code: one.error_code, offset: one.low_watermark, ..none }
        }
        ResponseKind::DescribeTransactions(reply) => {
            let one = reply.transaction_states.into_iter().next()?;
            let state = one.transaction_state.to_string();
            Answer { code: one.error_code, claim: (one.producer_id.0, one.producer_epoch), state, ..none }
        }
        ResponseKind::ConsumerGroupHeartbeat(reply) => {
            let assigned = reply.assignment.map(|assignment| {
                let topics = assignment.topic_partitions.into_iter();
                topics.map(|topic| (topic.topic_id.into_bytes(), topic.partitions)).collect()
            });
            Answer { code: reply.error_code, epoch: reply.member_epoch, assigned, ..none }
        }
        _ => return None,
    })
}
