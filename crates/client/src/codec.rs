//! How messages are encoded and decoded: as everywhere in gRPC, but no request that has more items than any node takes.
//!
//! An item of two bytes becomes a struct of some dozens: without a limit a request as large as a message may be would take many times its size before anyone looked at it.
//! What nodes answer is not limited here, and neither is what is in a request: that is the affair of whoever takes it.

use std::{any::TypeId, marker::PhantomData};

use bytes::{Buf, Bytes};
use coracle_level::{Error, Limits};
use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstCodec, ProstEncoder};

use crate::{pb, status};

/// The most items of a request: more than any node can be configured to take.
const ITEMS_MAX: usize = Limits::CEILING.batch_ops_max;
/// No item takes fewer bytes: its key and its length.
const ITEM_BYTES_MIN: usize = 2;

/// What repeats in a request.
#[derive(Debug, PartialEq, Eq)]
struct Repeated {
    /// The numbers of the fields that lead to each field that repeats, from the outside in.
    paths: &'static [&'static [usize]],
    /// How errors call it.
    limit: &'static str,
}

const OPERATIONS: Repeated = Repeated { paths: &[&[1]], limit: "operations per request" };
const KEYS: Repeated = Repeated { paths: &[&[2]], limit: "keys per request" };
/// The calls, and what repeats in those of them that get, ask what is there, and commit.
const CALLS: Repeated = Repeated {
    paths: &[&[1], &[1, 2, 2], &[1, 3, 2], &[1, 5, 1]],
    limit: "calls, operations and keys per message of calls",
};

/// What repeats in messages of this type; each request that has such a field is here.
fn repeated<U: 'static>() -> Option<Repeated> {
    let message = TypeId::of::<U>();
    if message == TypeId::of::<pb::CommitRequest>() {
        Some(OPERATIONS)
    } else if [TypeId::of::<pb::GetManyRequest>(), TypeId::of::<pb::ContainsManyRequest>()].contains(&message) {
        Some(KEYS)
    } else if message == TypeId::of::<pb::ExchangeRequest>() {
        Some(CALLS)
    } else {
        None
    }
}

/// Encodes as usual, and counts what repeats before it decodes.
#[derive(Debug)]
pub(crate) struct Bounded<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Bounded<T, U> {
    fn default() -> Self {
        Bounded(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Message + Default + Send + 'static> Codec for Bounded<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Bounded<T, U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        Bounded::default()
    }
}

impl<T, U: Message + Default + 'static> Decoder for Bounded<T, U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        decode(buf.copy_to_bytes(buf.remaining())).map(Some)
    }
}

/// Decodes a message, as servers and the client do.
///
/// # Errors
/// When it is none, or a request that has more items than any node takes.
pub fn decode<U: Message + Default + 'static>(bytes: Bytes) -> Result<U, Status> {
    if let Some(field) = repeated::<U>() {
        check(&bytes, &field)?;
    }
    U::decode(bytes).map_err(|error| Status::internal(error.to_string()))
}

/// Refuses a message in which a field repeats too often. One that is too short for that is not looked at.
fn check(bytes: &[u8], field: &Repeated) -> Result<(), Status> {
    if bytes.len() / ITEM_BYTES_MIN <= ITEMS_MAX {
        return Ok(());
    }
    match count(bytes, field.paths) {
        Some(got) if got > ITEMS_MAX => {
            let (limit, max) = (field.limit.to_owned(), ITEMS_MAX as u64);
            Err(status::from_error(&Error::LimitExceeded { limit, max, got: got as u64 }))
        }
        Some(_) => Ok(()),
        None => Err(Status::internal("a message is cut short, or no protobuf")),
    }
}

/// How often fields are in a message, all together; `None` when it is none, or has groups, which nobody sends.
fn count(mut bytes: &[u8], paths: &[&[usize]]) -> Option<usize> {
    let mut found = 0;
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let len = match key & 7 {
            0 => varint(&mut bytes).map(|_| 0)?,
            1 => 8,
            2 => varint(&mut bytes)?,
            5 => 4,
            _ => return None,
        };
        let (field, rest) = bytes.split_at_checked(len)?;
        bytes = rest;
        for path in paths.iter().filter(|path| path.first() == Some(&(key >> 3))) {
            found += if path.len() == 1 { 1 } else { count(field, &[&path[1..]])? };
        }
    }
    Some(found)
}

fn varint(bytes: &mut &[u8]) -> Option<usize> {
    prost::decode_length_delimiter(bytes).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tonic::Code;

    use super::*;

    fn items(number: u8, count: usize) -> Bytes {
        [number << 3 | 2, 0].repeat(count).into()
    }

    fn refused<U: Message + Default + 'static>(bytes: Bytes) -> Option<(String, u64, u64)> {
        match status::to_error(&decode::<U>(bytes).err()?) {
            Some(Error::LimitExceeded { limit, max, got }) => Some((limit, max, got)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn p9_more_items_than_any_node_takes_are_not_decoded() {
        let most = ITEMS_MAX as u64;
        let of = |limit: &str, got| Some((limit.to_owned(), most, got));
        assert_eq!(refused::<pb::CommitRequest>(items(1, 4 << 20)), of("operations per request", 4 << 20));
        assert_eq!(refused::<pb::CommitRequest>(items(1, ITEMS_MAX + 1)), of("operations per request", most + 1));
        assert_eq!(refused::<pb::GetManyRequest>(items(2, ITEMS_MAX + 1)), of("keys per request", most + 1));
        assert_eq!(refused::<pb::ContainsManyRequest>(items(2, ITEMS_MAX + 1)), of("keys per request", most + 1));
    }

    #[test]
    fn as_many_as_a_node_may_take_are_decoded() {
        assert_eq!(decode::<pb::CommitRequest>(items(1, ITEMS_MAX)).unwrap().ops.len(), ITEMS_MAX);
        // Together with something that makes the request large enough to be looked at.
        let at = pb::ReadAt { revision: 1 << 60, ..Default::default() };
        let keys = vec![Bytes::from_static(b"key"); ITEMS_MAX];
        let request = pb::GetManyRequest { at: Some(at), keys };
        assert_eq!(decode::<pb::GetManyRequest>(request.encode_to_vec().into()).unwrap(), request);
        let value = Bytes::from(vec![b'v'; 1 << 20]);
        let put = pb::Put { key: Bytes::new(), value };
        let op = pb::Op { op: Some(pb::op::Op::Put(put)) };
        let request = pb::CommitRequest { ops: vec![op], once: Some(pb::Once { session: 1, sequence: 2, floor: 0 }) };
        assert_eq!(decode::<pb::CommitRequest>(request.encode_to_vec().into()).unwrap(), request);
    }

    #[test]
    fn answers_have_as_many_items_as_they_have() {
        let values = decode::<pb::GetManyResponse>(items(1, 2 * ITEMS_MAX)).unwrap().values;
        assert_eq!(values.len(), 2 * ITEMS_MAX);
    }

    #[test]
    fn what_is_no_protobuf_is_not_decoded_up_to_where_it_breaks() {
        // A group, a length beyond the end, a key that never ends.
        for end in [&[0x0b][..], &[0x0a, 5, 0], &[0xff; 11], &[0x0d, 0, 0]] {
            let bytes = [&items(1, 4 << 20)[..], end].concat();
            assert_eq!(decode::<pb::CommitRequest>(bytes.into()).unwrap_err().code(), Code::Internal, "{end:?}");
        }
    }

    /// Fields of all kinds lie round those that count.
    #[test]
    fn only_the_field_that_repeats_is_counted() {
        let others: [&[u8]; 4] =
            [&[0x18, 0x96, 1], &[0x21, 1, 2, 3, 4, 5, 6, 7, 8], &[0x2d, 1, 2, 3, 4], &[0x12, 2, 8, 1]];
        let bytes = others.map(|other| [other, &[0x0a, 0]].concat()).concat();
        assert_eq!(
            (count(&bytes, &[&[1]]), count(&bytes, &[&[2]]), count(&bytes, &[&[9]])),
            (Some(4), Some(1), Some(0))
        );
    }

    #[test]
    fn calls_on_a_stream_count_with_what_is_in_them() {
        let commit = |ops: usize| pb::CommitRequest { ops: vec![pb::Op::default(); ops], once: None };
        let keys = |keys: usize| vec![Bytes::new(); keys];
        let calls = [
            pb::call::Call::Commit(commit(3)),
            pb::call::Call::GetMany(pb::GetManyRequest { at: None, keys: keys(4) }),
            pb::call::Call::ContainsMany(pb::ContainsManyRequest { at: None, keys: keys(5) }),
            pb::call::Call::Page(pb::PageRequest::default()),
        ];
        let numbered = (1..).zip(calls).map(|(number, call)| pb::Call { number, call: Some(call) });
        let request = pb::ExchangeRequest { calls: numbered.collect() };
        assert_eq!(count(&request.encode_to_vec(), CALLS.paths), Some(4 + 3 + 4 + 5));
        let of = |got: usize| Some((CALLS.limit.to_owned(), ITEMS_MAX as u64, got as u64));
        assert_eq!(refused::<pb::ExchangeRequest>(items(1, ITEMS_MAX + 1)), of(ITEMS_MAX + 1));
        let call = pb::Call { number: 1, call: Some(pb::call::Call::Commit(commit(ITEMS_MAX))) };
        let request = pb::ExchangeRequest { calls: vec![call] };
        assert_eq!(refused::<pb::ExchangeRequest>(request.encode_to_vec().into()), of(ITEMS_MAX + 1));
    }

    /// The body of each message that a call asks with.
    fn requests(proto: &str) -> BTreeSet<(&str, &str)> {
        let calls = proto.lines().filter_map(|line| line.trim().strip_prefix("rpc ")?.split_once('('));
        let asked =
            calls.filter_map(|(_, rest)| rest.split_once(')')).map(|(name, _)| name.trim_start_matches("stream "));
        asked.map(|name| (name, message(proto, name))).collect()
    }

    fn message<'a>(proto: &'a str, name: &str) -> &'a str {
        let (_, body) = proto.split_once(&format!("\nmessage {name} {{")).expect("a message");
        body.split_once("}").expect("it ends").0
    }

    #[test]
    fn every_request_that_has_items_is_limited() {
        let protos = [include_str!("../proto/coracle/v1/kv.proto"), include_str!("../proto/coracle/v1/cluster.proto")];
        let requests = protos.iter().flat_map(|proto| requests(proto));
        let with_items: Vec<_> =
            requests.filter(|(_, body)| body.contains(" repeated ")).map(|(name, _)| name).collect();
        let limited = ["CommitRequest", "ContainsManyRequest", "ExchangeRequest", "GetManyRequest"];
        assert_eq!(with_items, limited, "add it to `repeated`");
        assert_eq!(repeated::<pb::CommitRequest>(), Some(OPERATIONS));
        assert_eq!(repeated::<pb::ContainsManyRequest>(), Some(KEYS));
        assert_eq!(repeated::<pb::GetManyRequest>(), Some(KEYS));
        assert_eq!(repeated::<pb::ExchangeRequest>(), Some(CALLS));
        assert_eq!(repeated::<pb::GetManyResponse>(), None);
    }
}
