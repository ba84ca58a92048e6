//! Requests about transactions and producer ids.

use herdsman_wire::kafka_protocol::ResponseError;
use herdsman_wire::kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use herdsman_wire::kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnTopicResult,
};
use herdsman_wire::kafka_protocol::messages::describe_transactions_response::TransactionState;
use herdsman_wire::kafka_protocol::messages::txn_offset_commit_request::TxnOffsetCommitRequestTopic;
use herdsman_wire::kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use herdsman_wire::kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse,
    DescribeTransactionsRequest, EndTxnRequest, EndTxnResponse, InitProducerIdRequest,
    InitProducerIdResponse, ProducerId, TxnOffsetCommitRequest, TxnOffsetCommitResponse,
};

use super::{CLUSTER, GROUP, PASSED, Screened, TOPIC, TRANSACTIONAL_ID, refused, take, then};
use crate::security::acl::Operation;
use crate::security::session::Gate;

/// First version of AddPartitionsToTxn that only brokers send.
const FROM_BROKERS: i16 = 4;

pub(super) fn init_producer_id(gate: &mut Gate<'_>, request: &InitProducerIdRequest) -> Screened {
    let code = match &request.transactional_id {
        Some(id) if gate.transactional_id(Operation::Write, id) => return PASSED,
        Some(_) => TRANSACTIONAL_ID,
        None if gate.may_cluster(Operation::IdempotentWrite) || gate.may_write_somewhere() => return PASSED,
        None => CLUSTER,
    };
    let response = InitProducerIdResponse::default().with_error_code(code);
    refused(response.with_producer_id(ProducerId(-1)).with_producer_epoch(-1))
}

fn add_refused(topic: &AddPartitionsToTxnTopic, code: i16) -> AddPartitionsToTxnTopicResult {
    let partitions = topic.partitions.iter().map(|index| {
        AddPartitionsToTxnPartitionResult::default()
            .with_partition_index(*index)
            .with_partition_error_code(code)
    });
    AddPartitionsToTxnTopicResult::default()
        .with_name(topic.name.clone())
        .with_results_by_partition(partitions.collect())
}

pub(super) fn add_partitions(
    gate: &mut Gate<'_>,
    request: &mut AddPartitionsToTxnRequest,
    version: i16,
) -> Screened {
    let response = AddPartitionsToTxnResponse::default();
    if version >= FROM_BROKERS {
        if gate.may_cluster(Operation::ClusterAction) {
            return PASSED;
        }
        return refused(response.with_error_code(CLUSTER));
    }
    let topics = &request.v3_and_below_topics;
    let code_of_all = if gate.transactional_id(Operation::Write, &request.v3_and_below_transactional_id) {
        None
    } else {
        Some(TRANSACTIONAL_ID)
    };
    let denied: Vec<bool> = topics.iter().map(|topic| !gate.topic(Operation::Write, &topic.name)).collect();
    if code_of_all.is_none() && !denied.contains(&true) {
        return PASSED;
    }
    // all of them or none: the others are not even tried
    let results = topics.iter().zip(denied).map(|(topic, is_denied)| {
        let of_topic = if is_denied { TOPIC } else { ResponseError::OperationNotAttempted.code() };
        add_refused(topic, code_of_all.unwrap_or(of_topic))
    });
    refused(response.with_results_by_topic_v3_and_below(results.collect()))
}

pub(super) fn add_offsets(gate: &mut Gate<'_>, request: &AddOffsetsToTxnRequest) -> Screened {
    let code = if !gate.transactional_id(Operation::Write, &request.transactional_id) {
        TRANSACTIONAL_ID
    } else if !gate.group(Operation::Read, &request.group_id) {
        GROUP
    } else {
        return PASSED;
    };
    refused(AddOffsetsToTxnResponse::default().with_error_code(code))
}

pub(super) fn end(gate: &mut Gate<'_>, request: &EndTxnRequest) -> Screened {
    if gate.transactional_id(Operation::Write, &request.transactional_id) {
        return PASSED;
    }
    refused(EndTxnResponse::default().with_error_code(TRANSACTIONAL_ID))
}

fn commit_refused(topic: TxnOffsetCommitRequestTopic, code: i16) -> TxnOffsetCommitResponseTopic {
    let partitions = topic.partitions.iter().map(|partition| {
        TxnOffsetCommitResponsePartition::default()
            .with_partition_index(partition.partition_index)
            .with_error_code(code)
    });
    TxnOffsetCommitResponseTopic::default().with_partitions(partitions.collect()).with_name(topic.name)
}

pub(super) fn offset_commit(gate: &mut Gate<'_>, request: &mut TxnOffsetCommitRequest) -> Screened {
    let code = if !gate.transactional_id(Operation::Write, &request.transactional_id) {
        Some(TRANSACTIONAL_ID)
    } else if !gate.group(Operation::Read, &request.group_id) {
        Some(GROUP)
    } else {
        None
    };
    if let Some(code) = code {
        let topics = std::mem::take(&mut request.topics);
        let topics = topics.into_iter().map(|topic| commit_refused(topic, code));
        return refused(TxnOffsetCommitResponse::default().with_topics(topics.collect()));
    }
    let denied = take(&mut request.topics, |topic| gate.topic(Operation::Read, &topic.name));
    then!(TxnOffsetCommit, |response, _| {
        response.topics.extend(denied.into_iter().map(|topic| commit_refused(topic, TOPIC)));
    })
}

pub(super) fn describe(gate: &mut Gate<'_>, request: &mut DescribeTransactionsRequest) -> Screened {
    let denied = take(&mut request.transactional_ids, |id| gate.transactional_id(Operation::Describe, id));
    then!(DescribeTransactions, |response, gate| {
        for state in &mut response.transaction_states {
            state.topics.retain(|topic| gate.topic(Operation::Describe, &topic.topic));
        }
        response.transaction_states.extend(denied.into_iter().map(|id| {
            TransactionState::default().with_transactional_id(id).with_error_code(TRANSACTIONAL_ID)
        }));
    })
}

pub(super) fn list() -> Screened {
    then!(ListTransactions, |response, gate| {
        response
            .transaction_states
            .retain(|state| gate.transactional_id(Operation::Describe, &state.transactional_id));
    })
}
