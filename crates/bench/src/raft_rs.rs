//! Three replicas of the published crate `raft` (raft-rs), driven its best way: one multi-entry proposal, `batch_append`, its own `MemStorage`.

use bytes::Bytes;
use raft::{
    Config, Error, RawNode,
    eraftpb::{Entry, Message, MessageType},
    storage::MemStorage,
};
use slog::{Discard, Logger, o};

use crate::{COMPACT_EVERY, Trio, payload};

/// Three replicas of raft-rs.
pub struct RaftRs {
    nodes: Vec<Node>,
    payload: Bytes,
    messages: u64,
    /// Where sent messages are gathered before they are delivered.
    outbox: Vec<Message>,
    compacted: u64,
}

struct Node {
    raw: RawNode<MemStorage>,
    inbox: Vec<Message>,
    applied: u64,
    /// The state machine: the sum of the bytes that it was given.
    sum: u64,
}

impl RaftRs {
    /// Three replicas that have elected a leader.
    ///
    /// # Errors
    /// When raft-rs refuses its options or a message.
    ///
    /// # Panics
    /// If they elect none.
    pub fn new() -> Result<RaftRs, Error> {
        let nodes = (1..=3).map(Node::new).collect::<Result<Vec<_>, Error>>()?;
        let mut trio = RaftRs { nodes, payload: payload(), messages: 0, outbox: Vec::new(), compacted: 0 };
        trio.nodes[0].raw.campaign()?;
        trio.step(0)?;
        trio.run()?;
        assert_eq!(trio.nodes[0].raw.raft.state, raft::StateRole::Leader, "the first that campaigns is elected");
        Ok(trio)
    }

    fn run(&mut self) -> Result<(), Error> {
        while self.nodes.iter().any(|node| !node.inbox.is_empty()) {
            for at in 0..self.nodes.len() {
                self.step(at)?;
            }
        }
        Ok(())
    }

    /// Hands a replica everything that arrived, and does all that it asks for.
    fn step(&mut self, at: usize) -> Result<(), Error> {
        let node = &mut self.nodes[at];
        // Stepping puts nothing into this inbox, so that it keeps its memory.
        for message in node.inbox.drain(..) {
            node.raw.step(message)?;
        }
        while node.raw.has_ready() {
            node.handle_ready(&mut self.outbox)?;
        }
        for message in self.outbox.drain(..) {
            self.messages += 1;
            self.nodes[message.to as usize - 1].inbox.push(message);
        }
        Ok(())
    }

    fn round(&mut self, in_flight: usize) -> Result<(), Error> {
        let expected = self.nodes[0].applied + in_flight as u64;
        let entry = Entry { data: self.payload.clone(), ..Entry::default() };
        let mut proposal = Message { from: 1, entries: vec![entry; in_flight].into(), ..Message::default() };
        proposal.set_msg_type(MessageType::MsgPropose);
        self.nodes[0].raw.step(proposal)?;
        self.step(0)?;
        self.run()?;
        assert!(self.nodes.iter().all(|node| node.applied == expected), "every replica applies every entry");
        self.compact_when_due()
    }

    fn compact_when_due(&mut self) -> Result<(), Error> {
        let up_to = self.nodes[0].applied;
        if up_to < self.compacted + COMPACT_EVERY {
            return Ok(());
        }
        self.compacted = up_to;
        for node in &mut self.nodes {
            node.raw.mut_store().wl().compact(up_to)?;
        }
        Ok(())
    }
}

impl Node {
    fn new(id: u64) -> Result<Node, Error> {
        let config = Config {
            id,
            election_tick: 10,
            heartbeat_tick: 1,
            // The same limits as Coracle's defaults.
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 64,
            check_quorum: true,
            pre_vote: true,
            batch_append: true,
            ..Config::default()
        };
        let store = MemStorage::new_with_conf_state((vec![1, 2, 3], vec![]));
        let raw = RawNode::new(&config, store, &Logger::root(Discard, o!()))?;
        Ok(Node { raw, inbox: Vec::new(), applied: 0, sum: 0 })
    }

    fn handle_ready(&mut self, outbox: &mut Vec<Message>) -> Result<(), Error> {
        let mut ready = self.raw.ready();
        outbox.append(&mut ready.take_messages());
        self.apply(&ready.take_committed_entries());
        if !ready.entries().is_empty() {
            self.raw.mut_store().wl().append(ready.entries())?;
        }
        if let Some(hard_state) = ready.hs() {
            self.raw.mut_store().wl().set_hardstate(hard_state.clone());
        }
        outbox.append(&mut ready.take_persisted_messages());
        let mut light = self.raw.advance(ready);
        if let Some(commit) = light.commit_index() {
            self.raw.mut_store().wl().mut_hard_state().set_commit(commit);
        }
        outbox.append(&mut light.take_messages());
        self.apply(&light.take_committed_entries());
        self.raw.advance_apply();
        Ok(())
    }

    fn apply(&mut self, entries: &[Entry]) {
        self.sum += entries.iter().map(|entry| entry.data.len() as u64).sum::<u64>();
        self.applied = entries.last().map_or(self.applied, |entry| entry.index);
    }
}

impl Trio for RaftRs {
    fn round(&mut self, in_flight: usize) {
        let result = RaftRs::round(self, in_flight);
        assert!(result.is_ok(), "raft-rs refused: {result:?}");
    }

    fn messages(&self) -> u64 {
        self.messages
    }
}
