//! The consumer protocol: what members are told, and that no partition has two readers whatever they do.

use std::collections::{BTreeMap, BTreeSet};

use herdsman_host::Seed;

use super::*;
use crate::group::GroupError;

#[derive(Default)]
struct Named {
    topics: BTreeMap<String, (TopicId, i32)>,
    version: u64,
}

impl Named {
    fn with(topics: &[(&str, i32)]) -> Self {
        let mut named = Self::default();
        topics.iter().for_each(|(name, count)| named.set(name, *count));
        named
    }

    fn set(&mut self, name: &str, count: i32) {
        let id = [name.as_bytes()[0]; 16];
        self.topics.insert(name.to_owned(), (id, count));
        self.version += 1;
    }
}

impl TopicLookup for Named {
    fn version(&self) -> u64 {
        self.version
    }

    fn find(&self, name: &str) -> Option<(TopicId, i32)> {
        self.topics.get(name).copied()
    }

    fn names(&self) -> Vec<String> {
        self.topics.keys().cloned().collect()
    }
}

fn count(partitions: &Partitions) -> usize {
    partitions.values().map(BTreeSet::len).sum()
}

/// A client that does what it is told, one heartbeat at a time.
#[derive(Clone)]
struct Client {
    id: String,
    epoch: i32,
    topics: Vec<&'static str>,
    instance: Option<String>,
    assignor: &'static str,
    /// What it reads now.
    owned: Partitions,
    /// What it was told to read.
    told: Partitions,
    /// Whether an answer was lost: it then says everything again, and takes nothing over before.
    lost: bool,
}

impl Client {
    fn new(id: &str, topics: &[&'static str]) -> Self {
        Self {
            id: id.to_owned(),
            epoch: JOIN,
            topics: topics.to_vec(),
            instance: None,
            assignor: "uniform",
            owned: Partitions::new(),
            told: Partitions::new(),
            lost: false,
        }
    }

    fn beat(&mut self, groups: &mut ConsumerGroups, topics: &Named, now_ms: u64) -> Result<(), GroupError> {
        let full = self.epoch == JOIN || (self.lost && self.epoch > JOIN);
        let answer = groups.on_heartbeat(
            ConsumerHeartbeat {
                group: "g".to_owned(),
                member_id: self.id.clone(),
                member_epoch: self.epoch,
                instance_id: self.instance.clone(),
                rebalance_timeout_ms: full.then_some(5_000),
                topics: full.then(|| self.topics.iter().map(|name| (*name).to_owned()).collect()),
                assignor: full.then(|| self.assignor.to_owned()),
                owned: Some(self.owned.clone()),
                ..ConsumerHeartbeat::default()
            },
            topics,
            now_ms,
        )?;
        (self.epoch, self.lost) = (answer.member_epoch, false);
        if let Some(told) = answer.assignment {
            self.told = told;
        }
        Ok(())
    }

    /// A heartbeat of a client that, fenced, gives everything up and joins again.
    fn beat_or_rejoin(&mut self, groups: &mut ConsumerGroups, topics: &Named) {
        match self.beat(groups, topics, 0) {
            Err(GroupError::FencedEpoch) => {
                (self.epoch, self.owned, self.told) = (JOIN, Partitions::new(), Partitions::new());
                self.lost = false;
                self.beat(groups, topics, 0).unwrap();
            }
            other => other.unwrap(),
        }
    }

    /// Gives up what it was not told to have, and takes what it was.
    fn follow(&mut self) {
        if !self.lost {
            self.owned = self.told.clone();
        }
    }
}

fn settle(groups: &mut ConsumerGroups, topics: &Named, clients: &mut [Client]) {
    for _ in 0..8 {
        for client in clients.iter_mut() {
            client.beat(groups, topics, 0).unwrap();
            client.follow();
        }
    }
    assert_eq!(groups.get("g").unwrap().state(), "Stable");
}

#[test]
fn a_second_member_gets_its_half_only_after_the_first_gave_it_up() {
    let topics = Named::with(&[("finds", 4)]);
    let mut groups = ConsumerGroups::default();
    let (mut one, mut two) = (Client::new("one", &["finds"]), Client::new("two", &["finds"]));
    one.beat(&mut groups, &topics, 0).unwrap();
    one.follow();
    assert_eq!((one.epoch, count(&one.owned)), (1, 4));
    two.beat(&mut groups, &topics, 0).unwrap();
    assert_eq!((two.epoch, count(&two.told)), (2, 0), "nothing is free yet");
    one.beat(&mut groups, &topics, 0).unwrap();
    assert_eq!((one.epoch, count(&one.told)), (1, 2), "told to give two up");
    two.beat(&mut groups, &topics, 0).unwrap();
    assert_eq!(count(&two.told), 0, "they are not given up yet");
    one.follow();
    one.beat(&mut groups, &topics, 0).unwrap();
    two.beat(&mut groups, &topics, 0).unwrap();
    assert_eq!((one.epoch, two.epoch, count(&two.told)), (2, 2, 2));
    assert_eq!(groups.get("g").unwrap().state(), "Stable");
}

#[test]
fn members_that_are_silent_or_hold_on_are_taken_for_dead_and_old_epochs_are_fenced() {
    let topics = Named::with(&[("finds", 4)]);
    let mut groups = ConsumerGroups::default();
    let mut clients = [Client::new("one", &["finds"]), Client::new("two", &["finds"])];
    settle(&mut groups, &topics, &mut clients);
    let [one, two] = &mut clients;
    assert_eq!(groups.check_commit("g", "one", one.epoch), Some(Ok(())));
    assert_eq!(groups.check_commit("g", "one", one.epoch - 1), Some(Err(GroupError::StaleEpoch)));
    assert_eq!(groups.check_commit("g", "gone", 1), Some(Err(GroupError::UnknownMember)));
    one.beat(&mut groups, &topics, 30_000).unwrap();
    groups.on_tick(&topics, 45_000);
    assert_eq!(two.beat(&mut groups, &topics, 45_000), Err(GroupError::UnknownMember));
    one.beat(&mut groups, &topics, 45_000).unwrap();
    assert_eq!(count(&one.told), 4);
    one.follow();
    two.epoch = JOIN;
    two.owned.clear();
    two.beat(&mut groups, &topics, 45_000).unwrap();
    one.beat(&mut groups, &topics, 45_000).unwrap(); // told to give two up, and does not
    groups.on_tick(&topics, 49_999);
    assert_eq!(groups.get("g").unwrap().members.len(), 2);
    groups.on_tick(&topics, 50_000);
    assert_eq!(one.beat(&mut groups, &topics, 50_000), Err(GroupError::UnknownMember));
    two.beat(&mut groups, &topics, 50_000).unwrap();
    assert_eq!(count(&two.told), 4);
    two.epoch += 7;
    assert_eq!(two.beat(&mut groups, &topics, 50_000), Err(GroupError::FencedEpoch));
}

#[test]
fn a_static_member_comes_back_under_another_id_to_what_it_had() {
    let topics = Named::with(&[("finds", 4)]);
    let mut groups = ConsumerGroups::default();
    let mut clients = [Client::new("one", &["finds"]), Client::new("two", &["finds"])];
    clients[0].instance = Some("left".to_owned());
    settle(&mut groups, &topics, &mut clients);
    let had = clients[0].owned.clone();
    let mut again =
        Client { id: "three".to_owned(), epoch: JOIN, owned: Partitions::new(), ..clients[0].clone() };
    assert_eq!(again.beat(&mut groups, &topics, 0), Err(GroupError::UnreleasedInstance));
    let epoch = groups.get("g").unwrap().epoch;
    clients[0].epoch = LEAVE_STATIC;
    clients[0].beat(&mut groups, &topics, 0).unwrap();
    again.beat(&mut groups, &topics, 0).unwrap();
    assert_eq!((again.told.clone(), groups.get("g").unwrap().epoch), (had, epoch), "nothing moved");
    clients[0].epoch = epoch;
    assert_eq!(clients[0].beat(&mut groups, &topics, 0), Err(GroupError::FencedInstance));
}

#[test]
fn patterns_match_whole_names_and_see_topics_that_come_later() {
    let mut topics = Named::with(&[("finds", 1), ("other", 1)]);
    let mut groups = ConsumerGroups::default();
    let beat = |epoch| ConsumerHeartbeat {
        group: "g".to_owned(),
        member_id: "m".to_owned(),
        member_epoch: epoch,
        rebalance_timeout_ms: Some(1_000),
        regex: (epoch == JOIN).then(|| "f.*|x".to_owned()),
        ..ConsumerHeartbeat::default()
    };
    let first = groups.on_heartbeat(beat(JOIN), &topics, 0).unwrap();
    assert_eq!(first.assignment.unwrap().into_keys().collect::<Vec<_>>(), [[b'f'; 16]]);
    topics.set("x", 2);
    topics.set("yx", 1);
    let later = groups.on_heartbeat(beat(1), &topics, 0).unwrap();
    assert_eq!((later.member_epoch, later.assignment.map(|all| count(&all))), (2, Some(3)));
    let bad = ConsumerHeartbeat { regex: Some("(".to_owned()), ..beat(2) };
    assert_eq!(groups.on_heartbeat(bad, &topics, 0), Err(GroupError::InvalidPattern));
}

#[test]
fn range_gives_the_same_partitions_of_every_topic_and_uniform_moves_little() {
    let topics = Named::with(&[("a", 5), ("b", 5)]);
    let mut groups = ConsumerGroups::default();
    let mut clients: Vec<Client> = ["1", "2"].map(|id| Client::new(id, &["a", "b"])).into();
    clients.iter_mut().for_each(|client| client.assignor = "range");
    settle(&mut groups, &topics, &mut clients);
    for (client, expected) in clients.iter().zip([vec![0, 1, 2], vec![3, 4]]) {
        assert!(client.owned.values().all(|indexes| indexes.iter().copied().eq(expected.iter().copied())));
    }

    let topics = Named::with(&[("a", 9), ("b", 9)]);
    let mut groups = ConsumerGroups::default();
    let mut clients: Vec<Client> = ["1", "2"].map(|id| Client::new(id, &["a", "b"])).into();
    settle(&mut groups, &topics, &mut clients);
    let before: Vec<Partitions> = clients.iter().map(|client| client.owned.clone()).collect();
    clients.push(Client::new("3", &["a", "b"]));
    settle(&mut groups, &topics, &mut clients);
    assert!(clients.iter().all(|client| count(&client.owned) == 6));
    for (client, before) in clients.iter().zip(before) {
        let kept = member::select(&client.owned, |topic, index| member::holds(&before, topic, index));
        assert_eq!(kept, client.owned, "who was there before got nothing new");
    }
}

#[test]
fn no_partition_has_two_readers_whatever_members_do_and_at_last_all_are_read() {
    for number in 0..200 {
        let mut seed = Seed::new(number);
        let mut topics = Named::with(&[("a", 7), ("b", 4), ("c", 3)]);
        let mut groups = ConsumerGroups::default();
        let mut clients: Vec<Client> = Vec::new();
        let mut born = 0;
        for turn in 0..150 {
            match seed.index(12) {
                0 | 1 if clients.len() < 6 => {
                    born += 1;
                    let sets: [&[&str]; 4] = [&["a", "b", "c"], &["a"], &["b", "c"], &["a", "c"]];
                    clients.push(Client::new(&format!("m{born}"), sets[seed.index(4)]));
                }
                2 if clients.len() > 1 => {
                    let mut gone = clients.swap_remove(seed.index(clients.len()));
                    if gone.epoch != JOIN {
                        gone.epoch = LEAVE;
                        let _ = gone.beat(&mut groups, &topics, 0);
                    }
                }
                3 => {
                    let (name, more) = (["a", "b"][seed.index(2)], 1 + seed.index(2) as i32);
                    let (_, now) = topics.topics[name];
                    topics.set(name, (now + more).min(12));
                }
                4 | 5 if !clients.is_empty() => {
                    let at = seed.index(clients.len());
                    clients[at].follow();
                }
                6 if !clients.is_empty() => {
                    // the answer is lost
                    let at = seed.index(clients.len());
                    let mut ghost = clients[at].clone();
                    if ghost.epoch != JOIN {
                        let _ = ghost.beat(&mut groups, &topics, 0);
                        clients[at].lost = true;
                    }
                }
                _ if !clients.is_empty() => {
                    let at = seed.index(clients.len());
                    clients[at].beat_or_rejoin(&mut groups, &topics);
                    // gives up at once, takes over at once or later
                    let told = clients[at].told.clone();
                    clients[at].owned = member::select(&clients[at].owned.clone(), |topic, index| {
                        member::holds(&told, topic, index)
                    });
                }
                _ => {}
            }
            assert_one_reader(&clients, number, turn);
        }
        for _ in 0..30 {
            for client in &mut clients {
                client.beat_or_rejoin(&mut groups, &topics);
                client.follow();
            }
            assert_one_reader(&clients, number, 1_000);
        }
        for (name, (topic, partitions)) in &topics.topics {
            let readers: Vec<_> =
                clients.iter().filter(|client| client.topics.contains(&name.as_str())).collect();
            let read: usize =
                readers.iter().filter_map(|client| client.owned.get(topic)).map(BTreeSet::len).sum();
            let expected = if readers.is_empty() { 0 } else { usize::try_from(*partitions).unwrap() };
            assert_eq!(read, expected, "seed {number}, topic {name}");
        }
    }
}

fn assert_one_reader(clients: &[Client], number: u64, turn: u64) {
    let mut reader: BTreeMap<(TopicId, i32), &str> = BTreeMap::new();
    for client in clients {
        for (topic, index) in
            client.owned.iter().flat_map(|(topic, all)| all.iter().map(move |one| (*topic, *one)))
        {
            let other = reader.insert((topic, index), &client.id);
            assert_eq!(
                other, None,
                "seed {number}, turn {turn}: {index} has two readers, one is {}",
                client.id
            );
        }
    }
}
