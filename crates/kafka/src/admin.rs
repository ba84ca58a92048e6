//! Topics: create, delete, list, describe; and the house's own topic configs, kept in a compacted topic.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use herdsman_bus::{BusError, TopicDescription, TopicSpec};
use herdsman_record::TopicPartition;
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigEntry, NewTopic, OwnedResourceSpecifier, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::error::{plain, unavailable};

/// The compacted topic that holds the configs Kafka does not know: key = topic, value = `name=value` lines.
pub(crate) const CONFIGS_TOPIC: &str = "_herdsman_topic_configs";

/// Prefix of those configs.
pub(crate) const HOUSE_PREFIX: &str = "herdsman.";

/// Topics created or deleted are visible after a moment; this is how long and how often we look.
const VISIBLE_TRIES: u32 = 100;
const VISIBLE_PAUSE: Duration = Duration::from_millis(20);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future on this thread; librdkafka's own thread completes it.
fn wait<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Administers one cluster.
pub(crate) struct Admin {
    pub(crate) url: String,
    pub(crate) client: AdminClient<DefaultClientContext>,
    pub(crate) timeout: Duration,
    pub(crate) replication_factor: i32,
}

impl Admin {
    fn options(&self) -> AdminOptions {
        AdminOptions::new().request_timeout(Some(self.timeout)).operation_timeout(Some(self.timeout))
    }

    fn failed(&self, what: &str, error: &KafkaError) -> BusError {
        unavailable(&self.url, what, error)
    }

    /// Creates a topic. Gives whether the cluster took the house's configs too: a herdsman cluster does, Apache Kafka
    /// refuses what it does not know, and then gets only its own.
    pub(crate) fn create(&self, spec: &TopicSpec) -> Result<bool, BusError> {
        if !spec.configs.keys().any(|name| name.starts_with(HOUSE_PREFIX)) {
            return self.create_with(spec, false).map(|()| true);
        }
        match self.create_with(spec, true) {
            Err(BusError::InvalidTopic { .. }) => self.create_with(spec, false).map(|()| false),
            result => result.map(|()| true),
        }
    }

    fn create_with(&self, spec: &TopicSpec, house: bool) -> Result<(), BusError> {
        let mut topic =
            NewTopic::new(&spec.name, spec.partitions, TopicReplication::Fixed(self.replication_factor));
        for (name, value) in spec.configs.iter().filter(|(name, _)| house || !name.starts_with(HOUSE_PREFIX))
        {
            topic = topic.set(name, value);
        }
        let what = format!("creating topic {}", spec.name);
        let results = wait(self.client.create_topics([&topic], &self.options()))
            .map_err(|error| self.failed(&what, &error))?;
        match results.into_iter().next() {
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {
                return Err(BusError::TopicExists(spec.name.clone()));
            }
            Some(Err((_, code))) if is_refusal(code) => {
                return Err(BusError::InvalidTopic { topic: spec.name.clone(), reason: plain(code) });
            }
            Some(Err((_, code))) => return Err(self.failed(&what, &KafkaError::AdminOp(code))),
            Some(Ok(_)) | None => {}
        }
        self.wait_until(&spec.name, |partitions| partitions == Some(spec.partitions))
    }

    /// Deletes a topic.
    pub(crate) fn delete(&self, topic: &str) -> Result<(), BusError> {
        let what = format!("deleting topic {topic}");
        let results = wait(self.client.delete_topics(&[topic], &self.options()))
            .map_err(|error| self.failed(&what, &error))?;
        match results.into_iter().next() {
            Some(Err((_, RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic))) => {
                Err(BusError::UnknownTopic(TopicPartition::new(topic, 0)))
            }
            Some(Err((_, code))) => Err(self.failed(&what, &KafkaError::AdminOp(code))),
            Some(Ok(_)) | None => self.wait_until(topic, |partitions| partitions.is_none()),
        }
    }

    fn wait_until(&self, topic: &str, reached: impl Fn(Option<i32>) -> bool) -> Result<(), BusError> {
        for _ in 0..VISIBLE_TRIES {
            if reached(self.partitions(Some(topic))?.get(topic).copied()) {
                return Ok(());
            }
            std::thread::sleep(VISIBLE_PAUSE);
        }
        Ok(())
    }

    /// Partition counts of one topic, or of all.
    pub(crate) fn partitions(&self, topic: Option<&str>) -> Result<BTreeMap<String, i32>, BusError> {
        let metadata = self
            .client
            .inner()
            .fetch_metadata(topic, self.timeout)
            .map_err(|error| self.failed("reading the list of topics", &error))?;
        Ok(metadata
            .topics()
            .iter()
            .filter(|found| found.error().is_none() && !found.partitions().is_empty())
            .map(|found| {
                (found.name().to_owned(), i32::try_from(found.partitions().len()).unwrap_or(i32::MAX))
            })
            .collect())
    }

    /// Descriptions of `topics`, with the configs that were set on them.
    pub(crate) fn describe(&self, topics: &BTreeMap<String, i32>) -> Result<Vec<TopicDescription>, BusError> {
        let resources: Vec<_> = topics.keys().map(|name| ResourceSpecifier::Topic(name)).collect();
        let mut configs: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        if !resources.is_empty() {
            let results = wait(self.client.describe_configs(&resources, &self.options()))
                .map_err(|error| self.failed("reading topic configs", &error))?;
            for resource in results.into_iter().flatten() {
                if let OwnedResourceSpecifier::Topic(name) = resource.specifier {
                    configs.insert(name, resource.entries.into_iter().filter_map(own_config).collect());
                }
            }
        }
        Ok(topics
            .iter()
            .map(|(name, partitions)| TopicDescription {
                name: name.clone(),
                partitions: *partitions,
                internal: name.starts_with("__") || name == CONFIGS_TOPIC,
                configs: configs.remove(name).unwrap_or_default(),
            })
            .collect())
    }
}

impl Admin {
    /// A topic's config, wherever it was set; `None` if the cluster does not say.
    pub(crate) fn config(&self, topic: &str, key: &str) -> Option<String> {
        let resources = [ResourceSpecifier::Topic(topic)];
        let found = wait(self.client.describe_configs(&resources, &self.options())).ok()?;
        let entries = found.into_iter().next()?.ok()?.entries;
        entries.into_iter().find(|entry| entry.name == key)?.value
    }
}

/// A config that was set on the topic itself.
fn own_config(entry: ConfigEntry) -> Option<(String, String)> {
    let set_here = matches!(entry.source, rdkafka::admin::ConfigSource::DynamicTopic);
    entry.value.filter(|_| set_here).map(|value| (entry.name, value))
}

fn is_refusal(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::InvalidTopic
            | RDKafkaErrorCode::InvalidPartitions
            | RDKafkaErrorCode::InvalidReplicationFactor
            | RDKafkaErrorCode::InvalidConfig
            | RDKafkaErrorCode::PolicyViolation
            | RDKafkaErrorCode::InvalidRequest
    )
}

/// The house's configs of a topic as the value of its record.
pub(crate) fn house_value(configs: &BTreeMap<String, String>) -> Option<String> {
    let lines: Vec<String> = configs
        .iter()
        .filter(|(name, _)| name.starts_with(HOUSE_PREFIX))
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    (!lines.is_empty()).then(|| lines.concat())
}

/// Reads [`house_value`] back.
pub(crate) fn house_configs(value: &str) -> BTreeMap<String, String> {
    value.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}
