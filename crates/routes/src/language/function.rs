//! The functions inside `${…}`.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use super::date::{Date, Source, moment};
use super::jsonpath::JsonPath;
use super::simple::{Simple, Template, closing, parse_nested_predicate};
use super::{EvalError, Scope};
use crate::error::hint;
use crate::exchange::{Exchange, text_of};

const NAMES: [&str; 36] = [
    "body",
    "header",
    "headers",
    "exchangeProperty",
    "exchangeId",
    "routeId",
    "messageTimestamp",
    "exception",
    "date",
    "date-with-timezone",
    "random",
    "uuid",
    "env",
    "length",
    "size",
    "uppercase",
    "lowercase",
    "trim",
    "concat",
    "replace",
    "substring",
    "substringBefore",
    "substringAfter",
    "isEmpty",
    "iif",
    "jsonpath",
    "null",
    "empty",
    "bodyAs",
    "mandatoryBodyAs",
    "headerAs",
    "prettyBody",
    "id",
    "sum",
    "hash",
    "toJson",
];
const REFUSED: [&str; 8] = ["bean", "ref", "type", "sys", "camelContext", "collate", "skip", "function"];

/// A compiled function.
#[derive(Debug, Clone)]
pub(crate) enum Function {
    Body(Vec<PathStep>),
    Header(String, Vec<PathStep>),
    Property(String, Vec<PathStep>),
    ExchangeId,
    RouteId,
    MessageTimestamp,
    ExceptionMessage,
    Date(Date),
    Random(i64, i64),
    Uuid,
    Env(String),
    Null,
    JsonPath(JsonPath),
    Call(Call, Vec<Template>),
    Iif(Simple, Template, Template),
    PrettyBody,
}

/// Functions of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Length,
    Size,
    Upper,
    Lower,
    Trim,
    Concat,
    Replace,
    Substring,
    Before,
    After,
    IsEmpty,
    Sum,
    Hash,
    ToJson,
}

/// A step into a value.
#[derive(Debug, Clone)]
pub(crate) enum PathStep {
    Key(String),
    Index(i64),
    Size,
    Upper,
    Lower,
    Trim,
    IsEmpty,
    Text,
}

impl Function {
    /// Parses what stands between `${` and `}`.
    pub(super) fn parse(text: &str, depth: usize) -> Result<Self, String> {
        let text = text.trim();
        let name_len = text
            .find(|found: char| !(found.is_alphanumeric() || found == '-' || found == '_'))
            .unwrap_or(text.len());
        let (name, rest) = text.split_at(name_len);
        if REFUSED.contains(&name) {
            return Err(format!("simple function {name} is refused: it reaches into Java"));
        }
        if let Some(call) = call_of(name) {
            let args = arguments(rest, name, depth)?;
            return Ok(Self::Call(call, args));
        }
        match name {
            "body" => Ok(Self::Body(path(rest)?)),
            "in" => path(rest.strip_prefix(".body").ok_or("simple function in is refused: write body")?)
                .map(Self::Body),
            "bodyAs" | "mandatoryBodyAs" => {
                let (_, tail) = parenthesised(rest, name)?;
                Ok(Self::Body(path(tail)?))
            }
            "header" | "headers" => named(rest).map(|(name, steps)| Self::Header(name, steps)),
            "headerAs" => {
                let (inside, tail) = parenthesised(rest, name)?;
                let header = inside.split(',').next().unwrap_or_default().trim().to_owned();
                Ok(Self::Header(header, path(tail)?))
            }
            "exchangeProperty" => named(rest).map(|(name, steps)| Self::Property(name, steps)),
            "exchangeId" | "id" => Ok(Self::ExchangeId),
            "routeId" => Ok(Self::RouteId),
            "messageTimestamp" => Ok(Self::MessageTimestamp),
            "exception" if matches!(rest, "" | ".message") => Ok(Self::ExceptionMessage),
            "exception" => Err(format!("exception{rest} is refused: only exception.message is there")),
            "date" => Date::parse(rest.strip_prefix(':').unwrap_or("now"), false).map(Self::Date),
            "date-with-timezone" => {
                Date::parse(rest.strip_prefix(':').unwrap_or("now"), true).map(Self::Date)
            }
            "random" => random_bounds(parenthesised(rest, name)?.0),
            "uuid" => Ok(Self::Uuid),
            "env" => Ok(Self::Env(rest.trim_start_matches([':', '.']).to_owned())),
            "null" => Ok(Self::Null),
            "empty" => Ok(Self::Call(Call::Concat, Vec::new())),
            "prettyBody" => Ok(Self::PrettyBody),
            "jsonpath" => JsonPath::parse(parenthesised(rest, name)?.0).map(Self::JsonPath),
            "iif" => {
                let (inside, _) = parenthesised(rest, name)?;
                let parts = split_arguments(inside);
                let [test, yes, no] = parts.as_slice() else {
                    return Err("iif needs three arguments: iif(predicate, then, else)".to_owned());
                };
                let test = parse_nested_predicate(test, depth + 1)?;
                test.check_predicate()?;
                Ok(Self::Iif(test, argument(yes, depth)?, argument(no, depth)?))
            }
            other => Err(format!("unknown simple function {other}{}", hint(other, &NAMES))),
        }
    }

    /// The value for `exchange`.
    pub(super) fn value(&self, exchange: &Exchange, scope: &Scope<'_>) -> Result<Value, EvalError> {
        Ok(match self {
            Self::Body(steps) if steps.is_empty() => match &exchange.body {
                crate::exchange::Body::Json(value) => value.as_ref().clone(),
                crate::exchange::Body::Null => Value::Null,
                _ => Value::from(exchange.body_text()),
            },
            Self::Body(steps) => match exchange.json() {
                Some(value) => walk(value, steps),
                None if steps.iter().all(|step| !matches!(step, PathStep::Key(_) | PathStep::Index(_))) => {
                    walk(&Value::from(exchange.body_text()), steps)
                }
                None => return Err("the body is not JSON, it has no fields".to_owned()),
            },
            Self::Header(name, steps) => from_named(name, steps, |name| exchange.header(name)),
            Self::Property(name, steps) => from_named(name, steps, |name| exchange.property(name).cloned()),
            Self::ExchangeId => match &exchange.origin {
                Some(origin) => Value::from(format!("{}-{}", origin.at, origin.offset)),
                None => Value::from(format!("{}-{}", scope.route, exchange.seq)),
            },
            Self::RouteId => Value::from(scope.route),
            Self::MessageTimestamp => Value::from(exchange.timestamp_ms(scope.now_ms)),
            Self::ExceptionMessage => {
                exchange.failure.as_ref().map_or(Value::Null, |failure| Value::from(failure.message.as_ref()))
            }
            Self::Date(date) => {
                let at_ms = match &date.source {
                    Source::Now => Some(scope.now_ms),
                    Source::MessageTimestamp => Some(exchange.timestamp_ms(scope.now_ms)),
                    Source::Header(name) => exchange.header(name).as_ref().and_then(moment),
                    Source::Property(name) => exchange.property(name).and_then(moment),
                };
                match at_ms {
                    Some(at_ms) => date.text(at_ms)?,
                    None => Value::Null,
                }
            }
            Self::Random(from, to) => {
                let span = u64::try_from(to - from).unwrap_or(1).max(1);
                Value::from(from + i64::try_from(random() % span).unwrap_or(0))
            }
            Self::Uuid => Value::from(uuid()),
            Self::Env(name) => std::env::var(name).map_or(Value::Null, Value::from),
            Self::Null => Value::Null,
            Self::JsonPath(path) => path.value(exchange.json().ok_or("jsonpath on a body that is not JSON")?),
            Self::Call(call, args) => apply(*call, args, exchange, scope)?,
            Self::Iif(test, yes, no) => {
                if test.test(exchange, scope)? { yes } else { no }.value(exchange, scope)?
            }
            Self::PrettyBody => match exchange.json() {
                Some(value) => Value::from(serde_json::to_string_pretty(value.as_ref()).unwrap_or_default()),
                None => Value::from(exchange.body_text()),
            },
        })
    }
}

fn from_named(name: &str, steps: &[PathStep], get: impl Fn(&str) -> Option<Value>) -> Value {
    if let Some(value) = get(name) {
        return walk(&value, steps);
    }
    // `header.player.id` may be field `id` of header `player`
    let Some((first, rest)) = name.split_once('.') else { return Value::Null };
    match (get(first), path(&format!(".{rest}"))) {
        (Some(value), Ok(inner)) => {
            let parsed = value.as_str().and_then(|text| serde_json::from_str(text).ok());
            walk(&walk(&parsed.unwrap_or(value), &inner), steps)
        }
        _ => Value::Null,
    }
}

fn walk(value: &Value, steps: &[PathStep]) -> Value {
    let mut current = value.clone();
    for step in steps {
        current = match (step, current) {
            (PathStep::Key(key), Value::Object(mut fields)) => {
                fields.shift_remove(key).unwrap_or(Value::Null)
            }
            (PathStep::Index(index), Value::Array(mut items)) => {
                let len = i64::try_from(items.len()).unwrap_or(i64::MAX);
                let index = if *index < 0 { len + index } else { *index };
                match usize::try_from(index) {
                    Ok(index) if index < items.len() => items.swap_remove(index),
                    _ => Value::Null,
                }
            }
            (PathStep::Index(index), Value::Object(mut fields)) => {
                fields.shift_remove(&index.to_string()).unwrap_or(Value::Null)
            }
            (PathStep::Key(_) | PathStep::Index(_), _) => Value::Null,
            (PathStep::Size, value) => Value::from(size(&value)),
            (PathStep::Upper, value) => Value::from(text_of(&value).to_uppercase()),
            (PathStep::Lower, value) => Value::from(text_of(&value).to_lowercase()),
            (PathStep::Trim, value) => Value::from(text_of(&value).trim()),
            (PathStep::IsEmpty, value) => Value::from(size(&value) == 0),
            (PathStep::Text, value) => Value::from(text_of(&value)),
        };
    }
    current
}

fn size(value: &Value) -> usize {
    match value {
        Value::Null => 0,
        Value::Array(items) => items.len(),
        Value::Object(fields) => fields.len(),
        other => text_of(other).chars().count(),
    }
}

fn call_of(name: &str) -> Option<Call> {
    Some(match name {
        "length" => Call::Length,
        "size" => Call::Size,
        "uppercase" => Call::Upper,
        "lowercase" => Call::Lower,
        "trim" => Call::Trim,
        "concat" => Call::Concat,
        "replace" => Call::Replace,
        "substring" => Call::Substring,
        "substringBefore" => Call::Before,
        "substringAfter" => Call::After,
        "isEmpty" => Call::IsEmpty,
        "sum" => Call::Sum,
        "hash" => Call::Hash,
        "toJson" => Call::ToJson,
        _ => return None,
    })
}

fn apply(call: Call, args: &[Template], exchange: &Exchange, scope: &Scope<'_>) -> Result<Value, EvalError> {
    let arg = |index: usize| match args.get(index) {
        Some(template) => template.text(exchange, scope),
        None => Ok(exchange.body_text()),
    };
    // replace(from, to, exp), substring(from, to, exp), substringBefore(before, exp): the subject stands last
    let subject = |fixed: usize| arg(fixed.max(args.len().saturating_sub(1)));
    Ok(match call {
        Call::Length => Value::from(arg(0)?.chars().count()),
        Call::Size => match args.first() {
            Some(template) => Value::from(size(&template.value(exchange, scope)?)),
            None => Value::from(exchange.json().map_or(0, |value| size(value))),
        },
        Call::Upper => Value::from(arg(0)?.to_uppercase()),
        Call::Lower => Value::from(arg(0)?.to_lowercase()),
        Call::Trim => Value::from(arg(0)?.trim()),
        Call::Concat => {
            let mut out = String::new();
            for template in args {
                out.push_str(&template.text(exchange, scope)?);
            }
            Value::from(out)
        }
        Call::Replace if args.len() >= 2 => Value::from(subject(2)?.replace(&arg(0)?, &arg(1)?)),
        Call::Substring if !args.is_empty() => {
            let number = |index: usize| -> Result<usize, String> {
                let text = arg(index)?;
                text.trim()
                    .parse::<i64>()
                    .map(|found| usize::try_from(found.abs()).unwrap_or(0))
                    .map_err(|_| format!("substring needs a number, here is {text}"))
            };
            let (head, tail) = (number(0)?, if args.len() > 1 { number(1)? } else { 0 });
            let letters: Vec<char> = subject(2)?.chars().collect();
            let end = letters.len().saturating_sub(tail);
            Value::from(letters.get(head.min(end)..end).unwrap_or_default().iter().collect::<String>())
        }
        Call::Before if !args.is_empty() => {
            let text = subject(1)?;
            text.split_once(&arg(0)?).map_or(Value::Null, |(before, _)| Value::from(before))
        }
        Call::After if !args.is_empty() => {
            let text = subject(1)?;
            text.split_once(&arg(0)?).map_or(Value::Null, |(_, after)| Value::from(after))
        }
        Call::IsEmpty => Value::from(arg(0)?.is_empty()),
        Call::Sum => {
            let mut total = 0_i64;
            for template in args {
                let text = template.text(exchange, scope)?;
                let number: i64 =
                    text.trim().parse().map_err(|_| format!("sum needs whole numbers, here is {text}"))?;
                total = total.checked_add(number).ok_or("sum does not fit 64 bits")?;
            }
            Value::from(total)
        }
        Call::Hash => Value::from(format!("{:032x}", herdsman_record::EventId::of(arg(0)?.as_bytes()).0)),
        Call::ToJson => match args.first() {
            Some(template) => Value::from(template.value(exchange, scope)?.to_string()),
            None => Value::from(exchange.json().map(|value| value.to_string()).unwrap_or_default()),
        },
        other => return Err(format!("{other:?} lacks arguments").to_lowercase()),
    })
}

fn parenthesised<'a>(rest: &'a str, name: &str) -> Result<(&'a str, &'a str), String> {
    let inside = rest.strip_prefix('(').ok_or_else(|| format!("{name} needs parentheses: {name}(…)"))?;
    let end = closing(inside, '(', ')').ok_or_else(|| format!("{name}( without )"))?;
    Ok((inside.get(..end).unwrap_or_default(), inside.get(end + 1..).unwrap_or_default()))
}

fn arguments(rest: &str, name: &str, depth: usize) -> Result<Vec<Template>, String> {
    if rest.is_empty() {
        return Ok(Vec::new());
    }
    let (inside, _) = parenthesised(rest, name)?;
    split_arguments(inside).iter().map(|text| argument(text, depth)).collect()
}

fn argument(text: &str, depth: usize) -> Result<Template, String> {
    let text = text.trim();
    for quote in ['\'', '"'] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return Template::parse(inner, depth);
        }
    }
    Template::parse(text, depth)
}

fn split_arguments(inside: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut nested, mut quote) = (0, 0_usize, None);
    for (index, found) in inside.char_indices() {
        match (quote, found) {
            (None, '\'' | '"') => quote = Some(found),
            (Some(open), found) if open == found => quote = None,
            (None, '(' | '{' | '[') => nested += 1,
            (None, ')' | '}' | ']') => nested = nested.saturating_sub(1),
            (None, ',') if nested == 0 => {
                parts.push(inside.get(start..index).unwrap_or_default());
                start = index + 1;
            }
            _ => {}
        }
    }
    if !inside.trim().is_empty() {
        parts.push(inside.get(start..).unwrap_or_default());
    }
    parts
}

/// `.name`, `[name]`, `:name`, then steps.
fn named(rest: &str) -> Result<(String, Vec<PathStep>), String> {
    if let Some(inside) = rest.strip_prefix('[') {
        let end = inside.find(']').ok_or("[ without ]")?;
        let name = inside.get(..end).unwrap_or_default().trim_matches(['\'', '"', ' ']).to_owned();
        return Ok((name, path(inside.get(end + 1..).unwrap_or_default())?));
    }
    let rest = rest.strip_prefix('?').unwrap_or(rest);
    let name = rest.strip_prefix(['.', ':']).ok_or("header needs a name: header.NAME")?;
    let end = name.find('[').unwrap_or(name.len());
    let (name, tail) = name.split_at(end);
    if name.is_empty() {
        return Err("header needs a name: header.NAME".to_owned());
    }
    if name.ends_with("()") {
        let (name, method) = name.rsplit_once('.').unwrap_or((name, ""));
        let mut steps = path(&format!(".{method}"))?;
        steps.extend(path(tail)?);
        return Ok((name.to_owned(), steps));
    }
    Ok((name.to_owned(), path(tail)?))
}

/// `.a.b[0]['c']?.d.size()`
fn path(text: &str) -> Result<Vec<PathStep>, String> {
    let mut steps = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        rest = rest.strip_prefix('?').unwrap_or(rest);
        if let Some(inside) = rest.strip_prefix('[') {
            let end = inside.find(']').ok_or_else(|| format!("{text}: [ without ]"))?;
            let key = inside.get(..end).unwrap_or_default().trim();
            let bare = key.trim_matches(['\'', '"']);
            steps.push(match key.parse() {
                Ok(index) => PathStep::Index(index),
                Err(_) if key == "last" => PathStep::Index(-1),
                Err(_) => PathStep::Key(bare.to_owned()),
            });
            rest = inside.get(end + 1..).unwrap_or_default();
            continue;
        }
        let Some(inside) = rest.strip_prefix('.') else {
            return Err(format!("not understood after a name: {rest}"));
        };
        let end = inside.find(['.', '[', '?']).unwrap_or(inside.len());
        let (name, tail) = inside.split_at(end);
        steps.push(match name.strip_suffix("()") {
            None if name.is_empty() => return Err(format!("{text}: a name is missing")),
            None => PathStep::Key(name.to_owned()),
            Some("size" | "length") => PathStep::Size,
            Some("toUpperCase") => PathStep::Upper,
            Some("toLowerCase") => PathStep::Lower,
            Some("trim") => PathStep::Trim,
            Some("isEmpty") => PathStep::IsEmpty,
            Some("toString") => PathStep::Text,
            Some(method) => return Err(format!("OGNL method {method}() is refused: it runs Java code")),
        });
        rest = tail;
    }
    Ok(steps)
}

fn random_bounds(inside: &str) -> Result<Function, String> {
    let parse =
        |text: &str| text.trim().parse::<i64>().map_err(|_| format!("random({inside}) needs whole numbers"));
    let (from, to) = match inside.split_once(',') {
        Some((from, to)) => (parse(from)?, parse(to)?),
        None => (0, parse(inside)?),
    };
    if from >= to {
        return Err(format!("random({inside}) is an empty range"));
    }
    Ok(Function::Random(from, to))
}

/// 64 bits from the process's random hash keys and a counter: unique names, not secrets.
fn random() -> u64 {
    static KEYS: OnceLock<RandomState> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    KEYS.get_or_init(RandomState::new).hash_one(COUNT.fetch_add(1, Ordering::Relaxed))
}

fn uuid() -> String {
    let bits = (u128::from(random()) << 64) | u128::from(random());
    let bits = (bits & !(0xf_u128 << 76) & !(0x3_u128 << 62)) | (0x4_u128 << 76) | (0x2_u128 << 62);
    let text = format!("{bits:032x}");
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default().to_owned();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}
