//! What is fuzzed of the protocol; not part of the interface.

use bytes::Bytes;
use coracle_transport::{Frame, Hello, Refusal};
use prost::Message;

use crate::{
    codec,
    convert::{decode_envelope, decode_frame, encode_frame, encode_greeting},
    pb,
    wire::{Greeting, Said},
};

/// An envelope that means something means the same once it is written again.
///
/// # Panics
/// When it does not.
pub fn envelope(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let Ok(envelope) = codec::decode::<pb::Envelope>(bytes.clone()) else { return };
    assert_eq!(pb::Envelope::decode(bytes).as_ref(), Ok(&envelope));
    match decode_envelope(envelope) {
        Ok(Said::Frames(frames)) => frames.into_iter().for_each(frame),
        Ok(Said::Greeting(greeting)) => {
            let again = pb::Envelope::decode(greeting_bytes(greeting.clone()).as_slice());
            match again.map(decode_envelope) {
                Ok(Ok(Said::Greeting(again))) => assert_eq!(again, greeting),
                other => panic!("{greeting:?} is no greeting any more: {other:?}"),
            }
        }
        Err(_) => {}
    }
}

fn frame(frame: pb::Frame) {
    let Ok(frame) = decode_frame(frame) else { return };
    let bytes = encode_frame(frame.clone()).encode_to_vec();
    let Ok(again) = pb::Frame::decode(Bytes::from(bytes)) else { panic!("{frame:?} is no frame any more") };
    assert_eq!(decode_frame(again), Ok(frame));
}

fn greeting_bytes(greeting: Greeting) -> Vec<u8> {
    encode_greeting(greeting).encode_to_vec()
}

/// The envelope of a hello, for a corpus.
pub fn hello_bytes(hello: &Hello) -> Vec<u8> {
    greeting_bytes(Greeting::Hello(hello.clone()))
}

/// The envelope of a refusal.
pub fn refusal_bytes(refusal: &Refusal) -> Vec<u8> {
    greeting_bytes(Greeting::Refused(refusal.clone()))
}

/// The envelope of frames.
pub fn frames_bytes(frames: Vec<Frame>) -> Vec<u8> {
    let frames = frames.into_iter().map(encode_frame).collect();
    pb::Envelope { content: Some(pb::envelope::Content::Frames(pb::Frames { frames })) }.encode_to_vec()
}
