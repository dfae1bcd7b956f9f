//! `coracle incr`: adds to an integer and prints the sum.

use crate::{
    cli::{ClusterArgs, IncrArgs},
    connect,
    exit::Outcome,
    out,
};

pub(crate) async fn run(cluster: &ClusterArgs, args: IncrArgs) -> Outcome {
    let level = connect::level(connect::client(cluster)?, cluster.timeout());
    let sum = level.increment(args.key, args.by).await;
    connect::leave(level).await;
    out::line(sum?)
}
