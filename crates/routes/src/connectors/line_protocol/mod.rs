//! `questdb:HOST:PORT/TABLE` and `influxdb:HOST:PORT/DATABASE?measurement=NAME`: line protocol over HTTP `/write`.
//!
//! Guarantee: effectively once where the server replaces equal rows. QuestDB: the table is made with
//! `DEDUP UPSERT KEYS(timestamp, event_id)` (or the columns of `key`), so a batch that is delivered twice leaves
//! the same rows; into a table that someone made without it, at least once. InfluxDB replaces points of equal
//! tags and time: give it tags that tell events apart (`symbols`). A request is one batch, all or nothing; 400 is
//! a record's fault, found by the line that the reply names, else by halving; 5xx and broken connections are tried again.
//!
//! Options: `table`/`measurement`, `timestamp` (field with ms since the epoch or ISO 8601; default: the record's
//! time), `symbols`, `key` (`event_id`), `autoCreate` (true), `user`, `password`, `token`, `connectTimeout` (5 s),
//! `responseTimeout` (30 s).

mod config;
mod encode;
mod sink;

pub(crate) use config::Config;
pub(crate) use sink::LineProtocolSink;
