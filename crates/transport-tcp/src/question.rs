//! Questions from outside of any group: each is a connection of its own, and needs no admission.

use std::time::Duration;

use bytes::Bytes;
use coracle_transport::{Address, Host, TransportError, links::part};

use crate::{
    TcpOptions,
    dial::{Resolve, connect},
    wire::{Io, Kind, PacketBuffer, Purpose, WireError, preamble, put_raw, read_preamble, write_whole},
};

/// Asks the process at `address`.
pub(crate) async fn ask(
    address: &Address,
    question: Bytes,
    resolver: &dyn Resolve,
    options: &TcpOptions,
) -> Result<Bytes, TransportError> {
    let unanswered = |reason: String| TransportError::Unanswered { address: address.to_string(), reason };
    let mut out = preamble(Purpose::Question).to_vec();
    put_raw(&mut out, &question, options.question_bytes_max)
        .map_err(|error| unanswered(format!("the question cannot be put: {error}")))?;
    let mut stream = connect(address, resolver, options).await.map_err(|error| unanswered(error.to_string()))?;
    match tokio::time::timeout(options.handshake_timeout, exchange(&mut stream, &out, options)).await {
        Ok(result) => result.map_err(|error| unanswered(error.to_string())),
        Err(_) => Err(unanswered(format!("no answer within {:?}", options.handshake_timeout))),
    }
}

async fn exchange(stream: &mut impl Io, out: &[u8], options: &TcpOptions) -> Result<Bytes, WireError> {
    write_whole(stream, out).await?;
    read_preamble(stream).await?;
    read_raw(stream, &mut PacketBuffer::default(), options.question_bytes_max).await
}

/// Reads the question on a connection whose preamble is read, and answers it.
pub(crate) async fn answer(
    stream: &mut impl Io,
    packets: &mut PacketBuffer,
    host: &dyn Host,
    options: &TcpOptions,
) -> Result<(), WireError> {
    /// The other side hangs up as soon as it has the answer.
    const PATIENCE: Duration = Duration::from_secs(1);
    let question = read_raw(stream, packets, options.question_bytes_max).await?;
    let mut out = preamble(Purpose::Question).to_vec();
    put_raw(&mut out, &host.answer(question), options.question_bytes_max)?;
    write_whole(stream, &out).await?;
    let _ = tokio::time::timeout(PATIENCE, part(stream, &[])).await;
    Ok(())
}

async fn read_raw(stream: &mut impl Io, packets: &mut PacketBuffer, bytes_max: usize) -> Result<Bytes, WireError> {
    match packets.read(stream, bytes_max).await? {
        (Kind::Raw, body) => Ok(body),
        (kind, _) => Err(WireError::Malformed(format!("{kind:?} came instead of a question or an answer"))),
    }
}
