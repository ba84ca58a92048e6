//! Any bytes as a frame, header and all: decoded or refused, never a panic, never much memory.
#![no_main]

use bytes::Bytes;
use herdsman_wire::{Request, RequestError};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match Request::decode(Bytes::copy_from_slice(bytes)) {
        Ok(_) | Err(RequestError::Malformed { .. }) => {}
        Err(RequestError::Unsupported { head }) => {
            assert!(!herdsman_wire::request::refusal(&head).is_empty());
        }
        Err(_) => {}
    }
});
