//! How a query stands, for people and programs.

use herdsman_record::TopicPartition;

/// Where a query that has no committed offsets begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// At the first record of each source (`auto.offset.reset=earliest`).
    Earliest,
    /// Behind the last record that is there when the query starts.
    Latest,
}

/// What a query is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryState {
    /// Reads and writes.
    Running,
    /// Keeps its position and state, reads nothing.
    Paused,
    /// Stopped by an error (the sentence); RESUME tries again from the last commit.
    Error(String),
}

/// A query as it stands.
#[derive(Debug, Clone)]
pub struct QueryStatus {
    /// Query id.
    pub id: String,
    /// State.
    pub state: QueryState,
    /// Source rows read.
    pub rows_in: u64,
    /// Result rows written.
    pub rows_out: u64,
    /// Rows dropped because their window had closed.
    pub late_events: u64,
    /// Rows that could not be decoded or computed; they are on the dead-letter topic `<query id>-dead-letter`.
    pub errors: u64,
    /// The last error or warning sentence, if any.
    pub last_message: Option<String>,
    /// Records between the positions and the ends of source topics and repartition topics.
    pub lag: u64,
    /// Next offset per source partition.
    pub positions: Vec<(TopicPartition, i64)>,
    /// Source topics, repartition topics left out.
    pub sources: Vec<String>,
    /// Sink topic; `None` for push queries.
    pub sink: Option<String>,
    /// Whether the result is a table, so that [`Runtime::pull`](crate::Runtime::pull) can read it.
    pub is_table: bool,
}
