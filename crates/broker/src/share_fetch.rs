//! ShareFetch and ShareAcknowledge (KIP-932): records to members of a share group, and what became of them.
//!
//! A fetch takes what its session names, in turns, whole batches by reference until they are joined for the codec. What
//! was acknowledged stands in `__share_group_state` before it is answered; what was only delivered does not: after a restart
//! it is delivered again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use herdsman_record::{Batch, TopicPartition};
use herdsman_wire::kafka_protocol::messages::share_acknowledge_response::{
    PartitionData as AcknowledgedPartition, ShareAcknowledgeTopicResponse,
};
use herdsman_wire::kafka_protocol::messages::share_fetch_request::AcknowledgementBatch;
use herdsman_wire::kafka_protocol::messages::share_fetch_response::{
    AcquiredRecords, LeaderIdAndEpoch, PartitionData, ShareFetchableTopicResponse,
};
use herdsman_wire::kafka_protocol::messages::{
    ShareAcknowledgeRequest, ShareAcknowledgeResponse, ShareFetchRequest, ShareFetchResponse,
};
use herdsman_wire::kafka_protocol::protocol::StrBytes;
use herdsman_wire::{Reply, ShareExtras};
use uuid::Uuid;

use crate::group::consumer::TopicId;
use crate::share::config::Reset;
use crate::share::partition::{Taking, records_of};
use crate::share::{Acknowledgement, Acquired, SessionStep, ShareKey, SharePartition, ShareSettings};
use crate::topic::{Topic, lock};
use crate::{Broker, BrokerError};

/// Longest a fetch may wait.
const WAIT_MAX: Duration = Duration::from_secs(300);

/// Acknowledgements of one partition, or what became of them.
type At = (TopicId, i32);
/// What a fetch tells of each partition.
type Told = BTreeMap<At, PartitionData>;

/// A fetch, looked at.
struct Fetch<'a> {
    group: &'a str,
    settings: ShareSettings,
    taking: Taking,
    bytes_max: usize,
    partitions: Vec<At>,
}

/// What was taken of one partition so far.
#[derive(Default)]
struct Taken {
    told: Vec<Acquired>,
    batches: Vec<Batch>,
}

fn sentence(error: &BrokerError) -> Option<StrBytes> {
    Some(StrBytes::from_string(error.to_string()))
}

fn taken(batch: AcknowledgementBatch) -> Acknowledgement {
    Acknowledgement { first: batch.first_offset, last: batch.last_offset, kinds: batch.acknowledge_types }
}

impl Broker {
    pub(crate) async fn on_share_fetch(&self, request: ShareFetchRequest, extras: ShareExtras) -> Reply {
        let group = request.group_id.as_ref().map(|id| id.to_string()).unwrap_or_default();
        let settings = lock(&self.shares).settings(&group);
        let response = ShareFetchResponse::default()
            .with_acquisition_lock_timeout_ms(i32::try_from(settings.record_lock_ms).unwrap_or(i32::MAX));
        let (step, mut told) = match self.begin_share_fetch(&group, &request, extras, &settings) {
            Ok(begun) => begun,
            Err(error) => {
                let response = response.with_error_code(error.code()).with_error_message(sentence(&error));
                return Reply::message(response);
            }
        };
        if step != SessionStep::Ends && !extras.is_renew {
            self.fetch_shares(&group, &request, extras, &settings, &mut told).await;
        }
        let mut topics: BTreeMap<TopicId, Vec<PartitionData>> = BTreeMap::new();
        for ((topic, _), partition) in told {
            topics.entry(topic).or_default().push(partition);
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            ShareFetchableTopicResponse::default()
                .with_topic_id(Uuid::from_bytes(topic))
                .with_partitions(partitions)
        });
        let topics = topics.collect();
        Reply::message(response.with_responses(topics))
    }

    /// The session's step and what the request acknowledges.
    fn begin_share_fetch(
        &self,
        group: &str,
        request: &ShareFetchRequest,
        extras: ShareExtras,
        settings: &ShareSettings,
    ) -> Result<(SessionStep, Told), BrokerError> {
        let member = member_of(request.member_id.as_ref())?;
        let mut acknowledged: BTreeMap<At, Vec<Acknowledgement>> = BTreeMap::new();
        let mut named: Vec<At> = Vec::new();
        for topic in &request.topics {
            for partition in &topic.partitions {
                let at = (topic.topic_id.into_bytes(), partition.partition_index);
                named.push(at);
                if !partition.acknowledgement_batches.is_empty() {
                    let all = partition.acknowledgement_batches.iter().cloned().map(taken);
                    acknowledged.insert(at, all.collect());
                }
            }
        }
        let step = {
            let mut shares = lock(&self.shares);
            let step = shares.step_session(group, member, request.share_session_epoch, true)?;
            if step == SessionStep::Begins && !acknowledged.is_empty() {
                shares.sessions.remove(&(group.to_owned(), member.to_owned()));
                return Err(BrokerError::InvalidRequest(
                    "a new share session has nothing to acknowledge".to_owned(),
                ));
            }
            if let Some(session) = shares.sessions.get_mut(&(group.to_owned(), member.to_owned())) {
                session.partitions.extend(named);
                for topic in &request.forgotten_topics_data {
                    for index in &topic.partitions {
                        session.partitions.remove(&(topic.topic_id.into_bytes(), *index));
                    }
                }
            }
            step
        };
        let mut told = Told::new();
        for (at, error) in self.acknowledge_shares(group, member, acknowledged, settings, extras.is_renew) {
            let mut partition = self.told_partition(at.1);
            if let Err(error) = error {
                partition = partition
                    .with_acknowledge_error_code(error.code())
                    .with_acknowledge_error_message(sentence(&error));
            }
            told.insert(at, partition);
        }
        if step != SessionStep::GoesOn {
            // what it held before belongs to no session now
            self.give_back(group, member);
        }
        Ok((step, told))
    }

    fn told_partition(&self, index: i32) -> PartitionData {
        PartitionData::default()
            .with_partition_index(index)
            .with_current_leader(LeaderIdAndEpoch::default().with_leader_id(-1).with_leader_epoch(-1))
            .with_records(Some(Bytes::new()))
    }

    /// Takes acknowledgements in, partition by partition: all of a partition's, or none with the reason.
    fn acknowledge_shares(
        &self,
        group: &str,
        member: &str,
        all: BTreeMap<At, Vec<Acknowledgement>>,
        settings: &ShareSettings,
        may_renew: bool,
    ) -> Vec<(At, Result<(), BrokerError>)> {
        let (may_renew, mut freed) = (may_renew && settings.may_renew, false);
        let done = all
            .into_iter()
            .map(|((topic, index), ranges)| {
                let key = ShareKey { group: group.to_owned(), topic, index };
                let renews = ranges.iter().any(|range| range.kinds.contains(&4));
                let result = if renews && !may_renew {
                    Err(BrokerError::InvalidRequest(
                        "acquisition locks are renewed by requests that say so, where share.renew.acknowledge.enable is true"
                            .to_owned(),
                    ))
                } else {
                    freed |= ranges.iter().any(|range| range.kinds.iter().any(|kind| *kind != 4));
                    self.acknowledge_share(&key, member, &ranges, settings)
                };
                ((topic, index), result)
            })
            .collect();
        if freed {
            self.shares_changed.send_modify(|count| *count += 1);
        }
        done
    }

    fn acknowledge_share(
        &self,
        key: &ShareKey,
        member: &str,
        ranges: &[Acknowledgement],
        settings: &ShareSettings,
    ) -> Result<(), BrokerError> {
        let topic = self.topic_by_id(key.topic).ok_or(BrokerError::UnknownTopicId)?;
        topic.partition(key.index)?;
        let found = lock(&self.shares).partitions.get(key).map(Arc::clone);
        let slot = found.ok_or(crate::share::ShareError::InvalidRecordState)?;
        let mut partition = lock(&slot);
        // memory follows the log: what cannot be written is not taken in
        let mut next = partition.clone();
        next.acknowledge(member, ranges, settings, self.steady_ms())?;
        self.write_share(key, &mut next)?;
        *partition = next;
        Ok(())
    }

    async fn fetch_shares(
        &self,
        group: &str,
        request: &ShareFetchRequest,
        extras: ShareExtras,
        settings: &ShareSettings,
        told: &mut Told,
    ) {
        let Ok(member) = member_of(request.member_id.as_ref()) else { return };
        let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)).min(WAIT_MAX);
        let wanted = usize::try_from(request.min_bytes).unwrap_or(0).max(1);
        let (mut appended, mut freed) = (self.log.subscribe(), self.shares_changed.subscribe());
        let deadline = tokio::time::Instant::now() + wait;
        let mut fetch = Fetch {
            group,
            settings: settings.clone(),
            taking: Taking {
                holder: Arc::from(member),
                records_max: i64::from(request.max_records),
                is_hard: extras.is_record_limit,
                range_max: i64::from(request.batch_size.max(1)),
                now_ms: 0,
            },
            bytes_max: usize::try_from(request.max_bytes).unwrap_or(0).min(self.config.fetch_bytes_max),
            partitions: self.in_turns(group, member),
        };
        loop {
            appended.mark_unchanged();
            freed.mark_unchanged();
            fetch.taking.now_ms = self.steady_ms();
            // min.bytes is at most a wish: what is taken is held, so it goes out
            let (bytes, has_error) = self.share_round(&fetch, told);
            if bytes >= wanted || bytes > 0 || has_error || fetch.partitions.is_empty() {
                return;
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(deadline) => return,
                _ = appended.changed() => {}
                _ = freed.changed() => {}
            }
        }
    }

    /// The partitions of a member's session, beginning with another one each time.
    fn in_turns(&self, group: &str, member: &str) -> Vec<At> {
        let mut shares = lock(&self.shares);
        let Some(session) = shares.sessions.get_mut(&(group.to_owned(), member.to_owned())) else {
            return Vec::new();
        };
        let mut partitions: Vec<At> = session.partitions.iter().copied().collect();
        session.turn = session.turn.wrapping_add(1);
        let turn = session.turn % partitions.len().max(1);
        partitions.rotate_left(turn);
        partitions
    }

    /// One look at every partition; bytes taken, and whether one was refused.
    fn share_round(&self, fetch: &Fetch<'_>, told: &mut Told) -> (usize, bool) {
        let (mut bytes, mut records, mut has_error) = (0, 0, false);
        for at in &fetch.partitions {
            let left = (fetch.bytes_max.saturating_sub(bytes), fetch.taking.records_max - records);
            if left.1 <= 0 || (left.0 == 0 && bytes > 0) {
                break;
            }
            match self.take_share(fetch, *at, left) {
                Ok(taken) if taken.told.is_empty() => {}
                Ok(taken) => {
                    records += records_of(&taken.told);
                    let joined = joined(taken.batches);
                    bytes += joined.len();
                    let acquired = taken.told.into_iter().map(|one| {
                        AcquiredRecords::default()
                            .with_first_offset(one.first)
                            .with_last_offset(one.last)
                            .with_delivery_count(one.deliveries)
                    });
                    let partition = told.entry(*at).or_insert_with(|| self.told_partition(at.1));
                    partition.acquired_records = acquired.collect();
                    partition.records = Some(joined);
                }
                Err(error) => {
                    has_error = true;
                    let partition = told.entry(*at).or_insert_with(|| self.told_partition(at.1));
                    (partition.error_code, partition.error_message) = (error.code(), sentence(&error));
                }
            }
        }
        (bytes, has_error)
    }

    /// Takes what is free of one partition, and the batches it lies in.
    fn take_share(
        &self,
        fetch: &Fetch<'_>,
        (id, index): At,
        (bytes_left, records_max): (usize, i64),
    ) -> Result<Taken, BrokerError> {
        let topic = self.topic_by_id(id).ok_or(BrokerError::UnknownTopicId)?;
        let at = topic.partition(index)?;
        let key = ShareKey { group: fetch.group.to_owned(), topic: id, index };
        let slot = self.share_partition(&key, &at, &fetch.settings)?;
        let mut partition = lock(&slot);
        partition.expire(&fetch.settings, fetch.taking.now_ms);
        let (start, end) = self.log.offsets(&at)?;
        partition.trim(start);
        let taking = Taking { records_max, ..fetch.taking.clone() };
        let mut taken = Taken::default();
        while let Some(next) = partition.next_fetch(&fetch.settings).filter(|next| *next < end) {
            let batches = self.log.read(&at, next, bytes_left)?.batches;
            for (batch, is_deliverable) in self.looked_at(&topic, &at, batches, &fetch.settings)? {
                let range = (batch.base_offset(), batch.next_offset() - 1);
                if !is_deliverable {
                    partition.archive(range.0, range.1);
                    continue;
                }
                let before = records_of(&taken.told);
                let more = partition.acquire(range, &taking, &fetch.settings, &mut taken.told);
                if records_of(&taken.told) > before {
                    taken.batches.push(batch);
                }
                if !more {
                    return Ok(taken);
                }
            }
            // markers and aborted records alone: look behind them
            if !taken.told.is_empty() || partition.next_fetch(&fetch.settings) == Some(next) {
                break;
            }
        }
        Ok(taken)
    }

    /// The batches that are decided, and of each whether its records may be given to a member: not those of markers and, for
    /// `read_committed`, of aborted transactions.
    fn looked_at(
        &self,
        topic: &Topic,
        at: &TopicPartition,
        mut batches: Vec<Batch>,
        settings: &ShareSettings,
    ) -> Result<Vec<(Batch, bool)>, BrokerError> {
        let mut aborted = Vec::new();
        if settings.is_committed {
            let state = topic.state(at.partition)?;
            state.load(&self.log, at)?;
            let stable = state.last_stable(i64::MAX);
            batches.retain(|batch| batch.base_offset() < stable);
            let from = batches.first().map_or(0, Batch::base_offset);
            aborted = state.aborted_in(from, batches.last().map_or(0, Batch::next_offset));
        }
        let looked_at = batches.into_iter().map(|batch| {
            let header = batch.header();
            let is_nothing = header.is_control() || aborted.iter().any(|one| one.holds(&header));
            (batch, !is_nothing)
        });
        Ok(looked_at.collect())
    }

    /// The state of a partition in a group; begun where `share.auto.offset.reset` says if there is none.
    fn share_partition(
        &self,
        key: &ShareKey,
        at: &TopicPartition,
        settings: &ShareSettings,
    ) -> Result<Arc<Mutex<SharePartition>>, BrokerError> {
        let found = lock(&self.shares).partitions.get(key).map(Arc::clone);
        if let Some(found) = found {
            return Ok(found);
        }
        let (start, end) = self.log.offsets(at)?;
        let begin = match settings.reset {
            Reset::Earliest => start,
            Reset::Latest => end,
            Reset::ByDuration(ms) => {
                let found = self.log.offset_for_time(at, (self.clock.now_ms() - ms).max(0))?;
                found.map_or(end, |(offset, _)| offset)
            }
        };
        let mut fresh = SharePartition::new(begin);
        self.write_share(key, &mut fresh)?;
        let mut shares = lock(&self.shares);
        // another member may have been faster; both begin at their own look, the first counts
        Ok(Arc::clone(shares.partitions.entry(key.clone()).or_insert_with(|| Arc::new(Mutex::new(fresh)))))
    }

    pub(crate) fn on_share_acknowledge(
        &self,
        request: ShareAcknowledgeRequest,
        extras: ShareExtras,
    ) -> Reply {
        let group = request.group_id.as_ref().map(|id| id.to_string()).unwrap_or_default();
        let settings = lock(&self.shares).settings(&group);
        let lock_timeout_ms = i32::try_from(settings.record_lock_ms).unwrap_or(i32::MAX);
        let response = match self.share_acknowledged(&group, request, extras, &settings) {
            Ok(topics) => ShareAcknowledgeResponse::default().with_responses(topics),
            Err(error) => ShareAcknowledgeResponse::default()
                .with_error_code(error.code())
                .with_error_message(sentence(&error)),
        };
        Reply::ShareAcknowledge(Box::new(response), lock_timeout_ms)
    }

    fn share_acknowledged(
        &self,
        group: &str,
        request: ShareAcknowledgeRequest,
        extras: ShareExtras,
        settings: &ShareSettings,
    ) -> Result<Vec<ShareAcknowledgeTopicResponse>, BrokerError> {
        let member = member_of(request.member_id.as_ref())?;
        let step = lock(&self.shares).step_session(group, member, request.share_session_epoch, false)?;
        let mut all: BTreeMap<At, Vec<Acknowledgement>> = BTreeMap::new();
        for topic in request.topics {
            for partition in topic.partitions {
                let ranges = partition.acknowledgement_batches.into_iter().map(|batch| Acknowledgement {
                    first: batch.first_offset,
                    last: batch.last_offset,
                    kinds: batch.acknowledge_types,
                });
                let at = (topic.topic_id.into_bytes(), partition.partition_index);
                all.entry(at).or_default().extend(ranges);
            }
        }
        let mut topics: BTreeMap<TopicId, Vec<AcknowledgedPartition>> = BTreeMap::new();
        for ((topic, index), result) in self.acknowledge_shares(group, member, all, settings, extras.is_renew)
        {
            let mut partition = AcknowledgedPartition::default().with_partition_index(index);
            partition.current_leader.leader_id = -1;
            partition.current_leader.leader_epoch = -1;
            if let Err(error) = result {
                partition = partition.with_error_code(error.code()).with_error_message(sentence(&error));
            }
            topics.entry(topic).or_default().push(partition);
        }
        if step == SessionStep::Ends {
            self.give_back(group, member);
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            ShareAcknowledgeTopicResponse::default()
                .with_topic_id(Uuid::from_bytes(topic))
                .with_partitions(partitions)
        });
        Ok(topics.collect())
    }
}

fn member_of(member: Option<&StrBytes>) -> Result<&str, BrokerError> {
    match member.map(|id| id.as_str()) {
        Some(id) if !id.is_empty() => Ok(id),
        _ => Err(BrokerError::InvalidRequest("a share session needs a member id".to_owned())),
    }
}

/// The bytes of whole batches, one after the other; not copied if there is one.
fn joined(batches: Vec<Batch>) -> Bytes {
    let mut batches = batches.into_iter().map(Batch::into_bytes);
    let Some(first) = batches.next() else { return Bytes::new() };
    let rest: Vec<Bytes> = batches.collect();
    if rest.is_empty() {
        return first;
    }
    let mut all = BytesMut::with_capacity(first.len() + rest.iter().map(Bytes::len).sum::<usize>());
    all.extend_from_slice(&first);
    rest.iter().for_each(|one| all.extend_from_slice(one));
    all.freeze()
}
