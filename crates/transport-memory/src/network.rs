//! Who listens where, and which ways are cut.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use coracle_transport::{Address, Host, TransportError};

use crate::transport::{MemoryTransport, Shared};

/// A network inside this process; clones are the same network.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    state: Arc<Mutex<State>>,
    /// Raised by every change of who listens and of what is cut, after it: a way found at this number is still there.
    changes: Arc<AtomicU64>,
}

#[derive(Default)]
struct State {
    endpoints: HashMap<u64, Endpoint>,
    /// Raised for each endpoint: another one at the same address is another process.
    generation: u64,
    /// Addresses between which nothing passes, the smaller one first.
    cut: HashSet<(u64, u64)>,
    isolated: HashSet<u64>,
}

/// Who listens at an address.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) generation: u64,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) shared: Weak<Shared>,
}

impl MemoryNetwork {
    /// A network with nobody in it.
    pub fn new() -> MemoryNetwork {
        MemoryNetwork::default()
    }

    /// A way into it.
    pub fn transport(&self) -> MemoryTransport {
        MemoryTransport::new(self.clone())
    }

    /// Cuts the way between `/memory/a` and `/memory/b`, in both directions, and ends their connections.
    pub fn disconnect(&self, a: u64, b: u64) {
        self.change(|state| state.cut.insert((a.min(b), a.max(b))));
        self.drop_broken();
    }

    /// Mends what [`MemoryNetwork::disconnect`] cut.
    pub fn reconnect(&self, a: u64, b: u64) {
        self.change(|state| state.cut.remove(&(a.min(b), a.max(b))));
    }

    /// Cuts all ways to and from `/memory/id`, and ends its connections.
    pub fn isolate(&self, id: u64) {
        self.change(|state| state.isolated.insert(id));
        self.drop_broken();
    }

    /// Mends what [`MemoryNetwork::isolate`] cut.
    pub fn rejoin(&self, id: u64) {
        self.change(|state| state.isolated.remove(&id));
    }

    /// Mends every cut and ends every isolation.
    pub fn heal(&self) {
        self.change(|state| {
            state.cut.clear();
            state.isolated.clear();
        });
    }

    /// Takes the address `id`, or the smallest free one for 0.
    pub(crate) fn bind(&self, id: u64, host: Arc<dyn Host>, shared: &Arc<Shared>) -> Result<u64, TransportError> {
        let mut state = self.state();
        let id = if id == 0 { (1..).find(|id| !state.endpoints.contains_key(id)).unwrap_or(u64::MAX) } else { id };
        if state.endpoints.contains_key(&id) {
            let source = std::io::Error::from(std::io::ErrorKind::AddrInUse);
            return Err(TransportError::Listen { address: Address::memory(id).to_string(), source });
        }
        state.generation += 1;
        let endpoint = Endpoint { generation: state.generation, host, shared: Arc::downgrade(shared) };
        state.endpoints.insert(id, endpoint);
        drop(state);
        self.change(|_| {});
        Ok(id)
    }

    /// Gives the address up; connections to it end.
    pub(crate) fn unbind(&self, id: u64) {
        let removed = self.change(|state| state.endpoints.remove(&id));
        if removed.is_some() {
            self.drop_broken();
        }
    }

    /// The number of changes so far: what [`reach`](MemoryNetwork::reach) says after this was read holds as long as this is the same.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state());
        self.changes.fetch_add(1, Ordering::AcqRel);
        changed
    }

    /// Who listens at `to`, when the way from `from` is not cut. Without an address of its own a transport can only ask, and only isolation of `to` matters.
    pub(crate) fn reach(&self, from: Option<u64>, to: u64) -> Option<Endpoint> {
        let state = self.state();
        let is_cut = |from: u64| state.isolated.contains(&from) || state.cut.contains(&(from.min(to), from.max(to)));
        if state.isolated.contains(&to) || from.is_some_and(is_cut) {
            return None;
        }
        state.endpoints.get(&to).cloned()
    }

    /// Tells every transport to look which of its connections are left; no lock is held while hosts are told.
    fn drop_broken(&self) {
        let all: Vec<Arc<Shared>> =
            self.state().endpoints.values().filter_map(|endpoint| endpoint.shared.upgrade()).collect();
        for shared in all {
            shared.drop_broken();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
