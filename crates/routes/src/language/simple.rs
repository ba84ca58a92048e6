//! Camel's simple language: templates (`Hello ${header.name}`) and predicates (`${body.points} > 5 && …`).

use std::borrow::Cow;

use serde_json::Value;

use super::function::Function;
use super::operator::{Operator, WORDS, truth, whole_match};
use super::{EvalError, Scope};
use crate::exchange::{Exchange, text_of};

const TEXT_BYTES_MAX: usize = 64 << 10;
const DEPTH_MAX: usize = 32;

/// A compiled simple text: as an expression, and as a predicate if it is one.
#[derive(Debug, Clone)]
pub(crate) struct Simple {
    template: Template,
    predicate: Result<Predicate, String>,
}

/// Text with functions in it.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    Function(Box<Function>),
}

#[derive(Debug, Clone)]
enum Predicate {
    Or(Vec<Predicate>),
    And(Vec<Predicate>),
    Compare(Template, Operator, Template),
    Truth(Template),
}

impl Simple {
    /// Compiles `text`. The error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(format!("simple text of {} bytes, {TEXT_BYTES_MAX} are allowed", text.len()));
        }
        Ok(Self { template: Template::parse(text, 0)?, predicate: parse_predicate(text, 0) })
    }

    /// The compile error if this is used as a predicate and is none.
    pub fn check_predicate(&self) -> Result<(), String> {
        self.predicate.as_ref().map(|_| ()).map_err(Clone::clone)
    }

    /// As an expression.
    pub fn value(&self, exchange: &Exchange, scope: &Scope<'_>) -> Result<Value, EvalError> {
        self.template.value(exchange, scope)
    }

    /// As a predicate.
    pub fn test(&self, exchange: &Exchange, scope: &Scope<'_>) -> Result<bool, EvalError> {
        self.predicate.as_ref().map_err(Clone::clone)?.test(exchange, scope)
    }

    /// The constant text, if there is no function in it.
    pub fn constant(&self) -> Option<&str> {
        match self.template.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text before the first function.
    pub fn constant_prefix(&self) -> &str {
        match self.template.parts.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }
}

impl Template {
    pub(super) fn parse(text: &str, depth: usize) -> Result<Self, String> {
        if depth > DEPTH_MAX {
            return Err(format!("simple is nested more than {DEPTH_MAX} deep"));
        }
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while !rest.is_empty() {
            let opened = rest.strip_prefix("${").or_else(|| rest.strip_prefix("$simple{"));
            if let Some(inside) = opened {
                let end =
                    closing(inside, '{', '}').ok_or_else(|| format!("simple {text}: ${{ without }}"))?;
                if !literal.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut literal)));
                }
                let function = inside.get(..end).unwrap_or_default();
                parts.push(Part::Function(Box::new(Function::parse(function, depth + 1)?)));
                rest = inside.get(end + 1..).unwrap_or_default();
            } else {
                let (taken, found) = escape(rest);
                literal.push_str(&found);
                rest = rest.get(taken..).unwrap_or_default();
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self { parts })
    }

    fn literal(value: &str) -> Self {
        Self { parts: vec![Part::Text(value.to_owned())] }
    }

    fn constant(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    pub(super) fn value(&self, exchange: &Exchange, scope: &Scope<'_>) -> Result<Value, EvalError> {
        match self.parts.as_slice() {
            [] => Ok(Value::from("")),
            [Part::Text(text)] => Ok(Value::from(text.as_str())),
            [Part::Function(function)] => function.value(exchange, scope),
            parts => {
                let mut out = String::new();
                for part in parts {
                    match part {
                        Part::Text(text) => out.push_str(text),
                        Part::Function(function) => out.push_str(&text_of(&function.value(exchange, scope)?)),
                    }
                }
                Ok(Value::from(out))
            }
        }
    }

    pub(super) fn text(&self, exchange: &Exchange, scope: &Scope<'_>) -> Result<String, EvalError> {
        self.value(exchange, scope).map(|value| text_of(&value))
    }
}

/// One character of literal text, with Camel's escapes `\n \t \r \} \{`.
fn escape(rest: &str) -> (usize, Cow<'static, str>) {
    for (from, to) in [("\\n", "\n"), ("\\t", "\t"), ("\\r", "\r"), ("\\}", "}"), ("\\{", "{")] {
        if rest.starts_with(from) {
            return (from.len(), Cow::Borrowed(to));
        }
    }
    let found = rest.chars().next().unwrap_or_default();
    (found.len_utf8(), Cow::Owned(found.to_string()))
}

/// Index of the `close` that matches an already opened `open`; quotes do not count, as in Camel.
pub(super) fn closing(text: &str, open: char, close: char) -> Option<usize> {
    let mut depth = 1_usize;
    for (index, found) in text.char_indices() {
        if found == open {
            depth += 1;
        } else if found == close {
            depth -= 1;
            if depth == 0 {
                return Some(index);
            }
        }
    }
    None
}

impl Predicate {
    fn test(&self, exchange: &Exchange, scope: &Scope<'_>) -> Result<bool, EvalError> {
        match self {
            Self::Or(parts) => {
                for part in parts {
                    if part.test(exchange, scope)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Self::And(parts) => {
                for part in parts {
                    if !part.test(exchange, scope)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Self::Compare(left, operator, right) => {
                operator.apply(&left.value(exchange, scope)?, &right.value(exchange, scope)?)
            }
            Self::Truth(operand) => operand.value(exchange, scope).map(|value| truth(&value)),
        }
    }
}

/// Compiles a predicate; `iif` uses it too.
pub(super) fn parse_nested_predicate(text: &str, depth: usize) -> Result<Simple, String> {
    Ok(Simple { template: Template::parse(text, depth)?, predicate: parse_predicate(text, depth) })
}

fn parse_predicate(text: &str, depth: usize) -> Result<Predicate, String> {
    let ors = split_words(text, "||");
    let mut either = Vec::new();
    for part in ors {
        let mut all = Vec::new();
        for part in split_words(part, "&&") {
            all.push(parse_comparison(part.trim(), depth)?);
        }
        either.push(if all.len() == 1 { all.remove(0) } else { Predicate::And(all) });
    }
    Ok(if either.len() == 1 { either.remove(0) } else { Predicate::Or(either) })
}

/// Byte indexes of `text` that are outside quotes and outside `${…}`.
fn outside(text: &str) -> Vec<usize> {
    let mut found = Vec::new();
    let mut quote = None;
    let mut braces = 0_usize;
    for (index, letter) in text.char_indices() {
        match (quote, letter) {
            (None, '{') if braces > 0 || text.get(..index).is_some_and(|before| before.ends_with('$')) => {
                braces += 1
            }
            (None, '}') if braces > 0 => braces -= 1,
            (None, '\'' | '"') if braces == 0 => quote = Some(letter),
            (Some(open), letter) if open == letter => quote = None,
            (None, _) if braces == 0 => found.push(index),
            _ => {}
        }
    }
    found
}

fn split_words<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    let mut parts = Vec::new();
    let mut start = 0;
    for index in outside(text) {
        if index >= start && text.get(index..).is_some_and(|rest| rest.starts_with(word)) {
            parts.push(text.get(start..index).unwrap_or_default());
            start = index + word.len();
        }
    }
    parts.push(text.get(start..).unwrap_or_default());
    parts
}

fn parse_comparison(text: &str, depth: usize) -> Result<Predicate, String> {
    if text.is_empty() {
        return Err("simple predicate: a side of && or || is empty".to_owned());
    }
    for index in outside(text) {
        let rest = text.get(index..).unwrap_or_default();
        for (word, operator) in &WORDS {
            // as in Camel an operator stands between spaces
            let before = text.get(..index).unwrap_or_default();
            let after = rest.strip_prefix(word);
            if !before.ends_with(char::is_whitespace)
                || !after.is_some_and(|after| after.starts_with(char::is_whitespace))
            {
                continue;
            }
            let left = parse_operand(before.trim(), depth)?;
            let right = parse_operand(after.unwrap_or_default().trim(), depth)?;
            let mut operator = operator.clone();
            if let Operator::Regex { compiled, .. } = &mut operator
                && let Some(pattern) = right.constant()
            {
                *compiled = Some(whole_match(pattern)?);
            }
            return Ok(Predicate::Compare(left, operator, right));
        }
    }
    parse_operand(text, depth).map(Predicate::Truth)
}

fn parse_operand(text: &str, depth: usize) -> Result<Template, String> {
    for quote in ['\'', '"'] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return Template::parse(inner, depth);
        }
    }
    match text {
        "null" => Template::parse("${null}", depth),
        "true" | "false" => Ok(Template::literal(text)),
        "" => Err("simple predicate: one side of an operator is empty".to_owned()),
        _ if text.starts_with("${") || text.starts_with("$simple{") => {
            let template = Template::parse(text, depth)?;
            match template.parts.as_slice() {
                [Part::Function(_)] => Ok(template),
                _ => {
                    Err(format!("simple predicate: not understood: {text} (operators stand between spaces)"))
                }
            }
        }
        _ if text.parse::<f64>().is_ok() => Ok(Template::literal(text)),
        _ => Err(format!("simple predicate: {text} must be ${{…}}, a number, or in quotes '{text}'")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::exchange::Body;

    fn exchange() -> Exchange {
        let text = r#"{"kind":"claim","points":7,"player":{"id":"N14228","tags":["a","b"]},"name":"Ana B"}"#;
        let mut exchange = Exchange::new(0, Body::Text(text.into()), None);
        exchange.set_header(&Arc::from("lane"), json!("urgent"));
        exchange.set_header(&Arc::from("n"), json!("42"));
        exchange
    }

    #[test]
    fn predicates_hold_as_camels_do() {
        let (exchange, scope) = (exchange(), Scope { route: "r", now_ms: 0 });
        for (text, expected) in [
            ("${body[kind]} == 'claim'", true),
            ("${body.kind} == 'claim' && ${body.points} > 6", true),
            ("${body.points} > 10 || ${header.lane} =~ 'URGENT'", true),
            ("${body.points} >= 7 && ${body.points} <= 7", true),
            ("${body.points} < '10'", true),
            ("${header.n} == 42", true),
            ("${header.missing} == null", true),
            ("${header.missing} != null", false),
            ("${header.missing}", false),
            ("${body.name} contains 'B'", true),
            ("${body.name} !contains 'B'", false),
            ("${body.name} regex 'Ana .*'", true),
            ("${body.name} regex 'Ana'", false),
            ("${header.lane} in 'bulk,urgent'", true),
            ("${header.lane} not in 'bulk,urgent'", false),
            ("${body.points} range '5..9'", true),
            ("${body.player.id} starts with 'N1'", true),
            ("${body.player.tags[1]} == 'b'", true),
            ("${body.player.tags} contains 'a'", true),
            ("${body.player.tags.size()} == 2", true),
            ("'a && b' == 'a && b'", true),
        ] {
            assert_eq!(Simple::parse(text).unwrap().test(&exchange, &scope), Ok(expected), "{text}");
        }
    }

    #[test]
    fn templates_keep_types_alone_and_join_as_text() {
        let (exchange, scope) = (exchange(), Scope { route: "hunt", now_ms: 1_700_000_000_000 });
        let value = |text: &str| Simple::parse(text).unwrap().value(&exchange, &scope).unwrap();
        assert_eq!(value("${body.points}"), json!(7));
        assert_eq!(value("${routeId}/${header.lane}-${body.points}.jsonl"), json!("hunt/urgent-7.jsonl"));
        assert_eq!(value("day=${date:now:yyyy-MM-dd}"), json!("day=2023-11-14"));
        assert_eq!(value("${uppercase(${body.kind})}"), json!("CLAIM"));
        assert_eq!(value("${iif(${body.points} > 5, 'many', 'few')}"), json!("many"));
        assert_eq!(value("${length(${body.name})}"), json!(5));
        assert_eq!(value("${jsonpath($.player.id)}"), json!("N14228"));
    }

    #[test]
    fn what_is_not_simple_is_refused_in_words() {
        assert!(Simple::parse("${boddy}").unwrap_err().contains("did you mean body?"));
        assert!(Simple::parse("${body").unwrap_err().contains("without }"));
        assert!(Simple::parse("${bean:foo}").unwrap_err().contains("bean"));
        let bad = Simple::parse("${body.a} == b").unwrap();
        assert!(bad.check_predicate().unwrap_err().contains("in quotes 'b'"));
    }
}
