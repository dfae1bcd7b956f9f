//! What the canonical form is worth: states that meet go on alike, and they do meet.

use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
};

use coracle_model::{Action, Limits, Scope, Settings, World, check};
use stateright::Model;

fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// The worlds that may follow, by their forms.
fn next(settings: &Settings, world: &World) -> Vec<(u64, Action, World)> {
    let mut actions = Vec::new();
    settings.actions(world, &mut actions);
    let of = |action| settings.next_state(world, action).map(|next| (fingerprint(&next), action, next));
    let mut all: Vec<_> = actions.into_iter().filter_map(of).collect();
    all.sort_by_key(|(form, ..)| *form);
    all
}

/// Goes through a part of a scope, and wherever a state is met again, by whatever path, compares what may follow. Returns how often that was.
fn meetings(scope: Scope, states_max: usize) -> usize {
    let settings = Settings::from(scope);
    let mut seen: HashMap<u64, Vec<u64>> = HashMap::new();
    let mut open: VecDeque<(u64, World)> =
        settings.init_states().into_iter().map(|world| (fingerprint(&world), world)).collect();
    let mut meetings = 0;
    while let Some((form, world)) = open.pop_front()
        && seen.len() < states_max
    {
        let following = next(&settings, &world);
        let forms: Vec<u64> = following.iter().map(|(form, ..)| *form).collect();
        if let Some(known) = seen.get(&form) {
            meetings += 1;
            assert_eq!(*known, forms, "{}: equal states go on differently: {world:#?}", settings.scope.name);
            continue;
        }
        seen.insert(form, forms);
        open.extend(following.into_iter().map(|(form, _, world)| (form, world)));
    }
    meetings
}

#[test]
fn c25_states_that_meet_go_on_alike() {
    for scope in Scope::all() {
        let name = scope.name;
        let meetings = meetings(scope, 2_000);
        assert!(meetings > 100, "{name}: only {meetings} states were met again");
    }
}

#[test]
fn c25_states_meet_that_differ_in_nothing_that_counts() {
    let count = |is_naive| {
        let scope = Scope { depth_max: Some(20), ..Scope::membership() };
        check(Settings { is_naive, ..scope.into() }, &Limits { threads: 1, ..Limits::default() }, |_| {}).states
    };
    let (naive, canonical) = (count(true), count(false));
    assert!(canonical * 2 < naive, "{naive} states that differ in anything, {canonical} that differ in what counts");
}
