//! A relay in front of a RESP cache that makes trouble by dice: it is gone for a while, cuts connections in the middle of a reply, holds
//! replies back (now and then for longer than anybody waits), and answers commands itself with errors. It never changes a value.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use herdsman_host::Seed;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

use crate::embedded::request::Request;
use crate::protocol::reply;

const ERRORS: [&str; 5] = [
    "-LOADING Redis is loading the dataset in memory\r\n",
    "-OOM command not allowed when used memory > 'maxmemory'.\r\n",
    "-MOVED 3999 127.0.0.1:6381\r\n",
    "-BUSY Redis is busy running a script.\r\n",
    "-READONLY You can't write against a read only replica.\r\n",
];

/// What it did.
#[derive(Debug, Default)]
pub(super) struct Deeds {
    pub(super) outages: AtomicU64,
    pub(super) cuts: AtomicU64,
    pub(super) delays: AtomicU64,
    pub(super) silences: AtomicU64,
    pub(super) errors: AtomicU64,
}

/// A running relay; dropping it stops it.
pub(super) struct Trouble {
    pub(super) addr: SocketAddr,
    pub(super) deeds: Arc<Deeds>,
    /// No trouble from now on.
    pub(super) calm: Arc<AtomicBool>,
    _stop: oneshot::Sender<()>,
}

impl Trouble {
    pub(super) fn start(upstream: SocketAddr, seed: u64) -> std::io::Result<Self> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let (deeds, calm) = (Arc::new(Deeds::default()), Arc::new(AtomicBool::new(false)));
        let relay = Relay {
            upstream,
            deeds: Arc::clone(&deeds),
            calm: Arc::clone(&calm),
            outage: watch::channel(false).1,
        };
        std::thread::Builder::new().name("bench-trouble".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    result = accept(listener, relay, seed) => if let Err(error) = result {
                        tracing::error!("the relay that makes trouble has failed: {error}");
                    }
                }
            });
        })?;
        Ok(Self { addr, deeds, calm, _stop: stop })
    }
}

#[derive(Clone)]
struct Relay {
    upstream: SocketAddr,
    deeds: Arc<Deeds>,
    calm: Arc<AtomicBool>,
    outage: watch::Receiver<bool>,
}

async fn accept(listener: std::net::TcpListener, mut relay: Relay, seed: u64) -> std::io::Result<()> {
    let (listener, mut random) = (TcpListener::from_std(listener)?, Seed::new(seed));
    let (outage, outages) = watch::channel(false);
    relay.outage = outages;
    tokio::spawn(fail_now_and_then(outage, relay.clone(), Seed::new(random.next_u64())));
    loop {
        let (client, _) = listener.accept().await?;
        client.set_nodelay(true)?;
        if *relay.outage.borrow() {
            continue; // closed at once
        }
        let (relay, seed) = (relay.clone(), Seed::new(random.next_u64()));
        let mut outage = relay.outage.clone();
        tokio::spawn(async move {
            // Whatever ends it, both ends are closed.
            tokio::select! {
                _ = serve(client, relay, seed) => {}
                _ = outage.wait_for(|gone| *gone) => {}
            }
        });
    }
}

/// Every few seconds it is gone for up to half a second.
async fn fail_now_and_then(outage: watch::Sender<bool>, relay: Relay, mut random: Seed) {
    loop {
        tokio::time::sleep(Duration::from_millis(500 + random.next_u64() % 3_000)).await;
        if relay.calm.load(Relaxed) {
            continue;
        }
        relay.deeds.outages.fetch_add(1, Relaxed);
        outage.send_replace(true);
        tokio::time::sleep(Duration::from_millis(20 + random.next_u64() % 480)).await;
        outage.send_replace(false);
    }
}

/// A command at a time, so that an error takes the place of the reply that it stands for.
async fn serve(mut client: TcpStream, relay: Relay, mut random: Seed) -> std::io::Result<()> {
    let mut server = TcpStream::connect(relay.upstream).await?;
    server.set_nodelay(true)?;
    let (mut bytes, mut request, mut out) = (BytesMut::new(), Request::default(), BytesMut::new());
    loop {
        while let Some(used) = request.parse(&bytes).map_err(std::io::Error::other)? {
            let words = request.words(&bytes);
            let handshake = !matches!(words.first(), Some(&b"MGET" | &b"SET" | &b"DEL" | &b"EVAL"));
            let tracking = words.get(1) == Some(&b"TRACKING".as_slice());
            let command: Bytes = bytes.split_to(used).freeze();
            let dice = random.next_u64() % 10_000;
            out.clear();
            if tracking {
                // News of changes would come between the replies.
                out.extend_from_slice(b"-ERR unknown subcommand 'TRACKING'\r\n");
            } else if relay.calm.load(Relaxed) {
                server.write_all(&command).await?;
                reply::copy(&mut server, 1, &mut out).await?;
            } else {
                let error = dice < if handshake { 300 } else { 60 };
                if error {
                    relay.deeds.errors.fetch_add(1, Relaxed);
                    let error = ERRORS[usize::try_from(random.next_u64() % 5).unwrap_or(0)];
                    out.extend_from_slice(error.as_bytes());
                } else {
                    server.write_all(&command).await?;
                    reply::copy(&mut server, 1, &mut out).await?;
                }
                match dice {
                    9_900.. => {
                        relay.deeds.delays.fetch_add(1, Relaxed);
                        tokio::time::sleep(Duration::from_millis(1 + random.next_u64() % 60)).await;
                    }
                    9_898..9_900 => {
                        relay.deeds.silences.fetch_add(1, Relaxed);
                        tokio::time::sleep(Duration::from_secs(3)).await;
                    }
                    9_860..9_898 => {
                        relay.deeds.cuts.fetch_add(1, Relaxed);
                        let some = usize::try_from(random.next_u64()).unwrap_or(0) % out.len().max(1);
                        client.write_all(out.get(..some).unwrap_or_default()).await?;
                        return Ok(());
                    }
                    _ => {}
                }
            }
            client.write_all(&out).await?;
        }
        bytes.reserve(16 * 1024);
        if client.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
}
