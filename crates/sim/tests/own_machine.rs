//! A state machine of one's own in the simulator: one that lives in memory, so that snapshots are all that survives of its state.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use coracle_core::Rng;
use coracle_replica::{Consistency, Reply};
use coracle_sim::{
    FaultMix, Invariant, Nodes, Operation, Options, Phase, Progress, Report, Request, Violation, Workload, run_with,
};
use coracle_storage::{InMemory, KvStore, Machine, StateMachine};

/// A set of numbers; the command is the number, the reply is how many there are.
#[derive(Default)]
struct Numbers(BTreeSet<u64>);

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(u64::MAX, u64::from_le_bytes)
}

fn bytes(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

impl Machine for Numbers {
    fn apply(&mut self, command: &[u8]) -> Bytes {
        self.0.insert(number(command));
        bytes(self.0.len() as u64)
    }

    fn query(&self, query: &[u8]) -> Bytes {
        bytes(u64::from(self.0.contains(&number(query))))
    }

    fn save(&self) -> Bytes {
        self.0.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), String> {
        self.0 = state.chunks(8).map(number).collect();
        Ok(())
    }
}

/// One client that adds a number and then asks whether it is there, again and again.
#[derive(Default)]
struct Adding {
    next: u64,
    waits: bool,
    verified: bool,
}

impl Workload for Adding {
    fn open(&self, _kv: Arc<dyn KvStore>) -> coracle_storage::Result<Box<dyn StateMachine>> {
        Ok(Box::new(InMemory::new(Numbers::default())))
    }

    fn clients(&self) -> usize {
        1
    }

    fn begin(&mut self, _client: usize, phase: Phase, _rng: &mut Rng) -> Option<Operation> {
        let is_over = phase == Phase::Drain || (phase == Phase::Verify && self.verified);
        if self.waits || is_over {
            return None;
        }
        self.verified = phase == Phase::Verify && self.next % 2 == 1;
        self.waits = true;
        Some(Operation(self.next))
    }

    fn request(&mut self, operation: Operation) -> Request {
        let Operation(number) = operation;
        if number.is_multiple_of(2) {
            Request::Command(bytes(number / 2))
        } else {
            Request::Query(bytes(number / 2), Consistency::Linearizable)
        }
    }

    fn answered(&mut self, operation: Operation, reply: &Reply) -> Result<Progress, Violation> {
        let is_command = operation.0.is_multiple_of(2);
        let expected = if is_command { operation.0 / 2 + 1 } else { 1 };
        if number(&reply.data) != expected {
            let what = format!("{operation:?} is answered by {}, expected {expected}", number(&reply.data));
            return Err(Violation::new(Invariant::ReadFreshness, what));
        }
        self.waits = false;
        self.next += 1;
        Ok(Progress::Done { is_command, is_repeated: false })
    }

    fn is_idle(&self, phase: Phase) -> bool {
        !self.waits && (phase != Phase::Verify || self.verified)
    }

    fn finish(&self) -> Result<(), Violation> {
        Ok(())
    }
}

#[test]
fn a_machine_in_memory_keeps_what_it_acknowledged() {
    let options = Options {
        nodes: Nodes::Mixed,
        faults: FaultMix::Swarm,
        duration: Duration::from_secs(30),
        ..Options::default()
    };
    let mut sum = Report::default();
    for seed in 0..30 {
        match run_with(seed, &options, &|_| Box::new(Adding::default())) {
            Ok(report) => sum.add(&report),
            Err(failure) => panic!("{failure}"),
        }
    }
    assert!(sum.snapshots_taken > 0 && sum.snapshots_installed > 0 && sum.acknowledged > 500, "{sum}");
}
