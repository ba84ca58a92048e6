//! What the planner hands to the runtime: one [`QueryPlan`] per persistent or push query.
//!
//! A plan is a tree of [`Node`]s. Each node's output has a [`Schema`]; a runtime batch carries the schema's columns
//! (key first) plus, outside them, row time, window bounds and a tombstone mark for table rows. System columns that
//! a query names (ROWTIME, ROWPARTITION, ROWOFFSET, WINDOWSTART, WINDOWEND, HEADERS) are appended by the source node
//! as ordinary value columns ([`Source::pseudo`]).

use std::sync::Arc;

use crate::aggregate::AggregateCall;
use crate::expr::Expr;
use crate::functions::TableFunction;
use crate::{Column, Schema};

pub use herdsman_formats::{Format, FormatSpec, WindowedKey};

/// System columns that a source can append to its value columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PseudoColumn {
    /// ROWTIME BIGINT: event time in ms.
    RowTime,
    /// ROWPARTITION INTEGER
    RowPartition,
    /// ROWOFFSET BIGINT
    RowOffset,
    /// WINDOWSTART BIGINT
    WindowStart,
    /// WINDOWEND BIGINT
    WindowEnd,
    /// HEADERS: ARRAY<STRUCT<KEY STRING, VALUE BYTES>>
    Headers,
    /// HEADER('name'): BYTES
    Header(String),
}

/// Where a row's event time comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimestampColumn {
    /// Index of the column in the schema (key first).
    pub index: usize,
    /// Pattern of a STRING column (`TIMESTAMP_FORMAT`); BIGINT and TIMESTAMP columns have none.
    pub format: Option<String>,
}

/// A topic read as a stream or a table.
#[derive(Debug, Clone)]
pub struct Source {
    /// Name of the stream or table in the catalog.
    pub name: String,
    /// Topic.
    pub topic: String,
    /// Columns as declared.
    pub schema: Schema,
    /// Key format.
    pub key_format: FormatSpec,
    /// Value format.
    pub value_format: FormatSpec,
    /// Window of the key, if windowed.
    pub windowed: Option<WindowedKey>,
    /// Event time column; record timestamp if none.
    pub timestamp: Option<TimestampColumn>,
    /// System columns appended after the value columns, in this order.
    pub pseudo: Vec<PseudoColumn>,
    /// Indices (key first) of the declared columns that the query reads; others may be left null by the decoder.
    pub needed: Vec<usize>,
}

/// A table behind the guard: `CREATE TABLE … WITH (CACHE=…, KEY_PATTERN=…)`.
#[derive(Debug, Clone)]
pub struct CacheTable {
    /// Name of the table.
    pub name: String,
    /// Name of the cache in the configuration.
    pub cache: String,
    /// Key pattern, for example `treasure:{id}`; one placeholder, the primary key.
    pub key_pattern: String,
    /// Primary key column, then value columns.
    pub schema: Schema,
    /// Format of the cached value (JSON today).
    pub value_format: FormatSpec,
}

/// INNER, LEFT, RIGHT or FULL OUTER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinKind {
    /// Rows with a partner only.
    Inner,
    /// All rows of the left side.
    Left,
    /// All rows of the right side.
    Right,
    /// All rows of both sides.
    Outer,
}

/// Window of an aggregate. Times are milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// `TUMBLING (SIZE …)`
    Tumbling {
        /// Size in ms.
        size_ms: i64,
    },
    /// `HOPPING (SIZE …, ADVANCE BY …)`
    Hopping {
        /// Size in ms.
        size_ms: i64,
        /// Advance in ms.
        advance_ms: i64,
    },
    /// `SESSION (gap)`
    Session {
        /// Inactivity gap in ms.
        gap_ms: i64,
    },
}

/// A window with its grace period and retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSpec {
    /// The window.
    pub window: Window,
    /// Grace period in ms (ksqlDB's default: 24 h less the window size, at least 0).
    pub grace_ms: i64,
    /// Retention in ms, at least size + grace.
    pub retention_ms: i64,
}

/// When an aggregate's or suppressed table's rows are emitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emit {
    /// Every change (per batch, the last per key).
    Changes,
    /// Once per window, when stream time passes its end plus grace.
    Final,
}

/// One output column: its name and expression over the input.
#[derive(Debug, Clone)]
pub struct NamedExpr {
    /// Output name.
    pub name: String,
    /// Expression over the input node's columns.
    pub expr: Expr,
}

/// A step of a plan.
#[derive(Debug, Clone)]
pub enum Node {
    /// Reads a topic as a stream.
    StreamSource(Source),
    /// Reads a topic as a table (changelog semantics, tombstones delete; state is materialised).
    TableSource(Source),
    /// Keeps rows (for tables: turns filtered-out rows into tombstones) for which the predicate is true.
    Filter {
        /// Input.
        input: Box<Node>,
        /// BOOLEAN over the input's columns.
        predicate: Expr,
    },
    /// Computes new value columns; the key is kept (its columns may be renamed).
    Project {
        /// Input.
        input: Box<Node>,
        /// New names of the key columns, same order.
        key_names: Vec<String>,
        /// New value columns.
        columns: Vec<NamedExpr>,
    },
    /// Changes the key (PARTITION BY, a join on another column, GROUP BY on other columns): the input's value columns
    /// are kept as they are, the key columns become `key`.
    Rekey {
        /// Input.
        input: Box<Node>,
        /// New key columns over the input's columns; empty: null key (PARTITION BY NULL).
        key: Vec<NamedExpr>,
        /// New value columns over the input's columns (usually: all that is needed later).
        columns: Vec<NamedExpr>,
        /// Whether rows with equal new keys may lie in different partitions, so that a repartition topic is needed.
        /// The planner sets it to `false` when the new key contains the old one (equal new keys ⇒ equal old keys).
        repartition: bool,
        /// Formats of the repartition topic.
        key_format: FormatSpec,
        /// Value format of the repartition topic.
        value_format: FormatSpec,
    },
    /// Table functions in SELECT: the input's columns, plus one column per function; shorter results pad with null.
    FlatMap {
        /// Input.
        input: Box<Node>,
        /// Function, arguments over the input's columns, and name of the new column.
        functions: Vec<(Arc<TableFunction>, Vec<Expr>, Column)>,
    },
    /// GROUP BY the input's key (a Rekey before it set that key), optionally windowed.
    /// Output: same key; value columns = `carried` then one per aggregate.
    Aggregate {
        /// Input (key = grouping columns).
        input: Box<Node>,
        /// Whether the input is a table (then updates undo the old row first).
        from_table: bool,
        /// Aggregates with their argument expressions over the input.
        aggregates: Vec<AggregateCall>,
        /// Names of the aggregates' output columns.
        names: Vec<String>,
        /// Window, if any.
        window: Option<WindowSpec>,
        /// When rows go out.
        emit: Emit,
        /// Append WINDOWSTART and WINDOWEND (BIGINT) after the aggregates.
        window_bounds: bool,
    },
    /// Stream joined with a table on the stream's key (= table's key). Output: left key; left values, then right key and values.
    StreamTableJoin {
        /// The stream.
        left: Box<Node>,
        /// The table.
        right: Box<Node>,
        /// Inner or Left.
        kind: JoinKind,
        /// Name of the output key column.
        key_name: String,
    },
    /// Two streams joined on their keys within a time range. Output: key; left key and values, right key and values.
    StreamStreamJoin {
        /// Left stream.
        left: Box<Node>,
        /// Right stream.
        right: Box<Node>,
        /// Inner, Left, Right, Outer.
        kind: JoinKind,
        /// Right rows may be this much older than left ones, ms.
        before_ms: i64,
        /// Right rows may be this much younger than left ones, ms.
        after_ms: i64,
        /// Grace period, ms; `None`: ksqlDB's default of 24 h with eager outer results.
        grace_ms: Option<i64>,
        /// Name of the output key column.
        key_name: String,
    },
    /// Two tables joined on their primary keys. Output: key; left key and values, right key and values.
    TableTableJoin {
        /// Left table.
        left: Box<Node>,
        /// Right table.
        right: Box<Node>,
        /// Inner, Left, Right, Outer.
        kind: JoinKind,
        /// Name of the output key column.
        key_name: String,
    },
    /// A table joined with another on a foreign key expression of the left. Output: left key; left values, then the
    /// right's key and values.
    ForeignKeyJoin {
        /// Left table.
        left: Box<Node>,
        /// Right table.
        right: Box<Node>,
        /// Inner or Left.
        kind: JoinKind,
        /// Expression over the left's columns that gives the right's primary key.
        foreign_key: Expr,
    },
    /// Stream joined with a cache-backed table through the guard, batch by batch; no repartition is ever needed.
    /// Output: left key; left values, then the table's key and values.
    CacheJoin {
        /// The stream.
        left: Box<Node>,
        /// The table.
        table: Arc<CacheTable>,
        /// Expression over the left's columns that gives the table's primary key.
        key: Expr,
        /// Inner or Left.
        kind: JoinKind,
    },
}

/// Where results go.
#[derive(Debug, Clone)]
pub enum Sink {
    /// A topic (persistent query).
    Topic {
        /// Topic name.
        topic: String,
        /// Columns of the result.
        schema: Schema,
        /// Key format.
        key_format: FormatSpec,
        /// Value format.
        value_format: FormatSpec,
        /// Column that gives the records' timestamps; the row's event time if none.
        timestamp: Option<TimestampColumn>,
    },
    /// A client that reads as long as it likes (push query).
    Push {
        /// Columns of the result.
        schema: Schema,
    },
}

/// One query, ready to run.
#[derive(Debug, Clone)]
pub struct QueryPlan {
    /// Query id, for example `CTAS_CLAIMS_3`; also names its internal topics and its consumer group
    /// (`_confluent-ksql-<service id>query_<id>`).
    pub id: String,
    /// Root of the tree; its output schema is the sink's.
    pub root: Node,
    /// Whether the result is a table (tombstones, last value per key) or a stream.
    pub is_table: bool,
    /// Where it goes.
    pub sink: Sink,
}
