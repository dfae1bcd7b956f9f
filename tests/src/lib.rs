//! Coracle's tests across crates, on real sockets, disks and processes
