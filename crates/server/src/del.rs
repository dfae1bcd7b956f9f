//! `coracle del`: removes a key; that it is absent is no error.

use crate::{
    cli::{ClusterArgs, KeyArgs},
    connect,
    exit::Outcome,
};

pub(crate) async fn run(cluster: &ClusterArgs, args: KeyArgs) -> Outcome {
    let level = connect::level(connect::client(cluster)?, cluster.timeout());
    let del = level.del(args.key).await;
    connect::leave(level).await;
    del?;
    Ok(())
}
