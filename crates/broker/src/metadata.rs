//! Who and what is here: Metadata, DescribeCluster, DescribeTopicPartitions, FindCoordinator.

use std::collections::BTreeMap;
use std::sync::Arc;

use herdsman_wire::Peer;
use herdsman_wire::kafka_protocol::ResponseError;
use herdsman_wire::kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use herdsman_wire::kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use herdsman_wire::kafka_protocol::messages::find_coordinator_response::Coordinator;
use herdsman_wire::kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use herdsman_wire::kafka_protocol::messages::{
    BrokerId, DescribeClusterRequest, DescribeClusterResponse, DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse, FindCoordinatorRequest, FindCoordinatorResponse, MetadataRequest,
    MetadataResponse, TopicName,
};
use herdsman_wire::kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::topic::Topic;
use crate::{Broker, BrokerError};

/// Most partitions one DescribeTopicPartitions answer holds, as in Kafka.
const PARTITIONS_PER_ANSWER: usize = 2_000;
/// FindCoordinator key types served: consumer groups and transactional ids.
const KEYS: std::ops::RangeInclusive<i8> = 0..=1;

impl Broker {
    /// Host and port that `peer` should use.
    fn address(&self, peer: &Peer) -> (StrBytes, i32) {
        match peer.listener.advertised.as_ref().or(self.config.advertised.as_ref()) {
            Some((host, port)) => (StrBytes::from_string(host.clone()), i32::from(*port)),
            None => (StrBytes::from_string(peer.local.ip().to_string()), i32::from(peer.local.port())),
        }
    }

    fn node(&self) -> BrokerId {
        BrokerId(self.config.node_id)
    }

    pub(crate) fn on_metadata(
        &self,
        peer: &Peer,
        request: MetadataRequest,
        version: i16,
    ) -> MetadataResponse {
        let all = match &request.topics {
            None => true,
            Some(topics) => version == 0 && topics.is_empty(),
        };
        let topics = if all {
            self.all_topics().iter().map(|topic| self.metadata_of(topic)).collect()
        } else {
            let create = self.config.auto_create_topics && (version < 4 || request.allow_auto_topic_creation);
            request
                .topics
                .unwrap_or_default()
                .into_iter()
                .map(|asked| match (asked.name, asked.topic_id) {
                    (Some(name), _) => self.metadata_by_name(name, create),
                    (None, id) => self.topic_by_id(id.into_bytes()).map_or_else(
                        || {
                            MetadataResponseTopic::default()
                                .with_error_code(BrokerError::UnknownTopicId.code())
                                .with_topic_id(id)
                        },
                        |topic| self.metadata_of(&topic),
                    ),
                })
                .collect()
        };
        let (host, port) = self.address(peer);
        let broker =
            MetadataResponseBroker::default().with_node_id(self.node()).with_host(host).with_port(port);
        MetadataResponse::default()
            .with_brokers(vec![broker])
            .with_cluster_id(Some(StrBytes::from_string(self.config.cluster_id.clone())))
            .with_controller_id(self.node())
            .with_topics(topics)
    }

    fn metadata_by_name(&self, name: TopicName, create: bool) -> MetadataResponseTopic {
        match self.topic_or_create(&name, create) {
            Ok(topic) => self.metadata_of(&topic),
            Err(error) => {
                MetadataResponseTopic::default().with_error_code(error.code()).with_name(Some(name))
            }
        }
    }

    fn topic_or_create(&self, name: &str, create: bool) -> Result<Arc<Topic>, BrokerError> {
        let unknown = || BrokerError::UnknownTopicPartition(herdsman_record::TopicPartition::new(name, 0));
        if let Some(topic) = self.topic(name) {
            return Ok(topic);
        }
        if !create || name.starts_with("__") {
            return Err(unknown());
        }
        match self.create_topic(name, self.config.num_partitions, &BTreeMap::new()) {
            Ok(_) | Err(BrokerError::Log(herdsman_log::LogError::TopicExists(_))) => {}
            Err(error) => return Err(error),
        }
        self.topic(name).ok_or_else(unknown)
    }

    fn metadata_of(&self, topic: &Topic) -> MetadataResponseTopic {
        let partitions = (0..topic.meta.partitions)
            .map(|index| {
                MetadataResponsePartition::default()
                    .with_partition_index(index)
                    .with_leader_id(self.node())
                    .with_leader_epoch(0)
                    .with_replica_nodes(vec![self.node()])
                    .with_isr_nodes(vec![self.node()])
            })
            .collect();
        MetadataResponseTopic::default()
            .with_name(Some(TopicName(StrBytes::from_string(topic.meta.name.to_string()))))
            .with_topic_id(Uuid::from_bytes(topic.meta.id.0))
            .with_is_internal(topic.meta.internal)
            .with_partitions(partitions)
    }

    pub(crate) fn on_describe_cluster(
        &self,
        peer: &Peer,
        request: &DescribeClusterRequest,
        version: i16,
    ) -> DescribeClusterResponse {
        let (host, port) = self.address(peer);
        let broker =
            DescribeClusterBroker::default().with_broker_id(self.node()).with_host(host).with_port(port);
        let response = DescribeClusterResponse::default()
            .with_cluster_id(StrBytes::from_string(self.config.cluster_id.clone()))
            .with_controller_id(self.node())
            .with_brokers(vec![broker]);
        if version < 1 {
            return response;
        }
        let response = response.with_endpoint_type(request.endpoint_type);
        if request.endpoint_type == 1 {
            return response;
        }
        response
            .with_error_code(ResponseError::MismatchedEndpointType.code())
            .with_error_message(Some(StrBytes::from_static_str(
                "this listener serves brokers, not controllers",
            )))
            .with_brokers(Vec::new())
    }

    pub(crate) fn on_describe_topics(
        &self,
        request: DescribeTopicPartitionsRequest,
    ) -> DescribeTopicPartitionsResponse {
        let mut names: Vec<String> = if request.topics.is_empty() {
            self.all_topics().iter().map(|topic| topic.meta.name.to_string()).collect()
        } else {
            request.topics.iter().map(|topic| topic.name.to_string()).collect()
        };
        names.sort_unstable();
        names.dedup();
        let mut first = 0;
        if let Some(cursor) = &request.cursor {
            names.retain(|name| name.as_str() >= cursor.topic_name.as_str());
            if names.first().is_some_and(|name| name.as_str() == cursor.topic_name.as_str()) {
                first = cursor.partition_index.max(0);
            }
        }
        let limit =
            usize::try_from(request.response_partition_limit).unwrap_or(0).clamp(1, PARTITIONS_PER_ANSWER);
        let mut left = limit;
        let mut response = DescribeTopicPartitionsResponse::default();
        for name in names {
            if left == 0 {
                let cursor = Cursor::default().with_topic_name(topic_name(&name)).with_partition_index(first);
                response.next_cursor = Some(cursor);
                break;
            }
            let Some(topic) = self.topic(&name) else {
                let topic = DescribeTopicPartitionsResponseTopic::default()
                    .with_error_code(ResponseError::UnknownTopicOrPartition.code())
                    .with_name(Some(topic_name(&name)));
                response.topics.push(topic);
                continue;
            };
            let last =
                topic.meta.partitions.min(first.saturating_add(i32::try_from(left).unwrap_or(i32::MAX)));
            response.topics.push(self.description_of(&topic, first..last));
            left -= usize::try_from(last - first).unwrap_or(0).min(left);
            if last < topic.meta.partitions {
                let cursor = Cursor::default().with_topic_name(topic_name(&name)).with_partition_index(last);
                response.next_cursor = Some(cursor);
                break;
            }
            first = 0;
        }
        response
    }

    fn description_of(
        &self,
        topic: &Topic,
        range: std::ops::Range<i32>,
    ) -> DescribeTopicPartitionsResponseTopic {
        let partitions = range
            .map(|index| {
                DescribeTopicPartitionsResponsePartition::default()
                    .with_partition_index(index)
                    .with_leader_id(self.node())
                    .with_leader_epoch(0)
                    .with_replica_nodes(vec![self.node()])
                    .with_isr_nodes(vec![self.node()])
                    .with_eligible_leader_replicas(Some(Vec::new()))
                    .with_last_known_elr(Some(Vec::new()))
            })
            .collect();
        DescribeTopicPartitionsResponseTopic::default()
            .with_name(Some(topic_name(&topic.meta.name)))
            .with_topic_id(Uuid::from_bytes(topic.meta.id.0))
            .with_is_internal(topic.meta.internal)
            .with_partitions(partitions)
    }

    pub(crate) fn on_find_coordinator(
        &self,
        peer: &Peer,
        request: FindCoordinatorRequest,
        version: i16,
    ) -> FindCoordinatorResponse {
        let (host, port) = self.address(peer);
        let refusal = (!KEYS.contains(&request.key_type)).then(|| {
            BrokerError::InvalidRequest(format!("no coordinators of type {} here", request.key_type))
        });
        if request.key_type == 0
            && let Err(error) = self.offsets_partition()
        {
            // Apache Kafka makes it now as well; a commit tries again and tells
            tracing::warn!(%error, "no topic for committed offsets");
        }
        let code = refusal.as_ref().map_or(0, BrokerError::code);
        let message = refusal.map(|error| StrBytes::from_string(error.to_string()));
        if version < 4 {
            let response = FindCoordinatorResponse::default()
                .with_error_code(code)
                .with_node_id(self.node())
                .with_host(host)
                .with_port(port);
            return if version >= 1 { response.with_error_message(message) } else { response };
        }
        let coordinators = request
            .coordinator_keys
            .into_iter()
            .map(|key| {
                Coordinator::default()
                    .with_key(key)
                    .with_node_id(self.node())
                    .with_host(host.clone())
                    .with_port(port)
                    .with_error_code(code)
                    .with_error_message(message.clone())
            })
            .collect();
        FindCoordinatorResponse::default().with_coordinators(coordinators)
    }
}

/// A topic name as the codec holds it.
pub(crate) fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}
