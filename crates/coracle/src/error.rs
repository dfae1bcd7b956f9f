//! Why a node cannot be built.

use coracle_node::StartError;
use coracle_storage::StorageError;
use coracle_transport::AddressError;

use crate::StorageUrlError;

/// Why a node cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An address does not parse.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The storage URL does not parse.
    #[error(transparent)]
    StorageUrl(#[from] StorageUrlError),
    /// The adapter is not compiled in.
    #[error("{what} needs the feature \"{feature}\" of the crate coracle, which this build was made without")]
    NotCompiled {
        /// What was asked for.
        what: String,
        /// The feature that brings it.
        feature: &'static str,
    },
    /// This version has no adapter for it.
    #[error("{what} is not supported by this version")]
    Unsupported {
        /// What was asked for.
        what: String,
    },
    /// No address was given.
    #[error("a node needs at least one address, for example /ip4/127.0.0.1/tcp/9490")]
    NoAddress,
    /// A peer in a network that the node is not in.
    #[error("{peer} cannot be reached from {bind}: a node needs an address of its own in each network of its peers")]
    OutOfReach {
        /// The peer's address.
        peer: String,
        /// The node's.
        bind: String,
    },
    /// An address over TLS, and no certificates.
    #[error(
        "{address} is over TLS: a node needs the CA, a certificate of it and its key (Builder::tls; serve --tls-ca, --tls-cert, --tls-key)"
    )]
    NoCertificates {
        /// The address.
        address: String,
    },
    /// The node's certificate is for other hosts than its address.
    #[error("the node's certificate is for {}, and not for its address {address}: peers would refuse it", names.join(", "))]
    CertificateForOthers {
        /// The address.
        address: String,
        /// For whom it is.
        names: Vec<String>,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The node does not start.
    #[error(transparent)]
    Start(#[from] StartError),
}
