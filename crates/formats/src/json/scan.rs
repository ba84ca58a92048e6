//! Moves over JSON text: white space, strings, numbers, whole values.

use super::{DEPTH_MAX, NUMBER_MAX};

/// Why reading stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Not JSON here.
    Syntax,
    /// JSON, but not a value of the column's type.
    Mismatch,
    /// Too many levels.
    TooDeep,
}

/// A position in JSON text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
}

/// A string's raw bytes between its quotes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawString<'a> {
    pub(crate) bytes: &'a [u8],
    /// The same bytes and all that follows them.
    pub(crate) tail: &'a [u8],
    pub(crate) escaped: bool,
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// Index of the first byte that is a quote, a backslash or a control character.
#[inline]
pub(crate) fn find_special(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let mask = special(u64::from_le_bytes(*word));
        if mask != 0 {
            return Some(at + (mask.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    rest.iter().position(|byte| matches!(byte, 0..0x20 | b'"' | b'\\')).map(|found| at + found)
}

/// High bit set in each byte that is a quote, a backslash or a control character; exact for the lowest such byte.
#[inline]
fn special(word: u64) -> u64 {
    let quote = word ^ (ONES * 0x22);
    let slash = word ^ (ONES * 0x5c);
    let quote = quote.wrapping_sub(ONES) & !quote;
    let slash = slash.wrapping_sub(ONES) & !slash;
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    (quote | slash | control) & HIGH
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The byte here; 0 at the end (0 stands nowhere in JSON outside strings).
    #[inline]
    pub(crate) fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    #[inline]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    #[inline]
    pub(crate) fn slice(&self, start: usize, end: usize) -> &'a [u8] {
        self.bytes.get(start..end).unwrap_or_default()
    }

    #[inline]
    pub(crate) fn skip_space(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    #[inline]
    pub(crate) fn expect(&mut self, byte: u8) -> Result<(), Stop> {
        if self.peek() != byte {
            return Err(Stop::Syntax);
        }
        self.at += 1;
        Ok(())
    }

    /// Moves past `literal` if it stands here.
    #[inline]
    pub(crate) fn eat(&mut self, literal: &[u8]) -> bool {
        let found = self.rest().starts_with(literal);
        if found {
            self.at += literal.len();
        }
        found
    }

    /// Reads a string; the cursor stands on its opening quote.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<RawString<'a>, Stop> {
        self.expect(b'"')?;
        let start = self.at;
        let mut at = start;
        let mut escaped = false;
        loop {
            if let Some(word) = self.bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
                let mask = special(u64::from_le_bytes(*word));
                if mask == 0 {
                    at += 8;
                    continue;
                }
                at += (mask.trailing_zeros() / 8) as usize;
            }
            match self.bytes.get(at).copied() {
                Some(b'"') => {
                    self.at = at + 1;
                    let tail = self.bytes.get(start..).unwrap_or_default();
                    return Ok(RawString { bytes: self.slice(start, at), tail, escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    at = self.escape_end(at)?;
                }
                Some(byte) if byte >= 0x20 => at += 1,
                _ => {
                    self.at = at;
                    return Err(Stop::Syntax);
                }
            }
        }
    }

    /// Where the escape that begins at `at` ends.
    fn escape_end(&mut self, at: usize) -> Result<usize, Stop> {
        match self.bytes.get(at + 1).copied() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
            Some(b'u')
                if self.slice(at + 2, at + 6).iter().filter(|byte| byte.is_ascii_hexdigit()).count() == 4 =>
            {
                Ok(at + 6)
            }
            _ => {
                self.at = at;
                Err(Stop::Syntax)
            }
        }
    }

    fn digits(&mut self) -> usize {
        super::number::read_digits(self, &mut 0)
    }

    /// Reads a number's text, checked against JSON's grammar.
    pub(crate) fn number(&mut self) -> Result<&'a [u8], Stop> {
        let start = self.at;
        if self.peek() == b'-' {
            self.at += 1;
        }
        let leading_zero = self.peek() == b'0';
        let whole = self.digits();
        if whole == 0 || (leading_zero && whole > 1) {
            return Err(Stop::Syntax);
        }
        if self.peek() == b'.' {
            self.at += 1;
            if self.digits() == 0 {
                return Err(Stop::Syntax);
            }
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            if self.digits() == 0 {
                return Err(Stop::Syntax);
            }
        }
        if self.at - start > NUMBER_MAX { Err(Stop::Syntax) } else { Ok(self.slice(start, self.at)) }
    }

    /// Reads `true`, `false` or `null`.
    pub(crate) fn word(&mut self, literal: &[u8]) -> Result<(), Stop> {
        if self.eat(literal) && !self.peek().is_ascii_alphanumeric() { Ok(()) } else { Err(Stop::Syntax) }
    }

    /// Moves past one value of any kind, `depth` levels down.
    pub(crate) fn skip_value(&mut self, depth: usize) -> Result<(), Stop> {
        match self.peek() {
            b'"' => self.string().map(|_| ()),
            b'-' | b'0'..=b'9' => self.number().map(|_| ()),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            b'{' => self.skip_nested(b'}', depth),
            b'[' => self.skip_nested(b']', depth),
            _ => Err(Stop::Syntax),
        }
    }

    fn skip_nested(&mut self, close: u8, depth: usize) -> Result<(), Stop> {
        if depth >= DEPTH_MAX {
            return Err(Stop::TooDeep);
        }
        let mut more = self.enter(close)?;
        while more {
            if close == b'}' {
                self.string()?;
                self.colon()?;
            }
            self.skip_value(depth + 1)?;
            more = self.next_member(close)?;
        }
        Ok(())
    }

    /// Moves past an opening bracket and white space; false when the closing one follows at once.
    pub(crate) fn enter(&mut self, close: u8) -> Result<bool, Stop> {
        self.at += 1;
        self.skip_space();
        if self.peek() == close {
            self.at += 1;
            return Ok(false);
        }
        Ok(true)
    }

    /// After a member: past a comma (true) or the closing bracket (false).
    pub(crate) fn next_member(&mut self, close: u8) -> Result<bool, Stop> {
        self.skip_space();
        if self.peek() == b',' {
            self.at += 1;
            self.skip_space();
            return Ok(true);
        }
        self.expect(close)?;
        Ok(false)
    }

    /// Past the colon between name and value.
    pub(crate) fn colon(&mut self) -> Result<(), Stop> {
        self.skip_space();
        self.expect(b':')?;
        self.skip_space();
        Ok(())
    }
}

/// Appends a raw string with its escapes resolved. Lone surrogates become U+FFFD.
pub(crate) fn unescape(raw: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while let Some(byte) = raw.get(at).copied() {
        if byte != b'\\' {
            out.push(byte);
            at += 1;
            continue;
        }
        let escape = raw.get(at + 1).copied().unwrap_or(0);
        at += 2;
        let plain = match escape {
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let (found, next) = unicode(raw, at);
                let mut buffer = [0; 4];
                out.extend_from_slice(found.encode_utf8(&mut buffer).as_bytes());
                at = next;
                continue;
            }
            other => other,
        };
        out.push(plain);
    }
}

fn hex4(raw: &[u8], at: usize) -> u32 {
    raw.get(at..at + 4)
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .unwrap_or(0xfffd)
}

/// The character whose first four hex digits stand at `at`, and where its escape ends.
fn unicode(raw: &[u8], at: usize) -> (char, usize) {
    let first = hex4(raw, at);
    let after = at + 4;
    if (0xd800..0xdc00).contains(&first) && raw.get(after..after + 2) == Some(b"\\u") {
        let second = hex4(raw, after + 2);
        if (0xdc00..0xe000).contains(&second) {
            let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            return (char::from_u32(code).unwrap_or('\u{fffd}'), after + 6);
        }
    }
    (char::from_u32(first).unwrap_or('\u{fffd}'), after)
}
