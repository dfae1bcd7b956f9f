//! Clients: which node they ask, how long they wait, how they try again.

use std::{collections::BTreeMap, time::Duration};

use coracle_core::{Index, Rng};
use coracle_replica::{Consistency, Input, Reply, RequestError, RequestId};

use super::{Event, Step, World, operator::Operator};
use crate::{Bug, Invariant, Operation, Phase, Progress, Request, Violation, Workload, faults::exponential};

pub(super) struct Clients {
    pub(super) workload: Box<dyn Workload>,
    rng: Rng,
    /// Attempts that wait for an answer.
    attempts: BTreeMap<u64, Attempt>,
    next_request: u64,
    /// The node that each client asks first.
    nodes: Vec<usize>,
    /// The mean time between two operations of a client.
    think: Duration,
    /// How long a client waits for an answer.
    patience: Duration,
}

struct Attempt {
    client: usize,
    operation: Operation,
    node: usize,
    /// What was committed when it began, if the answer has to show it.
    since: Option<Index>,
}

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failed {
    /// Surely without effect.
    Refused,
    /// It may have taken effect, or will.
    Unknown,
    /// It was answered, and the answer asks for another attempt.
    Answered,
}

impl Clients {
    pub(super) fn new(workload: Box<dyn Workload>, mut rng: Rng) -> Clients {
        let nodes = vec![0; workload.clients()];
        Clients {
            workload,
            attempts: BTreeMap::new(),
            next_request: 1,
            nodes,
            think: rng.duration(Duration::from_millis(10), Duration::from_millis(200)),
            patience: rng.duration(Duration::from_millis(300), Duration::from_secs(5)),
            rng,
        }
    }

    /// Whether every operation has ended.
    pub(super) fn is_idle(&self, phase: Phase) -> bool {
        self.workload.is_idle(phase)
    }

    /// How many attempts wait for an answer.
    pub(super) fn waiting(&self) -> usize {
        self.attempts.len()
    }
}

impl World {
    pub(super) fn begin_clients(&mut self) {
        for client in 0..self.clients.nodes.len() {
            self.tick_later(client);
        }
    }

    fn tick_later(&mut self, client: usize) {
        let mean = if self.phase == Phase::Faults { self.clients.think } else { Duration::from_millis(20) };
        let after = exponential(&mut self.clients.rng, mean);
        self.schedule(after, Event::Tick { client });
    }

    pub(super) fn tick(&mut self, client: usize) -> Step {
        self.tick_later(client);
        let clients = &mut self.clients;
        clients.workload.time(self.now);
        match clients.workload.begin(client, self.phase, &mut clients.rng) {
            Some(operation) => self.attempt(client, operation),
            None => Ok(()),
        }
    }

    /// Asks a node: mostly the one that the client knows.
    pub(super) fn attempt(&mut self, client: usize, operation: Operation) -> Step {
        if self.clients.rng.chance(0.2) {
            self.clients.nodes[client] = self.any_door();
        }
        let clients = &mut self.clients;
        let node = clients.nodes[client];
        let request = clients.next_request;
        clients.next_request += 1;
        clients.workload.time(self.now);
        let what = clients.workload.request(operation);
        let is_fresh = matches!(what, Request::Query(_, Consistency::Linearizable)) && !self.history_only;
        let since = is_fresh.then(|| self.ghost.committed());
        clients.attempts.insert(request, Attempt { client, operation, node, since });
        self.trace.line(self.now, || format!("client {client} asks n{node}: request {request}, {operation:?}"));
        let patience = clients.patience;
        let delay = exponential(&mut clients.rng, Duration::from_micros(500));
        self.schedule(delay, Event::Arrive { request, what });
        self.schedule(patience, Event::Timeout { request });
        Ok(())
    }

    /// A request reaches its node, or a closed door.
    pub(super) fn arrive(&mut self, request: u64, what: Request) -> Step {
        let Some(attempt) = self.clients.attempts.get(&request) else { return Ok(()) };
        let node = attempt.node;
        let Some(running) = &mut self.nodes[node].running else {
            self.give_up(request, Failed::Refused);
            return Ok(());
        };
        let request = RequestId(request);
        running.waiting.insert(request);
        if matches!(what, Request::Query(_, Consistency::Linearizable)) {
            running.queries.insert(request);
        }
        let input = match what {
            Request::Command(command) => Input::Propose { request, command },
            Request::Query(query, _) if self.bug == Some(Bug::StaleRead) => {
                Input::Query { request, query, consistency: Consistency::Stale }
            }
            Request::Query(query, consistency) => Input::Query { request, query, consistency },
        };
        self.input(node, input);
        Ok(())
    }

    /// C21: a node answers each request once.
    pub(super) fn reply(&mut self, node: usize, request: RequestId, result: Result<Reply, RequestError>) -> Step {
        let Some(running) = &mut self.nodes[node].running else { return Ok(()) };
        if !running.waiting.remove(&request) && !running.cancelled.remove(&request) {
            let what = format!("n{node} answers request {}, which does not wait: {result:?}", request.0);
            return Err(Violation::new(Invariant::Liveness, what));
        }
        running.queries.remove(&request);
        let is_leader = running.replica.raft().is_leader();
        self.trace.line(self.now, || format!("n{node} answers request {}: {result:?}", request.0));
        if Operator::has_asked(request) {
            self.operator_answered(node, request, &result)?;
        } else {
            self.answer(request.0, result)?;
        }
        if self.nodes[node].is_doomed_after_reply {
            self.nodes[node].is_doomed_after_reply = false;
            return if is_leader { self.crash(node) } else { Ok(()) };
        }
        Ok(())
    }

    fn answer(&mut self, request: u64, result: Result<Reply, RequestError>) -> Step {
        // An answer that gets lost is one that the client did not wait for.
        let is_lost = self.phase == Phase::Faults && self.clients.rng.chance(self.faults.network.drop);
        if is_lost || !self.clients.attempts.contains_key(&request) {
            return Ok(());
        }
        let reply = match result {
            Ok(reply) => reply,
            Err(error) => {
                let is_unknown = error == RequestError::Unknown;
                self.report.unknown += u64::from(is_unknown);
                self.give_up(request, if is_unknown { Failed::Unknown } else { Failed::Refused });
                return Ok(());
            }
        };
        let Some(attempt) = self.clients.attempts.get(&request) else { return Ok(()) };
        if let Some(since) = attempt.since.filter(|since| *since > reply.index) {
            let what = format!("a read at {}, when {since} was committed before it began", reply.index);
            return Err(Violation::new(Invariant::ReadFreshness, what));
        }
        self.clients.workload.time(self.now);
        match self.clients.workload.answered(attempt.operation, &reply)? {
            Progress::Retry => self.give_up(request, Failed::Answered),
            Progress::Done { is_command, is_repeated } => {
                self.clients.attempts.remove(&request);
                self.report.acknowledged += u64::from(is_command);
                self.report.answered += u64::from(!is_command);
                self.report.answered_from_session += u64::from(is_repeated);
            }
        }
        Ok(())
    }

    /// An attempt has failed: another one follows, elsewhere if the node is to blame, unless the client leaves it at that.
    fn give_up(&mut self, request: u64, failed: Failed) {
        let clients = &mut self.clients;
        let Some(Attempt { client, operation, .. }) = clients.attempts.remove(&request) else { return };
        if failed == Failed::Unknown && clients.workload.ends_unknown(operation) {
            self.report.left_open += 1;
            return;
        }
        if failed != Failed::Answered {
            self.clients.nodes[client] = self.any_door();
        }
        let backoff = self.clients.rng.duration(Duration::from_millis(1), Duration::from_millis(200));
        self.schedule(backoff, Event::Again { client, operation });
    }

    /// Where a client tries its luck: at a member, as far as it knows, and while things go wrong also elsewhere.
    fn any_door(&mut self) -> usize {
        let members = self.members();
        let rng = &mut self.clients.rng;
        if members.is_empty() || (self.phase == Phase::Faults && rng.chance(0.1)) {
            return rng.below(self.nodes.len() as u64) as usize;
        }
        members[rng.below(members.len() as u64) as usize]
    }

    pub(super) fn time_out(&mut self, request: u64) -> Step {
        let Some(attempt) = self.clients.attempts.get(&request) else { return Ok(()) };
        let node = attempt.node;
        self.trace.line(self.now, || format!("request {request} to n{node} has waited too long"));
        self.report.unknown += 1;
        if self.clients.rng.chance(0.5) {
            self.input(node, Input::Cancel { request: RequestId(request) });
        }
        self.give_up(request, Failed::Unknown);
        Ok(())
    }

    /// The clients of a node that crashed: half of them notice.
    pub(super) fn disconnect(&mut self, node: usize) {
        let clients = &self.clients.attempts;
        let cut: Vec<u64> =
            clients.iter().filter(|(_, attempt)| attempt.node == node).map(|(request, _)| *request).collect();
        for request in cut {
            if self.clients.rng.chance(0.5) {
                self.report.unknown += 1;
                self.give_up(request, Failed::Unknown);
            }
        }
    }
}
