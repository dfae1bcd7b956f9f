//! `coracle put`: sets a key.

use std::io::Read;

use bytes::Bytes;

use crate::{
    cli::{ClusterArgs, PutArgs},
    connect,
    exit::{Failure, Outcome},
};

/// One byte more than any value may have shows that it is too long; reading on would only take memory.
const READ_BYTES_MAX: u64 = (8 << 20) + 1;

pub(crate) async fn run(cluster: &ClusterArgs, args: PutArgs) -> Outcome {
    let value = if args.value == "-" { standard_input()? } else { Bytes::from(args.value) };
    let level = connect::level(connect::client(cluster)?, cluster.timeout());
    let put = level.put(args.key, value).await;
    connect::leave(level).await;
    put?;
    Ok(())
}

fn standard_input() -> Outcome<Bytes> {
    let mut value = Vec::new();
    let read = std::io::stdin().lock().take(READ_BYTES_MAX).read_to_end(&mut value);
    read.map_err(|error| Failure::io("could not read the value from standard input", &error))?;
    Ok(Bytes::from(value))
}
