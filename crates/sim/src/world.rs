//! A group of replicas on virtual time: what happens, and in which order.

mod clients;
mod effects;
mod ending;
mod lease;
mod limits;
mod nemesis;
mod node;
mod operator;

use std::time::Duration;

use coracle_core::{Membership, Message, NodeId, Recovered, Rng, Time};
use coracle_replica::Completion;

use self::{clients::Clients, node::Node, operator::Operator};
use crate::{
    Bug, Invariant, Operation, Phase, Plan, Report, Request, Violation, Workload, check::Ghost, coverage::Milestone,
    faults::Faults, network::Network, queue::Queue, schedule::Fault, trace::Trace,
};

type Step = Result<(), Violation>;

/// Everything that a run consists of.
pub(crate) struct World {
    now: Time,
    queue: Queue<Event>,
    nodes: Vec<Node>,
    network: Network,
    clients: Clients,
    operator: Operator,
    ghost: Ghost,
    rounds: lease::Rounds,
    faults: Faults,
    /// What nodes and disks do; the network and the clients have numbers of their own, so that a change to one leaves the others' as they are.
    rng: Rng,
    phase: Phase,
    /// The next node that installs a snapshot crashes meanwhile.
    dooms_install: bool,
    /// When faults stopped.
    healed: Option<Time>,
    /// Until when the group has to have converged, once faults have stopped.
    deadline: Time,
    shape: Shape,
    bug: Option<Bug>,
    /// Nothing but the history judges answers.
    history_only: bool,
    report: Report,
    trace: Trace,
}

/// The configuration that all nodes of a run share, drawn from its seed.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) election_timeout_max: Duration,
    pub(crate) heartbeat_interval: Duration,
    /// How long a node gathers inputs before it looks at them.
    pub(crate) loop_delay: Duration,
    pub(crate) log_entries_max: u64,
    pub(crate) log_entries_kept: u64,
    pub(crate) snapshot_chunk_bytes: usize,
    pub(crate) append_bytes_max: usize,
    pub(crate) inflight_messages_max: usize,
    pub(crate) inflight_bytes_max: usize,
    pub(crate) uncommitted_bytes_max: usize,
    pub(crate) unapplied_bytes_max: usize,
    pub(crate) apply_bytes_max: usize,
    pub(crate) reads_max: usize,
    pub(crate) requests_max: usize,
    pub(crate) tail_bytes_max: usize,
    pub(crate) forward_timeout: Duration,
    pub(crate) promotion_timeout: Duration,
    /// By how many percent clocks may drift apart, where reads go by leases.
    pub(crate) lease_drift_percent: Option<u32>,
    /// How long a step of a state machine takes, on average.
    pub(crate) state_latency: Duration,
}

/// What happens at some time.
#[derive(Debug)]
enum Event {
    /// A node looks at its inputs.
    Run { node: usize },
    /// A message arrives.
    Deliver { from: usize, to: usize, sent: Time, message: Box<Message> },
    /// A worker of a node is done; void in another life.
    Done { node: usize, life: u32, what: Done },
    /// A client may begin something.
    Tick { client: usize },
    /// A client's request reaches a node.
    Arrive { request: u64, what: Request },
    /// A client has waited long enough.
    Timeout { request: u64 },
    /// A client tries again.
    Again { client: usize, operation: Operation },
    /// A fault is due.
    Fault(Fault),
    /// A node loses its power, in this life of it.
    Crash { node: usize, life: u32 },
    /// Partitions end.
    Join,
    /// A machine that lost its disk stops using the name of the node that it was.
    Unmask { node: usize },
    /// A disk has space again.
    DiskFreed { node: usize },
    /// A node starts again.
    Restart { node: usize, life: u32 },
    /// Faults stop.
    Heal,
    /// Has the group converged?
    Converged,
}

/// What a worker has done.
#[derive(Debug)]
enum Done {
    /// The log's worker wrote, and now it is durable.
    Log(Completion),
    /// The log's worker found no space, and tries again.
    LogAgain,
    /// The state machine's worker; `None` when its completion comes later.
    State(Option<Completion>),
    /// The next piece of a snapshot of the node's own state is due.
    SnapshotPiece,
    /// A read of the log is due.
    ReadLog { request: u64, from: coracle_core::Index, to: coracle_core::Index, bytes_max: usize },
    /// Work for the snapshots' worker is due.
    Snapshot(effects::SnapshotWork),
    /// The log's worker wrote and said so before: now it is durable.
    LateSync,
}

impl World {
    /// A founded group that has not started, its clients and its faults.
    pub(crate) fn new(plan: &Plan, workload: Box<dyn Workload>, trace: Trace) -> World {
        let (count, all) = (plan.members, plan.nodes());
        let founders = Membership::of_voters((1..=count as u64).map(NodeId));
        let founded = Recovered::founded(founders.clone());
        let joining = Recovered::joining(founders.cluster);
        let node = |slot| Node::new(slot, if slot < count { &founded } else { &joining });
        World {
            now: Time::ZERO,
            queue: Queue::new(),
            nodes: (0..all).map(node).collect(),
            network: Network::new(all, plan.faults.network.clone(), plan.stream("network")),
            clients: Clients::new(workload, plan.stream("clients")),
            operator: Operator::new(all),
            ghost: Ghost::new(founders),
            rounds: lease::Rounds::default(),
            faults: plan.faults.clone(),
            rng: plan.stream("world"),
            phase: Phase::Faults,
            dooms_install: false,
            healed: None,
            deadline: Time(u64::MAX),
            shape: plan.shape.clone(),
            bug: plan.options.bug,
            history_only: plan.options.history_only,
            report: Report { seeds: 1, ..Report::default() },
            trace,
        }
    }

    /// Runs to the end.
    pub(crate) fn run(mut self, plan: &Plan) -> Result<Report, (Violation, Time)> {
        let result = self.run_to_the_end(plan);
        match result {
            Ok(()) => Ok(self.reported()),
            Err(violation) => {
                self.trace.line(self.now, || format!("VIOLATION {violation}"));
                Err((violation, self.now))
            }
        }
    }

    fn run_to_the_end(&mut self, plan: &Plan) -> Step {
        let options = &plan.options;
        self.trace.line(self.now, || format!("{} nodes, {:?}, {:?}", self.nodes.len(), self.shape, self.faults));
        for node in 0..self.nodes.len() {
            self.start(node)?;
        }
        self.begin_clients();
        for fault in &plan.schedule {
            self.queue.push(fault.at, Event::Fault(*fault));
        }
        self.queue.push(Time::ZERO.plus(options.duration), Event::Heal);
        while let Some((at, event)) = self.queue.pop() {
            debug_assert!(at >= self.now, "time does not fall");
            self.now = at;
            self.report.events += 1;
            if self.report.events > options.events_max {
                let what = format!("the run has more than events_max = {} events", options.events_max);
                return Err(Violation::new(Invariant::Liveness, what));
            }
            self.hash(event.digest());
            if matches!(event, Event::Converged) && self.converged()? {
                return Ok(());
            }
            self.happen(event)?;
        }
        Err(Violation::new(Invariant::Liveness, "nothing is left to happen"))
    }

    fn happen(&mut self, event: Event) -> Step {
        match event {
            Event::Run { node } => self.run_node(node),
            Event::Deliver { from, to, sent, message } => self.deliver((from, to), sent, *message),
            Event::Done { node, life, what } => self.done(node, life, what),
            Event::Tick { client } => self.tick(client),
            Event::Arrive { request, what } => self.arrive(request, what),
            Event::Timeout { request } => self.time_out(request),
            Event::Again { client, operation } => self.attempt(client, operation),
            Event::Fault(fault) => self.strike(fault),
            Event::Restart { node, life } => self.restart(node, life),
            Event::Crash { node, life } => self.crash_in_install(node, life),
            Event::Join => {
                self.join();
                Ok(())
            }
            Event::Unmask { node } => self.unmask(node),
            Event::DiskFreed { node } => {
                self.nodes[node].disk.switch.set_full(false);
                Ok(())
            }
            Event::Heal => self.heal(),
            Event::Converged => Ok(()),
        }
    }

    /// Mixes a number into the run's hash.
    fn hash(&mut self, number: u64) {
        let mixed = self.report.hash ^ number ^ self.now.0;
        self.report.hash = mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }

    /// The run has come to a place to which runs have to come.
    fn passes(&mut self, milestone: Milestone) {
        self.report.milestones.count(milestone.name());
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.queue.push(self.now.plus(after), event);
    }

    fn reported(mut self) -> Report {
        self.report.virtual_time = self.now.since(Time::ZERO);
        self.report.dropped = self.network.dropped;
        self.report.duplicated = self.network.duplicated;
        self.report.committed = self.ghost.committed().0;
        self.report.leader_changes = (self.ghost.terms_led() as u64).saturating_sub(1);
        for _ in 0..self.ghost.split_votes() {
            self.passes(Milestone::SplitVote);
        }
        let committed = self.report.committed;
        self.hash(committed);
        self.report
    }
}

impl Event {
    fn digest(&self) -> u64 {
        let (kind, detail) = match self {
            Event::Run { node } => (1, *node as u64),
            Event::Deliver { from, to, message, .. } => (2, (*from * 16 + *to) as u64 ^ message.term.0 << 16),
            Event::Done { node, life, .. } => (3, *node as u64 ^ u64::from(*life) << 16),
            Event::Tick { client } => (4, *client as u64),
            Event::Arrive { request, .. } => (5, *request),
            Event::Timeout { request } => (6, *request),
            Event::Again { operation, .. } => (7, operation.0),
            Event::Fault(fault) => (8, fault.seed),
            Event::Restart { node, .. } => (9, *node as u64),
            Event::Heal => (10, 0),
            Event::Converged => (11, 0),
            Event::Join => (12, 0),
            Event::DiskFreed { node } => (13, *node as u64),
            Event::Unmask { node } => (14, *node as u64),
            Event::Crash { node, .. } => (15, *node as u64),
        };
        detail << 8 ^ kind
    }
}

impl Shape {
    pub(crate) fn draw(rng: &mut Rng) -> Shape {
        let bytes = |rng: &mut Rng| if rng.chance(0.5) { 1 << 20 } else { 1 + rng.below(2000) as usize };
        let count = |rng: &mut Rng, many| if rng.chance(0.5) { many } else { 1 + rng.below(8) as usize };
        let range = if rng.chance(0.5) { 60 } else { 1000 };
        let log_entries_max = 5 + rng.below(range);
        Shape {
            election_timeout_max: Duration::from_millis(1000),
            heartbeat_interval: Duration::from_millis(100),
            loop_delay: rng.duration(Duration::ZERO, Duration::from_micros(500)),
            log_entries_max,
            log_entries_kept: rng.below(log_entries_max),
            snapshot_chunk_bytes: if rng.chance(0.5) { 64 + rng.below(4000) as usize } else { 1 << 20 },
            append_bytes_max: bytes(rng),
            inflight_messages_max: count(rng, 64),
            inflight_bytes_max: bytes(rng),
            uncommitted_bytes_max: bytes(rng),
            unapplied_bytes_max: bytes(rng),
            apply_bytes_max: bytes(rng),
            reads_max: count(rng, 1 << 16),
            requests_max: count(rng, 1 << 16),
            tail_bytes_max: bytes(rng),
            forward_timeout: rng.duration(Duration::from_millis(500), Duration::from_secs(5)),
            promotion_timeout: rng.duration(Duration::from_secs(1), Duration::from_secs(8)),
            lease_drift_percent: rng.chance(0.5).then(|| 5 + rng.below(40) as u32),
            state_latency: if rng.chance(0.5) {
                Duration::ZERO
            } else {
                rng.duration(Duration::ZERO, Duration::from_millis(20))
            },
        }
    }
}
