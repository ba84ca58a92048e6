//! Text to tokens. Keywords are not told apart from identifiers here: the parser knows where each may stand.

use crate::ast::Span;
use crate::diagnostic::{SqlError, line_column};

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    /// A bare word, upper-cased.
    Word(String),
    /// `"x"` or `` `x` ``, unescaped.
    Quoted(String),
    /// `'x'`, unescaped.
    Text(String),
    Integer(String),
    Decimal(String),
    Float(String),
    /// An operator or punctuation mark.
    Mark(&'static str),
    End,
}

#[derive(Debug, Clone)]
pub(crate) struct Lexeme {
    pub token: Token,
    pub span: Span,
}

const MARKS: [&str; 30] = [
    "=>", "->", "<>", "!=", "<=", ">=", "||", ":=", "<", ">", "=", "+", "-", "*", "/", "%", "(", ")", "[",
    "]", ",", ".", ";", ":", "?", "{", "}", "@", "$", "!",
];

/// Splits `script` into tokens; the last one is [`Token::End`].
pub(crate) fn lex(script: &str) -> Result<Vec<Lexeme>, SqlError> {
    let bytes = script.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        let token = match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {
                at += 1;
                continue;
            }
            b'-' if bytes.get(at + 1) == Some(&b'-') => {
                at =
                    script.get(at..).and_then(|rest| rest.find('\n')).map_or(bytes.len(), |end| at + end + 1);
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                at = script
                    .get(at + 2..)
                    .and_then(|rest| rest.find("*/"))
                    .map_or(bytes.len(), |end| at + end + 4);
                continue;
            }
            b'\'' | b'"' | b'`' => {
                let (text, end) = quoted(script, at, byte)?;
                at = end;
                if byte == b'\'' { Token::Text(text) } else { Token::Quoted(text) }
            }
            b'0'..=b'9' => {
                let (token, end) = number(script, at)?;
                at = end;
                token
            }
            b'.' if bytes.get(at + 1).is_some_and(u8::is_ascii_digit) => {
                let (token, end) = number(script, at)?;
                at = end;
                token
            }
            _ if byte.is_ascii_alphabetic() || byte == b'_' => {
                while bytes.get(at).is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'@')) {
                    at += 1;
                }
                Token::Word(script.get(start..at).unwrap_or_default().to_ascii_uppercase())
            }
            _ => {
                let rest = script.get(at..).unwrap_or_default();
                let Some(mark) = MARKS.iter().find(|mark| rest.starts_with(**mark)) else {
                    return Err(unexpected(script, at));
                };
                at += mark.len();
                Token::Mark(mark)
            }
        };
        out.push(Lexeme { token, span: Span { start, end: at } });
    }
    out.push(Lexeme { token: Token::End, span: Span { start: script.len(), end: script.len() } });
    Ok(out)
}

fn unexpected(script: &str, at: usize) -> SqlError {
    let (line, column) = line_column(script, at);
    let found = script.get(at..).and_then(|rest| rest.chars().next()).unwrap_or(' ');
    let span = Span { start: at, end: at + found.len_utf8() };
    SqlError::parse(format!("line {line}:{column}: Syntax Error\nUnexpected character '{found}'")).at(span)
}

fn quoted(script: &str, start: usize, quote: u8) -> Result<(String, usize), SqlError> {
    let quote = char::from(quote);
    let mut text = String::new();
    let mut chars = script.get(start + 1..).unwrap_or_default().char_indices().peekable();
    while let Some((at, found)) = chars.next() {
        if found != quote {
            text.push(found);
        } else if chars.peek().is_some_and(|(_, next)| *next == quote) {
            chars.next();
            text.push(quote);
        } else {
            return Ok((text, start + 1 + at + quote.len_utf8()));
        }
    }
    let (line, column) = line_column(script, start);
    Err(SqlError::parse(format!(
        "line {line}:{column}: Syntax Error\nThe {quote} opened here is never closed"
    ))
    .at(Span { start, end: start + 1 }))
}

fn number(script: &str, start: usize) -> Result<(Token, usize), SqlError> {
    let bytes = script.as_bytes();
    let digits = |mut at: usize| {
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        at
    };
    let mut at = digits(start);
    let mut decimal = false;
    if bytes.get(at) == Some(&b'.') && bytes.get(at + 1) != Some(&b'.') {
        decimal = true;
        at = digits(at + 1);
    }
    let mut float = false;
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        if bytes.get(at + 1 + sign).is_some_and(u8::is_ascii_digit) {
            float = true;
            at = digits(at + 1 + sign);
        }
    }
    let text = script.get(start..at).unwrap_or_default().to_owned();
    if !decimal && !float && bytes.get(at).is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_') {
        let mut end = at;
        while bytes.get(end).is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'@')) {
            end += 1;
        }
        let word = script.get(start..end).unwrap_or_default().to_ascii_uppercase();
        return Ok((Token::Word(word), end));
    }
    let token = match (float, decimal) {
        (true, _) => Token::Float(text),
        (false, true) => Token::Decimal(text),
        (false, false) => Token::Integer(text),
    };
    Ok((token, at))
}
