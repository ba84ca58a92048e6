//! A client of few requests over a real socket, at versions that are written by hand in a line each.
//!
//! Source: the protocol guide of Apache Kafka (request header 1, response header 0; Produce 3, Fetch 4, CreateTopics 2,
//! InitProducerId 0).

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use herdsman_record::Batch;

/// A connection.
pub(super) struct Client {
    socket: TcpStream,
}

/// Writes a request's fields.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn i16(mut self, value: i16) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }
    fn i32(mut self, value: i32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }
    fn i64(mut self, value: i64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }
    fn text(self, value: &str) -> Self {
        let mut next = self.i16(i16::try_from(value.len()).unwrap_or(i16::MAX));
        next.0.extend_from_slice(value.as_bytes());
        next
    }
    fn bytes(self, value: &[u8]) -> Self {
        let mut next = self.i32(i32::try_from(value.len()).unwrap_or(i32::MAX));
        next.0.extend_from_slice(value);
        next
    }
}

fn short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "a short answer")
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> io::Result<[u8; N]> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or_else(short)
}

fn code(bytes: &[u8], at: usize) -> io::Result<i16> {
    number(bytes, at).map(i16::from_be_bytes)
}

impl Client {
    pub(super) fn connect(port: u16) -> io::Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_nodelay(true)?;
        // a freeze of the machine is no hang of the server
        socket.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self { socket })
    }

    fn ask(&mut self, api: i16, version: i16, body: &Fields) -> io::Result<Vec<u8>> {
        let header = Fields::default().i16(api).i16(version).i32(1).text("sim");
        let len = header.0.len() + body.0.len();
        let mut frame = Fields::default().i32(i32::try_from(len).map_err(io::Error::other)?).0;
        frame.extend_from_slice(&header.0);
        frame.extend_from_slice(&body.0);
        self.socket.write_all(&frame)?;
        let mut len = [0; 4];
        self.socket.read_exact(&mut len)?;
        let mut answer = vec![0; usize::try_from(i32::from_be_bytes(len)).map_err(io::Error::other)?];
        self.socket.read_exact(&mut answer)?;
        answer.drain(..4.min(answer.len())); // the correlation id
        Ok(answer)
    }

    /// Makes a topic of two partitions, durable with the acknowledgement. The error code.
    pub(super) fn create(&mut self, topic: &str) -> io::Result<i16> {
        let topics = Fields::default().i32(1).text(topic).i32(2).i16(1).i32(0);
        let configs = topics.i32(1).text("flush.messages").text("1").i32(30_000);
        let mut body = configs;
        body.0.push(0);
        let answer = self.ask(19, 2, &body)?;
        // throttle time, count, name, code
        let name = usize::try_from(code(&answer, 8)?).map_err(io::Error::other)?;
        code(&answer, 10 + name)
    }

    /// A producer id; the error code.
    pub(super) fn producer(&mut self) -> io::Result<Result<i64, i16>> {
        let answer = self.ask(22, 0, &Fields::default().i16(-1).i32(60_000))?;
        let failed = code(&answer, 4)?;
        if failed != 0 {
            return Ok(Err(failed));
        }
        Ok(Ok(i64::from_be_bytes(number(&answer, 6)?)))
    }

    /// Offset of the batch, or the error code.
    pub(super) fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        batch: &Batch,
    ) -> io::Result<Result<i64, i16>> {
        let body = Fields::default().i16(-1).i16(-1).i32(30_000).i32(1).text(topic).i32(1).i32(partition);
        let answer = self.ask(0, 3, &body.bytes(batch.bytes()))?;
        // count, name, count, index, code, offset
        let at = 4 + 2 + topic.len() + 4 + 4;
        match code(&answer, at)? {
            0 => Ok(Ok(i64::from_be_bytes(number(&answer, at + 2)?))),
            failed => Ok(Err(failed)),
        }
    }

    /// Bytes of records from `offset` on, or the error code.
    pub(super) fn fetch(&mut self, topic: &str, partition: i32, offset: i64) -> io::Result<Result<i32, i16>> {
        let mut head = Fields::default().i32(-1).i32(0).i32(0).i32(1 << 20);
        head.0.push(0);
        let body = head.i32(1).text(topic).i32(1).i32(partition).i64(offset).i32(1 << 20);
        let answer = self.ask(1, 4, &body)?;
        // throttle time, count, name, count, index, code, high watermark, stable, aborted (null), bytes
        let at = 4 + 4 + 2 + topic.len() + 4 + 4;
        match code(&answer, at)? {
            0 => Ok(Ok(i32::from_be_bytes(number(&answer, at + 2 + 8 + 8 + 4)?))),
            failed => Ok(Err(failed)),
        }
    }
}
