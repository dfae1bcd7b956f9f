//! How an empty store becomes part of a cluster, as builders are told.

use coracle_node::FoundingMode;
use coracle_transport::{Address, AddressError};

use crate::builder::parse;

/// Not parsed yet; of several the last word counts.
pub(crate) enum Founding {
    Alone,
    Peers(Vec<String>),
    Join(Vec<String>),
    Standby,
}

impl Founding {
    pub(crate) fn peers<A: ToString>(peers: impl IntoIterator<Item = A>) -> Founding {
        Founding::Peers(texts(peers))
    }

    pub(crate) fn join<A: ToString>(members: impl IntoIterator<Item = A>) -> Founding {
        Founding::Join(texts(members))
    }

    pub(crate) fn parse(&self) -> Result<FoundingMode, AddressError> {
        Ok(match self {
            Founding::Alone => FoundingMode::Alone,
            Founding::Peers(peers) => FoundingMode::Peers(parse(peers)?),
            Founding::Join(members) => FoundingMode::Join(parse(members)?),
            Founding::Standby => FoundingMode::Standby,
        })
    }
}

/// Whom a node has to reach in order to start.
pub(crate) fn peers_of(founding: &FoundingMode) -> &[Address] {
    match founding {
        FoundingMode::Peers(peers) | FoundingMode::Join(peers) => peers,
        _ => &[],
    }
}

fn texts<A: ToString>(addresses: impl IntoIterator<Item = A>) -> Vec<String> {
    addresses.into_iter().map(|address| address.to_string()).collect()
}
