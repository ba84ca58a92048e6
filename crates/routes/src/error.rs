//! What can be wrong with a route file, told in one line with its place and the nearest right name.

use std::fmt;
use std::sync::Arc;

/// A place in a route file: line and column count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named when it was loaded.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u64,
    /// Column in characters, from 1.
    pub column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// Why routes cannot be loaded or started. Every message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// Something at a place of a route file is refused.
    #[error("{place}: {reason}")]
    At {
        /// Where.
        place: Place,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A route file cannot be read.
    #[error("cannot read routes {file}: {reason}")]
    File {
        /// The file.
        file: String,
        /// What the system said, and what to do.
        reason: String,
    },
    /// The routes are sound, but cannot start here.
    #[error("route {route}: {reason}")]
    Start {
        /// Route id.
        route: String,
        /// What is wrong, and what to do.
        reason: String,
    },
}

impl RouteError {
    /// An error at `place`.
    pub(crate) fn at(place: &Place, reason: impl Into<String>) -> Self {
        Self::At { place: place.clone(), reason: one_line(&reason.into()) }
    }
}

/// `text` with control characters shown, not obeyed: strangers' bytes never break a log line.
pub(crate) fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for found in text.chars() {
        if found.is_control() { out.extend(found.escape_default()) } else { out.push(found) }
    }
    out
}

/// The name among `known` that is nearest to `wrong`, if it is near enough to be meant.
pub(crate) fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wrong_lower = wrong.to_lowercase();
    known
        .into_iter()
        .map(|name| (distance(&wrong_lower, &name.to_lowercase()), name))
        .filter(|(steps, name)| *steps <= (name.len().max(wrong.len()) / 3).max(1))
        .min_by_key(|(steps, _)| *steps)
        .map(|(_, name)| name)
}

/// `: did you mean X?`, or `: it may be one of …` when nothing is near.
pub(crate) fn hint(wrong: &str, known: &[&str]) -> String {
    match nearest(wrong, known.iter().copied()) {
        Some(name) => format!(": did you mean {name}?"),
        None if known.is_empty() => ": it takes none".to_owned(),
        None => format!(": it may be one of {}", known.join(", ")),
    }
}

/// Edits (insert, delete, replace, swap neighbours) between two short names.
fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) =
        (left.chars().take(64).collect(), right.chars().take(64).collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for i in 1..=left.len() {
        let mut row = vec![i];
        for j in 1..=right.len() {
            let cost = usize::from(left[i - 1] != right[j - 1]);
            let mut best = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + cost);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swapped_letter_finds_its_name_and_a_stranger_finds_none() {
        assert_eq!(nearest("fliter", ["filter", "split"]), Some("filter"));
        assert_eq!(nearest("maximumRedeliverys", ["maximumRedeliveries"]), Some("maximumRedeliveries"));
        assert_eq!(nearest("zebra", ["filter", "split"]), None);
        assert_eq!(one_line("a\nb\u{1b}[0m"), "a\\nb\\u{1b}[0m");
    }
}
