//! The guard against real servers: Redis, memcached, its own cache, and ones that misbehave.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod failure;
mod herd;
mod nodes;
mod processes;
mod proxy;
mod records;
mod servers;
mod tracking;
mod values;
