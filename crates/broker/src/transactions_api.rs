//! Transactional requests: InitProducerId, AddPartitionsToTxn, AddOffsetsToTxn, TxnOffsetCommit, EndTxn, and the three that
//! describe.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use herdsman_record::TopicPartition;
use herdsman_wire::kafka_protocol::ResponseError;
use herdsman_wire::kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use herdsman_wire::kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
};
use herdsman_wire::kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use herdsman_wire::kafka_protocol::messages::describe_transactions_response::{
    TopicData, TransactionState as DescribedTransaction,
};
use herdsman_wire::kafka_protocol::messages::list_transactions_response::TransactionState as ListedTransaction;
use herdsman_wire::kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use herdsman_wire::kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse,
    DescribeProducersRequest, DescribeProducersResponse, DescribeTransactionsRequest,
    DescribeTransactionsResponse, EndTxnRequest, EndTxnResponse, InitProducerIdRequest,
    InitProducerIdResponse, ListTransactionsRequest, ListTransactionsResponse, ProducerId, TransactionalId,
    TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};
use herdsman_wire::kafka_protocol::protocol::StrBytes;

use crate::committed::METADATA_BYTES_MAX;
use crate::group::{Committed, GroupError};
use crate::markers::Outcome;
use crate::metadata::topic_name;
use crate::topic::lock;
use crate::transaction::{Claim, State, Transaction, TransactionError};
use crate::transactions::Within;
use crate::{Broker, BrokerError};

/// First version of most transactional requests that knows PRODUCER_FENCED.
const FENCES: i16 = 2;
/// First version of AddPartitionsToTxn that carries many transactions, as brokers send them.
const MANY: i16 = 4;
/// First version of EndTxn that gives a new epoch, and of TxnOffsetCommit that needs no AddOffsetsToTxn before it (KIP-890).
const TRANSACTIONS_V2: i16 = 5;

fn claim(producer_id: ProducerId, producer_epoch: i16) -> Claim {
    Claim { producer_id: producer_id.0, producer_epoch }
}

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

impl Broker {
    pub(crate) fn on_init_producer_id(
        &self,
        request: &InitProducerIdRequest,
        version: i16,
    ) -> InitProducerIdResponse {
        let response = InitProducerIdResponse::default();
        let Some(id) = &request.transactional_id else {
            return response.with_producer_id(ProducerId(self.fresh_producer_id())).with_producer_epoch(0);
        };
        let given = (request.producer_id.0 >= 0, request.producer_epoch >= 0);
        let begun = if given.0 == given.1 {
            let expected = given.0.then(|| claim(request.producer_id, request.producer_epoch));
            self.init_producer(id, expected, request.transaction_timeout_ms)
        } else {
            Err(BrokerError::InvalidRequest(
                "producer id and epoch go together: send both or none".to_owned(),
            ))
        };
        match begun {
            Ok(claim) => response
                .with_producer_id(ProducerId(claim.producer_id))
                .with_producer_epoch(claim.producer_epoch),
            Err(error) => response
                .with_error_code(error.transaction_code(version >= 4))
                .with_producer_id(ProducerId(-1))
                .with_producer_epoch(-1),
        }
    }

    pub(crate) fn on_add_partitions(
        &self,
        request: AddPartitionsToTxnRequest,
        version: i16,
    ) -> AddPartitionsToTxnResponse {
        if version < MANY {
            let producer = claim(request.v3_and_below_producer_id, request.v3_and_below_producer_epoch);
            let id = &request.v3_and_below_transactional_id;
            let results = self.join_partitions(id, producer, &request.v3_and_below_topics, false, version);
            return AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(results);
        }
        let results = request.transactions.into_iter().map(|one| {
            let producer = claim(one.producer_id, one.producer_epoch);
            let topics =
                self.join_partitions(&one.transactional_id, producer, &one.topics, one.verify_only, version);
            AddPartitionsToTxnResult::default()
                .with_transactional_id(one.transactional_id)
                .with_topic_results(topics)
        });
        AddPartitionsToTxnResponse::default().with_results_by_transaction(results.collect())
    }

    /// Adds (or only verifies) partitions: all of them, or none with the reason at each.
    fn join_partitions(
        &self,
        id: &str,
        producer: Claim,
        topics: &[AddPartitionsToTxnTopic],
        verify_only: bool,
        version: i16,
    ) -> Vec<AddPartitionsToTxnTopicResult> {
        let all: Vec<TopicPartition> = topics
            .iter()
            .flat_map(|topic| {
                let name: Arc<str> = Arc::from(topic.name.as_str());
                topic.partitions.iter().map(move |index| TopicPartition::new(Arc::clone(&name), *index))
            })
            .collect();
        let unknown: HashMap<&TopicPartition, i16> =
            all.iter().filter_map(|at| self.known_topic(at).err().map(|error| (at, error.code()))).collect();
        let outcome = if verify_only {
            self.verify_partitions(id, producer, &all)
        } else if unknown.is_empty() {
            self.add_to_transaction(id, producer, all.iter().cloned())
        } else {
            Ok(())
        };
        let code = match outcome {
            Err(BrokerError::Transaction(TransactionError::NotAdded)) if version > MANY => {
                ResponseError::TransactionAbortable.code()
            }
            Err(error) => error.transaction_code(version >= FENCES),
            Ok(()) if unknown.is_empty() => 0,
            Ok(()) => ResponseError::OperationNotAttempted.code(),
        };
        topics
            .iter()
            .map(|topic| {
                let results = topic.partitions.iter().map(|index| {
                    let at = TopicPartition::new(topic.name.as_str(), *index);
                    AddPartitionsToTxnPartitionResult::default()
                        .with_partition_index(*index)
                        .with_partition_error_code(unknown.get(&at).copied().unwrap_or(code))
                });
                AddPartitionsToTxnTopicResult::default()
                    .with_name(topic.name.clone())
                    .with_results_by_partition(results.collect())
            })
            .collect()
    }

    fn verify_partitions(
        &self,
        id: &str,
        producer: Claim,
        all: &[TopicPartition],
    ) -> Result<(), BrokerError> {
        let slot = self.transaction(id)?;
        let slot = lock(&slot);
        let state = slot.as_ref().ok_or(TransactionError::IdMapping)?;
        all.iter().try_for_each(|at| state.verify(producer, at)).map_err(BrokerError::from)
    }

    pub(crate) fn on_add_offsets(
        &self,
        request: &AddOffsetsToTxnRequest,
        version: i16,
    ) -> AddOffsetsToTxnResponse {
        let producer = claim(request.producer_id, request.producer_epoch);
        let added = self
            .offsets_partition()
            .and_then(|at| self.add_to_transaction(&request.transactional_id, producer, [at]));
        let code = added.err().map_or(0, |error| error.transaction_code(version >= FENCES));
        AddOffsetsToTxnResponse::default().with_error_code(code)
    }

    pub(crate) fn on_txn_offset_commit(
        &self,
        request: TxnOffsetCommitRequest,
        version: i16,
    ) -> TxnOffsetCommitResponse {
        let refusal = self.check_member(&request).err().map_or(0, |error| BrokerError::Group(error).code());
        let now_ms = self.clock.now_ms();
        let mut changes = Vec::new();
        let mut codes: HashMap<TopicPartition, i16> = HashMap::new();
        for topic in &request.topics {
            let name: Arc<str> = Arc::from(topic.name.as_str());
            for partition in &topic.partitions {
                let at = TopicPartition::new(Arc::clone(&name), partition.partition_index);
                let metadata = partition.committed_metadata.as_ref().map_or("", |text| text.as_str());
                let code = match self.known_topic(&at) {
                    _ if refusal != 0 => refusal,
                    Err(error) => error.code(),
                    _ if metadata.len() > METADATA_BYTES_MAX => ResponseError::OffsetMetadataTooLarge.code(),
                    Ok(_) => 0,
                };
                if code == 0 {
                    let committed = Committed {
                        offset: partition.committed_offset,
                        leader_epoch: partition.committed_leader_epoch,
                        metadata: metadata.to_owned(),
                        commit_ms: now_ms,
                    };
                    changes.push((at.clone(), committed));
                }
                codes.insert(at, code);
            }
        }
        let within = Within { transactional_id: &request.transactional_id, adds: version >= TRANSACTIONS_V2 };
        let producer = claim(request.producer_id, request.producer_epoch);
        let written = self.commit_within(within, producer, &request.group_id, changes);
        let failure = written.err().map_or(0, |error| error.transaction_code(false));
        let topics = request.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                let at = TopicPartition::new(topic.name.as_str(), partition.partition_index);
                let code = codes.get(&at).copied().unwrap_or(0);
                TxnOffsetCommitResponsePartition::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(if code == 0 { failure } else { code })
            });
            let partitions = partitions.collect();
            TxnOffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions)
        });
        TxnOffsetCommitResponse::default().with_topics(topics.collect())
    }

    /// Whether the commit comes from a member of the group, if it names one.
    fn check_member(&self, request: &TxnOffsetCommitRequest) -> Result<(), GroupError> {
        let (group, member) = (request.group_id.as_str(), request.member_id.as_str());
        let epoch = request.generation_id;
        let known = lock(&self.consumer_groups).check_commit(group, member, epoch);
        match known {
            _ if member.is_empty() && epoch < 0 => {}
            // clients of transactions know generations only
            Some(Err(GroupError::StaleEpoch)) => return Err(GroupError::IllegalGeneration),
            Some(known) => return known,
            None => {}
        }
        let instance = request.group_instance_id.as_deref();
        lock(&self.groups).check_transactional_commit(group, member, instance, epoch, self.steady_ms())
    }

    pub(crate) fn on_end_txn(&self, request: &EndTxnRequest, version: i16) -> EndTxnResponse {
        let producer = claim(request.producer_id, request.producer_epoch);
        let (outcome, bumps) = (Outcome::committed(request.committed), version >= TRANSACTIONS_V2);
        let response = EndTxnResponse::default();
        match self.end_transaction(&request.transactional_id, producer, outcome, bumps) {
            Ok(next) if bumps => response
                .with_producer_id(ProducerId(next.producer_id))
                .with_producer_epoch(next.producer_epoch),
            Ok(_) => response,
            Err(error) => response.with_error_code(error.transaction_code(version >= FENCES)),
        }
    }

    pub(crate) fn on_describe_transactions(
        &self,
        request: DescribeTransactionsRequest,
    ) -> DescribeTransactionsResponse {
        let states = request.transactional_ids.into_iter().map(|id| {
            let slot = self.transaction(&id).ok();
            let state = slot.and_then(|slot| lock(&slot).clone());
            let described = DescribedTransaction::default().with_transactional_id(id);
            match state {
                Some(state) => described_state(&state, described),
                None => described.with_error_code(ResponseError::TransactionalIdNotFound.code()),
            }
        });
        DescribeTransactionsResponse::default().with_transaction_states(states.collect())
    }

    pub(crate) fn on_list_transactions(
        &self,
        request: &ListTransactionsRequest,
        version: i16,
    ) -> ListTransactionsResponse {
        const KNOWN: [&str; 8] = [
            "Empty",
            "Ongoing",
            "PrepareCommit",
            "PrepareAbort",
            "CompleteCommit",
            "CompleteAbort",
            "Dead",
            "PrepareEpochFence",
        ];
        let unknown = request.state_filters.iter().filter(|state| !KNOWN.contains(&state.as_str()));
        let response =
            ListTransactionsResponse::default().with_unknown_state_filters(unknown.cloned().collect());
        let pattern = request.transactional_id_pattern.as_ref().filter(|pattern| !pattern.is_empty());
        let pattern = match pattern.map(|pattern| crate::pattern::whole(pattern)).transpose() {
            Ok(pattern) => pattern,
            Err(_) => return response.with_error_code(ResponseError::InvalidRegularExpression.code()),
        };
        let now_ms = self.clock.now_ms();
        let longer_than_ms = if version >= 1 { request.duration_filter } else { -1 };
        let wanted = |id: &str, state: &Transaction| {
            let states = &request.state_filters;
            let producers = &request.producer_id_filters;
            let open_ms = if state.state == State::Ongoing { now_ms - state.start_ms } else { -1 };
            (states.is_empty() || states.iter().any(|name| name.as_str() == state.state.name()))
                && (producers.is_empty() || producers.iter().any(|one| one.0 == state.producer_id))
                && (longer_than_ms < 0 || open_ms > longer_than_ms)
                && pattern.as_ref().is_none_or(|pattern| pattern.is_match(id))
        };
        let listed = self.all_transactions().into_iter().filter_map(|(id, slot)| {
            let state = lock(&slot).clone()?;
            wanted(&id, &state).then(|| {
                ListedTransaction::default()
                    .with_transactional_id(TransactionalId(text(&id)))
                    .with_producer_id(ProducerId(state.producer_id))
                    .with_transaction_state(text(state.state.name()))
            })
        });
        let listed = listed.collect();
        response.with_transaction_states(listed)
    }

    pub(crate) fn on_describe_producers(
        &self,
        request: DescribeProducersRequest,
    ) -> DescribeProducersResponse {
        let topics = request.topics.into_iter().map(|topic| {
            let name: Arc<str> = Arc::from(topic.name.as_str());
            let partitions = topic.partition_indexes.into_iter().map(|index| {
                let described = PartitionResponse::default().with_partition_index(index);
                match self.active_producers(&TopicPartition::new(Arc::clone(&name), index)) {
                    Ok(producers) => described.with_active_producers(producers),
                    Err(error) => described
                        .with_error_code(error.code())
                        .with_error_message(Some(text(&error.to_string()))),
                }
            });
            let partitions = partitions.collect();
            TopicResponse::default().with_name(topic.name).with_partitions(partitions)
        });
        DescribeProducersResponse::default().with_topics(topics.collect())
    }

    fn active_producers(&self, at: &TopicPartition) -> Result<Vec<ProducerState>, BrokerError> {
        let topic = self.known_topic(at)?;
        let mut partition = topic.state(at.partition)?.lock(&self.log, at)?;
        let producers = partition.producers().all().into_iter().map(|(id, producer)| {
            ProducerState::default()
                .with_producer_id(ProducerId(id))
                .with_producer_epoch(i32::from(producer.epoch))
                .with_last_sequence(producer.sent.back().map_or(-1, |sent| sent.last_sequence))
                .with_last_timestamp(producer.last_ms)
                .with_coordinator_epoch(0)
                .with_current_txn_start_offset(producer.open.unwrap_or(-1))
        });
        Ok(producers.collect())
    }
}

fn described_state(state: &Transaction, described: DescribedTransaction) -> DescribedTransaction {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for at in &state.partitions {
        topics.entry(&at.topic).or_default().push(at.partition);
    }
    let topics = topics.into_iter().map(|(name, partitions)| {
        TopicData::default().with_topic(topic_name(name)).with_partitions(partitions)
    });
    described
        .with_transaction_state(text(state.state.name()))
        .with_transaction_timeout_ms(state.timeout_ms)
        .with_transaction_start_time_ms(state.start_ms)
        .with_producer_id(ProducerId(state.producer_id))
        .with_producer_epoch(state.producer_epoch)
        .with_topics(topics.collect())
}
