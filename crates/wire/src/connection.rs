//! One client's connection: frames in, answers out, one request at a time as Kafka does.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::request::{self, Reply, Request, RequestError};
use crate::{Handler, Limits};

/// Bytes asked of the socket at first; a frame's buffer then grows with the bytes that have arrived.
const READ_LEN: usize = 64 * 1024;

/// Who is at the other end.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Number of the connection since the server began.
    pub id: u64,
    /// The client's address.
    pub remote: SocketAddr,
    /// The address the client reached us at.
    pub local: SocketAddr,
}

/// Why a connection ended other than by the client's leave.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// A frame whose announced length is negative or over the limit.
    #[error("frame of {announced} bytes announced, {limit} allowed")]
    FrameLength {
        /// What the client announced.
        announced: i64,
        /// [`Limits::frame_bytes_max`].
        limit: usize,
    },
    /// Bytes that are no request.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The answer could not be encoded.
    #[error("{0}")]
    Encode(String),
    /// The client did not read its answers in time.
    #[error("answer not taken within {0:?}")]
    WriteStalled(std::time::Duration),
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Serves one connection until the client leaves, errs, or idles too long.
pub(crate) async fn run<H: Handler>(
    mut stream: TcpStream,
    peer: Arc<Peer>,
    handler: Arc<H>,
    limits: Limits,
) -> Result<(), ConnectionError> {
    stream.set_nodelay(true)?;
    let mut buffer = BytesMut::new();
    loop {
        let Ok(frame) =
            tokio::time::timeout(limits.idle, read_frame(&mut stream, &mut buffer, &limits)).await
        else {
            return Ok(());
        };
        let Some(frame) = frame? else { return Ok(()) };
        let out = match Request::decode(frame) {
            Ok(request) => {
                let (head, api) = (request.head.clone(), request.api);
                let reply = handler.handle(Arc::clone(&peer), request).await;
                if matches!(reply, Reply::Close) {
                    return Ok(());
                }
                reply.encode(api, &head).map_err(ConnectionError::Encode)?
            }
            Err(RequestError::Unsupported { head }) => {
                tracing::debug!(peer = %peer.remote, api = head.api_key, version = head.api_version, "unserved API");
                Some(request::refusal(&head))
            }
            Err(error) => return Err(error.into()),
        };
        let Some(mut out) = out else { continue };
        if !out.seal() {
            return Err(ConnectionError::Encode("answer longer than 2 GiB".to_owned()));
        }
        tokio::time::timeout(limits.write_stall, out.write_to(&mut stream))
            .await
            .map_err(|_| ConnectionError::WriteStalled(limits.write_stall))??;
    }
}

/// The next frame, its length taken off; `None` when the client has left between frames.
async fn read_frame(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    limits: &Limits,
) -> Result<Option<Bytes>, ConnectionError> {
    loop {
        if let Some(prefix) = buffer.first_chunk::<4>() {
            let announced = i32::from_be_bytes(*prefix);
            let len = usize::try_from(announced).ok().filter(|len| *len <= limits.frame_bytes_max);
            let Some(len) = len else {
                let announced = i64::from(announced);
                return Err(ConnectionError::FrameLength { announced, limit: limits.frame_bytes_max });
            };
            if buffer.len() >= len + 4 {
                buffer.advance(4);
                return Ok(Some(buffer.split_to(len).freeze()));
            }
            let missing = len + 4 - buffer.len();
            buffer.reserve(missing.min(buffer.len().max(READ_LEN)));
        } else {
            buffer.reserve(READ_LEN.min(4096));
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}
