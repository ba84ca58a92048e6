//! The format of a topic's keys or values, with its properties.

/// How keys or values of a topic are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// JSON objects (or the bare value of a single unwrapped column).
    Json,
    /// Comma- (or otherwise) separated values.
    Delimited,
    /// Kafka's own serializers (one column).
    Kafka,
    /// No bytes at all.
    None,
    /// Avro with a schema registry.
    Avro,
    /// Protobuf with a schema registry.
    Protobuf,
    /// Protobuf without a registry.
    ProtobufNoSr,
    /// JSON Schema with a registry.
    JsonSr,
}

impl Format {
    /// The name in `VALUE_FORMAT='…'`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::Delimited => "DELIMITED",
            Self::Kafka => "KAFKA",
            Self::None => "NONE",
            Self::Avro => "AVRO",
            Self::Protobuf => "PROTOBUF",
            Self::ProtobufNoSr => "PROTOBUF_NOSR",
            Self::JsonSr => "JSON_SR",
        }
    }
}

/// A format with its properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatSpec {
    /// The format.
    pub format: Format,
    /// Delimiter of DELIMITED.
    pub delimiter: char,
    /// Whether a single value column stands unwrapped (`WRAP_SINGLE_VALUE=false`). Single keys always stand unwrapped.
    pub unwrap_single: bool,
}

impl FormatSpec {
    /// `format` with ksqlDB's defaults: comma as delimiter, JSON wrapped, the others unwrapped where they must be.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self { format, delimiter: ',', unwrap_single: matches!(format, Format::Kafka | Format::Delimited) }
    }
}

/// How the key of a windowed source carries its window (Kafka Streams' windowed serdes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowedKey {
    /// Key bytes + window start (8 bytes, big endian); size in ms is known from the source's declaration.
    Time {
        /// Window size in milliseconds.
        size_ms: i64,
    },
    /// Key bytes + window end + window start, 8 bytes each, big endian.
    Session,
}

impl WindowedKey {
    /// Bytes behind the key.
    #[must_use]
    pub fn suffix_len(self) -> usize {
        match self {
            Self::Time { .. } => 8,
            Self::Session => 16,
        }
    }
}
