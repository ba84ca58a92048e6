//! Telling a client how long it is muted, and measuring how long a request kept the broker busy.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use herdsman_host::Clock;
use herdsman_wire::kafka_protocol::messages::ResponseKind;
use herdsman_wire::{Answer, Reply};

/// The answer with its `throttle_time_ms`; the client is muted for as long, because older ones do not wait (KIP-219).
pub(super) fn throttled(mut reply: Reply, wait_ms: u64) -> Answer {
    if wait_ms > 0 {
        tell(&mut reply, i32::try_from(wait_ms).unwrap_or(i32::MAX));
    }
    Answer { mute: Duration::from_millis(wait_ms), ..reply.into() }
}

macro_rules! tell_in {
    ($response:expr, $wait_ms:expr, $($kind:ident)*) => {
        match $response {
            $(ResponseKind::$kind(response) => response.throttle_time_ms = $wait_ms,)*
            _ => {}
        }
    };
}

fn tell(reply: &mut Reply, wait_ms: i32) {
    match reply {
        Reply::Fetch(fetch) => fetch.throttle_time_ms = wait_ms,
        Reply::ShareAcknowledge(response, _) => response.throttle_time_ms = wait_ms,
        Reply::Message(response) => tell_in!(
            &mut **response, wait_ms,
            Produce ListOffsets Metadata OffsetCommit OffsetFetch FindCoordinator JoinGroup Heartbeat LeaveGroup
            SyncGroup DescribeGroups ListGroups ApiVersions CreateTopics DeleteTopics DeleteRecords InitProducerId
            OffsetForLeaderEpoch AddPartitionsToTxn AddOffsetsToTxn EndTxn TxnOffsetCommit DescribeAcls CreateAcls
            DeleteAcls DescribeConfigs AlterConfigs DescribeLogDirs CreatePartitions DeleteGroups ElectLeaders
            IncrementalAlterConfigs AlterPartitionReassignments ListPartitionReassignments OffsetDelete
            DescribeClientQuotas AlterClientQuotas DescribeUserScramCredentials AlterUserScramCredentials
            UpdateFeatures DescribeCluster DescribeProducers DescribeTransactions ListTransactions
            ConsumerGroupHeartbeat ConsumerGroupDescribe GetTelemetrySubscriptions PushTelemetry ListConfigResources
            DescribeTopicPartitions ShareGroupHeartbeat ShareGroupDescribe ShareFetch ShareAcknowledge
            DescribeShareGroupOffsets AlterShareGroupOffsets DeleteShareGroupOffsets
        ),
        Reply::Nothing | Reply::Close => {}
    }
}

/// Runs `work`; its result, and the time it was at work (not waiting).
pub(super) async fn timed<T>(clock: &dyn Clock, work: impl Future<Output = T>) -> (T, Duration) {
    let mut work = pin!(work);
    let mut busy_ns = 0;
    let result = std::future::poll_fn(|context| {
        let begin_ns = clock.monotonic_ns();
        let polled = work.as_mut().poll(context);
        busy_ns += clock.monotonic_ns() - begin_ns;
        match polled {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    (result, Duration::from_nanos(busy_ns))
}
