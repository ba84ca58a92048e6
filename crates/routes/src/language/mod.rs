//! The expression languages of routes: `simple`, `jsonpath`, `constant`, `header`, `exchangeProperty`, `tokenize`.

pub(crate) mod date;
pub(crate) mod function;
pub(crate) mod jsonpath;
pub(crate) mod operator;
pub(crate) mod simple;

use serde_json::Value;

use crate::error::{Place, RouteError, hint};
use crate::exchange::{Exchange, Failure, FailureKind, text_of};
use crate::yaml::{Entry, Node, Value as Yaml};

/// Languages that run Java or foreign code: refused by name.
const REFUSED: [&str; 16] = [
    "groovy",
    "ognl",
    "spel",
    "mvel",
    "joor",
    "java",
    "js",
    "python",
    "wasm",
    "method",
    "ref",
    "xpath",
    "xquery",
    "xtokenize",
    "jq",
    "datasonnet",
];
/// Languages that work.
pub(crate) const LANGUAGES: [&str; 6] =
    ["simple", "jsonpath", "constant", "header", "exchangeProperty", "tokenize"];

/// What an expression may ask beside the exchange.
pub(crate) struct Scope<'a> {
    /// Route id, for `${routeId}`.
    pub route: &'a str,
    /// Wall clock of this batch, ms since the Unix epoch.
    pub now_ms: i64,
}

/// An expression of a route.
#[derive(Debug, Clone)]
pub(crate) enum Expression {
    Constant(Value),
    Simple(simple::Simple),
    JsonPath(jsonpath::JsonPath),
    Header(String),
    Property(String),
    Tokenize(String),
}

/// Why an expression has no value for an exchange.
pub(crate) type EvalError = String;

impl Expression {
    /// The value for `exchange`.
    pub fn value(&self, exchange: &Exchange, scope: &Scope<'_>) -> Result<Value, Failure> {
        match self {
            Self::Constant(value) => Ok(value.clone()),
            Self::Simple(simple) => simple.value(exchange, scope).map_err(failed),
            Self::JsonPath(path) => {
                let body = exchange
                    .json()
                    .ok_or_else(|| failed("jsonpath on a body that is not JSON".to_owned()))?;
                Ok(path.value(body))
            }
            Self::Header(name) => Ok(exchange.header(name).unwrap_or(Value::Null)),
            Self::Property(name) => Ok(exchange.property(name).cloned().unwrap_or(Value::Null)),
            Self::Tokenize(token) => {
                let text = exchange.body_text();
                let parts = text.split(token.as_str()).filter(|part| !part.is_empty()).map(Value::from);
                Ok(Value::Array(parts.collect()))
            }
        }
    }

    /// The value as text.
    pub fn text(&self, exchange: &Exchange, scope: &Scope<'_>) -> Result<String, Failure> {
        self.value(exchange, scope).map(|value| text_of(&value))
    }

    /// Whether the predicate holds.
    pub fn test(&self, exchange: &Exchange, scope: &Scope<'_>) -> Result<bool, Failure> {
        match self {
            Self::Simple(simple) => simple.test(exchange, scope).map_err(failed),
            Self::JsonPath(path) => {
                let body = exchange
                    .json()
                    .ok_or_else(|| failed("jsonpath on a body that is not JSON".to_owned()))?;
                Ok(path.matches(body))
            }
            other => other.value(exchange, scope).map(|value| operator::truth(&value)),
        }
    }
}

fn failed(message: EvalError) -> Failure {
    Failure { kind: FailureKind::Expression, message: message.into() }
}

/// Finds the expression among the entries of a step (`simple: …`, or `expression: {simple: …}`).
pub(crate) fn find(entries: &[Entry]) -> Result<Option<Expression>, RouteError> {
    for entry in entries {
        if REFUSED.contains(&entry.key.as_str()) {
            let reason = format!("language {} is refused: write it in simple or jsonpath", entry.key);
            return Err(RouteError::at(&entry.place, reason));
        }
        if entry.key == "expression" {
            if let Yaml::Map(inner) = &entry.node.value {
                return match find(inner)? {
                    Some(found) => Ok(Some(found)),
                    None => {
                        let key = inner.first().map_or("", |entry| entry.key.as_str());
                        let place = inner.first().map_or(&entry.place, |entry| &entry.place);
                        let reason = format!("unknown language {key}{}", hint(key, &LANGUAGES));
                        Err(RouteError::at(place, reason))
                    }
                };
            }
            return Err(RouteError::at(
                &entry.node.place,
                "expression must be a map like {simple: '${body}'}",
            ));
        }
        if LANGUAGES.contains(&entry.key.as_str()) {
            return parse(&entry.key, &entry.node).map(Some);
        }
    }
    Ok(None)
}

/// Parses the expression `node` of `language`.
fn parse(language: &str, node: &Node) -> Result<Expression, RouteError> {
    let (text, place): (&str, &Place) = match &node.value {
        Yaml::Map(_) => {
            let known: &[&str] = match language {
                "tokenize" => &["token"],
                "jsonpath" => &["expression", "resultType", "suppressExceptions"],
                _ => &["expression", "resultType", "trim"],
            };
            let fields = node.options(language, known)?;
            let name = if language == "tokenize" { "token" } else { "expression" };
            let inner = fields.need(name, language)?;
            (inner.text(name)?, &inner.place)
        }
        Yaml::Null if language == "constant" => ("", &node.place),
        _ => (node.text(language)?, &node.place),
    };
    let refuse = |reason: String| RouteError::at(place, reason);
    Ok(match language {
        "constant" => Expression::Constant(Value::from(text)),
        "simple" => Expression::Simple(simple::Simple::parse(text).map_err(refuse)?),
        "jsonpath" => Expression::JsonPath(jsonpath::JsonPath::parse(text).map_err(refuse)?),
        "header" => Expression::Header(text.to_owned()),
        "exchangeProperty" => Expression::Property(text.to_owned()),
        _ => Expression::Tokenize(if text.is_empty() { "\n".to_owned() } else { text.replace("\\n", "\n") }),
    })
}
