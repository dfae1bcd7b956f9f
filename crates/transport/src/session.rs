//! What every adapter checks of the process at the other end.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    sync::Arc,
};

use coracle_core::{
    AppendResult, Body, EntryKind, Forwarded, GroupId, Incarnation, Index, InstallSnapshot, Membership, Message,
    NodeId, Run, Term,
};

use crate::{Fault, Frame, GroupHello, Hello, Host, PROTOCOL_VERSION, Peer, Refusal};

/// The nodes that a process hosts, as it said in its [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Hosted {
    nodes: HashMap<(GroupId, NodeId), Incarnation>,
}

impl Hosted {
    /// Those that `hello` names.
    pub fn of(hello: &Hello) -> Hosted {
        Hosted { nodes: hello.groups.iter().map(|group| ((group.group, group.node), group.incarnation)).collect() }
    }

    /// Whether the node is among them, in whichever incarnation.
    pub fn contains(&self, group: GroupId, node: NodeId) -> bool {
        self.nodes.contains_key(&(group, node))
    }

    /// Checks that the node is among them, in this incarnation and no other (C1).
    ///
    /// # Errors
    /// When it is not: whoever is there is a stranger.
    pub fn expect(&self, group: GroupId, node: NodeId, incarnation: Incarnation) -> Result<(), Refusal> {
        match self.nodes.get(&(group, node)) {
            None => Err(Refusal::NotHosted { group, node }),
            Some(found) if *found != incarnation => Err(Refusal::Incarnation { node }),
            Some(_) => Ok(()),
        }
    }
}

/// Checks what the other process says of itself: its version, and whether `host` admits one of its groups at least. The others are looked at again when they send something.
///
/// # Errors
/// The reason to refuse it: that of the first group in common.
pub fn check_hello(host: &dyn Host, hello: &Hello) -> Result<(), Refusal> {
    if hello.version != PROTOCOL_VERSION {
        return Err(Refusal::Version { ours: PROTOCOL_VERSION, theirs: hello.version });
    }
    let mut reason = Refusal::NoGroup;
    for theirs in &hello.groups {
        match host.admit(theirs) {
            Ok(()) => return Ok(()),
            Err(refusal) if reason == Refusal::NoGroup => reason = refusal,
            Err(_) => {}
        }
    }
    Err(reason)
}

/// What is wrong with a frame of a process that was admitted. [`FrameError::is_fatal`] says whether the connection is to be closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The sender is not who shook hands.
    #[error("it is from node {node} of group {group}, which the process that shook hands does not host")]
    Sender {
        /// The frame's group.
        group: GroupId,
        /// The frame's sender.
        node: NodeId,
    },
    /// The receiver is not here.
    #[error("it is for node {node} of group {group}, which is not hosted here")]
    Receiver {
        /// The frame's group.
        group: GroupId,
        /// The frame's receiver.
        node: NodeId,
    },
    /// The sender's group is not admitted here, although another of its process's is.
    #[error("it is from node {node} of group {group}, which is not admitted here: {refusal}")]
    Refused {
        /// The frame's group.
        group: GroupId,
        /// The frame's sender.
        node: NodeId,
        /// Why.
        refusal: Refusal,
    },
    /// No replica sends this.
    #[error(transparent)]
    Impossible(#[from] Impossible),
}

impl FrameError {
    /// Whether no correct process sends such a frame: its connection is closed (C20).
    /// Otherwise the frame alone is dropped, because the other groups of the process are not to suffer: a group may have ended here, or have parted with the sender.
    pub fn is_fatal(&self) -> bool {
        match self {
            FrameError::Sender { .. } | FrameError::Impossible(_) => true,
            FrameError::Receiver { .. } | FrameError::Refused { .. } => false,
        }
    }

    /// What it counts as.
    pub fn fault(&self) -> Fault {
        match self {
            FrameError::Sender { .. } => Fault::Sender,
            FrameError::Receiver { .. } => Fault::Receiver,
            FrameError::Refused { .. } => Fault::Refused,
            FrameError::Impossible(_) => Fault::Impossible,
        }
    }
}

/// A message that no replica sends: forged, or damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Impossible {
    /// A term that no election reaches.
    #[error("term {term} is beyond {max}", max = Term::MAX)]
    Term {
        /// The term.
        term: Term,
    },
    /// An index that no log reaches.
    #[error("index {index} is beyond {max}", max = Index::MAX)]
    Index {
        /// The index.
        index: Index,
    },
    /// A term falls: within a log, or from one message of a sender to the next.
    #[error("the term falls from {from} to {to}")]
    Falls {
        /// The earlier one.
        from: Term,
        /// The later one.
        to: Term,
    },
    /// A membership that does not decode.
    #[error("the membership does not decode")]
    Membership,
}

/// A process that was admitted here and sends frames: what it may send.
pub struct Inbound {
    host: Arc<dyn Host>,
    /// The nodes that it says it hosts.
    senders: BTreeMap<(GroupId, NodeId), Sender>,
}

/// A node of a process that was admitted.
struct Sender {
    hello: GroupHello,
    /// Who was not admitted is looked at again with each frame: it may have become a member since.
    is_admitted: bool,
    /// The last term that it sent. A sender's term never falls, and a connection keeps its frames in order.
    term: Term,
}

impl Inbound {
    /// Lets the process in, if `host` admits one of its groups.
    ///
    /// # Errors
    /// The reason to refuse it.
    pub fn admit(host: Arc<dyn Host>, hello: &Hello) -> Result<Inbound, Refusal> {
        let mut inbound = Inbound { host, senders: BTreeMap::new() };
        inbound.announce(hello)?;
        Ok(inbound)
    }

    /// Shakes hands within a process, where each side can look at the other: `far` lets `near` in, and is who `near` looks for. `near` is told when it is refused.
    ///
    /// # Errors
    /// Why there is no connection.
    pub fn introduce(near: &dyn Host, far: &Arc<dyn Host>, peer: &Peer) -> Result<Inbound, Refusal> {
        let admitted = Inbound::admit(far.clone(), &near.hello());
        let inbound = admitted.inspect_err(|refusal| near.refused(peer.group, peer.id, refusal))?;
        let theirs = far.hello();
        check_hello(near, &theirs)?;
        Hosted::of(&theirs).expect(peer.group, peer.id, peer.incarnation)?;
        Ok(inbound)
    }

    /// Takes what the process says of itself once more, after it began or ceased to host groups.
    ///
    /// # Errors
    /// The reason to refuse it from here on.
    pub fn announce(&mut self, hello: &Hello) -> Result<(), Refusal> {
        check_hello(self.host.as_ref(), hello)?;
        let before = mem::take(&mut self.senders);
        let sender = |hello: &GroupHello| {
            let key = (hello.group, hello.node);
            let term = before.get(&key).map_or(Term::default(), |sender| sender.term);
            (key, Sender { hello: hello.clone(), is_admitted: false, term })
        };
        self.senders = hello.groups.iter().map(sender).collect();
        Ok(())
    }

    /// Checks a frame before it is handed to the host.
    ///
    /// # Errors
    /// What is wrong with it: count it, and drop the frame or close the connection, as [`FrameError::is_fatal`] says.
    pub fn check(&mut self, frame: &Frame) -> Result<(), FrameError> {
        let (group, message) = (frame.group, &frame.message);
        let Some(sender) = self.senders.get_mut(&(group, message.from)) else {
            return Err(FrameError::Sender { group, node: message.from });
        };
        if self.host.hosts(group) != Some(message.to) {
            return Err(FrameError::Receiver { group, node: message.to });
        }
        if !sender.is_admitted {
            let admitted = self.host.admit(&sender.hello);
            admitted.map_err(|refusal| FrameError::Refused { group, node: message.from, refusal })?;
            sender.is_admitted = true;
        }
        check_message(message)?;
        if message.term < sender.term {
            return Err(Impossible::Falls { from: sender.term, to: message.term }.into());
        }
        sender.term = message.term;
        Ok(())
    }
}

/// Checks that a replica could have sent `message`: its terms and indexes are in range, its terms do not fall, its memberships decode.
///
/// # Errors
/// What is impossible about it.
pub fn check_message(message: &Message) -> Result<(), Impossible> {
    check_term(message.term)?;
    match &message.body {
        Body::PreVote { next_term, last_log_index, last_log_term } => {
            check_term(*next_term)?;
            check_position(*last_log_index, *last_log_term)
        }
        Body::PreVoteResponse { next_term, .. } => check_term(*next_term),
        Body::RequestVote { last_log_index, last_log_term, .. } => check_position(*last_log_index, *last_log_term),
        Body::AppendEntries { prev_log_index, prev_log_term, leader_commit, entries } => {
            check_position(*prev_log_index, *prev_log_term)?;
            check_index(*leader_commit)?;
            check_entries(*prev_log_term, entries, message.term)
        }
        Body::AppendEntriesResponse { result, .. } => check_result(result),
        Body::Heartbeat { leader_commit, .. } => check_index(*leader_commit),
        Body::ReadIndexResponse { index, .. } => index.map_or(Ok(()), check_index),
        Body::InstallSnapshot(piece) => check_snapshot(piece, message.term),
        Body::FetchEntries { first, last, entry_term } => {
            check_index(*first)?;
            check_position(*last, *entry_term)
        }
        Body::FetchEntriesResponse { entries, base, .. } => {
            let (index, term) = base.as_ref().map_or_else(Default::default, |base| (base.index, base.term));
            check_position(index, term)?;
            check_rises(term, message.term)?;
            check_entries(Term(0), entries, message.term)
        }
        Body::ProposeResponse { outcomes, .. } => outcomes.iter().try_for_each(|outcome| match outcome {
            Forwarded::Applied { index, .. } => check_index(*index),
            _ => Ok(()),
        }),
        _ => Ok(()),
    }
}

fn check_term(term: Term) -> Result<(), Impossible> {
    if term > Term::MAX { Err(Impossible::Term { term }) } else { Ok(()) }
}

fn check_index(index: Index) -> Result<(), Impossible> {
    if index > Index::MAX { Err(Impossible::Index { index }) } else { Ok(()) }
}

fn check_position(index: Index, term: Term) -> Result<(), Impossible> {
    check_index(index)?;
    check_term(term)
}

fn check_rises(from: Term, to: Term) -> Result<(), Impossible> {
    if to < from { Err(Impossible::Falls { from, to }) } else { Ok(()) }
}

/// The runs follow each other, or they would not have decoded; their ends remain.
fn check_entries(prev_log_term: Term, entries: &[Run], term: Term) -> Result<(), Impossible> {
    let mut last = prev_log_term;
    for run in entries {
        check_index(run.first())?;
        check_index(run.last())?;
        check_rises(last, run.term())?;
        last = run.term();
        let mut memberships = run.entries().iter().filter(|entry| entry.kind == EntryKind::Membership);
        if memberships.any(|entry| Membership::decode(entry.data.clone()).is_err()) {
            return Err(Impossible::Membership);
        }
    }
    check_rises(last, term)
}

fn check_result(result: &AppendResult) -> Result<(), Impossible> {
    match result {
        AppendResult::Matched { index } => check_index(*index),
        AppendResult::Rejected { prev_log_index, hint_index, hint_term } => {
            check_index(*prev_log_index)?;
            check_position(*hint_index, *hint_term)
        }
    }
}

fn check_snapshot(piece: &InstallSnapshot, term: Term) -> Result<(), Impossible> {
    let meta = &piece.meta;
    check_position(meta.last_included_index, meta.last_included_term)?;
    check_index(meta.membership_index)?;
    check_rises(meta.last_included_term, term)?;
    // Its rules are those of the encoding: sorted, without doubles, somebody votes.
    Membership::decode(meta.membership.encode()).map(drop).map_err(|_| Impossible::Membership)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;
    use coracle_core::{Base, Entry, Runs, SnapshotMeta};

    use super::*;
    use crate::GroupHello;

    struct TestHost(Mutex<Hello>);

    impl Host for TestHost {
        fn hello(&self) -> Hello {
            self.0.lock().unwrap().clone()
        }
        fn hosts(&self, group: GroupId) -> Option<NodeId> {
            self.hello().groups.iter().find(|hosted| hosted.group == group).map(|hosted| hosted.node)
        }
        fn admit(&self, theirs: &GroupHello) -> Result<(), Refusal> {
            // Node 9 is a stranger everywhere.
            if theirs.node == NodeId(9) { Err(Refusal::Stranger { node: theirs.node }) } else { Ok(()) }
        }
        fn receive(&self, _: Vec<Frame>) {}
        fn unreachable(&self, _: GroupId, _: NodeId) {}
        fn answer(&self, question: Bytes) -> Bytes {
            question
        }
    }

    fn hello(nodes: &[(u64, u64)]) -> Hello {
        let group = |&(group, node): &(u64, u64)| GroupHello {
            group: GroupId(group),
            cluster_name: "c".into(),
            cluster: None,
            node: NodeId(node),
            incarnation: Incarnation(node + 100),
        };
        Hello { version: PROTOCOL_VERSION, features: 0, boot_nonce: 1, groups: nodes.iter().map(group).collect() }
    }

    fn host(nodes: &[(u64, u64)]) -> Arc<TestHost> {
        Arc::new(TestHost(Mutex::new(hello(nodes))))
    }

    fn message(term: u64, body: Body) -> Message {
        Message { from: NodeId(2), to: NodeId(1), term: Term(term), body }
    }

    fn frame(group: u64, term: u64) -> Frame {
        Frame { group: GroupId(group), message: message(term, Body::HeartbeatResponse { round: 1, promise: 0 }) }
    }

    #[test]
    fn the_expected_incarnation_and_no_other() {
        let hosted = Hosted::of(&hello(&[(1, 2)]));
        assert_eq!(hosted.expect(GroupId(1), NodeId(2), Incarnation(102)), Ok(()));
        let other = hosted.expect(GroupId(1), NodeId(2), Incarnation(1));
        assert_eq!(other, Err(Refusal::Incarnation { node: NodeId(2) }));
        let absent = hosted.expect(GroupId(2), NodeId(2), Incarnation(102));
        assert_eq!(absent, Err(Refusal::NotHosted { group: GroupId(2), node: NodeId(2) }));
    }

    #[test]
    fn a_hello_of_another_version_is_refused_before_the_host_is_asked() {
        let theirs = Hello { version: 9, ..hello(&[]) };
        let refusal = check_hello(host(&[]).as_ref(), &theirs);
        assert_eq!(refusal, Err(Refusal::Version { ours: PROTOCOL_VERSION, theirs: 9 }));
        assert_eq!(check_hello(host(&[]).as_ref(), &hello(&[])), Err(Refusal::NoGroup));
    }

    #[test]
    fn frames_are_from_who_shook_hands_and_for_who_is_here() {
        let ours = host(&[(1, 1)]);
        let mut inbound = Inbound::admit(ours.clone(), &hello(&[(1, 2), (5, 2)])).unwrap();
        assert_eq!(inbound.check(&frame(1, 3)), Ok(()));
        let stranger = inbound.check(&frame(7, 3));
        assert_eq!(stranger, Err(FrameError::Sender { group: GroupId(7), node: NodeId(2) }));
        let misdirected = inbound.check(&frame(5, 3));
        assert_eq!(misdirected, Err(FrameError::Receiver { group: GroupId(5), node: NodeId(1) }));
        *ours.0.lock().unwrap() = hello(&[(1, 1), (5, 1)]);
        assert_eq!(inbound.check(&frame(5, 3)), Ok(()), "a group that was opened since the handshake");
        inbound.announce(&hello(&[(5, 2)])).unwrap();
        assert!(matches!(inbound.check(&frame(1, 3)), Err(FrameError::Sender { .. })));
    }

    #[test]
    fn groups_of_a_process_are_admitted_apart() {
        let strange = |group| Frame {
            group: GroupId(group),
            message: Message { from: NodeId(9), ..message(3, Body::HeartbeatResponse { round: 1, promise: 0 }) },
        };
        let stranger = Refusal::Stranger { node: NodeId(9) };
        assert_eq!(check_hello(host(&[(1, 1)]).as_ref(), &hello(&[(1, 9)])), Err(stranger.clone()));
        let mut inbound = Inbound::admit(host(&[(1, 1), (5, 1)]), &hello(&[(1, 9), (5, 2)])).unwrap();
        assert_eq!(inbound.check(&frame(5, 3)), Ok(()));
        let refused = inbound.check(&strange(1)).unwrap_err();
        assert_eq!(refused, FrameError::Refused { group: GroupId(1), node: NodeId(9), refusal: stranger });
        assert_eq!((refused.is_fatal(), refused.fault()), (false, Fault::Refused));
        assert!(inbound.check(&strange(5)).unwrap_err().is_fatal(), "it does not host that");
        assert_eq!(inbound.check(&frame(5, 3)), Ok(()), "the other group goes on");
    }

    #[test]
    fn a_frame_for_a_group_that_ended_here_harms_no_other() {
        let ours = host(&[(1, 1), (5, 1)]);
        let mut inbound = Inbound::admit(ours.clone(), &hello(&[(1, 2), (5, 2)])).unwrap();
        assert_eq!(inbound.check(&frame(5, 3)), Ok(()));
        *ours.0.lock().unwrap() = hello(&[(1, 1)]);
        let ended = inbound.check(&frame(5, 3)).unwrap_err();
        assert_eq!((ended.is_fatal(), ended.fault()), (false, Fault::Receiver));
        assert_eq!(inbound.check(&frame(1, 3)), Ok(()));
    }

    #[test]
    fn c20_a_senders_term_never_falls() {
        let mut inbound = Inbound::admit(host(&[(1, 1)]), &hello(&[(1, 2)])).unwrap();
        assert_eq!(inbound.check(&frame(1, 3)), Ok(()));
        assert_eq!(inbound.check(&frame(1, 3)), Ok(()));
        let fallen = inbound.check(&frame(1, 2));
        assert_eq!(fallen, Err(Impossible::Falls { from: Term(3), to: Term(2) }.into()));
    }

    #[test]
    fn c20_impossible_messages_are_refused() {
        let (term, index) = (Term(u64::MAX), Index(u64::MAX));
        let append = |prev_log_term, entries| Body::AppendEntries {
            prev_log_index: Index(1),
            prev_log_term: Term(prev_log_term),
            leader_commit: Index(0),
            entries: Runs::from(entries),
        };
        let run = |term, entry| vec![Run::new(Index(2), Term(term), vec![entry])];
        let damaged = Entry { kind: EntryKind::Membership, data: Bytes::from_static(b"?") };
        let base = Base { index: Index(9), term: Term(6), ..Base::default() };
        let meta = SnapshotMeta {
            content: 0,
            last_included_index: Index(1),
            last_included_term: Term(1),
            membership_index: Index(1),
            membership: Membership::of_voters([]),
            size: 0,
            checksum: 0,
        };
        for body in [
            Body::PreVote { next_term: term, last_log_index: Index(1), last_log_term: Term(1) },
            Body::PreVoteResponse { next_term: term, granted: true },
            Body::RequestVote { last_log_index: index, last_log_term: Term(1), is_transfer: false },
            Body::Heartbeat { round: 0, leader_commit: index },
            Body::AppendEntriesResponse { result: AppendResult::Matched { index }, needs_snapshot: false },
            Body::ReadIndexResponse { nonce: 0, sequence: 0, index: Some(index) },
            Body::ProposeResponse {
                nonce: 0,
                sequence: 0,
                outcomes: vec![Forwarded::Applied { index, reply: Bytes::new() }],
            },
            Body::FetchEntries { first: Index(1), last: index, entry_term: Term(1) },
            Body::FetchEntries { first: Index(1), last: Index(1), entry_term: term },
            Body::FetchEntriesResponse { first: Index(2), entries: run(6, Entry::noop()), base: None },
            Body::FetchEntriesResponse { first: Index(2), entries: run(4, damaged.clone()), base: None },
            Body::FetchEntriesResponse { first: Index(2), entries: vec![], base: Some(Box::new(base)) },
            append(4, run(3, Entry::noop())),
            append(4, run(9, Entry::noop())),
            append(4, run(4, damaged)),
            Body::InstallSnapshot(Box::new(InstallSnapshot { meta, offset: 0, data: Bytes::new() })),
        ] {
            let message = message(5, body);
            assert!(check_message(&message).is_err(), "{message:?}");
        }
        assert!(check_message(&message(u64::MAX, Body::HeartbeatResponse { round: 1, promise: 0 })).is_err());
        assert_eq!(check_message(&message(5, append(4, run(5, Entry::noop())))), Ok(()));
    }
}
