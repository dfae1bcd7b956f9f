//! The examples do what they say.
#![cfg(feature = "memory")]

mod embedded {
    include!("../examples/embedded.rs");

    #[test]
    fn the_embedded_example_runs() {
        main().unwrap();
    }
}

mod state_machine {
    include!("../examples/state_machine.rs");

    #[test]
    fn the_state_machine_example_runs() {
        main().unwrap();
    }
}
