//! What adapters that make connections have in common: which nodes are at which process, what waits for it, and when to try again.
//!
//! [`Peers`] has a [`Link`] for each remote process; the adapter runs a task for each of them, which takes frames from it and writes them.

mod backoff;
mod closing;
mod link;
mod peers;
mod socket;
mod spoken;

use std::{sync::Arc, time::Duration};

pub use backoff::Backoff;
pub use closing::Closing;
pub use link::{Counters, Link, LinkLimits, Member, Queued};
pub use peers::Peers;
pub use socket::{bind_tcp, connect_tcp, part, prepare_tcp};
pub use spoken::{HTTP2_PREFACE, HTTP2_SETTINGS, MESSAGEPACK_MAGIC, Spoken};

use crate::{Hello, Hosted, Refusal};

/// In which interval a [`LogLimit`](crate::LogLimit) lets its lines through.
pub const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Checks that somebody we look for is there; the others at this address may come later.
///
/// # Errors
/// Why nobody is: a wrong incarnation rather than an absence.
pub fn expect_any(theirs: &Hello, members: &[Arc<Member>]) -> Result<(), Refusal> {
    let theirs = Hosted::of(theirs);
    let mut first = None;
    for member in members {
        match theirs.expect(member.group, member.id, member.incarnation) {
            Ok(()) => return Ok(()),
            // A wiped directory is the better explanation than an absence.
            Err(refusal @ Refusal::Incarnation { .. }) => first = Some(refusal),
            Err(refusal) => first = first.or(Some(refusal)),
        }
    }
    first.map_or(Ok(()), Err)
}
