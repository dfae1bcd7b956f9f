//! What the clients of the level state machine may be told.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use coracle_level::{Committed, Read, Revision, ScanPage, Value};

use super::{counter_key, register_key};
use crate::{
    Invariant::{ExactlyOnce, ReadFreshness},
    Violation,
};

/// What was begun, acknowledged and seen.
#[derive(Debug)]
pub(super) struct Judge {
    seen: Seen,
    /// How many increments of each counter were begun.
    begun: Vec<i64>,
    /// What the acknowledged increments of each counter made of it.
    integers: Vec<BTreeSet<i64>>,
    /// The register that each value was made for; a value's number is its place.
    values: Vec<usize>,
    /// What is known of the registers' history.
    history: BTreeMap<(usize, Revision), Bytes>,
    /// The counters at the end.
    last: Option<Vec<i64>>,
}

/// What everybody who asks from now on has to see at least.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    newest: Revision,
    counters: Vec<i64>,
    registers: Vec<Revision>,
}

impl Judge {
    pub(super) fn new(keys: usize) -> Judge {
        Judge {
            seen: Seen { newest: Revision(0), counters: vec![0; keys], registers: vec![Revision(0); keys] },
            begun: vec![0; keys],
            integers: vec![BTreeSet::new(); keys],
            values: Vec::new(),
            history: BTreeMap::new(),
            last: None,
        }
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen.clone()
    }

    pub(super) fn increment_begins(&mut self, counter: usize) {
        self.begun[counter] += 1;
    }

    /// A value that nobody has written, with some bytes more to make states larger.
    pub(super) fn put_begins(&mut self, register: usize, padding: usize) -> Bytes {
        let number = self.values.len();
        self.values.push(register);
        format!("{number} {}", ".".repeat(padding)).into()
    }

    /// A write that began at `since` was acknowledged.
    pub(super) fn written(
        &mut self,
        since: &Seen,
        counter: Option<usize>,
        register: Option<&(usize, Bytes)>,
        committed: &Committed,
    ) -> Result<(), Violation> {
        if committed.revision <= since.newest {
            let what = format!("a write that began after {:?} was seen is at {:?}", since.newest, committed.revision);
            return Err(Violation::new(ExactlyOnce, what));
        }
        if let Some(counter) = counter {
            self.incremented(since, counter, committed)?;
        }
        if let Some((register, value)) = register {
            self.register(*register, committed.revision, value)?;
        }
        self.seen.newest = self.seen.newest.max(committed.revision);
        Ok(())
    }

    fn incremented(&mut self, since: &Seen, counter: usize, committed: &Committed) -> Result<(), Violation> {
        let [integer] = committed.integers[..] else {
            let what = format!("one increment is answered by {:?}", committed.integers);
            return Err(Violation::new(ExactlyOnce, what));
        };
        let expected = since.counters[counter] + 1..=self.begun[counter];
        if !expected.contains(&integer) || !self.integers[counter].insert(integer) {
            let what = format!("an increment makes {integer} of counter {counter}: expected a new one of {expected:?}");
            return Err(Violation::new(ExactlyOnce, what));
        }
        self.seen.counters[counter] = self.seen.counters[counter].max(integer);
        Ok(())
    }

    /// A register had a value from `revision` on.
    fn register(&mut self, register: usize, revision: Revision, value: &Bytes) -> Result<(), Violation> {
        let known = self.history.entry((register, revision)).or_insert_with(|| value.clone());
        if known != value {
            let what = format!("register {register} had {known:?} and {value:?}, both written at {revision:?}");
            return Err(Violation::new(ExactlyOnce, what));
        }
        self.seen.registers[register] = self.seen.registers[register].max(revision);
        Ok(())
    }

    /// A read of all counters and all registers, whose last attempt began at `since`.
    pub(super) fn got(
        &mut self,
        since: &Seen,
        read: &Read<Vec<Option<Value>>>,
        is_last: bool,
    ) -> Result<(), Violation> {
        let keys = self.begun.len();
        if read.value.len() != 2 * keys {
            let what = format!("{} keys were asked for, {} are answered", 2 * keys, read.value.len());
            return Err(Violation::new(ReadFreshness, what));
        }
        self.is_fresh(since, read.revision)?;
        let mut integers = Vec::new();
        for (counter, value) in read.value[..keys].iter().enumerate() {
            integers.push(self.counter(since, counter, value.as_ref().map(|value| &value.value))?);
        }
        for (register, value) in read.value[keys..].iter().enumerate() {
            self.got_register(since, register, value.as_ref())?;
        }
        if is_last {
            self.last = Some(integers);
        }
        Ok(())
    }

    /// A scan of everything, whose last attempt began at `since`.
    pub(super) fn scanned(&mut self, since: &Seen, read: &Read<ScanPage>) -> Result<(), Violation> {
        self.is_fresh(since, read.revision)?;
        let entries = &read.value.entries;
        if read.value.more || !entries.is_sorted() {
            return Err(Violation::new(ReadFreshness, "a scan is out of order, or says that there is more"));
        }
        let found = |key: Bytes| entries.iter().find(|(other, _)| *other == key).map(|(_, value)| value);
        for counter in 0..self.begun.len() {
            self.counter(since, counter, found(counter_key(counter)))?;
        }
        for register in 0..self.begun.len() {
            match found(register_key(register)) {
                Some(value) => self.was_begun(register, value)?,
                None if since.registers[register] == Revision(0) => {}
                None => return Err(stale(format!("register {register} is absent from a scan"))),
            }
        }
        Ok(())
    }

    fn is_fresh(&mut self, since: &Seen, revision: Revision) -> Result<(), Violation> {
        if revision < since.newest {
            return Err(stale(format!("a read at {revision:?} began when {:?} had been seen", since.newest)));
        }
        self.seen.newest = self.seen.newest.max(revision);
        Ok(())
    }

    fn counter(&mut self, since: &Seen, counter: usize, value: Option<&Bytes>) -> Result<i64, Violation> {
        let text = value.map_or("0".into(), |value| String::from_utf8_lossy(value));
        let expected = since.counters[counter]..=self.begun[counter];
        match text.parse() {
            Ok(integer) if integer > self.begun[counter] => {
                let what = format!("counter {counter} is {integer}: more than the {expected:?} increments begun");
                Err(Violation::new(ExactlyOnce, what))
            }
            Ok(integer) if expected.contains(&integer) => {
                self.seen.counters[counter] = self.seen.counters[counter].max(integer);
                Ok(integer)
            }
            _ => Err(stale(format!("counter {counter} is {text}: expected one of {expected:?}"))),
        }
    }

    fn got_register(&mut self, since: &Seen, register: usize, value: Option<&Value>) -> Result<(), Violation> {
        let floor = since.registers[register];
        let modified = value.map_or(Revision(0), |value| value.modified);
        if modified < floor {
            let what = format!("register {register} is of {modified:?}, and had been seen of {floor:?}");
            return Err(stale(what));
        }
        let Some(value) = value else { return Ok(()) };
        self.was_begun(register, &value.value)?;
        self.register(register, modified, &value.value)
    }

    fn was_begun(&self, register: usize, value: &Bytes) -> Result<(), Violation> {
        let text = String::from_utf8_lossy(value);
        let number = text.split(' ').next().and_then(|number| number.parse::<usize>().ok());
        if number.and_then(|number| self.values.get(number)) == Some(&register) {
            return Ok(());
        }
        Err(stale(format!("register {register} holds {text:?}, which was not written to it")))
    }

    /// I12: at the end each counter is as large as the number of its increments.
    pub(super) fn finish(&self) -> Result<(), Violation> {
        let last = self.last.as_ref();
        if last.is_some_and(|last| *last == self.begun) {
            return Ok(());
        }
        let what = format!("the counters end at {last:?}, after {:?} increments, each acknowledged", self.begun);
        Err(Violation::new(ExactlyOnce, what))
    }
}

fn stale(what: String) -> Violation {
    Violation::new(ReadFreshness, what)
}
