//! Columns into JSON text, as Jackson writes it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::scan::find_special;
use crate::java::{write_decimal, write_double, write_i64};
use crate::sink::View;

/// `{"NAME":` for the first field, `,"NAME":` for the others.
pub(crate) fn field_prefix(index: usize, name: &str) -> Vec<u8> {
    let mut out = vec![if index == 0 { b'{' } else { b',' }];
    write_string(name.as_bytes(), &mut out);
    out.push(b':');
    out
}

/// Appends `text` in quotes, escaped.
pub(crate) fn write_string(text: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut rest = text;
    while let Some(at) = find_special(rest) {
        let (plain, tail) = rest.split_at(at);
        out.extend_from_slice(plain);
        let Some((byte, tail)) = tail.split_first() else { break };
        rest = tail;
        out.push(b'\\');
        match byte {
            b'"' | b'\\' => out.push(*byte),
            0x08 => out.push(b'b'),
            0x0c => out.push(b'f'),
            b'\n' => out.push(b'n'),
            b'\r' => out.push(b'r'),
            b'\t' => out.push(b't'),
            _ => {
                out.extend_from_slice(b"u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

fn index(offset: i32) -> usize {
    usize::try_from(offset).unwrap_or(0)
}

/// Appends the value in `row` as JSON.
pub(crate) fn write_value(view: &View<'_>, row: usize, out: &mut Vec<u8>) {
    if view.is_null(row) {
        out.extend_from_slice(b"null");
        return;
    }
    match view {
        View::Boolean(array) => out.extend_from_slice(if array.value(row) { b"true" } else { b"false" }),
        View::Integer(array) => write_i64(i64::from(array.value(row)), out),
        View::Date(array) => write_i64(i64::from(array.value(row)), out),
        View::Time(array) => write_i64(i64::from(array.value(row)), out),
        View::BigInt(array) => write_i64(array.value(row), out),
        View::Timestamp(array) => write_i64(array.value(row), out),
        View::Double(array) => write_json_double(array.value(row), out),
        View::Decimal(array, scale) => write_decimal(array.value(row), *scale, out),
        View::Text(array) => write_string(array.value(row).as_bytes(), out),
        View::Bytes(array) => {
            out.push(b'"');
            out.extend_from_slice(STANDARD.encode(array.value(row)).as_bytes());
            out.push(b'"');
        }
        View::Array(array, element) => {
            let offsets = array.value_offsets();
            out.push(b'[');
            for (count, at) in (index(offsets[row])..index(offsets[row + 1])).enumerate() {
                if count > 0 {
                    out.push(b',');
                }
                write_value(element, at, out);
            }
            out.push(b']');
        }
        View::Map(array, keys, values) => {
            let offsets = array.value_offsets();
            out.push(b'{');
            for (count, at) in (index(offsets[row])..index(offsets[row + 1])).enumerate() {
                if count > 0 {
                    out.push(b',');
                }
                write_map_key(keys, at, out);
                out.push(b':');
                write_value(values, at, out);
            }
            out.push(b'}');
        }
        View::Struct(_, fields) => write_object(fields, row, out),
        View::Null => out.extend_from_slice(b"null"),
    }
}

fn write_map_key(keys: &View<'_>, at: usize, out: &mut Vec<u8>) {
    if let View::Text(array) = keys {
        write_string(array.value(at).as_bytes(), out);
    } else {
        out.push(b'"');
        write_value(keys, at, out);
        out.push(b'"');
    }
}

fn write_json_double(value: f64, out: &mut Vec<u8>) {
    if value.is_finite() {
        write_double(value, out);
    } else {
        out.push(b'"');
        write_double(value, out);
        out.push(b'"');
    }
}

/// Appends fields with their prefixes as one object.
pub(crate) fn write_object(fields: &[(Vec<u8>, View<'_>)], row: usize, out: &mut Vec<u8>) {
    if fields.is_empty() {
        out.push(b'{');
    }
    for (prefix, view) in fields {
        out.extend_from_slice(prefix);
        write_value(view, row, out);
    }
    out.push(b'}');
}
