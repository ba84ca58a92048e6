//! Every API under ACLs; what is kept; logins and re-logins in process.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use herdsman_host::{RealDisk, SimClock};
use herdsman_log::LogConfig;
use herdsman_wire::kafka_protocol::messages::*;
use herdsman_wire::kafka_protocol::protocol::StrBytes;
use herdsman_wire::{Answer, Handler as _, Head, Listener, Peer, Protocol, Reply, Request, supported};
use tokio::runtime::Runtime;

use super::acl::{ALLOW, Acl, CLUSTER, LITERAL, Operation as O, Resource as R};
use super::session::Session;
use super::{Mechanism, Secret, SecurityConfig};
use crate::tests::sample;
use crate::{Broker, BrokerConfig, BrokerError};

fn open(dir: &Path, security: SecurityConfig) -> Result<Broker, BrokerError> {
    let config = BrokerConfig { security, ..BrokerConfig::default() };
    let clock = Arc::new(SimClock::new(1_700_000_000_000));
    Broker::open(Arc::new(RealDisk), dir, clock, LogConfig::default(), config).map(|(broker, _)| broker)
}

fn peer(protocol: Protocol, remote: &str) -> Arc<Peer> {
    let listener = Arc::new(Listener { protocol, ..Listener::default() });
    let local = "127.0.0.1:9092".parse().unwrap();
    Arc::new(Peer { id: 0, remote: remote.parse().unwrap(), local, listener, subject: None })
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn request(api: ApiKey, version: i16, body: RequestKind) -> Request {
    let head = Head { api_key: api as i16, api_version: version, correlation_id: 7, client_id: None };
    Request { head, api, body, share: herdsman_wire::ShareExtras::default() }
}

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

const TOPIC: i16 = 29;
const GROUP: i16 = 30;
const CLUSTER_CODE: i16 = 31;
const TRANSACTIONAL_ID: i16 = 53;

/// What each API needs for its sample, and what it answers without; code 0: it answers, but shows nothing.
fn needs(api: ApiKey, version: i16) -> (&'static [(O, R)], i16) {
    match api {
        ApiKey::Produce => (&[(O::Write, R::Topic)], TOPIC),
        ApiKey::Fetch => (&[(O::Read, R::Topic)], TOPIC),
        ApiKey::ListOffsets | ApiKey::OffsetForLeaderEpoch => (&[(O::Describe, R::Topic)], TOPIC),
        ApiKey::Metadata => (&[(O::Describe, R::Topic), (O::Create, R::Topic)], TOPIC),
        ApiKey::DeleteRecords | ApiKey::DeleteTopics => (&[(O::Delete, R::Topic)], TOPIC),
        ApiKey::DescribeProducers => (&[(O::Read, R::Topic)], TOPIC),
        ApiKey::CreateTopics => (&[(O::Create, R::Topic), (O::DescribeConfigs, R::Topic)], TOPIC),
        ApiKey::CreatePartitions => (&[(O::Alter, R::Topic)], TOPIC),
        ApiKey::DescribeConfigs => {
            (&[(O::DescribeConfigs, R::Topic), (O::DescribeConfigs, R::Cluster)], TOPIC)
        }
        ApiKey::AlterConfigs | ApiKey::IncrementalAlterConfigs => (&[(O::AlterConfigs, R::Topic)], TOPIC),
        ApiKey::OffsetCommit => (&[(O::Read, R::Group), (O::Read, R::Topic)], GROUP),
        ApiKey::OffsetFetch => (&[(O::Describe, R::Group), (O::Describe, R::Topic)], GROUP),
        ApiKey::OffsetDelete => (&[(O::Delete, R::Group), (O::Read, R::Topic)], GROUP),
        ApiKey::FindCoordinator if version < 4 => (&[(O::Describe, R::Group)], GROUP),
        ApiKey::FindCoordinator => (&[(O::Describe, R::TransactionalId)], TRANSACTIONAL_ID),
        ApiKey::DescribeGroups | ApiKey::ConsumerGroupDescribe => {
            (&[(O::Describe, R::Group), (O::Describe, R::Topic)], GROUP)
        }
        ApiKey::DeleteGroups => (&[(O::Delete, R::Group)], GROUP),
        ApiKey::JoinGroup | ApiKey::SyncGroup | ApiKey::Heartbeat | ApiKey::LeaveGroup => {
            (&[(O::Read, R::Group)], GROUP)
        }
        ApiKey::ConsumerGroupHeartbeat => (&[(O::Read, R::Group), (O::Describe, R::Topic)], GROUP),
        ApiKey::ShareGroupHeartbeat => (&[(O::Read, R::Group), (O::Describe, R::Topic)], GROUP),
        ApiKey::ShareGroupDescribe | ApiKey::DescribeShareGroupOffsets => {
            (&[(O::Describe, R::Group), (O::Describe, R::Topic)], GROUP)
        }
        ApiKey::ShareFetch | ApiKey::ShareAcknowledge => (&[(O::Read, R::Group), (O::Read, R::Topic)], GROUP),
        ApiKey::AlterShareGroupOffsets => (&[(O::Read, R::Group), (O::Read, R::Topic)], GROUP),
        ApiKey::DeleteShareGroupOffsets => (&[(O::Delete, R::Group), (O::Read, R::Topic)], GROUP),
        ApiKey::ListConfigResources => (&[(O::DescribeConfigs, R::Cluster)], CLUSTER_CODE),
        ApiKey::InitProducerId => (&[(O::Write, R::TransactionalId)], TRANSACTIONAL_ID),
        ApiKey::AddPartitionsToTxn if version >= 4 => (&[(O::ClusterAction, R::Cluster)], CLUSTER_CODE),
        ApiKey::AddPartitionsToTxn => {
            (&[(O::Write, R::TransactionalId), (O::Write, R::Topic)], TRANSACTIONAL_ID)
        }
        ApiKey::AddOffsetsToTxn => (&[(O::Write, R::TransactionalId), (O::Read, R::Group)], TRANSACTIONAL_ID),
        ApiKey::TxnOffsetCommit => {
            (&[(O::Write, R::TransactionalId), (O::Read, R::Group), (O::Read, R::Topic)], TRANSACTIONAL_ID)
        }
        ApiKey::EndTxn => (&[(O::Write, R::TransactionalId)], TRANSACTIONAL_ID),
        ApiKey::DescribeTransactions => (&[(O::Describe, R::TransactionalId)], TRANSACTIONAL_ID),
        ApiKey::DescribeAcls
        | ApiKey::DescribeUserScramCredentials
        | ApiKey::DescribeLogDirs
        | ApiKey::ListPartitionReassignments => (&[(O::Describe, R::Cluster)], CLUSTER_CODE),
        ApiKey::CreateAcls
        | ApiKey::DeleteAcls
        | ApiKey::AlterUserScramCredentials
        | ApiKey::ElectLeaders
        | ApiKey::AlterPartitionReassignments => (&[(O::Alter, R::Cluster)], CLUSTER_CODE),
        ApiKey::DescribeClientQuotas => (&[(O::DescribeConfigs, R::Cluster)], CLUSTER_CODE),
        ApiKey::AlterClientQuotas => (&[(O::AlterConfigs, R::Cluster)], CLUSTER_CODE),
        _ => (&[], 0),
    }
}

fn allow(operation: O, resource: R) -> Acl {
    Acl {
        resource: resource as i8,
        pattern: LITERAL,
        name: if resource == R::Cluster { CLUSTER } else { "*" }.to_owned(),
        principal: "User:ANONYMOUS".to_owned(),
        host: "127.0.0.1".to_owned(),
        operation: operation as i8,
        permission: ALLOW,
    }
}

/// Whether the sample is answered without the ACL at that place: it is needed for other contents only.
fn is_optional(api: ApiKey, version: i16, place: usize) -> bool {
    use ApiKey as A;
    // its first versions have no code for the whole: a stranger gets an empty answer
    if api == A::DescribeLogDirs && version < 3 {
        return true;
    }
    place == 1
        && match api {
            A::FindCoordinator
            | A::DescribeGroups
            | A::ConsumerGroupDescribe
            | A::OffsetDelete
            | A::ShareGroupDescribe
            | A::DescribeShareGroupOffsets
            | A::Metadata => true,
            // the samples name topics by ids that nobody has
            A::ShareFetch | A::ShareAcknowledge => true,
            A::OffsetFetch => version >= 8,
            A::CreateTopics => version < 5,
            _ => false,
        }
}

/// Whether the answer holds any of the four refusals; panics if there is no answer.
fn is_refused(runtime: &Runtime, broker: &Broker, peer: &Arc<Peer>, api: ApiKey, version: i16) -> bool {
    let _ = broker.delete_topic("new"); // so that the sample of CreateTopics makes it
    let asked = request(api, version, sample(api, version));
    let head = asked.head.clone();
    let mut session = broker.connect(peer);
    let reply = runtime.block_on(broker.handle(peer, &mut session, asked)).reply;
    assert!(!matches!(reply, Reply::Close), "{api:?} version {version} closed the connection");
    let printed = format!("{reply:?}");
    reply.encode(api, &head).unwrap_or_else(|error| panic!("{error}"));
    [TOPIC, GROUP, CLUSTER_CODE, TRANSACTIONAL_ID]
        .iter()
        .any(|code| printed.contains(&format!("error_code: {code},")))
}

#[test]
fn every_api_is_refused_without_each_of_the_acls_it_needs_and_answered_with_all_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path(), SecurityConfig { authorizer: true, ..SecurityConfig::default() }).unwrap();
    broker.create_topic("finds", 2, &BTreeMap::new()).unwrap();
    let (runtime, peer) = (runtime(), peer(Protocol::Plaintext, "127.0.0.1:40000"));
    let grant =
        |acls: Vec<Acl>| broker.security.change(|records| records.acls = acls.into_iter().collect()).unwrap();
    let mut wrong = Vec::new();
    for (api, min, max) in supported() {
        // the sample names topics, later versions have their ids
        let last = if *api == ApiKey::Fetch { 12 } else { *max };
        for version in [*min, last] {
            let (needed, code) = needs(*api, version);
            assert_eq!(needed.is_empty(), code == 0);
            for missing in 0..needed.len() {
                let others = needed.iter().enumerate().filter(|(place, _)| *place != missing);
                grant(others.map(|(_, (operation, resource))| allow(*operation, *resource)).collect());
                if !is_refused(&runtime, &broker, &peer, *api, version)
                    && !is_optional(*api, version, missing)
                {
                    wrong
                        .push(format!("{api:?} version {version} is answered without {:?}", needed[missing]));
                }
            }
            grant(needed.iter().map(|(operation, resource)| allow(*operation, *resource)).collect());
            if is_refused(&runtime, &broker, &peer, *api, version) {
                wrong.push(format!("{api:?} version {version} is refused with {needed:?}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn a_stranger_sees_no_names_and_crafted_requests_get_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path(), SecurityConfig { authorizer: true, ..SecurityConfig::default() }).unwrap();
    broker.create_topic("secret", 1, &BTreeMap::new()).unwrap();
    let (runtime, peer) = (runtime(), peer(Protocol::Plaintext, "127.0.0.1:40000"));
    let ask = |api, version, body: RequestKind| {
        let mut session = broker.connect(&peer);
        format!(
            "{:?}",
            runtime.block_on(broker.handle(&peer, &mut session, request(api, version, body))).reply
        )
    };
    // an empty list at version 0 asks for all topics, and so does none at all
    for (version, topics) in [(0, Some(Vec::new())), (13, None)] {
        let said = ask(ApiKey::Metadata, version, MetadataRequest::default().with_topics(topics).into());
        assert!(!said.contains("secret"), "{said}");
    }
    let secret = || TopicName(text("secret"));
    let named = metadata_request::MetadataRequestTopic::default().with_name(Some(secret()));
    let said = ask(ApiKey::Metadata, 0, MetadataRequest::default().with_topics(Some(vec![named])).into());
    assert!(said.contains("error_code: 29,") && !said.contains("partition_index"), "{said}");
    let said = ask(ApiKey::DescribeTopicPartitions, 0, DescribeTopicPartitionsRequest::default().into());
    assert!(!said.contains("secret"), "{said}");
    // who says it is a replica is no replica
    let partition = fetch_request::FetchPartition::default().with_partition_max_bytes(1_000);
    let topic = fetch_request::FetchTopic::default().with_topic(secret()).with_partitions(vec![partition]);
    let fetch =
        FetchRequest::default().with_max_bytes(1_000).with_replica_id(BrokerId(2)).with_topics(vec![topic]);
    let said = ask(ApiKey::Fetch, 11, fetch.into());
    assert!(said.contains("error_code: 29,") && said.contains("high_watermark: -1"), "{said}");
    // by its id as well
    let id = broker.topic("secret").unwrap().meta.id.0;
    let partition = fetch_request::FetchPartition::default().with_partition_max_bytes(1_000);
    let topic = fetch_request::FetchTopic::default()
        .with_topic_id(uuid::Uuid::from_bytes(id))
        .with_partitions(vec![partition]);
    let said = ask(ApiKey::Fetch, 17, FetchRequest::default().with_topics(vec![topic]).into());
    assert!(said.contains("error_code: 29,") && !said.contains("secret"), "{said}");
    // and by a share group, which it may read
    broker.security.change(|records| records.acls.insert(allow(O::Read, R::Group))).unwrap();
    let partition = share_fetch_request::FetchPartition::default().with_partition_max_bytes(1_000);
    let topic = share_fetch_request::FetchTopic::default()
        .with_topic_id(uuid::Uuid::from_bytes(id))
        .with_partitions(vec![partition]);
    let fetch = ShareFetchRequest::default()
        .with_group_id(Some(GroupId(text("g"))))
        .with_member_id(Some(text("m")))
        .with_topics(vec![topic]);
    let said = ask(ApiKey::ShareFetch, 1, fetch.into());
    assert!(said.contains("error_code: 29,"), "{said}");
    // a session would go on after an ACL is gone: there is none
    let said =
        ask(ApiKey::Fetch, 12, FetchRequest::default().with_session_id(7).with_session_epoch(1).into());
    assert!(said.contains("error_code: 70,"), "{said}");
    let said = ask(ApiKey::Fetch, 12, FetchRequest::default().with_session_epoch(0).into());
    assert!(said.contains("session_id: 0,"), "{said}");
    // a new topic by auto-creation needs CREATE
    let named = metadata_request::MetadataRequestTopic::default().with_name(Some(TopicName(text("fresh"))));
    broker.security.change(|records| records.acls.insert(allow(O::Describe, R::Topic))).unwrap();
    let said = ask(ApiKey::Metadata, 0, MetadataRequest::default().with_topics(Some(vec![named])).into());
    assert!(said.contains("error_code: 29,") && broker.topic("fresh").is_none(), "{said}");
}

#[test]
fn a_batch_of_a_transaction_needs_its_id_whatever_the_request_says() {
    let dir = tempfile::tempdir().unwrap();
    let broker = open(dir.path(), SecurityConfig { authorizer: true, ..SecurityConfig::default() }).unwrap();
    broker.create_topic("finds", 1, &BTreeMap::new()).unwrap();
    broker.security.change(|records| records.acls.insert(allow(O::Write, R::Topic))).unwrap();
    let (runtime, peer) = (runtime(), peer(Protocol::Plaintext, "127.0.0.1:40000"));
    let mut builder = herdsman_record::BatchBuilder::new();
    builder.producer(7, 0, 0);
    builder.attributes(1 << 4);
    builder.append(1_700_000_000_000, None, Some(b"v"), &[]);
    let records = builder.finish(herdsman_record::Compression::None).unwrap().into_bytes();
    let partition = produce_request::PartitionProduceData::default().with_records(Some(records));
    let topic = produce_request::TopicProduceData::default()
        .with_name(TopicName(text("finds")))
        .with_partition_data(vec![partition]);
    let produce = ProduceRequest::default().with_acks(-1).with_topic_data(vec![topic]);
    for (id, acks) in [(None, -1), (Some(TransactionalId(text("t"))), -1), (None, 0)] {
        let mut session = broker.connect(&peer);
        let body = produce.clone().with_transactional_id(id).with_acks(acks).into();
        let reply =
            runtime.block_on(broker.handle(&peer, &mut session, request(ApiKey::Produce, 9, body))).reply;
        match acks {
            0 => assert!(matches!(reply, Reply::Close)),
            _ => assert!(format!("{reply:?}").contains("error_code: 53,"), "{reply:?}"),
        }
    }
}

#[test]
fn users_acls_and_quotas_outlive_a_restart_without_a_password_on_disk_and_damage_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let with_user = || SecurityConfig {
        authorizer: true,
        super_users: vec!["User:ANONYMOUS".to_owned()],
        users: vec![("ana".to_owned(), Secret::new("canary-of-ana"))],
        ..SecurityConfig::default()
    };
    let (runtime, peer) = (runtime(), peer(Protocol::Plaintext, "127.0.0.1:40000"));
    let before = {
        let broker = open(dir.path(), with_user()).unwrap();
        for api in [ApiKey::AlterUserScramCredentials, ApiKey::CreateAcls, ApiKey::AlterClientQuotas] {
            let mut session = broker.connect(&peer);
            let asked = request(api, if api == ApiKey::CreateAcls { 3 } else { 0 }, sample(api, 0));
            let said = format!("{:?}", runtime.block_on(broker.handle(&peer, &mut session, asked)).reply);
            assert!(said.contains("error_code: 0,"), "{said}");
        }
        assert!(!format!("{:?}", broker.security.config).contains("canary"));
        broker.security.records()
    };
    assert_eq!((before.credentials.len(), before.acls.len(), before.quotas.len()), (1, 1, 1));
    assert_eq!(open(dir.path(), with_user()).unwrap().security.records(), before);

    let file = dir.path().join(super::FILE);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains("canary") && text.contains("bob"), "{text}");
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    for place in [3, 40, text.len() / 2, text.len() - 2] {
        let mut bytes = text.clone().into_bytes();
        bytes[place] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        let error = open(dir.path(), with_user()).err().unwrap().to_string();
        assert!(error.contains("security:") && error.contains("put back a copy"), "{error}");
    }
}

struct Client<'a> {
    broker: &'a Broker,
    runtime: Runtime,
    peer: Arc<Peer>,
    session: Session,
}

impl Client<'_> {
    fn ask(&mut self, api: ApiKey, version: i16, body: RequestKind) -> Answer {
        self.runtime.block_on(self.broker.handle(&self.peer, &mut self.session, request(api, version, body)))
    }

    fn handshake(&mut self, mechanism: &str) -> Answer {
        let body = SaslHandshakeRequest::default().with_mechanism(text(mechanism));
        self.ask(ApiKey::SaslHandshake, 1, body.into())
    }

    fn authenticate(&mut self, bytes: &[u8]) -> Answer {
        let body = SaslAuthenticateRequest::default().with_auth_bytes(bytes.to_vec().into());
        self.ask(ApiKey::SaslAuthenticate, 2, body.into())
    }
}

fn client<'a>(broker: &'a Broker, protocol: Protocol, remote: &str) -> Client<'a> {
    let peer = peer(protocol, remote);
    let session = broker.connect(&peer);
    Client { broker, runtime: runtime(), peer, session }
}

fn has_code(answer: &Answer, code: i16) -> bool {
    format!("{:?}", answer.reply).contains(&format!("error_code: {code},"))
}

#[test]
fn a_login_goes_by_its_steps_and_ends_when_it_said() {
    let dir = tempfile::tempdir().unwrap();
    let users = ["ana", "bob"].map(|user| (user.to_owned(), Secret::new("oak"))).to_vec();
    let broker =
        open(dir.path(), SecurityConfig { users, reauth_max_ms: 60_000, ..SecurityConfig::default() })
            .unwrap();
    let mut client = client(&broker, Protocol::SaslPlaintext, "127.0.0.1:40000");
    assert!(!broker.is_admitted(&client.session));
    let answer = client.authenticate(b"\0ana\0oak");
    assert!(has_code(&answer, 34) && answer.last, "no mechanism was named");
    let answer = client.handshake("GSSAPI");
    assert!(has_code(&answer, 33) && answer.last, "not offered");
    assert!(has_code(&client.handshake("PLAIN"), 0));
    let answer = client.authenticate(b"\0ana\0elm");
    assert!(has_code(&answer, 58) && answer.last && !broker.is_admitted(&client.session));
    assert!(has_code(&client.handshake("PLAIN"), 0));
    let answer = client.authenticate(b"\0ana\0oak");
    let said = format!("{:?}", answer.reply);
    assert!(said.contains("session_lifetime_ms: 60000") && broker.is_admitted(&client.session), "{said}");
    assert_eq!(client.session.user(), "ana");
    assert!(has_code(&client.authenticate(b"\0ana\0oak"), 34), "no mechanism was named");
    // again, as the same user only
    assert!(has_code(&client.handshake("PLAIN"), 0));
    assert!(has_code(&client.authenticate(b"\0bob\0oak"), 58));
    let heartbeat = || HeartbeatRequest::default().into();
    assert!(!matches!(client.ask(ApiKey::Heartbeat, 0, heartbeat()).reply, Reply::Close));
    client.session.login_until_ms = Some(0);
    std::thread::sleep(std::time::Duration::from_millis(2));
    if broker.steady_ms() > 0 {
        assert!(matches!(client.ask(ApiKey::Heartbeat, 0, heartbeat()).reply, Reply::Close));
    }
}

#[test]
fn a_password_itself_crosses_no_wire_that_others_read() {
    let dir = tempfile::tempdir().unwrap();
    let users = vec![("ana".to_owned(), Secret::new("oak"))];
    let broker = open(dir.path(), SecurityConfig { users, ..SecurityConfig::default() }).unwrap();
    for (protocol, remote, expected) in [
        (Protocol::SaslPlaintext, "127.0.0.1:1", true),
        (Protocol::SaslPlaintext, "10.0.0.9:1", false),
        (Protocol::SaslSsl, "10.0.0.9:1", true),
    ] {
        let answer = client(&broker, protocol, remote).handshake("PLAIN");
        assert_eq!(has_code(&answer, 0), expected, "{protocol:?} {remote}");
    }
    assert!(has_code(&client(&broker, Protocol::Plaintext, "127.0.0.1:1").handshake("PLAIN"), 34));
    // the same user has another salt in another process: nothing of it is written
    assert_eq!(broker.security.records().credentials.len(), 0);
    assert!(broker.security.credential("ana", Mechanism::ScramSha256).1);
    assert!(!broker.security.credential("eve", Mechanism::ScramSha256).1);
}
