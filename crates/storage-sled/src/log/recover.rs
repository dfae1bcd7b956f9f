//! Reading a whole log when it is opened (C3).

use std::collections::VecDeque;

use bytes::Bytes;
use coracle_core::{EntryKind, Index, Membership, Run};
use coracle_storage::{LogShape, RecoveredLog, Result, StorageError};

use super::{Head, record, rows};
use crate::engine::Engine;

/// Reads a log from its base to its end and checks every entry.
pub(super) fn scan(
    engine: &Engine,
    tree: &sled::Tree,
    place: &str,
    tail_bytes_max: usize,
) -> Result<(Head, RecoveredLog)> {
    let base = record::base(engine, tree, place)?;
    let Some(state) = record::state(engine, tree, place)? else {
        if engine.run("read the log", || tree.iter().next().transpose())?.is_some() {
            return Err(StorageError::damaged(place, "term and vote are missing"));
        }
        return Ok((Head::default(), RecoveredLog::default()));
    };
    if state.last_index < base.index {
        let what = format!("it begins after {} and ends at {}", base.index, state.last_index);
        return Err(StorageError::damaged(place, what));
    }
    let mut reader = Reader {
        shape: LogShape::new(&base),
        memberships: Vec::new(),
        tail: VecDeque::new(),
        tail_bytes: 0,
        tail_bytes_max,
    };
    let damaged_at = reader.read(engine, tree, state.last_index)?;
    let Reader { shape, memberships, tail, .. } = reader;
    if shape.last_index() > state.last_index {
        let what = format!("it holds {}, but ends at {}", shape.last_index(), state.last_index);
        return Err(StorageError::damaged(place, what));
    }
    let terms = shape.terms().to_vec();
    let head = Head {
        hard_state: state.hard_state,
        shape: LogShape::recovered(&base, terms.clone(), state.last_index),
        generation: state.generation,
        is_purged: false,
    };
    let recovered = RecoveredLog {
        hard_state: state.hard_state,
        base,
        terms,
        memberships,
        last_index: state.last_index,
        tail: tail.into(),
        damaged_at,
    };
    Ok((head, recovered))
}

struct Reader {
    /// Of what was read so far.
    shape: LogShape,
    memberships: Vec<(Index, Membership)>,
    tail: VecDeque<Run>,
    tail_bytes: usize,
    tail_bytes_max: usize,
}

impl Reader {
    /// Reads up to `last`, or up to the first damaged entry, whose index it returns.
    fn read(&mut self, engine: &Engine, tree: &sled::Tree, last: Index) -> Result<Option<Index>> {
        // What compaction has not deleted yet is passed over: it may be half there.
        let first = rows::block_of(engine, tree, self.shape.base().next())?.unwrap_or_default();
        let mut blocks = rows::Blocks::new(engine, tree, first);
        while self.shape.last_index() < last {
            let next = self.shape.last_index().next();
            let Some((first, block)) = blocks.next()? else { return Ok(Some(next)) };
            if let Err(at) = self.block(first, block) {
                return Ok(Some(at.max(next)));
            }
        }
        Ok(None)
    }

    /// Takes a block; `Err` is the first index that is damaged or missing.
    fn block(&mut self, first: Index, block: Bytes) -> std::result::Result<(), Index> {
        let next = self.shape.last_index().next();
        if first > next {
            return Err(next);
        }
        let run = match rows::decode(first, block) {
            // What was compacted away is damaged in vain.
            Err(at) if at < next && self.shape.terms().is_empty() => return Ok(()),
            decoded => decoded?,
        };
        let Some(run) = run.slice(next, Index::MAX) else {
            // Left over from a compaction.
            return Ok(());
        };
        for (index, entry) in run.iter().filter(|(_, entry)| entry.kind == EntryKind::Membership) {
            let membership = Membership::decode(entry.data.clone()).map_err(|_| index)?;
            self.memberships.push((index, membership));
        }
        self.shape.push(&run).map_err(|_| next)?;
        self.keep(run);
        Ok(())
    }

    fn keep(&mut self, run: Run) {
        self.tail_bytes += run.size();
        self.tail.push_back(run);
        while self.tail_bytes > self.tail_bytes_max {
            let Some(oldest) = self.tail.pop_front() else { break };
            self.tail_bytes -= oldest.size();
        }
    }
}
