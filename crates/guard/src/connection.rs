//! One TCP connection to the cache: opened, authenticated and warmed before it takes work; Nagle off.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::config::CacheUrl;
use crate::core::{Abilities, Command, Event, LinkId};
use crate::driver::{Inbox, Message};
use crate::protocol::{Codec, Memcached, Resp, put_array, put_bulk, reply};

const CONNECT_MAX: Duration = Duration::from_millis(500);
const HANDSHAKE_MAX: Duration = Duration::from_secs(1);
const READ_BUFFER: usize = 64 * 1024;

/// The sending end; reading goes on in its own task until this is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
    flusher: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    stream: TcpStream,
    codec: Mutex<Codec>,
    unsent: Mutex<BytesMut>,
    flush: Notify,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
        self.flusher.abort();
    }
}

impl Connection {
    /// What the server can do.
    pub(crate) fn abilities(&self) -> Abilities {
        self.shared.codec.lock().unwrap_or_else(PoisonError::into_inner).abilities()
    }

    /// Writes at once as much as the socket takes; the rest follows when it can.
    pub(crate) fn send(&self, command: &Command) {
        let mut unsent = self.shared.unsent.lock().unwrap_or_else(PoisonError::into_inner);
        let was_empty = unsent.is_empty();
        self.shared.codec.lock().unwrap_or_else(PoisonError::into_inner).encode(command, &mut unsent);
        if was_empty && let Ok(sent) = self.shared.stream.try_write(&unsent) {
            let _ = unsent.split_to(sent);
        }
        if unsent.is_empty() {
            // Keeps one buffer's allocation, not a burst's.
            if unsent.capacity() < 1 << 20 {
                unsent.reserve(4_096);
            }
        } else {
            self.shared.flush.notify_one();
        }
    }
}

/// Opens a connection in the background and reports `Opened` or `Refused`.
pub(crate) async fn open(url: CacheUrl, tracking: bool, link: LinkId, inbox: Arc<Inbox>) {
    match ready(&url, tracking).await {
        Ok((stream, codec)) => {
            let unsent = Mutex::new(BytesMut::with_capacity(4_096));
            let shared = Arc::new(Shared { stream, codec: Mutex::new(codec), unsent, flush: Notify::new() });
            let reader = tokio::spawn(read(Arc::clone(&shared), link, Arc::clone(&inbox)));
            let flusher = tokio::spawn(flush(Arc::clone(&shared)));
            inbox.push_message(Message::Opened(link, Connection { shared, reader, flusher }));
        }
        Err(error) => inbox.push(Event::Refused { link, error }),
    }
}

/// A connection that has logged in, chosen its database and answered a PING; with `tracking` also asked to tell of changes.
pub(crate) async fn ready(url: &CacheUrl, tracking: bool) -> Result<(TcpStream, Codec), String> {
    let (host, port) = match url {
        CacheUrl::Redis { host, port, .. } | CacheUrl::Memcached { host, port } => (host.as_str(), *port),
        CacheUrl::Embedded => return Err("the embedded cache has no address yet".into()),
    };
    let connecting = timeout(CONNECT_MAX, TcpStream::connect((host, port))).await;
    let mut stream = match connecting {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("no connection within 500 ms".into()),
    };
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let codec = match timeout(HANDSHAKE_MAX, handshake(url, tracking, &mut stream)).await {
        Ok(done) => done?,
        Err(_) => return Err("no answer to the handshake within 1 s".into()),
    };
    Ok((stream, codec))
}

/// AUTH, SELECT and a PING: a connection that joins has already answered.
async fn handshake(url: &CacheUrl, tracking: bool, stream: &mut TcpStream) -> Result<Codec, String> {
    match url {
        CacheUrl::Redis { db, user, password, .. } => {
            if let Some(password) = password {
                let login = [b"AUTH".as_slice(), user.as_bytes(), password.expose().as_bytes()];
                let words: Vec<&[u8]> = login.into_iter().filter(|word| !word.is_empty()).collect();
                expect(stream, &words, "+OK").await?;
            }
            if *db != 0 {
                expect(stream, &[b"SELECT", db.to_string().as_bytes()], "+OK").await?;
            }
            expect(stream, &[b"PING"], "+PONG").await?;
            let tracking = tracking && track(stream).await?;
            Ok(Codec::Resp(Resp::new(tracking)))
        }
        _ => {
            stream.write_all(b"version\r\n").await.map_err(|error| error.to_string())?;
            let line = line(stream).await?;
            let Some(version) = line.strip_prefix("VERSION ") else {
                return Err(format!("no memcached there: it says {line:?} to version"));
            };
            Ok(Codec::Memcached(Memcached::of_version(version)))
        }
    }
}

/// Asks for RESP3 and to be told of changes to what this connection reads (Redis 6, client side caching); says whether the server does it.
/// What this connection changes itself is not told.
async fn track(stream: &mut TcpStream) -> Result<bool, String> {
    for words in [&[&b"HELLO"[..], b"3"][..], &[b"CLIENT", b"TRACKING", b"ON", b"NOLOOP"]] {
        let mut bytes = BytesMut::new();
        put_array(&mut bytes, words.len());
        words.iter().for_each(|word| put_bulk(&mut bytes, word));
        stream.write_all(&bytes).await.map_err(|error| error.to_string())?;
        bytes.clear();
        reply::copy(stream, 1, &mut bytes).await.map_err(|error| error.to_string())?;
        if bytes.starts_with(b"-") {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn expect(stream: &mut TcpStream, words: &[&[u8]], wanted: &str) -> Result<(), String> {
    let mut out = BytesMut::new();
    put_array(&mut out, words.len());
    words.iter().for_each(|word| put_bulk(&mut out, word));
    stream.write_all(&out).await.map_err(|error| error.to_string())?;
    let line = line(stream).await?;
    let name = String::from_utf8_lossy(words.first().copied().unwrap_or_default()).into_owned();
    if line == wanted { Ok(()) } else { Err(format!("it says {line:?} to {name}")) }
}

async fn line(stream: &mut TcpStream) -> Result<String, String> {
    let mut line = Vec::new();
    loop {
        let byte = stream.read_u8().await.map_err(|error| error.to_string())?;
        match byte {
            b'\n' => return Ok(String::from_utf8_lossy(&line).trim_end().to_owned()),
            _ if line.len() >= 512 => return Err("an endless line in the handshake".into()),
            byte => line.push(byte),
        }
    }
}

async fn read(shared: Arc<Shared>, link: LinkId, inbox: Arc<Inbox>) {
    let error = read_until_end(&shared, link, &inbox).await;
    inbox.push(Event::Down { link, error });
}

async fn read_until_end(shared: &Shared, link: LinkId, inbox: &Inbox) -> String {
    let mut bytes = BytesMut::with_capacity(READ_BUFFER);
    loop {
        if let Err(error) = shared.stream.readable().await {
            return error.to_string();
        }
        bytes.reserve(READ_BUFFER / 2);
        match shared.stream.try_read_buf(&mut bytes) {
            Ok(0) => return "the cache closed the connection".into(),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return error.to_string(),
        }
        let mut answers = Vec::new();
        let decoded =
            shared.codec.lock().unwrap_or_else(PoisonError::into_inner).decode(&mut bytes, &mut answers);
        if !answers.is_empty() {
            inbox.push(Event::Answers { link, answers });
        }
        if let Err(violation) = decoded {
            return format!("bytes that answer nothing: {}", violation.0);
        }
    }
}

async fn flush(shared: Arc<Shared>) {
    loop {
        shared.flush.notified().await;
        loop {
            if shared.stream.writable().await.is_err() {
                return; // the reader reports it
            }
            let mut unsent = shared.unsent.lock().unwrap_or_else(PoisonError::into_inner);
            if unsent.is_empty() {
                break;
            }
            match shared.stream.try_write(&unsent) {
                Ok(sent) => {
                    let _ = unsent.split_to(sent);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}
