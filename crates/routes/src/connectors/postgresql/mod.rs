//! `postgresql:HOST:PORT/DATABASE?table=NAME`: batches into a table, upserted by key.
//!
//! Guarantee: effectively once per key. A batch is one transaction: binary COPY into a temporary table, then one
//! `INSERT … ON CONFLICT (key) DO UPDATE` (or `DO NOTHING`), the last record of a key in the batch winning. A batch
//! that is delivered twice leaves the same rows. Without a key (`key=none`) rows may repeat: at least once.
//!
//! The key is `event_id` unless `key` names other columns: from the header `event-id`, else the field, else made
//! from topic, partition and offset. Columns take the JSON fields of the same name; what does not fit its column's
//! type is the record's fault (classes 22, 23 and 54 of SQLSTATE too, found by halving); everything else is tried
//! again.
//!
//! Options: `table` (or `schema.table`), `user`, `password`, `key`, `onConflict` (`update`, `nothing`), `columns`
//! (`player,points:bigint`; default: the table's, or the fields that come), `autoCreate` (true: makes the table and
//! missing columns), `connectTimeout` (5 s), `statementTimeout` (60 s).

mod config;
mod encode;
mod service;
mod sink;
mod table;

pub(crate) use config::Config;
pub(crate) use sink::PostgreSqlSink;
