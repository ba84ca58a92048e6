//! Mirrors between buses in memory, and between three real broker processes of which one is killed.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod in_memory;
mod three_processes;
