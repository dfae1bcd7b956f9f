//! The bytes of the protocol: preamble and packets.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use coracle_core::{GroupId, Message};
#[cfg(feature = "tls")]
use coracle_transport::tls::TlsError;
use coracle_transport::{
    Fault, Frame, FrameError, Hello, PROTOCOL_VERSION, Refusal, links::MESSAGEPACK_MAGIC as MAGIC,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::elements;

/// A stream of bytes both ways.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

const PREAMBLE_LEN: usize = MAGIC.len() + 4 + 1;
const LENGTH_LEN: usize = 4;
/// How much room is made at once: memory grows as bytes arrive, not as a header announces them.
const READ_BYTES_MIN: usize = 16 << 10;
const READ_BYTES_MAX: usize = 256 << 10;
/// A buffer that a large frame blew up is given back beyond this.
const KEEP_BYTES_MAX: usize = 1 << 20;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Purpose {
    Frames = 1,
    Question = 2,
}

/// What a packet holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Frame = 0,
    Greeting = 1,
    Raw = 2,
}

/// What processes say before, and between, frames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Greeting {
    Hello(Hello),
    Refused(Refusal),
    Welcome,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error(transparent)]
    Io(io::Error),
    #[error("no secure connection: {0}")]
    #[cfg(feature = "tls")]
    Tls(#[from] TlsError),
    #[error("the address is over TLS: {0}")]
    NoSecurity(&'static str),
    #[error("the other side closed the connection")]
    Closed,
    #[error("no answer in time")]
    Timeout,
    #[error("the other side does not speak MessagePack over TCP: it begins with {}", describe(.0))]
    Garbage([u8; MAGIC.len()]),
    #[error("a packet of {len} bytes was announced, {max} are allowed")]
    Oversized { len: usize, max: usize },
    #[error("a packet has {count} elements or more, {max} are allowed")]
    Elements { count: usize, max: usize },
    #[error("a packet does not decode: {0}")]
    Malformed(String),
    #[error("refused by the other side: {0}")]
    RefusedThere(Refusal),
    #[error("refused here: {0}")]
    Refused(Refusal),
    #[error("a frame is refused: {0}")]
    Frame(#[from] FrameError),
}

impl WireError {
    /// What it counts as; an end that is nobody's fault counts as nothing.
    pub(crate) fn fault(&self) -> Option<Fault> {
        Some(match self {
            WireError::Io(_) | WireError::Closed => return None,
            // Whoever hangs up in the handshake may have been shut down.
            #[cfg(feature = "tls")]
            WireError::Tls(TlsError::Io(_) | TlsError::Closed) => return None,
            #[cfg(feature = "tls")]
            WireError::Tls(_) => Fault::Tls,
            WireError::NoSecurity(_) => Fault::Tls,
            WireError::Timeout => Fault::Timeout,
            WireError::Garbage(_) => Fault::Garbage,
            WireError::Oversized { .. } | WireError::Elements { .. } => Fault::Oversized,
            WireError::Malformed(_) => Fault::Malformed,
            WireError::RefusedThere(_) => Fault::RefusedThere,
            WireError::Refused(Refusal::Version { .. }) => Fault::Version,
            WireError::Refused(_) => Fault::Refused,
            WireError::Frame(error) => error.fault(),
        })
    }
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> WireError {
        // Whoever is refused in the handshake of TLS may hear of it only when it reads.
        #[cfg(feature = "tls")]
        if let Some(error) = TlsError::within(&error) {
            return WireError::Tls(error);
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof => WireError::Closed,
            _ => WireError::Io(error),
        }
    }
}

/// The first bytes of a connection, in either direction.
pub(crate) fn preamble(purpose: Purpose) -> [u8; PREAMBLE_LEN] {
    preamble_of(PROTOCOL_VERSION, purpose as u8)
}

fn preamble_of(version: u32, purpose: u8) -> [u8; PREAMBLE_LEN] {
    let mut out = [0; PREAMBLE_LEN];
    out[..8].copy_from_slice(&MAGIC);
    out[8..12].copy_from_slice(&version.to_be_bytes());
    out[12] = purpose;
    out
}

/// Reads the other side's preamble, without allocating anything.
pub(crate) async fn read_preamble(stream: &mut (impl AsyncRead + Unpin)) -> Result<Purpose, WireError> {
    let mut bytes = [0; PREAMBLE_LEN];
    let mut len = 0;
    while len < PREAMBLE_LEN {
        let read = stream.read(&mut bytes[len..]).await?;
        len += read;
        let seen = len.min(MAGIC.len());
        if bytes[..seen] != MAGIC[..seen] && (read == 0 || seen == MAGIC.len() || !may_be_known(&bytes[..seen])) {
            let mut start = [0; MAGIC.len()];
            start[..seen].copy_from_slice(&bytes[..seen]);
            return Err(WireError::Garbage(start));
        }
        if read == 0 {
            return Err(WireError::Closed);
        }
    }
    let theirs = u32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    if theirs != PROTOCOL_VERSION {
        return Err(WireError::Refused(Refusal::Version { ours: PROTOCOL_VERSION, theirs }));
    }
    match bytes[12] {
        1 => Ok(Purpose::Frames),
        2 => Ok(Purpose::Question),
        other => Err(WireError::Malformed(format!("the connection's purpose {other} is unknown"))),
    }
}

/// How a client begins to speak HTTP/2, and with it gRPC.
const HTTP2_PREFACE: &[u8] = b"PRI * HT";
/// How an HTTP/1 server answers to what it does not understand.
const HTTP1_ANSWER: &[u8] = b"HTTP/1.";
/// A TLS record that opens a connection, and one that refuses it.
const TLS_RECORDS: [&[u8]; 2] = [&[0x16, 3], &[0x15, 3]];

/// Whether more bytes may tell which other protocol it is that begins so.
fn may_be_known(start: &[u8]) -> bool {
    let others = [HTTP2_PREFACE, HTTP1_ANSWER, TLS_RECORDS[0], TLS_RECORDS[1]];
    start[0] == 0 || others.iter().any(|other| start.len() < other.len() && other.starts_with(start))
}

/// Whether it begins as an HTTP/2 server does: with a frame of settings, on stream 0, six bytes for each.
fn is_http2_answer(start: &[u8; MAGIC.len()]) -> bool {
    let len = u32::from_be_bytes([0, start[0], start[1], start[2]]);
    len.is_multiple_of(6) && len < 1000 && start[3..] == [4, 0, 0, 0, 0]
}

/// Whether it is a client of HTTP/2 or of TLS, which may be told what is spoken here.
pub(crate) fn is_client_of_other(error: &WireError) -> bool {
    matches!(error, WireError::Garbage(start) if start == HTTP2_PREFACE || start.starts_with(TLS_RECORDS[0]))
}

/// The bytes that something else begins with, and what it is if that can be told.
fn describe(start: &[u8; MAGIC.len()]) -> String {
    let what = if start == HTTP2_PREFACE || is_http2_answer(start) {
        ": it is gRPC (HTTP/2), whose addresses end with /http"
    } else if start.starts_with(HTTP1_ANSWER) {
        ": it is HTTP"
    } else if TLS_RECORDS.iter().any(|record| start.starts_with(record)) {
        ": it is TLS, whose addresses have /tls in them"
    } else {
        ""
    };
    format!("{start:02x?}{what}")
}

/// Appends a frame; what was there before stays when it is too large.
pub(crate) fn put_frame(out: &mut Vec<u8>, frame: &Frame, bytes_max: usize) -> Result<(), WireError> {
    put_packet(out, Kind::Frame, bytes_max, |out| {
        rmp_serde::encode::write(out, &(frame.group, &frame.message)).map_err(malformed)
    })
}

/// Appends a greeting.
pub(crate) fn put_greeting(out: &mut Vec<u8>, greeting: &Greeting, bytes_max: usize) -> Result<(), WireError> {
    put_packet(out, Kind::Greeting, bytes_max, |out| rmp_serde::encode::write_named(out, greeting).map_err(malformed))
}

/// Appends bytes that are the node's own.
pub(crate) fn put_raw(out: &mut Vec<u8>, bytes: &[u8], bytes_max: usize) -> Result<(), WireError> {
    put_packet(out, Kind::Raw, bytes_max, |out| {
        out.extend_from_slice(bytes);
        Ok(())
    })
}

fn put_packet(
    out: &mut Vec<u8>,
    kind: Kind,
    bytes_max: usize,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), WireError>,
) -> Result<(), WireError> {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_LEN]);
    out.push(kind as u8);
    let result = body(out).and_then(|()| {
        let len = out.len() - start - LENGTH_LEN;
        let fits = len <= packet_bytes_max(bytes_max);
        let len =
            u32::try_from(len).ok().filter(|_| fits).ok_or(WireError::Oversized { len: len - 1, max: bytes_max })?;
        out[start..start + LENGTH_LEN].copy_from_slice(&len.to_be_bytes());
        Ok(())
    });
    if result.is_err() {
        out.truncate(start);
    }
    result
}

/// Limits are on what a packet holds; the kind comes on top.
fn packet_bytes_max(bytes_max: usize) -> usize {
    bytes_max.saturating_add(1)
}

pub(crate) fn decode_frame(body: &[u8]) -> Result<Frame, WireError> {
    elements::check(body)?;
    let (group, message) = decode::<(GroupId, Message)>(body)?;
    Ok(Frame { group, message })
}

pub(crate) fn decode_greeting(body: &[u8]) -> Result<Greeting, WireError> {
    decode(body)
}

/// Reads one value and nothing after it.
fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, WireError> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(body);
    let value = T::deserialize(&mut deserializer).map_err(malformed)?;
    // Reading on fails at the very first byte if, and only if, there is none.
    match u8::deserialize(&mut deserializer) {
        Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(value),
        _ => Err(malformed("bytes follow it")),
    }
}

fn malformed(error: impl ToString) -> WireError {
    WireError::Malformed(error.to_string())
}

/// Gathers what arrives and gives it out packet by packet.
#[derive(Debug, Default)]
pub(crate) struct PacketBuffer {
    bytes: BytesMut,
    /// How many more bytes the packet that has begun needs.
    missing: usize,
}

impl PacketBuffer {
    /// The next packet, if it is there as a whole; a length beyond `bytes_max` is refused upon the header alone.
    pub(crate) fn next(&mut self, bytes_max: usize) -> Result<Option<(Kind, Bytes)>, WireError> {
        let Some(header) = self.bytes.first_chunk::<LENGTH_LEN>() else {
            self.missing = LENGTH_LEN - self.bytes.len();
            return Ok(None);
        };
        let len = u32::from_be_bytes(*header) as usize;
        if len > packet_bytes_max(bytes_max) {
            return Err(WireError::Oversized { len: len - 1, max: bytes_max });
        }
        if len == 0 {
            return Err(malformed("it is empty"));
        }
        let whole = LENGTH_LEN + len;
        if self.bytes.len() < whole {
            self.missing = whole - self.bytes.len();
            return Ok(None);
        }
        self.bytes.advance(LENGTH_LEN);
        let mut packet = self.bytes.split_to(len).freeze();
        let kind = match packet.get_u8() {
            0 => Kind::Frame,
            1 => Kind::Greeting,
            2 => Kind::Raw,
            other => return Err(malformed(format!("its kind {other} is unknown"))),
        };
        Ok(Some((kind, packet)))
    }

    /// Reads once; may be cancelled without loss.
    pub(crate) async fn fill(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> Result<usize, WireError> {
        if self.bytes.is_empty() && self.bytes.capacity() > KEEP_BYTES_MAX {
            self.bytes = BytesMut::new();
        }
        if self.bytes.capacity() - self.bytes.len() < READ_BYTES_MIN / 4 {
            self.bytes.reserve(self.missing.clamp(READ_BYTES_MIN, READ_BYTES_MAX));
        }
        match stream.read_buf(&mut self.bytes).await? {
            0 => Err(WireError::Closed),
            read => Ok(read),
        }
    }

    /// Waits for the next packet; may be cancelled without loss.
    pub(crate) async fn read(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        bytes_max: usize,
    ) -> Result<(Kind, Bytes), WireError> {
        loop {
            if let Some(packet) = self.next(bytes_max)? {
                return Ok(packet);
            }
            self.fill(stream).await?;
        }
    }

    /// Waits for the next packet, which has to be a greeting; may be cancelled without loss.
    pub(crate) async fn read_greeting(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
        bytes_max: usize,
    ) -> Result<Greeting, WireError> {
        match self.read(stream, bytes_max).await? {
            (Kind::Greeting, body) => decode_greeting(&body),
            (kind, _) => Err(malformed(format!("{kind:?} came instead of a greeting"))),
        }
    }
}

/// Writes all of it, and lets none of it wait in a buffer of TLS.
pub(crate) async fn write_whole(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
