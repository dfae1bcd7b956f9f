//! As whom a process may speak, by its certificate.

use std::sync::Arc;

use bytes::Bytes;
use coracle_core::{GroupId, NodeId};

use super::{PeerCertificate, names_fit};
use crate::{Address, Frame, GroupHello, Hello, Host, Refusal};

/// The host, as a process with this certificate sees it: it is admitted as a member only if the certificate is for the host of one of that member's addresses.
///
/// Whoever is let in without being a member, while a cluster is founded or joined, needs no more than a certificate of the CA; nor does one whose addresses have no host.
pub struct Certified {
    host: Arc<dyn Host>,
    certificate: PeerCertificate,
}

impl Certified {
    /// `host`, for the process that showed `certificate`.
    pub fn new(host: Arc<dyn Host>, certificate: PeerCertificate) -> Certified {
        Certified { host, certificate }
    }
}

impl Host for Certified {
    fn hello(&self) -> Hello {
        self.host.hello()
    }

    fn hosts(&self, group: GroupId) -> Option<NodeId> {
        self.host.hosts(group)
    }

    fn addresses(&self, group: GroupId, node: NodeId) -> Vec<Address> {
        self.host.addresses(group, node)
    }

    fn admit(&self, theirs: &GroupHello) -> Result<(), Refusal> {
        self.host.admit(theirs)?;
        let addresses = self.host.addresses(theirs.group, theirs.node);
        let expected: Vec<&str> = addresses.iter().filter_map(Address::host).collect();
        if expected.is_empty() || names_fit(&self.certificate, &expected) {
            return Ok(());
        }
        let expected = expected.into_iter().map(str::to_owned).collect();
        Err(Refusal::Certificate { node: theirs.node, expected, presented: self.certificate.names() })
    }

    fn receive(&self, frames: Vec<Frame>) {
        self.host.receive(frames);
    }

    fn unreachable(&self, group: GroupId, peer: NodeId) {
        self.host.unreachable(group, peer);
    }

    fn refused(&self, group: GroupId, peer: NodeId, refusal: &Refusal) {
        self.host.refused(group, peer, refusal);
    }

    fn answer(&self, question: Bytes) -> Bytes {
        self.host.answer(question)
    }
}
