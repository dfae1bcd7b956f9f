//! What clients do, and how their answers are judged: the place for a state machine of one's own.

use std::sync::Arc;

use bytes::Bytes;
use coracle_core::{Rng, Time};
use coracle_replica::{Consistency, Reply};
use coracle_storage::{KvStore, StateMachine};

use crate::Violation;

/// A state machine, clients that use it, and a judge of what they are answered.
pub trait Workload {
    /// Opens the state machine of one node on what its disk holds.
    ///
    /// # Errors
    /// When the data cannot be read: that is a failure of the run.
    fn open(&self, kv: Arc<dyn KvStore>) -> coracle_storage::Result<Box<dyn StateMachine>>;

    /// How many clients there are, numbered from 0.
    fn clients(&self) -> usize;

    /// The virtual time of what is called next.
    fn time(&mut self, _now: Time) {}

    /// What `client` begins, if anything; called again after a while.
    fn begin(&mut self, client: usize, phase: Phase, rng: &mut Rng) -> Option<Operation>;

    /// What is asked of a node, at the first attempt and at each retry.
    fn request(&mut self, operation: Operation) -> Request;

    /// An attempt was answered. Not called for attempts that were given up.
    ///
    /// # Errors
    /// When the answer cannot be.
    fn answered(&mut self, operation: Operation, reply: &Reply) -> Result<Progress, Violation>;

    /// An attempt may have taken effect or not: whether the operation ends with that, instead of being tried again.
    fn ends_unknown(&mut self, _operation: Operation) -> bool {
        false
    }

    /// Whether every operation has ended; in [`Phase::Verify`], also whether nothing is left to verify.
    fn is_idle(&self, phase: Phase) -> bool;

    /// Judges the run as a whole, after the last operation has ended.
    ///
    /// # Errors
    /// When it cannot have been.
    fn finish(&self) -> Result<(), Violation>;
}

/// What clients are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Whatever they like.
    Faults,
    /// Nothing new: what has begun is to end.
    Drain,
    /// At least one write, and what has to be known for the judgement.
    Verify,
}

/// The workload's name for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Operation(pub u64);

/// What is asked of a node.
#[derive(Clone, Debug)]
pub enum Request {
    /// To replicate a command.
    Command(Bytes),
    /// To answer a query.
    Query(Bytes, Consistency),
}

/// What comes after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The operation has ended.
    Done {
        /// It was a command.
        is_command: bool,
        /// It had taken effect at an earlier attempt, and was answered from memory.
        is_repeated: bool,
    },
    /// It is to be tried again.
    Retry,
}
