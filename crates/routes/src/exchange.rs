//! An exchange: one record on its way through a route, with Camel's body, headers and properties.

use std::cell::OnceCell;
use std::sync::Arc;

use bytes::Bytes;
use herdsman_record::{EVENT_ID_HEADER, TopicPartition};
use serde_json::Value;

/// What an exchange carries.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    /// Nothing (a tombstone, a timer's tick).
    Null,
    /// Bytes as they came.
    Bytes(Bytes),
    /// Text.
    Text(Arc<str>),
    /// A JSON value (after `unmarshal`, or what an expression gave).
    Json(Arc<Value>),
}

/// Where the record stood on the bus.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub at: TopicPartition,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Option<Bytes>,
    /// The value as it was read, for dead letters.
    pub value: Option<Bytes>,
}

/// What went wrong with an exchange, as `exception.message` shows it.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub kind: FailureKind,
    pub message: Arc<str>,
}

/// Kinds of failure, which `onException` and `doCatch` name by Java's classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// The other side cannot be reached or is overloaded; later it may.
    Unavailable,
    /// The other side refuses this record, or it cannot be encoded.
    Data,
    /// An expression or a conversion cannot be done on this record.
    Expression,
}

impl FailureKind {
    /// Whether `class` (a Java exception class) covers this kind; `None` if the class is unknown here.
    pub fn covered_by(self, class: &str) -> Option<bool> {
        let name = class.rsplit('.').next().unwrap_or(class);
        Some(match name {
            "Throwable" | "Exception" => true,
            "IOException"
            | "ConnectException"
            | "SocketException"
            | "SocketTimeoutException"
            | "TimeoutException"
            | "UnknownHostException"
            | "NoRouteToHostException" => self == Self::Unavailable,
            "RuntimeException" | "RuntimeCamelException" => self != Self::Unavailable,
            "CamelExchangeException" | "SQLException" | "HttpOperationFailedException" => {
                self != Self::Expression
            }
            "IllegalArgumentException"
            | "InvalidPayloadException"
            | "DataException"
            | "SQLDataException"
            | "SQLIntegrityConstraintViolationException" => self == Self::Data,
            "ExpressionEvaluationException"
            | "ExpressionIllegalSyntaxException"
            | "TypeConversionException"
            | "NoTypeConversionAvailableException"
            | "JsonProcessingException"
            | "JsonParseException"
            | "MarshalException" => self == Self::Expression,
            _ => return None,
        })
    }
}

/// One record on its way.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    /// Place in the batch; steps that part a batch put it together again in this order.
    pub seq: u64,
    pub body: Body,
    /// Message headers in insertion order; lookups ignore case, as Camel's do.
    pub headers: Vec<(Arc<str>, Value)>,
    /// Exchange properties.
    pub properties: Vec<(Arc<str>, Value)>,
    pub origin: Option<Arc<Origin>>,
    pub failure: Option<Failure>,
    json: OnceCell<Option<Arc<Value>>>,
}

impl Exchange {
    pub fn new(seq: u64, body: Body, origin: Option<Arc<Origin>>) -> Self {
        Self {
            seq,
            body,
            headers: Vec::new(),
            properties: Vec::new(),
            origin,
            failure: None,
            json: OnceCell::new(),
        }
    }

    pub fn set_body(&mut self, body: Body) {
        self.body = body;
        self.json = OnceCell::new();
    }

    /// The body as JSON, parsed once; `None` if it is not JSON.
    pub fn json(&self) -> Option<&Arc<Value>> {
        if let Body::Json(value) = &self.body {
            return Some(value);
        }
        self.json
            .get_or_init(|| match &self.body {
                Body::Bytes(bytes) => serde_json::from_slice(bytes).ok().map(Arc::new),
                Body::Text(text) => serde_json::from_str(text).ok().map(Arc::new),
                Body::Null | Body::Json(_) => None,
            })
            .as_ref()
    }

    /// The body as bytes on the wire; `None` for a null body.
    pub fn body_bytes(&self) -> Option<Bytes> {
        match &self.body {
            Body::Null => None,
            Body::Bytes(bytes) => Some(bytes.clone()),
            Body::Text(text) => Some(Bytes::copy_from_slice(text.as_bytes())),
            Body::Json(value) => Some(match value.as_ref() {
                Value::Null => return None,
                Value::String(text) => Bytes::copy_from_slice(text.as_bytes()),
                other => Bytes::from(other.to_string()),
            }),
        }
    }

    /// The body as text, lossy for bytes that are not UTF-8.
    pub fn body_text(&self) -> String {
        self.body_bytes().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// A header's value, Camel's `kafka.*` ones included.
    pub fn header(&self, name: &str) -> Option<Value> {
        if let Some((_, value)) = self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)) {
            return Some(value.clone());
        }
        let origin = self.origin.as_deref()?;
        let lower = name.to_ascii_lowercase();
        match lower.strip_prefix("kafka.").or_else(|| lower.strip_prefix("camelkafka"))? {
            "topic" => Some(Value::from(origin.at.topic.as_ref())),
            "partition" => Some(Value::from(origin.at.partition)),
            "offset" => Some(Value::from(origin.offset)),
            "timestamp" => Some(Value::from(origin.timestamp_ms)),
            "key" => origin.key.as_ref().map(|key| Value::from(String::from_utf8_lossy(key).into_owned())),
            _ => None,
        }
    }

    pub fn set_header(&mut self, name: &Arc<str>, value: Value) {
        match self.headers.iter_mut().find(|(found, _)| found.eq_ignore_ascii_case(name)) {
            Some(entry) => entry.1 = value,
            None => self.headers.push((Arc::clone(name), value)),
        }
    }

    pub fn property(&self, name: &str) -> Option<&Value> {
        self.properties.iter().find(|(found, _)| found.as_ref() == name).map(|(_, value)| value)
    }

    pub fn set_property(&mut self, name: &Arc<str>, value: Value) {
        match self.properties.iter_mut().find(|(found, _)| found == name) {
            Some(entry) => entry.1 = value,
            None => self.properties.push((Arc::clone(name), value)),
        }
    }

    /// The key a record made from this exchange gets: header `kafka.KEY`, else the key it came with.
    pub fn record_key(&self) -> Option<Bytes> {
        let named = self.headers.iter().find(|(name, _)| {
            name.eq_ignore_ascii_case("kafka.KEY") || name.eq_ignore_ascii_case("CamelKafkaKey")
        });
        match named {
            Some((_, Value::Null)) => None,
            Some((_, value)) => Some(Bytes::from(text_of(value))),
            None => self.origin.as_ref().and_then(|origin| origin.key.clone()),
        }
    }

    /// The event id: header `event-id`, else field `field` of the body, else one made from where the record
    /// stood (the same again when it is delivered twice). `None` when nothing of these is there.
    pub fn event_id(&self, field: &str) -> Option<String> {
        if let Some(id) = self.header(EVENT_ID_HEADER) {
            return Some(text_of(&id));
        }
        if let Some(id) = self.json().and_then(|body| body.get(field)).filter(|id| !id.is_null()) {
            return Some(text_of(id));
        }
        let origin = self.origin.as_ref()?;
        Some(format!("{}-{}-{}", origin.at.topic, origin.at.partition, origin.offset))
    }

    /// Milliseconds since the Unix epoch of the record, or `now_ms`.
    pub fn timestamp_ms(&self, now_ms: i64) -> i64 {
        self.origin.as_ref().map_or(now_ms, |origin| origin.timestamp_ms)
    }
}

/// A value as Camel turns it into text: strings bare, null empty, the rest as JSON.
pub(crate) fn text_of(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
