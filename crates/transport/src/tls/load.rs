//! Reading certificates and keys.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor, UnixTime, pem, pem::PemObject},
    sign::CertifiedKey,
};
use webpki::{EndEntityCert, KeyUsage};

use super::certificate::{Expiry, date, validity};

/// No file with certificates or a key is larger.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where a node's certificate, its key and the CA are, each in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificates of the CA; several while it is replaced.
    pub ca: PathBuf,
    /// The node's certificate, followed by those between it and the CA if there are any.
    pub certificate: PathBuf,
    /// The node's key.
    pub key: PathBuf,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsFileError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    Unreadable {
        /// Which one.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not PEM.
    #[error("{} is not PEM: {reason}; expected a text with \"-----BEGIN ...-----\"", file.display())]
    NotPem {
        /// Which one.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It holds something else.
    #[error("there is no {expected} in {}", file.display())]
    Nothing {
        /// Which one.
        file: PathBuf,
        /// What should be in it.
        expected: &'static str,
    },
    /// A certificate in it is damaged, or not for this purpose.
    #[error("the certificate in {} cannot be used: {reason}", file.display())]
    Certificate {
        /// Which one.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key is damaged, or of a kind that is not supported.
    #[error("the key in {} cannot be used: {reason}", file.display())]
    Key {
        /// Which one.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key belongs to another certificate.
    #[error("the key in {} does not belong to the certificate in {}", key.display(), certificate.display())]
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// The certificate is of another CA.
    #[error("the certificate in {} is not of the CA in {}", certificate.display(), ca.display())]
    Issuer {
        /// The certificate's file.
        certificate: PathBuf,
        /// The CA's file.
        ca: PathBuf,
    },
    /// A certificate has ended.
    #[error("the certificate in {} expired on {on}", file.display())]
    Expired {
        /// Which one.
        file: PathBuf,
        /// When.
        on: String,
    },
    /// A certificate has not begun.
    #[error("the certificate in {} is not valid before {until}: the clock is wrong, or it was made ahead", file.display())]
    NotYet {
        /// Which one.
        file: PathBuf,
        /// When it begins.
        until: String,
    },
}

impl TlsFiles {
    pub(super) fn unusable(&self, reason: &str) -> TlsFileError {
        TlsFileError::Certificate { file: self.certificate.clone(), reason: reason.to_owned() }
    }
}

/// What the files hold, checked.
pub(super) struct Identity {
    pub(super) anchors: Vec<TrustAnchor<'static>>,
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) expiries: Vec<Expiry>,
}

pub(super) fn read(files: &TlsFiles) -> Result<Identity, TlsFileError> {
    let (anchors, ca_expiry) = read_ca(&files.ca)?;
    let chain = read_certificates(&files.certificate)?;
    let expiry = in_force(&files.certificate, &chain)?;
    let key = read_key(&files.key)?;
    check_key(files, &chain, &key)?;
    check_chain(files, &chain, &anchors)?;
    Ok(Identity { anchors, chain, key, expiries: vec![expiry, ca_expiry] })
}

/// The CA's certificates that are in force: while a CA is replaced, the old one may have ended already.
fn read_ca(file: &Path) -> Result<(Vec<TrustAnchor<'static>>, Expiry), TlsFileError> {
    let mut found = Vec::new();
    let mut latest: Option<Expiry> = None;
    let mut ended = None;
    for certificate in read_certificates(file)? {
        let anchor = webpki::anchor_from_trusted_cert(&certificate).map_err(|error| damaged(file, &error))?.to_owned();
        match in_force(file, std::slice::from_ref(&certificate)) {
            Ok(expiry) => {
                found.push(anchor);
                latest = latest.filter(|latest| latest.not_after >= expiry.not_after).or(Some(expiry));
            }
            Err(error) => ended = Some(error),
        }
    }
    match (latest, ended) {
        (Some(latest), _) => Ok((found, latest)),
        (None, Some(error)) => Err(error),
        (None, None) => Err(TlsFileError::Nothing { file: file.to_owned(), expected: "certificate" }),
    }
}

fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let bytes = read_file(file)?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| not_pem(file, &error))?;
    if found.is_empty() { Err(nothing(file, &bytes, "certificate")) } else { Ok(found) }
}

fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsFileError> {
    let bytes = read_file(file)?;
    match PrivateKeyDer::from_pem_slice(&bytes) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(nothing(file, &bytes, "private key")),
        Err(error) => Err(not_pem(file, &error)),
    }
}

fn read_file(file: &Path) -> Result<Vec<u8>, TlsFileError> {
    let read = || {
        let mut bytes = Vec::new();
        File::open(file)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("it is larger than {FILE_BYTES_MAX} bytes"),
            ));
        }
        Ok(bytes)
    };
    read().map_err(|source| TlsFileError::Unreadable { file: file.to_owned(), source })
}

/// Nothing of what was looked for: something else, or no PEM at all.
fn nothing(file: &Path, bytes: &[u8], expected: &'static str) -> TlsFileError {
    const BEGIN: &[u8] = b"-----BEGIN ";
    if bytes.windows(BEGIN.len()).any(|window| window == BEGIN) {
        return TlsFileError::Nothing { file: file.to_owned(), expected };
    }
    TlsFileError::NotPem { file: file.to_owned(), reason: "nothing begins in it".to_owned() }
}

fn not_pem(file: &Path, error: &pem::Error) -> TlsFileError {
    TlsFileError::NotPem { file: file.to_owned(), reason: error.to_string() }
}

fn damaged(file: &Path, error: &webpki::Error) -> TlsFileError {
    TlsFileError::Certificate { file: file.to_owned(), reason: error.to_string() }
}

/// That the certificates are in force as of now; says which one ends first.
fn in_force(file: &Path, certificates: &[CertificateDer<'_>]) -> Result<Expiry, TlsFileError> {
    let now = UnixTime::now().as_secs();
    let mut first = u64::MAX;
    for certificate in certificates {
        let (not_before, not_after) = validity(certificate).ok_or_else(|| damaged(file, &webpki::Error::BadDer))?;
        if now > not_after {
            return Err(TlsFileError::Expired { file: file.to_owned(), on: date(not_after) });
        }
        if now < not_before {
            return Err(TlsFileError::NotYet { file: file.to_owned(), until: date(not_before) });
        }
        first = first.min(not_after);
    }
    let not_after = UNIX_EPOCH.checked_add(Duration::from_secs(first)).unwrap_or_else(SystemTime::now);
    Ok(Expiry { file: file.to_owned(), not_after })
}

fn check_key(
    files: &TlsFiles,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) -> Result<(), TlsFileError> {
    let signer = default_provider().key_provider.load_private_key(key.clone_key());
    let signer = signer.map_err(|error| TlsFileError::Key { file: files.key.clone(), reason: error.to_string() })?;
    match CertifiedKey::new(chain.to_vec(), signer).keys_match() {
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(TlsFileError::KeyMismatch { key: files.key.clone(), certificate: files.certificate.clone() })
        }
        Err(error) => Err(files.unusable(&error.to_string())),
        Ok(()) => Ok(()),
    }
}

/// That the certificate is of the CA, and for both sides of a connection.
fn check_chain(
    files: &TlsFiles,
    chain: &[CertificateDer<'static>],
    anchors: &[TrustAnchor<'static>],
) -> Result<(), TlsFileError> {
    let file = &files.certificate;
    let Some((first, between)) = chain.split_first() else { return Err(nothing(file, b"", "certificate")) };
    let certificate = EndEntityCert::try_from(first).map_err(|error| damaged(file, &error))?;
    let algorithms = default_provider().signature_verification_algorithms.all;
    for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
        match certificate.verify_for_usage(algorithms, anchors, between, UnixTime::now(), usage, None, None) {
            Ok(_) => {}
            Err(webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey) => {
                return Err(TlsFileError::Issuer { certificate: file.clone(), ca: files.ca.clone() });
            }
            Err(error) => return Err(damaged(file, &error)),
        }
    }
    Ok(())
}
