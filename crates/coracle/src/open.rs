//! From URLs and addresses to trait objects: the only place that names concrete adapters.

use std::{path::Path, sync::Arc};

use coracle_storage::Store;
use coracle_transport::{Address, Route, Transport};

use crate::{BuildError, StorageUrl, several::Several, storage_url::StateEngine};

/// How stores are opened, beside their URLs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StoreOptions {
    /// Whether a server that can lose what it acknowledged, or does not tell, is accepted; the store says how durable it is.
    pub allow_weaker_durability: bool,
}

impl StoreOptions {
    /// Accepts a server that can lose what it acknowledged.
    #[must_use]
    pub fn allow_weaker_durability(mut self, is_allowed: bool) -> StoreOptions {
        self.allow_weaker_durability = is_allowed;
        self
    }
}

/// Opens the store that a URL names. This may wait for a disk or a server.
///
/// # Errors
/// When its adapter is not compiled in, or it cannot be opened.
pub fn open_store(url: &StorageUrl) -> Result<Arc<dyn Store>, BuildError> {
    open_store_with(url, &StoreOptions::default())
}

/// [`open_store`] with options.
///
/// # Errors
/// Those of [`open_store`].
pub fn open_store_with(url: &StorageUrl, options: &StoreOptions) -> Result<Arc<dyn Store>, BuildError> {
    #[cfg(not(feature = "redis"))]
    let StoreOptions { allow_weaker_durability: _ } = options;
    match url {
        StorageUrl::Memory => memory_store(),
        StorageUrl::Sled { path } => sled_store(path),
        StorageUrl::File { path, state } => file_store(path, *state),
        #[cfg(feature = "redis")]
        StorageUrl::Redis(url) => {
            use coracle_storage_redis::{RedisOptions, RedisStore};
            let allow_weaker_durability = options.allow_weaker_durability;
            Ok(Arc::new(RedisStore::open(url, RedisOptions { allow_weaker_durability, ..RedisOptions::default() })?))
        }
    }
}

#[cfg(feature = "memory")]
fn memory_store() -> Result<Arc<dyn Store>, BuildError> {
    Ok(Arc::new(coracle_storage_memory::MemoryStore::new()))
}

#[cfg(not(feature = "memory"))]
fn memory_store() -> Result<Arc<dyn Store>, BuildError> {
    Err(BuildError::NotCompiled { what: "data in memory".to_owned(), feature: "memory" })
}

#[cfg(feature = "sled")]
fn sled_store(path: &Path) -> Result<Arc<dyn Store>, BuildError> {
    let options = coracle_storage_sled::SledOptions::default();
    Ok(Arc::new(coracle_storage_sled::SledStore::open(path, options)?))
}

#[cfg(not(feature = "sled"))]
fn sled_store(path: &Path) -> Result<Arc<dyn Store>, BuildError> {
    Err(BuildError::NotCompiled { what: format!("the storage sled:{}", path.display()), feature: "sled" })
}

#[cfg(feature = "file")]
fn file_store(path: &Path, state: StateEngine) -> Result<Arc<dyn Store>, BuildError> {
    use coracle_storage_file::{FileOptions, FileStore};
    let state = match state {
        StateEngine::Sled => sled_store(&path.join("state"))?,
        StateEngine::Memory => memory_store()?,
    };
    Ok(Arc::new(FileStore::open(path, FileOptions::default(), state)?))
}

#[cfg(not(feature = "file"))]
fn file_store(path: &Path, _: StateEngine) -> Result<Arc<dyn Store>, BuildError> {
    Err(BuildError::NotCompiled { what: format!("the storage file:{}", path.display()), feature: "file" })
}

/// The networks that addresses belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    Memory,
    Sockets,
    Grpc,
}

pub(crate) fn network(address: &Address) -> Option<Network> {
    match address.route() {
        Route::Memory { .. } => Some(Network::Memory),
        Route::Tcp { .. } | Route::Unix { .. } => Some(Network::Sockets),
        Route::Grpc { .. } => Some(Network::Grpc),
        _ => None,
    }
}

/// What transports are made of beside addresses.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct TransportOptions {
    /// The node's certificate, its key and the CA, for addresses over TLS.
    #[cfg(feature = "tls")]
    pub tls: Option<coracle_transport::tls::Tls>,
}

impl TransportOptions {
    /// With certificates, for addresses over TLS.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, tls: coracle_transport::tls::Tls) -> TransportOptions {
        self.tls = Some(tls);
        self
    }

    /// Whether an address can be spoken to as it asks for.
    #[cfg(feature = "tls")]
    fn check_security(&self, address: &Address) -> Result<(), BuildError> {
        if address.is_tls() && self.tls.is_none() {
            return Err(BuildError::NoCertificates { address: address.to_string() });
        }
        Ok(())
    }

    #[cfg(not(feature = "tls"))]
    fn check_security(&self, address: &Address) -> Result<(), BuildError> {
        if address.is_tls() {
            return Err(BuildError::NotCompiled { what: format!("the address {address}"), feature: "tls" });
        }
        Ok(())
    }

    /// Whether peers will accept the node's certificate at these, its addresses.
    #[cfg(feature = "tls")]
    pub(crate) fn check_certificate(&self, addresses: &[Address]) -> Result<(), BuildError> {
        use coracle_transport::tls::names_fit;
        let Some(tls) = &self.tls else { return Ok(()) };
        let fits = |address: &Address| address.host().is_none_or(|host| names_fit(tls.certificate(), &[host]));
        match addresses.iter().find(|address| address.is_tls() && !fits(address)) {
            Some(address) => {
                let (address, names) = (address.to_string(), tls.certificate().names());
                Err(BuildError::CertificateForOthers { address, names })
            }
            None => Ok(()),
        }
    }

    #[cfg(not(feature = "tls"))]
    pub(crate) fn check_certificate(&self, _: &[Address]) -> Result<(), BuildError> {
        Ok(())
    }
}

/// Makes the transport that listens on all of `binds`, and reaches every address of their networks. Memory addresses are those of one network per process.
/// Must be called within a tokio runtime.
///
/// # Errors
/// When there is none for one of them, its adapter is not compiled in, or it is over TLS and there are no certificates.
pub fn open_transport(binds: &[Address], options: &TransportOptions) -> Result<Arc<dyn Transport>, BuildError> {
    match binds {
        [] => Err(BuildError::NoAddress),
        [bind] => Ok(open_one(bind, options)?.1),
        binds => {
            let parts: Result<Vec<_>, BuildError> = binds.iter().map(|bind| open_one(bind, options)).collect();
            Ok(Arc::new(Several::new(parts?)))
        }
    }
}

/// Whether a node that listens on `binds` reaches all of `peers`.
pub(crate) fn check_reach(binds: &[Address], peers: &[Address], options: &TransportOptions) -> Result<(), BuildError> {
    peers.iter().try_for_each(|peer| options.check_security(peer))?;
    let out_of_reach = peers.iter().find(|peer| binds.iter().all(|bind| network(bind) != network(peer)));
    match (out_of_reach, binds.first()) {
        (Some(peer), Some(bind)) => Err(BuildError::OutOfReach { peer: peer.to_string(), bind: bind.to_string() }),
        _ => Ok(()),
    }
}

fn open_one(bind: &Address, options: &TransportOptions) -> Result<(Network, Arc<dyn Transport>), BuildError> {
    options.check_security(bind)?;
    match network(bind) {
        Some(Network::Memory) => Ok((Network::Memory, memory(bind)?)),
        Some(Network::Sockets) => Ok((Network::Sockets, sockets(bind, options)?)),
        Some(Network::Grpc) => Ok((Network::Grpc, grpc(bind, options)?)),
        None => Err(BuildError::Unsupported { what: format!("the peer address {bind}") }),
    }
}

#[cfg(feature = "memory")]
fn memory(_: &Address) -> Result<Arc<dyn Transport>, BuildError> {
    static NETWORK: std::sync::OnceLock<coracle_transport_memory::MemoryNetwork> = std::sync::OnceLock::new();
    let network = NETWORK.get_or_init(coracle_transport_memory::MemoryNetwork::new);
    Ok(Arc::new(network.transport()))
}

#[cfg(not(feature = "memory"))]
fn memory(address: &Address) -> Result<Arc<dyn Transport>, BuildError> {
    Err(BuildError::NotCompiled { what: format!("the address {address}"), feature: "memory" })
}

#[cfg(feature = "tcp")]
fn sockets(_: &Address, options: &TransportOptions) -> Result<Arc<dyn Transport>, BuildError> {
    let tcp = coracle_transport_tcp::TcpOptions::default();
    #[cfg(feature = "tls")]
    let tcp = coracle_transport_tcp::TcpOptions { tls: options.tls.clone(), ..tcp };
    #[cfg(not(feature = "tls"))]
    let TransportOptions {} = options;
    Ok(Arc::new(coracle_transport_tcp::TcpTransport::new(tcp)))
}

#[cfg(not(feature = "tcp"))]
fn sockets(address: &Address, _: &TransportOptions) -> Result<Arc<dyn Transport>, BuildError> {
    Err(BuildError::NotCompiled { what: format!("the address {address}"), feature: "tcp" })
}

#[cfg(feature = "grpc")]
fn grpc(_: &Address, options: &TransportOptions) -> Result<Arc<dyn Transport>, BuildError> {
    let grpc = coracle_transport_grpc::GrpcOptions::default();
    #[cfg(feature = "tls")]
    let grpc = coracle_transport_grpc::GrpcOptions { tls: options.tls.clone(), ..grpc };
    #[cfg(not(feature = "tls"))]
    let TransportOptions {} = options;
    Ok(Arc::new(coracle_transport_grpc::GrpcTransport::new(grpc)))
}

#[cfg(not(feature = "grpc"))]
fn grpc(address: &Address, _: &TransportOptions) -> Result<Arc<dyn Transport>, BuildError> {
    Err(BuildError::NotCompiled { what: format!("the address {address}"), feature: "grpc" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<Address> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn refused(texts: &[&str]) -> String {
        open_transport(&addresses(texts), &TransportOptions::default()).map(drop).unwrap_err().to_string()
    }

    #[test]
    fn addresses_without_a_transport_are_refused_by_name() {
        assert!(refused(&[]).contains("at least one address"));
        let none = TransportOptions::default();
        let error = check_reach(&addresses(&["/memory/1"]), &addresses(&["/memory/2", "/ip4/127.0.0.1/tcp/1"]), &none);
        assert!(error.unwrap_err().to_string().contains("/ip4/127.0.0.1/tcp/1"));
        let secure = addresses(&["/ip4/127.0.0.1/tcp/1/tls"]);
        for error in [open_transport(&secure, &none).map(drop), check_reach(&secure, &secure, &none)] {
            let text = error.unwrap_err().to_string();
            assert!(text.contains("/ip4/127.0.0.1/tcp/1/tls") && text.contains("tls"), "{text}");
        }
        if cfg!(not(feature = "grpc")) {
            assert!(refused(&["/ip4/127.0.0.1/tcp/1/http"]).contains("/ip4/127.0.0.1/tcp/1/http"));
        }
    }
}
