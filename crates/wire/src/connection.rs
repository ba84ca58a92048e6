//! One client's connection: frames in, answers out, one request at a time as Kafka does.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use crate::request::{self, Reply, Request, RequestError};
use crate::{Answer, Chunks, Handler, Limits, Listener};

/// Bytes asked of the socket at first; a frame's buffer then grows with the bytes that have arrived.
const READ_LEN: usize = 64 * 1024;
/// What a client may ask before it has logged in.
const LOGIN_APIS: [i16; 3] =
    [ApiKey::SaslHandshake as i16, ApiKey::ApiVersions as i16, ApiKey::SaslAuthenticate as i16];

/// Who is at the other end.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Number of the connection since the server began.
    pub id: u64,
    /// The client's address.
    pub remote: SocketAddr,
    /// The address the client reached us at.
    pub local: SocketAddr,
    /// The listener it came through.
    pub listener: Arc<Listener>,
    /// The name in its certificate, if it showed one: `CN=ana,O=Hunt`.
    pub subject: Option<String>,
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
    /// No TLS: plain text, an unknown authority, no certificate.
    #[error("TLS handshake failed: {0}")]
    Tls(#[source] std::io::Error),
    /// A request that only clients who have logged in may send.
    #[error("API {0} before login: this listener wants SASL first")]
    BeforeLogin(i16),
    /// No login in time.
    #[error("no login within {0:?}")]
    LoginTimeout(std::time::Duration),
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Serves one connection until the client leaves, errs, or idles too long.
pub(crate) async fn run<S: AsyncRead + AsyncWrite + Unpin, H: Handler>(
    mut stream: S,
    peer: Arc<Peer>,
    handler: Arc<H>,
    limits: Limits,
    login_until: Instant,
) -> Result<(), ConnectionError> {
    let mut buffer = BytesMut::new();
    let mut session = handler.connect(&peer);
    loop {
        let frame = if handler.is_admitted(&session) {
            let next = read_frame(&mut stream, &mut buffer, limits.frame_bytes_max);
            let Ok(frame) = tokio::time::timeout(limits.idle, next).await else { return Ok(()) };
            frame?
        } else {
            let next = read_frame(&mut stream, &mut buffer, limits.login_frame_bytes_max);
            let frame = tokio::time::timeout_at(login_until, next).await;
            let frame = frame.map_err(|_| ConnectionError::LoginTimeout(limits.login))??;
            if let (Some(token), true) = (&frame, handler.expects_token(&session)) {
                let answer = handler.handle_token(&peer, &mut session, token.clone()).await;
                let Some(answer) = answer else { return Ok(()) };
                let mut out = Chunks::new();
                out.put_bytes(answer);
                out.seal();
                write(&mut stream, out, &limits).await?;
                continue;
            }
            may_ask(frame.as_ref())?;
            frame
        };
        let Some(frame) = frame else { return Ok(()) };
        let (out, mute, last) = match Request::decode(frame) {
            Ok(request) => {
                let (head, api) = (request.head.clone(), request.api);
                let Answer { reply, mute, last } = handler.handle(&peer, &mut session, request).await;
                if matches!(reply, Reply::Close) {
                    return Ok(());
                }
                (reply.encode(api, &head).map_err(ConnectionError::Encode)?, mute, last)
            }
            Err(RequestError::Unsupported { head }) => {
                tracing::debug!(peer = %peer.remote, api = head.api_key, version = head.api_version, "unserved API");
                (Some(request::refusal(&head)), std::time::Duration::ZERO, false)
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(mut out) = out {
            if !out.seal() {
                return Err(ConnectionError::Encode("answer longer than 2 GiB".to_owned()));
            }
            write(&mut stream, out, &limits).await?;
        }
        if last {
            let _ = tokio::time::timeout(limits.write_stall, stream.shutdown()).await;
            return Ok(());
        }
        if !mute.is_zero() {
            tokio::time::sleep(mute).await;
        }
    }
}

async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    out: Chunks,
    limits: &Limits,
) -> Result<(), ConnectionError> {
    let written = async {
        out.write_to(stream).await?;
        stream.flush().await
    };
    tokio::time::timeout(limits.write_stall, written)
        .await
        .map_err(|_| ConnectionError::WriteStalled(limits.write_stall))??;
    Ok(())
}

/// Whether a client that has not logged in may send `frame`.
fn may_ask(frame: Option<&Bytes>) -> Result<(), ConnectionError> {
    let Some(key) = frame.and_then(|frame| frame.first_chunk::<2>()) else { return Ok(()) };
    let key = i16::from_be_bytes(*key);
    if LOGIN_APIS.contains(&key) { Ok(()) } else { Err(ConnectionError::BeforeLogin(key)) }
}

/// The next frame, its length taken off; `None` when the client has left between frames.
async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    limit: usize,
) -> Result<Option<Bytes>, ConnectionError> {
    loop {
        if let Some(prefix) = buffer.first_chunk::<4>() {
            let announced = i32::from_be_bytes(*prefix);
            let len = usize::try_from(announced).ok().filter(|len| *len <= limit);
            let Some(len) = len else {
                let announced = i64::from(announced);
                return Err(ConnectionError::FrameLength { announced, limit });
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
