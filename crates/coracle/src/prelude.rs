//! What most programs need: `use coracle::prelude::*;`.

pub use coracle_level::{Kv, Level, ReadAt};
pub use coracle_storage::{InMemory, Machine, StateMachine};

pub use crate::{Builder, Consistency, Groups, JoinRole, Node};
