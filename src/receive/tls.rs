//! The secure transport (PS3.15 B.9, B.10: BCP 195): TLS 1.2 with ephemeral keys and authenticated encryption, and 1.3; both sides show a certificate.
//! Files are read again when they change, for connections from then on.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::client::ClientConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::stream::{Socket, Stream};

/// A peer that has not proved itself by then is nobody.
pub const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// What is offered and accepted, strongest first. rustls has no weaker ones; named here because the conformance statement promises them.
pub const CIPHER_SUITES: [&str; 9] = [
    "TLS13_AES_256_GCM_SHA384",
    "TLS13_AES_128_GCM_SHA256",
    "TLS13_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
];

/// Where keys and certificates are, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Our certificate, then those up to its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities whose certificates we trust.
    pub ca: PathBuf,
}

/// Why TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing or holds something else.
    #[error("{path}: {reason}; check dicom.tls.{key}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
        /// Which key names it.
        key: &'static str,
    },
    /// Each file is good, together they are not.
    #[error("{certificate} and {key}: {reason}; do they belong together?")]
    Pair {
        /// Certificate file.
        certificate: PathBuf,
        /// Key file.
        key: PathBuf,
        /// Why.
        reason: String,
    },
}

type Stamp = [Option<(SystemTime, u64)>; 3];

struct Loaded {
    stamp: Stamp,
    /// The last stamp that did not do: it is complained of once.
    bad: Option<Stamp>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// Our side of every handshake.
pub struct Tls {
    files: TlsFiles,
    loaded: Mutex<Loaded>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`] naming the file and the key of the configuration.
    pub fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let stamp = stamp(&files);
        let (server, client) = load(&files)?;
        Ok(Self { files, loaded: Mutex::new(Loaded { stamp, bad: None, server, client }) })
    }

    /// Reads the files again where they changed; what cannot be used leaves what was there in force, and is logged once.
    pub fn refresh(&self) {
        let now = stamp(&self.files);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if now == loaded.stamp || loaded.bad == Some(now) {
            return;
        }
        match load(&self.files) {
            Ok((server, client)) => {
                *loaded = Loaded { stamp: now, bad: None, server, client };
                log::info!("tls certificates read again certificate={}", self.files.certificate.display());
            }
            Err(e) => {
                loaded.bad = Some(now);
                log::error!("tls certificates not read again error={:?} : those read before stay in force", e.to_string());
            }
        }
    }

    /// Shakes hands as the side that was called.
    ///
    /// # Errors
    /// The socket's; what the peer's certificate or offer lacks, in rustls' words.
    pub fn accept(&self, socket: Socket) -> io::Result<Stream> {
        self.refresh();
        let config = Arc::clone(&self.loaded.lock().unwrap_or_else(PoisonError::into_inner).server);
        let connection = ServerConnection::new(config).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, socket);
        stream.sock.read_by(Instant::now() + HANDSHAKE_WITHIN);
        while stream.conn.is_handshaking() {
            shaken(stream.conn.complete_io(&mut stream.sock)?)?;
        }
        Ok(Stream::Served(Box::new(stream)))
    }

    /// Shakes hands as the side that calls; `host` must be in the peer's certificate.
    ///
    /// # Errors
    /// As [`Tls::accept`].
    pub fn connect(&self, socket: Socket, host: &str) -> io::Result<Stream> {
        self.refresh();
        let config = Arc::clone(&self.loaded.lock().unwrap_or_else(PoisonError::into_inner).client);
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, socket);
        stream.sock.read_by(Instant::now() + HANDSHAKE_WITHIN);
        while stream.conn.is_handshaking() {
            shaken(stream.conn.complete_io(&mut stream.sock)?)?;
        }
        Ok(Stream::Called(Box::new(stream)))
    }
}

/// Bytes moved in one round; none means that the peer has left.
fn shaken((read, written): (usize, usize)) -> io::Result<()> {
    if read + written == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

fn stamp(files: &TlsFiles) -> Stamp {
    [&files.certificate, &files.key, &files.ca].map(|path| {
        let facts = std::fs::metadata(path).ok()?;
        Some((facts.modified().ok()?, facts.len()))
    })
}

fn certificates(path: &Path, key: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fault = |reason: String| TlsError::File { path: path.to_owned(), reason, key };
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|e| fault(e.to_string()))?.collect();
    let found = found.map_err(|e| fault(e.to_string()))?;
    if found.is_empty() { Err(fault("holds no PEM certificate".into())) } else { Ok(found) }
}

fn load(files: &TlsFiles) -> Result<(Arc<ServerConfig>, Arc<ClientConfig>), TlsError> {
    let chain = certificates(&files.certificate, "certificate")?;
    let file = |path: &Path, reason: String, key| TlsError::File { path: path.to_owned(), reason, key };
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| file(&files.key, e.to_string(), "key"))?;
    let mut roots = RootCertStore::empty();
    for authority in certificates(&files.ca, "ca")? {
        roots.add(authority).map_err(|e| file(&files.ca, e.to_string(), "ca"))?;
    }
    let pair = |e: rustls::Error| TlsError::Pair { certificate: files.certificate.clone(), key: files.key.clone(), reason: e.to_string() };
    let (roots, provider) = (Arc::new(roots), provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
        .build()
        .map_err(|e| file(&files.ca, e.to_string(), "ca"))?;
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(pair)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(pair)?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(pair)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(pair)?;
    Ok((Arc::new(server), Arc::new(client)))
}

fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite().as_str().is_some_and(|name| CIPHER_SUITES.contains(&name)));
    Arc::new(provider)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_is_what_is_promised() {
        let offered: Vec<_> = provider().cipher_suites.iter().filter_map(|s| s.suite().as_str()).collect();
        assert_eq!(offered, CIPHER_SUITES);
    }

    #[test]
    fn a_file_that_does_not_do_is_named_with_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nothing.pem");
        let files = TlsFiles { certificate: file.clone(), key: file.clone(), ca: file.clone() };
        let message = |files: &TlsFiles| Tls::open(files.clone()).err().unwrap().to_string();
        assert!(message(&files).contains("nothing.pem") && message(&files).contains("dicom.tls.certificate"));
        std::fs::write(&file, "no certificate in here").unwrap();
        assert!(message(&files).contains("holds no PEM certificate"), "{}", message(&files));
    }
}
