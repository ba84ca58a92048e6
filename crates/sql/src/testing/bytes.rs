//! Case data to bytes and back, by the formats of the topic's source. Written apart from the engine's own codecs.

use base64::Engine as _;
use herdsman_formats::Format;
use herdsman_stream::{Column, SqlType};
use serde_json::Value as Json;

use super::case::{TestRecord, TestWindow};
use crate::catalog::Source;

/// What a topic's bytes mean.
pub(crate) struct TopicFormat<'a> {
    pub source: Option<&'a Source>,
}

/// A decoded key or value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Actual {
    /// JSON, digits kept.
    Json(Json),
    /// A binary double: compared within 1e-6.
    Double(f64),
    /// Text of a delimited record.
    Text(String),
}

impl TopicFormat<'_> {
    fn key(&self) -> (Format, &[Column]) {
        self.source.map_or((Format::Kafka, [].as_slice()), |s| (s.key_format.format, s.schema.key.as_slice()))
    }

    fn value(&self) -> (Format, &[Column]) {
        self.source
            .map_or((Format::Json, [].as_slice()), |s| (s.value_format.format, s.schema.value.as_slice()))
    }

    pub(crate) fn encode_key(&self, record: &TestRecord) -> Result<Option<Vec<u8>>, String> {
        let (format, columns) = self.key();
        let Some(mut bytes) = encode(&record.key, format, columns)? else { return Ok(None) };
        if let Some(window) = record.window {
            if window.session {
                bytes.extend_from_slice(&window.end.to_be_bytes());
            }
            bytes.extend_from_slice(&window.start.to_be_bytes());
        }
        Ok(Some(bytes))
    }

    pub(crate) fn encode_value(&self, record: &TestRecord) -> Result<Option<Vec<u8>>, String> {
        let (format, columns) = self.value();
        encode(&record.value, format, columns)
    }

    pub(crate) fn decode_key(&self, key: Option<&[u8]>) -> Result<(Actual, Option<TestWindow>), String> {
        let (format, columns) = self.key();
        let Some(mut bytes) = key else { return Ok((Actual::Json(Json::Null), None)) };
        let mut window = None;
        if let Some(own) = self.source.and_then(|source| source.window) {
            let session = own.size_ms.is_none();
            let suffix = if session { 16 } else { 8 };
            let at = bytes.len().checked_sub(suffix).ok_or("a windowed key is too short")?;
            let (inner, tail) = bytes.split_at(at);
            let long = |bytes: &[u8]| bytes.try_into().map_or(0, i64::from_be_bytes);
            window = Some(if session {
                TestWindow { start: long(&tail[8..]), end: long(&tail[..8]), session }
            } else {
                let start = long(tail);
                TestWindow { start, end: start.saturating_add(own.size_ms.unwrap_or(0)), session }
            });
            bytes = inner;
        }
        Ok((decode(bytes, format, columns)?, window))
    }

    pub(crate) fn decode_value(&self, value: Option<&[u8]>) -> Result<Actual, String> {
        let (format, columns) = self.value();
        value.map_or(Ok(Actual::Json(Json::Null)), |bytes| decode(bytes, format, columns))
    }
}

fn encode(json: &Json, format: Format, columns: &[Column]) -> Result<Option<Vec<u8>>, String> {
    if json.is_null() {
        return Ok(None);
    }
    match format {
        Format::Json => Ok(Some(json.to_string().into_bytes())),
        Format::Delimited => Ok(Some(plain(json).into_bytes())),
        Format::None => Ok(None),
        Format::Kafka => kafka(json, columns.first().map(|column| &column.ty)).map(Some),
        other => Err(format!("the {} format is not supported yet", other.name())),
    }
}

fn plain(json: &Json) -> String {
    json.as_str().map_or_else(|| json.to_string(), str::to_owned)
}

fn kafka(json: &Json, ty: Option<&SqlType>) -> Result<Vec<u8>, String> {
    let bad = |ty: &SqlType| format!("case data {json} does not fit {ty}");
    Ok(match ty {
        Some(ty @ SqlType::Integer) => {
            let number = json.as_i64().and_then(|n| i32::try_from(n).ok()).ok_or_else(|| bad(ty))?;
            number.to_be_bytes().to_vec()
        }
        Some(ty @ SqlType::BigInt) => json.as_i64().ok_or_else(|| bad(ty))?.to_be_bytes().to_vec(),
        Some(ty @ SqlType::Double) => json.as_f64().ok_or_else(|| bad(ty))?.to_be_bytes().to_vec(),
        Some(SqlType::Bytes) => base64::engine::general_purpose::STANDARD
            .decode(plain(json))
            .map_err(|error| error.to_string())?,
        _ => plain(json).into_bytes(),
    })
}

fn decode(bytes: &[u8], format: Format, columns: &[Column]) -> Result<Actual, String> {
    match format {
        Format::Json => serde_json::from_slice(bytes)
            .map(Actual::Json)
            .map_err(|_| format!("not JSON: {}", String::from_utf8_lossy(bytes))),
        Format::Delimited => Ok(Actual::Text(String::from_utf8_lossy(bytes).into_owned())),
        Format::Kafka => from_kafka(bytes, columns.first().map(|column| &column.ty)),
        other => Err(format!("the {} format is not supported yet", other.name())),
    }
}

fn from_kafka(bytes: &[u8], ty: Option<&SqlType>) -> Result<Actual, String> {
    let short = || format!("{} bytes do not fit the key or value type", bytes.len());
    Ok(match ty {
        Some(SqlType::Integer) => {
            Actual::Json(i32::from_be_bytes(bytes.try_into().map_err(|_| short())?).into())
        }
        Some(SqlType::BigInt) => {
            Actual::Json(i64::from_be_bytes(bytes.try_into().map_err(|_| short())?).into())
        }
        Some(SqlType::Double) => Actual::Double(f64::from_be_bytes(bytes.try_into().map_err(|_| short())?)),
        Some(SqlType::Bytes) => Actual::Json(base64::engine::general_purpose::STANDARD.encode(bytes).into()),
        _ => Actual::Json(String::from_utf8_lossy(bytes).into_owned().into()),
    })
}
