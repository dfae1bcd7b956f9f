//! Keys for writes without a session: a write whose outcome is unknown is not tried again, and stays open for ever.

use std::collections::BTreeSet;

use bytes::Bytes;
use coracle_core::Rng;
use coracle_level::{Command, Op, Txn};

use crate::linearizability::StoreOp;

/// After so many operations clients go on with another cell.
const CALLS_MAX: usize = 200;
/// After so many operations without an outcome clients go on with another cell: each doubles what may have happened.
const OPEN_MAX: usize = 6;

/// One key after another that clients write and read.
#[derive(Debug, Default)]
pub(super) struct Cells {
    number: u64,
    calls: usize,
    open: usize,
    /// How many values were written.
    values: i64,
    /// Who has an operation on a cell: one at a time for each client, as the search is the longer the more there are.
    busy: BTreeSet<usize>,
}

impl Cells {
    /// The cell in use.
    pub(super) fn key(&self) -> Bytes {
        format!("cell {}", self.number).into()
    }

    /// What `client` does to the cell in use, if it does nothing to one yet.
    pub(super) fn begin(&mut self, client: usize, rng: &mut Rng) -> Option<(Bytes, StoreOp)> {
        if !self.busy.insert(client) {
            return None;
        }
        if self.calls == CALLS_MAX {
            self.turn();
        }
        self.calls += 1;
        let op = match rng.below(4) {
            0 => StoreOp::Put(self.value().to_string().into()),
            1 => StoreOp::Increment(1),
            _ => StoreOp::Get,
        };
        Some((self.key(), op))
    }

    /// `client` was answered.
    pub(super) fn end(&mut self, client: usize) {
        self.busy.remove(&client);
    }

    /// `client` gives up an operation on `key` that may have happened.
    pub(super) fn give_up(&mut self, client: usize, key: &Bytes) {
        self.busy.remove(&client);
        if *key != self.key() {
            return;
        }
        self.open += 1;
        if self.open == OPEN_MAX {
            self.turn();
        }
    }

    fn turn(&mut self) {
        *self = Cells { number: self.number + 1, calls: 0, open: 0, ..std::mem::take(self) };
    }

    /// A number that nobody has written, and that increments of another one do not reach.
    fn value(&mut self) -> i64 {
        self.values += 1;
        self.values * 1_000_000
    }
}

/// A write without a session; `None` for a read.
pub(super) fn command(key: &Bytes, op: &StoreOp) -> Option<Command> {
    let key = key.clone();
    let op = match op {
        StoreOp::Get => return None,
        StoreOp::Put(value) => Op::Put { key, value: value.clone() },
        StoreOp::Increment(by) => Op::Increment { key, by: *by },
    };
    Some(Command::Txn { txn: Txn { ops: vec![op] }, once: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_left_after_many_operations_or_few_without_an_outcome() {
        let (mut cells, mut rng) = (Cells::default(), Rng::new(1));
        let first = cells.key();
        for _ in 0..CALLS_MAX {
            assert_eq!(cells.begin(0, &mut rng).map(|(key, _)| key), Some(first.clone()));
            assert!(cells.begin(0, &mut rng).is_none(), "one at a time");
            cells.end(0);
        }
        for client in 0..OPEN_MAX {
            let (key, _) = cells.begin(client, &mut rng).unwrap();
            assert_ne!(key, first);
            cells.give_up(client, &key);
        }
        assert_eq!(cells.key(), "cell 2");
    }
}
