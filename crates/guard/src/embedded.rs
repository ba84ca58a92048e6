//! A cache server in the binary: RESP2 over TCP, one thread, bounded memory. It stands in for the legacy cache when none is there.
//!
//! It speaks enough for redis-cli and client libraries that use strings with expiry: GET MGET SET (EX PX EXAT PXAT NX XX KEEPTTL
//! GET) SETNX SETEX PSETEX MSET GETDEL GETSET STRLEN APPEND INCR INCRBY DECR DECRBY DEL UNLINK EXISTS TYPE EXPIRE PEXPIRE TTL PTTL
//! PERSIST DBSIZE FLUSHDB FLUSHALL SELECT PING ECHO TIME INFO HELLO 2 CLIENT COMMAND CONFIG GET QUIT. Anything else is refused by
//! name. Memory above the bound is taken back by CLOCK (an approximation of least recently used).

mod commands;
mod leases;
pub(crate) mod request;
mod store;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;

use bytes::BytesMut;
use herdsman_host::{Clock, RealClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::LocalSet;

use commands::Session;
use request::Request;
use store::Store;

/// Replies are written out when this much has gathered, so that a slow reader costs no more.
const REPLY_MAX: usize = 256 * 1024;

/// What an embedded cache needs to know.
#[derive(Clone)]
pub struct CacheConfig {
    /// Keys, values and bookkeeping may take this many bytes.
    pub memory_max: usize,
    /// Connections at once; more are told so and closed.
    pub clients_max: usize,
    /// What expiry goes by.
    pub clock: Arc<dyn Clock>,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { memory_max: 256 << 20, clients_max: 10_000, clock: RealClock::shared() }
    }
}

impl std::fmt::Debug for CacheConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CacheConfig").field("memory_max", &self.memory_max).finish_non_exhaustive()
    }
}

/// What the server has done.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) commands: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) evicted: AtomicU64,
}

/// A running server; dropping it stops it.
#[derive(Debug)]
pub struct CacheServer {
    addr: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    counts: Arc<Counts>,
}

impl CacheServer {
    /// Binds `addr` (port 0: any free one) and serves on a thread of its own, named `cache`.
    ///
    /// # Errors
    /// When the address cannot be bound or the thread cannot be started.
    pub fn start(addr: SocketAddr, config: CacheConfig) -> std::io::Result<Self> {
        let listener = std::net::TcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = watch::channel(false);
        let counts = Arc::new(Counts::default());
        let shared = Arc::clone(&counts);
        let thread = std::thread::Builder::new().name("cache".into()).spawn(move || {
            let local = LocalSet::new();
            local.block_on(&runtime, serve(listener, config, shared, stopped));
        })?;
        Ok(Self { addr, stop, thread: Some(thread), counts })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `redis://host:port` of this server.
    #[must_use]
    pub fn url(&self) -> crate::CacheUrl {
        crate::CacheUrl::redis(self.addr)
    }

    /// Commands answered since the start.
    #[must_use]
    pub fn commands(&self) -> u64 {
        self.counts.commands.load(Relaxed)
    }
}

impl Drop for CacheServer {
    fn drop(&mut self) {
        // The thread listens for this; if it is gone already there is nothing to stop.
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the embedded cache's thread had panicked");
        }
    }
}

async fn serve(
    listener: std::net::TcpListener,
    config: CacheConfig,
    counts: Arc<Counts>,
    mut stopped: watch::Receiver<bool>,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("the embedded cache cannot listen: {error}"),
    };
    let store =
        Rc::new(RefCell::new(Store::new(config.memory_max, Arc::clone(&config.clock), Arc::clone(&counts))));
    let clients = Rc::new(());
    loop {
        let accepted = tokio::select! {
            _ = stopped.changed() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((mut stream, _)) = accepted else {
            // Out of file descriptors, most likely: give some client the time to leave.
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        };
        counts.connections.fetch_add(1, Relaxed);
        if Rc::strong_count(&clients) > config.clients_max {
            drop(stream.try_write(b"-ERR max number of clients reached\r\n"));
            continue;
        }
        let (store, client) = (Rc::clone(&store), Rc::clone(&clients));
        tokio::task::spawn_local(async move {
            // A client that breaks off is no event worth reporting.
            let _ = talk(&mut stream, &store).await;
            drop(client);
        });
    }
}

async fn talk(stream: &mut TcpStream, store: &RefCell<Store>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut session = Session::default();
    let (mut bytes, mut out) = (BytesMut::with_capacity(16 * 1024), BytesMut::with_capacity(16 * 1024));
    let mut request = Request::default();
    loop {
        bytes.reserve(16 * 1024);
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
        store.borrow_mut().read_clock();
        loop {
            match request.parse(&bytes) {
                Ok(Some(used)) => {
                    let words = request.words(&bytes);
                    commands::run(&words, &mut session, &mut store.borrow_mut(), &mut out);
                    let _ = bytes.split_to(used);
                }
                Ok(None) => break,
                Err(error) => {
                    out.extend_from_slice(format!("-ERR Protocol error: {error}\r\n").as_bytes());
                    session.quit = true;
                }
            }
            if session.quit {
                stream.write_all(&out).await?;
                return stream.shutdown().await;
            }
            if out.len() > REPLY_MAX {
                stream.write_all(&out).await?;
                out = BytesMut::with_capacity(16 * 1024);
                store.borrow_mut().read_clock();
            }
        }
        stream.write_all(&out).await?;
        out.clear();
    }
}
