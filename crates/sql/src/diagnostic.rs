//! What is said when a statement is refused: one value that prints in a terminal (with a caret) and as REST JSON.

use std::fmt;

use serde_json::{Value, json};

use crate::ast::Span;

/// Where in the life of a statement it was refused; the names are those of ksqlDB's exceptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The text is not SQL (`ParseFailedException`).
    Parse,
    /// The statement makes no sense here (`KsqlStatementException`, `KsqlException`).
    Statement,
    /// A running query met a record it cannot process (`StreamsException`).
    Processing,
    /// The bus, the cache or the disk refused.
    Environment,
}

/// The marked place of a mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Line in the script, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Marked characters, at least 1.
    pub width: usize,
    /// The text of that line.
    pub text: String,
}

/// A refused statement. Its [`Display`](fmt::Display) is ksqlDB's words, then `line 1:8: ` and the help, on one line unless
/// ksqlDB's words have several; [`SqlError::caret`] shows the place in the script.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SqlError {
    /// ksqlDB's error code (HTTP status × 100 + n), for example 40001.
    pub code: u32,
    /// What happened, in ksqlDB's words where it has some.
    pub message: String,
    /// Which names are meant, what to write instead.
    pub help: Option<String>,
    /// Where.
    pub place: Option<Box<Place>>,
    /// Byte range in the script, before [`SqlError::locate`] turns it into a place.
    pub(crate) span: Option<Span>,
    /// When.
    pub stage: Stage,
    /// The refused statement's text.
    pub statement: Option<String>,
}

impl SqlError {
    /// A statement that cannot be carried out (code 40001).
    pub fn statement(message: impl Into<String>) -> Self {
        Self {
            code: 40001,
            message: message.into(),
            help: None,
            place: None,
            span: None,
            stage: Stage::Statement,
            statement: None,
        }
    }

    /// Text that does not parse (code 40001).
    pub fn parse(message: impl Into<String>) -> Self {
        Self { stage: Stage::Parse, ..Self::statement(message) }
    }

    /// A failure of the bus or another neighbour (code 50000).
    pub fn environment(error: impl fmt::Display) -> Self {
        Self { stage: Stage::Environment, code: 50000, ..Self::statement(error.to_string()) }
    }

    /// A query that failed while it processed records (code 50000).
    pub fn processing(error: impl fmt::Display) -> Self {
        Self { stage: Stage::Processing, code: 50000, ..Self::statement(error.to_string()) }
    }

    /// A bad request (code 40000).
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self { code: 40000, ..Self::statement(message) }
    }

    pub(crate) fn at(mut self, span: Span) -> Self {
        if self.span.is_none() {
            self.span = Some(span);
        }
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Puts `text` (and a colon) before the message.
    pub(crate) fn prefixed(mut self, text: &str) -> Self {
        if !self.message.starts_with(text) {
            self.message = format!("{text}{}", self.message);
        }
        self
    }

    /// Fills in place and statement text from the script the span refers to.
    pub(crate) fn locate(mut self, script: &str, statement: &str) -> Self {
        if self.place.is_none()
            && let Some(span) = self.span
        {
            self.place = Some(Box::new(Place::of(script, span)));
        }
        if self.statement.is_none() {
            self.statement = Some(statement.to_owned());
        }
        self
    }

    /// The terminal form: message, the line, a caret under the mistake, help.
    #[must_use]
    pub fn caret(&self) -> String {
        let mut out = self.message.clone();
        if let Some(place) = &self.place {
            let number = place.line.to_string();
            let pad = " ".repeat(number.len());
            let indent: String = place
                .text
                .chars()
                .take(place.column - 1)
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            let marks = "^".repeat(place.width.max(1));
            out.push_str(&format!("\n{pad} |\n{number} | {}\n{pad} | {indent}{marks}", place.text));
        }
        if let Some(help) = self.placed_help() {
            out.push_str(&format!("\n{help}"));
        }
        out
    }

    /// `line 1:8: did you mean HUNTER?`
    fn placed_help(&self) -> Option<String> {
        let help = self.help.as_ref()?;
        let at = self.place.as_ref().map(|place| format!("line {}:{}: ", place.line, place.column));
        Some(format!("{}{help}", at.unwrap_or_default()))
    }

    /// The HTTP status that belongs to the code.
    #[must_use]
    pub fn http_status(&self) -> u16 {
        u16::try_from(self.code / 100).unwrap_or(500)
    }

    /// The REST body: `statement_error` with the statement's text, or `generic_error`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let message = self.to_string();
        let mut body = match &self.statement {
            Some(text) => json!({
                "@type": "statement_error",
                "error_code": self.code,
                "message": message,
                "statementText": text,
                "entities": [],
            }),
            None => json!({"@type": "generic_error", "error_code": self.code, "message": message}),
        };
        if let (Some(place), Some(object)) = (&self.place, body.as_object_mut()) {
            object.insert(
                "place".to_owned(),
                json!({"line": place.line, "column": place.column, "width": place.width}),
            );
        }
        body
    }
}

impl Place {
    fn of(script: &str, span: Span) -> Self {
        let start = floor(script, span.start);
        let end = floor(script, span.end).max(start);
        let before = script.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line_end =
            script.get(start..).and_then(|rest| rest.find('\n')).map_or(script.len(), |at| start + at);
        let text = script.get(line_start..line_end).unwrap_or_default().to_owned();
        let width = script.get(start..end.min(line_end)).unwrap_or_default().chars().count().max(1);
        Self {
            line: before.matches('\n').count() + 1,
            column: script.get(line_start..start).unwrap_or_default().chars().count() + 1,
            width,
            text,
        }
    }
}

fn floor(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let Some(help) = self.placed_help() else { return Ok(()) };
        let ended = self.message.ends_with(['.', ':', '?', '!']);
        write!(f, "{} {help}", if ended { "" } else { "." })
    }
}

/// The line and column (both from 1) of a byte offset, as ksqlDB's messages count them.
pub(crate) fn line_column(script: &str, at: usize) -> (usize, usize) {
    let place = Place::of(script, Span { start: at, end: at });
    (place.line, place.column)
}

/// The candidate nearest to `name`, if any is near enough to be meant.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = 1 + name.chars().count() / 4;
    candidates
        .into_iter()
        // of two that are as close the longer one: letters are left out more often than put in
        .map(|candidate| {
            let distance = distance(&name.to_uppercase(), &candidate.to_uppercase());
            (distance, std::cmp::Reverse(candidate.len()), candidate)
        })
        .filter(|(distance, ..)| *distance <= limit)
        .min()
        .map(|(.., candidate)| candidate)
}

fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut diagonal = i;
        let mut previous = i + 1;
        for (j, r) in right.iter().enumerate() {
            let above = row.get(j + 1).copied().unwrap_or(usize::MAX);
            let cost = (diagonal + usize::from(l != *r)).min(above + 1).min(previous + 1);
            if let Some(cell) = row.get_mut(j) {
                *cell = previous;
            }
            diagonal = above;
            previous = cost;
        }
        if let Some(cell) = row.last_mut() {
            *cell = previous;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_far_names_are_not() {
        assert_eq!(nearest("HUNTR", ["AT", "HUNT", "HUNTER"]), Some("HUNTER"));
        assert_eq!(nearest("HUNTRE", ["AT", "HUNTER"]), Some("HUNTER"));
        assert_eq!(nearest("COMPLETELY", ["AT", "HUNTER"]), None);
    }

    #[test]
    fn a_caret_marks_the_place() {
        let script = "SELECT a,\n  huntr FROM finds;";
        let error = SqlError::statement("SELECT column 'HUNTR' cannot be resolved.")
            .at(Span { start: 12, end: 17 })
            .help("did you mean HUNTER?")
            .locate(script, script);
        assert_eq!(
            error.caret(),
            "SELECT column 'HUNTR' cannot be resolved.\n  |\n2 |   huntr FROM finds;\n  |   ^^^^^\nline 2:3: did you mean HUNTER?"
        );
        assert_eq!(
            error.to_json()["message"],
            "SELECT column 'HUNTR' cannot be resolved. line 2:3: did you mean HUNTER?"
        );
    }
}
