//! The broker as a whole, in process: every version answers, nothing acknowledged is lost, ids count once.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use herdsman_bus::{Bus, BusError, TopicSpec};
use herdsman_host::{Clock, RealDisk, Seed, SimClock, SimDisk};
use herdsman_log::LogConfig;
use herdsman_record::{Batch, BatchBuilder, Compression, TopicPartition};
use herdsman_wire::kafka_protocol::messages::*;
use herdsman_wire::kafka_protocol::protocol::StrBytes;
use herdsman_wire::{Handler as _, Head, Peer, Reply, Request, ShareExtras, supported};

use crate::metadata::topic_name;
use crate::share_tests::{share_acknowledge, share_fetch};
use crate::{Broker, BrokerConfig, BrokerError, EmbeddedBus};

pub(crate) fn open(dir: &Path) -> Arc<Broker> {
    open_at(dir, Arc::new(SimClock::new(1_700_000_000_000)))
}

pub(crate) fn open_at(dir: &Path, clock: Arc<dyn Clock>) -> Arc<Broker> {
    let log_config = LogConfig::default();
    let config = BrokerConfig { offsets_bytes_max: 200_000, ..BrokerConfig::default() };
    let (broker, recovery) = Broker::open(Arc::new(RealDisk), dir, clock, log_config, config).unwrap();
    assert_eq!(recovery.notes, Vec::<String>::new());
    Arc::new(broker)
}

pub(crate) fn batch(values: &[&str], producer: Option<(i64, i32)>) -> Batch {
    let mut builder = BatchBuilder::new();
    if let Some((id, sequence)) = producer {
        builder.producer(id, 0, sequence);
    }
    for value in values {
        builder.append(1_700_000_000_000, Some(b"k"), Some(value.as_bytes()), &[]);
    }
    builder.finish(Compression::None).unwrap()
}

fn values(broker: &Broker, at: &TopicPartition) -> Vec<String> {
    let mut found = Vec::new();
    let (mut next, end) = broker.log().offsets(at).unwrap();
    while next < end {
        let out = broker.log().read(at, next, 1 << 20).unwrap();
        next = out.batches.last().unwrap().next_offset();
        for batch in &out.batches {
            for record in batch.records().unwrap().iter() {
                found.push(String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap());
            }
        }
    }
    found
}

fn spec(name: &str, configs: &[(&str, &str)]) -> TopicSpec {
    let configs = configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    TopicSpec { name: name.into(), partitions: 2, configs }
}

fn text(value: &'static str) -> StrBytes {
    StrBytes::from_static_str(value)
}

/// A request with something in it, for each API served.
pub(crate) fn sample(api: ApiKey, version: i16) -> RequestKind {
    let group = || GroupId(text("g"));
    let finds = || topic_name("finds");
    match api {
        ApiKey::Produce => {
            let data = produce_request::PartitionProduceData::default()
                .with_records(Some(batch(&["v"], None).into_bytes()));
            let gone = produce_request::PartitionProduceData::default().with_index(9);
            let topic = produce_request::TopicProduceData::default()
                .with_name(finds())
                .with_partition_data(vec![data, gone]);
            ProduceRequest::default().with_acks(-1).with_topic_data(vec![topic]).into()
        }
        ApiKey::Fetch => {
            let partitions = vec![
                fetch_request::FetchPartition::default().with_partition_max_bytes(1 << 20),
                fetch_request::FetchPartition::default().with_partition(9),
            ];
            let topic = fetch_request::FetchTopic::default().with_topic(finds()).with_partitions(partitions);
            FetchRequest::default().with_topics(vec![topic]).with_isolation_level(1).into()
        }
        ApiKey::ListOffsets => {
            let partitions = [-1, -2, -3, 5, -99]
                .map(|time| list_offsets_request::ListOffsetsPartition::default().with_timestamp(time));
            let topic = list_offsets_request::ListOffsetsTopic::default()
                .with_name(finds())
                .with_partitions(partitions.to_vec());
            ListOffsetsRequest::default().with_topics(vec![topic]).into()
        }
        ApiKey::Metadata => {
            let topic = |name| metadata_request::MetadataRequestTopic::default().with_name(Some(name));
            let topics = vec![topic(finds()), topic(topic_name("no such / name"))];
            MetadataRequest::default().with_topics(Some(topics)).into()
        }
        ApiKey::OffsetCommit => {
            let partition = |index| {
                offset_commit_request::OffsetCommitRequestPartition::default()
                    .with_partition_index(index)
                    .with_committed_offset(1)
                    .with_committed_metadata(Some(text("m")))
            };
            let topic = offset_commit_request::OffsetCommitRequestTopic::default()
                .with_name(finds())
                .with_partitions(vec![partition(0), partition(9)]);
            OffsetCommitRequest::default().with_group_id(group()).with_topics(vec![topic]).into()
        }
        ApiKey::OffsetFetch if version < 8 => {
            let topic = offset_fetch_request::OffsetFetchRequestTopic::default()
                .with_name(finds())
                .with_partition_indexes(vec![0, 9]);
            OffsetFetchRequest::default().with_group_id(group()).with_topics(Some(vec![topic])).into()
        }
        ApiKey::OffsetFetch => {
            let all = offset_fetch_request::OffsetFetchRequestGroup::default()
                .with_group_id(group())
                .with_topics(None);
            OffsetFetchRequest::default().with_groups(vec![all]).into()
        }
        ApiKey::FindCoordinator if version < 4 => {
            FindCoordinatorRequest::default().with_key(text("g")).with_key_type(i8::from(version > 0)).into()
        }
        ApiKey::FindCoordinator => {
            FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g")]).with_key_type(1).into()
        }
        // refused at once: the session time-out is 0
        ApiKey::JoinGroup => JoinGroupRequest::default().with_group_id(group()).into(),
        ApiKey::SyncGroup => SyncGroupRequest::default().with_group_id(group()).into(),
        ApiKey::Heartbeat => HeartbeatRequest::default().with_group_id(group()).into(),
        ApiKey::LeaveGroup => {
            let member = leave_group_request::MemberIdentity::default().with_member_id(text("m"));
            LeaveGroupRequest::default().with_group_id(group()).with_members(vec![member]).into()
        }
        ApiKey::DescribeGroups => {
            DescribeGroupsRequest::default().with_groups(vec![group(), GroupId(text("x"))]).into()
        }
        ApiKey::ListGroups => ListGroupsRequest::default().into(),
        ApiKey::DeleteGroups => {
            DeleteGroupsRequest::default().with_groups_names(vec![group(), group()]).into()
        }
        ApiKey::CreateTopics => {
            let topic = |name, replicas| {
                create_topics_request::CreatableTopic::default()
                    .with_name(topic_name(name))
                    .with_num_partitions(-1)
                    .with_replication_factor(replicas)
            };
            CreateTopicsRequest::default().with_topics(vec![topic("new", 1), topic("worse", 3)]).into()
        }
        ApiKey::DeleteTopics if version < 6 => DeleteTopicsRequest::default()
            .with_topic_names(vec![topic_name("new"), topic_name("gone")])
            .into(),
        ApiKey::DeleteTopics => {
            let topic = delete_topics_request::DeleteTopicState::default().with_name(Some(topic_name("new")));
            let gone = delete_topics_request::DeleteTopicState::default();
            DeleteTopicsRequest::default().with_topics(vec![topic, gone]).into()
        }
        ApiKey::CreatePartitions => {
            let topic =
                create_partitions_request::CreatePartitionsTopic::default().with_name(finds()).with_count(1);
            CreatePartitionsRequest::default().with_topics(vec![topic]).into()
        }
        ApiKey::DeleteRecords => {
            let partition =
                |index| delete_records_request::DeleteRecordsPartition::default().with_partition_index(index);
            let topic = delete_records_request::DeleteRecordsTopic::default()
                .with_name(finds())
                .with_partitions(vec![partition(0), partition(9)]);
            DeleteRecordsRequest::default().with_topics(vec![topic]).into()
        }
        ApiKey::InitProducerId => InitProducerIdRequest::default().into(),
        ApiKey::OffsetForLeaderEpoch => {
            let partition = |index| {
                offset_for_leader_epoch_request::OffsetForLeaderPartition::default().with_partition(index)
            };
            let topic = offset_for_leader_epoch_request::OffsetForLeaderTopic::default()
                .with_topic(finds())
                .with_partitions(vec![partition(0), partition(9)]);
            OffsetForLeaderEpochRequest::default().with_topics(vec![topic]).into()
        }
        ApiKey::DescribeConfigs => {
            let resource = |kind, name| {
                describe_configs_request::DescribeConfigsResource::default()
                    .with_resource_type(kind)
                    .with_resource_name(text(name))
                    .with_configuration_keys(None)
            };
            DescribeConfigsRequest::default()
                .with_include_synonyms(true)
                .with_include_documentation(version >= 3)
                .with_resources(vec![
                    resource(2, "finds"),
                    resource(4, "1"),
                    resource(7, "x"),
                    resource(2, "gone"),
                ])
                .into()
        }
        ApiKey::AlterConfigs => {
            let config = alter_configs_request::AlterableConfig::default()
                .with_name(text("retention.ms"))
                .with_value(Some(text("5000000")));
            let resource = |name| {
                alter_configs_request::AlterConfigsResource::default()
                    .with_resource_type(2)
                    .with_resource_name(text(name))
                    .with_configs(vec![config.clone()])
            };
            AlterConfigsRequest::default().with_resources(vec![resource("finds"), resource("gone")]).into()
        }
        ApiKey::IncrementalAlterConfigs => {
            let change = |operation, value| {
                incremental_alter_configs_request::AlterableConfig::default()
                    .with_name(text("cleanup.policy"))
                    .with_config_operation(operation)
                    .with_value(Some(text(value)))
            };
            let resource = incremental_alter_configs_request::AlterConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text("finds"))
                .with_configs(vec![change(0, "delete")]);
            IncrementalAlterConfigsRequest::default().with_resources(vec![resource]).into()
        }
        ApiKey::OffsetDelete => OffsetDeleteRequest::default().with_group_id(group()).into(),
        ApiKey::DescribeCluster => DescribeClusterRequest::default().with_endpoint_type(1).into(),
        ApiKey::AddPartitionsToTxn if version < 4 => {
            let topic = add_partitions_to_txn_request::AddPartitionsToTxnTopic::default()
                .with_name(finds())
                .with_partitions(vec![0, 9]);
            AddPartitionsToTxnRequest::default()
                .with_v3_and_below_transactional_id(TransactionalId(text("t")))
                .with_v3_and_below_topics(vec![topic])
                .into()
        }
        ApiKey::AddPartitionsToTxn => {
            let one = add_partitions_to_txn_request::AddPartitionsToTxnTransaction::default();
            AddPartitionsToTxnRequest::default().with_transactions(vec![one]).into()
        }
        ApiKey::AddOffsetsToTxn => AddOffsetsToTxnRequest::default().with_group_id(group()).into(),
        ApiKey::EndTxn => EndTxnRequest::default().into(),
        ApiKey::TxnOffsetCommit => {
            let partition =
                txn_offset_commit_request::TxnOffsetCommitRequestPartition::default().with_partition_index(9);
            let topic = txn_offset_commit_request::TxnOffsetCommitRequestTopic::default()
                .with_name(finds())
                .with_partitions(vec![partition]);
            TxnOffsetCommitRequest::default().with_group_id(group()).with_topics(vec![topic]).into()
        }
        ApiKey::ConsumerGroupHeartbeat => ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group())
            .with_member_id(text("m"))
            .with_rebalance_timeout_ms(1_000)
            .with_subscribed_topic_names(Some(vec![finds()]))
            .into(),
        ApiKey::ConsumerGroupDescribe => {
            ConsumerGroupDescribeRequest::default().with_group_ids(vec![group(), GroupId(text("x"))]).into()
        }
        ApiKey::ShareGroupHeartbeat => ShareGroupHeartbeatRequest::default()
            .with_group_id(GroupId(text("workers")))
            .with_member_id(text("m"))
            .with_subscribed_topic_names(Some(vec![finds()]))
            .into(),
        ApiKey::ShareGroupDescribe => ShareGroupDescribeRequest::default()
            .with_group_ids(vec![GroupId(text("workers")), GroupId(text("x"))])
            .into(),
        ApiKey::ShareFetch => share_fetch("workers", "m", 0, [9; 16], &[]).into(),
        ApiKey::ShareAcknowledge => share_acknowledge("workers", "m", 1, [9; 16], (0, 0, 1)).into(),
        ApiKey::DescribeShareGroupOffsets => {
            let one = describe_share_group_offsets_request::DescribeShareGroupOffsetsRequestGroup::default();
            let all = one.with_group_id(GroupId(text("workers"))).with_topics(None);
            DescribeShareGroupOffsetsRequest::default().with_groups(vec![all]).into()
        }
        ApiKey::AlterShareGroupOffsets => {
            let partition = |index| {
                alter_share_group_offsets_request::AlterShareGroupOffsetsRequestPartition::default()
                    .with_partition_index(index)
            };
            let topic = alter_share_group_offsets_request::AlterShareGroupOffsetsRequestTopic::default()
                .with_topic_name(finds())
                .with_partitions(vec![partition(0), partition(9)]);
            AlterShareGroupOffsetsRequest::default()
                .with_group_id(GroupId(text("others")))
                .with_topics(vec![topic])
                .into()
        }
        ApiKey::DeleteShareGroupOffsets => {
            let topic = delete_share_group_offsets_request::DeleteShareGroupOffsetsRequestTopic::default()
                .with_topic_name(topic_name("gone"));
            DeleteShareGroupOffsetsRequest::default()
                .with_group_id(GroupId(text("others")))
                .with_topics(vec![topic])
                .into()
        }
        ApiKey::DescribeProducers => {
            let topic = describe_producers_request::TopicRequest::default()
                .with_name(finds())
                .with_partition_indexes(vec![0, 9]);
            DescribeProducersRequest::default().with_topics(vec![topic]).into()
        }
        ApiKey::DescribeTransactions => DescribeTransactionsRequest::default()
            .with_transactional_ids(vec![TransactionalId(text("gone"))])
            .into(),
        ApiKey::ListTransactions => {
            ListTransactionsRequest::default().with_state_filters(vec![text("x")]).into()
        }
        ApiKey::ListConfigResources => ListConfigResourcesRequest::default().into(),
        ApiKey::DescribeLogDirs => DescribeLogDirsRequest::default().with_topics(None).into(),
        ApiKey::ListPartitionReassignments => ListPartitionReassignmentsRequest::default().into(),
        ApiKey::ElectLeaders => {
            let topic = elect_leaders_request::TopicPartitions::default()
                .with_topic(finds())
                .with_partitions(vec![0, 9]);
            ElectLeadersRequest::default().with_topic_partitions(Some(vec![topic])).into()
        }
        ApiKey::AlterPartitionReassignments => {
            let topic = alter_partition_reassignments_request::ReassignableTopic::default()
                .with_name(finds())
                .with_partitions(vec![Default::default()]);
            AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]).into()
        }
        ApiKey::DescribeTopicPartitions => {
            DescribeTopicPartitionsRequest::default().with_response_partition_limit(1).into()
        }
        ApiKey::SaslHandshake => SaslHandshakeRequest::default().into(),
        ApiKey::SaslAuthenticate => SaslAuthenticateRequest::default().into(),
        ApiKey::DescribeAcls => DescribeAclsRequest::default()
            .with_resource_type_filter(1)
            .with_pattern_type_filter(1)
            .with_operation(1)
            .with_permission_type(1)
            .into(),
        ApiKey::CreateAcls => {
            let acl = create_acls_request::AclCreation::default()
                .with_resource_type(2)
                .with_resource_name(text("finds"))
                .with_resource_pattern_type(3)
                .with_principal(text("User:bob"))
                .with_host(text("*"))
                .with_operation(3)
                .with_permission_type(3);
            CreateAclsRequest::default().with_creations(vec![acl]).into()
        }
        ApiKey::DeleteAcls => {
            let filter = delete_acls_request::DeleteAclsFilter::default()
                .with_resource_type_filter(2)
                .with_resource_name_filter(Some(text("finds")))
                .with_pattern_type_filter(3)
                .with_principal_filter(Some(text("User:bob")))
                .with_operation(1)
                .with_permission_type(1);
            DeleteAclsRequest::default().with_filters(vec![filter]).into()
        }
        ApiKey::DescribeClientQuotas => DescribeClientQuotasRequest::default().into(),
        ApiKey::AlterClientQuotas => {
            let entity = alter_client_quotas_request::EntityData::default()
                .with_entity_type(text("user"))
                .with_entity_name(Some(text("bob")));
            let op = alter_client_quotas_request::OpData::default()
                .with_key(text("producer_byte_rate"))
                .with_value(1_000.0);
            let entry = alter_client_quotas_request::EntryData::default()
                .with_entity(vec![entity])
                .with_ops(vec![op]);
            AlterClientQuotasRequest::default().with_entries(vec![entry]).into()
        }
        ApiKey::DescribeUserScramCredentials => DescribeUserScramCredentialsRequest::default().into(),
        ApiKey::AlterUserScramCredentials => {
            let bob = alter_user_scram_credentials_request::ScramCredentialUpsertion::default()
                .with_name(text("bob"))
                .with_mechanism(1)
                .with_iterations(4_096)
                .with_salt(vec![1; 16].into())
                .with_salted_password(vec![2; 32].into());
            AlterUserScramCredentialsRequest::default().with_upsertions(vec![bob]).into()
        }
        ApiKey::ApiVersions => ApiVersionsRequest::default().into(),
        other => panic!("{other:?} is announced but has no sample"),
    }
}

#[test]
fn every_announced_version_of_every_api_has_an_answer_that_encodes() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path());
    broker.create_topic("finds", 2, &BTreeMap::new()).unwrap();
    let local = "127.0.0.1:9092".parse().unwrap();
    let peer = Arc::new(Peer { id: 0, remote: local, local, listener: Arc::default(), subject: None });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (api, min, max) in supported() {
        for version in *min..=*max {
            let head =
                Head { api_key: *api as i16, api_version: version, correlation_id: 7, client_id: None };
            let request = Request {
                head: head.clone(),
                api: *api,
                body: sample(*api, version),
                share: ShareExtras::default(),
            };
            let mut session = broker.connect(&peer);
            let reply = runtime.block_on(broker.handle(&peer, &mut session, request)).reply;
            assert!(!matches!(reply, Reply::Close), "{api:?} version {version} closed the connection");
            let out = reply.encode(*api, &head).unwrap_or_else(|error| panic!("{error}"));
            assert!(out.is_some_and(|out| out.len() > 4), "{api:?} version {version}");
        }
    }
}

#[test]
fn an_event_id_is_accepted_once_also_after_a_restart_and_sequences_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let configs =
        [("herdsman.event.id", "id"), ("herdsman.dedupe.window.ms", "3600000"), ("retention.ms", "-1")];
    let at = TopicPartition::new("finds", 0);
    let other = TopicPartition::new("finds", 1);
    let (one, two, three) = (r#"{"id":"1"}"#, r#"{"id":"2"}"#, r#"{"id":"3"}"#);
    {
        let broker = open(dir.path());
        let bus = EmbeddedBus::new(Arc::clone(&broker), "test");
        bus.create_topic(&spec("finds", &configs)).unwrap();
        let first = bus.produce(&at, batch(&[one, two, one], None)).unwrap();
        assert_eq!((first.base_offset, first.accepted, first.duplicates), (0, 2, 1));
        let again = bus.produce(&other, batch(&[two, one], Some((7, 0)))).unwrap();
        assert_eq!((again.accepted, again.duplicates), (0, 2));
        assert_eq!(broker.metrics().topics[0].duplicates_dropped, 3);
    }
    let broker = open(dir.path());
    let bus = EmbeddedBus::new(Arc::clone(&broker), "test");
    let again = bus.produce(&at, batch(&[two, three], None)).unwrap();
    assert_eq!((again.accepted, again.duplicates), (1, 1));
    // the batch of nothing but duplicates still counts for its producer's sequences
    bus.produce(&other, batch(&[r#"{"id":"4"}"#], Some((7, 2)))).unwrap();
    assert!(matches!(
        broker.produce(&other, batch(&["{}"], Some((7, 9)))),
        Err(BrokerError::OutOfOrderSequence { expected: 3, got: 9, .. })
    ));
    assert_eq!(values(&broker, &at), [one, two, three]);
    assert_eq!(values(&broker, &other), [r#"{"id":"4"}"#]);
}

#[test]
fn a_resent_idempotent_batch_is_answered_with_its_first_offset_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let at = TopicPartition::new("finds", 0);
    {
        let broker = open(dir.path());
        broker.create_topic("finds", 1, &BTreeMap::new()).unwrap();
        broker.produce(&at, batch(&["x"], None)).unwrap();
        assert_eq!(broker.produce(&at, batch(&["a", "b"], Some((7, 0)))).unwrap().base_offset, 1);
        assert_eq!(broker.produce(&at, batch(&["a", "b"], Some((7, 0)))).unwrap().base_offset, 1);
    }
    let broker = open(dir.path());
    assert_eq!(broker.produce(&at, batch(&["a", "b"], Some((7, 0)))).unwrap().base_offset, 1);
    assert_eq!(broker.produce(&at, batch(&["c"], Some((7, 2)))).unwrap().base_offset, 3);
    assert_eq!(values(&broker, &at), ["x", "a", "b", "c"]);
}

#[test]
fn a_resent_batch_is_known_also_after_its_records_were_deleted_and_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let configs = [("segment.bytes", "1024"), ("retention.ms", "60000")];
    let configs = configs.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let clock = Arc::new(SimClock::new(1_700_000_000_000));
    let (by_client, by_age) = (TopicPartition::new("finds", 0), TopicPartition::new("finds", 1));
    let long = "x".repeat(700);
    {
        let broker = open_at(dir.path(), Arc::clone(&clock) as Arc<dyn Clock>);
        broker.create_topic("finds", 2, &BTreeMap::from(configs)).unwrap();
        for at in [&by_client, &by_age] {
            broker.produce(at, batch(&[&long], Some((7, 0)))).unwrap();
            broker.produce(at, batch(&[&long], None)).unwrap();
        }
        let partition =
            delete_records_request::DeleteRecordsPartition::default().with_partition_index(0).with_offset(-1);
        let topic = delete_records_request::DeleteRecordsTopic::default()
            .with_name(topic_name("finds"))
            .with_partitions(vec![partition]);
        broker.on_delete_records(DeleteRecordsRequest::default().with_topics(vec![topic]));
        clock.advance_ns(61_000_000_000);
        broker.maintain().unwrap();
        assert_eq!(broker.log().offsets(&by_client).unwrap(), (2, 2));
        assert_eq!(broker.log().offsets(&by_age).unwrap(), (1, 2));
    }
    let broker = open_at(dir.path(), clock);
    for at in [&by_client, &by_age] {
        assert_eq!(broker.produce(at, batch(&[&long], Some((7, 0)))).unwrap().base_offset, 0);
        assert_eq!(broker.log().offsets(at).unwrap().1, 2, "nothing was written again");
    }
}

#[test]
fn an_event_id_of_a_failed_write_is_refused_until_a_restart_tells_whether_it_stands() {
    let disk = SimDisk::new(&Seed::new(1));
    let start = |disk: &SimDisk| {
        let clock = Arc::new(SimClock::new(1_700_000_000_000));
        let (log_config, config) = (LogConfig::default(), BrokerConfig::default());
        Broker::open(Arc::new(disk.clone()), Path::new("/data"), clock, log_config, config).unwrap().0
    };
    let configs =
        [("herdsman.dedupe.window.ms", "60000"), ("flush.messages", "1"), ("herdsman.event.id", "id")];
    let configs = configs.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let (at, other) = (TopicPartition::new("finds", 0), TopicPartition::new("finds", 1));
    let (one, two) = (r#"{"id":"1"}"#, r#"{"id":"2"}"#);
    let broker = start(&disk);
    broker.create_topic("finds", 2, &BTreeMap::from(configs)).unwrap();
    broker.produce(&other, batch(&["{}"], None)).unwrap();
    disk.fail_sync_in(1);
    broker.produce(&at, batch(&[one], None)).unwrap_err();
    assert_eq!(broker.produce(&other, batch(&[one], None)).unwrap_err().code(), 56);
    assert_eq!(broker.produce(&other, batch(&[two], None)).unwrap().accepted, 1);
    drop(broker);
    let broker = start(&disk.kill());
    assert_eq!(broker.produce(&other, batch(&[one], None)).unwrap().duplicates, 1, "it stands after all");
    assert_eq!(values(&broker, &at), [one]);
}

#[test]
fn a_commit_is_whole_and_its_offsets_are_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let at = TopicPartition::new("finds", 1);
    {
        let bus = EmbeddedBus::new(open(dir.path()), "test");
        bus.create_topic(&spec("finds", &[])).unwrap();
        let mut first = bus.committer("query_1").unwrap();
        assert_eq!(
            first.commit(vec![(at.clone(), batch(&["a"], None))], "g", &[(at.clone(), 5)]).unwrap(),
            [0]
        );
        let unknown = TopicPartition::new("gone", 0);
        assert!(
            first
                .commit(
                    vec![(at.clone(), batch(&["b"], None)), (unknown, batch(&["b"], None))],
                    "g",
                    &[(at.clone(), 6)]
                )
                .is_err()
        );
        let _second = bus.committer("query_1").unwrap();
        assert!(matches!(first.commit(vec![], "g", &[(at.clone(), 7)]), Err(BusError::Fenced(_))));
        let mut reader = bus.reader(&[(at.clone(), 0)]).unwrap();
        assert_eq!(reader.poll(1 << 20, Duration::ZERO).unwrap()[0].next_offset, 1);
        assert!(reader.poll(1 << 20, Duration::from_millis(5)).unwrap().is_empty());
    }
    let broker = open(dir.path());
    let bus = EmbeddedBus::new(Arc::clone(&broker), "test");
    assert_eq!(bus.committed("g", std::slice::from_ref(&at)).unwrap(), [Some(5)]);
    assert_eq!(values(&broker, &at), ["a"]);
    bus.delete_topic("finds").unwrap();
    assert_eq!(bus.committed("g", &[at]).unwrap(), [None]);
}

#[test]
fn what_breaks_a_rule_is_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path());
    let configs = BTreeMap::from([("max.message.bytes".to_owned(), "200".to_owned())]);
    broker.create_topic("t1", 1, &configs).unwrap();
    let at = TopicPartition::new("t1", 0);
    let long = "x".repeat(300);
    let error = broker.produce(&at, batch(&[&long], None)).unwrap_err().to_string();
    assert!(error.starts_with("record of 3") && error.contains("max.message.bytes of t1 is 200"), "{error}");
    let mut damaged = batch(&["v"], None).bytes().to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let damaged = Batch::from_bytes(bytes::Bytes::from(damaged)).unwrap();
    assert_eq!(broker.produce(&at, damaged).unwrap_err().code(), 2);
    let mut early = BatchBuilder::new();
    early.append(1_700_000_000_000 + 10_980_000, None, Some(b"v"), &[]);
    let error = broker.produce(&at, early.finish(Compression::None).unwrap()).unwrap_err().to_string();
    assert_eq!(
        error,
        "the producer is 3 h 3 min ahead of this clock, 1 h is allowed: set its clock, or raise message.timestamp.after.max.ms of t1"
    );
    assert_eq!(broker.log().offsets(&at).unwrap(), (0, 0));
}

#[test]
fn committed_offsets_are_compacted_and_read_back_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let at = TopicPartition::new("finds", 1);
    {
        let broker = open(dir.path());
        let bus = EmbeddedBus::new(Arc::clone(&broker), "test");
        bus.create_topic(&spec("finds", &[])).unwrap();
        for offset in 0..2_400_i64 {
            bus.commit_offsets("g", &[(at.clone(), offset)]).unwrap();
        }
        let offsets = TopicPartition::new(crate::group::OFFSETS_TOPIC, 0);
        let before = broker.log().size(&offsets).unwrap();
        broker.maintain().unwrap();
        broker.maintain().unwrap();
        let after = broker.log().size(&offsets).unwrap();
        assert!(before > 200_000 && after < before / 4, "{before} bytes before, {after} after");
    }
    let bus = EmbeddedBus::new(open(dir.path()), "test");
    assert_eq!(bus.committed("g", &[at]).unwrap(), [Some(2_399)]);
}
