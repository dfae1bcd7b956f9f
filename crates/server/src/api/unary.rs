//! A request and its one answer, without what serves streams, compression and middleware: most requests are such, small, and many.

use std::{
    future::poll_fn,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use coracle::client::wire;
use http_body::{Body, Frame};
use prost::Message;
use tonic::{
    Status,
    codegen::http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE},
};

use super::metered::Share;

/// What precedes a message: whether it is compressed, and its length.
const HEAD_LEN: usize = 5;

const STATUS: &str = "grpc-status";
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const OK: HeaderValue = HeaderValue::from_static("0");

/// Reads the one message of a request.
///
/// # Errors
/// The body's, and when it is not one message of at most `bytes_max`.
pub(crate) async fn message<M, B>(mut body: B, bytes_max: usize) -> Result<M, Status>
where
    M: Message + Default + 'static,
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    let mut whole = Whole::default();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        // What follows the message says nothing that matters.
        let Ok(data) = frame?.into_data() else { continue };
        whole.add(data);
        whole.check(bytes_max)?;
    }
    wire::decode(whole.message()?)
}

/// The bytes of a request, which mostly come in one piece.
#[derive(Default)]
struct Whole {
    first: Bytes,
    /// All of them, once there is a second piece.
    all: BytesMut,
}

impl Whole {
    fn add(&mut self, data: Bytes) {
        if self.bytes().is_empty() {
            self.first = data;
            return;
        }
        if self.all.is_empty() {
            self.all.extend_from_slice(&mem::take(&mut self.first));
        }
        self.all.extend_from_slice(&data);
    }

    fn bytes(&self) -> &[u8] {
        if self.all.is_empty() { &self.first } else { &self.all }
    }

    /// Refuses what will never be a message, as soon as that is seen.
    fn check(&self, bytes_max: usize) -> Result<(), Status> {
        let Some(&[compressed, a, b, c, d]) = self.bytes().first_chunk() else { return Ok(()) };
        if compressed != 0 {
            return Err(Status::unimplemented("compressed messages are not taken: send them as they are"));
        }
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if len > bytes_max {
            return Err(Status::out_of_range(format!("a message of {len} bytes is sent, {bytes_max} are allowed")));
        }
        if self.bytes().len() > HEAD_LEN + len {
            return Err(Status::internal("more than one message is sent, one is expected"));
        }
        Ok(())
    }

    fn message(self) -> Result<Bytes, Status> {
        let got = self.bytes().len();
        let Some(&[_, a, b, c, d]) = self.bytes().first_chunk() else {
            return Err(Status::internal("no message is sent, one is expected"));
        };
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if got < HEAD_LEN + len {
            let got = got - HEAD_LEN;
            return Err(Status::internal(format!("the message is cut off after {got} of {len} bytes")));
        }
        let whole = if self.all.is_empty() { self.first } else { self.all.freeze() };
        Ok(whole.slice(HEAD_LEN..))
    }
}

/// The response that has an answer, whose bytes count until it is written.
///
/// # Errors
/// When the answer has more than `bytes_max`.
pub(crate) fn answer(answer: &impl Message, share: Arc<Share>, bytes_max: usize) -> Result<Response<Answer>, Status> {
    let message = encode(answer, bytes_max)?;
    share.take(message.len());
    let mut response = Response::new(Answer { message: Some(message), is_over: false, _share: share });
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    Ok(response)
}

fn encode(answer: &impl Message, bytes_max: usize) -> Result<Bytes, Status> {
    let len = answer.encoded_len();
    let announced = u32::try_from(len).ok().filter(|_| len <= bytes_max).ok_or_else(|| {
        Status::out_of_range(format!("the answer has {len} bytes, {bytes_max} are allowed: ask for less at once"))
    })?;
    let mut bytes = BytesMut::with_capacity(HEAD_LEN + len);
    bytes.put_u8(0);
    bytes.put_u32(announced);
    answer.encode(&mut bytes).map_err(|error| Status::internal(error.to_string()))?;
    Ok(bytes.freeze())
}

/// One message, and that all went well.
pub(crate) struct Answer {
    message: Option<Bytes>,
    is_over: bool,
    _share: Arc<Share>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(message) = self.message.take() {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        if mem::replace(&mut self.is_over, true) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(STATUS, OK);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }
}
