//! Many groups and nodes in one process.

use coracle_core::{Body, GroupId, NodeId};

use super::{
    Factory, Verdict,
    process::{GROUP, Process, assert_rising, eventually, frame, hosting, next_round, pair},
    proxy::Proxy,
};
use crate::{GroupHello, Sent};

/// The groups of a process, each with a node of its own.
fn groups(process: u64, count: u64) -> Vec<GroupHello> {
    (1..=count).map(|group| hosting(GroupId(group), NodeId(process * 1000 + group))).collect()
}

pub(super) async fn many_groups_and_nodes_share_a_connection(factory: &dyn Factory) -> Verdict {
    const COUNT: u64 = 50;
    let a = Process::hosting(factory, 1, &factory.bind(), groups(1, COUNT)).await;
    let b = Process::hosting(factory, 2, &factory.bind(), groups(2, COUNT)).await;
    let proxy = Proxy::to(&b.address).await;
    let address = proxy.as_ref().map_or(&b.address, |proxy| &proxy.address);
    a.knows_at(&b, vec![address.clone()]);
    let ends = |group: u64| (GroupId(group), NodeId(1000 + group), NodeId(2000 + group));
    for group in 1..=COUNT {
        let (group, from, to) = ends(group);
        a.reaches_in(group, from, &b, to).await;
    }
    for round in 0..20 {
        for group in 1..=COUNT {
            let (group, from, to) = ends(group);
            let body = Body::HeartbeatResponse { round: (1 << 60) + round, promise: 0 };
            assert_eq!(a.transport.send(frame(group, from, to, body)), Sent::Queued, "{group}, frame {round}");
        }
    }
    for group in 1..=COUNT {
        let (group, from, _) = ends(group);
        eventually("the last frame of each group", || b.rounds_in(group, from).last() == Some(&((1 << 60) + 19))).await;
        let rounds = b.rounds_in(group, from);
        assert_rising(&rounds);
        assert_eq!(rounds.iter().filter(|&&round| round >= 1 << 60).count(), 20, "all frames of group {group}");
    }
    let connections = proxy.map_or(1, |proxy| proxy.accepted());
    assert_eq!(connections, 1, "{COUNT} groups share one connection");
    Verdict::Passed
}

pub(super) async fn a_group_that_comes_later(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    a.reaches(&b).await;
    let later = GroupId(7);
    for process in [&a, &b] {
        process.host.state().hello.groups.push(hosting(later, process.node));
    }
    a.knows(&b);
    a.reaches_in(later, a.node, &b, b.node).await;
    a.reaches(&b).await;
    assert!(!a.has_lost(&b), "a group that was opened cost another its connection");
    Verdict::Passed
}

pub(super) async fn a_group_that_is_taken_away(factory: &dyn Factory) -> Verdict {
    let bind = factory.bind();
    let a = Process::hosting(factory, 1, &bind, groups(1, 2)).await;
    let b = Process::hosting(factory, 2, &factory.bind(), groups(2, 2)).await;
    a.knows(&b);
    let (first, second) = ((GroupId(1), NodeId(1001), NodeId(2001)), (GroupId(2), NodeId(1002), NodeId(2002)));
    for (group, from, to) in [first, second] {
        a.reaches_in(group, from, &b, to).await;
    }
    b.host.state().hello.groups.retain(|hosted| hosted.group != second.0);
    b.forgets_what_it_was_told();
    a.forgets_what_it_was_told();
    for _ in 0..20 {
        let body = Body::HeartbeatResponse { round: next_round(), promise: 0 };
        a.transport.send(frame(second.0, second.1, second.2, body));
        a.reaches_in(first.0, first.1, &b, first.2).await;
    }
    assert!(b.rounds_in(second.0, second.1).is_empty(), "a frame for a group that was taken away reached the host");
    let lost = a.host.state().lost.contains(&(first.0, first.2));
    assert!(!lost, "a group that was taken away cost another its connection");
    b.host.state().hello.groups.push(hosting(second.0, second.2));
    a.reaches_in(second.0, second.1, &b, second.2).await;
    Verdict::Passed
}

pub(super) async fn frames_for_absent_groups_are_dropped_alone(factory: &dyn Factory) -> Verdict {
    let absent = GroupId(5);
    let a = Process::hosting(factory, 1, &factory.bind(), vec![hosting(GROUP, NodeId(1)), hosting(absent, NodeId(1))])
        .await;
    let b = Process::start(factory, 2).await;
    a.knows(&b);
    let (id, incarnation) = (b.node, hosting(absent, b.node).incarnation);
    a.transport.set_peer(crate::Peer { group: absent, id, incarnation, addresses: vec![b.address.clone()] });
    a.reaches(&b).await;
    eventually("the host is told that the group is not there", || {
        let body = Body::HeartbeatResponse { round: next_round(), promise: 0 };
        a.transport.send(frame(absent, a.node, b.node, body));
        a.host.state().lost.contains(&(absent, b.node))
    })
    .await;
    a.reaches(&b).await;
    assert!(b.rounds_in(absent, a.node).is_empty(), "a frame for a group that is not hosted reached the host");
    assert!(!a.has_lost(&b), "a group that is not there cost another its connection");
    assert!(!a.transport.stats(absent, b.node).is_connected, "there is a connection to a group that is not there");
    Verdict::Passed
}
