//! Streams that other processes opened: they are heard, and answered only with greetings.

use std::{collections::HashSet, sync::Arc};

use coracle_transport::{Frame, FrameError, Hello, Host, Inbound, links::Closing};
use prost::Message;
use tokio::{sync::mpsc, time::timeout};
use tonic::{Status, Streaming};

use crate::{
    connection::Taken,
    convert::{Malformed, decode_frame},
    pb,
    shared::Shared,
    wire::{Greeting, Said, WireError, checked_greeting, read_said},
};

/// Where greetings to the other side go.
type Answers = mpsc::Sender<Result<pb::Envelope, Status>>;

/// Serves a stream to its end.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    taken: Taken,
    mut stream: Streaming<pb::Envelope>,
    answers: Answers,
    mut closing: Closing,
) {
    let host = taken.host();
    let conversation = async {
        let admitted = timeout(shared.options.handshake_timeout, admit(&shared, &mut stream, &answers, &host, &taken));
        let inbound = admitted.await.map_err(|_| WireError::Timeout)??;
        tracing::debug!(from = taken.from(), "another process shook hands");
        Receiver { shared: &shared, host: &host, answers: &answers, inbound, told: HashSet::new() }
            .receive(stream)
            .await
    };
    tokio::select! {
        () = closing.closed() => {}
        result = conversation => if let Err(error) = result {
            shared.complain(taken.from(), &error);
            // Whether or not anybody reads it.
            let _ = answers.try_send(Err(error.status()));
        }
    }
}

/// The handshake, as the side that is called.
async fn admit(
    shared: &Shared,
    stream: &mut Streaming<pb::Envelope>,
    answers: &Answers,
    host: &Arc<dyn Host>,
    taken: &Taken,
) -> Result<Inbound, WireError> {
    let bytes_max = shared.options.hello_bytes_max;
    let Said::Greeting(Greeting::Hello(theirs)) = read_said(stream, bytes_max).await? else {
        return Err(Malformed::Unexpected("something else than a hello").into());
    };
    let inbound = match Inbound::admit(host.clone(), &theirs) {
        Ok(inbound) => inbound,
        Err(refusal) => {
            say(answers, Greeting::Refused(refusal.clone()), bytes_max).await?;
            return Err(WireError::Refused(refusal));
        }
    };
    // Before the other side hears that it may send.
    taken.admitted();
    say(answers, Greeting::Hello(host.hello()), bytes_max).await?;
    match read_said(stream, bytes_max).await? {
        Said::Greeting(Greeting::Welcome) => Ok(inbound),
        Said::Greeting(Greeting::Refused(refusal)) => Err(WireError::RefusedThere(refusal)),
        Said::Greeting(Greeting::RefusedOtherwise(reason)) => Err(WireError::RefusedOtherwise(reason)),
        Said::Greeting(Greeting::Hello(_)) => Err(Malformed::Unexpected("a second hello").into()),
        Said::Frames(_) => Err(Malformed::Unexpected("frames before the welcome").into()),
    }
}

async fn say(answers: &Answers, greeting: Greeting, bytes_max: usize) -> Result<(), WireError> {
    let envelope = checked_greeting(greeting, bytes_max)?;
    answers.send(Ok(envelope)).await.map_err(|_| WireError::Closed)
}

struct Receiver<'a> {
    shared: &'a Shared,
    host: &'a Arc<dyn Host>,
    answers: &'a Answers,
    inbound: Inbound,
    /// The groups of which the other side was told that they are not here, since it last announced its own.
    told: HashSet<coracle_core::GroupId>,
}

/// What came of a message.
#[derive(Default)]
struct Gathered {
    /// Checked, with their sizes.
    frames: Vec<(Frame, usize)>,
    /// What is wrong with those that are dropped.
    dropped: Vec<FrameError>,
}

impl Receiver<'_> {
    /// Hands frames to the host, all that one message brought together.
    async fn receive(mut self, mut stream: Streaming<pb::Envelope>) -> Result<(), WireError> {
        let options = &self.shared.options;
        loop {
            let said = match timeout(options.idle_timeout, read_said(&mut stream, options.hello_bytes_max)).await {
                Err(_) | Ok(Err(WireError::Closed)) => return Ok(()),
                Ok(said) => said?,
            };
            match said {
                Said::Frames(frames) => self.deliver(frames).await?,
                Said::Greeting(Greeting::Hello(hello)) => self.announced(&hello).await?,
                Said::Greeting(Greeting::Refused(refusal)) => return Err(WireError::RefusedThere(refusal)),
                Said::Greeting(Greeting::RefusedOtherwise(reason)) => return Err(WireError::RefusedOtherwise(reason)),
                Said::Greeting(Greeting::Welcome) => return Err(Malformed::Unexpected("a second welcome").into()),
            }
        }
    }

    async fn deliver(&mut self, frames: Vec<pb::Frame>) -> Result<(), WireError> {
        let mut gathered = Gathered::default();
        let stopped = self.gather(frames, &mut gathered);
        let Gathered { frames, dropped } = gathered;
        if !frames.is_empty() {
            let senders = frames.iter().map(|(frame, bytes)| (frame.group, frame.message.from, *bytes));
            self.shared.peers.received(senders);
            self.host.receive(frames.into_iter().map(|(frame, _)| frame).collect());
        }
        let mut is_news = false;
        for error in &dropped {
            self.shared.dropped(error);
            is_news |= matches!(error, FrameError::Receiver { group, .. } if self.told.insert(*group));
        }
        if is_news {
            self.say_hello().await?;
        }
        stopped
    }

    /// Puts the frames into `gathered` up to the first that closes the stream.
    fn gather(&mut self, frames: Vec<pb::Frame>, gathered: &mut Gathered) -> Result<(), WireError> {
        gathered.frames.reserve(frames.len());
        for frame in frames {
            let len = frame.encoded_len();
            let frame = decode_frame(frame)?;
            match self.inbound.check(&frame) {
                Ok(()) => gathered.frames.push((frame, len)),
                Err(error) if error.is_fatal() => return Err(error.into()),
                Err(error) => gathered.dropped.push(error),
            }
        }
        Ok(())
    }

    /// The other side hosts other groups than before, or wants to know which are hosted here.
    async fn announced(&mut self, hello: &Hello) -> Result<(), WireError> {
        self.told.clear();
        match self.inbound.announce(hello) {
            Ok(()) => self.say_hello().await,
            Err(refusal) => {
                self.say(Greeting::Refused(refusal.clone())).await?;
                Err(WireError::Refused(refusal))
            }
        }
    }

    async fn say_hello(&self) -> Result<(), WireError> {
        self.say(Greeting::Hello(self.host.hello())).await
    }

    /// Who does not read what it is told is not heard for ever.
    async fn say(&self, greeting: Greeting) -> Result<(), WireError> {
        let options = &self.shared.options;
        let said = timeout(options.write_timeout, say(self.answers, greeting, options.hello_bytes_max));
        said.await.map_err(|_| WireError::Timeout)?
    }
}
