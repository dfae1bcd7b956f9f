//! Clients of the level state machine: counters that tell how often an increment took effect, and registers with unique values; cells for what is done without a session.

mod cells;
mod judge;
mod record;

use std::{collections::BTreeSet, ops::Bound, sync::Arc};

use bytes::Bytes;
use coracle_core::{Rng, Time};
use coracle_level::{
    Command, CommandReply, LevelMachine, LevelOptions, Once, Op, Query, QueryReply, ScanSpec, SessionId, SessionLimits,
    Txn, decode_answer, decode_command, decode_reply, encode_command, encode_query,
};
use coracle_replica::{Consistency, Reply};
use coracle_storage::{KvStore, StateMachine};

use self::{
    cells::Cells,
    judge::{Judge, Seen},
    record::{Record, written},
};
use crate::{
    Bug, Invariant, Operation, Options, Phase, Progress, Request, Violation, Workload, bugs,
    linearizability::{StoreOp, StoreOutput},
};

/// How many counters there are, and how many registers.
const KEYS: usize = 3;

/// Clients with sessions, each of which retries a write under its sequence until it is answered.
pub struct LevelWorkload {
    bug: Option<Bug>,
    clients: Vec<Client>,
    operations: Vec<Pending>,
    unanswered: usize,
    judge: Judge,
    record: Record,
    cells: Cells,
    verify: Verify,
    history_only: bool,
}

#[derive(Debug, Default)]
struct Client {
    session: Option<SessionId>,
    is_opening: bool,
    /// The last sequence used.
    sequence: u64,
    /// The sequences without an answer.
    pending: BTreeSet<u64>,
    /// The most operations at a time.
    window: usize,
    /// How many operations have no answer.
    active: usize,
}

#[derive(Debug)]
struct Pending {
    client: usize,
    what: What,
    /// What was known when the last attempt began; of a write, when the first did.
    since: Seen,
}

#[derive(Clone, Debug)]
enum What {
    Open,
    Write {
        sequence: u64,
        counter: Option<usize>,
        register: Option<(usize, Bytes)>,
    },
    Get,
    Scan,
    /// Something without a session.
    Cell {
        key: Bytes,
        op: StoreOp,
    },
}

/// The last write, and then the last read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verify {
    NotBegun,
    Writing(Operation),
    Written,
    Reading(Operation),
    Done,
}

impl LevelWorkload {
    /// Clients drawn from `rng`; of the options it looks at the bug to be built in, if it is this workload's, and at what judges the answers.
    pub fn new(rng: &mut Rng, options: &Options) -> LevelWorkload {
        let drawn = 1 + rng.below(5) as usize;
        let count = options.clients_max.map_or(drawn, |max| drawn.min(max.max(1)));
        let window = 1 + rng.below(4) as usize;
        LevelWorkload {
            bug: options.bug,
            clients: (0..count).map(|_| Client { window, ..Client::default() }).collect(),
            operations: Vec::new(),
            unanswered: 0,
            judge: Judge::new(KEYS),
            record: Record::default(),
            cells: Cells::default(),
            verify: Verify::NotBegun,
            history_only: options.history_only,
        }
    }

    fn add(&mut self, client: usize, what: What) -> Operation {
        let operation = Operation(self.operations.len() as u64);
        self.operations.push(Pending { client, what, since: self.judge.seen() });
        self.clients[client].active += 1;
        self.unanswered += 1;
        operation
    }

    fn write(&mut self, client: usize, counter: Option<usize>, register: Option<(usize, Bytes)>) -> Operation {
        let this = &mut self.clients[client];
        this.sequence += 1;
        let sequence = this.sequence;
        this.pending.insert(sequence);
        if let Some(counter) = counter {
            self.judge.increment_begins(counter);
        }
        let increment = counter.map(|counter| (counter_key(counter), StoreOp::Increment(1)));
        let put = register.clone().map(|(register, value)| (register_key(register), StoreOp::Put(value)));
        let operation = self.add(client, What::Write { sequence, counter, register });
        self.record.begins(operation, increment.into_iter().chain(put));
        operation
    }

    /// Something without a session, unless the client is at such a thing already.
    fn cell(&mut self, client: usize, rng: &mut Rng) -> Option<Operation> {
        let (key, op) = self.cells.begin(client, rng)?;
        let operation = self.add(client, What::Cell { key: key.clone(), op: op.clone() });
        if op != StoreOp::Get {
            self.record.begins(operation, [(key, op)]);
        }
        Some(operation)
    }

    fn any(&mut self, client: usize, rng: &mut Rng) -> Operation {
        if rng.chance(0.25)
            && let Some(operation) = self.cell(client, rng)
        {
            return operation;
        }
        let counter = rng.below(KEYS as u64) as usize;
        let register = rng.below(KEYS as u64) as usize;
        match rng.below(8) {
            0..=2 => self.write(client, Some(counter), None),
            3 => {
                let value = self.judge.put_begins(register, rng.below(100) as usize);
                self.write(client, None, Some((register, value)))
            }
            4 => {
                let value = self.judge.put_begins(register, 0);
                self.write(client, Some(counter), Some((register, value)))
            }
            5 | 6 => self.add(client, What::Get),
            _ => self.add(client, What::Scan),
        }
    }

    /// The last write, and the read that has to see everything.
    fn verify(&mut self, client: usize) -> Option<Operation> {
        if client != 0 {
            return None;
        }
        match self.verify {
            Verify::NotBegun => {
                let operation = self.write(client, Some(0), None);
                self.verify = Verify::Writing(operation);
                Some(operation)
            }
            Verify::Written => {
                let operation = self.add(client, What::Get);
                self.verify = Verify::Reading(operation);
                Some(operation)
            }
            Verify::Writing(_) | Verify::Reading(_) | Verify::Done => None,
        }
    }

    fn command(&self, operation: Operation) -> Option<Command> {
        let Pending { client, what, .. } = &self.operations[operation.0 as usize];
        let client = &self.clients[*client];
        let (sequence, counter, register) = match what {
            What::Open => return Some(Command::OpenSession { limits: SessionLimits::default() }),
            What::Write { sequence, counter, register } => (*sequence, *counter, register.clone()),
            What::Cell { key, op } => return cells::command(key, op),
            What::Get | What::Scan => return None,
        };
        let increment = counter.map(|counter| Op::Increment { key: counter_key(counter), by: 1 });
        let put = register.map(|(register, value)| Op::Put { key: register_key(register), value });
        let floor = client.pending.first().map_or(client.sequence, |first| first - 1);
        let once = client.session.map(|session| Once { session, sequence, floor });
        Some(Command::Txn { txn: Txn { ops: increment.into_iter().chain(put).collect() }, once })
    }

    fn end(&mut self, operation: Operation) {
        let client = self.operations[operation.0 as usize].client;
        self.clients[client].active -= 1;
        self.unanswered -= 1;
        self.verify = match self.verify {
            Verify::Writing(last) if last == operation => Verify::Written,
            Verify::Reading(last) if last == operation => Verify::Done,
            other => other,
        };
    }

    /// What the judge of more than the history says, if it is asked.
    fn judged(&self, judgement: Result<(), Violation>) -> Result<(), Violation> {
        if self.history_only { Ok(()) } else { judgement }
    }

    fn replied(&mut self, operation: Operation, reply: &Reply) -> Result<bool, Violation> {
        let Pending { client, what, since } = &self.operations[operation.0 as usize];
        let client = &mut self.clients[*client];
        let decoded = decode_reply(&reply.data).map_err(|error| wrong(format!("{what:?} is answered: {error}")))?;
        match (decoded, what) {
            (CommandReply::SessionOpened(session), What::Open) => {
                client.session = Some(session);
                client.is_opening = false;
                Ok(false)
            }
            (CommandReply::Committed(committed), What::Write { sequence, counter, register }) => {
                client.pending.remove(sequence);
                let judgement = self.judge.written(since, *counter, register.as_ref(), &committed);
                self.record.ends(operation, |asked| written(asked, &committed));
                self.judged(judgement)?;
                Ok(committed.revision.0 != reply.index.0)
            }
            (CommandReply::Committed(committed), What::Cell { .. }) => {
                self.record.ends(operation, |asked| written(asked, &committed));
                Ok(false)
            }
            (other, what) => Err(wrong(format!("{what:?} is answered: {other:?}"))),
        }
    }

    /// The keys that a read is about.
    fn asked(&self, operation: Operation) -> Vec<Bytes> {
        match &self.operations[operation.0 as usize].what {
            What::Cell { key, .. } => vec![key.clone()],
            _ => keys().collect(),
        }
    }

    fn read(&mut self, operation: Operation, reply: &Reply) -> Result<(), Violation> {
        let Pending { what, since, .. } = &self.operations[operation.0 as usize];
        let asked = self.asked(operation);
        let is_last = matches!(self.verify, Verify::Reading(last) if last == operation);
        let answer = decode_answer(&reply.data).map_err(|error| wrong(format!("{what:?} is answered: {error}")))?;
        match answer {
            QueryReply::Values(read) => {
                let value = |key: &Bytes| {
                    let place = asked.iter().position(|asked| asked == key)?;
                    read.value.get(place)?.as_ref().map(|value| value.value.clone())
                };
                self.record.ends(operation, |asked| StoreOutput::Value(value(&asked.key)));
                let is_cell = matches!(what, What::Cell { .. });
                let judgement = if is_cell { Ok(()) } else { self.judge.got(since, &read, is_last) };
                self.judged(judgement)
            }
            QueryReply::Page(read) => {
                let entry = |key: &Bytes| read.value.entries.iter().find(|(found, _)| found == key);
                let value = |key: &Bytes| entry(key).map(|(_, value)| value.clone());
                self.record.ends(operation, |asked| StoreOutput::Value(value(&asked.key)));
                let judgement = self.judge.scanned(since, &read);
                self.judged(judgement)
            }
            other => Err(wrong(format!("{what:?} is answered: {other:?}"))),
        }
    }
}

impl Workload for LevelWorkload {
    fn open(&self, kv: Arc<dyn KvStore>) -> coracle_storage::Result<Box<dyn StateMachine>> {
        let machine = Box::new(LevelMachine::open(kv, LevelOptions::default())?);
        Ok(if self.bug == Some(Bug::SkipSessionCheck) { bugs::tamper(machine, without_once) } else { machine })
    }

    fn clients(&self) -> usize {
        self.clients.len()
    }

    fn begin(&mut self, client: usize, phase: Phase, rng: &mut Rng) -> Option<Operation> {
        let this = &mut self.clients[client];
        if phase == Phase::Drain || this.active >= this.window {
            return None;
        }
        if this.session.is_none() {
            let begins = !this.is_opening && (phase == Phase::Faults || client == 0);
            this.is_opening |= begins;
            return begins.then(|| self.add(client, What::Open));
        }
        match phase {
            Phase::Verify => self.verify(client),
            Phase::Faults | Phase::Drain => Some(self.any(client, rng)),
        }
    }

    fn request(&mut self, operation: Operation) -> Request {
        if let Some(command) = self.command(operation) {
            return Request::Command(encode_command(&command));
        }
        let keys = self.asked(operation);
        self.record.begins_to_read(operation, keys.iter().cloned());
        let pending = &mut self.operations[operation.0 as usize];
        pending.since = self.judge.seen();
        let query = match pending.what {
            What::Scan => Query::Page { at: None, scan: everything() },
            _ => Query::GetMany { at: None, keys },
        };
        Request::Query(encode_query(&query), Consistency::Linearizable)
    }

    fn answered(&mut self, operation: Operation, reply: &Reply) -> Result<Progress, Violation> {
        let is_command = self.command(operation).is_some();
        let is_repeated = if is_command {
            self.replied(operation, reply)?
        } else {
            self.read(operation, reply)?;
            false
        };
        let Pending { client, what, .. } = &self.operations[operation.0 as usize];
        if matches!(what, What::Cell { .. }) {
            self.cells.end(*client);
        }
        self.end(operation);
        Ok(Progress::Done { is_command, is_repeated })
    }

    fn time(&mut self, now: Time) {
        self.record.time(now);
    }

    fn ends_unknown(&mut self, operation: Operation) -> bool {
        let Pending { client, what: What::Cell { key, op }, .. } = &self.operations[operation.0 as usize] else {
            return false;
        };
        if *op == StoreOp::Get {
            return false;
        }
        self.cells.give_up(*client, key);
        self.end(operation);
        true
    }

    fn is_idle(&self, phase: Phase) -> bool {
        self.unanswered == 0 && (phase != Phase::Verify || self.verify == Verify::Done)
    }

    fn finish(&self) -> Result<(), Violation> {
        self.record.finish()?;
        self.judged(self.judge.finish())
    }
}

/// Counters first, then registers.
fn keys() -> impl Iterator<Item = Bytes> {
    (0..KEYS).map(counter_key).chain((0..KEYS).map(register_key))
}

fn counter_key(counter: usize) -> Bytes {
    format!("counter {counter}").into()
}

fn register_key(register: usize) -> Bytes {
    format!("register {register}").into()
}

/// Counters and registers; cells stand before them, as many as a long run takes.
fn everything() -> ScanSpec {
    ScanSpec {
        from: Bound::Included("counter".into()),
        to: Bound::Unbounded,
        reverse: false,
        limit: 1000,
        values: true,
    }
}

/// The command without what makes it take effect once.
fn without_once(_: coracle_core::Index, command: &Bytes) -> Option<Bytes> {
    match decode_command(command) {
        Ok(Command::Txn { txn, once: Some(_) }) => Some(encode_command(&Command::Txn { txn, once: None })),
        _ => None,
    }
}

fn wrong(what: String) -> Violation {
    Violation::new(Invariant::ExactlyOnce, what)
}
