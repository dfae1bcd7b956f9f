//! Taking over, stepping down, the quorum, committing (Raft §5.2, §5.3, §5.4.2, §8).

use alloc::{collections::VecDeque, vec::Vec};
use core::time::Duration;

use super::{
    Progress, Raft, RoleState,
    canonical::{Clock, Form},
    lease::Lease,
    promotion::Promotion,
    proposals::Waiting,
    reads::LeaderReads,
    replication::{Peer, Standing},
    transfer::Transfer,
};
use crate::{Body, Bug, CalledOff, Entry, Index, NodeId, Outcome, Output, RejectReason, Run, Time};

/// What a leader keeps for its term.
#[derive(Clone, Debug)]
pub(super) struct Leader {
    /// Everybody in the membership but this node, sorted by id; after them those who were removed and are still served.
    pub(super) peers: Vec<Peer>,
    /// Its no-op: the first entry of its term (Raft §8).
    pub(super) term_start: Index,
    /// Proposals by position, parallel to the uncommitted log.
    pub(super) waiting: VecDeque<Waiting>,
    /// The bytes of `waiting`.
    pub(super) uncommitted_bytes: usize,
    /// Proposals that are committed and not applied here: the last index and the bytes of each portion.
    pub(super) unapplied: VecDeque<(Index, usize)>,
    /// The bytes of `unapplied`.
    pub(super) unapplied_bytes: usize,
    pub(super) reads: LeaderReads,
    pub(super) lease: Lease,
    /// What the change waits for that is under way.
    pub(super) promotion: Option<Promotion>,
    /// The changes that it called off last, in order.
    pub(super) called_off: Vec<CalledOff>,
    /// The number of the last round of heartbeats.
    pub(super) round: u64,
    /// A multiple of the interval, so that all groups of a process send theirs at the same time, in one write.
    pub(super) heartbeat_deadline: Time,
    /// What was committed at the last heartbeat: who has this keeps up.
    pub(super) commit_at_heartbeat: Index,
    /// Whom leadership is being handed over to.
    pub(super) transfer: Option<Transfer>,
    /// When the quorum is looked at next.
    pub(super) quorum_deadline: Time,
}

impl Leader {
    pub(super) fn peer(&mut self, id: NodeId) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.id == id)
    }

    pub(super) fn peer_ref(&self, id: NodeId) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.id == id)
    }

    pub(super) fn progress(&self, now: Time, active_for: Duration) -> Vec<Progress> {
        let view = |peer: &Peer| Progress {
            id: peer.id,
            match_index: peer.match_index,
            next_index: peer.next_index,
            is_active: now.since(peer.contact) < active_for,
            is_installing: peer.is_installing(),
        };
        self.peers.iter().map(view).collect()
    }

    pub(super) fn canonical(&self, clock: Clock, last_log_request: u64) -> impl Form {
        let Leader {
            peers,
            term_start,
            waiting,
            uncommitted_bytes,
            unapplied,
            unapplied_bytes,
            reads,
            lease,
            promotion,
            // For reports.
            called_off: _,
            round,
            heartbeat_deadline,
            commit_at_heartbeat,
            transfer,
            quorum_deadline,
        } = self;
        let mut peers: Vec<_> = peers.iter().map(|peer| (peer.id, peer)).collect();
        peers.sort_by_key(|(id, _)| *id);
        let awaited = reads.open_round();
        let peers: Vec<_> =
            peers.into_iter().map(|(_, peer)| peer.canonical(clock, awaited, last_log_request)).collect();
        let proposals: Vec<_> = waiting.iter().map(Waiting::canonical).collect();
        let bytes = (*uncommitted_bytes, unapplied.iter().copied().collect::<Vec<_>>(), *unapplied_bytes);
        let timers = (clock.is_armed(*heartbeat_deadline), clock.is_armed(*quorum_deadline));
        let changes =
            (promotion.as_ref().map(|it| it.canonical(clock)), transfer.as_ref().map(|it| it.canonical(clock)));
        let leases = (reads.canonical(), lease.canonical(clock, *round));
        (peers, *term_start, *commit_at_heartbeat, (proposals, bytes), timers, changes, leases)
    }
}

impl Raft {
    pub(super) fn become_leader(&mut self) {
        let term_start = self.log.last_index().next();
        let peers = Vec::new();
        self.role = RoleState::Leader(Leader {
            peers,
            term_start,
            waiting: VecDeque::new(),
            uncommitted_bytes: 0,
            unapplied: VecDeque::new(),
            unapplied_bytes: 0,
            reads: LeaderReads::default(),
            lease: Lease::default(),
            promotion: None,
            called_off: Vec::new(),
            round: 0,
            heartbeat_deadline: self.now.next_multiple_of(self.config.heartbeat_interval),
            commit_at_heartbeat: self.commit_index,
            transfer: None,
            quorum_deadline: self.now.plus(self.config.election_timeout_max),
        });
        self.following.leader = None;
        self.begin_to_stand_in();
        self.update_peers();
        self.serve_removed();
        if self.config.has_bug(Bug::NoNoop) {
            return;
        }
        let run = Run::new(term_start, self.term, [Entry::noop()]);
        if self.log.append(run).is_err() {
            unreachable!("a no-op holds no membership");
        }
    }

    /// Makes the leader's peers those of the effective membership.
    pub(super) fn update_peers(&mut self) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let next_index = self.log.last_index().next();
        let membership = self.log.membership().1;
        let mut known = core::mem::take(&mut leader.peers);
        for node in membership.nodes.iter().filter(|node| node.id != self.config.id) {
            let at = known.iter().position(|peer| peer.id == node.id && peer.incarnation == node.incarnation);
            let mut peer = at
                .map_or_else(|| Peer::new(node.id, node.incarnation, next_index, self.now), |at| known.swap_remove(at));
            peer.standing = Standing::Member;
            leader.peers.push(peer);
        }
        // Who is removed is served, uncounted, until it knows (C16).
        for mut peer in known {
            if membership.node(peer.id).is_none() {
                if peer.standing == Standing::Member {
                    peer.standing = Standing::Removed { committed_at: None };
                }
                leader.peers.push(peer);
            } else if peer.is_installing() {
                // An earlier life of a member.
                self.outputs.results.push(Output::StopSnapshot { peer: peer.id });
            }
        }
    }

    /// Whom a membership leaves out that is not known to be committed, this leader serves as its predecessor did (C16).
    fn serve_removed(&mut self) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let next_index = self.log.last_index().next();
        for node in self.log.nodes_since(self.commit_index).filter(|node| node.id != self.config.id) {
            if leader.peers.iter().all(|peer| peer.id != node.id) {
                let mut peer = Peer::new(node.id, node.incarnation, next_index, self.now);
                peer.standing = Standing::Removed { committed_at: None };
                leader.peers.push(peer);
            }
        }
    }

    /// Lets go of those whose removal has been committed for long enough that they have heard of it, or cannot be reached.
    fn forget_removed(&mut self) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let is_committed = self.log.membership().0 <= self.commit_index;
        let (now, grace) = (self.now, self.config.election_timeout_max * 2);
        let is_over = |peer: &mut Peer| match &mut peer.standing {
            Standing::Removed { committed_at: Some(at) } => now.since(*at) >= grace,
            Standing::Removed { committed_at } => {
                *committed_at = is_committed.then_some(now);
                false
            }
            Standing::Member => false,
        };
        for peer in leader.peers.extract_if(.., is_over).filter(Peer::is_installing) {
            self.outputs.results.push(Output::StopSnapshot { peer: peer.id });
        }
    }

    /// Gives up leadership, if there is one: whoever waits gets an outcome (C21).
    pub(super) fn step_down(&mut self, reason: RejectReason) {
        if self.is_leader() {
            if self.is_standing_in() {
                // Whoever has the log by now goes first.
                self.following.contact = self.now;
            }
            self.fail_leadership(reason);
            self.reset_election_timer();
        }
        self.role = RoleState::Follower;
    }

    /// Ends what waits for this leader: proposals are in the log and may yet be committed, reads have no effect.
    pub(super) fn fail_leadership(&mut self, reason: RejectReason) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        let is_refused = self.config.has_bug(Bug::UnknownIsRefused);
        for Waiting { first, count, .. } in leader.waiting.drain(..) {
            let outcome = if is_refused { Outcome::Rejected(reason) } else { Outcome::Unknown };
            self.outputs.results.push(Output::Done { first, count, outcome });
        }
        for (first, count) in leader.reads.take_local() {
            self.outputs.results.push(Output::ReadFailed { first, count, reason });
        }
        for peer in leader.peers.iter().filter(|peer| peer.is_installing()) {
            self.outputs.results.push(Output::StopSnapshot { peer: peer.id });
        }
    }

    pub(super) fn on_leader_time(&mut self) {
        self.check_quorum();
        self.check_transfer();
        let RoleState::Leader(leader) = &mut self.role else { return };
        if self.now < leader.heartbeat_deadline {
            return;
        }
        leader.heartbeat_deadline = self.now.next_multiple_of(self.config.heartbeat_interval);
        leader.commit_at_heartbeat = self.commit_index;
        let patience = self.config.heartbeat_interval * 2;
        for peer in &mut leader.peers {
            peer.retry_when_stalled(self.now, patience);
        }
        self.forget_removed();
        self.send_round();
    }

    /// A leader that has not heard a majority for the longest election timeout steps down (thesis §6.2).
    fn check_quorum(&mut self) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        if self.now < leader.quorum_deadline {
            return;
        }
        let heard = self.quorum.reached(|id| match leader.peer_ref(id) {
            Some(peer) => peer.contact,
            None if id == self.config.id => self.now,
            None => Time::ZERO,
        });
        leader.quorum_deadline = heard.plus(self.config.election_timeout_max);
        if leader.quorum_deadline <= self.now {
            self.step_down(RejectReason::NoQuorum);
        }
    }

    /// Opens a round: each peer that answers was in this term after it began.
    pub(super) fn send_round(&mut self) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        leader.round += 1;
        let round = leader.round;
        if !self.config.lease_duration.is_zero() {
            leader.lease.record(round, self.now, self.config.heartbeat_interval, self.config.lease_duration);
        }
        let mut messages = Vec::with_capacity(leader.peers.len());
        for peer in &mut leader.peers {
            let mut leader_commit = peer.commit_to_tell(self.commit_index);
            if self.config.has_bug(Bug::HeartbeatCommitUnchecked) {
                leader_commit = self.commit_index;
            }
            messages.push((peer.id, Body::Heartbeat { round, leader_commit }));
        }
        for (to, body) in messages {
            self.send(to, body);
        }
    }

    /// Commits what a majority of each half holds durably, if it is of this term (Raft §5.4.2).
    pub(super) fn advance_commit(&mut self) {
        let RoleState::Leader(leader) = &self.role else { return };
        let counts_unwritten = self.config.has_bug(Bug::CountUnwritten);
        let durable = if counts_unwritten { self.log.last_index() } else { self.durable_index() };
        let reached = self.quorum.reached(|id| match leader.peer_ref(id) {
            Some(peer) => peer.match_index,
            None if id == self.config.id => durable,
            None => Index::ZERO,
        });
        let is_own_term = reached >= leader.term_start || self.config.has_bug(Bug::OldTermCommitted);
        if reached > self.commit_index && is_own_term {
            self.commit_index = reached;
            self.finish_proposals();
        }
    }
}
