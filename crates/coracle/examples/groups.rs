//! Three processes, each with three groups: every group has a leader, a log and data of its own.

use coracle::prelude::*;

const ADDRESSES: [&str; 3] = ["/memory/21", "/memory/22", "/memory/23"];

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let open = |address| Groups::builder().address(address).storage("memory:").open();
    let processes = [open(ADDRESSES[0]).await?, open(ADDRESSES[1]).await?, open(ADDRESSES[2]).await?];

    for number in 1..=3 {
        let start = |process: &Groups| process.group(number).peers(ADDRESSES).start();
        let (first, second, _third) =
            tokio::try_join!(start(&processes[0]), start(&processes[1]), start(&processes[2]))?;
        first.db().put("group", number.to_string()).await?;
        let value = second.db().get("group").await?;
        assert_eq!(value.as_deref(), Some(number.to_string().as_bytes()));
    }

    for process in &processes {
        process.shutdown().await;
    }
    Ok(())
}
