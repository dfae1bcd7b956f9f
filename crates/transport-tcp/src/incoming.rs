//! Connections that other processes made: they are heard, and answered only with greetings.

use std::{collections::HashSet, sync::Arc};

use coracle_transport::{
    Frame, FrameError, Hello, Host, Inbound,
    links::{Closing, part},
};
use tokio::{io::AsyncWriteExt, sync::OwnedSemaphorePermit, time::timeout};

use crate::{
    TcpOptions, handshake, question,
    secure::Security,
    shared::Shared,
    wire::{
        Greeting, Io, Kind, PacketBuffer, Purpose, WireError, decode_frame, decode_greeting, is_client_of_other,
        preamble, read_preamble,
    },
};

/// A connection that another process made.
pub(crate) struct Arriving {
    pub(crate) stream: Box<dyn Io>,
    pub(crate) from: String,
    /// Whether it is to be over TLS, and how.
    pub(crate) security: Option<Security>,
}

/// Serves a connection to its end. `handshake` is given back once the other side is known.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    arriving: Arriving,
    handshake: OwnedSemaphorePermit,
    mut closing: Closing,
) {
    let Some(host) = shared.host.get() else { return };
    let Arriving { stream, from, security } = arriving;
    let conversation = async {
        let mut packets = PacketBuffer::default();
        let admitted = async {
            let (mut stream, host) = secured(stream, host, security).await?;
            let inbound = admit(&shared, &mut stream, &mut packets, &host).await?;
            Ok::<_, WireError>((stream, host, inbound))
        };
        let admitted = timeout(shared.options.handshake_timeout, admitted).await;
        let (mut stream, host, inbound) = admitted.map_err(|_| WireError::Timeout)??;
        drop(handshake);
        match inbound {
            Some(inbound) => {
                tracing::debug!(from, "another process shook hands");
                receive(&shared, &mut stream, packets, &host, inbound).await
            }
            None => Ok(()),
        }
    };
    tokio::select! {
        () = closing.closed() => {}
        result = conversation => if let Err(error) = result {
            shared.complain(&from, &error);
        }
    }
}

/// The stream, made secure if it is to be; and the host as it is to be seen from there.
async fn secured(
    stream: Box<dyn Io>,
    host: &Arc<dyn Host>,
    security: Option<Security>,
) -> Result<(Box<dyn Io>, Arc<dyn Host>), WireError> {
    match security {
        Some(security) => security.accept(stream, host.clone()).await,
        None => Ok((stream, host.clone())),
    }
}

/// Finds out who it is and what for; a question is answered right away.
async fn admit(
    shared: &Shared,
    stream: &mut impl Io,
    packets: &mut PacketBuffer,
    host: &Arc<dyn Host>,
) -> Result<Option<Inbound>, WireError> {
    match read_preamble(stream).await {
        Ok(Purpose::Frames) => handshake::accept(stream, packets, host, &shared.options).await.map(Some),
        Ok(Purpose::Question) => {
            question::answer(stream, packets, host.as_ref(), &shared.options).await?;
            Ok(None)
        }
        Err(error @ WireError::Refused(_)) => {
            // Another version: our own preamble tells it which one is spoken here.
            part(stream, &preamble(Purpose::Frames)).await;
            Err(error)
        }
        Err(error) if is_client_of_other(&error) => {
            // A node that takes this for an address of gRPC, or over TLS: it can tell by our preamble.
            part(stream, &preamble(Purpose::Frames)).await;
            Err(error)
        }
        Err(error) => Err(error),
    }
}

/// Hands frames to the host, all that one read brought together.
async fn receive(
    shared: &Shared,
    stream: &mut impl Io,
    mut packets: PacketBuffer,
    host: &Arc<dyn Host>,
    mut inbound: Inbound,
) -> Result<(), WireError> {
    let options = &shared.options;
    // The groups of which the other side was told that they are not here, since it last announced its own.
    let mut told = HashSet::new();
    loop {
        let mut gathered = Gathered::default();
        let stopped = gather(options, &mut packets, &mut inbound, &mut gathered);
        let Gathered { frames, dropped } = gathered;
        if !frames.is_empty() {
            let senders = frames.iter().map(|(frame, bytes)| (frame.group, frame.message.from, *bytes));
            shared.peers.received(senders);
            host.receive(frames.into_iter().map(|(frame, _)| frame).collect());
        }
        let mut is_news = false;
        for error in &dropped {
            shared.dropped(error);
            is_news |= matches!(error, FrameError::Receiver { group, .. } if told.insert(*group));
        }
        // Who does not read what it is told is not heard for ever.
        if is_news {
            let said = handshake::say_hello(stream, host.as_ref(), options.hello_bytes_max);
            timeout(options.write_timeout, said).await.map_err(|_| WireError::Timeout)??;
        }
        if let Some(hello) = stopped? {
            told.clear();
            let answered = announced(stream, host.as_ref(), &mut inbound, &hello, options.hello_bytes_max);
            timeout(options.write_timeout, answered).await.map_err(|_| WireError::Timeout)??;
            continue;
        }
        match timeout(options.idle_timeout, packets.fill(stream)).await {
            Ok(read) => drop(read?),
            Err(_) => return Ok(stream.shutdown().await?),
        }
    }
}

/// What was gathered from the packets that are there.
#[derive(Default)]
struct Gathered {
    /// Checked, with their sizes.
    frames: Vec<(Frame, usize)>,
    /// What is wrong with those that are dropped.
    dropped: Vec<FrameError>,
}

/// Puts the frames that are there as a whole into `gathered`; and returns what comes after them: nothing yet, an announcement, or a fault.
fn gather(
    options: &TcpOptions,
    packets: &mut PacketBuffer,
    inbound: &mut Inbound,
    gathered: &mut Gathered,
) -> Result<Option<Hello>, WireError> {
    let bytes_max = options.frame_bytes_max.max(options.hello_bytes_max);
    loop {
        match packets.next(bytes_max)? {
            None => return Ok(None),
            Some((Kind::Frame, body)) if body.len() > options.frame_bytes_max => {
                return Err(WireError::Oversized { len: body.len(), max: options.frame_bytes_max });
            }
            Some((Kind::Frame, body)) => {
                let frame = decode_frame(&body)?;
                match inbound.check(&frame) {
                    Ok(()) => gathered.frames.push((frame, body.len())),
                    Err(error) if error.is_fatal() => return Err(error.into()),
                    Err(error) => gathered.dropped.push(error),
                }
            }
            Some((Kind::Greeting, body)) => return decode_greeting(&body).and_then(as_hello).map(Some),
            Some((Kind::Raw, _)) => return Err(WireError::Malformed("a question came among frames".to_owned())),
        }
    }
}

fn as_hello(greeting: Greeting) -> Result<Hello, WireError> {
    match greeting {
        Greeting::Hello(hello) => Ok(hello),
        Greeting::Refused(refusal) => Err(WireError::RefusedThere(refusal)),
        Greeting::Welcome => Err(WireError::Malformed("a second welcome".to_owned())),
    }
}

/// The other side hosts other groups than before, or wants to know which are hosted here.
async fn announced(
    stream: &mut impl Io,
    host: &dyn Host,
    inbound: &mut Inbound,
    hello: &Hello,
    bytes_max: usize,
) -> Result<(), WireError> {
    match inbound.announce(hello) {
        Ok(()) => handshake::say_hello(stream, host, bytes_max).await,
        Err(refusal) => {
            handshake::refuse(stream, &refusal, bytes_max).await;
            Err(WireError::Refused(refusal))
        }
    }
}

#[cfg(test)]
#[path = "incoming_tests.rs"]
mod tests;
