//! A guard that needs no clock: what three whole nodes allocate per operation, clients included.
//!
//! A bound is a little above what is measured; raise one only with the reason in the commit, lower it when the nodes get better.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use coracle_bench::{counting::Counting, process};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// One test: counting is the whole process's, and tests run at the same time.
#[test]
fn an_operation_costs_few_allocations_in_a_whole_process() {
    for (clients, allocations_max, bytes_max) in [(1, 9.0, 3000.0), (64, 1.6, 600.0)] {
        let counted = process::counted(clients, 5_000).unwrap();
        assert!(counted.allocations > 0.0, "something is counted");
        let is_within = counted.allocations <= allocations_max && counted.bytes <= bytes_max;
        assert!(
            is_within,
            "{clients} clients: per operation {counted:?}, expected at most {allocations_max} and {bytes_max} bytes"
        );
    }
}
