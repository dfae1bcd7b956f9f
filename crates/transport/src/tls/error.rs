//! Why there is no secure connection.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

use super::certificate::{date, presented};

/// Why there is no secure connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// What came is not TLS.
    #[error("the other side does not speak TLS here")]
    NotTls,
    /// No certificate was shown.
    #[error("the other side shows no certificate; one of this node's CA is required")]
    NoCertificate,
    /// A certificate of somebody else.
    #[error("the other side's certificate is not of this node's CA")]
    Issuer,
    /// A certificate that has ended.
    #[error("the other side's certificate expired on {on}")]
    Expired {
        /// When.
        on: String,
    },
    /// A certificate that has not begun.
    #[error(
        "the other side's certificate is not valid before {until}: one of the two clocks is wrong, or it was made ahead"
    )]
    NotYet {
        /// When it begins.
        until: String,
    },
    /// A certificate for other hosts.
    #[error("the other side's certificate is for {}, not for {expected}, which was dialled", list(.presented))]
    Name {
        /// Which host was dialled.
        expected: String,
        /// For whom the certificate is.
        presented: Vec<String>,
    },
    /// Another fault of the certificate.
    #[error("the other side's certificate is refused: {reason}")]
    Certificate {
        /// Which.
        reason: String,
    },
    /// Another protocol inside of TLS.
    #[error("the other side speaks another protocol inside of TLS")]
    Protocol,
    /// The other side does not accept what this one showed.
    #[error("the other side refuses this node's certificate or handshake: {reason}")]
    RefusedThere {
        /// Why.
        reason: String,
    },
    /// The other side hung up.
    #[error("the other side closed the connection during the TLS handshake; it may not speak TLS")]
    Closed,
    /// What was to be dialled is neither a name nor an IP address.
    #[error("\"{host}\" is neither a name nor an IP address, so that no certificate can be for it")]
    Host {
        /// What was.
        host: String,
    },
    /// A fault of the handshake that is none of the others.
    #[error("the TLS handshake failed: {reason}")]
    Handshake {
        /// Which.
        reason: String,
    },
    /// A fault of the connection below.
    #[error(transparent)]
    Io(io::Error),
}

impl TlsError {
    /// What a handshake failed with.
    pub(crate) fn of(error: io::Error) -> TlsError {
        match (TlsError::within(&error), error.kind()) {
            (Some(found), _) => found,
            (None, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
                TlsError::Closed
            }
            (None, _) => TlsError::Io(error),
        }
    }

    /// The fault of TLS that an error of reading or writing is about, if it is about one: a refusal by the other side arrives like that.
    pub fn within(error: &io::Error) -> Option<TlsError> {
        error.get_ref()?.downcast_ref::<Error>().map(of_rustls)
    }
}

fn of_rustls(error: &Error) -> TlsError {
    match error {
        Error::AlertReceived(AlertDescription::NoApplicationProtocol) | Error::NoApplicationProtocol => {
            TlsError::Protocol
        }
        Error::AlertReceived(alert) => TlsError::RefusedThere { reason: of_alert(*alert) },
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::MessageTooLarge,
        ) => TlsError::NotTls,
        Error::NoCertificatesPresented => TlsError::NoCertificate,
        Error::InvalidCertificate(error) => of_certificate(error),
        Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13) => {
            TlsError::Handshake { reason: "the other side does not speak TLS 1.3".to_owned() }
        }
        other => TlsError::Handshake { reason: other.to_string() },
    }
}

fn of_certificate(error: &CertificateError) -> TlsError {
    match error {
        // The right name with the wrong signature is another CA that has the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsError::Issuer,
        CertificateError::ExpiredContext { not_after, .. } => TlsError::Expired { on: date(not_after.as_secs()) },
        CertificateError::NotValidYetContext { not_before, .. } => {
            TlsError::NotYet { until: date(not_before.as_secs()) }
        }
        CertificateError::NotValidForNameContext { expected, presented: names } => {
            TlsError::Name { expected: expected.to_str().into_owned(), presented: presented(names) }
        }
        other => TlsError::Certificate { reason: other.to_string() },
    }
}

fn of_alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA | AlertDescription::DecryptError => "it is not of the CA that is trusted there",
        AlertDescription::CertificateExpired => "it has expired, or is not valid yet, by the clock there",
        AlertDescription::CertificateRequired => "a certificate is required there, and none was shown",
        AlertDescription::BadCertificate => "it is not for the host that was dialled, or it is damaged",
        AlertDescription::UnsupportedCertificate => "it may not be used for this purpose (extended key usage)",
        AlertDescription::ProtocolVersion => "TLS 1.3 is not spoken there",
        other => return format!("{other:?}"),
    }
    .to_owned()
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
}
