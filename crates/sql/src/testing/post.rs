//! Post-conditions of a case: sources and topics as they should stand after the statements.

use herdsman_bus::Bus;
use herdsman_formats::Format;
use herdsman_stream::Column;
use serde_json::Value as Json;

use super::case::Case;
use super::runner::Bench;
use crate::ast::{ElementRole, StatementKind};
use crate::catalog::Source;
use crate::parser;

/// Checks all post-conditions; returns how many entries were waived.
pub(super) fn check(case: &Case, bench: &Bench) -> Result<usize, String> {
    let Some(post) = &case.post else { return Ok(0) };
    for expected in post.get("sources").and_then(Json::as_array).into_iter().flatten() {
        source(expected, bench)?;
    }
    let mut waived = 0;
    if let Some(topics) = post.get("topics") {
        if let Some(pattern) = topics.get("blacklist").and_then(Json::as_str) {
            blacklist(pattern, bench)?;
        }
        for expected in topics.get("topics").and_then(Json::as_array).into_iter().flatten() {
            if internal(expected) {
                waived += 1;
            } else {
                topic(expected, bench)?;
            }
        }
    }
    Ok(waived)
}

fn text<'a>(json: &'a Json, key: &str) -> Option<&'a str> {
    json.get(key).and_then(Json::as_str)
}

fn internal(expected: &Json) -> bool {
    text(expected, "name").is_some_and(|name| name.starts_with("_confluent-ksql"))
}

fn blacklist(pattern: &str, bench: &Bench) -> Result<(), String> {
    let pattern = regex::Regex::new(pattern).map_err(|error| error.to_string())?;
    let topics = bench.bus.topics().map_err(|error| error.to_string())?;
    match topics.iter().find(|topic| pattern.is_match(&topic.name)) {
        Some(topic) => Err(format!("topic {} should not exist", topic.name)),
        None => Ok(()),
    }
}

fn source(expected: &Json, bench: &Bench) -> Result<(), String> {
    let name = text(expected, "name").ok_or("a post-condition has no name")?;
    let found = bench.engine.lock().catalog.sources.get(name).cloned();
    let Some(found) = found else { return Err(format!("source {name} does not exist")) };
    if let Some(kind) = text(expected, "type")
        && !kind.eq_ignore_ascii_case(found.kind())
    {
        return Err(format!("{name} is a {}, expected a {kind}", found.kind()));
    }
    if let Some(schema) = text(expected, "schema") {
        check_schema(name, schema, &found, bench)?;
    }
    if let Some(format) = expected.get("keyFormat") {
        check_format(name, "key", format, found.key_format.format)?;
        check_window(name, format, &found)?;
    }
    if let Some(format) = expected.get("valueFormat") {
        check_format(name, "value", format, found.value_format.format)?;
    }
    for (key, actual) in [("keyFeatures", key_features(&found)), ("valueFeatures", value_features(&found))] {
        if let Some(features) = expected.get(key).and_then(Json::as_array) {
            let wanted: Vec<&str> = features.iter().filter_map(Json::as_str).collect();
            if wanted != actual {
                return Err(format!("{name} has {key} {actual:?}, expected {wanted:?}"));
            }
        }
    }
    match expected.get("isSource").and_then(Json::as_bool) {
        Some(wanted) if wanted != found.read_only => Err(format!("{name}: isSource is {}", found.read_only)),
        _ => Ok(()),
    }
}

fn check_schema(name: &str, schema: &str, found: &Source, bench: &Bench) -> Result<(), String> {
    let statements = parser::parse_script(&format!("CREATE STREAM X ({schema}) WITH (A='A');"))
        .map_err(|error| format!("the expected schema does not parse: {}", error.message))?;
    let Some(StatementKind::CreateSource { elements, .. }) =
        statements.first().map(|statement| &statement.kind)
    else {
        return Err("the expected schema is no column list".to_owned());
    };
    let (mut key, mut value) = (Vec::new(), Vec::new());
    for element in elements {
        let ty = bench.engine.lock().catalog.resolve_type(&element.ty).map_err(|error| error.message)?;
        let column = Column::new(element.name.text.clone(), ty);
        match element.role {
            ElementRole::Key | ElementRole::PrimaryKey => key.push(column),
            _ => value.push(column),
        }
    }
    let actual: Vec<Column> = found.columns().skip(found.schema.key.len()).cloned().collect();
    if key == found.schema.key && value == actual {
        return Ok(());
    }
    Err(format!(
        "{name} has schema {}, expected {schema}",
        crate::catalog::schema_text(&found.schema.key, &actual)
    ))
}

fn check_format(name: &str, part: &str, expected: &Json, found: Format) -> Result<(), String> {
    let wanted = expected.as_str().or_else(|| text(expected, "format"));
    match wanted {
        Some(wanted) if !wanted.eq_ignore_ascii_case(found.name()) => {
            Err(format!("{name} has {part} format {}, expected {wanted}", found.name()))
        }
        _ => Ok(()),
    }
}

fn check_window(name: &str, expected: &Json, found: &Source) -> Result<(), String> {
    let ty = found.window.map(|window| window.kind.name());
    let size = found.window.and_then(|window| window.size_ms);
    let wanted = text(expected, "windowType").map(str::to_uppercase);
    let wanted_size = expected.get("windowSize").and_then(Json::as_i64);
    if wanted.as_deref() != ty || wanted_size != size {
        return Err(format!("{name} has window {ty:?} {size:?}, expected {wanted:?} {wanted_size:?}"));
    }
    Ok(())
}

fn key_features(source: &Source) -> Vec<&'static str> {
    let wraps =
        matches!(source.key_format.format, Format::Json | Format::Avro | Format::JsonSr | Format::Protobuf);
    if wraps && source.schema.key.len() == 1 { vec!["UNWRAP_SINGLES"] } else { Vec::new() }
}

fn value_features(source: &Source) -> Vec<&'static str> {
    match source.wrap_single_value {
        Some(true) => vec!["WRAP_SINGLES"],
        Some(false) => vec!["UNWRAP_SINGLES"],
        None => Vec::new(),
    }
}

fn topic(expected: &Json, bench: &Bench) -> Result<(), String> {
    let name = text(expected, "name").ok_or("a post-condition has no name")?;
    let found = bench.bus.topic(name).map_err(|error| error.to_string())?;
    let Some(found) = found else { return Err(format!("topic {name} does not exist")) };
    if let Some(partitions) = expected.get("partitions").and_then(Json::as_i64)
        && partitions != i64::from(found.partitions)
    {
        return Err(format!("topic {name} has {} partitions, expected {partitions}", found.partitions));
    }
    let Some(source) = bench.source_of(name) else { return Ok(()) };
    if let Some(format) = expected.get("keyFormat") {
        check_format(name, "key", format, source.key_format.format)?;
    }
    if let Some(format) = expected.get("valueFormat") {
        check_format(name, "value", format, source.value_format.format)?;
    }
    Ok(())
}
