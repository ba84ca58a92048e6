//! The broker's state, its life, and which part answers which request.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use herdsman_host::{Clock, Disk};
use herdsman_log::{Log, LogConfig, LogError, Recovery, TopicMeta};
use herdsman_record::TopicPartition;
use herdsman_wire::kafka_protocol::messages::RequestKind;
use herdsman_wire::request::api_versions;
use herdsman_wire::{Limits, Listener, Peer, Reply, Request};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::BrokerError;
use crate::dedupe::MEMORY_BYTES_DEFAULT;
use crate::fetch_session::FetchSessions;
use crate::group::{
    ConsumerGroupConfig, ConsumerGroups, Coordinator, GroupConfig, OFFSETS_TOPIC, OffsetStore,
};
use crate::groups_api::Waiting;
use crate::partition_state::PartitionState;
use crate::replay::replay;
use crate::security::{Security, SecurityConfig};
use crate::share::{ShareConfig, Shares};
use crate::topic::{Topic, Topics, lock};
use crate::transaction::TransactionConfig;
use crate::transactions::Transactions;

/// How often group deadlines are looked at.
const TICK: Duration = Duration::from_millis(50);
/// Ticks between two rounds of retention and `flush.ms`.
const TICKS_PER_MAINTENANCE: u32 = 20;

/// Settings of the broker, in Kafka's words.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// `node.id`.
    pub node_id: i32,
    /// Cluster id told to clients.
    pub cluster_id: String,
    /// `auto.create.topics.enable`.
    pub auto_create_topics: bool,
    /// `num.partitions`: partitions of a topic created without a count.
    pub num_partitions: i32,
    /// Host and port told to clients; `None`: the address each client reached us at.
    pub advertised: Option<(String, u16)>,
    /// `fetch.max.bytes`: cap of one fetch answer.
    pub fetch_bytes_max: usize,
    /// Memory of one topic's event-id window, bytes; a topic's `herdsman.dedupe.memory.bytes` goes before it.
    pub dedupe_memory_bytes: usize,
    /// Size of `__consumer_offsets` at which it is compacted, bytes.
    pub offsets_bytes_max: u64,
    /// Growth of a partition after which its producers are kept in a snapshot, bytes: what a start reads back at most.
    pub producers_kept_every_bytes: u64,
    /// Limits of groups that use the classic protocol.
    pub groups: GroupConfig,
    /// Limits of groups that use the consumer protocol.
    pub consumer_groups: ConsumerGroupConfig,
    /// Limits of share groups.
    pub share_groups: ShareConfig,
    /// Limits of transactions.
    pub transactions: TransactionConfig,
    /// Users, super users, whether ACLs decide.
    pub security: SecurityConfig,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            node_id: 1,
            cluster_id: "herdsman".to_owned(),
            auto_create_topics: true,
            num_partitions: 1,
            advertised: None,
            fetch_bytes_max: 57_671_680,
            dedupe_memory_bytes: MEMORY_BYTES_DEFAULT,
            offsets_bytes_max: 64 << 20,
            producers_kept_every_bytes: 64 << 20,
            groups: GroupConfig::default(),
            consumer_groups: ConsumerGroupConfig::default(),
            share_groups: ShareConfig::default(),
            transactions: TransactionConfig::default(),
            security: SecurityConfig::default(),
        }
    }
}

/// A broker over one data folder.
pub struct Broker {
    pub(crate) log: Arc<Log>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: BrokerConfig,
    pub(crate) topics: RwLock<Topics>,
    /// Serialises changes of topics, so that what is remembered of them matches the log.
    pub(crate) topic_changes: Mutex<()>,
    pub(crate) groups: Mutex<Coordinator>,
    /// Taken before `groups`.
    pub(crate) consumer_groups: Mutex<ConsumerGroups>,
    /// Taken before the lock of any of its partitions.
    pub(crate) shares: Mutex<Shares>,
    /// Grows whenever records of a share group become free.
    pub(crate) shares_changed: watch::Sender<u64>,
    pub(crate) fetch_sessions: Mutex<FetchSessions>,
    pub(crate) offsets: Mutex<OffsetStore>,
    pub(crate) waiting: Mutex<HashMap<u64, Waiting>>,
    pub(crate) tickets: AtomicU64,
    next_producer_id: AtomicI64,
    /// Bytes all committed offsets took when they were last written anew.
    pub(crate) compacted_bytes: AtomicU64,
    /// Bytes all states of share groups took when they were last written anew.
    pub(crate) compacted_share_bytes: AtomicU64,
    /// Bytes all transactional ids took when they were last written anew.
    pub(crate) compacted_transaction_bytes: AtomicU64,
    pub(crate) transactions: Mutex<Transactions>,
    /// Newest instance of each committer id.
    pub(crate) fences: Mutex<HashMap<String, u64>>,
    pub(crate) security: Security,
}

impl Broker {
    /// Opens the data folder `dir` and serves what is in it.
    ///
    /// # Errors
    /// What [`Log::open`] refuses, and records that cannot be read back into offsets or event-id windows.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        clock: Arc<dyn Clock>,
        log_config: LogConfig,
        config: BrokerConfig,
    ) -> Result<(Self, Recovery), BrokerError> {
        let (log, recovery) = Log::open(Arc::clone(&disk), dir, Arc::clone(&clock), log_config)?;
        let security =
            Security::open(config.security.clone(), Some((disk, dir.join(crate::security::FILE))))?;
        Ok((Self::assemble(Arc::new(log), clock, config, security)?, recovery))
    }

    /// A broker over an open log. Reads committed offsets and event-id windows back from it; what clients set of users,
    /// ACLs and quotas is kept in memory only.
    pub fn over(log: Arc<Log>, clock: Arc<dyn Clock>, config: BrokerConfig) -> Result<Self, BrokerError> {
        let security = Security::open(config.security.clone(), None)?;
        Self::assemble(log, clock, config, security)
    }

    fn assemble(
        log: Arc<Log>,
        clock: Arc<dyn Clock>,
        mut config: BrokerConfig,
        security: Security,
    ) -> Result<Self, BrokerError> {
        config.security = SecurityConfig::default(); // its passwords are not needed any more
        let now_ms = clock.now_ms();
        let mut topics = Topics::default();
        for meta in log.topics() {
            topics.insert(Topic::open(&log, meta, None, config.dedupe_memory_bytes, now_ms)?);
        }
        let offsets = load_offsets(&log)?;
        let transactions = crate::transactions::load(&log)?;
        let shares = crate::share_offsets::load(&log, config.share_groups.clone())?;
        let groups = Coordinator::new(config.groups.clone());
        let consumer_groups = ConsumerGroups::new(config.consumer_groups.clone());
        let first_producer_id = i64::try_from(log.random() >> 2).unwrap_or(0);
        Ok(Self {
            log,
            clock,
            config,
            topics: RwLock::new(topics),
            topic_changes: Mutex::new(()),
            groups: Mutex::new(groups),
            consumer_groups: Mutex::new(consumer_groups),
            shares: Mutex::new(shares),
            shares_changed: watch::Sender::new(0),
            fetch_sessions: Mutex::default(),
            offsets: Mutex::new(offsets),
            waiting: Mutex::default(),
            tickets: AtomicU64::new(1),
            // a place of its own among 2⁶² for each start: a clock may be set back, and an id given out twice would take the
            // second producer's batches for the first one's, sent again
            next_producer_id: AtomicI64::new(first_producer_id),
            compacted_bytes: AtomicU64::new(0),
            compacted_share_bytes: AtomicU64::new(0),
            compacted_transaction_bytes: AtomicU64::new(0),
            transactions: Mutex::new(transactions),
            fences: Mutex::default(),
            security,
        })
    }

    /// The log below.
    #[must_use]
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// What an acknowledgement means, for the ready line.
    #[must_use]
    pub fn url_line(&self) -> String {
        "acks=all: on disk after a process kill; after a power cut at most flush.ms (1 s) of records may be gone, \
         none with flush.messages=1"
            .to_owned()
    }

    pub(crate) fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).by_name.get(name).cloned()
    }

    pub(crate) fn topic_by_id(&self, id: [u8; 16]) -> Option<Arc<Topic>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        topics.names.get(&id).and_then(|name| topics.by_name.get(name)).cloned()
    }

    pub(crate) fn all_topics(&self) -> Vec<Arc<Topic>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).by_name.values().cloned().collect()
    }

    pub(crate) fn known_topic(&self, at: &TopicPartition) -> Result<Arc<Topic>, BrokerError> {
        let topic = self.topic(&at.topic).ok_or_else(|| BrokerError::UnknownTopicPartition(at.clone()))?;
        topic.partition(at.partition)?;
        Ok(topic)
    }

    /// Producers and transactions of one partition, read back from the log.
    pub(crate) fn state(&self, at: &TopicPartition) -> Result<Arc<PartitionState>, BrokerError> {
        let state = Arc::clone(self.known_topic(at)?.state(at.partition)?);
        state.load(&self.log, at)?;
        Ok(state)
    }

    /// Creates a topic. Errors: it exists, or name, count or a config is refused.
    pub fn create_topic(
        &self,
        name: &str,
        partitions: i32,
        configs: &BTreeMap<String, String>,
    ) -> Result<TopicMeta, BrokerError> {
        let _changing = lock(&self.topic_changes);
        let meta = self.log.create_topic(name, partitions, configs)?;
        self.refresh(name)?;
        Ok(meta)
    }

    /// Deletes a topic, its records and the offsets committed for it.
    pub fn delete_topic(&self, name: &str) -> Result<(), BrokerError> {
        if name.starts_with("__") {
            return Err(BrokerError::InternalTopic(name.to_owned()));
        }
        let id = {
            let _changing = lock(&self.topic_changes);
            let id = self.topic(name).map(|topic| topic.meta.id.0);
            self.log.delete_topic(name)?;
            self.refresh(name)?;
            id
        };
        if let Some(id) = id {
            self.forget_shared_topic(id)?;
        }
        let orphans = lock(&self.offsets).of_topic(name);
        for (group, at) in orphans {
            self.write_offsets(&group, &[(at, None)])?;
        }
        Ok(())
    }

    /// Grows a topic to `total` partitions.
    pub fn add_partitions(&self, name: &str, total: i32) -> Result<(), BrokerError> {
        let _changing = lock(&self.topic_changes);
        self.log.add_partitions(name, total)?;
        self.refresh(name)
    }

    /// Replaces the configs a topic has set.
    pub fn alter_configs(&self, name: &str, configs: &BTreeMap<String, String>) -> Result<(), BrokerError> {
        let _changing = lock(&self.topic_changes);
        self.log.alter_configs(name, configs)?;
        self.refresh(name)
    }

    /// Takes over what the log now says of a topic.
    fn refresh(&self, name: &str) -> Result<(), BrokerError> {
        let before = self.topic(name);
        let now = match self.log.topic(name) {
            Some(meta) => {
                let memory = self.config.dedupe_memory_bytes;
                Some(Topic::open(&self.log, meta, before.as_deref(), memory, self.clock.now_ms())?)
            }
            None => None,
        };
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        topics.remove(name);
        if let Some(topic) = now {
            topics.insert(topic);
        }
        Ok(())
    }

    /// A producer id that no producer of this data folder has had.
    pub(crate) fn fresh_producer_id(&self) -> i64 {
        self.next_producer_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Retention, `flush.ms`, checkpoints, transactional time-outs, snapshots of producers, compaction of the broker's own
    /// topics, reports of repeated events. [`Broker::serve`] does it once a second; without it the owner must.
    pub fn maintain(&self) -> Result<(), BrokerError> {
        self.tick_transactions();
        self.compact_offsets()?;
        self.compact_shares()?;
        self.compact_transactions()?;
        self.compact_topics();
        self.keep_producers(self.config.producers_kept_every_bytes)?;
        self.report_repeats(false);
        // what records say of their producers is kept before retention deletes them
        self.log.maintain_with(self.clock.now_ms(), |at, start| {
            self.state(at)?.keep_before(&self.log, at, start)
        })?;
        Ok(())
    }

    /// Compacts topics whose `cleanup.policy` asks for it; the broker's own are written anew instead.
    fn compact_topics(&self) {
        for topic in self.all_topics().iter().filter(|topic| topic.compacted && !topic.meta.internal) {
            for (index, state) in (0..).zip(&topic.states) {
                let at = TopicPartition::new(Arc::clone(&topic.meta.name), index);
                if let Err(error) = state.compact(&self.log, &at, self.clock.now_ms()) {
                    tracing::warn!(topic_partition = %at, %error, "not compacted");
                }
            }
        }
    }

    /// Keeps the producers of every partition that grew by `bytes_grown`: what a start reads back is bounded by that.
    pub(crate) fn keep_producers(&self, bytes_grown: u64) -> Result<(), BrokerError> {
        for topic in self.all_topics() {
            for (index, state) in (0..).zip(&topic.states) {
                state.keep(&self.log, &topic.partition(index)?, bytes_grown)?;
            }
        }
        Ok(())
    }

    /// Acts on deadlines of groups that have passed. [`Broker::serve`] does it every 50 ms; without it the owner must.
    pub fn tick(&self) {
        self.tick_groups();
        self.tick_consumer_groups();
        self.tick_shares();
    }

    /// Makes everything durable.
    pub fn sync(&self) -> Result<(), LogError> {
        self.log.sync()
    }

    /// Serves Kafka clients without login or encryption on `socket`, as [`Broker::serve_all`] does.
    pub async fn serve(
        self: Arc<Self>,
        socket: TcpListener,
        limits: Limits,
        shutdown: watch::Receiver<bool>,
    ) -> std::io::Result<()> {
        self.serve_all(vec![(socket, Arc::default())], limits, shutdown).await
    }

    /// Serves Kafka clients on every socket, as its listener says, until `shutdown` turns true: requests, group deadlines,
    /// maintenance.
    pub async fn serve_all(
        self: Arc<Self>,
        sockets: Vec<(TcpListener, Arc<Listener>)>,
        limits: Limits,
        shutdown: watch::Receiver<bool>,
    ) -> std::io::Result<()> {
        let mut each = JoinSet::new();
        for (socket, listener) in sockets {
            each.spawn(herdsman_wire::serve(
                socket,
                listener,
                Arc::clone(&self),
                limits.clone(),
                shutdown.clone(),
            ));
        }
        let serving = async { each.join_all().await.into_iter().collect::<std::io::Result<()>>() };
        tokio::pin!(serving);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ticks = 0_u32;
        loop {
            tokio::select! {
                done = &mut serving => {
                    if let Err(error) = self.keep_producers(0) {
                        tracing::warn!(%error, "producers not kept, they will be read back from the log");
                    }
                    return done;
                }
                _ = tick.tick() => {
                    self.tick();
                    ticks = ticks.wrapping_add(1);
                    if ticks.is_multiple_of(TICKS_PER_MAINTENANCE) {
                        let broker = Arc::clone(&self);
                        let done = tokio::task::spawn_blocking(move || broker.maintain()).await;
                        if let Ok(Err(error)) = done {
                            tracing::error!(%error, "maintenance failed");
                        }
                    }
                }
            }
        }
    }

    /// Answers one request.
    pub(crate) async fn answer(&self, peer: &Peer, request: Request) -> Reply {
        let version = request.head.api_version;
        let client = request.head.client_id.as_ref().map_or("", |id| id.as_str()).to_owned();
        match request.body {
            RequestKind::Produce(body) => self.on_produce(body, version, &client),
            RequestKind::Fetch(body) => self.on_fetch(body, version).await,
            RequestKind::ListOffsets(body) => Reply::message(self.on_list_offsets(body, version)),
            RequestKind::Metadata(body) => Reply::message(self.on_metadata(peer, body, version)),
            RequestKind::OffsetCommit(body) => Reply::message(self.on_offset_commit(body)),
            RequestKind::OffsetFetch(body) => Reply::message(self.on_offset_fetch(body, version)),
            RequestKind::OffsetDelete(body) => Reply::message(self.on_offset_delete(body)),
            RequestKind::FindCoordinator(body) => {
                Reply::message(self.on_find_coordinator(peer, body, version))
            }
            RequestKind::JoinGroup(body) => self.on_join_group(peer, client, body, version).await,
            RequestKind::SyncGroup(body) => self.on_sync_group(body, version).await,
            RequestKind::Heartbeat(body) => Reply::message(self.on_heartbeat(body)),
            RequestKind::LeaveGroup(body) => Reply::message(self.on_leave_group(body, version)),
            RequestKind::ConsumerGroupHeartbeat(body) => {
                Reply::message(self.on_consumer_heartbeat(peer, client, body))
            }
            RequestKind::ConsumerGroupDescribe(body) => Reply::message(self.on_consumer_describe(body)),
            RequestKind::ShareGroupHeartbeat(body) => {
                Reply::message(self.on_share_heartbeat(peer, client, body))
            }
            RequestKind::ShareGroupDescribe(body) => Reply::message(self.on_share_describe(body)),
            RequestKind::ShareFetch(body) => self.on_share_fetch(body, request.share).await,
            RequestKind::ShareAcknowledge(body) => self.on_share_acknowledge(body, request.share),
            RequestKind::DescribeShareGroupOffsets(body) => {
                Reply::message(self.on_describe_share_offsets(body))
            }
            RequestKind::AlterShareGroupOffsets(body) => Reply::message(self.on_alter_share_offsets(body)),
            RequestKind::DeleteShareGroupOffsets(body) => Reply::message(self.on_delete_share_offsets(body)),
            RequestKind::ListGroups(body) => Reply::message(self.on_list_groups(body, version)),
            RequestKind::DescribeGroups(body) => Reply::message(self.on_describe_groups(body, version)),
            RequestKind::DeleteGroups(body) => Reply::message(self.on_delete_groups(body)),
            RequestKind::CreateTopics(body) => Reply::message(self.on_create_topics(body, version)),
            RequestKind::DeleteTopics(body) => Reply::message(self.on_delete_topics(body, version)),
            RequestKind::CreatePartitions(body) => Reply::message(self.on_create_partitions(body)),
            RequestKind::DeleteRecords(body) => Reply::message(self.on_delete_records(body)),
            RequestKind::DescribeConfigs(body) => Reply::message(self.on_describe_configs(body, version)),
            RequestKind::AlterConfigs(body) => Reply::message(self.on_alter_configs(body)),
            RequestKind::IncrementalAlterConfigs(body) => Reply::message(self.on_incremental_alter(body)),
            RequestKind::ListConfigResources(body) => {
                Reply::message(self.on_list_config_resources(&body, version))
            }
            RequestKind::DescribeCluster(body) => {
                Reply::message(self.on_describe_cluster(peer, &body, version))
            }
            RequestKind::DescribeTopicPartitions(body) => Reply::message(self.on_describe_topics(body)),
            RequestKind::DescribeLogDirs(body) => Reply::message(self.on_describe_log_dirs(body)),
            RequestKind::ElectLeaders(body) => Reply::message(self.on_elect_leaders(body)),
            RequestKind::AlterPartitionReassignments(body) => {
                Reply::message(self.on_alter_reassignments(body))
            }
            RequestKind::ListPartitionReassignments(_) => Reply::message(Self::on_list_reassignments()),
            RequestKind::InitProducerId(body) => Reply::message(self.on_init_producer_id(&body, version)),
            RequestKind::AddPartitionsToTxn(body) => Reply::message(self.on_add_partitions(body, version)),
            RequestKind::AddOffsetsToTxn(body) => Reply::message(self.on_add_offsets(&body, version)),
            RequestKind::TxnOffsetCommit(body) => Reply::message(self.on_txn_offset_commit(body, version)),
            RequestKind::EndTxn(body) => Reply::message(self.on_end_txn(&body, version)),
            RequestKind::DescribeTransactions(body) => Reply::message(self.on_describe_transactions(body)),
            RequestKind::ListTransactions(body) => Reply::message(self.on_list_transactions(&body, version)),
            RequestKind::DescribeProducers(body) => Reply::message(self.on_describe_producers(body)),
            RequestKind::OffsetForLeaderEpoch(body) => Reply::message(self.on_leader_epoch(body)),
            RequestKind::ApiVersions(_) => Reply::message(api_versions(None, version)),
            RequestKind::DescribeAcls(body) => Reply::message(self.on_describe_acls(&body)),
            RequestKind::CreateAcls(body) => Reply::message(self.on_create_acls(&body)),
            RequestKind::DeleteAcls(body) => Reply::message(self.on_delete_acls(&body)),
            RequestKind::DescribeClientQuotas(body) => Reply::message(self.on_describe_quotas(&body)),
            RequestKind::AlterClientQuotas(body) => Reply::message(self.on_alter_quotas(body)),
            RequestKind::DescribeUserScramCredentials(body) => Reply::message(self.on_describe_scram(body)),
            RequestKind::AlterUserScramCredentials(body) => Reply::message(self.on_alter_scram(&body)),
            _ => Reply::Close,
        }
    }
}

impl Topics {
    fn insert(&mut self, topic: Topic) {
        let name = Arc::clone(&topic.meta.name);
        self.version += 1;
        self.names.insert(topic.meta.id.0, Arc::clone(&name));
        self.by_name.insert(name, Arc::new(topic));
    }

    fn remove(&mut self, name: &str) {
        self.version += 1;
        if let Some(topic) = self.by_name.remove(name) {
            self.names.remove(&topic.meta.id.0);
        }
    }
}

fn load_offsets(log: &Log) -> Result<OffsetStore, BrokerError> {
    let mut store = OffsetStore::new();
    let Some(meta) = log.topic(OFFSETS_TOPIC) else { return Ok(store) };
    for partition in 0..meta.partitions {
        replay(log, &TopicPartition::new(OFFSETS_TOPIC, partition), |batch| store.load(batch))?;
    }
    Ok(store)
}
