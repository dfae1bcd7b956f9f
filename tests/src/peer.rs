//! The protocol between peers, spoken by a stranger, byte by byte.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use coracle::transport::{Hello, PROTOCOL_VERSION};
use serde::Serialize;

use crate::wait::PATIENCE;

/// What processes say before frames, under the names that they have on the wire.
#[derive(Serialize)]
enum Greeting<'a> {
    Hello(&'a Hello),
}

/// The first bytes of a connection for frames.
pub fn preamble(version: u32) -> Vec<u8> {
    [&b"\xC0RACLE\r\n"[..], &version.to_be_bytes(), &[1]].concat()
}

/// The bytes of a correct handshake.
///
/// # Panics
/// Never: a hello can be encoded.
pub fn handshake(hello: &Hello) -> Vec<u8> {
    let body = rmp_serde::to_vec_named(&Greeting::Hello(hello)).unwrap();
    let len = u32::try_from(body.len() + 1).unwrap();
    [&preamble(PROTOCOL_VERSION)[..], &len.to_be_bytes(), &[1], &body].concat()
}

/// Sends `bytes` and returns what comes back until the other side closes.
///
/// # Panics
/// When it does not close in time.
#[track_caller]
pub fn closes_after(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    // It may close before it has read everything.
    let _ = stream.write_all(bytes);
    answer_until_closed(&mut stream)
}

/// What comes until the other side closes.
///
/// # Panics
/// When it does not close in time.
#[track_caller]
pub fn answer_until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let deadline = Instant::now() + PATIENCE;
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return answer,
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                assert!(Instant::now() < deadline, "the connection stays open");
            }
            Err(_) => return answer,
        }
    }
}
