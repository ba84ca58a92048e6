//! Camel's property placeholders: `{{name}}`, `{{name:default}}`, `{{env:NAME:default}}`, resolved before parsing.

use std::collections::BTreeMap;

use crate::error::{Place, RouteError, hint};
use crate::yaml::{Node, Value};

/// Resolves every placeholder in every scalar of the tree.
pub(crate) fn resolve(node: &mut Node, properties: &BTreeMap<String, String>) -> Result<(), RouteError> {
    match &mut node.value {
        Value::Null => {}
        Value::Scalar(text) => {
            if text.contains("{{") {
                *text = resolve_text(text, &node.place, properties)?;
            }
        }
        Value::List(items) => {
            for item in items {
                resolve(item, properties)?;
            }
        }
        Value::Map(entries) => {
            for entry in entries {
                resolve(&mut entry.node, properties)?;
            }
        }
    }
    Ok(())
}

fn resolve_text(
    text: &str,
    place: &Place,
    properties: &BTreeMap<String, String>,
) -> Result<String, RouteError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let Some((inside, tail)) = after.split_once("}}") else {
            return Err(RouteError::at(place, "{{ without }}: close the placeholder"));
        };
        out.push_str(&lookup(inside.trim(), place, properties)?);
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

fn lookup(inside: &str, place: &Place, properties: &BTreeMap<String, String>) -> Result<String, RouteError> {
    let (environment, inside) = match inside.strip_prefix("env:") {
        Some(rest) => (true, rest),
        None => (false, inside),
    };
    let (name, default) = match inside.split_once(':') {
        Some((name, default)) => (name.trim(), Some(default)),
        None => (inside, None),
    };
    let found = if environment { std::env::var(name).ok() } else { properties.get(name).cloned() };
    match (found, default) {
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) if environment => Err(RouteError::at(
            place,
            format!("no environment variable {name}: set it, or write {{{{env:{name}:default}}}}"),
        )),
        (None, None) => {
            let known: Vec<&str> = properties.keys().map(String::as_str).collect();
            let hint = if known.is_empty() { String::new() } else { hint(name, &known) };
            Err(RouteError::at(
                place,
                format!("no property {name}{hint}; give it a value, or write {{{{{name}:default}}}}"),
            ))
        }
    }
}
