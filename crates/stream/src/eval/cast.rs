//! CAST: vectorised for numbers and texts, value by value for the rest.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, PrimitiveArray, StringBuilder};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Float64Type, Int32Type, Int64Type, i256};

use super::{EvalError, Frame, Run, array_of, time, value_at};
use crate::SqlType;
use crate::expr::Value;
use crate::numbers::{self, Rounding};

pub(crate) fn cast(
    array: &ArrayRef,
    from: &SqlType,
    to: &SqlType,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
) -> Result<ArrayRef, EvalError> {
    if from == to {
        return Ok(array.clone());
    }
    Ok(match (from, to) {
        (SqlType::Integer, SqlType::BigInt | SqlType::Double) | (SqlType::BigInt, SqlType::Double) => {
            arrow::compute::cast(array, &to.arrow())?
        }
        (SqlType::BigInt, SqlType::Integer) => {
            #[expect(clippy::cast_possible_truncation, reason = "Java's (int) long wraps")]
            let wrap = |value: i64| value as i32;
            Arc::new(array.as_primitive::<Int64Type>().unary::<_, Int32Type>(wrap))
        }
        (SqlType::Double, SqlType::Integer) => {
            Arc::new(array.as_primitive::<Float64Type>().unary::<_, Int32Type>(numbers::double_to_int))
        }
        (SqlType::Double, SqlType::BigInt) => {
            Arc::new(array.as_primitive::<Float64Type>().unary::<_, Int64Type>(numbers::double_to_long))
        }
        (SqlType::Integer | SqlType::BigInt | SqlType::Boolean, SqlType::String) => {
            arrow::compute::cast(array, &DataType::Utf8)?
        }
        (SqlType::Double, SqlType::String) => doubles_to_text(array),
        (SqlType::String, SqlType::Integer) => parse::<Int32Type>(array, frame, run, numbers::parse_int),
        (SqlType::String, SqlType::BigInt) => parse::<Int64Type>(array, frame, run, numbers::parse_long),
        (SqlType::String, SqlType::Double) => parse::<Float64Type>(array, frame, run, numbers::parse_double),
        (SqlType::String, SqlType::Boolean) => {
            let texts = array.as_string::<i32>();
            let read =
                |text: Option<&str>| text.map(|text| numbers::parse_boolean_exact(text).unwrap_or(false));
            Arc::new(texts.iter().map(read).collect::<BooleanArray>())
        }
        _ => {
            let mut values = Vec::with_capacity(frame.rows);
            for row in 0..frame.rows {
                let value = value_at(array, row, from);
                values.push(cast_value(value, from, to).unwrap_or_else(|reason| {
                    run.fail(frame, row, &reason);
                    Value::Null
                }));
            }
            array_of(&values, to)?
        }
    })
}

fn parse<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    frame: &Frame<'_>,
    run: &mut Run<'_, '_>,
    read: impl Fn(&str) -> Result<T::Native, String>,
) -> ArrayRef {
    let texts = array.as_string::<i32>();
    let values: PrimitiveArray<T> = (0..texts.len())
        .map(|row| {
            if texts.is_null(row) {
                return None;
            }
            read(texts.value(row)).map_err(|reason| run.fail(frame, row, &reason)).ok()
        })
        .collect();
    Arc::new(values)
}

fn doubles_to_text(array: &ArrayRef) -> ArrayRef {
    let values = array.as_primitive::<Float64Type>();
    let mut builder = StringBuilder::with_capacity(values.len(), values.len() * 8);
    let mut text = String::new();
    for value in values {
        match value {
            Some(value) => {
                text.clear();
                numbers::write_double(value, &mut text);
                builder.append_value(&text);
            }
            None => builder.append_null(),
        }
    }
    Arc::new(builder.finish())
}

/// Casts one value, as `CAST` does.
///
/// # Errors   the reason why this value cannot be cast.
pub fn cast_value(value: Value, from: &SqlType, to: &SqlType) -> Result<Value, String> {
    if from == to || value == Value::Null {
        return Ok(value);
    }
    Ok(match (value, to) {
        (value, SqlType::String) => Value::String(value_to_string(&value, from)),
        (Value::String(text), _) => return cast_text(&text, to),
        (Value::Timestamp(ms), SqlType::Date) => Value::Date(clamp(ms.div_euclid(time::DAY_MS))),
        (Value::Timestamp(ms), SqlType::Time) => Value::Time(clamp(ms.rem_euclid(time::DAY_MS))),
        (Value::Date(days), SqlType::Timestamp) => Value::Timestamp(i64::from(days) * time::DAY_MS),
        (Value::Array(items), SqlType::Array(target)) => {
            let SqlType::Array(source) = from else { return Err(unsupported(from, to)) };
            Value::Array(
                items.into_iter().map(|item| cast_value(item, source, target)).collect::<Result<_, _>>()?,
            )
        }
        (Value::Map(entries), SqlType::Map(key, item)) => {
            let SqlType::Map(from_key, from_item) = from else { return Err(unsupported(from, to)) };
            let entry = |(k, v)| Ok((cast_value(k, from_key, key)?, cast_value(v, from_item, item)?));
            Value::Map(entries.into_iter().map(entry).collect::<Result<_, String>>()?)
        }
        (Value::Struct(mut fields), SqlType::Struct(target)) => {
            let SqlType::Struct(source) = from else { return Err(unsupported(from, to)) };
            let mut result = Vec::with_capacity(target.len());
            for column in target {
                result.push(match source.iter().position(|other| other.name == column.name) {
                    Some(at) => {
                        let field = std::mem::replace(&mut fields[at], Value::Null);
                        cast_value(field, &source[at].ty, &column.ty)?
                    }
                    None => Value::Null,
                });
            }
            Value::Struct(result)
        }
        (value, to) if to.is_numeric() => return cast_number(value, from, to),
        _ => return Err(unsupported(from, to)),
    })
}

fn unsupported(from: &SqlType, to: &SqlType) -> String {
    format!("Cast of {from} to {to} is not supported")
}

fn clamp(value: i64) -> i32 {
    i32::try_from(value).unwrap_or(if value < 0 { i32::MIN } else { i32::MAX })
}

fn cast_text(text: &str, to: &SqlType) -> Result<Value, String> {
    Ok(match to {
        SqlType::Boolean => Value::Boolean(numbers::parse_boolean_exact(text).unwrap_or(false)),
        SqlType::Integer => Value::Integer(numbers::parse_int(text)?),
        SqlType::BigInt => Value::BigInt(numbers::parse_long(text)?),
        SqlType::Double => Value::Double(numbers::parse_double(text)?),
        SqlType::Decimal { precision, scale } => {
            let (unscaled, from) = numbers::parse_decimal(text)?;
            let value = numbers::fit_decimal(unscaled, from, *precision, *scale, Rounding::HalfUp)?;
            Value::Decimal(value, *precision, *scale)
        }
        SqlType::Timestamp => Value::Timestamp(time::parse_timestamp(text)?),
        SqlType::Date => Value::Date(time::parse_date(text)?),
        SqlType::Time => Value::Time(time::parse_time(text)?),
        other => return Err(unsupported(&SqlType::String, other)),
    })
}

#[expect(clippy::cast_possible_truncation, reason = "Java's narrowing casts wrap")]
fn cast_number(value: Value, from: &SqlType, to: &SqlType) -> Result<Value, String> {
    if let SqlType::Decimal { precision, scale } = to {
        let unscaled = match value {
            Value::Integer(value) => (i256::from_i128(i128::from(value)), 0),
            Value::BigInt(value) => (i256::from_i128(i128::from(value)), 0),
            Value::Decimal(unscaled, _, scale) => (i256::from_i128(unscaled), i32::from(scale)),
            Value::Double(value) => {
                let unscaled = numbers::double_to_decimal(value, *precision, *scale)?;
                return Ok(Value::Decimal(unscaled, *precision, *scale));
            }
            _ => return Err(unsupported(from, to)),
        };
        let value = numbers::fit_decimal(unscaled.0, unscaled.1, *precision, *scale, Rounding::HalfUp)?;
        return Ok(Value::Decimal(value, *precision, *scale));
    }
    let whole = match &value {
        Value::Integer(value) => i128::from(*value),
        Value::BigInt(value) => i128::from(*value),
        Value::Decimal(unscaled, _, scale) => {
            numbers::rescale(*unscaled, *scale, 0, Rounding::Down).unwrap_or(0)
        }
        Value::Double(value) if *to == SqlType::Integer => i128::from(numbers::double_to_int(*value)),
        Value::Double(value) => i128::from(numbers::double_to_long(*value)),
        _ => return Err(unsupported(from, to)),
    };
    Ok(match to {
        SqlType::Integer => Value::Integer(whole as i32),
        SqlType::BigInt => Value::BigInt(whole as i64),
        _ => Value::Double(super::compare::as_double(&value).unwrap_or(f64::NAN)),
    })
}

/// The value as Java's `toString` prints it (`[1, 2]`, `{a=1}`, `Struct{F0=1}`, `null`).
pub(crate) fn value_to_string(value: &Value, ty: &SqlType) -> String {
    let mut out = String::new();
    write_value(value, ty, &mut out);
    out
}

fn write_value(value: &Value, ty: &SqlType, out: &mut String) {
    let written = match (value, ty) {
        (Value::Null, _) => {
            out.push_str("null");
            Ok(())
        }
        (Value::Boolean(value), _) => write!(out, "{value}"),
        (Value::Integer(value), _) => write!(out, "{value}"),
        (Value::BigInt(value), _) => write!(out, "{value}"),
        (Value::Double(value), _) => {
            numbers::write_double(*value, out);
            Ok(())
        }
        (Value::Decimal(unscaled, _, scale), _) => {
            out.push_str(&numbers::decimal_to_string(*unscaled, *scale));
            Ok(())
        }
        (Value::String(text), _) => {
            out.push_str(text);
            Ok(())
        }
        (Value::Bytes(bytes), _) => {
            use base64::Engine;
            out.push_str(&base64::engine::general_purpose::STANDARD.encode(bytes));
            Ok(())
        }
        (Value::Date(days), _) => write!(out, "{}", time::format_date(*days)),
        (Value::Time(ms), _) => write!(out, "{}", time::format_time(*ms)),
        (Value::Timestamp(ms), _) => write!(out, "{}", time::format_timestamp(*ms)),
        (Value::Array(items), SqlType::Array(element)) => {
            write_list(items.iter().map(|item| (None, item, &**element)), "[", ", ", "]", out);
            Ok(())
        }
        (Value::Map(entries), SqlType::Map(key, item)) => {
            let names: Vec<String> = entries.iter().map(|(name, _)| value_to_string(name, key)).collect();
            let items =
                names.iter().zip(entries).map(|(name, (_, value))| (Some(name.as_str()), value, &**item));
            write_list(items, "{", ", ", "}", out);
            Ok(())
        }
        (Value::Struct(fields), SqlType::Struct(columns)) => {
            // Connect's Struct prints its non-null fields only.
            let present = columns.iter().zip(fields).filter(|(_, field)| **field != Value::Null);
            let items = present.map(|(column, field)| (Some(column.name.as_str()), field, &column.ty));
            write_list(items, "Struct{", ",", "}", out);
            Ok(())
        }
        (value, _) => write!(out, "{value:?}"),
    };
    written.expect("writing to a String cannot fail");
}

fn write_list<'v>(
    items: impl Iterator<Item = (Option<&'v str>, &'v Value, &'v SqlType)>,
    open: &str,
    separator: &str,
    close: &str,
    out: &mut String,
) {
    out.push_str(open);
    for (index, (name, value, ty)) in items.enumerate() {
        if index > 0 {
            out.push_str(separator);
        }
        if let Some(name) = name {
            out.push_str(name);
            out.push('=');
        }
        write_value(value, ty, out);
    }
    out.push_str(close);
}
