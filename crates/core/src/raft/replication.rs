//! What goes to each peer, and what comes back (Raft §5.3; thesis §10.2.1).

use alloc::{collections::VecDeque, vec::Vec};
use core::time::Duration;

use super::{
    Raft, RoleState,
    canonical::{Clock, Form},
};
use crate::{AppendResult, Body, Bug, Incarnation, Index, LogRead, NodeId, Output, Run, Runs, Time};

/// What a leader knows of a peer.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) id: NodeId,
    /// Another life of it starts with nothing: what is known of this one says nothing of it.
    pub(super) incarnation: Incarnation,
    state: PeerState,
    /// Its log equals the leader's up to here, durably. Only grows.
    pub(super) match_index: Index,
    /// What is sent next; above `match_index`.
    pub(super) next_index: Index,
    /// `AppendEntries` with entries that have not been acknowledged, in order.
    inflight: VecDeque<Inflight>,
    inflight_bytes: usize,
    /// When it last answered.
    pub(super) contact: Time,
    /// The newest round that it answered.
    pub(super) echoed: u64,
    /// The commit index that it was last told.
    commit_told: Index,
    /// Until when it helps to elect nobody else, by this node's clock (C13).
    pub(super) promised_until: Time,
    pub(super) standing: Standing,
    /// The question to the log whose answer is for this peer.
    log_request: Option<u64>,
}

/// Whether a peer is in the effective membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Member,
    /// It is served, uncounted, until it can know (C16).
    Removed {
        /// When the membership without it was seen to be committed.
        committed_at: Option<Time>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PeerState {
    /// It is not known where the logs agree: one request at a time.
    Probe {
        /// When the request left that is not answered.
        sent_at: Option<Time>,
    },
    /// The logs agree: requests follow each other without waiting.
    Replicate,
    /// It needs what the log does not hold any more.
    Install {
        /// What the snapshot covers, once it is known: the log above it stays.
        index: Option<Index>,
    },
}

#[derive(Clone, Debug)]
struct Inflight {
    last: Index,
    bytes: usize,
    sent_at: Time,
}

impl Inflight {
    fn canonical(&self, clock: Clock) -> impl Form + use<> {
        let Inflight { last, bytes, sent_at } = self;
        (*last, *bytes, clock.age(*sent_at))
    }
}

impl Peer {
    pub(super) fn new(id: NodeId, incarnation: Incarnation, next_index: Index, now: Time) -> Peer {
        Peer {
            id,
            incarnation,
            state: PeerState::Probe { sent_at: None },
            match_index: Index::ZERO,
            next_index,
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            contact: now,
            echoed: 0,
            commit_told: Index::ZERO,
            promised_until: Time::ZERO,
            standing: Standing::Member,
            log_request: None,
        }
    }

    /// `awaited` is the round that reads wait for; answers to others make no difference.
    pub(super) fn canonical(&self, clock: Clock, awaited: Option<u64>, last_log_request: u64) -> impl Form + use<> {
        let Peer {
            id,
            incarnation,
            state,
            match_index,
            next_index,
            inflight,
            inflight_bytes,
            contact,
            echoed,
            commit_told,
            promised_until,
            standing,
            log_request,
        } = self;
        let state = match state {
            PeerState::Probe { sent_at } => (0, sent_at.map(|at| clock.age(at)), None),
            PeerState::Replicate => (1, None, None),
            PeerState::Install { index } => (2, None, Some(*index)),
        };
        let standing = match standing {
            Standing::Member => None,
            Standing::Removed { committed_at } => Some(committed_at.map(|at| clock.age(at))),
        };
        let inflight: Vec<_> = inflight.iter().map(|sent| sent.canonical(clock)).collect();
        let has_echoed = awaited.is_some_and(|round| *echoed >= round);
        let request = log_request.map(|request| last_log_request - request);
        let sent = (*next_index, inflight, *inflight_bytes, *commit_told, request);
        let answers = (*match_index, clock.age(*contact), has_echoed, clock.is_armed(*promised_until));
        ((*id, *incarnation), state, sent, answers, standing)
    }

    pub(super) fn is_installing(&self) -> bool {
        matches!(self.state, PeerState::Install { .. })
    }

    /// What a snapshot in transfer covers.
    pub(super) fn installing_index(&self) -> Option<Index> {
        match self.state {
            PeerState::Install { index } => index,
            _ => None,
        }
    }

    /// How many messages and bytes are on their way to it.
    pub(super) fn inflight(&self) -> (usize, usize) {
        (self.inflight.len(), self.inflight_bytes)
    }

    /// What it may take for committed: never more than it is known to hold. The peer counts as told.
    pub(super) fn commit_to_tell(&mut self, commit_index: Index) -> Index {
        self.commit_told = commit_index.min(self.match_index);
        self.commit_told
    }

    /// Goes back to asking where the logs agree, from what is known to match.
    fn probe(&mut self) {
        self.state = PeerState::Probe { sent_at: None };
        self.next_index = self.match_index.next();
        self.forget_inflight();
    }

    fn forget_inflight(&mut self) {
        self.inflight.clear();
        self.inflight_bytes = 0;
        self.log_request = None;
    }

    /// A request or its answer was lost: try again.
    pub(super) fn retry_when_stalled(&mut self, now: Time, patience: Duration) {
        match self.state {
            PeerState::Probe { sent_at: Some(sent_at) } if now.since(sent_at) >= patience => {
                self.state = PeerState::Probe { sent_at: None };
            }
            PeerState::Replicate if self.inflight.front().is_some_and(|sent| now.since(sent.sent_at) >= patience) => {
                self.probe();
            }
            _ => {}
        }
    }

    fn on_matched(&mut self, index: Index) {
        self.match_index = self.match_index.max(index);
        self.next_index = self.next_index.max(self.match_index.next());
        while let Some(sent) = self.inflight.front()
            && sent.last <= self.match_index
        {
            self.inflight_bytes -= sent.bytes;
            self.inflight.pop_front();
        }
    }

    fn on_sent(&mut self, runs: &[Run], bytes: usize, now: Time) {
        match (&mut self.state, runs.last()) {
            (PeerState::Probe { sent_at }, _) => *sent_at = Some(now),
            (_, Some(run)) => {
                self.next_index = run.last().next();
                self.inflight_bytes += bytes;
                self.inflight.push_back(Inflight { last: run.last(), bytes, sent_at: now });
            }
            _ => {}
        }
    }
}

/// What to do next for a peer.
enum Step {
    Append(Body, usize),
    Read { to: Index },
    Install,
    Tell(Index),
    Nothing,
}

impl Raft {
    /// Sends every peer what it lacks, as far as its window allows.
    pub(super) fn replicate(&mut self) {
        let RoleState::Leader(leader) = &self.role else { return };
        for slot in 0..leader.peers.len() {
            while self.replicate_to(slot) {}
        }
    }

    /// One step for one peer; true when there may be more.
    fn replicate_to(&mut self, slot: usize) -> bool {
        let step = self.next_step(slot);
        let RoleState::Leader(leader) = &mut self.role else { return false };
        let peer = &mut leader.peers[slot];
        let to = peer.id;
        match step {
            Step::Append(body, bytes) => {
                if let Body::AppendEntries { entries, leader_commit, .. } = &body {
                    peer.on_sent(entries, bytes, self.now);
                    peer.commit_told = *leader_commit;
                }
                let is_more = peer.state == PeerState::Replicate;
                self.send(to, body);
                is_more
            }
            Step::Read { to: last } => {
                self.last_log_request += 1;
                let request = self.last_log_request;
                peer.log_request = Some(request);
                let (from, bytes_max) = (peer.next_index, self.config.append_bytes_max);
                self.outputs.results.push(Output::ReadEntries { request, from, to: last, bytes_max });
                false
            }
            Step::Install => {
                peer.state = PeerState::Install { index: None };
                peer.forget_inflight();
                self.outputs.results.push(Output::SendSnapshot { peer: to });
                false
            }
            Step::Tell(leader_commit) => {
                peer.commit_told = leader_commit;
                self.send(to, Body::Heartbeat { round: 0, leader_commit });
                false
            }
            Step::Nothing => false,
        }
    }

    fn next_step(&self, slot: usize) -> Step {
        let RoleState::Leader(leader) = &self.role else { return Step::Nothing };
        let peer = &leader.peers[slot];
        let last_index = self.log.last_index();
        let prev_log_index = peer.next_index.prev();
        match peer.state {
            PeerState::Install { .. } | PeerState::Probe { sent_at: Some(_) } => return Step::Nothing,
            PeerState::Probe { sent_at: None } => {}
            PeerState::Replicate if peer.next_index > last_index => {
                let leader_commit = self.commit_index.min(peer.match_index);
                let is_news = leader_commit > peer.commit_told && peer.inflight.is_empty();
                return if is_news { Step::Tell(leader_commit) } else { Step::Nothing };
            }
            PeerState::Replicate => {
                let is_full = peer.inflight.len() >= self.config.inflight_messages_max
                    || peer.inflight_bytes >= self.config.inflight_bytes_max;
                if is_full || peer.log_request.is_some() {
                    return Step::Nothing;
                }
            }
        }
        let Some(prev_log_term) = self.log.term_at(prev_log_index) else { return Step::Install };
        let slice = self.log.slice(peer.next_index, last_index, self.config.append_bytes_max);
        match slice {
            Some((entries, bytes)) => {
                let leader_commit = self.commit_index;
                Step::Append(Body::AppendEntries { prev_log_index, prev_log_term, leader_commit, entries }, bytes)
            }
            // A probe needs no entries to find out where the logs agree.
            None if peer.state != PeerState::Replicate => {
                let (leader_commit, entries) = (self.commit_index, Runs::new());
                Step::Append(Body::AppendEntries { prev_log_index, prev_log_term, leader_commit, entries }, 0)
            }
            None => Step::Read { to: last_index },
        }
    }

    /// The answer to a question to the log; it may be old (C9).
    pub(super) fn on_entries_read(&mut self, request: u64, result: LogRead) {
        if self.applying.is_for(request) {
            return self.on_entries_read_to_apply(result);
        }
        if self.on_entries_read_to_answer(request, &result) {
            return;
        }
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(peer) = leader.peers.iter_mut().find(|peer| peer.log_request == Some(request)) else { return };
        peer.log_request = None;
        let (to, prev_log_index) = (peer.id, peer.next_index.prev());
        match result {
            LogRead::Entries(entries)
                if self.log.holds(peer.next_index, &entries) || self.config.has_bug(Bug::UncheckedLogRead) =>
            {
                let Some(prev_log_term) = self.log.term_at(prev_log_index) else { return };
                let bytes = entries.iter().map(Run::size).sum();
                peer.on_sent(&entries, bytes, self.now);
                let leader_commit = self.commit_index;
                peer.commit_told = leader_commit;
                let entries = entries.into();
                self.send(to, Body::AppendEntries { prev_log_index, prev_log_term, leader_commit, entries });
            }
            // The range was rewritten or compacted meanwhile: what is needed is decided anew.
            LogRead::Entries(_) | LogRead::Compacted => peer.probe(),
            LogRead::Damaged { at } => {
                peer.probe();
                self.on_damage_found(at);
            }
        }
    }

    pub(super) fn on_peer_contact(&mut self, from: NodeId) {
        let now = self.now;
        if let RoleState::Leader(leader) = &mut self.role
            && let Some(peer) = leader.peer(from)
        {
            peer.contact = now;
        }
    }

    pub(super) fn on_append_entries_response(&mut self, from: NodeId, result: AppendResult, needs_snapshot: bool) {
        self.on_peer_contact(from);
        match result {
            AppendResult::Matched { index } => self.on_matched(from, index, needs_snapshot),
            AppendResult::Rejected { prev_log_index, hint_index, hint_term } => {
                self.on_rejected(from, prev_log_index, hint_index, hint_term);
            }
        }
        let RoleState::Leader(leader) = &mut self.role else { return };
        if needs_snapshot
            && let Some(peer) = leader.peer(from)
            && !peer.is_installing()
        {
            peer.state = PeerState::Install { index: None };
            peer.forget_inflight();
            self.outputs.results.push(Output::SendSnapshot { peer: from });
        }
    }

    fn on_matched(&mut self, from: NodeId, index: Index, needs_snapshot: bool) {
        let last_index = self.log.last_index();
        let base_index = self.log.base().index;
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(peer) = leader.peer(from) else { return };
        if index > last_index {
            return self.fault(from, "an acknowledgement of what was never sent");
        }
        peer.on_matched(index);
        match peer.state {
            // It has been sent a snapshot, and says first what was durable before: the log does not go on from there, and the probe will tell.
            PeerState::Probe { .. } if peer.match_index < base_index => {}
            PeerState::Probe { .. } => {
                peer.state = PeerState::Replicate;
                peer.next_index = peer.match_index.next();
            }
            PeerState::Replicate => {}
            PeerState::Install { index } => {
                // It holds what the log still continues, or more than what is being sent.
                if !needs_snapshot && peer.match_index >= index.unwrap_or(base_index).max(base_index) {
                    peer.state = PeerState::Replicate;
                    peer.next_index = peer.match_index.next();
                    self.outputs.results.push(Output::StopSnapshot { peer: from });
                }
            }
        }
    }

    fn on_rejected(&mut self, from: NodeId, prev_log_index: Index, hint_index: Index, hint_term: crate::Term) {
        let base_index = self.log.base().index;
        let agreement = self.log.agreement_at_most(hint_index, hint_term);
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(peer) = leader.peer(from) else { return };
        // An answer about what is known to match is a late one; a log that really lost it finds out by the next heartbeat (C20).
        let is_current = prev_log_index > peer.match_index
            && match peer.state {
                PeerState::Probe { .. } => prev_log_index == peer.next_index.prev(),
                PeerState::Replicate => prev_log_index < peer.next_index,
                PeerState::Install { .. } => false,
            };
        if !is_current {
            return;
        }
        peer.forget_inflight();
        if hint_index < base_index {
            peer.state = PeerState::Install { index: None };
            self.outputs.results.push(Output::SendSnapshot { peer: from });
            return;
        }
        peer.state = PeerState::Probe { sent_at: None };
        peer.next_index = agreement.next().min(prev_log_index).max(peer.match_index.next());
    }

    pub(super) fn on_heartbeat_response(&mut self, from: NodeId, round: u64, promise: u64) {
        self.on_peer_contact(from);
        let RoleState::Leader(leader) = &mut self.role else { return };
        let newest = leader.round;
        let Some(peer) = leader.peer(from) else { return };
        let round = if self.config.has_bug(Bug::StaleEcho) { newest } else { round };
        if round <= newest {
            peer.echoed = peer.echoed.max(round);
            self.take_promise(from, round, promise);
        }
    }

    /// The connection broke: what was on its way is lost.
    pub(super) fn on_unreachable(&mut self, id: NodeId) {
        let now = self.now;
        let RoleState::Leader(leader) = &mut self.role else { return };
        let Some(peer) = leader.peer(id) else { return };
        if peer.state == PeerState::Replicate {
            peer.probe();
            // Not at once again: the next heartbeat tries.
            peer.state = PeerState::Probe { sent_at: Some(now) };
        }
    }

    pub(super) fn on_snapshot_sending(&mut self, id: NodeId, covers: Index) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        if let Some(peer) = leader.peer(id)
            && let PeerState::Install { index } = &mut peer.state
        {
            *index = Some(covers);
        }
    }

    /// The pieces are the replica's business; once the peer has what it needs, the log goes on from there.
    pub(super) fn on_install_snapshot_response(&mut self, from: NodeId, done: bool) {
        self.on_peer_contact(from);
        let RoleState::Leader(leader) = &mut self.role else { return };
        if done
            && let Some(peer) = leader.peer(from)
            && let PeerState::Install { index: Some(index) } = peer.state
        {
            peer.probe();
            peer.next_index = peer.next_index.max(index.next());
            self.outputs.results.push(Output::StopSnapshot { peer: from });
        }
    }

    pub(super) fn on_snapshot_send_failed(&mut self, id: NodeId) {
        let now = self.now;
        let RoleState::Leader(leader) = &mut self.role else { return };
        if let Some(peer) = leader.peer(id)
            && peer.is_installing()
        {
            peer.probe();
            peer.state = PeerState::Probe { sent_at: Some(now) };
        }
    }

    /// What compaction has to leave for snapshots in transfer.
    pub(super) fn installing_floor(&self) -> Option<Index> {
        let RoleState::Leader(leader) = &self.role else { return None };
        leader.peers.iter().filter_map(Peer::installing_index).min()
    }
}
