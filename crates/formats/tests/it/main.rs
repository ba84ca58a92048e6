//! What decoders and encoders owe their callers, through the public API only.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod delimited_and_kafka;
mod json;
mod support;
