//! A workload from a state machine, a way to make requests, and a check of the answers.

use std::{collections::BTreeSet, fmt, sync::Arc};

use bytes::Bytes;
use coracle_core::{Index, Rng};
use coracle_replica::{Consistency, Reply};
use coracle_storage::{KvStore, StateMachine};

use crate::{Invariant, Operation, Phase, Progress, Request, Violation, Workload};

/// How a node's state machine is made of the ordered map on its disk.
type Open = Box<dyn Fn(Arc<dyn KvStore>) -> coracle_storage::Result<Box<dyn StateMachine>>>;
/// How a request is made.
type Make = Box<dyn Fn(&mut Rng) -> Bytes>;
/// How the answers are judged.
type Check = Box<dyn Fn(&[Answer]) -> Result<(), String>>;

/// Clients that send commands and queries of a state machine of one's own, each waiting for its answer before it goes on.
///
/// A command whose outcome is unknown is left at that: there are no sessions here, and trying again might execute it twice.
/// A query is tried again until it is answered.
/// That a read sees what was acknowledged before it was asked is checked for every state machine; the rest is said by [`SimpleWorkload::check`].
pub struct SimpleWorkload {
    open: Open,
    commands: Make,
    queries: Make,
    check: Check,
    clients: usize,
    asked: Vec<Asked>,
    busy: BTreeSet<usize>,
    answers: Vec<Answer>,
    /// The highest index that any answer has shown.
    seen: Index,
    /// What the end of a run asks for: one command and, after it, one query.
    last: [Option<Operation>; 2],
}

struct Asked {
    client: usize,
    request: Bytes,
    is_command: bool,
    floor: Index,
    is_open: bool,
}

/// A request and what it was answered. In a history, answers come in the order in which clients got them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Answer {
    /// Who asked.
    pub client: usize,
    /// The command or the query.
    pub request: Bytes,
    /// Which of the two.
    pub is_command: bool,
    /// The state machine's answer.
    pub reply: Bytes,
    /// Where the command was committed; for a query, what the state had applied at least.
    pub index: Index,
}

impl SimpleWorkload {
    /// One client of the state machine that `open` makes, which asks nothing of interest and takes every answer.
    pub fn new<M: StateMachine + 'static>(open: impl Fn(Arc<dyn KvStore>) -> M + 'static) -> SimpleWorkload {
        SimpleWorkload {
            open: Box::new(move |kv| Ok(Box::new(open(kv)))),
            commands: Box::new(|_| Bytes::new()),
            queries: Box::new(|_| Bytes::new()),
            check: Box::new(|_| Ok(())),
            clients: 1,
            asked: Vec::new(),
            busy: BTreeSet::new(),
            answers: Vec::new(),
            seen: Index::ZERO,
            last: [None; 2],
        }
    }

    /// So many clients.
    pub fn clients(mut self, count: usize) -> SimpleWorkload {
        self.clients = count;
        self
    }

    /// How a command is drawn.
    pub fn commands(mut self, make: impl Fn(&mut Rng) -> Bytes + 'static) -> SimpleWorkload {
        self.commands = Box::new(make);
        self
    }

    /// How a query is drawn.
    pub fn queries(mut self, make: impl Fn(&mut Rng) -> Bytes + 'static) -> SimpleWorkload {
        self.queries = Box::new(make);
        self
    }

    /// Whether a run's answers can be; a text says why not. The last two are of a command and of a query that was asked after it, when everything had healed.
    pub fn check(mut self, check: impl Fn(&[Answer]) -> Result<(), String> + 'static) -> SimpleWorkload {
        self.check = Box::new(check);
        self
    }

    fn ask(&mut self, client: usize, is_command: bool, rng: &mut Rng) -> Operation {
        let request = if is_command { (self.commands)(rng) } else { (self.queries)(rng) };
        let operation = Operation(self.asked.len() as u64);
        self.asked.push(Asked { client, request, is_command, floor: self.seen, is_open: true });
        self.busy.insert(client);
        operation
    }

    /// The command at the end, then the query.
    fn ask_last(&mut self, client: usize, rng: &mut Rng) -> Option<Operation> {
        let next = self.last.iter().position(Option::is_none)?;
        let operation = self.ask(client, next == 0, rng);
        self.last[next] = Some(operation);
        Some(operation)
    }

    fn end(&mut self, operation: Operation) {
        let asked = &mut self.asked[operation.0 as usize];
        asked.is_open = false;
        self.busy.remove(&asked.client);
    }
}

impl Workload for SimpleWorkload {
    fn open(&self, kv: Arc<dyn KvStore>) -> coracle_storage::Result<Box<dyn StateMachine>> {
        (self.open)(kv)
    }

    fn clients(&self) -> usize {
        self.clients
    }

    fn begin(&mut self, client: usize, phase: Phase, rng: &mut Rng) -> Option<Operation> {
        if self.busy.contains(&client) {
            return None;
        }
        match phase {
            Phase::Faults => {
                let is_command = rng.chance(0.5);
                Some(self.ask(client, is_command, rng))
            }
            Phase::Drain => None,
            Phase::Verify => (client == 0).then(|| self.ask_last(client, rng)).flatten(),
        }
    }

    fn request(&mut self, operation: Operation) -> Request {
        let asked = &mut self.asked[operation.0 as usize];
        if asked.is_command {
            return Request::Command(asked.request.clone());
        }
        asked.floor = self.seen;
        Request::Query(asked.request.clone(), Consistency::Linearizable)
    }

    fn answered(&mut self, operation: Operation, reply: &Reply) -> Result<Progress, Violation> {
        let Asked { client, request, is_command, floor, .. } = &self.asked[operation.0 as usize];
        if reply.index < *floor {
            let what = format!("{request:?} is answered by the state at {}, asked after {floor} was seen", reply.index);
            return Err(Violation::new(Invariant::ReadFreshness, what));
        }
        let (client, request, is_command) = (*client, request.clone(), *is_command);
        self.seen = self.seen.max(reply.index);
        self.answers.push(Answer { client, request, is_command, reply: reply.data.clone(), index: reply.index });
        self.end(operation);
        Ok(Progress::Done { is_command, is_repeated: false })
    }

    fn ends_unknown(&mut self, operation: Operation) -> bool {
        let is_left = self.asked[operation.0 as usize].is_command;
        if is_left {
            self.end(operation);
            if self.last[0] == Some(operation) {
                // The run is to end with a command that was acknowledged.
                self.last[0] = None;
            }
        }
        is_left
    }

    fn is_idle(&self, phase: Phase) -> bool {
        let has_verified = self.last.iter().all(Option::is_some);
        self.busy.is_empty() && (phase != Phase::Verify || has_verified)
    }

    fn finish(&self) -> Result<(), Violation> {
        (self.check)(&self.answers).map_err(|what| Violation::new(Invariant::Linearizability, what))
    }
}

impl fmt::Debug for SimpleWorkload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimpleWorkload").field("answers", &self.answers.len()).finish_non_exhaustive()
    }
}
