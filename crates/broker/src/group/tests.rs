use bytes::Bytes;
use herdsman_record::TopicPartition;

use super::offset_store::encode_batch;
use super::*;

fn join(group: &str, member: &str, fresh: &str) -> JoinRequest {
    JoinRequest {
        group: group.into(),
        member_id: member.into(),
        fresh_member_id: fresh.into(),
        instance_id: None,
        id_required: false,
        client_id: "c".into(),
        client_host: "/127.0.0.1".into(),
        session_timeout_ms: 6_000,
        rebalance_timeout_ms: 10_000,
        protocol_type: "consumer".into(),
        protocols: vec![("range".into(), Bytes::from_static(b"meta"))],
    }
}

fn sync(member: &str, generation: i32, assignments: &[(&str, &'static [u8])]) -> SyncRequest {
    SyncRequest {
        group: "g".into(),
        member_id: member.into(),
        generation,
        assignments: assignments
            .iter()
            .map(|(id, bytes)| ((*id).into(), Bytes::from_static(bytes)))
            .collect(),
        ..SyncRequest::default()
    }
}

fn joined(effects: &[Effect], ticket: u64) -> Option<&JoinAnswer> {
    effects.iter().find_map(|effect| match effect {
        Effect::Join(found, answer) if *found == ticket => Some(answer),
        _ => None,
    })
}

fn synced(effects: &[Effect], ticket: u64) -> Option<&SyncAnswer> {
    effects.iter().find_map(|effect| match effect {
        Effect::Sync(found, answer) if *found == ticket => Some(answer),
        _ => None,
    })
}

/// A group of `a` (leader) and `b`, stable in generation 1 at time 1,000.
fn stable() -> Coordinator {
    let mut groups = Coordinator::new(GroupConfig::default());
    let mut effects = Vec::new();
    groups.on_join(join("g", "", "a"), 1, 0, &mut effects);
    groups.on_join(join("g", "", "b"), 2, 100, &mut effects);
    assert!(effects.is_empty(), "the first rebalance waits for more members");
    groups.on_tick(200, &mut effects);
    assert_eq!(joined(&effects, 1).unwrap().members.len(), 2);
    assert_eq!(joined(&effects, 2).map(|answer| (answer.leader.as_str(), answer.generation)), Some(("a", 1)));
    effects.clear();
    groups.on_sync(sync("b", 1, &[]), 3, 300, &mut effects);
    assert!(effects.is_empty(), "a follower waits for the leader");
    groups.on_sync(sync("a", 1, &[("a", b"0"), ("b", b"1")]), 4, 1_000, &mut effects);
    assert_eq!(synced(&effects, 3).unwrap().assignment, &b"1"[..]);
    assert_eq!(synced(&effects, 4).unwrap().assignment, &b"0"[..]);
    groups
}

#[test]
fn a_dead_member_is_dropped_and_the_other_gets_everything_in_the_next_generation() {
    let mut groups = stable();
    let mut effects = Vec::new();
    groups.on_heartbeat("g", "a", None, 1, 6_000).unwrap();
    groups.on_tick(7_100, &mut effects);
    assert_eq!(groups.on_heartbeat("g", "a", None, 1, 7_200), Err(GroupError::RebalanceInProgress));
    assert_eq!(groups.on_heartbeat("g", "b", None, 1, 7_200), Err(GroupError::UnknownMember));
    groups.on_join(join("g", "a", "x"), 5, 7_300, &mut effects);
    let answer = joined(&effects, 5).unwrap();
    assert_eq!((answer.generation, answer.members.len(), answer.leader.as_str()), (2, 1, "a"));
    assert_eq!(groups.check_commit("g", "a", None, 1, 7_400), Err(GroupError::IllegalGeneration));
    assert_eq!(groups.check_commit("g", "a", None, 2, 7_400), Err(GroupError::RebalanceInProgress));
}

#[test]
fn a_member_that_does_not_rejoin_is_left_behind_at_the_rebalance_deadline() {
    let mut groups = stable();
    let mut effects = Vec::new();
    groups.on_join(join("g", "", "c"), 6, 2_000, &mut effects);
    groups.on_join(join("g", "b", "x"), 7, 2_100, &mut effects);
    for now in (2_500..12_000).step_by(500) {
        let _ = groups.on_heartbeat("g", "a", None, 1, now);
        groups.on_tick(now, &mut effects);
    }
    assert!(effects.is_empty());
    groups.on_tick(12_001, &mut effects);
    let leader = joined(&effects, 7).or(joined(&effects, 6)).unwrap();
    assert_eq!(leader.generation, 2);
    assert_eq!(groups.describe("g").unwrap().members.len(), 2);
}

#[test]
fn a_new_member_comes_back_with_the_id_it_was_given_or_lapses() {
    let mut groups =
        Coordinator::new(GroupConfig { initial_rebalance_delay_ms: 0, ..GroupConfig::default() });
    let mut effects = Vec::new();
    let mut first = join("g", "", "a");
    first.id_required = true;
    groups.on_join(first, 1, 0, &mut effects);
    let answer = joined(&effects, 1).unwrap();
    assert_eq!((answer.error, answer.member_id.as_str()), (Some(GroupError::MemberIdRequired), "a"));
    groups.on_join(join("g", "a", "x"), 2, 10, &mut effects);
    assert_eq!(joined(&effects, 2).unwrap().generation, 1);
    groups.on_join(join("g", "stranger", "x"), 3, 10, &mut effects);
    assert_eq!(joined(&effects, 3).unwrap().error, Some(GroupError::UnknownMember));
}

#[test]
fn a_static_member_returns_without_a_rebalance_and_fences_its_old_self() {
    let mut groups =
        Coordinator::new(GroupConfig { initial_rebalance_delay_ms: 0, ..GroupConfig::default() });
    let mut effects = Vec::new();
    let named =
        |member: &str, fresh: &str| JoinRequest { instance_id: Some("i".into()), ..join("g", member, fresh) };
    groups.on_join(named("", "a"), 1, 0, &mut effects);
    groups.on_sync(sync("a", 1, &[("a", b"all")]), 2, 0, &mut effects);
    effects.clear();
    groups.on_join(named("", "b"), 3, 10, &mut effects);
    let answer = joined(&effects, 3).unwrap();
    assert_eq!((answer.generation, answer.skip_assignment, answer.member_id.as_str()), (1, true, "b"));
    groups.on_sync(sync("b", 1, &[]), 4, 20, &mut effects);
    assert_eq!(synced(&effects, 4).unwrap().assignment, &b"all"[..]);
    assert_eq!(groups.on_heartbeat("g", "a", Some("i"), 1, 30), Err(GroupError::FencedInstance));
    let gone = LeaveIdentity { member_id: String::new(), instance_id: Some("i".into()) };
    assert_eq!(groups.on_leave("g", &gone, 40, &mut effects).as_deref(), Ok("b"));
    assert_eq!(groups.describe("g").unwrap().members.len(), 0);
    assert_eq!(groups.delete("g"), Ok(()));
}

#[test]
fn a_group_with_other_protocols_is_refused() {
    let mut groups = stable();
    let mut effects = Vec::new();
    let mut other = join("g", "", "c");
    other.protocols = vec![("sticky".into(), Bytes::new())];
    groups.on_join(other, 9, 2_000, &mut effects);
    assert_eq!(joined(&effects, 9).unwrap().error, Some(GroupError::InconsistentProtocol));
    assert_eq!(groups.delete("g"), Err(GroupError::NotEmpty));
    assert_eq!(groups.check_commit("g", "", None, -1, 2_000), Err(GroupError::UnknownMember));
}

#[test]
fn committed_offsets_survive_their_records() {
    let at = TopicPartition::new("finds", 3);
    let committed = Committed { offset: 17, leader_epoch: 0, metadata: "note".into(), commit_ms: 5 };
    let batch = encode_batch("g", [(&at, Some(&committed))], None, 5).unwrap();
    let mut store = OffsetStore::new();
    store.load(&batch).unwrap();
    assert_eq!(store.get("g", &at), Some(&committed));
    store.load(&encode_batch("g", [(&at, None)], None, 6).unwrap()).unwrap();
    assert!(!store.has_group("g"));
}
