//! Runs seeds of the simulator, many at a time.

fn main() {}
