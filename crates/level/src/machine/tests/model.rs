//! The machine against a naive model that keeps every state there ever was.

use std::collections::BTreeMap;

use coracle_storage::SnapshotSource;
use proptest::{prelude::*, sample::Index as Pick};

use super::{support::Recording, *};
use crate::{Command, Op, Txn, decode_command};

type State = BTreeMap<Bytes, Value>;

/// What a session is to the model.
#[derive(Clone, Debug)]
struct Session {
    floor: u64,
    last_used: u64,
    pending_max: usize,
    replies: BTreeMap<u64, crate::Result<CommandReply>>,
}

/// The state, and all earlier ones.
#[derive(Default)]
struct Model {
    states: Vec<State>,
    sessions: BTreeMap<u64, Session>,
}

impl Model {
    fn new() -> Model {
        Model { states: vec![State::new()], sessions: BTreeMap::new() }
    }

    fn index(&self) -> u64 {
        self.states.len() as u64 - 1
    }

    /// Applies an entry; the reply, if it is a command.
    fn apply(&mut self, entry: &Entry) -> Option<crate::Result<CommandReply>> {
        let mut state = self.states.last().unwrap().clone();
        let index = self.index() + 1;
        let reply = match entry.kind {
            EntryKind::Command => Some(self.execute(index, &entry.data, &mut state)),
            _ => None,
        };
        self.states.push(state);
        reply
    }

    fn execute(&mut self, index: u64, data: &[u8], state: &mut State) -> crate::Result<CommandReply> {
        match decode_command(data)? {
            Command::OpenSession { limits } => {
                while self.sessions.len() >= limits.sessions_max as usize {
                    let oldest = *self.sessions.iter().min_by_key(|(_, session)| session.last_used).unwrap().0;
                    self.sessions.remove(&oldest);
                }
                let pending_max = limits.session_pending_max as usize;
                let session = Session { floor: 0, last_used: index, pending_max, replies: BTreeMap::new() };
                self.sessions.insert(index, session);
                Ok(CommandReply::SessionOpened(SessionId(index)))
            }
            Command::CloseSession { session } => {
                self.sessions.remove(&session.0);
                Ok(CommandReply::SessionClosed)
            }
            Command::Txn { txn, once: None } => transact(index, txn, state),
            Command::Txn { txn, once: Some(once) } => {
                let Some(session) = self.sessions.get_mut(&once.session.0) else {
                    return Err(Error::SessionExpired(once.session));
                };
                if once.sequence <= session.floor {
                    return Err(Error::SessionExpired(once.session));
                }
                if once.floor >= once.sequence {
                    return Err(Error::Protocol(format!(
                        "the floor of a write must be below its sequence: got {} and {}",
                        once.floor, once.sequence
                    )));
                }
                session.last_used = index;
                session.floor = session.floor.max(once.floor);
                let floor = session.floor;
                session.replies.retain(|&sequence, _| sequence > floor);
                if let Some(reply) = session.replies.get(&once.sequence) {
                    return reply.clone();
                }
                let (max, got) = (session.pending_max as u64, session.replies.len() as u64 + 1);
                if got > max {
                    return Err(Error::LimitExceeded { limit: "session_pending_max".to_owned(), max, got });
                }
                let reply = transact(index, txn, state);
                session.replies.insert(once.sequence, reply.clone());
                reply
            }
        }
    }
}

fn transact(index: u64, txn: Txn, state: &mut State) -> crate::Result<CommandReply> {
    let mut next = state.clone();
    let mut integers = Vec::new();
    for op in txn.ops {
        let (key, value) = match op {
            Op::Delete { key } => {
                next.remove(&key);
                continue;
            }
            Op::Put { key, value } => (key, value),
            Op::Increment { key, by } => {
                let wrong = Error::NotAnInteger { key: key.escape_ascii().to_string() };
                let old = next.get(&key).map_or("0".to_owned(), |old| String::from_utf8_lossy(&old.value).into());
                let number: i64 = old.parse().map_err(|_| wrong.clone())?;
                let sum = number.checked_add(by).ok_or(wrong)?;
                integers.push(sum);
                (key, sum.to_string().into())
            }
        };
        let revision = Revision(index);
        let old = next.get(&key);
        let (created, version) = old.map_or((revision, 1), |old| (old.created, old.version + 1));
        next.insert(key, Value { value, created, modified: revision, version });
    }
    *state = next;
    Ok(CommandReply::Committed(Committed { revision: Revision(index), integers }))
}

/// What the test does.
#[derive(Clone, Debug)]
enum Action {
    Apply(Vec<Proposal>),
    Hold,
    Release(Pick),
    Scan { at: Pick, from: (u8, Bytes), to: (u8, Bytes), reverse: bool, limit: u32 },
    Get(Pick, Bytes),
    BeginSnapshot,
    ReadSnapshot(usize),
    Flush,
    Restart(Pick),
}

#[derive(Clone, Debug)]
enum Proposal {
    Noop,
    Garbage,
    Write(Vec<Op>, Option<(Pick, u64, u64)>),
    OpenSession(u32),
    CloseSession(Pick),
}

/// The machine under test, the model beside it, and what led there.
struct World {
    machine: LevelMachine,
    store: Arc<Recording>,
    options: LevelOptions,
    model: Model,
    log: Vec<Entry>,
    replies: Vec<Option<crate::Result<CommandReply>>>,
    sessions: Vec<u64>,
    held: Vec<Revision>,
    snapshot: Option<Begun>,
}

/// A snapshot that is being read.
struct Begun {
    source: Box<dyn SnapshotSource>,
    bytes: Vec<u8>,
    index: Index,
    hash: Option<u64>,
}

impl World {
    fn new(write_bytes_max: usize, page_bytes_max: usize) -> World {
        let limits = Limits { page_bytes_max, ..Limits::default() };
        let options = LevelOptions { limits, write_bytes_max, ..LevelOptions::default() };
        let store = Arc::new(Recording::new(MapStore::new()));
        World {
            machine: LevelMachine::open(store.clone(), options.clone()).unwrap(),
            store,
            options,
            model: Model::new(),
            log: Vec::new(),
            replies: Vec::new(),
            sessions: vec![0],
            held: Vec::new(),
            snapshot: None,
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Apply(proposals) => self.apply(proposals),
            Action::Hold => self.held.push(hold(&mut self.machine)),
            Action::Release(pick) => {
                if !self.held.is_empty() {
                    let revision = self.held.remove(pick.index(self.held.len()));
                    ask(&mut self.machine, Query::Release(revision)).unwrap();
                }
            }
            Action::Scan { at, from, to, reverse, limit } => {
                let at = self.pick_revision(at);
                self.scan(at, bound(from), bound(to), reverse, limit);
            }
            Action::Get(at, key) => {
                let at = self.pick_revision(at);
                self.get(at, key);
            }
            Action::BeginSnapshot => self.begin_snapshot(),
            Action::ReadSnapshot(piece) => self.read_snapshot(piece),
            Action::Flush => {
                assert_eq!(self.machine.flush().unwrap().0, self.model.index());
            }
            Action::Restart(pick) => self.restart(pick),
        }
    }

    fn apply(&mut self, proposals: Vec<Proposal>) {
        let entries: Vec<Entry> = proposals.into_iter().map(|proposal| self.entry(proposal)).collect();
        let first = self.log.len();
        for entry in &entries {
            let reply = self.model.apply(entry);
            if let Some(Ok(CommandReply::SessionOpened(session))) = &reply {
                self.sessions.push(session.0);
            }
            self.replies.push(reply);
        }
        self.log.extend(entries);
        self.apply_from(first);
    }

    /// Hands the log from an offset on to the machine, and compares the replies.
    fn apply_from(&mut self, first: usize) {
        if first < self.log.len() {
            let replies = apply(&mut self.machine, self.log[first..].to_vec());
            let expected: Vec<_> = self.replies[first..].iter().flatten().cloned().map(known).collect();
            assert_eq!(replies.into_iter().map(known).collect::<Vec<_>>(), expected);
        }
    }

    fn entry(&self, proposal: Proposal) -> Entry {
        let pick = |pick: Pick| SessionId(self.sessions[pick.index(self.sessions.len())]);
        let command = match proposal {
            Proposal::Noop => return Entry::noop(),
            Proposal::Garbage => return Entry::command(vec![7, 7]),
            Proposal::Write(ops, once) => {
                let once = once.map(|(session, sequence, floor)| Once { session: pick(session), sequence, floor });
                Command::Txn { txn: Txn { ops }, once }
            }
            Proposal::OpenSession(sessions_max) => {
                Command::OpenSession { limits: SessionLimits { sessions_max, session_pending_max: 3 } }
            }
            Proposal::CloseSession(session) => Command::CloseSession { session: pick(session) },
        };
        Entry::command(encode_command(&command))
    }

    /// The newest revision, or one that is held.
    fn pick_revision(&self, pick: Pick) -> Option<Revision> {
        let at = pick.index(self.held.len() + 1);
        self.held.get(at).copied()
    }

    fn state(&self, at: Option<Revision>) -> &State {
        &self.model.states[at.map_or(self.model.index(), |revision| revision.0) as usize]
    }

    fn get(&mut self, at: Option<Revision>, key: Bytes) {
        let expected = self.state(at).get(&key).cloned();
        let keys = vec![key];
        let revision = at.unwrap_or(Revision(self.model.index()));
        let found = Read { value: vec![expected.is_some()], revision };
        assert_eq!(
            ask(&mut self.machine, Query::ContainsMany { at, keys: keys.clone() }),
            Ok(QueryReply::Contained(found))
        );
        let read = Read { value: vec![expected], revision };
        assert_eq!(ask(&mut self.machine, Query::GetMany { at, keys }), Ok(QueryReply::Values(read)));
    }

    /// Scans page by page and compares each page.
    fn scan(&mut self, at: Option<Revision>, from: Bound<Bytes>, to: Bound<Bytes>, reverse: bool, limit: u32) {
        let inside = |key: &Bytes| std::ops::RangeBounds::contains(&(from.clone(), to.clone()), key);
        let state = self.state(at).iter().filter(|(key, _)| inside(key));
        let mut expected: Vec<_> = state.map(|(key, value)| (key.clone(), value.value.clone())).collect();
        if reverse {
            expected.reverse();
        }
        let mut scan = ScanSpec { from: from.clone(), to: to.clone(), reverse, limit, values: true };
        let mut expected = &expected[..];
        loop {
            let page = match ask(&mut self.machine, Query::Page { at, scan: scan.clone() }) {
                Ok(QueryReply::Page(read)) => read.value,
                other => panic!("expected Page, got {other:?}"),
            };
            let (head, tail) = expected.split_at(page.entries.len());
            assert_eq!((&page.entries[..], page.more), (head, !tail.is_empty()));
            assert!(head.len() <= limit as usize);
            expected = tail;
            let Some((last, _)) = head.last().filter(|_| page.more) else { break };
            let after = Bound::Excluded(last.clone());
            if reverse { scan.to = after } else { scan.from = after }
        }
        assert_eq!(expected, []);
    }

    fn begin_snapshot(&mut self) {
        let source = self.machine.snapshot().unwrap();
        let hash = self.machine.state_hash();
        self.snapshot = Some(Begun { source, bytes: Vec::new(), index: self.machine.applied, hash });
    }

    /// Reads on in a snapshot; once it is whole, another machine has to go on from it.
    fn read_snapshot(&mut self, piece: usize) {
        let Some(begun) = &mut self.snapshot else { return };
        if let Some(bytes) = begun.source.read(piece).unwrap() {
            begun.bytes.extend_from_slice(&bytes);
            return;
        }
        let Some(begun) = self.snapshot.take() else { return };
        let mut copy = machine();
        commit(&mut copy, vec![put("a", "what was there before")]).unwrap();
        install(&mut copy, begun.index, &begun.bytes).unwrap();
        assert_eq!(copy.state_hash(), begun.hash);
        self.compare_after(copy, begun.index);
    }

    /// Lets a machine that is at `index` catch up: replies and state are the same.
    fn compare_after(&mut self, mut copy: LevelMachine, index: Index) {
        for (entry, expected) in self.log.iter().zip(&self.replies).skip(index.0 as usize) {
            let replies = apply(&mut copy, vec![entry.clone()]);
            let expected: Vec<_> = expected.clone().into_iter().map(known).collect();
            assert_eq!(replies.into_iter().map(known).collect::<Vec<_>>(), expected);
        }
        assert_eq!(copy.state_hash(), self.machine.state_hash());
    }

    /// A crash that loses some of the last batches: the machine is opened again and the log applied from there.
    fn restart(&mut self, pick: Pick) {
        let mut boundaries = self.store.boundaries();
        let map = boundaries.swap_remove(pick.index(boundaries.len()));
        let applied = map.applied.unwrap();
        self.store = Arc::new(Recording::new(MapStore::from(map)));
        self.machine = LevelMachine::open(self.store.clone(), self.options.clone()).unwrap();
        assert_eq!(self.machine.applied(), Applied { applied, flushed: applied });
        for held in self.held.drain(..) {
            let gone = ask(&mut self.machine, Query::GetMany { at: Some(held), keys: vec![] });
            assert_eq!(gone, Err(Error::SnapshotGone(held)));
        }
        self.apply_from(applied.0 as usize);
    }

    fn finish(mut self) {
        let (begin, end) = (Bound::Unbounded, Bound::Unbounded);
        for at in self.held.clone().into_iter().map(Some).chain([None]) {
            self.scan(at, begin.clone(), end.clone(), false, 4);
            self.scan(at, begin.clone(), end.clone(), true, 4);
        }
        while self.snapshot.is_some() {
            self.read_snapshot(50);
        }
        self.compare_after(machine(), Index::ZERO);
        for held in self.held.drain(..) {
            ask(&mut self.machine, Query::Release(held)).unwrap();
        }
        self.drain_history();
    }

    /// Once nothing is held, the past goes away as entries are applied.
    fn drain_history(&mut self) {
        let steps = 2 * self.machine.sweep.rows() + 4;
        for _ in 0..steps {
            self.apply(vec![Proposal::Noop]);
        }
        assert_eq!(self.machine.sweep.rows(), 0);
        let newest = self.store.boundaries().pop().unwrap();
        assert!(!newest.rows.keys().any(|row| row.starts_with(b"h")));
    }
}

/// The reply without the words of an error that only people read.
fn known(reply: crate::Result<CommandReply>) -> crate::Result<CommandReply> {
    reply.map_err(|error| match error {
        Error::Protocol(_) => Error::Protocol(String::new()),
        error => error,
    })
}

fn bound((kind, key): (u8, Bytes)) -> Bound<Bytes> {
    match kind {
        0 => Bound::Unbounded,
        1 => Bound::Included(key),
        _ => Bound::Excluded(key),
    }
}

fn keys() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["", "a", "a\0", "a\0\0b", "ab", "b", "\u{7f}", "n"]).prop_map(key)
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let value = prop::sample::select(vec!["", "x", "5", "9223372036854775807", "a longer value than others"]);
    let op = prop_oneof![
        4 => (keys(), value).prop_map(|(key, value)| Op::Put { key, value: super::key(value) }),
        2 => keys().prop_map(|key| Op::Delete { key }),
        2 => (keys(), -2..3i64).prop_map(|(key, by)| Op::Increment { key, by }),
    ];
    prop::collection::vec(op, 0..4)
}

fn proposals() -> impl Strategy<Value = Vec<Proposal>> {
    let once = prop::option::of((any::<Pick>(), 0..7u64, 0..5u64));
    let proposal = prop_oneof![
        1 => Just(Proposal::Noop),
        1 => Just(Proposal::Garbage),
        12 => (ops(), once).prop_map(|(ops, once)| Proposal::Write(ops, once)),
        3 => (1..4u32).prop_map(Proposal::OpenSession),
        1 => any::<Pick>().prop_map(Proposal::CloseSession),
    ];
    prop::collection::vec(proposal, 1..6)
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let bounds = || (0..3u8, keys());
    let scan = (any::<Pick>(), bounds(), bounds(), any::<bool>(), 1..5u32);
    let action = prop_oneof![
        8 => proposals().prop_map(Action::Apply),
        3 => Just(Action::Hold),
        2 => any::<Pick>().prop_map(Action::Release),
        6 => scan.prop_map(|(at, from, to, reverse, limit)| Action::Scan { at, from, to, reverse, limit }),
        2 => (any::<Pick>(), keys()).prop_map(|(at, key)| Action::Get(at, key)),
        1 => Just(Action::BeginSnapshot),
        4 => (1..100usize).prop_map(Action::ReadSnapshot),
        1 => Just(Action::Flush),
        1 => any::<Pick>().prop_map(Action::Restart),
    ];
    prop::collection::vec(action, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn c22_the_machine_does_what_the_model_does(
        actions in actions(),
        write_bytes_max in prop::sample::select(vec![1usize, 300, 1 << 20]),
        page_bytes_max in prop::sample::select(vec![1usize, 20, 1 << 20]),
    ) {
        let mut world = World::new(write_bytes_max, page_bytes_max);
        for action in actions {
            world.act(action);
        }
        world.finish();
    }
}
