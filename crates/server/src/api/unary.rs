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
    metadata::MetadataValue,
};

use super::metered::{PIECE_BYTES_MAX, Share};

/// What precedes a message: whether it is compressed, and its length.
const HEAD_LEN: usize = 5;

const STATUS: &str = "grpc-status";
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const OK: HeaderValue = HeaderValue::from_static("0");

/// Reads the one message of a request, whose headers say whether messages may be encoded.
///
/// # Errors
/// The body's, and when it is not one message of at most `bytes_max`.
pub(crate) async fn message<M, B>(mut body: B, is_encoded: bool, bytes_max: usize) -> Result<M, Status>
where
    M: Message + Default + 'static,
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    let mut whole = Whole::default();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        // What follows the message says nothing that matters.
        let Ok(data) = frame?.into_data() else { continue };
        whole.add(data);
        whole.check(is_encoded, bytes_max)?;
    }
    wire::decode(whole.message()?)
}

/// The bytes of a request, which mostly come in one piece.
#[derive(Default)]
struct Whole {
    first: Bytes,
    /// All of them, once there is a second piece.
    all: Vec<u8>,
}

/// How much room is made at least for a message that comes in pieces.
const ROOM_BYTES_MIN: usize = 16 << 10;

impl Whole {
    fn add(&mut self, data: Bytes) {
        if self.bytes().is_empty() {
            self.first = data;
            return;
        }
        if self.all.is_empty() {
            self.all = mem::take(&mut self.first).into();
        }
        if self.all.capacity() - self.all.len() < data.len() {
            // Room for as much again as has come, so that nothing is reserved on a length's word alone, and for no more than is announced.
            let missing = self.announced().map_or(0, |len| (HEAD_LEN + len).saturating_sub(self.all.len()));
            let room = missing.min(self.all.len().max(ROOM_BYTES_MIN));
            self.all.reserve_exact(room.max(data.len()));
        }
        self.all.extend_from_slice(&data);
    }

    /// The length that the head announces, once it is there.
    fn announced(&self) -> Option<usize> {
        let &[_, a, b, c, d] = self.bytes().first_chunk()?;
        Some(u32::from_be_bytes([a, b, c, d]) as usize)
    }

    fn bytes(&self) -> &[u8] {
        if self.all.is_empty() { &self.first } else { &self.all }
    }

    /// Refuses what will never be a message, as soon as that is seen.
    fn check(&self, is_encoded: bool, bytes_max: usize) -> Result<(), Status> {
        let (Some(flag), Some(len)) = (self.bytes().first(), self.announced()) else { return Ok(()) };
        match flag {
            0 => {}
            1 if is_encoded => return Err(not_taken_compressed()),
            other => return Err(Status::internal(format!("a message begins with {other}, 0 was expected"))),
        }
        if len > bytes_max {
            let what = format!("the request is too large: it has {len} bytes, {bytes_max} are allowed");
            return Err(Status::out_of_range(what));
        }
        if self.bytes().len() > HEAD_LEN + len {
            return Err(Status::internal("more than one message is sent, one is expected"));
        }
        Ok(())
    }

    fn message(self) -> Result<Bytes, Status> {
        let got = self.bytes().len();
        let none = || Status::internal("no message is sent, one is expected");
        let len = self.announced().ok_or_else(none)?;
        if got < HEAD_LEN + len {
            let got = got - HEAD_LEN;
            return Err(Status::internal(format!("the message is cut off after {got} of {len} bytes")));
        }
        let whole = if self.all.is_empty() { self.first } else { self.all.into() };
        Ok(whole.slice(HEAD_LEN..))
    }
}

/// Says which encoding is taken instead (gRPC, "Compression").
fn not_taken_compressed() -> Status {
    let mut status = Status::unimplemented("compressed messages are not taken: send them as they are");
    status.metadata_mut().insert("grpc-accept-encoding", MetadataValue::from_static("identity"));
    status
}

/// The response that has an answer, whose bytes count until it is written.
///
/// # Errors
/// When the answer has more than `bytes_max`.
pub(crate) fn answer(answer: &impl Message, share: Arc<Share>, bytes_max: usize) -> Result<Response<Answer>, Status> {
    let message = encode(answer, bytes_max)?;
    share.take(message.len());
    let mut response = Response::new(Answer { message, is_over: false, _share: share });
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    Ok(response)
}

fn encode(answer: &impl Message, bytes_max: usize) -> Result<Bytes, Status> {
    let len = answer.encoded_len();
    let announced = u32::try_from(len).ok().filter(|_| len <= bytes_max).ok_or_else(|| {
        Status::out_of_range(format!(
            "the answer is too large: it has {len} bytes, {bytes_max} are allowed; ask for less at once"
        ))
    })?;
    let mut bytes = BytesMut::with_capacity(HEAD_LEN + len);
    bytes.put_u8(0);
    bytes.put_u32(announced);
    answer.encode(&mut bytes).map_err(|error| Status::internal(error.to_string()))?;
    Ok(bytes.freeze())
}

/// One message, and that all went well.
pub(crate) struct Answer {
    /// What has not left of it. It leaves piece by piece, as the client makes room, so that what waits for room counts.
    message: Bytes,
    is_over: bool,
    _share: Arc<Share>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.message.is_empty() {
            let len = self.message.len().min(PIECE_BYTES_MAX);
            return Poll::Ready(Some(Ok(Frame::data(self.message.split_to(len)))));
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

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::Arc};

    use coracle::client::pb::{CommitRequest, KeyValue, Op, PageResponse, SnapshotResponse};
    use futures_util::FutureExt;
    use tonic::Code;

    use super::{super::metered::Budget, *};

    const MAX: usize = 100;

    /// A body in pieces.
    struct Pieces(VecDeque<Bytes>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }
    }

    fn read(pieces: &[&[u8]]) -> Result<CommitRequest, Status> {
        let pieces = pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect();
        message(Pieces(pieces), false, MAX).now_or_never().unwrap()
    }

    fn request() -> CommitRequest {
        CommitRequest { ops: vec![Op::default(); 3], once: None }
    }

    #[test]
    fn a_request_split_at_every_byte_arrives_whole() {
        let bytes = encode(&request(), MAX).unwrap();
        assert_eq!(read(&[&bytes]).unwrap(), request());
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(read(&single).unwrap(), request());
        for at in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(at);
            assert_eq!(read(&[head, tail]).unwrap(), request(), "{at}");
        }
        assert_eq!(read(&[&[0; HEAD_LEN]]).unwrap(), CommitRequest::default(), "a message may have no bytes");
    }

    #[test]
    fn what_is_not_one_message_is_refused() {
        let whole = encode(&request(), MAX).unwrap();
        for (pieces, code, why) in [
            (vec![], Code::Internal, "no message"),
            (vec![&whole[..4]], Code::Internal, "no message"),
            (vec![&whole[..whole.len() - 1]], Code::Internal, "cut off after 5 of 6 bytes"),
            (vec![&whole[..], &whole[..]], Code::Internal, "more than one"),
            (vec![&[1, 0, 0, 0, 0]], Code::Internal, "begins with 1"),
            (vec![&[0, 0, 0, 0, 101]], Code::OutOfRange, "101 bytes, 100 are allowed"),
            (vec![&[0, 255, 255, 255, 255]], Code::OutOfRange, "4294967295 bytes"),
            (vec![&[0, 0, 0, 0, 1, 0xff]], Code::Internal, ""),
        ] {
            let status = read(&pieces).unwrap_err();
            assert!(status.code() == code && status.message().contains(why), "{pieces:?}: {status:?}");
        }
    }

    #[test]
    fn compressed_messages_are_refused_with_what_is_taken() {
        let body = Pieces([Bytes::from_static(&[1, 0, 0, 0, 0])].into());
        let status = message::<CommitRequest, _>(body, true, MAX).now_or_never().unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
        assert_eq!(status.metadata().get("grpc-accept-encoding").unwrap(), "identity");
    }

    #[test]
    fn a_message_in_pieces_takes_no_more_room_than_it_has_bytes() {
        let mut whole = Whole::default();
        let len = 300 << 10_u32;
        let head = [&[0][..], &u32::to_be_bytes(len)].concat();
        whole.add(head.into());
        for _ in 0..len / 1024 {
            whole.add(Bytes::from(vec![0; 1024]));
            assert!(
                whole.all.capacity() <= (2 * whole.all.len()).max(ROOM_BYTES_MIN + HEAD_LEN),
                "{}",
                whole.all.len()
            );
        }
        assert_eq!(whole.all.capacity(), HEAD_LEN + len as usize);
    }

    #[test]
    fn a_long_answer_leaves_in_pieces() {
        let share = Share::new(&Arc::new(Budget::new(MAX)), None);
        let entries = vec![KeyValue { value: vec![1; 3 * PIECE_BYTES_MAX].into(), ..KeyValue::default() }];
        let long = PageResponse { entries, ..PageResponse::default() };
        let whole = encode(&long, usize::MAX).unwrap();
        let mut body = answer(&long, share, usize::MAX).unwrap().into_body();
        let mut left = Vec::new();
        loop {
            let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).now_or_never().unwrap().unwrap().unwrap();
            let Ok(piece) = frame.into_data() else { break };
            assert!(piece.len() <= PIECE_BYTES_MAX);
            left.push(piece);
        }
        assert_eq!((left.len(), left.concat()), (4, whole.to_vec()));
    }

    #[test]
    fn an_answer_counts_until_it_is_written_and_ends_well() {
        let budget = Arc::new(Budget::new(MAX));
        let share = Share::new(&budget, None);
        let response = answer(&SnapshotResponse { revision: 7 }, Arc::clone(&share), MAX).unwrap();
        assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc");
        let mut body = response.into_body();
        let mut frame = || poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).now_or_never().unwrap();
        let data = frame().unwrap().unwrap().into_data().unwrap();
        assert_eq!(data[..], [0, 0, 0, 0, 2, 8, 7]);
        assert_eq!(frame().unwrap().unwrap().into_trailers().unwrap()[STATUS], "0");
        assert!(frame().is_none());
        assert!(body.is_end_stream());
        assert_eq!(budget.bytes(), data.len());
        drop((body, share));
        assert_eq!(budget.bytes(), 0);
        let refused = answer(&SnapshotResponse { revision: 7 }, Share::new(&budget, None), 1).err().unwrap();
        assert_eq!((refused.code(), budget.bytes()), (Code::OutOfRange, 0));
    }
}
