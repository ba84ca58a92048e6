//! Endpoint addresses: `scheme:path?option=value`, with the step's `parameters` merged in.

use crate::error::{Place, RouteError, hint, one_line};
use crate::yaml::{Node, parse_millis};

/// A parsed endpoint address. Its `Debug` shows no option values: they may be secrets.
#[derive(Clone)]
pub(crate) struct Uri {
    pub scheme: String,
    pub path: String,
    pub options: Vec<UriOption>,
    pub place: Place,
}

/// One option, where it stood.
#[derive(Clone)]
pub(crate) struct UriOption {
    pub name: String,
    pub value: String,
    pub place: Place,
}

impl std::fmt::Debug for Uri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.scheme, self.path)
    }
}

impl Uri {
    /// Parses `text`; `parameters` is the map beside it in YAML.
    pub fn parse(text: &str, parameters: Option<&Node>, place: &Place) -> Result<Self, RouteError> {
        let (scheme, rest) = match text.split_once(':') {
            Some((scheme, rest)) => (scheme, rest),
            None => (text, ""),
        };
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, query),
            None => (rest, ""),
        };
        let mut options = Vec::new();
        let mut rest = query;
        while !rest.is_empty() {
            let (pair, tail) = split_pair(rest);
            rest = tail;
            if pair.is_empty() {
                continue;
            }
            let Some((name, value)) = pair.split_once('=') else {
                return Err(RouteError::at(
                    place,
                    format!("option {} of {scheme} has no value", one_line(pair)),
                ));
            };
            options.push(UriOption { name: name.to_owned(), value: unwrap_raw(value), place: place.clone() });
        }
        if let Some(node) = parameters {
            for entry in node.map("parameters")? {
                let value = unwrap_raw(entry.node.text(&entry.key)?);
                options.push(UriOption { name: entry.key.clone(), value, place: entry.place.clone() });
            }
        }
        for (index, option) in options.iter().enumerate() {
            if options.iter().take(index).any(|other| other.name == option.name) {
                return Err(RouteError::at(
                    &option.place,
                    format!("option {} is given twice", one_line(&option.name)),
                ));
            }
        }
        let path = path.strip_prefix("//").unwrap_or(path).to_owned();
        Ok(Self { scheme: scheme.to_owned(), path, options, place: place.clone() })
    }

    /// Refuses options that are not among `known`.
    pub fn only(&self, known: &[&str]) -> Result<(), RouteError> {
        for option in &self.options {
            if !known.contains(&option.name.as_str()) {
                let reason = format!(
                    "{} has no option {}{}",
                    self.scheme,
                    one_line(&option.name),
                    hint(&option.name, known)
                );
                return Err(RouteError::at(&option.place, reason));
            }
        }
        Ok(())
    }

    /// The value of option `name`, or what stands in the path under the same name (`kafka: {parameters: {topic}}`).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|option| option.name == name).map(|option| option.value.as_str())
    }

    /// Where option `name` stands.
    pub fn place_of(&self, name: &str) -> &Place {
        self.options.iter().find(|option| option.name == name).map_or(&self.place, |option| &option.place)
    }

    /// The number of option `name`, or `default`.
    pub fn number<T: std::str::FromStr>(&self, name: &str, default: T) -> Result<T, RouteError> {
        match self.get(name) {
            None => Ok(default),
            Some(text) => text.trim().parse().map_err(|_| {
                let reason = format!("{name} must be a number, here is {}", one_line(text));
                RouteError::at(self.place_of(name), reason)
            }),
        }
    }

    /// Milliseconds of option `name`, or `default`.
    pub fn millis(&self, name: &str, default: u64) -> Result<u64, RouteError> {
        match self.get(name) {
            None => Ok(default),
            Some(text) => parse_millis(text).ok_or_else(|| {
                let reason = format!("{name} must be milliseconds or like 5s, here is {}", one_line(text));
                RouteError::at(self.place_of(name), reason)
            }),
        }
    }

    /// `true` or `false` of option `name`, or `default`.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, RouteError> {
        match self.get(name) {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(other) => {
                let reason = format!("{name} must be true or false, here is {}", one_line(other));
                Err(RouteError::at(self.place_of(name), reason))
            }
        }
    }

    /// One of `allowed` for option `name`; the first is the default.
    pub fn one_of<'a>(&self, name: &str, allowed: &[&'a str]) -> Result<&'a str, RouteError> {
        let Some(given) = self.get(name) else { return Ok(allowed.first().copied().unwrap_or_default()) };
        allowed.iter().find(|word| word.eq_ignore_ascii_case(given)).copied().ok_or_else(|| {
            let reason = format!("{name} has no choice {}{}", one_line(given), hint(given, allowed));
            RouteError::at(self.place_of(name), reason)
        })
    }

    /// The comma-separated words of option `name`.
    pub fn words(&self, name: &str) -> Vec<String> {
        let words =
            self.get(name).unwrap_or_default().split(',').map(str::trim).filter(|word| !word.is_empty());
        words.map(str::to_owned).collect()
    }

    /// An error at the address.
    pub fn refuse(&self, reason: impl Into<String>) -> RouteError {
        RouteError::at(&self.place, reason)
    }

    /// `host:port` of the first part of the path, with `default_port`, and what follows the next `/`.
    pub fn host_and_rest(&self, default_port: u16) -> Result<(String, u16, &str), RouteError> {
        let (authority, rest) = match self.path.split_once('/') {
            Some((authority, rest)) => (authority, rest),
            None => (self.path.as_str(), ""),
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => {
                let port = port.parse().map_err(|_| {
                    self.refuse(format!(
                        "{}: port {} is not a number up to 65535",
                        self.scheme,
                        one_line(port)
                    ))
                })?;
                (host, port)
            }
            None => (authority, default_port),
        };
        if host.is_empty() || host.contains(['@', ' ', '\r', '\n', '\\']) {
            return Err(self.refuse(format!("{0} needs a host: {0}:HOST:PORT/…", self.scheme)));
        }
        Ok((host.to_owned(), port, rest))
    }
}

/// The first `name=value` before `&`, minding `RAW(…)`, and the rest.
fn split_pair(text: &str) -> (&str, &str) {
    let amp = text.find('&');
    if let Some(raw) = text.find("=RAW(").filter(|raw| amp.is_none_or(|amp| *raw < amp))
        && let Some(end) = text.get(raw..).and_then(|tail| tail.find(')')).map(|end| raw + end + 1)
    {
        let tail = text.get(end..).unwrap_or_default();
        return (text.get(..end).unwrap_or_default(), tail.strip_prefix('&').unwrap_or(tail));
    }
    match amp {
        Some(amp) => (text.get(..amp).unwrap_or_default(), text.get(amp + 1..).unwrap_or_default()),
        None => (text, ""),
    }
}

fn unwrap_raw(value: &str) -> String {
    match value.strip_prefix("RAW(").and_then(|rest| rest.strip_suffix(')')) {
        Some(raw) => raw.to_owned(),
        None => value.to_owned(),
    }
}
