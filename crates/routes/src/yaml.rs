//! YAML text to a tree that remembers where each key and value stood.
//!
//! Limits: 1 MiB of text, 128 levels, 100,000 nodes, no aliases (so nothing can explode), no duplicate keys.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Options, Spanned};

use crate::error::{Place, RouteError, hint, one_line};

const TEXT_BYTES_MAX: usize = 1 << 20;
const DEPTH_MAX: usize = 128;

/// A node of the tree.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub place: Place,
    pub value: Value,
}

/// What a node holds. Scalars are text, as Camel treats them.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key, where it stood, and its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub key: String,
    pub place: Place,
    pub node: Node,
}

struct Raw(RawValue);
enum RawValue {
    Null,
    Scalar(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<Raw>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor).map(Raw)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = RawValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }
    fn visit_bool<E>(self, value: bool) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(value.to_string()))
    }
    fn visit_i64<E>(self, value: i64) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(value.to_string()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(value.to_string()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(value.to_string()))
    }
    fn visit_str<E>(self, value: &str) -> Result<RawValue, E> {
        Ok(RawValue::Scalar(value.to_owned()))
    }
    fn visit_unit<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Null)
    }
    fn visit_none<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawValue, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawValue, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(RawValue::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawValue, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(RawValue::Map(entries))
    }
}

/// Parses one YAML document.
pub(crate) fn parse(file: &Arc<str>, text: &str) -> Result<Node, RouteError> {
    let start = Place { file: Arc::clone(file), line: 1, column: 1 };
    if text.len() > TEXT_BYTES_MAX {
        return Err(RouteError::at(
            &start,
            format!("{} bytes of YAML, {TEXT_BYTES_MAX} are allowed", text.len()),
        ));
    }
    let mut options = Options::default();
    let mut budget = options.budget.take().unwrap_or_default();
    budget.max_depth = DEPTH_MAX;
    budget.max_aliases = 0;
    budget.max_nodes = 100_000;
    budget.max_documents = 1;
    options.budget = Some(budget);
    options.with_snippet = false;
    let raw: Spanned<Raw> = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let error = error.without_snippet();
        let place = error.location().map_or(start.clone(), |at| Place {
            file: Arc::clone(file),
            line: at.line(),
            column: at.column(),
        });
        let said = error.to_string();
        let said = said.lines().next().unwrap_or("not YAML").to_owned();
        if said.contains("alias") {
            return RouteError::at(&place, format!("YAML aliases are refused, write the value out ({said})"));
        }
        RouteError::at(&place, format!("not YAML: {said}"))
    })?;
    Ok(convert(file, raw))
}

fn convert(file: &Arc<str>, raw: Spanned<Raw>) -> Node {
    let place =
        Place { file: Arc::clone(file), line: raw.referenced.line(), column: raw.referenced.column() };
    let value = match raw.value.0 {
        RawValue::Null => Value::Null,
        RawValue::Scalar(text) => Value::Scalar(text),
        RawValue::List(items) => Value::List(items.into_iter().map(|item| convert(file, item)).collect()),
        RawValue::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let key = convert(file, key);
                    let text = match key.value {
                        Value::Scalar(text) => text,
                        _ => String::new(),
                    };
                    Entry { key: text, place: key.place, node: convert(file, value) }
                })
                .collect(),
        ),
    };
    Node { place, value }
}

impl Node {
    /// What the node is, for messages.
    fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Scalar(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// The text of a scalar. `what` names it in the error.
    pub fn text(&self, what: &str) -> Result<&str, RouteError> {
        match &self.value {
            Value::Scalar(text) => Ok(text),
            _ => Err(RouteError::at(&self.place, format!("{what} must be a text, here is {}", self.kind()))),
        }
    }

    /// The entries of a map; nothing counts as an empty map.
    pub fn map(&self, what: &str) -> Result<&[Entry], RouteError> {
        match &self.value {
            Value::Map(entries) => Ok(entries),
            Value::Null => Ok(&[]),
            _ => Err(RouteError::at(&self.place, format!("{what} must be a map, here is {}", self.kind()))),
        }
    }

    /// The items of a list; nothing counts as an empty list.
    pub fn list(&self, what: &str) -> Result<&[Node], RouteError> {
        match &self.value {
            Value::List(items) => Ok(items),
            Value::Null => Ok(&[]),
            _ => Err(RouteError::at(&self.place, format!("{what} must be a list, here is {}", self.kind()))),
        }
    }

    /// A map whose keys are all among `known`.
    pub fn options(&self, what: &str, known: &[&str]) -> Result<Fields<'_>, RouteError> {
        let entries = self.map(what)?;
        for entry in entries {
            if !known.contains(&entry.key.as_str()) {
                let reason =
                    format!("{what} has no option {}{}", one_line(&entry.key), hint(&entry.key, known));
                return Err(RouteError::at(&entry.place, reason));
            }
        }
        Ok(Fields { entries, place: &self.place })
    }
}

/// The checked options of a step.
pub(crate) struct Fields<'a> {
    entries: &'a [Entry],
    /// Where the map stands.
    pub place: &'a Place,
}

impl<'a> Fields<'a> {
    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&'a Node> {
        self.entries.iter().find(|entry| entry.key == name).map(|entry| &entry.node)
    }

    /// The text of `name`, if it is there.
    pub fn text(&self, name: &str) -> Result<Option<&'a str>, RouteError> {
        self.get(name).map(|node| node.text(name)).transpose()
    }

    /// The number of `name`, or `default`.
    pub fn number<T: std::str::FromStr>(&self, name: &str, default: T) -> Result<T, RouteError> {
        match self.get(name) {
            None => Ok(default),
            Some(node) => {
                let text = node.text(name)?;
                text.trim().parse().map_err(|_| {
                    RouteError::at(
                        &node.place,
                        format!("{name} must be a number, here is {}", one_line(text)),
                    )
                })
            }
        }
    }

    /// Milliseconds of `name`: a number, or Camel's `5s`, `1m30s`, `200ms`.
    pub fn millis(&self, name: &str, default: u64) -> Result<u64, RouteError> {
        match self.get(name) {
            None => Ok(default),
            Some(node) => {
                let text = node.text(name)?;
                parse_millis(text).ok_or_else(|| {
                    let reason =
                        format!("{name} must be milliseconds or like 5s, here is {}", one_line(text));
                    RouteError::at(&node.place, reason)
                })
            }
        }
    }

    /// `true` or `false` of `name`, or `default`.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, RouteError> {
        match self.get(name) {
            None => Ok(default),
            Some(node) => match node.text(name)? {
                "true" => Ok(true),
                "false" => Ok(false),
                other => {
                    let reason = format!("{name} must be true or false, here is {}", one_line(other));
                    Err(RouteError::at(&node.place, reason))
                }
            },
        }
    }

    /// The node of `name`, which must be there.
    pub fn need(&self, name: &str, what: &str) -> Result<&'a Node, RouteError> {
        self.get(name).ok_or_else(|| RouteError::at(self.place, format!("{what} needs {name}")))
    }
}

/// Milliseconds of `250`, `250ms`, `5s`, `1m30s`, `1h`, `1d`.
pub(crate) fn parse_millis(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let mut total = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|found: char| !found.is_ascii_digit())?;
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        let tail = rest.get(digits..)?;
        let unit_len = tail.find(|found: char| found.is_ascii_digit()).unwrap_or(tail.len());
        let factor = match tail.get(..unit_len)?.trim() {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(factor)?)?;
        rest = tail.get(unit_len..)?.trim_start();
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_and_bombs_are_refused() {
        let file: Arc<str> = "finds.yaml".into();
        let tree = parse(&file, "- from:\n    uri: kafka:finds\n    steps:\n      - fliter: {}\n").unwrap();
        let from = &tree.list("top").unwrap()[0].map("x").unwrap()[0];
        let steps = from.node.map("from").unwrap()[1].node.list("steps").unwrap();
        assert_eq!(steps[0].map("s").unwrap()[0].place.to_string(), "finds.yaml:4:9");
        let bomb = "a: &a [x, x]\nb: &b [*a, *a]\n";
        assert!(parse(&file, bomb).unwrap_err().to_string().contains("alias"));
        let deep = "[".repeat(5000);
        assert!(parse(&file, &deep).is_err());
        assert_eq!(parse_millis("1m30s"), Some(90_000));
        assert_eq!(parse_millis("5 apples"), None);
    }
}
