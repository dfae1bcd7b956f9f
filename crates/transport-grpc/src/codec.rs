//! How messages are encoded and decoded: as everywhere in gRPC, but none that would take far more memory than bytes.

use std::{marker::PhantomData, mem::size_of};

use bytes::{Buf, Bytes};
use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstCodec, ProstEncoder};

use crate::pb;

/// What a message that is decoded may take for each of its bytes. What nodes send stays below: an empty command takes most, two bytes of which become 32.
const FACTOR: usize = 16;
/// The same for messages of which [`FACTOR`] would allow more than [`WEIGHT_FREE`]: in them such small items are rare.
const FACTOR_LARGE: usize = 4;
const WEIGHT_FREE: usize = 16 << 20;
/// Whatever is in them, small messages do no harm.
const WEIGHT_MIN: usize = 4096;

/// Encodes as usual, and checks what the items of a message will take before it decodes them.
#[derive(Debug)]
pub(crate) struct Bounded<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Bounded<T, U> {
    fn default() -> Self {
        Bounded(PhantomData)
    }
}

impl<T, U> Codec for Bounded<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Items + Send + 'static,
{
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

impl<T, U: Message + Default + Items> Decoder for Bounded<T, U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        decode(buf.copy_to_bytes(buf.remaining())).map(Some)
    }
}

/// Decodes a message whose items take no more than they may.
pub(crate) fn decode<U: Message + Default + Items>(bytes: Bytes) -> Result<U, Status> {
    let (len, mut left) = (bytes.len(), weight_max(bytes.len()));
    match weigh(&bytes, U::FIELDS, &mut left) {
        Ok(()) => U::decode(bytes).map_err(|error| Status::internal(error.to_string())),
        Err(Wrong::Heavy) => Err(Status::out_of_range(format!(
            "a message of {len} bytes has too many items: they would take more than {} bytes",
            weight_max(len)
        ))),
        Err(Wrong::Malformed) => Err(Status::internal("a message is cut short, or no protobuf")),
    }
}

fn weight_max(len: usize) -> usize {
    let large = len.saturating_mul(FACTOR_LARGE).max(WEIGHT_FREE);
    len.saturating_mul(FACTOR).min(large).saturating_add(WEIGHT_MIN)
}

/// A message, as far as it has fields that repeat, or that hold some that do.
pub(crate) trait Items {
    /// Those fields.
    const FIELDS: &'static [Field];
}

/// A field: its number, what each item of it takes beside what holds it, and what is in it.
pub(crate) struct Field(u64, usize, &'static [Field]);

impl Items for pb::AskRequest {
    const FIELDS: &'static [Field] = &[];
}

impl Items for pb::AskResponse {
    const FIELDS: &'static [Field] = &[];
}

impl Items for pb::Envelope {
    const FIELDS: &'static [Field] =
        &[Field(1, 0, HELLO), Field(3, 0, REFUSAL), Field(4, 0, &[Field(1, size_of::<pb::Frame>(), FRAME)])];
}

const HELLO: &[Field] = &[Field(4, size_of::<pb::GroupHello>(), &[])];
const REFUSAL: &[Field] = &[Field(8, 0, &[Field(2, size_of::<String>(), &[]), Field(3, size_of::<String>(), &[])])];
const FRAME: &[Field] = &[
    // Propose, ProposeResponse, InstallSnapshot, FetchEntriesResponse.
    Field(9, 0, &[Field(3, size_of::<Bytes>(), &[])]),
    Field(10, 0, &[Field(3, size_of::<pb::Forwarded>(), &[])]),
    Field(13, 0, &[Field(1, 0, &[Field(5, 0, MEMBERSHIP)])]),
    Field(22, 0, &[Field(3, 0, &[Field(4, 0, MEMBERSHIP)])]),
];
// Ids, of the old half and of a change that waits, take no more than their bytes.
const MEMBERSHIP: &[Field] = &[
    Field(2, size_of::<pb::NodeRecord>(), &[Field(3, size_of::<String>(), &[])]),
    Field(3, 0, &[]),
    Field(4, size_of::<pb::WaitingChange>(), &[]),
];

/// Why a message is not decoded.
#[derive(Debug, PartialEq, Eq)]
enum Wrong {
    Heavy,
    Malformed,
}

/// Takes from `left` what the items of a message will take.
fn weigh(mut bytes: &[u8], fields: &[Field], left: &mut usize) -> Result<(), Wrong> {
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let content = match key & 7 {
            0 => {
                varint(&mut bytes)?;
                continue;
            }
            1 => take(&mut bytes, 8)?,
            2 => {
                let len = varint(&mut bytes)?;
                take(&mut bytes, usize::try_from(len).map_err(|_| Wrong::Malformed)?)?
            }
            5 => take(&mut bytes, 4)?,
            // Groups: nobody sends them.
            _ => return Err(Wrong::Malformed),
        };
        if let Some(Field(_, weight, inner)) = fields.iter().find(|field| field.0 == key >> 3) {
            *left = left.checked_sub(*weight).ok_or(Wrong::Heavy)?;
            // What only repeats has nothing to look at.
            if !inner.is_empty() {
                weigh(content, inner, left)?;
            }
        }
    }
    Ok(())
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8], Wrong> {
    let (content, rest) = bytes.split_at_checked(len).ok_or(Wrong::Malformed)?;
    *bytes = rest;
    Ok(content)
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Wrong> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Wrong::Malformed)
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    /// A field that holds bytes.
    fn field(number: u64, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        prost::encode_length_delimiter((number << 3 | 2) as usize, &mut out).unwrap();
        prost::encode_length_delimiter(content.len(), &mut out).unwrap();
        out.extend_from_slice(content);
        out
    }

    fn nested(path: &[u64], content: Vec<u8>) -> Vec<u8> {
        path.iter().rev().fold(content, |content, number| field(*number, &content))
    }

    fn decoded(bytes: Vec<u8>) -> Result<pb::Envelope, Code> {
        decode(bytes.into()).map_err(|status| status.code())
    }

    /// Where things repeat in an envelope.
    const REPEATED: [&[u64]; 12] = [
        &[1, 4],
        &[3, 8, 2],
        &[3, 8, 3],
        &[4, 1],
        &[4, 1, 9, 3],
        &[4, 1, 10, 3],
        &[4, 1, 13, 1, 5, 2],
        &[4, 1, 13, 1, 5, 2, 3],
        &[4, 1, 13, 1, 5, 4],
        &[4, 1, 22, 3, 4, 2],
        &[4, 1, 22, 3, 4, 2, 3],
        &[4, 1, 22, 3, 4, 4],
    ];

    #[test]
    fn items_of_no_bytes_are_not_decoded_by_the_million() {
        for path in REPEATED {
            let (last, outer) = path.split_last().unwrap();
            let items = |count: usize| nested(outer, field(*last, &[]).repeat(count));
            assert!(decoded(items(10)).is_ok(), "{path:?}");
            assert_eq!(decoded(items(4 << 20)), Err(Code::OutOfRange), "{path:?}");
        }
    }

    #[test]
    fn every_field_that_repeats_has_a_weight() {
        let proto = include_str!("../proto/coracle/v1/raft.proto");
        // Nodes, their addresses and waiting changes are there twice, by two ways to a membership; the two lists of ids take no more than their bytes.
        assert_eq!(proto.matches(" repeated ").count(), REPEATED.len() - 3 + 2, "add it to the tables above");
    }

    #[test]
    fn a_repeated_message_that_is_merged_counts_each_time() {
        let propose = nested(&[9], field(3, &[]).repeat(1000));
        let bytes = nested(&[4, 1], propose.repeat(2000));
        assert_eq!(decoded(bytes), Err(Code::OutOfRange));
    }

    #[test]
    fn what_is_no_protobuf_is_malformed() {
        for bytes in [&[0x0b][..], &[0x0a, 5, 0], &[0xff; 11], &[0x0d, 0, 0]] {
            assert_eq!(decoded(bytes.to_vec()), Err(Code::Internal), "{bytes:?}");
        }
    }

    #[test]
    fn the_largest_batches_of_nodes_pass() {
        /// As many as fit into the largest frame, by what is allowed for each in the queue.
        const COUNT: usize = (8 << 20) / 16;
        let envelope = |body| pb::Envelope {
            content: Some(pb::envelope::Content::Frames(pb::Frames {
                frames: vec![pb::Frame { body: Some(body), ..pb::Frame::default() }],
            })),
        };
        let unknown = pb::forwarded::Outcome::Unknown(pb::forwarded::Unknown {});
        for body in [
            pb::frame::Body::Propose(pb::Propose {
                commands: vec![Bytes::from_static(b"12345678"); COUNT * 2 / 3],
                ..pb::Propose::default()
            }),
            pb::frame::Body::ProposeResponse(pb::ProposeResponse {
                outcomes: vec![pb::Forwarded { outcome: Some(unknown) }; COUNT / 2],
                ..pb::ProposeResponse::default()
            }),
        ] {
            let bytes = envelope(body).encode_to_vec();
            assert!(decode::<pb::Envelope>(bytes.into()).is_ok());
        }
    }
}
