//! The examples do what they say.
#![cfg(feature = "memory")]

#[path = "../examples/embedded.rs"]
mod embedded;
#[path = "../examples/state_machine.rs"]
mod state_machine;

#[test]
fn the_embedded_example_runs() {
    embedded::main().unwrap();
}

#[test]
fn the_state_machine_example_runs() {
    state_machine::main().unwrap();
}
