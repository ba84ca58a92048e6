//! Texts and bytes.
//!
//! Positions count code points where Java counts UTF-16 units (they differ outside the Basic Multilingual Plane only).
//! Regular expressions are linear-time: no look-around, no back-references; a pattern that needs them is an error.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int32Array, ListBuilder, StringBuilder};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use regex::Regex;

use super::args::{Outcome, bytes, integer, list, long, string, text};
use super::catalog::{Def, columns, row, strict};
use super::{ArgColumn, RowCall, ScalarFunction};
use crate::eval::{EvalError, spread, values_equal};
use crate::expr::Value;
use crate::numbers;

/// LPAD and RPAD make no longer values.
const PAD_MAX: usize = 1 << 20;

#[rustfmt::skip]
pub(crate) const DEFS: &[Def] = &[
    Def { name: "AS_VALUE", about: "A copy of a key column for the value.", overloads: &[columns("keyColumn T -> T", as_value)] },
    Def { name: "COALESCE", about: "The first value that is not null.", overloads: &[columns("first T, others T... -> T", coalesce)] },
    Def { name: "IFNULL", about: "The first value, or the second if it is null.", overloads: &[columns("expression T, altValue T -> T", coalesce)] },
    Def { name: "NULLIF", about: "Null if both values are equal, else the first.", overloads: &[row("expression1 T, expression2 T -> T", |_, a| Ok(if values_equal(&a[0], &a[1]) { Value::Null } else { a[0].clone() }))] },
    Def { name: "CHR", about: "The character of a code point or of a \\u escape.", overloads: &[strict("decimalCode INTEGER -> STRING", chr), strict("utf16Code STRING -> STRING", chr)] },
    Def { name: "CONCAT", about: "The arguments one after the other; nulls are left out.", overloads: &[row("inputs STRING... -> STRING", |_, a| concat(a)), row("inputs BYTES... -> BYTES", |_, a| concat_bytes(a))] },
    Def { name: "CONCAT_WS", about: "The arguments with a separator between; nulls are left out.", overloads: &[row("separator STRING, inputs STRING... -> STRING", concat_ws), row("separator BYTES, inputs BYTES... -> BYTES", concat_ws_bytes)] },
    Def { name: "ELT", about: "The n-th argument, counted from 1.", overloads: &[row("pos INTEGER, args STRING... -> STRING", elt)] },
    Def { name: "FIELD", about: "The position of the first argument among the others, 0 if it is not there.", overloads: &[row("str STRING, args STRING... -> INTEGER", field)] },
    Def { name: "ENCODE", about: "A text in another encoding: hex, utf8, ascii, base64.", overloads: &[strict("str STRING, inputEncoding STRING, outputEncoding STRING -> STRING", |_, a| string(encode(&decode(text(&a[0])?, text(&a[1])?)?, text(&a[2])?)?))] },
    Def { name: "FROM_BYTES", about: "Bytes as text: hex, utf8, ascii, base64.", overloads: &[strict("value BYTES, outputEncoding STRING -> STRING", |_, a| string(encode(bytes(&a[0])?, text(&a[1])?)?))] },
    Def { name: "TO_BYTES", about: "Text as bytes: hex, utf8, ascii, base64.", overloads: &[strict("value STRING, inputEncoding STRING -> BYTES", |_, a| Ok(Value::Bytes(decode(text(&a[0])?, text(&a[1])?)?)))] },
    Def { name: "INT_FROM_BYTES", about: "An INTEGER from 4 bytes.", overloads: &[strict("value BYTES -> INTEGER", int_from_bytes), strict("value BYTES, byteOrder STRING -> INTEGER", int_from_bytes)] },
    Def { name: "BIGINT_FROM_BYTES", about: "A BIGINT from 8 bytes.", overloads: &[strict("value BYTES -> BIGINT", bigint_from_bytes), strict("value BYTES, byteOrder STRING -> BIGINT", bigint_from_bytes)] },
    Def { name: "DOUBLE_FROM_BYTES", about: "A DOUBLE from 8 bytes.", overloads: &[strict("value BYTES -> DOUBLE", double_from_bytes), strict("value BYTES, byteOrder STRING -> DOUBLE", double_from_bytes)] },
    Def { name: "INITCAP", about: "Each word with a capital first letter.", overloads: &[strict("str STRING -> STRING", initcap)] },
    Def { name: "INSTR", about: "The position of a text in another, 0 if it is not there.", overloads: &[strict("str STRING, substring STRING -> INTEGER", instr), strict("str STRING, substring STRING, pos INTEGER -> INTEGER", instr), strict("str STRING, substring STRING, pos INTEGER, occurrence INTEGER -> INTEGER", instr)] },
    Def { name: "LCASE", about: "In lower case.", overloads: &[columns("input STRING -> STRING", lcase)] },
    Def { name: "UCASE", about: "In upper case.", overloads: &[columns("input STRING -> STRING", ucase)] },
    Def { name: "TRIM", about: "Without leading and trailing spaces.", overloads: &[columns("input STRING -> STRING", trim)] },
    Def { name: "LEN", about: "The length in characters or bytes.", overloads: &[columns("input STRING -> INTEGER", len), strict("input BYTES -> INTEGER", |_, a| integer(bytes(&a[0])?.len()))] },
    Def { name: "LPAD", about: "Filled up from the left.", overloads: &[strict("input STRING, targetLen INTEGER, padding STRING -> STRING", lpad), strict("input BYTES, targetLen INTEGER, padding BYTES -> BYTES", lpad_bytes)] },
    Def { name: "RPAD", about: "Filled up from the right.", overloads: &[strict("input STRING, targetLen INTEGER, padding STRING -> STRING", rpad), strict("input BYTES, targetLen INTEGER, padding BYTES -> BYTES", rpad_bytes)] },
    Def { name: "MASK", about: "Letters and digits hidden: A to X, a to x, 1 to n, others to -.", overloads: &[row("input STRING -> STRING", mask), row("input STRING, upper STRING, lower STRING, digit STRING, other STRING -> STRING", mask)] },
    Def { name: "MASK_LEFT", about: "The first n characters hidden.", overloads: &[row("input STRING, numChars INTEGER -> STRING", mask_left), row("input STRING, numChars INTEGER, upper STRING, lower STRING, digit STRING, other STRING -> STRING", mask_left)] },
    Def { name: "MASK_RIGHT", about: "The last n characters hidden.", overloads: &[row("input STRING, numChars INTEGER -> STRING", mask_right), row("input STRING, numChars INTEGER, upper STRING, lower STRING, digit STRING, other STRING -> STRING", mask_right)] },
    Def { name: "MASK_KEEP_LEFT", about: "All but the first n characters hidden.", overloads: &[row("input STRING, numChars INTEGER -> STRING", mask_keep_left), row("input STRING, numChars INTEGER, upper STRING, lower STRING, digit STRING, other STRING -> STRING", mask_keep_left)] },
    Def { name: "MASK_KEEP_RIGHT", about: "All but the last n characters hidden.", overloads: &[row("input STRING, numChars INTEGER -> STRING", mask_keep_right), row("input STRING, numChars INTEGER, upper STRING, lower STRING, digit STRING, other STRING -> STRING", mask_keep_right)] },
    Def { name: "MD5", about: "The MD5 digest in hexadecimal.", overloads: &[strict("s STRING -> STRING", md5)] },
    Def { name: "REGEXP_EXTRACT", about: "The first match of a pattern, or one of its groups.", overloads: &[strict("pattern STRING, input STRING -> STRING", regexp_extract), strict("pattern STRING, input STRING, group INTEGER -> STRING", regexp_extract)] },
    Def { name: "REGEXP_EXTRACT_ALL", about: "All matches of a pattern, or of one of its groups.", overloads: &[strict("pattern STRING, input STRING -> ARRAY<STRING>", regexp_extract_all), strict("pattern STRING, input STRING, group INTEGER -> ARRAY<STRING>", regexp_extract_all)] },
    Def { name: "REGEXP_REPLACE", about: "All matches of a pattern replaced.", overloads: &[strict("str STRING, regexp STRING, newStr STRING -> STRING", regexp_replace)] },
    Def { name: "REGEXP_SPLIT_TO_ARRAY", about: "Cut at the matches of a pattern.", overloads: &[strict("str STRING, regexp STRING -> ARRAY<STRING>", regexp_split)] },
    Def { name: "REPLACE", about: "All occurrences of a text replaced.", overloads: &[strict("str STRING, oldStr STRING, newStr STRING -> STRING", |_, a| string(text(&a[0])?.replace(text(&a[1])?, text(&a[2])?)))] },
    Def { name: "SPLIT", about: "Cut at a delimiter.", overloads: &[columns("str STRING, delimiter STRING -> ARRAY<STRING>", split), strict("bytes BYTES, delimiter BYTES -> ARRAY<BYTES>", split_bytes)] },
    Def { name: "SPLIT_TO_MAP", about: "Cut into entries, and these into key and value.", overloads: &[strict("input STRING, entryDelimiter STRING, kvDelimiter STRING -> MAP<STRING, STRING>", split_to_map)] },
    Def { name: "SUBSTRING", about: "A part of a text or of bytes; positions count from 1, negative ones from the end.", overloads: &[columns("value STRING, pos INTEGER -> STRING", substring), columns("value STRING, pos INTEGER, length INTEGER -> STRING", substring), strict("value BYTES, pos INTEGER -> BYTES", substring_bytes), strict("value BYTES, pos INTEGER, length INTEGER -> BYTES", substring_bytes)] },
    Def { name: "UUID", about: "A random UUID, or the UUID of 16 bytes.", overloads: &[row(" -> STRING", uuid), strict("bytes BYTES -> STRING", uuid)] },
];

fn coalesce(
    function: &ScalarFunction,
    args: &[ArgColumn<'_>],
    rows: usize,
    _: i64,
    _: &mut dyn FnMut(usize, &str),
) -> Result<ArrayRef, EvalError> {
    let mut result = arrow::array::new_null_array(&function.return_type.arrow(), rows);
    for arg in args.iter().rev() {
        let valid: BooleanArray = (0..rows).map(|row| Some(arg.array.is_valid(arg.at(row)))).collect();
        let arg = crate::eval::Operand { array: arg.array.clone(), scalar: arg.scalar };
        result = arrow::compute::kernels::zip::zip(&valid, &arg, &result)?;
    }
    Ok(result)
}

fn as_value(
    _: &ScalarFunction,
    args: &[ArgColumn<'_>],
    rows: usize,
    _: i64,
    _: &mut dyn FnMut(usize, &str),
) -> Result<ArrayRef, EvalError> {
    let array = args[0].array;
    if args[0].scalar { spread(array, rows) } else { Ok(Arc::clone(array)) }
}

/// Applies `change` to each text; null stays null.
fn map_texts(arg: &ArgColumn<'_>, rows: usize, change: impl Fn(&str, &mut StringBuilder)) -> ArrayRef {
    let texts = arg.array.as_string::<i32>();
    let mut builder = StringBuilder::with_capacity(rows, texts.value_data().len());
    for row in 0..rows {
        let at = arg.at(row);
        if texts.is_null(at) {
            builder.append_null();
        } else {
            change(texts.value(at), &mut builder);
        }
    }
    Arc::new(builder.finish())
}

macro_rules! text_kernel {
    ($name:ident, $change:expr) => {
        fn $name(
            _: &ScalarFunction,
            args: &[ArgColumn<'_>],
            rows: usize,
            _: i64,
            _: &mut dyn FnMut(usize, &str),
        ) -> Result<ArrayRef, EvalError> {
            Ok(map_texts(&args[0], rows, $change))
        }
    };
}

text_kernel!(lcase, |text, out| out.append_value(text.to_lowercase()));
text_kernel!(ucase, |text, out| out.append_value(text.to_uppercase()));
text_kernel!(trim, |text, out| out.append_value(numbers::java_trim(text)));

fn len(
    _: &ScalarFunction,
    args: &[ArgColumn<'_>],
    rows: usize,
    _: i64,
    _: &mut dyn FnMut(usize, &str),
) -> Result<ArrayRef, EvalError> {
    let texts = args[0].array.as_string::<i32>();
    let length = |text: &str| if text.is_ascii() { text.len() } else { text.encode_utf16().count() };
    let lengths: Int32Array = (0..rows)
        .map(|row| {
            let at = args[0].at(row);
            texts.is_valid(at).then(|| i32::try_from(length(texts.value(at))).unwrap_or(i32::MAX))
        })
        .collect();
    Ok(Arc::new(lengths))
}

/// First and end index of SUBSTRING(…, pos, length) in something of `total` items.
fn part(total: usize, pos: i32, length: Option<i32>) -> (usize, usize) {
    let total = i64::try_from(total).unwrap_or(i64::MAX);
    let pos = i64::from(pos);
    let start = if pos < 0 { (total + pos).max(0) } else { (pos - 1).clamp(0, total) };
    let end = length.map_or(total, |length| (start + i64::from(length)).clamp(start, total));
    (usize::try_from(start).unwrap_or(0), usize::try_from(end).unwrap_or(0))
}

fn substring(
    _: &ScalarFunction,
    args: &[ArgColumn<'_>],
    rows: usize,
    _: i64,
    _: &mut dyn FnMut(usize, &str),
) -> Result<ArrayRef, EvalError> {
    let texts = args[0].array.as_string::<i32>();
    let positions = args[1].array.as_primitive::<arrow::datatypes::Int32Type>();
    let lengths = args.get(2).map(|arg| arg.array.as_primitive::<arrow::datatypes::Int32Type>());
    let mut builder = StringBuilder::with_capacity(rows, texts.value_data().len());
    for row in 0..rows {
        let (at, pos_at) = (args[0].at(row), args[1].at(row));
        let length = lengths.map(|lengths| (lengths, args[2].at(row)));
        if texts.is_null(at) || positions.is_null(pos_at) || length.is_some_and(|(l, at)| l.is_null(at)) {
            builder.append_null();
            continue;
        }
        let text = texts.value(at);
        let (pos, length) = (positions.value(pos_at), length.map(|(lengths, at)| lengths.value(at)));
        if text.is_ascii() {
            let (start, end) = part(text.len(), pos, length);
            builder.append_value(&text[start..end]);
        } else {
            let (start, end) = part(text.chars().count(), pos, length);
            let byte = |index: usize| text.char_indices().nth(index).map_or(text.len(), |(at, _)| at);
            builder.append_value(&text[byte(start)..byte(end)]);
        }
    }
    Ok(Arc::new(builder.finish()))
}

fn small(value: &Value) -> Result<i32, String> {
    Ok(i32::try_from(long(value)?).unwrap_or(i32::MAX))
}

fn substring_bytes(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let value = bytes(&args[0])?;
    let length = args.get(2).map(small).transpose()?;
    let (start, end) = part(value.len(), small(&args[1])?, length);
    Ok(Value::Bytes(value[start..end].to_vec()))
}

fn chr(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    if let Value::Integer(code) = args[0] {
        let c = u32::try_from(code).ok().and_then(char::from_u32);
        return Ok(c.map_or(Value::Null, |c| Value::String(c.to_string())));
    }
    let mut units = Vec::new();
    for part in text(&args[0])?.split("\\u").skip(1) {
        match (part.len(), u16::from_str_radix(part, 16)) {
            (4, Ok(unit)) => units.push(unit),
            _ => return Ok(Value::Null),
        }
    }
    let valid = !units.is_empty() && text(&args[0])?.starts_with("\\u");
    Ok(match String::from_utf16(&units) {
        Ok(decoded) if valid => Value::String(decoded),
        _ => Value::Null,
    })
}

fn present(args: &[Value]) -> impl Iterator<Item = &Value> {
    args.iter().filter(|value| **value != Value::Null)
}

fn concat(args: &[Value]) -> Outcome {
    let parts = present(args).map(text).collect::<Result<Vec<_>, _>>()?;
    string(parts.concat())
}

fn concat_bytes(args: &[Value]) -> Outcome {
    Ok(Value::Bytes(present(args).map(bytes).collect::<Result<Vec<_>, _>>()?.concat()))
}

fn concat_ws(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    if args[0] == Value::Null {
        return Ok(Value::Null);
    }
    string(present(&args[1..]).map(text).collect::<Result<Vec<_>, _>>()?.join(text(&args[0])?))
}

fn concat_ws_bytes(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    if args[0] == Value::Null {
        return Ok(Value::Null);
    }
    Ok(Value::Bytes(present(&args[1..]).map(bytes).collect::<Result<Vec<_>, _>>()?.join(bytes(&args[0])?)))
}

fn elt(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let chosen = match &args[0] {
        Value::Integer(pos) => {
            usize::try_from(*pos).ok().filter(|pos| *pos > 0).and_then(|pos| args.get(pos))
        }
        _ => None,
    };
    Ok(chosen.cloned().unwrap_or(Value::Null))
}

fn field(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    if args[0] == Value::Null {
        return integer(0);
    }
    integer(args[1..].iter().position(|value| *value == args[0]).map_or(0, |at| at + 1))
}

fn decode(input: &str, encoding: &str) -> Result<Vec<u8>, String> {
    match encoding.to_ascii_lowercase().as_str() {
        "hex" => {
            let digits = input.strip_prefix("0x").or_else(|| input.strip_prefix("0X")).unwrap_or(input);
            let digits = digits.strip_prefix("X'").and_then(|d| d.strip_suffix('\'')).unwrap_or(digits);
            let padded = if digits.len() % 2 == 1 { format!("0{digits}") } else { digits.to_owned() };
            let pairs = padded.as_bytes().chunks(2);
            pairs
                .map(|pair| {
                    let pair = std::str::from_utf8(pair).map_err(|_| "not hexadecimal".to_owned())?;
                    u8::from_str_radix(pair, 16).map_err(|_| format!("not hexadecimal: {input}"))
                })
                .collect()
        }
        "utf8" => Ok(input.as_bytes().to_vec()),
        "ascii" => {
            Ok(input.chars().map(|c| u8::try_from(c).ok().filter(u8::is_ascii).unwrap_or(b'?')).collect())
        }
        "base64" => BASE64.decode(input).map_err(|error| error.to_string()),
        other => Err(format!("Supported input encodings are: hex, utf8, ascii and base64, not '{other}'")),
    }
}

fn encode(input: &[u8], encoding: &str) -> Result<String, String> {
    match encoding.to_ascii_lowercase().as_str() {
        "hex" => Ok(hex(input)),
        "utf8" => Ok(String::from_utf8_lossy(input).into_owned()),
        "ascii" => Ok(input.iter().map(|b| if b.is_ascii() { char::from(*b) } else { '\u{fffd}' }).collect()),
        "base64" => Ok(BASE64.encode(input)),
        other => Err(format!("Supported output encodings are: hex, utf8, ascii and base64, not '{other}'")),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        write!(out, "{byte:02x}").expect("writing to a String cannot fail");
        out
    })
}

/// The bytes in big-endian order.
fn ordered<const N: usize>(args: &[Value]) -> Result<[u8; N], String> {
    let value = bytes(&args[0])?;
    let mut fixed: [u8; N] = value
        .try_into()
        .map_err(|_| format!("Number of bytes must be equal to {N}, but found {}", value.len()))?;
    match args.get(1).map_or(Ok("BIG_ENDIAN"), text)? {
        "BIG_ENDIAN" => {}
        "LITTLE_ENDIAN" => fixed.reverse(),
        other => return Err(format!("Byte order must be BIG_ENDIAN or LITTLE_ENDIAN, not '{other}'")),
    }
    Ok(fixed)
}

fn int_from_bytes(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    Ok(Value::Integer(i32::from_be_bytes(ordered(args)?)))
}

fn bigint_from_bytes(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    Ok(Value::BigInt(i64::from_be_bytes(ordered(args)?)))
}

fn double_from_bytes(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    Ok(Value::Double(f64::from_be_bytes(ordered(args)?)))
}

fn initcap(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let mut start = true;
    let mut out = String::new();
    for c in text(&args[0])?.chars() {
        if start {
            out.extend(c.to_uppercase())
        } else {
            out.extend(c.to_lowercase())
        }
        start = c.is_whitespace();
    }
    string(out)
}

fn instr(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let haystack: Vec<char> = text(&args[0])?.chars().collect();
    let needle: Vec<char> = text(&args[1])?.chars().collect();
    let pos = args.get(2).map_or(Ok(1), long)?;
    let wanted = args.get(3).map_or(Ok(1), long)?;
    let length = i64::try_from(haystack.len()).unwrap_or(i64::MAX);
    if pos == 0 || wanted < 1 || haystack.len() < needle.len() {
        return integer(0);
    }
    let found = |at: i64| {
        usize::try_from(at)
            .ok()
            .and_then(|at| haystack.get(at..at + needle.len()))
            .is_some_and(|part| part == needle)
    };
    let mut hits: Box<dyn Iterator<Item = i64>> = if pos > 0 {
        Box::new((pos - 1..length).filter(|at| found(*at)))
    } else {
        Box::new((0..=length + pos).rev().filter(|at| found(*at)))
    };
    let skip = usize::try_from(wanted - 1).unwrap_or(usize::MAX);
    integer(hits.nth(skip).and_then(|at| usize::try_from(at + 1).ok()).unwrap_or(0))
}

/// Target length if the padding makes sense.
fn pad_length(args: &[Value], padding_empty: bool) -> Result<Option<usize>, String> {
    match usize::try_from(long(&args[1])?) {
        Ok(length) if length > PAD_MAX => Err(format!("a length of {length} is over the limit of {PAD_MAX}")),
        Ok(length) if !padding_empty => Ok(Some(length)),
        _ => Ok(None),
    }
}

fn pad<T: Copy>(input: &[T], padding: &[T], length: usize, left: bool) -> Vec<T> {
    let fill = length.saturating_sub(input.len());
    let filler = padding.iter().copied().cycle().take(fill);
    let kept = input.iter().copied().take(length);
    if left { filler.chain(kept).collect() } else { kept.chain(filler).collect() }
}

fn pad_text(args: &[Value], left: bool) -> Outcome {
    let padding: Vec<char> = text(&args[2])?.chars().collect();
    let Some(length) = pad_length(args, padding.is_empty())? else { return Ok(Value::Null) };
    let input: Vec<char> = text(&args[0])?.chars().collect();
    string(pad(&input, &padding, length, left).into_iter().collect::<String>())
}

fn pad_bytes(args: &[Value], left: bool) -> Outcome {
    let padding = bytes(&args[2])?;
    let Some(length) = pad_length(args, padding.is_empty())? else { return Ok(Value::Null) };
    Ok(Value::Bytes(pad(bytes(&args[0])?, padding, length, left)))
}

fn lpad(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    pad_text(args, true)
}

fn rpad(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    pad_text(args, false)
}

fn lpad_bytes(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    pad_bytes(args, true)
}

fn rpad_bytes(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    pad_bytes(args, false)
}

/// Hides the characters whose index is in `range(length)`; `masks` are the replacements, null keeps.
fn masked(args: &[Value], masks: &[Value], range: impl Fn(usize) -> std::ops::Range<usize>) -> Outcome {
    if args[0] == Value::Null {
        return Ok(Value::Null);
    }
    let mut replacements = [Some('X'), Some('x'), Some('n'), Some('-')];
    for (replacement, mask) in replacements.iter_mut().zip(masks) {
        *replacement = if *mask == Value::Null { None } else { text(mask)?.chars().next() };
    }
    let chars: Vec<char> = text(&args[0])?.chars().collect();
    let range = range(chars.len());
    let hide = |(index, c): (usize, &char)| {
        let class = if c.is_uppercase() {
            0
        } else if c.is_lowercase() {
            1
        } else if c.is_numeric() {
            2
        } else {
            3
        };
        if range.contains(&index) { replacements[class].unwrap_or(*c) } else { *c }
    };
    string(chars.iter().enumerate().map(hide).collect::<String>())
}

fn mask(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    masked(args, &args[1..], |length| 0..length)
}

fn mask_count(args: &[Value]) -> Result<usize, String> {
    let count = if args[1] == Value::Null { -1 } else { long(&args[1])? };
    usize::try_from(count)
        .map_err(|_| format!("function requires a non-negative number of characters, got {count}"))
}

fn mask_left(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let n = mask_count(args)?;
    masked(args, &args[2..], |length| 0..n.min(length))
}

fn mask_right(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let n = mask_count(args)?;
    masked(args, &args[2..], |length| length.saturating_sub(n)..length)
}

fn mask_keep_left(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let n = mask_count(args)?;
    masked(args, &args[2..], |length| n.min(length)..length)
}

fn mask_keep_right(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let n = mask_count(args)?;
    masked(args, &args[2..], |length| 0..length.saturating_sub(n))
}

fn md5(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    use md5::{Digest, Md5};
    string(hex(&Md5::digest(text(&args[0])?)))
}

/// The compiled pattern; the last few are kept per thread.
fn with_regex<T>(pattern: &str, use_it: impl FnOnce(&Regex) -> T) -> Result<T, String> {
    thread_local! {
        static CACHE: RefCell<HashMap<String, Regex>> = RefCell::new(HashMap::new());
    }
    CACHE.with(|cache| {
        let mut cache = cache.borrow_mut();
        if let Some(regex) = cache.get(pattern) {
            return Ok(use_it(regex));
        }
        let regex = Regex::new(pattern)
            .map_err(|_| format!("Invalid regular expression pattern (linear-time syntax): {pattern}"))?;
        if cache.len() >= 64 {
            cache.clear();
        }
        Ok(use_it(cache.entry(pattern.to_owned()).or_insert(regex)))
    })
}

fn group(args: &[Value]) -> Result<usize, String> {
    let group = args.get(2).map_or(Ok(0), long)?;
    usize::try_from(group).map_err(|_| format!("No group {group}"))
}

fn regexp_extract(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let (group, input) = (group(args)?, text(&args[1])?);
    with_regex(text(&args[0])?, |regex| {
        if group >= regex.captures_len() {
            return Ok(Value::Null);
        }
        let found = regex.captures(input).and_then(|captures| captures.get(group));
        Ok(found.map_or(Value::Null, |found| Value::String(found.as_str().to_owned())))
    })?
}

fn regexp_extract_all(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let (group, input) = (group(args)?, text(&args[1])?);
    with_regex(text(&args[0])?, |regex| {
        if group >= regex.captures_len() {
            return Ok(Value::Null);
        }
        let all = regex.captures_iter(input).map(|captures| {
            captures.get(group).map_or(Value::Null, |found| Value::String(found.as_str().to_owned()))
        });
        Ok(Value::Array(all.collect()))
    })?
}

/// Java's replacement syntax (`$1`, `\$`) in the crate's.
fn java_replacement(replacement: &str) -> String {
    let mut out = String::new();
    let mut chars = replacement.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('$') => out.push_str("$$"),
                Some(other) => out.push(other),
                None => {}
            },
            '$' if chars.peek().is_some_and(char::is_ascii_digit) => {
                out.push_str("${");
                out.extend(chars.next());
                out.push('}');
            }
            '$' if chars.peek() == Some(&'{') => out.push('$'),
            '$' => out.push_str("$$"),
            other => out.push(other),
        }
    }
    out
}

fn regexp_replace(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let (input, replacement) = (text(&args[0])?, java_replacement(text(&args[2])?));
    with_regex(text(&args[1])?, |regex| string(regex.replace_all(input, replacement.as_str())))?
}

fn regexp_split(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let input = text(&args[0])?;
    let pattern = text(&args[1])?;
    if pattern.is_empty() {
        let mut parts = Vec::new();
        split_text(input, "", |part| parts.push(Value::String(part.to_owned())));
        return Ok(Value::Array(parts));
    }
    with_regex(pattern, |regex| {
        Ok(Value::Array(regex.split(input).map(|part| Value::String(part.to_owned())).collect()))
    })?
}

/// Calls `part` for each piece of `input`; an empty delimiter cuts it into its characters.
fn split_text<'a>(input: &'a str, delimiter: &str, mut part: impl FnMut(&'a str)) {
    if !delimiter.is_empty() {
        input.split(delimiter).for_each(part);
    } else if input.is_empty() {
        part(input);
    } else {
        input.split("").filter(|piece| !piece.is_empty()).for_each(part);
    }
}

fn split(
    _: &ScalarFunction,
    args: &[ArgColumn<'_>],
    rows: usize,
    _: i64,
    _: &mut dyn FnMut(usize, &str),
) -> Result<ArrayRef, EvalError> {
    let (texts, delimiters) = (args[0].array.as_string::<i32>(), args[1].array.as_string::<i32>());
    let parts = StringBuilder::with_capacity(rows, texts.value_data().len());
    let mut lists = ListBuilder::with_capacity(parts, rows);
    for row in 0..rows {
        let (text, delimiter) = (args[0].at(row), args[1].at(row));
        let valid = texts.is_valid(text) && delimiters.is_valid(delimiter);
        if valid {
            split_text(texts.value(text), delimiters.value(delimiter), |part| {
                lists.values().append_value(part);
            });
        }
        lists.append(valid);
    }
    Ok(Arc::new(lists.finish()))
}

fn split_bytes(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let (input, delimiter) = (bytes(&args[0])?, bytes(&args[1])?);
    if delimiter.is_empty() && !input.is_empty() {
        return Ok(Value::Array(input.iter().map(|byte| Value::Bytes(vec![*byte])).collect()));
    }
    let (mut parts, mut start, mut at) = (Vec::new(), 0, 0);
    while !delimiter.is_empty() && at + delimiter.len() <= input.len() {
        if input[at..].starts_with(delimiter) {
            parts.push(Value::Bytes(input[start..at].to_vec()));
            at += delimiter.len();
            start = at;
        } else {
            at += 1;
        }
    }
    parts.push(Value::Bytes(input[start..].to_vec()));
    Ok(Value::Array(parts))
}

fn split_to_map(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let (input, entry, pair) = (text(&args[0])?, text(&args[1])?, text(&args[2])?);
    if entry.is_empty() || pair.is_empty() || entry == pair {
        return Ok(Value::Null);
    }
    let mut entries: Vec<(Value, Value)> = Vec::new();
    for part in input.split(entry).filter(|part| !part.is_empty()) {
        if let Some((key, value)) = part.split_once(pair) {
            let (key, value) = (Value::String(key.to_owned()), Value::String(value.to_owned()));
            match entries.iter_mut().find(|(held, _)| *held == key) {
                Some((_, held)) => *held = value,
                None => entries.push((key, value)),
            }
        }
    }
    Ok(Value::Map(entries))
}

fn uuid(_: &RowCall<'_>, args: &[Value]) -> Outcome {
    let bits = match args.first() {
        Some(value) => match <[u8; 16]>::try_from(bytes(value)?) {
            Ok(fixed) => u128::from_be_bytes(fixed),
            Err(_) => return Ok(Value::Null),
        },
        None => {
            let random = u128::from(super::math::random()) << 64 | u128::from(super::math::random());
            (random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62)
        }
    };
    let digits = format!("{bits:032x}");
    string(format!(
        "{}-{}-{}-{}-{}",
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..]
    ))
}

/// Text of a list element for joins; null reads `null`.
pub(crate) fn join(items: &Value, separator: &str, show: impl Fn(&Value) -> String) -> Outcome {
    string(list(items)?.iter().map(show).collect::<Vec<_>>().join(separator))
}
