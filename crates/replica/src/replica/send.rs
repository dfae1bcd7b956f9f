//! Snapshots on their way to peers (Raft §7).

use std::collections::BTreeMap;

use bytes::Bytes;
use coracle_core::{Body, Index, Input as RaftInput, InstallSnapshot, NodeId, SnapshotMeta, Term, Time};

use super::Replica;
use crate::{Effect, ReplicaOptions};

/// The transfers by peer.
#[derive(Debug, Default)]
pub(super) struct Sending {
    transfers: BTreeMap<NodeId, Transfer>,
    /// How many of them wait for a snapshot.
    waiting: usize,
    /// What peers had no use for, and until when that is believed: should they need one all the same, their logs begin later and only a newer one helps.
    useless: BTreeMap<NodeId, (Index, Time)>,
    /// What was on its way when a connection broke, or has just arrived, and until when the log above it stays: the transfer, or the log after it, goes on where it was rather than begin again with another snapshot.
    continued: BTreeMap<NodeId, (Index, Time)>,
}

#[derive(Debug)]
enum Transfer {
    /// There is no snapshot yet that would help.
    Waiting,
    Active(Active),
}

#[derive(Debug)]
struct Active {
    meta: SnapshotMeta,
    /// The receiver has everything before this.
    acknowledged: u64,
    /// What is read next; at most a window ahead of `acknowledged`.
    next: u64,
    /// The receiver was asked what it has, and nothing is sent until it answers.
    is_asking: bool,
    /// The receiver has it all. The core ends the transfer when the peer's log goes on from there.
    is_received: bool,
    /// When the receiver is asked again unless something comes of it.
    retry_at: Time,
    /// When the transfer is given up unless there is progress.
    give_up_at: Time,
}

impl Sending {
    /// Whether no snapshot is on its way, nor is to go on.
    pub(super) fn is_idle(&self, now: Time) -> bool {
        self.transfers.is_empty() && self.floor(now).is_none()
    }

    #[cfg(test)]
    pub(super) fn transfers(&self) -> Vec<NodeId> {
        self.transfers.keys().copied().collect()
    }

    /// The log above this stays for transfers that were interrupted, and for peers that begin with the log.
    pub(super) fn floor(&self, now: Time) -> Option<Index> {
        self.continued.values().filter(|(_, until)| *until > now).map(|(index, _)| *index).min()
    }

    /// The log above `index` stays for a while for this peer.
    fn keep_log(&mut self, peer: NodeId, index: Index, now: Time, until: Time) {
        self.continued.retain(|_, (_, until)| *until > now);
        self.continued.insert(peer, (index, until));
    }

    /// Nobody is waited for any longer.
    pub(super) fn forget_continued(&mut self) {
        self.continued.clear();
    }

    pub(super) fn stop(&mut self, peer: NodeId) {
        if matches!(self.transfers.remove(&peer), Some(Transfer::Waiting)) {
            self.waiting -= 1;
        }
    }

    pub(super) fn clear(&mut self) {
        self.transfers.clear();
        self.useless.clear();
        self.continued.clear();
        self.waiting = 0;
    }

    /// Whether a snapshot at `index` may help the peer.
    fn helps(&self, peer: NodeId, index: Index, now: Time) -> bool {
        self.useless.get(&peer).is_none_or(|(useless, until)| *useless < index || *until <= now)
    }

    /// Those that wait and that a snapshot at `index` may help.
    fn waiting_for(&self, index: Index, now: Time) -> Vec<NodeId> {
        let is_waiting = |transfer: &Transfer| matches!(transfer, Transfer::Waiting);
        let waiting = self.transfers.iter().filter(|(_, transfer)| is_waiting(transfer)).map(|(peer, _)| *peer);
        waiting.filter(|peer| self.helps(*peer, index, now)).collect()
    }

    /// When a transfer has something to do.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.active().map(|(_, active)| active.next_deadline()).min()
    }

    fn wait(&mut self, peer: NodeId) {
        self.stop(peer);
        self.transfers.insert(peer, Transfer::Waiting);
        self.waiting += 1;
    }

    fn start(&mut self, peer: NodeId, active: Active) {
        self.stop(peer);
        self.continued.remove(&peer);
        self.transfers.insert(peer, Transfer::Active(active));
    }

    fn active(&self) -> impl Iterator<Item = (NodeId, &Active)> {
        self.transfers.iter().filter_map(|(peer, transfer)| match transfer {
            Transfer::Active(active) => Some((*peer, active)),
            Transfer::Waiting => None,
        })
    }

    /// Those whose snapshots are of a size for which `is_over` holds.
    pub(super) fn over_budget(&self, is_over: impl Fn(u64) -> bool) -> Vec<NodeId> {
        self.active().filter(|(_, active)| is_over(active.meta.size)).map(|(peer, _)| peer).collect()
    }

    /// The transfer of this very snapshot (C8).
    fn of(&mut self, peer: NodeId, content: u64) -> Option<&mut Active> {
        match self.transfers.get_mut(&peer) {
            Some(Transfer::Active(active)) if active.meta.content == content => Some(active),
            _ => None,
        }
    }
}

impl Active {
    fn next_deadline(&self) -> Time {
        if self.is_received { self.give_up_at } else { self.retry_at.min(self.give_up_at) }
    }

    /// Takes note of an answer. Whatever the receiver says it has is where sending goes on.
    fn answered(&mut self, offset: u64, now: Time, options: &ReplicaOptions) {
        let offset = offset.min(self.meta.size);
        if offset > self.acknowledged {
            self.give_up_at = now.plus(options.snapshot_timeout);
        }
        // An answer that tells of progress is that to a piece: what was sent after it is still on its way, and the question behind it.
        if offset < self.acknowledged || (self.is_asking && offset == self.acknowledged) {
            self.next = offset;
        }
        self.is_asking = false;
        self.acknowledged = offset;
        self.next = self.next.max(offset);
        self.retry_at = now.plus(retry_interval(options));
    }
}

/// A receiver that says nothing for so long is asked again.
fn retry_interval(options: &ReplicaOptions) -> std::time::Duration {
    options.raft.heartbeat_interval * 2
}

impl Replica {
    /// The core says that only a snapshot helps this peer.
    pub(super) fn on_send_snapshot(&mut self, peer: NodeId) {
        if !self.raft.is_leader() {
            return;
        }
        self.sending.wait(peer);
        self.start_transfers();
    }

    /// Begins the transfers that wait, or has a snapshot taken for them: one for all.
    pub(super) fn start_transfers(&mut self) {
        if self.sending.waiting == 0 {
            return;
        }
        if let Some(index) = self.compaction.usable_snapshot().map(|meta| meta.last_included_index) {
            for peer in self.sending.waiting_for(index, self.now) {
                self.start_transfer(peer);
            }
        }
        if !self.sending.waiting_for(self.handed_index(), self.now).is_empty() {
            self.take_snapshot();
        }
    }

    fn start_transfer(&mut self, peer: NodeId) {
        let Some(meta) = self.compaction.usable_snapshot().cloned() else { return };
        self.tell_core(RaftInput::SnapshotSending { peer, index: meta.last_included_index });
        let give_up_at = self.now.plus(self.options.snapshot_timeout);
        let retry_at = self.now.plus(retry_interval(&self.options));
        let active = Active {
            meta: meta.clone(),
            acknowledged: 0,
            next: 0,
            is_asking: true,
            is_received: false,
            retry_at,
            give_up_at,
        };
        self.sending.start(peer, active);
        // The receiver may have a part of it from before: it is asked first.
        self.send_piece(peer, meta, 0, Bytes::new());
    }

    fn send_piece(&mut self, peer: NodeId, meta: SnapshotMeta, offset: u64, data: Bytes) {
        // Between the message that ends a leadership and the core's word to stop, the term is already another leader's.
        if !self.raft.is_leader() {
            return;
        }
        let body = Body::InstallSnapshot(Box::new(InstallSnapshot { meta, offset, data }));
        self.effects.send_late(peer, self.raft.term(), body);
    }

    pub(super) fn on_snapshot_response(&mut self, peer: NodeId, term: Term, content: u64, offset: u64, done: bool) {
        if term != self.raft.term() || !self.raft.is_leader() {
            return;
        }
        let (now, options) = (self.now, &self.options);
        let Some(active) = self.sending.of(peer, content) else { return };
        if active.is_received {
            return;
        }
        if done {
            let until = now.plus(options.snapshot_timeout);
            active.is_received = true;
            active.give_up_at = until;
            let index = active.meta.last_included_index;
            if active.next < active.meta.size {
                // It did not want all of it: it has what the snapshot covers, or a log that begins later.
                self.sending.useless.retain(|_, (_, until)| *until > now);
                self.sending.useless.insert(peer, (index, until));
            } else {
                self.sending.keep_log(peer, index, now, until);
            }
            return;
        }
        active.answered(offset, now, options);
        self.read_pieces(peer, content);
    }

    /// Reads ahead, as far as the window allows.
    fn read_pieces(&mut self, peer: NodeId, content: u64) {
        let chunk = self.options.snapshot_chunk_bytes as u64;
        let window = chunk.saturating_mul(self.options.snapshot_window as u64);
        let Some(active) = self.sending.of(peer, content) else { return };
        while !active.is_asking && active.next < active.meta.size && active.next - active.acknowledged < window {
            let len = chunk.min(active.meta.size - active.next);
            let offset = active.next;
            active.next += len;
            self.effects.late.push_back(Effect::ReadSnapshot { peer, content, offset, len: len as usize });
        }
    }

    pub(super) fn on_snapshot_read(&mut self, peer: NodeId, content: u64, offset: u64, data: Option<Bytes>) {
        let Some(active) = self.sending.of(peer, content) else { return };
        if active.is_received {
            return;
        }
        let Some(data) = data.filter(|data| !data.is_empty()) else { return self.restart_transfer(peer, content) };
        let end = offset.saturating_add(data.len() as u64);
        if offset < active.acknowledged || end > active.meta.size {
            return;
        }
        // A store may return less than it was asked for; the rest is read next, and what was read after it is sent again.
        let expected = active.meta.size.min(offset.saturating_add(self.options.snapshot_chunk_bytes as u64));
        if end < expected {
            active.next = end;
        }
        let meta = active.meta.clone();
        self.send_piece(peer, meta, offset, data);
        self.read_pieces(peer, content);
    }

    /// The snapshot is damaged and was put aside: whoever was to get it waits for another one, which is taken next.
    pub(super) fn on_snapshot_damaged(&mut self, content: u64) {
        let peers: Vec<NodeId> =
            self.sending.active().filter(|(_, it)| it.meta.content == content).map(|(peer, _)| peer).collect();
        for peer in peers {
            self.sending.wait(peer);
        }
        self.compaction.forget(content);
        self.compaction.look_again();
    }

    /// The snapshot was replaced by another one: the peer gets that.
    fn restart_transfer(&mut self, peer: NodeId, content: u64) {
        self.compaction.forget(content);
        self.sending.wait(peer);
    }

    /// The core hears that the peer did not get its snapshot, and decides when to try again.
    pub(super) fn fail_transfer(&mut self, peer: NodeId) {
        if let Some(transfer) = self.sending.transfers.get(&peer) {
            if let Transfer::Active(active) = transfer {
                let until = self.now.plus(self.options.snapshot_timeout);
                self.sending.keep_log(peer, active.meta.last_included_index, self.now, until);
            }
            self.sending.stop(peer);
            self.tell_core(RaftInput::SnapshotSendFailed { peer });
        }
    }

    /// Asks receivers that say nothing, and gives up those that make no progress.
    pub(super) fn check_transfers(&mut self) {
        let due: Vec<NodeId> = self
            .sending
            .active()
            .filter(|(_, active)| active.next_deadline() <= self.now)
            .map(|(peer, _)| peer)
            .collect();
        for peer in due {
            self.check_transfer(peer);
        }
    }

    fn check_transfer(&mut self, peer: NodeId) {
        let retry_at = self.now.plus(retry_interval(&self.options));
        let Some(Transfer::Active(active)) = self.sending.transfers.get_mut(&peer) else { return };
        if active.give_up_at <= self.now {
            return self.fail_transfer(peer);
        }
        active.is_asking = true;
        active.retry_at = retry_at;
        let (meta, offset) = (active.meta.clone(), active.acknowledged);
        self.send_piece(peer, meta, offset, Bytes::new());
    }
}
