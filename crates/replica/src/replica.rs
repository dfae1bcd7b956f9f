//! The replica itself.

use coracle_core::{ConfigError, Raft, Status, Time};

use crate::{Effect, Input, ReplicaOptions, Start};

/// One replica of a group, without any I/O.
#[derive(Debug)]
pub struct Replica {
    raft: Raft,
}

impl Replica {
    /// A replica that starts from what its stores held.
    ///
    /// # Errors
    /// When the options contradict each other, or what was recovered is no log.
    pub fn new(options: ReplicaOptions, start: Start, now: Time) -> Result<Replica, ConfigError> {
        options.validate()?;
        Ok(Replica { raft: Raft::new(options.raft, start.recovered, now)? })
    }

    /// Takes note of what happened.
    pub fn handle(&mut self, _now: Time, _input: Input) {}

    /// What to do next; [`Effect::Wake`] when there is nothing more.
    pub fn poll(&mut self) -> Effect {
        Effect::Wake { at: None }
    }

    /// A view from outside.
    pub fn status(&self) -> Status {
        self.raft.status()
    }
}
