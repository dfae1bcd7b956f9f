//! The interface's files in this crate are those of the workspace.

use std::{fs, path::Path};

#[test]
fn the_copies_of_the_interface_are_equal() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = here.join("../../proto");
    if !workspace.exists() {
        // Outside of the workspace there is nothing to compare with.
        return;
    }
    for file in ["coracle/v1/kv.proto", "coracle/v1/cluster.proto"] {
        let ours = fs::read_to_string(here.join("proto").join(file)).unwrap();
        let theirs = fs::read_to_string(workspace.join(file)).unwrap();
        assert!(ours == theirs, "crates/client/proto/{file} differs from proto/{file}: copy it over");
    }
}
