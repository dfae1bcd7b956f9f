//! The task of a link: opens a stream when there is something to send, and hears what is answered.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use coracle_transport::{
    Address, Host, Refusal, check_hello,
    links::{Backoff, Closing, Link, expect_any},
};
use tokio::{
    sync::mpsc,
    time::{Instant as Tick, interval_at, sleep, timeout},
};
use tonic::Streaming;

use crate::{
    convert::Malformed,
    dial::{Dialed, connect},
    outbox::{Conversation, Order, Outbox, Stop},
    pb,
    shared::Shared,
    wire::{ENVELOPE_BYTES_MAX, Greeting, Said, WireError, checked_greeting, read_said},
};

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
        match converse(&shared, &link, host, &mut closing, &mut connected_at).await {
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

/// From connecting to the end of the stream; what was wrong is logged here.
async fn converse(
    shared: &Arc<Shared>,
    link: &Arc<Link>,
    host: &Arc<dyn Host>,
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
    link.members().iter().for_each(|member| member.counters.set_connected(false));
    result.map_err(|error| {
        tell_refusal(link, host.as_ref(), &error);
        complain(shared, link, &address, &error);
    })
}

/// The first address at which somebody is whom we look for.
async fn dial(shared: &Arc<Shared>, link: &Arc<Link>, host: &Arc<dyn Host>) -> Option<(Address, Session)> {
    for address in &link.addresses {
        let attempt = async {
            let dialed = connect(address, &shared.options).await?;
            let conversation = Conversation::new(shared.clone(), link.clone(), host.clone());
            match timeout(shared.options.handshake_timeout, shake_hands(&dialed, Arc::new(conversation))).await {
                Ok(Ok((conversation, orders, answers))) => Ok(Session { conversation, orders, answers, dialed }),
                Ok(Err(error)) => Err(dialed.explain(error)),
                Err(_) => Err(dialed.explain(WireError::Timeout)),
            }
        };
        match attempt.await {
            Ok(session) => return Some((address.clone(), session)),
            Err(error) => {
                tell_refusal(link, host.as_ref(), &error);
                complain(shared, link, address, &error);
            }
        }
    }
    None
}

type Shaken = (Arc<Conversation>, mpsc::Sender<Order>, Streaming<pb::Envelope>);

/// The handshake, as the side that calls.
async fn shake_hands(dialed: &Dialed, conversation: Arc<Conversation>) -> Result<Shaken, WireError> {
    /// What is told and not yet written: a few greetings.
    const ORDERS_MAX: usize = 16;
    let (orders, told) = mpsc::channel(ORDERS_MAX);
    let bytes_max = conversation.shared.options.hello_bytes_max;
    tell(&orders, conversation.introduction()?);
    let outbox = Outbox::new(conversation.clone(), told);
    // Nothing but greetings is answered.
    let mut client = dialed.client.clone().max_decoding_message_size(bytes_max + ENVELOPE_BYTES_MAX);
    let mut answers = client.connect(outbox.into_stream()).await?.into_inner();
    let theirs = match read_said(&mut answers, bytes_max).await? {
        Said::Greeting(Greeting::Hello(theirs)) => theirs,
        other => return Err(not_a_hello(other)),
    };
    let members = conversation.link.members();
    if let Err(refusal) = check_hello(conversation.host.as_ref(), &theirs).and_then(|()| expect_any(&theirs, &members))
    {
        refuse(&orders, &mut answers, refusal.clone(), bytes_max).await;
        return Err(WireError::Refused(refusal));
    }
    conversation.introduced(&theirs);
    tell(&orders, checked_greeting(Greeting::Welcome, bytes_max)?);
    Ok((conversation, orders, answers))
}

/// What has to be said soon is said; what finds no room repeats what is there already.
fn tell(orders: &mpsc::Sender<Order>, envelope: pb::Envelope) {
    let _ = orders.try_send(Order::Say(envelope));
}

/// Tells the other side why it is not who was looked for, and waits a little for it to take note.
async fn refuse(
    orders: &mpsc::Sender<Order>,
    answers: &mut Streaming<pb::Envelope>,
    refusal: Refusal,
    bytes_max: usize,
) {
    /// The other side ends the stream as soon as it has read the reason.
    const PATIENCE: Duration = Duration::from_secs(1);
    if let Ok(envelope) = checked_greeting(Greeting::Refused(refusal), bytes_max) {
        tell(orders, envelope);
        let _ = orders.try_send(Order::Finish);
        // The refusal stands whether or not it was heard.
        let _ = timeout(PATIENCE, answers.message()).await;
    }
}

fn not_a_hello(said: Said) -> WireError {
    match said {
        Said::Greeting(Greeting::Refused(refusal)) => WireError::RefusedThere(refusal),
        Said::Greeting(Greeting::RefusedOtherwise(reason)) => WireError::RefusedOtherwise(reason),
        Said::Greeting(Greeting::Welcome) => Malformed::Unexpected("a welcome").into(),
        Said::Greeting(Greeting::Hello(_)) => Malformed::Unexpected("a hello").into(),
        Said::Frames(_) => Malformed::Unexpected("a frame").into(),
    }
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

/// A stream over which both sides shook hands.
struct Session {
    conversation: Arc<Conversation>,
    orders: mpsc::Sender<Order>,
    answers: Streaming<pb::Envelope>,
    /// The connection, which lives as long as this.
    dialed: Dialed,
}

impl Session {
    /// Hears what is answered until there is a reason to stop; what is queued leaves by itself.
    async fn pump(&mut self, closing: &mut Closing) -> Result<Stop, WireError> {
        let options = self.conversation.shared.options.clone();
        let mut ticks = interval_at(Tick::now() + options.write_timeout, options.write_timeout);
        let mut stuck_at = None;
        loop {
            tokio::select! {
                biased;
                () = closing.closed() => return Ok(self.flush(options.shutdown_timeout).await),
                said = read_said(&mut self.answers, options.hello_bytes_max) => match said {
                    Ok(said) => self.answered(said)?,
                    Err(error) => return self.over(error),
                },
                () = self.conversation.link.joined() => self.introduce_members()?,
                _ = ticks.tick() => {
                    let now = self.conversation.link.is_waiting().then(|| self.conversation.taken());
                    if now.is_some() && now == stuck_at {
                        return Err(WireError::Timeout);
                    }
                    stuck_at = now;
                }
            }
        }
    }

    /// The other side has ended its half: because this one had ended its own, or by itself.
    fn over(&self, error: WireError) -> Result<Stop, WireError> {
        match (error, self.conversation.stop()) {
            (WireError::Closed, Some(stop)) => Ok(stop),
            (error, _) => Err(self.dialed.explain(error)),
        }
    }

    /// A node of a group that was opened since the handshake: both sides say what they host before its first frame.
    fn introduce_members(&mut self) -> Result<(), WireError> {
        if !self.conversation.knows_all() {
            tell(&self.orders, self.conversation.introduction()?);
        }
        Ok(())
    }

    /// The other side's answer to an announcement.
    fn answered(&mut self, said: Said) -> Result<(), WireError> {
        let Said::Greeting(Greeting::Hello(theirs)) = said else { return Err(not_a_hello(said)) };
        let members = self.conversation.link.members();
        check_hello(self.conversation.host.as_ref(), &theirs)
            .and_then(|()| expect_any(&theirs, &members))
            .map_err(WireError::Refused)?;
        self.conversation.introduced(&theirs);
        Ok(())
    }

    /// Lets what is left be written, for a short while.
    async fn flush(&mut self, patience: Duration) -> Stop {
        let rest = async {
            if self.orders.send(Order::Finish).await.is_ok() {
                while self.answers.message().await.is_ok_and(|answer| answer.is_some()) {}
            }
        };
        // A process that does not read does not hold up the shutdown.
        let _ = timeout(patience, rest).await;
        Stop::Closed
    }
}
