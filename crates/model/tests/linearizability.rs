//! Two checkers of linearizability that know nothing of each other agree.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use coracle_core::Rng;
use coracle_sim::linearizability::{CallId, History, Register, RegisterInput, RegisterOutput, STEPS_MAX, check};
use stateright::semantics::{
    ConsistencyTester, LinearizabilityTester,
    register::{Register as Reference, RegisterOp, RegisterRet},
};

const HISTORIES: u64 = 10_000;
const CLIENTS: u64 = 4;
const OPERATIONS_MAX: u64 = 12;

type Tester = LinearizabilityTester<u64, Reference<Option<i64>>>;

/// The same history for both.
struct Both {
    ours: History<RegisterInput, RegisterOutput>,
    theirs: Tester,
    clock: u64,
}

impl Both {
    fn invoke(&mut self, client: u64, input: RegisterInput) -> CallId {
        self.clock += 1;
        let op = match input {
            RegisterInput::Write(value) => RegisterOp::Write(Some(value)),
            _ => RegisterOp::Read,
        };
        self.theirs.on_invoke(client, op).unwrap();
        self.ours.invoke(self.clock, input)
    }

    fn answer(&mut self, client: u64, call: CallId, output: RegisterOutput) {
        self.clock += 1;
        let ret = match output {
            RegisterOutput::Value(value) => RegisterRet::ReadOk(value),
            _ => RegisterRet::WriteOk,
        };
        self.theirs.on_return(client, ret).unwrap();
        self.ours.answer(call, self.clock, output).unwrap();
    }
}

/// What a client waits for.
struct Waiting {
    call: CallId,
    input: RegisterInput,
    /// The answer, once the operation has taken effect.
    output: Option<RegisterOutput>,
}

/// What clients ask a register for that keeps its word, unless `is_spoilt`; some questions get no answer.
fn history(seed: u64, is_spoilt: bool) -> Both {
    let mut rng = Rng::new(seed);
    let mut both = Both { ours: History::new(), theirs: Tester::new(Reference(None)), clock: 0 };
    let mut clients: Vec<Option<Waiting>> = (0..CLIENTS).map(|_| None).collect();
    let mut register = None;
    let mut left = 2 + rng.below(OPERATIONS_MAX - 1);
    while left > 0 || clients.iter().flatten().any(|waiting| waiting.output.is_some()) {
        let client = rng.below(CLIENTS);
        let slot = &mut clients[client as usize];
        match slot.take() {
            None if left > 0 => {
                left -= 1;
                let input =
                    if rng.chance(0.5) { RegisterInput::Read } else { RegisterInput::Write(rng.below(4) as i64) };
                let call = both.invoke(client, input.clone());
                *slot = Some(Waiting { call, input, output: None });
            }
            None => {}
            Some(Waiting { call, output: Some(output), .. }) => {
                let output = match output {
                    RegisterOutput::Value(_) if is_spoilt && rng.chance(0.4) => {
                        RegisterOutput::Value(Some(rng.below(4) as i64))
                    }
                    output => output,
                };
                both.answer(client, call, output);
            }
            // It is never answered, and keeps its client.
            Some(waiting) if left == 0 && rng.chance(0.3) => *slot = Some(waiting),
            Some(Waiting { call, input, .. }) => {
                let output = match input {
                    RegisterInput::Write(value) => {
                        register = Some(value);
                        RegisterOutput::Done
                    }
                    _ => RegisterOutput::Value(register),
                };
                *slot = Some(Waiting { call, input, output: Some(output) });
            }
        }
    }
    both
}

#[test]
fn another_checker_comes_to_the_same_verdicts() {
    let mut refused = 0;
    let mut unanswered = 0;
    for seed in 0..HISTORIES {
        let is_spoilt = seed % 2 == 1;
        let Both { ours, theirs, .. } = history(seed, is_spoilt);
        unanswered += ours.calls().filter(|(_, call)| call.answer.is_none()).count();
        let verdict = check(&Register, &ours, STEPS_MAX);
        let is_linearizable = theirs.is_consistent();
        assert!(is_spoilt || is_linearizable, "seed {seed}: a history of a register that keeps its word: {ours:#?}");
        assert_eq!(verdict.is_linearizable(), is_linearizable, "seed {seed}: {verdict}: {ours:#?}");
        assert_ne!(verdict.is_not_linearizable(), is_linearizable, "seed {seed}: {verdict}: {ours:#?}");
        refused += usize::from(!is_linearizable);
    }
    assert!(refused > 1_000, "only {refused} of {HISTORIES} are not linearizable");
    assert!(unanswered > 1_000, "only {unanswered} operations have no answer");
}
