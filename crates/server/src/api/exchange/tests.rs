//! Streams of calls as any client may speak them, and as ours does.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use coracle::{
    client::{
        Client, ClientOptions,
        pb::{self, kv_client::KvClient},
        status,
    },
    level::{
        Committed, Error, Kv, Level, MemoryKv, Once, Read, ReadAt, Result, Revision, ScanPage, ScanSpec, SessionId,
        Txn, Value,
    },
};
use futures_util::stream;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    sync::{Semaphore, mpsc},
};
use tonic::{Status, Streaming, transport::Channel};

use crate::api::{
    ApiLimits,
    tests::{Leader, Served, start_with},
};

/// A store whose commits wait until they are let through.
pub(in crate::api) struct Gated {
    kv: MemoryKv,
    gate: Semaphore,
    under_way: AtomicUsize,
    under_way_max: AtomicUsize,
    /// How many reads of values there were.
    reads: AtomicUsize,
}

impl Gated {
    pub(in crate::api) fn new() -> Arc<Gated> {
        let (under_way, under_way_max, reads) = Default::default();
        Arc::new(Gated { kv: MemoryKv::new(), gate: Semaphore::new(0), under_way, under_way_max, reads })
    }

    /// One with a value of so many bytes.
    async fn with_value(key: &'static str, len: usize) -> Arc<Gated> {
        let gated = Gated::new();
        let op = coracle::level::Op::Put { key: Bytes::from(key), value: vec![0; len].into() };
        gated.kv.commit(Txn { ops: vec![op] }, None).await.unwrap();
        gated
    }

    /// The most commits that were ever under way at once.
    pub(in crate::api) fn most_under_way(&self) -> usize {
        self.under_way_max.load(Ordering::SeqCst)
    }

    pub(in crate::api) fn let_through(&self, count: usize) {
        self.gate.add_permits(count);
    }

    pub(in crate::api) async fn has_under_way(&self, count: usize) {
        let reached = async {
            while self.under_way.load(Ordering::SeqCst) != count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reached).await.unwrap();
    }
}

/// A commit under way.
struct UnderWay<'a>(&'a Gated);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tonic::async_trait]
impl Kv for Gated {
    async fn get_many(&self, at: ReadAt, keys: Vec<Bytes>) -> Result<Read<Vec<Option<Value>>>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.kv.get_many(at, keys).await
    }

    async fn contains_many(&self, at: ReadAt, keys: Vec<Bytes>) -> Result<Read<Vec<bool>>> {
        self.kv.contains_many(at, keys).await
    }

    async fn page(&self, at: ReadAt, scan: ScanSpec) -> Result<Read<ScanPage>> {
        self.kv.page(at, scan).await
    }

    async fn commit(&self, txn: Txn, once: Option<Once>) -> Result<Committed> {
        let count = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        let _under_way = UnderWay(self);
        self.under_way_max.fetch_max(count, Ordering::SeqCst);
        self.gate.acquire().await.map_err(|_| Error::Closed)?.forget();
        self.kv.commit(txn, once).await
    }

    async fn snapshot(&self, hold: Duration) -> Result<Revision> {
        self.kv.snapshot(hold).await
    }

    async fn release(&self, revision: Revision) -> Result<()> {
        self.kv.release(revision).await
    }

    async fn open_session(&self) -> Result<SessionId> {
        self.kv.open_session().await
    }

    async fn close_session(&self, session: SessionId) -> Result<()> {
        self.kv.close_session(session).await
    }
}

/// A stream of calls, by hand.
struct Stream {
    sender: Option<mpsc::Sender<pb::ExchangeRequest>>,
    answers: Streaming<pb::ExchangeResponse>,
}

async fn channel(served: &Served) -> KvClient<Channel> {
    KvClient::connect(format!("http://{}", served.address)).await.unwrap()
}

async fn open(kv: &KvClient<Channel>) -> std::result::Result<Stream, Status> {
    let (sender, receiver) = mpsc::channel(1024);
    let calls = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    let answers = kv.clone().exchange(calls).await?.into_inner();
    Ok(Stream { sender: Some(sender), answers })
}

impl Stream {
    async fn send(&self, calls: Vec<pb::Call>) {
        self.sender.as_ref().unwrap().send(pb::ExchangeRequest { calls }).await.unwrap();
    }

    async fn next(&mut self) -> std::result::Result<Option<pb::ExchangeResponse>, Status> {
        tokio::time::timeout(Duration::from_secs(20), self.answers.message()).await.unwrap()
    }

    /// So many answers, by their numbers.
    async fn answers(&mut self, count: usize) -> HashMap<u64, pb::answer::Answer> {
        let mut all = HashMap::new();
        while all.len() < count {
            let message = self.next().await.unwrap().unwrap();
            all.extend(message.answers.into_iter().map(|answer| (answer.number, answer.answer.unwrap())));
        }
        all
    }

    /// The error that the stream ends with.
    async fn error(&mut self) -> Error {
        let status = self.next().await.unwrap_err();
        status::to_error(&status).unwrap()
    }
}

fn call(number: u64, call: pb::call::Call) -> pb::Call {
    pb::Call { number, call: Some(call) }
}

fn commit(number: u64, op: pb::op::Op) -> pb::Call {
    call(number, pb::call::Call::Commit(pb::CommitRequest { ops: vec![pb::Op { op: Some(op) }], once: None }))
}

fn put(number: u64, len: usize) -> pb::Call {
    let key = Bytes::from(format!("k{number}"));
    commit(number, pb::op::Op::Put(pb::Put { key, value: vec![b'v'; len].into() }))
}

fn get(number: u64, key: &'static str) -> pb::Call {
    let keys = vec![Bytes::from_static(key.as_bytes())];
    call(number, pb::call::Call::GetMany(pb::GetManyRequest { at: None, keys }))
}

fn error_of(answer: &pb::answer::Answer) -> Error {
    match answer {
        pb::answer::Answer::Error(error) => status::from_wire(error),
        other => panic!("no error: {other:?}"),
    }
}

#[tokio::test]
async fn each_call_of_a_message_has_its_own_answer_and_error() {
    let served = start_with(Arc::new(MemoryKv::new()), ApiLimits::default()).await;
    let mut stream = open(&channel(&served).await).await.unwrap();
    let increment = |number, key| commit(number, pb::op::Op::Increment(pb::Increment { key, by: 7 }));
    let long = Bytes::from(vec![b'k'; 5000]);
    let odd_read = pb::ReadAt { consistency: 77, ..Default::default() };
    let odd_read = pb::ContainsManyRequest { at: Some(odd_read), keys: Vec::new() };
    let all = pb::PageRequest { limit: 10, ..Default::default() };
    stream.send(vec![put(1, 3)]).await;
    stream.answers(1).await;
    let contains = pb::ContainsManyRequest { at: None, keys: vec![Bytes::from("k1"), Bytes::from("k2")] };
    stream
        .send(vec![
            get(20, "k1"),
            increment(21, Bytes::from("k1")),
            increment(22, long),
            increment(23, Bytes::from("n")),
            pb::Call { number: 24, call: None },
            call(25, pb::call::Call::ContainsMany(odd_read)),
            call(26, pb::call::Call::ContainsMany(contains)),
            call(u64::MAX, pb::call::Call::Page(all)),
        ])
        .await;
    let answers = stream.answers(8).await;
    assert!(matches!(&answers[&20], pb::answer::Answer::GetMany(got)
        if got.values[0].value.as_ref().unwrap().value == "vvv"));
    assert_eq!(error_of(&answers[&21]), Error::NotAnInteger { key: "k1".to_owned() });
    assert!(matches!(error_of(&answers[&22]), Error::LimitExceeded { got: 5000, .. }));
    assert!(matches!(&answers[&23], pb::answer::Answer::Commit(done) if done.integers == [7]));
    assert!(matches!(error_of(&answers[&24]), Error::Protocol(why) if why.contains("none of")));
    assert!(matches!(error_of(&answers[&25]), Error::Protocol(why) if why.contains("77")));
    assert!(matches!(&answers[&26], pb::answer::Answer::ContainsMany(got) if got.present == [true, false]));
    assert!(matches!(&answers[&u64::MAX], pb::answer::Answer::Page(page) if !page.entries.is_empty()));
    stream.sender = None;
    assert_eq!(stream.next().await.unwrap(), None, "a client that is done ends the stream");
}

#[tokio::test]
async fn answers_do_not_wait_for_those_before_them() {
    let gated = Gated::new();
    let served = start_with(gated.clone(), ApiLimits::default()).await;
    let mut stream = open(&channel(&served).await).await.unwrap();
    stream.send(vec![put(1, 1), get(2, "k1")]).await;
    assert!(stream.answers(1).await.contains_key(&2));
    gated.let_through(1);
    assert!(stream.answers(1).await.contains_key(&1));
}

#[tokio::test]
async fn a_message_with_too_many_calls_ends_the_stream_when_all_before_is_answered() {
    let served = start_with(Arc::new(MemoryKv::new()), ApiLimits { calls_max: 3, ..ApiLimits::default() }).await;
    let mut stream = open(&channel(&served).await).await.unwrap();
    stream.send((1..4).map(|number| put(number, 1)).collect()).await;
    stream.send((4..8).map(|number| put(number, 1)).collect()).await;
    assert_eq!(stream.answers(3).await.len(), 3);
    let error = stream.error().await;
    let limit = "the calls of a message of a stream".to_owned();
    assert_eq!(error, Error::LimitExceeded { limit, max: 3, got: 4 });
    let mut stream = open(&channel(&served).await).await.unwrap();
    stream.send(vec![get(1, "k4")]).await;
    let answers = stream.answers(1).await;
    assert!(matches!(&answers[&1], pb::answer::Answer::GetMany(got) if got.values[0].value.is_none()));
}

#[tokio::test]
async fn a_message_that_is_too_large_ends_the_stream_when_all_before_is_answered() {
    let gated = Gated::new();
    let served = start_with(gated.clone(), ApiLimits { message_bytes_max: 1000, ..ApiLimits::default() }).await;
    let mut stream = open(&channel(&served).await).await.unwrap();
    stream.send(vec![put(1, 1)]).await;
    gated.has_under_way(1).await;
    stream.send(vec![put(2, 2000)]).await;
    gated.let_through(5);
    assert!(stream.answers(1).await.contains_key(&1));
    let error = stream.error().await;
    assert!(matches!(&error, Error::Protocol(why) if why.contains("too large")), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_an_error_of_its_own() {
    let kv = Arc::new(MemoryKv::new());
    let served = start_with(kv.clone(), ApiLimits { message_bytes_max: 1000, ..ApiLimits::default() }).await;
    let op = coracle::level::Op::Put { key: Bytes::from("large"), value: vec![0; 2000].into() };
    kv.commit(Txn { ops: vec![op] }, None).await.unwrap();
    let mut stream = open(&channel(&served).await).await.unwrap();
    stream.send(vec![get(1, "large"), get(2, "small")]).await;
    let answers = stream.answers(2).await;
    assert!(matches!(error_of(&answers[&1]), Error::LimitExceeded { max: 1000, .. }));
    assert!(matches!(&answers[&2], pb::answer::Answer::GetMany(_)));
}

#[tokio::test]
async fn with_too_many_calls_under_way_nothing_more_is_read() {
    let gated = Gated::new();
    let served = start_with(gated.clone(), ApiLimits { requests_max: 4, ..ApiLimits::default() }).await;
    let mut stream = open(&channel(&served).await).await.unwrap();
    for number in 0..40 {
        stream.send(vec![put(number, 1)]).await;
    }
    gated.has_under_way(4).await;
    gated.let_through(40);
    assert_eq!(stream.answers(40).await.len(), 40);
    assert_eq!(gated.most_under_way(), 4);
}

#[tokio::test]
async fn calls_of_one_message_beyond_the_limit_wait() {
    let gated = Gated::new();
    let served = start_with(gated.clone(), ApiLimits { requests_max: 4, ..ApiLimits::default() }).await;
    let mut stream = open(&channel(&served).await).await.unwrap();
    let mut calls: Vec<_> = (0..40).map(|number| put(number, 1)).collect();
    // One that is refused as soon as its turn comes.
    calls.insert(20, pb::Call { number: 40, call: None });
    stream.send(calls).await;
    // The client is done, which does not end what it has sent.
    stream.sender = None;
    gated.has_under_way(4).await;
    gated.let_through(40);
    assert_eq!(stream.answers(41).await.len(), 41);
    assert_eq!(gated.most_under_way(), 4);
    assert_eq!(stream.next().await.unwrap(), None);
}

const LARGE: usize = 256 << 10;

fn large_gets(count: u64) -> Vec<pb::Call> {
    (0..count).map(|number| get(number, "large")).collect()
}

#[tokio::test]
async fn what_a_client_does_not_take_is_not_read_from_the_store() {
    let gated = Gated::with_value("large", LARGE).await;
    let served = start_with(gated.clone(), ApiLimits::default()).await;
    let mut stream = open(&channel(&served).await).await.unwrap();
    stream.send(large_gets(200)).await;
    stream.answers(1).await;
    let reads = gated.reads.load(Ordering::SeqCst);
    assert!(reads < 100, "{reads} answers were made for a client that has taken one");
    stream.answers(199).await;
}

#[tokio::test]
async fn answers_count_until_they_leave() {
    let gated = Gated::with_value("large", LARGE).await;
    gated.let_through(1 << 20);
    // Room for one large answer that is being written, and not for those that wait.
    let limits = ApiLimits { bytes_under_way_max: 2 * LARGE, ..ApiLimits::default() };
    let served = start_with(gated.clone(), limits).await;
    let mut stream = open(&channel(&served).await).await.unwrap();
    stream.send(large_gets(100)).await;
    let other = channel(&served).await;
    let is_busy = async || {
        let mut other = open(&other).await.unwrap();
        other.send(vec![put(1000, 1000)]).await;
        match other.next().await {
            Ok(_) => false,
            Err(status) => matches!(status::to_error(&status), Some(Error::Busy { .. })),
        }
    };
    let refused = async { while !is_busy().await {} };
    tokio::time::timeout(Duration::from_secs(20), refused).await.unwrap();
    stream.answers(100).await;
    let given_back = async { while is_busy().await {} };
    tokio::time::timeout(Duration::from_secs(20), given_back).await.unwrap();
}

#[tokio::test]
async fn streams_of_a_connection_are_limited() {
    let served = start_with(Arc::new(MemoryKv::new()), ApiLimits { streams_max: 2, ..ApiLimits::default() }).await;
    let kv = channel(&served).await;
    let (first, _second) = (open(&kv).await.unwrap(), open(&kv).await.unwrap());
    let refused = open(&kv).await.err().unwrap();
    assert!(matches!(status::to_error(&refused), Some(Error::LimitExceeded { max: 2, got: 3, .. })), "{refused:?}");
    open(&channel(&served).await).await.unwrap();
    drop(first);
    let again = async { while open(&kv).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(20), again).await.unwrap();
}

#[tokio::test]
async fn bytes_of_calls_count_until_they_are_answered() {
    let gated = Gated::new();
    let served = start_with(gated.clone(), ApiLimits { bytes_under_way_max: 3000, ..ApiLimits::default() }).await;
    let mut stream = open(&channel(&served).await).await.unwrap();
    stream.send(vec![put(1, 2000)]).await;
    gated.has_under_way(1).await;
    let mut other = open(&channel(&served).await).await.unwrap();
    other.send(vec![get(1, "k")]).await;
    other.answers(1).await;
    other.send(vec![put(2, 2000)]).await;
    assert!(matches!(other.error().await, Error::Busy { .. }));
    gated.let_through(100);
    stream.answers(1).await;
    // Many times what is allowed at once, one after the other.
    for number in 10..30 {
        stream.send(vec![put(number, 2000)]).await;
        stream.answers(1).await;
    }
    // A message without calls holds nothing.
    stream.send(Vec::new()).await;
    stream.send(vec![put(30, 2000)]).await;
    stream.answers(1).await;
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing_under_way() {
    let gated = Gated::new();
    let served = start_with(gated.clone(), ApiLimits::default()).await;
    let stream = open(&channel(&served).await).await.unwrap();
    stream.send((0..9).map(|number| put(number, 1)).collect()).await;
    gated.has_under_way(9).await;
    drop(stream);
    gated.has_under_way(0).await;
}

#[tokio::test]
async fn a_stream_without_calls_does_not_keep_its_connection() {
    let short = Duration::from_millis(100);
    let served =
        start_with(Arc::new(MemoryKv::new()), ApiLimits { idle_time_max: short, ..ApiLimits::default() }).await;
    let mut stream = open(&channel(&served).await).await.unwrap();
    stream.send(vec![put(1, 1)]).await;
    stream.answers(1).await;
    assert!(stream.next().await.is_err());
}

#[tokio::test]
async fn a_server_that_stops_answers_what_it_took_and_ends_streams_in_order() {
    let gated = Gated::new();
    let mut served = start_with(gated.clone(), ApiLimits::default()).await;
    let mut stream = open(&channel(&served).await).await.unwrap();
    stream.send(vec![put(1, 1), put(2, 1)]).await;
    gated.has_under_way(2).await;
    served.stop();
    gated.let_through(2);
    assert_eq!(stream.answers(2).await.len(), 2);
    assert_eq!(stream.error().await, Error::Closed);
    served.serving.await.unwrap();
}

#[tokio::test]
async fn c21_a_server_that_stops_begins_nothing_that_waits() {
    let gated = Gated::new();
    let mut served = start_with(gated.clone(), ApiLimits { requests_max: 2, ..ApiLimits::default() }).await;
    let mut stream = open(&channel(&served).await).await.unwrap();
    stream.send((0..5).map(|number| put(number, 1)).collect()).await;
    gated.has_under_way(2).await;
    served.stop();
    // It has heard of it once it takes no more connections.
    let refused = async { while TcpStream::connect(&served.address).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(20), refused).await.unwrap();
    gated.let_through(5);
    let answered = stream.answers(2).await;
    assert_eq!(stream.error().await, Error::Closed);
    for number in 0..5 {
        let key = Bytes::from(format!("k{number}"));
        let is_there = gated.kv.contains_many(ReadAt::Linearizable, vec![key]).await.unwrap().value[0];
        assert_eq!(is_there, answered.contains_key(&number), "{number}");
    }
    served.serving.await.unwrap();
}

/// A server on a runtime of its own, so that it can be lost with its connections.
struct Lost {
    address: SocketAddr,
    runtime: Runtime,
}

impl Lost {
    fn start(kv: Arc<MemoryKv>, at: SocketAddr) -> Lost {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind(at)).unwrap();
        let address = listener.local_addr().unwrap();
        let serving =
            crate::api::serve(listener, kv, Arc::new(Leader::default()), ApiLimits::default(), std::future::pending());
        runtime.spawn(serving);
        Lost { address, runtime }
    }
}

#[test]
fn c22_writes_count_once_when_servers_are_lost_in_the_middle() {
    let kv = Arc::new(MemoryKv::new());
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut servers: Vec<Lost> = (0..3).map(|_| Lost::start(kv.clone(), any)).collect();
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let endpoints: Vec<String> = servers.iter().map(|server| server.address.to_string()).collect();
    let options = ClientOptions::default().with_deadline(Duration::from_secs(30));
    let client = runtime.block_on(Client::connect(&endpoints, options)).unwrap();
    let level = Level::new(Arc::new(client));
    let done = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = (0..16)
        .map(|_| {
            let (level, done) = (level.clone(), done.clone());
            runtime.spawn(async move {
                for _ in 0..100 {
                    level.increment("n", 1).await.unwrap();
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    // Two of the three are lost, each once some more has been counted.
    for count in [200, 600] {
        while done.load(Ordering::SeqCst) < count {
            assert!(Instant::now() < deadline, "{} are counted: expected {count}", done.load(Ordering::SeqCst));
            std::thread::yield_now();
        }
        servers.remove(0).runtime.shutdown_background();
    }
    for writer in writers {
        let written = async { tokio::time::timeout(Duration::from_secs(60), writer).await };
        runtime.block_on(written).expect("in time").unwrap();
    }
    assert_eq!(runtime.block_on(level.get("n")).unwrap().as_deref(), Some(&b"1600"[..]));
}
