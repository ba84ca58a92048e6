//! A round trip where there is none: a TCP relay on this machine that holds every piece of bytes for half of it in each direction.
//!
//! It stands in for `tc netem`, which not every kernel has. Its error is what a relay costs: reading, a timer and writing, twice;
//! [`Delay::error_ns`] measures it with one small request at a time. Under load it also takes CPU from client and server on the same machine, so
//! only compare what ran behind the same relay.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use herdsman_host::Clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

use crate::timer::Timer;

/// Pieces held back per direction of a connection.
const HELD_MAX: usize = 16_384;

/// A line that takes so long per byte, shared by all connections: it is free again at this time.
#[derive(Debug, Clone)]
struct Line {
    ns_per_byte: f64,
    free_ns: Arc<AtomicU64>,
}

impl Line {
    /// When `bytes` that came at `now_ns` are through.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a time"
    )]
    fn through_ns(&self, bytes: usize, now_ns: u64) -> u64 {
        let takes_ns = (bytes as f64 * self.ns_per_byte) as u64;
        // One thread runs all connections.
        let through_ns = self.free_ns.load(Relaxed).max(now_ns) + takes_ns;
        self.free_ns.store(through_ns, Relaxed);
        through_ns
    }
}

/// A running relay; dropping it stops it.
pub(super) struct Delay {
    pub(super) addr: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Delay {
    /// Before `upstream`, with `rtt` more than there is.
    pub(super) fn start(upstream: SocketAddr, rtt: Duration, clock: Arc<dyn Clock>) -> std::io::Result<Self> {
        Self::narrow(upstream, rtt, 0.0, clock)
    }

    /// As [`Delay::start`], and what comes back takes `ns_per_byte`: the line of a cache that is far and slow.
    pub(super) fn narrow(
        upstream: SocketAddr,
        rtt: Duration,
        ns_per_byte: f64,
        clock: Arc<dyn Clock>,
    ) -> std::io::Result<Self> {
        let back = Line { ns_per_byte, free_ns: Arc::default() };
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let half_ns = u64::try_from(rtt.as_nanos() / 2).unwrap_or(u64::MAX);
        std::thread::Builder::new().name("bench-delay".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    result = accept(listener, upstream, (half_ns, back), clock) => if let Err(error) = result {
                        tracing::error!("the delaying relay has failed: {error}");
                    }
                }
            });
        })?;
        Ok(Self { addr, _stop: stop })
    }

    /// The median over `rounds` of how much longer a small request takes than `rtt`, nanoseconds. `upstream` must answer PING.
    pub(super) fn error_ns(
        &self,
        rtt: Duration,
        rounds: usize,
        clock: &Arc<dyn Clock>,
    ) -> std::io::Result<u64> {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(self.addr)?;
        stream.set_nodelay(true)?;
        let mut trips = Vec::with_capacity(rounds);
        for _ in 0..rounds.max(1) {
            let begin = clock.monotonic_ns();
            stream.write_all(b"PING\r\n")?;
            stream.read_exact(&mut [0; 7])?;
            trips.push(clock.monotonic_ns() - begin);
        }
        trips.sort_unstable();
        let rtt_ns = u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX);
        Ok(trips[trips.len() / 2].saturating_sub(rtt_ns))
    }
}

async fn accept(
    listener: std::net::TcpListener,
    upstream: SocketAddr,
    (half_ns, back): (u64, Line),
    clock: Arc<dyn Clock>,
) -> std::io::Result<()> {
    let there = Line { ns_per_byte: 0.0, free_ns: Arc::default() };
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (client, _) = listener.accept().await?;
        let server = TcpStream::connect(upstream).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
        for (from, to, line) in [(client_in, server_out, &there), (server_in, client_out, &back)] {
            let (held, due) = mpsc::channel(HELD_MAX);
            tokio::spawn(hold(from, held, (half_ns, line.clone()), Arc::clone(&clock)));
            tokio::spawn(release(to, due, Arc::clone(&clock)));
        }
    }
}

type Held = (u64, Vec<u8>);

async fn hold(
    mut from: OwnedReadHalf,
    held: mpsc::Sender<Held>,
    (half_ns, line): (u64, Line),
    clock: Arc<dyn Clock>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let piece = buffer.get(..n).unwrap_or_default().to_vec();
        if held.send((line.through_ns(n, clock.monotonic_ns()) + half_ns, piece)).await.is_err() {
            return;
        }
    }
}

async fn release(mut to: OwnedWriteHalf, mut due: mpsc::Receiver<Held>, clock: Arc<dyn Clock>) {
    let Ok(timer) = Timer::new() else { return };
    while let Some((at_ns, piece)) = due.recv().await {
        let wait_ns = at_ns.saturating_sub(clock.monotonic_ns());
        if wait_ns > 0 {
            timer.sleep(Duration::from_nanos(wait_ns)).await;
        }
        if to.write_all(&piece).await.is_err() {
            return;
        }
    }
}
