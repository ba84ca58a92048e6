//! Cases with REST answers: statements, inputs, then each SELECT, compared with the expected responses.

use std::time::Duration;

use serde_json::Value as Json;

use super::bytes::Actual;
use super::case::Case;
use super::compare::{Rules, meets};
use super::runner::{Bench, outputs};
use crate::diagnostic::SqlError;
use crate::engine::{Engine, QueryHandle, StatementClass};

const STEPS_MAX: usize = 100_000;

pub(super) fn run(case: &Case) -> Result<(), String> {
    let bench = Bench::new(case)?;
    bench.session.set(
        "auto.offset.reset",
        case.properties.get("auto.offset.reset").map_or("earliest", String::as_str),
    );
    let answers = respond(case, &bench);
    match (&case.expected_error, answers) {
        (Some(expected), Err(error)) => refused(expected, &error),
        (Some(_), Ok(_)) => Err("nothing was refused".to_owned()),
        (None, Err(error)) => Err(error.message),
        (None, Ok(answers)) => {
            let expected = case.responses.clone().unwrap_or_default();
            for (index, expected) in expected.iter().enumerate() {
                let actual = answers.get(index).ok_or_else(|| format!("response {index} is missing"))?;
                response(expected, actual).map_err(|reason| format!("response {index}: {reason}"))?;
            }
            outputs(case, &bench)
        }
    }
}

fn respond(case: &Case, bench: &Bench) -> Result<Vec<Json>, SqlError> {
    let mut answers = Vec::new();
    let mut selects = Vec::new();
    let mut statements = Vec::new();
    for text in &case.statements {
        statements.extend(Engine::split(text)?);
    }
    for (class, text) in statements {
        if class == StatementClass::Query {
            selects.push(text);
        } else {
            // Persistent queries of a server start at the beginning whatever the request's push query does.
            let session = bench.session.clone();
            session.set("auto.offset.reset", "earliest");
            for entity in bench.engine.execute(&text, &session)? {
                answers.push(serde_json::json!({"admin": serde_json::to_value(entity).map_err(SqlError::environment)?}));
            }
        }
    }
    let produce = || -> Result<(), SqlError> {
        for input in &case.inputs {
            bench.produce(input).map_err(SqlError::processing)?;
        }
        bench.drive(&case.inputs)
    };
    if !case.wait_for_push {
        produce()?;
    }
    for select in selects {
        let mut handle = bench.engine.query(&select, &bench.session)?;
        if case.wait_for_push {
            produce()?;
        }
        answers.push(serde_json::json!({"query": rows(bench, &mut handle)?}));
    }
    Ok(answers)
}

fn rows(bench: &Bench, handle: &mut QueryHandle) -> Result<Vec<Json>, SqlError> {
    let mut out = vec![handle.header()];
    for _ in 0..STEPS_MAX {
        match handle.next(Duration::ZERO)? {
            None => break,
            Some(rows) if rows.is_empty() => {
                let worked = bench.engine.runtime().step().map_err(SqlError::processing)?;
                if !worked {
                    break;
                }
            }
            Some(rows) => out.extend(rows.iter().map(|row| row.to_json())),
        }
    }
    out.push(serde_json::json!({"finalMessage": handle.final_message()}));
    Ok(out)
}

fn refused(expected: &Json, error: &SqlError) -> Result<(), String> {
    let message = expected.get("message").and_then(Json::as_str).unwrap_or_default();
    let status = expected.get("status").and_then(Json::as_u64);
    let full = format!("{}\nStatement: {}", error.message, error.statement.clone().unwrap_or_default());
    if !error.message.contains(message) && !full.contains(message) {
        return Err(format!("said: {} -- expected: {message}", error.message));
    }
    match status {
        Some(status) if status != u64::from(error.http_status()) => {
            Err(format!("status {}, expected {status}", error.http_status()))
        }
        _ => Ok(()),
    }
}

fn response(expected: &Json, actual: &Json) -> Result<(), String> {
    if let Some(expected) = expected.get("query").and_then(Json::as_array) {
        let actual = actual.get("query").and_then(Json::as_array).ok_or("it is no query answer")?;
        return query(expected, actual);
    }
    if let Some(expected) = expected.get("admin") {
        let actual = actual.get("admin").ok_or("it is no admin answer")?;
        return if subset(expected, actual) {
            Ok(())
        } else {
            Err(format!("{actual} does not hold {expected}"))
        };
    }
    Err("this kind of answer (protobuf) is not supported yet".to_owned())
}

fn query(expected: &[Json], actual: &[Json]) -> Result<(), String> {
    let is_row = |json: &&Json| json.get("row").is_some();
    let header =
        |all: &[Json]| all.iter().find(|json| json.get("header").is_some()).cloned().unwrap_or(Json::Null);
    if !subset(&header(expected), &header(actual)) {
        return Err(format!("header {} does not hold {}", header(actual), header(expected)));
    }
    let mut left: Vec<&Json> = actual.iter().filter(is_row).collect();
    let count = expected.iter().filter(is_row).count();
    if left.len() != count {
        return Err(format!("{} rows, expected {count}; {:?}", left.len(), left.first()));
    }
    for row in expected.iter().filter(is_row) {
        let Some(at) = left.iter().position(|actual| subset(row, actual)) else {
            return Err(format!("no row {row}; left: {:?}", left.first()));
        };
        left.remove(at);
    }
    let last = |all: &[Json]| all.iter().find_map(|json| json.get("finalMessage").cloned());
    match last(expected) {
        Some(message) if Some(&message) != last(actual).as_ref() => {
            Err(format!("it ended with {:?}, expected {message}", last(actual)))
        }
        _ => Ok(()),
    }
}

/// Every expected key is there and meets; `key|starts_with` compares prefixes.
fn subset(expected: &Json, actual: &Json) -> bool {
    match (expected, actual) {
        (Json::Object(expected), Json::Object(actual)) => {
            expected.iter().all(|(key, expected)| match key.split_once('|') {
                Some((key, "starts_with")) => {
                    let found = actual.get(key).and_then(Json::as_str);
                    found.zip(expected.as_str()).is_some_and(|(found, prefix)| found.starts_with(prefix))
                }
                _ => actual.get(key).is_some_and(|actual| subset(expected, actual)),
            })
        }
        (Json::Array(expected), Json::Array(actual)) => {
            expected.len() == actual.len() && expected.iter().zip(actual).all(|(e, a)| subset(e, a))
        }
        (Json::String(expected), Json::String(actual)) if expected == "{STATEMENT}" => !actual.is_empty(),
        (Json::Number(_), Json::Number(_)) => {
            meets(expected, &Actual::Json(actual.clone()), Rules { exact: false })
                || expected.as_f64() == actual.as_f64()
        }
        _ => meets(expected, &Actual::Json(actual.clone()), Rules { exact: false }),
    }
}
