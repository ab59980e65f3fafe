//! TLS by rustls: what it takes from files, and how these are read again.
//!
//! Main type: [`Tls`]. Connections begin with what was read last, and what a client has shown when its connection began is judged
//! by that again ([`CertificateJudge`](crate::governance::CertificateJudge)). Invariant: files that are wrong, or belong together no
//! more while one of them is being replaced, change nothing. Who the owner of a client's certificate is here is not for this
//! module to say.

mod judging;

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use x509_cert::{certificate::Rfc5280, crl::CertificateList, der::Decode};

use crate::{
    config::{ClientAuth, ClientCertificates, TlsConfig},
    governance::{Actor, Administration, Governance, GovernanceError},
    types::{hexadecimal, unix_seconds},
};

/// How often it is looked whether files have changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Longest file in bytes.
const MOST_BYTES: u64 = 4 << 20;
/// In the order of preference; RFC 9113, section 3.1.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// Permission bits of a file for those who are neither its owner nor of its group.
const OTHERS: u32 = 0o007;

/// What connections begin with. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Tls {
    files: Arc<TlsConfig>,
    current: Arc<RwLock<Current>>,
    /// Changes with the current one.
    changed: Arc<watch::Sender<u64>>,
    /// Held while files are read, so that of two readings at once the later counts.
    reading: Arc<Mutex<()>>,
}

struct Current {
    config: Arc<ServerConfig>,
    /// Says whose certificates are good, if clients show any.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// When its revocation lists end, in Unix seconds.
    list_ends: Vec<u64>,
    /// Of the files that it was made of.
    digest: [u8; 32],
}

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{key} = {}: it cannot be read", path.display())]
    Unreadable {
        /// The setting that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read the key.
    #[error("{key} = {}: everybody may use it (mode {mode:o}); take that right from them: chmod o= FILE", path.display())]
    Exposed {
        /// The setting that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is not what it should be.
    #[error("{key} = {}: {reason}", path.display())]
    Invalid {
        /// The setting that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// What cannot be written down is not done.
    #[error("{0}")]
    Unrecorded(Box<GovernanceError>),
}

impl Tls {
    /// With what the files say now.
    pub fn open(files: TlsConfig) -> Result<Self, TlsError> {
        let contents = Contents::read(&files)?;
        let current = contents.current(&files)?;
        let current = Arc::new(RwLock::new(current));
        Ok(Self { files: Arc::new(files), current, changed: Arc::default(), reading: Arc::default() })
    }

    /// Reads the files again for somebody, which is written down before it counts. Says whether they were others than before.
    pub fn reload_as(&self, administration: &Administration<'_>) -> Result<bool, TlsError> {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let contents = Contents::read(&self.files)?;
        if self.current.read().unwrap_or_else(PoisonError::into_inner).digest == contents.digest() {
            return Ok(false);
        }
        let current = contents.current(&self.files)?;
        let recorded = administration.reload_certificates(&hexadecimal(&current.digest), unix_seconds());
        recorded.map_err(|error| TlsError::Unrecorded(Box::new(error)))?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = current;
        self.changed.send_modify(|change| *change += 1);
        Ok(true)
    }

    /// Reads the files again whenever they have changed. Does not end.
    pub(super) async fn watch(self, governance: Governance) {
        let mut last_error = None;
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let (tls, governance) = (self.clone(), governance.clone());
            let read = move || tls.reload_as(&governance.administered_by(&Actor::Server));
            // A panic would be logged where it happens.
            let Ok(read) = tokio::task::spawn_blocking(read).await else { continue };
            let error = match read {
                Ok(is_new) => {
                    if is_new {
                        tracing::info!("certificates were read again");
                    }
                    None
                }
                Err(error) => Some(error.to_string()),
            };
            if let Some(error) = error.as_ref().filter(|_| error != last_error) {
                tracing::error!(error, "certificates are wrong, so those from before go on to apply");
            }
            last_error = error;
        }
    }

    /// Begins to speak TLS with a client.
    pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<TlsStream<S>> {
        let config = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).config);
        TlsAcceptor::from(config).accept(stream).await
    }
}

/// What is in the files.
struct Contents {
    cert: Vec<u8>,
    key: zeroize::Zeroizing<Vec<u8>>,
    client_ca: Option<Vec<u8>>,
    client_crl: Option<Vec<u8>>,
}

impl Contents {
    fn read(files: &TlsConfig) -> Result<Self, TlsError> {
        let clients = files.clients.as_ref();
        let read_crl = |path: &PathBuf| read("tls_client_crl", path);
        check_permissions("tls_key", &files.key)?;
        Ok(Self {
            cert: read("tls_cert", &files.cert)?,
            key: read("tls_key", &files.key)?.into(),
            client_ca: clients.map(|clients| read("tls_client_ca", &clients.ca)).transpose()?,
            client_crl: clients.and_then(|clients| clients.crl.as_ref()).map(read_crl).transpose()?,
        })
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let optional = [&self.client_ca, &self.client_crl].map(|content| content.as_deref().unwrap_or_default());
        for content in [&self.cert, self.key.as_slice(), optional[0], optional[1]] {
            digest.update(Sha256::digest(content));
        }
        digest.finalize().into()
    }

    fn current(&self, files: &TlsConfig) -> Result<Current, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let chain = certificates("tls_cert", &files.cert, &self.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|error| invalid("tls_key", &files.key, format!("it holds no private key in PEM: {error}")))?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid("tls_key", &files.key, error.to_string()))?;
        let verifier = files.clients.as_ref().map(|clients| self.verifier(clients, provider)).transpose()?;
        let builder = match &verifier {
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| {
            let reason = format!("it does not belong to the certificate in {}: {error}", files.cert.display());
            invalid("tls_key", &files.key, reason)
        })?;
        config.alpn_protocols = PROTOCOLS.iter().map(|protocol| protocol.to_vec()).collect();
        let list_ends = self.client_crl.as_deref().map(list_ends).unwrap_or_default();
        Ok(Current { config: Arc::new(config), verifier, list_ends, digest: self.digest() })
    }

    fn verifier(
        &self,
        clients: &ClientCertificates,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let invalid_ca = |reason: String| invalid("tls_client_ca", &clients.ca, reason);
        let mut roots = RootCertStore::empty();
        for certificate in certificates("tls_client_ca", &clients.ca, self.client_ca.as_deref().unwrap_or_default())? {
            roots.add(certificate).map_err(|error| invalid_ca(error.to_string()))?;
        }
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        if let (Some(path), Some(content)) = (&clients.crl, &self.client_crl) {
            builder = builder.with_crls(revocation_lists(path, content)?).enforce_revocation_expiration();
        }
        if clients.auth == ClientAuth::Optional {
            builder = builder.allow_unauthenticated();
        }
        builder.build().map_err(|error| invalid_ca(error.to_string()))
    }
}

fn certificates(key: &'static str, path: &Path, content: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_slice_iter(content).collect::<Result<Vec<_>, _>>();
    let read = read.map_err(|error| invalid(key, path, error.to_string()))?;
    if read.is_empty() {
        return Err(invalid(key, path, "it holds no certificate in PEM".to_owned()));
    }
    Ok(read)
}

fn revocation_lists(path: &Path, content: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let read = CertificateRevocationListDer::pem_slice_iter(content).collect::<Result<Vec<_>, _>>();
    let read = read.map_err(|error| invalid("tls_client_crl", path, error.to_string()))?;
    if read.is_empty() {
        return Err(invalid("tls_client_crl", path, "it holds no revocation list in PEM".to_owned()));
    }
    Ok(read)
}

/// `nextUpdate` of the lists that are read, RFC 5280 §5.1.2.5.
fn list_ends(content: &[u8]) -> Vec<u64> {
    let lists = CertificateRevocationListDer::pem_slice_iter(content).filter_map(Result::ok);
    let ends = lists.filter_map(|list| CertificateList::<Rfc5280>::from_der(&list).ok()?.tbs_cert_list.next_update);
    ends.map(|end| end.to_unix_duration().as_secs()).collect()
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |source| TlsError::Unreadable { key, path: path.into(), source };
    if fs::metadata(path).map_err(unreadable)?.len() > MOST_BYTES {
        return Err(invalid(key, path, format!("it has more than {MOST_BYTES} bytes")));
    }
    fs::read(path).map_err(unreadable)
}

fn check_permissions(key: &'static str, path: &Path) -> Result<(), TlsError> {
    let metadata = fs::metadata(path).map_err(|source| TlsError::Unreadable { key, path: path.into(), source })?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & OTHERS == 0 { Ok(()) } else { Err(TlsError::Exposed { key, path: path.into(), mode }) }
}

fn invalid(key: &'static str, path: &Path, reason: String) -> TlsError {
    TlsError::Invalid { key, path: path.into(), reason }
}
