//! Workloads put together from parts.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use coracle_sim::{FaultMix, Invariant, Options, SimpleWorkload, run_with};
use coracle_storage::{InMemory, Machine};

#[path = "../examples/own_state_machine.rs"]
mod own_state_machine;

#[test]
fn the_example_runs() {
    own_state_machine::main();
}

/// Answers each command with how many it has executed, and executes none that is empty.
struct Forgetful(u64);

impl Machine for Forgetful {
    fn apply(&mut self, command: &[u8]) -> Bytes {
        self.0 += u64::from(!command.is_empty());
        self.save()
    }

    fn query(&self, _query: &[u8]) -> Bytes {
        self.save()
    }

    fn save(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_le_bytes())
    }

    fn load(&mut self, state: &[u8]) -> Result<(), String> {
        self.0 = state.try_into().map(u64::from_le_bytes).map_err(|_| "expected eight bytes".to_owned())?;
        Ok(())
    }
}

#[test]
fn a_check_that_objects_fails_the_run() {
    let judged = Arc::new(AtomicU64::new(0));
    let options = Options { faults: FaultMix::Crashes, ..Options::default() };
    let workload = || {
        let judged = judged.clone();
        SimpleWorkload::new(|_| InMemory::new(Forgetful(0)))
            .commands(|rng| if rng.chance(0.3) { Bytes::new() } else { "x".into() })
            .check(move |answers| {
                judged.fetch_add(1, Ordering::Relaxed);
                let mut commands: Vec<_> = answers.iter().filter(|answer| answer.is_command).collect();
                commands.sort_by_key(|answer| answer.index);
                let is_rising = commands.windows(2).all(|pair| pair[0].reply < pair[1].reply);
                if is_rising { Ok(()) } else { Err("a command was not executed".into()) }
            })
    };
    let failure = run_with(1, &options, &|_| Box::new(workload())).unwrap_err();
    assert_eq!(failure.violation.invariant, Invariant::Linearizability);
    // Once, and once again for the lines that show it.
    assert_eq!(judged.load(Ordering::Relaxed), 2);
}
