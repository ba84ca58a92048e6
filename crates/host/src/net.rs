//! Streams: connect and listen, over TCP or, in a simulation, over pipes in memory that can be cut.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc;

use crate::Seed;

/// A byte stream in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A boxed future of this module.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// A network, or a simulation of one.
pub trait Net: Send + Sync + 'static {
    /// Listens on `address` (`host:port`; port 0 picks a free one).
    fn listen<'a>(&'a self, address: &'a str) -> Pending<'a, Box<dyn Listener>>;
    /// Connects to `address`.
    fn connect<'a>(&'a self, address: &'a str) -> Pending<'a, Box<dyn Stream>>;
}

/// Accepts connections.
pub trait Listener: Send {
    /// The next connection.
    fn accept(&mut self) -> Pending<'_, Box<dyn Stream>>;
    /// Where it listens.
    fn address(&self) -> String;
}

/// TCP.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealNet;

impl Net for RealNet {
    fn listen<'a>(&'a self, address: &'a str) -> Pending<'a, Box<dyn Listener>> {
        Box::pin(async move {
            let listener = tokio::net::TcpListener::bind(address).await?;
            Ok(Box::new(RealListener(listener)) as Box<dyn Listener>)
        })
    }

    fn connect<'a>(&'a self, address: &'a str) -> Pending<'a, Box<dyn Stream>> {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

struct RealListener(tokio::net::TcpListener);

impl Listener for RealListener {
    fn accept(&mut self) -> Pending<'_, Box<dyn Stream>> {
        Box::pin(async {
            let (stream, _) = self.0.accept().await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }

    fn address(&self) -> String {
        self.0.local_addr().map(|address| address.to_string()).unwrap_or_default()
    }
}

/// Bytes a simulated pipe holds before its writer waits.
const PIPE_BYTES: usize = 64 << 10;
/// Connections waiting to be accepted.
const BACKLOG: usize = 128;

/// Pipes in memory. A connection may be cut after a number of bytes chosen by the seed.
#[derive(Clone)]
pub struct SimNet {
    state: Arc<Mutex<SimState>>,
}

struct SimState {
    listeners: HashMap<String, mpsc::Sender<DuplexStream>>,
    seed: Seed,
    cut_below: Option<u64>,
    next_port: u16,
}

impl SimNet {
    /// A network that never fails until told to.
    #[must_use]
    pub fn new(seed: &Seed) -> Self {
        let state = SimState {
            listeners: HashMap::new(),
            seed: seed.stream("net"),
            cut_below: None,
            next_port: 40_000,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// From now on each new connection breaks, for its connecting side, after fewer than `bytes` bytes written.
    pub fn cut_connections_below(&self, bytes: Option<u64>) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).cut_below = bytes;
    }
}

impl Net for SimNet {
    fn listen<'a>(&'a self, address: &'a str) -> Pending<'a, Box<dyn Listener>> {
        Box::pin(async move {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let mut address = address.to_owned();
            if let Some(host) = address.strip_suffix(":0") {
                address = format!("{host}:{}", state.next_port);
                state.next_port += 1;
            }
            if state.listeners.get(&address).is_some_and(|present| !present.is_closed()) {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            let (sender, receiver) = mpsc::channel(BACKLOG);
            state.listeners.insert(address.clone(), sender);
            Ok(Box::new(SimListener { address, receiver }) as Box<dyn Listener>)
        })
    }

    fn connect<'a>(&'a self, address: &'a str) -> Pending<'a, Box<dyn Stream>> {
        Box::pin(async move {
            let (sender, left) = {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                let sender = state.listeners.get(address).cloned().ok_or(io::ErrorKind::ConnectionRefused)?;
                let cut = state.cut_below;
                (sender, cut.map(|bytes| state.seed.below(bytes)))
            };
            let (near, far) = tokio::io::duplex(PIPE_BYTES);
            sender.try_send(far).map_err(|_| io::ErrorKind::ConnectionRefused)?;
            Ok(Box::new(Cut { pipe: Some(near), left }) as Box<dyn Stream>)
        })
    }
}

struct SimListener {
    address: String,
    receiver: mpsc::Receiver<DuplexStream>,
}

impl Listener for SimListener {
    fn accept(&mut self) -> Pending<'_, Box<dyn Stream>> {
        Box::pin(async {
            let pipe = self.receiver.recv().await.ok_or(io::ErrorKind::NotConnected)?;
            Ok(Box::new(pipe) as Box<dyn Stream>)
        })
    }

    fn address(&self) -> String {
        self.address.clone()
    }
}

/// A pipe that breaks, in both directions, once `left` bytes were written.
struct Cut {
    pipe: Option<DuplexStream>,
    left: Option<u64>,
}

impl Cut {
    fn pipe(&mut self) -> io::Result<Pin<&mut DuplexStream>> {
        self.pipe.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::ConnectionReset.into())
    }
}

impl AsyncRead for Cut {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut().pipe() {
            Ok(pipe) => pipe.poll_read(cx, buffer),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncWrite for Cut {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let limit = this
            .left
            .map_or(bytes.len(), |left| bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        if limit == 0 && !bytes.is_empty() {
            this.pipe = None;
        }
        let bytes = bytes.get(..limit).unwrap_or_default();
        let written = match this.pipe() {
            Ok(pipe) => pipe.poll_write(cx, bytes),
            Err(error) => Poll::Ready(Err(error)),
        };
        if let (Poll::Ready(Ok(written)), Some(left)) = (&written, &mut this.left) {
            *left = left.saturating_sub(*written as u64);
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut().pipe() {
            Ok(pipe) => pipe.poll_flush(cx),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut().pipe() {
            Ok(pipe) => pipe.poll_shutdown(cx),
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn echo_once(net: &dyn Net) -> String {
        let mut listener = net.listen("127.0.0.1:0").await.unwrap();
        let address = listener.address();
        let (mut client, mut server) = tokio::try_join!(net.connect(&address), listener.accept()).unwrap();
        client.write_all(b"finds").await.unwrap();
        let mut heard = [0; 5];
        server.read_exact(&mut heard).await.unwrap();
        String::from_utf8(heard.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn real_and_simulated_streams_carry_the_same_bytes() {
        assert_eq!(echo_once(&RealNet).await, "finds");
        assert_eq!(echo_once(&SimNet::new(&Seed::new(1))).await, "finds");
    }

    #[tokio::test]
    async fn a_cut_connection_delivers_a_prefix_and_then_ends_on_both_sides() {
        let net = SimNet::new(&Seed::new(3));
        net.cut_connections_below(Some(100));
        let mut listener = net.listen("sim:1").await.unwrap();
        let (mut client, mut server) = tokio::try_join!(net.connect("sim:1"), listener.accept()).unwrap();
        assert!(client.write_all(&[7; 100]).await.is_err());
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.unwrap();
        assert!(heard.len() < 100 && heard.iter().all(|byte| *byte == 7));
        assert!(net.connect("sim:2").await.is_err(), "nobody listens there");
    }
}
