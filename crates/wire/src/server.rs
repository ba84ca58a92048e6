//! The accept loop: bounded connections, one task each, a clean stop.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::connection::{self, ConnectionError};
use crate::{Listener, Peer, Reply, Request};

/// What a stranger may cost.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest frame, bytes (Kafka's `socket.request.max.bytes`).
    pub frame_bytes_max: usize,
    /// Connections at the same time; one more is closed at once.
    pub connections_max: usize,
    /// A connection without a request for so long is closed (Kafka's `connections.max.idle.ms`).
    pub idle: Duration,
    /// An answer not taken for so long closes the connection.
    pub write_stall: Duration,
    /// Largest frame before the client has logged in, bytes.
    pub login_frame_bytes_max: usize,
    /// Time a client has from its connection to its login, TLS included.
    pub login: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes_max: 100 << 20,
            connections_max: 20_000,
            idle: Duration::from_secs(600),
            write_stall: Duration::from_secs(60),
            login_frame_bytes_max: 64 << 10,
            login: Duration::from_secs(10),
        }
    }
}

/// What a handler answers, and what happens to the connection after it.
#[derive(Debug)]
pub struct Answer {
    /// The answer.
    pub reply: Reply,
    /// Nothing more is read from the client for so long: it is over its quota (KIP-219).
    pub mute: Duration,
    /// The connection is closed after the answer: the login failed.
    pub last: bool,
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self { reply, mute: Duration::ZERO, last: false }
    }
}

/// What requests mean.
pub trait Handler: Send + Sync + 'static {
    /// What the handler keeps of one connection.
    type Session: Send + 'static;
    /// A client has connected.
    fn connect(&self, peer: &Peer) -> Self::Session;
    /// Whether the client may use every API and frames of every size: it has logged in, or need not.
    fn is_admitted(&self, session: &Self::Session) -> bool;
    /// Whether the next frame is no request but a message of a login, as it was before SaslAuthenticate (KIP-152).
    fn expects_token(&self, session: &Self::Session) -> bool;
    /// Answers such a message, also by such a message; `None`: the connection is closed.
    fn handle_token(
        &self,
        peer: &Arc<Peer>,
        session: &mut Self::Session,
        token: Bytes,
    ) -> impl Future<Output = Option<Bytes>> + Send;
    /// Answers one request. Requests of one connection come one after another; of different ones, at the same time.
    fn handle(
        &self,
        peer: &Arc<Peer>,
        session: &mut Self::Session,
        request: Request,
    ) -> impl Future<Output = Answer> + Send;
}

/// Serves `socket`, as `listener` says, until `shutdown` turns true (or its sender is gone); then closes every connection.
///
/// # Errors
/// Only if the listener itself has no address; a failed accept is logged and retried.
pub async fn serve<H: Handler>(
    socket: TcpListener,
    listener: Arc<Listener>,
    handler: Arc<H>,
    limits: Limits,
    mut shutdown: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let address = socket.local_addr()?;
    let permits = Arc::new(Semaphore::new(limits.connections_max));
    let ids = AtomicU64::new(0);
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            changed = shutdown.changed() => {
                if changed.is_err() || *shutdown.borrow() { break }
                continue;
            }
            Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%address, %error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            tracing::warn!(%address, limit = limits.connections_max, "connection refused: at the limit");
            continue;
        };
        let id = ids.fetch_add(1, Ordering::Relaxed);
        let local = stream.local_addr().unwrap_or(address);
        let peer = Peer { id, remote, local, listener: Arc::clone(&listener), subject: None };
        let (handler, limits) = (Arc::clone(&handler), limits.clone());
        tasks.spawn(async move {
            let _permit = permit;
            match admit(stream, peer, handler, limits).await {
                Ok(()) => {}
                Err(ConnectionError::Io(error)) => tracing::debug!(%remote, %error, "connection lost"),
                Err(error) => tracing::warn!(%remote, %error, "connection closed"),
            }
        });
    }
    tasks.shutdown().await;
    Ok(())
}

/// Greets the client over TLS if the listener speaks it, then serves it.
async fn admit<H: Handler>(
    stream: TcpStream,
    mut peer: Peer,
    handler: Arc<H>,
    limits: Limits,
) -> Result<(), ConnectionError> {
    let login_until = Instant::now() + limits.login;
    stream.set_nodelay(true)?;
    let listener = Arc::clone(&peer.listener);
    let Some(tls) = &listener.tls else {
        return connection::run(stream, Arc::new(peer), handler, limits, login_until).await;
    };
    let greeted = tokio::time::timeout_at(login_until, tls.accept(stream)).await;
    let (stream, subject) =
        greeted.map_err(|_| ConnectionError::LoginTimeout(limits.login))?.map_err(ConnectionError::Tls)?;
    peer.subject = subject;
    connection::run(stream, Arc::new(peer), handler, limits, login_until).await
}
