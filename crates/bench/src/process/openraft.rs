//! Three nodes of openraft, with a network that calls, and store and state machine in memory.
//!
//! Driven its best way: one call of `client_write` per client and operation, whose batches openraft makes itself; the log is a queue whose appends are done when they return; a message is a call of the other node.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Debug,
    io::Cursor,
    ops::{Bound, RangeBounds},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use openraft::{
    BasicNode, Config, Entry, EntryPayload, LogId, LogState, OptionalSend, Raft, RaftLogReader, RaftNetwork,
    RaftNetworkFactory, RaftSnapshotBuilder, Snapshot, SnapshotMeta, SnapshotPolicy, StorageError, StorageIOError,
    StoredMembership, Vote,
    error::{InstallSnapshotError, RPCError, RaftError, RemoteError},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
        VoteResponse,
    },
    storage::{LogFlushed, RaftLogStorage, RaftStateMachine},
};

use super::{Failure, Settings, Subject};

/// What the first election may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// How many entries one message carries at most: more than clients have on their way.
const MESSAGE_ENTRIES_MAX: u64 = 4096;

openraft::declare_raft_types!(
    /// The types that openraft is used with; all others are its defaults.
    pub(super) Types:
        D = Bytes,
        R = Bytes,
);

type Node = Raft<Types>;
type Stored<T> = Result<T, StorageError<u64>>;
type Answered<T, E = RaftError<u64>> = Result<T, RPCError<u64, BasicNode, E>>;

/// See the module. Clones are the same three.
#[derive(Clone)]
pub(super) struct OpenRaft {
    nodes: Arc<[Node]>,
    /// Whom clients ask.
    leader: Arc<AtomicUsize>,
}

impl Subject for OpenRaft {
    type Client = OpenRaft;

    async fn start(settings: &Settings) -> Result<OpenRaft, Failure> {
        let config = Arc::new(config(settings).validate()?);
        let ways: Arc<Vec<OnceLock<Node>>> = Arc::new((0..3).map(|_| OnceLock::new()).collect());
        let mut nodes = Vec::new();
        for (id, way) in (1..).zip(ways.iter()) {
            let network = Network(ways.clone());
            let node = Raft::new(id, config.clone(), network, Log::default(), Machine::default()).await?;
            // Each place is filled once.
            let _ = way.set(node.clone());
            nodes.push(node);
        }
        let members: BTreeMap<u64, BasicNode> = (1..=3).map(|id| (id, BasicNode::default())).collect();
        nodes[0].initialize(members).await?;
        nodes[0].wait(Some(DEADLINE)).current_leader(1, "the first node leads").await?;
        Ok(OpenRaft { nodes: nodes.into(), leader: Arc::default() })
    }

    fn client(&self) -> OpenRaft {
        self.clone()
    }

    async fn write(client: &OpenRaft, command: Bytes) -> Result<(), Failure> {
        match client.nodes[client.leader.load(Relaxed)].client_write(command).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let leader = error.forward_to_leader::<BasicNode>().and_then(|to| to.leader_id);
                if let Some(id) = leader {
                    client.leader.store(id as usize - 1, Relaxed);
                }
                Err(error.into())
            }
        }
    }

    async fn stop(self) {
        for node in self.nodes.iter() {
            // Nothing is left to be done for one whose task has ended.
            let _ = node.shutdown().await;
        }
    }
}

fn config(settings: &Settings) -> Config {
    let millis = |duration: Duration| duration.as_millis() as u64;
    Config {
        heartbeat_interval: millis(settings.heartbeat),
        election_timeout_min: millis(settings.election_timeout.0),
        election_timeout_max: millis(settings.election_timeout.1),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(settings.snapshot_every),
        max_in_snapshot_log_to_keep: settings.entries_kept,
        replication_lag_threshold: settings.snapshot_every * 2,
        purge_batch_size: 1024,
        max_payload_entries: MESSAGE_ENTRIES_MAX,
        ..Config::default()
    }
}

/// The log of one node, in memory. Clones are the same one.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<LogData>>);

#[derive(Default)]
struct LogData {
    vote: Option<Vote<u64>>,
    purged: Option<LogId<u64>>,
    /// From the one after `purged` on.
    entries: VecDeque<Entry<Types>>,
}

impl LogData {
    /// The index of the first entry that is there, or would be.
    fn first(&self) -> u64 {
        self.purged.map_or(0, |purged| purged.index + 1)
    }

    fn place(&self, index: u64) -> usize {
        (index.saturating_sub(self.first()) as usize).min(self.entries.len())
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, LogData> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Stored<Vec<Entry<Types>>> {
        let data = self.lock();
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        let (start, end) = (data.place(start), data.place(end));
        Ok(data.entries.range(start..end.max(start)).cloned().collect())
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> Stored<LogState<Types>> {
        let data = self.lock();
        let last_log_id = data.entries.back().map(|entry| entry.log_id).or(data.purged);
        Ok(LogState { last_purged_log_id: data.purged, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Stored<()> {
        self.lock().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Stored<Option<Vote<u64>>> {
        Ok(self.lock().vote)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Stored<()>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.lock().entries.extend(entries);
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId<u64>) -> Stored<()> {
        let mut data = self.lock();
        let place = data.place(log_id.index);
        data.entries.truncate(place);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId<u64>) -> Stored<()> {
        let mut data = self.lock();
        let place = data.place(log_id.index + 1);
        data.entries.drain(..place);
        data.purged = Some(log_id);
        Ok(())
    }
}

/// The state machine: adds up the bytes that it is given. Clones are the same one.
#[derive(Clone, Default)]
struct Machine(Arc<Mutex<State>>);

#[derive(Clone, Default)]
struct State {
    sum: u64,
    applied: Option<LogId<u64>>,
    membership: StoredMembership<u64, BasicNode>,
}

impl Machine {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot(&self) -> Snapshot<Types> {
        let State { sum, applied, membership } = self.lock().clone();
        let snapshot_id = applied.map_or_else(String::new, |applied| applied.index.to_string());
        let meta = SnapshotMeta { last_log_id: applied, last_membership: membership, snapshot_id };
        Snapshot { meta, snapshot: Box::new(Cursor::new(sum.to_be_bytes().to_vec())) }
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Stored<Snapshot<Types>> {
        Ok(self.snapshot())
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Machine;

    async fn applied_state(&mut self) -> Stored<(Option<LogId<u64>>, StoredMembership<u64, BasicNode>)> {
        let state = self.lock();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Stored<Vec<Bytes>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut state = self.lock();
        let entries = entries.into_iter();
        let mut replies = Vec::with_capacity(entries.size_hint().0);
        for Entry { log_id, payload } in entries {
            state.applied = Some(log_id);
            match payload {
                EntryPayload::Normal(command) => state.sum += command.len() as u64,
                EntryPayload::Membership(membership) => {
                    state.membership = StoredMembership::new(Some(log_id), membership);
                }
                EntryPayload::Blank => {}
            }
            replies.push(Bytes::new());
        }
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Stored<Box<Cursor<Vec<u8>>>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, BasicNode>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Stored<()> {
        let bytes: Result<[u8; 8], _> = (*snapshot).into_inner().try_into();
        let wrong = |_: Vec<u8>| StorageIOError::read_snapshot(None, &std::io::Error::other("a sum has 8 bytes"));
        let sum = u64::from_be_bytes(bytes.map_err(wrong)?);
        *self.lock() = State { sum, applied: meta.last_log_id, membership: meta.last_membership.clone() };
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Stored<Option<Snapshot<Types>>> {
        Ok(Some(self.snapshot()))
    }
}

/// The way to all nodes: a call.
#[derive(Clone)]
struct Network(Arc<Vec<OnceLock<Node>>>);

/// The way to one.
struct Way {
    nodes: Network,
    to: u64,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Way;

    async fn new_client(&mut self, target: u64, _: &BasicNode) -> Way {
        Way { nodes: self.clone(), to: target }
    }
}

impl Way {
    fn node<E: std::error::Error>(&self) -> Answered<&Node, E> {
        let node = self.nodes.0.get(self.to as usize - 1).and_then(OnceLock::get);
        let absent = || openraft::error::Unreachable::new(&std::io::Error::other("the node has not started"));
        node.ok_or_else(|| RPCError::Unreachable(absent()))
    }

    fn remote<E: std::error::Error>(&self, error: E) -> RPCError<u64, BasicNode, E> {
        RPCError::RemoteError(RemoteError::new(self.to, error))
    }
}

impl RaftNetwork<Types> for Way {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Answered<AppendEntriesResponse<u64>> {
        self.node()?.append_entries(request).await.map_err(|error| self.remote(error))
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<Types>,
        _: RPCOption,
    ) -> Answered<InstallSnapshotResponse<u64>, RaftError<u64, InstallSnapshotError>> {
        self.node()?.install_snapshot(request).await.map_err(|error| self.remote(error))
    }

    async fn vote(&mut self, request: VoteRequest<u64>, _: RPCOption) -> Answered<VoteResponse<u64>> {
        self.node()?.vote(request).await.map_err(|error| self.remote(error))
    }
}
