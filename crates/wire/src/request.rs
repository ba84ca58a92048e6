//! One request as bytes and as a value, and the answer to it.

use bytes::{Bytes, BytesMut};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, RequestHeader, RequestKind, ResponseHeader, ResponseKind,
    ShareAcknowledgeResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

use crate::share::{self, ShareExtras};
use crate::{Chunks, FetchReply, schema, versions};

/// First version of ApiVersions that tells features.
const FEATURES_SINCE: i16 = 3;

/// First version of Produce that is told, though 3 is the first served: librdkafka before 2.11 compresses only for brokers that
/// tell version 0, so Apache Kafka 4 tells it as well (KAFKA-18659).
const PRODUCE_TOLD_SINCE: i16 = 0;

/// Who asks what at which version.
#[derive(Debug, Clone)]
pub struct Head {
    /// API key, as sent.
    pub api_key: i16,
    /// Version of the API, as sent.
    pub api_version: i16,
    /// Number that the answer repeats.
    pub correlation_id: i32,
    /// Name the client gave itself.
    pub client_id: Option<StrBytes>,
}

/// A decoded request. (The codec's enum is large; it lives as long as the request.)
#[derive(Debug)]
pub struct Request {
    /// Its header.
    pub head: Head,
    /// Its API.
    pub api: ApiKey,
    /// Its body.
    pub body: RequestKind,
    /// What version 2 of ShareFetch and ShareAcknowledge says beside the body.
    pub share: ShareExtras,
}

/// What a handler answers.
#[derive(Debug)]
pub enum Reply {
    /// A response, encoded at the request's version.
    Message(Box<ResponseKind>),
    /// The answer to Fetch.
    Fetch(FetchReply),
    /// The answer to ShareAcknowledge, and the time acquisition locks last, ms (told from version 2 on).
    ShareAcknowledge(Box<ShareAcknowledgeResponse>, i32),
    /// Nothing (Produce with `acks=0`).
    Nothing,
    /// Close the connection: the request can have no answer (Produce with `acks=0` that failed).
    Close,
}

/// Why a frame did not become a request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// A known API and header, but an API or version this build does not serve: answer with the protocol's own error.
    #[error("API {} version {} is not served", head.api_key, head.api_version)]
    Unsupported {
        /// The header.
        head: Head,
    },
    /// Bytes that are no request: close the connection.
    #[error("malformed request (API {api_key}, version {api_version}): {reason}")]
    Malformed {
        /// API key, −1 if unknown.
        api_key: i16,
        /// Version, −1 if unknown.
        api_version: i16,
        /// What is wrong.
        reason: String,
    },
}

impl Request {
    /// Decodes one frame (length prefix taken off). Record bytes stay slices of `frame`.
    pub fn decode(mut frame: Bytes) -> Result<Self, RequestError> {
        let malformed = |api_key, api_version, reason: &str| RequestError::Malformed {
            api_key,
            api_version,
            reason: reason.to_owned(),
        };
        let Some((start, _)) = frame.split_first_chunk::<8>() else {
            return Err(malformed(-1, -1, "shorter than a header"));
        };
        let [k0, k1, v0, v1, c0, c1, c2, c3] = *start;
        let (api_key, api_version) = (i16::from_be_bytes([k0, k1]), i16::from_be_bytes([v0, v1]));
        let correlation_id = i32::from_be_bytes([c0, c1, c2, c3]);
        let unsupported = |client_id| RequestError::Unsupported {
            head: Head { api_key, api_version, correlation_id, client_id },
        };
        let Ok(api) = ApiKey::try_from(api_key) else { return Err(unsupported(None)) };
        if !versions::is_announced(api, api_version) {
            return Err(unsupported(None));
        }
        let header = RequestHeader::decode(&mut frame, api.request_header_version(api_version))
            .map_err(|error| malformed(api_key, api_version, &error.to_string()))?;
        let (mut share, mut body_version) = (ShareExtras::default(), api_version);
        if matches!(api, ApiKey::ShareFetch | ApiKey::ShareAcknowledge) && api_version > share::KNOWN {
            (share, frame) = share::take_extras(api, &frame)
                .ok_or_else(|| malformed(api_key, api_version, "shorter than its fixed part"))?;
            body_version = share::KNOWN;
        }
        if !schema::is_plausible(api, body_version, &frame) {
            return Err(malformed(
                api_key,
                api_version,
                "a length or count exceeds the bytes sent or the limit",
            ));
        }
        let body = RequestKind::decode(api, &mut frame, body_version)
            .map_err(|error| malformed(api_key, api_version, &error.to_string()))?;
        let head = Head { api_key, api_version, correlation_id, client_id: header.client_id };
        Ok(Self { head, api, body, share })
    }
}

impl Reply {
    /// A response message.
    #[must_use]
    pub fn message(response: impl Into<ResponseKind>) -> Self {
        Self::Message(Box::new(response.into()))
    }

    /// Encodes the frame that answers `head`; `None` when there is none to send.
    /// Errors: a response that its version cannot express (a bug; the connection is closed).
    pub fn encode(self, api: ApiKey, head: &Head) -> Result<Option<Chunks>, String> {
        let mut out = Chunks::new();
        let header_version = api.response_header_version(head.api_version);
        put_header(&mut out, head.correlation_id, header_version)?;
        match self {
            Self::Nothing | Self::Close => return Ok(None),
            Self::Fetch(fetch) => fetch.encode(&mut out, head.api_version),
            Self::ShareAcknowledge(response, lock_timeout_ms) => {
                out.put_bytes(share::encode_acknowledge(&response, lock_timeout_ms, head.api_version)?);
            }
            Self::Message(response) => {
                let mut body = BytesMut::new();
                // the answers of the two versions of ShareFetch are the same
                let known = if api == ApiKey::ShareFetch { share::KNOWN } else { head.api_version };
                response.encode(&mut body, known).map_err(|error| {
                    format!("cannot encode {api:?} version {}: {error}", head.api_version)
                })?;
                out.put_bytes(body.freeze());
            }
        }
        Ok(Some(out))
    }
}

fn put_header(out: &mut Chunks, correlation_id: i32, version: i16) -> Result<(), String> {
    let mut bytes = BytesMut::new();
    ResponseHeader::default()
        .with_correlation_id(correlation_id)
        .encode(&mut bytes, version)
        .map_err(|error| error.to_string())?;
    out.put_slice(&bytes);
    Ok(())
}

/// The list of served APIs and features, as ApiVersions answers it at `version`.
#[must_use]
pub fn api_versions(error: Option<ResponseError>, version: i16) -> ApiVersionsResponse {
    let keys = versions::supported()
        .iter()
        .map(|(api, min, max)| {
            let min = if *api == ApiKey::Produce { PRODUCE_TOLD_SINCE } else { *min };
            ApiVersion::default().with_api_key(*api as i16).with_min_version(min).with_max_version(*max)
        })
        .collect();
    let response = ApiVersionsResponse::default()
        .with_error_code(error.map_or(0, |error| error.code()))
        .with_api_keys(keys);
    if version < FEATURES_SINCE {
        return response;
    }
    let name = |name| StrBytes::from_static_str(name);
    let supported = versions::FEATURES.iter().map(|(feature, level)| {
        SupportedFeatureKey::default().with_name(name(feature)).with_min_version(1).with_max_version(*level)
    });
    let finalized = versions::FEATURES.iter().map(|(feature, level)| {
        FinalizedFeatureKey::default()
            .with_name(name(feature))
            .with_max_version_level(*level)
            .with_min_version_level(*level)
    });
    response
        .with_supported_features(supported.collect())
        .with_finalized_features_epoch(0)
        .with_finalized_features(finalized.collect())
}

/// The protocol's own answer to an API or version that is not served: for ApiVersions the list at version 0
/// (KIP-511), otherwise `UNSUPPORTED_VERSION` right after the header.
#[must_use]
pub fn refusal(head: &Head) -> Chunks {
    let mut out = Chunks::new();
    let code = ResponseError::UnsupportedVersion.code();
    out.put_i32(head.correlation_id);
    if head.api_key == ApiKey::ApiVersions as i16 {
        let mut body = BytesMut::new();
        if api_versions(Some(ResponseError::UnsupportedVersion), 0).encode(&mut body, 0).is_ok() {
            out.put_slice(&body);
            return out;
        }
    }
    out.put_i16(code);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of `api` at `version` with client id `x` and `body` after the header.
    fn frame(api: ApiKey, version: i16, body: &[u8]) -> Bytes {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&(api as i16).to_be_bytes());
        bytes.extend_from_slice(&version.to_be_bytes());
        bytes.extend_from_slice(&7_i32.to_be_bytes());
        bytes.extend_from_slice(&[0, 1, b'x']);
        if api.request_header_version(version) >= 2 {
            bytes.push(0);
        }
        bytes.extend_from_slice(body);
        Bytes::from(bytes)
    }

    #[test]
    fn random_bodies_of_every_api_and_version_never_panic_and_some_decode() {
        let mut random = 0x9e37_79b9_u64;
        let mut next = move || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            random >> 40
        };
        let (mut decoded, mut refused) = (0_u32, 0_u32);
        for (api, min, max) in versions::supported() {
            for version in *min..=*max {
                for _ in 0..300 {
                    let len = next() % 60;
                    // small numbers make plausible lengths; now and then a huge one
                    let body: Vec<u8> = (0..len)
                        .map(|_| match next() % 8 {
                            0..5 => 0,
                            5 | 6 => u8::try_from(next() % 4).unwrap(),
                            _ => u8::try_from(next() & 0xff).unwrap(),
                        })
                        .collect();
                    match Request::decode(frame(*api, version, &body)) {
                        Ok(_) => decoded += 1,
                        Err(_) => refused += 1,
                    }
                }
            }
        }
        assert!(decoded > 1_000 && refused > 1_000, "{decoded} decoded, {refused} refused");
    }

    #[test]
    fn a_count_that_the_bytes_cannot_hold_is_refused_before_anything_is_allocated() {
        let body = [&i32::MAX.to_be_bytes()[..], &[0; 40]].concat();
        let error = Request::decode(frame(ApiKey::Metadata, 1, &body)).unwrap_err();
        assert!(error.to_string().contains("exceeds the bytes sent"), "{error}");
        let two = [&2_i32.to_be_bytes()[..], &[0, 1, b'a', 0, 1, b'b']].concat();
        assert!(Request::decode(frame(ApiKey::Metadata, 1, &two)).is_ok());
    }

    #[test]
    fn a_tagged_field_whose_size_is_not_its_own_is_refused() {
        // all of a fetch up to its tags, then the cluster id (tag 0), whose size says more than it takes
        let fixed = [0; 4 + 4 + 4 + 1 + 4 + 4];
        let good = [&fixed[..], &[1, 1, 1], &[1, 0, 3, 3, b'o', b'k']].concat();
        assert!(Request::decode(frame(ApiKey::Fetch, 15, &good)).is_ok());
        let wrong = [&fixed[..], &[1, 1, 1], &[1, 0, 4, 3, b'o', b'k', 0]].concat();
        assert!(Request::decode(frame(ApiKey::Fetch, 15, &wrong)).is_err());
    }

    #[test]
    fn record_bytes_are_slices_of_the_frame() {
        let records = [9_u8; 5_000];
        let mut body = Vec::new();
        body.extend_from_slice(&(-1_i16).to_be_bytes());
        body.extend_from_slice(&1_i16.to_be_bytes());
        body.extend_from_slice(&1_000_i32.to_be_bytes());
        body.extend_from_slice(&1_i32.to_be_bytes());
        body.extend_from_slice(&[0, 1, b't']);
        body.extend_from_slice(&1_i32.to_be_bytes());
        body.extend_from_slice(&0_i32.to_be_bytes());
        body.extend_from_slice(&5_000_i32.to_be_bytes());
        body.extend_from_slice(&records);
        let frame = frame(ApiKey::Produce, 3, &body);
        let range = frame.as_ptr_range();
        let request = Request::decode(frame.clone()).unwrap();
        let RequestKind::Produce(produce) = request.body else { panic!("not a produce request") };
        let found = produce.topic_data[0].partition_data[0].records.clone().unwrap();
        assert_eq!(found.len(), 5_000);
        assert!(range.contains(&found.as_ptr()), "copied");
    }
}
