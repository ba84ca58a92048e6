//! One JSON value into one column, coerced as ksqlDB's deserializer does.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use super::DEPTH_MAX;
use super::number::{Parts, fast_double, fast_integer, parts};
use super::scan::{Cursor, RawString, Stop, unescape};
use crate::column::{Blob, ColumnBuilder, Values};

/// Reads the value at the cursor and pushes it, or pushes null. On failure the column may hold half a value:
/// the caller truncates it.
#[inline]
pub(crate) fn push_value(
    cursor: &mut Cursor<'_>,
    column: &mut ColumnBuilder,
    depth: usize,
) -> Result<(), Stop> {
    if cursor.peek() == b'n' {
        cursor.word(b"null")?;
        column.push_null();
        return Ok(());
    }
    match &mut column.values {
        Values::Text(blob) if cursor.peek() == b'"' => push_text(cursor.string()?, blob),
        Values::BigInt(values) => values.push(integer(cursor)?),
        Values::Double(values) => values.push(double(cursor)?),
        Values::Integer(values) => values.push(integer32(cursor)?),
        Values::Boolean(values) => values.push(boolean(cursor)?),
        _ => return push_other(cursor, column, depth),
    }
    column.mark_valid();
    Ok(())
}

fn push_other(cursor: &mut Cursor<'_>, column: &mut ColumnBuilder, depth: usize) -> Result<(), Stop> {
    match &mut column.values {
        Values::Text(blob) => {
            as_text(cursor, &mut blob.bytes, depth)?;
            blob.end();
        }
        Values::Bytes(blob) => base64(cursor, blob)?,
        Values::Date(values) | Values::Time(values) => values.push(low32(number_only(cursor)?)),
        Values::Timestamp(values) => values.push(number_only(cursor)?),
        Values::Decimal { values, precision, scale } => {
            let (precision, scale) = (*precision, *scale);
            let fit = |parts: Parts<'_>| parts.decimal(precision, scale);
            values.push(with_number(cursor, |text| parts(text).and_then(fit))?);
        }
        Values::Array { element, .. } => {
            push_array(cursor, element, depth)?;
            column.close_nested();
            return Ok(());
        }
        Values::Map { keys, values, .. } => {
            push_map(cursor, keys, values, depth)?;
            column.close_nested();
            return Ok(());
        }
        Values::Struct { len, fields } => {
            let row = *len;
            push_struct(cursor, fields, row, depth)?;
            column.close_nested();
            return Ok(());
        }
        Values::BigInt(_) | Values::Double(_) | Values::Integer(_) | Values::Boolean(_) => {
            return Err(Stop::Mismatch);
        }
    }
    column.mark_valid();
    Ok(())
}

#[inline]
fn push_text(raw: RawString<'_>, blob: &mut Blob) {
    if raw.escaped {
        unescape(raw.bytes, &mut blob.bytes);
    } else {
        blob.append(raw.bytes, raw.tail);
    }
    blob.end();
}

/// Gives `read` the text of a number, or of a string.
fn with_number<T>(cursor: &mut Cursor<'_>, read: impl Fn(&[u8]) -> Option<T>) -> Result<T, Stop> {
    let found = match cursor.peek() {
        b'"' => {
            let raw = cursor.string()?;
            if raw.escaped {
                let mut text = Vec::new();
                unescape(raw.bytes, &mut text);
                read(&text)
            } else {
                read(raw.bytes)
            }
        }
        b'-' | b'0'..=b'9' => read(cursor.number()?),
        _ => return mismatch(cursor),
    };
    found.ok_or(Stop::Mismatch)
}

/// The value here is well-formed but of another kind, or it is not JSON at all.
fn mismatch<T>(cursor: &mut Cursor<'_>) -> Result<T, Stop> {
    cursor.skip_value(0)?;
    Err(Stop::Mismatch)
}

fn low32(value: i64) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "Java's Number.intValue keeps the low 32 bits")]
    let low = value as i32;
    low
}

/// `Long.parseLong`: a sign and digits.
fn parse_long(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[inline]
fn integer(cursor: &mut Cursor<'_>) -> Result<i64, Stop> {
    let start = cursor.at;
    if let Some(value) = fast_integer(cursor) {
        return Ok(value);
    }
    cursor.at = start;
    slow_integer(cursor)
}

#[cold]
fn slow_integer(cursor: &mut Cursor<'_>) -> Result<i64, Stop> {
    if cursor.peek() == b'"' { with_number(cursor, parse_long) } else { number_only(cursor) }
}

#[inline]
fn integer32(cursor: &mut Cursor<'_>) -> Result<i32, Stop> {
    if cursor.peek() == b'"' {
        return with_number(cursor, |text| std::str::from_utf8(text).ok()?.parse().ok());
    }
    integer(cursor).map(low32)
}

/// A JSON number cut to 64 bits, as `Number.longValue`; strings are refused.
fn number_only(cursor: &mut Cursor<'_>) -> Result<i64, Stop> {
    if !matches!(cursor.peek(), b'-' | b'0'..=b'9') {
        return mismatch(cursor);
    }
    parts(cursor.number()?).map(|parts| parts.low_bits()).ok_or(Stop::Mismatch)
}

#[inline]
fn double(cursor: &mut Cursor<'_>) -> Result<f64, Stop> {
    let start = cursor.at;
    if let Some(value) = fast_double(cursor) {
        return Ok(value);
    }
    cursor.at = start;
    // `Double.parseDouble` trims white space and takes the words NaN and Infinity, but not inf or nan
    with_number(cursor, |text| {
        let text = std::str::from_utf8(text).ok()?.trim();
        match text {
            "NaN" | "+NaN" | "-NaN" => Some(f64::NAN),
            "Infinity" | "+Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => text.parse().ok().filter(|_| !text.contains(['i', 'I', 'n', 'N'])),
        }
    })
}

fn boolean(cursor: &mut Cursor<'_>) -> Result<bool, Stop> {
    match cursor.peek() {
        b't' => cursor.word(b"true").map(|()| true),
        b'f' => cursor.word(b"false").map(|()| false),
        _ => mismatch(cursor),
    }
}

fn base64(cursor: &mut Cursor<'_>, blob: &mut Blob) -> Result<(), Stop> {
    if cursor.peek() != b'"' {
        return mismatch(cursor);
    }
    let raw = cursor.string()?;
    let mut text = Vec::new();
    unescape(raw.bytes, &mut text);
    let engine = if text.ends_with(b"=") { STANDARD } else { STANDARD_NO_PAD };
    engine.decode_vec(&text, &mut blob.bytes).map_err(|_| Stop::Mismatch)?;
    blob.end();
    Ok(())
}

/// Any value as the text that Jackson's `asText` or `writeValueAsString` gives.
pub(crate) fn as_text(cursor: &mut Cursor<'_>, out: &mut Vec<u8>, depth: usize) -> Result<(), Stop> {
    match cursor.peek() {
        b'"' => {
            let raw = cursor.string()?;
            unescape(raw.bytes, out);
            Ok(())
        }
        b'{' | b'[' => compact(cursor, out, depth),
        _ => scalar_text(cursor, out),
    }
}

fn scalar_text(cursor: &mut Cursor<'_>, out: &mut Vec<u8>) -> Result<(), Stop> {
    match cursor.peek() {
        b'-' | b'0'..=b'9' => {
            let text = cursor.number()?;
            if text.iter().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
                parts(text).ok_or(Stop::Mismatch)?.write_big_decimal(out);
            } else {
                out.extend_from_slice(if text == b"-0" { b"0" } else { text });
            }
        }
        b't' => {
            cursor.word(b"true")?;
            out.extend_from_slice(b"true");
        }
        b'f' => {
            cursor.word(b"false")?;
            out.extend_from_slice(b"false");
        }
        b'n' => {
            cursor.word(b"null")?;
            out.extend_from_slice(b"null");
        }
        _ => return Err(Stop::Syntax),
    }
    Ok(())
}

/// Writes a value again without white space.
fn compact(cursor: &mut Cursor<'_>, out: &mut Vec<u8>, depth: usize) -> Result<(), Stop> {
    if depth >= DEPTH_MAX {
        return Err(Stop::TooDeep);
    }
    let open = cursor.peek();
    let close = match open {
        b'"' => {
            compact_string(cursor, out)?;
            return Ok(());
        }
        b'{' => b'}',
        b'[' => b']',
        _ => return scalar_text(cursor, out),
    };
    out.push(open);
    let mut more = cursor.enter(close)?;
    while more {
        if close == b'}' {
            compact_string(cursor, out)?;
            cursor.colon()?;
            out.push(b':');
        }
        compact(cursor, out, depth + 1)?;
        more = cursor.next_member(close)?;
        if more {
            out.push(b',');
        }
    }
    out.push(close);
    Ok(())
}

fn compact_string(cursor: &mut Cursor<'_>, out: &mut Vec<u8>) -> Result<(), Stop> {
    let raw = cursor.string()?;
    if raw.escaped {
        let mut text = Vec::new();
        unescape(raw.bytes, &mut text);
        super::writer::write_string(&text, out);
    } else {
        out.push(b'"');
        out.extend_from_slice(raw.bytes);
        out.push(b'"');
    }
    Ok(())
}

fn push_array(cursor: &mut Cursor<'_>, element: &mut ColumnBuilder, depth: usize) -> Result<(), Stop> {
    if cursor.peek() != b'[' {
        return mismatch(cursor);
    }
    if depth >= DEPTH_MAX {
        return Err(Stop::TooDeep);
    }
    let mut more = cursor.enter(b']')?;
    while more {
        push_value(cursor, element, depth + 1)?;
        more = cursor.next_member(b']')?;
    }
    Ok(())
}

fn push_map(
    cursor: &mut Cursor<'_>,
    keys: &mut ColumnBuilder,
    values: &mut ColumnBuilder,
    depth: usize,
) -> Result<(), Stop> {
    if cursor.peek() != b'{' {
        return mismatch(cursor);
    }
    if depth >= DEPTH_MAX {
        return Err(Stop::TooDeep);
    }
    let mut more = cursor.enter(b'}')?;
    while more {
        let name = cursor.string()?;
        match &mut keys.values {
            Values::Text(blob) => push_text(name, blob),
            _ => return Err(Stop::Mismatch),
        }
        keys.mark_valid();
        cursor.colon()?;
        push_value(cursor, values, depth + 1)?;
        more = cursor.next_member(b'}')?;
    }
    Ok(())
}

fn push_struct(
    cursor: &mut Cursor<'_>,
    fields: &mut [(String, ColumnBuilder)],
    row: usize,
    depth: usize,
) -> Result<(), Stop> {
    if cursor.peek() != b'{' {
        return mismatch(cursor);
    }
    if depth >= DEPTH_MAX {
        return Err(Stop::TooDeep);
    }
    // an exact name wins over one that only matches in upper case
    let mut exact = 0_u128;
    let mut more = cursor.enter(b'}')?;
    while more {
        let raw = cursor.string()?;
        cursor.colon()?;
        match find_field(raw, fields) {
            Some((index, is_exact)) if is_exact || index >= 128 || exact & (1 << index) == 0 => {
                if is_exact && index < 128 {
                    exact |= 1 << index;
                }
                if let Some((_, field)) = fields.get_mut(index) {
                    field.truncate(row);
                    push_value(cursor, field, depth + 1)?;
                }
            }
            _ => cursor.skip_value(depth + 1)?,
        }
        more = cursor.next_member(b'}')?;
    }
    for (_, field) in fields {
        if field.len() == row {
            field.push_null();
        }
    }
    Ok(())
}

fn find_field(raw: RawString<'_>, fields: &[(String, ColumnBuilder)]) -> Option<(usize, bool)> {
    let names = fields.iter().map(|(name, _)| name.as_str());
    if raw.escaped {
        let mut text = Vec::new();
        unescape(raw.bytes, &mut text);
        match_name(&text, names)
    } else {
        match_name(raw.bytes, names)
    }
}

/// Index of the column that a JSON name means, and whether it matches exactly (else in upper case).
pub(crate) fn match_name<'a>(
    name: &[u8],
    columns: impl Iterator<Item = &'a str> + Clone,
) -> Option<(usize, bool)> {
    if let Some(index) = columns.clone().position(|column| column.as_bytes() == name) {
        return Some((index, true));
    }
    let upper = std::str::from_utf8(name).ok()?.to_uppercase();
    columns.clone().position(|column| column == upper).map(|index| (index, false))
}
