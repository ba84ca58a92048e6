//! Answers as a person reads them.

use serde_json::Value;

/// Prints one entity of a `/ksql` answer.
pub(super) fn entity(entity: &Value) {
    match entity["@type"].as_str().unwrap_or_default() {
        "streams" => list(entity, "streams", &["name", "topic", "keyFormat", "valueFormat", "isWindowed"]),
        "tables" => list(entity, "tables", &["name", "topic", "keyFormat", "valueFormat", "isWindowed"]),
        "queries" => list(entity, "queries", &["id", "state", "sinks", "queryString"]),
        "kafka_topics" => list(entity, "topics", &["name", "replicaInfo"]),
        "function_names" => list(entity, "functions", &["name", "type"]),
        "properties" => list(entity, "properties", &["name", "value"]),
        "sourceDescription" => source(&entity["sourceDescription"]),
        _ => {
            let message = &entity["commandStatus"]["message"];
            match message.as_str() {
                Some(message) => println!("{message}"),
                None => println!("{entity:#}"),
            }
        }
    }
    for warning in entity["warnings"].as_array().into_iter().flatten() {
        eprintln!("herdsman: {}", text(&warning["message"]));
    }
}

fn source(description: &Value) {
    println!("{} ({})", text(&description["name"]), text(&description["type"]));
    let rows: Vec<Vec<String>> = description["fields"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|field| {
            let role = field["type"].as_str().unwrap_or_default();
            vec![text(&field["name"]), format!("{} {role}", schema(&field["schema"]))]
        })
        .collect();
    table(&["Field", "Type"], &rows);
    for key in ["topic", "statement", "statistics", "errorStats"] {
        if let Some(value) = description[key].as_str().filter(|value| !value.is_empty()) {
            println!("{key}: {value}");
        }
    }
}

fn schema(schema: &Value) -> String {
    text(&schema["type"])
}

fn list(entity: &Value, key: &str, columns: &[&str]) {
    let rows: Vec<Vec<String>> = entity[key]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| columns.iter().map(|column| text(&row[*column])).collect())
        .collect();
    table(columns, &rows);
}

/// Prints one element of a `/query` answer.
pub(super) fn row(element: &Value, header: &mut bool) {
    if let Some(schema) = element["header"]["schema"].as_str() {
        println!("{schema}");
        *header = true;
    } else if let Some(columns) = element["row"]["columns"].as_array() {
        println!("{}", columns.iter().map(text).collect::<Vec<_>>().join(" | "));
    } else if let Some(message) = element["finalMessage"].as_str() {
        println!("{message}");
    } else {
        println!("{element}");
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "null".to_owned(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

fn table(columns: &[&str], rows: &[Vec<String>]) {
    let width = |index: usize| {
        let cells = rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.chars().count());
        cells.chain(columns.get(index).map(|name| name.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    println!("{}", line(&columns.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()));
    for row in rows {
        println!("{}", line(row));
    }
}
