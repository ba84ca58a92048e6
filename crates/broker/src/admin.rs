//! Topics by request: CreateTopics, DeleteTopics, CreatePartitions.

use std::collections::{BTreeMap, HashSet};

use herdsman_wire::kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use herdsman_wire::kafka_protocol::messages::create_topics_request::CreatableTopic;
use herdsman_wire::kafka_protocol::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult,
};
use herdsman_wire::kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use herdsman_wire::kafka_protocol::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, TopicName,
};
use herdsman_wire::kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::configs::described_configs;
use crate::metadata::topic_name;
use crate::{Broker, BrokerError};

/// Most partitions a client may ask for in one topic.
const PARTITIONS_MAX: i32 = 10_000;

fn sentence(error: &BrokerError) -> Option<StrBytes> {
    Some(StrBytes::from_string(error.to_string()))
}

impl Broker {
    pub(crate) fn on_create_topics(
        &self,
        request: CreateTopicsRequest,
        version: i16,
    ) -> CreateTopicsResponse {
        let mut names = HashSet::new();
        let twice: HashSet<String> = request
            .topics
            .iter()
            .filter(|topic| !names.insert(topic.name.to_string()))
            .map(|topic| topic.name.to_string())
            .collect();
        let topics = request
            .topics
            .into_iter()
            .map(|topic| {
                let name = topic.name.clone();
                let result = if twice.contains(name.as_str()) {
                    Err(BrokerError::InvalidRequest(format!("topic {} is asked for twice", name.as_str())))
                } else {
                    self.create_one(topic, request.validate_only)
                };
                self.created(name, result, version)
            })
            .collect();
        CreateTopicsResponse::default().with_topics(topics)
    }

    /// Creates (or only checks) one topic; its partition count.
    fn create_one(&self, topic: CreatableTopic, validate_only: bool) -> Result<i32, BrokerError> {
        let replicas = topic.replication_factor;
        let partitions = if topic.assignments.is_empty() {
            if replicas != -1 && replicas != 1 {
                return Err(BrokerError::InvalidReplicationFactor(replicas));
            }
            if topic.num_partitions == -1 { self.config.num_partitions } else { topic.num_partitions }
        } else {
            let all_here = topic
                .assignments
                .iter()
                .all(|assignment| assignment.broker_ids.iter().all(|id| id.0 == self.config.node_id));
            if !all_here {
                return Err(BrokerError::InvalidReplicationFactor(2));
            }
            i32::try_from(topic.assignments.len()).unwrap_or(i32::MAX)
        };
        let name = topic.name.as_str();
        if name.starts_with("__") {
            return Err(BrokerError::InternalTopic(name.to_owned()));
        }
        if !(1..=PARTITIONS_MAX).contains(&partitions) {
            return Err(BrokerError::Log(herdsman_log::LogError::InvalidPartitions {
                topic: name.to_owned(),
                partitions,
                reason: format!("1 to {PARTITIONS_MAX} are allowed"),
            }));
        }
        let mut configs = BTreeMap::new();
        for config in topic.configs {
            if let Some(value) = config.value {
                configs.insert(config.name.to_string(), value.to_string());
            }
        }
        if validate_only {
            herdsman_log::check_configs(&configs)?;
            if self.topic(name).is_some() {
                return Err(BrokerError::Log(herdsman_log::LogError::TopicExists(name.to_owned())));
            }
            return Ok(partitions);
        }
        self.create_topic(name, partitions, &configs)?;
        Ok(partitions)
    }

    fn created(
        &self,
        name: TopicName,
        result: Result<i32, BrokerError>,
        version: i16,
    ) -> CreatableTopicResult {
        let topic = self.topic(&name);
        let response = CreatableTopicResult::default().with_name(name);
        match result {
            Err(error) => {
                let response = response.with_error_code(error.code()).with_error_message(sentence(&error));
                if version >= 5 {
                    response
                        .with_num_partitions(-1)
                        .with_replication_factor(-1)
                        .with_configs(Some(Vec::new()))
                } else {
                    response
                }
            }
            Ok(partitions) if version >= 5 => {
                let configs = topic.as_ref().map_or_else(Vec::new, |topic| {
                    described_configs(self, topic)
                        .into_iter()
                        .map(|config| {
                            CreatableTopicConfigs::default()
                                .with_name(StrBytes::from_static_str(config.key.name))
                                .with_value(Some(StrBytes::from_string(config.value)))
                                .with_config_source(config.source)
                        })
                        .collect()
                });
                let response = response
                    .with_num_partitions(partitions)
                    .with_replication_factor(1)
                    .with_configs(Some(configs));
                match topic {
                    Some(topic) if version >= 7 => response.with_topic_id(Uuid::from_bytes(topic.meta.id.0)),
                    _ => response,
                }
            }
            Ok(_) => response,
        }
    }

    pub(crate) fn on_delete_topics(
        &self,
        request: DeleteTopicsRequest,
        version: i16,
    ) -> DeleteTopicsResponse {
        let mut asked: Vec<(Option<TopicName>, Uuid)> =
            request.topic_names.into_iter().map(|name| (Some(name), Uuid::nil())).collect();
        asked.extend(request.topics.into_iter().map(|topic| (topic.name, topic.topic_id)));
        let responses = asked
            .into_iter()
            .map(|(name, id)| {
                let topic = match &name {
                    Some(name) => self.topic(name),
                    None => self.topic_by_id(id.into_bytes()),
                };
                let name = name.or_else(|| topic.as_ref().map(|topic| topic_name(&topic.meta.name)));
                let result = match &name {
                    Some(name) => self.delete_topic(name),
                    None => Err(BrokerError::UnknownTopicId),
                };
                let response = DeletableTopicResult::default().with_name(name);
                let response = match topic {
                    Some(topic) if version >= 6 => response.with_topic_id(Uuid::from_bytes(topic.meta.id.0)),
                    _ if version >= 6 => response.with_topic_id(id),
                    _ => response,
                };
                match result {
                    Ok(()) => response,
                    Err(error) if version >= 5 => {
                        response.with_error_code(error.code()).with_error_message(sentence(&error))
                    }
                    Err(error) => response.with_error_code(error.code()),
                }
            })
            .collect();
        DeleteTopicsResponse::default().with_responses(responses)
    }

    pub(crate) fn on_create_partitions(&self, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
        let results = request
            .topics
            .into_iter()
            .map(|topic| {
                let name = topic.name;
                let response = CreatePartitionsTopicResult::default().with_name(name.clone());
                match self.grow(&name, topic.count, request.validate_only) {
                    Ok(()) => response.with_error_message(None),
                    Err(error) => response.with_error_code(error.code()).with_error_message(sentence(&error)),
                }
            })
            .collect();
        CreatePartitionsResponse::default().with_results(results)
    }

    fn grow(&self, name: &str, total: i32, validate_only: bool) -> Result<(), BrokerError> {
        let at = herdsman_record::TopicPartition::new(name, 0);
        let now = self.known_topic(&at)?.meta.partitions;
        if name.starts_with("__") {
            return Err(BrokerError::InternalTopic(name.to_owned()));
        }
        if total <= now || total > PARTITIONS_MAX {
            return Err(BrokerError::Log(herdsman_log::LogError::InvalidPartitions {
                topic: name.to_owned(),
                partitions: total,
                reason: format!("it has {now}; more than that and at most {PARTITIONS_MAX} are allowed"),
            }));
        }
        if validate_only { Ok(()) } else { self.add_partitions(name, total) }
    }
}
