//! TLS, where an address asks for it.

use coracle_transport::Address;

use crate::GrpcOptions;

#[cfg(feature = "tls")]
pub(crate) use with::Security;
#[cfg(not(feature = "tls"))]
pub(crate) use without::Security;

/// What makes the connections of an address secure; `None` when they are to be plain.
///
/// # Errors
/// When the address asks for TLS and there is none; the text says what to do.
pub(crate) fn security(address: &Address, options: &GrpcOptions) -> Result<Option<Security>, &'static str> {
    if address.is_tls() { Security::new(options).map(Some) } else { Ok(None) }
}

#[cfg(feature = "tls")]
mod with {
    use std::sync::Arc;

    use coracle_transport::{
        Host,
        tls::{Certified, PeerCertificate, Tls, TlsError},
    };

    use crate::{GrpcOptions, connection::Io, wire::WireError};

    /// The protocol inside of TLS, as RFC 9113 §3.2 names it.
    pub(crate) const PROTOCOL: &[u8] = b"h2";

    /// See [`security`](super::security).
    #[derive(Clone)]
    pub(crate) struct Security(Tls);

    impl Security {
        pub(super) fn new(options: &GrpcOptions) -> Result<Security, &'static str> {
            let tls = options.tls.as_ref().ok_or(
                "it has to have certificates: a CA, a certificate of it and its key (GrpcOptions::tls; serve --tls-ca, --tls-cert, --tls-key)",
            )?;
            Ok(Security(tls.speaking(PROTOCOL)))
        }

        /// Shakes hands with who made a connection; the host from then on judges by the certificate.
        pub(crate) async fn accept(
            &self,
            stream: Box<dyn Io>,
            host: Arc<dyn Host>,
        ) -> Result<(Box<dyn Io>, Arc<dyn Host>), WireError> {
            let stream = self.0.accept(stream).await?;
            let certificate = PeerCertificate::of(&stream).ok_or(TlsError::NoCertificate)?;
            Ok((Box::new(stream), Arc::new(Certified::new(host, certificate))))
        }

        /// Shakes hands with whoever is at `host`.
        pub(crate) async fn connect(&self, host: &str, stream: Box<dyn Io>) -> Result<Box<dyn Io>, WireError> {
            Ok(Box::new(self.0.connect(host, stream).await?))
        }

        /// Warns of certificates that end soon.
        pub(crate) fn warn(&self) {
            /// Time enough to make others.
            const SOON: std::time::Duration = std::time::Duration::from_secs(30 * 86_400);
            for expiry in self.0.expiring(SOON) {
                tracing::warn!("{expiry}: others refuse this node from then on; make another one, and restart");
            }
        }
    }
}

#[cfg(not(feature = "tls"))]
mod without {
    use std::sync::Arc;

    use coracle_transport::Host;

    use crate::{GrpcOptions, connection::Io, wire::WireError};

    /// There is none in this build.
    #[derive(Clone)]
    pub(crate) enum Security {}

    impl Security {
        pub(super) fn new(_: &GrpcOptions) -> Result<Security, &'static str> {
            Err("this build was made without the feature \"tls\"")
        }

        pub(crate) async fn accept(
            &self,
            _: Box<dyn Io>,
            _: Arc<dyn Host>,
        ) -> Result<(Box<dyn Io>, Arc<dyn Host>), WireError> {
            match *self {}
        }

        pub(crate) async fn connect(&self, _: &str, _: Box<dyn Io>) -> Result<Box<dyn Io>, WireError> {
            match *self {}
        }

        pub(crate) fn warn(&self) {
            match *self {}
        }
    }
}
