//! What follows from invitations and requests to be taken in.

use super::*;
use crate::{Answer, AnswerState, Inquiry, Question, Wire, WireError};

const CLUSTER: ClusterId = ClusterId(7);

fn founder(id: u64) -> Founder {
    Founder {
        group: GroupId(3),
        id: NodeId(id),
        incarnation: Incarnation(id + 100),
        boot_nonce: id,
        cluster_name: "test".to_owned(),
        addresses: vec![format!("/memory/{id}")],
        client_address: format!("client-{id}"),
    }
}

fn of(roles: &[(u64, MemberRole)]) -> Membership {
    Membership::new(CLUSTER, roles.iter().map(|(id, role)| founder(*id).record(*role)).collect())
}

fn voters(ids: &[u64]) -> Membership {
    of(&ids.iter().map(|id| (*id, MemberRole::Voter)).collect::<Vec<_>>())
}

fn invite(membership: &Membership) -> Invite {
    Invite {
        group: GroupId(3),
        cluster: membership.cluster,
        cluster_name: "test".to_owned(),
        membership: membership.encode(),
        index: Index(5),
        expected: None,
    }
}

fn request(id: u64, role: JoinRole) -> JoinRequest {
    JoinRequest {
        group: GroupId(3),
        record: founder(id).record(MemberRole::Learner),
        role,
        cluster_name: "test".to_owned(),
    }
}

/// What node 1 says to it.
fn asked(request: &JoinRequest, membership: &Membership, leader: Option<u64>) -> Verdict {
    let leader = leader.map(NodeId);
    request.consider(Asked { id: NodeId(1), cluster_name: "test", membership, index: Index(5), leader })
}

fn proposed_role(verdict: &Verdict) -> Option<MemberRole> {
    match verdict {
        Verdict::Propose(record) => Some(record.role),
        Verdict::Answer(_) => None,
    }
}

#[test]
fn c02_an_invitation_binds_those_that_are_free_or_of_the_cluster() {
    let (members, own) = (voters(&[1, 2]), founder(3));
    assert_eq!(invite(&members).consider(&own, Bond::Free), Ok(members.clone()));
    assert_eq!(invite(&members).consider(&own, Bond::Cluster(CLUSTER)), Ok(members.clone()));
    assert_eq!(invite(&members).consider(&own, Bond::Founding), Err(JoinRefusal::Founding));
    let other = JoinRefusal::OtherCluster { cluster: ClusterId(8) };
    assert_eq!(invite(&members).consider(&own, Bond::Cluster(ClusterId(8))), Err(other));
    let named = Invite { cluster_name: "other".to_owned(), ..invite(&members) };
    let name = JoinRefusal::ClusterName { node: "test".to_owned(), cluster: "other".to_owned() };
    assert_eq!(named.consider(&own, Bond::Free), Err(name));
}

#[test]
fn c02_an_invitation_tells_a_membership_of_its_cluster() {
    let own = founder(3);
    let nobody = Membership { nodes: Vec::new(), ..voters(&[1]) };
    let foreign = Membership { cluster: ClusterId(8), ..voters(&[1]) };
    for bytes in [nobody.encode(), foreign.encode(), Bytes::from_static(b"?")] {
        let invite = Invite { membership: bytes, ..invite(&voters(&[1])) };
        assert!(matches!(invite.consider(&own, Bond::Free), Err(JoinRefusal::Membership { .. })));
    }
}

#[test]
fn h34_whoever_has_a_members_address_is_not_taken_for_it() {
    // Node 2 was wiped: another node is where it was.
    let new = Founder { addresses: founder(2).addresses, ..founder(9) };
    let members = voters(&[1, 2]);
    let wiped = JoinRefusal::Wiped { member: NodeId(2) };
    assert!(wiped.to_string().contains("`coracle leave 2`") || wiped.to_string().contains(&NodeId(2).to_string()));
    assert_eq!(invite(&members).consider(&new, Bond::Free), Err(wiped.clone()));
    let expected = Invite { expected: Some((NodeId(2), Incarnation(102))), ..invite(&members) };
    assert_eq!(expected.consider(&new, Bond::Free), Err(JoinRefusal::Unexpected { node: NodeId(9) }));
    let request = JoinRequest { record: new.record(MemberRole::Voter), ..request(9, JoinRole::Voter) };
    assert_eq!(asked(&request, &members, Some(1)), Verdict::Answer(JoinAnswer::Refused(wiped)));
    // Once the old one is on its way out, there is room.
    let leaving = of(&[(1, MemberRole::Voter), (2, MemberRole::Retiring)]);
    assert_eq!(proposed_role(&asked(&request, &leaving, Some(1))), Some(MemberRole::Voter));
}

#[test]
fn h34_another_life_of_a_member_is_refused() {
    let mut copied = request(2, JoinRole::Voter);
    copied.record.incarnation = Incarnation(1);
    let refused = Verdict::Answer(JoinAnswer::Refused(JoinRefusal::Incarnation { node: NodeId(2) }));
    assert_eq!(asked(&copied, &voters(&[1, 2]), Some(1)), refused);
}

#[test]
fn c02_only_the_leader_takes_nodes_in() {
    let members = voters(&[1, 2]);
    let newcomer = request(3, JoinRole::Voter);
    let redirected = JoinAnswer::AskLeader { addresses: vec!["/memory/2".to_owned()] };
    assert_eq!(asked(&newcomer, &members, Some(2)), Verdict::Answer(redirected));
    assert!(matches!(asked(&newcomer, &members, None), Verdict::Answer(JoinAnswer::NotYet { .. })));
    // What a follower knows may be old: it does not refuse either.
    let new = Founder { addresses: founder(2).addresses, ..founder(9) };
    let wiped = JoinRequest { record: new.record(MemberRole::Voter), ..request(9, JoinRole::Voter) };
    assert!(matches!(asked(&wiped, &members, Some(2)), Verdict::Answer(JoinAnswer::AskLeader { .. })));
    assert_eq!(proposed_role(&asked(&newcomer, &members, Some(1))), Some(MemberRole::Voter));
    let elsewhere = JoinRequest { cluster_name: "other".to_owned(), ..newcomer };
    let Verdict::Answer(JoinAnswer::Refused(refusal)) = asked(&elsewhere, &members, None) else { panic!("refused") };
    assert_eq!(refusal, JoinRefusal::ClusterName { node: "other".to_owned(), cluster: "test".to_owned() });
}

#[test]
fn c02_asking_again_changes_nothing() {
    let members = of(&[(1, MemberRole::Voter), (2, MemberRole::Promotable), (3, MemberRole::Learner)]);
    let accepted = Verdict::Answer(JoinAnswer::accepted(&members, Index(5)));
    assert_eq!(asked(&request(2, JoinRole::Voter), &members, Some(1)), accepted);
    assert_eq!(asked(&request(3, JoinRole::Learner), &members, Some(1)), accepted);
    assert_eq!(asked(&request(1, JoinRole::Learner), &members, Some(1)), accepted, "a voter stays one");
    // A learner may be promoted, and a member may have moved.
    assert_eq!(proposed_role(&asked(&request(3, JoinRole::Voter), &members, Some(1))), Some(MemberRole::Voter));
    // Who is about to go asks to stay.
    let leaving = of(&[(1, MemberRole::Voter), (2, MemberRole::Retiring)]);
    assert_eq!(proposed_role(&asked(&request(2, JoinRole::Learner), &leaving, Some(1))), Some(MemberRole::Learner));
    let mut moved = request(2, JoinRole::Learner);
    moved.record.addresses = vec!["/memory/20".to_owned()];
    assert_eq!(proposed_role(&asked(&moved, &members, Some(1))), Some(MemberRole::Voter));
}

#[test]
fn what_the_application_keeps_with_a_member_stays() {
    let mut members = voters(&[1, 2]);
    members.nodes[1].metadata = Bytes::from_static(b"rack 5");
    let moved = NodeRecord { addresses: Vec::new(), ..founder(2).record(MemberRole::Learner) };
    assert_eq!(proposed(&members, moved, JoinRole::Voter).metadata, "rack 5");
}

#[test]
fn questions_and_answers_survive_the_wire() {
    let inquiries = [Inquiry::Invite(invite(&voters(&[1, 2]))), Inquiry::Join(request(3, JoinRole::Learner))];
    for inquiry in inquiries {
        assert_eq!(inquiry.group(), GroupId(3));
        let bytes = inquiry.encode();
        assert_eq!(Inquiry::decode(&bytes), Ok(inquiry));
        for len in 1..bytes.len() {
            assert!(matches!(Inquiry::decode(&bytes[..len]), Err(WireError::Undecodable(_))), "{len} bytes");
        }
    }
    let refusal = JoinRefusal::Wiped { member: NodeId(2) };
    for answer in [
        JoinAnswer::accepted(&voters(&[1]), Index(5)),
        JoinAnswer::NotYet { reason: "no".to_owned() },
        JoinAnswer::Refused(refusal.clone()),
    ] {
        assert_eq!(JoinAnswer::decode(&answer.encode()), Ok(answer));
    }
    for answer in
        [InviteAnswer::Accepted { record: founder(3).record(MemberRole::Learner) }, InviteAnswer::Refused(refusal)]
    {
        assert_eq!(InviteAnswer::decode(&answer.encode()), Ok(answer));
    }
    let question = Question {
        group: GroupId(3),
        at: "/memory/1".to_owned(),
        id: NodeId(2),
        incarnation: Incarnation(2),
        cluster_name: "test".to_owned(),
        addresses: Vec::new(),
    };
    let joined = founder(1).answer(&question, AnswerState::Joined { cluster: CLUSTER });
    assert_eq!(Answer::decode(&joined.encode()), Ok(joined));
}

#[test]
fn c20_a_record_from_outside_takes_no_more_room_than_its_due() {
    let members = voters(&[1, 2, 3]);
    let mut newcomer = request(4, JoinRole::Learner);
    newcomer.record.metadata = Bytes::from(vec![0; 200 << 10]);
    let Verdict::Propose(record) = asked(&newcomer, &members, Some(1)) else { panic!("it is to be proposed") };
    assert_eq!(record.metadata, Bytes::new());
    let refused = |addresses: Vec<String>, client_address: String| {
        let mut newcomer = request(4, JoinRole::Voter);
        (newcomer.record.addresses, newcomer.record.client_address) = (addresses, client_address);
        let verdict = asked(&newcomer, &members, Some(1));
        matches!(verdict, Verdict::Answer(JoinAnswer::Refused(JoinRefusal::Membership { .. })))
    };
    let there = || vec!["/memory/4".to_owned()];
    assert!(!refused(there(), String::new()));
    assert!(refused(Vec::new(), "client-4".to_owned()));
    assert!(refused(vec![String::new(); 3], String::new()));
    assert!(refused(vec!["/memory/4".to_owned(); 1000], String::new()));
    assert!(refused(there(), "x".repeat(5000)));
}
