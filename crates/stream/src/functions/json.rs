//! JSON in texts.

use serde_json::{Map, Number, Value as Json};

use super::RowCall;
use super::args::{Outcome, integer, text};
use super::catalog::{Def, row, strict};
use crate::SqlType;
use crate::eval::value_to_string;
use crate::expr::Value;
use crate::numbers;

#[rustfmt::skip]
pub(crate) const DEFS: &[Def] = &[
    Def { name: "EXTRACTJSONFIELD", about: "The value at a path ($.a.b[0]) of a JSON text.", overloads: &[row("input STRING, path STRING -> STRING", extract)] },
    Def { name: "IS_JSON_STRING", about: "Whether a text is JSON.", overloads: &[row("input STRING -> BOOLEAN", |_, a| Ok(Value::Boolean(matches!(&a[0], Value::String(text) if parse(text).is_some()))))] },
    Def { name: "JSON_ARRAY_CONTAINS", about: "Whether a JSON array holds a value.", overloads: &[row("jsonArray STRING, val T -> BOOLEAN", array_contains)] },
    Def { name: "JSON_ARRAY_LENGTH", about: "The number of elements of a JSON array.", overloads: &[strict("jsonArray STRING -> INTEGER", array_length)] },
    Def { name: "JSON_CONCAT", about: "JSON values put together: objects merge, arrays join.", overloads: &[row("jsonStrings STRING... -> STRING", concat)] },
    Def { name: "JSON_ITEMS", about: "The elements of a JSON array, each as JSON text.", overloads: &[strict("jsonItems STRING -> ARRAY<STRING>", items)] },
    Def { name: "JSON_KEYS", about: "The keys of a JSON object.", overloads: &[strict("jsonObj STRING -> ARRAY<STRING>", keys)] },
    Def { name: "JSON_RECORDS", about: "The entries of a JSON object, values as text.", overloads: &[strict("jsonObj STRING -> MAP<STRING, STRING>", records)] },
    Def { name: "TO_JSON_STRING", about: "A value as JSON text.", overloads: &[row("val T -> STRING", |c, a| Ok(Value::String(to_json(&a[0], &c.function.arg_types[0]).to_string())))] },
];

/// Depth is bounded by serde_json's own limit of 128.
fn parse(text: &str) -> Option<Json> {
    serde_json::from_str(text).ok()
}

/// The text itself of a JSON string, else the JSON text.
fn plain(json: &Json) -> String {
    match json {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn extract(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let (Value::String(input), Value::String(path)) = (&args[0], &args[1]) else { return Ok(Value::Null) };
    let Some(json) = parse(input) else { return Err(format!("Invalid JSON: {input}")) };
    let steps = path_steps(path).ok_or_else(|| format!("Invalid JSON path: {path}"))?;
    let mut at = &json;
    for step in steps {
        let next = match at {
            Json::Object(fields) => fields.get(&step),
            Json::Array(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
            _ => None,
        };
        match next {
            Some(next) => at = next,
            None => return Ok(Value::Null),
        }
    }
    Ok(if *at == Json::Null { Value::Null } else { Value::String(plain(at)) })
}

/// `$.a.b[0]['c d']` as steps.
fn path_steps(path: &str) -> Option<Vec<String>> {
    let mut rest = path.strip_prefix('$')?;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            steps.push(after[..end].to_owned());
            rest = &after[end..];
        } else {
            let after = rest.strip_prefix('[')?;
            let end = after.find(']')?;
            steps.push(after[..end].trim_matches(['\'', '"']).to_owned());
            rest = &after[end + 1..];
        }
    }
    Some(steps)
}

fn array_contains(call: &RowCall<'_>, args: &[Value]) -> Outcome {
    let Value::String(input) = &args[0] else { return Ok(Value::Boolean(false)) };
    let Some(Json::Array(items)) = parse(input) else { return Ok(Value::Boolean(false)) };
    let wanted = to_json(&args[1], &call.function.arg_types[1]);
    let same = |item: &Json| match (item, &wanted) {
        (Json::Number(a), Json::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (a, b) => a == b,
    };
    Ok(Value::Boolean(items.iter().any(same)))
}

fn array_length(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    match parse(text(&args[0])?) {
        Some(Json::Array(items)) => integer(items.len()),
        Some(_) => Ok(Value::Null),
        None => Ok(Value::Null),
    }
}

fn concat(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let mut result: Option<Json> = None;
    for arg in args {
        let Value::String(input) = arg else { return Ok(Value::Null) };
        let Some(next) = parse(input) else { return Ok(Value::Null) };
        result = Some(match (result, next) {
            (None, first) => first,
            (Some(Json::Object(mut a)), Json::Object(b)) => {
                a.extend(b);
                Json::Object(a)
            }
            (Some(a), b) => {
                let list = |json: Json| if let Json::Array(items) = json { items } else { vec![json] };
                Json::Array(list(a).into_iter().chain(list(b)).collect())
            }
        });
    }
    Ok(result.map_or(Value::Null, |json| Value::String(json.to_string())))
}

fn items(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    match parse(text(&args[0])?) {
        Some(Json::Array(items)) => {
            Ok(Value::Array(items.iter().map(|item| Value::String(item.to_string())).collect()))
        }
        Some(_) => Err("JSON_ITEMS expects a JSON array".to_owned()),
        None => Err("invalid JSON".to_owned()),
    }
}

fn keys(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    Ok(match parse(text(&args[0])?) {
        Some(Json::Object(fields)) => {
            Value::Array(fields.into_iter().map(|(key, _)| Value::String(key)).collect())
        }
        _ => Value::Null,
    })
}

fn records(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    Ok(match parse(text(&args[0])?) {
        Some(Json::Object(fields)) => {
            let entry = |(key, value): (String, Json)| {
                let value = plain(&value);
                (Value::String(key), Value::String(value))
            };
            Value::Map(fields.into_iter().map(entry).collect())
        }
        _ => Value::Null,
    })
}

fn number(text: &str) -> Json {
    text.parse::<Number>().map_or_else(|_| Json::String(text.to_owned()), Json::Number)
}

/// The value as ksqlDB's JSON mapper writes it.
fn to_json(value: &Value, ty: &SqlType) -> Json {
    match (value, ty) {
        (Value::Null, _) => Json::Null,
        (Value::Boolean(value), _) => Json::Bool(*value),
        (Value::Integer(_) | Value::BigInt(_), _) => number(&value_to_string(value, ty)),
        (Value::Double(value), _) => number(&numbers::double_to_string(*value)),
        (Value::Decimal(unscaled, _, scale), _) => number(&numbers::decimal_to_string(*unscaled, *scale)),
        (Value::Array(items), SqlType::Array(element)) => {
            Json::Array(items.iter().map(|item| to_json(item, element)).collect())
        }
        (Value::Map(entries), SqlType::Map(key, item)) => {
            let entry = |(name, value): &(Value, Value)| (value_to_string(name, key), to_json(value, item));
            Json::Object(entries.iter().map(entry).collect())
        }
        (Value::Struct(fields), SqlType::Struct(columns)) => {
            let field =
                |(column, value): (&crate::Column, &Value)| (column.name.clone(), to_json(value, &column.ty));
            Json::Object(columns.iter().zip(fields).map(field).collect::<Map<_, _>>())
        }
        (value, ty) => Json::String(value_to_string(value, ty)),
    }
}
