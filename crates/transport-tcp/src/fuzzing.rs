//! What is fuzzed of the wire; not part of the interface.

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use coracle_transport::{Frame, Hello, Refusal};
use tokio::io::{AsyncRead, ReadBuf};

use crate::wire::{
    Greeting, Kind, PacketBuffer, Purpose, WireError, decode_frame, decode_greeting, preamble, put_frame, put_greeting,
    read_preamble,
};

/// Length and kind.
const PACKET_HEADER: usize = 5;
const BYTES_MAX: usize = 1 << 16;
/// What a frame takes that is written anew: numbers may be shorter than they were written, never longer.
const FRAME_BYTES_MAX: usize = 1 << 30;

/// A frame that was read can be written, and is the same frame.
pub fn frame(data: &[u8]) {
    let Ok(frame) = decode_frame(data) else { return };
    assert_eq!(decode_frame(&frame_bytes(&frame)).ok(), Some(frame));
}

/// A greeting that was read can be written, and is the same greeting.
pub fn greeting(data: &[u8]) {
    let Ok(greeting) = decode_greeting(data) else { return };
    assert_eq!(decode_greeting(&greeting_bytes(&greeting)).ok(), Some(greeting));
}

/// A connection's bytes mean the same in whatever pieces they arrive; the first byte is the length of a piece.
pub fn stream(data: &[u8]) {
    let Some((piece, rest)) = data.split_first() else { return };
    let whole = heard(Pieces { rest, len: usize::MAX });
    let pieces = heard(Pieces { rest, len: usize::from(*piece).max(1) });
    assert_eq!(whole, pieces);
}

/// Everything that a connection says, and why it ends.
fn heard(mut stream: Pieces<'_>) -> (Option<Purpose>, Vec<(Kind, Bytes)>, String) {
    let purpose = match now(read_preamble(&mut stream)) {
        Ok(purpose) => purpose,
        // How much was seen of what is no preamble is not said the same way in pieces.
        Err(WireError::Garbage(_)) => return (None, Vec::new(), "garbage".to_owned()),
        Err(error) => return (None, Vec::new(), error.to_string()),
    };
    let (mut buffer, mut packets) = (PacketBuffer::default(), Vec::new());
    loop {
        match now(buffer.read(&mut stream, BYTES_MAX)) {
            Ok((kind, body)) => {
                assert!(body.len() <= BYTES_MAX, "a packet of {} bytes", body.len());
                match kind {
                    Kind::Frame => frame(&body),
                    Kind::Greeting => greeting(&body),
                    Kind::Raw => {}
                }
                packets.push((kind, body));
            }
            Err(error) => return (Some(purpose), packets, error.to_string()),
        }
    }
}

/// Bytes that arrive in pieces.
struct Pieces<'a> {
    rest: &'a [u8],
    len: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (piece, rest) = self.rest.split_at(self.rest.len().min(self.len).min(buf.remaining()));
        buf.put_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

/// The result of what never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("nothing in memory waits"),
    }
}

/// A frame's bytes, without the packet round them.
pub fn frame_bytes(frame: &Frame) -> Vec<u8> {
    let mut out = Vec::new();
    let Ok(()) = put_frame(&mut out, frame, FRAME_BYTES_MAX) else { panic!("{frame:?} cannot be written") };
    out.split_off(PACKET_HEADER)
}

fn greeting_bytes(greeting: &Greeting) -> Vec<u8> {
    let mut out = Vec::new();
    let Ok(()) = put_greeting(&mut out, greeting, FRAME_BYTES_MAX) else { panic!("{greeting:?} cannot be written") };
    out.split_off(PACKET_HEADER)
}

/// A hello's bytes.
pub fn hello_bytes(hello: &Hello) -> Vec<u8> {
    greeting_bytes(&Greeting::Hello(hello.clone()))
}

/// A refusal's bytes.
pub fn refusal_bytes(refusal: &Refusal) -> Vec<u8> {
    greeting_bytes(&Greeting::Refused(refusal.clone()))
}

/// The bytes of a welcome.
pub fn welcome_bytes() -> Vec<u8> {
    greeting_bytes(&Greeting::Welcome)
}

/// What a process sends that makes a connection: preamble, hello, welcome, frames.
pub fn stream_bytes(hello: &Hello, frames: &[Frame]) -> Vec<u8> {
    let mut out = preamble(Purpose::Frames).to_vec();
    let greetings = [Greeting::Hello(hello.clone()), Greeting::Welcome];
    let said = greetings.iter().try_for_each(|greeting| put_greeting(&mut out, greeting, FRAME_BYTES_MAX));
    let said = said.and_then(|()| frames.iter().try_for_each(|frame| put_frame(&mut out, frame, FRAME_BYTES_MAX)));
    assert!(said.is_ok(), "{said:?}");
    out
}
