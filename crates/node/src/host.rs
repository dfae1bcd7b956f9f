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
use coracle_replica::{Inquiry, Wire};
use coracle_transport::{Address, Frame, GroupHello, Hello, Host, PROTOCOL_VERSION, Refusal};
use tokio::sync::watch;

use crate::{
    Configuration,
    admissions::Admissions,
    directory::Directory,
    inbox::{Inbox, Order},
};

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
    admissions: Arc<Admissions>,
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
        state.groups.insert(group, Hosted { directory, inbox, admissions: Arc::new(Admissions::new()) });
        self.count.send_replace(state.groups.len());
        drop(state);
        Ok(Registration { host: self, group, is_left_behind: false })
    }

    pub(crate) fn groups(&self) -> Vec<GroupId> {
        self.read().groups.keys().copied().collect()
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
        let inbox = self.read().groups.get(&group).map(|hosted| hosted.inbox.clone());
        match inbox {
            Some(inbox) => inbox.push_messages(messages),
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

    fn addresses(&self, group: GroupId, node: NodeId) -> Vec<Address> {
        self.hosted(group).map(|hosted| hosted.directory.addresses_of(node)).unwrap_or_default()
    }

    fn receive(&self, mut frames: Vec<Frame>) {
        // Stable: a group's frames stay in order.
        frames.sort_by_key(|frame| frame.group);
        let mut frames = frames.into_iter().peekable();
        while let Some(group) = frames.peek().map(|frame| frame.group) {
            let of_group = iter::from_fn(|| frames.next_if(|frame| frame.group == group));
            let mut messages = of_group.map(|frame| frame.message);
            self.deliver(group, &mut messages);
            // A group that does not run takes none.
            messages.for_each(drop);
        }
    }

    fn receive_one(&self, frame: Frame) {
        self.deliver(frame.group, iter::once(frame.message));
    }

    fn unreachable(&self, group: GroupId, peer: NodeId) {
        if let Some(hosted) = self.hosted(group) {
            hosted.inbox.push_unreachable(peer);
        }
    }

    fn refused(&self, group: GroupId, peer: NodeId, refusal: &Refusal) {
        // Of several groups, the refusal does not say which one is meant.
        let is_only_one = self.read().groups.len() == 1;
        let Some(hosted) = self.hosted(group).filter(|_| is_only_one) else { return };
        if *refusal == (Refusal::Stranger { node: hosted.directory.node() }) && hosted.directory.refused_by(peer) {
            hosted.inbox.push_order(Order::LookAtRefusals);
        }
    }

    fn answer(&self, question: Bytes) -> Bytes {
        match Inquiry::decode(&question) {
            Ok(inquiry) => {
                let hosted = self.hosted(inquiry.group());
                hosted.and_then(|hosted| hosted.answer(inquiry)).unwrap_or_default()
            }
            Err(error) => {
                tracing::debug!(%error, "refused a question");
                Bytes::new()
            }
        }
    }
}

impl Hosted {
    /// What the group answers; nothing while there is nothing to say.
    fn answer(&self, inquiry: Inquiry) -> Option<Bytes> {
        match inquiry {
            Inquiry::Founding(question) => Some(self.directory.answer(&question)?.encode()),
            Inquiry::Invite(invite) => {
                let (answer, is_new) = self.directory.answer_invite(&invite)?;
                if is_new {
                    self.inbox.push_order(Order::LookAtTold);
                }
                Some(answer.encode())
            }
            Inquiry::Join(request) => {
                let status = self.directory.status()?;
                Some(self.admissions.answer(&self.directory, &self.inbox, &status, request).encode())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_core::{Body, Incarnation, Term};
    use coracle_storage::Identity;

    use super::*;
    use crate::acquaintances::Acquaintance;
    use crate::{
        inbox::{InboxLimits, Item},
        tests::open_inbox,
    };

    fn directory(group: u64) -> Arc<Directory> {
        let identity = Identity {
            node: NodeId(1),
            incarnation: Incarnation(1),
            engine: "memory".to_owned(),
            cluster_name: "test".to_owned(),
            clusters: BTreeMap::new(),
        };
        Arc::new(Directory::new(GroupId(group), identity))
    }

    fn frame(group: u64, round: u64) -> Frame {
        let body = Body::HeartbeatResponse { round, promise: 0 };
        Frame { group: GroupId(group), message: Message { from: NodeId(2), to: NodeId(1), term: Term(1), body } }
    }

    fn rounds(inbox: &Inbox) -> Vec<u64> {
        let mut items = Vec::new();
        inbox.take(&mut items);
        let round = |item: &Item| match item {
            Item::Message(Message { body: Body::HeartbeatResponse { round, .. }, .. }) => Some(*round),
            _ => None,
        };
        items.iter().filter_map(round).collect()
    }

    #[test]
    fn frames_go_to_their_groups_in_order() {
        let (host, inboxes) = (Arc::new(GroupHost::new(1)), [Arc::new(open_inbox()), Arc::new(open_inbox())]);
        let limits = InboxLimits { messages_max: 1, message_bytes_max: 1, requests_max: 1, request_bytes_max: 1 };
        let starting = Arc::new(Inbox::new(limits));
        let register = |group, inbox: &Arc<Inbox>| host.clone().register(directory(group), inbox.clone()).unwrap();
        let registrations = [register(1, &inboxes[0]), register(2, &inboxes[1]), register(3, &starting)];
        host.receive(vec![frame(2, 1), frame(1, 2), frame(3, 3), frame(9, 4), frame(2, 5), frame(1, 6)]);
        assert_eq!((rounds(&inboxes[0]), rounds(&inboxes[1])), (vec![2, 6], vec![1, 5]));
        assert_eq!(host.misdirected(), 1);
        drop(registrations);
        host.receive(vec![frame(1, 7)]);
        assert_eq!((host.misdirected(), host.hosts(GroupId(1)), host.misdirected()), (2, None, 3));
    }

    #[test]
    fn c01_each_group_judges_for_itself() {
        let host = Arc::new(GroupHost::new(1));
        let (one, two) = (directory(1), directory(2));
        let acquaintance = || Acquaintance { incarnation: Incarnation(0), addresses: Vec::new() };
        let known = |nodes: [u64; 2]| nodes.map(|node| (NodeId(node), acquaintance())).into();
        one.set_known(known([1, 2]));
        two.set_known(known([1, 3]));
        let inbox = || Arc::new(open_inbox());
        let _registrations =
            [host.clone().register(one, inbox()).unwrap(), host.clone().register(two, inbox()).unwrap()];
        let theirs = |group| GroupHello { node: NodeId(2), incarnation: Incarnation(0), ..directory(group).hello() };
        assert_eq!(host.admit(&theirs(1)), Ok(()));
        assert_eq!(host.admit(&theirs(2)), Err(Refusal::Stranger { node: NodeId(2) }));
        assert_eq!(host.admit(&theirs(3)), Err(Refusal::NoGroup));
        assert_eq!(host.hello().groups.len(), 2);
    }
}
