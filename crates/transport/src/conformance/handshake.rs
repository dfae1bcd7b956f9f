//! Who is let in, who is not, and who hears of it.

use coracle_core::{ClusterId, Incarnation, NodeId};

use super::{
    Factory, Verdict,
    process::{GROUP, Process, eventually, hosting, next_round, pair},
};
use crate::{GroupHello, PROTOCOL_VERSION, Peer, Refusal};

/// All that a host may answer.
fn refusals(node: NodeId) -> Vec<Refusal> {
    let (ours, theirs) = ("b".to_owned(), "a".to_owned());
    vec![
        Refusal::ClusterName { ours, theirs },
        Refusal::Cluster { ours: ClusterId(u64::MAX), theirs: ClusterId(1) },
        Refusal::Stranger { node },
        Refusal::Incarnation { node },
        Refusal::NotHosted { group: GROUP, node },
        Refusal::NoGroup,
    ]
}

/// Waits until `a` has heard that `b` does not let it in, and that it is unreachable.
async fn is_refused(a: &Process, b: &Process, expected: &Refusal) {
    let what = format!("the refused host is told: {expected}");
    eventually(&what, || {
        a.send(b.node, next_round());
        a.has_lost(b) && a.host.state().refusals.contains(&(GROUP, b.node, expected.clone()))
    })
    .await;
    let told: Vec<Refusal> = a.host.state().refusals.iter().map(|(_, _, refusal)| refusal.clone()).collect();
    assert!(told.iter().all(|refusal| refusal == expected), "{told:?} was told instead of {expected:?}");
    assert!(b.has_received_nothing(), "a frame of a process that was refused reached the host ({expected:?})");
    assert!(!a.is_connected_to(b), "there is a connection to who refuses ({expected:?})");
}

pub(super) async fn every_refusal_reaches_the_refused(factory: &dyn Factory) -> Verdict {
    for refusal in refusals(NodeId(1)) {
        let (a, b) = pair(factory).await;
        b.host.state().refuses.insert((GROUP, a.node), refusal.clone());
        is_refused(&a, &b, &refusal).await;
    }
    let (a, b) = pair(factory).await;
    a.host.state().hello.version = PROTOCOL_VERSION + 8;
    is_refused(&a, &b, &Refusal::Version { ours: PROTOCOL_VERSION, theirs: PROTOCOL_VERSION + 8 }).await;
    let (a, b) = pair(factory).await;
    a.host.state().hello.groups.clear();
    is_refused(&a, &b, &Refusal::NoGroup).await;
    Verdict::Passed
}

pub(super) async fn a_refusal_is_not_for_ever(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    let refusal = Refusal::Stranger { node: a.node };
    b.host.state().refuses.insert((GROUP, a.node), refusal.clone());
    is_refused(&a, &b, &refusal).await;
    b.host.state().refuses.clear();
    a.reaches(&b).await;
    Verdict::Passed
}

/// Waits until the host of `a` was told that it does not reach `b`, and a few frames more were dropped.
async fn is_unreachable(a: &Process, b: &Process) {
    let mut frames = 0;
    eventually("the host is told that the peer is unreachable, and frames for it are dropped", || {
        a.send(b.node, next_round());
        frames += 1;
        frames > 10 && a.has_lost(b) && a.transport.stats(GROUP, b.node).frames_dropped > 5
    })
    .await;
}

pub(super) async fn who_is_not_admitted_is_not_sent_to(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    a.host.state().refuses.insert((GROUP, b.node), Refusal::Stranger { node: b.node });
    is_unreachable(&a, &b).await;
    assert!(b.has_received_nothing(), "a frame was sent to who is not admitted");
    Verdict::Passed
}

pub(super) async fn another_incarnation_is_a_stranger(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    let addresses = vec![b.address.clone()];
    a.transport.set_peer(Peer { group: GROUP, id: b.node, incarnation: Incarnation(99), addresses });
    is_unreachable(&a, &b).await;
    assert!(b.has_received_nothing(), "a frame for another incarnation of the node arrived");
    a.knows(&b);
    a.reaches(&b).await;
    Verdict::Passed
}

pub(super) async fn another_node_is_a_stranger(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    let c = Process::start(factory, 3).await;
    a.knows_at(&b, vec![c.address.clone()]);
    is_unreachable(&a, &b).await;
    assert!(c.has_received_nothing() && b.has_received_nothing(), "a frame for another node arrived");
    Verdict::Passed
}

pub(super) async fn groups_are_admitted_apart(factory: &dyn Factory) -> Verdict {
    let groups = |node: u64| -> Vec<GroupHello> {
        (1..=2).map(|group| hosting(coracle_core::GroupId(group), NodeId(node))).collect()
    };
    let a = Process::hosting(factory, 1, &factory.bind(), groups(1)).await;
    let b = Process::hosting(factory, 2, &factory.bind(), groups(2)).await;
    a.knows(&b);
    b.host.state().refuses.insert((GROUP, a.node), Refusal::Stranger { node: a.node });
    let other = coracle_core::GroupId(2);
    for _ in 0..5 {
        a.send(b.node, next_round());
        a.reaches_in(other, a.node, &b, b.node).await;
    }
    assert!(b.rounds_from(&a).is_empty(), "a frame of a group that is not admitted arrived");
    b.host.state().refuses.clear();
    a.reaches(&b).await;
    Verdict::Passed
}
