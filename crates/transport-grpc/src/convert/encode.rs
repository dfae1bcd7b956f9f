//! From the core's messages to those of the protocol.

use bytes::Bytes;
use coracle_core::{AppendResult, Base, Body, Forwarded, InstallSnapshot, Run, encode_runs, encoded_len};
use coracle_transport::Frame;

use super::membership::{encode_membership, encode_meta};
use crate::pb::{self, append_entries_response as appended, forwarded, frame::Body as Wire};

pub(crate) fn frame(frame: Frame) -> pb::Frame {
    let message = frame.message;
    pb::Frame {
        group: frame.group.0,
        from: message.from.0,
        to: message.to.0,
        term: message.term.0,
        body: Some(body(message.body)),
    }
}

fn body(body: Body) -> Wire {
    match body {
        Body::PreVote { next_term, last_log_index, last_log_term } => Wire::PreVote(pb::PreVote {
            next_term: next_term.0,
            last_log_index: last_log_index.0,
            last_log_term: last_log_term.0,
        }),
        Body::PreVoteResponse { next_term, granted } => {
            Wire::PreVoteResponse(pb::PreVoteResponse { next_term: next_term.0, granted })
        }
        Body::RequestVote { last_log_index, last_log_term, is_transfer } => Wire::RequestVote(pb::RequestVote {
            last_log_index: last_log_index.0,
            last_log_term: last_log_term.0,
            is_transfer,
        }),
        Body::RequestVoteResponse { granted } => Wire::RequestVoteResponse(pb::RequestVoteResponse { granted }),
        Body::TimeoutNow => Wire::TimeoutNow(pb::TimeoutNow {}),
        Body::Heartbeat { round, leader_commit } => {
            Wire::Heartbeat(pb::Heartbeat { round, leader_commit: leader_commit.0 })
        }
        Body::HeartbeatResponse { round, promise } => Wire::HeartbeatResponse(pb::HeartbeatResponse { round, promise }),
        Body::ReadIndex { nonce, sequence } => Wire::ReadIndex(pb::ReadIndex { nonce, sequence }),
        Body::ReadIndexResponse { nonce, sequence, index } => {
            Wire::ReadIndexResponse(pb::ReadIndexResponse { nonce, sequence, index: index.map(|index| index.0) })
        }
        Body::AppendEntries { prev_log_index, prev_log_term, leader_commit, entries } => {
            Wire::AppendEntries(pb::AppendEntries {
                prev_log_index: prev_log_index.0,
                prev_log_term: prev_log_term.0,
                leader_commit: leader_commit.0,
                entries: runs(&entries),
            })
        }
        Body::AppendEntriesResponse { result, needs_snapshot } => {
            Wire::AppendEntriesResponse(pb::AppendEntriesResponse { result: Some(appended(result)), needs_snapshot })
        }
        Body::InstallSnapshot(piece) => {
            let InstallSnapshot { meta, offset, data } = *piece;
            Wire::InstallSnapshot(pb::InstallSnapshot { meta: Some(encode_meta(meta)), offset, data })
        }
        Body::InstallSnapshotResponse { content, offset, done } => {
            Wire::InstallSnapshotResponse(pb::InstallSnapshotResponse { content, offset, done })
        }
        Body::FetchEntries { first, last, entry_term } => {
            Wire::FetchEntries(pb::FetchEntries { first: first.0, last: last.0, entry_term: entry_term.0 })
        }
        Body::FetchEntriesResponse { first, entries, base } => Wire::FetchEntriesResponse(pb::FetchEntriesResponse {
            first: first.0,
            entries: runs(&entries),
            base: base.map(|start| self::base(*start)),
        }),
        Body::Propose { nonce, sequence, commands } => Wire::Propose(pb::Propose { nonce, sequence, commands }),
        Body::ProposeResponse { nonce, sequence, outcomes } => Wire::ProposeResponse(pb::ProposeResponse {
            nonce,
            sequence,
            outcomes: outcomes.into_iter().map(outcome).collect(),
        }),
    }
}

fn runs(runs: &[Run]) -> Bytes {
    let mut out = Vec::with_capacity(encoded_len(runs));
    encode_runs(runs, &mut out);
    out.into()
}

fn appended(result: AppendResult) -> appended::Result {
    match result {
        AppendResult::Matched { index } => appended::Result::Matched(appended::Matched { index: index.0 }),
        AppendResult::Rejected { prev_log_index, hint_index, hint_term } => {
            appended::Result::Rejected(appended::Rejected {
                prev_log_index: prev_log_index.0,
                hint_index: hint_index.0,
                hint_term: hint_term.0,
            })
        }
    }
}

fn base(base: Base) -> pb::Base {
    pb::Base {
        index: base.index.0,
        term: base.term.0,
        membership_index: base.membership_index.0,
        membership: base.membership.map(encode_membership),
    }
}

fn outcome(outcome: Forwarded) -> pb::Forwarded {
    use forwarded::Outcome;
    let outcome = match outcome {
        Forwarded::Applied { index, reply } => Outcome::Applied(forwarded::Applied { index: index.0, reply }),
        Forwarded::NotLeader => Outcome::NotLeader(forwarded::NotLeader {}),
        Forwarded::Busy => Outcome::Busy(forwarded::Busy {}),
        Forwarded::Unknown => Outcome::Unknown(forwarded::Unknown {}),
    };
    pb::Forwarded { outcome: Some(outcome) }
}
