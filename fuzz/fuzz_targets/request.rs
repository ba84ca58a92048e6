//! Any bytes as the body of a request of some served API and version, behind a header that is right.
#![no_main]

use bytes::{BufMut, Bytes, BytesMut};
use herdsman_wire::{Request, supported};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (choice, at, body) = input;
    let all = supported();
    let (api, min, max) = all[usize::from(choice) % all.len()];
    let version = min + i16::from(at) % (max - min + 1);
    let mut frame = BytesMut::new();
    frame.put_i16(api as i16);
    frame.put_i16(version);
    frame.put_i32(7);
    frame.put_slice(&[0, 1, b'x']);
    if api.request_header_version(version) >= 2 {
        frame.put_u8(0);
    }
    frame.put_slice(body);
    let _ = Request::decode(Bytes::from(frame));
});
