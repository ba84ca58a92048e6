//! The KAFKA format: one column as Kafka's own serializers write it, big endian.

use crate::column::{ColumnBuilder, Values};
use crate::sink::View;
use crate::{Column, Format, FormatError, SqlType};

/// Refuses columns that the format cannot hold.
pub(crate) fn check(columns: &[Column]) -> Result<(), FormatError> {
    let refuse = |reason: String| Err(FormatError::Columns { format: Format::Kafka, reason });
    match columns {
        [] => Ok(()),
        [one] => match one.ty {
            SqlType::Integer | SqlType::BigInt | SqlType::Double | SqlType::String | SqlType::Bytes => Ok(()),
            _ => refuse(format!("does not support type '{}', column: `{}`", one.ty, one.name)),
        },
        more => refuse(format!(
            "only supports a single field. Got: {} columns; use JSON or DELIMITED",
            more.len()
        )),
    }
}

/// Pushes the one value; text is taken as it is unless `careful`, whoever takes the column checks it as a whole first. The
/// error is what was found instead.
#[inline]
pub(crate) fn push(bytes: &[u8], column: &mut ColumnBuilder, careful: bool) -> Result<(), String> {
    let size = |wanted: usize| format!("{} bytes where {wanted} belong", bytes.len());
    match &mut column.values {
        Values::Integer(values) => {
            values.push(i32::from_be_bytes(bytes.try_into().map_err(|_| size(4))?));
        }
        Values::BigInt(values) => {
            values.push(i64::from_be_bytes(bytes.try_into().map_err(|_| size(8))?));
        }
        Values::Double(values) => {
            values.push(f64::from_be_bytes(bytes.try_into().map_err(|_| size(8))?));
        }
        // Java's StringDeserializer replaces what is not UTF-8
        Values::Text(blob) if careful => blob.push(String::from_utf8_lossy(bytes).as_bytes()),
        Values::Text(blob) => blob.push(bytes),
        Values::Bytes(blob) => blob.push(bytes),
        _ => return Err("a type the KAFKA format does not have".to_owned()),
    }
    column.mark_valid();
    Ok(())
}

/// Appends the value in `row`, which is not null.
pub(crate) fn write(view: &View<'_>, row: usize, out: &mut Vec<u8>) {
    match view {
        View::Integer(array) => out.extend_from_slice(&array.value(row).to_be_bytes()),
        View::BigInt(array) => out.extend_from_slice(&array.value(row).to_be_bytes()),
        View::Double(array) => out.extend_from_slice(&array.value(row).to_be_bytes()),
        View::Text(array) => out.extend_from_slice(array.value(row).as_bytes()),
        View::Bytes(array) => out.extend_from_slice(array.value(row)),
        _ => {}
    }
}
