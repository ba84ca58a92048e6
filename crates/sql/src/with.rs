//! The WITH clause: known properties, formats, windows, and what a format can hold.

use herdsman_formats::{Format, FormatSpec};
use herdsman_stream::{Column, SqlType};

use crate::ast::{Property, PropertyValue, Span};
use crate::catalog::{KeyWindow, WindowKindName};
use crate::diagnostic::{SqlError, nearest};

const KNOWN: [&str; 26] = [
    "KAFKA_TOPIC",
    "FORMAT",
    "KEY_FORMAT",
    "VALUE_FORMAT",
    "KEY_DELIMITER",
    "VALUE_DELIMITER",
    "PARTITIONS",
    "REPLICAS",
    "RETENTION_MS",
    "CLEANUP_POLICY",
    "TIMESTAMP",
    "TIMESTAMP_FORMAT",
    "WRAP_SINGLE_VALUE",
    "WINDOW_TYPE",
    "WINDOW_SIZE",
    "KEY_SCHEMA_ID",
    "VALUE_SCHEMA_ID",
    "KEY_SCHEMA_FULL_NAME",
    "VALUE_SCHEMA_FULL_NAME",
    "VALUE_AVRO_SCHEMA_FULL_NAME",
    "SOURCED_BY_CONNECTOR",
    "QUERY_ID",
    "CACHE",
    "KEY_PATTERN",
    "KEY_PROTOBUF_NULLABLE_REPRESENTATION",
    "VALUE_PROTOBUF_NULLABLE_REPRESENTATION",
];

/// The properties of one WITH clause.
#[derive(Debug, Clone)]
pub(crate) struct With<'a> {
    properties: &'a [Property],
}

impl<'a> With<'a> {
    pub(crate) fn new(properties: &'a [Property]) -> Result<Self, SqlError> {
        let with = Self { properties };
        for (index, property) in properties.iter().enumerate() {
            let name = property.name.to_uppercase();
            if !KNOWN.contains(&name.as_str()) {
                let error = SqlError::statement(format!(
                    "Failed to prepare statement: Invalid config variable(s) in the WITH clause: {}",
                    property.name
                ))
                .at(property.span);
                return Err(match nearest(&name, KNOWN) {
                    Some(known) => error.help(format!("did you mean {known}?")),
                    None => error,
                });
            }
            if properties.iter().take(index).any(|other| other.name.eq_ignore_ascii_case(&name)) {
                return Err(
                    SqlError::statement(format!("Duplicate key {name} in the WITH clause")).at(property.span)
                );
            }
        }
        Ok(with)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'a Property> {
        self.properties.iter().find(|property| property.name.eq_ignore_ascii_case(name))
    }

    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(|property| property.value.text())
    }

    pub(crate) fn span(&self, name: &str) -> Span {
        self.get(name).map_or(Span::default(), |property| property.span)
    }

    pub(crate) fn boolean(&self, name: &str) -> Result<Option<bool>, SqlError> {
        match self.get(name).map(|property| &property.value) {
            None => Ok(None),
            Some(PropertyValue::Boolean(flag)) => Ok(Some(*flag)),
            Some(value) => match value.text().to_lowercase().as_str() {
                "true" => Ok(Some(true)),
                "false" => Ok(Some(false)),
                _ => Err(self.invalid(name, "Expected value to be either true or false")),
            },
        }
    }

    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, SqlError> {
        match self.get(name).map(|property| &property.value) {
            None => Ok(None),
            Some(PropertyValue::Integer(number)) => Ok(Some(*number)),
            Some(value) => {
                let text = value.text();
                let number = text.trim().parse();
                number.map(Some).map_err(|_| {
                    self.invalid(name, "Not a number of type INT")
                        .prefixed(&format!("Invalid value {text} for configuration {name}: "))
                })
            }
        }
    }

    fn invalid(&self, name: &str, reason: &str) -> SqlError {
        SqlError::statement(format!("Configuration {name} is invalid: {reason}"))
            .at(self.span(name))
            .prefixed("Failed to prepare statement: ")
    }

    /// PARTITIONS, at least 1.
    pub(crate) fn partitions(&self) -> Result<Option<i32>, SqlError> {
        match self.integer("PARTITIONS")? {
            None => Ok(None),
            Some(count) => match i32::try_from(count) {
                Ok(count) if count >= 1 => Ok(Some(count)),
                _ => Err(SqlError::statement(format!(
                    "Invalid number of partitions in WITH clause, {count}: Value must be at least 1"
                ))
                .at(self.span("PARTITIONS"))),
            },
        }
    }

    /// KEY_FORMAT and VALUE_FORMAT as named, `None` where nothing is said.
    pub(crate) fn formats(&self) -> Result<(Option<Format>, Option<Format>), SqlError> {
        if self.get("FORMAT").is_some() {
            for specific in ["KEY_FORMAT", "VALUE_FORMAT"] {
                if self.get(specific).is_some() {
                    return Err(SqlError::statement(format!(
                        "Cannot supply both '{specific}' and 'FORMAT' properties, as 'FORMAT' sets both key and value formats. Either use just 'FORMAT', or use 'KEY_FORMAT' and 'VALUE_FORMAT'."
                    ))
                    .at(self.span(specific)));
                }
            }
            let both = self.format("FORMAT")?;
            return Ok((both, both));
        }
        Ok((self.format("KEY_FORMAT")?, self.format("VALUE_FORMAT")?))
    }

    fn format(&self, property: &str) -> Result<Option<Format>, SqlError> {
        let Some(name) = self.text(property) else { return Ok(None) };
        format_named(&name).map(Some).map_err(|error| error.at(self.span(property)))
    }

    /// A delimiter, one character or TAB or SPACE.
    pub(crate) fn delimiter(&self, name: &str) -> Result<Option<char>, SqlError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.as_str() {
            "TAB" => return Ok(Some('\t')),
            "SPACE" => return Ok(Some(' ')),
            _ => {}
        }
        let mut chars = text.chars();
        match (chars.next(), chars.next()) {
            (Some(delimiter), None) => Ok(Some(delimiter)),
            (None, _) => Err(self.invalid(name, "Delimiter cannot be empty, if you meant to have a tab or space for delimiter, please use the special values 'TAB' or 'SPACE'\nExample valid value: ';'")),
            _ => Err(self.invalid(name, &format!("Invalid delimiter value: '{text}'. Delimiter must be a single character or TAB,SPACE\nExample valid value: ';'"))),
        }
    }

    /// WINDOW_TYPE and WINDOW_SIZE.
    pub(crate) fn window(&self) -> Result<Option<KeyWindow>, SqlError> {
        let Some(kind) = self.text("WINDOW_TYPE") else {
            return match self.get("WINDOW_SIZE") {
                None => Ok(None),
                Some(_) => Err(SqlError::parse("'WINDOW_SIZE' should not be set for non-windowed sources.")
                    .at(self.span("WINDOW_SIZE"))),
            };
        };
        let kind = match kind.to_uppercase().as_str() {
            "TUMBLING" => WindowKindName::Tumbling,
            "HOPPING" => WindowKindName::Hopping,
            "SESSION" => WindowKindName::Session,
            _ => {
                return Err(SqlError::parse(format!(
                    "Configuration WINDOW_TYPE is invalid: Unknown window type: '{kind}'\nAvailable values: TUMBLING, HOPPING, SESSION"
                ))
                .at(self.span("WINDOW_TYPE")));
            }
        };
        match (kind, self.text("WINDOW_SIZE")) {
            (WindowKindName::Session, Some(_)) => {
                Err(SqlError::parse("'WINDOW_SIZE' should not be set for SESSION windows.").at(self.span("WINDOW_SIZE")))
            }
            (WindowKindName::Session, None) => Ok(Some(KeyWindow { kind, size_ms: None })),
            (_, None) => Err(SqlError::parse(format!(
                "{} windows require 'WINDOW_SIZE' to be provided in the WITH clause. For example: 'WINDOW_SIZE'='10 SECONDS'",
                kind.name()
            ))
            .at(self.span("WINDOW_TYPE"))),
            (_, Some(size)) => {
                let size_ms = duration(&size).map_err(|reason| {
                    SqlError::parse(format!("Configuration WINDOW_SIZE is invalid: {reason}"))
                        .at(self.span("WINDOW_SIZE"))
                })?;
                Ok(Some(KeyWindow { kind, size_ms: Some(size_ms) }))
            }
        }
    }
}

/// A format by its name, any case.
pub(crate) fn format_named(name: &str) -> Result<Format, SqlError> {
    let all = [
        Format::Json,
        Format::Delimited,
        Format::Kafka,
        Format::None,
        Format::Avro,
        Format::Protobuf,
        Format::ProtobufNoSr,
        Format::JsonSr,
    ];
    all.into_iter().find(|format| format.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
        let error = SqlError::statement(format!("Unknown format: {}", name.to_uppercase()));
        match nearest(name, all.iter().map(|format| format.name())) {
            Some(known) => error.help(format!("did you mean {known}?")),
            None => error
                .help("the formats are JSON, DELIMITED, KAFKA, NONE, AVRO, PROTOBUF, PROTOBUF_NOSR, JSON_SR"),
        }
    })
}

fn duration(text: &str) -> Result<i64, String> {
    let bad = |reason: &str| format!("Invalid duration: '{text}'. {reason}");
    let mut parts = text.split_whitespace();
    let (Some(count), Some(unit), None) = (parts.next(), parts.next(), parts.next()) else {
        return Err(bad("Expected value in form '<positive_duration_unit> <time_unit>', e.g. '10 SECONDS'"));
    };
    let count: i64 = count.parse().map_err(|_| bad(&format!("Not a number: '{count}'")))?;
    let upper = unit.to_uppercase();
    let scale = match upper.trim_end_matches('S') {
        "MILLISECOND" => 1,
        "SECOND" => 1_000,
        "MINUTE" => 60_000,
        "HOUR" => 3_600_000,
        "DAY" => 86_400_000,
        _ => return Err(bad(&format!("Unknown time unit: '{upper}'"))),
    };
    count.checked_mul(scale).ok_or_else(|| bad("It does not fit 64 bits"))
}

/// Refuses column types and counts that a format cannot hold, in ksqlDB's words.
pub(crate) fn check_format(format: Format, columns: &[Column], key: bool) -> Result<(), SqlError> {
    let listed = |columns: &[Column]| {
        let role = if key { " KEY" } else { "" };
        let all: Vec<_> =
            columns.iter().map(|column| format!("`{}` {}{role}", column.name, column.ty)).collect();
        all.join(", ")
    };
    let reason = match format {
        Format::None if !columns.is_empty() => Some(format!(
            "The 'NONE' format can only be used when no columns are defined. Got: [{}]",
            listed(columns)
        )),
        Format::Kafka if columns.len() > 1 => {
            Some(format!("The 'KAFKA' format only supports a single field. Got: [{}]", listed(columns)))
        }
        Format::Kafka => columns.iter().find(|column| !kafka_type(&column.ty)).map(|column| {
            format!(
                "The 'KAFKA' format does not support type '{}', column: `{}`",
                base_name(&column.ty),
                column.name
            )
        }),
        Format::Delimited => columns.iter().find(|column| nested(&column.ty)).map(|column| {
            format!(
                "The 'DELIMITED' format does not support type '{}', column: `{}`",
                base_name(&column.ty),
                column.name
            )
        }),
        Format::Avro => columns
            .iter()
            .find(|column| odd_map(&column.ty))
            .map(|_| "Avro only supports MAPs with STRING keys".to_owned())
            .or_else(|| avro_name(columns)),
        Format::JsonSr => columns
            .iter()
            .find(|column| odd_map(&column.ty))
            .map(|_| "JSON only supports MAP types with STRING keys".to_owned()),
        Format::Protobuf | Format::ProtobufNoSr => columns
            .iter()
            .find(|column| odd_map(&column.ty))
            .map(|_| "PROTOBUF format only supports MAP types with STRING keys".to_owned()),
        _ => None,
    };
    let Some(reason) = reason else { return Ok(()) };
    let part = if key { "Key" } else { "Value" };
    let unwrapped = key
        && columns.len() == 1
        && matches!(
            format,
            Format::Json | Format::Avro | Format::JsonSr | Format::Protobuf | Format::ProtobufNoSr
        );
    let features = if unwrapped { "UNWRAP_SINGLES" } else { "" };
    Err(SqlError::statement(format!(
        "{part} format does not support schema.\nformat: {}\nschema: Persistence{{columns=[{}], features=[{features}]}}\nreason: {reason}",
        format.name(),
        listed(columns)
    )))
}

fn avro_name(columns: &[Column]) -> Option<String> {
    let bad = columns
        .iter()
        .find(|column| !column.name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'))?;
    Some(format!("Schema is not compatible with Avro: Illegal initial character: {}", bad.name))
}

fn kafka_type(ty: &SqlType) -> bool {
    matches!(ty, SqlType::Integer | SqlType::BigInt | SqlType::Double | SqlType::String | SqlType::Bytes)
}

fn nested(ty: &SqlType) -> bool {
    matches!(ty, SqlType::Array(_) | SqlType::Map(..) | SqlType::Struct(_))
}

fn odd_map(ty: &SqlType) -> bool {
    match ty {
        SqlType::Map(key, value) => **key != SqlType::String || odd_map(value),
        SqlType::Array(element) => odd_map(element),
        SqlType::Struct(fields) => fields.iter().any(|field| odd_map(&field.ty)),
        _ => false,
    }
}

/// The name of a type without its parameters.
pub(crate) fn base_name(ty: &SqlType) -> String {
    match ty {
        SqlType::Array(_) => "ARRAY".to_owned(),
        SqlType::Map(..) => "MAP".to_owned(),
        SqlType::Struct(_) => "STRUCT".to_owned(),
        SqlType::Decimal { .. } => "DECIMAL".to_owned(),
        other => other.to_string(),
    }
}

/// The value format with WRAP_SINGLE_VALUE applied, or why that is not allowed.
pub(crate) fn value_spec(
    format: Format,
    delimiter: Option<char>,
    wrap: Option<bool>,
    columns: usize,
) -> Result<FormatSpec, SqlError> {
    let mut spec = FormatSpec::new(format);
    spec.delimiter = delimiter.unwrap_or(spec.delimiter);
    let supported = match (format, wrap) {
        (_, None) => true,
        (Format::Json | Format::Avro | Format::JsonSr, _) => true,
        (Format::Kafka | Format::Delimited | Format::None, Some(wrapped)) => !wrapped,
        (_, Some(wrapped)) => wrapped,
    };
    if !supported {
        return Err(SqlError::statement(format!(
            "Format '{}' does not support 'WRAP_SINGLE_VALUE' set to '{}'.",
            format.name(),
            wrap.unwrap_or_default()
        )));
    }
    if wrap.is_some() && columns > 1 {
        return Err(SqlError::statement("'WRAP_SINGLE_VALUE' is only valid for single-field value schemas"));
    }
    if let Some(wrapped) = wrap {
        spec.unwrap_single = !wrapped;
    }
    Ok(spec)
}
