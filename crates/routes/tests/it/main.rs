//! Routes against real servers and real files.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod files;
mod http;
mod refusals;
mod servers;
mod steps;
mod support;
