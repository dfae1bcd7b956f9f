//! Several groups in one process.

use std::{fmt, sync::Arc};

use coracle_core::{GroupId, NodeId};
use coracle_storage::{StateMachine, Store};
use coracle_transport::{Address, Transport};
use tracing::Instrument;

use crate::{
    GroupOptions, Node, ProcessOptions, StartError,
    inbox::Life,
    process::Process,
    start::{self, Owner},
};

/// Several groups in one process, over one store and one transport.
///
/// They share the process's identity, its connections, and a few threads: whatever the logs of all groups have to write while a write is under way is the next one, with one sync for all.
/// Everything else each group has for itself: its members, its founding, its leader, its state machine, and its end.
///
/// Cheap to clone. When all clones are dropped, the groups that run go on; the transport is closed after the last.
#[derive(Clone)]
pub struct Groups {
    process: Arc<Process>,
}

impl Groups {
    /// Gives a new store its identity, and listens; no group is hosted yet.
    /// Must be called within a tokio runtime with time enabled.
    ///
    /// # Errors
    /// When the options do not fit the store, or store, transport or environment fail.
    pub async fn open(
        options: ProcessOptions,
        store: Arc<dyn Store>,
        transport: Arc<dyn Transport>,
    ) -> Result<Groups, StartError> {
        Ok(Groups { process: Process::open(options, store, transport, None).await? })
    }

    /// Starts a group: founds it with its peers if it is not (which waits for all of them), recovers, and runs it.
    /// Any number may be started, also at the same time. One that was shut down may be started again.
    ///
    /// # Errors
    /// When the options do not fit the store or the other groups, the peers refuse, or store or environment fail.
    pub async fn start(&self, options: GroupOptions, machine: Box<dyn StateMachine>) -> Result<Node, StartError> {
        let span = tracing::info_span!("node", id = %self.id(), group = %options.group);
        start::group(self.process.clone(), options, machine, Owner::Groups).instrument(span).await
    }

    /// Who this process is, in all its groups.
    pub fn id(&self) -> NodeId {
        self.process.identity.node
    }

    /// Where peers reach it, ports filled in.
    pub fn addresses(&self) -> &[Address] {
        &self.process.addresses
    }

    /// The groups that are hosted, in order: those that run, and those that are being started or shut down.
    pub fn groups(&self) -> Vec<GroupId> {
        self.process.host.groups()
    }

    /// The store, as long as the process is open: for what the state machines of its groups keep in it.
    ///
    /// # Errors
    /// [`StartError::Closed`] when the process is shut down.
    pub fn store(&self) -> Result<Arc<dyn Store>, StartError> {
        self.process.parts().map(|parts| parts.store)
    }

    /// How many frames came for groups that are not hosted here, or not any more. They are dropped.
    pub fn frames_misdirected(&self) -> u64 {
        self.process.host.misdirected()
    }

    /// Shuts all groups down, then closes the transport, and lets the store go. No group can be started any more.
    pub async fn shutdown(&self) {
        self.process.begin_to_close();
        for inbox in self.process.host.inboxes() {
            inbox.advance(Life::Ending);
        }
        self.process.host.emptied().await;
        self.process.close(!self.process.host.has_left_behind()).await;
    }
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Groups").field("id", &self.id()).field("addresses", &self.addresses()).finish_non_exhaustive()
    }
}
