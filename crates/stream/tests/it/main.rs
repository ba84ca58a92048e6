//! Query plans on a bus in memory: what goes in, what comes out, and what survives a kill.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod joins;
mod keys;
mod plans;
mod runs;
mod windows;
