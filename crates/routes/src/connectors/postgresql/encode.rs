//! Exchanges as PostgreSQL's binary COPY format.
//!
//! ```text
//! "PGCOPY\n\xff\r\n\0" | flags i32 = 0 | extension i32 = 0 | rows: (count i16 | (len i32 | bytes)…)… | i16 = −1
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;

use super::config::EVENT_ID;
use super::table::{Column, Staged};
use crate::connectors::SendError;
use crate::exchange::{Exchange, text_of};
use crate::language::date::moment;

/// 2000-01-01 in milliseconds since the Unix epoch: where PostgreSQL's time begins.
const EPOCH_2000_MS: i64 = 946_684_800_000;

/// The batch as one COPY stream.
pub(crate) fn encode(columns: &[Column], batch: &[Exchange]) -> Result<Bytes, SendError> {
    let mut out = BytesMut::with_capacity(batch.len() * 128 + 32);
    out.put_slice(b"PGCOPY\n\xff\r\n\0");
    out.put_i32(0);
    out.put_i32(0);
    let count = i16::try_from(columns.len() + 1).map_err(|_| SendError::retry("more than 32,766 columns"))?;
    for (index, exchange) in batch.iter().enumerate() {
        let Some(Value::Object(fields)) = exchange.json().map(AsRef::as_ref) else {
            return Err(SendError::poison(Some(index), "postgresql: the body is not a JSON object"));
        };
        out.put_i16(count);
        out.put_i32(8);
        out.put_i64(i64::try_from(index).unwrap_or(i64::MAX));
        for column in columns {
            let id;
            let value = match fields.get(&column.name) {
                None | Some(Value::Null) if column.name == EVENT_ID => {
                    id = exchange.event_id(EVENT_ID).map_or(Value::Null, Value::from);
                    &id
                }
                Some(value) => value,
                None => &Value::Null,
            };
            cell(&mut out, column, value).map_err(|reason| SendError::poison(Some(index), reason))?;
        }
    }
    out.put_i16(-1);
    Ok(out.freeze())
}

fn cell(out: &mut BytesMut, column: &Column, value: &Value) -> Result<(), String> {
    if value.is_null() {
        out.put_i32(-1);
        return Ok(());
    }
    let refuse = || {
        let shown: String = text_of(value).chars().take(40).collect();
        format!("postgresql: column {} is {}, {shown} does not fit", column.name, column.kind)
    };
    match column.staged {
        Staged::Bool => {
            let flag = value.as_bool().or_else(|| value.as_str()?.parse().ok()).ok_or_else(refuse)?;
            out.put_i32(1);
            out.put_u8(u8::from(flag));
        }
        Staged::Int8 => {
            let number = value.as_i64().or_else(|| value.as_str()?.trim().parse().ok()).ok_or_else(refuse)?;
            out.put_i32(8);
            out.put_i64(number);
        }
        Staged::Float8 => {
            let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok()).ok_or_else(refuse)?;
            out.put_i32(8);
            out.put_f64(number);
        }
        Staged::Timestamp => {
            let at_ms = moment(value).ok_or_else(refuse)?;
            let micros =
                at_ms.checked_sub(EPOCH_2000_MS).and_then(|ms| ms.checked_mul(1000)).ok_or_else(refuse)?;
            out.put_i32(8);
            out.put_i64(micros);
        }
        Staged::Text => {
            let text = text_of(value);
            // a JSON column wants its strings in quotes
            let text = match value {
                Value::String(_) if column.kind.starts_with("json") => value.to_string(),
                _ => text,
            };
            out.put_i32(i32::try_from(text.len()).map_err(|_| refuse())?);
            out.put_slice(text.as_bytes());
        }
    }
    Ok(())
}
