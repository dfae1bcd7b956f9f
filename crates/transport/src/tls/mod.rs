//! Mutual TLS: each side of a connection shows a certificate of the cluster's CA.
//!
//! [`Tls::load`] reads the files; [`Tls::accept`] and [`Tls::connect`] make a stream secure; [`Certified`] judges, by the certificate of the process at the other end, as which nodes it may speak.

mod certificate;
mod certified;
mod error;
mod load;

use std::{fmt, io, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{Resumption, WebPkiServerVerifier},
    crypto::CryptoProvider,
    pki_types::ServerName,
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub use certificate::{Expiry, PeerCertificate, names_fit};
pub use certified::Certified;
pub use error::TlsError;
pub use load::{TlsFileError, TlsFiles};
/// A stream that is secure.
pub use tokio_rustls::TlsStream;

use load::Identity;

/// A node's certificate, its key, and the CA by which it judges others. Cheap to clone.
///
/// TLS 1.3 only, and every connection is judged anew: there is no resumption, so that a certificate that has expired is noticed.
#[derive(Clone)]
pub struct Tls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    certificate: PeerCertificate,
    expiries: Arc<[Expiry]>,
}

impl Tls {
    /// Reads the files, and checks that they fit together and are in force.
    ///
    /// # Errors
    /// When a file cannot be read or is not what it should be: names the file and what is wrong with it.
    pub fn load(files: &TlsFiles) -> Result<Tls, TlsFileError> {
        let identity = load::read(files)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (server, client) = configure(&identity, &provider).map_err(|error| files.unusable(&error.to_string()))?;
        let certificate = PeerCertificate::new(&identity.chain);
        let expiries = identity.expiries.into();
        Ok(Tls { server: Arc::new(server), client: Arc::new(client), certificate, expiries })
    }

    /// The same, for one protocol inside of TLS (ALPN): a side that speaks another one is refused in the handshake.
    #[must_use]
    pub fn speaking(&self, protocol: &[u8]) -> Tls {
        let (mut server, mut client) = (ServerConfig::clone(&self.server), ClientConfig::clone(&self.client));
        server.alpn_protocols = vec![protocol.to_vec()];
        client.alpn_protocols = vec![protocol.to_vec()];
        Tls { server: Arc::new(server), client: Arc::new(client), ..self.clone() }
    }

    /// The node's own certificate, as the other side of a connection sees it.
    pub fn certificate(&self) -> &PeerCertificate {
        &self.certificate
    }

    /// Which of the certificates that were loaded expire within this time.
    pub fn expiring(&self, within: Duration) -> Vec<Expiry> {
        self.expiries.iter().filter(|expiry| expiry.is_within(within)).cloned().collect()
    }

    /// The side that accepted a connection: the other one has to show a certificate of the CA. The caller limits the time.
    ///
    /// # Errors
    /// Why there is no secure connection; the other side was told, if it understands.
    pub async fn accept<S>(&self, stream: S) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        match TlsAcceptor::from(self.server.clone()).accept(stream).into_fallible().await {
            Ok(stream) => Ok(stream.into()),
            Err((error, mut stream)) => {
                let error = TlsError::of(error);
                linger(&mut stream).await;
                Err(error)
            }
        }
    }

    /// The side that made a connection to `host`, an IP address or a name, for which the other one's certificate has to be. The caller limits the time.
    ///
    /// The other side judges last: its refusal arrives with the first read, where [`TlsError::within`] finds it.
    ///
    /// # Errors
    /// Why there is no secure connection; the other side was told, if it understands.
    pub async fn connect<S>(&self, host: &str, stream: S) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Host { host: host.to_owned() })?;
        match TlsConnector::from(self.client.clone()).connect(name, stream).await {
            Ok(stream) => Ok(stream.into()),
            Err(error) => Err(TlsError::of(error)),
        }
    }
}

impl fmt::Debug for Tls {
    /// Shows no key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("expiries", &self.expiries).finish_non_exhaustive()
    }
}

impl PartialEq for Tls {
    /// Whether both were loaded, and set to speak a protocol, at once.
    fn eq(&self, other: &Tls) -> bool {
        Arc::ptr_eq(&self.server, &other.server) && Arc::ptr_eq(&self.client, &other.client)
    }
}

impl Eq for Tls {}

fn configure(
    identity: &Identity,
    provider: &Arc<CryptoProvider>,
) -> Result<(ServerConfig, ClientConfig), Box<dyn std::error::Error>> {
    let roots = Arc::new(RootCertStore { roots: identity.anchors.clone() });
    let key = || identity.key.clone_key();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain.clone(), key())?;
    // What was verified once is not taken for granted: each connection is judged by what holds then.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build()?;
    let mut client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(identity.chain.clone(), key())?;
    client.resumption = Resumption::disabled();
    Ok((server, client))
}

/// Waits, within limits, until the other side has gone: closing at once, with bytes unread, could discard the alert that says why.
async fn linger(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    const PATIENCE: Duration = Duration::from_secs(1);
    const DISCARDED_BYTES_MAX: usize = 64 << 10;
    let discard = async {
        stream.shutdown().await?;
        let mut scratch = [0; 1024];
        let mut discarded = 0;
        while discarded < DISCARDED_BYTES_MAX {
            match stream.read(&mut scratch).await? {
                0 => break,
                read => discarded += read,
            }
        }
        io::Result::Ok(())
    };
    // The refusal stands whether or not it was heard.
    let _ = timeout(PATIENCE, discard).await;
}

#[cfg(test)]
mod tests;
