//! Recursive-descent parser of ksqlDB's grammar.
//!
//! Nesting is bounded by [`DEPTH_MAX`] and a script by [`SCRIPT_BYTES_MAX`], so that no text from a stranger can
//! exhaust the stack or the memory.

mod expression;
mod lexer;
mod query;
mod statement;
mod types;

use crate::ast::{Name, Span, Statement};
use crate::diagnostic::{SqlError, line_column, nearest};
use lexer::{Lexeme, Token, lex};

/// Deepest nesting of expressions and types.
pub const DEPTH_MAX: usize = 200;
/// Largest script in bytes.
pub const SCRIPT_BYTES_MAX: usize = 1 << 20;

/// Words that cannot stand as an identifier unless quoted.
const RESERVED: [&str; 55] = [
    "SELECT",
    "FROM",
    "AS",
    "WHERE",
    "WITHIN",
    "WINDOW",
    "GROUP",
    "BY",
    "HAVING",
    "LIMIT",
    "AND",
    "OR",
    "NOT",
    "IN",
    "LIKE",
    "BETWEEN",
    "IS",
    "NULL",
    "TRUE",
    "FALSE",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "END",
    "CAST",
    "JOIN",
    "INNER",
    "LEFT",
    "RIGHT",
    "FULL",
    "OUTER",
    "ON",
    "CREATE",
    "DROP",
    "INSERT",
    "INTO",
    "VALUES",
    "WITH",
    "TABLE",
    "STREAM",
    "STREAMS",
    "EXISTS",
    "DESCRIBE",
    "PRINT",
    "TERMINATE",
    "LIST",
    "DISTINCT",
    "DELETE",
    "TOPIC",
    "BEGINNING",
    "UNSET",
    "DEFINE",
    "UNDEFINE",
    "CONNECTOR",
];

pub(crate) fn is_reserved(word: &str) -> bool {
    RESERVED.contains(&word)
}

/// Parses every statement of a script. Errors carry their place.
pub(crate) fn parse_script(script: &str) -> Result<Vec<Statement>, SqlError> {
    with_deep_stack(|| parse_located(script)).map_err(|error| {
        let statement = error.span.map_or(script, |span| enclosing(script, span));
        error.locate(script, statement)
    })
}

/// Stack of the thread that walks deep trees: [`DEPTH_MAX`] levels need less than a tenth of it in a debug build.
const STACK_BYTES: usize = 64 << 20;

/// Runs `work` where [`DEPTH_MAX`] levels of recursion fit, whatever thread called.
pub(crate) fn with_deep_stack<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let fallback = std::sync::Mutex::new(Some(work));
    let take = || fallback.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    let done = std::thread::scope(|scope| {
        let spawned = std::thread::Builder::new()
            .name("sql".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || take().map(|work| work()));
        spawned.ok().map(|handle| match handle.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    });
    match done.flatten() {
        Some(done) => done,
        None => take().expect("the work is still there when no thread could be started")(),
    }
}

fn parse_located(script: &str) -> Result<Vec<Statement>, SqlError> {
    if script.len() > SCRIPT_BYTES_MAX {
        return Err(SqlError::parse(format!(
            "the script has {} bytes, {SCRIPT_BYTES_MAX} are allowed: split it into several requests",
            script.len()
        )));
    }
    let mut parser = Parser { script, lexemes: lex(script)?, at: 0, depth: 0 };
    let mut statements = Vec::new();
    while !parser.finished() {
        if parser.take_mark(";") {
            continue;
        }
        statements.push(parser.statement()?);
    }
    Ok(statements)
}

/// Parses one expression, all of `text` (filters of tools and tests).
pub(crate) fn parse_expression(text: &str) -> Result<crate::ast::Expr, SqlError> {
    let mut parser = Parser { script: text, lexemes: lex(text)?, at: 0, depth: 0 };
    let expression = parser.expression()?;
    if parser.finished() { Ok(expression) } else { Err(parser.unexpected("the end").locate(text, text)) }
}

/// The text of the statement around `span`, for messages about text that did not parse.
fn enclosing(script: &str, span: Span) -> &str {
    let start = script.get(..span.start).and_then(|before| before.rfind(';')).map_or(0, |at| at + 1);
    let end = script
        .get(span.start..)
        .and_then(|rest| rest.find(';'))
        .map_or(script.len(), |at| span.start + at + 1);
    script.get(start..end).unwrap_or(script).trim()
}

struct Parser<'a> {
    script: &'a str,
    lexemes: Vec<Lexeme>,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn lexeme(&self, ahead: usize) -> &Lexeme {
        let last = self.lexemes.len() - 1;
        &self.lexemes[(self.at + ahead).min(last)]
    }

    fn token(&self) -> &Token {
        &self.lexeme(0).token
    }

    fn span(&self) -> Span {
        self.lexeme(0).span
    }

    fn last_span(&self) -> Span {
        self.lexemes[self.at.saturating_sub(1)].span
    }

    fn since(&self, start: Span) -> Span {
        start.to(self.last_span())
    }

    fn finished(&self) -> bool {
        *self.token() == Token::End
    }

    fn advance(&mut self) -> Token {
        let token = self.token().clone();
        self.at = (self.at + 1).min(self.lexemes.len() - 1);
        token
    }

    fn peek_word(&self, ahead: usize, word: &str) -> bool {
        matches!(&self.lexeme(ahead).token, Token::Word(found) if found == word)
    }

    fn peek_mark(&self, ahead: usize, mark: &str) -> bool {
        matches!(self.lexeme(ahead).token, Token::Mark(found) if found == mark)
    }

    fn is_word(&self, word: &str) -> bool {
        self.peek_word(0, word)
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        if found {
            self.at += 1;
        }
        found
    }

    /// Takes the words in order, or none of them.
    fn take_words(&mut self, words: &[&str]) -> bool {
        let found = words.iter().enumerate().all(|(ahead, word)| self.peek_word(ahead, word));
        if found {
            self.at += words.len();
        }
        found
    }

    fn take_mark(&mut self, mark: &str) -> bool {
        let found = self.peek_mark(0, mark);
        if found {
            self.at += 1;
        }
        found
    }

    fn expect_word(&mut self, word: &str) -> Result<(), SqlError> {
        if self.take_word(word) { Ok(()) } else { Err(self.unexpected(word)) }
    }

    fn expect_mark(&mut self, mark: &str) -> Result<(), SqlError> {
        if self.take_mark(mark) { Ok(()) } else { Err(self.unexpected(&format!("'{mark}'"))) }
    }

    /// An error at the current token that names what could stand there.
    fn unexpected(&self, expected: &str) -> SqlError {
        let span = self.span();
        let (line, column) = line_column(self.script, span.start);
        let found = match self.token() {
            Token::End => "<EOF>".to_owned(),
            _ => self.script.get(span.start..span.end).unwrap_or_default().to_owned(),
        };
        let error = SqlError::parse(format!(
            "line {line}:{column}: Syntax Error\nSyntax error at or near '{found}' at line {line}:{column}\nExpecting {expected}"
        ))
        .at(span);
        match nearest(&found, expected.split(", ").filter(|word| !word.starts_with('\''))) {
            Some(word) if word.len() > 2 => error.help(format!("did you mean {word}?")),
            _ if is_reserved(&found.to_uppercase()) && expected == "an identifier" => {
                error.help(format!("{found} is a reserved word: write `{found}` to use it as a name"))
            }
            _ => error,
        }
    }

    fn ends_statement(&self) -> bool {
        self.finished() || self.peek_mark(0, ";")
    }

    fn identifier(&mut self) -> Result<Name, SqlError> {
        self.optional_identifier().ok_or_else(|| self.unexpected("an identifier"))
    }

    fn optional_identifier(&mut self) -> Option<Name> {
        let span = self.span();
        let text = match self.token() {
            Token::Word(word) if !is_reserved(word) => word.clone(),
            Token::Quoted(text) => text.clone(),
            _ => return None,
        };
        self.at += 1;
        Some(Name { text, span })
    }

    /// A topic, function or property name: words joined by dots and dashes, or quoted.
    fn text_literal(&mut self) -> Result<String, SqlError> {
        match self.token() {
            Token::Text(text) => {
                let text = text.clone();
                self.at += 1;
                Ok(text)
            }
            _ => Err(self.unexpected("a string in single quotes")),
        }
    }

    fn integer(&mut self, command: &str) -> Result<i64, SqlError> {
        let span = self.span();
        match self.token().clone() {
            Token::Integer(digits) => {
                self.at += 1;
                digits
                    .parse()
                    .map_err(|_| SqlError::parse(format!("Invalid numeric literal: {digits}")).at(span))
            }
            Token::Decimal(_) | Token::Float(_) => Err(SqlError::parse(format!(
                "Failed to prepare statement: Value must be integer for command: {command}"
            ))
            .at(span)),
            _ => Err(self.unexpected("a number")),
        }
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T, SqlError>) -> Result<T, SqlError> {
        if self.depth >= DEPTH_MAX {
            return Err(SqlError::parse(format!(
                "nested deeper than {DEPTH_MAX} levels: split the expression over several streams"
            ))
            .at(self.span()));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    /// `item, item, …`, at least one.
    fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, SqlError>,
    ) -> Result<Vec<T>, SqlError> {
        let mut items = vec![item(self)?];
        while self.take_mark(",") {
            items.push(item(self)?);
        }
        Ok(items)
    }
}

#[cfg(test)]
mod tests;
