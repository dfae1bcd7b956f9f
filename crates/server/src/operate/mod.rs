//! What operators ask of a cluster: `coracle members`, `join`, `leave`, `transfer`, `weaken`, `snapshot`.

mod called_off;
mod ids;
mod join;
mod leave;
mod members;

pub(crate) use self::{join::join, leave::leave, members::members};
use crate::{
    cli::{ClusterArgs, SnapshotArgs, TransferArgs, WeakenArgs},
    connect,
    exit::Outcome,
    out,
    status::id,
};

/// `coracle transfer`: hands leadership over.
pub(crate) async fn transfer(cluster: &ClusterArgs, args: TransferArgs) -> Outcome {
    let client = connect::client(cluster)?;
    let to = match &args.id {
        Some(prefix) => Some(ids::find(&client, prefix).await?),
        None => None,
    };
    let leader = client.transfer(to).await?;
    out::line(format_args!("node {} leads", id(leader)))
}

/// `coracle weaken`: makes a node prefer for a while that others lead.
pub(crate) async fn weaken(cluster: &ClusterArgs, args: WeakenArgs) -> Outcome {
    let client = connect::client(cluster)?;
    let node = ids::find(&client, &args.id).await?;
    client.weaken(node, args.duration).await?;
    if args.duration.is_zero() {
        return out::line(format_args!("node {} may lead like any other", id(node)));
    }
    out::line(format_args!("node {} prefers for {:?} that others lead", id(node), args.duration))
}

/// `coracle snapshot`: makes a node take a snapshot and cut its log.
pub(crate) async fn snapshot(cluster: &ClusterArgs, args: SnapshotArgs) -> Outcome {
    let client = connect::client(cluster)?;
    let node = match &args.id {
        Some(prefix) => Some(ids::find(&client, prefix).await?),
        None => None,
    };
    let index = client.take_snapshot(node).await?;
    out::line(format_args!("the snapshot covers everything up to index {index}"))
}
