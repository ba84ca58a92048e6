//! Exchanges as line protocol: `table,symbol=v field=1i,other="x" 1700000000000`.

use serde_json::Value;

use super::Config;
use crate::connectors::SendError;
use crate::exchange::{Exchange, text_of};
use crate::language::date::moment;

/// The batch as lines, times in milliseconds.
pub(crate) fn encode(config: &Config, batch: &[Exchange], now_ms: i64) -> Result<Vec<u8>, SendError> {
    let mut out = String::with_capacity(batch.len() * 160);
    for (index, exchange) in batch.iter().enumerate() {
        line(&mut out, config, exchange, now_ms).map_err(|reason| SendError::poison(Some(index), reason))?;
    }
    Ok(out.into_bytes())
}

fn line(out: &mut String, config: &Config, exchange: &Exchange, now_ms: i64) -> Result<(), String> {
    let Some(Value::Object(fields)) = exchange.json().map(AsRef::as_ref) else {
        return Err(format!("table {}: the body is not a JSON object", config.table));
    };
    name(out, &config.table);
    for symbol in &config.symbols {
        let value = fields.get(symbol).map(text_of).unwrap_or_default();
        if value.is_empty() {
            continue;
        }
        out.push(',');
        name(out, symbol);
        out.push('=');
        name(out, &value);
    }
    out.push(' ');
    let start = out.len();
    let made_id = (config.questdb && config.key.iter().any(|key| key == "event_id"))
        .then(|| exchange.event_id("event_id"))
        .flatten();
    if let Some(id) = &made_id {
        field(out, start, "event_id", &Value::from(id.as_str()));
    }
    for (key, value) in fields {
        let taken = made_id.is_some() && key == "event_id";
        if taken || value.is_null() || config.symbols.contains(key) || config.timestamp.as_ref() == Some(key)
        {
            continue;
        }
        field(out, start, key, value);
    }
    if out.len() == start {
        return Err(format!("table {}: a record without fields", config.table));
    }
    let at_ms = match &config.timestamp {
        None => exchange.timestamp_ms(now_ms),
        Some(named) => {
            let value = fields.get(named).unwrap_or(&Value::Null);
            moment(value).ok_or_else(|| {
                let shown: String = text_of(value).chars().take(40).collect();
                format!("table {}: field {named} is no time (ms or ISO 8601): {shown}", config.table)
            })?
        }
    };
    out.push_str(&format!(" {at_ms}\n"));
    Ok(())
}

fn field(out: &mut String, start: usize, key: &str, value: &Value) {
    if out.len() > start {
        out.push(',');
    }
    name(out, key);
    out.push('=');
    match value {
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) if number.is_i64() => {
            out.push_str(&number.to_string());
            out.push('i');
        }
        Value::Number(number) => out.push_str(&number.as_f64().unwrap_or(0.0).to_string()),
        other => {
            out.push('"');
            for letter in text_of(other).chars() {
                if matches!(letter, '"' | '\\' | '\n' | '\r') {
                    out.push('\\');
                }
                out.push(letter);
            }
            out.push('"');
        }
    }
}

/// A name, key or symbol: space, comma, equals, backslash and line ends get a backslash.
fn name(out: &mut String, text: &str) {
    for letter in text.chars() {
        if matches!(letter, ' ' | ',' | '=' | '\\' | '\n' | '\r') {
            out.push('\\');
        }
        out.push(letter);
    }
}

/// `CREATE TABLE` with de-duplication, for QuestDB.
pub(crate) fn create_sql(config: &Config) -> String {
    let mut columns = vec!["timestamp TIMESTAMP".to_owned()];
    for key in config.key.iter().filter(|key| !config.symbols.contains(key)) {
        columns.push(format!("\"{}\" VARCHAR", key.replace('"', "")));
    }
    columns.extend(config.symbols.iter().map(|symbol| format!("\"{}\" SYMBOL", symbol.replace('"', ""))));
    let keys: Vec<String> = config.key.iter().map(|key| format!(", \"{}\"", key.replace('"', ""))).collect();
    format!(
        "CREATE TABLE IF NOT EXISTS '{}' ({}) TIMESTAMP(timestamp) PARTITION BY DAY WAL DEDUP UPSERT KEYS(timestamp{})",
        config.table.replace('\'', ""),
        columns.join(", "),
        keys.join("")
    )
}
