//! Measures MessagePack with fields by position against fields by name: `cargo run --release -p coracle-transport-tcp --example encoding`.
#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::{error::Error, hint::black_box, time::Instant};

use bytes::Bytes;
use coracle_core::{AppendResult, Body, Entry, GroupId, Index, Message, NodeId, Run, Term};

const ROUNDS: u32 = 200_000;

fn append(count: usize, len: usize) -> Body {
    let entries = vec![Entry::command(Bytes::from(vec![7; len])); count];
    Body::AppendEntries {
        prev_log_index: Index(1_000_000),
        prev_log_term: Term(12),
        leader_commit: Index(1_000_000),
        entries: Run::new(Index(1_000_001), Term(12), entries).into(),
    }
}

/// Bytes, and nanoseconds to encode and to decode.
fn measure(
    frame: &(GroupId, Message),
    encode: impl Fn(&mut Vec<u8>, &(GroupId, Message)) -> Result<(), rmp_serde::encode::Error>,
) -> Result<(usize, u128, u128), Box<dyn Error>> {
    let mut out = Vec::new();
    let began = Instant::now();
    for _ in 0..ROUNDS {
        out.clear();
        encode(&mut out, black_box(frame))?;
    }
    let encoding = began.elapsed().as_nanos() / u128::from(ROUNDS);
    let began = Instant::now();
    for _ in 0..ROUNDS {
        black_box(rmp_serde::from_slice::<(GroupId, Message)>(black_box(&out))?);
    }
    Ok((out.len(), encoding, began.elapsed().as_nanos() / u128::from(ROUNDS)))
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("| Message | By name: bytes, encode, decode | By position: bytes, encode, decode |");
    println!("|---|---|---|");
    let matched = AppendResult::Matched { index: Index(1_000_001) };
    for (name, body) in [
        ("Heartbeat", Body::Heartbeat { round: 1_000, leader_commit: Index(1_000_000) }),
        ("AppendEntriesResponse", Body::AppendEntriesResponse { result: matched, needs_snapshot: false }),
        ("AppendEntries, 1 x 64 B", append(1, 64)),
        ("AppendEntries, 16 x 256 B", append(16, 256)),
    ] {
        let message = Message { from: NodeId(u64::MAX / 3), to: NodeId(u64::MAX / 5), term: Term(12), body };
        let frame = (GroupId(1), message);
        let named = measure(&frame, rmp_serde::encode::write_named)?;
        let array = measure(&frame, rmp_serde::encode::write)?;
        let cell = |(bytes, encode, decode): (usize, u128, u128)| format!("{bytes}, {encode} ns, {decode} ns");
        println!("| {name} | {} | {} |", cell(named), cell(array));
    }
    Ok(())
}
