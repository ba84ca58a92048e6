//! The program as a user runs it: real process, real files, real servers.

#![allow(clippy::unwrap_used, reason = "tests")]

mod cluster;
mod hunt;
mod mistakes;
mod program;
mod rest;
