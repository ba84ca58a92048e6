//! Where one RESP reply ends, whatever is in it.

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

const NESTING_MAX: usize = 32;
const BULK_MAX: i64 = 512 << 20;
const LINE_MAX: usize = 64 * 1024;

/// How far the reading of `wanted` replies has come.
#[derive(Debug)]
struct Progress {
    /// Elements still to come on each open level; the lowest counts replies.
    open: Vec<i64>,
    /// Bytes of the present bulk string still to come.
    bulk: usize,
}

impl Progress {
    fn is_done(&self) -> bool {
        self.open.is_empty() && self.bulk == 0
    }

    fn element(&mut self) {
        while let Some(left) = self.open.last_mut() {
            *left -= 1;
            if *left > 0 {
                return;
            }
            self.open.pop();
        }
    }

    /// Takes as much of `bytes` as it understands: the number of bytes.
    fn advance(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        let mut at = 0;
        while !self.is_done() && at < bytes.len() {
            if self.bulk > 0 {
                let n = self.bulk.min(bytes.len() - at);
                self.bulk -= n;
                at += n;
                if self.bulk == 0 {
                    self.element();
                }
                continue;
            }
            let rest = &bytes[at..];
            let Some(end) = rest.iter().take(LINE_MAX).position(|byte| *byte == b'\n') else {
                return if rest.len() >= LINE_MAX { Err("an endless line") } else { Ok(at) };
            };
            let digits = rest.get(1..end.saturating_sub(1)).unwrap_or_default();
            let number = || crate::protocol::number(digits).ok_or("a length that is no number");
            match rest[0] {
                b'$' | b'=' | b'!' => match number()? {
                    n if n > BULK_MAX => return Err("a value above 512 MiB"),
                    n if n < 0 => self.element(),
                    n => self.bulk = usize::try_from(n).unwrap_or(0) + 2,
                },
                kind @ (b'*' | b'~' | b'%' | b'>') => match number()? {
                    n if n <= 0 => self.element(),
                    n if self.open.len() > NESTING_MAX || n > 1 << 40 => {
                        return Err(if n > 1 << 40 { "a huge array" } else { "too deep" });
                    }
                    n => self.open.push(if kind == b'%' { n * 2 } else { n }),
                },
                b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => self.element(),
                _ => return Err("a reply of unknown type"),
            }
            at += end + 1;
        }
        Ok(at)
    }
}

/// The length of the one reply at the head of `bytes`; `None` while it is incomplete.
pub(super) fn length(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    let mut progress = Progress { open: vec![1], bulk: 0 };
    let end = progress.advance(bytes)?;
    Ok(progress.is_done().then_some(end))
}

/// Copies exactly `replies` replies from `reader` to the end of `out`.
pub(crate) async fn copy(
    reader: &mut (impl AsyncRead + Unpin),
    replies: usize,
    out: &mut BytesMut,
) -> std::io::Result<()> {
    let mut progress = Progress { open: vec![i64::try_from(replies).unwrap_or(i64::MAX)], bulk: 0 };
    let mut seen = out.len();
    loop {
        seen += progress.advance(&out[seen..]).map_err(std::io::Error::other)?;
        if progress.is_done() {
            break;
        }
        out.reserve(16 * 1024);
        if reader.read_buf(out).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    if seen == out.len() { Ok(()) } else { Err(std::io::Error::other("more replies than commands")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn replies_are_copied_whole_and_not_one_byte_more() {
        let stream =
            b"+OK\r\n*3\r\n:1\r\n*2\r\n$-1\r\n$4\r\na\r\nb\r\n*0\r\n%1\r\n+k\r\n$0\r\n\r\n-ERR no\r\n";
        let mut out = BytesMut::from("before");
        copy(&mut &stream[..], 4, &mut out).await.unwrap();
        assert_eq!(&out[6..], stream);
        assert!(copy(&mut &stream[..], 3, &mut BytesMut::new()).await.is_err(), "a reply too many");
        assert!(copy(&mut &stream[..], 5, &mut BytesMut::new()).await.is_err(), "a reply too few");
        let deep = b"*1\r\n".repeat(100);
        assert!(copy(&mut &deep[..], 1, &mut BytesMut::new()).await.is_err());
    }
}
