//! One replica as a pure machine: the core, and what surrounds it.
//!
//! [`Replica`] decides what to batch, write, apply, snapshot and forward; it does no I/O.
//! `coracle-node` runs it on tokio, `coracle-sim` on virtual time; both let a [`StateWorker`] and a [`LogWorker`] do what it asks for.

mod founding;
mod io;

pub use founding::{Answer, AnswerState, Founder, Founding, FoundingRefusal, Question, Step, WireError, list_differs};
pub use io::*;
