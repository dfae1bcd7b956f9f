//! From URLs and addresses to trait objects: the only place that names concrete adapters.

use std::sync::Arc;

use coracle_storage::Store;
use coracle_transport::{Address, Route, Transport};

use crate::{BuildError, StorageUrl, several::Several};

/// Opens the store that a URL names. This may wait for a disk.
///
/// # Errors
/// When its adapter is not compiled in, or it cannot be opened.
pub fn open_store(url: &StorageUrl) -> Result<Arc<dyn Store>, BuildError> {
    match url {
        #[cfg(feature = "memory")]
        StorageUrl::Memory => Ok(Arc::new(coracle_storage_memory::MemoryStore::new())),
        #[cfg(feature = "sled")]
        StorageUrl::Sled { path } => {
            let options = coracle_storage_sled::SledOptions::default();
            Ok(Arc::new(coracle_storage_sled::SledStore::open(path, options)?))
        }
        #[cfg(not(all(feature = "memory", feature = "sled")))]
        missing => Err(BuildError::NotCompiled { what: format!("the storage {missing}"), feature: missing.engine() }),
    }
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

/// Makes the transport that listens on all of `binds`, and reaches every address of their networks. Memory addresses are those of one network per process.
/// Must be called within a tokio runtime.
///
/// # Errors
/// When there is none for one of them, or its adapter is not compiled in.
pub fn open_transport(binds: &[Address]) -> Result<Arc<dyn Transport>, BuildError> {
    match binds {
        [] => Err(BuildError::NoAddress),
        [bind] => Ok(open_one(bind)?.1),
        binds => {
            let parts: Result<Vec<_>, BuildError> = binds.iter().map(open_one).collect();
            Ok(Arc::new(Several::new(parts?)))
        }
    }
}

/// Whether a node that listens on `binds` reaches all of `peers`.
pub(crate) fn check_reach(binds: &[Address], peers: &[Address]) -> Result<(), BuildError> {
    let out_of_reach = peers.iter().find(|peer| binds.iter().all(|bind| network(bind) != network(peer)));
    match (out_of_reach, binds.first()) {
        (Some(peer), Some(bind)) => Err(BuildError::OutOfReach { peer: peer.to_string(), bind: bind.to_string() }),
        _ => Ok(()),
    }
}

fn open_one(bind: &Address) -> Result<(Network, Arc<dyn Transport>), BuildError> {
    match network(bind) {
        _ if bind.is_tls() => Err(BuildError::Unsupported { what: format!("TLS, for {bind},") }),
        Some(Network::Memory) => Ok((Network::Memory, memory(bind)?)),
        Some(Network::Sockets) => Ok((Network::Sockets, sockets(bind)?)),
        Some(Network::Grpc) | None => Err(BuildError::Unsupported { what: format!("the peer address {bind}") }),
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
fn sockets(_: &Address) -> Result<Arc<dyn Transport>, BuildError> {
    let options = coracle_transport_tcp::TcpOptions::default();
    Ok(Arc::new(coracle_transport_tcp::TcpTransport::new(options)))
}

#[cfg(not(feature = "tcp"))]
fn sockets(address: &Address) -> Result<Arc<dyn Transport>, BuildError> {
    Err(BuildError::NotCompiled { what: format!("the address {address}"), feature: "tcp" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<Address> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn refused(texts: &[&str]) -> String {
        open_transport(&addresses(texts)).map(drop).unwrap_err().to_string()
    }

    #[test]
    fn addresses_without_a_transport_are_refused_by_name() {
        assert!(refused(&[]).contains("at least one address"));
        let error = check_reach(&addresses(&["/memory/1"]), &addresses(&["/memory/2", "/ip4/127.0.0.1/tcp/1"]));
        assert!(error.unwrap_err().to_string().contains("/ip4/127.0.0.1/tcp/1"));
        assert!(refused(&["/ip4/127.0.0.1/tcp/1/http"]).contains("/ip4/127.0.0.1/tcp/1/http"));
    }
}
