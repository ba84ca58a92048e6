//! One request: an array of bulk strings, or a line of words.

use std::ops::Range;

const LINE_MAX: usize = 64 * 1024;
const WORDS_MAX: usize = 1 << 20;
const WORD_MAX: usize = 64 << 20;

/// Where the words of the last parsed request lie. Reused from request to request.
#[derive(Debug, Default)]
pub(crate) struct Request {
    words: Vec<Range<usize>>,
}

impl Request {
    /// Finds one request at the head of `bytes`: its length, or `None` while it is incomplete.
    pub(crate) fn parse(&mut self, bytes: &[u8]) -> Result<Option<usize>, &'static str> {
        self.words.clear();
        match bytes.first() {
            None => Ok(None),
            Some(b'*') => self.parse_array(bytes),
            Some(_) => self.parse_line(bytes),
        }
    }

    pub(crate) fn words<'a>(&self, bytes: &'a [u8]) -> Vec<&'a [u8]> {
        self.words.iter().map(|range| &bytes[range.clone()]).collect()
    }

    fn parse_array(&mut self, bytes: &[u8]) -> Result<Option<usize>, &'static str> {
        let Some((count, mut at)) = header(bytes, 0)? else { return Ok(None) };
        let count = usize::try_from(count.max(0)).unwrap_or(0);
        if count > WORDS_MAX {
            return Err("invalid multibulk length");
        }
        for _ in 0..count {
            match bytes.get(at) {
                None => return Ok(None),
                Some(b'$') => {}
                Some(_) => return Err("expected '$'"),
            }
            let Some((len, start)) = header(bytes, at)? else { return Ok(None) };
            let len =
                usize::try_from(len).ok().filter(|len| *len <= WORD_MAX).ok_or("invalid bulk length")?;
            match bytes.get(start + len..start + len + 2) {
                None => return Ok(None),
                Some(b"\r\n") => {}
                Some(_) => return Err("bulk longer than announced"),
            }
            self.words.push(start..start + len);
            at = start + len + 2;
        }
        Ok(Some(at))
    }

    fn parse_line(&mut self, bytes: &[u8]) -> Result<Option<usize>, &'static str> {
        let Some(end) = bytes.iter().take(LINE_MAX).position(|byte| *byte == b'\n') else {
            return if bytes.len() >= LINE_MAX { Err("too big inline request") } else { Ok(None) };
        };
        if bytes[..end].contains(&0) {
            return Err("a zero byte in an inline request"); // Redis would not find the line's end, and never answer
        }
        let mut start = None;
        for (at, byte) in bytes[..=end].iter().enumerate() {
            let blank = byte.is_ascii_whitespace();
            match (start, blank) {
                (None, false) => start = Some(at),
                (Some(from), true) => {
                    self.words.push(from..at);
                    start = None;
                }
                _ => {}
            }
        }
        Ok(Some(end + 1))
    }
}

/// A type byte, a number, `\r\n`: the number and where the next part starts.
fn header(bytes: &[u8], from: usize) -> Result<Option<(i64, usize)>, &'static str> {
    let rest = &bytes[from..];
    let Some(end) = rest.iter().take(24).position(|byte| *byte == b'\n') else {
        return if rest.len() >= 24 { Err("a length without end") } else { Ok(None) };
    };
    let digits = rest.get(1..end.saturating_sub(1)).unwrap_or_default();
    let value = crate::protocol::number(digits).ok_or("a length that is no number")?;
    Ok(Some((value, from + end + 1)))
}
