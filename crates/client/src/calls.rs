//! Which node to ask, and when to ask another one.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use coracle_level::{Error, Result};
use tokio::time::{self, Instant};
use tonic::Status;

use crate::{ClientOptions, backoff::Backoff, endpoint::Endpoint, failure::Failure, holds::Holds};

/// How long the leader is looked for at most once, while another node answers in its stead.
const DISCOVERY_INTERVAL: Duration = Duration::from_millis(300);

/// After how long without an answer the leader is looked for elsewhere.
const SILENCE: Duration = Duration::from_millis(400);

/// Longer than any call takes.
pub(crate) const FOR_EVER: Duration = Duration::from_secs(86_400 * 365);

/// What one call to one node returns.
pub(crate) type Called<T> = std::result::Result<T, Status>;

/// What it means to send a request twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It changes nothing, so that its outcome is never unknown.
    Read,
    /// It has the same effect twice as once.
    Repeatable,
    /// It has an effect each time.
    Fragile,
}

pub(crate) struct Inner {
    pub(crate) options: ClientOptions,
    /// How many nodes were given; those that were found come after them.
    pub(crate) given: usize,
    nodes: Mutex<Nodes>,
    pub(crate) holds: Mutex<Holds>,
    /// Where stale reads go: any node will do, so that clients spread over them.
    stale: AtomicUsize,
    /// Held by whoever looks for the leader; a single one at a time.
    discovering: tokio::sync::Mutex<()>,
}

struct Nodes {
    all: Vec<Arc<Endpoint>>,
    preferred: usize,
    /// Whether the preferred one said that it leads, and has not failed since.
    leads: bool,
    looked_at: Option<Instant>,
}

impl Inner {
    /// There is at least one node.
    pub(crate) fn new(options: ClientOptions, all: Vec<Arc<Endpoint>>) -> Inner {
        let start = getrandom::u32().unwrap_or(0) as usize % all.len();
        Inner {
            options,
            given: all.len(),
            nodes: Mutex::new(Nodes { all, preferred: 0, leads: false, looked_at: None }),
            holds: Mutex::default(),
            stale: AtomicUsize::new(start),
            discovering: tokio::sync::Mutex::new(()),
        }
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn holds(&self) -> MutexGuard<'_, Holds> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Endpoint>> {
        self.nodes().all.clone()
    }

    pub(crate) fn add(&self, endpoint: Arc<Endpoint>) {
        let mut nodes = self.nodes();
        if nodes.all.iter().all(|known| known.address != endpoint.address) {
            nodes.all.push(endpoint);
        }
    }

    pub(crate) fn prefer(&self, leader: &Arc<Endpoint>) {
        let mut nodes = self.nodes();
        if let Some(at) = nodes.all.iter().position(|endpoint| endpoint.address == leader.address) {
            nodes.preferred = at;
            nodes.leads = true;
        }
    }

    /// The node to ask, and whether somebody should look for a better one.
    pub(crate) fn preferred(self: &Arc<Self>) -> Arc<Endpoint> {
        let (endpoint, look) = {
            let mut nodes = self.nodes();
            let now = Instant::now();
            let look = !nodes.leads && nodes.looked_at.is_none_or(|at| now - at >= DISCOVERY_INTERVAL);
            if look {
                nodes.looked_at = Some(now);
            }
            (Arc::clone(&nodes.all[nodes.preferred]), look)
        };
        if look {
            self.look_for_leader();
        }
        endpoint
    }

    /// Any node, always the same one until it fails.
    pub(crate) fn any(&self) -> Arc<Endpoint> {
        let nodes = self.nodes();
        Arc::clone(&nodes.all[self.stale.load(Ordering::Relaxed) % nodes.all.len()])
    }

    fn look_for_leader(self: &Arc<Self>) {
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            if let Ok(_single) = inner.discovering.try_lock() {
                inner.discover().await;
            }
        });
    }

    /// The node at hand failed, or does not lead: asks the next one from then on.
    fn move_on(&self, from: &Arc<Endpoint>) {
        let mut nodes = self.nodes();
        let count = nodes.all.len();
        if Arc::ptr_eq(&nodes.all[nodes.preferred], from) {
            nodes.preferred = (nodes.preferred + 1) % count;
            nodes.leads = false;
        }
        let stale = self.stale.load(Ordering::Relaxed) % count;
        if Arc::ptr_eq(&nodes.all[stale], from) {
            self.stale.store(stale + 1, Ordering::Relaxed);
        }
    }

    /// Calls one node after the other until there is an answer, or the deadline has come.
    pub(crate) async fn call<T, C, A, F>(self: &Arc<Self>, kind: Kind, choose: C, attempt: A) -> Result<T>
    where
        C: Fn() -> Arc<Endpoint> + Send + Sync,
        A: Fn(Arc<Endpoint>) -> F + Send + Sync,
        F: Future<Output = Called<T>> + Send,
    {
        let now = Instant::now();
        // A deadline beyond what the clock can say is as good as none.
        let deadline = now.checked_add(self.options.deadline).unwrap_or(now + FOR_EVER);
        let mut backoff = Backoff::new();
        let mut tried = Tried::default();
        loop {
            let endpoint = choose();
            let failure = match self.attempt(kind, deadline, &endpoint, attempt(Arc::clone(&endpoint))).await {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            tried.note(kind, &endpoint, &failure);
            let repeat = failure.is_without_effect() || (failure.is_unknown() && kind != Kind::Fragile);
            let wait = backoff.step().max(retry_after(&failure));
            if !repeat || Instant::now() + wait >= deadline {
                return Err(self.give_up(&endpoint, failure, tried, repeat));
            }
            tracing::debug!(endpoint = %endpoint.address, reason = %failure.reason(), "asking again");
            if !matches!(failure, Failure::Answer(Error::Busy { .. })) {
                self.move_on(&endpoint);
            }
            time::sleep(wait).await;
        }
    }

    async fn attempt<T>(
        self: &Arc<Self>,
        kind: Kind,
        deadline: Instant,
        endpoint: &Arc<Endpoint>,
        call: impl Future<Output = Called<T>>,
    ) -> std::result::Result<T, Failure> {
        // Giving up early on what cannot be repeated would only make its outcome unknown.
        let until = match kind {
            Kind::Fragile => deadline,
            Kind::Read | Kind::Repeatable => deadline.min(Instant::now() + self.options.attempt),
        };
        let mut call = pin!(call);
        loop {
            let pause = (Instant::now() + SILENCE).min(until);
            match time::timeout_at(pause, &mut call).await {
                Ok(called) => return called.map_err(|status| Failure::from_status(&status)),
                Err(_) if pause == until => return Err(Failure::Broken("no answer in time".to_owned())),
                Err(_) if kind != Kind::Fragile && self.another_leads(endpoint) => {
                    return Err(Failure::Broken("no answer, and another node leads".to_owned()));
                }
                // A leader that hangs keeps its connections: only the others know that it leads no more.
                Err(_) => self.look_for_leader(),
            }
        }
    }

    fn another_leads(&self, endpoint: &Arc<Endpoint>) -> bool {
        let nodes = self.nodes();
        nodes.leads && !Arc::ptr_eq(&nodes.all[nodes.preferred], endpoint)
    }

    /// The error that a call ends in.
    fn give_up(&self, endpoint: &Endpoint, failure: Failure, tried: Tried, timed_out: bool) -> Error {
        let Tried { may_have_happened, lacks } = tried;
        // Of nodes that all lack space none leads, and the last word may be silence.
        let lacks = lacks.filter(|_| timed_out && !matches!(failure, Failure::Answer(Error::NoSpace(_))));
        let before = lacks.as_ref().map(|lacks| format!("; before that {lacks}")).unwrap_or_default();
        let waited = self.options.deadline.as_millis();
        let told = match &failure {
            _ if timed_out => {
                format!("gave up after {waited} ms; last from {}: {}{before}", endpoint.address, failure.reason())
            }
            Failure::Answer(Error::Unknown(reason)) => reason.clone(),
            _ => format!("{}: {}", endpoint.address, failure.reason()),
        };
        match failure {
            // The state machine's own word: a session gets the answer of the attempt that took effect.
            Failure::Answer(error @ (Error::NotAnInteger { .. } | Error::SessionExpired(_))) => error,
            // Any other refusal only speaks for the attempt that it answers, not for those before it (C21).
            _ if may_have_happened => Error::Unknown(told),
            Failure::Answer(error @ Error::Busy { .. }) => error,
            Failure::Answer(Error::NoSpace(_)) => Error::NoSpace(told),
            Failure::Answer(error) if !timed_out => error,
            _ if lacks.is_some() => Error::NoSpace(told),
            _ => Error::Unavailable(told),
        }
    }
}

/// What the attempts of a call came to.
#[derive(Default)]
struct Tried {
    may_have_happened: bool,
    /// Who lacked space, and what it said.
    lacks: Option<String>,
}

impl Tried {
    fn note(&mut self, kind: Kind, endpoint: &Endpoint, failure: &Failure) {
        self.may_have_happened |= kind != Kind::Read && failure.is_unknown();
        if let Failure::Answer(Error::NoSpace(_)) = failure {
            self.lacks = Some(format!("from {}: {}", endpoint.address, failure.reason()));
        }
    }
}

fn retry_after(failure: &Failure) -> Duration {
    match failure {
        Failure::Answer(Error::Busy { retry_after }) => *retry_after,
        _ => Duration::ZERO,
    }
}
