//! Small scopes of Coracle's consensus, checked exhaustively.
//!
//! The real core runs in a world of nodes, disks and a network in which everything happens that may happen, in every order: messages arrive late or never, nodes lose patience, crash between any two steps and start again from what was durable.
//! [`check()`] looks at every state of such a world, as far as states differ by their canonical form (C25), and at what must always hold in it.
//!
//! Read [`Scope`] first, then [`Action`].
//! What is left out is written in `docs/testing.md`.

mod actions;
mod check;
mod disk;
mod ghost;
mod network;
mod node;
mod properties;
mod scope;
mod world;

pub use actions::Action;
pub use check::{Extent, HEAD, Limits, Report, check};
pub use ghost::Fault;
pub use scope::{Goal, Scope};
pub use world::World;

/// A scope, and how to look at it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How much of the world is looked at.
    pub scope: Scope,
    /// What is wrong on purpose.
    pub bug: Option<Bug>,
    /// Takes states for different that differ in anything, to show what the canonical form is worth.
    pub is_naive: bool,
}

impl From<Scope> for Settings {
    /// The scope as it is to be.
    fn from(scope: Scope) -> Settings {
        Settings { scope, bug: None, is_naive: false }
    }
}

/// Something wrong on purpose, in the driver round the core, that has to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A node that crashes forgets its vote.
    ForgetVote,
    /// A disk says that a write is durable when it has only begun.
    LyingDisk,
}
