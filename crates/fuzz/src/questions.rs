//! What nodes ask and answer each other outside of a group.

use bytes::Bytes;
use coracle_core::{ClusterId, GroupId, Incarnation, Index, MemberRole, NodeId};
use coracle_replica::{
    Answer, AnswerState, Inquiry, Invite, InviteAnswer, JoinAnswer, JoinRefusal, JoinRequest, JoinRole, Question, Wire,
};

use crate::{
    consensus::{some_membership, some_record},
    source::Source,
};

/// Questions and answers; the first byte says which. Each has one encoding.
pub(crate) fn questions(data: &[u8]) {
    let mut source = Source::new(data);
    match source.below(4) {
        0 => one_encoding::<Inquiry>(source.rest()),
        1 => one_encoding::<Answer>(source.rest()),
        2 => one_encoding::<InviteAnswer>(source.rest()),
        _ => one_encoding::<JoinAnswer>(source.rest()),
    }
}

fn one_encoding<T: Wire>(data: &[u8]) {
    if let Ok(decoded) = T::decode(data) {
        assert_eq!(decoded.encode(), data);
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let question = Question {
        group: GroupId(1),
        at: "/memory/2".to_owned(),
        id: NodeId(1),
        incarnation: Incarnation(10),
        cluster_name: "c".to_owned(),
        addresses: vec!["/memory/1".to_owned()],
    };
    let invite = Invite {
        group: GroupId(1),
        cluster: ClusterId(9),
        cluster_name: "c".to_owned(),
        membership: some_membership().encode(),
        index: Index(4),
        expected: Some((NodeId(1), Incarnation(10))),
    };
    let request = JoinRequest {
        group: GroupId(1),
        record: some_record(3, MemberRole::Learner),
        role: JoinRole::Learner,
        cluster_name: "c".to_owned(),
    };
    let mut out = vec![
        of(0, &Inquiry::Founding(question)),
        of(0, &Inquiry::Invite(invite)),
        of(0, &Inquiry::Join(request)),
        of(2, &InviteAnswer::Accepted { record: some_record(3, MemberRole::Voter) }),
        of(2, &InviteAnswer::Refused(JoinRefusal::OtherCluster { cluster: ClusterId(3) })),
        of(3, &JoinAnswer::Accepted { cluster: ClusterId(9), membership: Bytes::from_static(b"m"), index: Index(4) }),
        of(3, &JoinAnswer::AskLeader { addresses: vec!["/memory/1".to_owned()] }),
        of(3, &JoinAnswer::NotYet { reason: "soon".to_owned() }),
    ];
    let states = [
        AnswerState::Unfounded { peers: vec!["/memory/1".to_owned()] },
        AnswerState::Founded { first: some_membership().encode() },
        AnswerState::Joined { cluster: ClusterId(9) },
    ];
    out.extend(states.map(|state| of(1, &answer(state))));
    out
}

fn answer(state: AnswerState) -> Answer {
    Answer {
        echo: Incarnation(1),
        id: NodeId(2),
        incarnation: Incarnation(20),
        boot_nonce: 7,
        cluster_name: "c".to_owned(),
        addresses: vec!["/memory/2".to_owned()],
        client_address: "127.0.0.1:9001".to_owned(),
        state,
    }
}

fn of(which: u8, message: &impl Wire) -> Vec<u8> {
    let mut out = vec![which];
    out.extend(message.encode());
    out
}
