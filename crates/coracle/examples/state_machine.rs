//! A state machine of one's own, replicated on three nodes.

use coracle::prelude::*;

/// A sum.
#[derive(Default)]
struct Sum(i64);

impl Machine for Sum {
    fn apply(&mut self, command: &[u8]) -> bytes::Bytes {
        self.0 += std::str::from_utf8(command).ok().and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
        self.save()
    }

    fn query(&self, _: &[u8]) -> bytes::Bytes {
        self.save()
    }

    fn save(&self) -> bytes::Bytes {
        self.0.to_string().into()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(state).map_err(|error| error.to_string())?;
        self.0 = text.parse().map_err(|error| format!("\"{text}\" is no sum: {error}"))?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let addresses = ["/memory/21", "/memory/22", "/memory/23"];
    let node = |address| {
        let machine = InMemory::new(Sum::default());
        Node::builder().address(address).peers(addresses).storage("memory:").state_machine(machine).build()
    };
    let (first, second, third) = tokio::try_join!(node(addresses[0]), node(addresses[1]), node(addresses[2]))?;

    first.propose("40").await?;
    assert_eq!(second.propose("2").await?.data, "42");
    assert_eq!(third.query("", Consistency::Linearizable).await?.data, "42");
    Ok(())
}
