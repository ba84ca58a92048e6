//! ACLs on requests: what a client may not ask is taken out before the broker sees it, and answered here.
//!
//! Each API is checked as Apache Kafka 4 checks it. An API that is not known here is refused whole: what a later version adds
//! stays shut until somebody says who may use it.

use herdsman_wire::kafka_protocol::ResponseError;
use herdsman_wire::kafka_protocol::messages::{
    AlterClientQuotasResponse, AlterPartitionReassignmentsResponse, AlterUserScramCredentialsResponse,
    CreateAclsResponse, DeleteAclsResponse, DescribeAclsResponse, DescribeClientQuotasResponse,
    DescribeLogDirsResponse, DescribeUserScramCredentialsResponse, ListConfigResourcesResponse,
    ListPartitionReassignmentsResponse, RequestKind,
};
use herdsman_wire::kafka_protocol::protocol::StrBytes;
use herdsman_wire::{Reply, Request};

use super::acl::{Operation, Resource};
use super::session::Gate;
use crate::Broker;

mod admin;
mod groups;
mod share;
mod topics;
mod transactions;

/// `TOPIC_AUTHORIZATION_FAILED`
const TOPIC: i16 = ResponseError::TopicAuthorizationFailed.code();
/// `GROUP_AUTHORIZATION_FAILED`
const GROUP: i16 = ResponseError::GroupAuthorizationFailed.code();
/// `CLUSTER_AUTHORIZATION_FAILED`
const CLUSTER: i16 = ResponseError::ClusterAuthorizationFailed.code();
/// `TRANSACTIONAL_ID_AUTHORIZATION_FAILED`
const TRANSACTIONAL_ID: i16 = ResponseError::TransactionalIdAuthorizationFailed.code();

/// Puts the refused parts into the broker's answer, and takes out what the client may not see.
pub(super) type Amend = Box<dyn FnOnce(&mut Reply, &mut Gate<'_>) + Send>;

/// What became of a request.
pub(super) enum Screened {
    /// Nothing of it may be done.
    Refused(Reply),
    /// What is left of it may be done.
    Passed(Option<Amend>),
}

/// `Screened::Passed` with a change of the response of one kind.
macro_rules! then {
    ($kind:ident, |$response:ident, $gate:pat_param| $body:block) => {
        $crate::security::screen::Screened::Passed(Some(Box::new(
            move |reply: &mut herdsman_wire::Reply, $gate: &mut $crate::security::session::Gate<'_>| {
                use herdsman_wire::kafka_protocol::messages::ResponseKind;
                if let herdsman_wire::Reply::Message(message) = reply
                    && let ResponseKind::$kind($response) = &mut **message
                $body
            },
        )))
    };
}
use then;

/// What clients print where the code alone does not reach their users.
fn said() -> Option<StrBytes> {
    Some(StrBytes::from_static_str("no ACL of the cluster allows it"))
}

const PASSED: Screened = Screened::Passed(None);

fn refused(response: impl Into<herdsman_wire::kafka_protocol::messages::ResponseKind>) -> Screened {
    Screened::Refused(Reply::message(response))
}

/// Takes out of `items` what the client may not ask.
fn take<T>(items: &mut Vec<T>, mut may: impl FnMut(&T) -> bool) -> Vec<T> {
    items.extract_if(.., |item| !may(item)).collect()
}

impl Gate<'_> {
    fn topic(&mut self, operation: Operation, name: &str) -> bool {
        self.may(operation, Resource::Topic, name)
    }

    fn group(&mut self, operation: Operation, name: &str) -> bool {
        self.may(operation, Resource::Group, name)
    }

    fn transactional_id(&mut self, operation: Operation, name: &str) -> bool {
        self.may(operation, Resource::TransactionalId, name)
    }
}

impl Broker {
    /// Takes out of `request` what the client may not ask.
    pub(super) fn screen(&self, gate: &mut Gate<'_>, request: &mut Request) -> Screened {
        use Operation as O;
        use RequestKind as R;
        let version = request.head.api_version;
        match &mut request.body {
            R::ApiVersions(_) => PASSED,
            R::Produce(body) => topics::produce(gate, body),
            R::Fetch(body) => self.screen_fetch(gate, body, version),
            R::ListOffsets(body) => topics::list_offsets(gate, body),
            R::Metadata(body) => self.screen_metadata(gate, body, version),
            R::DescribeTopicPartitions(body) => self.screen_describe_topics(gate, body),
            R::DeleteRecords(body) => topics::delete_records(gate, body),
            R::OffsetForLeaderEpoch(body) => topics::leader_epoch(gate, body),
            R::DescribeProducers(body) => topics::describe_producers(gate, body),
            R::OffsetCommit(body) => groups::offset_commit(gate, body),
            R::OffsetFetch(body) => groups::offset_fetch(gate, body, version),
            R::OffsetDelete(body) => groups::offset_delete(gate, body),
            R::FindCoordinator(body) => groups::find_coordinator(gate, body, version),
            R::JoinGroup(body) => groups::join(gate, body, version),
            R::SyncGroup(body) => groups::sync(gate, body),
            R::Heartbeat(body) => groups::heartbeat(gate, body),
            R::LeaveGroup(body) => groups::leave(gate, body),
            R::ListGroups(_) => groups::list(gate),
            R::DescribeGroups(body) => groups::describe(gate, body, version),
            R::DeleteGroups(body) => groups::delete(gate, body),
            R::ConsumerGroupHeartbeat(body) => groups::consumer_heartbeat(gate, body),
            R::ConsumerGroupDescribe(body) => groups::consumer_describe(gate, body),
            R::ShareGroupHeartbeat(body) => share::heartbeat(gate, body),
            R::ShareGroupDescribe(body) => share::describe(gate, body),
            R::ShareFetch(body) => self.screen_share_fetch(gate, body),
            R::ShareAcknowledge(body) => self.screen_share_acknowledge(gate, body),
            R::DescribeShareGroupOffsets(body) => share::describe_offsets(gate, body),
            R::AlterShareGroupOffsets(body) => share::alter_offsets(gate, body),
            R::DeleteShareGroupOffsets(body) => share::delete_offsets(gate, body),
            R::InitProducerId(body) => transactions::init_producer_id(gate, body),
            R::AddPartitionsToTxn(body) => transactions::add_partitions(gate, body, version),
            R::AddOffsetsToTxn(body) => transactions::add_offsets(gate, body),
            R::EndTxn(body) => transactions::end(gate, body),
            R::TxnOffsetCommit(body) => transactions::offset_commit(gate, body),
            R::DescribeTransactions(body) => transactions::describe(gate, body),
            R::ListTransactions(_) => transactions::list(),
            R::CreateTopics(body) => admin::create_topics(gate, body, version),
            R::DeleteTopics(body) => self.screen_delete_topics(gate, body, version),
            R::CreatePartitions(body) => admin::create_partitions(gate, body),
            R::DescribeConfigs(body) => admin::describe_configs(gate, body),
            R::AlterConfigs(body) => admin::alter_configs(gate, body),
            R::IncrementalAlterConfigs(body) => admin::incremental_alter(gate, body),
            R::DescribeCluster(body) => admin::describe_cluster(body.include_cluster_authorized_operations),
            R::ListConfigResources(_) if gate.may_cluster(O::DescribeConfigs) => PASSED,
            R::ListConfigResources(_) => {
                refused(ListConfigResourcesResponse::default().with_error_code(CLUSTER))
            }
            R::DescribeAcls(_) if gate.may_cluster(O::Describe) => PASSED,
            R::DescribeLogDirs(_) | R::ListPartitionReassignments(_) if gate.may_cluster(O::Describe) => {
                PASSED
            }
            R::ElectLeaders(_) | R::AlterPartitionReassignments(_) if gate.may_cluster(O::Alter) => PASSED,
            R::DescribeLogDirs(_) => refused(DescribeLogDirsResponse::default().with_error_code(CLUSTER)),
            R::ListPartitionReassignments(_) => refused(
                ListPartitionReassignmentsResponse::default()
                    .with_error_code(CLUSTER)
                    .with_error_message(said()),
            ),
            R::ElectLeaders(body) => refused(admin::refused_elections(body, version)),
            R::AlterPartitionReassignments(_) => refused(
                AlterPartitionReassignmentsResponse::default()
                    .with_error_code(CLUSTER)
                    .with_error_message(said()),
            ),
            R::CreateAcls(_) | R::DeleteAcls(_) if gate.may_cluster(O::Alter) => PASSED,
            R::DescribeClientQuotas(_) if gate.may_cluster(O::DescribeConfigs) => PASSED,
            R::AlterClientQuotas(_) if gate.may_cluster(O::AlterConfigs) => PASSED,
            R::DescribeUserScramCredentials(_) if gate.may_cluster(O::Describe) => PASSED,
            R::AlterUserScramCredentials(_) if gate.may_cluster(O::Alter) => PASSED,
            R::DescribeAcls(_) => {
                refused(DescribeAclsResponse::default().with_error_code(CLUSTER).with_error_message(said()))
            }
            R::DescribeClientQuotas(_) => refused(
                DescribeClientQuotasResponse::default()
                    .with_error_code(CLUSTER)
                    .with_error_message(said())
                    .with_entries(None),
            ),
            R::DescribeUserScramCredentials(_) => refused(
                DescribeUserScramCredentialsResponse::default()
                    .with_error_code(CLUSTER)
                    .with_error_message(said()),
            ),
            R::CreateAcls(body) => admin::refuse_each(&body.creations, |results| {
                CreateAclsResponse::default().with_results(results).into()
            }),
            R::DeleteAcls(body) => admin::refuse_each(&body.filters, |results| {
                DeleteAclsResponse::default().with_filter_results(results).into()
            }),
            R::AlterClientQuotas(body) => {
                let entries = std::mem::take(&mut body.entries).into_iter().map(admin::refused_quota);
                refused(AlterClientQuotasResponse::default().with_entries(entries.collect()))
            }
            R::AlterUserScramCredentials(body) => {
                let results = admin::refused_users(body);
                refused(AlterUserScramCredentialsResponse::default().with_results(results))
            }
            _ => {
                tracing::warn!(api = ?request.api, "no rule says who may use this API: refused");
                Screened::Refused(Reply::Close)
            }
        }
    }
}
