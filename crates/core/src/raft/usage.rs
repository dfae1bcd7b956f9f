//! How much a replica holds, for those who check that it is bounded.

use super::{Raft, RoleState};

/// How much a replica holds of what has a limit.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The most `AppendEntries` on their way to one peer.
    pub inflight_messages: usize,
    /// The most bytes on their way to one peer.
    pub inflight_bytes: usize,
    /// Bytes of proposals that are not committed.
    pub uncommitted_bytes: usize,
    /// Bytes of a leader's proposals that are committed and not applied.
    pub unapplied_bytes: usize,
    /// Bytes handed out to be applied.
    pub applying_bytes: usize,
    /// Bytes of entries in memory.
    pub tail_bytes: usize,
    /// Reads that wait.
    pub reads: usize,
    /// Messages that wait for the disk.
    pub withheld: usize,
}

impl Raft {
    /// How much it holds.
    #[doc(hidden)]
    pub fn usage(&self) -> Usage {
        let of_all = Usage {
            applying_bytes: self.applying.outstanding_bytes(),
            tail_bytes: self.log.tail_bytes(),
            reads: self.reads.count(),
            withheld: self.persistence.withheld_count(),
            ..Usage::default()
        };
        let RoleState::Leader(leader) = &self.role else { return of_all };
        let (inflight_messages, inflight_bytes) = leader
            .peers
            .iter()
            .map(|peer| peer.inflight())
            .fold((0, 0), |(messages, bytes), (m, b)| (messages.max(m), bytes.max(b)));
        Usage {
            inflight_messages,
            inflight_bytes,
            uncommitted_bytes: leader.uncommitted_bytes,
            unapplied_bytes: leader.unapplied_bytes,
            reads: of_all.reads.max(leader.reads.count()),
            ..of_all
        }
    }
}
