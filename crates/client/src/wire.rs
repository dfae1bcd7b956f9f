//! Between the messages of the interface and the types of [`coracle_level`].

use std::{ops::Bound, time::Duration};

use bytes::Bytes;
use coracle_level::{
    Answer, Call, Committed, Error, Once, Op, Read, ReadAt, Result, Revision, ScanPage, ScanSpec, SessionId, Txn, Value,
};

use prost::Message;

pub use crate::codec::decode;
use crate::{
    pb::{self, Consistency},
    status,
};

/// How fresh a read is, as it travels.
///
/// # Errors
/// When the interface has no word for it.
pub fn read_at_to_wire(at: ReadAt) -> Result<pb::ReadAt> {
    let wire = pb::ReadAt::default();
    let (consistency, wire) = match at {
        ReadAt::Linearizable => (Consistency::Linearizable, wire),
        ReadAt::Lease => (Consistency::Lease, wire),
        // Rounded down: younger than was asked for is right, older is not.
        ReadAt::Bounded(max_age) => (Consistency::Bounded, pb::ReadAt { max_age_ms: whole_ms(max_age), ..wire }),
        ReadAt::Stale => (Consistency::Stale, wire),
        ReadAt::Revision(revision) => (Consistency::Revision, pb::ReadAt { revision: revision.0, ..wire }),
        other => return Err(Error::Protocol(format!("reads at {other:?} cannot be asked of a remote node"))),
    };
    Ok(pb::ReadAt { consistency: consistency.into(), ..wire })
}

pub(crate) fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How fresh a read is to be.
///
/// # Errors
/// When the value is not a known one.
pub fn read_at_from_wire(at: Option<pb::ReadAt>) -> Result<ReadAt> {
    let Some(at) = at else { return Ok(ReadAt::Linearizable) };
    match Consistency::try_from(at.consistency) {
        Ok(Consistency::Unspecified | Consistency::Linearizable) => Ok(ReadAt::Linearizable),
        Ok(Consistency::Lease) => Ok(ReadAt::Lease),
        Ok(Consistency::Bounded) => Ok(ReadAt::Bounded(Duration::from_millis(at.max_age_ms))),
        Ok(Consistency::Stale) => Ok(ReadAt::Stale),
        Ok(Consistency::Revision) => Ok(ReadAt::Revision(Revision(at.revision))),
        Err(_) => Err(Error::Protocol(format!("consistency is one of 0 to 5: got {}", at.consistency))),
    }
}

/// A page's request, as it travels.
///
/// # Errors
/// When `at` cannot travel.
pub fn scan_to_wire(at: ReadAt, scan: ScanSpec) -> Result<pb::PageRequest> {
    Ok(pb::PageRequest {
        at: Some(read_at_to_wire(at)?),
        from: bound_to_wire(scan.from),
        to: bound_to_wire(scan.to),
        reverse: scan.reverse,
        limit: scan.limit,
        keys_only: !scan.values,
    })
}

/// Which keys a page visits.
pub fn scan_from_wire(page: pb::PageRequest) -> ScanSpec {
    ScanSpec {
        from: bound_from_wire(page.from),
        to: bound_from_wire(page.to),
        reverse: page.reverse,
        limit: page.limit,
        values: !page.keys_only,
    }
}

fn bound_to_wire(bound: Bound<Bytes>) -> Option<pb::Bound> {
    match bound {
        Bound::Included(key) => Some(pb::Bound { key, exclusive: false }),
        Bound::Excluded(key) => Some(pb::Bound { key, exclusive: true }),
        Bound::Unbounded => None,
    }
}

fn bound_from_wire(bound: Option<pb::Bound>) -> Bound<Bytes> {
    match bound {
        Some(pb::Bound { key, exclusive: false }) => Bound::Included(key),
        Some(pb::Bound { key, exclusive: true }) => Bound::Excluded(key),
        None => Bound::Unbounded,
    }
}

/// A page, as it travels.
pub fn page_to_wire(page: Read<ScanPage>) -> pb::PageResponse {
    let entries = page.value.entries.into_iter().map(|(key, value)| pb::KeyValue { key, value }).collect();
    pb::PageResponse { entries, more: page.value.more, revision: page.revision.0 }
}

/// A page.
pub fn page_from_wire(page: pb::PageResponse) -> Read<ScanPage> {
    let entries = page.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
    Read { value: ScanPage { entries, more: page.more }, revision: Revision(page.revision) }
}

/// Values, as they travel.
pub fn values_to_wire(read: Read<Vec<Option<Value>>>) -> pb::GetManyResponse {
    let values = read.value.into_iter().map(|value| pb::MaybeValue { value: value.map(value_to_wire) }).collect();
    pb::GetManyResponse { values, revision: read.revision.0 }
}

/// Values.
pub fn values_from_wire(response: pb::GetManyResponse) -> Read<Vec<Option<Value>>> {
    let value = response.values.into_iter().map(|value| value.value.map(value_from_wire)).collect();
    Read { value, revision: Revision(response.revision) }
}

fn value_to_wire(value: Value) -> pb::Value {
    let Value { value, created, modified, version } = value;
    pb::Value { value, created: created.0, modified: modified.0, version }
}

fn value_from_wire(value: pb::Value) -> Value {
    let pb::Value { value, created, modified, version } = value;
    Value { value, created: Revision(created), modified: Revision(modified), version }
}

/// A transaction, as it travels.
pub fn commit_to_wire(txn: Txn, once: Option<Once>) -> pb::CommitRequest {
    let ops = txn.ops.into_iter().map(|op| pb::Op { op: Some(op_to_wire(op)) }).collect();
    let once = once.map(|once| pb::Once { session: once.session.0, sequence: once.sequence, floor: once.floor });
    pb::CommitRequest { ops, once }
}

/// A transaction.
///
/// # Errors
/// When one of its changes is of a kind that is not known here.
pub fn commit_from_wire(commit: pb::CommitRequest) -> Result<(Txn, Option<Once>)> {
    let ops = commit.ops.into_iter().enumerate().map(|(at, op)| op_from_wire(at, op)).collect::<Result<_>>()?;
    let once =
        commit.once.map(|once| Once { session: SessionId(once.session), sequence: once.sequence, floor: once.floor });
    Ok((Txn { ops }, once))
}

fn op_to_wire(op: Op) -> pb::op::Op {
    match op {
        Op::Put { key, value } => pb::op::Op::Put(pb::Put { key, value }),
        Op::Delete { key } => pb::op::Op::Delete(pb::Delete { key }),
        Op::Increment { key, by } => pb::op::Op::Increment(pb::Increment { key, by }),
    }
}

fn op_from_wire(at: usize, op: pb::Op) -> Result<Op> {
    match op.op {
        Some(pb::op::Op::Put(pb::Put { key, value })) => Ok(Op::Put { key, value }),
        Some(pb::op::Op::Delete(pb::Delete { key })) => Ok(Op::Delete { key }),
        Some(pb::op::Op::Increment(pb::Increment { key, by })) => Ok(Op::Increment { key, by }),
        None => Err(Error::Protocol(format!("change {at} is neither put, delete nor increment"))),
    }
}

/// What a transaction did, as it travels.
pub fn committed_to_wire(committed: Committed) -> pb::CommitResponse {
    pb::CommitResponse { revision: committed.revision.0, integers: committed.integers }
}

/// What a transaction did.
pub fn committed_from_wire(response: pb::CommitResponse) -> Committed {
    Committed { revision: Revision(response.revision), integers: response.integers }
}

/// A call of a stream.
///
/// # Errors
/// When it is of a kind that is not known here, or has something in it that is not.
pub fn call_from_wire(call: Option<pb::call::Call>) -> Result<Call> {
    match call {
        Some(pb::call::Call::Commit(commit)) => {
            let (txn, once) = commit_from_wire(commit)?;
            Ok(Call::Commit { txn, once })
        }
        Some(pb::call::Call::GetMany(get)) => Ok(Call::GetMany { at: read_at_from_wire(get.at)?, keys: get.keys }),
        Some(pb::call::Call::ContainsMany(contains)) => {
            Ok(Call::ContainsMany { at: read_at_from_wire(contains.at)?, keys: contains.keys })
        }
        Some(pb::call::Call::Page(page)) => {
            Ok(Call::Page { at: read_at_from_wire(page.at)?, scan: scan_from_wire(page) })
        }
        None => Err(Error::Protocol("the call is none of get_many, contains_many, page and commit".to_owned())),
    }
}

/// An answer on a stream, as it travels.
pub fn answer_to_wire(answer: Result<Answer>) -> pb::answer::Answer {
    match answer {
        Ok(Answer::Committed(committed)) => pb::answer::Answer::Commit(committed_to_wire(committed)),
        Ok(Answer::Values(read)) => pb::answer::Answer::GetMany(values_to_wire(read)),
        Ok(Answer::Contained(read)) => pb::answer::Answer::ContainsMany(contained_to_wire(read)),
        Ok(Answer::Page(page)) => pb::answer::Answer::Page(page_to_wire(page)),
        Ok(other) => {
            let error = Error::Protocol(format!("the interface has no word for {other:?}"));
            pb::answer::Answer::Error(status::to_wire(&error))
        }
        Err(error) => pb::answer::Answer::Error(status::to_wire(&error)),
    }
}

/// How many bytes an answer takes on the wire, without what goes round it.
pub fn answer_len(answer: &pb::Answer) -> usize {
    answer.encoded_len()
}

/// Whether keys are there, as it travels.
pub fn contained_to_wire(read: Read<Vec<bool>>) -> pb::ContainsManyResponse {
    pb::ContainsManyResponse { present: read.value, revision: read.revision.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Bytes {
        Bytes::from_static(b"k\xff")
    }

    #[test]
    fn reads_survive_the_way_over_the_wire() {
        let bounded = ReadAt::Bounded(Duration::from_millis(500));
        for at in [ReadAt::Linearizable, ReadAt::Lease, bounded, ReadAt::Stale, ReadAt::Revision(Revision(9))] {
            assert_eq!(read_at_from_wire(Some(read_at_to_wire(at).unwrap())).unwrap(), at);
        }
        assert_eq!(read_at_from_wire(None).unwrap(), ReadAt::Linearizable);
        let odd = pb::ReadAt { consistency: 77, ..Default::default() };
        assert!(matches!(read_at_from_wire(Some(odd)), Err(Error::Protocol(text)) if text.contains("77")));
        let long = read_at_to_wire(ReadAt::Bounded(Duration::MAX)).unwrap();
        let fine = read_at_to_wire(ReadAt::Bounded(Duration::from_micros(1999))).unwrap();
        assert_eq!((long.max_age_ms, fine.max_age_ms), (u64::MAX, 1), "never older than was asked for");
    }

    #[test]
    fn scans_survive_the_way_over_the_wire() {
        for (from, to) in [
            (Bound::Included(key()), Bound::Excluded(key())),
            (Bound::Excluded(Bytes::new()), Bound::Included(Bytes::new())),
            (Bound::Unbounded, Bound::Unbounded),
        ] {
            let scan = ScanSpec { from, to, reverse: true, limit: 7, values: false };
            let wire = scan_to_wire(ReadAt::Stale, scan.clone()).unwrap();
            assert_eq!(scan_from_wire(wire), scan);
        }
    }

    #[test]
    fn answers_survive_the_way_over_the_wire() {
        let value = Value { value: key(), created: Revision(1), modified: Revision(2), version: 3 };
        let values = Read { value: vec![None, Some(value)], revision: Revision(4) };
        assert_eq!(values_from_wire(values_to_wire(values.clone())), values);
        let page = ScanPage { entries: vec![(key(), Bytes::new())], more: true };
        let page = Read { value: page, revision: Revision(5) };
        assert_eq!(page_from_wire(page_to_wire(page.clone())), page);
        let committed = Committed { revision: Revision(6), integers: vec![i64::MIN, 0, i64::MAX] };
        assert_eq!(committed_from_wire(committed_to_wire(committed.clone())), committed);
    }

    #[test]
    fn transactions_survive_the_way_over_the_wire() {
        let ops = vec![
            Op::Put { key: key(), value: Bytes::new() },
            Op::Delete { key: key() },
            Op::Increment { key: key(), by: -3 },
        ];
        let once = Once { session: SessionId(1), sequence: 2, floor: 1 };
        let sent = (Txn { ops }, Some(once));
        assert_eq!(commit_from_wire(commit_to_wire(sent.0.clone(), sent.1)).unwrap(), sent);
        let odd = pb::CommitRequest { ops: vec![pb::Op { op: None }], once: None };
        assert!(matches!(commit_from_wire(odd), Err(Error::Protocol(_))));
    }
}
