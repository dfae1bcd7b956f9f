//! Three nodes in one process: write on one, read on another.

use coracle::prelude::*;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let addresses = ["/memory/11", "/memory/12", "/memory/13"];
    let node = |address| Node::builder().address(address).peers(addresses).storage("memory:").build();
    let (first, second, third) = tokio::try_join!(node(addresses[0]), node(addresses[1]), node(addresses[2]))?;

    first.db().put("boat", "coracle").await?;
    let value = second.db().get("boat").await?;
    assert_eq!(value.as_deref(), Some(&b"coracle"[..]));

    let visits = third.db().increment("visits", 1).await?;
    assert_eq!(visits, 1);
    Ok(())
}
