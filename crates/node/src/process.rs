//! What all groups of a process share: the store with its identity, the transport, the threads.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use coracle_core::GroupId;
use coracle_storage::{Identity, Store};
use coracle_transport::{Address, Route, Transport};
use tokio::sync::watch;

use crate::{
    Configuration, ProcessOptions, StartError, clock::Clock, effects::Devices, host::GroupHost, identity, pool::Ended,
    run::CLOSE_DEADLINE, status::StoreFacts,
};

/// How long threads get to end that waited for nothing but the store, once it is closed.
const CLOSED_DEADLINE: Duration = Duration::from_secs(2);

/// A process that listens, and can host groups.
pub(crate) struct Process {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) host: Arc<GroupHost>,
    pub(crate) boot_nonce: u64,
    pub(crate) clock: Clock,
    /// Where peers reach it, ports filled in.
    pub(crate) addresses: Vec<Address>,
    /// Who it is; what the groups add to it meanwhile is in [`Parts`].
    pub(crate) identity: Identity,
    pub(crate) store: Arc<StoreFacts>,
    /// `None` once it is closed.
    open: Mutex<Option<Open>>,
    closing: watch::Sender<bool>,
}

/// What groups are made of.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) store: Arc<dyn Store>,
    /// As it is in the store. Locked only where waiting for a device is allowed.
    pub(crate) identity: Arc<Mutex<Identity>>,
    pub(crate) devices: Arc<Devices>,
}

struct Open {
    parts: Parts,
    /// Tells when the devices' threads have.
    ended: Ended,
}

impl Process {
    /// Gives a new store its identity, and listens. `group` is the one that will be hosted, if that is known.
    pub(crate) async fn open(
        options: ProcessOptions,
        store: Arc<dyn Store>,
        transport: Arc<dyn Transport>,
        group: Option<GroupId>,
    ) -> Result<Arc<Process>, StartError> {
        validate(&options)?;
        let boot_nonce = identity::random()?;
        let mut unfinished = CloseStoreOnDrop(Some(store.clone()));
        let (options, identity, store) = blocking(move || {
            let identity = identity::establish(&*store, &options.cluster_name, group)?;
            Ok::<_, StartError>((options, identity, store))
        })
        .await?;
        let mut guard = CloseOnDrop { transport: Some(transport.clone()) };
        let host = Arc::new(GroupHost::new(boot_nonce));
        let addresses = match listen(&options, &*transport, &host).await {
            Ok(addresses) => addresses,
            Err(error) => {
                transport.shutdown().await;
                guard.transport = None;
                return Err(error);
            }
        };
        let facts = Arc::new(StoreFacts::of(&store));
        let (devices, ended) = Devices::new(store.log())
            .map_err(|source| StartError::Environment { what: "cannot start a thread", source })?;
        let parts = Parts { store, identity: Arc::new(Mutex::new(identity.clone())), devices: Arc::new(devices) };
        let open = Mutex::new(Some(Open { parts, ended }));
        let store = facts;
        (guard.transport, unfinished.0) = (None, None);
        let (closing, _) = watch::channel(false);
        Ok(Arc::new(Process {
            transport,
            host,
            boot_nonce,
            clock: Clock::start(),
            addresses,
            identity,
            store,
            open,
            closing,
        }))
    }

    /// What a group is made of, while the process is open.
    pub(crate) fn parts(&self) -> Result<Parts, StartError> {
        let is_closing = *self.closing.borrow();
        let parts = self.lock().as_ref().map(|open| open.parts.clone());
        parts.filter(|_| !is_closing).ok_or(StartError::Closed)
    }

    /// No group can be started from here on, and those that are being started are given up.
    pub(crate) fn begin_to_close(&self) {
        self.closing.send_replace(true);
    }

    /// Waits until the process begins to close.
    pub(crate) async fn closing(&self) {
        // The sender is this process's: it does not go away meanwhile.
        let _ = self.closing.subscribe().wait_for(|is_closing| *is_closing).await;
    }

    /// Closes the transport, waits for the threads and lets the store go. The groups have ended before; when one of them left something behind, there is no more waiting than for the store to let go of it.
    pub(crate) async fn close(&self, is_clean: bool) {
        self.begin_to_close();
        self.transport.shutdown().await;
        let Some(Open { parts, ended }) = self.lock().take() else { return };
        let store = parts.store.clone();
        drop(parts);
        // Closing it may be what a thread waits for.
        if !is_clean {
            store.close();
        }
        let deadline = if is_clean { CLOSE_DEADLINE } else { CLOSED_DEADLINE };
        let has_ended = ended.within(deadline).await;
        store.close();
        if !has_ended {
            tracing::warn!("a thread of the store still has not ended: it is left behind");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn validate(options: &ProcessOptions) -> Result<(), Configuration> {
    if options.cluster_name.is_empty() {
        return Err(Configuration::Empty { what: "the cluster's name" });
    }
    if options.addresses.is_empty() {
        return Err(Configuration::Empty { what: "the list of advertised addresses" });
    }
    Ok(())
}

/// Listens, and returns the addresses to advertise: a port 0 is replaced by the one that was bound.
async fn listen(
    options: &ProcessOptions,
    transport: &dyn Transport,
    host: &Arc<GroupHost>,
) -> Result<Vec<Address>, StartError> {
    let binds = if options.bind.is_empty() { &options.addresses } else { &options.bind };
    let mut bound = Vec::new();
    for bind in binds {
        bound.push(transport.listen(bind, host.clone()).await?);
    }
    if options.bind.is_empty() {
        return Ok(bound);
    }
    let port = bound.first().and_then(port_of);
    let fill = |address: &Address| match (port_of(address), port) {
        (Some(0), Some(port)) => address.with_port(port),
        _ => address.clone(),
    };
    Ok(options.addresses.iter().map(fill).collect())
}

fn port_of(address: &Address) -> Option<u16> {
    match address.route() {
        Route::Tcp { port, .. } | Route::Grpc { port, .. } => Some(*port),
        _ => None,
    }
}

/// Runs what waits for a device where waiting is allowed.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<T, StartError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        let source = io::Error::other(error.to_string());
        Err(StartError::Environment { what: "opening the store failed", source })
    })
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody waits for the store any more: what a start that was given up left waiting there ends.
        if let Some(open) = self.lock().take() {
            drop(CloseStoreOnDrop(Some(open.parts.store)));
            drop(CloseOnDrop { transport: Some(self.transport.clone()) });
        }
    }
}

/// Closes the store when nobody else does: a call that waits there would hold its thread, and with it the runtime, for ever.
struct CloseStoreOnDrop(Option<Arc<dyn Store>>);

impl Drop for CloseStoreOnDrop {
    fn drop(&mut self) {
        if let Some(store) = self.0.take() {
            store.close();
        }
    }
}

/// Closes the transport when nobody else does: the last group's end, or a start that was given up half-way.
struct CloseOnDrop {
    transport: Option<Arc<dyn Transport>>,
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if let Some(transport) = self.transport.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { transport.shutdown().await });
        }
    }
}
