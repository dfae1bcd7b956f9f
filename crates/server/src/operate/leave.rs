//! `coracle leave`: removes a member, and waits until it is gone.

use std::time::Duration;

use coracle::client::Client;
use tokio::time::{Instant, sleep_until, timeout};

use super::{ids, members::is_of_leader};
use crate::{
    cli::{ClusterArgs, LeaveArgs},
    connect,
    exit::{Code, Failure, Outcome},
    out,
    status::id,
};

/// How often to look whether it is gone.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(crate) async fn leave(cluster: &ClusterArgs, args: LeaveArgs) -> Outcome {
    let client = connect::client(cluster)?;
    let node = ids::find(&client, &args.id).await?;
    client.leave(node).await?;
    if timeout(cluster.timeout(), gone(&client, node)).await.is_ok() {
        return out::line(format_args!("node {} has left", id(node)));
    }
    let text = format!("node {} is still on its way out after {:?}", id(node), cluster.timeout());
    Err(Failure::new(Code::Unavailable, text)
        .hint("A majority of those who stay has to be up: `coracle members` shows them; the change goes on by itself."))
}

/// Looks until a leader does not list the node any more.
async fn gone(client: &Client, node: u64) {
    loop {
        let next = Instant::now() + LOOK_EVERY;
        // A leader that removes itself hands over: nobody answers meanwhile.
        if let Ok(members) = client.members().await
            && is_of_leader(&members)
            && members.members.iter().all(|member| member.node_id != node)
        {
            return;
        }
        sleep_until(next).await;
    }
}
