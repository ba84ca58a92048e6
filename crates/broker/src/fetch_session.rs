//! Fetch sessions (KIP-227): what a client fetches is remembered, so that its next request names only what changed and its
//! next answer only what is new.
//!
//! At most [`SESSIONS_MAX`] are kept, of at most [`PARTITIONS_MAX`] partitions each, about 150 bytes a partition. When they are
//! all in use, one that nobody used for two minutes makes room; if there is none, the client is answered in full.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use herdsman_wire::FetchReply;
use herdsman_wire::kafka_protocol::ResponseError;
use herdsman_wire::kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use herdsman_wire::kafka_protocol::messages::{FetchRequest, TopicName};
use herdsman_wire::kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::topic::lock;

/// `max.incremental.fetch.session.cache.slots`.
const SESSIONS_MAX: usize = 1_000;
/// Most partitions of one session.
const PARTITIONS_MAX: usize = 20_000;
/// `min.incremental.fetch.session.eviction.ms`.
const IDLE_MS: u64 = 120_000;
/// Epoch of a request that begins a session.
const INITIAL: i32 = 0;
/// Epoch of a request that wants none.
const FINAL: i32 = -1;

/// A partition, by the topic's name or by its id (the other is empty), as its client names it.
type Key = (StrBytes, [u8; 16], i32);

/// What is remembered of a partition.
#[derive(Debug)]
struct Cached {
    asked: FetchPartition,
    /// What the client was last told; −1: nothing it can rely on.
    high_watermark: i64,
    log_start: i64,
}

/// One session.
#[derive(Debug)]
pub(crate) struct FetchSession {
    id: i32,
    next_epoch: i32,
    /// Whether it names topics by id.
    by_id: bool,
    partitions: BTreeMap<Key, Cached>,
    /// The last partition that gave records: the next fetch begins behind it.
    turn: Option<Key>,
    used_ms: u64,
}

/// All sessions.
#[derive(Debug, Default)]
pub(crate) struct FetchSessions {
    sessions: HashMap<i32, Arc<Mutex<FetchSession>>>,
    count: u64,
}

/// How a request is to be answered.
pub(crate) enum Answer {
    /// All of it, in no session.
    Full,
    /// All of it, in a new session.
    Begin(Arc<Mutex<FetchSession>>),
    /// What is new, in this session.
    Incremental(Arc<Mutex<FetchSession>>),
}

fn key_of(topic: &FetchTopic, index: i32, by_id: bool) -> Key {
    if by_id {
        (StrBytes::default(), topic.topic_id.into_bytes(), index)
    } else {
        (topic.topic.0.clone(), [0; 16], index)
    }
}

impl FetchSessions {
    /// Finds or begins the session of a request. In a session the request then names all that it fetches.
    ///
    /// # Errors
    /// `FETCH_SESSION_ID_NOT_FOUND`, `INVALID_FETCH_SESSION_EPOCH`, `FETCH_SESSION_TOPIC_ID_ERROR`: the client begins a new one.
    pub(crate) fn open(
        &mut self,
        request: &mut FetchRequest,
        by_id: bool,
        now_ms: u64,
    ) -> Result<Answer, ResponseError> {
        if request.session_epoch == FINAL || request.session_epoch == INITIAL {
            self.sessions.remove(&request.session_id);
            if request.session_epoch == FINAL || request.topics.is_empty() {
                return Ok(Answer::Full);
            }
            return Ok(self.begin(request, by_id, now_ms).map_or(Answer::Full, Answer::Begin));
        }
        let found = self.sessions.get(&request.session_id).map(Arc::clone);
        let slot = found.ok_or(ResponseError::FetchSessionIdNotFound)?;
        let mut session = lock(&slot);
        if session.by_id != by_id {
            return Err(ResponseError::FetchSessionTopicIdError);
        }
        if request.session_epoch != session.next_epoch {
            return Err(ResponseError::InvalidFetchSessionEpoch);
        }
        session.next_epoch = if session.next_epoch == i32::MAX { 1 } else { session.next_epoch + 1 };
        session.used_ms = now_ms;
        session.take_in(request);
        if session.partitions.len() > PARTITIONS_MAX {
            self.sessions.remove(&session.id);
            return Err(ResponseError::FetchSessionIdNotFound);
        }
        request.topics = session.topics();
        drop(session);
        Ok(Answer::Incremental(slot))
    }

    fn begin(
        &mut self,
        request: &FetchRequest,
        by_id: bool,
        now_ms: u64,
    ) -> Option<Arc<Mutex<FetchSession>>> {
        if self.sessions.len() >= SESSIONS_MAX {
            let used = |session: &Arc<Mutex<FetchSession>>| lock(session).used_ms;
            let (id, idle) =
                self.sessions.iter().map(|(id, one)| (*id, used(one))).min_by_key(|one| one.1)?;
            if idle + IDLE_MS > now_ms {
                return None;
            }
            self.sessions.remove(&id);
        }
        let mut session = FetchSession {
            id: self.fresh_id(now_ms),
            next_epoch: 1,
            by_id,
            partitions: BTreeMap::new(),
            turn: None,
            used_ms: now_ms,
        };
        session.take_in(request);
        if session.partitions.len() > PARTITIONS_MAX {
            return None;
        }
        let slot = Arc::new(Mutex::new(session));
        let id = lock(&slot).id;
        self.sessions.insert(id, Arc::clone(&slot));
        Some(slot)
    }

    /// An id in no use, and hardly one that was given before a restart.
    fn fresh_id(&mut self, now_ms: u64) -> i32 {
        loop {
            self.count += 1;
            let mixed = (now_ms << 20).wrapping_add(self.count).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let id = i32::try_from(mixed >> 33).unwrap_or(1);
            if id != 0 && !self.sessions.contains_key(&id) {
                return id;
            }
        }
    }
}

impl FetchSession {
    fn take_in(&mut self, request: &FetchRequest) {
        for topic in &request.topics {
            for asked in &topic.partitions {
                let key = key_of(topic, asked.partition, self.by_id);
                match self.partitions.get_mut(&key) {
                    Some(cached) => cached.asked.clone_from(asked),
                    None => {
                        let cached = Cached { asked: asked.clone(), high_watermark: -1, log_start: -1 };
                        self.partitions.insert(key, cached);
                    }
                }
            }
        }
        for topic in &request.forgotten_topics_data {
            let named = FetchTopic::default().with_topic(topic.topic.clone()).with_topic_id(topic.topic_id);
            for index in &topic.partitions {
                self.partitions.remove(&key_of(&named, *index, self.by_id));
            }
        }
    }

    /// Everything it fetches, beginning behind what last gave records.
    fn topics(&self) -> Vec<FetchTopic> {
        let behind = self.turn.iter().flat_map(|turn| {
            self.partitions.range((std::ops::Bound::Excluded(turn.clone()), std::ops::Bound::Unbounded))
        });
        let rest =
            self.partitions.iter().take_while(|(key, _)| self.turn.as_ref().is_none_or(|turn| *key <= turn));
        let mut topics: Vec<FetchTopic> = Vec::new();
        for ((name, id, _), cached) in behind.chain(rest) {
            match topics.last_mut() {
                Some(topic) if topic.topic.0 == *name && topic.topic_id.as_bytes() == id => {
                    topic.partitions.push(cached.asked.clone());
                }
                _ => topics.push(
                    FetchTopic::default()
                        .with_topic(TopicName(name.clone()))
                        .with_topic_id(Uuid::from_bytes(*id))
                        .with_partitions(vec![cached.asked.clone()]),
                ),
            }
        }
        topics
    }

    /// Remembers what the client is told, and leaves out what it knows if `is_incremental`.
    pub(crate) fn tell(&mut self, reply: &mut FetchReply, is_incremental: bool) {
        reply.session_id = self.id;
        let mut turn = None;
        for topic in &mut reply.topics {
            let (name, id, by_id) = (topic.name.clone(), topic.id, self.by_id);
            topic.partitions.retain(|partition| {
                let key = if by_id {
                    (StrBytes::default(), id, partition.index)
                } else {
                    (name.clone(), [0; 16], partition.index)
                };
                let has_records = partition.record_bytes() > 0;
                let Some(cached) = self.partitions.get_mut(&key) else { return true };
                let known = (cached.high_watermark, cached.log_start);
                let now = (partition.high_watermark, partition.log_start_offset);
                let has_error = partition.error_code != 0;
                (cached.high_watermark, cached.log_start) = if has_error { (-1, -1) } else { now };
                if has_records {
                    turn = Some(key);
                }
                !is_incremental || has_records || has_error || known != now
            });
        }
        reply.topics.retain(|topic| !topic.partitions.is_empty());
        if turn.is_some() {
            self.turn = turn;
        }
    }
}

#[cfg(test)]
mod tests {
    use herdsman_wire::kafka_protocol::messages::fetch_request::ForgottenTopic;
    use herdsman_wire::{PartitionReply, TopicReply};

    use super::*;

    fn name() -> TopicName {
        TopicName(StrBytes::from_static_str("t"))
    }

    fn request(session_id: i32, epoch: i32, partitions: &[(i32, i64)]) -> FetchRequest {
        let partitions = partitions.iter().map(|(index, offset)| {
            FetchPartition::default().with_partition(*index).with_fetch_offset(*offset)
        });
        let topic = FetchTopic::default().with_topic(name()).with_partitions(partitions.collect());
        let topics = if topic.partitions.is_empty() { vec![] } else { vec![topic] };
        FetchRequest::default().with_session_id(session_id).with_session_epoch(epoch).with_topics(topics)
    }

    fn asked(request: &FetchRequest) -> Vec<(i32, i64)> {
        let partitions = request.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.map(|one| (one.partition, one.fetch_offset)).collect()
    }

    /// An answer of partitions with high watermarks and, for some, records.
    fn reply(partitions: &[(i32, i64, bool)]) -> FetchReply {
        let partitions = partitions.iter().map(|(index, high_watermark, has_records)| {
            let mut partition = PartitionReply::error(*index, 0);
            partition.high_watermark = *high_watermark;
            partition.records = vec![bytes::Bytes::from_static(&[1]); usize::from(*has_records)];
            partition
        });
        let partitions = partitions.collect();
        FetchReply {
            topics: vec![TopicReply { name: name().0, id: [0; 16], partitions }],
            ..FetchReply::default()
        }
    }

    fn told(reply: &FetchReply) -> Vec<i32> {
        reply.topics.iter().flat_map(|topic| &topic.partitions).map(|one| one.index).collect()
    }

    #[test]
    fn a_session_remembers_what_is_fetched_and_tells_only_what_is_new() {
        let mut sessions = FetchSessions::default();
        let mut first = request(0, 0, &[(0, 5), (1, 6), (2, 7)]);
        let Ok(Answer::Begin(session)) = sessions.open(&mut first, false, 0) else { panic!("no session") };
        let mut full = reply(&[(0, 9, false), (1, 9, false), (2, 9, false)]);
        lock(&session).tell(&mut full, false);
        let id = full.session_id;
        assert!(id > 0);
        assert_eq!(told(&full), [0, 1, 2]);

        let mut next = request(id, 1, &[(1, 8)]);
        assert!(matches!(sessions.open(&mut next, false, 1), Ok(Answer::Incremental(_))));
        assert_eq!(asked(&next), [(0, 5), (1, 8), (2, 7)]);
        let mut new = reply(&[(0, 9, false), (1, 9, true), (2, 10, false)]);
        lock(&session).tell(&mut new, true);
        assert_eq!(told(&new), [1, 2], "records and a new high watermark");

        // behind the one that gave records comes the next; what is forgotten does not come
        let forgotten = ForgottenTopic::default().with_topic(name()).with_partitions(vec![0]);
        let mut third = request(id, 2, &[]).with_forgotten_topics_data(vec![forgotten]);
        sessions.open(&mut third, false, 2).unwrap();
        assert_eq!(asked(&third), [(2, 7), (1, 8)]);
    }

    #[test]
    fn a_session_that_is_not_known_or_not_at_that_epoch_is_refused() {
        let mut sessions = FetchSessions::default();
        let refused = |sessions: &mut FetchSessions, mut request: FetchRequest, by_id| {
            sessions.open(&mut request, by_id, 0).err()
        };
        let unknown = refused(&mut sessions, request(77, 1, &[]), false);
        assert_eq!(unknown, Some(ResponseError::FetchSessionIdNotFound));
        let Ok(Answer::Begin(session)) = sessions.open(&mut request(0, 0, &[(0, 0)]), false, 0) else {
            panic!("no session")
        };
        let id = lock(&session).id;
        let early = refused(&mut sessions, request(id, 2, &[]), false);
        assert_eq!(early, Some(ResponseError::InvalidFetchSessionEpoch));
        let by_id = refused(&mut sessions, request(id, 1, &[]), true);
        assert_eq!(by_id, Some(ResponseError::FetchSessionTopicIdError));
        assert!(matches!(sessions.open(&mut request(id, -1, &[(0, 0)]), false, 0), Ok(Answer::Full)));
        let ended = refused(&mut sessions, request(id, 1, &[]), false);
        assert_eq!(ended, Some(ResponseError::FetchSessionIdNotFound));
    }

    #[test]
    fn the_number_of_sessions_is_bounded_and_idle_ones_make_room() {
        let mut sessions = FetchSessions::default();
        for _ in 0..SESSIONS_MAX {
            assert!(matches!(sessions.open(&mut request(0, 0, &[(0, 0)]), false, 0), Ok(Answer::Begin(_))));
        }
        assert!(matches!(sessions.open(&mut request(0, 0, &[(0, 0)]), false, 1), Ok(Answer::Full)));
        assert!(matches!(sessions.open(&mut request(0, 0, &[(0, 0)]), false, IDLE_MS), Ok(Answer::Begin(_))));
        assert_eq!(sessions.sessions.len(), SESSIONS_MAX);
    }
}
