//! I9: the history of what clients asked for and were answered, and whether it is linearizable.

use std::collections::BTreeMap;

use bytes::Bytes;
use coracle_core::Time;
use coracle_level::Committed;

use crate::{
    Invariant, Operation, Violation,
    linearizability::{CallId, History, Store, StoreInput, StoreOp, StoreOutput, Verdict, check},
};

/// The most operations on one key that are recorded.
const CALLS_MAX: usize = 1000;
/// The most steps of the search, for each key: a history of unique values takes about one step for each operation, a tangled one many more.
const STEPS_MAX: u64 = 5_000_000;

/// The history so far, up to a limit for each key.
///
/// Where a key reaches the limit its history is cut: what is asked for later is left out, and so is what was answered later, which may depend on that.
/// What was linearizable before the cut still is.
#[derive(Debug, Default)]
pub(super) struct Record {
    history: History<StoreInput, StoreOutput>,
    now: Time,
    /// How often each key was asked for.
    asked: BTreeMap<Bytes, usize>,
    /// What each operation that has no answer is in the history, for each of its keys.
    running: BTreeMap<Operation, Vec<CallId>>,
}

impl Record {
    /// The virtual time of what is recorded next.
    pub(super) fn time(&mut self, now: Time) {
        self.now = now;
    }

    /// An operation begins, on each of some keys.
    pub(super) fn begins(&mut self, operation: Operation, asked: impl IntoIterator<Item = (Bytes, StoreOp)>) {
        let mut running = Vec::new();
        for (key, op) in asked {
            let times = self.asked.entry(key.clone()).or_default();
            *times += 1;
            if *times <= CALLS_MAX {
                running.push(self.history.invoke(self.now.0, StoreInput { key, op }));
            }
        }
        self.running.insert(operation, running);
    }

    /// An attempt of a read begins: an earlier one came to nothing, which is as if it had not been made.
    pub(super) fn begins_to_read(&mut self, operation: Operation, keys: impl IntoIterator<Item = Bytes>) {
        let Some(running) = self.running.get_mut(&operation) else {
            return self.begins(operation, keys.into_iter().map(|key| (key, StoreOp::Get)));
        };
        for call in running {
            let Some(input) = self.history.call(*call).map(|call| call.input.clone()) else { continue };
            // It waits, for the operation is still running.
            drop(self.history.reject(*call));
            *call = self.history.invoke(self.now.0, input);
        }
    }

    /// An operation is answered; `output` says what for each key.
    pub(super) fn ends(&mut self, operation: Operation, output: impl Fn(&StoreInput) -> StoreOutput) {
        for id in self.running.remove(&operation).unwrap_or_default() {
            let Some(call) = self.history.call(id) else { continue };
            if self.asked[&call.input.key] <= CALLS_MAX {
                let output = output(&call.input);
                // It waits and time does not fall, so that this is no error.
                drop(self.history.answer(id, self.now.0, output));
            }
        }
    }

    /// I9: whether there is a legal order.
    pub(super) fn finish(&self) -> Result<(), Violation> {
        let verdict = check(&Store, &self.history, STEPS_MAX);
        let mut what = verdict.to_string();
        match verdict {
            Verdict::Linearizable => return Ok(()),
            Verdict::NotLinearizable(obstacle) => what.push_str(&self.shown(obstacle.stuck)),
            Verdict::Unknown { .. } => {}
        }
        Err(Violation::new(Invariant::Linearizability, what))
    }

    fn shown(&self, stuck: CallId) -> String {
        let Some(call) = self.history.call(stuck) else { return String::new() };
        let asked = format!(": {:?} at {}", call.input.op, Time(call.invoked));
        match &call.answer {
            Some((at, output)) => format!("{asked}, answered at {} by {output:?}", Time(*at)),
            None => asked,
        }
    }
}

/// What a transaction of at most one increment and one put is answered, as far as `asked` goes.
pub(super) fn written(asked: &StoreInput, committed: &Committed) -> StoreOutput {
    match (&asked.op, committed.integers.first()) {
        (StoreOp::Increment(_), Some(sum)) => StoreOutput::Integer(*sum),
        // An answer without the sum: that is legal nowhere.
        (StoreOp::Increment(_), None) => StoreOutput::Done,
        (StoreOp::Put(_) | StoreOp::Get, _) => StoreOutput::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(record: &mut Record, operation: u64, value: &'static str) {
        record.time(Time(10 * operation));
        record.begins(Operation(operation), [("key".into(), StoreOp::Put(value.into()))]);
    }

    fn got(record: &mut Record, operation: u64, value: &'static str) {
        record.time(Time(10 * operation));
        record.begins_to_read(Operation(operation), ["key".into()]);
        record.ends(Operation(operation), |_| StoreOutput::Value(Some(value.into())));
    }

    #[test]
    fn a_stale_read_is_a_violation_that_shows_it() {
        let mut record = Record::default();
        for (operation, value) in [(1, "a"), (2, "b")] {
            put(&mut record, operation, value);
            record.ends(Operation(operation), |_| StoreOutput::Done);
        }
        assert_eq!(record.finish(), Ok(()));
        got(&mut record, 3, "a");
        let violation = record.finish().unwrap_err();
        assert_eq!(violation.invariant, Invariant::Linearizability);
        assert!(violation.what.contains("Get at") && violation.what.contains("b\"a\""), "{violation}");
    }

    #[test]
    fn a_read_counts_from_its_last_attempt() {
        let mut record = Record::default();
        put(&mut record, 1, "a");
        record.begins_to_read(Operation(2), ["key".into()]);
        record.ends(Operation(1), |_| StoreOutput::Done);
        got(&mut record, 2, "a");
        assert_eq!(record.history.calls().count(), 2);
        assert_eq!(record.finish(), Ok(()));
    }

    #[test]
    fn what_comes_after_the_limit_is_left_out_with_its_effects() {
        let mut record = Record::default();
        put(&mut record, 0, "first");
        record.begins_to_read(Operation(1), ["key".into()]);
        for operation in 2..=CALLS_MAX as u64 {
            put(&mut record, operation, "middle");
        }
        put(&mut record, CALLS_MAX as u64 + 1, "last");
        record.ends(Operation(1), |_| StoreOutput::Value(Some("last".into())));
        assert_eq!(record.history.calls().count(), CALLS_MAX);
        assert_eq!(record.finish(), Ok(()));
    }
}
