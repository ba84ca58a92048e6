//! Where partitions lie, as administrators ask it: DescribeLogDirs, ElectLeaders, AlterPartitionReassignments and
//! ListPartitionReassignments, answered as a Kafka cluster of one node with one log directory does.

use std::collections::BTreeSet;

use herdsman_wire::kafka_protocol::ResponseError;
use herdsman_wire::kafka_protocol::messages::alter_partition_reassignments_request::ReassignablePartition;
use herdsman_wire::kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use herdsman_wire::kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use herdsman_wire::kafka_protocol::messages::elect_leaders_response::{
    PartitionResult, ReplicaElectionResult,
};
use herdsman_wire::kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, DescribeLogDirsRequest,
    DescribeLogDirsResponse, ElectLeadersRequest, ElectLeadersResponse, ListPartitionReassignmentsResponse,
    TopicName,
};
use herdsman_wire::kafka_protocol::protocol::StrBytes;

use crate::Broker;
use crate::topic::Topic;

/// An error of the protocol and its sentence.
type Refusal = (ResponseError, String);

fn said(refusal: Refusal) -> (i16, Option<StrBytes>) {
    (refusal.0.code(), Some(StrBytes::from_string(refusal.1)))
}

impl Broker {
    /// Sizes in bytes of the partitions asked for, or of all; what is not here is left out. The volume's size is not
    /// told (-1, the protocol's "unknown").
    pub(crate) fn on_describe_log_dirs(&self, request: DescribeLogDirsRequest) -> DescribeLogDirsResponse {
        let topics = match request.topics {
            None => self.all_topics().iter().map(|topic| self.sizes(topic, None)).collect(),
            Some(asked) => asked
                .into_iter()
                .filter_map(|one| Some(self.sizes(&*self.topic(&one.topic)?, Some(one.partitions))))
                .collect(),
        };
        let dir = self.log.dir();
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        let result = DescribeLogDirsResult::default()
            .with_log_dir(StrBytes::from_string(dir.display().to_string()))
            .with_topics(topics);
        DescribeLogDirsResponse::default().with_results(vec![result])
    }

    fn sizes(&self, topic: &Topic, asked: Option<Vec<i32>>) -> DescribeLogDirsTopic {
        let asked = asked.unwrap_or_else(|| (0..topic.meta.partitions).collect());
        let partitions = asked.into_iter().filter_map(|index| {
            let size = self.log.size(&topic.partition(index).ok()?).ok()?;
            let one = DescribeLogDirsPartition::default().with_partition_index(index);
            Some(one.with_partition_size(i64::try_from(size).unwrap_or(i64::MAX)))
        });
        DescribeLogDirsTopic::default()
            .with_name(TopicName(StrBytes::from_string(topic.meta.name.to_string())))
            .with_partitions(partitions.collect())
    }

    /// The one replica leads already. Asked for all partitions, Kafka leaves out those that need no election.
    pub(crate) fn on_elect_leaders(&self, request: ElectLeadersRequest) -> ElectLeadersResponse {
        if !(0..=1).contains(&request.election_type) {
            return ElectLeadersResponse::default().with_error_code(ResponseError::InvalidRequest.code());
        }
        let results = request.topic_partitions.unwrap_or_default().into_iter().map(|asked| {
            let partitions = asked.partitions.into_iter().map(|index| {
                let (code, message) = said(self.unknown(&asked.topic, index).unwrap_or_else(|| {
                    let sentence = format!("node {} leads it already", self.config.node_id);
                    (ResponseError::ElectionNotNeeded, sentence)
                }));
                let one = PartitionResult::default().with_partition_id(index);
                one.with_error_code(code).with_error_message(message)
            });
            let partitions = partitions.collect();
            ReplicaElectionResult::default().with_topic(asked.topic).with_partition_result(partitions)
        });
        ElectLeadersResponse::default().with_replica_election_results(results.collect())
    }

    /// A partition may be placed where it is; any other place is refused by name.
    pub(crate) fn on_alter_reassignments(
        &self,
        request: AlterPartitionReassignmentsRequest,
    ) -> AlterPartitionReassignmentsResponse {
        let responses = request.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|asked| {
                let one =
                    ReassignablePartitionResponse::default().with_partition_index(asked.partition_index);
                let refusal =
                    self.unknown(&topic.name, asked.partition_index).or_else(|| self.cannot_place(asked));
                let (code, message) = refusal.map_or((0, None), said);
                one.with_error_code(code).with_error_message(message)
            });
            let partitions = partitions.collect();
            ReassignableTopicResponse::default().with_name(topic.name).with_partitions(partitions)
        });
        AlterPartitionReassignmentsResponse::default()
            .with_allow_replication_factor_change(request.allow_replication_factor_change)
            .with_responses(responses.collect())
    }

    /// No partition is ever under way.
    pub(crate) fn on_list_reassignments() -> ListPartitionReassignmentsResponse {
        ListPartitionReassignmentsResponse::default()
    }

    fn cannot_place(&self, asked: &ReassignablePartition) -> Option<Refusal> {
        let Some(replicas) = &asked.replicas else {
            let sentence = "no reassignment is in progress: there is nothing to cancel".to_owned();
            return Some((ResponseError::NoReassignmentInProgress, sentence));
        };
        let places: BTreeSet<i32> = replicas.iter().map(|id| id.0).collect();
        let here = places.len() == replicas.len() && places == BTreeSet::from([self.config.node_id]);
        (!here).then(|| {
            let sentence = format!("node {} is the only one: ask for it alone", self.config.node_id);
            (ResponseError::InvalidReplicaAssignment, sentence)
        })
    }

    fn unknown(&self, topic: &str, index: i32) -> Option<Refusal> {
        let known = self.topic(topic).is_some_and(|topic| topic.partition(index).is_ok());
        let sentence = || format!("there is no partition {topic}-{index}");
        (!known).then(|| (ResponseError::UnknownTopicOrPartition, sentence()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use herdsman_host::{RealDisk, SimClock};
    use herdsman_log::LogConfig;
    use herdsman_wire::kafka_protocol::messages::BrokerId;
    use herdsman_wire::kafka_protocol::messages::alter_partition_reassignments_request::ReassignableTopic;
    use herdsman_wire::kafka_protocol::messages::elect_leaders_request::TopicPartitions;

    use super::*;
    use crate::BrokerConfig;

    const FINDS: TopicName = TopicName(StrBytes::from_static_str("finds"));

    fn broker(dir: &std::path::Path) -> Broker {
        let clock = Arc::new(SimClock::new(1_700_000_000_000));
        let config = BrokerConfig::default();
        let (broker, _) = Broker::open(Arc::new(RealDisk), dir, clock, LogConfig::default(), config).unwrap();
        broker.create_topic("finds", 2, &BTreeMap::new()).unwrap();
        broker
    }

    #[test]
    fn a_partition_may_be_placed_on_this_node_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let broker = broker(dir.path());
        let here = broker.config.node_id;
        let place = |index, replicas: Option<&[i32]>| {
            let replicas = replicas.map(|ids| ids.iter().copied().map(BrokerId).collect());
            let partition =
                ReassignablePartition::default().with_partition_index(index).with_replicas(replicas);
            let topic = ReassignableTopic::default().with_name(FINDS).with_partitions(vec![partition]);
            let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]);
            broker.on_alter_reassignments(request).responses[0].partitions[0].error_code
        };
        assert_eq!(place(1, Some(&[here])), 0);
        assert_eq!(place(2, Some(&[here])), ResponseError::UnknownTopicOrPartition.code());
        for wrong in [&[][..], &[here, here], &[here + 1], &[here, here + 1]] {
            assert_eq!(place(0, Some(wrong)), ResponseError::InvalidReplicaAssignment.code(), "{wrong:?}");
        }
        assert_eq!(place(0, None), ResponseError::NoReassignmentInProgress.code());
    }

    #[test]
    fn no_election_is_needed_of_the_one_replica_and_only_known_kinds_are_held() {
        let dir = tempfile::tempdir().unwrap();
        let broker = broker(dir.path());
        let elect = |kind, topics: Option<Vec<i32>>| {
            let topics =
                topics.map(|all| vec![TopicPartitions::default().with_topic(FINDS).with_partitions(all)]);
            let request =
                ElectLeadersRequest::default().with_election_type(kind).with_topic_partitions(topics);
            broker.on_elect_leaders(request)
        };
        let answer = elect(1, Some(vec![1, 2]));
        let codes: Vec<_> = answer.replica_election_results[0]
            .partition_result
            .iter()
            .map(|one| (one.partition_id, one.error_code))
            .collect();
        let (no_need, unknown) = (ResponseError::ElectionNotNeeded, ResponseError::UnknownTopicOrPartition);
        assert_eq!((answer.error_code, codes), (0, vec![(1, no_need.code()), (2, unknown.code())]));
        assert_eq!(elect(0, None).replica_election_results, vec![], "all: those that need one");
        assert_eq!(elect(2, None).error_code, ResponseError::InvalidRequest.code());
    }
}
