//! Requests that make, change and describe: topics, configs, the cluster, ACLs, quotas, users.

use std::collections::BTreeSet;

use herdsman_wire::kafka_protocol::messages::alter_client_quotas_request::EntryData as AskedQuota;
use herdsman_wire::kafka_protocol::messages::alter_client_quotas_response::{EntityData, EntryData};
use herdsman_wire::kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use herdsman_wire::kafka_protocol::messages::alter_user_scram_credentials_response::AlterUserScramCredentialsResult;
use herdsman_wire::kafka_protocol::messages::create_acls_response::AclCreationResult;
use herdsman_wire::kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use herdsman_wire::kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use herdsman_wire::kafka_protocol::messages::delete_acls_response::DeleteAclsFilterResult;
use herdsman_wire::kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use herdsman_wire::kafka_protocol::messages::describe_configs_response::DescribeConfigsResult;
use herdsman_wire::kafka_protocol::messages::elect_leaders_response::{
    PartitionResult, ReplicaElectionResult,
};
use herdsman_wire::kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse as IncrementalResponse;
use herdsman_wire::kafka_protocol::messages::{
    AlterConfigsRequest, AlterUserScramCredentialsRequest, CreatePartitionsRequest, CreateTopicsRequest,
    DeleteTopicsRequest, DescribeConfigsRequest, ElectLeadersRequest, ElectLeadersResponse,
    IncrementalAlterConfigsRequest, ResponseKind,
};

use super::{CLUSTER, GROUP, PASSED, Screened, TOPIC, refused, take, then};
use crate::Broker;
use crate::security::acl::{self, Operation, Resource};
use crate::security::session::Gate;

/// Config resource types.
const TOPIC_CONFIGS: i8 = 2;
const GROUP_CONFIGS: i8 = 32;

pub(super) fn create_topics(
    gate: &mut Gate<'_>,
    request: &mut CreateTopicsRequest,
    version: i16,
) -> Screened {
    let may_all = gate.may_cluster(Operation::Create);
    let denied = take(&mut request.topics, |topic| may_all || gate.topic(Operation::Create, &topic.name));
    then!(CreateTopics, |response, gate| {
        if version >= 5 {
            for topic in response.topics.iter_mut().filter(|topic| topic.error_code == 0) {
                if !gate.topic(Operation::DescribeConfigs, &topic.name) {
                    topic.topic_config_error_code = TOPIC;
                    topic.num_partitions = -1;
                    topic.replication_factor = -1;
                    topic.configs = Some(Vec::new());
                }
            }
        }
        response.topics.extend(denied.into_iter().map(|topic| {
            let result = CreatableTopicResult::default().with_name(topic.name).with_error_code(TOPIC);
            if version >= 5 { result.with_configs(Some(Vec::new())) } else { result }
        }));
    })
}

impl Broker {
    pub(super) fn screen_delete_topics(
        &self,
        gate: &mut Gate<'_>,
        request: &mut DeleteTopicsRequest,
        version: i16,
    ) -> Screened {
        let mut denied = Vec::new();
        for name in take(&mut request.topic_names, |name| gate.topic(Operation::Delete, name)) {
            denied.push(DeletableTopicResult::default().with_name(Some(name)).with_error_code(TOPIC));
        }
        let by_id = take(&mut request.topics, |asked| {
            let known = asked.name.is_none().then(|| self.topic_by_id(asked.topic_id.into_bytes())).flatten();
            let name = asked
                .name
                .as_ref()
                .map(|name| name.as_str())
                .or_else(|| known.as_ref().map(|topic| &*topic.meta.name));
            name.is_none_or(|name| gate.topic(Operation::Delete, name))
        });
        for asked in by_id {
            let result = DeletableTopicResult::default().with_name(asked.name).with_error_code(TOPIC);
            denied.push(if version >= 6 { result.with_topic_id(asked.topic_id) } else { result });
        }
        then!(DeleteTopics, |response, _| {
            response.responses.extend(denied);
        })
    }
}

pub(super) fn create_partitions(gate: &mut Gate<'_>, request: &mut CreatePartitionsRequest) -> Screened {
    let denied = take(&mut request.topics, |topic| gate.topic(Operation::Alter, &topic.name));
    then!(CreatePartitions, |response, _| {
        response.results.extend(denied.into_iter().map(|topic| {
            CreatePartitionsTopicResult::default().with_name(topic.name).with_error_code(TOPIC)
        }));
    })
}

/// Whether the client may do `operation` on the configs of a resource, and the code that says no.
fn may_configs(gate: &mut Gate<'_>, operation: Operation, kind: i8, name: &str) -> (bool, i16) {
    match kind {
        TOPIC_CONFIGS => (gate.topic(operation, name), TOPIC),
        GROUP_CONFIGS => (gate.group(operation, name), GROUP),
        _ => (gate.may_cluster(operation), CLUSTER),
    }
}

fn code_of(kind: i8) -> i16 {
    match kind {
        TOPIC_CONFIGS => TOPIC,
        GROUP_CONFIGS => GROUP,
        _ => CLUSTER,
    }
}

pub(super) fn describe_configs(gate: &mut Gate<'_>, request: &mut DescribeConfigsRequest) -> Screened {
    let operation = Operation::DescribeConfigs;
    let denied = take(&mut request.resources, |one| {
        may_configs(gate, operation, one.resource_type, &one.resource_name).0
    });
    then!(DescribeConfigs, |response, _| {
        response.results.extend(denied.into_iter().map(|one| {
            DescribeConfigsResult::default()
                .with_error_code(code_of(one.resource_type))
                .with_resource_type(one.resource_type)
                .with_resource_name(one.resource_name)
        }));
    })
}

pub(super) fn alter_configs(gate: &mut Gate<'_>, request: &mut AlterConfigsRequest) -> Screened {
    let operation = Operation::AlterConfigs;
    let denied = take(&mut request.resources, |one| {
        may_configs(gate, operation, one.resource_type, &one.resource_name).0
    });
    then!(AlterConfigs, |response, _| {
        response.responses.extend(denied.into_iter().map(|one| {
            AlterConfigsResourceResponse::default()
                .with_error_code(code_of(one.resource_type))
                .with_resource_type(one.resource_type)
                .with_resource_name(one.resource_name)
        }));
    })
}

pub(super) fn incremental_alter(
    gate: &mut Gate<'_>,
    request: &mut IncrementalAlterConfigsRequest,
) -> Screened {
    let operation = Operation::AlterConfigs;
    let denied = take(&mut request.resources, |one| {
        may_configs(gate, operation, one.resource_type, &one.resource_name).0
    });
    then!(IncrementalAlterConfigs, |response, _| {
        response.responses.extend(denied.into_iter().map(|one| {
            IncrementalResponse::default()
                .with_error_code(code_of(one.resource_type))
                .with_resource_type(one.resource_type)
                .with_resource_name(one.resource_name)
        }));
    })
}

pub(super) fn describe_cluster(wants_operations: bool) -> Screened {
    if !wants_operations {
        return PASSED;
    }
    then!(DescribeCluster, |response, gate| {
        response.cluster_authorized_operations = gate.operations(Resource::Cluster, acl::CLUSTER);
    })
}

/// A result that can say no.
pub(super) trait Refusable: Default {
    fn refused(self) -> Self;
}

impl Refusable for AclCreationResult {
    fn refused(self) -> Self {
        self.with_error_code(CLUSTER)
    }
}

impl Refusable for DeleteAclsFilterResult {
    fn refused(self) -> Self {
        self.with_error_code(CLUSTER)
    }
}

/// No for each of `asked`.
pub(super) fn refuse_each<T, R: Refusable>(
    asked: &[T],
    response: impl FnOnce(Vec<R>) -> ResponseKind,
) -> Screened {
    refused(response(asked.iter().map(|_| R::default().refused()).collect()))
}

pub(super) fn refused_quota(asked: AskedQuota) -> EntryData {
    let parts = asked.entity.into_iter().map(|part| {
        EntityData::default().with_entity_type(part.entity_type).with_entity_name(part.entity_name)
    });
    EntryData::default().with_entity(parts.collect()).with_error_code(CLUSTER)
}

pub(super) fn refused_users(
    request: &AlterUserScramCredentialsRequest,
) -> Vec<AlterUserScramCredentialsResult> {
    let deleted = request.deletions.iter().map(|one| &one.name);
    let users: BTreeSet<_> = deleted.chain(request.upsertions.iter().map(|one| &one.name)).collect();
    users
        .into_iter()
        .map(|user| {
            AlterUserScramCredentialsResult::default().with_user(user.clone()).with_error_code(CLUSTER)
        })
        .collect()
}

/// Each election refused; the code of the whole answer exists since version 1.
pub(super) fn refused_elections(request: &mut ElectLeadersRequest, version: i16) -> ElectLeadersResponse {
    let asked = request.topic_partitions.take().unwrap_or_default();
    let results = asked.into_iter().map(|topic| {
        let refuse = |index| PartitionResult::default().with_partition_id(index).with_error_code(CLUSTER);
        let partitions = topic.partitions.into_iter().map(refuse).collect();
        ReplicaElectionResult::default().with_topic(topic.topic).with_partition_result(partitions)
    });
    let response = ElectLeadersResponse::default().with_replica_election_results(results.collect());
    if version >= 1 { response.with_error_code(CLUSTER) } else { response }
}
