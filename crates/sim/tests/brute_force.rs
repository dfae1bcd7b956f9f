//! The checker of linearizability against one that tries every order.

use std::collections::{BTreeMap, BTreeSet};

use coracle_core::Rng;
use coracle_sim::linearizability::{
    Call, History, Model, Register, RegisterInput, RegisterOutput, STEPS_MAX, Store, StoreInput, StoreOp, StoreOutput,
    Strings, StringsInput, StringsOp, StringsOutput, check,
};

/// Whether some order of all answered operations, and of any of the others, is legal: by trying each.
fn has_order<M: Model>(model: &M, history: &History<M::Input, M::Output>) -> bool {
    let calls: Vec<_> = history.calls().map(|(_, call)| call).collect();
    extends(model, &calls, &mut BTreeSet::new(), &BTreeMap::new())
}

/// The states of all keys, as far as they have been written.
type States<M> = BTreeMap<<M as Model>::Key, <M as Model>::State>;

fn extends<M: Model>(
    model: &M,
    calls: &[&Call<M::Input, M::Output>],
    ordered: &mut BTreeSet<usize>,
    states: &States<M>,
) -> bool {
    let left: Vec<usize> = (0..calls.len()).filter(|call| !ordered.contains(call)).collect();
    if left.iter().all(|call| calls[*call].answer.is_none()) {
        return true;
    }
    left.iter().any(|next| {
        let call = calls[*next];
        let had_ended = |other: &usize| calls[*other].answer.as_ref().is_some_and(|(at, _)| *at < call.invoked);
        if left.iter().any(had_ended) {
            return false;
        }
        let key = model.key(&call.input);
        let state = states.get(&key).cloned().unwrap_or_else(|| model.initial(&key));
        let output = call.answer.as_ref().map(|(_, output)| output);
        let Some(state) = model.step(&state, &call.input, output) else { return false };
        let mut after = states.clone();
        after.insert(key, state);
        ordered.insert(*next);
        let found = extends(model, calls, ordered, &after);
        ordered.remove(next);
        found
    })
}

/// A model with an object of its own beside it, that histories are made with.
trait Object: Model<Input: Clone, Output: Clone + PartialEq> {
    fn input(rng: &mut Rng) -> Self::Input;
    /// What a real object does, whose integers and strings by key are `state`.
    fn run(state: &mut BTreeMap<String, String>, input: &Self::Input) -> Self::Output;
    /// Another answer to the same question.
    fn other(output: &Self::Output, rng: &mut Rng) -> Self::Output;
}

fn small(rng: &mut Rng) -> i64 {
    rng.below(3) as i64
}

fn key(rng: &mut Rng) -> String {
    ["a", "a", "b"][rng.below(3) as usize].into()
}

impl Object for Register {
    fn input(rng: &mut Rng) -> RegisterInput {
        match rng.below(3) {
            0 => RegisterInput::Read,
            1 => RegisterInput::Write(small(rng)),
            _ => RegisterInput::Cas { from: small(rng), to: small(rng) },
        }
    }

    fn run(state: &mut BTreeMap<String, String>, input: &RegisterInput) -> RegisterOutput {
        let old = state.get("").map(|text| text.parse::<i64>().expect("registers hold integers"));
        let new = match input {
            RegisterInput::Read => return RegisterOutput::Value(old),
            RegisterInput::Cas { from, .. } if old != Some(*from) => return RegisterOutput::Differs,
            RegisterInput::Write(new) | RegisterInput::Cas { to: new, .. } => new,
        };
        state.insert(String::new(), new.to_string());
        RegisterOutput::Done
    }

    fn other(output: &RegisterOutput, rng: &mut Rng) -> RegisterOutput {
        match output {
            RegisterOutput::Value(_) if rng.chance(0.3) => RegisterOutput::Value(None),
            RegisterOutput::Value(_) => RegisterOutput::Value(Some(small(rng))),
            RegisterOutput::Done => RegisterOutput::Differs,
            RegisterOutput::Differs => RegisterOutput::Done,
        }
    }
}

impl Object for Strings {
    fn input(rng: &mut Rng) -> StringsInput {
        let op = match rng.below(4) {
            0 | 1 => StringsOp::Get,
            2 => StringsOp::Put(small(rng).to_string()),
            _ => StringsOp::Append(small(rng).to_string()),
        };
        StringsInput { key: key(rng), op }
    }

    fn run(state: &mut BTreeMap<String, String>, input: &StringsInput) -> StringsOutput {
        let held = state.entry(input.key.clone()).or_default();
        match &input.op {
            StringsOp::Get => return StringsOutput::Value(held.clone()),
            StringsOp::Put(value) => held.clone_from(value),
            StringsOp::Append(value) => held.push_str(value),
        }
        StringsOutput::Done
    }

    fn other(output: &StringsOutput, rng: &mut Rng) -> StringsOutput {
        match output {
            StringsOutput::Value(value) if value.len() > 1 => StringsOutput::Value(value.chars().rev().collect()),
            StringsOutput::Value(_) => StringsOutput::Value(small(rng).to_string()),
            StringsOutput::Done => StringsOutput::Done,
        }
    }
}

impl Object for Store {
    fn input(rng: &mut Rng) -> StoreInput {
        let op = match rng.below(4) {
            0 | 1 => StoreOp::Get,
            2 => StoreOp::Put(["0", "1", "x"][rng.below(3) as usize].into()),
            _ => StoreOp::Increment(1 + small(rng)),
        };
        StoreInput { key: key(rng).into(), op }
    }

    fn run(state: &mut BTreeMap<String, String>, input: &StoreInput) -> StoreOutput {
        let key = String::from_utf8(input.key.to_vec()).expect("keys are texts");
        let held = state.get(&key).cloned();
        match &input.op {
            StoreOp::Get => StoreOutput::Value(held.map(Into::into)),
            StoreOp::Put(value) => {
                state.insert(key, String::from_utf8(value.to_vec()).expect("values are texts"));
                StoreOutput::Done
            }
            StoreOp::Increment(by) => match held.as_deref().unwrap_or("0").parse::<i64>() {
                Ok(old) => {
                    state.insert(key, (old + by).to_string());
                    StoreOutput::Integer(old + by)
                }
                Err(_) => StoreOutput::NotAnInteger,
            },
        }
    }

    fn other(output: &StoreOutput, rng: &mut Rng) -> StoreOutput {
        match output {
            StoreOutput::Value(_) if rng.chance(0.3) => StoreOutput::Value(None),
            StoreOutput::Value(_) => StoreOutput::Value(Some(small(rng).to_string().into())),
            StoreOutput::Done => StoreOutput::Done,
            StoreOutput::Integer(sum) if rng.chance(0.8) => StoreOutput::Integer(sum + 1),
            StoreOutput::Integer(_) => StoreOutput::NotAnInteger,
            StoreOutput::NotAnInteger => StoreOutput::Integer(small(rng)),
        }
    }
}

/// An operation of a made history: it takes effect at `effect`, if at all, between `invoked` and `answered`.
struct Made<M: Object> {
    input: M::Input,
    invoked: u64,
    effect: Option<u64>,
    answered: Option<u64>,
    output: Option<M::Output>,
}

/// Few operations within so little time that many of them overlap and some times are equal.
fn made<M: Object>(rng: &mut Rng) -> Vec<Made<M>> {
    let count = 1 + rng.below(6);
    let mut all: Vec<Made<M>> = (0..count)
        .map(|_| {
            let invoked = rng.below(12);
            let effect = invoked + rng.below(6);
            let is_open = rng.chance(0.25);
            let answered = (!is_open).then(|| effect + rng.below(4));
            let effect = (!is_open || rng.chance(0.5)).then_some(effect);
            Made { input: M::input(rng), invoked, effect, answered, output: None }
        })
        .collect();
    all.sort_by_key(|one| one.effect);
    let mut state = BTreeMap::new();
    for one in all.iter_mut().filter(|one| one.effect.is_some()) {
        let output = M::run(&mut state, &one.input);
        one.output = one.answered.map(|_| output);
    }
    all
}

/// Spoils a time, or several answers; it may be that nobody could tell.
fn spoil<M: Object>(all: &mut [Made<M>], rng: &mut Rng) {
    let one = rng.below(all.len() as u64) as usize;
    match rng.below(4) {
        0 => all[one].answered = all[one].answered.map(|_| all[one].invoked),
        1 => all[one].invoked = all[one].answered.unwrap_or(all[one].invoked),
        _ => {
            let mut other = Rng::new(rng.next_u64());
            for one in all.iter_mut().filter(|_| rng.chance(0.5)) {
                one.output = one.output.as_ref().map(|output| M::other(output, &mut other));
            }
        }
    }
}

fn history<M: Object>(mut all: Vec<Made<M>>, rng: &mut Rng) -> History<M::Input, M::Output> {
    // The order in which operations are written down must not matter.
    all.sort_by_key(|_| rng.next_u64());
    let mut history = History::new();
    for one in all {
        let call = history.invoke(one.invoked, one.input);
        if let Some((at, output)) = one.answered.zip(one.output) {
            history.answer(call, at, output).expect("answers follow on questions");
        }
    }
    history
}

/// Compares the two on `count` histories, half of them spoilt.
fn agree<M: Object>(model: &M, count: u64) {
    let mut rng = Rng::new(7);
    let mut bad = 0;
    for number in 0..count {
        let mut all = made::<M>(&mut rng);
        let is_spoilt = number % 2 == 1;
        if is_spoilt {
            spoil(&mut all, &mut rng);
        }
        let history = history(all, &mut rng);
        let verdict = check(model, &history, STEPS_MAX);
        let expected = has_order(model, &history);
        assert!(expected || is_spoilt, "a made history has no order: {history:?}");
        let found = (verdict.is_linearizable(), verdict.is_not_linearizable());
        assert_eq!(found, (expected, !expected), "{verdict}: {history:?}");
        bad += u64::from(!expected);
    }
    assert!(bad > count / 10, "only {bad} of {count} histories are bad");
}

#[test]
fn registers_are_judged_as_by_trying_every_order() {
    agree(&Register, 10_000);
}

#[test]
fn strings_are_judged_as_by_trying_every_order() {
    agree(&Strings, 10_000);
}

#[test]
fn stores_are_judged_as_by_trying_every_order() {
    agree(&Store, 10_000);
}
