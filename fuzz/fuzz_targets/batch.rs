//! Any bytes as record batches: header, checksum, and every record with its headers.
//!
//! A fuzzer does not find checksums, so the one of each batch is set right before the records are read.
#![no_main]

use bytes::Bytes;
use herdsman_record::{Batch, batch::crc32c};
use libfuzzer_sys::fuzz_target;

/// Where the checksum stands, and where what it covers begins.
const CRC: std::ops::Range<usize> = 17..21;

fuzz_target!(|bytes: &[u8]| {
    let mut left = Bytes::copy_from_slice(bytes);
    while let Ok(batch) = Batch::split_first(&mut left) {
        let mut sealed = batch.bytes().to_vec();
        let crc = crc32c(&sealed[CRC.end..]);
        sealed[CRC].copy_from_slice(&crc.to_be_bytes());
        let Ok(batch) = Batch::from_bytes(Bytes::from(sealed)) else { continue };
        batch.check_crc().expect("the checksum was set");
        assert!(batch.next_offset() >= batch.base_offset());
        let Ok(records) = batch.records() else { continue };
        for record in records.iter() {
            let Ok(record) = record else { break };
            assert!(record.headers.iter().count() <= record.headers.len());
        }
    }
});
