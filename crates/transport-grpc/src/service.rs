//! The calls that this process answers.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use coracle_transport::links::Closing;
use http_body::Frame;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::{Bytes, Service, http},
};

use crate::{
    connection::Connection,
    incoming,
    pb::{self, peer_server::PeerServer},
    shared::Shared,
    wire::{ENVELOPE_BYTES_MAX, WireError},
};

/// What answers the calls.
#[derive(Clone)]
pub(crate) struct PeerService {
    shared: Arc<Shared>,
    closing: Closing,
}

#[tonic::async_trait]
impl pb::peer_server::Peer for PeerService {
    type ConnectStream = ReceiverStream<Result<pb::Envelope, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<pb::Envelope>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        /// Greetings that were not taken yet; one is the rule.
        const ANSWERS_MAX: usize = 4;
        let connection = connection(request.extensions())?;
        let Some(taken) = connection.clone().take() else {
            self.shared.complain(&connection.from, &WireError::Overload);
            return Err(WireError::Overload.status());
        };
        let (answers, stream) = mpsc::channel(ANSWERS_MAX);
        let serving = incoming::serve(self.shared.clone(), taken, request.into_inner(), answers, self.closing.clone());
        tokio::spawn(serving);
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn ask(&self, request: Request<pb::AskRequest>) -> Result<Response<pb::AskResponse>, Status> {
        let connection = connection(request.extensions())?;
        let question = request.into_inner().question;
        let limit = self.shared.options.question_bytes_max;
        let checked = |what: &str, len: usize| {
            if len <= limit {
                return Ok(());
            }
            let error = WireError::Oversized(format!("{what} has {len} bytes, {limit} are allowed"));
            self.shared.complain(&connection.from, &error);
            Err(error.status())
        };
        checked("a question", question.len())?;
        let answer = connection.host.answer(question);
        checked("the answer to a question", answer.len())?;
        Ok(Response::new(pb::AskResponse { answer }))
    }
}

fn connection(extensions: &http::Extensions) -> Result<Arc<Connection>, Status> {
    extensions.get().cloned().ok_or_else(|| Status::internal("a call without a connection"))
}

/// The service, with a limit on what those may send who were not admitted.
#[derive(Clone)]
pub(crate) struct Metered {
    inner: PeerServer<PeerService>,
    shared: Arc<Shared>,
}

impl Metered {
    pub(crate) fn new(shared: Arc<Shared>, closing: Closing) -> Metered {
        let bytes_max = shared.options.message_bytes_max;
        let inner = PeerServer::new(PeerService { shared: shared.clone(), closing })
            .max_decoding_message_size(bytes_max)
            .max_encoding_message_size(bytes_max);
        Metered { inner, shared }
    }
}

impl Service<http::Request<Body>> for Metered {
    type Response = http::Response<Body>;
    type Error = std::convert::Infallible;
    type Future = <PeerServer<PeerService> as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let options = &self.shared.options;
        let is_question = request.uri().path().ends_with("/Ask");
        let limit = if is_question { options.question_bytes_max } else { options.hello_bytes_max } + ENVELOPE_BYTES_MAX;
        let connection = request.extensions().get().cloned();
        // Streams are complained about by who reads them; of a question, the reader does not hear if it does not arrive.
        let shared = is_question.then(|| self.shared.clone());
        let metered = |inner| Body::new(MeteredBody { inner, left: limit, limit, connection, shared });
        self.inner.call(request.map(metered))
    }
}

/// What arrives in a call.
struct MeteredBody {
    inner: Body,
    /// How much more may come before the other side is admitted.
    left: usize,
    limit: usize,
    connection: Option<Arc<Connection>>,
    /// Counts what is wrong here.
    shared: Option<Arc<Shared>>,
}

impl MeteredBody {
    fn check(&mut self, len: usize) -> Result<(), Status> {
        let Some(connection) = self.connection.as_ref().filter(|connection| !connection.is_admitted()) else {
            return Ok(());
        };
        if let Some(left) = self.left.checked_sub(len) {
            self.left = left;
            return Ok(());
        }
        let error = WireError::Oversized(format!("more than {} bytes from a process that is not admitted", self.limit));
        if let Some(shared) = &self.shared {
            shared.complain(&connection.from, &error);
        }
        Err(error.status())
    }
}

impl http_body::Body for MeteredBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let len = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            _ => 0,
        };
        Poll::Ready(match self.check(len) {
            Ok(()) => frame,
            Err(status) => Some(Err(status)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}
