//! Arguments of row-wise kernels, unpacked; the resolver has checked their types.

use crate::expr::Value;

pub(crate) type Outcome = Result<Value, String>;

pub(crate) fn text(value: &Value) -> Result<&str, String> {
    if let Value::String(text) = value { Ok(text) } else { Err(unexpected("STRING", value)) }
}

pub(crate) fn bytes(value: &Value) -> Result<&[u8], String> {
    if let Value::Bytes(bytes) = value { Ok(bytes) } else { Err(unexpected("BYTES", value)) }
}

pub(crate) fn long(value: &Value) -> Result<i64, String> {
    match value {
        Value::Integer(value) | Value::Date(value) | Value::Time(value) => Ok(i64::from(*value)),
        Value::BigInt(value) | Value::Timestamp(value) => Ok(*value),
        other => Err(unexpected("a whole number", other)),
    }
}

pub(crate) fn double(value: &Value) -> Result<f64, String> {
    match value {
        Value::Double(value) => Ok(*value),
        Value::Integer(value) => Ok(f64::from(*value)),
        Value::BigInt(value) => Ok(*value as f64),
        other => Err(unexpected("a number", other)),
    }
}

pub(crate) fn list(value: &Value) -> Result<&[Value], String> {
    if let Value::Array(items) = value { Ok(items) } else { Err(unexpected("ARRAY", value)) }
}

pub(crate) fn map(value: &Value) -> Result<&[(Value, Value)], String> {
    if let Value::Map(entries) = value { Ok(entries) } else { Err(unexpected("MAP", value)) }
}

fn unexpected(wanted: &str, value: &Value) -> String {
    format!("{wanted} expected, got {value:?}")
}

pub(crate) fn string(text: impl Into<String>) -> Outcome {
    Ok(Value::String(text.into()))
}

pub(crate) fn integer(value: usize) -> Outcome {
    Ok(Value::Integer(i32::try_from(value).unwrap_or(i32::MAX)))
}
