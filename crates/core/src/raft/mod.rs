//! The replica's protocol: one small handler per (role, message).
//!
//! | File | What |
//! |---|---|
//! | `mod.rs` | the state, and where inputs go |
//! | `election.rs` | campaigns and votes (Raft §5.2, §5.4.1; thesis §9.6) |
//! | `follower.rs` | what a follower does with a leader's messages |
//! | `leader.rs` | taking over, stepping down, the quorum, committing |
//! | `replication.rs` | what goes to each peer and what comes back |
//! | `change.rs` | changing the membership (Raft §6; thesis §4) |
//! | `promotion.rs` | what a change waits for, and for how long |
//! | `transfer.rs` | handing leadership over, and preferring not to have it (thesis §3.10) |
//! | `proposals.rs` | proposals and their outcomes |
//! | `reads.rs` | rounds of linearizable reads |
//! | `lease.rs` | reads without a round |
//! | `persist.rs` | tickets, what is durable, withheld messages |
//! | `repair.rs` | damaged entries, and the repair from peers |
//! | `apply.rs` | what is handed to the state machine, and compaction |
//! | `snapshot.rs` | snapshots that arrive |
//! | `stand_in.rs` | leading without the state, only to hand over |
//! | `usage.rs` | how much it holds of what has a limit |
//! | `settle.rs` | the order of outputs, and when to wake |
//! | `canonical.rs` | what of the state makes a difference |

mod apply;
mod canonical;
mod change;
mod election;
mod follower;
mod leader;
mod lease;
mod persist;
mod promotion;
mod proposals;
mod reads;
mod repair;
mod replication;
mod settle;
mod snapshot;
mod stand_in;
mod status;
mod transfer;
mod usage;

use alloc::{collections::VecDeque, vec::Vec};

pub(crate) use canonical::{Form, entries_of};
pub use status::{Progress, Role, Status};
pub use usage::Usage;

use self::{
    apply::Applying, election::Campaign, follower::Following, leader::Leader, lease::Promise, persist::Persistence,
    reads::FollowerReads, repair::Repair, snapshot::Installing, stand_in::StandIn,
};
use crate::{
    Body, Bug, Config, ConfigError, Event, Fatal, Index, Input, Membership, Message, NodeId, Outcome, Output,
    Recovered, RejectReason, Rng, Term, Time, log::Log, quorum::Quorum,
};

/// A message's term is at most so much above the receiver's: at a thousand elections a second that takes seven weeks (C20).
const TERMS_AHEAD_MAX: u64 = 1 << 32;

/// A replica's protocol: hand in what has happened with [`handle`](Raft::handle), take what is to be done with [`poll`](Raft::poll).
#[derive(Clone, Debug)]
pub struct Raft {
    config: Config,
    rng: Rng,
    /// The time of the newest input.
    now: Time,
    /// The current term. Only grows.
    term: Term,
    /// Who got this node's vote in `term`; set at most once per term.
    voted_for: Option<NodeId>,
    /// Known to be committed; only grows.
    commit_index: Index,
    log: Log,
    /// Who decides, by the effective membership.
    quorum: Quorum,
    role: RoleState,
    /// When this node campaigns unless it hears from a leader. A leader does not look at it.
    election_deadline: Time,
    following: Following,
    /// What keeps this node from helping to elect others (C13).
    promise: Promise,
    /// Until when this node prefers that others lead.
    weakened_until: Time,
    /// The committed membership that was last reported.
    reported_membership: Index,
    persistence: Persistence,
    repair: Repair,
    applying: Applying,
    stand_in: StandIn,
    installing: Option<Installing>,
    reads: FollowerReads,
    /// The number of the last question to the log.
    last_log_request: u64,
    fatal: Option<Fatal>,
    outputs: Outputs,
}

/// What a role needs.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of it, and the largest is the one in use")]
enum RoleState {
    Follower,
    PreCandidate(Campaign),
    Candidate(Campaign),
    Leader(Leader),
}

/// Outputs by the order in which they leave (C10).
#[derive(Clone, Debug, Default)]
struct Outputs {
    /// In their final order, to be polled. Inputs add only messages that need no disk, which come first in any case.
    ready: VecDeque<Output>,
    /// Results and reads.
    results: Vec<Output>,
    events: Vec<Event>,
    /// What was last reported as `Event::Role`.
    reported: Option<(Role, Term, Option<NodeId>)>,
    /// Whether something was handed in since outputs were last computed.
    is_dirty: bool,
}

impl Raft {
    /// A replica that starts from what its store held.
    ///
    /// # Errors
    /// When the options contradict each other, or what was recovered is no log.
    pub fn new(config: Config, mut recovered: Recovered, now: Time) -> Result<Raft, ConfigError> {
        config.validate()?;
        let repair = Repair::new(&recovered)?;
        let log = Log::new(&mut recovered, config.tail_bytes_max)?;
        let hard_state = recovered.hard_state;
        if recovered.applied > log.last_index() {
            return Err(ConfigError::Recovered { what: "the state machine is ahead of it" });
        }
        if hard_state.commit_index > log.last_index() || hard_state.term < log.last_term() {
            return Err(ConfigError::Recovered { what: "term or commit index do not fit it" });
        }
        let mut rng = Rng::new(config.seed ^ config.id.0.rotate_left(32));
        let quorum = quorum_of(&config, log.membership().1, None);
        let commit_index = hard_state.commit_index.max(log.base().index).max(recovered.applied);
        // Nobody knows any more what was promised before (C13). A node that decides alone promised it to itself; but until its membership is known to be committed, a leader that this leaves out may not know that it is, and relies on the promise.
        let is_sole = quorum.is_sole(config.id);
        let is_free = is_sole && log.membership().0 <= commit_index;
        let promised_until =
            if is_free || config.has_bug(Bug::ForgottenPromise) { now } else { now.plus(config.lease_duration) };
        let election_deadline = if is_sole {
            promised_until
        } else {
            now.plus(rng.duration(config.election_timeout_min, config.election_timeout_max))
        };
        let mut raft = Raft {
            rng,
            now,
            term: hard_state.term,
            voted_for: hard_state.voted_for,
            commit_index,
            quorum,
            promise: Promise::after_start(promised_until),
            weakened_until: Time::ZERO,
            reported_membership: log.membership_at(commit_index).0,
            role: RoleState::Follower,
            election_deadline,
            following: Following::new(commit_index, now),
            persistence: Persistence::new(log.base().index, log.last_index()),
            repair,
            applying: Applying::new(recovered.applied),
            stand_in: StandIn::default(),
            installing: None,
            reads: FollowerReads::default(),
            last_log_request: 0,
            fatal: None,
            outputs: Outputs { is_dirty: true, ..Outputs::default() },
            config,
            log,
        };
        raft.begin_repair(recovered.is_membership_damaged);
        Ok(raft)
    }

    /// Takes note of what has happened; what follows from it comes out of [`poll`](Raft::poll).
    pub fn handle(&mut self, now: Time, input: Input) {
        self.now = self.now.max(now);
        self.outputs.is_dirty |= !matches!(input, Input::Applied { .. }) || self.is_more_to_apply();
        if self.fatal.is_some() {
            return self.handle_stopped(input);
        }
        match input {
            Input::Message(message) => self.on_message(message),
            Input::Propose { first, commands } => self.on_propose(first, commands),
            Input::Read { first, count, is_lease } => self.on_read(first, count, is_lease),
            Input::Persisted { ticket } => self.on_persisted(ticket),
            Input::NoSpace => self.on_no_space(),
            Input::PersistFailed => self.stop(Fatal::PersistFailed),
            Input::EntriesRead { request, result } => self.on_entries_read(request, result),
            Input::Applied { applied, flushed } => self.on_applied(applied, flushed),
            Input::Compact { up_to } => self.on_compact(up_to),
            Input::ChangeMembership { id, change } => self.on_change_membership(id, change),
            Input::Weaken { duration } => self.on_weaken(duration),
            Input::Transfer { to } => self.on_transfer(to),
            Input::SnapshotSendFailed { peer } => self.on_snapshot_send_failed(peer),
            Input::SnapshotSending { peer, index } => self.on_snapshot_sending(peer, index),
            Input::SnapshotStored { from, term, content, offset, done } => {
                self.on_snapshot_stored(from, term, content, offset, done);
            }
            Input::SnapshotReceived { meta } => self.on_snapshot_received(meta),
            Input::SnapshotInstalled { index } => self.on_snapshot_installed(index),
            Input::Unreachable { peer } => self.on_unreachable(peer),
            Input::Time => self.on_time(),
        }
    }

    /// A group that has stopped answers its clients and does nothing else.
    fn handle_stopped(&mut self, input: Input) {
        let reason = RejectReason::Stopped;
        match input {
            Input::Propose { first, commands } => {
                self.reject_proposals(first, commands.len() as u32, reason);
            }
            Input::ChangeMembership { id, .. } => self.reject_proposals(id, 1, reason),
            Input::Read { first, count, .. } => self.outputs.results.push(Output::ReadFailed { first, count, reason }),
            _ => {}
        }
    }

    /// Timers fire here and nowhere else (C11).
    fn on_time(&mut self) {
        self.check_disk();
        self.check_repair();
        match &self.role {
            RoleState::Leader(_) => self.on_leader_time(),
            _ if self.now >= self.election_deadline => self.on_election_timeout(),
            _ => {}
        }
        self.check_follower_reads();
    }

    fn on_message(&mut self, message: Message) {
        if let Some(fault) = self.fault_of(&message) {
            return self.fault(message.from, fault);
        }
        match &message.body {
            Body::PreVote { next_term, last_log_index, last_log_term } => {
                self.note_resignation(message.from, message.term);
                return self.on_pre_vote(message.from, *next_term, *last_log_index, *last_log_term);
            }
            // The sender of a grant may be in an earlier term than this node.
            Body::PreVoteResponse { next_term, granted } if message.term <= self.term => {
                return self.on_pre_vote_response(message.from, *next_term, *granted);
            }
            // What is damaged concerns no term.
            Body::FetchEntries { first, last, entry_term } => {
                return self.on_fetch_entries(message.from, *first, *last, *entry_term);
            }
            Body::FetchEntriesResponse { first, entries, base } => {
                return self.on_fetch_entries_response(message.from, *first, entries, base.clone());
            }
            // A vote is not asked of somebody who hears a leader, or promised one something; such a request changes nothing, not even the term (thesis §4.2.3).
            Body::RequestVote { is_transfer: false, .. }
                if message.term > self.term
                    && (self.is_sticky_against(message.from) || self.has_promised_against(message.from)) =>
            {
                return;
            }
            _ => {}
        }
        if message.term > self.term {
            self.become_follower(message.term);
        } else if message.term < self.term && !self.takes_stale(&message) {
            return self.on_stale_message(message);
        }
        self.on_current_message(message);
    }

    /// Whether a message of an earlier term is taken for one of this: never, without a bug.
    fn takes_stale(&self, message: &Message) -> bool {
        match message.body {
            Body::RequestVoteResponse { .. } => self.config.has_bug(Bug::StaleVote),
            Body::HeartbeatResponse { .. } => self.config.has_bug(Bug::StaleEcho),
            _ => false,
        }
    }

    /// A message of this term.
    fn on_current_message(&mut self, message: Message) {
        let Message { from, term, body, .. } = message;
        match body {
            // These were handled before terms were compared.
            Body::PreVote { .. } | Body::PreVoteResponse { .. } => {}
            Body::FetchEntries { .. } | Body::FetchEntriesResponse { .. } => {}
            Body::RequestVote { last_log_index, last_log_term, is_transfer } => {
                self.on_request_vote(from, last_log_index, last_log_term, is_transfer);
            }
            Body::RequestVoteResponse { granted } => self.on_request_vote_response(from, granted),
            Body::AppendEntries { prev_log_index, prev_log_term, leader_commit, entries } => {
                if self.follow(from) {
                    self.on_append_entries(from, prev_log_index, prev_log_term, leader_commit, entries);
                }
            }
            Body::AppendEntriesResponse { result, needs_snapshot } => {
                self.on_append_entries_response(from, result, needs_snapshot);
            }
            Body::Heartbeat { round, leader_commit } => {
                if self.follow(from) {
                    self.on_heartbeat(from, round, leader_commit);
                }
            }
            Body::HeartbeatResponse { round, promise } => self.on_heartbeat_response(from, round, promise),
            Body::ReadIndex { nonce, sequence } => self.on_read_index(from, nonce, sequence),
            Body::ReadIndexResponse { nonce, sequence, index } => {
                self.on_read_index_response(from, nonce, sequence, index);
            }
            Body::InstallSnapshot(piece) => {
                if self.follow(from) {
                    self.on_install_snapshot(from, term, piece);
                }
            }
            Body::TimeoutNow => self.on_timeout_now(from),
            Body::InstallSnapshotResponse { done, offset, .. } => {
                self.note_received(from, offset);
                self.on_install_snapshot_response(from, done);
            }
            // The replica above forwards; the core sees only the terms.
            Body::Propose { .. } | Body::ProposeResponse { .. } => {}
        }
    }

    /// A message of an earlier term: a request is answered with the current one, so that its sender learns of it (Raft §5.1).
    fn on_stale_message(&mut self, message: Message) {
        let body = match message.body {
            Body::RequestVote { .. } => Body::RequestVoteResponse { granted: false },
            Body::AppendEntries { .. } | Body::Heartbeat { .. } | Body::InstallSnapshot(_) => {
                Body::HeartbeatResponse { round: 0, promise: 0 }
            }
            _ => return,
        };
        self.send(message.from, body);
    }

    /// What no correct peer says (C20).
    fn fault_of(&self, message: &Message) -> Option<&'static str> {
        if message.to != self.config.id {
            return Some("a message for another node");
        }
        if message.from == self.config.id {
            return Some("a message from this node");
        }
        if message.term > Term::MAX || message.term.0 == 0 {
            return Some("a term out of range");
        }
        if message.term.0 > self.term.0.saturating_add(TERMS_AHEAD_MAX) {
            return Some("a term that no number of elections leads to");
        }
        let (index, term) = match &message.body {
            Body::PreVote { next_term, last_log_index, last_log_term } => {
                (*last_log_index, (*next_term).max(*last_log_term))
            }
            Body::RequestVote { last_log_index, last_log_term, .. } => (*last_log_index, *last_log_term),
            Body::AppendEntries { prev_log_index, prev_log_term, leader_commit, .. } => {
                ((*prev_log_index).max(*leader_commit), *prev_log_term)
            }
            Body::Heartbeat { leader_commit, .. } => (*leader_commit, Term(0)),
            Body::InstallSnapshot(piece) => (piece.meta.last_included_index, piece.meta.last_included_term),
            Body::FetchEntries { first, last, entry_term } => ((*first).max(*last), *entry_term),
            Body::FetchEntriesResponse { base: Some(base), .. } => (base.index, base.term),
            _ => (Index::ZERO, Term(0)),
        };
        if index > Index::MAX || term > Term::MAX {
            return Some("an index or a term out of range");
        }
        // A log has no entries of later terms than its node, and who asks for a pre-vote names the next.
        if term > message.term.next() {
            return Some("a term later than the sender's");
        }
        None
    }

    fn fault(&mut self, peer: NodeId, fault: &'static str) {
        self.outputs.events.push(Event::PeerFault { peer, fault });
    }

    /// Stops for good (C18, C20): everything that waits gets its outcome.
    fn stop(&mut self, reason: Fatal) {
        self.fail_leadership(RejectReason::Stopped);
        self.fail_follower_reads(RejectReason::Stopped);
        self.role = RoleState::Follower;
        self.fatal = Some(reason);
        self.outputs.ready.retain(|output| !matches!(output, Output::Send(_)));
        self.outputs.results.push(Output::Fatal(reason));
    }

    fn reject_proposals(&mut self, first: crate::ProposalId, count: u32, reason: RejectReason) {
        if count > 0 {
            self.outputs.results.push(Output::Done { first, count, outcome: Outcome::Rejected(reason) });
        }
    }

    /// Sends a message of the current term: it leaves once (term, vote) is durable (C5).
    fn send(&mut self, to: NodeId, body: Body) {
        if self.persistence.is_vote_durable() {
            return self.send_at_once(to, body);
        }
        self.persistence.withhold(Message { from: self.config.id, to, term: self.term, body });
    }

    /// Sends a message that asserts nothing that is not durable.
    fn send_at_once(&mut self, to: NodeId, body: Body) {
        let message = Message { from: self.config.id, to, term: self.term, body };
        self.outputs.ready.push_back(Output::Send(message));
    }

    /// The effective membership has changed.
    fn on_membership_changed(&mut self) {
        let (index, membership) = self.log.membership();
        self.quorum = quorum_of(&self.config, membership, Some(&self.quorum));
        self.outputs.events.push(Event::Membership { index });
        self.update_peers();
    }

    /// Whether this replica leads.
    pub fn is_leader(&self) -> bool {
        matches!(self.role, RoleState::Leader(_))
    }

    /// The current term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// The leader of the current term, if known.
    pub fn leader(&self) -> Option<NodeId> {
        if self.is_leader() { Some(self.config.id) } else { self.following.leader }
    }

    /// The last committed index known here.
    pub fn commit_index(&self) -> Index {
        self.commit_index
    }

    /// The term of the entry at `index`; `None` when it is compacted away or not there.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.log.term_at(index)
    }

    /// The membership effective at `index`, which lies within the retained log, with the index of its entry.
    pub fn membership_at(&self, index: Index) -> (Index, &Membership) {
        self.log.membership_at(index)
    }
}

/// Who decides by `membership`, after `before` did.
fn quorum_of(config: &Config, membership: &Membership, before: Option<&Quorum>) -> Quorum {
    let quorum = Quorum::new(membership);
    #[cfg(feature = "bugs")]
    let quorum = quorum.with_bug(config.bug, membership, before);
    #[cfg(not(feature = "bugs"))]
    let _ = (config, before);
    quorum
}
