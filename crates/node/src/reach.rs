//! Whether nodes can talk to each other at all, by the addresses that they have.

use coracle_core::{MemberRole, Membership, NodeRecord};
use coracle_replica::JoinRefusal;
use coracle_transport::{Address, Route};

/// Ways of talking to each other: a node that has an address of one is taken to reach all that have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Sockets,
    Grpc,
    Memory,
}

/// Why a node of this record would be cut off from a member for ever: they have no way of talking in common.
/// An address that this build does not understand may be any.
pub(crate) fn conflict(membership: &Membership, record: &NodeRecord) -> Option<JoinRefusal> {
    let own = ways(record)?;
    let stays = |node: &&NodeRecord| node.id != record.id && node.role != MemberRole::Retiring;
    let is_apart = |node: &&NodeRecord| ways(node).is_some_and(|ways| ways.iter().all(|way| !own.contains(way)));
    let apart = membership.nodes.iter().filter(stays).find(is_apart)?;
    Some(JoinRefusal::OutOfReach {
        addresses: record.addresses.join(", "),
        member: apart.id,
        member_addresses: apart.addresses.join(", "),
    })
}

fn ways(record: &NodeRecord) -> Option<Vec<Way>> {
    record.addresses.iter().map(|address| way(&address.parse().ok()?)).collect()
}

fn way(address: &Address) -> Option<Way> {
    match address.route() {
        Route::Tcp { .. } | Route::Unix { .. } => Some(Way::Sockets),
        Route::Grpc { .. } => Some(Way::Grpc),
        Route::Memory { .. } => Some(Way::Memory),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use coracle_core::{ClusterId, Incarnation, NodeId};

    use super::*;

    fn record(id: u64, addresses: &[&str]) -> NodeRecord {
        NodeRecord {
            id: NodeId(id),
            incarnation: Incarnation(id),
            addresses: addresses.iter().map(|&address| address.to_owned()).collect(),
            client_address: String::new(),
            role: MemberRole::Voter,
            metadata: Bytes::new(),
        }
    }

    #[test]
    fn a_node_needs_a_way_to_each_member_but_not_the_same_to_all() {
        let (tcp, grpc) = ("/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2/http");
        let membership = Membership::new(ClusterId(1), vec![record(1, &[tcp, grpc]), record(2, &[grpc])]);
        let refused = |addresses: &[&str]| conflict(&membership, &record(3, addresses)).map(|why| why.to_string());
        let why = refused(&[tcp]).unwrap();
        assert!(why.contains(tcp) && why.contains(grpc) && why.contains("0000000000000002"), "{why}");
        assert_eq!(refused(&["/unix/%2Fs", "/ip4/127.0.0.1/tcp/3/tls/http"]), None);
        assert_eq!(refused(&["/something/else"]), None);
        // Its own record is what it is about to replace.
        assert_eq!(conflict(&Membership { nodes: vec![record(3, &[grpc])], ..membership }, &record(3, &[tcp])), None);
    }
}
