//! TLS of a listener: certificates and keys from PEM files, checked at start, read anew when the files change.
//!
//! TLS 1.2 and 1.3 by rustls. A client's certificate, where one is asked for, names its principal as Kafka does:
//! `CN=ana,O=Hunt` in the order of RFC 2253.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{Error as RustlsError, InconsistentKeys, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

mod name;

/// How often the files are looked at, at most.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// Whether a client has to show a certificate (Kafka's `ssl.client.auth`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// No certificate is asked for.
    #[default]
    None,
    /// A certificate is asked for; a client without one is anonymous.
    Requested,
    /// A client without a certificate is refused.
    Required,
}

/// Where the parts of a listener's TLS lie, all in PEM.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// The server's certificate, then those that vouch for it.
    pub certificate: PathBuf,
    /// The key of that certificate (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
    /// The authorities whose client certificates are good.
    pub client_ca: Option<PathBuf>,
    /// Whether a client has to show one.
    pub client_auth: ClientAuth,
}

/// Why TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file is not there, or not for us.
    #[error("cannot read {what} {}: {reason}", path.display())]
    Unreadable {
        /// Which of the files.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// A file is not what it should be.
    #[error("{} holds no {what} in PEM form{reason}", path.display())]
    Unusable {
        /// What it should hold.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// More, if more is known.
        reason: String,
    },
    /// The key is another certificate's.
    #[error(
        "key {} does not belong to certificate {}: give the key the certificate was made with",
        key.display(), certificate.display()
    )]
    Mismatch {
        /// The key.
        key: PathBuf,
        /// The certificate.
        certificate: PathBuf,
    },
    /// `client_auth` without anybody to vouch for clients.
    #[error(
        "client certificates are asked for, but nobody vouches for them: set client_ca to a PEM file of authorities"
    )]
    NoClientCa,
    /// What rustls refuses otherwise.
    #[error("certificate {}: {reason}", path.display())]
    Refused {
        /// The certificate.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// The TLS of one listener.
pub struct Tls {
    files: TlsFiles,
    current: Mutex<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    /// Times of the last change of the files it was read from.
    changed: Vec<Option<SystemTime>>,
    looked: Instant,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads and checks the files.
    ///
    /// # Errors
    /// [`TlsError`]: a file is missing, not PEM, or does not fit the others.
    pub fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let changed = files.changed();
        let config = files.read()?;
        Ok(Self { files, current: Mutex::new(Current { config, changed, looked: Instant::now() }) })
    }

    /// Whether every client has shown a good certificate.
    #[must_use]
    pub fn knows_clients(&self) -> bool {
        self.files.client_auth == ClientAuth::Required
    }

    /// The configuration for the next connection: read anew if a file has changed since the last look. Files that do not
    /// fit together (one of them is still to be replaced) change nothing.
    fn config(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() >= LOOK_PERIOD {
            current.looked = Instant::now();
            let changed = self.files.changed();
            if changed != current.changed {
                match self.files.read() {
                    Ok(config) => {
                        tracing::info!(certificate = %self.files.certificate.display(), "certificate read anew");
                        *current = Current { config, changed, looked: current.looked };
                    }
                    Err(error) => tracing::warn!("the certificate in use stays: {error}"),
                }
            }
        }
        Arc::clone(&current.config)
    }

    /// Greets a client: the encrypted stream, and the name in the client's certificate if it showed one.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
    ) -> std::io::Result<(TlsStream<TcpStream>, Option<String>)> {
        let stream = TlsAcceptor::from(self.config()).accept(stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let subject = shown.map(subject).transpose()?;
        Ok((stream, subject))
    }
}

impl TlsFiles {
    fn changed(&self) -> Vec<Option<SystemTime>> {
        [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()]
            .into_iter()
            .flatten()
            .map(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok())
            .collect()
    }

    fn read(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(default_provider());
        let chain = certificates(&self.certificate, "certificate")?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| unreadable(error, &self.key, "private key"))?;
        let refused = |error: &dyn std::fmt::Display| TlsError::Refused {
            path: self.certificate.clone(),
            reason: error.to_string(),
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| refused(&error))?;
        let builder = match self.client_auth {
            ClientAuth::None => builder.with_no_client_auth(),
            asked => {
                let ca = self.client_ca.as_ref().ok_or(TlsError::NoClientCa)?;
                builder.with_client_cert_verifier(verifier(ca, asked, &provider)?)
            }
        };
        let config = builder.with_single_cert(chain, key).map_err(|error| match error {
            RustlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                TlsError::Mismatch { key: self.key.clone(), certificate: self.certificate.clone() }
            }
            other => refused(&other),
        })?;
        Ok(Arc::new(config))
    }
}

fn verifier(
    ca: &Path,
    asked: ClientAuth,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn tokio_rustls::rustls::server::danger::ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    let refused = |reason: String| TlsError::Unusable {
        what: "certificate of an authority",
        path: ca.to_owned(),
        reason,
    };
    for certificate in certificates(ca, "certificate of an authority")? {
        roots.add(certificate).map_err(|error| refused(format!(": {error}")))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = if asked == ClientAuth::Requested { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(|error| refused(format!(": {error}")))
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| unreadable(error, path, what))?.collect();
    let found = found.map_err(|error| unreadable(error, path, what))?;
    if found.is_empty() { Err(unreadable(PemError::NoItemsFound, path, what)) } else { Ok(found) }
}

fn unreadable(error: PemError, path: &Path, what: &'static str) -> TlsError {
    let path = path.to_owned();
    match error {
        PemError::Io(error) if error.kind() == std::io::ErrorKind::NotFound => {
            TlsError::Unreadable { what, path, reason: "no such file".to_owned() }
        }
        PemError::Io(error) => TlsError::Unreadable { what, path, reason: error.to_string() },
        PemError::NoItemsFound => TlsError::Unusable { what, path, reason: String::new() },
        other => TlsError::Unusable { what, path, reason: format!(": {other}") },
    }
}

fn subject(certificate: &CertificateDer<'_>) -> std::io::Result<String> {
    let invalid = |reason: String| std::io::Error::new(std::io::ErrorKind::InvalidData, reason);
    let parsed = webpki::EndEntityCert::try_from(certificate).map_err(|error| invalid(error.to_string()))?;
    name::printed(parsed.subject())
        .ok_or_else(|| invalid("the client certificate has no readable subject".into()))
}

#[cfg(test)]
mod tests;
