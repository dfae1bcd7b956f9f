//! The rows of the table: what is asked for, by how many clients, and what Coracle aims at.

use super::load::Work;

/// What Coracle is to reach in a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Aim {
    /// A median latency of at most so many times the floor.
    Floor(f64),
    /// At least so many times etcd's operations per second of the servers' CPU time.
    Etcd(f64),
}

/// A row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// As `--only` takes it.
    pub(crate) name: &'static str,
    /// As the table shows it.
    pub(crate) title: &'static str,
    pub(crate) work: Work,
    pub(crate) clients: usize,
    pub(crate) aim: Aim,
}

/// All of them, in the order of the table.
pub(crate) const ROWS: [Row; 6] = [
    Row { name: "put-1", title: "put, 1 client", work: Work::Put, clients: 1, aim: Aim::Floor(1.5) },
    Row { name: "put-64", title: "put, 64", work: Work::Put, clients: 64, aim: Aim::Etcd(4.0) },
    Row { name: "put-512", title: "put, 512", work: Work::Put, clients: 512, aim: Aim::Etcd(4.0) },
    Row {
        name: "put-stream",
        title: "put, 4 streams, 256 in flight on each",
        work: Work::StreamPut,
        clients: 1024,
        aim: Aim::Etcd(10.0),
    },
    Row { name: "get-64", title: "linearizable get, 64", work: Work::Get, clients: 64, aim: Aim::Etcd(5.0) },
    Row { name: "stale-64", title: "stale get, 64", work: Work::StaleGet, clients: 64, aim: Aim::Etcd(5.0) },
];

/// The names of all rows, as an error shows them.
pub(crate) fn names() -> String {
    ROWS.map(|row| row.name).join(", ")
}
