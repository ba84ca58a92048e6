//! The ledger: what must hold under faults, shown by seeds and kept by line.
//!
//! A [`Row`] is one kind of trouble (crashes in simulation, `kill -9`, power cuts, hostile sockets …) with two figures: what every
//! change must pass, run by `./test`, and what was reached once on demand. `cargo run --release -p herdsman-sim -- ROW`
//! runs one and adds a line to `sim/LEDGER.jsonl`; a failure prints its seed and the command that replays it.

pub mod connection;
pub mod house;
pub mod ledger;
pub mod row;
pub mod rows;
pub mod script;
pub mod server;
pub mod tape;
mod world;

pub use row::{Failure, Order, Row, Tally};
