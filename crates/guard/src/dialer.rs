//! Opens connections to the cache's servers: TCP, TLS if the address asks for it, login, a first answer.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use crate::discovery::discover;
use crate::error::GuardError;
use crate::placement::Topology;
use crate::protocol::{Cluster, Codec, Memcached, Resp, put_array, put_bulk, reply};
use crate::url::{CacheUrl, Login, Place, Tls};

const CONNECT_MAX: Duration = Duration::from_millis(500);
/// A version of memcached without meta commands.
const CLASSIC: &str = "1.5";
const HANDSHAKE_MAX: Duration = Duration::from_secs(1);

/// A connection's bytes, in the clear or by TLS.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Dialer {
    url: Arc<CacheUrl>,
    tls: Option<TlsConnector>,
    tracking: bool,
    /// A memcached has hung up on a meta command.
    classic: Arc<AtomicBool>,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Dialer").field(&self.url).finish()
    }
}

impl Dialer {
    /// `tracking`: connections ask to be told of changes.
    ///
    /// # Errors
    /// When a certificate file cannot be read; the message names it.
    pub(crate) fn new(url: CacheUrl, tracking: bool) -> Result<Self, GuardError> {
        let tls = url.login().and_then(|login| login.tls.as_ref()).map(connector).transpose()?;
        Ok(Self { url: Arc::new(url), tls, tracking, classic: Arc::default() })
    }

    pub(crate) fn url(&self) -> &CacheUrl {
        &self.url
    }

    /// A stream to `place`, before any word is said. Sentinels are asked in the clear.
    pub(crate) async fn connect(&self, place: &Place) -> Result<Stream, String> {
        let Place { host, port } = place;
        let stream = match timeout(CONNECT_MAX, TcpStream::connect((host.as_str(), *port))).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("no connection within 500 ms".into()),
        };
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let Some(connector) = self.tls.as_ref().filter(|_| !self.is_sentinel(place)) else {
            return Ok(Stream::Plain(stream));
        };
        let name = ServerName::try_from(host.clone()).map_err(|error| format!("{host}: {error}"))?;
        let stream = connector.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    fn is_sentinel(&self, place: &Place) -> bool {
        matches!(&*self.url, CacheUrl::Sentinel { sentinels, .. } if sentinels.contains(place))
    }

    /// A connection to the one server of the cache, for who wants just that.
    pub(crate) async fn open_one(&self) -> Result<(Stream, Codec), String> {
        match discover(self, Vec::new()).await? {
            Topology::One(place) => self.open(&place).await,
            Topology::Slots(_) | Topology::Ketama(_) => Err("the cache has several nodes".into()),
        }
    }

    /// A connection that has logged in, chosen its database and answered a PING; if it may, also asked to tell of changes.
    pub(crate) async fn open(&self, place: &Place) -> Result<(Stream, Codec), String> {
        match timeout(CONNECT_MAX + HANDSHAKE_MAX, self.talk(place)).await {
            Ok(done) => done,
            Err(_) => Err("no answer to the handshake within 1.5 s".into()),
        }
    }

    async fn talk(&self, place: &Place) -> Result<(Stream, Codec), String> {
        let mut stream = self.connect(place).await?;
        let Some(login) = self.url.login() else { return self.talk_to_memcached(stream, place).await };
        log_in(&mut stream, login).await?;
        if matches!(*self.url, CacheUrl::Sentinel { .. }) {
            expect_master(&mut stream).await?;
        }
        let tracking = self.tracking && track(&mut stream).await?;
        let codec = match *self.url {
            CacheUrl::Cluster { .. } => Codec::Cluster(Cluster::new(tracking)),
            _ => Codec::Resp(Resp::new(tracking)),
        };
        Ok((stream, codec))
    }

    /// A proxy such as twemproxy repeats its server's version and hangs up when it hears a meta command: so one is tried, once.
    async fn talk_to_memcached(&self, mut stream: Stream, place: &Place) -> Result<(Stream, Codec), String> {
        let told = ask_line(&mut stream, "version").await?;
        let Some(version) = told.strip_prefix("VERSION ") else {
            return Err(format!("no memcached there: it says {told:?} to version"));
        };
        let codec = |version: &str| Codec::Memcached(Memcached::of_version(version));
        if !Memcached::of_version(version).has_meta() || self.classic.load(Relaxed) {
            return Ok((stream, codec(CLASSIC)));
        }
        match ask_line(&mut stream, "mn").await {
            Ok(told) if told == "MN" => Ok((stream, codec(version))),
            Ok(_) => Ok((stream, codec(CLASSIC))),
            Err(_) => {
                tracing::info!("cache {place} does not speak memcached's meta protocol: no leases there");
                self.classic.store(true, Relaxed);
                Ok((self.connect(place).await?, codec(CLASSIC)))
            }
        }
    }
}

fn connector(tls: &Tls) -> Result<TlsConnector, GuardError> {
    let refused = |file: &Path, error: &dyn std::fmt::Display| {
        GuardError::Start(format!("{}: {error}: pass a PEM file", file.display()))
    };
    let mut roots = RootCertStore::empty();
    match &tls.ca {
        Some(file) => {
            for found in CertificateDer::pem_file_iter(file).map_err(|error| refused(file, &error))? {
                let certificate = found.map_err(|error| refused(file, &error))?;
                roots.add(certificate).map_err(|error| refused(file, &error))?;
            }
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    if roots.is_empty() {
        return Err(GuardError::Start("no certificate to trust: pass ?ca=FILE in the cache address".into()));
    }
    let failed = |error: tokio_rustls::rustls::Error| GuardError::Start(format!("TLS: {error}"));
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_root_certificates(roots);
    let config = match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => {
            let chain = CertificateDer::pem_file_iter(cert).map_err(|error| refused(cert, &error))?;
            let chain = chain.collect::<Result<_, _>>().map_err(|error| refused(cert, &error))?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|error| refused(key, &error))?;
            config.with_client_auth_cert(chain, key).map_err(failed)?
        }
        _ => config.with_no_client_auth(),
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// AUTH, SELECT and a PING: a connection that joins has already answered.
pub(crate) async fn log_in(stream: &mut Stream, login: &Login) -> Result<(), String> {
    if let Some(password) = &login.password {
        let words = [b"AUTH".as_slice(), login.user.as_bytes(), password.expose().as_bytes()];
        let words: Vec<&[u8]> = words.into_iter().filter(|word| !word.is_empty()).collect();
        expect(stream, &words, "+OK").await?;
    }
    if login.db != 0 {
        expect(stream, &[b"SELECT", login.db.to_string().as_bytes()], "+OK").await?;
    }
    expect(stream, &[b"PING"], "+PONG").await
}

/// A server that was the master of its group may have become a replica.
async fn expect_master(stream: &mut Stream) -> Result<(), String> {
    let told = ask(stream, &[b"ROLE"]).await?;
    if told.windows(6).any(|word| word == b"master") && !told.windows(5).any(|word| word == b"slave") {
        return Ok(());
    }
    Err("it is not the master of its group".into())
}

/// Asks for RESP3 and to be told of changes to what this connection reads (Redis 6, client side caching); says whether the server does it.
/// What this connection changes itself is not told.
async fn track(stream: &mut Stream) -> Result<bool, String> {
    for words in [&[&b"HELLO"[..], b"3"][..], &[b"CLIENT", b"TRACKING", b"ON", b"NOLOOP"]] {
        if ask(stream, words).await?.starts_with(b"-") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// One command and the bytes of its whole reply.
pub(crate) async fn ask(stream: &mut Stream, words: &[&[u8]]) -> Result<BytesMut, String> {
    let mut bytes = BytesMut::new();
    put_array(&mut bytes, words.len());
    words.iter().for_each(|word| put_bulk(&mut bytes, word));
    stream.write_all(&bytes).await.map_err(|error| error.to_string())?;
    bytes.clear();
    reply::copy(stream, 1, &mut bytes).await.map_err(|error| error.to_string())?;
    Ok(bytes)
}

async fn expect(stream: &mut Stream, words: &[&[u8]], wanted: &str) -> Result<(), String> {
    let told = ask(stream, words).await?;
    let line = String::from_utf8_lossy(&told);
    let line = line.trim_end();
    let name = String::from_utf8_lossy(words.first().copied().unwrap_or_default()).into_owned();
    if line == wanted { Ok(()) } else { Err(format!("it says {line:?} to {name}")) }
}

async fn ask_line(stream: &mut Stream, command: &str) -> Result<String, String> {
    let words = format!("{command}\r\n");
    stream.write_all(words.as_bytes()).await.map_err(|error| error.to_string())?;
    line(stream).await
}

async fn line(stream: &mut Stream) -> Result<String, String> {
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
