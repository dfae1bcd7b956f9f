//! From URLs and addresses to trait objects: the only place that names concrete adapters.

use std::sync::Arc;

use coracle_storage::Store;
use coracle_transport::{Address, Route, Transport};

use crate::{BuildError, StorageUrl};

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
enum Network {
    Memory,
    Sockets,
    Grpc,
}

fn network(address: &Address) -> Option<Network> {
    match address.route() {
        Route::Memory { .. } => Some(Network::Memory),
        Route::Tcp { .. } | Route::Unix { .. } => Some(Network::Sockets),
        Route::Grpc { .. } => Some(Network::Grpc),
        _ => None,
    }
}

/// Makes the transport that speaks to all of `addresses`. Memory addresses are those of one network per process.
/// Must be called within a tokio runtime.
///
/// # Errors
/// When there is none that speaks to all of them, or its adapter is not compiled in.
pub fn open_transport(addresses: &[Address]) -> Result<Arc<dyn Transport>, BuildError> {
    let first = addresses.first().ok_or(BuildError::NoAddress)?;
    let kind = network(first);
    if let Some(second) = addresses.iter().find(|address| network(address) != kind) {
        return Err(BuildError::MixedNetworks { first: first.to_string(), second: second.to_string() });
    }
    match kind {
        Some(Network::Memory) => memory(first),
        Some(Network::Sockets) => sockets(first),
        Some(Network::Grpc) | None => Err(BuildError::Unsupported { what: format!("the peer address {first}") }),
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
        assert!(refused(&["/memory/1", "/ip4/127.0.0.1/tcp/1"]).contains("/memory/1 and /ip4/127.0.0.1/tcp/1"));
        assert!(refused(&["/ip4/127.0.0.1/tcp/1/http"]).contains("/ip4/127.0.0.1/tcp/1/http"));
    }
}
