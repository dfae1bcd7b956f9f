//! Puts, many of them under way at once, to see what they cost a server.
//!
//! `cargo run --release -p coracle-client --example puts -- 127.0.0.1:9590 CLIENTS IN_FLIGHT PUTS`: so many clients, each with a connection of its own and so many puts of 100 bytes at a time.
#![allow(clippy::print_stdout, reason = "it is what the example is for")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use coracle_client::{Client, ClientOptions};
use coracle_level::{Kv, Op, Txn};
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [endpoint, numbers @ ..] = &args[..] else { return Err("HOST:PORT is missing".into()) };
    let number = |at: usize, default: u64| numbers.get(at).map_or(Ok(default), |text| text.parse());
    let (clients, in_flight, puts) = (number(0, 1)?, number(1, 64)?, number(2, 100_000)?);

    let next = Arc::new(AtomicU64::new(0));
    let value = Bytes::from(vec![b'v'; 100]);
    let mut writers = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..clients {
        let client = Client::connect([endpoint], ClientOptions::default()).await?;
        for _ in 0..in_flight {
            let (client, next, value) = (client.clone(), Arc::clone(&next), value.clone());
            writers.spawn(async move {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= puts {
                        return Ok::<_, coracle_level::Error>(());
                    }
                    let key = Bytes::from(format!("key-{:08}", at % 10_000));
                    let txn = Txn { ops: vec![Op::Put { key, value: value.clone() }] };
                    client.commit(txn, None).await?;
                }
            });
        }
    }
    while let Some(writer) = writers.join_next().await {
        writer??;
    }
    let took = begun.elapsed().as_secs_f64();
    println!("{puts} puts in {took:.2} s: {:.0} per second", puts as f64 / took);
    Ok(())
}
