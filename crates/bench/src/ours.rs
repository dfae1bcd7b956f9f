//! Three replicas of `coracle-core`, with a log in memory.

use std::collections::VecDeque;

use bytes::Bytes;
use coracle_core::{
    Config, Index, Input, Membership, Message, NodeId, Output, Persist, ProposalId, Raft, Recovered, Run, Time,
};

use crate::{COMPACT_EVERY, Trio, payload};

/// Three replicas of `coracle-core`.
pub struct Ours {
    nodes: Vec<Node>,
    leader: usize,
    now: Time,
    payload: Bytes,
    next_proposal: ProposalId,
    /// Proposals that have ended.
    done: u64,
    messages: u64,
    /// An empty inbox to swap in, so that inboxes keep their memory.
    spare: Vec<Message>,
    compacted: Index,
}

struct Node {
    raft: Raft,
    inbox: Vec<Message>,
    log: VecDeque<Run>,
    applied: Index,
    /// The state machine: the sum of the bytes that it was given.
    sum: u64,
}

impl Ours {
    /// Three replicas that have elected a leader.
    ///
    /// # Panics
    /// If they elect none.
    #[allow(clippy::new_without_default, reason = "it runs an election")]
    pub fn new() -> Ours {
        let ids = [1, 2, 3].map(NodeId);
        let nodes = ids.into_iter().map(|id| Node::new(id, &Membership::of_voters(ids))).collect();
        let mut trio = Ours {
            nodes,
            leader: 0,
            // Past every election timeout: the first that is told the time campaigns.
            now: Time(2_000_000_000),
            payload: payload(),
            next_proposal: ProposalId(0),
            done: 0,
            messages: 0,
            spare: Vec::new(),
            compacted: Index::ZERO,
        };
        trio.nodes[0].raft.handle(trio.now, Input::Time);
        trio.step(0);
        trio.run();
        assert!(trio.nodes[trio.leader].raft.is_leader(), "three replicas at rest elect the first that asks");
        trio
    }

    /// Runs until nothing is on its way.
    fn run(&mut self) {
        while self.nodes.iter().any(|node| !node.inbox.is_empty()) {
            for at in 0..self.nodes.len() {
                self.step(at);
            }
        }
    }

    /// Hands a replica everything that arrived, and does all that it asks for.
    fn step(&mut self, at: usize) {
        let now = self.now;
        let mut inbox = std::mem::replace(&mut self.nodes[at].inbox, std::mem::take(&mut self.spare));
        for message in inbox.drain(..) {
            self.nodes[at].raft.handle(now, Input::Message(message));
        }
        self.spare = inbox;
        loop {
            let node = &mut self.nodes[at];
            match node.raft.poll() {
                Output::Wake { .. } => return,
                Output::Send(message) => {
                    self.messages += 1;
                    self.nodes[message.to.0 as usize - 1].inbox.push(message);
                }
                Output::Persist(persist) => node.write(now, persist),
                Output::Apply { entries } => node.apply(now, &entries),
                Output::Done { count, .. } => self.done += u64::from(count),
                _ => {}
            }
        }
    }

    fn compact_when_due(&mut self) {
        let up_to = self.nodes[self.leader].applied;
        if up_to.0 < self.compacted.0 + COMPACT_EVERY {
            return;
        }
        self.compacted = up_to;
        for at in 0..self.nodes.len() {
            self.nodes[at].raft.handle(self.now, Input::Compact { up_to });
            self.step(at);
        }
    }
}

impl Node {
    fn new(id: NodeId, membership: &Membership) -> Node {
        let recovered = Recovered::founded(membership.clone());
        let log = recovered.tail.iter().cloned().collect();
        let raft = Raft::new(Config::new(id, 1), recovered, Time::ZERO);
        #[allow(clippy::unwrap_used, reason = "the defaults and a founded log are valid")]
        let raft = raft.unwrap();
        Node { raft, inbox: Vec::new(), log, applied: Index::ZERO, sum: 0 }
    }

    fn write(&mut self, now: Time, persist: Persist) {
        let Persist { ticket, truncate_from, entries, base, .. } = persist;
        assert_eq!(truncate_from, None, "the leader never changes");
        self.log.extend(entries);
        if let Some(base) = base {
            while self.log.front().is_some_and(|run| run.last() <= base.index) {
                self.log.pop_front();
            }
        }
        self.raft.handle(now, Input::Persisted { ticket });
    }

    fn apply(&mut self, now: Time, entries: &[Run]) {
        for run in entries {
            self.sum += run.entries().iter().map(|entry| entry.data.len() as u64).sum::<u64>();
            self.applied = run.last();
        }
        self.raft.handle(now, Input::Applied { applied: self.applied, flushed: self.applied });
    }
}

impl Trio for Ours {
    fn round(&mut self, in_flight: usize) {
        let expected = self.nodes[self.leader].applied.plus(in_flight as u64);
        let (first, commands) = (self.next_proposal, vec![self.payload.clone(); in_flight]);
        self.next_proposal.0 += in_flight as u64;
        self.nodes[self.leader].raft.handle(self.now, Input::Propose { first, commands });
        self.step(self.leader);
        self.run();
        assert!(self.nodes.iter().all(|node| node.applied == expected), "every replica applies every entry");
        assert_eq!(self.done, self.next_proposal.0, "every proposal ends");
        self.compact_when_due();
    }

    fn messages(&self) -> u64 {
        self.messages
    }
}
