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

// One test: counting is the whole process's, and tests run at the same time.
#[test]
fn an_entry_costs_few_allocations_and_messages() {
    let one = counted(1);
    let many = counted(256);
    println!("1 in flight: {one:?}\n256 in flight: {many:?}");
    assert!(one.messages <= 6.01, "{one:?}");
    assert!(one.allocations > 0.0, "something is counted");
}
