//! SQL values as the JSON of ksqlDB's REST answers.

use base64::Engine as _;
use herdsman_formats::java;
use herdsman_stream::SqlType;
use herdsman_stream::expr::Value;
use serde_json::{Map, Number, Value as Json};

/// A value as JSON: numbers keep their digits (doubles print as Java prints them), BYTES are base64, dates and times
/// are ISO 8601 text.
#[must_use]
pub fn value_to_json(value: &Value, ty: &SqlType) -> Json {
    match (value, ty) {
        (Value::Null, _) => Json::Null,
        (Value::Boolean(flag), _) => Json::Bool(*flag),
        (Value::Integer(number), _) => Json::from(*number),
        (Value::BigInt(number), _) => Json::from(*number),
        (Value::Double(number), _) => number_from(&java::double_to_string(*number)),
        (Value::Decimal(unscaled, _, scale), _) => {
            let mut text = Vec::new();
            java::write_decimal(*unscaled, *scale, &mut text);
            number_from(&String::from_utf8_lossy(&text))
        }
        (Value::String(text), _) => Json::String(text.clone()),
        (Value::Bytes(bytes), _) => Json::String(base64::engine::general_purpose::STANDARD.encode(bytes)),
        (Value::Date(days), _) => Json::String(date(i64::from(*days) * 86_400_000).0),
        (Value::Time(ms), _) => Json::String(date(i64::from(*ms)).1),
        (Value::Timestamp(ms), _) => {
            let (date, time) = date(*ms);
            Json::String(format!("{date}T{time}"))
        }
        (Value::Array(items), SqlType::Array(element)) => {
            Json::Array(items.iter().map(|item| value_to_json(item, element)).collect())
        }
        (Value::Map(entries), SqlType::Map(key, ty)) => {
            let entries = entries.iter().map(|(name, value)| {
                let name = match value_to_json(name, key) {
                    Json::String(name) => name,
                    other => other.to_string(),
                };
                (name, value_to_json(value, ty))
            });
            Json::Object(entries.collect::<Map<_, _>>())
        }
        (Value::Struct(values), SqlType::Struct(fields)) => {
            let fields = fields
                .iter()
                .zip(values)
                .map(|(field, value)| (field.name.clone(), value_to_json(value, &field.ty)));
            Json::Object(fields.collect::<Map<_, _>>())
        }
        (Value::Array(_) | Value::Map(_) | Value::Struct(_), _) => Json::Null,
    }
}

/// A number with exactly these digits; text where JSON has no such number (NaN).
fn number_from(text: &str) -> Json {
    match text.parse::<Number>() {
        Ok(number) => Json::Number(number),
        Err(_) => Json::String(text.to_owned()),
    }
}

fn date(ms: i64) -> (String, String) {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(at) => {
            let at = at.to_zoned(jiff::tz::TimeZone::UTC).datetime();
            let time = at.time();
            let text = format!(
                "{:02}:{:02}:{:02}.{:03}",
                time.hour(),
                time.minute(),
                time.second(),
                time.subsec_nanosecond() / 1_000_000
            );
            (at.date().to_string(), text)
        }
        Err(_) => (format!("{ms} ms"), String::new()),
    }
}
