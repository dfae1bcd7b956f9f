//! Ports that are known before anybody listens.

use std::{
    net::TcpListener,
    process,
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
};

/// Below the ports that systems give to outgoing connections: a node that was killed finds its port free when it comes back.
const FIRST: u16 = 12_000;
const COUNT: u16 = 18_000;

/// A port of 127.0.0.1 on which nobody listens at this moment, and which this process gives out once.
///
/// # Panics
/// When there is none.
pub fn free() -> u16 {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    // Test programs that run at the same time begin at different places.
    let begin = || AtomicU16::new((process::id().wrapping_mul(997) % u32::from(COUNT)) as u16);
    let next = NEXT.get_or_init(begin);
    for _ in 0..COUNT {
        let port = FIRST + next.fetch_add(1, Ordering::Relaxed) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port from {FIRST} to {} is free", FIRST + COUNT);
}
