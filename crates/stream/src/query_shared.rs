//! What all threads and callers know of a query, and why it stops.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, MutexGuard, PoisonError};

use herdsman_bus::BusError;
use herdsman_formats::WindowedKey;
use herdsman_record::TopicPartition;

use crate::idleness::Activity;
use crate::key_check::KeyChecks;
use crate::operator::OperatorError;
use crate::plan::QueryPlan;
use crate::rows::Rows;
use crate::runtime::{QueryState, StartAt};
use crate::task::{Task, Upstreams};
use crate::topology::{Input, StageEnv, Topology};

/// What all threads and callers know of a query.
pub struct QueryShared {
    /// Plan.
    pub plan: QueryPlan,
    /// Stages.
    pub topology: Topology,
    /// Consumer group and prefix of internal topics.
    pub group: String,
    /// Where it begins without committed offsets.
    pub start: StartAt,
    /// Channel of a push query.
    pub push: Option<SyncSender<Result<Rows, String>>>,
    /// One task reads all partitions of the user's topics.
    pub gather: bool,
    /// Partitions of the sink topic.
    pub sink_partitions: i32,
    /// Window of the sink's keys.
    pub sink_window: Option<WindowedKey>,
    /// Source rows read.
    pub rows_in: AtomicU64,
    /// Result rows written.
    pub rows_out: AtomicU64,
    /// Late rows.
    pub late: AtomicU64,
    /// Failed rows.
    pub errors: AtomicU64,
    /// A thread could not go on; the others drop their part too.
    pub failed: AtomicBool,
    /// Whether what it joins by key has the keys it declares.
    pub key_checks: KeyChecks,
    /// When its first stages had rows.
    pub activity: Activity,
    /// State and last sentence.
    pub state: Mutex<(QueryState, Option<String>)>,
    /// Next offsets of user topics and repartition topics.
    pub positions: Mutex<BTreeMap<TopicPartition, i64>>,
}

impl QueryShared {
    /// Name of the repartition topic that stage `stage` writes.
    #[must_use]
    pub fn repartition_topic(&self, stage: usize) -> String {
        format!("{}-{stage}-repartition", self.group)
    }

    /// Name of the changelog of store `store` of stage `stage`.
    #[must_use]
    pub fn changelog_topic(&self, stage: usize, store: usize) -> String {
        format!("{}-{stage}-{store}-changelog", self.group)
    }

    /// Stores of a stage that have a changelog.
    ///
    /// # Errors   operators that cannot be made.
    pub fn stores(&self, stage: usize, synchronous: bool) -> Result<Vec<usize>, QueryError> {
        let of = &self.topology.stages[stage];
        let mut task = Task::new(stage, of, 0, StageEnv { observe: !synchronous && of.partitions > 1 })?;
        for (index, source) in of.sources.iter().enumerate() {
            task.upstreams[index] = self.upstreams(&source.input, synchronous);
        }
        Ok(task.stores())
    }

    /// Upstream partitions of a repartition input, where stream times are tracked.
    #[must_use]
    pub fn upstreams(&self, input: &Input, synchronous: bool) -> Option<Upstreams> {
        let Input::Repartition { stage } = input else { return None };
        let partitions = self.topology.stages[*stage].partitions;
        (partitions > 1 && !synchronous).then(|| Upstreams::new(partitions))
    }

    /// Name of the dead-letter topic.
    #[must_use]
    pub fn dead_letter_topic(&self) -> String {
        format!("{}-dead-letter", self.plan.id)
    }

    /// Topic that input `input` reads.
    #[must_use]
    pub fn input_topic(&self, input: &Input) -> String {
        match input {
            Input::Topic { source, .. } => source.topic.clone(),
            Input::Repartition { stage } => self.repartition_topic(*stage),
        }
    }

    /// State and last sentence.
    pub fn state(&self) -> MutexGuard<'_, (QueryState, Option<String>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Next offsets.
    pub fn positions(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, i64>> {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says `sentence` in the log and in the query's status.
    pub fn say(&self, sentence: String) {
        tracing::warn!(query = %self.plan.id, "{sentence}");
        self.state().1 = Some(sentence);
    }
}

/// Why a query stops.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// An operator.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// The bus.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A record batch.
    #[error(transparent)]
    Record(#[from] herdsman_record::RecordError),
    /// A format.
    #[error(transparent)]
    Format(#[from] herdsman_formats::FormatError),
    /// The client of a push query left.
    #[error("the client has gone")]
    Gone,
    /// The client of a push query reads too slowly.
    #[error("the client reads too slowly: 256 batches were waiting for it")]
    Slow,
}
