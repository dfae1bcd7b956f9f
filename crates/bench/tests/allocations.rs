//! A guard that needs no clock: what the core allocates and sends per entry.
//!
//! A bound is a little above what is measured; raise one only with the reason in the commit, lower it when the core gets better.

use coracle_bench::{
    counting::Counting,
    measure::{self, Counted},
    ours::Ours,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn counted(in_flight: usize) -> Counted {
    let mut trio = Ours::new();
    measure::warm_up(&mut trio, in_flight);
    measure::count(&mut trio, in_flight, 20_000)
}

fn within(counted: Counted, bound: Counted) {
    assert!(counted.allocations > 0.0, "something is counted");
    let is_within =
        counted.allocations <= bound.allocations && counted.bytes <= bound.bytes && counted.messages <= bound.messages;
    assert!(is_within, "per entry {counted:?}, expected at most {bound:?}");
}

// One test: counting is the whole process's, and tests run at the same time.
#[test]
fn an_entry_costs_few_allocations_and_messages() {
    let one = counted(1);
    let many = counted(256);
    // Of the two, one is the proposal's own, one the shared entries: a list of one run takes no memory of its own.
    within(one, Counted { allocations: 2.5, bytes: 520.0, messages: 6.0 });
    // The same for a batch: nothing is allocated per entry.
    within(many, Counted { allocations: 0.02, bytes: 80.0, messages: 6.0 / 256.0 });
}
