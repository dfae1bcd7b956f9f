//! The process's side of the transport: it hosts any number of groups.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use coracle_core::{GroupId, Message, NodeId};
use coracle_replica::Question;
use coracle_transport::{Frame, GroupHello, Hello, Host, PROTOCOL_VERSION, Refusal};
use tokio::sync::watch;

use crate::{Configuration, directory::Directory, inbox::Inbox};

/// How many groups a process hosts at most: all of them have to fit into one hello.
pub(crate) const GROUPS_MAX: usize = 1024;

/// Called from the transport's tasks: nothing in it waits.
pub(crate) struct GroupHost {
    boot_nonce: u64,
    state: RwLock<State>,
    /// How many groups are hosted.
    count: watch::Sender<usize>,
    /// Frames for groups that are not hosted.
    misdirected: AtomicU64,
}

#[derive(Default)]
struct State {
    groups: BTreeMap<GroupId, Hosted>,
    /// Groups that ended while storage still had not answered: what was left behind may come yet.
    left_behind: BTreeSet<GroupId>,
}

#[derive(Clone)]
struct Hosted {
    directory: Arc<Directory>,
    inbox: Arc<Inbox>,
}

impl GroupHost {
    pub(crate) fn new(boot_nonce: u64) -> GroupHost {
        let (count, _) = watch::channel(0);
        GroupHost { boot_nonce, state: RwLock::default(), count, misdirected: AtomicU64::new(0) }
    }

    /// Hosts a group as long as the registration lasts.
    pub(crate) fn register(
        self: Arc<Self>,
        directory: Arc<Directory>,
        inbox: Arc<Inbox>,
    ) -> Result<Registration, Configuration> {
        let group = directory.group();
        let mut state = self.write();
        if state.groups.contains_key(&group) {
            return Err(Configuration::GroupTaken { group });
        }
        if state.left_behind.contains(&group) {
            return Err(Configuration::GroupLeftBehind { group });
        }
        if state.groups.len() >= GROUPS_MAX {
            return Err(Configuration::TooManyGroups { max: GROUPS_MAX });
        }
        state.groups.insert(group, Hosted { directory, inbox });
        self.count.send_replace(state.groups.len());
        drop(state);
        Ok(Registration { host: self, group, is_left_behind: false })
    }

    /// Where each group's loop is told things.
    pub(crate) fn inboxes(&self) -> Vec<Arc<Inbox>> {
        self.read().groups.values().map(|hosted| hosted.inbox.clone()).collect()
    }

    /// Waits until no group is hosted.
    pub(crate) async fn emptied(&self) {
        // The sender is this host's: it does not go away meanwhile.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Whether a group ended before its storage had answered.
    pub(crate) fn has_left_behind(&self) -> bool {
        !self.read().left_behind.is_empty()
    }

    /// How many frames were for groups that are not hosted.
    pub(crate) fn misdirected(&self) -> u64 {
        self.misdirected.load(Ordering::Relaxed)
    }

    fn hosted(&self, group: GroupId) -> Option<Hosted> {
        self.read().groups.get(&group).cloned()
    }

    fn deliver(&self, group: GroupId, messages: impl Iterator<Item = Message>) {
        match self.hosted(group) {
            Some(hosted) => hosted.inbox.push_messages(messages),
            // It has ended since the transport asked.
            None => drop(self.misdirected.fetch_add(messages.count() as u64, Ordering::Relaxed)),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        // Each change is a single one: a panic elsewhere leaves nothing half done.
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A group is hosted as long as this lasts.
pub(crate) struct Registration {
    host: Arc<GroupHost>,
    group: GroupId,
    is_left_behind: bool,
}

impl Registration {
    /// Something that the group asked of storage may still be done: it must not start again in this process.
    pub(crate) fn leave_behind(&mut self) {
        self.is_left_behind = true;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut state = self.host.write();
        state.groups.remove(&self.group);
        if self.is_left_behind {
            state.left_behind.insert(self.group);
        }
        self.host.count.send_replace(state.groups.len());
    }
}

impl Host for GroupHost {
    fn hello(&self) -> Hello {
        let groups: Vec<Hosted> = self.read().groups.values().cloned().collect();
        let groups = groups.iter().map(|hosted| hosted.directory.hello()).collect();
        Hello { version: PROTOCOL_VERSION, features: 0, boot_nonce: self.boot_nonce, groups }
    }

    fn hosts(&self, group: GroupId) -> Option<NodeId> {
        let node = self.read().groups.get(&group).map(|hosted| hosted.directory.node());
        if node.is_none() {
            self.misdirected.fetch_add(1, Ordering::Relaxed);
        }
        node
    }

    fn admit(&self, theirs: &GroupHello) -> Result<(), Refusal> {
        self.hosted(theirs.group).ok_or(Refusal::NoGroup)?.directory.admit(theirs)
    }

    fn receive(&self, mut frames: Vec<Frame>) {
        // Stable: a group's frames stay in order.
        frames.sort_by_key(|frame| frame.group);
        let mut frames = frames.into_iter().peekable();
        while let Some(group) = frames.peek().map(|frame| frame.group) {
            let of_group = iter::from_fn(|| frames.next_if(|frame| frame.group == group));
            self.deliver(group, of_group.map(|frame| frame.message));
        }
    }

    fn unreachable(&self, group: GroupId, peer: NodeId) {
        if let Some(hosted) = self.hosted(group) {
            hosted.inbox.push_unreachable(peer);
        }
    }

    fn answer(&self, question: Bytes) -> Bytes {
        match Question::decode(&question) {
            Ok(question) => {
                let hosted = self.hosted(question.group);
                let answer = hosted.and_then(|hosted| hosted.directory.answer(&question));
                answer.map(|answer| answer.encode()).unwrap_or_default()
            }
            Err(error) => {
                tracing::debug!(%error, "refused a question");
                Bytes::new()
            }
        }
    }
}
