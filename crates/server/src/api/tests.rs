//! The services over a map in memory, with a real client on a real socket.

use std::{
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use coracle::{
    client::{
        Client, ClientOptions, ClusterError, ConnectError, Refusal, RefusalKind,
        pb::{MembersResponse, Role, StatusResponse},
    },
    core::{Index, NodeId},
    level::{Error, Kv, Level, MemoryKv, Once, Op, ReadAt, Revision, ScanSpec, SessionId, Txn},
    transport::Address,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

use super::{ApiLimits, Operated, Operator, serve};

#[derive(Default)]
pub(super) struct Leader {
    /// How many requests wait, or waited, for ever.
    stuck: AtomicUsize,
}

#[tonic::async_trait]
impl Operator for Leader {
    fn status(&self) -> StatusResponse {
        StatusResponse { node_id: 5, role: Role::Leader.into(), term: 2, ..Default::default() }
    }

    fn members(&self) -> MembersResponse {
        MembersResponse { node_id: 5, leader_id: Some(5), ..Default::default() }
    }

    async fn join(&self, address: Address, learner: bool) -> Operated<NodeId> {
        if address.to_string() == "/memory/404" {
            // So that places run out.
            self.stuck.fetch_add(1, Ordering::Relaxed);
            std::future::pending::<()>().await;
        }
        Ok(NodeId(if learner { 2 } else { 1 }))
    }

    async fn leave(&self, id: NodeId) -> Operated<()> {
        let refused = |kind, reason: &str| Err(ClusterError::from(Refusal::new(kind, reason)));
        match id {
            NodeId(1) => Ok(()),
            NodeId(2) => refused(RefusalKind::Refused, "the last voter"),
            _ => refused(RefusalKind::NotMember, "a stranger"),
        }
    }

    async fn transfer(&self, to: Option<NodeId>) -> Operated<NodeId> {
        to.ok_or_else(|| Error::Unavailable("nobody is there".to_owned()).into())
    }

    fn weaken(&self, _: Duration) {}

    async fn snapshot(&self) -> Operated<Index> {
        Ok(Index(77))
    }
}

pub(super) struct Served {
    pub(super) address: String,
    client: Client,
    leader: Arc<Leader>,
    stop: Option<oneshot::Sender<()>>,
    pub(super) serving: JoinHandle<()>,
}

impl Served {
    /// Begins to stop.
    pub(super) fn stop(&mut self) {
        self.stop = None;
        self.client = Client::connect_lazy([&self.address], ClientOptions::default()).unwrap();
    }
}

async fn start(limits: ApiLimits) -> Served {
    start_with(Arc::new(MemoryKv::new()), limits).await
}

pub(super) async fn start_with(kv: Arc<dyn Kv>, limits: ApiLimits) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (stop, stopped) = oneshot::channel::<()>();
    let leader = Arc::new(Leader::default());
    let operator = leader.clone();
    let serving = tokio::spawn(async move {
        let stop = async {
            let _ = stopped.await;
        };
        serve(listener, kv, operator, limits, stop).await;
    });
    let client = Client::connect([&address], ClientOptions::default()).await.unwrap();
    Served { address, client, leader, stop: Some(stop), serving }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn puts(keys: impl IntoIterator<Item = u32>) -> Txn {
    Txn {
        ops: keys
            .into_iter()
            .map(|n| Op::Put { key: bytes(&format!("k{n:04}")), value: bytes(&n.to_string()) })
            .collect(),
    }
}

fn all(limit: u32) -> ScanSpec {
    ScanSpec { from: Bound::Unbounded, to: Bound::Unbounded, reverse: false, limit, values: true }
}

#[tokio::test]
async fn what_is_written_is_read() {
    let served = start(ApiLimits::default()).await;
    let client = &served.client;
    let increment = Op::Increment { key: bytes("n"), by: -7 };
    let ops = [puts([1, 2]).ops, vec![increment, Op::Delete { key: bytes("k0002") }]].concat();
    let committed = client.commit(Txn { ops }, None).await.unwrap();
    assert_eq!(committed.integers, [-7]);
    let keys = vec![bytes("k0001"), bytes("k0002"), bytes("n")];
    for at in [ReadAt::Linearizable, ReadAt::Lease, ReadAt::Bounded(Duration::from_millis(5)), ReadAt::Stale] {
        let read = client.get_many(at, keys.clone()).await.unwrap();
        let values: Vec<_> = read.value.iter().map(|value| value.as_ref().map(|value| value.value.clone())).collect();
        assert_eq!(values, [Some(bytes("1")), None, Some(bytes("-7"))]);
        assert_eq!(read.value[0].as_ref().unwrap().modified, committed.revision);
        let contained = client.contains_many(at, keys.clone()).await.unwrap();
        assert_eq!(contained.value, [true, false, true]);
    }
}

#[tokio::test]
async fn a_scan_goes_page_by_page_both_ways() {
    let served = start(ApiLimits::default()).await;
    let client = &served.client;
    client.commit(puts(0..25), None).await.unwrap();
    let first = client.page(ReadAt::Linearizable, all(10)).await.unwrap().value;
    assert!(first.entries.len() == 10 && first.more);
    let rest = ScanSpec { from: Bound::Excluded(first.entries[9].0.clone()), ..all(100) };
    let rest = client.page(ReadAt::Linearizable, rest).await.unwrap().value;
    assert!(rest.entries.len() == 15 && !rest.more && rest.entries[0].0 == bytes("k0010"));
    let back = ScanSpec { reverse: true, values: false, to: Bound::Included(bytes("k0020")), ..all(2) };
    let back = client.page(ReadAt::Linearizable, back).await.unwrap().value;
    assert_eq!(back.entries, [(bytes("k0020"), Bytes::new()), (bytes("k0019"), Bytes::new())]);
}

#[tokio::test]
async fn a_snapshot_shows_its_revision_until_it_is_released() {
    let served = start(ApiLimits::default()).await;
    let client = &served.client;
    client.commit(puts([1]), None).await.unwrap();
    let revision = client.snapshot(Duration::from_secs(60)).await.unwrap();
    client.commit(puts([1, 2]), None).await.unwrap();
    let seen = client.page(ReadAt::Revision(revision), all(10)).await.unwrap();
    assert_eq!((seen.value.entries.len(), seen.revision), (1, revision));
    client.release(revision).await.unwrap();
    let gone = client.page(ReadAt::Revision(revision), all(10)).await;
    assert_eq!(gone.unwrap_err(), Error::SnapshotGone(revision));
    let never = client.get_many(ReadAt::Revision(Revision(999)), vec![bytes("k")]).await;
    assert_eq!(never.unwrap_err(), Error::SnapshotGone(Revision(999)));
}

#[tokio::test]
async fn c22_a_commit_that_is_repeated_takes_effect_once() {
    let served = start(ApiLimits::default()).await;
    let client = &served.client;
    let session = client.open_session().await.unwrap();
    let txn = Txn { ops: vec![Op::Increment { key: bytes("n"), by: 1 }] };
    let once = Some(Once { session, sequence: 1, floor: 0 });
    let first = client.commit(txn.clone(), once).await.unwrap();
    let second = client.commit(txn.clone(), once).await.unwrap();
    assert_eq!((first.integers.clone(), first), (vec![1], second));
    client.close_session(session).await.unwrap();
    let once = Some(Once { session, sequence: 2, floor: 1 });
    assert_eq!(client.commit(txn.clone(), once).await, Err(Error::SessionExpired(session)));
    let once = Some(Once { session: SessionId(12345), sequence: 1, floor: 0 });
    assert_eq!(client.commit(txn, once).await, Err(Error::SessionExpired(SessionId(12345))));
}

#[tokio::test]
async fn errors_arrive_as_they_were() {
    let served = start(ApiLimits::default()).await;
    let client = &served.client;
    client.commit(Txn { ops: vec![Op::Put { key: bytes("n"), value: bytes("x") }] }, None).await.unwrap();
    let increment = Txn { ops: vec![Op::Increment { key: bytes("n"), by: 1 }] };
    assert_eq!(client.commit(increment, None).await, Err(Error::NotAnInteger { key: "n".to_owned() }));
    let long = Txn { ops: vec![Op::Delete { key: Bytes::from(vec![b'k'; 5000]) }] };
    let error = client.commit(long, None).await.unwrap_err();
    assert!(matches!(error, Error::LimitExceeded { max: 4096, got: 5000, .. }), "{error:?}");
}

#[tokio::test]
async fn the_handle_above_works_remotely_as_it_does_locally() {
    let served = start(ApiLimits::default()).await;
    let client = &served.client;
    let level = Level::new(Arc::new(client.clone()));
    let many: Vec<_> = (0..20)
        .map(|_| {
            tokio::spawn({
                let level = level.clone();
                async move { level.increment("n", 1).await }
            })
        })
        .collect();
    for one in many {
        one.await.unwrap().unwrap();
    }
    assert_eq!(level.get("n").await.unwrap(), Some(bytes("20")));
    level.close().await.unwrap();
}

#[tokio::test]
async fn the_status_is_served() {
    let served = start(ApiLimits::default()).await;
    let (client, address) = (&served.client, &served.address);
    let status = client.status(address).await.unwrap();
    assert_eq!((status.node_id, status.role(), status.term), (5, Role::Leader, 2));
}

fn refused<T>(kind: RefusalKind, reason: &str) -> Operated<T> {
    Err(Refusal::new(kind, reason).into())
}

#[tokio::test]
async fn operations_and_their_refusals_are_served() {
    let served = start(ApiLimits::default()).await;
    let client = &served.client;
    assert_eq!(client.members().await.unwrap().leader_id, Some(5));
    assert_eq!(client.join("/memory/1", false).await, Ok(1));
    assert_eq!(client.join("/memory/1", true).await, Ok(2));
    assert_eq!(client.leave(1).await, Ok(()));
    assert_eq!(client.leave(2).await, refused(RefusalKind::Refused, "the last voter"));
    assert_eq!(client.leave(3).await, refused(RefusalKind::NotMember, "a stranger"));
    assert_eq!(client.transfer(Some(7)).await, Ok(7));
    assert_eq!(client.take_snapshot(Some(5)).await, Ok(77));
    assert_eq!(client.weaken(5, Duration::from_secs(5)).await, Ok(()));
}

#[tokio::test]
async fn what_an_operator_asks_is_limited() {
    let served = start(ApiLimits::default()).await;
    let client = &served.client;
    let too_long = client.weaken(5, Duration::from_secs(86_401)).await;
    assert!(matches!(too_long, Err(ClusterError::Call(Error::LimitExceeded { got: 86_401_000, .. }))), "{too_long:?}");
    let too_long = client.join(&"x".repeat(2000), false).await;
    assert!(matches!(too_long, Err(ClusterError::Call(Error::LimitExceeded { max: 1024, .. }))), "{too_long:?}");
    let odd = client.join("nonsense", false).await;
    assert!(matches!(&odd, Err(ClusterError::Refused(refusal)) if refusal.reason.contains("nonsense")), "{odd:?}");
    let options = ClientOptions::default().with_deadline(Duration::from_millis(300));
    let hasty = Client::connect([&served.address], options).await.unwrap();
    let waiting: Vec<_> = (0..16)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.join("/memory/404", false).await })
        })
        .collect();
    let busy = async {
        // The places are taken one by one, each when its request has arrived.
        while !matches!(hasty.join("/memory/1", false).await, Err(ClusterError::Call(Error::Busy { .. }))) {}
    };
    tokio::time::timeout(Duration::from_secs(20), busy).await.unwrap();
    waiting.iter().for_each(JoinHandle::abort);
    tokio::time::timeout(Duration::from_secs(20), async {
        // Who does not wait any more takes no place.
        while hasty.join("/memory/1", false).await.is_err() {}
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn messages_up_to_the_limit_pass_and_larger_ones_do_not() {
    let mut limits = ApiLimits::default();
    let served = start(limits).await;
    let client = &served.client;
    // Four values of 1 MiB, and what goes round them, make a response larger than what gRPC allows by default.
    for n in 0..4 {
        let value = Bytes::from(vec![b'v'; 1 << 20]);
        client.commit(Txn { ops: vec![Op::Put { key: bytes(&format!("big{n}")), value }] }, None).await.unwrap();
    }
    let keys = (0..4).map(|n| bytes(&format!("big{n}"))).collect();
    assert_eq!(client.get_many(ReadAt::Linearizable, keys).await.unwrap().value.len(), 4);
    limits.message_bytes_max = 1000;
    let served = start(limits).await;
    let client = &served.client;
    let error = client.commit(puts(0..1000), None).await.unwrap_err();
    assert!(matches!(&error, Error::Protocol(why) if why.contains("too large")), "{error:?}");
}

#[tokio::test]
async fn a_connection_beyond_the_limit_is_closed() {
    let served = start(ApiLimits { connections_max: 1, ..ApiLimits::default() }).await;
    let (address, serving) = (&served.address, &served.serving);
    let options = ClientOptions::default().with_deadline(Duration::from_millis(300));
    let second = Client::connect([address], options).await;
    assert!(matches!(second, Err(ConnectError::Unreachable { .. })), "{second:?}");
    assert!(!serving.is_finished());
}

/// Waits until the server has closed the connection; what it said before does not matter.
async fn is_closed(stream: &mut TcpStream) {
    let mut scratch = Vec::new();
    // A reset is an end, too.
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut scratch)).await.unwrap();
}

/// As a client of HTTP/2 begins: the preface, and settings that are all as usual.
const BEGINNING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[tokio::test]
async fn who_does_not_begin_in_time_is_closed() {
    let short = Duration::from_millis(50);
    let served = start(ApiLimits { handshake_time_max: short, ..ApiLimits::default() }).await;
    for begun in [&b""[..], &BEGINNING[..23]] {
        let mut silent = TcpStream::connect(&served.address).await.unwrap();
        silent.write_all(begun).await.unwrap();
        is_closed(&mut silent).await;
    }
    let client = &served.client;
    client.commit(puts([1]), None).await.unwrap();
}

/// Waits for as long as so many connections take, one after the other, to be closed for being idle.
async fn idle_times(served: &Served, count: usize) {
    for _ in 0..count {
        let mut idle = TcpStream::connect(&served.address).await.unwrap();
        idle.write_all(BEGINNING).await.unwrap();
        is_closed(&mut idle).await;
    }
}

#[tokio::test]
async fn who_asks_nothing_for_long_is_closed_and_may_come_back() {
    let short = Duration::from_millis(200);
    let served = start(ApiLimits { idle_time_max: short, ..ApiLimits::default() }).await;
    let client = &served.client;
    client.commit(puts([1]), None).await.unwrap();
    // This one takes longer than idle connections live.
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.join("/memory/404", false).await }
    });
    idle_times(&served, 3).await;
    let stuck = served.leader.stuck.load(Ordering::Relaxed);
    assert_eq!((stuck, waiting.is_finished()), (1, false), "a connection with a request under way is of use");
    waiting.abort();
    // The client's connection ends as well, some time before the last of these does.
    idle_times(&served, 3).await;
    client.commit(puts([2]), None).await.unwrap();
}

#[tokio::test]
async fn bytes_under_way_are_limited_over_all_connections() {
    let served = start(ApiLimits { bytes_under_way_max: 3000, ..ApiLimits::default() }).await;
    let options = ClientOptions::default().with_deadline(Duration::from_millis(300));
    let hasty = Client::connect([&served.address], options).await.unwrap();
    let put = |len: usize| Txn { ops: vec![Op::Put { key: bytes("k"), value: Bytes::from(vec![b'v'; len]) }] };
    let large = hasty.commit(put(3000), None).await;
    assert!(matches!(large, Err(Error::Busy { .. })), "{large:?}");
    for _ in 0..20 {
        hasty.commit(put(2000), None).await.unwrap();
    }
    // Another connection's requests, whose addresses are as long as is allowed.
    let address = format!("/memory/{}404", "0".repeat(900));
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let (client, address) = (served.client.clone(), address.clone());
            tokio::spawn(async move { client.join(&address, false).await })
        })
        .collect();
    let refused = async { while !matches!(hasty.commit(put(2000), None).await, Err(Error::Busy { .. })) {} };
    tokio::time::timeout(Duration::from_secs(20), refused).await.unwrap();
    hasty.commit(put(100), None).await.unwrap();
    waiting.iter().for_each(JoinHandle::abort);
    let given_back = async { while hasty.commit(put(2000), None).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(20), given_back).await.unwrap();
}
