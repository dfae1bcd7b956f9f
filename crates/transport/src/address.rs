//! Where a node is, and over which transport.

use std::{fmt, str::FromStr};

/// Where a node is: a multiaddr whose every part is understood, or the equivalent URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    text: String,
    route: Route,
}

/// What an address means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Route {
    /// MessagePack over TCP.
    Tcp {
        /// An IP address or a name.
        host: String,
        /// The port; 0 lets the system choose when listening.
        port: u16,
    },
    /// MessagePack over a Unix socket.
    Unix {
        /// The socket's path.
        path: String,
    },
    /// The network inside this process.
    Memory {
        /// The address there.
        id: u64,
    },
    /// gRPC over TCP.
    Grpc {
        /// An IP address or a name.
        host: String,
        /// The port.
        port: u16,
    },
}

/// Why a text is not an address: names the part that does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{text}\" is not an address: {reason}; expected /ip4/1.2.3.4/tcp/9490, /dns4/host/tcp/9490, /unix/%2Frun%2Fc.sock, /memory/7 or tcp+msgpack://host:port"
)]
pub struct AddressError {
    /// The text.
    pub text: String,
    /// What is wrong with which part.
    pub reason: String,
}

impl Address {
    /// What it means.
    pub fn route(&self) -> &Route {
        &self.route
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        Err(AddressError { text: text.to_owned(), reason: "not parsed yet".to_owned() })
    }
}
