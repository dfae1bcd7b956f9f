//! How many elements a packet has, told from its bytes: an element of one byte takes up to fifty times as much when it is decoded.

use crate::wire::WireError;

/// So many do no harm, whatever they are; the largest batch of commands that a node sends has half as many.
const FREE: usize = 1 << 20;
/// In larger packets: one for so many bytes.
const SHARE: usize = 8;

/// Checks that the arrays and maps in `body` have no more elements than it may have.
pub(crate) fn check(body: &[u8]) -> Result<(), WireError> {
    // None takes less than a byte.
    if body.len() <= FREE {
        return Ok(());
    }
    let max = (body.len() / SHARE).max(FREE);
    let mut count: usize = 0;
    let mut rest = body;
    while let Some((&marker, after)) = rest.split_first() {
        rest = after;
        let (elements, skipped) = match marker {
            0x80..=0x8f => (usize::from(marker & 0x0f) * 2, 0),
            0x90..=0x9f => (usize::from(marker & 0x0f), 0),
            0xa0..=0xbf => (0, usize::from(marker & 0x1f)),
            0xc4 | 0xd9 => (0, length(&mut rest, 1)?),
            0xc5 | 0xda => (0, length(&mut rest, 2)?),
            0xc6 | 0xdb => (0, length(&mut rest, 4)?),
            0xc7 => (0, length(&mut rest, 1)? + 1),
            0xc8 => (0, length(&mut rest, 2)? + 1),
            0xc9 => (0, length(&mut rest, 4)?.saturating_add(1)),
            0xcc | 0xd0 => (0, 1),
            0xcd | 0xd1 => (0, 2),
            0xca | 0xce | 0xd2 => (0, 4),
            0xcb | 0xcf | 0xd3 => (0, 8),
            // An extension's kind, and its data.
            0xd4..=0xd8 => (0, 1 + (1 << (marker - 0xd4))),
            0xdc => (length(&mut rest, 2)?, 0),
            0xdd => (length(&mut rest, 4)?, 0),
            0xde => (length(&mut rest, 2)? * 2, 0),
            0xdf => (length(&mut rest, 4)?.saturating_mul(2), 0),
            // Small integers, nil, booleans, and what is never used.
            _ => (0, 0),
        };
        count = count.saturating_add(elements);
        if count > max {
            return Err(WireError::Elements { count, max });
        }
        rest = rest.get(skipped..).ok_or_else(short)?;
    }
    Ok(())
}

/// A length of so many bytes.
fn length(rest: &mut &[u8], bytes: usize) -> Result<usize, WireError> {
    let (length, after) = rest.split_at_checked(bytes).ok_or_else(short)?;
    *rest = after;
    Ok(length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
}

fn short() -> WireError {
    WireError::Malformed("it is cut short".to_owned())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use coracle_core::{Body, Forwarded, GroupId, Index, Message, NodeId, Term};
    use coracle_transport::{Fault, Frame};

    use super::*;
    use crate::wire::{decode_frame, put_frame};

    fn encoded(body: Body) -> Vec<u8> {
        let frame =
            Frame { group: GroupId(1), message: Message { from: NodeId(2), to: NodeId(1), term: Term(1), body } };
        let mut out = Vec::new();
        put_frame(&mut out, &frame, 8 << 20).unwrap();
        out.split_off(5)
    }

    fn commands(commands: Vec<Bytes>) -> Body {
        Body::Propose { nonce: 0, sequence: 0, commands }
    }

    #[test]
    fn items_of_a_byte_are_not_decoded_by_the_million() {
        // An array of empty commands instead of the one command, each of one byte.
        let mut body = encoded(commands(vec![Bytes::from_static(b"x")]));
        assert_eq!(body.split_off(body.len() - 4), [0x91, 0xc4, 1, b'x']);
        let count: u32 = 4 << 20;
        body.push(0xdd);
        body.extend(count.to_be_bytes());
        body.resize(body.len() + count as usize, 0xa0);
        let error = decode_frame(&body).unwrap_err();
        assert_eq!(error.fault(), Some(Fault::Oversized), "{error}");
    }

    #[test]
    fn the_largest_batches_of_nodes_pass() {
        /// As many as fit into the largest frame, by what is allowed for each in the queue.
        const COUNT: usize = (8 << 20) / 16;
        let applied = Forwarded::Applied { index: Index(1 << 40), reply: Bytes::new() };
        for body in [
            commands(vec![Bytes::from_static(b"12345678"); COUNT * 2 / 3]),
            Body::ProposeResponse { nonce: 0, sequence: 0, outcomes: vec![applied; COUNT / 4] },
            Body::ProposeResponse { nonce: 0, sequence: 0, outcomes: vec![Forwarded::Busy; COUNT] },
            commands(vec![vec![0xdd; 7 << 20].into()]),
        ] {
            decode_frame(&encoded(body)).unwrap();
        }
    }

    #[test]
    fn markers_are_passed_over_with_what_they_bring() {
        let padding = || [&[0xc6, 0, 0x10, 0, 0][..], &[0xdd; 1 << 20]].concat();
        for marker in 0..=u8::MAX {
            // What follows is far more than any of them takes: lengths are 0, so that the padding is found again unless the marker takes a fixed number of bytes.
            let bytes = [&[marker][..], &[0; 40], &padding()].concat();
            assert!(check(&bytes).is_ok(), "{marker:02x}");
        }
        for cut in [&[0xc6, 0, 0][..], &[0xc6, 0, 0x10, 0, 1], &[0xcf, 0]] {
            let bytes = [&padding()[..], cut].concat();
            assert!(matches!(check(&bytes), Err(WireError::Malformed(_))), "{cut:02x?}");
        }
    }
}
