//! The task of a link: connects when there is something to send, and writes it.

use std::{sync::Arc, time::Instant};

use coracle_transport::{
    Address, Fault, Host, Hosted, Refusal, check_hello,
    links::{Backoff, Closing, Link, Member, Queued, expect_any},
};
use tokio::{
    io::AsyncWriteExt,
    time::{sleep, timeout},
};

use crate::{
    dial::connect,
    handshake,
    shared::Shared,
    wire::{Greeting, Io, PacketBuffer, WireError, put_frame, put_greeting, write_whole},
};

/// Why the task goes back to waiting, or ends, without anything being wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// Nothing was sent for long.
    Idle,
    /// The link is not needed any more, or the transport shuts down.
    Closed,
}

/// Keeps a link going until it is closed.
pub(crate) async fn run(shared: Arc<Shared>, link: Arc<Link>, mut closing: Closing) {
    let mut backoff = Backoff::new(shared.options.backoff_min, shared.options.backoff_max);
    loop {
        let is_wanted = tokio::select! {
            () = closing.closed() => false,
            is_wanted = link.ready() => is_wanted,
        };
        let Some(host) = shared.host.get().filter(|_| is_wanted) else { return };
        let mut connected_at = None;
        match converse(&shared, &link, host.as_ref(), &mut closing, &mut connected_at).await {
            Ok(Stop::Idle) => continue,
            Ok(Stop::Closed) => return,
            Err(()) => lost(&link, host.as_ref()),
        }
        // A process that lets us in and hangs up at once is not asked again at once, nor one that does not even refuse.
        if connected_at.is_some_and(|at: Instant| at.elapsed() > shared.options.backoff_max) {
            backoff.reset();
        }
        tokio::select! {
            () = closing.closed() => return,
            () = sleep(backoff.next_wait()) => link.up(),
        }
    }
}

/// From connecting to the end of the connection; what was wrong is logged here.
async fn converse(
    shared: &Shared,
    link: &Link,
    host: &dyn Host,
    closing: &mut Closing,
    connected_at: &mut Option<Instant>,
) -> Result<Stop, ()> {
    let dialed = tokio::select! {
        () = closing.closed() => return Ok(Stop::Closed),
        dialed = dial(shared, link, host) => dialed,
    };
    let (address, mut session) = dialed.ok_or(())?;
    *connected_at = Some(Instant::now());
    tracing::debug!(%address, "connected");
    let result = session.pump(closing).await;
    result.map_err(|error| {
        tell_refusal(link, host, &error);
        complain(shared, link, &address, &error);
    })
}

/// The first address at which somebody is whom we look for.
async fn dial<'a>(shared: &'a Shared, link: &'a Link, host: &'a dyn Host) -> Option<(Address, Session<'a>)> {
    for address in &link.addresses {
        let attempt = async {
            let mut stream = connect(address, shared.resolver.as_ref(), &shared.options).await?;
            let mut packets = PacketBuffer::default();
            let members = link.members();
            let handshake = handshake::dial(&mut stream, &mut packets, host, &members, &shared.options);
            let introduced = timeout(shared.options.handshake_timeout, handshake).await;
            let introduced = introduced.map_err(|_| WireError::Timeout)??;
            Ok(Session::new(shared, link, host, stream, packets, introduced))
        };
        match attempt.await {
            Ok(session) => return Some((address.clone(), session)),
            Err(error) => {
                tell_refusal(link, host, &error);
                complain(shared, link, address, &error);
            }
        }
    }
    None
}

/// Counts and logs why there is no connection to an address.
fn complain(shared: &Shared, link: &Link, address: &Address, error: &WireError) {
    let fault = error.fault();
    if let Some(fault) = fault {
        shared.faults.count(fault);
    }
    let log = if fault.is_some() { &link.log } else { &link.absence_log };
    let Some(suppressed) = log.permit() else { return };
    match fault {
        Some(_) => tracing::warn!(%address, %error, suppressed, "no connection to a peer"),
        None => tracing::info!(%address, %error, suppressed, "no connection to a peer"),
    }
}

/// Tells the host that the other side does not let it in.
fn tell_refusal(link: &Link, host: &dyn Host, error: &WireError) {
    if let WireError::RefusedThere(refusal) = error {
        link.members().iter().for_each(|member| host.refused(member.group, member.id, refusal));
    }
}

fn lost(link: &Link, host: &dyn Host) {
    link.down();
    for member in link.members() {
        host.unreachable(member.group, member.id);
    }
}

/// A connection over which both sides shook hands.
struct Session<'a> {
    shared: &'a Shared,
    link: &'a Link,
    host: &'a dyn Host,
    stream: Box<dyn Io>,
    packets: PacketBuffer,
    ours: Hosted,
    theirs: Hosted,
    /// When the two last told each other what they host.
    introduced_at: Instant,
    /// What the next write takes.
    out: Vec<u8>,
}

impl<'a> Session<'a> {
    fn new(
        shared: &'a Shared,
        link: &'a Link,
        host: &'a dyn Host,
        stream: Box<dyn Io>,
        packets: PacketBuffer,
        introduced: handshake::Introduced,
    ) -> Session<'a> {
        let handshake::Introduced { ours, theirs } = introduced;
        let introduced_at = Instant::now();
        let mut session = Session { shared, link, host, stream, packets, ours, theirs, introduced_at, out: Vec::new() };
        session.note_members();
        session
    }

    /// Marks who is there, and tells the host who is not.
    fn note_members(&mut self) {
        for member in self.link.members() {
            let expected = self.theirs.expect(member.group, member.id, member.incarnation);
            member.counters.set_connected(expected.is_ok());
            if let Err(refusal) = expected {
                self.stranger(&refusal);
                self.host.unreachable(member.group, member.id);
            }
        }
    }

    fn stranger(&self, refusal: &Refusal) {
        self.shared.faults.count(Fault::Refused);
        if let Some(suppressed) = self.link.log.permit() {
            tracing::warn!(addresses = ?self.link.addresses, %refusal, suppressed, "a peer is not where it is expected");
        }
    }

    /// Writes what is queued, all of it at once, until there is a reason to stop.
    async fn pump(&mut self, closing: &mut Closing) -> Result<Stop, WireError> {
        // The other side closes after the whole of it; frames that are under way then would be lost.
        let idle = self.shared.options.idle_timeout / 2;
        let hello_bytes_max = self.shared.options.hello_bytes_max;
        let patience = self.shared.options.shutdown_timeout;
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = closing.closed() => return self.flush().await,
                greeting = self.packets.read_greeting(&mut self.stream, hello_bytes_max) => {
                    self.answered(greeting?)?;
                    continue;
                }
                () = self.link.joined() => {
                    self.introduce_members().await?;
                    continue;
                }
                is_wanted = self.link.ready() => if !is_wanted {
                    return self.part(Stop::Closed).await;
                },
                () = sleep(idle) => return self.part(Stop::Idle).await,
            }
            self.link.take(self.shared.options.batch_bytes_max, &mut batch);
            tokio::select! {
                written = self.write(&mut batch) => written?,
                // A process that does not read does not hold up the shutdown either.
                () = async { closing.closed().await; sleep(patience).await } => return Ok(Stop::Closed),
            }
        }
    }

    /// A node of a group that was opened since the handshake: both sides say what they host before its first frame.
    async fn introduce_members(&mut self) -> Result<(), WireError> {
        let is_known = |member: &Member| self.theirs.expect(member.group, member.id, member.incarnation).is_ok();
        if self.link.members().iter().all(|member| is_known(member)) {
            return Ok(());
        }
        self.out.clear();
        self.announce()?;
        self.write_out().await
    }

    /// The other side's answer to an announcement.
    fn answered(&mut self, greeting: Greeting) -> Result<(), WireError> {
        let theirs = match greeting {
            Greeting::Hello(theirs) => theirs,
            Greeting::Refused(refusal) => return Err(WireError::RefusedThere(refusal)),
            Greeting::Welcome => return Err(WireError::Malformed("an unexpected welcome".to_owned())),
        };
        let members = self.link.members();
        check_hello(self.host, &theirs).and_then(|()| expect_any(&theirs, &members)).map_err(WireError::Refused)?;
        self.theirs = Hosted::of(&theirs);
        self.note_members();
        Ok(())
    }

    /// Encodes a batch and hands it to the system in one piece.
    async fn write(&mut self, batch: &mut Vec<Queued>) -> Result<(), WireError> {
        self.out.clear();
        for queued in batch.drain(..) {
            self.put(queued)?;
        }
        self.write_out().await
    }

    async fn write_out(&mut self) -> Result<(), WireError> {
        let written = timeout(self.shared.options.write_timeout, write_whole(&mut self.stream, &self.out)).await;
        written.map_err(|_| WireError::Timeout)??;
        // A single large frame does not keep its memory for ever.
        self.out.shrink_to(self.shared.options.batch_bytes_max);
        Ok(())
    }

    /// Encodes a frame, unless one of its ends is not, or not yet, known to both sides.
    fn put(&mut self, queued: Queued) -> Result<(), WireError> {
        let Queued { frame, member, .. } = queued;
        if let Err(refusal) = self.theirs.expect(member.group, member.id, member.incarnation) {
            member.counters.dropped();
            member.counters.set_connected(false);
            // It may have come since: ask, but not for each frame.
            if self.introduced_at.elapsed() >= self.shared.options.backoff_max {
                self.stranger(&refusal);
                self.host.unreachable(member.group, member.id);
                self.announce()?;
            }
            return Ok(());
        }
        if !self.ours.contains(frame.group, frame.message.from) {
            self.announce()?;
        }
        if !self.ours.contains(frame.group, frame.message.from) {
            member.counters.dropped();
            return Ok(());
        }
        member.counters.set_connected(true);
        let start = self.out.len();
        match put_frame(&mut self.out, &frame, self.shared.options.frame_bytes_max) {
            Ok(()) => member.counters.sent(self.out.len() - start),
            Err(error) => {
                member.counters.dropped();
                if let Some(suppressed) = self.link.log.permit() {
                    tracing::warn!(%error, suppressed, "a frame cannot be sent");
                }
            }
        }
        Ok(())
    }

    /// Says what is hosted here by now; the other side answers with what is hosted there.
    fn announce(&mut self) -> Result<(), WireError> {
        let hello = self.host.hello();
        self.ours = Hosted::of(&hello);
        self.introduced_at = Instant::now();
        put_greeting(&mut self.out, &Greeting::Hello(hello), self.shared.options.hello_bytes_max)
    }

    /// Writes what is left, for a short while.
    async fn flush(&mut self) -> Result<Stop, WireError> {
        let patience = self.shared.options.shutdown_timeout;
        let rest = async {
            let mut batch = Vec::new();
            loop {
                self.link.take(self.shared.options.batch_bytes_max, &mut batch);
                if batch.is_empty() {
                    return self.part(Stop::Closed).await;
                }
                self.write(&mut batch).await?;
            }
        };
        timeout(patience, rest).await.unwrap_or(Ok(Stop::Closed))
    }

    async fn part(&mut self, stop: Stop) -> Result<Stop, WireError> {
        for member in self.link.members() {
            member.counters.set_connected(false);
        }
        self.stream.shutdown().await?;
        Ok(stop)
    }
}
