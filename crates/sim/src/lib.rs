//! A deterministic simulator of Coracle clusters, with checkers.
//!
//! Whole groups of replicas run on virtual time, over a simulated network and simulated disks, under faults that are all drawn from one `u64`: the same seed gives the same run, event for event.
//! After each step checkers hold what the nodes say and do against what their disks hold, against each other, and against what clients were told.
//! It is not a model: the replica, the core and the state machine are those that run in production; only what they stand on is simulated.
//!
//! [`run_seed`] runs one seed with the level state machine; [`run_with`] takes a [`Workload`] of one's own, for which [`SimpleWorkload`] is a start: see the example `own_state_machine`.
//!
//! ```
//! use coracle_sim::{Options, run_seed};
//!
//! let options = Options { duration: std::time::Duration::from_secs(5), ..Options::default() };
//! let report = run_seed(1, &options)?;
//! assert!(report.committed > 0);
//! # Ok::<(), Box<coracle_sim::Failure>>(())
//! ```

mod bugs;
mod check;
mod clock;
mod coverage;
mod disk;
mod faults;
mod level;
pub mod linearizability;
mod network;
mod options;
mod overlap;
mod plan;
mod queue;
mod report;
mod run;
mod schedule;
mod simple;
mod trace;
mod workload;
mod world;

pub use bugs::{Bug, KnownBug};
pub use coverage::Counts;
pub use level::LevelWorkload;
pub use options::{FaultMix, NODES_MAX, Nodes, Options};
pub use plan::{Minimised, Plan, PlanError};
pub use report::{Failure, Invariant, Report, Violation};
pub use run::{replay, run_seed, run_with};
pub use simple::{Answer, SimpleWorkload};
pub use workload::{Operation, Phase, Progress, Request, Workload};
