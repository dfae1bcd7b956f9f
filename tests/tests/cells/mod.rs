//! The cells of the matrix, and what is done to each alike.

pub(crate) mod processes;
pub(crate) mod within;

use std::{
    path::Path,
    sync::{Condvar, Mutex, PoisonError},
};

use coracle::level::Level;
use coracle_tests::{redis::Redis, state::State};

/// How many cells run at the same time: each has three nodes and perhaps three servers.
const CELLS_AT_ONCE: usize = 3;

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// Held by a cell while it runs.
pub(crate) struct Turn;

/// Waits until few cells run.
pub(crate) fn turn() -> Turn {
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let is_full = |running: &mut usize| *running >= CELLS_AT_ONCE;
    *ENDED.wait_while(running, is_full).unwrap_or_else(PoisonError::into_inner) += 1;
    Turn
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    TcpOverTls,
    Grpc,
    GrpcOverTls,
    Unix,
    Memory,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    Memory,
    Sled,
    File,
    FileAndMemory,
    Redis,
}

#[derive(Clone, Copy)]
pub(crate) struct Cell {
    pub(crate) transport: Transport,
    pub(crate) storage: Storage,
}

impl Cell {
    /// Whether a node that crashed has lost everything, and can come back as a new one only.
    fn forgets(self) -> bool {
        self.storage == Storage::Memory
    }

    /// A server for each node, if they need one.
    fn servers(self) -> Vec<Redis> {
        let count = if self.storage == Storage::Redis { 3 } else { 0 };
        (0..count).map(|_| Redis::start()).collect()
    }

    /// Where a node keeps its data.
    fn storage_url(self, data: &Path, servers: &[Redis], node: usize) -> String {
        let data = data.display();
        match self.storage {
            Storage::Memory => "memory:".to_owned(),
            Storage::Sled => format!("sled:{data}"),
            Storage::File => format!("file:{data}"),
            Storage::FileAndMemory => format!("file:{data}?state=memory"),
            Storage::Redis => servers[node].url("node"),
        }
    }
}

/// Three nodes, and what happens to them.
pub(crate) trait World {
    /// Waits until these nodes follow one of themselves.
    async fn leader_among(&self, nodes: &[usize]) -> usize;
    /// A handle that writes through a node, or through those that answer, and tries for as long as anything is waited for.
    fn level(&self, node: usize) -> Level;
    /// A node ends without a word.
    async fn crash(&mut self, node: usize);
    /// It is started again; as a new member, if it has lost everything.
    async fn come_back(&mut self, node: usize);
    /// Nothing passes between a node and the others.
    fn isolate(&self, node: usize);
    /// Everything passes.
    fn heal(&self, node: usize);
    /// Waits until a node has exactly this state.
    async fn reaches(&self, node: usize, expected: &State);
}
