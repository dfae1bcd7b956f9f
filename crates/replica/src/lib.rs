//! One replica as a pure machine: the core, and what surrounds it.
//!
//! [`Replica`] decides what to batch, write, apply, snapshot and forward; it does no I/O.
//! `coracle-node` runs it on tokio, `coracle-sim` on virtual time; both let a [`StateWorker`], a [`LogWorker`] and a [`SnapshotWorker`] do what it asks for.

mod clients;
mod effects;
mod foreign;
mod founding;
mod group_writes;
mod io;
mod joining;
mod log_size;
mod log_worker;
mod options;
mod recover;
mod replica;
mod slots;
mod snapshot_worker;
mod state_worker;
#[cfg(test)]
mod testing;

pub use clients::{IdHasher, RequestMap};
pub use founding::{
    Answer, AnswerState, Founder, Founding, FoundingRefusal, Inquiry, Question, Step, Wire, WireError, list_differs,
};
pub use group_writes::{GroupWrites, NoSpace, Written};
pub use io::*;
pub use joining::{
    Asked, Bond, Invite, InviteAnswer, JoinAnswer, JoinRefusal, JoinRequest, JoinRole, Verdict, conflict, is_member,
    members, proposed,
};
pub use log_worker::LogWorker;
pub use options::{ReplicaOptions, Start};
pub use recover::recover;
pub use replica::Replica;
pub use snapshot_worker::SnapshotWorker;
pub use state_worker::{SnapshotJob, StateWorker, Work};
