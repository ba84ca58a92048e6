//! Operators on Arrow batches: expressions, functions, aggregates, joins, windows, state, tasks.
//!
//! Reading order: [`plan`] (what a query is) → [`topology`] (stages cut at repartition topics) → [`task`] (one stage on
//! one partition) → [`operator`] and [`operators`] (the steps) with their state in [`slots`], [`table_store`], [`keys`]
//! → [`query`] (a query on one thread: sources, sinks, changelogs, commit) → [`worker`] (a thread's duty cycle) →
//! [`runtime`] (the handle that SQL and the server hold). [`expr`], [`eval`], [`functions`] and [`aggregate`] are what
//! expressions compute.
//!
//! What makes results independent of threads, batches and kills: a task owns its partition's state; outputs,
//! changelogs and positions commit together; behind several upstream partitions each row carries the stream time of
//! its own, and windows close when the slowest of them has passed.

pub mod aggregate;
mod dead_letter;
pub mod eval;
pub mod expr;
pub mod frame;
pub mod functions;
mod idleness;
mod key_check;
pub mod keys;
pub mod numbers;
pub mod operator;
pub mod operators;
pub mod plan;
pub mod pull;
pub mod query;
pub mod query_shared;
mod reports;
pub mod rows;
pub mod runtime;
pub mod sink;
pub mod slots;
pub mod source;
pub mod status;
pub mod table_store;
pub mod task;
pub mod topology;
pub mod worker;

pub use herdsman_formats::types::{self, Column, Schema, SqlType};

pub use rows::Rows;
pub use runtime::{Runtime, RuntimeConfig, RuntimeError, StartAt};
