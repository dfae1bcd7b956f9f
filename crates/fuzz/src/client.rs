//! What clients and nodes say to each other over gRPC.

use bytes::Bytes;
use coracle_client::{Refusal, RefusalKind, pb, status, wire};
use coracle_level::{Committed, Error, Once, Op, Read, ReadAt, Revision, ScanPage, SessionId, Txn, Value};
use prost::Message;
use tonic::{Code, Status};

use crate::source::Source;

/// Requests and answers; the first byte says which. What is understood is said in the same words again.
pub(crate) fn messages(data: &[u8]) {
    let mut source = Source::new(data);
    match source.below(8) {
        0 => commit(source.rest()),
        1 => page_request(source.rest()),
        2 => read_at(source.rest()),
        3 => round_trip(source.rest(), wire::values_from_wire, wire::values_to_wire),
        4 => round_trip(source.rest(), wire::page_from_wire, wire::page_to_wire),
        5 => round_trip(source.rest(), wire::committed_from_wire, wire::committed_to_wire),
        6 => failure(source.rest()),
        _ => drop(pb::StatusResponse::decode(source.rest())),
    }
}

fn commit(data: &[u8]) {
    let Ok(request) = pb::CommitRequest::decode(data) else { return };
    let Ok((txn, once)) = wire::commit_from_wire(request) else { return };
    let again = wire::commit_from_wire(wire::commit_to_wire(txn.clone(), once));
    assert_eq!(again, Ok((txn, once)));
}

fn page_request(data: &[u8]) {
    let Ok(request) = pb::PageRequest::decode(data) else { return };
    let Ok(at) = wire::read_at_from_wire(request.at) else { return };
    let scan = wire::scan_from_wire(request);
    let Ok(wire) = wire::scan_to_wire(at, scan.clone()) else { panic!("{at:?} was just understood") };
    assert_eq!(wire::read_at_from_wire(wire.at), Ok(at));
    assert_eq!(wire::scan_from_wire(wire), scan);
}

fn read_at(data: &[u8]) {
    let Ok(request) = pb::GetManyRequest::decode(data) else { return };
    let Ok(at) = wire::read_at_from_wire(request.at) else { return };
    assert_eq!(wire::read_at_to_wire(at).and_then(|it| wire::read_at_from_wire(Some(it))), Ok(at));
}

/// What a status tells of why a request failed.
fn failure(details: &[u8]) {
    let status = Status::with_details(Code::Unavailable, "", Bytes::copy_from_slice(details));
    if let Some(error) = status::to_error(&status) {
        let again = status::to_error(&status::from_error(&error));
        assert!(again.is_some(), "{error:?} is no error any more");
    }
    if let Some(refusal) = Refusal::from_status(&status) {
        let again = Refusal::from_status(&refusal.to_status());
        assert_eq!(again.map(|it| it.kind), Some(refusal.kind));
    }
}

fn round_trip<M: Message + Default, T: Clone + PartialEq + std::fmt::Debug>(
    data: &[u8],
    from: impl Fn(M) -> T,
    to: impl Fn(T) -> M,
) {
    let Ok(message) = M::decode(data) else { return };
    let value = from(message);
    let Ok(again) = M::decode(to(value.clone()).encode_to_vec().as_slice()) else { panic!("{value:?} was just said") };
    assert_eq!(from(again), value);
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let key = || Bytes::from_static(b"k\xff");
    let ops = vec![
        Op::Put { key: key(), value: Bytes::new() },
        Op::Delete { key: key() },
        Op::Increment { key: key(), by: -3 },
    ];
    let once = Once { session: SessionId(1), sequence: 2, floor: 1 };
    let at = wire::read_at_to_wire(ReadAt::Revision(Revision(9))).unwrap_or_default();
    let bound = |exclusive| Some(pb::Bound { key: key(), exclusive });
    let page = pb::PageRequest { at: Some(at), from: bound(false), to: bound(true), limit: 7, ..Default::default() };
    let value = Value { value: key(), created: Revision(1), modified: Revision(2), version: 3 };
    let values = Read { value: vec![None, Some(value)], revision: Revision(4) };
    let scanned = Read { value: ScanPage { entries: vec![(key(), Bytes::new())], more: true }, revision: Revision(5) };
    let committed = Committed { revision: Revision(6), integers: vec![i64::MIN, 0, i64::MAX] };
    let failures = [
        status::from_error(&Error::LimitExceeded { limit: "key_bytes_max".to_owned(), max: 4, got: 5 }),
        status::from_error(&Error::NotLeader { leader: Some("127.0.0.1:9490".to_owned()) }),
        Refusal::new(RefusalKind::NotMember, "because").to_status(),
    ];
    let failures = failures.iter().map(|status| [&[6], status.details()].concat());
    let messages = [
        of(0, &wire::commit_to_wire(Txn { ops }, Some(once))),
        of(1, &page),
        of(2, &pb::GetManyRequest { at: Some(at), keys: vec![key(), Bytes::new()] }),
        of(3, &wire::values_to_wire(values)),
        of(4, &wire::page_to_wire(scanned)),
        of(5, &wire::committed_to_wire(committed)),
    ];
    messages.into_iter().chain(failures).collect()
}

fn of(which: u8, message: &impl Message) -> Vec<u8> {
    let mut out = vec![which];
    out.extend(message.encode_to_vec());
    out
}
