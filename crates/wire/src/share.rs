//! Versions 2 of ShareFetch and ShareAcknowledge (Apache Kafka 4.2), on top of the codec, which knows version 1.
//!
//! ```text
//! ShareFetch 2        … max_records i32 | batch_size i32 | acquire_mode i8 | is_renew_ack bool | topics …
//! ShareAcknowledge 2  group_id | member_id | share_session_epoch i32 | is_renew_ack bool | topics …
//! its answer          throttle_time_ms i32 | error_code i16 | error_message | acquisition_lock_timeout_ms i32 | …
//! ```
//! Source: KIP-1206 (acquire mode), KIP-1222 (renewal of acquisition locks).

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, ShareAcknowledgeResponse};
use kafka_protocol::protocol::Encodable;

/// Version of both APIs that the codec knows.
pub(crate) const KNOWN: i16 = 1;

/// What version 2 of a share request says beside version 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShareExtras {
    /// Whether `max_records` is a hard limit rather than one that whole batches may pass.
    pub is_record_limit: bool,
    /// Whether it renews acquisition locks; a fetch then fetches nothing.
    pub is_renew: bool,
}

/// Bytes of a compact string or null at the front of `bytes`, its length included.
fn text_len(bytes: &[u8]) -> Option<usize> {
    let (mut value, mut used) = (0_usize, 0);
    for shift in [0, 7, 14, 21, 28] {
        let byte = *bytes.get(used)?;
        used += 1;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return used.checked_add(value.saturating_sub(1)).filter(|len| *len <= bytes.len());
        }
    }
    None
}

/// Takes what only version 2 has out of `body`, which is then of version 1. `None`: too short.
pub(crate) fn take_extras(api: ApiKey, body: &Bytes) -> Option<(ShareExtras, Bytes)> {
    let group = text_len(body)?;
    let member = text_len(body.get(group..)?)?;
    let fixed = if api == ApiKey::ShareFetch { 6 * 4 } else { 4 };
    let at = group + member + fixed;
    let (extras, rest) = if api == ApiKey::ShareFetch {
        let [mode, renew] = *body.get(at..)?.first_chunk::<2>()?;
        (ShareExtras { is_record_limit: mode == 1, is_renew: renew != 0 }, at + 2)
    } else {
        (ShareExtras { is_record_limit: false, is_renew: *body.get(at)? != 0 }, at + 1)
    };
    let mut plain = BytesMut::with_capacity(body.len());
    plain.extend_from_slice(body.get(..at)?);
    plain.extend_from_slice(body.get(rest..)?);
    Some((extras, plain.freeze()))
}

/// The answer to ShareAcknowledge at `version`. Errors: what the codec cannot express.
pub(crate) fn encode_acknowledge(
    response: &ShareAcknowledgeResponse,
    lock_timeout_ms: i32,
    version: i16,
) -> Result<Bytes, String> {
    let mut plain = BytesMut::new();
    response.encode(&mut plain, KNOWN).map_err(|error| error.to_string())?;
    if version <= KNOWN {
        return Ok(plain.freeze());
    }
    // throttle time and error code stand before the message
    let at = plain.get(6..).and_then(text_len).map(|len| 6 + len).ok_or("answer cut short")?;
    let mut out = BytesMut::with_capacity(plain.len() + 4);
    out.extend_from_slice(plain.get(..at).unwrap_or_default());
    out.extend_from_slice(&lock_timeout_ms.to_be_bytes());
    out.extend_from_slice(plain.get(at..).unwrap_or_default());
    Ok(out.freeze())
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::{ShareAcknowledgeRequest, ShareFetchRequest};
    use kafka_protocol::protocol::{Decodable, StrBytes};

    use super::*;

    /// Group `workers`, member `m`, then `rest`.
    fn body(rest: &[&[u8]]) -> Bytes {
        Bytes::from([&b"\x08workers\x02m"[..], &rest.concat()].concat())
    }

    #[test]
    fn what_version_2_adds_is_taken_out_and_the_rest_is_version_1() {
        let numbers: Vec<u8> = (1..=6_i32).flat_map(i32::to_be_bytes).collect();
        let sent = body(&[&numbers, &[1, 1], &[1, 1, 0]]);
        let (extras, mut plain) = take_extras(ApiKey::ShareFetch, &sent).unwrap();
        assert_eq!(extras, ShareExtras { is_record_limit: true, is_renew: true });
        let fetch = ShareFetchRequest::decode(&mut plain, KNOWN).unwrap();
        assert_eq!((fetch.share_session_epoch, fetch.max_records, fetch.batch_size), (1, 5, 6));
        assert!(fetch.topics.is_empty() && plain.is_empty());

        let sent = body(&[&7_i32.to_be_bytes(), &[0], &[1, 0]]);
        let (extras, mut plain) = take_extras(ApiKey::ShareAcknowledge, &sent).unwrap();
        assert_eq!(extras, ShareExtras::default());
        let acknowledge = ShareAcknowledgeRequest::decode(&mut plain, KNOWN).unwrap();
        assert_eq!(acknowledge.share_session_epoch, 7);
        assert_eq!(acknowledge.member_id.as_deref(), Some("m"));
        assert_eq!(take_extras(ApiKey::ShareFetch, &Bytes::from_static(&[9, 1])), None);
    }

    #[test]
    fn the_lock_timeout_stands_behind_the_message() {
        let message = Some(StrBytes::from_static_str("no"));
        let response = ShareAcknowledgeResponse::default().with_error_code(5).with_error_message(message);
        let out = encode_acknowledge(&response, 30_000, 2).unwrap();
        assert_eq!(out.as_ref(), [0, 0, 0, 0, 0, 5, 3, b'n', b'o', 0, 0, 0x75, 0x30, 1, 1, 0]);
    }
}
