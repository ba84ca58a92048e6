//! Configs of topics and groups by request: DescribeConfigs, AlterConfigs, IncrementalAlterConfigs.

use std::collections::BTreeMap;

use herdsman_log::{ConfigKey, ConfigKind, TOPIC_CONFIGS};
use herdsman_wire::kafka_protocol::ResponseError;
use herdsman_wire::kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use herdsman_wire::kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use herdsman_wire::kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use herdsman_wire::kafka_protocol::messages::incremental_alter_configs_request::AlterableConfig;
use herdsman_wire::kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse as IncrementalResponse;
use herdsman_wire::kafka_protocol::messages::list_config_resources_response::ConfigResource;
use herdsman_wire::kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, ListConfigResourcesRequest,
    ListConfigResourcesResponse,
};
use herdsman_wire::kafka_protocol::protocol::StrBytes;

use crate::share::config::GROUP_CONFIGS;
use crate::topic::{Topic, lock};
use crate::{Broker, BrokerError};

/// Resource type of a topic.
const TOPIC: i8 = 2;
/// Resource type of a broker.
const BROKER: i8 = 4;
/// Resource type of a group.
const GROUP: i8 = 32;
/// Resource type of subscriptions to clients' metrics (KIP-714); there are none here.
const CLIENT_METRICS: i8 = 16;
/// Config source: set on the group.
const SOURCE_GROUP: i8 = 8;
/// Config source: set on the topic.
const SOURCE_TOPIC: i8 = 1;
/// Config source: set in the broker's own configuration.
const SOURCE_STATIC: i8 = 4;
/// Config source: Kafka's default.
const SOURCE_DEFAULT: i8 = 5;

/// One config of one topic as it stands.
pub(crate) struct Described {
    pub(crate) key: &'static ConfigKey,
    pub(crate) value: String,
    pub(crate) source: i8,
}

/// Every config of a topic: its own value, the log's default, or Kafka's.
pub(crate) fn described_configs(broker: &Broker, topic: &Topic) -> Vec<Described> {
    TOPIC_CONFIGS
        .iter()
        .map(|key| {
            let value =
                broker.log.topic_config(&topic.meta.name, key.name).unwrap_or_else(|| key.default.to_owned());
            let source = if topic.meta.configs.contains_key(key.name) {
                SOURCE_TOPIC
            } else if value == key.default {
                SOURCE_DEFAULT
            } else {
                SOURCE_STATIC
            };
            Described { key, value, source }
        })
        .collect()
}

/// Number that DescribeConfigs gives a value's type.
fn config_type(kind: ConfigKind) -> i8 {
    match kind {
        ConfigKind::Bool => 1,
        ConfigKind::Text | ConfigKind::OneOf(_) => 2,
        ConfigKind::Number(_, high) if high <= i64::from(i32::MAX) => 3,
        ConfigKind::Number(..) => 5,
        ConfigKind::Ratio => 6,
        ConfigKind::ListOf(_) => 7,
    }
}

impl Broker {
    pub(crate) fn on_describe_configs(
        &self,
        request: DescribeConfigsRequest,
        version: i16,
    ) -> DescribeConfigsResponse {
        let results = request
            .resources
            .iter()
            .map(|resource| {
                let result = DescribeConfigsResult::default()
                    .with_resource_type(resource.resource_type)
                    .with_resource_name(resource.resource_name.clone());
                match self.describe_resource(resource, &request, version) {
                    Ok(configs) => result.with_configs(configs),
                    Err(error) => result
                        .with_error_code(error.code())
                        .with_error_message(Some(StrBytes::from_string(error.to_string()))),
                }
            })
            .collect();
        DescribeConfigsResponse::default().with_results(results)
    }

    fn describe_resource(
        &self,
        resource: &DescribeConfigsResource,
        request: &DescribeConfigsRequest,
        version: i16,
    ) -> Result<Vec<DescribeConfigsResourceResult>, BrokerError> {
        let name = resource.resource_name.as_str();
        let wanted = |key: &str| {
            resource
                .configuration_keys
                .as_ref()
                .is_none_or(|keys| keys.iter().any(|asked| asked.as_str() == key))
        };
        match resource.resource_type {
            TOPIC => {
                let at = herdsman_record::TopicPartition::new(name, 0);
                let topic = self.known_topic(&at)?;
                let configs =
                    described_configs(self, &topic).into_iter().filter(|config| wanted(config.key.name));
                Ok(configs.map(|config| result_of(config, request, version)).collect())
            }
            BROKER => {
                let number = [
                    ("auto.create.topics.enable", self.config.auto_create_topics.to_string(), 1),
                    ("num.partitions", self.config.num_partitions.to_string(), 3),
                    ("fetch.max.bytes", self.config.fetch_bytes_max.to_string(), 3),
                    ("node.id", self.config.node_id.to_string(), 3),
                    (
                        "group.initial.rebalance.delay.ms",
                        self.config.groups.initial_rebalance_delay_ms.to_string(),
                        3,
                    ),
                ];
                Ok(number
                    .into_iter()
                    .filter(|(key, _, _)| wanted(key))
                    .map(|(key, value, kind)| {
                        let result = DescribeConfigsResourceResult::default()
                            .with_name(StrBytes::from_static_str(key))
                            .with_value(Some(StrBytes::from_string(value)))
                            .with_read_only(true)
                            .with_config_source(SOURCE_STATIC);
                        if version >= 3 { result.with_config_type(kind) } else { result }
                    })
                    .collect())
            }
            GROUP => Ok(self.described_group(name, wanted, version)),
            other => Err(BrokerError::InvalidRequest(format!("no configs for resources of type {other}"))),
        }
    }

    /// What has configs of its own (KIP-1142); version 0 asks for subscriptions to clients' metrics only.
    pub(crate) fn on_list_config_resources(
        &self,
        request: &ListConfigResourcesRequest,
        version: i16,
    ) -> ListConfigResourcesResponse {
        let known = [TOPIC, BROKER, CLIENT_METRICS, GROUP];
        let response = ListConfigResourcesResponse::default();
        if request.resource_types.iter().any(|kind| !known.contains(kind)) {
            return response.with_error_code(ResponseError::UnsupportedVersion.code());
        }
        let wanted = |kind: i8| {
            version >= 1 && (request.resource_types.is_empty() || request.resource_types.contains(&kind))
        };
        let mut names: Vec<(i8, String)> = Vec::new();
        if wanted(TOPIC) {
            names.extend(self.all_topics().iter().map(|topic| (TOPIC, topic.meta.name.to_string())));
        }
        if wanted(BROKER) {
            names.push((BROKER, self.config.node_id.to_string()));
        }
        if wanted(GROUP) {
            names.extend(lock(&self.shares).configs.keys().map(|group| (GROUP, group.clone())));
        }
        let resources = names.into_iter().map(|(kind, name)| {
            let resource = ConfigResource::default().with_resource_name(StrBytes::from_string(name));
            if version >= 1 { resource.with_resource_type(kind) } else { resource }
        });
        response.with_config_resources(resources.collect())
    }

    fn described_group(
        &self,
        group: &str,
        wanted: impl Fn(&str) -> bool,
        version: i16,
    ) -> Vec<DescribeConfigsResourceResult> {
        let shares = lock(&self.shares);
        let set = shares.configs.get(group);
        let configs = GROUP_CONFIGS.iter().filter(|key| wanted(key.name)).map(|key| {
            let is_set = set.is_some_and(|set| set.contains_key(key.name));
            let result = DescribeConfigsResourceResult::default()
                .with_name(StrBytes::from_static_str(key.name))
                .with_value(Some(StrBytes::from_string(shares.config.value(key.name, set))))
                .with_config_source(if is_set { SOURCE_GROUP } else { SOURCE_DEFAULT });
            if version >= 3 { result.with_config_type(key.kind) } else { result }
        });
        configs.collect()
    }

    pub(crate) fn on_alter_configs(&self, request: AlterConfigsRequest) -> AlterConfigsResponse {
        let responses = request
            .resources
            .into_iter()
            .map(|resource| {
                let mut configs = BTreeMap::new();
                for config in resource.configs {
                    if let Some(value) = config.value {
                        configs.insert(config.name.to_string(), value.to_string());
                    }
                }
                let result = self.replace(
                    resource.resource_type,
                    &resource.resource_name,
                    &configs,
                    request.validate_only,
                );
                let response = AlterConfigsResourceResponse::default()
                    .with_resource_type(resource.resource_type)
                    .with_resource_name(resource.resource_name);
                match result {
                    Ok(()) => response,
                    Err(error) => response
                        .with_error_code(error.code())
                        .with_error_message(Some(StrBytes::from_string(error.to_string()))),
                }
            })
            .collect();
        AlterConfigsResponse::default().with_responses(responses)
    }

    pub(crate) fn on_incremental_alter(
        &self,
        request: IncrementalAlterConfigsRequest,
    ) -> IncrementalAlterConfigsResponse {
        let responses = request
            .resources
            .into_iter()
            .map(|resource| {
                let kind = resource.resource_type;
                let result =
                    self.changed(kind, &resource.resource_name, &resource.configs).and_then(|configs| {
                        self.replace(
                            resource.resource_type,
                            &resource.resource_name,
                            &configs,
                            request.validate_only,
                        )
                    });
                let response = IncrementalResponse::default()
                    .with_resource_type(resource.resource_type)
                    .with_resource_name(resource.resource_name);
                match result {
                    Ok(()) => response,
                    Err(error) => response
                        .with_error_code(error.code())
                        .with_error_message(Some(StrBytes::from_string(error.to_string()))),
                }
            })
            .collect();
        IncrementalAlterConfigsResponse::default().with_responses(responses)
    }

    fn replace(
        &self,
        resource_type: i8,
        name: &str,
        configs: &BTreeMap<String, String>,
        validate_only: bool,
    ) -> Result<(), BrokerError> {
        if resource_type == GROUP {
            return self.set_group_configs(name, configs, validate_only);
        }
        if resource_type != TOPIC {
            return Err(BrokerError::InvalidRequest(
                "only configs of topics and groups change at run time: set the broker's in its configuration file"
                    .to_owned(),
            ));
        }
        self.known_topic(&herdsman_record::TopicPartition::new(name, 0))?;
        if name.starts_with("__") {
            return Err(BrokerError::InternalTopic(name.to_owned()));
        }
        if validate_only {
            return Ok(herdsman_log::check_configs(configs)?);
        }
        self.alter_configs(name, configs)
    }

    /// The configs of the topic or group `name` after `changes` (set 0, delete 1, append 2, subtract 3).
    fn changed(
        &self,
        resource_type: i8,
        name: &str,
        changes: &[AlterableConfig],
    ) -> Result<BTreeMap<String, String>, BrokerError> {
        let mut configs = if resource_type == GROUP {
            lock(&self.shares).configs.get(name).cloned().unwrap_or_default()
        } else {
            let topic = self.known_topic(&herdsman_record::TopicPartition::new(name, 0))?;
            topic.meta.configs.clone()
        };
        for change in changes {
            let key = change.name.to_string();
            let value = change.value.as_ref().map(|value| value.to_string());
            let now = self.log.topic_config(name, &key).unwrap_or_default();
            let mut words: Vec<&str> = now.split(',').filter(|word| !word.is_empty()).collect();
            match (change.config_operation, value) {
                (1, _) => {
                    configs.remove(&key);
                }
                (0, Some(value)) => {
                    configs.insert(key, value);
                }
                (2, Some(value)) => {
                    words.extend(value.split(',').filter(|word| !now.split(',').any(|old| old == *word)));
                    configs.insert(key, words.join(","));
                }
                (3, Some(value)) => {
                    words.retain(|word| !value.split(',').any(|gone| gone == *word));
                    configs.insert(key, words.join(","));
                }
                (operation, _) => {
                    return Err(BrokerError::InvalidConfig(format!(
                        "{key}: operation {operation} needs a value"
                    )));
                }
            }
        }
        Ok(configs)
    }
}

fn result_of(
    config: Described,
    request: &DescribeConfigsRequest,
    version: i16,
) -> DescribeConfigsResourceResult {
    let value = StrBytes::from_string(config.value);
    let mut result = DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(config.key.name))
        .with_value(Some(value.clone()))
        .with_config_source(config.source);
    if request.include_synonyms {
        let synonym = DescribeConfigsSynonym::default()
            .with_name(StrBytes::from_static_str(config.key.name))
            .with_value(Some(value))
            .with_source(config.source);
        result = result.with_synonyms(vec![synonym]);
    }
    if version >= 3 {
        result = result.with_config_type(config_type(config.key.kind));
        if request.include_documentation {
            result = result.with_documentation(Some(StrBytes::from_static_str(config.key.doc)));
        }
    }
    result
}
