//! A broker in this process, asked as clients ask it: typed requests at a version, answers as values, no socket.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use herdsman_broker::{Broker, BrokerConfig, SecurityConfig};
use herdsman_host::{Clock, Disk, Seed};
use herdsman_log::{LogConfig, LogError, Recovery};
use herdsman_record::{Batch, BatchBuilder, Compression, TopicPartition};
use herdsman_wire::Reply;
use herdsman_wire::kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, ApiKey, CreateAclsRequest, DescribeAclsRequest,
    EndTxnRequest, FetchRequest, GroupId, InitProducerIdRequest, OffsetCommitRequest, OffsetFetchRequest,
    ProduceRequest, ProducerId, RequestKind, ResponseKind, TransactionalId, TxnOffsetCommitRequest,
    add_partitions_to_txn_request, create_acls_request, fetch_request, offset_commit_request,
    offset_fetch_request, produce_request, txn_offset_commit_request,
};

use crate::connection::{Connection, batches, configs, text, topic};

/// The data folder on every simulated disk.
pub const FOLDER: &str = "/data";
/// Attribute bit of a batch that belongs to a transaction.
const TRANSACTIONAL: i16 = 0x10;
/// `transaction.timeout.ms` of every producer here.
const TIMEOUT_MS: i32 = 60_000;

/// Which side of KIP-890 a transactional client is on: it decides the versions it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Adds partitions itself, keeps its epoch between transactions.
    Old,
    /// Gets a new epoch with every end of a transaction.
    V2,
}

impl Protocol {
    fn at(self, old: i16, new: i16) -> i16 {
        if self == Self::Old { old } else { new }
    }
}

/// In whose name a producer speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// Producer id.
    pub id: i64,
    /// Its epoch.
    pub epoch: i16,
}

/// A record as a consumer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its offset.
    pub offset: i64,
    /// Its value, as text.
    pub value: String,
}

/// Offsets `from .. to` that cannot be read, as the log says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// First offset.
    pub from: i64,
    /// The next that can be read.
    pub to: i64,
    /// File, byte and remedy.
    pub sentence: String,
}

/// A broker and one client of it.
pub struct House {
    /// The broker, for what no request does.
    pub broker: Arc<Broker>,
    /// What opening the data folder found.
    pub recovery: Recovery,
    connection: Connection,
}

/// Error codes of the protocol.
pub type Code = i16;

fn code(code: i16) -> Result<(), Code> {
    if code == 0 { Ok(()) } else { Err(code) }
}

/// A batch of `values` (each one's key is what stands before its first colon) from a producer; `transactional` marks it as part of a transaction.
///
/// # Panics
/// Never with values of simulations: they are small.
#[must_use]
pub fn batch(values: &[String], producer: Option<(Claim, i32)>, transactional: bool, now_ms: i64) -> Batch {
    let mut builder = BatchBuilder::new();
    if let Some((claim, sequence)) = producer {
        builder.producer(claim.id, claim.epoch, sequence);
    }
    if transactional {
        builder.attributes(TRANSACTIONAL);
    }
    for value in values {
        let key = value.split(':').next().unwrap_or_default();
        builder.append(now_ms, Some(key.as_bytes()), Some(value.as_bytes()), &[]);
    }
    builder.finish(Compression::None).expect("a small batch")
}

impl House {
    /// Opens the data folder. Every topic is durable with its acknowledgement unless its own configs say otherwise; ACLs
    /// are on and the client here is a super user; segments, journal and internal topics are small, so that they roll.
    ///
    /// # Errors
    /// What the broker said.
    pub fn open(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, seed: &Seed) -> Result<Self, String> {
        Self::open_at(disk, Path::new(FOLDER), clock, seed)
    }

    /// As [`House::open`], in a folder of choice.
    ///
    /// # Errors
    /// What the broker said.
    pub fn open_at(
        disk: Arc<dyn Disk>,
        folder: &Path,
        clock: Arc<dyn Clock>,
        seed: &Seed,
    ) -> Result<Self, String> {
        let log_config = LogConfig {
            tail_bytes_max: 16 << 10,
            journal_bytes_max: 8 << 10,
            topic_defaults: configs(&[("flush.messages", "1"), ("segment.bytes", "16384")]),
            seed: seed.stream("log"),
            ..LogConfig::default()
        };
        let security = SecurityConfig {
            authorizer: true,
            super_users: vec!["User:ANONYMOUS".to_owned()],
            ..SecurityConfig::default()
        };
        let config = BrokerConfig { offsets_bytes_max: 60_000, security, ..BrokerConfig::default() };
        let (broker, recovery) =
            Broker::open(disk, folder, clock, log_config, config).map_err(|error| error.to_string())?;
        Ok(Self::of(Arc::new(broker), recovery))
    }

    /// One more client of the same broker.
    #[must_use]
    pub fn beside(broker: &Arc<Broker>) -> Self {
        Self::of(Arc::clone(broker), Recovery::default())
    }

    fn of(broker: Arc<Broker>, recovery: Recovery) -> Self {
        Self { connection: Connection::new(Arc::clone(&broker)), broker, recovery }
    }

    fn message(&self, api: ApiKey, version: i16, body: impl Into<RequestKind>) -> Option<ResponseKind> {
        match self.connection.call(api, version, body) {
            Ok(Reply::Message(message)) => Some(*message),
            _ => None,
        }
    }

    /// Produce; with a transactional id in its name. The offset of the first record.
    ///
    /// # Errors
    /// The protocol's error code.
    pub fn produce(
        &self,
        transaction: Option<(&str, Protocol)>,
        at: &TopicPartition,
        batch: Batch,
    ) -> Result<i64, Code> {
        let data = produce_request::PartitionProduceData::default()
            .with_index(at.partition)
            .with_records(Some(batch.into_bytes()));
        let data =
            produce_request::TopicProduceData::default().with_name(topic(at)).with_partition_data(vec![data]);
        let id = transaction.map(|(id, _)| TransactionalId(text(id)));
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_transactional_id(id)
            .with_timeout_ms(30_000)
            .with_topic_data(vec![data]);
        let version = transaction.map_or(12, |(_, protocol)| protocol.at(11, 12));
        let Some(ResponseKind::Produce(answer)) = self.message(ApiKey::Produce, version, request) else {
            return Err(-1);
        };
        let answer = answer.responses.first().and_then(|topic| topic.partition_responses.first());
        let Some(answer) = answer else { return Err(-1) };
        code(answer.error_code).map(|()| answer.base_offset)
    }

    /// InitProducerId under a transactional id; `expected` asks for the next epoch of a producer (KIP-360).
    ///
    /// # Errors
    /// The protocol's error code.
    pub fn init_producer(&self, id: Option<&str>, expected: Option<Claim>) -> Result<Claim, Code> {
        let mut request = InitProducerIdRequest::default()
            .with_transactional_id(id.map(|id| TransactionalId(text(id))))
            .with_transaction_timeout_ms(TIMEOUT_MS)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        if let Some(claim) = expected {
            request = request.with_producer_id(ProducerId(claim.id)).with_producer_epoch(claim.epoch);
        }
        let Some(ResponseKind::InitProducerId(answer)) = self.message(ApiKey::InitProducerId, 4, request)
        else {
            return Err(-1);
        };
        code(answer.error_code).map(|()| Claim { id: answer.producer_id.0, epoch: answer.producer_epoch })
    }

    /// AddPartitionsToTxn, as clients before KIP-890 send it.
    ///
    /// # Errors
    /// The protocol's error code of a partition.
    pub fn add_partition(&self, id: &str, claim: Claim, at: &TopicPartition) -> Result<(), Code> {
        let topic = add_partitions_to_txn_request::AddPartitionsToTxnTopic::default()
            .with_name(topic(at))
            .with_partitions(vec![at.partition]);
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(TransactionalId(text(id)))
            .with_v3_and_below_producer_id(ProducerId(claim.id))
            .with_v3_and_below_producer_epoch(claim.epoch)
            .with_v3_and_below_topics(vec![topic]);
        let answer = self.message(ApiKey::AddPartitionsToTxn, 3, request);
        let Some(ResponseKind::AddPartitionsToTxn(answer)) = answer else { return Err(-1) };
        let mut results =
            answer.results_by_topic_v3_and_below.iter().flat_map(|one| &one.results_by_partition);
        results.try_for_each(|one| code(one.partition_error_code))
    }

    /// AddOffsetsToTxn, as clients before KIP-890 send it.
    ///
    /// # Errors
    /// The protocol's error code.
    pub fn add_offsets(&self, id: &str, claim: Claim, group: &str) -> Result<(), Code> {
        let request = AddOffsetsToTxnRequest::default()
            .with_transactional_id(TransactionalId(text(id)))
            .with_producer_id(ProducerId(claim.id))
            .with_producer_epoch(claim.epoch)
            .with_group_id(GroupId(text(group)));
        let answer = self.message(ApiKey::AddOffsetsToTxn, 3, request);
        let Some(ResponseKind::AddOffsetsToTxn(answer)) = answer else { return Err(-1) };
        code(answer.error_code)
    }

    /// TxnOffsetCommit of one offset.
    ///
    /// # Errors
    /// The protocol's error code.
    pub fn commit_within(
        &self,
        (id, protocol): (&str, Protocol),
        claim: Claim,
        group: &str,
        (at, offset): (&TopicPartition, i64),
    ) -> Result<(), Code> {
        let partition = txn_offset_commit_request::TxnOffsetCommitRequestPartition::default()
            .with_partition_index(at.partition)
            .with_committed_offset(offset);
        let topic = txn_offset_commit_request::TxnOffsetCommitRequestTopic::default()
            .with_name(topic(at))
            .with_partitions(vec![partition]);
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(TransactionalId(text(id)))
            .with_group_id(GroupId(text(group)))
            .with_producer_id(ProducerId(claim.id))
            .with_producer_epoch(claim.epoch)
            .with_topics(vec![topic]);
        let answer = self.message(ApiKey::TxnOffsetCommit, protocol.at(3, 5), request);
        let Some(ResponseKind::TxnOffsetCommit(answer)) = answer else { return Err(-1) };
        answer.topics.iter().flat_map(|topic| &topic.partitions).try_for_each(|one| code(one.error_code))
    }

    /// EndTxn; the producer to go on with.
    ///
    /// # Errors
    /// The protocol's error code.
    pub fn end(&self, (id, protocol): (&str, Protocol), claim: Claim, commit: bool) -> Result<Claim, Code> {
        let request = EndTxnRequest::default()
            .with_transactional_id(TransactionalId(text(id)))
            .with_producer_id(ProducerId(claim.id))
            .with_producer_epoch(claim.epoch)
            .with_committed(commit);
        let answer = self.message(ApiKey::EndTxn, protocol.at(4, 5), request);
        let Some(ResponseKind::EndTxn(answer)) = answer else { return Err(-1) };
        code(answer.error_code)?;
        Ok(match protocol {
            Protocol::Old => claim,
            Protocol::V2 => Claim { id: answer.producer_id.0, epoch: answer.producer_epoch },
        })
    }

    /// OffsetCommit of a group without members.
    ///
    /// # Errors
    /// The protocol's error code.
    pub fn commit_offset(&self, group: &str, at: &TopicPartition, offset: i64) -> Result<(), Code> {
        let partition = offset_commit_request::OffsetCommitRequestPartition::default()
            .with_partition_index(at.partition)
            .with_committed_offset(offset);
        let topic = offset_commit_request::OffsetCommitRequestTopic::default()
            .with_name(topic(at))
            .with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic]);
        let answer = self.message(ApiKey::OffsetCommit, 8, request);
        let Some(ResponseKind::OffsetCommit(answer)) = answer else { return Err(-1) };
        answer.topics.iter().flat_map(|topic| &topic.partitions).try_for_each(|one| code(one.error_code))
    }

    /// OffsetFetch of one partition; −1: none committed.
    ///
    /// # Errors
    /// The protocol's error code.
    pub fn committed(&self, group: &str, at: &TopicPartition) -> Result<i64, Code> {
        let topic = offset_fetch_request::OffsetFetchRequestTopic::default()
            .with_name(topic(at))
            .with_partition_indexes(vec![at.partition]);
        let request =
            OffsetFetchRequest::default().with_group_id(GroupId(text(group))).with_topics(Some(vec![topic]));
        let Some(ResponseKind::OffsetFetch(answer)) = self.message(ApiKey::OffsetFetch, 7, request) else {
            return Err(-1);
        };
        code(answer.error_code)?;
        let mut found = answer.topics.iter().flat_map(|topic| &topic.partitions);
        found.next().map_or(Err(-1), |one| code(one.error_code).map(|()| one.committed_offset))
    }

    /// Allows a user to read a topic.
    ///
    /// # Errors
    /// The protocol's error code.
    pub fn allow(&self, user: &str, topic: &str) -> Result<(), Code> {
        let acl = create_acls_request::AclCreation::default()
            .with_resource_type(2)
            .with_resource_name(text(topic))
            .with_resource_pattern_type(3)
            .with_principal(text(&format!("User:{user}")))
            .with_host(text("*"))
            .with_operation(3)
            .with_permission_type(3);
        let request = CreateAclsRequest::default().with_creations(vec![acl]);
        let answer = self.message(ApiKey::CreateAcls, 3, request);
        let Some(ResponseKind::CreateAcls(answer)) = answer else { return Err(-1) };
        answer.results.iter().try_for_each(|one| code(one.error_code))
    }

    /// Every principal that an ACL names, sorted.
    ///
    /// # Errors
    /// The protocol's error code.
    pub fn allowed(&self) -> Result<Vec<String>, Code> {
        let request = DescribeAclsRequest::default()
            .with_resource_type_filter(1)
            .with_resource_name_filter(None)
            .with_principal_filter(None)
            .with_host_filter(None)
            .with_pattern_type_filter(1)
            .with_operation(1)
            .with_permission_type(1);
        let Some(ResponseKind::DescribeAcls(answer)) = self.message(ApiKey::DescribeAcls, 3, request) else {
            return Err(-1);
        };
        code(answer.error_code)?;
        let acls = answer.resources.iter().flat_map(|resource| &resource.acls);
        let mut users: Vec<String> = acls.map(|acl| acl.principal.to_string()).collect();
        users.sort();
        Ok(users)
    }

    /// All records of a partition that a consumer of this isolation level gets, from its start or `from` on, by Fetch; it
    /// leaves out aborted transactions by the list in the answer, as clients do (KIP-98).
    ///
    /// # Errors
    /// The protocol's error code.
    pub fn read(&self, at: &TopicPartition, from: i64, read_committed: bool) -> Result<Vec<Seen>, Code> {
        let (mut next, mut seen) = (from, Vec::new());
        self.read_on(at, &mut next, read_committed, &mut seen).map(|()| seen)
    }

    /// As [`House::read`], past what the log says is damaged; also gives what it said.
    ///
    /// # Errors
    /// The protocol's error code, if the log does not name the damage.
    pub fn read_around(
        &self,
        at: &TopicPartition,
        from: i64,
        read_committed: bool,
    ) -> Result<(Vec<Seen>, Vec<Damage>), Code> {
        let (mut next, mut seen, mut told) = (from, Vec::new(), Vec::new());
        while let Err(code) = self.read_on(at, &mut next, read_committed, &mut seen) {
            let Err(error) = self.broker.log().read(at, next, 1) else { return Err(code) };
            let sentence = error.to_string();
            let LogError::Corrupt { next_offset, .. } = error else { return Err(code) };
            told.push(Damage { from: next, to: next_offset, sentence });
            if next_offset <= next {
                return Err(code);
            }
            next = next_offset;
            if next >= self.broker.log().offsets(at).map_or(0, |(_, end)| end) {
                break;
            }
        }
        Ok((seen, told))
    }

    /// Reads from `next` to the end; `next` follows.
    fn read_on(
        &self,
        at: &TopicPartition,
        next: &mut i64,
        read_committed: bool,
        seen: &mut Vec<Seen>,
    ) -> Result<(), Code> {
        loop {
            let (batches, aborted, end) = self.fetch(at, *next, read_committed)?;
            let before = *next;
            let mut skipped: BTreeMap<i64, i64> = BTreeMap::new();
            let mut aborted = aborted.into_iter().peekable();
            for batch in &batches {
                let header = batch.header();
                while let Some((id, first)) = aborted.next_if(|(_, first)| *first <= header.base_offset) {
                    skipped.insert(id, first);
                }
                *next = header.next_offset();
                if header.is_control() {
                    skipped.remove(&header.producer_id);
                    continue;
                }
                if header.is_transactional() && skipped.contains_key(&header.producer_id) {
                    continue;
                }
                let records = batch.records().map_err(|_| -2_i16)?;
                for record in records.iter() {
                    let record = record.map_err(|_| -2_i16)?;
                    let value = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
                    if record.offset >= before {
                        seen.push(Seen { offset: record.offset, value });
                    }
                }
            }
            if *next == before || *next >= end {
                return Ok(());
            }
        }
    }

    /// One Fetch: batches, (producer id, first offset) of aborted transactions, and where reading ends.
    #[allow(clippy::type_complexity, reason = "three things a fetch answers")]
    fn fetch(
        &self,
        at: &TopicPartition,
        offset: i64,
        read_committed: bool,
    ) -> Result<(Vec<Batch>, Vec<(i64, i64)>, i64), Code> {
        let partition = fetch_request::FetchPartition::default()
            .with_partition(at.partition)
            .with_fetch_offset(offset)
            .with_partition_max_bytes(1 << 20);
        let topic =
            fetch_request::FetchTopic::default().with_topic(topic(at)).with_partitions(vec![partition]);
        let request = FetchRequest::default()
            .with_max_wait_ms(0)
            .with_max_bytes(1 << 20)
            .with_session_epoch(-1)
            .with_isolation_level(i8::from(read_committed))
            .with_topics(vec![topic]);
        let answer = self.connection.call(ApiKey::Fetch, 12, request);
        let Ok(Reply::Fetch(answer)) = answer else { return Err(-1) };
        code(answer.error_code)?;
        let part = answer.topics.into_iter().flat_map(|topic| topic.partitions).next();
        let Some(part) = part else { return Err(-1) };
        code(part.error_code)?;
        let batches = batches(part.records).map_err(|_| -2_i16)?;
        let end = if read_committed { part.last_stable_offset } else { part.high_watermark };
        let mut aborted = part.aborted.unwrap_or_default();
        aborted.sort_by_key(|(_, first)| *first);
        Ok((batches, aborted, end))
    }
}
