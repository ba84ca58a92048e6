//! A cluster as the house's event bus.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use herdsman_broker::BrokerError;
use herdsman_bus::{
    Bus, BusError, Committer, Fetched, OffsetRange, Produced, Reader, TopicDescription, TopicSpec,
};
use herdsman_host::{Clock, RealClock};
use herdsman_record::{Batch, BatchBuilder, Compression, Record, TopicPartition};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer as _;
use rdkafka::{Offset, TopicPartitionList};

use crate::KafkaOptions;
use crate::admin::{Admin, CONFIGS_TOPIC, house_configs, house_value};
use crate::committer::KafkaCommitter;
use crate::dedupe::TopicDedupe;
use crate::delivery::{Producer, Reports, Ticket, send};
use crate::error::{unavailable, write_failed};
use crate::login::objection;
use crate::options::{self, addresses, probe};
use crate::reader::{KafkaReader, Quiet};

/// Bytes read at once while ids or configs are read back.
const REPLAY_BYTES: usize = 8 << 20;
/// Longest wait for the cluster's first answer while connecting.
const HELLO_TIMEOUT: Duration = Duration::from_millis(1500);
/// Pause before a coordinator that moves is asked again.
const COORDINATOR_PAUSE: Duration = Duration::from_millis(100);

/// An Apache Kafka cluster. Cheap to clone; all clones share one producer.
#[derive(Clone)]
pub struct KafkaBus {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) url: String,
    addresses: Vec<String>,
    options: KafkaOptions,
    admin: Admin,
    producer: Mutex<Arc<Producer>>,
    groups: Mutex<HashMap<String, Arc<BaseConsumer<Quiet>>>>,
    /// `herdsman.*` configs by topic.
    house: Mutex<HashMap<String, BTreeMap<String, String>>>,
    /// Windows of the topics written to so far; `None`: not de-duplicated.
    windows: Mutex<HashMap<String, Option<Arc<TopicDedupe>>>>,
    readers: AtomicU64,
    clock: RealClock,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl KafkaBus {
    /// Connects to `kafka://host:port,…`. Errors: [`BusError::Unavailable`], within two seconds, if nothing there speaks
    /// Kafka.
    pub fn connect(url: &str, options: KafkaOptions) -> Result<Self, BusError> {
        let addresses = addresses(url)?;
        let url = format!("kafka://{}", addresses.join(","));
        probe(&url, &addresses)?;
        let failed = |error| unavailable(&url, "making a client", &error);
        let admin = Admin {
            url: url.clone(),
            // so that the end of a partition is its high watermark, whatever transactions are open
            client: options::client(&addresses, &options)
                .set("isolation.level", "read_uncommitted")
                .create()
                .map_err(failed)?,
            timeout: options.request_timeout,
            replication_factor: options.replication_factor,
        };
        admin.client.inner().fetch_metadata(Some(CONFIGS_TOPIC), HELLO_TIMEOUT).map_err(|_| {
            BusError::Unavailable {
                bus: url.clone(),
                reason: addresses.iter().find_map(|address| objection(address, &options)).unwrap_or_else(|| {
                    format!(
                        "{} accepts connections but does not answer as Kafka does: pass the address of a Kafka listener",
                        addresses.join(",")
                    )
                }),
            }
        })?;
        let producer: Producer =
            options::producer(&addresses, &options).create_with_context(Reports).map_err(failed)?;
        let shared = Shared {
            url,
            addresses,
            options,
            admin,
            producer: Mutex::new(Arc::new(producer)),
            groups: Mutex::default(),
            house: Mutex::default(),
            windows: Mutex::default(),
            readers: AtomicU64::new(0),
            clock: RealClock,
        };
        shared.load_house()?;
        Ok(Self { shared: Arc::new(shared) })
    }
}

impl Shared {
    pub(crate) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Reads all committed records of `starts` up to where the log ends now.
    fn replay(
        &self,
        starts: &[(TopicPartition, i64)],
        mut each: impl FnMut(Fetched) -> Result<(), BusError>,
    ) -> Result<(), BusError> {
        let mut left: HashMap<TopicPartition, i64> = HashMap::new();
        let mut wanted = Vec::new();
        // asked by a client that reads committed records, the end is where the oldest open transaction begins
        let client = self.group("herdsman-replay")?;
        for (at, start) in starts {
            let (_, end) = client
                .fetch_watermarks(&at.topic, at.partition, self.options.request_timeout)
                .map_err(|error| unavailable(&self.url, &format!("reading the offsets of {at}"), &error))?;
            if *start < end {
                left.insert(at.clone(), end);
                wanted.push((at.clone(), *start));
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let mut reader = self.reader(&wanted)?;
        while !left.is_empty() {
            let found = reader.poll(REPLAY_BYTES, self.options.request_timeout)?;
            if found.is_empty() {
                return Err(BusError::Unavailable {
                    bus: self.url.clone(),
                    reason: "reading a topic back stopped half-way".to_owned(),
                });
            }
            for fetched in found {
                if left.get(&fetched.topic_partition).is_some_and(|end| fetched.next_offset >= *end) {
                    left.remove(&fetched.topic_partition);
                }
                each(fetched)?;
            }
        }
        Ok(())
    }

    fn load_house(&self) -> Result<(), BusError> {
        if !self.admin.partitions(Some(CONFIGS_TOPIC))?.contains_key(CONFIGS_TOPIC) {
            return Ok(());
        }
        let at = TopicPartition::new(CONFIGS_TOPIC, 0);
        let start = self.offsets(&at)?.start;
        let mut house = HashMap::new();
        self.replay(&[(at, start)], |fetched| {
            for batch in &fetched.batches {
                for record in batch.records()?.iter() {
                    let record = record?;
                    let topic = String::from_utf8_lossy(record.key.unwrap_or_default()).into_owned();
                    match record.value {
                        Some(value) => house.insert(topic, house_configs(&String::from_utf8_lossy(value))),
                        None => house.remove(&topic),
                    };
                }
            }
            Ok(())
        })?;
        *lock(&self.house) = house;
        Ok(())
    }

    /// Remembers (or, with no configs, forgets) the house's configs of a topic, durably.
    fn keep_house(&self, topic: &str, configs: &BTreeMap<String, String>) -> Result<(), BusError> {
        let value = house_value(configs);
        let kept = value.as_deref().map(house_configs);
        if lock(&self.house).get(topic) == kept.as_ref() {
            return Ok(());
        }
        let spec = TopicSpec {
            name: CONFIGS_TOPIC.to_owned(),
            partitions: 1,
            configs: BTreeMap::from([("cleanup.policy".to_owned(), "compact".to_owned())]),
        };
        match self.admin.create(&spec) {
            Ok(_) | Err(BusError::TopicExists(_)) => {}
            Err(error) => return Err(error),
        }
        let mut builder = BatchBuilder::new();
        builder.append(self.now_ms(), Some(topic.as_bytes()), value.as_deref().map(str::as_bytes), &[]);
        self.write(&TopicPartition::new(CONFIGS_TOPIC, 0), &builder.finish(Compression::None)?, None)?;
        match kept {
            Some(kept) => lock(&self.house).insert(topic.to_owned(), kept),
            None => lock(&self.house).remove(topic),
        };
        lock(&self.windows).remove(topic);
        Ok(())
    }

    /// The topic's window, read back from the topic at its first use.
    pub(crate) fn dedupe(&self, topic: &str) -> Result<Option<Arc<TopicDedupe>>, BusError> {
        let mut windows = lock(&self.windows);
        if let Some(window) = windows.get(topic) {
            return Ok(window.clone());
        }
        let window = lock(&self.house).get(topic).and_then(TopicDedupe::from_configs).map(Arc::new);
        if let Some(window) = &window {
            let mut seen = window.lock();
            let partitions = self.admin.partitions(Some(topic))?.get(topic).copied().unwrap_or(0);
            let share = i64::try_from(seen.capacity()).unwrap_or(i64::MAX) / i64::from(partitions.max(1));
            let mut starts = Vec::new();
            for partition in 0..partitions {
                let at = TopicPartition::new(topic, partition);
                let range = self.offsets(&at)?;
                starts.push((at, range.start.max(range.end.saturating_sub(share))));
            }
            let now_ms = self.now_ms();
            self.replay(&starts, |fetched| {
                fetched.batches.iter().try_for_each(|batch| seen.restore(batch, now_ms))
            })?;
        }
        windows.insert(topic.to_owned(), window.clone());
        Ok(window)
    }

    /// Sends a batch and waits for it; a producer that broke is replaced for the next call.
    fn write(
        &self,
        at: &TopicPartition,
        batch: &Batch,
        fresh: Option<&herdsman_broker::dedupe::Fresh>,
    ) -> Result<i64, BusError> {
        let producer = Arc::clone(&*lock(&self.producer));
        let ticket = Arc::new(Ticket::default());
        let sent = send(&self.url, &producer, at, batch, fresh, &ticket);
        let delivered = ticket.wait();
        if producer.client().fatal_error().is_some() {
            let mut current = lock(&self.producer);
            if Arc::ptr_eq(&current, &producer) {
                let fresh: Producer = options::producer(&self.addresses, &self.options)
                    .create_with_context(Reports)
                    .map_err(|error| unavailable(&self.url, "making a producer", &error))?;
                *current = Arc::new(fresh);
            }
        }
        sent?;
        delivered.map_err(|code| match code {
            RDKafkaErrorCode::MessageSizeTooLarge => self.too_large(at, batch),
            code => write_failed(&self.url, at, code),
        })
    }

    /// The largest record of `batch` and the topic's limit; the cluster's answer names neither.
    fn too_large(&self, at: &TopicPartition, batch: &Batch) -> BusError {
        let limit = self.admin.config(&at.topic, "max.message.bytes").and_then(|limit| limit.parse().ok());
        let bytes = |record: Record<'_>| {
            [record.key, record.value].into_iter().flatten().map(<[u8]>::len).sum::<usize>()
        };
        let largest = batch.records().ok().and_then(|records| records.iter().flatten().map(bytes).max());
        match (limit, largest) {
            (Some(limit), Some(bytes)) => {
                let topic = at.topic.to_string();
                BusError::Refused(
                    BrokerError::MessageTooLarge { topic, bytes, limit, records: 1 }.to_string(),
                )
            }
            _ => write_failed(&self.url, at, RDKafkaErrorCode::MessageSizeTooLarge),
        }
    }

    fn offsets(&self, at: &TopicPartition) -> Result<OffsetRange, BusError> {
        let found =
            self.admin.client.inner().fetch_watermarks(&at.topic, at.partition, self.options.request_timeout);
        match found {
            Ok((start, end)) => Ok(OffsetRange { start, end }),
            Err(error) => match error.rdkafka_error_code() {
                Some(
                    RDKafkaErrorCode::UnknownTopic
                    | RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::UnknownPartition,
                ) => Err(BusError::UnknownTopic(at.clone())),
                _ => Err(unavailable(&self.url, &format!("reading the offsets of {at}"), &error)),
            },
        }
    }

    fn reader(&self, start: &[(TopicPartition, i64)]) -> Result<Box<dyn Reader>, BusError> {
        // a reader is in no group, but librdkafka wants a name to assign by hand
        let number = self.readers.fetch_add(1, Ordering::Relaxed);
        let group = format!("herdsman-reader-{}-{number}", std::process::id());
        let consumer = options::consumer(&self.addresses, &self.options, &group)
            .create_with_context(Quiet)
            .map_err(|error| unavailable(&self.url, "making a reader", &error))?;
        let mut reader = KafkaReader::new(&self.url, consumer, self.options.request_timeout)?;
        reader.assign(start)?;
        Ok(Box::new(reader))
    }

    /// A client that speaks for a group without joining it.
    fn group(&self, group: &str) -> Result<Arc<BaseConsumer<Quiet>>, BusError> {
        let mut groups = lock(&self.groups);
        if let Some(found) = groups.get(group) {
            return Ok(Arc::clone(found));
        }
        let consumer: BaseConsumer<Quiet> = options::consumer(&self.addresses, &self.options, group)
            .create_with_context(Quiet)
            .map_err(|error| unavailable(&self.url, "making a group client", &error))?;
        let consumer = Arc::new(consumer);
        groups.insert(group.to_owned(), Arc::clone(&consumer));
        Ok(consumer)
    }

    pub(crate) fn group_metadata(&self, group: &str) -> Result<ConsumerGroupMetadata, BusError> {
        self.group(group)?.group_metadata().ok_or_else(|| BusError::Unavailable {
            bus: self.url.clone(),
            reason: format!("group {group} has no metadata"),
        })
    }

    /// A list of partitions with offsets.
    pub(crate) fn offset_list(
        &self,
        offsets: &[(TopicPartition, i64)],
        make: impl Fn(i64) -> Offset,
    ) -> Result<TopicPartitionList, BusError> {
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (at, offset) in offsets {
            list.add_partition_offset(&at.topic, at.partition, make(*offset))
                .map_err(|error| unavailable(&self.url, &format!("offset {offset} of {at}"), &error))?;
        }
        Ok(list)
    }
}

impl Bus for KafkaBus {
    fn url(&self) -> String {
        self.shared.url.clone()
    }

    fn create_topic(&self, spec: &TopicSpec) -> Result<(), BusError> {
        let taken = self.shared.admin.create(spec)?;
        let ours = if taken { &BTreeMap::new() } else { &spec.configs };
        self.shared.keep_house(&spec.name, ours)
    }

    fn delete_topic(&self, topic: &str) -> Result<(), BusError> {
        self.shared.admin.delete(topic)?;
        self.shared.keep_house(topic, &BTreeMap::new())?;
        lock(&self.shared.windows).remove(topic);
        Ok(())
    }

    fn topic(&self, topic: &str) -> Result<Option<TopicDescription>, BusError> {
        let found = self.shared.admin.partitions(Some(topic))?;
        let mut described = self.shared.admin.describe(&found)?;
        let mut one = described.pop();
        if let (Some(one), Some(house)) = (&mut one, lock(&self.shared.house).get(topic)) {
            one.configs.extend(house.clone());
        }
        Ok(one)
    }

    fn topics(&self) -> Result<Vec<TopicDescription>, BusError> {
        let found = self.shared.admin.partitions(None)?;
        let mut described = self.shared.admin.describe(&found)?;
        let house = lock(&self.shared.house);
        for one in &mut described {
            if let Some(house) = house.get(&one.name) {
                one.configs.extend(house.clone());
            }
        }
        Ok(described)
    }

    fn offsets(&self, topic_partition: &TopicPartition) -> Result<OffsetRange, BusError> {
        self.shared.offsets(topic_partition)
    }

    fn produce(&self, topic_partition: &TopicPartition, batch: Batch) -> Result<Produced, BusError> {
        let count = |records: usize| u32::try_from(records).unwrap_or(u32::MAX);
        let Some(window) = self.shared.dedupe(&topic_partition.topic)? else {
            let base_offset = self.shared.write(topic_partition, &batch, None)?;
            return Ok(Produced { base_offset, accepted: count(batch.record_count()), duplicates: 0 });
        };
        // held until delivery: nobody may be told "duplicate" of a record that then fails
        let mut seen = window.lock();
        let filtered = seen.filter(&batch, self.shared.now_ms())?;
        let (accepted, duplicates) = (count(filtered.accepted()), count(filtered.fresh.duplicates()));
        if accepted == 0 {
            let base_offset = self.shared.offsets(topic_partition)?.end;
            return Ok(Produced { base_offset, accepted, duplicates });
        }
        match self.shared.write(topic_partition, &batch, Some(&filtered.fresh)) {
            Ok(base_offset) => Ok(Produced { base_offset, accepted, duplicates }),
            Err(error) => {
                seen.forget(&filtered);
                Err(error)
            }
        }
    }

    fn reader(&self, start: &[(TopicPartition, i64)]) -> Result<Box<dyn Reader>, BusError> {
        self.shared.reader(start)
    }

    fn committer(&self, id: &str) -> Result<Box<dyn Committer>, BusError> {
        let config = options::producer(&self.shared.addresses, &self.shared.options);
        Ok(Box::new(KafkaCommitter::new(Arc::clone(&self.shared), id, config)?))
    }

    fn committed(&self, group: &str, partitions: &[TopicPartition]) -> Result<Vec<Option<i64>>, BusError> {
        let asked: Vec<_> = partitions.iter().map(|at| (at.clone(), 0)).collect();
        let list = self.shared.offset_list(&asked, |_| Offset::Invalid)?;
        let (consumer, timeout) = (self.shared.group(group)?, self.shared.options.request_timeout);
        let found = while_coordinator_moves(timeout, || consumer.committed_offsets(list.clone(), timeout))
            .map_err(|error| {
                unavailable(&self.shared.url, &format!("reading the offsets of group {group}"), &error)
            })?;
        Ok(partitions
            .iter()
            .map(|at| match found.find_partition(&at.topic, at.partition).map(|element| element.offset()) {
                Some(Offset::Offset(offset)) => Some(offset),
                _ => None,
            })
            .collect())
    }

    fn commit_offsets(&self, group: &str, offsets: &[(TopicPartition, i64)]) -> Result<(), BusError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let list = self.shared.offset_list(offsets, Offset::Offset)?;
        let consumer = self.shared.group(group)?;
        while_coordinator_moves(self.shared.options.request_timeout, || {
            consumer.commit(&list, CommitMode::Sync)
        })
        .map_err(|error| {
            unavailable(&self.shared.url, &format!("committing offsets of group {group}"), &error)
        })
    }

    fn sync(&self) -> Result<(), BusError> {
        Ok(())
    }
}

/// Tries again while the cluster says that the group's coordinator is elsewhere or not ready, as it does for the first
/// seconds of a group; librdkafka hands these answers on. The last error after `timeout`.
fn while_coordinator_moves<T>(
    timeout: Duration,
    mut ask: impl FnMut() -> Result<T, KafkaError>,
) -> Result<T, KafkaError> {
    let begun = RealClock.monotonic_ns();
    loop {
        let result = ask();
        let moves = matches!(
            result.as_ref().err().and_then(KafkaError::rdkafka_error_code),
            Some(
                RDKafkaErrorCode::NotCoordinator
                    | RDKafkaErrorCode::CoordinatorNotAvailable
                    | RDKafkaErrorCode::CoordinatorLoadInProgress
            )
        );
        if !moves || Duration::from_nanos(RealClock.monotonic_ns() - begun) >= timeout {
            return result;
        }
        std::thread::sleep(COORDINATOR_PAUSE);
    }
}
