//! Comparison and truth as Camel's simple language has them: numbers compare as numbers even when one is text.

use std::cmp::Ordering;

use regex::Regex;
use serde_json::Value;

use crate::exchange::text_of;

/// A binary operator of simple.
#[derive(Debug, Clone)]
pub(crate) enum Operator {
    Equal,
    EqualIgnoreCase,
    NotEqual,
    NotEqualIgnoreCase,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Contains { negated: bool, ignore_case: bool },
    Regex { negated: bool, compiled: Option<Regex> },
    In { negated: bool },
    Range { negated: bool },
    StartsWith,
    EndsWith,
}

/// Operators by their words, longest first so that `!=~` is not read as `!=`.
pub(crate) const WORDS: [(&str, Operator); 26] = [
    ("starts with", Operator::StartsWith),
    ("ends with", Operator::EndsWith),
    ("!contains", Operator::Contains { negated: true, ignore_case: false }),
    ("not contains", Operator::Contains { negated: true, ignore_case: false }),
    ("startsWith", Operator::StartsWith),
    ("not regex", Operator::Regex { negated: true, compiled: None }),
    ("not range", Operator::Range { negated: true }),
    ("contains", Operator::Contains { negated: false, ignore_case: false }),
    ("endsWith", Operator::EndsWith),
    ("!regex", Operator::Regex { negated: true, compiled: None }),
    ("!range", Operator::Range { negated: true }),
    ("not in", Operator::In { negated: true }),
    ("regex", Operator::Regex { negated: false, compiled: None }),
    ("range", Operator::Range { negated: false }),
    ("!in", Operator::In { negated: true }),
    ("!=~", Operator::NotEqualIgnoreCase),
    ("!~~", Operator::Contains { negated: true, ignore_case: true }),
    ("~~", Operator::Contains { negated: false, ignore_case: true }),
    ("in", Operator::In { negated: false }),
    ("==", Operator::Equal),
    ("=~", Operator::EqualIgnoreCase),
    ("!=", Operator::NotEqual),
    (">=", Operator::GreaterOrEqual),
    ("<=", Operator::LessOrEqual),
    (">", Operator::Greater),
    ("<", Operator::Less),
];

impl Operator {
    /// Applies the operator.
    pub fn apply(&self, left: &Value, right: &Value) -> Result<bool, String> {
        Ok(match self {
            Self::Equal => equal(left, right),
            Self::NotEqual => !equal(left, right),
            Self::EqualIgnoreCase => text_of(left).eq_ignore_ascii_case(&text_of(right)),
            Self::NotEqualIgnoreCase => !text_of(left).eq_ignore_ascii_case(&text_of(right)),
            Self::Greater => compare(left, right) == Some(Ordering::Greater),
            Self::GreaterOrEqual => matches!(compare(left, right), Some(Ordering::Greater | Ordering::Equal)),
            Self::Less => compare(left, right) == Some(Ordering::Less),
            Self::LessOrEqual => matches!(compare(left, right), Some(Ordering::Less | Ordering::Equal)),
            Self::Contains { negated, ignore_case } => contains(left, right, *ignore_case) != *negated,
            Self::Regex { negated, compiled } => {
                let text = text_of(left);
                let found = match compiled {
                    Some(regex) => regex.is_match(&text),
                    None => whole_match(&text_of(right))?.is_match(&text),
                };
                found != *negated
            }
            Self::In { negated } => {
                let list = text_of(right);
                let text = text_of(left);
                list.split(',').any(|item| item.trim() == text) != *negated
            }
            Self::Range { negated } => range(left, &text_of(right))? != *negated,
            Self::StartsWith => text_of(left).starts_with(&text_of(right)),
            Self::EndsWith => text_of(left).ends_with(&text_of(right)),
        })
    }
}

/// A regular expression that must match the whole text, as Java's `matches` does. Linear time.
pub(crate) fn whole_match(pattern: &str) -> Result<Regex, String> {
    Regex::new(&format!("^(?:{pattern})$")).map_err(|error| {
        let said = error.to_string();
        let last = said.lines().last().unwrap_or("").trim().to_owned();
        format!("regex {pattern} is refused: {last}")
    })
}

fn contains(left: &Value, right: &Value, ignore_case: bool) -> bool {
    let needle = text_of(right);
    match left {
        Value::Array(items) => items.iter().any(|item| equal(item, right)),
        Value::Object(fields) => fields.contains_key(&needle),
        _ if ignore_case => text_of(left).to_lowercase().contains(&needle.to_lowercase()),
        _ => text_of(left).contains(&needle),
    }
}

fn range(left: &Value, bounds: &str) -> Result<bool, String> {
    let (from, to) =
        bounds.split_once("..").ok_or_else(|| format!("range {bounds} must be like 100..199"))?;
    let (from, to) = (Value::from(from.trim()), Value::from(to.trim()));
    let above = matches!(compare(left, &from), Some(Ordering::Greater | Ordering::Equal));
    Ok(above && matches!(compare(left, &to), Some(Ordering::Less | Ordering::Equal)))
}

/// Equality: as numbers if both are, else as text; null equals only null.
pub(crate) fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Null, Value::Null) => true,
        (Value::Null, _) | (_, Value::Null) => false,
        _ => compare(left, right) == Some(Ordering::Equal),
    }
}

/// Order: as numbers if both are, else as text; none with null.
pub(crate) fn compare(left: &Value, right: &Value) -> Option<Ordering> {
    if left.is_null() || right.is_null() {
        return None;
    }
    if let (Some(left), Some(right)) = (integer(left), integer(right)) {
        return Some(left.cmp(&right));
    }
    if let (Some(left), Some(right)) = (number(left), number(right)) {
        return left.partial_cmp(&right);
    }
    Some(text_of(left).cmp(&text_of(right)))
}

/// The value as a number, if it is one or its text is.
pub(crate) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok().filter(|number: &f64| number.is_finite()),
        _ => None,
    }
}

fn integer(value: &Value) -> Option<i128> {
    match value {
        Value::Number(number) => number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from)),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// Whether a value counts as true: booleans as they are, `"true"`/`"false"` as words, otherwise not null.
pub(crate) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::String(text) if text.eq_ignore_ascii_case("false") => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => true,
    }
}
