//! The accept loop: bounded connections, one task each, a clean stop.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::connection::{self, ConnectionError};
use crate::{Peer, Reply, Request};

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
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes_max: 100 << 20,
            connections_max: 20_000,
            idle: Duration::from_secs(600),
            write_stall: Duration::from_secs(60),
        }
    }
}

/// What requests mean.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. Requests of one connection come one after another; of different ones, at the same time.
    fn handle(&self, peer: Arc<Peer>, request: Request) -> impl Future<Output = Reply> + Send;
}

/// Serves `listener` until `shutdown` turns true (or its sender is gone); then closes every connection.
///
/// # Errors
/// Only if the listener itself has no address; a failed accept is logged and retried.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    handler: Arc<H>,
    limits: Limits,
    mut shutdown: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let address = listener.local_addr()?;
    let permits = Arc::new(Semaphore::new(limits.connections_max));
    let ids = AtomicU64::new(0);
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
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
        let peer = Arc::new(Peer { id, remote, local });
        let (handler, limits) = (Arc::clone(&handler), limits.clone());
        tasks.spawn(async move {
            let _permit = permit;
            match connection::run(stream, peer, handler, limits).await {
                Ok(()) => {}
                Err(ConnectionError::Io(error)) => tracing::debug!(%remote, %error, "connection lost"),
                Err(error) => tracing::warn!(%remote, %error, "connection closed"),
            }
        });
    }
    tasks.shutdown().await;
    Ok(())
}
