//! Linearizable reads by rounds that the leader makes (C12; thesis §6.4).

use alloc::{collections::VecDeque, vec::Vec};

use super::{
    Raft, RoleState,
    canonical::{Clock, Form},
};
use crate::{Body, Bug, Index, NodeId, Output, ReadId, RejectReason, Time};

/// The reads that wait at a leader.
#[derive(Clone, Debug, Default)]
pub(super) struct LeaderReads {
    /// Not yet in a round.
    arrived: Vec<Asker>,
    /// In a round: its number, and the commit index when it began.
    in_round: VecDeque<(u64, Index, Asker)>,
    /// How many reads of this node wait, and how many questions of peers.
    count: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Asker {
    Local { first: ReadId, count: u32 },
    Peer { id: NodeId, nonce: u64, sequence: u64 },
}

impl Asker {
    fn count(self) -> usize {
        match self {
            Asker::Local { count, .. } => count as usize,
            Asker::Peer { .. } => 1,
        }
    }
}

impl LeaderReads {
    pub(super) fn count(&self) -> usize {
        self.count
    }

    fn push(&mut self, asker: Asker) {
        self.count += asker.count();
        self.arrived.push(asker);
    }

    pub(super) fn canonical(&self) -> impl Form {
        // All that are in a round are in the same.
        let LeaderReads { arrived, in_round, count } = self;
        let in_round: Vec<_> = in_round.iter().map(|(_, index, asker)| (*index, *asker)).collect();
        (arrived, in_round, *count)
    }

    /// The round that reads wait for.
    pub(super) fn open_round(&self) -> Option<u64> {
        self.in_round.front().map(|(round, ..)| *round)
    }

    /// Whether an answer to `round` counts for reads that wait.
    pub(super) fn is_awaited(&self, round: u64) -> bool {
        self.open_round().is_some_and(|awaited| round >= awaited)
    }

    /// This node's own reads, which end here; peers ask again.
    pub(super) fn take_local(&mut self) -> impl Iterator<Item = (ReadId, u32)> {
        self.count = 0;
        let in_round = core::mem::take(&mut self.in_round).into_iter().map(|(_, _, asker)| asker);
        let arrived = core::mem::take(&mut self.arrived);
        in_round.chain(arrived).filter_map(|asker| match asker {
            Asker::Local { first, count } => Some((first, count)),
            Asker::Peer { .. } => None,
        })
    }
}

/// The reads that wait at a follower.
#[derive(Clone, Debug, Default)]
pub(super) struct FollowerReads {
    /// Not yet asked for.
    arrived: Vec<(ReadId, u32)>,
    asked: Option<Asked>,
    /// The number of the last question.
    sequence: u64,
    count: usize,
}

impl FollowerReads {
    pub(super) fn canonical(&self, clock: Clock) -> impl Form {
        // The question that waits is the last one.
        let FollowerReads { arrived, asked, sequence: _, count } = self;
        (arrived, asked.as_ref().map(|asked| asked.canonical(clock)), *count)
    }
}

impl FollowerReads {
    pub(super) fn count(&self) -> usize {
        self.count
    }
}

/// A question to the leader.
#[derive(Clone, Debug)]
struct Asked {
    sequence: u64,
    leader: NodeId,
    reads: Vec<(ReadId, u32)>,
    sent_at: Time,
    /// When the first question for these reads was sent.
    since: Time,
}

impl Asked {
    fn canonical(&self, clock: Clock) -> impl Form {
        let Asked { sequence: _, leader, reads, sent_at, since } = self;
        (*leader, reads, clock.age(*sent_at), clock.age(*since))
    }
}

impl Raft {
    pub(super) fn on_read(&mut self, first: ReadId, count: u32, is_lease: bool) {
        if count == 0 {
            return;
        }
        if self.is_standing_in() {
            let reason = RejectReason::NotLeader { leader: None };
            return self.outputs.results.push(Output::ReadFailed { first, count, reason });
        }
        if is_lease && self.has_lease() {
            let index = self.commit_index;
            return self.outputs.results.push(Output::ReadReady { first, count, index });
        }
        let reads_max = self.config.reads_max;
        let hint = self.leader();
        let reason = match &mut self.role {
            RoleState::Leader(leader) if leader.reads.count + count as usize <= reads_max => {
                return leader.reads.push(Asker::Local { first, count });
            }
            _ if hint.is_none() => RejectReason::NotLeader { leader: None },
            RoleState::Follower if self.reads.count + count as usize <= reads_max => {
                self.reads.count += count as usize;
                return self.reads.arrived.push((first, count));
            }
            _ => RejectReason::Busy,
        };
        self.outputs.results.push(Output::ReadFailed { first, count, reason });
    }

    pub(super) fn on_read_index(&mut self, from: NodeId, nonce: u64, sequence: u64) {
        let (reads_max, is_standing_in) = (self.config.reads_max, self.is_standing_in());
        match &mut self.role {
            RoleState::Leader(leader) if leader.reads.count < reads_max && !is_standing_in => {
                leader.reads.push(Asker::Peer { id: from, nonce, sequence });
            }
            _ => self.send(from, Body::ReadIndexResponse { nonce, sequence, index: None }),
        }
    }

    /// Opens a round for the reads that arrived, and answers those whose round a majority has echoed.
    /// One round is under way at a time: what arrives meanwhile shares the next one.
    pub(super) fn settle_leader_reads(&mut self) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let has_own_commit = self.commit_index >= leader.term_start || self.config.has_bug(Bug::ReadBeforeOwnCommit);
        let may_open = has_own_commit && leader.reads.in_round.is_empty();
        if may_open && !leader.reads.arrived.is_empty() {
            let round = leader.round + 1;
            let commit_index = self.commit_index;
            let arrived = core::mem::take(&mut leader.reads.arrived);
            leader.reads.in_round.extend(arrived.into_iter().map(|asker| (round, commit_index, asker)));
            self.send_round();
        }
        let RoleState::Leader(leader) = &mut self.role else { return };
        if leader.reads.in_round.is_empty() {
            return;
        }
        let echoed = self.quorum.reached(|id| match leader.peer_ref(id) {
            Some(peer) => peer.echoed,
            None if id == self.config.id => u64::MAX,
            None => 0,
        });
        let mut answers = Vec::new();
        while let Some((round, index, asker)) = leader.reads.in_round.front().copied()
            && (round <= echoed || self.config.has_bug(Bug::ReadWithoutRound))
        {
            leader.reads.in_round.pop_front();
            leader.reads.count -= asker.count();
            match asker {
                Asker::Local { first, count } => {
                    self.outputs.results.push(Output::ReadReady { first, count, index });
                }
                Asker::Peer { id, nonce, sequence } => answers.push((id, nonce, sequence, index)),
            }
        }
        for (to, nonce, sequence, index) in answers {
            self.send(to, Body::ReadIndexResponse { nonce, sequence, index: Some(index) });
        }
    }

    /// Asks the leader for what arrived; reads whose leader is gone end here.
    pub(super) fn settle_follower_reads(&mut self) {
        let leader = if self.is_leader() { None } else { self.following.leader };
        let is_other = |asked: &Asked| Some(asked.leader) != leader;
        if self.reads.count > 0 && (leader.is_none() || self.reads.asked.as_ref().is_some_and(is_other)) {
            self.fail_follower_reads(RejectReason::NotLeader { leader: self.leader() });
        }
        if let Some(leader) = leader
            && self.reads.asked.is_none()
            && !self.reads.arrived.is_empty()
        {
            let reads = core::mem::take(&mut self.reads.arrived);
            self.ask(leader, reads, self.now);
        }
    }

    fn ask(&mut self, leader: NodeId, reads: Vec<(ReadId, u32)>, since: Time) {
        self.reads.sequence += 1;
        let sequence = self.reads.sequence;
        self.reads.asked = Some(Asked { sequence, leader, reads, sent_at: self.now, since });
        self.send(leader, Body::ReadIndex { nonce: self.config.seed, sequence });
    }

    pub(super) fn on_read_index_response(&mut self, from: NodeId, nonce: u64, sequence: u64, index: Option<Index>) {
        let is_ours = |asked: &Asked| asked.sequence == sequence && asked.leader == from;
        let is_answer = nonce == self.config.seed && self.reads.asked.as_ref().is_some_and(is_ours);
        if !is_answer && !self.config.has_bug(Bug::UnmatchedReadAnswer) {
            return;
        }
        let Some(asked) = self.reads.asked.take() else { return };
        for (first, count) in asked.reads {
            self.reads.count -= count as usize;
            self.outputs.results.push(match index {
                Some(index) => Output::ReadReady { first, count, index },
                None => {
                    let reason = RejectReason::NotLeader { leader: self.following.leader };
                    Output::ReadFailed { first, count, reason }
                }
            });
        }
    }

    /// When a question that got no answer is put again.
    pub(super) fn read_deadline(&self) -> Option<Time> {
        let asked = self.reads.asked.as_ref()?;
        Some(asked.sent_at.plus(self.config.heartbeat_interval * 2))
    }

    /// Puts a question again that got no answer, and gives up after two election timeouts.
    pub(super) fn check_follower_reads(&mut self) {
        if self.read_deadline().is_none_or(|deadline| self.now < deadline) {
            return;
        }
        let Some(asked) = self.reads.asked.take() else { return };
        if self.now.since(asked.since) < self.config.election_timeout_max * 2 {
            return self.ask(asked.leader, asked.reads, asked.since);
        }
        for (first, count) in asked.reads {
            self.reads.count -= count as usize;
            self.outputs.results.push(Output::ReadFailed { first, count, reason: RejectReason::NoQuorum });
        }
    }

    pub(super) fn fail_follower_reads(&mut self, reason: RejectReason) {
        let asked = self.reads.asked.take().map(|asked| asked.reads).unwrap_or_default();
        for (first, count) in asked.into_iter().chain(core::mem::take(&mut self.reads.arrived)) {
            self.outputs.results.push(Output::ReadFailed { first, count, reason });
        }
        self.reads.count = 0;
    }
}
