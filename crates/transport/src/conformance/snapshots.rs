//! A snapshot goes over in pieces, and goes on where it was when the connection was cut.

use bytes::Bytes;
use coracle_core::{Body, Index, InstallSnapshot, Membership, SnapshotMeta, Term};

use super::{
    Factory, Verdict,
    messages::pattern,
    process::{Process, eventually, pair},
    proxy::Line,
};

const SIZE: usize = 1 << 20;
const PIECE: usize = 32 << 10;

fn meta(a: &Process) -> SnapshotMeta {
    SnapshotMeta {
        content: 42,
        last_included_index: Index(7),
        last_included_term: Term(3),
        membership_index: Index(1),
        membership: Membership::of_voters([a.node]),
        size: SIZE as u64,
        checksum: 5,
    }
}

/// How many bytes, from the first on, have arrived; each piece as it was sent.
fn assembled(receiver: &Process, meta: &SnapshotMeta, whole: &Bytes) -> usize {
    let mut end = 0;
    for frame in &receiver.host.state().received {
        let Body::InstallSnapshot(piece) = &frame.message.body else { continue };
        let from = piece.offset as usize;
        assert_eq!(&piece.meta, meta, "each piece says what it is a piece of");
        assert_eq!(piece.data, whole[from..from + piece.data.len()], "the piece at {from} is as it was sent");
        if from == end {
            end += piece.data.len();
        }
    }
    end
}

/// How far the receiver says that it is.
fn acknowledged(sender: &Process) -> usize {
    let state = sender.host.state();
    let offsets = state.received.iter().filter_map(|frame| match frame.message.body {
        Body::InstallSnapshotResponse { content: 42, offset, .. } => Some(offset as usize),
        _ => None,
    });
    offsets.max().unwrap_or(0)
}

pub(super) async fn a_snapshot_resumes_after_a_cut(factory: &dyn Factory) -> Verdict {
    let (a, b) = pair(factory).await;
    let Some(line) = Line::between(factory, &a, &b).await else { return Verdict::Skipped };
    let (meta, whole) = (meta(&a), pattern(SIZE));
    let step = || {
        let offset = acknowledged(&a);
        let data = whole.slice(offset..(offset + PIECE).min(SIZE));
        let piece = InstallSnapshot { meta: meta.clone(), offset: offset as u64, data };
        a.send_body(b.node, Body::InstallSnapshot(Box::new(piece)));
        let offset = assembled(&b, &meta, &whole);
        b.send_body(a.node, Body::InstallSnapshotResponse { content: 42, offset: offset as u64, done: offset == SIZE });
        offset
    };
    for cut in [SIZE / 4, SIZE / 2, SIZE / 4 * 3] {
        eventually("the snapshot gets on", || step() >= cut).await;
        line.cut();
        eventually("the cut is noticed", || {
            step();
            !a.is_connected_to(&b)
        })
        .await;
        let before = assembled(&b, &meta, &whole);
        line.mend();
        assert!(before >= cut, "what had arrived is still there");
    }
    eventually("the whole snapshot arrives", || step() == SIZE && acknowledged(&a) == SIZE).await;
    Verdict::Passed
}
