//! I14: what waits at a node is within its limits.

use coracle_core::Usage;

use super::{Shape, Step, World};
use crate::{Invariant, Violation};

/// What one entry may go beyond a limit in bytes: a single larger one always travels, and memberships pass every limit.
const ENTRY_MAX: usize = 16 << 10;
/// The most messages that wait for a disk.
const WITHHELD_MAX: usize = 1024;
/// The most bytes of requests that a replica holds; the simulator leaves the default.
const REQUEST_BYTES_MAX: usize = 64 << 20;

impl World {
    /// Looks at how much a node holds.
    pub(super) fn observe_usage(&self, node: usize) -> Step {
        let Some(running) = &self.nodes[node].running else { return Ok(()) };
        let (requests, request_bytes) = running.replica.held();
        let limits = limits(&self.shape, running.replica.raft().usage());
        let replica =
            [("requests", requests, self.shape.requests_max), ("bytes of requests", request_bytes, REQUEST_BYTES_MAX)];
        let excess = limits.into_iter().chain(replica).find(|(_, held, max)| held > max);
        match excess {
            None => Ok(()),
            Some((what, held, max)) => {
                let what = format!("n{node} holds {held} {what}, {max} is the limit");
                Err(Violation::new(Invariant::BoundedResources, what))
            }
        }
    }
}

/// What is held, and how much it may be.
fn limits(shape: &Shape, usage: Usage) -> [(&'static str, usize, usize); 8] {
    // What is neither committed nor durable cannot leave memory: a leader's own proposals, and what it had before.
    let bound = shape.uncommitted_bytes_max * 2 + shape.inflight_bytes_max + shape.append_bytes_max;
    [
        ("messages on their way to a peer", usage.inflight_messages, shape.inflight_messages_max),
        (
            "bytes on their way to a peer",
            usage.inflight_bytes,
            shape.inflight_bytes_max + shape.append_bytes_max + ENTRY_MAX,
        ),
        ("uncommitted bytes", usage.uncommitted_bytes, shape.uncommitted_bytes_max + ENTRY_MAX),
        ("unapplied bytes", usage.unapplied_bytes, shape.unapplied_bytes_max + shape.uncommitted_bytes_max + ENTRY_MAX),
        ("bytes that are being applied", usage.applying_bytes, shape.apply_bytes_max + ENTRY_MAX),
        ("bytes of entries", usage.tail_bytes, shape.tail_bytes_max + bound + ENTRY_MAX),
        ("reads", usage.reads, shape.reads_max),
        ("messages that wait for the disk", usage.withheld, WITHHELD_MAX),
    ]
}
