//! What waits to leave.

use super::*;

fn push(line: &Arc<Line>, len: usize) -> Option<Waiting> {
    line.push(pb::call::Call::Commit(pb::CommitRequest::default()), len)
}

/// The numbers of what waits to leave, and how many bytes it takes.
fn queued(line: &Line) -> (Vec<u64>, usize) {
    let state = line.lock();
    (state.queue.iter().map(|queued| queued.call.number).collect(), state.queue_bytes)
}

#[test]
fn a_call_that_nobody_waits_for_does_not_stay() {
    let line = Arc::new(Line::default());
    let mut waiting: Vec<_> = (0..6).map(|_| push(&line, 100)).collect();
    // In any order, whether or not the first of them has left.
    waiting.remove(4);
    assert_eq!(queued(&line), (vec![1, 2, 3, 4, 6], 500));
    let left: Vec<u64> = next_calls(&mut line.lock(), 250).iter().map(|call| call.number).collect();
    assert_eq!((left, queued(&line)), (vec![1, 2], (vec![3, 4, 6], 300)));
    drop(waiting);
    assert_eq!(queued(&line), (Vec::new(), 0));
    assert!(line.lock().waiting.is_empty());
}

#[test]
fn what_waits_to_leave_is_limited() {
    for (len, max) in [(0, QUEUE_CALLS_MAX), (CALL_BYTES_MAX, QUEUE_BYTES_MAX / CALL_BYTES_MAX)] {
        let line = Arc::new(Line::default());
        let mut waiting: Vec<_> = (0..max).map(|_| push(&line, len).expect("room")).collect();
        assert!(push(&line, len).is_none());
        waiting.truncate(max - 1);
        waiting.push(push(&line, len).expect("room for another one"));
        assert!(push(&line, len).is_none());
        // What has left makes room; what it waits for is an answer.
        let left = next_calls(&mut line.lock(), MESSAGE_BYTES).len();
        assert!(left > 0);
        waiting.extend((0..left).map(|_| push(&line, len).expect("room")));
        assert!(push(&line, len).is_none());
        line.end(&Over::Told(Status::unavailable("it broke")));
        assert_eq!(queued(&line), (Vec::new(), 0));
    }
}
