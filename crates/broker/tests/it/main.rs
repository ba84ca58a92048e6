//! The broker as a process, against clients that were not written for it.
//!
//! Needs `kcat`, `openssl` and `python3` with venv; the Python clients are installed once into `$HERDSMAN_TEST_CACHE` (default: the
//! folder `test-cache` beside the build).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod clients;
mod hostile;
mod java;
mod members;
mod security;
mod server;
