//! The DELIMITED format: one line of separated values, quoted as Apache Commons CSV's default format does.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::column::{ColumnBuilder, Values};
use crate::error::quote;
use crate::java::{write_decimal, write_double, write_i64};
use crate::json::number::parts;
use crate::sink::View;
use crate::{Column, Format, FormatError, SqlType};

/// Refuses delimiters and columns that the format cannot hold.
pub(crate) fn check(columns: &[Column], delimiter: char) -> Result<u8, FormatError> {
    for column in columns {
        if matches!(column.ty, SqlType::Array(_) | SqlType::Map(..) | SqlType::Struct(_)) {
            return Err(FormatError::Columns {
                format: Format::Delimited,
                reason: format!("does not support type '{}', column: `{}`", column.ty, column.name),
            });
        }
    }
    match u8::try_from(delimiter) {
        Ok(byte) if byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n' | 0) => Ok(byte),
        _ => Err(FormatError::Delimiter(delimiter)),
    }
}

/// Why a line was refused.
pub(crate) enum Refusal {
    /// It is no such line.
    Syntax(String),
    /// It has this many fields.
    Count(usize),
    /// This column cannot take this text.
    Mismatch(usize, String),
}

/// Reads lines; keeps the buffer of quoted fields.
#[derive(Debug)]
pub(crate) struct DelimitedReader {
    delimiter: u8,
    needed: Vec<bool>,
    unquoted: Vec<u8>,
}

impl DelimitedReader {
    pub(crate) fn new(delimiter: u8, needed: Vec<bool>) -> Self {
        Self { delimiter, needed, unquoted: Vec::new() }
    }

    /// Pushes one row. On failure columns may be half filled.
    pub(crate) fn read(&mut self, line: &[u8], columns: &mut [ColumnBuilder]) -> Result<(), Refusal> {
        let line = line.strip_suffix(b"\n").map_or(line, |rest| rest.strip_suffix(b"\r").unwrap_or(rest));
        let mut at = 0;
        let mut count = 0;
        loop {
            self.unquoted.clear();
            let (field, next) = field_at(line, at, self.delimiter, &mut self.unquoted)?;
            if self.needed.get(count) == Some(&true)
                && let Some(column) = columns.get_mut(count)
            {
                push(field, column)
                    .ok_or_else(|| Refusal::Mismatch(count, quote(&String::from_utf8_lossy(field))))?;
            }
            count += 1;
            match next {
                Some(next) => at = next,
                None => break,
            }
        }
        if count == self.needed.len() { Ok(()) } else { Err(Refusal::Count(count)) }
    }
}

/// The field that begins at `at`, and where the next one begins.
fn field_at<'a>(
    line: &'a [u8],
    at: usize,
    delimiter: u8,
    unquoted: &'a mut Vec<u8>,
) -> Result<(&'a [u8], Option<usize>), Refusal> {
    let rest = line.get(at..).unwrap_or_default();
    if rest.first() != Some(&b'"') {
        let end = rest.iter().position(|byte| *byte == delimiter || matches!(byte, b'\n' | b'\r'));
        let Some(end) = end else { return Ok((rest, None)) };
        if rest.get(end) != Some(&delimiter) {
            return Err(Refusal::Syntax("it holds more than one line".to_owned()));
        }
        return Ok((rest.get(..end).unwrap_or_default(), Some(at + end + 1)));
    }
    let mut from = 1;
    loop {
        let tail = rest.get(from..).unwrap_or_default();
        let Some(end) = tail.iter().position(|byte| *byte == b'"') else {
            return Err(Refusal::Syntax("a quoted field does not end".to_owned()));
        };
        unquoted.extend_from_slice(tail.get(..end).unwrap_or_default());
        from += end + 1;
        if rest.get(from) != Some(&b'"') {
            break;
        }
        unquoted.push(b'"');
        from += 1;
    }
    while rest.get(from).is_some_and(|byte| *byte != delimiter && byte.is_ascii_whitespace()) {
        from += 1;
    }
    match rest.get(from) {
        None => Ok((unquoted, None)),
        Some(byte) if *byte == delimiter => Ok((unquoted, Some(at + from + 1))),
        Some(_) => Err(Refusal::Syntax("text follows a closing quote".to_owned())),
    }
}

/// Pushes the value of one field; an empty one is null. `None`: the text does not fit the type.
fn push(field: &[u8], column: &mut ColumnBuilder) -> Option<()> {
    if field.is_empty() {
        column.push_null();
        return Some(());
    }
    if let Values::Text(blob) = &mut column.values {
        std::str::from_utf8(field).ok()?;
        blob.push(field);
        column.mark_valid();
        return Some(());
    }
    let text = std::str::from_utf8(field).ok()?.trim();
    match &mut column.values {
        Values::Boolean(values) => values.push(text.eq_ignore_ascii_case("true")),
        Values::Integer(values) | Values::Date(values) | Values::Time(values) => {
            values.push(text.parse().ok()?)
        }
        Values::BigInt(values) | Values::Timestamp(values) => values.push(text.parse().ok()?),
        Values::Double(values) => values.push(text.parse().ok()?),
        Values::Decimal { values, precision, scale } => {
            values.push(parts(text.as_bytes())?.decimal(*precision, *scale)?);
        }
        Values::Bytes(blob) => {
            STANDARD.decode_vec(text, &mut blob.bytes).ok()?;
            blob.end();
        }
        _ => return None,
    }
    column.mark_valid();
    Some(())
}

/// Appends one row.
pub(crate) fn write_line(
    views: &[View<'_>],
    row: usize,
    delimiter: u8,
    scratch: &mut Vec<u8>,
    out: &mut Vec<u8>,
) {
    for (index, view) in views.iter().enumerate() {
        if index > 0 {
            out.push(delimiter);
        }
        if view.is_null(row) {
            continue;
        }
        scratch.clear();
        write_text(view, row, scratch);
        if needs_quotes(scratch, index == 0, delimiter) {
            out.push(b'"');
            for byte in scratch.iter() {
                if *byte == b'"' {
                    out.push(b'"');
                }
                out.push(*byte);
            }
            out.push(b'"');
        } else {
            out.extend_from_slice(scratch);
        }
    }
}

fn write_text(view: &View<'_>, row: usize, out: &mut Vec<u8>) {
    match view {
        View::Boolean(array) => out.extend_from_slice(if array.value(row) { b"true" } else { b"false" }),
        View::Integer(array) => write_i64(i64::from(array.value(row)), out),
        View::Date(array) => write_i64(i64::from(array.value(row)), out),
        View::Time(array) => write_i64(i64::from(array.value(row)), out),
        View::BigInt(array) => write_i64(array.value(row), out),
        View::Timestamp(array) => write_i64(array.value(row), out),
        View::Double(array) => write_double(array.value(row), out),
        View::Decimal(array, scale) => write_decimal(array.value(row), *scale, out),
        View::Text(array) => out.extend_from_slice(array.value(row).as_bytes()),
        View::Bytes(array) => out.extend_from_slice(STANDARD.encode(array.value(row)).as_bytes()),
        View::Array(..) | View::Map(..) | View::Struct(..) | View::Null => {}
    }
}

/// Commons CSV's `QuoteMode.MINIMAL`.
fn needs_quotes(text: &[u8], first: bool, delimiter: u8) -> bool {
    let Some(begin) = text.first().copied() else { return first };
    // the first character of a line decides more strictly
    if first && (begin < 0x20 || begin == 0x22 || begin == 0x2c || begin > 0x7e) {
        return true;
    }
    if begin <= b'#' || text.last().is_some_and(|last| *last <= b' ') {
        return true;
    }
    text.iter().any(|byte| matches!(byte, b'\n' | b'\r' | b'"') || *byte == delimiter)
}
