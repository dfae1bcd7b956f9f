//! From the messages of the protocol to the core's.

use coracle_core::{
    AppendResult, Base, Body, Forwarded, GroupId, Index, InstallSnapshot, Message, NodeId, Term, decode_runs,
};
use coracle_transport::Frame;

use super::{
    Malformed,
    membership::{decode_membership, decode_meta},
    missing,
};
use crate::pb::{self, append_entries_response as appended, forwarded, frame::Body as Wire};

pub(crate) fn frame(frame: pb::Frame) -> Result<Frame, Malformed> {
    let message = Message {
        from: NodeId(frame.from),
        to: NodeId(frame.to),
        term: Term(frame.term),
        body: body(frame.body.ok_or_else(|| missing("Frame", "body"))?)?,
    };
    Ok(Frame { group: GroupId(frame.group), message })
}

fn body(body: Wire) -> Result<Body, Malformed> {
    Ok(match body {
        Wire::PreVote(vote) => Body::PreVote {
            next_term: Term(vote.next_term),
            last_log_index: Index(vote.last_log_index),
            last_log_term: Term(vote.last_log_term),
        },
        Wire::PreVoteResponse(vote) => Body::PreVoteResponse { next_term: Term(vote.next_term), granted: vote.granted },
        Wire::RequestVote(vote) => Body::RequestVote {
            last_log_index: Index(vote.last_log_index),
            last_log_term: Term(vote.last_log_term),
            is_transfer: vote.is_transfer,
        },
        Wire::RequestVoteResponse(vote) => Body::RequestVoteResponse { granted: vote.granted },
        Wire::TimeoutNow(pb::TimeoutNow {}) => Body::TimeoutNow,
        Wire::Heartbeat(beat) => Body::Heartbeat { round: beat.round, leader_commit: Index(beat.leader_commit) },
        Wire::HeartbeatResponse(beat) => Body::HeartbeatResponse { round: beat.round, promise: beat.promise },
        Wire::ReadIndex(read) => Body::ReadIndex { nonce: read.nonce, sequence: read.sequence },
        Wire::ReadIndexResponse(read) => {
            Body::ReadIndexResponse { nonce: read.nonce, sequence: read.sequence, index: read.index.map(Index) }
        }
        Wire::Propose(asked) => {
            Body::Propose { nonce: asked.nonce, sequence: asked.sequence, commands: asked.commands }
        }
        Wire::ProposeResponse(answer) => Body::ProposeResponse {
            nonce: answer.nonce,
            sequence: answer.sequence,
            outcomes: answer.outcomes.into_iter().map(outcome).collect::<Result<_, _>>()?,
        },
        Wire::AppendEntries(append) => Body::AppendEntries {
            prev_log_index: Index(append.prev_log_index),
            prev_log_term: Term(append.prev_log_term),
            leader_commit: Index(append.leader_commit),
            entries: decode_runs(append.entries)?.into(),
        },
        Wire::AppendEntriesResponse(answer) => appended(answer)?,
        Wire::InstallSnapshot(piece) => install_snapshot(piece)?,
        Wire::InstallSnapshotResponse(answer) => {
            Body::InstallSnapshotResponse { content: answer.content, offset: answer.offset, done: answer.done }
        }
        Wire::FetchEntries(fetch) => Body::FetchEntries {
            first: Index(fetch.first),
            last: Index(fetch.last),
            entry_term: Term(fetch.entry_term),
        },
        Wire::FetchEntriesResponse(answer) => fetched(answer)?,
    })
}

fn appended(answer: pb::AppendEntriesResponse) -> Result<Body, Malformed> {
    let result = match answer.result.ok_or_else(|| missing("AppendEntriesResponse", "result"))? {
        appended::Result::Matched(matched) => AppendResult::Matched { index: Index(matched.index) },
        appended::Result::Rejected(rejected) => AppendResult::Rejected {
            prev_log_index: Index(rejected.prev_log_index),
            hint_index: Index(rejected.hint_index),
            hint_term: Term(rejected.hint_term),
        },
    };
    Ok(Body::AppendEntriesResponse { result, needs_snapshot: answer.needs_snapshot })
}

fn install_snapshot(piece: pb::InstallSnapshot) -> Result<Body, Malformed> {
    let meta = decode_meta(piece.meta.ok_or_else(|| missing("InstallSnapshot", "meta"))?)?;
    Ok(Body::InstallSnapshot(Box::new(InstallSnapshot { meta, offset: piece.offset, data: piece.data })))
}

fn fetched(answer: pb::FetchEntriesResponse) -> Result<Body, Malformed> {
    let base = answer.base.map(base).transpose()?.map(Box::new);
    Ok(Body::FetchEntriesResponse { first: Index(answer.first), entries: decode_runs(answer.entries)?, base })
}

fn base(base: pb::Base) -> Result<Base, Malformed> {
    Ok(Base {
        index: Index(base.index),
        term: Term(base.term),
        membership_index: Index(base.membership_index),
        membership: base.membership.map(decode_membership).transpose()?,
    })
}

fn outcome(outcome: pb::Forwarded) -> Result<Forwarded, Malformed> {
    use forwarded::Outcome;
    Ok(match outcome.outcome.ok_or_else(|| missing("Forwarded", "outcome"))? {
        Outcome::Applied(applied) => Forwarded::Applied { index: Index(applied.index), reply: applied.reply },
        Outcome::NotLeader(forwarded::NotLeader {}) => Forwarded::NotLeader,
        Outcome::Busy(forwarded::Busy {}) => Forwarded::Busy,
        Outcome::Unknown(forwarded::Unknown {}) => Forwarded::Unknown,
    })
}
