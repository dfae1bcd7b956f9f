//! What operators ask of a cluster.

use std::time::Duration;

use clap::Args;
use coracle::transport::Address;

use crate::parse;

const JOIN_HELP: &str = "\
The node is started before or after with `coracle serve ADDRESS --standby`.
A new voter catches up first; when it does not in time, the change is called off and it stays a learner.
The command may be repeated, also for a member: a learner is made a voter then.

Examples:
  coracle join /ip4/10.0.0.4/tcp/9490
  coracle join /ip4/10.0.0.4/tcp/9490 --learner
  coracle join /ip4/10.0.0.4/tcp/9490 --timeout 10m";

const LEAVE_HELP: &str = "\
The leader may be removed like any other member: it hands over.
The node keeps running and takes no part any more: stop it afterwards.
Its directory is of no more use; a node that comes back without one is a new node, which joins.

Examples:
  coracle leave 7f3a          the beginning of an id that `coracle members` shows";

const WEAKEN_HELP: &str = "\
Use it before work on a machine: a leader hands over, a follower lets others campaign first; both go on voting.

Examples:
  coracle weaken 7f3a --for 5m
  coracle weaken 7f3a --for 0s      not any longer";

const TRANSFER_HELP: &str = "\
Examples:
  coracle transfer            to the voter whose log is furthest
  coracle transfer 7f3a       to this one";

const SNAPSHOT_HELP: &str = "\
The log is cut below what of the state is durable, up to the --log-entries-kept that its node was started with.

Examples:
  coracle snapshot            on the leader
  coracle snapshot 7f3a       on this node";

#[derive(Debug, Args)]
pub(crate) struct MembersArgs {
    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = JOIN_HELP)]
pub(crate) struct JoinArgs {
    /// Where peers reach the node, for example /ip4/10.0.0.4/tcp/9490
    #[arg(value_name = "ADDRESS")]
    pub(crate) address: Address,
    /// It is to receive the log and not to vote
    #[arg(long)]
    pub(crate) learner: bool,
}

#[derive(Debug, Args)]
#[command(after_help = LEAVE_HELP)]
pub(crate) struct LeaveArgs {
    /// The member's id, or as much of its beginning as no other member's has
    #[arg(value_name = "ID", value_parser = parse::id_prefix)]
    pub(crate) id: String,
}

#[derive(Debug, Args)]
#[command(after_help = TRANSFER_HELP)]
pub(crate) struct TransferArgs {
    /// Who is to lead; without it, whoever is furthest
    #[arg(value_name = "ID", value_parser = parse::id_prefix)]
    pub(crate) id: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = WEAKEN_HELP)]
pub(crate) struct WeakenArgs {
    /// The member's id, or its beginning
    #[arg(value_name = "ID", value_parser = parse::id_prefix)]
    pub(crate) id: String,
    /// For how long; 0s ends it
    #[arg(long = "for", value_name = "DURATION", value_parser = parse::duration_or_none)]
    pub(crate) duration: Duration,
}

#[derive(Debug, Args)]
#[command(after_help = SNAPSHOT_HELP)]
pub(crate) struct SnapshotArgs {
    /// The member's id, or its beginning; without it, the leader
    #[arg(value_name = "ID", value_parser = parse::id_prefix)]
    pub(crate) id: Option<String>,
}
