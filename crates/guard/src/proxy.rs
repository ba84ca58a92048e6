//! The sidecar: any Redis client gains the guard's batching by connecting here instead of to the cache.
//!
//! GET and MGET of all clients share the guard's batches (identical ones that wait share a place); every other command goes to the
//! cache unchanged, in order, over a connection of the client's own. What changes the meaning of a connection (AUTH, SELECT of another
//! database, HELLO 3, MULTI, SUBSCRIBE, blocking commands, …) turns it into a plain pipe from then on. An answer was always read from the
//! cache after it was asked for: who has written sees what it wrote.
//!
//! `HERDSMAN EXPLAIN` is answered by the guard itself, with what it has chosen and why, in JSON.
//!
//! MGET says "nothing" to a key of another type where GET says WRONGTYPE, so a GET that finds nothing is asked once more as it stands.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::{Bytes, BytesMut};
use herdsman_host::Clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::config::{GuardConfig, Lane, Objective};
use crate::dialer::{Dialer, Stream};
use crate::embedded::request::Request;
use crate::error::GuardError;
use crate::guard::Guard;
use crate::protocol::{put_array, put_bulk, reply};
use crate::stats::{Explain, GuardStats};
use crate::url::CacheUrl;

/// Commands of one client taken together at most, so that one pipeline does not hold memory without bound.
const GROUP_MAX: usize = 1_024;

/// A running sidecar; dropping it stops it.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    guard: Guard,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens on `addr` for Redis clients of `cache`, holding `objective` (an [`Objective`], or an
    /// `Option<Duration>` as the command line has it).
    ///
    /// # Errors
    /// When the cache speaks no RESP, the address cannot be bound, or a thread cannot be started.
    pub fn start(
        addr: SocketAddr,
        cache: CacheUrl,
        objective: impl Into<Objective>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, GuardError> {
        let failed = |error: std::io::Error| GuardError::Start(format!("proxy on {addr}: {error}"));
        if !matches!(cache, CacheUrl::Redis { .. } | CacheUrl::Sentinel { .. }) {
            return Err(GuardError::Start(format!(
                "the proxy passes commands on to one Redis server, which {cache} is not: pass redis://host:port or \
                 redis+sentinel://host:port/mastername"
            )));
        }
        let dialer = Dialer::new(cache.clone(), false)?;
        let listener = std::net::TcpListener::bind(addr).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let config =
            GuardConfig { cache, objective: objective.into(), near_capacity: 0, ..GuardConfig::default() };
        let guard = Guard::open_without_record(config, clock)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (stop, stopped) = watch::channel(false);
        let shared = guard.clone();
        let thread = std::thread::Builder::new()
            .name("guard-proxy".into())
            .spawn(move || runtime.block_on(serve(listener, dialer, shared, stopped)))
            .map_err(failed)?;
        Ok(Self { addr, guard, stop, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The guard's counters.
    #[must_use]
    pub fn stats(&self) -> GuardStats {
        self.guard.stats()
    }

    /// What the guard does and why.
    #[must_use]
    pub fn explain(&self) -> Explain {
        self.guard.explain()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The thread listens for this; if it is gone already there is nothing to stop.
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the proxy's thread had panicked");
        }
    }
}

/// What the guard of the sidecar at `addr` has chosen and why: the JSON of its [`Explain`] and [`GuardStats`].
///
/// # Errors
/// When nobody listens there, or somebody else.
pub fn explain_at(addr: SocketAddr) -> std::io::Result<String> {
    use std::io::{BufRead, BufReader, Read, Write};
    let mut stream = std::net::TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
    stream.write_all(b"HERDSMAN EXPLAIN\r\n")?;
    let (mut reader, mut header) = (BufReader::new(stream), String::new());
    reader.read_line(&mut header)?;
    let len = header.trim_end().strip_prefix('$').and_then(|len| len.parse::<usize>().ok());
    let Some(len) = len.filter(|len| *len < 1 << 20) else {
        let text = format!("{addr} is no herdsman guard: it says {:?}", header.trim_end());
        return Err(std::io::Error::other(text));
    };
    let mut told = vec![0; len];
    reader.read_exact(&mut told)?;
    String::from_utf8(told).map_err(std::io::Error::other)
}

async fn serve(
    listener: std::net::TcpListener,
    dialer: Dialer,
    guard: Guard,
    mut stopped: watch::Receiver<bool>,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("the proxy cannot listen: {error}"),
    };
    loop {
        let accepted = tokio::select! {
            _ = stopped.changed() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        };
        let client = Client {
            stream,
            upstream: None,
            dialer: dialer.clone(),
            guard: guard.clone(),
            out: BytesMut::new(),
        };
        tokio::spawn(async move {
            if let Err(error) = client.run().await {
                tracing::debug!("a client of the proxy is gone: {error}");
            }
        });
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Get,
    Mget,
    Pass,
    /// The guard tells about itself.
    Explain,
    /// The connection becomes a pipe.
    Pipe,
}

fn kind_of(words: &[&[u8]], database: u32) -> Kind {
    let Some(name) = words.first() else { return Kind::Pass };
    let name = name.to_ascii_uppercase();
    match (name.as_slice(), &words[1..]) {
        (b"GET", [_]) => Kind::Get,
        (b"MGET", [_, ..]) => Kind::Mget,
        (b"HERDSMAN", _) => Kind::Explain,
        (b"SELECT", [db]) if *db == database.to_string().as_bytes() => Kind::Pass,
        (b"HELLO", []) => Kind::Pass,
        (b"HELLO", [version]) if *version == b"2" => Kind::Pass,
        (b"CLIENT", [what, ..]) => match what.to_ascii_uppercase().as_slice() {
            b"SETINFO" | b"SETNAME" | b"GETNAME" | b"ID" | b"INFO" | b"LIST" => Kind::Pass,
            _ => Kind::Pipe,
        },
        (
            b"AUTH" | b"SELECT" | b"HELLO" | b"RESET" | b"QUIT" | b"MONITOR" | b"SYNC" | b"PSYNC" | b"WAIT"
            | b"WAITAOF",
            _,
        )
        | (
            b"MULTI" | b"EXEC" | b"DISCARD" | b"WATCH" | b"UNWATCH" | b"ASKING" | b"READONLY" | b"READWRITE",
            _,
        )
        | (
            b"SUBSCRIBE" | b"PSUBSCRIBE" | b"SSUBSCRIBE" | b"UNSUBSCRIBE" | b"PUNSUBSCRIBE" | b"SUNSUBSCRIBE",
            _,
        )
        | (
            b"BLPOP" | b"BRPOP" | b"BLMOVE" | b"BLMPOP" | b"BRPOPLPUSH" | b"BZPOPMIN" | b"BZPOPMAX"
            | b"BZMPOP",
            _,
        )
        | (b"XREAD" | b"XREADGROUP" | b"SHUTDOWN" | b"DEBUG", _) => Kind::Pipe,
        _ => Kind::Pass,
    }
}

struct Client {
    stream: TcpStream,
    upstream: Option<Stream>,
    dialer: Dialer,
    guard: Guard,
    out: BytesMut,
}

impl Client {
    async fn run(mut self) -> std::io::Result<()> {
        self.stream.set_nodelay(true)?;
        let database = self.dialer.url().login().map_or(0, |login| login.db);
        let (mut bytes, mut request) = (BytesMut::with_capacity(16 * 1024), Request::default());
        loop {
            bytes.reserve(16 * 1024);
            if self.stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
            loop {
                // A run of commands of one kind goes together; the next kind waits for it, so order is kept.
                let mut group = Group::default();
                loop {
                    let used = match request.parse(&bytes) {
                        Ok(Some(used)) => used,
                        Ok(None) => break,
                        Err(error) => {
                            self.answer(&mut group).await?;
                            let text = format!("-ERR Protocol error: {error}\r\n");
                            return self.stream.write_all(text.as_bytes()).await;
                        }
                    };
                    let words = request.words(&bytes);
                    if words.is_empty() {
                        let _ = bytes.split_to(used); // nothing was asked, and Redis answers nothing
                        continue;
                    }
                    let kind = kind_of(&words, database);
                    if kind == Kind::Pipe {
                        self.answer(&mut group).await?;
                        return self.pipe(bytes).await;
                    }
                    if kind == Kind::Explain {
                        self.answer(&mut group).await?;
                        let _ = bytes.split_to(used);
                        self.tell().await?;
                        continue;
                    }
                    let shared = kind != Kind::Pass;
                    if group.len() >= GROUP_MAX || (group.len() > 0 && group.shared != shared) {
                        break;
                    }
                    group.shared = shared;
                    group.add(kind, &words);
                    group.raw.extend_from_slice(&bytes.split_to(used));
                }
                if group.len() == 0 {
                    break;
                }
                self.answer(&mut group).await?;
            }
        }
    }

    async fn tell(&mut self) -> std::io::Result<()> {
        let told = serde_json::json!({ "explain": self.guard.explain(), "stats": self.guard.stats() });
        put_bulk(&mut self.out, told.to_string().as_bytes());
        self.stream.write_all(&self.out).await?;
        self.out.clear();
        Ok(())
    }

    async fn answer(&mut self, group: &mut Group) -> std::io::Result<()> {
        if group.shared {
            self.answer_shared(group).await?;
        } else if group.len() > 0 {
            self.forward(&group.raw, group.len()).await?;
        }
        *group = Group::default();
        self.stream.write_all(&self.out).await?;
        self.out.clear();
        Ok(())
    }

    async fn answer_shared(&mut self, group: &Group) -> std::io::Result<()> {
        let values = match self.guard.get_many_async(&group.keys, Lane::Normal).await {
            Ok(values) => values,
            Err(error) => {
                let line = format!("-ERR herdsman guard: {error}\r\n");
                group.commands.iter().for_each(|_| self.out.extend_from_slice(line.as_bytes()));
                return Ok(());
            }
        };
        let mut values = values.into_iter();
        for (kind, count) in &group.commands {
            if *kind == Kind::Mget {
                put_array(&mut self.out, *count);
                for value in values.by_ref().take(*count) {
                    self.put(value.as_ref());
                }
                continue;
            }
            match values.next().flatten() {
                Some(value) => put_bulk(&mut self.out, &value),
                None => {
                    // Nothing, or a value of another type: the cache itself says which.
                    let at = group.keys.len() - values.len() - 1;
                    let mut raw = BytesMut::new();
                    put_array(&mut raw, 2);
                    put_bulk(&mut raw, b"GET");
                    put_bulk(&mut raw, group.keys.get(at).map_or(b"".as_slice(), |key| key));
                    self.forward(&raw, 1).await?;
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, value: Option<&Bytes>) {
        match value {
            Some(value) => put_bulk(&mut self.out, value),
            None => self.out.extend_from_slice(b"$-1\r\n"),
        }
    }

    async fn upstream(&mut self) -> std::io::Result<&mut Stream> {
        if self.upstream.is_none() {
            let opened = self.dialer.open_one().await.map_err(std::io::Error::other);
            self.upstream = Some(opened?.0);
        }
        self.upstream.as_mut().ok_or_else(|| std::io::Error::other("no connection to the cache"))
    }

    /// Sends commands as they stand and copies their replies as they come.
    async fn forward(&mut self, raw: &[u8], replies: usize) -> std::io::Result<()> {
        let place = self.dialer.url().place();
        if let Err(error) = self.upstream().await {
            let line = format!("-ERR herdsman guard: cache {place}: {error}\r\n");
            (0..replies).for_each(|_| self.out.extend_from_slice(line.as_bytes()));
            return Ok(());
        }
        let Some(upstream) = &mut self.upstream else { return Ok(()) };
        let (mut reader, mut writer) = tokio::io::split(upstream);
        // Both at once: a cache that answers before it has read everything must not wait for us.
        let (sent, received) =
            tokio::join!(writer.write_all(raw), reply::copy(&mut reader, replies, &mut self.out));
        sent.and(received)
    }

    /// From here on bytes go both ways untouched.
    async fn pipe(mut self, pending: BytesMut) -> std::io::Result<()> {
        if let Err(error) = self.upstream().await {
            let line = format!("-ERR herdsman guard: cache {}: {error}\r\n", self.dialer.url().place());
            return self.stream.write_all(line.as_bytes()).await;
        }
        let Some(upstream) = &mut self.upstream else { return Ok(()) };
        upstream.write_all(&pending).await?;
        copy_bidirectional(&mut self.stream, upstream).await.map(|_| ())
    }
}

/// Commands of one kind, in order.
#[derive(Debug, Default)]
struct Group {
    shared: bool,
    commands: Vec<(Kind, usize)>,
    keys: Vec<Bytes>,
    raw: BytesMut,
}

impl Group {
    fn len(&self) -> usize {
        self.commands.len()
    }

    fn add(&mut self, kind: Kind, words: &[&[u8]]) {
        let keys = words.len().saturating_sub(1);
        if kind != Kind::Pass {
            self.keys.extend(words[1..].iter().map(|key| Bytes::copy_from_slice(key)));
        }
        self.commands.push((kind, keys));
    }
}
